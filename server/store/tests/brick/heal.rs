//! Source and sink of a heal, driven as a healer would: the sink ends equal, records included.

use bytes::Bytes;
use proto::error::Errno;
use proto::fop::{
    Answer, Changed, ChangedList, Inspect, Inspected, Install, InstallData, InstallName, Link,
    PeerRead, RemoveName, SweepParked,
};
use proto::ids::Gfid;

use crate::brick;
use crate::common::*;
use crate::converge::snapshot;

fn inspect(b: &mut Brick, gfid: Gfid) -> Inspected {
    match b.call(Inspect { gfid, data_max: 0 }).unwrap().answer {
        Answer::Inspected(i) => i,
        other => panic!("{other:?}"),
    }
}

fn changed(b: &mut Brick, since: u64) -> ChangedList {
    match b.call(Changed { since, limit: 1000, ..Changed::default() }).unwrap().answer {
        Answer::ChangedList(l) => l,
        other => panic!("{other:?}"),
    }
}

/// Makes one inode of the sink equal, data included.
fn heal_inode(source: &mut Brick, sink: &mut Brick, gfid: Gfid) {
    let image = inspect(source, gfid);
    sink.call(Install { image: image.clone(), finish: false }).unwrap();
    if image.attr.mode & 0o170_000 == 0o100_000 && image.attr.size > 0 {
        let read = PeerRead { gfid, offset: 0, len: image.attr.size as u32 };
        let data = source.call(read).unwrap().payload;
        let put = InstallData { gfid, offset: 0, len: data.len() as u64, hole: false };
        sink.with_data(put, &data).unwrap();
    }
    sink.call(Install { image, finish: true }).unwrap();
}

/// Entry diff of one directory, as a healer makes it: removals first, the worst order.
fn heal_names(source: &mut Brick, sink: &mut Brick, dir: Gfid) {
    let want = source.names(dir);
    for have in sink.names(dir) {
        if !want.contains(&have) {
            sink.call(RemoveName { parent: dir, name: have.name }).unwrap();
        }
    }
    for e in want {
        if sink.store().getattr(e.gfid) == Err(Errno::ESTALE) {
            heal_inode(source, sink, e.gfid);
        }
        sink.call(InstallName { parent: dir, name: e.name, gfid: e.gfid }).unwrap();
    }
}

fn heal_all(source: &mut Brick, sink: &mut Brick) {
    let mut dirs = vec![Gfid::ROOT];
    while let Some(dir) = dirs.pop() {
        heal_names(source, sink, dir);
        let below = source.names(dir);
        dirs.extend(below.iter().filter(|e| e.kind == 4).map(|e| e.gfid));
        for e in below {
            heal_inode(source, sink, e.gfid);
        }
        heal_inode(source, sink, dir);
    }
    sink.call(SweepParked { keep: source.store().orphans().unwrap() }).unwrap();
    for gfid in source.store().orphans().unwrap() {
        heal_inode(source, sink, gfid);
    }
}

fn fill(b: &mut Brick) {
    let d = b.create(Gfid::ROOT, "d", 1, DIR);
    let e = b.create(d, "e", 2, DIR);
    for n in 10..30 {
        let f = b.create(if n % 2 == 0 { d } else { e }, &format!("f{n}"), n, FILE);
        b.write(f, 0, &vec![n as u8; n as usize * 999]);
    }
    let mut link = create(e, "symlink", 3, 0o120_777);
    link.target = bytes("../f10");
    b.call(link).unwrap();
    b.create(Gfid::ROOT, "fifo", 4, 0o010_640);
    b.call(Link { gfid: gfid(10), parent: Gfid::ROOT, name: bytes("hard") }).unwrap();
    let set = proto::fop::Setxattr {
        gfid: gfid(11),
        name: bytes("user.x"),
        value: bytes("y"),
        ..Default::default()
    };
    b.call(set).unwrap();
    b.chmod(gfid(12), 0o4711);
}

#[test]
fn an_empty_brick_becomes_equal() {
    let (mut source, mut sink) = (brick!(), brick!());
    fill(&mut source);
    heal_all(&mut source, &mut sink);
    assert_eq!(snapshot(&mut sink), snapshot(&mut source));
}

#[test]
fn a_brick_that_missed_everything_a_directory_can_do_becomes_equal() {
    let (mut source, mut sink) = (brick!(), brick!());
    fill(&mut source);
    heal_all(&mut source, &mut sink);
    source.interval = 5;
    let ino_before = inode_of(&sink, "d/f14");
    // Moves across directories, both ways; a directory renamed; names exchanged; removals.
    let to_e = proto::fop::Rename {
        from_parent: gfid(1),
        to_parent: gfid(2),
        ..rename("f14", "moved", gfid(14), Gfid::NIL)
    };
    source.call(to_e).unwrap();
    let up = proto::fop::Rename {
        from_parent: gfid(1),
        to_parent: Gfid::ROOT,
        ..rename("e", "e2", gfid(2), Gfid::NIL)
    };
    source.call(up).unwrap();
    let unlink =
        proto::fop::Unlink { parent: gfid(1), name: bytes("f16"), expect: gfid(16), keep: false };
    source.call(unlink).unwrap();
    let open =
        proto::fop::Unlink { parent: gfid(1), name: bytes("f18"), expect: gfid(18), keep: true };
    source.call(open).unwrap();
    let unlink = source.unlink("hard", gfid(10), false);
    source.call(unlink).unwrap();
    source.write(gfid(20), 3, b"changed");
    heal_all(&mut source, &mut sink);
    assert_eq!(snapshot(&mut sink), snapshot(&mut source));
    assert_eq!(inode_of(&sink, "e2/moved"), ino_before, "adopted, not copied");
    assert_eq!(sink.store().orphans().unwrap(), [gfid(18)]);
    let parked = std::fs::read_dir(sink.path.join(".brickwork/parked")).unwrap().count();
    assert_eq!(parked, 0);
    let since = changed(&mut source, 5);
    let gfids: Vec<Gfid> = since.items.iter().map(|i| i.gfid).collect();
    for n in [1, 2, 14, 16, 18, 10, 20] {
        assert!(gfids.contains(&gfid(n)), "{n} is in the log");
    }
    assert!(!gfids.contains(&gfid(22)), "untouched since");
}

fn inode_of(b: &Brick, path: &str) -> u64 {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(b.path.join(path)).unwrap().ino()
}

#[test]
fn a_swept_directory_gives_up_what_is_still_open() {
    let mut b = brick!();
    fill(&mut b);
    b.call(RemoveName { parent: Gfid::ROOT, name: bytes("d") }).unwrap();
    assert_eq!(b.read(gfid(11)).len(), 11 * 999, "parked inodes are still there");
    b.call(SweepParked { keep: vec![gfid(11)] }).unwrap();
    assert_eq!(b.read(gfid(11)).len(), 11 * 999);
    assert_eq!(b.store().orphans().unwrap(), [gfid(11)]);
    assert_eq!(b.store().getattr(gfid(12)), Err(Errno::ESTALE));
    assert_eq!(b.plain_names(Gfid::ROOT), ["fifo", "hard"]);
    assert_eq!(b.read(gfid(10)).len(), 9990, "its other name was not swept");
    b.reopen();
    assert_eq!(b.read(gfid(10)).len(), 9990);
}

#[test]
fn truncation_logs_what_it_cut() {
    let mut b = brick!();
    let f = b.create(Gfid::ROOT, "f", 1, FILE);
    b.write(f, (5 << 20) - 1, b"x");
    b.interval = 3;
    let set = proto::Meta { size: Some(2 << 20), ..Default::default() };
    b.call(proto::fop::Setattr { gfid: f, set, kill_privileges: false }).unwrap();
    let list = changed(&mut b, 3);
    assert_eq!(list.items[0].extents, (16..40).collect::<Vec<u64>>(), "blocks of 128 KiB");
}

#[test]
fn what_cannot_be_installed_is_refused() {
    let mut b = brick!();
    let f = b.create(Gfid::ROOT, "f", 1, FILE);
    let mut image = inspect(&mut b, f);
    image.meta = Bytes::from_static(b"garbage");
    assert_eq!(b.call(Install { image, finish: true }), Err(Errno::EINVAL));
    let mut image = inspect(&mut b, f);
    image.attr.mode = 0o040_755;
    assert_eq!(b.call(Install { image, finish: true }), Err(Errno::EINVAL));
    assert!(!inspect(&mut b, gfid(99)).found);
    let name = InstallName { parent: Gfid::ROOT, name: bytes(".brickwork"), gfid: f };
    assert_eq!(b.call(name), Err(Errno::EPERM));
}

/// A small file travels whole, with its record, in one request each way.
#[test]
fn a_small_file_is_inspected_and_installed_with_its_content() {
    let (mut source, mut sink) = (brick!(), brick!());
    let f = source.create(Gfid::ROOT, "f", 1, FILE);
    source.write(f, 0, &[7; 5000]);
    let asked = source.call(Inspect { gfid: f, data_max: 8192 }).unwrap();
    let Answer::Inspected(image) = asked.answer else { panic!("another shape") };
    assert_eq!(asked.payload, vec![7; 5000]);
    assert!(source.call(Inspect { gfid: f, data_max: 4999 }).unwrap().payload.is_empty());
    let half = Install { image: image.clone(), finish: false };
    assert_eq!(sink.with_data(half, &asked.payload), Err(Errno::EINVAL), "not before the end");
    let whole = Install { image: image.clone(), finish: true };
    assert_eq!(sink.with_data(whole.clone(), &[7; 4999]), Err(Errno::EINVAL), "not in parts");
    assert!(!inspect(&mut sink, f).found);
    sink.with_data(whole.clone(), &asked.payload).unwrap();
    assert_eq!(sink.read(f), vec![7; 5000]);
    assert_eq!(inspect(&mut sink, f).meta, image.meta);
    // Over what is there, too, and longer than it.
    source.write(f, 0, &[8; 3]);
    let asked = source.call(Inspect { gfid: f, data_max: 8192 }).unwrap();
    let Answer::Inspected(image) = asked.answer else { panic!("another shape") };
    sink.with_data(Install { image, finish: true }, &asked.payload).unwrap();
    assert_eq!(sink.read(f), source.read(f));
    // A hole is no content: it goes the way of the blocks.
    let hole = source.create(Gfid::ROOT, "hole", 2, FILE);
    source.write(hole, 6 << 20, b"x");
    assert!(source.call(Inspect { gfid: hole, data_max: 8 << 20 }).unwrap().payload.is_empty());
}
