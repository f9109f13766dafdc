//! From received bytes to a typed operation.
//!
//! Assumes nothing about the bytes. Promises a value or [`Malformed`], never a panic.
//! Deliberately does not: attach the payload of a WRITE (the transport owns those bytes and
//! decides whether they must be copied) nor decode INIT (the session does).

use bytes::Bytes;

use crate::abi::{self, IN_HEADER_LEN, XATTR_LEN_MAX, fattr, opcode};
use crate::attr::Timestamp;
use crate::op::{
    CopyFileRange, Create, FileLock, Forget, Lock, LockKind, Op, Read, Release, SetAttr, SetTime,
    SetXattr, TmpFile, Write,
};
use crate::wire::{Args, Malformed};

type Parsed<T> = Result<T, Malformed>;

/// Who asks, and about what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The kernel's number of this request; never used twice on a mount.
    pub unique: u64,
    /// The inode, or the parent directory for operations on names.
    pub nodeid: u64,
    /// Caller's file system user id.
    pub uid: u32,
    /// Caller's file system group id.
    pub gid: u32,
    /// Caller's process id; 0 from another pid namespace or from the kernel itself.
    pub pid: u32,
    /// Kernel's number of the operation.
    pub opcode: u32,
    /// For creations: the group of the parent directory when the caller is in it beyond `gid`.
    pub supp_groups: Vec<u32>,
}

/// Splits a message into its header, the arguments and nothing else; extensions are decoded.
pub(crate) fn header(message: &[u8]) -> Parsed<(Header, &[u8])> {
    let (mut args, body) = (Args::contiguous(message, IN_HEADER_LEN)?, &message[IN_HEADER_LEN..]);
    let len = args.u32()?;
    let mut header = Header {
        opcode: args.u32()?,
        unique: args.u64()?,
        nodeid: args.u64()?,
        uid: args.u32()?,
        gid: args.u32()?,
        pid: args.u32()?,
        supp_groups: Vec::new(),
    };
    if usize::try_from(len) != Ok(message.len()) {
        return Err(Malformed::Length);
    }
    let ext_words = u16::from_ne_bytes([message[36], message[37]]);
    let ext_len = usize::from(ext_words) * 8;
    let body_len = body.len().checked_sub(ext_len).ok_or(Malformed::Short)?;
    let (body, extensions) = body.split_at(body_len);
    header.supp_groups = groups(extensions)?;
    Ok((header, body))
}

/// The `unique` of a message whose header is whole, so that it can be refused.
pub(crate) fn unique_and_opcode(message: &[u8]) -> Option<(u64, u32)> {
    let mut args = Args::contiguous(message, IN_HEADER_LEN).ok()?;
    args.skip(4).ok()?;
    let opcode = args.u32().ok()?;
    Some((args.u64().ok()?, opcode))
}

/// Supplementary groups among the extension records. Other records are stepped over.
fn groups(mut extensions: &[u8]) -> Parsed<Vec<u32>> {
    let mut found = Vec::new();
    while !extensions.is_empty() {
        let mut args = Args::contiguous(extensions, 8)?;
        let len = usize::try_from(args.u32()?).map_err(|_| Malformed::Count)?;
        let kind = args.u32()?;
        if len < 8 || len > extensions.len() {
            return Err(Malformed::Count);
        }
        if kind == abi::EXT_GROUPS {
            let mut record = Args::contiguous(&extensions[8..len], len - 8)?;
            for _ in 0..record.u32()? {
                found.push(record.u32()?);
            }
        }
        extensions = &extensions[len..];
    }
    Ok(found)
}

/// Decodes the arguments of `opcode` that came in one piece after the header.
pub(crate) fn op(opcode: u32, body: &[u8], setxattr_ext: bool) -> Parsed<Op> {
    let Some(fixed_len) = abi::fixed_len(opcode, setxattr_ext) else {
        return Ok(Op::Unsupported { opcode });
    };
    let args = Args::contiguous(body, fixed_len)?;
    match opcode {
        opcode::LOOKUP..=opcode::LINK | opcode::RENAME2 => namespace(opcode, args),
        opcode::SETXATTR..=opcode::REMOVEXATTR => xattr(opcode, args, setxattr_ext),
        _ => file(opcode, args),
    }
}

/// Operations on names and inodes.
fn namespace(opcode: u32, mut args: Args<'_>) -> Parsed<Op> {
    Ok(match opcode {
        opcode::LOOKUP => Op::Lookup { name: args.name()? },
        opcode::FORGET => Op::Forget { nlookup: args.u64()? },
        opcode::GETATTR => {
            let flags = args.u32()?;
            args.skip(4)?;
            Op::GetAttr { fh: given(args.u64()?, flags & abi::GETATTR_FH) }
        }
        opcode::SETATTR => Op::SetAttr(setattr(args)?),
        opcode::READLINK => Op::ReadLink,
        opcode::SYMLINK => Op::Symlink { name: args.name()?, target: args.target()? },
        opcode::MKNOD => {
            let (mode, rdev, umask) = (args.u32()?, args.u32()?, args.u32()?);
            Op::MkNod { name: args.name()?, mode, rdev, umask }
        }
        opcode::MKDIR => {
            let (mode, umask) = (args.u32()?, args.u32()?);
            Op::MkDir { name: args.name()?, mode, umask }
        }
        opcode::UNLINK => Op::Unlink { name: args.name()? },
        opcode::RMDIR => Op::RmDir { name: args.name()? },
        opcode::RENAME | opcode::RENAME2 => {
            let new_parent = args.u64()?;
            let flags = if opcode == opcode::RENAME2 { args.u32()? } else { 0 };
            Op::Rename { name: args.name()?, new_parent, new_name: args.name()?, flags }
        }
        opcode::LINK => Op::Link { inode: args.u64()?, new_name: args.name()? },
        _ => Op::Unsupported { opcode },
    })
}

fn xattr(opcode: u32, mut args: Args<'_>, setxattr_ext: bool) -> Parsed<Op> {
    Ok(match opcode {
        opcode::SETXATTR => {
            let (size, flags) = (args.u32()?, args.u32()?);
            let own_flags = if setxattr_ext { args.u32()? } else { 0 };
            let name = args.xattr_name()?;
            let value = args.rest();
            if value.len() > XATTR_LEN_MAX || usize::try_from(size) != Ok(value.len()) {
                return Err(Malformed::Count);
            }
            let acl_kill_sgid = own_flags & abi::SETXATTR_ACL_KILL_SGID != 0;
            Op::SetXattr(SetXattr { name, value: value.to_vec(), flags, acl_kill_sgid })
        }
        opcode::GETXATTR => {
            let size = args.u32()?;
            Op::GetXattr { name: args.xattr_name()?, size }
        }
        opcode::LISTXATTR => Op::ListXattr { size: args.u32()? },
        opcode::REMOVEXATTR => Op::RemoveXattr { name: args.xattr_name()? },
        _ => Op::Unsupported { opcode },
    })
}

/// Operations on open files and the rest.
fn file(opcode: u32, mut args: Args<'_>) -> Parsed<Op> {
    Ok(match opcode {
        opcode::OPEN => {
            let (flags, open_flags) = (args.u32()?, args.u32()?);
            Op::Open { flags, kill_suidgid: open_flags & abi::OPEN_KILL_SUIDGID != 0 }
        }
        opcode::OPENDIR => Op::OpenDir { flags: args.u32()? },
        opcode::CREATE => Op::Create(create(args)?),
        opcode::TMPFILE => Op::TmpFile(tmpfile(args)?),
        opcode::READ => Op::Read(read(args)?),
        opcode::READDIR => Op::ReadDir(read(args)?),
        opcode::READDIRPLUS => Op::ReadDirPlus(read(args)?),
        opcode::WRITE => Op::Write(write(args)?),
        opcode::RELEASE => Op::Release(release(args)?),
        opcode::RELEASEDIR => Op::ReleaseDir(release(args)?),
        opcode::FLUSH => {
            let fh = args.u64()?;
            args.skip(8)?;
            Op::Flush { fh, lock_owner: args.u64()? }
        }
        opcode::FSYNC => {
            let (fh, data_only) = fsync(args)?;
            Op::Fsync { fh, data_only }
        }
        opcode::FSYNCDIR => {
            let (fh, data_only) = fsync(args)?;
            Op::FsyncDir { fh, data_only }
        }
        opcode::GETLK => Op::GetLk(lock(args)?),
        opcode::SETLK => Op::SetLk(lock(args)?),
        opcode::SETLKW => Op::SetLkW(lock(args)?),
        _ => other(opcode, args)?,
    })
}

fn other(opcode: u32, mut args: Args<'_>) -> Parsed<Op> {
    Ok(match opcode {
        opcode::STATFS => Op::StatFs,
        opcode::SYNCFS => Op::SyncFs,
        opcode::DESTROY => Op::Destroy,
        opcode::ACCESS => Op::Access { mask: args.u32()? },
        opcode::INTERRUPT => Op::Interrupt { unique: args.u64()? },
        opcode::BATCH_FORGET => Op::BatchForget(batch_forget(args)?),
        opcode::FALLOCATE => {
            let (fh, offset, len) = (args.u64()?, args.u64()?, args.u64()?);
            Op::Fallocate { fh, offset, len, mode: args.u32()? }
        }
        opcode::LSEEK => {
            let (fh, offset) = (args.u64()?, args.u64()?);
            Op::Lseek { fh, offset, whence: args.u32()? }
        }
        opcode::COPY_FILE_RANGE | opcode::COPY_FILE_RANGE_64 => Op::CopyFileRange(CopyFileRange {
            fh_in: args.u64()?,
            offset_in: args.u64()?,
            nodeid_out: args.u64()?,
            fh_out: args.u64()?,
            offset_out: args.u64()?,
            len: args.u64()?,
            flags: args.u64()?,
        }),
        opcode::STATX => {
            let getattr_flags = args.u32()?;
            args.skip(4)?;
            let fh = given(args.u64()?, getattr_flags & abi::GETATTR_FH);
            Op::Statx { fh, flags: args.u32()?, mask: args.u32()? }
        }
        _ => Op::Unsupported { opcode },
    })
}

/// A field that counts only when its flag is set.
fn given<T>(value: T, flag: u32) -> Option<T> {
    (flag != 0).then_some(value)
}

fn setattr(mut args: Args<'_>) -> Parsed<SetAttr> {
    let valid = args.u32()?;
    args.skip(4)?;
    let (fh, size, lock_owner) = (args.u64()?, args.u64()?, args.u64()?);
    let secs = [args.u64()?, args.u64()?, args.u64()?];
    let nanos = [args.u32()?, args.u32()?, args.u32()?];
    let time = |index: usize| Timestamp { secs: secs[index].cast_signed(), nanos: nanos[index] };
    let mode = args.u32()?;
    args.skip(4)?;
    let (uid, gid) = (args.u32()?, args.u32()?);
    let set_time = |index, at: u32, now: u32| {
        let value = if valid & now != 0 { SetTime::Now } else { SetTime::At(time(index)) };
        given(value, valid & (at | now))
    };
    let parsed = SetAttr {
        fh: given(fh, valid & fattr::FH),
        mode: given(mode, valid & fattr::MODE),
        uid: given(uid, valid & fattr::UID),
        gid: given(gid, valid & fattr::GID),
        size: given(size, valid & fattr::SIZE),
        atime: set_time(0, fattr::ATIME, fattr::ATIME_NOW),
        mtime: set_time(1, fattr::MTIME, fattr::MTIME_NOW),
        ctime: given(time(2), valid & fattr::CTIME),
        lock_owner: given(lock_owner, valid & fattr::LOCKOWNER),
        kill_suidgid: valid & fattr::KILL_SUIDGID != 0,
    };
    // A nanosecond field that is not one would be stored for ever: refuse it here.
    let set = [(0, fattr::ATIME), (1, fattr::MTIME), (2, fattr::CTIME)];
    if set.iter().any(|&(index, flag)| valid & flag != 0 && nanos[index] >= 1_000_000_000) {
        return Err(Malformed::Value);
    }
    Ok(parsed)
}

fn create(mut args: Args<'_>) -> Parsed<Create> {
    let (flags, mode, umask, open_flags) = (args.u32()?, args.u32()?, args.u32()?, args.u32()?);
    let kill_suidgid = open_flags & abi::OPEN_KILL_SUIDGID != 0;
    Ok(Create { name: args.name()?, mode, umask, flags, kill_suidgid })
}

/// The kernel sends a placeholder for the name ("/"), which means nothing.
fn tmpfile(mut args: Args<'_>) -> Parsed<TmpFile> {
    let (flags, mode, umask) = (args.u32()?, args.u32()?, args.u32()?);
    Ok(TmpFile { mode, umask, flags })
}

fn read(mut args: Args<'_>) -> Parsed<Read> {
    let (fh, offset, size, read_flags) = (args.u64()?, args.u64()?, args.u32()?, args.u32()?);
    let owner = args.u64()?;
    let lock_owner = given(owner, read_flags & abi::READ_LOCKOWNER);
    Ok(Read { fh, offset, size, flags: args.u32()?, lock_owner })
}

/// Checks the payload's length; the transport attaches the payload itself.
fn write(mut args: Args<'_>) -> Parsed<Write> {
    let (fh, offset, size, write_flags) = (args.u64()?, args.u64()?, args.u32()?, args.u32()?);
    let owner = args.u64()?;
    let flags = args.u32()?;
    if usize::try_from(size) != Ok(args.rest().len()) {
        return Err(Malformed::Count);
    }
    Ok(Write {
        fh,
        offset,
        data: Bytes::new(),
        flags,
        from_cache: write_flags & abi::WRITE_CACHE != 0,
        lock_owner: given(owner, write_flags & abi::WRITE_LOCKOWNER),
        kill_suidgid: write_flags & abi::WRITE_KILL_SUIDGID != 0,
    })
}

fn release(mut args: Args<'_>) -> Parsed<Release> {
    let (fh, flags, release_flags) = (args.u64()?, args.u32()?, args.u32()?);
    let flock_unlock = release_flags & abi::RELEASE_FLOCK_UNLOCK != 0;
    Ok(Release { fh, flags, lock_owner: args.u64()?, flock_unlock })
}

fn fsync(mut args: Args<'_>) -> Parsed<(u64, bool)> {
    Ok((args.u64()?, args.u32()? & abi::FSYNC_FDATASYNC != 0))
}

fn lock(mut args: Args<'_>) -> Parsed<Lock> {
    let (fh, owner, start, end) = (args.u64()?, args.u64()?, args.u64()?, args.u64()?);
    let (kind, pid, lk_flags) = (args.u32()?, args.u32()?, args.u32()?);
    let kind = LockKind::from_raw(kind).ok_or(Malformed::Value)?;
    let lock = FileLock { start, end, kind, pid };
    Ok(Lock { fh, owner, lock, flock: lk_flags & abi::LK_FLOCK != 0 })
}

fn batch_forget(mut args: Args<'_>) -> Parsed<Vec<Forget>> {
    let count = usize::try_from(args.u32()?).map_err(|_| Malformed::Count)?;
    let records = args.rest();
    if count.checked_mul(16) != Some(records.len()) {
        return Err(Malformed::Count);
    }
    let forget = |record: &[u8]| {
        let mut fields = Args::contiguous(record, 16)?;
        Ok(Forget { nodeid: fields.u64()?, nlookup: fields.u64()? })
    };
    records.chunks_exact(16).map(forget).collect()
}

impl LockKind {
    fn from_raw(raw: u32) -> Option<Self> {
        match i32::try_from(raw).ok()? {
            libc::F_RDLCK => Some(Self::Read),
            libc::F_WRLCK => Some(Self::Write),
            libc::F_UNLCK => Some(Self::Unlock),
            _ => None,
        }
    }

    pub(crate) fn to_raw(self) -> u32 {
        let raw = match self {
            Self::Read => libc::F_RDLCK,
            Self::Write => libc::F_WRLCK,
            Self::Unlock => libc::F_UNLCK,
        };
        raw.cast_unsigned()
    }
}

#[cfg(test)]
#[path = "parse_test.rs"]
mod tests;
