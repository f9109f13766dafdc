//! How a test on real parts runs: skipped loudly where the machine lacks something, and failed
//! with all causes in one line.

use anyhow::Result;

use crate::need::{self, Need};
use crate::watchdog;

/// Runs a test, if the machine has what it needs.
///
/// # Panics
/// With the body's error: the test has failed.
pub fn test(name: &str, needs: &[Need], body: impl FnOnce() -> Result<()>) {
    if need::all(name, needs) {
        body().unwrap_or_else(|error| panic!("{error:#}"));
    }
}

/// As `test`, for a body that measures time: again when the machine stood still.
///
/// # Panics
/// As `test`.
pub fn judged(name: &str, needs: &[Need], body: impl FnMut() -> Result<()>) {
    test(name, needs, || watchdog::judged(name, body));
}

/// How often a test on faults repeats them: `BRICK_ROUNDS`, or `least`.
pub fn rounds(least: u64) -> u64 {
    std::env::var("BRICK_ROUNDS").ok().and_then(|r| r.parse().ok()).unwrap_or(least)
}
