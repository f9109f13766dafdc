//! The crate against the real kernel: a small file system is mounted and used with ordinary
//! calls. Needs root and /dev/fuse; says so and passes nothing off as tested otherwise.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use std::fs;
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use client_fuse_dev::{Error, InitFlags, Known, MountOptions, OpenFlags};
use rustix::fs::{FlockOperation, flock};
use support::Mount;

#[test]
fn files_and_names_work() {
    let Some(mount) = Mount::new(1) else { return };
    fs::write(mount.path("a"), b"hello").unwrap();
    assert_eq!(fs::read(mount.path("a")).unwrap(), b"hello");
    fs::create_dir(mount.path("d")).unwrap();
    fs::rename(mount.path("a"), mount.path("d/b")).unwrap();
    assert_eq!(fs::metadata(mount.path("a")).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(fs::metadata(mount.path("d/b")).unwrap().size(), 5);
    fs::hard_link(mount.path("d/b"), mount.path("c")).unwrap();
    assert_eq!(fs::metadata(mount.path("c")).unwrap().nlink(), 2);
    std::os::unix::fs::symlink("d/b", mount.path("l")).unwrap();
    assert_eq!(fs::read(mount.path("l")).unwrap(), b"hello");
    fs::set_permissions(mount.path("c"), fs::Permissions::from_mode(0o640)).unwrap();
    assert_eq!(fs::metadata(mount.path("c")).unwrap().mode() & 0o7777, 0o640);
    fs::remove_file(mount.path("c")).unwrap();
    let dir = rustix::fs::CWD;
    let flags = rustix::fs::RenameFlags::NOREPLACE;
    let refused =
        rustix::fs::renameat_with(dir, mount.path("l"), dir, mount.path("d"), flags).unwrap_err();
    assert_eq!(refused, rustix::io::Errno::EXIST);
    let usage = rustix::fs::statvfs(mount.dir.path()).unwrap();
    assert_eq!((usage.f_blocks, usage.f_bavail, usage.f_namemax), (1000, 500, 255));
}

#[test]
fn directories_are_listed_with_attributes() {
    let Some(mount) = Mount::new(1) else { return };
    for index in 0..2000 {
        fs::write(mount.path(&format!("a-file-with-a-longer-name-{index:05}")), b"").unwrap();
    }
    let names: Vec<_> = fs::read_dir(mount.dir.path())
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name(), entry.metadata().unwrap().ino()))
        .collect();
    assert_eq!(names.len(), 2000);
    assert_eq!(names[1999].0, "a-file-with-a-longer-name-01999");
    let plus_entries = mount.fs.seen.lock().unwrap().plus_entries;
    assert!(plus_entries >= 1900, "attributes came along for {plus_entries} of 2000 only");
}

#[test]
fn mount_table_shows_source_type_and_options() {
    let mut options = MountOptions::new("n1:/VOL", "brick");
    assert!(options.apply("nosuid") && options.apply("nodev") && options.apply("ro"));
    let Some(mount) = Mount::with(1, &options) else { return };
    let path = mount.dir.path().canonicalize().unwrap();
    let table = fs::read_to_string("/proc/self/mounts").unwrap();
    let line = table.lines().find(|line| line.contains(path.to_str().unwrap())).unwrap();
    assert!(line.starts_with("n1:/VOL "), "{line}");
    for word in [" fuse.brick ", "ro,nosuid,nodev", "default_permissions", "allow_other"] {
        assert!(line.contains(word), "{word}: {line}");
    }
    let refused = fs::write(mount.path("x"), b"").unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ReadOnlyFilesystem);
}

/// Promise of the buffers: a megabyte arrives as one request, in page-aligned memory.
#[test]
fn megabyte_writes_and_reads_are_single_requests() {
    let Some(mount) = Mount::new(1) else { return };
    let features = mount.session.features().unwrap();
    if features.payload_max < 1 << 20 {
        eprintln!("SKIPPED: this kernel is set to {} bytes a request", features.payload_max);
        return;
    }
    let data: Vec<u8> = (0..4u32 << 20).map(|index| (index % 251) as u8).collect();
    // Aligned memory: a megabyte of unaligned memory touches 257 pages, one too many.
    let mut aligned = vec![0u8; data.len() + 4096];
    let skip = aligned.as_ptr().align_offset(4096);
    aligned[skip..skip + data.len()].copy_from_slice(&data);
    mount.fs.set_open_flags(OpenFlags::DIRECT_IO);
    let mut file = fs::File::create_new(mount.path("big")).unwrap();
    for part in aligned[skip..skip + data.len()].chunks(1 << 20) {
        file.write_all(part).unwrap();
    }
    drop(file);
    let seen = std::mem::take(&mut *mount.fs.seen.lock().unwrap());
    assert_eq!(seen.write_lens, [1 << 20; 4]);
    assert_eq!(seen.write_misaligned, 0);
    let mut back = vec![0u8; data.len() + 4096];
    let skip = back.as_ptr().align_offset(4096);
    let file = fs::File::open(mount.path("big")).unwrap();
    for (index, part) in back[skip..skip + data.len()].chunks_mut(1 << 20).enumerate() {
        file.read_exact_at(part, (index as u64) << 20).unwrap();
    }
    assert!(back[skip..skip + data.len()] == data[..]);
    assert_eq!(mount.fs.seen.lock().unwrap().read_sizes, [1 << 20; 4]);
    // Every payload has gone back to the pool.
    assert_eq!(mount.session.pool().unwrap().lent(), 0);
}

#[test]
fn buffered_reads_are_large_too() {
    let Some(mount) = Mount::new(1) else { return };
    fs::write(mount.path("f"), vec![3u8; 8 << 20]).unwrap();
    let path = mount.path("f");
    assert_eq!(fs::read(&path).unwrap(), vec![3u8; 8 << 20]);
    let sizes = mount.fs.seen.lock().unwrap().read_sizes.clone();
    let largest = sizes.iter().max().copied().unwrap_or_default();
    assert!(largest >= 512 << 10, "read-ahead was not raised: {sizes:?}");
}

#[test]
fn truncating_open_is_one_operation() {
    let Some(mount) = Mount::new(1) else { return };
    fs::write(mount.path("f"), b"old content").unwrap();
    fs::write(mount.path("f"), b"new").unwrap();
    assert_eq!(fs::read(mount.path("f")).unwrap(), b"new");
    assert_eq!(mount.fs.seen.lock().unwrap().truncating_opens, 1);
}

/// `flock` and `fcntl` locks exclude among themselves, not each other, and both reach us.
#[test]
fn flock_and_fcntl_are_told_apart() {
    let Some(mount) = Mount::new(1) else { return };
    let first = fs::File::create_new(mount.path("f")).unwrap();
    let second = fs::File::options().read(true).write(true).open(mount.path("f")).unwrap();
    flock(&first, FlockOperation::LockExclusive).unwrap();
    let refused = flock(&second, FlockOperation::NonBlockingLockExclusive).unwrap_err();
    assert_eq!(refused, rustix::io::Errno::AGAIN);
    rustix::fs::fcntl_lock(&second, FlockOperation::NonBlockingLockExclusive).unwrap();
    {
        let seen = mount.fs.seen.lock().unwrap();
        assert_eq!((seen.flocks, seen.posix_locks), (2, 1));
    }
    // Closing gives the flock up.
    drop(first);
    wait_until(|| flock(&second, FlockOperation::NonBlockingLockExclusive).is_ok());
}

extern "C" fn on_signal(_: i32) {}

/// Lets SIGUSR1 interrupt system calls of this process instead of ending it.
fn catch_signals() {
    // SAFETY: the handler does nothing, so it is safe at any point; the structure is zeroed,
    // which is a valid empty mask and no flags (no SA_RESTART: calls end with EINTR).
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_signal as extern "C" fn(i32) as usize;
        assert_eq!(libc::sigaction(libc::SIGUSR1, &action, std::ptr::null_mut()), 0);
    }
}

#[test]
fn blocked_lock_is_interrupted_by_a_signal() {
    // Two workers: the INTERRUPT may be fetched by the other one.
    let Some(mount) = Mount::new(2) else { return };
    catch_signals();
    let holder = fs::File::create_new(mount.path("f")).unwrap();
    flock(&holder, FlockOperation::LockExclusive).unwrap();
    for round in 1..=20 {
        let path = mount.path("f");
        let (tell, told) = std::sync::mpsc::channel();
        let waiter = std::thread::spawn(move || {
            let file = fs::File::open(path).unwrap();
            // SAFETY: the call has no arguments and names the calling thread.
            tell.send(unsafe { libc::pthread_self() }).unwrap();
            // Not by way of a library that repeats interrupted calls.
            // SAFETY: plain system call on a descriptor that is open throughout.
            let result = unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX) };
            (result, std::io::Error::last_os_error().raw_os_error())
        });
        let thread = told.recv().unwrap();
        wait_until(|| mount.fs.seen.lock().unwrap().flocks > round);
        // SAFETY: the thread waits for its lock and is joined below, so it exists.
        assert_eq!(unsafe { libc::pthread_kill(thread, libc::SIGUSR1) }, 0);
        assert_eq!(waiter.join().unwrap(), (-1, Some(libc::EINTR)), "round {round}");
    }
    assert!(mount.fs.seen.lock().unwrap().interrupts >= 20);
}

#[test]
fn waiting_lock_is_granted_when_the_holder_closes() {
    let Some(mount) = Mount::new(1) else { return };
    let holder = fs::File::create_new(mount.path("f")).unwrap();
    flock(&holder, FlockOperation::LockExclusive).unwrap();
    let path = mount.path("f");
    let waiter = std::thread::spawn(move || {
        let file = fs::File::open(path).unwrap();
        flock(&file, FlockOperation::LockExclusive)
    });
    wait_until(|| mount.fs.seen.lock().unwrap().flocks == 2);
    assert!(!waiter.is_finished());
    drop(holder);
    waiter.join().unwrap().unwrap();
}

#[test]
fn both_channels_serve() {
    let Some(mount) = Mount::new(2) else { return };
    fs::write(mount.path("f"), b"x").unwrap();
    let load = |path: std::path::PathBuf| {
        std::thread::spawn(move || {
            for _ in 0..2000 {
                fs::metadata(&path).unwrap();
            }
        })
    };
    let threads: Vec<_> = (0..4).map(|_| load(mount.path("f"))).collect();
    for thread in threads {
        thread.join().unwrap();
    }
    for counter in &mount.workers.fetched {
        assert!(counter.load(Ordering::Relaxed) > 100, "a channel was hardly used");
    }
}

#[test]
fn invalidation_makes_new_data_visible() {
    let Some(mount) = Mount::new(2) else { return };
    mount.fs.set_open_flags(OpenFlags::KEEP_CACHE);
    fs::write(mount.path("f"), b"first").unwrap();
    let mut file = fs::File::open(mount.path("f")).unwrap();
    let mut text = [0; 5];
    file.read_exact(&mut text).unwrap();
    let node = mount.fs.overwrite("f", b"other");
    let notifier = mount.session.notifier().unwrap();
    assert_eq!(notifier.inval_inode(node, 0, 0).unwrap(), Known::Yes);
    file.seek(SeekFrom::Start(0)).unwrap();
    file.read_exact(&mut text).unwrap();
    assert_eq!(&text, b"other");
    notifier.store(node, 0, b"store").unwrap();
    file.read_exact_at(&mut text, 0).unwrap();
    assert_eq!(&text, b"store");
    assert_eq!(notifier.inval_inode(999, 0, 0).unwrap(), Known::No);
    assert_eq!(notifier.inval_entry(1, b"f").unwrap(), Known::Yes);
    assert_eq!(notifier.inval_entry(1, b"never").unwrap(), Known::No);
    fs::metadata(mount.path("f")).unwrap();
    notifier.expire_entry(1, b"f").unwrap();
    fs::metadata(mount.path("f")).unwrap();
    notifier.delete(1, node, b"f").unwrap();
}

#[test]
fn extended_attributes_pass_both_ways() {
    let Some(mount) = Mount::new(1) else { return };
    let path = mount.path("f");
    fs::write(&path, b"").unwrap();
    let large = vec![b'v'; 60_000];
    rustix::fs::setxattr(&path, "user.a", &large, rustix::fs::XattrFlags::empty()).unwrap();
    let mut space = vec![0u8; 65_536];
    let len = rustix::fs::getxattr(&path, "user.a", &mut space[..]).unwrap();
    assert_eq!(space[..len], large);
    let short = rustix::fs::getxattr(&path, "user.a", &mut space[..10]).unwrap_err();
    assert_eq!(short, rustix::io::Errno::RANGE);
    let len = rustix::fs::listxattr(&path, &mut space[..]).unwrap();
    assert_eq!(&space[..len], b"user.a\0");
}

/// Shared writable mappings of a file that bypasses the page cache; dirty pages come as writes.
#[test]
fn direct_files_can_be_mapped() {
    let Some(mount) = Mount::new(2) else { return };
    if !mount.session.features().unwrap().has(InitFlags::DIRECT_IO_ALLOW_MMAP) {
        eprintln!("SKIPPED: this kernel maps no direct files (before Linux 6.6)");
        return;
    }
    mount.fs.set_open_flags(OpenFlags::DIRECT_IO | OpenFlags::PARALLEL_DIRECT_WRITES);
    fs::write(mount.path("f"), vec![1u8; 8192]).unwrap();
    let file = fs::File::options().read(true).write(true).open(mount.path("f")).unwrap();
    let (prot, shared) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
    // SAFETY: a fresh mapping of 8192 bytes of a file of that size, used within them and
    // unmapped before the file is closed.
    unsafe {
        let at = libc::mmap(std::ptr::null_mut(), 8192, prot, shared, file.as_raw_fd(), 0);
        assert_ne!(at, libc::MAP_FAILED, "{}", std::io::Error::last_os_error());
        let at: *mut u8 = at.cast();
        assert_eq!(at.add(5000).read(), 1);
        at.add(5000).write(9);
        assert_eq!(libc::msync(at.cast(), 8192, libc::MS_SYNC), 0);
        assert_eq!(libc::munmap(at.cast(), 8192), 0);
    }
    let mut byte = [0];
    file.read_exact_at(&mut byte, 5000).unwrap();
    assert_eq!(byte, [9]);
}

#[test]
fn requests_carry_the_callers_identity() {
    let Some(mount) = Mount::new(1) else { return };
    fs::set_permissions(mount.dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let mut child = std::process::Command::new("touch");
    std::os::unix::process::CommandExt::uid(&mut child, 12345);
    // The temporary directory above the mount is root's alone: open it before, by descriptor.
    child.arg("f").current_dir(mount.dir.path());
    assert!(child.status().unwrap().success());
    assert!(mount.fs.seen.lock().unwrap().uids.contains(&12345));
    assert_eq!(fs::metadata(mount.path("f")).unwrap().uid(), 12345);
}

/// The layouts of operations that few programs use, checked against the kernel.
#[test]
fn rarer_operations_have_the_kernels_layout() {
    let Some(mount) = Mount::new(1) else { return };
    fs::write(mount.path("a"), b"0123456789").unwrap();
    let from = fs::File::open(mount.path("a")).unwrap();
    let to = fs::File::create_new(mount.path("b")).unwrap();
    let (mut at_from, mut at_to) = (2, 1);
    let copied =
        rustix::fs::copy_file_range(&from, Some(&mut at_from), &to, Some(&mut at_to), 5).unwrap();
    assert_eq!((copied, at_from, at_to), (5, 7, 6));
    assert_eq!(fs::read(mount.path("b")).unwrap(), b"\x0023456");
    let keep = rustix::fs::FallocateFlags::KEEP_SIZE;
    rustix::fs::fallocate(&to, keep, 4096, 8192).unwrap();
    let sought = rustix::fs::seek(&from, rustix::fs::SeekFrom::Data(1)).unwrap();
    assert_eq!(sought, 8);
    let seen = mount.fs.seen.lock().unwrap();
    assert_eq!(seen.copies, [(2, 1, 5)]);
    assert_eq!(seen.fallocates, [(4096, 8192, keep.bits())]);
}

#[test]
fn creation_time_comes_by_statx() {
    let Some(mount) = Mount::new(1) else { return };
    if mount.session.features().unwrap().minor < 39 {
        eprintln!("SKIPPED: this kernel asks no file system for it (before Linux 6.6)");
        return;
    }
    fs::write(mount.path("a"), b"0123456789").unwrap();
    let metadata = fs::metadata(mount.path("a")).unwrap();
    let expected = std::time::UNIX_EPOCH + Duration::new(1_000_000, 5);
    assert_eq!((metadata.created().unwrap(), metadata.len()), (expected, 10));
    assert!(mount.fs.seen.lock().unwrap().statx > 0);
}

#[test]
fn unnamed_files_can_be_made() {
    let Some(mount) = Mount::new(1) else { return };
    if mount.session.features().unwrap().minor < 37 {
        eprintln!("SKIPPED: this kernel has no such request (before Linux 6.1)");
        return;
    }
    let mut options = fs::OpenOptions::new();
    let mut file = options
        .read(true)
        .write(true)
        .custom_flags(libc::O_TMPFILE)
        .open(mount.dir.path())
        .unwrap();
    file.write_all(b"unnamed").unwrap();
    let mut text = [0; 7];
    file.read_exact_at(&mut text, 0).unwrap();
    assert_eq!(&text, b"unnamed");
    assert_eq!(mount.fs.seen.lock().unwrap().tmpfiles, 1);
}

/// A creation in a directory of one of the caller's further groups names that group.
#[test]
fn creations_carry_the_matching_group() {
    let Some(mount) = Mount::new(1) else { return };
    if !mount.session.features().unwrap().has(InitFlags::CREATE_SUPP_GROUP) {
        eprintln!("SKIPPED: this kernel sends no groups (before Linux 6.3)");
        return;
    }
    let dir = mount.dir.path();
    std::os::unix::fs::chown(dir, None, Some(777)).unwrap();
    fs::set_permissions(dir, fs::Permissions::from_mode(0o777)).unwrap();
    let mut command = std::process::Command::new("setpriv");
    command.args(["--reuid", "12345", "--regid", "12345", "--groups", "888,777", "mkdir", "d"]);
    let status = command.current_dir(dir).status().unwrap();
    assert!(status.success());
    assert_eq!(mount.fs.seen.lock().unwrap().supp_groups, [777]);
}

#[test]
fn unmount_ends_the_workers() {
    let Some(mut mount) = Mount::new(2) else { return };
    let file = fs::File::create_new(mount.path("f")).unwrap();
    assert!(matches!(mount.session.unmount(), Err(Error::Busy(_))));
    assert!(mount.session.is_mounted());
    drop(file);
    mount.session.unmount().unwrap();
    assert!(!mount.session.is_mounted());
    mount.workers.join();
    // A second time there is nothing to do.
    mount.session.unmount().unwrap();
}

#[test]
fn unmount_from_outside_ends_the_workers() {
    let Some(mut mount) = Mount::new(2) else { return };
    rustix::mount::unmount(mount.dir.path(), rustix::mount::UnmountFlags::empty()).unwrap();
    mount.workers.join();
    assert!(!mount.session.is_mounted());
    assert_eq!(mount.session.notifier().unwrap().inval_inode(1, 0, 0).unwrap(), Known::No);
}

#[test]
fn drop_leaves_no_mount_behind_even_with_open_files() {
    let Some(mount) = Mount::new(1) else { return };
    let file = fs::OpenOptions::new()
        .create_new(true)
        .write(true)
        .mode(0o600)
        .open(mount.path("f"))
        .unwrap();
    let Mount { session, mut workers, dir, .. } = mount;
    let path = dir.path().canonicalize().unwrap();
    drop(session);
    let table = fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!table.contains(path.to_str().unwrap()));
    // The file is still served until its last close.
    (&file).write_all(b"late").unwrap();
    drop(file);
    workers.join();
}

#[test]
fn bad_mount_points_are_explained() {
    let options = MountOptions::new("n1:/VOL", "brick");
    let missing = client_fuse_dev::mount(&options, "/no/such/place".as_ref()).unwrap_err();
    assert!(matches!(missing, Error::MountPoint { .. }), "{missing}");
    let file = tempfile::NamedTempFile::new().unwrap();
    let no_dir = client_fuse_dev::mount(&options, file.path()).unwrap_err();
    assert!(matches!(no_dir, Error::MountPoint { .. }), "{no_dir}");
}

fn wait_until(mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "it did not happen within ten seconds");
        std::thread::sleep(Duration::from_millis(2));
    }
}
