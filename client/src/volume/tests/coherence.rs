//! Several mounts over one brick see each other's changes at once.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use proto::fop::LeaseKey;
use proto::{Errno, Gfid};

use super::super::{
    KernelCaches, LockAsk, LockOwner, NewInode, OpenHow, SetAttributes, Span, WriteHow,
};
use super::mount;
use crate::layer::Boxed;
use crate::testing::memory::MemoryBrick;

fn now() -> WriteHow {
    WriteHow::default()
}

#[tokio::test]
async fn buffered_bytes_of_one_mount_are_read_by_another() {
    let brick = MemoryBrick::new();
    let (one, _) = mount(&brick).await;
    let (two, _) = mount(&brick).await;
    let file = one.open_path("/f", OpenHow::writing(), true).await.unwrap();
    one.write(&file, 0, Bytes::from_static(b"first"), now()).await.unwrap();
    assert_eq!(two.stat_path("/f").await.unwrap().size, 5);
    assert_eq!(two.read_file("/f").await.unwrap(), b"first");
    one.write(&file, 5, Bytes::from_static(b" second"), now()).await.unwrap();
    assert_eq!(two.stat_path("/f").await.unwrap().size, 12);
    assert_eq!(two.read_file("/f").await.unwrap(), b"first second");
    one.close(file).await.unwrap();
}

#[tokio::test]
async fn names_change_hands_between_mounts() {
    let brick = MemoryBrick::new();
    let (one, _) = mount(&brick).await;
    let (two, _) = mount(&brick).await;
    let dir = one.mkdir_all("/d").await.unwrap();
    for i in 0..50 {
        let name = format!("n{i}");
        assert!(two.lookup(dir, name.as_bytes()).await.unwrap().found().is_err());
        one.create(dir, name.as_bytes(), NewInode::file(0o600)).await.unwrap();
        let found = two.lookup(dir, name.as_bytes()).await.unwrap().found().unwrap();
        assert_eq!(found.attr.mode & 0o777, 0o600);
        let set = SetAttributes { mode: Some(0o640), ..SetAttributes::default() };
        two.setattr(found.attr.gfid, set).await.unwrap();
        assert_eq!(one.getattr(found.attr.gfid).await.unwrap().attr.mode & 0o777, 0o640);
        two.unlink(dir, name.as_bytes()).await.unwrap();
        assert!(one.lookup(dir, name.as_bytes()).await.unwrap().found().is_err());
    }
    assert_eq!(one.list("/d").await.unwrap().len(), 0);
}

#[tokio::test]
async fn directory_times_are_seen_by_all() {
    let brick = MemoryBrick::new();
    let (one, _) = mount(&brick).await;
    let (two, _) = mount(&brick).await;
    let dir = one.mkdir_all("/d").await.unwrap();
    let before = two.getattr(dir).await.unwrap().attr.mtime;
    one.create(dir, b"x", NewInode::file(0o644)).await.unwrap();
    let after = two.getattr(dir).await.unwrap().attr.mtime;
    assert!(after > before);
    assert_eq!(one.getattr(dir).await.unwrap().attr.mtime, after);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn appends_of_two_mounts_neither_overlap_nor_leave_gaps() {
    let brick = MemoryBrick::new();
    let (one, _) = mount(&brick).await;
    let (two, _) = mount(&brick).await;
    one.write_file("/log", "").await.unwrap();
    let how = OpenHow { append: true, ..OpenHow::writing() };
    let writers = [(one.clone(), b'1'), (two, b'2')].map(|(volume, byte)| {
        tokio::spawn(async move {
            let file = volume.open_path("/log", how, false).await.unwrap();
            for _ in 0..100 {
                volume.write(&file, 0, Bytes::from(vec![byte; 7]), now()).await.unwrap();
            }
            volume.close(file).await.unwrap();
        })
    });
    for writer in writers {
        writer.await.unwrap();
    }
    let content = one.read_file("/log").await.unwrap();
    assert_eq!(content.len(), 1400);
    assert!(content.chunks(7).all(|c| c.iter().all(|b| *b == c[0])));
    assert_eq!(content.iter().filter(|b| **b == b'1').count(), 700);
}

#[tokio::test]
async fn open_file_outlives_its_name_whoever_removes_it() {
    let brick = MemoryBrick::new();
    let (one, _) = mount(&brick).await;
    let (two, _) = mount(&brick).await;
    one.write_file("/f", "kept").await.unwrap();
    let here = one.open_path("/f", OpenHow { write: true, ..OpenHow::reading() }, false).await;
    let here = here.unwrap();
    let there = two.open_path("/f", OpenHow::reading(), false).await.unwrap();
    two.remove_path("/f").await.unwrap();
    assert_eq!(one.stat_path("/f").await.unwrap_err(), Errno::ENOENT);
    for (volume, file) in [(&one, &here), (&two, &there)] {
        assert_eq!(volume.read(file, 0, 10).await.unwrap().concat(), b"kept");
    }
    one.write(&here, 4, Bytes::from_static(b"!"), now()).await.unwrap();
    assert_eq!(two.read(&there, 0, 10).await.unwrap().concat(), b"kept!");
    let inodes = brick.inodes();
    two.release(&there).await;
    assert_eq!(brick.inodes(), inodes, "open on the other mount");
    one.close(here).await.unwrap();
    assert_eq!(brick.inodes(), inodes - 1, "freed by the last close");
}

#[tokio::test]
async fn rename_over_an_open_file_keeps_it_for_its_reader() {
    let brick = MemoryBrick::new();
    let (one, _) = mount(&brick).await;
    let (two, _) = mount(&brick).await;
    one.write_file("/old", "old").await.unwrap();
    let open = two.open_path("/old", OpenHow::reading(), false).await.unwrap();
    one.write_file("/new", "new").await.unwrap();
    one.rename_path("/new", "/old").await.unwrap();
    assert_eq!(two.read_file("/old").await.unwrap(), b"new");
    assert_eq!(two.read(&open, 0, 9).await.unwrap().concat(), b"old");
    two.release(&open).await;
    assert_eq!(two.stat_path("/new").await.unwrap_err(), Errno::ENOENT);
}

#[tokio::test]
async fn lost_lease_is_told_once_to_each_open_file() {
    let brick = MemoryBrick::new();
    let (volume, below) = mount(&brick).await;
    let first = volume.open_path("/f", OpenHow::writing(), true).await.unwrap();
    let second = volume.open_path("/f", OpenHow::writing(), false).await.unwrap();
    volume.write(&first, 0, Bytes::from_static(b"gone"), now()).await.unwrap();
    below.revoke(LeaseKey::Inode(first.gfid()));
    assert_eq!(volume.flush(&first).await, Err(Errno::EIO));
    assert_eq!(volume.flush(&first).await, Ok(()));
    assert_eq!(volume.fsync(&second, false).await, Err(Errno::EIO));
    assert_eq!(volume.stat_path("/f").await.unwrap().size, 0);
}

#[tokio::test]
async fn lock_held_elsewhere_is_waited_for_and_given_up_on_a_signal() {
    let brick = MemoryBrick::new();
    let (one, _) = mount(&brick).await;
    let (two, _) = mount(&brick).await;
    one.write_file("/f", "").await.unwrap();
    let gfid = one.resolve("/f").await.unwrap();
    let ask = |owner| LockAsk {
        gfid,
        by: LockOwner { owner, pid: 1 },
        span: Span { start: 0, end: 10 },
        kind: 2,
        flock: false,
    };
    one.set_lock(ask(1)).await.unwrap();
    assert_eq!(two.set_lock(ask(2)).await, Err(Errno::EAGAIN));
    assert_eq!(two.test_lock(ask(2)).await.unwrap().unwrap().owner, 1);
    assert_eq!(two.wait_lock(ask(2), async {}).await, Err(Errno::EINTR));
    let waiting = {
        let (two, ask) = (two.clone(), ask(2));
        tokio::spawn(async move { two.wait_lock(ask, std::future::pending()).await })
    };
    tokio::time::sleep(std::time::Duration::from_millis(30)).await;
    assert!(!waiting.is_finished());
    one.drop_locks(gfid, 1, false).await;
    assert_eq!(waiting.await.unwrap(), Ok(()));
    assert_eq!(one.set_lock(ask(1)).await, Err(Errno::EAGAIN));
}

/// Whoever goes on as if it had the lock would do harm; a new open begins anew.
#[tokio::test]
async fn open_files_of_a_lost_lock_answer_eio_until_they_are_closed() {
    let brick = MemoryBrick::new();
    let (volume, _) = mount(&brick).await;
    volume.write_file("/f", "before").await.unwrap();
    let gfid = volume.resolve("/f").await.unwrap();
    let how = OpenHow::writing();
    let file = volume.open(gfid, how).await.unwrap();
    volume.lock_lost(gfid);
    let written = volume.write(&file, 0, "after".into(), WriteHow::default()).await;
    assert_eq!(written, Err(Errno::EIO));
    assert_eq!(volume.read(&file, 0, 10).await, Err(Errno::EIO));
    volume.release(&file).await;
    let file = volume.open(gfid, how).await.unwrap();
    assert_eq!(volume.read(&file, 0, 10).await.unwrap().concat(), b"before");
    volume.release(&file).await;
}

/// A kernel that notes what it is told to forget.
#[derive(Default)]
struct NotingKernel {
    names: Mutex<Vec<Box<[u8]>>>,
    inodes: Mutex<Vec<Gfid>>,
}

impl KernelCaches for NotingKernel {
    fn forget_names(&self, _dir: Gfid, names: Vec<Box<[u8]>>) -> Boxed<'_, ()> {
        self.names.lock().unwrap().extend(names);
        Box::pin(std::future::ready(()))
    }

    fn forget_inode(&self, gfid: Gfid) -> Boxed<'_, ()> {
        self.inodes.lock().unwrap().push(gfid);
        Box::pin(std::future::ready(()))
    }
}

#[tokio::test]
async fn recall_makes_the_kernel_forget_what_it_was_told() {
    let brick = MemoryBrick::new();
    let (one, _) = mount(&brick).await;
    let (two, _) = mount(&brick).await;
    let kernel = Arc::new(NotingKernel::default());
    two.attach_kernel(kernel.clone());
    one.write_file("/f", "1").await.unwrap();
    two.stat_path("/f").await.unwrap();
    let absent = two.lookup(Gfid::ROOT, b"absent").await.unwrap();
    assert!(absent.found().is_err());
    let _ = two.lookup(Gfid::ROOT, b"absent").await.unwrap();
    let gfid = one.resolve("/f").await.unwrap();
    one.write_file("/f", "22").await.unwrap();
    assert!(kernel.inodes.lock().unwrap().contains(&gfid));
    assert!(kernel.names.lock().unwrap().is_empty(), "no name has changed");
    one.create(Gfid::ROOT, b"absent", NewInode::file(0o644)).await.unwrap();
    let mut names = kernel.names.lock().unwrap().clone();
    names.sort();
    assert_eq!(names, [b"absent"[..].into(), Box::from(&b"f"[..])]);
    let again = two.lookup(Gfid::ROOT, b"absent").await.unwrap();
    let super::super::Looked::Entry { name_ttl, .. } = again else { panic!("it is there") };
    assert!(name_ttl.is_zero(), "two mounts change this directory");
}

/// A kernel in which an operation that waits for the lease holds the directory's lock.
struct StuckKernel;

impl KernelCaches for StuckKernel {
    fn forget_names(&self, _dir: Gfid, _names: Vec<Box<[u8]>>) -> Boxed<'_, ()> {
        Box::pin(std::future::pending())
    }

    fn forget_inode(&self, _gfid: Gfid) -> Boxed<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}

/// Trap 26: a recall is answered long before it is overdue, though the kernel does not forget.
#[tokio::test]
async fn the_kernel_is_told_of_names_for_a_quarter_of_a_second_at_most() {
    let brick = MemoryBrick::new();
    let (one, _) = mount(&brick).await;
    let (two, _) = mount(&brick).await;
    two.attach_kernel(Arc::new(StuckKernel));
    one.write_file("/f", "1").await.unwrap();
    // Brings the lease under which what is not there is remembered.
    two.stat_path("/f").await.unwrap();
    let _ = two.lookup(Gfid::ROOT, b"absent").await.unwrap();
    let told = two.lookup(Gfid::ROOT, b"absent").await.unwrap();
    let super::super::Looked::Absent { name_ttl } = told else { panic!("it is not there") };
    assert!(!name_ttl.is_zero() && name_ttl.as_millis() <= 250, "{name_ttl:?}");
    one.create(Gfid::ROOT, b"absent", NewInode::file(0o644)).await.unwrap();
}

/// Trap 25: the kernel counts in ticks of its own, from when it takes in what it is told.
#[test]
fn trap_25_the_kernel_is_told_less_time_than_a_lease_has_left() {
    use std::time::{Duration, Instant};
    let (now, ms) = (Instant::now(), Duration::from_millis);
    let told = super::super::kernel_time(now + ms(250), now);
    assert!(told >= ms(200) && told <= ms(230), "{told:?}");
    assert_eq!(super::super::kernel_time(now + ms(20), now), Duration::ZERO, "not worth a tick");
    assert_eq!(super::super::kernel_time(now, now + ms(5)), Duration::ZERO);
}
