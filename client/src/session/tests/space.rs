//! Space lent by the lead.

use proto::Errno;
use proto::fop::{Fallocate, Fop, Op};

use super::*;

fn fallocate(len: u64) -> Call {
    Call::new(Fallocate { gfid: gfid(1), mode: 0, offset: 0, len })
}

#[tokio::test]
async fn what_the_lead_does_not_lend_is_refused_before_anything_is_sent() {
    let pool = Pool::start(1, 3).await;
    pool.bricks[0].set_space_limit(1 << 20);
    pool.bricks[0].arrived(Op::Renew, pool.bricks[0].seen(Op::Renew).len() + 1).await;
    settle().await;
    let refused = pool.session.call(fallocate(1 << 30), Vec::new()).await;
    assert_eq!(refused.unwrap_err(), Errno::ENOSPC.into());
    assert!(pool.bricks.iter().all(|b| b.seen(Op::Fallocate).is_empty()));
    let asked = pool.bricks[0].seen(Op::Renew);
    let need = asked.iter().filter_map(|s| match &s.fop {
        Fop::Renew(renew) => Some(renew.need),
        _ => None,
    });
    assert_eq!(need.max(), Some(1 << 30), "the lead was asked first");
    // What there is can be had.
    pool.call(fallocate(1 << 20)).await.unwrap();
    assert_eq!(pool.bricks[2].seen(Op::Fallocate).len(), 1);
}

#[tokio::test]
async fn a_higher_limit_is_asked_for_at_once() {
    let pool = Pool::start(1, 3).await;
    pool.bricks[0].set_space_limit(0);
    pool.bricks[0].arrived(Op::Renew, pool.bricks[0].seen(Op::Renew).len() + 1).await;
    settle().await;
    // Only the lead's word counts.
    pool.bricks[1].set_space_limit(1 << 50);
    assert!(pool.session.call(fallocate(1), Vec::new()).await.is_err());
    pool.bricks[0].set_space_limit(1 << 30);
    pool.call(fallocate(1 << 30)).await.unwrap();
}
