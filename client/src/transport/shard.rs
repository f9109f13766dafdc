//! Which of a brick's connections the current thread uses.
//!
//! A thread-local number, because the point is that a connection belongs to one thread: passing
//! the number down would let a caller name another thread's.

use std::cell::Cell;
use std::hash::{DefaultHasher, Hash, Hasher};

/// Most worker threads with connections of their own.
pub const WORKERS_MAX: usize = 64;
/// Shards that threads without a number of their own share, by hash.
const SHARED: usize = 4;
/// All lanes of a brick: the background's, the workers', the shared ones.
pub(crate) const LANES: usize = 1 + WORKERS_MAX + SHARED;

thread_local! {
    static SHARD: Cell<Option<usize>> = const { Cell::new(None) };
}

/// Number of a connection within (session, brick), as HELLO tells it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shard(pub(crate) usize);

impl Shard {
    /// Heartbeats and lease traffic of the session; where recalls are best pushed to.
    pub const BACKGROUND: Shard = Shard(0);
}

/// Makes this thread worker `number`, to be called once before its first operation.
///
/// # Panics
/// If `number` is not below `WORKERS_MAX`.
pub fn set_worker(number: usize) {
    assert!(number < WORKERS_MAX, "at most {WORKERS_MAX} worker threads");
    SHARD.set(Some(1 + number));
}

/// The shard of the current thread.
pub fn current() -> Shard {
    Shard(SHARD.get().unwrap_or_else(by_thread))
}

/// Threads of a multi-thread runtime: tasks wander between them anyway, so few lanes do.
fn by_thread() -> usize {
    let mut hasher = DefaultHasher::new();
    std::thread::current().id().hash(&mut hasher);
    1 + WORKERS_MAX + (hasher.finish() % SHARED as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_has_its_own_shard_and_others_share_a_few() {
        let worker = std::thread::spawn(|| {
            set_worker(3);
            current()
        });
        assert_eq!(worker.join().unwrap(), Shard(4));
        let other = std::thread::spawn(current).join().unwrap();
        assert!((1 + WORKERS_MAX..LANES).contains(&other.0));
    }
}
