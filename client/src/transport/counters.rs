//! What went over the wire, for metrics and for tests that count trips.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use proto::fop::Op;

/// Op codes are below 128.
const OPS: usize = 128;

/// Counters of one session. Relaxed: each is a number by itself.
#[derive(Debug)]
pub struct Counters {
    pub bytes_sent: AtomicU64,
    pub bytes_received: AtomicU64,
    pub connects: AtomicU64,
    pub connections_lost: AtomicU64,
    /// Connections through another peer, because the straight way was not open.
    pub relayed: AtomicU64,
    /// Frames sent again because their fate was unknown or the member asked for patience.
    pub resent: AtomicU64,
    /// Replies nobody waited for (any more).
    pub unexpected_replies: AtomicU64,
    pub recalls: AtomicU64,
    pub leases_lost: AtomicU64,
    /// Members whose answer differed from the lead's.
    pub differing: AtomicU64,
    frames: [AtomicU64; OPS],
    trips: [AtomicU64; OPS],
}

impl Default for Counters {
    fn default() -> Self {
        Counters {
            bytes_sent: AtomicU64::new(0),
            bytes_received: AtomicU64::new(0),
            connects: AtomicU64::new(0),
            connections_lost: AtomicU64::new(0),
            relayed: AtomicU64::new(0),
            resent: AtomicU64::new(0),
            unexpected_replies: AtomicU64::new(0),
            recalls: AtomicU64::new(0),
            leases_lost: AtomicU64::new(0),
            differing: AtomicU64::new(0),
            frames: [const { AtomicU64::new(0) }; OPS],
            trips: [const { AtomicU64::new(0) }; OPS],
        }
    }
}

/// Counts of one operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OpCount {
    pub op: Op,
    /// Requests sent to single members.
    pub frames: u64,
    /// Round trips: frames sent to several members in parallel are one.
    pub trips: u64,
}

impl Counters {
    pub(crate) fn frame(&self, op: Op, bytes: usize) {
        self.frames[usize::from(op.code()) % OPS].fetch_add(1, Relaxed);
        self.bytes_sent.fetch_add(bytes as u64, Relaxed);
    }

    pub(crate) fn trip(&self, op: Op) {
        self.trips[usize::from(op.code()) % OPS].fetch_add(1, Relaxed);
    }

    pub(crate) fn add(counter: &AtomicU64) {
        counter.fetch_add(1, Relaxed);
    }

    pub fn of(&self, op: Op) -> OpCount {
        let at = usize::from(op.code()) % OPS;
        OpCount { op, frames: self.frames[at].load(Relaxed), trips: self.trips[at].load(Relaxed) }
    }

    /// All operations that were ever sent.
    pub fn ops(&self) -> Vec<OpCount> {
        Op::ALL.iter().map(|op| self.of(*op)).filter(|c| c.frames > 0).collect()
    }
}
