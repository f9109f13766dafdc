//! Which directories may be bricks, and what is found at a start.

use std::fs;

use proto::fop::{Changed, Link};
use proto::ids::{BrickId, Epoch, Gfid, Incarnation, VolumeId};
use server_store::{Config, FaultDisk, RealDisk, Refused, Store, check};

use crate::brick;
use crate::common::*;

#[test]
fn unusable_directories_are_refused_with_the_next_step() {
    let mut b = brick!();
    let volume = b.new.volume;
    let at = |name: &str| b.xfs.path().join(name);
    let refused = |path: &std::path::Path| check(path, Some(volume), false).unwrap_err();
    assert!(matches!(refused("relative/b".as_ref()), Refused::NotAbsolute(_)));
    assert!(matches!(refused(&at("missing")), Refused::Missing(_)));
    fs::write(at("file"), "").unwrap();
    assert!(matches!(refused(&at("file")), Refused::NotADirectory(_)));
    assert!(matches!(refused("/proc/self".as_ref()), Refused::NoXattrs(..)));
    fs::create_dir(at("full")).unwrap();
    fs::write(at("full/data"), "").unwrap();
    let full = refused(&at("full"));
    assert!(matches!(full, Refused::NotEmpty { .. }));
    assert!(full.to_string().contains("'force'") && full.to_string().contains("data"));
    fs::create_dir_all(at("old/.glusterfs")).unwrap();
    assert!(matches!(refused(&at("old")), Refused::Foreign { .. }));
    assert!(matches!(refused(&b.path), Refused::InUse(_)));
    let other = check(&b.path, Some(VolumeId::random()), false).unwrap_err();
    assert!(matches!(other, Refused::OtherVolume { .. }));
    fs::create_dir(at("good")).unwrap();
    check(&at("good"), Some(volume), false).unwrap();
    assert!(matches!(Store::open(&at("good"), b.new.brick, config()), Err(Refused::NoBrick(_))));
    let locked = Store::open(&b.path, b.new.brick, config());
    assert!(matches!(locked, Err(Refused::Locked(_))));
    b.store = None;
    let wrong = Store::open(&b.path, BrickId::random(), config());
    assert!(matches!(wrong, Err(Refused::WrongBrick { .. })));
}

#[test]
fn force_sets_old_content_aside_and_loses_nothing() {
    let mut b = brick!();
    b.create(Gfid::ROOT, "precious", 1, FILE);
    b.store = None;
    let new = new_brick();
    let store = Store::create(&b.path, &new, true, Config::default()).unwrap();
    drop(store);
    assert!(b.path.join(".brickwork/lost/precious").exists());
    assert!(b.path.join(".brickwork/lost/.brickwork/format").exists());
    let mut store = Store::open(&b.path, new.brick, config()).unwrap();
    assert_eq!(store.getattr(Gfid::ROOT).unwrap().stamp, new.stamp.0);
}

#[test]
fn facts_survive_and_a_clean_end_is_known() {
    let mut b = brick!();
    b.store().set_epoch(Epoch(7)).unwrap();
    for i in 1..=20 {
        b.store().add_incarnation(Incarnation(i)).unwrap();
    }
    b.store().meta_put("floors", b"xyz", true).unwrap();
    let brick = BrickId::random();
    b.store().mark_stale(gfid(1), brick, false).unwrap();
    b.store().mark_stale(gfid(2), brick, false).unwrap();
    b.store().mark_stale(gfid(2), brick, true).unwrap();
    b.reopen();
    assert!(!b.store().opened().clean && !b.store().opened().suspect());
    assert_eq!(b.store().epoch(), Epoch(7));
    assert_eq!(b.store().incarnations().len(), 16);
    assert_eq!(b.store().incarnations().last(), Some(&Incarnation(20)));
    assert_eq!(b.store().meta_get("floors").unwrap().unwrap(), b"xyz");
    assert_eq!(b.store().stale_marks(), [(gfid(1), brick)]);
    assert!(b.store().is_stale(gfid(1), brick));
    b.store.take().unwrap().close().unwrap();
    b.reopen();
    assert!(b.store().opened().clean);
}

fn tree(b: &mut Brick) -> Vec<Gfid> {
    let d = b.create(Gfid::ROOT, "d", 1, DIR);
    let e = b.create(d, "e", 2, DIR);
    let f = b.create(e, "f", 3, FILE);
    b.write(f, 0, b"deep");
    b.call(Link { gfid: f, parent: d, name: bytes("g") }).unwrap();
    let o = b.create(Gfid::ROOT, "o", 4, FILE);
    let unlink = b.unlink("o", o, true);
    b.call(unlink).unwrap();
    vec![d, e, f, o]
}

#[test]
fn a_lost_database_is_rebuilt_and_the_log_says_so() {
    let mut b = brick!();
    let all = tree(&mut b);
    let before: Vec<_> = all.iter().map(|g| b.attr(*g)).collect();
    assert_eq!(b.store().log_complete_since(), 0);
    b.store = None;
    fs::remove_dir_all(b.path.join(".brickwork/db")).unwrap();
    b.reopen();
    assert!(b.store().opened().fresh_db);
    let after: Vec<_> = all.iter().map(|g| b.attr(*g)).collect();
    assert_eq!(before, after);
    let ask = Changed { since: 1, limit: 10, ..Changed::default() };
    let list = b.call(ask).unwrap();
    assert!(matches!(list.answer, proto::fop::Answer::ChangedList(l) if l.compare_all));
}

#[test]
fn a_crawl_cut_off_is_made_again() {
    let Some(mut b) = Brick::new() else { return };
    let all = tree(&mut b);
    b.store = None;
    fs::remove_dir_all(b.path.join(".brickwork/db")).unwrap();
    let (disk, faults) = FaultDisk::new(Box::new(RealDisk));
    faults.arm("read_dir", 1, proto::Errno::ENOMEM);
    let config = Config { disk: Box::new(disk), ..config() };
    assert!(Store::open(&b.path, b.new.brick, config).is_err());
    b.reopen();
    assert!(!b.store().opened().fresh_db && b.store().opened().suspect());
    for gfid in all {
        assert_eq!(b.attr(gfid).gfid, gfid);
    }
}

#[test]
fn a_corrupt_database_is_set_aside_and_rebuilt() {
    let mut b = brick!();
    let all = tree(&mut b);
    b.store = None;
    fs::write(b.path.join(".brickwork/db/CURRENT"), "MANIFEST-999999\n").unwrap();
    let opened = Store::open(&b.path, b.new.brick, config());
    let mut store = opened.expect("rebuilt");
    assert!(store.opened().fresh_db);
    store.getattr(all[2]).unwrap();
}

#[test]
fn a_brick_copied_to_another_disk_is_found_by_names_and_repaired() {
    let mut b = brick!();
    let all = tree(&mut b);
    let before = b.attr(all[2]);
    b.store = None;
    let copy = b.xfs.path().join("copy");
    let done = std::process::Command::new("cp").arg("-a").arg(&b.path).arg(&copy).status();
    assert!(done.unwrap().success());
    let old = fs::rename(&b.path, b.xfs.path().join("gone"));
    old.unwrap();
    fs::remove_dir_all(b.xfs.path().join("gone")).unwrap();
    fs::rename(&copy, &b.path).unwrap();
    b.reopen();
    assert_eq!(b.attr(all[2]), before, "two levels deep, every handle gone");
    assert_eq!(b.attr(all[3]).nlink, 0, "an orphan");
}

/// kill -9 in the middle of a create leaves a file under the name, without a record: operations
/// do not see it, but it would be a difference between the bricks for ever.
#[test]
fn a_create_cut_off_by_a_kill_is_set_aside_at_the_next_start() {
    let mut b = brick!();
    let dir = b.create(Gfid::ROOT, "dir", 1, DIR);
    b.create(dir, "whole", 2, FILE);
    fs::write(b.path.join("dir/cut"), "").unwrap();
    b.reopen();
    assert!(!b.store().opened().clean);
    let names: Vec<_> =
        fs::read_dir(b.path.join("dir")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["whole"]);
    let lost = fs::read_dir(b.path.join(".brickwork/lost")).unwrap().count();
    assert_eq!(lost, 1, "set aside, not thrown away");
    b.create(dir, "cut", 3, FILE);
}

#[test]
fn after_a_clean_end_nothing_is_set_aside() {
    let mut b = brick!();
    b.create(Gfid::ROOT, "dir", 1, DIR);
    b.store.take().unwrap().close().unwrap();
    fs::write(b.path.join("dir/by-hand"), "").unwrap();
    b.reopen();
    assert!(b.store().opened().clean && b.path.join("dir/by-hand").exists());
}

/// The name went to the orphans, and the daemon was killed before it noted that none is left.
#[test]
fn an_orphan_with_a_count_left_is_told_from_a_file_with_names() {
    let mut b = brick!();
    let file = b.create(Gfid::ROOT, "file", 1, FILE);
    let uuid = BrickId::from_bytes(file.0).to_string();
    fs::rename(b.path.join("file"), b.path.join(".brickwork/orphans").join(&uuid)).unwrap();
    let unlinked = b.call(proto::fop::Unlink {
        parent: Gfid::ROOT,
        name: "file".into(),
        expect: file,
        keep: true,
    });
    assert!(unlinked.is_err());
    b.reopen();
    let listed = b.call(Changed { since: u64::MAX, limit: 10, ..Changed::default() }).unwrap();
    let proto::fop::Answer::ChangedList(list) = listed.answer else { panic!() };
    assert_eq!(list.items.iter().map(|i| i.gfid).collect::<Vec<_>>(), [file], "always listed");
    b.call(proto::fop::Forget { gfid: file }).unwrap();
    assert!(b.call(proto::fop::Getattr { gfid: file }).is_err(), "its handle is forgotten too");
}
