//! Numbers of the FUSE kernel interface that this crate uses.
//!
//! Source: the kernel's public header `linux/fuse.h`, protocol 7.45. The oldest kernel we
//! run on is 5.10, which speaks 7.32, so anything newer than that is negotiated. All integers
//! travel in the byte order of the machine.

/// Major protocol version; the kernel has used 7 since 2005.
pub(crate) const KERNEL_MAJOR: u32 = 7;
/// Minor version whose layouts this crate knows (Linux 6.18).
pub(crate) const KERNEL_MINOR: u32 = 45;
/// Linux 5.10. Older kernels lack fields that we read without looking.
pub(crate) const KERNEL_MINOR_MIN: u32 = 32;

/// `struct fuse_in_header`.
pub(crate) const IN_HEADER_LEN: usize = 40;
/// `struct fuse_out_header`.
pub(crate) const OUT_HEADER_LEN: usize = 16;
/// Header and `struct fuse_write_in`: what stands before the payload of a WRITE.
pub(crate) const WRITE_HEAD_LEN: usize = IN_HEADER_LEN + 40;
/// `struct fuse_init_out` since 7.23.
pub(crate) const INIT_OUT_LEN: usize = 64;

/// The kernel refuses reads into a smaller buffer.
pub(crate) const READ_BUFFER_MIN: usize = 8192;
/// Longest name that Linux hands to a file system.
pub(crate) const NAME_LEN_MAX: usize = 255;
/// Longest symbolic link target including its NUL (`PATH_MAX`).
pub(crate) const PATH_LEN_MAX: usize = 4096;
/// Longest extended attribute value (`XATTR_SIZE_MAX`).
pub(crate) const XATTR_LEN_MAX: usize = 65536;
/// Errors of 512 and more are the kernel's own and refused in replies.
pub(crate) const ERRNO_LIMIT: i32 = 512;

pub(crate) mod opcode {
    pub(crate) const LOOKUP: u32 = 1;
    pub(crate) const FORGET: u32 = 2;
    pub(crate) const GETATTR: u32 = 3;
    pub(crate) const SETATTR: u32 = 4;
    pub(crate) const READLINK: u32 = 5;
    pub(crate) const SYMLINK: u32 = 6;
    pub(crate) const MKNOD: u32 = 8;
    pub(crate) const MKDIR: u32 = 9;
    pub(crate) const UNLINK: u32 = 10;
    pub(crate) const RMDIR: u32 = 11;
    pub(crate) const RENAME: u32 = 12;
    pub(crate) const LINK: u32 = 13;
    pub(crate) const OPEN: u32 = 14;
    pub(crate) const READ: u32 = 15;
    pub(crate) const WRITE: u32 = 16;
    pub(crate) const STATFS: u32 = 17;
    pub(crate) const RELEASE: u32 = 18;
    pub(crate) const FSYNC: u32 = 20;
    pub(crate) const SETXATTR: u32 = 21;
    pub(crate) const GETXATTR: u32 = 22;
    pub(crate) const LISTXATTR: u32 = 23;
    pub(crate) const REMOVEXATTR: u32 = 24;
    pub(crate) const FLUSH: u32 = 25;
    pub(crate) const INIT: u32 = 26;
    pub(crate) const OPENDIR: u32 = 27;
    pub(crate) const READDIR: u32 = 28;
    pub(crate) const RELEASEDIR: u32 = 29;
    pub(crate) const FSYNCDIR: u32 = 30;
    pub(crate) const GETLK: u32 = 31;
    pub(crate) const SETLK: u32 = 32;
    pub(crate) const SETLKW: u32 = 33;
    pub(crate) const ACCESS: u32 = 34;
    pub(crate) const CREATE: u32 = 35;
    pub(crate) const INTERRUPT: u32 = 36;
    pub(crate) const DESTROY: u32 = 38;
    pub(crate) const NOTIFY_REPLY: u32 = 41;
    pub(crate) const BATCH_FORGET: u32 = 42;
    pub(crate) const FALLOCATE: u32 = 43;
    pub(crate) const READDIRPLUS: u32 = 44;
    pub(crate) const RENAME2: u32 = 45;
    pub(crate) const LSEEK: u32 = 46;
    pub(crate) const COPY_FILE_RANGE: u32 = 47;
    pub(crate) const SYNCFS: u32 = 50;
    pub(crate) const TMPFILE: u32 = 51;
    pub(crate) const STATX: u32 = 52;
    pub(crate) const COPY_FILE_RANGE_64: u32 = 53;
}

/// Codes of unsolicited messages, sent in the error field of a reply to request 0.
pub(crate) mod notify {
    pub(crate) const INVAL_INODE: i32 = 2;
    pub(crate) const INVAL_ENTRY: i32 = 3;
    pub(crate) const STORE: i32 = 4;
    pub(crate) const DELETE: i32 = 6;
    /// Flag of `INVAL_ENTRY`: let the entry expire, do not unhash it.
    pub(crate) const EXPIRE_ONLY: u32 = 1;
}

/// Bits of `fuse_setattr_in.valid`.
pub(crate) mod fattr {
    pub(crate) const MODE: u32 = 1;
    pub(crate) const UID: u32 = 1 << 1;
    pub(crate) const GID: u32 = 1 << 2;
    pub(crate) const SIZE: u32 = 1 << 3;
    pub(crate) const ATIME: u32 = 1 << 4;
    pub(crate) const MTIME: u32 = 1 << 5;
    pub(crate) const FH: u32 = 1 << 6;
    pub(crate) const ATIME_NOW: u32 = 1 << 7;
    pub(crate) const MTIME_NOW: u32 = 1 << 8;
    pub(crate) const LOCKOWNER: u32 = 1 << 9;
    pub(crate) const CTIME: u32 = 1 << 10;
    pub(crate) const KILL_SUIDGID: u32 = 1 << 11;
}

pub(crate) const GETATTR_FH: u32 = 1;
pub(crate) const LK_FLOCK: u32 = 1;
pub(crate) const OPEN_KILL_SUIDGID: u32 = 1;
pub(crate) const RELEASE_FLOCK_UNLOCK: u32 = 1 << 1;
pub(crate) const READ_LOCKOWNER: u32 = 1 << 1;
pub(crate) const WRITE_CACHE: u32 = 1;
pub(crate) const WRITE_LOCKOWNER: u32 = 1 << 1;
pub(crate) const WRITE_KILL_SUIDGID: u32 = 1 << 2;
pub(crate) const FSYNC_FDATASYNC: u32 = 1;
pub(crate) const SETXATTR_ACL_KILL_SGID: u32 = 1;
/// Extension record that carries supplementary groups.
pub(crate) const EXT_GROUPS: u32 = 32;

/// Length of the fixed argument structure that follows the header of operation `number`; `None` for
/// operations that this crate does not decode.
pub(crate) fn fixed_len(number: u32, setxattr_ext: bool) -> Option<usize> {
    use opcode as op;
    Some(match number {
        op::LOOKUP | op::READLINK | op::SYMLINK | op::UNLINK | op::RMDIR => 0,
        op::STATFS | op::REMOVEXATTR | op::DESTROY => 0,
        op::SETXATTR => 8 + if setxattr_ext { 8 } else { 0 },
        op::FORGET | op::MKDIR | op::RENAME | op::LINK | op::OPEN | op::OPENDIR => 8,
        op::GETXATTR | op::LISTXATTR | op::ACCESS | op::INTERRUPT => 8,
        op::BATCH_FORGET | op::SYNCFS => 8,
        op::GETATTR | op::MKNOD | op::FSYNC | op::FSYNCDIR => 16,
        op::CREATE | op::TMPFILE | op::RENAME2 => 16,
        op::RELEASE | op::RELEASEDIR | op::FLUSH | op::LSEEK | op::STATX => 24,
        op::FALLOCATE => 32,
        op::READ | op::WRITE | op::READDIR | op::READDIRPLUS => 40,
        op::GETLK | op::SETLK | op::SETLKW => 48,
        op::COPY_FILE_RANGE | op::COPY_FILE_RANGE_64 => 56,
        op::SETATTR => 88,
        _ => return None,
    })
}

/// The kernel waits for no answer to these, and refuses one.
pub(crate) fn expects_no_reply(number: u32) -> bool {
    matches!(
        number,
        opcode::FORGET | opcode::BATCH_FORGET | opcode::INTERRUPT | opcode::NOTIFY_REPLY
    )
}
