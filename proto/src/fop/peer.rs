//! Operations between peers: heal, settle, and the hand-over of a joiner.
//!
//! A member accepts them only on a connection whose HELLO proved a peer of the pool.

use bytes::Bytes;

use super::{Under, XattrMsg};
use crate::attr::Attr;
use crate::ids::{Gfid, LeaseNumber};

/// Inodes changed since an interval (inclusive), in gfid order.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Changed {
    /// 10-second interval number; 0 asks for everything there is.
    #[prost(uint64, tag = "1")]
    pub since: u64,
    /// Page on from after this gfid (NIL: from the start).
    #[prost(message, required, tag = "2")]
    pub after: Gfid,
    #[prost(uint32, tag = "3")]
    pub limit: u32,
    /// Close the present interval first: later changes are logged in a new one, so that a
    /// joiner's next list holds only them.
    #[prost(bool, tag = "4")]
    pub advance: bool,
    /// Not one item for each inode, but one for each interval too, in (interval, gfid) order:
    /// the log as it stands, for a joiner that takes it over.
    #[prost(bool, tag = "5")]
    pub rows: bool,
    /// With `rows`: page on from after (this, `after`).
    #[prost(uint64, tag = "6")]
    pub after_interval: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct ChangedList {
    #[prost(message, repeated, tag = "1")]
    pub items: Vec<ChangedItem>,
    #[prost(bool, tag = "2")]
    pub end: bool,
    /// The log is complete since this interval: an older question gets no items and
    /// `compare_all`.
    #[prost(uint64, tag = "3")]
    pub complete_since: u64,
    /// The interval into which changes are logged now.
    #[prost(uint64, tag = "4")]
    pub current: u64,
    /// The log cannot answer: compare everything from the root.
    #[prost(bool, tag = "5")]
    pub compare_all: bool,
    /// The marks of all inodes whose copy is stale at the lead that answers: on the first page.
    #[prost(message, repeated, tag = "6")]
    pub stale: Vec<MarkStale>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct ChangedItem {
    #[prost(message, required, tag = "1")]
    pub gfid: Gfid,
    /// Names of this directory changed.
    #[prost(bool, tag = "2")]
    pub names: bool,
    /// Attributes or xattrs changed.
    #[prost(bool, tag = "3")]
    pub attrs: bool,
    /// Blocks (of BLOCK_BYTES) of data that changed, ascending; `all_data` instead when there are
    /// many.
    #[prost(uint64, repeated, tag = "4")]
    pub extents: Vec<u64>,
    #[prost(bool, tag = "5")]
    pub all_data: bool,
    /// The newest interval in which it changed.
    #[prost(uint64, tag = "6")]
    pub interval: u64,
}

/// The payload of the answer is the whole content of a file that is dense, of at most `data_max`
/// bytes and at hand; else there is none.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Inspect {
    #[prost(message, required, tag = "1")]
    pub gfid: Gfid,
    #[prost(uint32, tag = "2")]
    pub data_max: u32,
}

/// Everything about an inode but its data and, for a directory, its names.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Inspected {
    /// False: this member has no such inode.
    #[prost(bool, tag = "1")]
    pub found: bool,
    #[prost(message, required, tag = "2")]
    pub attr: Attr,
    #[prost(message, repeated, tag = "3")]
    pub xattrs: Vec<XattrMsg>,
    #[prost(bytes = "bytes", tag = "4")]
    pub target: Bytes,
    /// The meta record as it stands on disk: copied as it is, so that replicas are equal.
    #[prost(bytes = "bytes", tag = "5")]
    pub meta: Bytes,
    /// One name of it, so that a new inode can be put in its place: directory and name.
    #[prost(message, required, tag = "6")]
    pub parent: Gfid,
    #[prost(bytes = "bytes", tag = "7")]
    pub name: Bytes,
    /// It has no name and is kept as an orphan.
    #[prost(bool, tag = "8")]
    pub orphan: bool,
}

/// Names of a directory with their gfids, as `Readdir`, whatever the leases.
#[derive(Clone, PartialEq, prost::Message)]
pub struct InspectDir {
    #[prost(message, required, tag = "1")]
    pub gfid: Gfid,
    #[prost(fixed64, tag = "2")]
    pub after_hash: u64,
    #[prost(bytes = "bytes", tag = "3")]
    pub after_name: Bytes,
    #[prost(uint32, tag = "4")]
    pub limit: u32,
    /// Of a heal's sink: first set aside what stands there without being a name.
    #[prost(bool, tag = "5")]
    pub tidy: bool,
}

/// Bytes of a block of `BlockSums`, and of the change log.
pub const BLOCK_BYTES: u64 = 128 << 10;

#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct BlockSums {
    #[prost(message, required, tag = "1")]
    pub gfid: Gfid,
    /// First block (of BLOCK_BYTES).
    #[prost(uint64, tag = "2")]
    pub first: u64,
    /// At most 8192 blocks (1 GiB).
    #[prost(uint32, tag = "3")]
    pub count: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct BlockSumList {
    /// xxh3 of each block; a hole's is 0 and its data is not read. Ends at the end of the file.
    #[prost(fixed64, repeated, tag = "1")]
    pub sums: Vec<u64>,
    #[prost(uint64, tag = "2")]
    pub size: u64,
}

/// Makes an inode (parked, without a name) or makes an existing one equal: attributes, xattrs,
/// size, times and meta record exactly as given. A payload, with `finish` only, is the file's whole
/// content.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Install {
    #[prost(message, required, tag = "1")]
    pub image: Inspected,
    /// Last step of an inode: attributes and times after all data is there.
    #[prost(bool, tag = "2")]
    pub finish: bool,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct InstallData {
    #[prost(message, required, tag = "1")]
    pub gfid: Gfid,
    #[prost(uint64, tag = "2")]
    pub offset: u64,
    #[prost(uint64, tag = "3")]
    pub len: u64,
    /// The range is a hole: no payload.
    #[prost(bool, tag = "4")]
    pub hole: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct InstallName {
    #[prost(message, required, tag = "1")]
    pub parent: Gfid,
    #[prost(bytes = "bytes", tag = "2")]
    pub name: Bytes,
    #[prost(message, required, tag = "3")]
    pub gfid: Gfid,
}

/// The name goes; its inode is parked in `.brickwork/` until adopted or swept.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RemoveName {
    #[prost(message, required, tag = "1")]
    pub parent: Gfid,
    #[prost(bytes = "bytes", tag = "2")]
    pub name: Bytes,
}

/// Drops parked inodes that no name adopted, except the listed ones (open somewhere).
#[derive(Clone, PartialEq, prost::Message)]
pub struct SweepParked {
    #[prost(message, repeated, tag = "1")]
    pub keep: Vec<Gfid>,
}

/// Everything to stable storage, the log too.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Checkpoint {}

/// As `Read`, of whatever is there, without leases.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct PeerRead {
    #[prost(message, required, tag = "1")]
    pub gfid: Gfid,
    #[prost(uint64, tag = "2")]
    pub offset: u64,
    #[prost(uint32, tag = "3")]
    pub len: u32,
}

/// The member first remembers the numbers in `raise`, so that nothing older is executed after
/// the list was made; it answers Busy while a change in question is still being executed.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Unsettled {
    /// Of one session; 0: of all.
    #[prost(fixed64, tag = "1")]
    pub session: u64,
    /// Of one inode; NIL: of all.
    #[prost(message, required, tag = "2")]
    pub gfid: Gfid,
    /// New numbers of the leases that have ended.
    #[prost(message, repeated, tag = "3")]
    pub raise: Vec<Under>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct UnsettledList {
    #[prost(message, repeated, tag = "1")]
    pub entries: Vec<UnsettledEntry>,
    /// Sessions that this member has heard from since it started.
    #[prost(fixed64, repeated, tag = "2")]
    pub sessions: Vec<u64>,
    /// The greatest epoch that this member noted as graced.
    #[prost(uint64, tag = "3")]
    pub graced: u64,
    /// Settled marks of the sessions that it knows.
    #[prost(message, repeated, tag = "4")]
    pub marks: Vec<SettledSeq>,
    /// Stale marks that it holds, for a new lead.
    #[prost(message, repeated, tag = "5")]
    pub stale: Vec<MarkStale>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct UnsettledEntry {
    #[prost(fixed64, tag = "1")]
    pub session: u64,
    #[prost(uint64, tag = "2")]
    pub seq: u64,
    #[prost(message, repeated, tag = "3")]
    pub touches: Vec<TouchMsg>,
    /// What it was answered, once it was: 0 or the errno.
    #[prost(int32, optional, tag = "4")]
    pub answered: Option<i32>,
    /// The lead executed it for the session: what follows belongs to such entries alone.
    #[prost(bool, tag = "5")]
    pub by_lead: bool,
    /// The encoded answer, if it succeeded.
    #[prost(bytes = "bytes", tag = "6")]
    pub answer: Bytes,
    /// The greatest lease number under which it was made.
    #[prost(message, optional, tag = "7")]
    pub number: Option<LeaseNumber>,
}

/// `Touch` on the wire.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct TouchMsg {
    #[prost(message, required, tag = "1")]
    pub gfid: Gfid,
    /// 0 attributes, 1 range, 2 name.
    #[prost(uint32, tag = "2")]
    pub what: u32,
    /// Start of a range, or the hash of a name.
    #[prost(uint64, tag = "3")]
    pub start: u64,
    #[prost(uint64, tag = "4")]
    pub end: u64,
}

/// What the lead tells the members after a settle or a grace.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ClearWindows {
    /// Sessions that are gone for good: their windows are dropped whole.
    #[prost(fixed64, repeated, tag = "1")]
    pub sessions: Vec<u64>,
    /// Changes that are equal on all members now.
    #[prost(message, repeated, tag = "2")]
    pub settled: Vec<SettledSeq>,
    /// The epoch whose grace has ended, noted durably; 0: none.
    #[prost(uint64, tag = "3")]
    pub graced: u64,
    /// Changes that a lead executed and that all members have now: with their replies.
    #[prost(message, repeated, tag = "4")]
    pub take_over: Vec<UnsettledEntry>,
}

#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct SettledSeq {
    #[prost(fixed64, tag = "1")]
    pub session: u64,
    #[prost(uint64, tag = "2")]
    pub seq: u64,
}

/// Done: the lead knows the session, and it holds these exclusive leases. Else UnknownSession
/// or StaleLease.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Vouch {
    #[prost(fixed64, tag = "1")]
    pub session: u64,
    #[prost(message, repeated, tag = "2")]
    pub under: Vec<Under>,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct MarkStale {
    #[prost(message, required, tag = "1")]
    pub gfid: Gfid,
    /// The member whose copy is stale (brick id, 16 bytes as a gfid-shaped pair).
    #[prost(message, required, tag = "2")]
    pub brick: Gfid,
    #[prost(bool, tag = "3")]
    pub clear: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct PauseForJoin {
    #[prost(uint64, tag = "1")]
    pub epoch: u64,
    /// At most 500; 0 withdraws a pause.
    #[prost(uint32, tag = "2")]
    pub pause_ms: u32,
    /// No pause at all: each change of a client is answered this much later, for a few seconds,
    /// because a heal does not get ahead of the writers.
    #[prost(uint32, tag = "3")]
    pub slow_us: u32,
    /// The joiner (brick id, as in MarkStale); absent from peers that keep nothing.
    #[prost(message, optional, tag = "4")]
    pub joiner: Option<Gfid>,
    /// Inodes whose copy is stale at the lead, of which the joiner keeps its own; at most 16 384.
    #[prost(message, repeated, tag = "5")]
    pub keeps: Vec<Gfid>,
}

/// State that a joiner takes over: opaque to all but the rules (see proto-rules).
#[derive(Clone, PartialEq, prost::Message)]
pub struct HandOver {
    #[prost(bytes = "bytes", tag = "1")]
    pub rules: Bytes,
    #[prost(uint64, tag = "2")]
    pub current_interval: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct TakeOver {
    #[prost(message, required, tag = "1")]
    pub state: HandOver,
}
