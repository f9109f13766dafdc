use super::*;

#[tokio::test]
async fn a_lower_version_is_ignored() {
    let pool = Pool::start(1, 3).await;
    let old = pool.control.maps.borrow().clone();
    pool.evict(2);
    until(|| pool.session.map().version == 2).await;
    pool.control.maps.send_replace(old);
    settle().await;
    assert_eq!(pool.session.map().version, 2);
    assert_eq!(pool.session.map().sets[0].epoch, Epoch(2));
}

#[tokio::test]
async fn a_broken_stream_is_opened_again() {
    let pool = Pool::start(1, 3).await;
    pool.control.broken.send_replace(1);
    until(|| pool.control.opened.load(Relaxed) == 2).await;
    pool.evict(2);
    until(|| pool.session.map().version == 2).await;
}

/// A peer that was cut off from the pool keeps its streams open and says nothing.
#[tokio::test]
async fn a_stream_that_hides_the_epoch_of_the_members_is_left() {
    let pool = Pool::start(1, 3).await;
    for brick in &pool.bricks {
        brick.set_epoch(2);
    }
    let writing = pool.begin(write(gfid(1)));
    until(|| pool.control.opened.load(Relaxed) >= 2).await;
    pool.remap(|map| map.sets[0].epoch = Epoch(2));
    writing.await.unwrap().unwrap();
}
