//! How much a heal copies at once: as much as the clients do not feel.
//!
//! The lead's pings carry how long its clients wait for an answer. Above twice of what they
//! waited when the heal began, it halves what it does at once; below, it adds one.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use proto_rules::Tick;
use proto_rules::time::MS;

/// Inodes at work at once: enough to fill a round trip, few enough to spare the foreground.
const AT_ONCE_MAX: usize = 16;
/// Pings come each 300 ms, and each carries a new figure.
const EVERY: u64 = 300 * MS;
/// Waits this short are not worth slowing a heal for.
const CALM_US_MIN: u64 = 500;

#[derive(Debug)]
pub struct Pace {
    at_once: AtomicUsize,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    last: Option<Tick>,
    /// The clients' wait before the heal was felt.
    calm_us: Option<u64>,
}

impl Default for Pace {
    fn default() -> Self {
        Self { at_once: AtomicUsize::new(AT_ONCE_MAX), seen: Mutex::default() }
    }
}

impl Pace {
    pub fn at_once(&self) -> usize {
        self.at_once.load(Ordering::Relaxed)
    }

    /// `wait_us` is 0 when nobody waits.
    pub fn hear(&self, now: Tick, wait_us: u64) {
        let mut seen = self.seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if seen.last.is_some_and(|last| now.since(last) < EVERY) {
            return;
        }
        seen.last = Some(now);
        if wait_us == 0 {
            return self.at_once.store(AT_ONCE_MAX, Ordering::Relaxed);
        }
        let calm = *seen.calm_us.get_or_insert(wait_us.max(CALM_US_MIN));
        let felt = wait_us > 2 * calm;
        let at_once = self.at_once();
        let next = if felt { at_once / 2 } else { at_once + 1 };
        self.at_once.store(next.clamp(1, AT_ONCE_MAX), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_heal_gives_way_to_clients_that_wait_longer_and_comes_back() {
        let pace = Pace::default();
        let mut now = Tick(0);
        let mut hear = |us| {
            now = now.after(EVERY);
            pace.hear(now, us);
            pace.at_once()
        };
        assert_eq!(hear(1_000), 16, "as it was when the heal began");
        assert_eq!(hear(2_500), 8);
        assert_eq!(hear(9_000), 4);
        assert_eq!((0..9).map(|_| hear(9_000)).last(), Some(1), "it never stops");
        assert_eq!(hear(1_900), 2);
        assert_eq!(hear(0), 16, "nobody waits");
    }

    #[test]
    fn one_figure_counts_once() {
        let pace = Pace::default();
        pace.hear(Tick(1), 1_000);
        pace.hear(Tick(1).after(EVERY), 5_000);
        pace.hear(Tick(1).after(EVERY + MS), 5_000);
        assert_eq!(pace.at_once(), 8);
    }
}
