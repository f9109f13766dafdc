use std::sync::Arc;

use proto::ids::SlotId;

use super::*;
use crate::disk::Health;

fn db() -> (tempfile::TempDir, Db) {
    let dir = tempfile::tempdir().unwrap();
    let db = Db::open(&dir.path().join("db"), Arc::new(Health::default())).unwrap();
    (dir, db)
}

fn gfid(n: u8) -> Gfid {
    Gfid::new(SlotId(n.into()), [n; 14])
}

fn log(log: &mut ChangeLog, db: &Db, interval: u64, touches: &[Touch]) -> usize {
    let mut batch = WriteBatch::default();
    log.add(db, &mut batch, interval, touches).unwrap();
    let n = batch.len();
    db.write(batch, false).unwrap();
    n
}

fn ask(since: u64) -> Changed {
    Changed { since, after: Gfid::NIL, limit: 100, advance: false }
}

#[test]
fn a_hot_inode_is_logged_once_per_interval_and_merged_over_intervals() {
    let (_dir, db) = db();
    let mut l = ChangeLog::begin(&db, 1000).unwrap();
    let write = |mib: u64| Touch::Range { gfid: gfid(1), start: mib << 20, end: (mib << 20) + 9 };
    assert_eq!(log(&mut l, &db, 5, &[write(3)]), 1);
    assert_eq!(log(&mut l, &db, 5, &[write(3)]), 0);
    assert_eq!(log(&mut l, &db, 5, &[write(1), Touch::Attrs(gfid(1))]), 2);
    assert_eq!(log(&mut l, &db, 6, &[write(3), Touch::Name { dir: gfid(2), hash: 1 }]), 2);
    let list = l.changed(&db, &ask(5), &[]).unwrap();
    assert!(list.end && !list.compare_all && list.current == 6);
    assert_eq!(list.items.len(), 2);
    assert_eq!(list.items[0].extents, [1, 3]);
    assert!(list.items[0].attrs && !list.items[0].names);
    assert!(list.items[1].names);
    let list = l.changed(&db, &ask(6), &[]).unwrap();
    assert_eq!(list.items[0].extents, [3]);
}

#[test]
fn pages_cover_everything_once() {
    let (_dir, db) = db();
    let mut l = ChangeLog::begin(&db, 1000).unwrap();
    for n in 1..=25 {
        log(&mut l, &db, 1 + u64::from(n % 3), &[Touch::Attrs(gfid(n))]);
    }
    let (mut after, mut seen) = (Gfid::NIL, Vec::new());
    loop {
        let page =
            l.changed(&db, &Changed { since: 0, after, limit: 4, advance: false }, &[]).unwrap();
        seen.extend(page.items.iter().map(|i| i.gfid));
        if page.end {
            break;
        }
        after = *seen.last().unwrap();
    }
    assert_eq!(seen, (1..=25).map(gfid).collect::<Vec<_>>());
}

#[test]
fn a_lost_or_cut_log_says_compare_everything() {
    let (_dir, db) = db();
    let mut l = ChangeLog::begin(&db, 1000).unwrap();
    for interval in 1..10 {
        log(&mut l, &db, interval, &[Touch::Attrs(gfid(interval as u8))]);
    }
    l.trim(&db, 5).unwrap();
    assert!(l.changed(&db, &ask(4), &[]).unwrap().compare_all);
    assert_eq!(l.changed(&db, &ask(5), &[]).unwrap().items.len(), 5);
    drop(l);
    let l = ChangeLog::open(&db, 1000, false).unwrap();
    assert_eq!((l.complete_since(), l.entries), (5, 5));
    drop(l);
    let mut l = ChangeLog::open(&db, 1000, true).unwrap();
    assert!(l.changed(&db, &ask(5), &[]).unwrap().compare_all);
    drop(l);
    // The gap is still known after a second start that saw none of it.
    let mut l = ChangeLog::open(&db, 1000, false).unwrap();
    log(&mut l, &db, 12, &[Touch::Attrs(gfid(1))]);
    assert_eq!(l.complete_since(), 13);
    assert!(l.changed(&db, &ask(12), &[]).unwrap().compare_all);
    assert!(!l.changed(&db, &ask(13), &[]).unwrap().compare_all);
}

#[test]
fn over_its_bound_the_log_drops_its_older_half() {
    let (_dir, db) = db();
    let mut l = ChangeLog::begin(&db, 20).unwrap();
    for interval in 1..40_u64 {
        log(&mut l, &db, interval, &[Touch::Attrs(gfid(interval as u8))]);
        assert!(l.entries <= 22);
    }
    assert!(l.complete_since() > 10);
    assert!(l.changed(&db, &ask(1), &[]).unwrap().compare_all);
}

#[test]
fn many_extents_become_all_data() {
    let (_dir, db) = db();
    let mut l = ChangeLog::begin(&db, 1000).unwrap();
    for mib in 0..300_u64 {
        let touch = Touch::Range { gfid: gfid(1), start: mib << 20, end: (mib << 20) + 1 };
        log(&mut l, &db, 1, &[touch]);
    }
    let list = l.changed(&db, &ask(1), &[]).unwrap();
    assert!(list.items[0].all_data && list.items[0].extents.is_empty());
}

#[test]
fn a_joiner_takes_over_the_log_and_its_mark() {
    let (_dir, db) = db();
    let mut l = ChangeLog::open(&db, 1000, true).unwrap();
    let item = ChangedItem { gfid: gfid(9), extents: vec![4, 2, 4], ..ChangedItem::default() };
    l.take_over(&db, &[item], 7, 3).unwrap();
    let list = l.changed(&db, &ask(3), &[]).unwrap();
    assert!(!list.compare_all);
    assert_eq!(list.items[0].extents, [2, 4]);
}

#[test]
fn a_closed_interval_takes_no_more_changes() {
    let (_dir, db) = db();
    let mut l = ChangeLog::begin(&db, 1000).unwrap();
    log(&mut l, &db, 5, &[Touch::Attrs(gfid(1))]);
    let list = l.changed(&db, &Changed { advance: true, ..ask(1) }, &[]).unwrap();
    assert_eq!((list.items.len(), list.current), (1, 6));
    // The caller's own count may lag behind; the same inode is logged again all the same.
    log(&mut l, &db, 5, &[Touch::Attrs(gfid(1)), Touch::Attrs(gfid(2))]);
    assert_eq!(l.changed(&db, &ask(list.current), &[]).unwrap().items.len(), 2);
    assert_eq!(l.current(), 6);
    drop(l);
    assert_eq!(ChangeLog::open(&db, 1000, false).unwrap().current(), 6, "also after a restart");
}
