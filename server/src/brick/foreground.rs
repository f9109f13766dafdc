//! How long this brick's clients wait for an answer: what a heal is throttled by.

use proto_rules::Tick;
use proto_rules::time::Nanos;

use super::clock::now;

/// A figure is kept this long when nobody asks any more.
const FORGET_AFTER: Nanos = 2_000_000_000;
/// Weight of one answer in the moving average: about the last hundred count.
const SHARE: f64 = 0.02;

/// A moving average over the answers to clients.
#[derive(Debug, Default)]
pub struct Foreground {
    average_ns: f64,
    last: Tick,
}

impl Foreground {
    pub fn answered(&mut self, took: Nanos) {
        let fresh = self.average_ns == 0.0;
        let share = if fresh { 1.0 } else { SHARE };
        self.average_ns += (took as f64 - self.average_ns) * share;
        self.last = now();
    }

    /// In µs; 0 when no client has asked for a while.
    pub fn take(&mut self) -> u64 {
        if now().since(self.last) > FORGET_AFTER {
            self.average_ns = 0.0;
        }
        (self.average_ns / 1000.0).ceil() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_average_follows_the_answers() {
        let mut foreground = Foreground::default();
        assert_eq!(foreground.take(), 0);
        foreground.answered(200_000);
        assert_eq!(foreground.take(), 200);
        (0..300).for_each(|_| foreground.answered(1_000_000));
        assert!((990..=1000).contains(&foreground.take()));
    }
}
