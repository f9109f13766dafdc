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
    Changed { since, limit: 100, ..Changed::default() }
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
    assert_eq!(list.items[0].extents, [8, 24], "blocks of 128 KiB");
    assert!(list.items[0].attrs && !list.items[0].names);
    assert!(list.items[1].names);
    let list = l.changed(&db, &ask(6), &[]).unwrap();
    assert_eq!(list.items[0].extents, [24]);
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
        let page = l
            .changed(&db, &Changed { since: 0, after, limit: 4, ..Changed::default() }, &[])
            .unwrap();
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
    for block in 0..2100_u64 {
        let touch = Touch::Range { gfid: gfid(1), start: block << 18, end: (block << 18) + 1 };
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
    l.take_over(&db, &[item], 7, Some(3)).unwrap();
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

/// Healed again and again, a joiner's list is what changed since: the log that it takes over
/// each time keeps its intervals.
#[test]
fn a_log_taken_over_again_and_again_does_not_make_lists_longer() {
    let (_lead_dir, lead_db) = db();
    let (_dir, joiner_db) = db();
    let mut lead = ChangeLog::begin(&lead_db, 1000).unwrap();
    let mut joiner = ChangeLog::begin(&joiner_db, 1000).unwrap();
    for round in 1..=20_u8 {
        let interval = u64::from(round) * 10;
        for n in 0..3 {
            log(&mut lead, &lead_db, interval + n, &[Touch::Attrs(gfid(round))]);
        }
        let (mut after_interval, mut after) = (0, Gfid::NIL);
        loop {
            let ask = Changed { rows: true, after_interval, after, limit: 2, ..Changed::default() };
            let page = lead.changed(&lead_db, &ask, &[]).unwrap();
            let last = page.items.last().map(|i| (i.interval, i.gfid));
            joiner.take_over(&joiner_db, &page.items, interval + 5, None).unwrap();
            if page.end {
                break;
            }
            (after_interval, after) = last.unwrap();
        }
        joiner.take_over(&joiner_db, &[], interval + 5, Some(0)).unwrap();
        assert_eq!((lead.entries, joiner.entries), (3 * usize::from(round), lead.entries));
        // Whoever asks it, once it leads, gets of each round what that round changed.
        let list = joiner.changed(&joiner_db, &ask(interval), &[]).unwrap();
        assert_eq!(list.items.len(), 1, "round {round}");
        assert_eq!(list.items[0].interval, interval + 2);
        assert_eq!(joiner.changed(&joiner_db, &ask(1), &[]).unwrap().items.len(), round.into());
    }
}

/// Extents of 1 MiB in values that an earlier version wrote.
#[test]
fn a_coarse_value_names_all_its_blocks() {
    let mut value = vec![ATTRS];
    value.extend_from_slice(&3_u64.to_le_bytes());
    let delta = Delta::decode(&value);
    assert_eq!((delta.bits, delta.extents), (ATTRS, (24..32).collect()));
}

/// An answer is one message: many extents make shorter pages.
#[test]
fn pages_are_bounded_by_their_extents_too() {
    let (_dir, db) = db();
    let mut l = ChangeLog::begin(&db, 1000).unwrap();
    for n in 0..100 {
        let touch = Touch::Range { gfid: gfid(n), start: 0, end: EXTENTS_MAX as u64 * BLOCK_BYTES };
        log(&mut l, &db, 1, &[touch]);
    }
    for rows in [false, true] {
        let page = l.changed(&db, &Changed { rows, ..ask(1) }, &[]).unwrap();
        assert_eq!((page.items.len(), page.end), (PAGE_EXTENTS_MAX / EXTENTS_MAX, false));
    }
}
