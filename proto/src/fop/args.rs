//! Arguments of the operations. Every bound is checked in `Fop::check` before anything else
//! looks at them.
//!
//! `expect*` fields name the inode that the sender believes to be there. A member that finds
//! another one answers ESTALE; with `resend` set it may instead recognise its own earlier
//! work ("already gone", "already there") and answer success. NIL means "no expectation".

use bytes::Bytes;

use super::{BadFop, Fop, check_name};
use crate::attr::Meta;
use crate::error::Errno;
use crate::fop::{
    FILE_BYTES_MAX, KeyMsg, NAME_BYTES_MAX, PAYLOAD_BYTES_MAX, READDIR_ENTRIES_MAX,
    TARGET_BYTES_MAX, XATTR_BYTES_MAX,
};
use crate::ids::{Gfid, LeaseNumber};

#[derive(Clone, PartialEq, prost::Message)]
pub struct Lookup {
    #[prost(message, required, tag = "1")]
    pub parent: Gfid,
    #[prost(bytes = "bytes", tag = "2")]
    pub name: Bytes,
    /// Bring the whole data of a regular file of at most this many bytes as the payload.
    #[prost(uint32, tag = "3")]
    pub data_bytes_max: u32,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Getattr {
    #[prost(message, required, tag = "1")]
    pub gfid: Gfid,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Readlink {
    #[prost(message, required, tag = "1")]
    pub gfid: Gfid,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Readdir {
    #[prost(message, required, tag = "1")]
    pub gfid: Gfid,
    /// Start after this name hash ...
    #[prost(fixed64, tag = "2")]
    pub after_hash: u64,
    /// ... and, among names of that same hash, after this name. Both empty: from the start.
    #[prost(bytes = "bytes", tag = "3")]
    pub after_name: Bytes,
    /// 1..=READDIR_ENTRIES_MAX.
    #[prost(uint32, tag = "4")]
    pub limit: u32,
    /// Attributes too.
    #[prost(bool, tag = "5")]
    pub plus: bool,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Read {
    #[prost(message, required, tag = "1")]
    pub gfid: Gfid,
    #[prost(uint64, tag = "2")]
    pub offset: u64,
    /// At most PAYLOAD_BYTES_MAX.
    #[prost(uint32, tag = "3")]
    pub len: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Getxattr {
    #[prost(message, required, tag = "1")]
    pub gfid: Gfid,
    #[prost(bytes = "bytes", tag = "2")]
    pub name: Bytes,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Listxattr {
    #[prost(message, required, tag = "1")]
    pub gfid: Gfid,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Statfs {
    /// A directory whose quota domain limits the answer; the root for the whole volume.
    #[prost(message, required, tag = "1")]
    pub gfid: Gfid,
}

/// SEEK_DATA or SEEK_HOLE.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Seek {
    #[prost(message, required, tag = "1")]
    pub gfid: Gfid,
    #[prost(uint64, tag = "2")]
    pub offset: u64,
    /// True for SEEK_HOLE.
    #[prost(bool, tag = "3")]
    pub hole: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Create {
    #[prost(message, required, tag = "1")]
    pub parent: Gfid,
    #[prost(bytes = "bytes", tag = "2")]
    pub name: Bytes,
    /// Chosen by the creator, with the name's slot in it.
    #[prost(message, required, tag = "3")]
    pub gfid: Gfid,
    /// Type and permission bits as `st_mode`, umask and ACL inheritance already applied.
    #[prost(uint32, tag = "4")]
    pub mode: u32,
    #[prost(uint32, tag = "5")]
    pub uid: u32,
    #[prost(uint32, tag = "6")]
    pub gid: u32,
    #[prost(uint64, tag = "7")]
    pub rdev: u64,
    /// Of a symlink; empty otherwise.
    #[prost(bytes = "bytes", tag = "8")]
    pub target: Bytes,
    /// Buckets of a new directory; 0 otherwise.
    #[prost(uint32, tag = "9")]
    pub buckets: u32,
    /// Set on the new inode (inherited ACLs, security labels).
    #[prost(message, repeated, tag = "10")]
    pub xattrs: Vec<XattrMsg>,
}

#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct XattrMsg {
    #[prost(bytes = "bytes", tag = "1")]
    pub name: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    pub value: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Unlink {
    #[prost(message, required, tag = "1")]
    pub parent: Gfid,
    #[prost(bytes = "bytes", tag = "2")]
    pub name: Bytes,
    #[prost(message, required, tag = "3")]
    pub expect: Gfid,
    /// The inode is open somewhere: with its last name gone it becomes an orphan until Forget.
    #[prost(bool, tag = "4")]
    pub keep: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Rmdir {
    #[prost(message, required, tag = "1")]
    pub parent: Gfid,
    #[prost(bytes = "bytes", tag = "2")]
    pub name: Bytes,
    #[prost(message, required, tag = "3")]
    pub expect: Gfid,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Rename {
    #[prost(message, required, tag = "1")]
    pub from_parent: Gfid,
    #[prost(bytes = "bytes", tag = "2")]
    pub from_name: Bytes,
    #[prost(message, required, tag = "3")]
    pub to_parent: Gfid,
    #[prost(bytes = "bytes", tag = "4")]
    pub to_name: Bytes,
    #[prost(message, required, tag = "5")]
    pub expect_from: Gfid,
    /// The inode that `to_name` names now; NIL when there is none.
    #[prost(message, required, tag = "6")]
    pub expect_to: Gfid,
    /// Bits of renameat2: 1 RENAME_NOREPLACE, 2 RENAME_EXCHANGE.
    #[prost(uint32, tag = "7")]
    pub flags: u32,
    /// The replaced inode is open somewhere: keep it as an orphan.
    #[prost(bool, tag = "8")]
    pub keep: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Link {
    #[prost(message, required, tag = "1")]
    pub gfid: Gfid,
    #[prost(message, required, tag = "2")]
    pub parent: Gfid,
    #[prost(bytes = "bytes", tag = "3")]
    pub name: Bytes,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Write {
    #[prost(message, required, tag = "1")]
    pub gfid: Gfid,
    #[prost(uint64, tag = "2")]
    pub offset: u64,
    /// Length of the payload in bytes.
    #[prost(uint64, tag = "3")]
    pub len: u64,
    /// The sender knows that the write ends inside the file.
    #[prost(bool, tag = "4")]
    pub inside: bool,
    /// On stable storage before the answer (O_SYNC, O_DSYNC).
    #[prost(bool, tag = "5")]
    pub sync: bool,
    /// Drop set-user-id and set-group-id bits and security.capability.
    #[prost(bool, tag = "6")]
    pub kill_privileges: bool,
    /// At the end of the file, whatever `offset` says: only for the lead to execute, which puts
    /// the offset in its place.
    #[prost(bool, tag = "7")]
    pub append: bool,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Setattr {
    #[prost(message, required, tag = "1")]
    pub gfid: Gfid,
    #[prost(message, required, tag = "2")]
    pub set: Meta,
    /// Drop set-user-id and set-group-id bits and security.capability.
    #[prost(bool, tag = "3")]
    pub kill_privileges: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Setxattr {
    #[prost(message, required, tag = "1")]
    pub gfid: Gfid,
    #[prost(bytes = "bytes", tag = "2")]
    pub name: Bytes,
    #[prost(bytes = "bytes", tag = "3")]
    pub value: Bytes,
    /// XATTR_CREATE (1), XATTR_REPLACE (2) or 0.
    #[prost(uint32, tag = "4")]
    pub flags: u32,
    /// Permission bits that go with an access ACL; absent otherwise.
    #[prost(uint32, optional, tag = "5")]
    pub mode: Option<u32>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Removexattr {
    #[prost(message, required, tag = "1")]
    pub gfid: Gfid,
    #[prost(bytes = "bytes", tag = "2")]
    pub name: Bytes,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Fallocate {
    #[prost(message, required, tag = "1")]
    pub gfid: Gfid,
    /// FALLOC_FL_KEEP_SIZE (1), PUNCH_HOLE (2, with 1), ZERO_RANGE (16).
    #[prost(uint32, tag = "2")]
    pub mode: u32,
    #[prost(uint64, tag = "3")]
    pub offset: u64,
    #[prost(uint64, tag = "4")]
    pub len: u64,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Fsync {
    #[prost(message, required, tag = "1")]
    pub gfid: Gfid,
    /// Data and what is needed to read it back only (fdatasync).
    #[prost(bool, tag = "2")]
    pub data_only: bool,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Forget {
    #[prost(message, required, tag = "1")]
    pub gfid: Gfid,
}

/// Leases without another operation; the wishes stand in the request's `wants`.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Acquire {}

/// Gives leases back (all changes under them are done and settled).
#[derive(Clone, PartialEq, prost::Message)]
pub struct Release {
    #[prost(message, repeated, tag = "1")]
    pub returns: Vec<ReturnMsg>,
    /// Inodes that this session no longer has open.
    #[prost(message, repeated, tag = "2")]
    pub unpin: Vec<Gfid>,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct ReturnMsg {
    #[prost(message, required, tag = "1")]
    pub key: KeyMsg,
    #[prost(message, required, tag = "2")]
    pub number: LeaseNumber,
    /// What is kept: `Mode::None`, or `Mode::Shared` of an exclusive lease.
    #[prost(enumeration = "crate::fop::Mode", tag = "3")]
    pub keep: i32,
    /// The inode is open here: pin it.
    #[prost(bool, tag = "4")]
    pub open: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Renew {
    /// Settled mark of this session on this brick's set, also in idle times.
    #[prost(uint64, tag = "1")]
    pub mark: u64,
    /// Space taken on the set since the session began, in bytes: at most the last limit heard.
    #[prost(uint64, tag = "2")]
    pub taken: u64,
    /// Of `taken`, what is not in the session's buffers any more.
    #[prost(uint64, tag = "3")]
    pub done: u64,
    /// Bytes wanted at once beyond `taken`.
    #[prost(uint64, tag = "4")]
    pub need: u64,
}

/// flock or fcntl lock. `end` is exclusive; u64::MAX means to the end of the file.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Lock {
    #[prost(message, required, tag = "1")]
    pub gfid: Gfid,
    #[prost(uint64, tag = "2")]
    pub owner: u64,
    #[prost(uint32, tag = "3")]
    pub pid: u32,
    #[prost(uint64, tag = "4")]
    pub start: u64,
    #[prost(uint64, tag = "5")]
    pub end: u64,
    /// 0 unlock, 1 read, 2 write.
    #[prost(uint32, tag = "6")]
    pub kind: u32,
    #[prost(bool, tag = "7")]
    pub flock: bool,
    #[prost(bool, tag = "8")]
    pub wait: bool,
    /// Held under the lead before, and claimed from a new one: in its grace only.
    #[prost(bool, tag = "9")]
    pub reclaim: bool,
}

/// Who would stand in the way of this lock?
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct TestLock {
    #[prost(message, required, tag = "1")]
    pub lock: Lock,
}

impl Fop {
    /// Bounds that hold for every correct sender.
    ///
    /// # Errors
    /// Names the broken bound.
    pub fn check(&self) -> Result<(), BadFop> {
        match self {
            Fop::Lookup(a) => ok(named(a.parent, &a.name) && a.data_bytes_max <= 1 << 20, "lookup"),
            Fop::Readdir(a) => ok(
                !a.gfid.is_nil()
                    && (1..=READDIR_ENTRIES_MAX).contains(&a.limit)
                    && a.after_name.len() <= NAME_BYTES_MAX,
                "readdir",
            ),
            Fop::Read(a) => {
                ok(range(a.gfid, a.offset, a.len.into()) && payload(a.len.into()), "read")
            }
            Fop::PeerRead(a) => {
                ok(range(a.gfid, a.offset, a.len.into()) && payload(a.len.into()), "peer read")
            }
            Fop::Getxattr(a) => ok(xattr(a.gfid, &a.name, 0), "getxattr"),
            Fop::Setxattr(a) => ok(xattr(a.gfid, &a.name, a.value.len()), "setxattr"),
            Fop::Removexattr(a) => ok(xattr(a.gfid, &a.name, 0), "removexattr"),
            Fop::Create(a) => ok(create(a), "create"),
            Fop::Unlink(a) => ok(named(a.parent, &a.name), "unlink"),
            Fop::Rmdir(a) => ok(named(a.parent, &a.name), "rmdir"),
            Fop::Rename(a) => ok(
                named(a.from_parent, &a.from_name)
                    && named(a.to_parent, &a.to_name)
                    && !a.expect_from.is_nil()
                    && a.flags <= 2,
                "rename",
            ),
            Fop::Link(a) => ok(named(a.parent, &a.name) && !a.gfid.is_nil(), "link"),
            Fop::Write(a) => ok(range(a.gfid, a.offset, a.len) && payload(a.len), "write"),
            Fop::Fallocate(a) => ok(
                range(a.gfid, a.offset, a.len) && matches!(a.mode, 0 | 1 | 3 | 16 | 17),
                "fallocate",
            ),
            Fop::Setattr(a) => {
                ok(!a.gfid.is_nil() && a.set.size.is_none_or(|s| s <= FILE_BYTES_MAX), "setattr")
            }
            Fop::InstallName(a) => ok(named(a.parent, &a.name) && !a.gfid.is_nil(), "install name"),
            Fop::RemoveName(a) => ok(named(a.parent, &a.name), "remove name"),
            Fop::InstallData(a) => {
                ok(range(a.gfid, a.offset, a.len) && payload(a.len), "install data")
            }
            Fop::Release(a) => ok(a.returns.len() <= 4096 && a.unpin.len() <= 4096, "release"),
            _ => Ok(()),
        }
    }
}

fn ok(holds: bool, what: &'static str) -> Result<(), BadFop> {
    if holds { Ok(()) } else { Err(BadFop(what)) }
}

fn named(parent: Gfid, name: &[u8]) -> bool {
    !parent.is_nil() && check_name(name).is_ok()
}

fn range(gfid: Gfid, offset: u64, len: u64) -> bool {
    !gfid.is_nil() && offset.checked_add(len).is_some_and(|end| end <= FILE_BYTES_MAX)
}

fn payload(len: u64) -> bool {
    len <= PAYLOAD_BYTES_MAX as u64
}

fn xattr(gfid: Gfid, name: &[u8], value_bytes: usize) -> bool {
    !gfid.is_nil()
        && (1..=NAME_BYTES_MAX).contains(&name.len())
        && !name.contains(&0)
        && value_bytes <= XATTR_BYTES_MAX
}

fn create(a: &Create) -> bool {
    named(a.parent, &a.name)
        && !a.gfid.is_nil()
        && a.target.len() <= TARGET_BYTES_MAX
        && !a.target.contains(&0)
        && a.buckets <= 1024
        && a.xattrs.len() <= 16
        && a.xattrs.iter().all(|x| xattr(a.gfid, &x.name, x.value.len()))
}

/// Xattr names that belong to Brickwork itself and are never shown to or set by applications.
pub fn is_internal_xattr(name: &[u8]) -> bool {
    name.starts_with(b"trusted.brick.")
}

/// The errno for an application's attempt on an internal xattr.
pub const INTERNAL_XATTR_ERRNO: Errno = Errno::EPERM;
