use proto::fop::{Fop, Op};
use proto::frame::Flags;
use proto::{Refusal, Stamp};

use super::*;
use crate::scripted_brick::{Act, TIME_NS};

#[tokio::test]
async fn a_write_succeeds_only_when_all_members_have_answered() {
    let pool = Pool::start(1, 3).await;
    pool.bricks[2].will(Op::Write, [Act::Hold]);
    let writing = pool.begin(write(gfid(1)));
    for brick in &pool.bricks {
        brick.arrived(Op::Write, 1).await;
    }
    settle().await;
    assert!(!writing.is_finished(), "one member has not answered");
    pool.bricks[2].release();
    writing.await.unwrap().unwrap();
    for brick in &pool.bricks {
        assert_eq!(brick.file(gfid(1)), b"data");
        let seen = &brick.seen(Op::Write)[0];
        assert_eq!((seen.header.seq, seen.header.session), (1, 7));
    }
}

#[tokio::test]
async fn a_change_carries_its_leases_number_and_the_leads_time() {
    let pool = Pool::start(1, 3).await;
    pool.call(write(gfid(1))).await.unwrap();
    pool.call(write(gfid(1))).await.unwrap();
    let number = pool.bricks[0].number(LeaseKey::Inode(gfid(1)));
    let mut stamps = Vec::new();
    for brick in &pool.bricks {
        let seen = brick.seen(Op::Write);
        assert!(seen.iter().all(|s| s.head.under[0].number == number));
        stamps.push(seen.iter().map(|s| s.header.stamp).collect::<Vec<_>>());
    }
    assert!(stamps.iter().all(|s| *s == stamps[0]), "the same on every member");
    assert!(stamps[0][0] < stamps[0][1] && stamps[0][0] >= TIME_NS);
    assert!(stamps[0][1] < TIME_NS + 10_000_000_000);
}

#[tokio::test]
async fn a_member_that_dies_under_a_write_is_waited_for_until_the_next_epoch() {
    let pool = Pool::start(1, 3).await;
    pool.bricks[2].will(Op::Write, [Act::Hold]);
    let writing = pool.begin(write(gfid(1)));
    pool.bricks[2].arrived(Op::Write, 1).await;
    pool.bricks[2].kill();
    settle().await;
    assert!(!writing.is_finished(), "no map says that it is out");
    pool.evict(2);
    writing.await.unwrap().unwrap();
    for brick in &pool.bricks[..2] {
        let seen = brick.seen(Op::Write);
        assert_eq!(seen.len(), 2);
        assert_eq!((seen[0].header.seq, seen[1].header.seq), (1, 1), "the same change");
        assert_eq!((seen[0].header.epoch, seen[1].header.epoch), (1, 2));
        assert!(!seen[0].header.flags.has(Flags::RESEND));
        assert!(seen[1].header.flags.has(Flags::RESEND));
    }
}

#[tokio::test]
async fn a_broken_connection_is_made_anew_and_the_change_sent_again() {
    for executed in [false, true] {
        let pool = Pool::start(1, 3).await;
        pool.bricks[1].will(Op::Write, [Act::Cut { executed }]);
        pool.call(write(gfid(1))).await.unwrap();
        let seen = pool.bricks[1].seen(Op::Write);
        assert_eq!(seen.len(), 2);
        assert!(seen[1].header.flags.has(Flags::RESEND));
        assert_eq!(seen[0].header.seq, seen[1].header.seq);
        assert_eq!(pool.bricks[0].seen(Op::Write).len(), 1, "the others are left alone");
    }
}

#[tokio::test]
async fn a_member_that_is_back_in_the_same_epoch_gets_the_change_again() {
    let pool = Pool::start(1, 3).await;
    pool.bricks[1].will(Op::Write, [Act::Hold]);
    let writing = pool.begin(write(gfid(1)));
    pool.bricks[1].arrived(Op::Write, 1).await;
    pool.bricks[1].kill();
    settle().await;
    pool.bricks[1].release();
    pool.bricks[1].revive();
    writing.await.unwrap().unwrap();
    assert_eq!(pool.bricks[1].file(gfid(1)), b"data");
}

#[tokio::test]
async fn a_member_in_a_later_epoch_makes_the_change_wait_for_the_map() {
    let pool = Pool::start(1, 3).await;
    pool.exclusive(gfid(1)).await;
    for brick in &pool.bricks {
        brick.set_epoch(2);
    }
    let writing = pool.begin(write(gfid(1)));
    pool.bricks[1].arrived(Op::Write, 2).await;
    assert!(!writing.is_finished());
    pool.remap(|map| map.sets[0].epoch = Epoch(2));
    writing.await.unwrap().unwrap();
    let seen = pool.bricks[1].seen(Op::Write);
    let last = &seen.last().unwrap().header;
    assert_eq!((last.epoch, last.seq), (2, 1));
}

#[tokio::test]
async fn refusals_for_a_while_are_waited_out() {
    let pool = Pool::start(1, 3).await;
    pool.exclusive(gfid(1)).await;
    let moods = [Refusal::NotServing, Refusal::Grace, Refusal::Busy, Refusal::Failed];
    pool.bricks[1].will(Op::Write, moods.map(Act::Refuse));
    pool.call(write(gfid(1))).await.unwrap();
    assert_eq!(pool.bricks[1].seen(Op::Write).len(), 5);
    assert_eq!(pool.bricks[0].seen(Op::Write).len(), 1);
}

#[tokio::test]
async fn a_change_answered_twice_is_done_once() {
    let pool = Pool::start(1, 3).await;
    pool.bricks[0].will(Op::Write, [Act::Twice]);
    pool.call(write(gfid(1))).await.unwrap();
    pool.call(write(gfid(1))).await.unwrap();
    assert_eq!(pool.session.counters().unexpected_replies.load(Relaxed), 1);
}

#[tokio::test]
async fn an_errno_of_all_members_is_the_operations_result() {
    let pool = Pool::start(1, 3).await;
    for brick in &pool.bricks {
        brick.will(Op::Create, [Act::Fail(Errno::EEXIST)]);
    }
    assert_eq!(errno(pool.call(create(1)).await), Errno::EEXIST);
    pool.call(create(1)).await.unwrap();
}

#[tokio::test]
async fn the_settled_mark_rises_when_everybody_has_answered() {
    let pool = Pool::start(1, 3).await;
    pool.bricks[2].will(Op::Write, [Act::Hold]);
    let first = pool.begin(write(gfid(1)));
    pool.bricks[2].arrived(Op::Write, 1).await;
    pool.bricks[2].will(Op::Create, []);
    pool.call(create(2)).await.unwrap();
    let mark = |at: usize| pool.bricks[0].seen(Op::Create)[at].header.mark;
    assert_eq!(mark(0), 0, "the first change is open");
    pool.bricks[2].release();
    first.await.unwrap().unwrap();
    pool.call(create(3)).await.unwrap();
    assert_eq!(mark(1), 2);
    until(|| pool.bricks[1].seen(Op::Renew).iter().any(|s| s.header.mark == 3)).await;
}

/// Members remember 1024 changes above the mark, so no more are sent.
#[tokio::test]
async fn changes_above_the_mark_are_bounded() {
    let pool = Pool::start(1, 3).await;
    pool.exclusive(gfid(1)).await;
    pool.bricks[2].will(Op::Write, [Act::Hold]);
    let writes: Vec<_> = (0..1030).map(|i| pool.begin(write_at(gfid(1), i * 4, b"data"))).collect();
    pool.bricks[0].arrived(Op::Write, 1024).await;
    settle().await;
    let seen = pool.bricks[0].seen(Op::Write);
    assert_eq!(seen.len(), 1024);
    assert_eq!(seen.iter().map(|s| s.header.seq).max(), Some(1024));
    pool.bricks[2].release();
    for write in writes {
        write.await.unwrap().unwrap();
    }
    assert_eq!(pool.bricks[2].file(gfid(1)).len(), 4 * 1030);
}

/// Trap 2.
#[tokio::test]
async fn two_conflicting_changes_are_never_in_flight_together() {
    let pool = Pool::start(1, 3).await;
    pool.exclusive(gfid(1)).await;
    pool.bricks[1].will(Op::Write, [Act::Hold]);
    let first = pool.begin(write_at(gfid(1), 0, b"first"));
    pool.bricks[1].arrived(Op::Write, 1).await;
    let second = pool.begin(write_at(gfid(1), 2, b"2"));
    let other = pool.begin(write_at(gfid(1), 100, b"other"));
    pool.bricks[0].arrived(Op::Write, 2).await;
    settle().await;
    let offsets = |at: usize| -> Vec<u64> {
        let seen = pool.bricks[at].seen(Op::Write);
        let offset = |fop: &Fop| match fop {
            Fop::Write(write) => write.offset,
            _ => unreachable!("a write was asked for"),
        };
        seen.iter().map(|s| offset(&s.fop)).collect()
    };
    assert_eq!(offsets(0), [0, 100], "the overlapping one waits");
    pool.bricks[1].release();
    for write in [first, second, other] {
        write.await.unwrap().unwrap();
    }
    assert_eq!(offsets(0), [0, 100, 2]);
}

/// A change on some members only would leave replicas that differ.
#[tokio::test]
async fn a_change_whose_caller_gave_up_is_finished_all_the_same() {
    let pool = Pool::start(1, 3).await;
    pool.bricks[2].will(Op::Write, [Act::Hold]);
    let writing = pool.begin(write(gfid(1)));
    pool.bricks[2].arrived(Op::Write, 1).await;
    writing.abort();
    assert!(writing.await.unwrap_err().is_cancelled());
    pool.bricks[2].kill();
    pool.evict(2);
    let seen = pool.bricks[1].arrived(Op::Write, 2).await;
    assert_eq!((seen[1].header.epoch, seen[1].header.seq), (2, 1));
    until(|| pool.session.set(SET).unwrap().replica.mark() == 1).await;
}

#[tokio::test]
async fn what_cannot_proceed_ends_in_a_clear_errno() {
    for (refusal, expected) in
        [(Refusal::TooFewInSync, Errno::EROFS), (Refusal::NotServing, Errno::ETIMEDOUT)]
    {
        let pool = Pool::with(1, 3, |map| map.options.op_timeout_s = 1).await;
        pool.exclusive(gfid(1)).await;
        for brick in &pool.bricks {
            brick.will(Op::Write, vec![Act::Refuse(refusal); 200]);
        }
        let begun = std::time::Instant::now();
        assert_eq!(errno(pool.call(write(gfid(1))).await), expected);
        assert!(begun.elapsed() < Duration::from_millis(1500));
    }
}

#[tokio::test]
async fn a_differing_member_is_marked_stale_before_the_acknowledgement() {
    let pool = Pool::start(1, 3).await;
    pool.bricks[2].will(Op::Create, [Act::Differ]);
    pool.bricks[0].will(Op::MarkStale, [Act::Hold]);
    let creating = pool.begin(create(1));
    let marks = pool.bricks[0].arrived(Op::MarkStale, 1).await;
    settle().await;
    assert!(!creating.is_finished());
    pool.bricks[0].release();
    creating.await.unwrap().unwrap();
    let stale = Gfid(*pool.bricks[2].target().brick.as_bytes());
    assert!(matches!(&marks[0].fop, Fop::MarkStale(m) if m.brick == stale && !m.clear));
    let marked: Vec<Gfid> = pool.bricks[0]
        .seen(Op::MarkStale)
        .iter()
        .map(|s| match &s.fop {
            Fop::MarkStale(m) => m.gfid,
            _ => unreachable!("a mark was asked for"),
        })
        .collect();
    assert_eq!(marked, [Gfid::ROOT, gfid(1)], "the directory and the inode");
}

#[tokio::test]
async fn nothing_is_acknowledged_when_a_differing_copy_cannot_be_marked() {
    let pool = Pool::start(1, 3).await;
    pool.bricks[2].will(Op::Create, [Act::Differ]);
    pool.bricks[0].will(Op::MarkStale, [Act::Fail(Errno::EPERM)]);
    assert_eq!(errno(pool.call(create(1)).await), Errno::EIO);
}

#[tokio::test]
async fn a_read_only_volume_changes_nothing() {
    let pool = Pool::with(1, 3, |map| map.options.read_only = true).await;
    assert_eq!(errno(pool.call(create(1)).await), Errno::EROFS);
    assert!(pool.bricks[0].seen(Op::Create).is_empty());
}

/// The budget of trips: one for the lease of a directory's part, then one for each change.
#[tokio::test]
async fn a_create_is_one_parallel_trip() {
    let pool = Pool::start(1, 3).await;
    pool.call(create(1)).await.unwrap();
    pool.call(create(2)).await.unwrap();
    let counters = pool.session.counters();
    assert_eq!((counters.of(Op::Create).trips, counters.of(Op::Create).frames), (2, 6));
    assert_eq!(counters.of(Op::Acquire).trips, 1);
}

#[tokio::test]
async fn buffered_data_keeps_the_time_at_which_it_was_written() {
    let pool = Pool::start(1, 3).await;
    pool.exclusive(gfid(1)).await;
    let stamp = pool.session.stamp();
    let mut call = write(gfid(1));
    call.stamp = stamp;
    pool.call(call).await.unwrap();
    assert_eq!(Stamp(pool.bricks[1].seen(Op::Write)[0].header.stamp), stamp);
}

#[tokio::test]
async fn a_large_write_is_one_frame_to_each_member() {
    let pool = Pool::start(1, 3).await;
    let data: Bytes = vec![0x5a; 4 << 20].into();
    let call = Call::new(Write { gfid: gfid(1), len: 4 << 20, ..Write::default() });
    pool.call(call.with_payload(data.clone())).await.unwrap();
    for brick in &pool.bricks {
        assert_eq!(brick.seen(Op::Write).len(), 1);
        assert_eq!(brick.file(gfid(1)), data);
    }
}
