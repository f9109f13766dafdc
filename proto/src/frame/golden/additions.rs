//! Fields added to messages whose first bytes were fixed already: the same operations with them set.

use bytes::Bytes;

use super::values::{gfid, lock, name, number, other, parent};
use crate::fop::*;

pub fn arguments() -> Vec<(&'static str, Fop)> {
    let slow = PauseForJoin { epoch: 77, slow_us: 2000, ..PauseForJoin::default() };
    let keeps = PauseForJoin {
        epoch: 77,
        pause_ms: 500,
        joiner: Some(other()),
        keeps: vec![gfid(), parent()],
        ..PauseForJoin::default()
    };
    let tidy = InspectDir {
        gfid: parent(),
        after_hash: 0xfedc_ba98_7654_3210,
        after_name: name(),
        limit: 1000,
        tidy: true,
    };
    let rows = Changed {
        since: 175_000_000,
        after: gfid(),
        limit: 1000,
        advance: false,
        rows: true,
        after_interval: 175_000_001,
    };
    let append = Write { gfid: gfid(), append: true, ..Write::default() };
    let taken = ClearWindows { take_over: vec![by_lead()], ..ClearWindows::default() };
    let data = Inspect { gfid: gfid(), data_max: 65_536 };
    vec![
        ("InspectDir.tidy", tidy.into()),
        ("PauseForJoin.slow", slow.into()),
        ("PauseForJoin.keeps", keeps.into()),
        ("Changed.rows", rows.into()),
        ("Inspect.data", data.into()),
        ("Lock.reclaim", Lock { wait: false, reclaim: true, ..lock() }.into()),
        ("Write.append", append.into()),
        ("ClearWindows.take_over", taken.into()),
    ]
}

fn by_lead() -> UnsettledEntry {
    UnsettledEntry {
        session: 0x1112_1314_1516_1718,
        seq: 304,
        answered: Some(0),
        by_lead: true,
        answer: Bytes::from_static(b"an answer"),
        number: Some(number()),
        ..UnsettledEntry::default()
    }
}

pub fn answers() -> Vec<(&'static str, Op, Answer)> {
    let session = 0x1112_1314_1516_1718;
    let entry =
        |seq, answered| UnsettledEntry { session, seq, answered, ..UnsettledEntry::default() };
    let list = UnsettledList {
        // Success is 0, and present: not the same as no answer yet.
        entries: vec![entry(301, Some(0)), entry(302, Some(28)), entry(303, None)],
        sessions: vec![session],
        graced: 76,
        marks: vec![SettledSeq { session, seq: 300 }],
        stale: vec![MarkStale { gfid: gfid(), brick: other(), clear: false }],
    };
    let item =
        ChangedItem { gfid: gfid(), attrs: true, interval: 175_000_001, ..Default::default() };
    let mark = MarkStale { gfid: gfid(), brick: other(), clear: false };
    let stale = ChangedList { end: true, stale: vec![mark], ..ChangedList::default() };
    let changed = ChangedList { items: vec![item], end: true, ..ChangedList::default() };
    let executed = UnsettledList { entries: vec![by_lead()], ..UnsettledList::default() };
    vec![
        ("Unsettled.by_lead", Op::Unsettled, Answer::UnsettledList(executed)),
        ("Unsettled.settling", Op::Unsettled, Answer::UnsettledList(list)),
        ("Changed.interval", Op::Changed, Answer::ChangedList(changed)),
        ("Changed.stale", Op::Changed, Answer::ChangedList(stale)),
    ]
}
