//! A process's clock: its own start and its own rate. DESIGN assumes rates within 5 % of each
//! other, so every rate is drawn from 0.976..=1.024 of true time. Wall clocks may be anything.

use proto_rules::Tick;

use crate::rng::Rng;

/// True time in nanoseconds since the simulation's start.
pub type Nanos = u64;
pub const MS: Nanos = 1_000_000;

#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// Parts per thousand of true time.
    rate: u64,
    base: u64,
    /// Wall time minus true time; jumps are a fault.
    pub wall_offset: i64,
}

const RATE_MIN: u64 = 976;
const RATE_MAX: u64 = 1024;

impl Clock {
    pub fn new(rng: &mut Rng) -> Self {
        // Both ends often: the bounds are where a wrong margin shows.
        let rate = match rng.below(4) {
            0 => RATE_MIN,
            1 => RATE_MAX,
            _ => rng.range(RATE_MIN, RATE_MAX),
        };
        Self { rate, base: rng.range(1, 1 << 40), wall_offset: 0 }
    }

    pub fn tick(&self, now: Nanos) -> Tick {
        Tick(self.base + now / 1000 * self.rate)
    }

    /// True time that passes while this clock counts `local`.
    pub fn true_span(&self, local: Nanos) -> Nanos {
        local.div_ceil(self.rate) * 1000
    }

    pub fn wall(&self, now: Nanos) -> u64 {
        const EPOCH_NS: i64 = 1 << 60;
        (EPOCH_NS + now as i64 + self.wall_offset).max(1) as u64
    }
}
