//! The mount against the real kernel, over a brick in memory. Needs root and /dev/fuse; says so
//! and tests nothing otherwise.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use client::testing::memory::{MemoryBelow, MemoryBrick};
use client::volume::{Config, Volume};
use client_fuse::serving::Serving;
use client_fuse_dev::MountOptions;
use proto::fop::Op;
use proto::{Errno, Gfid};
use rustix::fs::{FlockOperation, flock};

struct Mount {
    dir: tempfile::TempDir,
    below: Arc<MemoryBelow>,
    serving: Option<Serving>,
    runtime: tokio::runtime::Runtime,
}

impl Mount {
    fn new(brick: &Arc<MemoryBrick>) -> Option<Mount> {
        if !rustix::process::geteuid().is_root() || !PathBuf::from("/dev/fuse").exists() {
            eprintln!("SKIPPED: mounting needs root and /dev/fuse");
            return None;
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let below = brick.session();
        let dir = tempfile::tempdir().unwrap();
        let serving = runtime.block_on(async {
            let volume = Volume::start(below.clone(), Config::default()).await.unwrap();
            let options = MountOptions::new("memory:/v", "brick");
            Serving::start(volume, Gfid::ROOT, dir.path(), &options, 2).unwrap()
        });
        Some(Mount { dir, below, serving: Some(serving), runtime })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn sh(&self, script: &str) -> String {
        let mut command = Command::new("sh");
        command.arg("-ec").arg(script).current_dir(self.dir.path());
        let out = command.output().unwrap();
        assert!(out.status.success(), "{script}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8_lossy(&out.stdout).into_owned()
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let mut serving = self.serving.take().unwrap();
        serving.unmount().unwrap();
        serving.wait();
        self.runtime.block_on(serving.finish());
    }
}

fn one() -> Option<(Arc<MemoryBrick>, Mount)> {
    let brick = MemoryBrick::new();
    let mount = Mount::new(&brick)?;
    Some((brick, mount))
}

#[test]
fn trees_survive_cp_tar_and_find() {
    let Some((_, mount)) = one() else { return };
    let source = tempfile::tempdir().unwrap();
    let from = source.path().display();
    mount.sh(&format!(
        "mkdir -p {from}/a/b {from}/empty; for i in $(seq 200); do echo content $i > {from}/a/f$i; done; \
         head -c 3000000 /dev/urandom > {from}/a/b/big; ln {from}/a/f1 {from}/a/b/hard; \
         ln -s ../f2 {from}/a/b/link; chmod 640 {from}/a/f3; touch -d 2001-02-03T04:05:06.789 {from}/a/f4; \
         mkfifo {from}/pipe"
    ));
    mount.sh(&format!("cp -a {from}/. copy; diff -r --no-dereference {from}/a copy/a"));
    assert_eq!(mount.sh("find copy -type f | wc -l").trim(), "202");
    assert_eq!(mount.sh("stat -c %a copy/a/f3; stat -c %h copy/a/f1").trim(), "640\n2");
    mount.sh("tar cf t.tar copy; mkdir un; tar xpf t.tar -C un; diff -r --no-dereference copy/a un/copy/a");
    let (copy, un) = ("copy/a/f4", "un/copy/a/f4");
    let mtime = |name| fs::metadata(mount.path(name)).unwrap().mtime();
    assert_eq!((mtime(copy), mtime(un)), (981_173_106, 981_173_106));
    mount.sh("rm -rf copy un t.tar");
    assert_eq!(fs::read_dir(mount.dir.path()).unwrap().count(), 0);
}

#[test]
fn removed_file_lives_until_its_last_close() {
    let Some((brick, mount)) = one() else { return };
    let mut file =
        OpenOptions::new().create_new(true).read(true).write(true).open(mount.path("f")).unwrap();
    file.write_all(b"kept").unwrap();
    fs::remove_file(mount.path("f")).unwrap();
    assert_eq!(fs::metadata(mount.path("f")).unwrap_err().kind(), ErrorKind::NotFound);
    file.write_all(b" on").unwrap();
    file.seek(SeekFrom::Start(0)).unwrap();
    let mut content = String::new();
    file.read_to_string(&mut content).unwrap();
    assert_eq!(content, "kept on");
    assert_eq!(file.metadata().unwrap().nlink(), 0);
    drop(file);
    // RELEASE comes after close has returned.
    for _ in 0..100 {
        if brick.inodes() == 1 {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("the inode is still there");
}

#[test]
fn rename_over_append_and_truncate_work() {
    let Some((_, mount)) = one() else { return };
    fs::write(mount.path("a"), "new").unwrap();
    fs::write(mount.path("b"), "old").unwrap();
    let old = File::open(mount.path("b")).unwrap();
    fs::rename(mount.path("a"), mount.path("b")).unwrap();
    assert_eq!(fs::read(mount.path("b")).unwrap(), b"new");
    let mut kept = [0; 3];
    old.read_exact_at(&mut kept, 0).unwrap();
    assert_eq!(&kept, b"old");
    let mut log = OpenOptions::new().append(true).open(mount.path("b")).unwrap();
    log.write_all(b"+1").unwrap();
    fs::write(mount.path("c"), "x").unwrap();
    log.write_all(b"+2").unwrap();
    assert_eq!(fs::read(mount.path("b")).unwrap(), b"new+1+2");
    log.set_len(4).unwrap();
    log.write_all(b"!").unwrap();
    assert_eq!(fs::read(mount.path("b")).unwrap(), b"new+!");
    drop(File::create(mount.path("b")).unwrap());
    assert_eq!(fs::metadata(mount.path("b")).unwrap().len(), 0);
}

#[test]
fn failed_flush_is_told_by_fsync_and_close() {
    let Some((brick, mount)) = one() else { return };
    let mut file = File::create(mount.path("f")).unwrap();
    brick.fail_next(Op::Write, Errno::ENOSPC);
    file.write_all(b"lost").unwrap();
    assert_eq!(file.sync_all().unwrap_err().raw_os_error(), Some(libc::ENOSPC));
    file.sync_all().unwrap();
    brick.fail_next(Op::Fsync, Errno::EIO);
    assert_eq!(file.sync_all().unwrap_err().raw_os_error(), Some(libc::EIO));
}

#[test]
fn reserved_name_is_neither_listed_nor_usable() {
    let Some((_, mount)) = one() else { return };
    let refused = fs::create_dir(mount.path(".brickwork")).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EPERM));
    fs::create_dir(mount.path("d")).unwrap();
    fs::create_dir(mount.path("d/.brickwork")).unwrap();
}

#[test]
fn source_and_type_are_shown_by_df() {
    let Some((_, mount)) = one() else { return };
    let shown = mount.sh("df -T . | tail -1");
    assert!(shown.starts_with("memory:/v") && shown.contains("fuse.brick"), "{shown}");
}

#[test]
fn own_directory_costs_the_budgeted_trips_through_the_kernel() {
    let Some((_, mount)) = one() else { return };
    fs::create_dir(mount.path("d")).unwrap();
    fs::write(mount.path("d/first"), b"warm").unwrap();
    mount.below.take_trips();
    for i in 0..20 {
        fs::write(mount.path(&format!("d/f{i}")), b"small").unwrap();
    }
    let trips = mount.below.take_trips();
    assert_eq!((trips.get(&Op::Create), trips.get(&Op::Write)), (Some(&20), Some(&20)));
    assert_eq!(trips.len(), 2, "{trips:?}");
    for i in 0..20 {
        assert_eq!(fs::read(mount.path(&format!("d/f{i}"))).unwrap(), b"small");
        assert!(fs::metadata(mount.path(&format!("d/none{i}"))).is_err());
    }
    let trips = mount.below.take_trips();
    assert_eq!(trips.len(), 0, "{trips:?}");
}

#[test]
fn two_mounts_see_each_other_at_once() {
    let Some((brick, one)) = self::one() else { return };
    let two = Mount::new(&brick).unwrap();
    for i in 0..30 {
        let name = format!("f{}", i % 3);
        let text = format!("round {i}");
        fs::write(one.path(&name), &text).unwrap();
        assert_eq!(fs::read_to_string(two.path(&name)).unwrap(), text);
        let back = format!("{text} and back");
        fs::write(two.path(&name), &back).unwrap();
        assert_eq!(fs::metadata(one.path(&name)).unwrap().len(), back.len() as u64);
        assert_eq!(fs::read_to_string(one.path(&name)).unwrap(), back);
        fs::rename(one.path(&name), one.path("moved")).unwrap();
        assert!(fs::metadata(two.path(&name)).is_err());
        fs::remove_file(two.path("moved")).unwrap();
        assert!(fs::metadata(one.path("moved")).is_err());
    }
}

#[test]
fn open_writer_is_seen_without_a_close() {
    let Some((brick, one)) = self::one() else { return };
    let two = Mount::new(&brick).unwrap();
    let mut writer = File::create(one.path("f")).unwrap();
    let mut reader = None;
    for i in 0..20_u8 {
        writer.write_all(&[i; 100]).unwrap();
        let reader = reader.get_or_insert_with(|| File::open(two.path("f")).unwrap());
        let mut last = [0xff; 100];
        reader.read_exact_at(&mut last, u64::from(i) * 100).unwrap();
        assert_eq!(last, [i; 100], "write {i}");
    }
}

#[test]
fn mapped_pages_are_written_back_for_another_mount() {
    let Some((brick, one)) = self::one() else { return };
    let two = Mount::new(&brick).unwrap();
    fs::write(one.path("f"), vec![b'.'; 8192]).unwrap();
    let script = |dir: &std::path::Path, code: &str| {
        let mut command = Command::new("python3");
        command.current_dir(dir).arg("-c").arg(code).stdin(std::process::Stdio::piped());
        command.stdout(std::process::Stdio::piped()).spawn()
    };
    // Maps, stores, says so, and stays until told to end.
    let code = "import mmap,sys\nf=open('f','r+b')\nm=mmap.mmap(f.fileno(),0)\nm[0:5]=b'first'\n\
                print('ready',flush=True)\nsys.stdin.readline()\nprint(m[5:9].decode(),flush=True)";
    let Ok(mut child) = script(one.dir.path(), code) else {
        eprintln!("SKIPPED: python3 is needed");
        return;
    };
    let mut ready = [0; 6];
    child.stdout.as_mut().unwrap().read_exact(&mut ready).unwrap();
    assert_eq!(&fs::read(two.path("f")).unwrap()[..6], b"first.");
    let file = OpenOptions::new().write(true).open(two.path("f")).unwrap();
    file.write_all_at(b"back", 5).unwrap();
    child.stdin.take().unwrap().write_all(b"\n").unwrap();
    let mut seen = String::new();
    child.stdout.as_mut().unwrap().read_to_string(&mut seen).unwrap();
    assert_eq!(seen.trim(), "back");
    assert!(child.wait().unwrap().success());
}

#[test]
fn locks_hold_across_mounts_and_waiting_is_interruptible() {
    let Some((brick, one)) = self::one() else { return };
    let two = Mount::new(&brick).unwrap();
    fs::write(one.path("f"), "").unwrap();
    let (here, there) = (File::open(one.path("f")).unwrap(), File::open(two.path("f")).unwrap());
    flock(&here, FlockOperation::LockExclusive).unwrap();
    let refused = flock(&there, FlockOperation::NonBlockingLockExclusive).unwrap_err();
    assert_eq!(refused, rustix::io::Errno::AGAIN);
    let started = std::time::Instant::now();
    let status = Command::new("timeout")
        .args(["-s", "INT", "0.3", "flock"])
        .arg(two.path("f"))
        .arg("true")
        .status()
        .unwrap();
    assert!(!status.success() && started.elapsed() < Duration::from_secs(5));
    drop(here);
    flock(&there, FlockOperation::LockExclusive).unwrap();
}

/// Trap 26: a recall of names that waited for a create here would wait for the lead, too.
#[test]
fn trap_26_creating_in_one_directory_from_two_mounts_never_blocks_long() {
    let Some((brick, one)) = self::one() else { return };
    let two = Mount::new(&brick).unwrap();
    fs::create_dir(one.path("d")).unwrap();
    let create = |mount: &Mount, tag: &str| {
        let mut slowest = Duration::ZERO;
        for i in 0..100 {
            let started = std::time::Instant::now();
            fs::write(mount.path(&format!("d/{tag}{i}")), tag).unwrap();
            slowest = slowest.max(started.elapsed());
        }
        slowest
    };
    let slowest = std::thread::scope(|scope| {
        let (a, b) = (scope.spawn(|| create(&one, "a")), scope.spawn(|| create(&two, "b")));
        a.join().unwrap().max(b.join().unwrap())
    });
    assert!(slowest < Duration::from_secs(4), "{slowest:?}");
    assert_eq!(fs::read_dir(one.path("d")).unwrap().count(), 200);
    assert_eq!(fs::read_dir(two.path("d")).unwrap().count(), 200);
}

#[test]
fn default_acl_and_umask_are_applied() {
    let Some((_, mount)) = one() else { return };
    mount.sh("umask 027; touch f; mkdir d");
    let mode = |name| fs::metadata(mount.path(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("f"), mode("d")), (0o640, 0o750));
    mount.sh("chmod 2755 d; chgrp 7 d; touch d/g; mkdir d/s");
    assert_eq!(fs::metadata(mount.path("d/g")).unwrap().gid(), 7);
    assert_eq!(fs::metadata(mount.path("d/s")).unwrap().mode() & 0o7000, 0o2000);
}

#[test]
fn synchronous_and_direct_writes_are_on_the_brick() {
    let Some((_, mount)) = one() else { return };
    for flag in [libc::O_SYNC, libc::O_DSYNC, libc::O_DIRECT] {
        let mut options = OpenOptions::new();
        let file = options
            .create(true)
            .truncate(false)
            .write(true)
            .custom_flags(flag)
            .open(mount.path("f"));
        let file = file.unwrap();
        mount.below.take_trips();
        let page = vec![1_u8; 8192];
        let at = page.as_ptr().align_offset(4096);
        file.write_all_at(&page[at..at + 4096], 0).unwrap();
        assert_eq!(mount.below.take_trips().get(&Op::Write), Some(&1));
    }
}
