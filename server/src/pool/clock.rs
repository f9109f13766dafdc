//! The process's one clock for the rules: CLOCK_BOOTTIME, which runs through suspend.

use proto_rules::Tick;

/// Nanoseconds since boot.
pub fn now() -> Tick {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Tick(seconds * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0))
}
