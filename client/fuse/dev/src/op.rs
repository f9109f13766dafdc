//! One typed variant per kernel operation. Everything is owned, so that a handler may keep it
//! across an await.

use std::fmt;
use std::ops::Deref;

use bytes::Bytes;

use crate::attr::Timestamp;

/// A name as the kernel sent it: 1 to 255 bytes, no NUL; for directory entries no '/'.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Vec<u8>);

impl Name {
    pub(crate) fn from_checked(name: &[u8]) -> Self {
        Self(name.to_vec())
    }

    /// The bytes of the name.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The bytes of the name, owned.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

impl Deref for Name {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:?}", String::from_utf8_lossy(&self.0))
    }
}

/// How many lookups of an inode the kernel takes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forget {
    /// The inode.
    pub nodeid: u64,
    /// Lookups to subtract.
    pub nlookup: u64,
}

/// A time to set: the moment of the change, or a given one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetTime {
    /// The moment of the change.
    Now,
    /// A given time.
    At(Timestamp),
}

/// What `chmod`, `chown`, `truncate` and `utimensat` change; `None` stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SetAttr {
    /// The open file, for `ftruncate` and its like.
    pub fh: Option<u64>,
    /// Permission bits (the type bits are the file's own).
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Length in bytes.
    pub size: Option<u64>,
    /// Time of last access.
    pub atime: Option<SetTime>,
    /// Time of last change of data.
    pub mtime: Option<SetTime>,
    /// Time of last change of the inode.
    pub ctime: Option<Timestamp>,
    /// Lock owner of a truncate.
    pub lock_owner: Option<u64>,
    /// Clear suid, and sgid where the group may execute.
    pub kill_suidgid: bool,
}

/// A read of file data or of directory entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    /// Handle given by the open.
    pub fh: u64,
    /// Byte position; for directories the cookie of the last entry seen, 0 at the start.
    pub offset: u64,
    /// Most bytes to answer with.
    pub size: u32,
    /// Flags of the open file (`O_*`).
    pub flags: u32,
    /// Lock owner, when mandatory locks might matter.
    pub lock_owner: Option<u64>,
}

/// A write of file data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// Handle given by the open; a guess when `from_cache`.
    pub fh: u64,
    /// Byte position.
    pub offset: u64,
    /// The payload. Of 4 KiB or more it is the pages into which the kernel copied it, starting
    /// on a page boundary; they return to their pool when the last clone is dropped.
    pub data: Bytes,
    /// Flags of the open file (`O_*`).
    pub flags: u32,
    /// Dirty pages (of a mapping): any process may have written them, any handle may be named.
    pub from_cache: bool,
    /// Lock owner.
    pub lock_owner: Option<u64>,
    /// Clear suid, and sgid where the group may execute.
    pub kill_suidgid: bool,
}

/// Kind of a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockKind {
    /// Shared.
    Read,
    /// Exclusive.
    Write,
    /// None: give up.
    Unlock,
}

/// A range with a lock. Also the answer to GETLK.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileLock {
    /// First byte.
    pub start: u64,
    /// Last byte, inclusive; `i64::MAX` for "to the end".
    pub end: u64,
    /// Kind.
    pub kind: LockKind,
    /// Process that holds or asks.
    pub pid: u32,
}

/// A lock request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lock {
    /// Handle given by the open.
    pub fh: u64,
    /// Who owns the lock: a process for `fcntl`, an open file for `flock`.
    pub owner: u64,
    /// Range and kind.
    pub lock: FileLock,
    /// `flock`, which does not conflict with `fcntl` locks; its range means nothing.
    pub flock: bool,
}

/// The last close of an open file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Release {
    /// Handle given by the open.
    pub fh: u64,
    /// Flags of the open file (`O_*`).
    pub flags: u32,
    /// Lock owner.
    pub lock_owner: u64,
    /// The `flock` lock of `lock_owner` ends with this close.
    pub flock_unlock: bool,
}

/// A creation that opens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Create {
    /// Entry to make.
    pub name: Name,
    /// Type and permission bits, before the umask.
    pub mode: u32,
    /// The caller's umask, ours to apply.
    pub umask: u32,
    /// Open flags (`O_*`).
    pub flags: u32,
    /// Clear suid, and sgid where the group may execute, of what is truncated.
    pub kill_suidgid: bool,
}

/// The creation of a file without a name, which opens it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TmpFile {
    /// Type and permission bits, before the umask.
    pub mode: u32,
    /// The caller's umask, ours to apply.
    pub umask: u32,
    /// Open flags (`O_*`); without `O_EXCL` a later link may name the file.
    pub flags: u32,
}

/// A change of one extended attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetXattr {
    /// Attribute.
    pub name: Name,
    /// Value.
    pub value: Vec<u8>,
    /// `XATTR_CREATE`, `XATTR_REPLACE` or 0.
    pub flags: u32,
    /// The access ACL is being set by somebody outside the group: clear sgid.
    pub acl_kill_sgid: bool,
}

/// A copy between two open files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyFileRange {
    /// Handle to copy from (the request's own inode).
    pub fh_in: u64,
    /// Position to copy from.
    pub offset_in: u64,
    /// Inode to copy to.
    pub nodeid_out: u64,
    /// Handle to copy to.
    pub fh_out: u64,
    /// Position to copy to.
    pub offset_out: u64,
    /// Bytes to copy.
    pub len: u64,
    /// Flags of the system call, so far 0.
    pub flags: u64,
}

/// A kernel operation with its arguments. The inode it is about is in the request's header; for
/// operations on names that is the parent directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Find a name. Answer: entry.
    Lookup { name: Name },
    /// Take back lookups of one inode. No answer.
    Forget { nlookup: u64 },
    /// Take back lookups of many. No answer.
    BatchForget(Vec<Forget>),
    /// Attributes. Answer: attr.
    GetAttr { fh: Option<u64> },
    /// Attributes by mask. Answer: statx.
    Statx { fh: Option<u64>, flags: u32, mask: u32 },
    /// Change attributes. Answer: attr.
    SetAttr(SetAttr),
    /// Target of a symbolic link. Answer: data.
    ReadLink,
    /// Make a symbolic link. Answer: entry.
    Symlink { name: Name, target: Vec<u8> },
    /// Make a file or special file. Answer: entry.
    MkNod { name: Name, mode: u32, rdev: u32, umask: u32 },
    /// Make a directory. Answer: entry.
    MkDir { name: Name, mode: u32, umask: u32 },
    /// Remove a name. Answer: ok.
    Unlink { name: Name },
    /// Remove an empty directory. Answer: ok.
    RmDir { name: Name },
    /// Rename; `flags` are `RENAME_NOREPLACE`, `RENAME_EXCHANGE`, `RENAME_WHITEOUT`. Answer: ok.
    Rename { name: Name, new_parent: u64, new_name: Name, flags: u32 },
    /// A further name, in the header's directory, for `inode`. Answer: entry.
    Link { inode: u64, new_name: Name },
    /// Open a file. Answer: open.
    Open { flags: u32, kill_suidgid: bool },
    /// Create and open. Answer: create.
    Create(Create),
    /// Create an unnamed file in the directory and open it. Answer: create.
    TmpFile(TmpFile),
    /// Read data. Answer: data.
    Read(Read),
    /// Write data. Answer: write.
    Write(Write),
    /// One of several closes of an open file. Answer: ok.
    Flush { fh: u64, lock_owner: u64 },
    /// Last close. Answer: ok.
    Release(Release),
    /// Put on stable storage. Answer: ok.
    Fsync { fh: u64, data_only: bool },
    /// Usage of the file system. Answer: statfs.
    StatFs,
    /// Put everything on stable storage. Answer: ok.
    SyncFs,
    /// Set an extended attribute. Answer: ok.
    SetXattr(SetXattr),
    /// Value of an extended attribute; `size` 0 asks its length. Answer: xattr.
    GetXattr { name: Name, size: u32 },
    /// Names of the extended attributes, each with a NUL; `size` 0 asks the length. Answer: xattr.
    ListXattr { size: u32 },
    /// Remove an extended attribute. Answer: ok.
    RemoveXattr { name: Name },
    /// Open a directory. Answer: open.
    OpenDir { flags: u32 },
    /// Read entries. Answer: dir.
    ReadDir(Read),
    /// Read entries with attributes; each counts as a lookup. Answer: dir.
    ReadDirPlus(Read),
    /// Last close of a directory. Answer: ok.
    ReleaseDir(Release),
    /// Put a directory on stable storage. Answer: ok.
    FsyncDir { fh: u64, data_only: bool },
    /// Which lock would conflict. Answer: lock.
    GetLk(Lock),
    /// Lock or unlock without waiting; EAGAIN when held. Answer: ok.
    SetLk(Lock),
    /// Lock, waiting; interruptible. Answer: ok.
    SetLkW(Lock),
    /// Whether the caller may; not sent with `default_permissions`. Answer: ok.
    Access { mask: u32 },
    /// The caller of request `unique` got a signal. No answer.
    Interrupt { unique: u64 },
    /// Allocate, punch or zero a range. Answer: ok.
    Fallocate { fh: u64, offset: u64, len: u64, mode: u32 },
    /// `SEEK_DATA` or `SEEK_HOLE`. Answer: lseek.
    Lseek { fh: u64, offset: u64, whence: u32 },
    /// Copy between open files. Answer: copied.
    CopyFileRange(CopyFileRange),
    /// The mount ends. Answer: ok.
    Destroy,
    /// An operation this crate does not decode (poll, ioctl, bmap, ...). Answer: err(ENOSYS),
    /// after which the kernel mostly does not ask again.
    Unsupported { opcode: u32 },
}
