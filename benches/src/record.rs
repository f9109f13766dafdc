//! What one worker measured: latencies, bytes, errors, the longest pause.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

/// Errors kept in full; the rest is only counted.
const ERRORS_KEPT: usize = 8;
/// An hour: longer operations count as that.
const LONGEST_NS: u64 = 3_600_000_000_000;

#[derive(Clone, Debug)]
pub struct Record {
    /// Nanoseconds per operation, three significant digits.
    pub latency_ns: Histogram<u64>,
    pub bytes: u64,
    pub failed: u64,
    pub errors: Vec<String>,
}

impl Default for Record {
    fn default() -> Self {
        let latency_ns =
            Histogram::new_with_bounds(1, LONGEST_NS, 3).expect("bounds and digits are in range");
        Self { latency_ns, bytes: 0, failed: 0, errors: Vec::new() }
    }
}

impl Record {
    /// Times one operation that moves `bytes` bytes; its error is recorded and returned.
    ///
    /// # Errors
    /// That of `op`.
    pub fn time<T>(
        &mut self,
        bytes: u64,
        op: impl FnOnce() -> std::io::Result<T>,
    ) -> std::io::Result<T> {
        let start = Instant::now();
        let result = op();
        self.latency_ns.saturating_record(nanos(start.elapsed()));
        match &result {
            Ok(_) => self.bytes += bytes,
            Err(error) => self.fail(error.to_string()),
        }
        result
    }

    pub fn fail(&mut self, error: String) {
        self.failed += 1;
        if self.errors.len() < ERRORS_KEPT {
            self.errors.push(error);
        }
    }

    pub fn operations(&self) -> u64 {
        self.latency_ns.len()
    }

    pub fn longest(&self) -> Duration {
        Duration::from_nanos(self.latency_ns.max())
    }

    pub fn merge(&mut self, other: Record) {
        self.latency_ns.add(other.latency_ns).expect("histograms of one shape grow by themselves");
        self.bytes += other.bytes;
        self.failed += other.failed;
        self.errors.extend(other.errors);
        self.errors.truncate(ERRORS_KEPT);
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_counted_and_the_first_ones_kept() {
        let mut record = Record::default();
        for _ in 0..20 {
            let _ = record.time(1, || Err::<(), _>(std::io::Error::other("x")));
        }
        assert_eq!((record.failed, record.errors.len(), record.bytes), (20, ERRORS_KEPT, 0));
        assert_eq!(record.operations(), 20);
    }
}
