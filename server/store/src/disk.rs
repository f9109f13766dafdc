//! The one door to the file system.
//!
//! Everything the store does to a brick's tree goes through the `Disk` trait, one method per
//! system call, so that tests can fail any of them. `RealDisk` is the only code of this crate
//! that speaks to the kernel; `Watched` notices errors that mean a broken disk; `FaultDisk`
//! makes such errors. RocksDB's own files below `.brickwork/db` do not pass through here.
//!
//! Promises: no method follows a symlink in the name it is given, and every name is one
//! component. Deliberately does not: cache, retry, or interpret.

mod fault;
mod health;
mod real;

pub use fault::{FaultDisk, Faults};
pub use health::{Health, Watched};
pub use real::RealDisk;

use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

use proto::attr::{Kind, Time};
use proto::error::Errno;

/// What an attribute call is applied to.
#[derive(Clone, Copy, Debug)]
pub enum At<'a> {
    /// An open file or directory.
    Fd(BorrowedFd<'a>),
    /// An `O_PATH` descriptor (symlinks, devices, fifos, sockets).
    Path(BorrowedFd<'a>),
    /// One name of an open directory, not followed.
    Name(BorrowedFd<'a>, &'a [u8]),
}

/// How a file is opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Open {
    /// `O_PATH`: for symlinks and special files.
    Path,
    Directory,
    /// Regular file for reading and writing; never changes the access time.
    File,
    /// New regular file; EEXIST when the name is taken.
    New {
        mode: u32,
    },
}

impl Open {
    /// How an inode of this kind is kept open.
    pub fn of(kind: Kind) -> Open {
        match kind {
            Kind::Directory => Open::Directory,
            Kind::File => Open::File,
            _ => Open::Path,
        }
    }
}

/// `struct stat`, the fields that matter here.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stat {
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub nlink: u64,
    pub size: u64,
    /// 512-byte units.
    pub blocks: u64,
    pub rdev: u64,
    pub ino: u64,
    pub dev: u64,
}

impl Stat {
    pub fn kind(&self) -> Kind {
        Kind::of_mode(self.mode)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SpaceStat {
    pub block_bytes: u64,
    pub blocks: u64,
    pub blocks_free: u64,
    pub inodes: u64,
    pub inodes_free: u64,
}

/// A kernel file handle: type and opaque bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FileHandle {
    pub kind: i32,
    pub bytes: Vec<u8>,
}

/// One entry of a directory as the file system gives it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RawEntry {
    pub name: Vec<u8>,
    pub kind: Kind,
}

/// Declares the trait and its forwarding wrappers from one list, so that a new call is watched
/// and can be failed on the day it exists.
macro_rules! disk {
    ($($(#[$doc:meta])* fn $name:ident($($arg:ident: $ty:ty),*) -> $out:ty;)*) => {
        pub trait Disk: Send + Sync {
            $(
                $(#[$doc])*
                /// # Errors
                /// The system call's own.
                fn $name(&self, $($arg: $ty),*) -> Result<$out, Errno>;
            )*
        }

        impl Disk for Watched {
            $(fn $name(&self, $($arg: $ty),*) -> Result<$out, Errno> {
                let result = self.inner.$name($($arg),*);
                if let Err(errno) = &result {
                    self.health.note(stringify!($name), *errno);
                }
                result
            })*
        }

        impl Disk for FaultDisk {
            $(fn $name(&self, $($arg: $ty),*) -> Result<$out, Errno> {
                self.before(stringify!($name))?;
                self.inner.$name($($arg),*)
            })*
        }
    };
}

disk! {
    /// Opens a directory by its absolute path; only for the brick's root.
    fn open_root(path: &Path) -> OwnedFd;
    fn open_at(dir: BorrowedFd<'_>, name: &[u8], how: Open) -> OwnedFd;
    fn mkdir_at(dir: BorrowedFd<'_>, name: &[u8], mode: u32) -> ();
    /// Fifo, socket or device: type bits in `mode`.
    fn mknod_at(dir: BorrowedFd<'_>, name: &[u8], mode: u32, rdev: u64) -> ();
    fn symlink_at(target: &[u8], dir: BorrowedFd<'_>, name: &[u8]) -> ();
    fn unlink_at(dir: BorrowedFd<'_>, name: &[u8]) -> ();
    fn rmdir_at(dir: BorrowedFd<'_>, name: &[u8]) -> ();
    /// `flags` as of renameat2.
    fn rename_at(from: BorrowedFd<'_>, a: &[u8], to: BorrowedFd<'_>, b: &[u8], flags: u32) -> ();
    /// A further name for an open inode.
    fn link_fd_at(fd: BorrowedFd<'_>, dir: BorrowedFd<'_>, name: &[u8]) -> ();
    fn stat(at: At<'_>) -> Stat;
    fn read_link(fd: BorrowedFd<'_>) -> Vec<u8>;
    /// Bytes of the value; ERANGE when `buf` is too small, except that an empty one asks.
    fn get_xattr(at: At<'_>, name: &[u8], buf: &mut [u8]) -> usize;
    /// `flags`: XATTR_CREATE 1, XATTR_REPLACE 2.
    fn set_xattr(at: At<'_>, name: &[u8], value: &[u8], flags: u32) -> ();
    fn remove_xattr(at: At<'_>, name: &[u8]) -> ();
    /// Names, each ended by a NUL.
    fn list_xattr(at: At<'_>) -> Vec<u8>;
    /// Permission bits only.
    fn chmod(at: At<'_>, mode: u32) -> ();
    fn chown(at: At<'_>, uid: u32, gid: u32) -> ();
    fn set_times(at: At<'_>, atime: Time, mtime: Time) -> ();
    fn truncate(fd: BorrowedFd<'_>, size: u64) -> ();
    fn fallocate(fd: BorrowedFd<'_>, mode: u32, offset: u64, len: u64) -> ();
    fn pread(fd: BorrowedFd<'_>, buf: &mut [u8], offset: u64) -> usize;
    /// Only what is in the page cache: EAGAIN when nothing is.
    fn pread_cached(fd: BorrowedFd<'_>, buf: &mut [u8], offset: u64) -> usize;
    fn pwrite(fd: BorrowedFd<'_>, buf: &[u8], offset: u64) -> usize;
    /// SEEK_HOLE or SEEK_DATA.
    fn seek(fd: BorrowedFd<'_>, offset: u64, hole: bool) -> u64;
    fn fsync(fd: BorrowedFd<'_>, data_only: bool) -> ();
    fn sync_fs(fd: BorrowedFd<'_>) -> ();
    fn space(fd: BorrowedFd<'_>) -> SpaceStat;
    /// A number of this mount of the file system that no other has until the machine starts
    /// again; EOPNOTSUPP where the kernel has none (not XFS, and before Linux 6.8).
    fn mount_id(fd: BorrowedFd<'_>) -> u64;
    fn handle_of(at: At<'_>) -> FileHandle;
    /// ESTALE when the inode is gone.
    fn open_handle(mount: BorrowedFd<'_>, handle: &FileHandle, how: Open) -> OwnedFd;
    /// Everything but `.` and `..`, in no order.
    fn read_dir(dir: BorrowedFd<'_>) -> Vec<RawEntry>;
    /// Exclusive, without waiting: EAGAIN when another process has it.
    fn lock(fd: BorrowedFd<'_>) -> ();
}
