//! The frame protocol's changelog.
//!
//! | version | since | what changed |
//! | --- | --- | --- |
//! | 1 | 0.1.0 | first format |

/// The newest frame format; a peer of version N also serves N-1 (none before 1).
pub const VERSION: u8 = 1;

/// Optional abilities, negotiated at HELLO: both sides use only what both set.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Features(pub u64);

impl Features {
    /// What this build can do beyond the base protocol: nothing yet.
    pub const OURS: Features = Features(0);

    pub fn common(self, other: Features) -> Features {
        Features(self.0 & other.0)
    }
}
