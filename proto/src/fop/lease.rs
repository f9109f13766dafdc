//! Leases as they travel: wishes with a request, grants with its reply, recalls as pushes.

use crate::ids::{Gfid, LeaseNumber};

/// What a lease guards.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum LeaseKey {
    /// One inode: data, size, attributes, xattrs; for a directory its attributes.
    Inode(Gfid),
    /// The names of a directory that live on one set.
    Part(Gfid),
}

impl LeaseKey {
    pub fn gfid(self) -> Gfid {
        match self {
            LeaseKey::Inode(gfid) | LeaseKey::Part(gfid) => gfid,
        }
    }
}

/// `LeaseKey` on the wire.
#[derive(Clone, Copy, PartialEq, Eq, Hash, prost::Message)]
pub struct KeyMsg {
    #[prost(message, required, tag = "1")]
    pub gfid: Gfid,
    #[prost(bool, tag = "2")]
    pub part: bool,
}

impl From<LeaseKey> for KeyMsg {
    fn from(key: LeaseKey) -> KeyMsg {
        KeyMsg { gfid: key.gfid(), part: matches!(key, LeaseKey::Part(_)) }
    }
}

impl From<KeyMsg> for LeaseKey {
    fn from(msg: KeyMsg) -> LeaseKey {
        if msg.part { LeaseKey::Part(msg.gfid) } else { LeaseKey::Inode(msg.gfid) }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, prost::Enumeration)]
#[repr(i32)]
pub enum Mode {
    None = 0,
    /// May cache.
    Shared = 1,
    /// May change.
    Exclusive = 2,
}

/// A lease asked for along with a request to the lead.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Want {
    #[prost(message, required, tag = "1")]
    pub key: KeyMsg,
    #[prost(enumeration = "Mode", tag = "2")]
    pub mode: i32,
    /// Ask again for a lease held under the lead before: its number, and the last epoch in
    /// which it was renewed. Only during a new lead's grace.
    #[prost(message, optional, tag = "3")]
    pub reclaim: Option<LeaseNumber>,
    #[prost(uint64, tag = "4")]
    pub last_renewed_epoch: u64,
    /// The file is open here: keep the inode if its last name goes.
    #[prost(bool, tag = "5")]
    pub open: bool,
    /// Give it at once or not at all: never recall another holder for this wish (readahead of
    /// attributes in readdir, data along with a lookup).
    #[prost(bool, tag = "6")]
    pub only_if_free: bool,
    /// Of an exclusive wish: if the key is contended, refuse it with `Contended`. The change is
    /// then sent with the flag EXECUTE.
    #[prost(bool, tag = "7")]
    pub yields: bool,
}

/// The lease a change is made under: which key, which number.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Under {
    #[prost(message, required, tag = "1")]
    pub key: KeyMsg,
    #[prost(message, required, tag = "2")]
    pub number: LeaseNumber,
}

/// A lease given.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Grant {
    #[prost(message, required, tag = "1")]
    pub key: KeyMsg,
    #[prost(enumeration = "Mode", tag = "2")]
    pub mode: i32,
    /// Every grant has its own, shared ones too.
    #[prost(message, required, tag = "3")]
    pub number: LeaseNumber,
    /// Counted by the client from *sending* the request that brought the grant.
    #[prost(uint32, tag = "4")]
    pub term_ms: u32,
    /// Other sessions have the inode open: an unlink must keep it.
    #[prost(bool, tag = "5")]
    pub pinned: bool,
}

/// Push from the lead: give this lease back (or down to shared).
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Recall {
    #[prost(message, required, tag = "1")]
    pub key: KeyMsg,
    #[prost(message, required, tag = "2")]
    pub number: LeaseNumber,
    /// What the holder may keep: `None`, or `Shared` when the asker only reads.
    #[prost(enumeration = "Mode", tag = "3")]
    pub keep: i32,
}
