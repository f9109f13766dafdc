//! What a heal tells: counts, bytes, rate, time left, the oldest pending item. O(1) to ask.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use proto::Gfid;

/// Seconds over which the rate is taken: long enough to be steady, short enough to show a stall.
const RATE_WINDOW: Duration = Duration::from_secs(5);

/// A snapshot for `volume heal info`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    /// Inodes listed and not yet equal.
    pub pending: u64,
    pub healed: u64,
    pub bytes: u64,
    /// Bytes per second over the last seconds.
    pub rate: f64,
    /// Seconds left at the present pace; `None` while nothing is known.
    pub eta_s: Option<u64>,
    /// The item at work for the longest time, with why it is pending.
    pub oldest: Option<String>,
    pub phase: &'static str,
    pub round: u32,
}

#[derive(Debug, Default)]
pub struct Progress(Mutex<State>);

#[derive(Debug)]
struct State {
    shown: Snapshot,
    /// Start of the rate window and what had been done by then.
    mark: (Instant, u64, u64),
    healed_per_s: f64,
    at_work: Vec<(Gfid, Instant)>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            shown: Snapshot::default(),
            mark: (Instant::now(), 0, 0),
            healed_per_s: 0.0,
            at_work: Vec::new(),
        }
    }
}

impl Progress {
    fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    pub fn phase(&self, phase: &'static str, round: u32) {
        self.with(|s| (s.shown.phase, s.shown.round) = (phase, round));
    }

    /// `n` more inodes are known to be pending.
    pub fn listed(&self, n: u64) {
        self.with(|s| s.shown.pending += n);
    }

    pub fn started(&self, gfid: Gfid) {
        self.with(|s| s.at_work.push((gfid, Instant::now())));
    }

    pub fn finished(&self, gfid: Gfid) {
        self.with(|s| {
            s.at_work.retain(|(g, _)| *g != gfid);
            s.shown.pending = s.shown.pending.saturating_sub(1);
            s.shown.healed += 1;
            s.update_rate();
        });
    }

    pub fn copied(&self, bytes: u64) {
        self.with(|s| {
            s.shown.bytes += bytes;
            s.update_rate();
        });
    }

    pub fn snapshot(&self) -> Snapshot {
        self.with(|s| {
            let mut shown = s.shown.clone();
            shown.oldest = s.at_work.first().map(|(gfid, since)| {
                format!("{gfid}: being copied for {} s", since.elapsed().as_secs())
            });
            if s.healed_per_s > 0.0 {
                shown.eta_s = Some((shown.pending as f64 / s.healed_per_s).ceil() as u64);
            }
            shown
        })
    }
}

impl State {
    fn update_rate(&mut self) {
        let (start, bytes, healed) = self.mark;
        let elapsed = start.elapsed();
        let seconds = elapsed.as_secs_f64().max(0.001);
        self.shown.rate = (self.shown.bytes - bytes) as f64 / seconds;
        self.healed_per_s = (self.shown.healed - healed) as f64 / seconds;
        if elapsed > RATE_WINDOW {
            self.mark = (Instant::now(), self.shown.bytes, self.shown.healed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pending_goes_down_and_the_oldest_item_is_named() {
        let progress = Progress::default();
        progress.listed(2);
        progress.started(Gfid::ROOT);
        progress.copied(1000);
        let shown = progress.snapshot();
        assert_eq!((shown.pending, shown.bytes), (2, 1000));
        assert!(shown.oldest.is_some_and(|o| o.starts_with(&Gfid::ROOT.to_string())));
        progress.finished(Gfid::ROOT);
        let shown = progress.snapshot();
        assert_eq!((shown.pending, shown.healed, shown.oldest), (1, 1, None));
        assert!(shown.eta_s.is_some());
    }
}
