//! Logs a kind of event at most so often, and says how many it left out.

use std::sync::Mutex;

use crate::brick::now;
use proto_rules::Tick;

/// A person can read this many lines; garbage comes by the thousand.
const LINES_PER_SECOND: u32 = 10;
const SECOND: u64 = 1_000_000_000;

#[derive(Default)]
pub struct LogLimit(Mutex<Window>);

#[derive(Default)]
struct Window {
    began: Tick,
    lines: u32,
    left_out: u64,
}

impl LogLimit {
    /// Calls `log` with the number of events left out before, or counts this one as left out.
    pub fn warn(&self, log: impl FnOnce(u64)) {
        if let Some(left_out) = self.admit(now()) {
            log(left_out);
        }
    }

    fn admit(&self, now: Tick) -> Option<u64> {
        let mut window = self.0.lock().expect("no panic under this lock");
        if now.since(window.began) >= SECOND {
            window.began = now;
            window.lines = 0;
        }
        if window.lines >= LINES_PER_SECOND {
            window.left_out += 1;
            return None;
        }
        window.lines += 1;
        Some(std::mem::take(&mut window.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_cut_and_counted() {
        let limit = LogLimit::default();
        let start = Tick(5 * SECOND);
        let logged = (0..1000).filter(|_| limit.admit(start).is_some()).count();
        assert_eq!(logged, LINES_PER_SECOND as usize);
        assert_eq!(limit.admit(start.after(SECOND)), Some(990));
    }
}
