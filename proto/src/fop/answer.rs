//! Answers of the operations, as prost messages.

use bytes::Bytes;

use super::peer::{BlockSumList, ChangedList, HandOver, Inspected, UnsettledList};
use super::{KeyMsg, Lock};
use crate::attr::{Attr, Kind};
use crate::ids::Gfid;

/// An answer; which variant an operation gives stands in the `fops!` table.
#[derive(Clone, PartialEq, Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "one lives for one request; a box would cost an allocation"
)]
pub enum Answer {
    Done(Done),
    Entry(Entry),
    Attr(Attr),
    Value(Value),
    Entries(Entries),
    Read(ReadAnswer),
    Names(Names),
    Statfs(StatfsAnswer),
    Seek(SeekAnswer),
    Unlinked(Unlinked),
    Renamed(Renamed),
    Renewed(Renewed),
    Locked(Locked),
    ChangedList(ChangedList),
    Inspected(Inspected),
    BlockSumList(BlockSumList),
    UnsettledList(UnsettledList),
    HandOver(HandOver),
}

macro_rules! each_answer {
    ($self:ident, $a:ident => $do:expr) => {
        match $self {
            Answer::Done($a) => $do,
            Answer::Entry($a) => $do,
            Answer::Attr($a) => $do,
            Answer::Value($a) => $do,
            Answer::Entries($a) => $do,
            Answer::Read($a) => $do,
            Answer::Names($a) => $do,
            Answer::Statfs($a) => $do,
            Answer::Seek($a) => $do,
            Answer::Unlinked($a) => $do,
            Answer::Renamed($a) => $do,
            Answer::Renewed($a) => $do,
            Answer::Locked($a) => $do,
            Answer::ChangedList($a) => $do,
            Answer::Inspected($a) => $do,
            Answer::BlockSumList($a) => $do,
            Answer::UnsettledList($a) => $do,
            Answer::HandOver($a) => $do,
        }
    };
}

impl Answer {
    pub fn encoded_len(&self) -> usize {
        each_answer!(self, a => prost::Message::encoded_len(a))
    }

    pub fn encode(&self, out: &mut impl bytes::BufMut) {
        let done = each_answer!(self, a => prost::Message::encode(a, out));
        done.expect("the caller's buffer grows");
    }
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Done {}

/// A name's inode. `parent` is the directory's own attributes after a change of its names.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Entry {
    #[prost(message, required, tag = "1")]
    pub attr: Attr,
    #[prost(message, optional, tag = "2")]
    pub parent: Option<Attr>,
    /// The payload holds the file's whole data.
    #[prost(bool, tag = "3")]
    pub with_data: bool,
}

/// A symlink's target or an xattr's value.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Value {
    #[prost(bytes = "bytes", tag = "1")]
    pub bytes: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Names {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    pub names: Vec<Bytes>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct DirEntry {
    #[prost(bytes = "bytes", tag = "1")]
    pub name: Bytes,
    #[prost(fixed64, tag = "2")]
    pub hash: u64,
    #[prost(message, required, tag = "3")]
    pub gfid: Gfid,
    #[prost(enumeration = "Kind", tag = "4")]
    pub kind: i32,
    /// Present when asked for and not held exclusively by another session.
    #[prost(message, optional, tag = "5")]
    pub attr: Option<Attr>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Entries {
    #[prost(message, repeated, tag = "1")]
    pub entries: Vec<DirEntry>,
    /// No further names on this set.
    #[prost(bool, tag = "2")]
    pub end: bool,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct ReadAnswer {
    #[prost(bool, tag = "1")]
    pub eof: bool,
}

/// Space of the smallest member, in bytes and inodes.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct StatfsAnswer {
    #[prost(uint64, tag = "1")]
    pub total_bytes: u64,
    #[prost(uint64, tag = "2")]
    pub free_bytes: u64,
    /// Free less the reserve.
    #[prost(uint64, tag = "3")]
    pub available_bytes: u64,
    #[prost(uint64, tag = "4")]
    pub total_inodes: u64,
    #[prost(uint64, tag = "5")]
    pub free_inodes: u64,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct SeekAnswer {
    #[prost(uint64, tag = "1")]
    pub offset: u64,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Unlinked {
    /// Names left; 0 means the inode is gone or, when kept, an orphan.
    #[prost(uint32, tag = "1")]
    pub nlink: u32,
    #[prost(message, optional, tag = "2")]
    pub parent: Option<Attr>,
    /// Attributes of the inode while it has names left or is kept.
    #[prost(message, optional, tag = "3")]
    pub attr: Option<Attr>,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Renamed {
    #[prost(message, optional, tag = "1")]
    pub from_parent: Option<Attr>,
    #[prost(message, optional, tag = "2")]
    pub to_parent: Option<Attr>,
    #[prost(message, optional, tag = "3")]
    pub attr: Option<Attr>,
    /// Names left of the replaced inode (or the attributes of the exchanged one).
    #[prost(message, optional, tag = "4")]
    pub replaced: Option<Attr>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Renewed {
    /// From the sending of the renewal, at most 1500; 0 when this member cannot renew.
    #[prost(uint32, tag = "1")]
    pub term_ms: u32,
    /// Leases whose recall is overdue: these are not renewed.
    #[prost(message, repeated, tag = "2")]
    pub overdue: Vec<KeyMsg>,
    /// The lead's wall clock in nanoseconds since 1970, base of the session's stamps.
    #[prost(fixed64, tag = "3")]
    pub time_ns: u64,
    /// Newest volume map version that the member knows.
    #[prost(uint64, tag = "4")]
    pub map_version: u64,
    /// Bytes that the session may take on the set in all; only the lead says so.
    #[prost(uint64, optional, tag = "5")]
    pub space_limit: Option<u64>,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Locked {
    /// The lock that stands in the way (TestLock), absent when there is none.
    #[prost(message, optional, tag = "1")]
    pub conflict: Option<Lock>,
}
