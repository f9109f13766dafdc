use proto::Refusal;
use proto::fop::{Answer, Getattr, Link, Op, Read, Readdir, Statfs};

use super::*;
use crate::scripted_brick::Act;

fn read(n: u8) -> Call {
    Call::new(Read { gfid: gfid(n), offset: 0, len: 4 })
}

fn reads(pool: &Pool) -> Vec<usize> {
    pool.bricks.iter().map(|b| b.seen(Op::Read).len()).collect()
}

#[tokio::test]
async fn without_a_lease_the_lead_is_asked() {
    let pool = Pool::start(1, 3).await;
    for _ in 0..5 {
        pool.call(read(1)).await.unwrap();
    }
    assert_eq!(reads(&pool), [5, 0, 0]);
}

#[tokio::test]
async fn under_a_lease_reads_spread_over_the_members() {
    let pool = Pool::start(1, 3).await;
    pool.call(write(gfid(1))).await.unwrap();
    for brick in &pool.bricks {
        brick.will(Op::Read, vec![Act::Hold; 1]);
    }
    let reading: Vec<_> = (0..6).map(|_| pool.begin(read(1))).collect();
    until(|| reads(&pool) == [2, 2, 2]).await;
    for brick in &pool.bricks {
        brick.release();
    }
    for read in reading {
        assert_eq!(read.await.unwrap().unwrap().payload, b"data"[..]);
    }
    let under = &pool.bricks[1].seen(Op::Read)[0].head.under;
    assert_eq!(under[0].number, pool.bricks[0].number(LeaseKey::Inode(gfid(1))));
}

#[tokio::test]
async fn a_member_that_cannot_answer_is_passed_over() {
    let why = [
        Act::Refuse(Refusal::StaleCopy),
        Act::Refuse(Refusal::NotServing),
        Act::Refuse(Refusal::LeaseNeeded),
        Act::Cut { executed: false },
    ];
    for act in why {
        let pool = Pool::start(1, 3).await;
        pool.call(write(gfid(1))).await.unwrap();
        for brick in &pool.bricks[1..] {
            brick.will(Op::Read, [act.clone()]);
        }
        for _ in 0..3 {
            assert_eq!(pool.call(read(1)).await.unwrap().payload, b"data"[..]);
        }
    }
}

#[tokio::test]
async fn a_read_of_a_member_that_hangs_goes_on_in_the_next_epoch() {
    let pool = Pool::start(1, 3).await;
    pool.bricks[0].will(Op::Read, [Act::Hold]);
    let reading = pool.begin(read(1));
    pool.bricks[0].arrived(Op::Read, 1).await;
    pool.evict(0);
    reading.await.unwrap().unwrap();
    assert_eq!(reads(&pool), [1, 1, 0]);
}

/// Trap 3: bytes in flight are on some members only.
#[tokio::test]
async fn a_range_in_flight_is_not_read_from_members() {
    let pool = Pool::start(1, 3).await;
    pool.exclusive(gfid(1)).await;
    pool.bricks[2].will(Op::Write, [Act::Hold]);
    let writing = pool.begin(write(gfid(1)));
    pool.bricks[2].arrived(Op::Write, 1).await;
    let reading = pool.begin(read(1));
    settle().await;
    assert_eq!(reads(&pool), [0, 0, 0]);
    pool.bricks[2].release();
    writing.await.unwrap().unwrap();
    assert_eq!(reading.await.unwrap().unwrap().payload, b"data"[..]);
}

/// Trap 3, the other way round: the read would show what one member has and the others may never
/// have.
#[tokio::test]
async fn a_change_waits_for_reads_of_what_it_changes() {
    let pool = Pool::start(1, 3).await;
    pool.exclusive(gfid(1)).await;
    for brick in &pool.bricks {
        brick.will(Op::Read, [Act::Hold]);
    }
    let reading = pool.begin(read(1));
    until(|| reads(&pool).iter().sum::<usize>() == 1).await;
    let writing = pool.begin(write(gfid(1)));
    settle().await;
    assert!(pool.bricks.iter().all(|b| b.seen(Op::Write).is_empty()), "the read is under way");
    for brick in &pool.bricks {
        brick.release();
    }
    reading.await.unwrap().unwrap();
    writing.await.unwrap().unwrap();
    assert!(pool.bricks.iter().all(|b| b.seen(Op::Write).len() == 1));
}

/// It may itself wait at the lead, for a lease whose return waits for this very change.
#[tokio::test]
async fn no_change_waits_for_a_read_without_a_lease() {
    let pool = Pool::start(1, 3).await;
    pool.bricks[0].will(Op::Getattr, [Act::Hold]);
    let reading = pool.begin(Call::new(Getattr { gfid: gfid(1) }));
    pool.bricks[0].arrived(Op::Getattr, 1).await;
    pool.call(write(gfid(1))).await.unwrap();
    pool.bricks[0].release();
    reading.await.unwrap().unwrap();
}

#[tokio::test]
async fn what_is_being_changed_is_asked_of_the_lead_only() {
    let pool = Pool::start(1, 3).await;
    pool.exclusive(gfid(1)).await;
    pool.bricks[2].will(Op::Write, [Act::Hold]);
    let writing = pool.begin(write(gfid(1)));
    pool.bricks[2].arrived(Op::Write, 1).await;
    for _ in 0..4 {
        pool.call(Call::new(Getattr { gfid: gfid(1) })).await.unwrap();
    }
    assert_eq!(pool.bricks[0].seen(Op::Getattr).len(), 4);
    pool.bricks[2].release();
    writing.await.unwrap().unwrap();
}

#[tokio::test]
async fn several_sets_answer_as_one() {
    let pool = Pool::start(2, 2).await;
    let root = || Call::new(Getattr { gfid: Gfid::ROOT });
    // The scripted root is no directory; its bucket count is told.
    assert_eq!(errno(pool.call(readdir()).await), Errno::ENOTDIR);
    pool.session.set_of_name(Gfid::ROOT, 64, b"x");
    pool.call(root()).await.unwrap();
    let statfs = pool.call(Call::new(Statfs { gfid: Gfid::ROOT })).await.unwrap();
    let Answer::Statfs(space) = statfs.answer else { panic!("space was asked for") };
    assert_eq!((space.total_bytes, space.free_bytes), (200, 100));
    let Answer::Entries(page) = pool.call(readdir()).await.unwrap().answer else {
        panic!("names were asked for")
    };
    assert!(page.end && page.entries.is_empty());
    for set in [0, 2] {
        assert_eq!(pool.bricks[set].seen(Op::Readdir).len(), 1);
    }
}

fn readdir() -> Call {
    Call::new(Readdir { gfid: Gfid::ROOT, limit: 10, ..Readdir::default() })
}

#[tokio::test]
async fn a_link_to_another_set_is_refused() {
    let pool = Pool::start(2, 2).await;
    let there = (0..)
        .map(|i| format!("n{i}"))
        .find(|n| pool.session.set_of_name(Gfid::ROOT, 64, n.as_bytes()) == SetId(1));
    let name = there.unwrap().into();
    let link = Call::new(Link { gfid: gfid(1), parent: Gfid::ROOT, name });
    assert_eq!(errno(pool.call(link).await), Errno::EXDEV);
}

#[tokio::test]
async fn a_new_gfid_lives_with_its_name() {
    let pool = Pool::start(2, 2).await;
    for i in 0..50 {
        let name = format!("file{i}");
        let gfid = pool.session.new_gfid(Gfid::ROOT, 64, name.as_bytes());
        let set = pool.session.set_of_name(Gfid::ROOT, 64, name.as_bytes());
        assert_eq!(pool.session.set_of_inode(gfid), set);
    }
}
