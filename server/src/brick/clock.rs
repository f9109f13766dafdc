//! The two clocks of a brick's thread.

use proto_rules::Tick;
use rustix::time::{ClockId, clock_gettime};

/// The clock of all rules: runs through suspend, never goes back, means nothing outside this
/// process.
pub fn now() -> Tick {
    Tick(nanos(ClockId::Boottime))
}

/// Wall time, ns since 1970: only ever the base of stamps.
pub fn wall_ns() -> u64 {
    nanos(ClockId::Realtime)
}

fn nanos(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    let sec = u64::try_from(time.tv_sec).unwrap_or(0);
    sec.saturating_mul(1_000_000_000).saturating_add(u64::try_from(time.tv_nsec).unwrap_or(0))
}
