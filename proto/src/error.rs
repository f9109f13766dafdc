//! Errors that cross the wire.
//!
//! Two kinds, never mixed: an `Errno` is the outcome of the operation, the same on every
//! in-sync member; a `Refusal` says that this member did not execute the request now, and what
//! the sender should do next. An application never sees a refusal.

use std::fmt;

/// A POSIX error number (Linux values), never 0.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errno(pub i32);

macro_rules! errnos {
    ($($name:ident = $value:literal),* $(,)?) => {
        impl Errno {
            $(pub const $name: Errno = Errno($value);)*

            /// The symbolic name, or `None` for a number this table lacks.
            pub fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($value => Some(stringify!($name)),)*
                    _ => None,
                }
            }
        }
    };
}

errnos! {
    EPERM = 1, ENOENT = 2, EINTR = 4, EIO = 5, ENXIO = 6, E2BIG = 7, EBADF = 9, EAGAIN = 11,
    ENOMEM = 12, EACCES = 13, EBUSY = 16, EEXIST = 17, EXDEV = 18, ENODEV = 19, ENOTDIR = 20,
    EISDIR = 21, EINVAL = 22, ENFILE = 23, EMFILE = 24, ETXTBSY = 26, EFBIG = 27, ENOSPC = 28,
    EROFS = 30, EMLINK = 31, ERANGE = 34, EDEADLK = 35, ENAMETOOLONG = 36, ENOLCK = 37,
    ENOSYS = 38, ENOTEMPTY = 39, ELOOP = 40, ENODATA = 61, EPROTO = 71, EOVERFLOW = 75,
    EOPNOTSUPP = 95, ETIMEDOUT = 110, ENOTCONN = 107, ESTALE = 116, EDQUOT = 122,
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "errno {}", self.0),
        }
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", std::io::Error::from_raw_os_error(self.0))
    }
}

impl std::error::Error for Errno {}

impl From<std::io::Error> for Errno {
    fn from(error: std::io::Error) -> Self {
        Errno(error.raw_os_error().unwrap_or(Errno::EIO.0))
    }
}

/// Why a member did not execute a request. Each variant names what the sender does next.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Refusal {
    /// The request's epoch is not the member's. Get a map of at least `current`, re-send.
    Epoch { current: u64 },
    /// The member is not (or no longer provably) in-sync. Wait for a map or 20 ms, re-send.
    NotServing,
    /// Only the lead answers this. Re-send to the lead of the newest map.
    NotLead,
    /// A lease number below the newest one known. The lease is gone: drop what it guarded.
    StaleLease,
    /// The operation needs a lease that the session does not hold. Ask the lead for it.
    LeaseNeeded,
    /// A new lead is collecting reclaims. Reclaim what is held; re-send after 20 ms.
    Grace,
    /// Unsettled changes or a joiner's pause stand before this. Re-send after 20 ms.
    Busy,
    /// The session is not known (any more). Say HELLO again; all its leases are gone.
    UnknownSession,
    /// A change number at or below the settled mark: a late duplicate, dead.
    StaleSeq,
    /// This member's copy of the inode is stale. Read from another member.
    StaleCopy,
    /// The slot lives on another set now. Get the newest map.
    Moved,
    /// Fewer members are in-sync than `min-in-sync`. Wait up to the operation timeout.
    TooFewInSync,
    /// The brick took itself out of service because of its own disk. Wait for a map.
    Failed,
    /// The key's lease bounces between sessions: send the change itself, to be executed here.
    Contended,
}

impl Refusal {
    /// Wire code: stable for ever, listed in docs/wire.md.
    pub fn code(self) -> u32 {
        match self {
            Refusal::Epoch { .. } => 1,
            Refusal::NotServing => 2,
            Refusal::NotLead => 3,
            Refusal::StaleLease => 4,
            Refusal::LeaseNeeded => 5,
            Refusal::Grace => 6,
            Refusal::Busy => 7,
            Refusal::UnknownSession => 8,
            Refusal::StaleSeq => 9,
            Refusal::StaleCopy => 10,
            Refusal::Moved => 11,
            Refusal::TooFewInSync => 12,
            Refusal::Failed => 13,
            Refusal::Contended => 14,
        }
    }

    /// From a wire code; a code of a newer version is `Busy`: wait and try again.
    pub fn from_code(code: u32, current: u64) -> Refusal {
        match code {
            1 => Refusal::Epoch { current },
            2 => Refusal::NotServing,
            3 => Refusal::NotLead,
            4 => Refusal::StaleLease,
            5 => Refusal::LeaseNeeded,
            6 => Refusal::Grace,
            8 => Refusal::UnknownSession,
            9 => Refusal::StaleSeq,
            10 => Refusal::StaleCopy,
            11 => Refusal::Moved,
            12 => Refusal::TooFewInSync,
            13 => Refusal::Failed,
            14 => Refusal::Contended,
            _ => Refusal::Busy,
        }
    }
}

/// Outcome of a request that did not succeed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Failure {
    /// Executed; this is its result, on every member.
    Errno(Errno),
    /// Not executed.
    Refused(Refusal),
}

impl From<Errno> for Failure {
    fn from(errno: Errno) -> Self {
        Failure::Errno(errno)
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Failure::Refused(refusal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusal_codes_round_trip() {
        let all = [
            Refusal::Epoch { current: 7 },
            Refusal::NotServing,
            Refusal::NotLead,
            Refusal::StaleLease,
            Refusal::LeaseNeeded,
            Refusal::Grace,
            Refusal::Busy,
            Refusal::UnknownSession,
            Refusal::StaleSeq,
            Refusal::StaleCopy,
            Refusal::Moved,
            Refusal::TooFewInSync,
            Refusal::Failed,
            Refusal::Contended,
        ];
        for refusal in all {
            assert_eq!(Refusal::from_code(refusal.code(), 7), refusal);
        }
        assert_eq!(Refusal::from_code(999, 0), Refusal::Busy);
    }
}
