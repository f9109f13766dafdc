//! Latency counters with one writer and no locks.
//!
//! Log-linear: four buckets to each doubling, from 1 µs to 17 s, so that a percentile is known
//! to 19 %. The brick's thread adds with a plain load and store; a scrape reads whatever is
//! there, at worst one request behind.

use std::sync::atomic::{AtomicU64, Ordering};

/// 2^10 ns: everything faster falls into the first bucket.
const FIRST_BITS: u32 = 10;
/// 2^34 ns: everything slower falls into the last bucket.
const LAST_BITS: u32 = 34;
const PER_DOUBLING: usize = 4;
pub const BUCKETS: usize = (LAST_BITS - FIRST_BITS) as usize * PER_DOUBLING + 2;

/// A counter that one thread writes and any thread reads.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Only from the owning thread: not a read-modify-write.
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    pub fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[derive(Debug)]
pub struct Histogram {
    counts: Box<[Counter]>,
    sum_ns: Counter,
}

impl Default for Histogram {
    fn default() -> Self {
        let counts = (0..BUCKETS).map(|_| Counter::default()).collect();
        Self { counts, sum_ns: Counter::default() }
    }
}

/// The bucket of a duration.
fn bucket(ns: u64) -> usize {
    let bits = u64::BITS - ns.leading_zeros();
    if bits <= FIRST_BITS {
        return 0;
    }
    if bits > LAST_BITS {
        return BUCKETS - 1;
    }
    let quarter = ((ns >> (bits - 3)) & 3) as usize;
    1 + (bits - FIRST_BITS - 1) as usize * PER_DOUBLING + quarter
}

/// The durations of a bucket are below this many nanoseconds (the last one's: all).
fn upper_ns(bucket: usize) -> u64 {
    if bucket == 0 {
        return 1 << FIRST_BITS;
    }
    if bucket == BUCKETS - 1 {
        return u64::MAX;
    }
    let (octave, quarter) = ((bucket - 1) / PER_DOUBLING, (bucket - 1) % PER_DOUBLING);
    let base = 1_u64 << (FIRST_BITS as usize + octave);
    base + (quarter as u64 + 1) * (base / PER_DOUBLING as u64)
}

impl Histogram {
    pub fn record(&self, ns: u64) {
        self.counts[bucket(ns)].add(1);
        self.sum_ns.add(ns);
    }

    pub fn count(&self) -> u64 {
        self.counts.iter().map(Counter::get).sum()
    }

    pub fn sum_ns(&self) -> u64 {
        self.sum_ns.get()
    }

    /// (upper bound in ns, count up to it) per doubling, for an exposition; without the last
    /// bucket, which has no bound.
    pub fn cumulative(&self) -> impl Iterator<Item = (u64, u64)> {
        let mut total = 0;
        (0..BUCKETS - 1).filter_map(move |b| {
            total += self.counts[b].get();
            (b % PER_DOUBLING == 0).then(|| (upper_ns(b), total))
        })
    }

    /// Upper bound of the fraction `q` (0..=1) of all durations, in ns; 0 when there are none.
    pub fn quantile_ns(&self, q: f64) -> u64 {
        let wanted = (self.count() as f64 * q).ceil() as u64;
        let mut total = 0;
        for (b, count) in self.counts.iter().enumerate() {
            total += count.get();
            if total >= wanted && total > 0 {
                return upper_ns(b);
            }
        }
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_duration_lies_below_its_buckets_bound_and_above_the_one_before() {
        for ns in [0, 1, 1023, 1024, 1279, 1280, 5_000, 45_000, 1 << 20, 999_999_999, 1 << 33] {
            let b = bucket(ns);
            assert!(ns < upper_ns(b), "{ns} in {b}");
            assert!(b == 0 || ns >= upper_ns(b - 1), "{ns} in {b}");
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn quantiles_are_known_to_a_fifth() {
        let histogram = Histogram::default();
        (1..=1000).for_each(|us| histogram.record(us * 1000));
        let p50 = histogram.quantile_ns(0.5);
        assert!((500_000..600_000).contains(&p50), "{p50}");
        assert_eq!(histogram.count(), 1000);
        assert_eq!(histogram.cumulative().last().map(|(_, n)| n), Some(1000));
    }
}
