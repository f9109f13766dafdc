//! Names: create, unlink, rename, link, directories, their order, and re-sent changes.

use proto::attr::Time;
use proto::error::Errno;
use proto::fop::{Answer, Fop, Forget, Link, Readdir, Readlink, Rmdir};
use proto::ids::Gfid;
use proto::placement::name_hash;

use crate::brick;
use crate::common::*;

#[test]
fn every_kind_is_made_with_owner_mode_and_times_exactly() {
    let mut b = brick!();
    let kinds =
        [(1, FILE), (2, DIR), (3, 0o120_777), (4, 0o010_600), (5, 0o140_600), (6, 0o020_640)];
    for (n, mode) in kinds {
        let mut make = create(Gfid::ROOT, &format!("k{n}"), n, mode);
        (make.uid, make.gid, make.rdev) = (1000, 100, if n == 6 { 0x103 } else { 0 });
        if n == 3 {
            make.target = bytes("some/where");
        }
        let made = entry(b.call(make).unwrap());
        assert_eq!((made.mode, made.uid, made.gid, made.nlink), (mode, 1000, 100, 1), "{n}");
        assert_eq!((made.gfid, made.stamp), (gfid(n), b.stamp));
        assert_eq!(made.mtime, Time { sec: 2, nsec: (b.stamp % 1_000_000_000) as u32 });
        assert_eq!(b.lookup(Gfid::ROOT, &format!("k{n}")).unwrap(), made);
    }
    let target = b.call(Readlink { gfid: gfid(3) }).unwrap();
    assert!(matches!(target.answer, Answer::Value(v) if v.bytes == "some/where"));
    assert_eq!(b.attr(gfid(6)).rdev, 0x103);
    b.reopen();
    for (n, mode) in kinds {
        assert_eq!(b.attr(gfid(n)).mode, mode, "by handle after a restart");
    }
}

#[test]
fn a_create_brings_data_xattrs_and_odd_modes() {
    let mut b = brick!();
    let mut make = create(Gfid::ROOT, "f", 1, 0o104_777);
    make.xattrs = vec![proto::fop::XattrMsg { name: bytes("user.a"), value: bytes("b") }];
    make.uid = 77;
    let made = entry(b.with_data(make, b"hello").unwrap());
    assert_eq!((made.mode, made.size), (0o104_777, 5));
    assert_eq!(b.read(gfid(1)), b"hello");
    let plain = std::fs::read(b.path.join("f")).unwrap();
    assert_eq!(plain, b"hello", "the brick is a plain tree");
}

#[test]
fn a_taken_name_is_refused_and_a_resend_is_recognised() {
    let mut b = brick!();
    let make = create(Gfid::ROOT, "f", 1, FILE);
    b.call(make.clone()).unwrap();
    let stamp = b.attr(Gfid::ROOT).stamp;
    assert_eq!(b.call(make.clone()), Err(Errno::EEXIST));
    b.resend(make).unwrap();
    assert_eq!(b.attr(Gfid::ROOT).stamp, stamp, "done once");
    let other = create(Gfid::ROOT, "f", 2, FILE);
    assert_eq!(b.resend(other), Err(Errno::EEXIST));
}

#[test]
fn our_own_folder_is_no_name() {
    let mut b = brick!();
    assert_eq!(b.lookup(Gfid::ROOT, ".brickwork"), Err(Errno::ENOENT));
    let make = create(Gfid::ROOT, ".brickwork", 1, DIR);
    assert_eq!(b.call(make), Err(Errno::EPERM));
    let unlink = b.unlink(".brickwork", Gfid::NIL, false);
    assert_eq!(b.call(unlink), Err(Errno::EPERM));
    assert!(b.names(Gfid::ROOT).is_empty());
    let d = b.create(Gfid::ROOT, "d", 2, DIR);
    b.call(create(d, ".brickwork", 3, FILE)).unwrap();
}

#[test]
fn a_half_made_inode_is_no_name_and_gives_way() {
    let mut b = brick!();
    let d = b.create(Gfid::ROOT, "d", 9, DIR);
    std::fs::write(b.path.join("d/f"), "put here by hand").unwrap();
    assert_eq!(b.lookup(d, "f"), Err(Errno::ENOENT));
    assert!(b.names(d).is_empty());
    b.create(d, "f", 1, FILE);
    assert_eq!(b.lookup(d, "f").unwrap().size, 0);
    std::fs::write(b.path.join("d/g"), "again").unwrap();
    let unlink =
        Fop::from(proto::fop::Unlink { parent: d, name: bytes("f"), expect: gfid(1), keep: false });
    b.call(unlink).unwrap();
    b.call(Rmdir { parent: Gfid::ROOT, name: bytes("d"), expect: d }).unwrap();
    let lost = std::fs::read_dir(b.path.join(".brickwork/lost")).unwrap().count();
    assert_eq!(lost, 2, "set aside, never deleted");
}

#[test]
fn links_count_in_the_record() {
    let mut b = brick!();
    let f = b.create(Gfid::ROOT, "a", 1, FILE);
    for name in ["b", "c"] {
        b.call(Link { gfid: f, parent: Gfid::ROOT, name: bytes(name) }).unwrap();
    }
    let again = Link { gfid: f, parent: Gfid::ROOT, name: bytes("c") };
    assert_eq!(b.call(again.clone()), Err(Errno::EEXIST));
    b.resend(again).unwrap();
    assert_eq!(b.attr(f).nlink, 3);
    // The name filed with the handle goes; the inode is still found.
    b.interval = 9;
    let unlink = b.unlink("c", Gfid::NIL, false);
    b.call(unlink).unwrap();
    let ask = proto::fop::Changed { since: 9, limit: 9, ..Default::default() };
    let Answer::ChangedList(list) = b.call(ask).unwrap().answer else { panic!() };
    assert!(list.items.iter().any(|i| i.gfid == f && i.attrs), "its count changed");
    b.reopen();
    assert_eq!(b.attr(f).nlink, 2);
    let d = b.create(Gfid::ROOT, "d", 2, DIR);
    let link = Link { gfid: d, parent: Gfid::ROOT, name: bytes("e") };
    assert_eq!(b.call(link), Err(Errno::EPERM));
}

/// Trap 18: what the brick answered before is gone with its memory, so the state has to tell.
#[test]
fn trap_18_a_removal_sent_again_after_a_restart_is_recognised_by_state() {
    let mut b = brick!();
    let f = b.create(Gfid::ROOT, "f", 1, FILE);
    let d = b.create(Gfid::ROOT, "d", 2, DIR);
    let unlink = b.unlink("f", f, false);
    let rmdir = Rmdir { parent: Gfid::ROOT, name: bytes("d"), expect: d };
    b.call(unlink.clone()).unwrap();
    b.call(rmdir.clone()).unwrap();
    b.reopen();
    assert_eq!(b.call(unlink.clone()), Err(Errno::ENOENT), "a new one has nothing to remove");
    let again = b.resend(unlink.clone()).unwrap();
    assert!(matches!(again.answer, Answer::Unlinked(u) if u.nlink == 0));
    b.resend(rmdir).unwrap();
    // Under another inode's name it was never made, and is not made by mistake.
    b.create(Gfid::ROOT, "f", 3, FILE);
    assert_eq!(b.resend(unlink), Err(Errno::ESTALE));
    assert!(b.lookup(Gfid::ROOT, "f").is_ok());
}

#[test]
fn unlink_keeps_open_inodes_until_they_are_forgotten() {
    let mut b = brick!();
    let f = b.create(Gfid::ROOT, "f", 1, FILE);
    b.write(f, 0, b"data");
    let unlink = b.unlink("f", gfid(7), true);
    assert_eq!(b.call(unlink), Err(Errno::ESTALE), "another inode than expected");
    let unlink = b.unlink("f", f, true);
    b.call(unlink.clone()).unwrap();
    assert_eq!(b.call(unlink.clone()), Err(Errno::ENOENT));
    let again = b.resend(unlink).unwrap();
    assert!(matches!(again.answer, Answer::Unlinked(u) if u.nlink == 0 && u.attr.is_some()));
    b.reopen();
    assert_eq!((b.read(f), b.attr(f).nlink), (b"data".to_vec(), 0));
    assert_eq!(b.store().orphans().unwrap(), [f]);
    b.call(Forget { gfid: f }).unwrap();
    b.call(Forget { gfid: f }).unwrap();
    assert_eq!(b.call(proto::fop::Getattr { gfid: f }), Err(Errno::ESTALE));
}

#[test]
fn directories_go_only_when_empty() {
    let mut b = brick!();
    let d = b.create(Gfid::ROOT, "d", 1, DIR);
    let f = b.create(d, "f", 2, FILE);
    let rmdir = Rmdir { parent: Gfid::ROOT, name: bytes("d"), expect: d };
    assert_eq!(b.call(rmdir.clone()), Err(Errno::ENOTEMPTY));
    let unlink = b.unlink("d", d, false);
    assert_eq!(b.call(unlink), Err(Errno::EISDIR));
    let unlink = proto::fop::Unlink { parent: d, name: bytes("f"), expect: f, keep: false };
    b.call(unlink).unwrap();
    b.call(rmdir.clone()).unwrap();
    b.resend(rmdir.clone()).unwrap();
    assert_eq!(b.call(rmdir), Err(Errno::ENOENT));
    let file = b.create(Gfid::ROOT, "f", 3, FILE);
    let rmdir = Rmdir { parent: Gfid::ROOT, name: bytes("f"), expect: file };
    assert_eq!(b.call(rmdir), Err(Errno::ENOTDIR));
}

#[test]
fn rename_moves_replaces_and_is_recognised() {
    let mut b = brick!();
    let x = b.create(Gfid::ROOT, "x", 1, FILE);
    let y = b.create(Gfid::ROOT, "y", 2, FILE);
    assert_eq!(b.call(rename("x", "y", x, Gfid::NIL)), Err(Errno::ESTALE));
    assert_eq!(b.call(rename("x", "y", y, y)), Err(Errno::ESTALE));
    assert_eq!(b.call(rename("nope", "y", x, y)), Err(Errno::ENOENT));
    let over = proto::fop::Rename { keep: true, ..rename("x", "y", x, y) };
    b.call(over.clone()).unwrap();
    assert_eq!(b.plain_names(Gfid::ROOT), ["y"]);
    assert_eq!((b.attr(x).nlink, b.attr(y).nlink), (1, 0));
    let stamp = b.attr(x).stamp;
    b.resend(over).unwrap();
    assert_eq!(b.attr(x).stamp, stamp);
    let z = b.create(Gfid::ROOT, "z", 3, FILE);
    let no_replace = proto::fop::Rename { flags: 1, ..rename("y", "z", x, Gfid::NIL) };
    assert_eq!(b.call(no_replace), Err(Errno::EEXIST));
    b.call(rename("y", "z", x, z)).unwrap();
    assert_eq!(b.call(proto::fop::Getattr { gfid: z }), Err(Errno::ESTALE), "dropped");
    b.reopen();
    assert_eq!(b.lookup(Gfid::ROOT, "z").unwrap().gfid, x);
}

#[test]
fn exchange_and_directories() {
    let mut b = brick!();
    let d = b.create(Gfid::ROOT, "d", 1, DIR);
    let f = b.create(d, "f", 2, FILE);
    let g = b.create(Gfid::ROOT, "g", 3, FILE);
    b.names(d);
    let swap =
        proto::fop::Rename { to_parent: d, to_name: bytes("f"), flags: 2, ..rename("g", "", g, f) };
    b.call(swap.clone()).unwrap();
    assert_eq!(b.lookup(d, "f").unwrap().gfid, g);
    assert_eq!(b.lookup(Gfid::ROOT, "g").unwrap().gfid, f);
    assert_eq!(b.names(d)[0].gfid, g);
    b.resend(swap).unwrap();
    assert_eq!(b.lookup(d, "f").unwrap().gfid, g);
    let e = b.create(Gfid::ROOT, "e", 4, DIR);
    assert_eq!(b.call(rename("e", "d", e, d)), Err(Errno::ENOTEMPTY));
    b.call(rename("d", "e", d, e)).unwrap();
    assert_eq!(b.lookup(d, "f").unwrap().gfid, g, "children of a moved directory");
    let into_itself =
        proto::fop::Rename { to_parent: d, to_name: bytes("q"), ..rename("e", "", d, Gfid::NIL) };
    assert_eq!(b.call(into_itself), Err(Errno::EINVAL));
}

#[test]
fn rename_onto_another_name_of_the_same_inode_does_nothing() {
    let mut b = brick!();
    let f = b.create(Gfid::ROOT, "a", 1, FILE);
    b.call(Link { gfid: f, parent: Gfid::ROOT, name: bytes("b") }).unwrap();
    b.call(rename("a", "b", f, f)).unwrap();
    assert_eq!(b.plain_names(Gfid::ROOT), ["a", "b"]);
    assert_eq!(b.attr(f).nlink, 2);
}

#[test]
fn listing_is_in_hash_order_and_pages_cover_changes() {
    let mut b = brick!();
    for n in 0..300 {
        b.create(Gfid::ROOT, &format!("file-{n}"), n, FILE);
    }
    let mut seen = Vec::new();
    let (mut hash, mut name) = (0, bytes(""));
    loop {
        let ask = Readdir {
            gfid: Gfid::ROOT,
            after_hash: hash,
            after_name: name.clone(),
            limit: 37,
            plus: true,
        };
        let page = entries(b.call(ask).unwrap());
        for e in page.entries {
            assert_eq!(e.hash, name_hash(&e.name));
            assert_eq!(e.attr.unwrap().gfid, e.gfid);
            (hash, name) = (e.hash, e.name.clone());
            seen.push((e.hash, e.name));
        }
        if page.end {
            break;
        }
    }
    assert_eq!(seen.len(), 300);
    assert!(seen.is_sorted());
    // Kept up to date without a new scan, and the same after one.
    let unlink = b.unlink("file-7", gfid(7), false);
    b.call(unlink).unwrap();
    b.create(Gfid::ROOT, "new", 1000, DIR);
    b.call(rename("file-8", "renamed", gfid(8), Gfid::NIL)).unwrap();
    let kept = b.names(Gfid::ROOT);
    b.reopen();
    assert_eq!(b.names(Gfid::ROOT), kept);
    assert_eq!(kept.len(), 300);
}
