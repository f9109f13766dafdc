use proto::fop::{Fop, Lock, Op, Want};
use proto::{LeaseNumber, Refusal};

use super::*;
use crate::scripted_brick::{Act, Seen};

fn key(n: u8) -> LeaseKey {
    LeaseKey::Inode(gfid(n))
}

fn returns(seen: &[Seen]) -> Vec<(LeaseKey, LeaseNumber, i32, bool)> {
    let returns = seen.iter().flat_map(|s| match &s.fop {
        Fop::Release(release) => release.returns.clone(),
        _ => Vec::new(),
    });
    returns.map(|r| (r.key.into(), r.number, r.keep, r.open)).collect()
}

fn want(key: LeaseKey, mode: Mode) -> Want {
    Want { key: key.into(), mode: mode as i32, ..Want::default() }
}

#[tokio::test]
async fn a_lease_is_asked_for_once_and_kept() {
    let pool = Pool::start(1, 3).await;
    pool.exclusive(gfid(1)).await;
    pool.exclusive(gfid(1)).await;
    assert_eq!(pool.bricks[0].seen(Op::Acquire).len(), 1);
    let held = pool.session.held(SET, key(1)).unwrap();
    assert_eq!(held.mode, Mode::Exclusive);
    let rest = held.until.saturating_duration_since(std::time::Instant::now());
    assert!(rest > Duration::from_millis(900) && rest <= Duration::from_millis(1500), "{rest:?}");
    // Renewed beyond its first term.
    tokio::time::sleep(Duration::from_millis(1700)).await;
    assert!(pool.is_held(gfid(1)));
    assert!(pool.bricks[1].seen(Op::Renew).len() >= 5, "every member hears the heartbeat");
}

#[tokio::test]
async fn a_lease_comes_along_with_a_read_of_the_lead() {
    let pool = Pool::start(1, 3).await;
    let getattr = Call::new(proto::fop::Getattr { gfid: gfid(1) });
    let wants = vec![want(key(1), Mode::Shared)];
    let done = pool.session.call(getattr.clone(), wants.clone()).await.unwrap();
    assert_eq!(done.grants.len(), 1);
    assert_eq!(pool.session.held(SET, key(1)).unwrap().mode, Mode::Shared);
    pool.session.call(getattr, wants).await.unwrap();
    let asked: usize = pool.bricks.iter().map(|b| asked_for(b, Op::Getattr)).sum();
    assert_eq!(asked, 1, "what is held is not asked for again");
}

fn asked_for(brick: &ScriptedBrick, op: Op) -> usize {
    brick.seen(op).iter().filter(|s| !s.head.wants.is_empty()).count()
}

#[tokio::test]
async fn a_recalled_lease_goes_back_when_its_last_user_is_done() {
    let pool = Pool::start(1, 3).await;
    let keeper = pool.keeper();
    pool.exclusive(gfid(1)).await;
    let number = pool.bricks[0].number(key(1));
    let guard = pool.session.hold(SET, key(1), Mode::Exclusive).unwrap();
    pool.bricks[0].recall(key(1), Mode::None);
    until(|| lock(&keeper.recalls).contains(&(key(1), Mode::None))).await;
    settle().await;
    assert!(pool.bricks[0].seen(Op::Release).is_empty(), "it is in use");
    assert!(!pool.is_held(gfid(1)), "but nothing new begins under it");
    assert!(pool.session.hold(SET, key(1), Mode::Shared).is_none());
    drop(guard);
    let seen = pool.bricks[0].arrived(Op::Release, 1).await;
    assert_eq!(returns(&seen), [(key(1), number, Mode::None as i32, false)]);
    // And is asked for anew.
    pool.call(write(gfid(1))).await.unwrap();
    assert_eq!(pool.bricks[0].seen(Op::Acquire).len(), 2);
}

#[tokio::test]
async fn the_keeper_writes_back_under_the_recalled_lease() {
    let pool = Pool::start(1, 3).await;
    let keeper = pool.keeper();
    pool.exclusive(gfid(1)).await;
    let mut dirty = write(gfid(1));
    dirty.stamp = pool.session.stamp();
    *lock(&keeper.write_back) = Some((pool.session.clone(), dirty));
    let number = pool.bricks[0].number(key(1));
    pool.bricks[0].recall(key(1), Mode::Shared);
    let seen = pool.bricks[0].arrived(Op::Release, 1).await;
    assert!(lock(&keeper.written)[0].is_ok());
    assert_eq!(pool.bricks[2].seen(Op::Write)[0].head.under[0].number, number);
    assert_eq!(returns(&seen), [(key(1), number, Mode::Shared as i32, false)]);
    until(|| pool.is_held(gfid(1))).await;
    assert_eq!(pool.session.held(SET, key(1)).unwrap().mode, Mode::Shared);
    lock(&keeper.write_back).take();
}

#[tokio::test]
async fn a_change_under_way_keeps_its_lease_until_it_is_settled() {
    let pool = Pool::start(1, 3).await;
    pool.bricks[1].will(Op::Write, [Act::Hold]);
    let writing = pool.begin(write(gfid(1)));
    pool.bricks[1].arrived(Op::Write, 1).await;
    pool.bricks[0].recall(key(1), Mode::None);
    settle().await;
    assert!(pool.bricks[0].seen(Op::Release).is_empty());
    pool.bricks[1].release();
    writing.await.unwrap().unwrap();
    pool.bricks[0].arrived(Op::Release, 1).await;
}

#[tokio::test]
async fn an_open_file_is_pinned_by_its_returned_lease_and_unpinned_by_its_close() {
    let pool = Pool::start(1, 3).await;
    pool.session.set_open(gfid(1), true);
    pool.exclusive(gfid(1)).await;
    pool.bricks[0].recall(key(1), Mode::None);
    let seen = pool.bricks[0].arrived(Op::Release, 1).await;
    assert!(returns(&seen)[0].3);
    pool.session.set_open(gfid(1), false);
    let seen = pool.bricks[0].arrived(Op::Release, 2).await;
    assert!(matches!(&seen[1].fop, Fop::Release(r) if r.unpin == [gfid(1)]));
}

#[tokio::test]
async fn a_recall_of_something_not_held_is_answered() {
    let pool = Pool::start(1, 3).await;
    pool.exclusive(gfid(1)).await;
    let number = LeaseNumber { base: 1, counter: 99 };
    let recall = proto::fop::Recall { key: key(9).into(), number, keep: 0 };
    pool.bricks[0].push(recall);
    let seen = pool.bricks[0].arrived(Op::Release, 1).await;
    assert_eq!(returns(&seen), [(key(9), number, 0, false)]);
}

/// A recall may be read before the grant that it is about, on another connection.
#[tokio::test]
async fn a_recall_that_overtakes_its_grant_is_honoured() {
    let pool = Pool::start(1, 3).await;
    pool.exclusive(gfid(1)).await;
    pool.bricks[0].will(Op::Acquire, [Act::Hold]);
    let session = pool.session.clone();
    let asking = tokio::spawn(async move {
        let _ = session.acquire(SET, key(2), Mode::Exclusive).await;
    });
    pool.bricks[0].arrived(Op::Acquire, 2).await;
    // The number that the held request will be granted.
    let next = pool.bricks[0].number(key(1)).counter + 1;
    let number = LeaseNumber { base: 1, counter: next };
    pool.bricks[0].push(proto::fop::Recall { key: key(2).into(), number, keep: 0 });
    settle().await;
    assert!(pool.bricks[0].seen(Op::Release).is_empty());
    pool.bricks[0].release();
    let seen = pool.bricks[0].arrived(Op::Release, 1).await;
    assert_eq!(returns(&seen)[0].1, number);
    asking.abort();
}

/// Another session may find a new file, and want it, before its creator has the answer.
#[tokio::test]
async fn a_recall_of_a_created_inode_waits_for_the_creates_answer() {
    let pool = Pool::start(1, 3).await;
    pool.call(create(1)).await.unwrap();
    pool.bricks[2].will(Op::Create, [Act::Hold]);
    let session = pool.session.clone();
    let wants = vec![want(key(2), Mode::Exclusive)];
    let creating = tokio::spawn(async move { session.call(create(2), wants).await });
    pool.bricks[2].arrived(Op::Create, 2).await;
    pool.bricks[0].recall(key(2), Mode::None);
    pool.bricks[0].push(proto::fop::Recall {
        key: key(3).into(),
        number: LeaseNumber { base: 1, counter: 99 },
        keep: 0,
    });
    settle().await;
    assert!(pool.bricks[0].seen(Op::Release).is_empty());
    pool.bricks[2].release();
    creating.await.unwrap().unwrap();
    let seen = pool.bricks[0].arrived(Op::Release, 2).await;
    let mut keys: Vec<LeaseKey> = returns(&seen).iter().map(|r| r.0).collect();
    keys.sort();
    assert_eq!(keys, [key(2), key(3)]);
    assert!(!pool.is_held(gfid(2)));
}

#[tokio::test]
async fn pins_are_told_to_a_new_lead_too() {
    let pool = Pool::start(1, 3).await;
    pool.session.set_open(gfid(5), true);
    pool.bricks[0].kill();
    pool.evict(0);
    let told = &pool.bricks[1].arrived(Op::Acquire, 1).await[0].head.wants;
    assert!(told.len() == 1 && told[0].open && told[0].reclaim.is_none());
    assert_eq!((LeaseKey::from(told[0].key), told[0].mode), (key(5), 0));
}

/// Trap 22.
#[tokio::test]
async fn an_overdue_lease_is_given_back_without_its_push() {
    let pool = Pool::start(1, 3).await;
    let keeper = pool.keeper();
    pool.exclusive(gfid(1)).await;
    pool.bricks[0].set_overdue(vec![key(1)]);
    until(|| lock(&keeper.recalls).contains(&(key(1), Mode::None))).await;
    pool.bricks[0].arrived(Op::Release, 1).await;
}

#[tokio::test]
async fn leases_run_out_when_the_lead_stops_answering() {
    let pool = Pool::start(1, 3).await;
    pool.exclusive(gfid(1)).await;
    pool.bricks[0].kill();
    assert!(pool.is_held(gfid(1)), "for the rest of its term");
    tokio::time::sleep(Duration::from_millis(1550)).await;
    assert!(!pool.is_held(gfid(1)));
    assert!(pool.session.hold(SET, key(1), Mode::Shared).is_none());
}

#[tokio::test]
async fn a_lead_that_cannot_renew_extends_nothing() {
    let pool = Pool::start(1, 3).await;
    pool.exclusive(gfid(1)).await;
    pool.bricks[0].set_term(0);
    tokio::time::sleep(Duration::from_millis(1900)).await;
    assert!(!pool.is_held(gfid(1)));
}

#[tokio::test]
async fn a_forgotten_session_loses_its_leases_and_says_hello_again() {
    let pool = Pool::start(1, 3).await;
    let keeper = pool.keeper();
    pool.exclusive(gfid(1)).await;
    pool.bricks[0].arrived(Op::Renew, 1).await;
    let hellos = pool.bricks[0].hellos().len();
    pool.bricks[0].forget_session();
    until(|| lock(&keeper.lost).contains(&key(1))).await;
    pool.call(write(gfid(1))).await.unwrap();
    assert!(pool.bricks[0].hellos().len() > hellos);
}

#[tokio::test]
async fn a_new_lead_is_asked_to_take_over_exclusive_leases() {
    let pool = Pool::start(1, 3).await;
    let keeper = pool.keeper();
    for n in [1, 2] {
        pool.exclusive(gfid(n)).await;
    }
    let getattr = Call::new(proto::fop::Getattr { gfid: gfid(3) });
    let shared = vec![want(key(3), Mode::Shared)];
    pool.session.call(getattr, shared).await.unwrap();
    let numbers = [1, 2].map(|n| pool.bricks[0].number(key(n)));
    pool.bricks[1].withhold(key(2));
    pool.bricks[0].kill();
    pool.evict(0);
    let claims = &pool.bricks[1].arrived(Op::Acquire, 1).await[0].head.wants;
    let claimed: Vec<_> = claims
        .iter()
        .map(|w| (LeaseKey::from(w.key), w.reclaim.unwrap(), w.last_renewed_epoch))
        .collect();
    assert_eq!(claimed, [(key(1), numbers[0], 1), (key(2), numbers[1], 1)]);
    until(|| pool.is_held(gfid(1))).await;
    let mut lost = lock(&keeper.lost).clone();
    lost.sort();
    assert_eq!(lost, [key(2), key(3)], "the refused and the shared one");
}

/// Under the old number every member would refuse the change.
#[tokio::test]
async fn a_change_across_a_change_of_lead_is_sent_again_under_the_reclaimed_number() {
    let pool = Pool::start(1, 3).await;
    pool.exclusive(gfid(1)).await;
    pool.bricks[0].will(Op::Write, [Act::Hold]);
    let writing = pool.begin(write(gfid(1)));
    pool.bricks[0].arrived(Op::Write, 1).await;
    pool.bricks[1].will(Op::Acquire, [Act::Refuse(Refusal::Busy), Act::Refuse(Refusal::Grace)]);
    pool.bricks[0].kill();
    pool.evict(0);
    writing.await.unwrap().unwrap();
    let number = pool.bricks[1].number(key(1));
    let seen = pool.bricks[2].seen(Op::Write);
    assert_eq!(seen.len(), 2);
    assert_eq!((seen[1].header.epoch, seen[1].header.seq), (2, 1));
    assert_eq!(seen[1].head.under[0].number, number);
}

#[tokio::test]
async fn data_buffered_under_a_lost_lease_is_an_io_error_and_a_new_write_is_not() {
    let pool = Pool::start(1, 3).await;
    let keeper = pool.keeper();
    pool.exclusive(gfid(1)).await;
    let mut buffered = write(gfid(1));
    buffered.stamp = pool.session.stamp();
    pool.bricks[0].arrived(Op::Renew, 1).await;
    pool.bricks[0].forget_session();
    until(|| lock(&keeper.lost).contains(&key(1))).await;
    assert_eq!(errno(pool.call(buffered).await), Errno::EIO);
    assert!(pool.bricks[1].seen(Op::Write).is_empty());
    pool.call(write(gfid(1))).await.unwrap();
}

#[tokio::test]
async fn a_refused_lease_number_makes_a_change_ask_again_and_buffered_data_fail() {
    let pool = Pool::start(1, 3).await;
    for buffered in [false, true] {
        pool.exclusive(gfid(1)).await;
        for brick in &pool.bricks {
            brick.will(Op::Write, [Act::Refuse(Refusal::StaleLease)]);
        }
        let mut call = write(gfid(1));
        if buffered {
            call.stamp = pool.session.stamp();
        }
        let outcome = pool.call(call).await;
        if buffered {
            assert_eq!(errno(outcome), Errno::EIO);
        } else {
            outcome.unwrap();
        }
    }
}

#[tokio::test]
async fn a_session_that_ends_gives_everything_back_and_says_goodbye() {
    let pool = Pool::start(1, 3).await;
    pool.exclusive(gfid(1)).await;
    pool.call(create(2)).await.unwrap();
    pool.session.close().await;
    let keys: Vec<LeaseKey> =
        returns(&pool.bricks[0].seen(Op::Release)).iter().map(|r| r.0).collect();
    assert_eq!(keys.len(), 2, "{keys:?}");
    assert!(keys.contains(&key(1)) && keys.contains(&LeaseKey::Part(Gfid::ROOT)));
    let renewals = pool.bricks[0].seen(Op::Renew).len();
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert_eq!(pool.bricks[0].seen(Op::Renew).len(), renewals, "the heart has stopped");
}

fn lock_of(n: u8, kind: u32) -> Call {
    Call::new(Lock { gfid: gfid(n), owner: 3, pid: 1, end: 100, kind, ..Lock::default() })
}

/// DESIGN 8: a new lead knows of no locks. They are claimed before the last of the leases, which
/// may end its grace; what was unlocked is not.
#[tokio::test]
async fn locks_are_claimed_from_a_new_lead_and_those_refused_are_lost() {
    let pool = Pool::start(1, 3).await;
    let keeper = pool.keeper();
    for (n, kind) in [(1, 2), (2, 2), (3, 2), (3, 0)] {
        pool.call(lock_of(n, kind)).await.unwrap();
    }
    pool.exclusive(gfid(1)).await;
    // One of the two claims comes too late.
    pool.bricks[1].will(Op::Lock, [Act::Refuse(Refusal::StaleLease)]);
    pool.bricks[0].kill();
    pool.evict(0);
    pool.bricks[1].arrived(Op::Acquire, 1).await;
    let claims = pool.bricks[1].seen(Op::Lock);
    let mut claimed = Vec::new();
    for seen in &claims {
        let Fop::Lock(lock) = seen.fop else { panic!() };
        assert!(lock.reclaim && !lock.wait && lock.kind == 2 && lock.owner == 3);
        claimed.push(lock.gfid);
    }
    until(|| lock(&keeper.locks_lost).len() == 1).await;
    assert!(claimed.contains(&lock(&keeper.locks_lost)[0]));
    claimed.sort();
    assert_eq!(claimed, [gfid(1), gfid(2)], "once each, and not what was unlocked");
    // The next lead is not asked for the lost one.
    pool.bricks[1].kill();
    pool.evict(1);
    pool.bricks[2].arrived(Op::Acquire, 1).await;
    assert_eq!(pool.bricks[2].seen(Op::Lock).len(), 1);
}

/// The old lead's answer came, and nobody has told the new one.
#[tokio::test]
async fn a_lock_that_the_old_lead_granted_last_is_asked_of_the_new_one() {
    let pool = Pool::start(1, 3).await;
    pool.bricks[0].will(Op::Lock, [Act::Hold]);
    let locking = pool.begin(lock_of(1, 2));
    pool.bricks[0].arrived(Op::Lock, 1).await;
    pool.evict(0);
    pool.bricks[1].arrived(Op::Lock, 1).await;
    locking.await.unwrap().unwrap();
    let Fop::Lock(asked) = pool.bricks[1].seen(Op::Lock)[0].fop else { panic!() };
    assert!(!asked.reclaim, "a lock like any other");
}

#[tokio::test]
async fn the_locks_of_a_session_that_was_taken_for_dead_are_lost() {
    let pool = Pool::start(1, 3).await;
    let keeper = pool.keeper();
    pool.call(lock_of(1, 2)).await.unwrap();
    pool.bricks[0].forget_session();
    until(|| *lock(&keeper.locks_lost) == [gfid(1)]).await;
}
