//! The one place that reads a clock for leases and stamps.

use std::time::{Duration, Instant};

use proto_rules::Tick;
use rustix::time::{ClockId, clock_gettime};

/// Now, by the clock that runs through suspend: a laptop that slept must not believe in leases
/// of before. `Instant` (CLOCK_MONOTONIC) stands still meanwhile.
pub fn now() -> Tick {
    let time = clock_gettime(ClockId::Boottime);
    Tick(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}

/// A tick as an `Instant`, for timers. Right as long as the machine does not sleep; a sleep
/// makes it too late, so what is valid *until* a tick is checked against `now` instead.
pub fn instant(tick: Tick, now: Tick) -> Instant {
    Instant::now() + Duration::from_nanos(tick.since(now))
}
