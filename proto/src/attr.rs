//! Attributes of an inode as they travel and as applications see them.

use crate::ids::{Gfid, Stamp};

/// A point in time as POSIX keeps it: seconds since 1970 (may be negative) and 0..1e9 ns.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Message)]
pub struct Time {
    #[prost(sint64, tag = "1")]
    pub sec: i64,
    #[prost(uint32, tag = "2")]
    pub nsec: u32,
}

impl From<Stamp> for Time {
    fn from(stamp: Stamp) -> Self {
        let sec = i64::try_from(stamp.0 / 1_000_000_000).unwrap_or(i64::MAX);
        Self { sec, nsec: (stamp.0 % 1_000_000_000) as u32 }
    }
}

/// File type, with the values of `S_IFMT >> 12` (and of `d_type`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, prost::Enumeration)]
#[repr(i32)]
pub enum Kind {
    Unknown = 0,
    Fifo = 1,
    CharDevice = 2,
    Directory = 4,
    BlockDevice = 6,
    File = 8,
    Symlink = 10,
    Socket = 12,
}

impl Kind {
    pub fn of_mode(mode: u32) -> Kind {
        Kind::try_from(((mode >> 12) & 0xf) as i32).unwrap_or(Kind::Unknown)
    }
}

/// What `stat` shows. The same on every in-sync replica, to the nanosecond, except `blocks`.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Attr {
    #[prost(message, required, tag = "1")]
    pub gfid: Gfid,
    /// Type and permission bits, as `st_mode`.
    #[prost(uint32, tag = "2")]
    pub mode: u32,
    #[prost(uint32, tag = "3")]
    pub uid: u32,
    #[prost(uint32, tag = "4")]
    pub gid: u32,
    /// Always 1 for a directory.
    #[prost(uint32, tag = "5")]
    pub nlink: u32,
    /// Bytes. A directory's is 4096.
    #[prost(uint64, tag = "6")]
    pub size: u64,
    /// 512-byte units, as this replica's file system counts them.
    #[prost(uint64, tag = "7")]
    pub blocks: u64,
    #[prost(uint64, tag = "8")]
    pub rdev: u64,
    #[prost(message, required, tag = "9")]
    pub atime: Time,
    #[prost(message, required, tag = "10")]
    pub mtime: Time,
    #[prost(message, required, tag = "11")]
    pub ctime: Time,
    /// Stamp of the inode's last change: a later change has a greater one.
    #[prost(uint64, tag = "12")]
    pub stamp: u64,
    /// Number of buckets of a directory (its `k`); 0 for everything else.
    #[prost(uint32, tag = "13")]
    pub buckets: u32,
}

impl Attr {
    pub fn kind(&self) -> Kind {
        Kind::of_mode(self.mode)
    }

    pub fn is_dir(&self) -> bool {
        self.kind() == Kind::Directory
    }
}

/// Attribute values a caller sets; `None` leaves one as it is.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Meta {
    /// Permission bits only (07777).
    #[prost(uint32, optional, tag = "1")]
    pub mode: Option<u32>,
    #[prost(uint32, optional, tag = "2")]
    pub uid: Option<u32>,
    #[prost(uint32, optional, tag = "3")]
    pub gid: Option<u32>,
    #[prost(uint64, optional, tag = "4")]
    pub size: Option<u64>,
    #[prost(message, optional, tag = "5")]
    pub atime: Option<Time>,
    #[prost(message, optional, tag = "6")]
    pub mtime: Option<Time>,
}
