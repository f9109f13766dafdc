//! Tells whether this machine was able to keep time while a test measured pauses.
//!
//! A thread sleeps 10 ms at a time and records by how much it overslept. A test that fails while
//! the machine itself stood still for more than [`DELAY_MAX`] proves nothing: it is repeated,
//! loudly, at most twice. A test that fails with time kept fails at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::need;

/// Lease renewals and promises are 300 ms apart: a longer stop of the machine shows in them.
pub const DELAY_MAX: Duration = Duration::from_millis(200);
const TICK: Duration = Duration::from_millis(10);
const REPEATS_MAX: u32 = 2;

/// Measures from its start until dropped.
#[derive(Debug)]
pub struct Watchdog {
    worst_ns: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watchdog {
    pub fn start() -> Self {
        let worst_ns = Arc::new(AtomicU64::new(0));
        let stop = Arc::new(AtomicBool::new(false));
        let (worst, stopped) = (worst_ns.clone(), stop.clone());
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let start = Instant::now();
                thread::sleep(TICK);
                let late = start.elapsed().saturating_sub(TICK);
                worst.fetch_max(late.as_nanos() as u64, Ordering::Relaxed);
            }
        });
        Self { worst_ns, stop, thread: Some(thread) }
    }

    /// Longest delay so far.
    pub fn worst(&self) -> Duration {
        Duration::from_nanos(self.worst_ns.load(Ordering::Relaxed))
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Runs a test body that measures time.
///
/// # Errors
/// What the body returned when the machine kept time, or at the last repeat.
pub fn judged(test: &str, mut body: impl FnMut() -> Result<()>) -> Result<()> {
    let once = || {
        let dog = Watchdog::start();
        let result = body();
        (result, dog.worst())
    };
    judged_by(once, |line| {
        eprintln!("REPEATED {test}: {line}");
        need::note("BRICK_REPEATS", &format!("{test}: {line}"));
    })
}

fn judged_by(
    mut once: impl FnMut() -> (Result<()>, Duration),
    mut say: impl FnMut(&str),
) -> Result<()> {
    for attempt in 0.. {
        let (result, worst) = once();
        match result {
            Err(error) if worst > DELAY_MAX && attempt < REPEATS_MAX => {
                say(&format!(
                    "the machine stood still for {} ms; repeat {} of {REPEATS_MAX} after: {error:#}",
                    worst.as_millis(),
                    attempt + 1
                ));
            }
            other => return other,
        }
    }
    unreachable!("the last attempt returns")
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::bail;

    fn drop_line(_: &str) {}

    #[test]
    fn a_failure_with_time_kept_is_not_repeated() {
        let mut runs = 0;
        let result = judged_by(
            || {
                runs += 1;
                (Err(anyhow::anyhow!("wrong bytes")), Duration::from_millis(20))
            },
            drop_line,
        );
        assert!(result.is_err());
        assert_eq!(runs, 1);
    }

    #[test]
    fn a_failure_on_a_standing_machine_is_repeated_twice_at_most() {
        let mut runs = 0;
        let result = judged_by(
            || {
                runs += 1;
                (Err(anyhow::anyhow!("late")), Duration::from_millis(900))
            },
            drop_line,
        );
        assert!(result.is_err());
        assert_eq!(runs, 3);
    }

    #[test]
    fn a_repeat_that_succeeds_is_a_success() {
        let mut runs = 0;
        let result = judged_by(
            || {
                runs += 1;
                let result = (|| if runs == 1 { bail!("late") } else { Ok(()) })();
                (result, Duration::from_millis(900))
            },
            drop_line,
        );
        assert!(result.is_ok());
        assert_eq!(runs, 2);
    }

    #[test]
    fn a_quiet_machine_shows_a_small_delay_and_the_thread_ends() {
        let dog = Watchdog::start();
        thread::sleep(Duration::from_millis(60));
        assert!(dog.worst() > Duration::ZERO);
    }
}
