//! `Disk` on Linux system calls: the only place of this crate that imports them.

use std::ffi::CString;
use std::io::IoSliceMut;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use proto::attr::{Kind, Time};
use proto::error::Errno;
use rustix::fs::{
    AtFlags, Dev, FallocateFlags, FileType, FlockOperation, Gid, Mode, OFlags, RawDir, RenameFlags,
    SeekFrom, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::ReadWriteFlags;

use super::{At, Disk, FileHandle, Open, RawEntry, SpaceStat, Stat};

/// Room for about 800 entries per call.
const READ_DIR_BYTES: usize = 32 << 10;
/// Bytes of the largest file handle (MAX_HANDLE_SZ of the kernel).
const HANDLE_BYTES_MAX: usize = 128;

/// The kernel's `struct file_handle` with room for the largest handle.
#[repr(C)]
struct RawHandle {
    bytes: u32,
    kind: i32,
    handle: [u8; HANDLE_BYTES_MAX],
}

/// The kernel's `struct xattr_args`.
#[repr(C, align(8))]
struct XattrArgs {
    value: u64,
    size: u32,
    flags: u32,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk;

fn e(errno: rustix::io::Errno) -> Errno {
    Errno(errno.raw_os_error())
}

/// The kernel makes the folder of a mounted XFS below /sys anew for each mount, under a number
/// that it does not use again; every mount namespace sees the same. `None` on other file systems.
fn xfs_folder(fd: BorrowedFd<'_>) -> Option<u64> {
    use std::os::unix::fs::MetadataExt as _;
    let device = rustix::fs::fstat(fd).ok()?.st_dev;
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let device = std::fs::canonicalize(format!("/sys/dev/block/{major}:{minor}")).ok()?;
    let folder = std::path::Path::new("/sys/fs/xfs").join(device.file_name()?);
    Some(std::fs::metadata(folder).ok()?.ino())
}

/// Of the mount, so that another mount namespace has another one.
fn unique_mount_id(fd: BorrowedFd<'_>) -> Result<u64, Errno> {
    use rustix::fs::{AtFlags, StatxFlags};
    /// STATX_MNT_ID_UNIQUE
    const UNIQUE: u32 = 0x4000;
    let asked = StatxFlags::from_bits_retain(UNIQUE);
    let found = rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH, asked).map_err(e)?;
    let known = found.stx_mask & UNIQUE != 0;
    known.then_some(found.stx_mnt_id).ok_or(Errno::EOPNOTSUPP)
}

fn last_errno() -> Errno {
    Errno::from(std::io::Error::last_os_error())
}

fn oflags(how: Open) -> (OFlags, Mode) {
    // Reading for Brickwork is no access by the application: no access times on the way.
    let base = OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match how {
        Open::Path => (base | OFlags::PATH, Mode::empty()),
        Open::Directory => (base | OFlags::DIRECTORY | OFlags::NOATIME, Mode::empty()),
        Open::File => (base | OFlags::RDWR | OFlags::NOATIME | OFlags::NONBLOCK, Mode::empty()),
        Open::New { mode } => (
            base | OFlags::RDWR | OFlags::NOATIME | OFlags::CREATE | OFlags::EXCL,
            Mode::from_raw_mode(mode & 0o7777),
        ),
    }
}

/// A path to what has no call of its own: an `O_PATH` descriptor, or a name in a directory.
/// `/proc/self/fd` is a jump to the open inode itself, so no symlink can redirect it.
fn proc_path(fd: BorrowedFd<'_>, name: Option<&[u8]>) -> Result<CString, Errno> {
    let mut path = format!("/proc/self/fd/{}", fd.as_raw_fd()).into_bytes();
    if let Some(name) = name {
        path.push(b'/');
        path.extend_from_slice(name);
    }
    CString::new(path).map_err(|_| Errno::EINVAL)
}

/// `getxattrat` of Linux 6.13, half the cost of going through `/proc`; `None` on older kernels.
fn getxattrat(
    dir: BorrowedFd<'_>,
    name: &[u8],
    xattr: &[u8],
    buf: &mut [u8],
) -> Option<Result<usize, Errno>> {
    static MISSING: AtomicBool = AtomicBool::new(false);
    const SYS_GETXATTRAT: libc::c_long = 464;
    if MISSING.load(Ordering::Relaxed) {
        return None;
    }
    let (Ok(name), Ok(xattr)) = (CString::new(name), CString::new(xattr)) else {
        return Some(Err(Errno::EINVAL));
    };
    let mut args = XattrArgs { value: buf.as_mut_ptr() as u64, size: buf.len() as u32, flags: 0 };
    // SAFETY: both names end in a NUL and, like `args`, live through the call; `args` gives the
    // address and the length of `buf`, which is borrowed mutably; the descriptor is open.
    let n = unsafe {
        libc::syscall(
            SYS_GETXATTRAT,
            dir.as_raw_fd(),
            name.as_ptr(),
            libc::AT_SYMLINK_NOFOLLOW,
            xattr.as_ptr(),
            &raw mut args,
            size_of::<XattrArgs>(),
        )
    };
    if n >= 0 {
        return Some(Ok(n as usize));
    }
    match last_errno() {
        Errno::ENOSYS => {
            MISSING.store(true, Ordering::Relaxed);
            None
        }
        errno => Some(Err(errno)),
    }
}

fn timestamps(atime: Time, mtime: Time) -> Timestamps {
    let spec = |t: Time| Timespec { tv_sec: t.sec, tv_nsec: i64::from(t.nsec) };
    Timestamps { last_access: spec(atime), last_modification: spec(mtime) }
}

fn stat_of(s: &rustix::fs::Stat) -> Stat {
    Stat {
        mode: s.st_mode,
        uid: s.st_uid,
        gid: s.st_gid,
        nlink: s.st_nlink,
        size: s.st_size.max(0) as u64,
        blocks: s.st_blocks.max(0) as u64,
        rdev: s.st_rdev,
        ino: s.st_ino,
        dev: s.st_dev,
    }
}

impl Disk for RealDisk {
    fn open_root(&self, path: &Path) -> Result<OwnedFd, Errno> {
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::RDONLY | OFlags::NOATIME;
        rustix::fs::open(path, flags, Mode::empty()).map_err(e)
    }

    fn open_at(&self, dir: BorrowedFd<'_>, name: &[u8], how: Open) -> Result<OwnedFd, Errno> {
        let (flags, mode) = oflags(how);
        rustix::fs::openat(dir, name, flags, mode).map_err(e)
    }

    fn mkdir_at(&self, dir: BorrowedFd<'_>, name: &[u8], mode: u32) -> Result<(), Errno> {
        rustix::fs::mkdirat(dir, name, Mode::from_raw_mode(mode & 0o7777)).map_err(e)
    }

    fn mknod_at(
        &self,
        dir: BorrowedFd<'_>,
        name: &[u8],
        mode: u32,
        rdev: u64,
    ) -> Result<(), Errno> {
        let kind = FileType::from_raw_mode(mode);
        let bits = Mode::from_raw_mode(mode & 0o7777);
        rustix::fs::mknodat(dir, name, kind, bits, rdev as Dev).map_err(e)
    }

    fn symlink_at(&self, target: &[u8], dir: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
        rustix::fs::symlinkat(target, dir, name).map_err(e)
    }

    fn unlink_at(&self, dir: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
        rustix::fs::unlinkat(dir, name, AtFlags::empty()).map_err(e)
    }

    fn rmdir_at(&self, dir: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
        rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR).map_err(e)
    }

    fn rename_at(
        &self,
        from: BorrowedFd<'_>,
        a: &[u8],
        to: BorrowedFd<'_>,
        b: &[u8],
        flags: u32,
    ) -> Result<(), Errno> {
        let flags = RenameFlags::from_bits_retain(flags);
        rustix::fs::renameat_with(from, a, to, b, flags).map_err(e)
    }

    fn link_fd_at(
        &self,
        fd: BorrowedFd<'_>,
        dir: BorrowedFd<'_>,
        name: &[u8],
    ) -> Result<(), Errno> {
        rustix::fs::linkat(fd, "", dir, name, AtFlags::EMPTY_PATH).map_err(e)
    }

    fn stat(&self, at: At<'_>) -> Result<Stat, Errno> {
        let stat = match at {
            At::Fd(fd) | At::Path(fd) => rustix::fs::fstat(fd),
            At::Name(dir, name) => rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW),
        };
        stat.map(|s| stat_of(&s)).map_err(e)
    }

    fn read_link(&self, fd: BorrowedFd<'_>) -> Result<Vec<u8>, Errno> {
        rustix::fs::readlinkat(fd, "", Vec::new()).map(CString::into_bytes).map_err(e)
    }

    fn get_xattr(&self, at: At<'_>, name: &[u8], buf: &mut [u8]) -> Result<usize, Errno> {
        let got = match at {
            At::Fd(fd) => rustix::fs::fgetxattr(fd, name, buf),
            At::Path(fd) => rustix::fs::getxattr(proc_path(fd, None)?, name, buf),
            At::Name(dir, n) => {
                if let Some(done) = getxattrat(dir, n, name, buf) {
                    return done;
                }
                rustix::fs::lgetxattr(proc_path(dir, Some(n))?, name, buf)
            }
        };
        got.map_err(e)
    }

    fn set_xattr(&self, at: At<'_>, name: &[u8], value: &[u8], flags: u32) -> Result<(), Errno> {
        let flags = XattrFlags::from_bits_retain(flags);
        let done = match at {
            At::Fd(fd) => rustix::fs::fsetxattr(fd, name, value, flags),
            At::Path(fd) => rustix::fs::setxattr(proc_path(fd, None)?, name, value, flags),
            At::Name(dir, n) => rustix::fs::lsetxattr(proc_path(dir, Some(n))?, name, value, flags),
        };
        done.map_err(e)
    }

    fn remove_xattr(&self, at: At<'_>, name: &[u8]) -> Result<(), Errno> {
        let done = match at {
            At::Fd(fd) => rustix::fs::fremovexattr(fd, name),
            At::Path(fd) => rustix::fs::removexattr(proc_path(fd, None)?, name),
            At::Name(dir, n) => rustix::fs::lremovexattr(proc_path(dir, Some(n))?, name),
        };
        done.map_err(e)
    }

    fn list_xattr(&self, at: At<'_>) -> Result<Vec<u8>, Errno> {
        // 64 KiB is the kernel's own bound on the list (XATTR_LIST_MAX).
        let mut list = vec![0; 65536];
        let n = match at {
            At::Fd(fd) => rustix::fs::flistxattr(fd, &mut list[..]),
            At::Path(fd) => rustix::fs::listxattr(proc_path(fd, None)?, &mut list[..]),
            At::Name(dir, n) => rustix::fs::llistxattr(proc_path(dir, Some(n))?, &mut list[..]),
        };
        list.truncate(n.map_err(e)?);
        Ok(list)
    }

    fn chmod(&self, at: At<'_>, mode: u32) -> Result<(), Errno> {
        let mode = Mode::from_raw_mode(mode & 0o7777);
        let done = match at {
            At::Fd(fd) => rustix::fs::fchmod(fd, mode),
            At::Path(fd) => rustix::fs::chmod(proc_path(fd, None)?, mode),
            At::Name(dir, name) => rustix::fs::chmodat(dir, name, mode, AtFlags::SYMLINK_NOFOLLOW),
        };
        done.map_err(e)
    }

    fn chown(&self, at: At<'_>, uid: u32, gid: u32) -> Result<(), Errno> {
        // The all-ones id means "leave it" to the kernel and is no valid owner.
        if uid == u32::MAX || gid == u32::MAX {
            return Err(Errno::EINVAL);
        }
        let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        let done = match at {
            At::Fd(fd) => rustix::fs::fchown(fd, uid, gid),
            At::Path(fd) => rustix::fs::chownat(fd, "", uid, gid, AtFlags::EMPTY_PATH),
            At::Name(dir, name) => {
                rustix::fs::chownat(dir, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)
            }
        };
        done.map_err(e)
    }

    fn set_times(&self, at: At<'_>, atime: Time, mtime: Time) -> Result<(), Errno> {
        let times = timestamps(atime, mtime);
        let done = match at {
            At::Fd(fd) => rustix::fs::futimens(fd, &times),
            At::Path(fd) => rustix::fs::utimensat(fd, "", &times, AtFlags::EMPTY_PATH),
            At::Name(dir, name) => {
                rustix::fs::utimensat(dir, name, &times, AtFlags::SYMLINK_NOFOLLOW)
            }
        };
        done.map_err(e)
    }

    fn truncate(&self, fd: BorrowedFd<'_>, size: u64) -> Result<(), Errno> {
        rustix::fs::ftruncate(fd, size).map_err(e)
    }

    fn fallocate(&self, fd: BorrowedFd<'_>, mode: u32, offset: u64, len: u64) -> Result<(), Errno> {
        rustix::fs::fallocate(fd, FallocateFlags::from_bits_retain(mode), offset, len).map_err(e)
    }

    fn pread(&self, fd: BorrowedFd<'_>, buf: &mut [u8], offset: u64) -> Result<usize, Errno> {
        loop {
            match rustix::io::pread(fd, &mut *buf, offset) {
                Err(rustix::io::Errno::INTR) => {}
                done => return done.map_err(e),
            }
        }
    }

    fn pread_cached(
        &self,
        fd: BorrowedFd<'_>,
        buf: &mut [u8],
        offset: u64,
    ) -> Result<usize, Errno> {
        let mut bufs = [IoSliceMut::new(buf)];
        rustix::io::preadv2(fd, &mut bufs, offset, ReadWriteFlags::NOWAIT).map_err(e)
    }

    fn pwrite(&self, fd: BorrowedFd<'_>, buf: &[u8], offset: u64) -> Result<usize, Errno> {
        loop {
            match rustix::io::pwrite(fd, buf, offset) {
                Err(rustix::io::Errno::INTR) => {}
                done => return done.map_err(e),
            }
        }
    }

    fn seek(&self, fd: BorrowedFd<'_>, offset: u64, hole: bool) -> Result<u64, Errno> {
        let to = if hole { SeekFrom::Hole(offset) } else { SeekFrom::Data(offset) };
        rustix::fs::seek(fd, to).map_err(e)
    }

    fn fsync(&self, fd: BorrowedFd<'_>, data_only: bool) -> Result<(), Errno> {
        let done = if data_only { rustix::fs::fdatasync(fd) } else { rustix::fs::fsync(fd) };
        done.map_err(e)
    }

    fn sync_fs(&self, fd: BorrowedFd<'_>) -> Result<(), Errno> {
        rustix::fs::syncfs(fd).map_err(e)
    }

    fn mount_id(&self, fd: BorrowedFd<'_>) -> Result<u64, Errno> {
        match xfs_folder(fd) {
            Some(number) => Ok(number),
            None => unique_mount_id(fd),
        }
    }

    fn space(&self, fd: BorrowedFd<'_>) -> Result<SpaceStat, Errno> {
        let s = rustix::fs::fstatvfs(fd).map_err(e)?;
        Ok(SpaceStat {
            block_bytes: s.f_frsize,
            blocks: s.f_blocks,
            blocks_free: s.f_bavail,
            inodes: s.f_files,
            inodes_free: s.f_favail,
        })
    }

    fn handle_of(&self, at: At<'_>) -> Result<FileHandle, Errno> {
        let (fd, name, flags) = match at {
            At::Fd(fd) | At::Path(fd) => (fd, CString::default(), libc::AT_EMPTY_PATH),
            At::Name(dir, name) => (dir, CString::new(name).map_err(|_| Errno::EINVAL)?, 0),
        };
        let mut raw =
            RawHandle { bytes: HANDLE_BYTES_MAX as u32, kind: 0, handle: [0; HANDLE_BYTES_MAX] };
        let mut mount_id: libc::c_int = 0;
        // SAFETY: all pointers are to live values for the length of the call; `raw.bytes` says
        // how much room `raw.handle` has; the descriptor is borrowed, hence open.
        let rc = unsafe {
            libc::syscall(
                libc::SYS_name_to_handle_at,
                fd.as_raw_fd(),
                name.as_ptr(),
                &raw mut raw,
                &raw mut mount_id,
                flags,
            )
        };
        if rc != 0 {
            return Err(last_errno());
        }
        let len = (raw.bytes as usize).min(HANDLE_BYTES_MAX);
        Ok(FileHandle { kind: raw.kind, bytes: raw.handle[..len].to_vec() })
    }

    fn open_handle(
        &self,
        mount: BorrowedFd<'_>,
        handle: &FileHandle,
        how: Open,
    ) -> Result<OwnedFd, Errno> {
        if handle.bytes.len() > HANDLE_BYTES_MAX {
            return Err(Errno::EINVAL);
        }
        let mut raw = RawHandle {
            bytes: handle.bytes.len() as u32,
            kind: handle.kind,
            handle: [0; HANDLE_BYTES_MAX],
        };
        raw.handle[..handle.bytes.len()].copy_from_slice(&handle.bytes);
        let (flags, _) = oflags(how);
        // SAFETY: `raw` lives through the call and `raw.bytes` is at most its room; the
        // descriptor is borrowed, hence open.
        let fd = unsafe {
            libc::syscall(
                libc::SYS_open_by_handle_at,
                mount.as_raw_fd(),
                &raw mut raw,
                flags.bits() as libc::c_int,
            )
        };
        if fd < 0 {
            return Err(last_errno());
        }
        // SAFETY: the kernel has just given us this descriptor; nothing else owns it.
        Ok(unsafe { OwnedFd::from_raw_fd(fd as libc::c_int) })
    }

    fn read_dir(&self, dir: BorrowedFd<'_>) -> Result<Vec<RawEntry>, Errno> {
        rustix::fs::seek(dir, SeekFrom::Start(0)).map_err(e)?;
        let mut buf = Vec::with_capacity(READ_DIR_BYTES);
        let mut rows = RawDir::new(dir, buf.spare_capacity_mut());
        let mut entries = Vec::new();
        while let Some(entry) = rows.next() {
            let entry = entry.map_err(e)?;
            let name = entry.file_name().to_bytes();
            if !matches!(name, b"." | b"..") {
                let kind = Kind::of_mode(entry.file_type().as_raw_mode());
                entries.push(RawEntry { name: name.to_vec(), kind });
            }
        }
        Ok(entries)
    }

    fn lock(&self, fd: BorrowedFd<'_>) -> Result<(), Errno> {
        rustix::fs::flock(fd, FlockOperation::NonBlockingLockExclusive).map_err(e)
    }
}
