//! Data and attributes of one inode: write, read, truncate, holes, xattrs, sync.

use proto::attr::{Meta, Time};
use proto::error::Errno;
use proto::fop::{
    Answer, BlockSumList, BlockSums, Fallocate, Fsync, Getxattr, Listxattr, Lookup, Read,
    Removexattr, Seek, Setattr, Setxattr, Statfs, Write,
};
use proto::ids::Gfid;
use server_store::ReadPlan;

use crate::brick;
use crate::common::*;

#[test]
fn written_bytes_are_read_and_the_plain_file_shows_our_times() {
    use std::os::unix::fs::MetadataExt;
    let mut b = brick!();
    let f = b.create(Gfid::ROOT, "f", 1, FILE);
    let attr = b.write(f, 3, b"abc");
    assert_eq!((attr.size, attr.stamp), (6, b.stamp));
    assert_eq!(b.read(f), b"\0\0\0abc");
    let meta = std::fs::metadata(b.path.join("f")).unwrap();
    assert_eq!((meta.mtime(), meta.mtime_nsec()), (attr.mtime.sec, attr.mtime.nsec.into()));
    let short = b.call(Read { gfid: f, offset: 4, len: 100 }).unwrap();
    assert!(matches!(short.answer, Answer::Read(r) if r.eof));
    assert_eq!(&short.payload[..], b"bc");
    let part = b.call(Read { gfid: f, offset: 0, len: 3 }).unwrap();
    assert!(matches!(part.answer, Answer::Read(r) if !r.eof));
    let beyond = b.call(Read { gfid: f, offset: 99, len: 3 }).unwrap();
    assert!(beyond.payload.is_empty());
    let lie = Write { gfid: f, offset: 0, len: 9, ..Write::default() };
    assert_eq!(b.with_data(lie, b"short"), Err(Errno::EINVAL));
    assert_eq!(b.call(Read { gfid: Gfid::ROOT, offset: 0, len: 1 }), Err(Errno::EISDIR));
}

#[test]
fn a_lookup_brings_a_small_files_data() {
    let mut b = brick!();
    let f = b.create(Gfid::ROOT, "f", 1, FILE);
    b.write(f, 0, b"small");
    let ask = |max| Lookup { parent: Gfid::ROOT, name: bytes("f"), data_bytes_max: max };
    assert_eq!(&b.call(ask(100)).unwrap().payload[..], b"small");
    let none = b.call(ask(4)).unwrap();
    assert!(matches!(none.answer, Answer::Entry(e) if !e.with_data));
}

#[test]
fn an_uncached_read_is_planned_and_finished_elsewhere() {
    let mut b = brick!();
    let f = b.create(Gfid::ROOT, "f", 1, FILE);
    let data: Vec<u8> = (0..300_000_u32).map(|i| (i % 251) as u8).collect();
    b.write(f, 0, &data);
    b.store.take().unwrap().close().unwrap();
    b.xfs.unmount().unwrap();
    b.xfs.mount().unwrap();
    b.reopen();
    let plan = b.store().plan_read(f, 10, 290_000).unwrap();
    let ReadPlan::Pending(pending) = plan else { panic!("nothing can be cached yet") };
    let read = std::thread::spawn(move || pending.run().unwrap()).join().unwrap();
    assert_eq!(&read.payload[..], &data[10..290_010]);
    let again = b.store().plan_read(f, 10, 290_000).unwrap();
    assert!(matches!(again, ReadPlan::Done(r) if r.payload == read.payload));
}

#[test]
fn setattr_sets_each_value_and_kills_privileges() {
    let mut b = brick!();
    let f = b.create(Gfid::ROOT, "f", 1, FILE);
    b.write(f, 0, &[7; 1000]);
    let mut set = |meta: Meta, kill| {
        let fop = Setattr { gfid: f, set: meta, kill_privileges: kill };
        attr(b.call(fop).unwrap())
    };
    let a = set(Meta { mode: Some(0o6755), ..Meta::default() }, false);
    assert_eq!(a.mode & 0o7777, 0o6755);
    let a = set(Meta { uid: Some(5), gid: Some(6), ..Meta::default() }, false);
    assert_eq!((a.uid, a.gid, a.mode & 0o7777), (5, 6, 0o6755), "only what was asked");
    let a = set(Meta { uid: Some(7), ..Meta::default() }, true);
    assert_eq!((a.uid, a.gid, a.mode & 0o7777), (7, 6, 0o755));
    let old = Time { sec: -5, nsec: 1 };
    let a = set(Meta { mtime: Some(old), atime: Some(old), ..Meta::default() }, false);
    assert_eq!((a.mtime, a.atime), (old, old));
    let before = a.stamp;
    let a = set(Meta { size: Some(10), ..Meta::default() }, false);
    assert!(a.size == 10 && a.mtime > old && a.stamp > before);
    assert_eq!(a.atime, old);
    b.reopen();
    assert_eq!(b.attr(f), a);
}

#[test]
fn holes_sums_and_preallocation() {
    let mut b = brick!();
    let f = b.create(Gfid::ROOT, "f", 1, FILE);
    const BLOCK: u64 = 128 << 10;
    b.write(f, 4 * BLOCK, b"end");
    b.write(f, BLOCK + 5, b"middle");
    let sums = |b: &mut Brick, first, count| -> BlockSumList {
        match b.call(BlockSums { gfid: f, first, count }).unwrap().answer {
            Answer::BlockSumList(l) => l,
            other => panic!("{other:?}"),
        }
    };
    let all = sums(&mut b, 0, 100);
    assert_eq!((all.sums.len(), all.size), (5, 4 * BLOCK + 3));
    let holes: Vec<bool> = all.sums.iter().map(|s| *s == 0).collect();
    assert_eq!(holes, [true, false, true, true, false]);
    let mut middle = vec![0; BLOCK as usize];
    middle[5..11].copy_from_slice(b"middle");
    assert_eq!(all.sums[1], xxhash_rust::xxh3::xxh3_64(&middle));
    assert_eq!(sums(&mut b, 1, 2).sums, all.sums[1..3]);
    let data = b.call(Seek { gfid: f, offset: 2 * BLOCK, hole: false }).unwrap();
    assert!(matches!(data.answer, Answer::Seek(s) if s.offset == 4 * BLOCK));
    assert_eq!(b.call(Seek { gfid: f, offset: 9 * BLOCK, hole: false }), Err(Errno::ENXIO));
    b.call(Fallocate { gfid: f, mode: 3, offset: BLOCK, len: BLOCK }).unwrap();
    assert_eq!(sums(&mut b, 1, 1).sums, [0]);
    let a = attr(b.call(Fallocate { gfid: f, mode: 0, offset: 0, len: 9 * BLOCK }).unwrap());
    assert_eq!(a.size, 9 * BLOCK);
}

#[test]
fn xattrs_of_applications_and_ours_hidden() {
    let mut b = brick!();
    let f = b.create(Gfid::ROOT, "f", 1, FILE);
    let set = |name: &str, value: &str, flags| Setxattr {
        gfid: f,
        name: bytes(name),
        value: bytes(value),
        flags,
        mode: None,
    };
    b.call(set("user.b", "1", 0)).unwrap();
    b.call(set("trusted.a", "2", 1)).unwrap();
    assert_eq!(b.call(set("trusted.a", "3", 1)), Err(Errno::EEXIST));
    assert_eq!(b.resend(set("trusted.a", "3", 1)), Err(Errno::EEXIST));
    b.resend(set("trusted.a", "2", 1)).unwrap();
    assert_eq!(b.call(set("user.none", "3", 2)), Err(Errno::ENODATA));
    assert_eq!(b.call(set("trusted.brick.meta", "x", 0)), Err(Errno::EPERM));
    let large = "v".repeat(20_000);
    b.call(set("user.large", &large, 0)).unwrap();
    let names = b.call(Listxattr { gfid: f }).unwrap();
    let Answer::Names(names) = names.answer else { panic!() };
    assert_eq!(names.names, ["trusted.a", "user.b", "user.large"]);
    let get = |name: &str| Getxattr { gfid: f, name: bytes(name) };
    let value = b.call(get("user.large")).unwrap();
    assert!(matches!(value.answer, Answer::Value(v) if v.bytes == large));
    assert_eq!(b.call(get("trusted.brick.meta")), Err(Errno::ENODATA));
    let remove = Removexattr { gfid: f, name: bytes("user.b") };
    b.call(remove.clone()).unwrap();
    assert_eq!(b.call(remove.clone()), Err(Errno::ENODATA));
    b.resend(remove).unwrap();
}

#[test]
fn an_acl_and_its_mode_are_one_change() {
    let mut b = brick!();
    let f = b.create(Gfid::ROOT, "f", 1, FILE);
    // Version 2; owner rw, user 5 rwx, group r, mask rwx, other none.
    let mut acl = 2_u32.to_le_bytes().to_vec();
    for (tag, perm, id) in [
        (1_u16, 6_u16, u32::MAX),
        (2, 7, 5),
        (4, 4, u32::MAX),
        (16, 7, u32::MAX),
        (32, 0, u32::MAX),
    ] {
        acl.extend_from_slice(&tag.to_le_bytes());
        acl.extend_from_slice(&perm.to_le_bytes());
        acl.extend_from_slice(&id.to_le_bytes());
    }
    let name = bytes("system.posix_acl_access");
    let set = Setxattr {
        gfid: f,
        name: name.clone(),
        value: acl.clone().into(),
        flags: 0,
        mode: Some(0o670),
    };
    b.call(set).unwrap();
    assert_eq!(b.attr(f).mode & 0o7777, 0o670);
    let value = b.call(Getxattr { gfid: f, name: name.clone() }).unwrap();
    assert!(matches!(value.answer, Answer::Value(v) if v.bytes == acl));
    let names = b.call(Listxattr { gfid: f }).unwrap();
    assert!(matches!(names.answer, Answer::Names(n) if n.names == [name]), "no XFS alias");
}

#[test]
fn symlinks_and_fifos_carry_trusted_xattrs_and_times() {
    let mut b = brick!();
    let mut make = create(Gfid::ROOT, "l", 1, 0o120_777);
    make.target = bytes("/nowhere");
    b.call(make).unwrap();
    b.create(Gfid::ROOT, "p", 2, 0o010_600);
    for n in [1, 2] {
        let set = Setxattr {
            gfid: gfid(n),
            name: bytes("trusted.t"),
            value: bytes("v"),
            ..Setxattr::default()
        };
        b.call(set).unwrap();
        let time = Time { sec: 77, nsec: 5 };
        let set = Meta { mtime: Some(time), uid: Some(9), ..Meta::default() };
        let a = attr(b.call(Setattr { gfid: gfid(n), set, kill_privileges: false }).unwrap());
        assert_eq!((a.mtime, a.uid), (time, 9));
        b.call(Fsync { gfid: gfid(n), data_only: false }).unwrap();
    }
    assert_eq!(b.chmod(gfid(2), 0o640).mode & 0o7777, 0o640);
}

#[test]
fn space_is_told_less_the_reserve() {
    let mut b = brick!();
    let Answer::Statfs(s) = b.call(Statfs { gfid: Gfid::ROOT }).unwrap().answer else { panic!() };
    assert_eq!(s.free_bytes - s.available_bytes, s.total_bytes / 20);
    assert!(s.free_inodes > 1000 && !b.store().low_space().unwrap());
}

#[test]
fn sync_and_checkpoint_are_noted() {
    let mut b = brick!();
    let f = b.create(Gfid::ROOT, "f", 1, FILE);
    b.call(Fsync { gfid: f, data_only: true }).unwrap();
    assert!(b.store().dirty());
    let handle = b.store().checkpoint_handle();
    std::thread::spawn(move || handle.run(42)).join().unwrap().unwrap();
    assert!(!b.store().dirty());
    assert_eq!(b.store().last_checkpoint().unwrap().unwrap().interval, 42);
    b.write(f, 0, b"x");
    assert!(b.store().dirty());
}
