//! How much a heal does at once: as much as the clients do not feel.
//!
//! The lead's pings carry how long its clients wait for an answer. Nobody waits: full speed. Else
//! it begins small, and goes one step down (half as much at once, at last with rests between)
//! whenever they wait twice as long as in their calmest moment, one step up while they do not.
//! Where they wait long although it hardly works, that is not its doing, and counts as calm. Before
//! writers are slowed so that it can get ahead of them, it does more itself.

use std::future::Future;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use proto_rules::Tick;
use proto_rules::time::MS;
use tokio::sync::Notify;

/// Pieces of work at once, and the rest after each in percent of the time that it took.
const STEPS: [(usize, u32); 8] =
    [(1, 900), (1, 400), (1, 200), (1, 100), (1, 0), (2, 0), (4, 0), (16, 0)];
/// Enough to fill the round trips.
const FULL: usize = STEPS.len() - 1;
/// Where it begins beside clients: one core's half at most.
const GENTLE: usize = 3;
/// The most beside clients: full speed is for when nobody waits.
const BUSY_MAX: usize = FULL - 1;
/// Pings come each 300 ms, and each carries a new figure.
const EVERY: u64 = 300 * MS;
/// So many figures at the lowest step are taken for what clients wait without a heal.
const ALONE: u32 = 4;
/// Waits this short are not worth slowing a heal for.
const CALM_US_MIN: u64 = 300;
/// A rest is no longer than this, whatever a slow disk makes of a piece: progress stays visible.
const REST_MAX: Duration = Duration::from_millis(200);

#[derive(Debug)]
pub struct Pace {
    step: AtomicUsize,
    lowest: AtomicUsize,
    at_work: AtomicUsize,
    free: Notify,
    seen: Mutex<Seen>,
}

#[derive(Debug)]
struct Seen {
    last: Option<Tick>,
    /// The shortest wait of the clients that was heard.
    calm_us: Option<u64>,
    /// Long waits one after the other at the lowest step, and the shortest of them.
    at_lowest: (u32, u64),
}

impl Default for Seen {
    fn default() -> Self {
        Self { last: None, calm_us: None, at_lowest: (0, u64::MAX) }
    }
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            step: AtomicUsize::new(FULL),
            lowest: AtomicUsize::new(0),
            at_work: AtomicUsize::new(0),
            free: Notify::new(),
            seen: Mutex::default(),
        }
    }
}

impl Pace {
    fn step(&self) -> (usize, u32) {
        STEPS[self.step.load(Ordering::Relaxed).min(FULL)]
    }

    /// Pieces of work at once.
    pub fn at_once(&self) -> usize {
        self.step().0
    }

    /// Does one piece of work when it is its turn. Pieces are not nested: each waits for others
    /// to end.
    pub async fn run<T>(&self, work: impl Future<Output = T>) -> T {
        let turn = self.turn().await;
        let start = Instant::now();
        let done = work.await;
        let (_, rest_percent) = self.step();
        if rest_percent > 0 {
            tokio::time::sleep((start.elapsed() * rest_percent / 100).min(REST_MAX)).await;
        }
        drop(turn);
        done
    }

    async fn turn(&self) -> Turn<'_> {
        loop {
            let freed = self.free.notified();
            tokio::pin!(freed);
            // Before the look, so that no end of another piece is missed.
            freed.as_mut().enable();
            let at_once = self.at_once();
            let taken = self.at_work.fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| {
                (n < at_once).then_some(n + 1)
            });
            if taken.is_ok() {
                return Turn(self);
            }
            freed.await;
        }
    }

    /// `wait_us` is 0 when nobody waits.
    pub fn hear(&self, now: Tick, wait_us: u64) {
        let mut seen = self.seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if seen.last.is_some_and(|last| now.since(last) < EVERY) {
            return;
        }
        let first = seen.calm_us.is_none();
        seen.last = Some(now);
        if wait_us == 0 {
            return self.go(FULL);
        }
        let calm = seen.calm_us.map_or(wait_us, |calm| calm.min(wait_us)).max(CALM_US_MIN);
        let (step, lowest) =
            (self.step.load(Ordering::Relaxed), self.lowest.load(Ordering::Relaxed));
        let long = wait_us > 2 * calm;
        let (times, least) = seen.at_lowest;
        seen.at_lowest =
            if long && step <= lowest { (times + 1, least.min(wait_us)) } else { (0, u64::MAX) };
        let alone = seen.at_lowest.0 >= ALONE;
        seen.calm_us = Some(if alone { seen.at_lowest.1 } else { calm });
        self.go(match (first, long && !alone) {
            (true, _) => GENTLE.max(lowest),
            (_, true) => step.saturating_sub(1).max(lowest),
            (_, false) => step + 1,
        }
        .min(BUSY_MAX));
    }

    /// It falls behind the writers: from now on it does not go below a step more than before, and
    /// works without rests.
    pub fn press(&self) {
        let lowest = self.lowest.load(Ordering::Relaxed).max(GENTLE) + 1;
        self.lowest.store(lowest.min(BUSY_MAX), Ordering::Relaxed);
        self.go(self.step.load(Ordering::Relaxed).max(lowest.min(BUSY_MAX)));
    }

    fn go(&self, step: usize) {
        self.step.store(step, Ordering::Relaxed);
        self.free.notify_waiters();
    }
}

/// The right to do one piece of work.
struct Turn<'p>(&'p Pace);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.at_work.fetch_sub(1, Ordering::AcqRel);
        self.0.free.notify_one();
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
            pace.step()
        };
        assert_eq!(hear(0), (16, 0), "nobody waits");
        assert_eq!(hear(1_000), (1, 100), "gentle beside clients");
        assert_eq!(hear(1_900), (1, 0));
        assert_eq!((0..9).map(|_| hear(1_900)).last(), Some((4, 0)), "never at full speed");
        assert_eq!(hear(2_500), (2, 0));
        assert_eq!((0..6).map(|_| hear(9_000)).last(), Some((1, 900)), "it never stops");
        assert_eq!(hear(400), (1, 400));
        assert_eq!(hear(1_000), (1, 900), "that was its calmest moment");
        assert_eq!(hear(0), (16, 0));
    }

    #[test]
    fn waits_that_are_not_a_heals_doing_do_not_hold_it_up() {
        let pace = Pace::default();
        let mut now = Tick(0);
        let mut hear = |us| {
            now = now.after(EVERY);
            pace.hear(now, us);
            pace.step()
        };
        hear(400);
        assert_eq!((0..3).map(|_| hear(5_000)).last(), Some((1, 900)), "it gives way");
        assert_eq!((0..3).map(|_| hear(5_000)).last(), Some((1, 900)));
        assert_eq!(hear(4_000), (1, 400), "they wait as long without it");
        assert_eq!(hear(6_000), (1, 200));
        assert_eq!(hear(9_000), (1, 400), "it gives way again");
    }

    #[test]
    fn a_heal_that_falls_behind_the_writers_does_more() {
        let pace = Pace::default();
        pace.hear(Tick(1), 1_000);
        pace.press();
        assert_eq!(pace.step(), (1, 0));
        let long = |n| pace.hear(Tick(1).after(n * EVERY), 90_000);
        (1..20).for_each(long);
        assert_eq!(pace.step().1, 0, "without rests, whatever they wait");
        (0..9).for_each(|_| pace.press());
        assert_eq!(pace.step(), (4, 0), "never at full speed beside clients");
    }

    #[test]
    fn one_figure_counts_once() {
        let pace = Pace::default();
        pace.hear(Tick(1), 1_000);
        pace.hear(Tick(1).after(EVERY), 5_000);
        pace.hear(Tick(1).after(EVERY + MS), 5_000);
        assert_eq!(pace.step(), STEPS[GENTLE - 1]);
    }

    #[tokio::test]
    async fn no_more_is_done_at_once_than_the_pace_says() {
        let pace = Pace::default();
        pace.hear(Tick(1), 1_000);
        let (now, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let piece = || {
            pace.run(async {
                most.fetch_max(now.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
                tokio::task::yield_now().await;
                now.fetch_sub(1, Ordering::Relaxed);
            })
        };
        futures_util::future::join_all((0..20).map(|_| piece())).await;
        assert_eq!(most.load(Ordering::Relaxed), 1);
    }
}
