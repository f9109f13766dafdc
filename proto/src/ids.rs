//! Identifiers as newtypes, so that a set is never passed where a brick is meant.

use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl $name {
            /// A new random identifier.
            pub fn random() -> Self {
                Self(Uuid::new_v4())
            }

            /// From 16 bytes as they stand on the wire and on disk (big-endian).
            pub fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(Uuid::from_bytes(bytes))
            }

            pub fn as_bytes(&self) -> &[u8; 16] {
                self.0.as_bytes()
            }

            /// From a byte slice; `None` unless it has exactly 16 bytes.
            pub fn from_slice(bytes: &[u8]) -> Option<Self> {
                Some(Self::from_bytes(bytes.try_into().ok()?))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.0)
            }
        }

        impl std::str::FromStr for $name {
            type Err = uuid::Error;
            fn from_str(text: &str) -> Result<Self, uuid::Error> {
                Uuid::parse_str(text).map(Self)
            }
        }
    };
}

macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident($int:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $int);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

uuid_id!(
    /// One `brickd` state folder: survives restarts, addresses and names.
    PeerId
);
uuid_id!(
    /// One brick directory, written into its `.brickwork/` when the volume is created.
    BrickId
);
uuid_id!(VolumeId);

number_id!(
    /// A replica set inside its volume: its position in the command-line order, from 0.
    SetId(u32)
);
number_id!(
    /// Number of a set's membership: the log index of the entry that began it. 0 = none yet.
    Epoch(u64)
);
number_id!(
    /// One start of a brick's daemon: random, never 0 for a brick that has started.
    Incarnation(u64)
);
number_id!(
    /// One mount or library user; chosen by the pool with the ticket, never 0 for a client.
    SessionId(u64)
);
number_id!(
    /// Number of a change within (session, set): counts up from 1, the same on every member.
    Seq(u64)
);
number_id!(
    /// Unit of placement: 0..8192 in every volume.
    SlotId(u16)
);
number_id!(
    /// Time of a change in nanoseconds since 1970-01-01 UTC: the lead's time at the last renewal
    /// plus the client's monotonic time since (DESIGN section 5).
    Stamp(u64)
);

impl Epoch {
    pub const NONE: Epoch = Epoch(0);
}

/// Number of an exclusive lease. Ordered: a later grant of the same inode is always greater.
///
/// `base` is the later of the set's epoch and the slot's flip; `counter` counts the lead's
/// grants within it. Zero in both means "no lease".
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug, Serialize, Deserialize,
)]
pub struct LeaseNumber {
    pub base: u64,
    pub counter: u64,
}

impl LeaseNumber {
    pub const NONE: LeaseNumber = LeaseNumber { base: 0, counter: 0 };

    pub fn is_none(self) -> bool {
        self == Self::NONE
    }

    pub fn to_bytes(self) -> [u8; 16] {
        let mut out = [0; 16];
        out[..8].copy_from_slice(&self.base.to_le_bytes());
        out[8..].copy_from_slice(&self.counter.to_le_bytes());
        out
    }

    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; 16] = bytes.try_into().ok()?;
        let (base, counter) = bytes.split_at(8);
        Some(Self {
            base: u64::from_le_bytes(base.try_into().ok()?),
            counter: u64::from_le_bytes(counter.try_into().ok()?),
        })
    }
}

/// File id: 128 bits, the same on every replica, for ever.
///
/// Bytes 0–1, big-endian, hold the inode's slot (13 bits, upper 3 bits zero); the other 112
/// bits are random. The slot of an inode never changes, wherever its names go.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Gfid(pub [u8; 16]);

impl Gfid {
    /// No file. Never valid on the wire where a file is meant.
    pub const NIL: Gfid = Gfid([0; 16]);
    /// The volume's root directory, in slot 0.
    pub const ROOT: Gfid = Gfid([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);

    /// A file id in `slot` from 14 random bytes.
    ///
    /// Ids that would collide with `NIL`, `ROOT` or inode number 0 or 1 have their last byte
    /// moved away; the chance is 2^-63 and the caller need not care.
    pub fn new(slot: SlotId, random: [u8; 14]) -> Self {
        let mut bytes = [0; 16];
        bytes[..2].copy_from_slice(&(slot.0 & SLOT_MASK).to_be_bytes());
        bytes[2..].copy_from_slice(&random);
        if u64::from_be_bytes([
            bytes[8], bytes[9], bytes[10], bytes[11], bytes[12], bytes[13], bytes[14], bytes[15],
        ]) <= 1
        {
            bytes[15] = 2;
        }
        Self(bytes)
    }

    pub fn slot(&self) -> SlotId {
        SlotId(u16::from_be_bytes([self.0[0], self.0[1]]) & SLOT_MASK)
    }

    /// The 64-bit inode number that applications see. The root's is 1.
    pub fn ino(&self) -> u64 {
        let mut low = [0; 8];
        low.copy_from_slice(&self.0[8..]);
        u64::from_be_bytes(low)
    }

    pub fn is_nil(&self) -> bool {
        *self == Self::NIL
    }

    /// From a byte slice; `None` unless it has exactly 16 bytes and is not nil.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        let gfid = Self(bytes.try_into().ok()?);
        (!gfid.is_nil()).then_some(gfid)
    }
}

const SLOT_MASK: u16 = 0x1fff;

impl fmt::Display for Gfid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Uuid::from_bytes(self.0).fmt(f)
    }
}

impl fmt::Debug for Gfid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Gfid({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slot_survives_in_the_gfid() {
        let gfid = Gfid::new(SlotId(8191), [0xff; 14]);
        assert_eq!(gfid.slot(), SlotId(8191));
        assert_eq!(Gfid::ROOT.slot(), SlotId(0));
        assert_eq!(Gfid::ROOT.ino(), 1);
    }

    #[test]
    fn a_random_gfid_never_takes_the_roots_inode_number() {
        assert_eq!(Gfid::new(SlotId(0), [0; 14]).ino(), 2);
        assert_ne!(Gfid::new(SlotId(0), [0; 14]), Gfid::ROOT);
    }

    #[test]
    fn lease_numbers_order_by_base_then_counter() {
        let old = LeaseNumber { base: 3, counter: 900 };
        let new = LeaseNumber { base: 4, counter: 1 };
        assert!(old < new);
        assert_eq!(LeaseNumber::from_slice(&new.to_bytes()), Some(new));
        assert_eq!(LeaseNumber::from_slice(&[0; 15]), None);
    }
}
