//! Metrics: what each brick counts, and the Prometheus page that shows it.
//!
//! Purpose: counters that cost the brick's thread a plain add, merged only when scraped.
//!
//! Assumes: each `BrickMetrics` has one writing thread.
//!
//! Promises: a scrape takes no lock that a request could wait for; no secret, no file name and
//! no address of a client is ever shown.
//!
//! Deliberately does not: push, store, or compute rates.

mod histogram;
mod http;
mod text;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use proto::BrickId;
use proto::fop::Op;

pub use histogram::{Counter, Histogram};
pub use http::serve;

/// What one brick counts.
#[derive(Debug)]
pub struct BrickMetrics {
    pub volume: String,
    pub brick: BrickId,
    /// Time in the brick from parsed request to queued reply, per operation code.
    latency: Vec<Option<Histogram>>,
    pub refused: Counter,
    pub bytes_in: Counter,
    pub bytes_out: Counter,
    pub connections: Counter,
    pub sessions: Counter,
    pub leases: Counter,
    pub recalls: Counter,
    /// Changes executed for sessions, as lead.
    pub executed: Counter,
    pub epoch: Counter,
    /// 1 while the brick may serve clients.
    pub serving: Counter,
    pub free_bytes: Counter,
    pub total_bytes: Counter,
    pub bad_frames: Counter,
    pub heal_pending: Counter,
    pub heal_bytes: Counter,
}

impl BrickMetrics {
    pub fn new(volume: &str, brick: BrickId) -> Self {
        let codes = Op::ALL.iter().map(|op| usize::from(op.code())).max().unwrap_or(0) + 1;
        let mut latency: Vec<Option<Histogram>> = (0..codes).map(|_| None).collect();
        for op in Op::ALL {
            latency[usize::from(op.code())] = Some(Histogram::default());
        }
        Self {
            volume: volume.to_owned(),
            brick,
            latency,
            refused: Counter::default(),
            bytes_in: Counter::default(),
            bytes_out: Counter::default(),
            connections: Counter::default(),
            sessions: Counter::default(),
            leases: Counter::default(),
            recalls: Counter::default(),
            executed: Counter::default(),
            epoch: Counter::default(),
            serving: Counter::default(),
            free_bytes: Counter::default(),
            total_bytes: Counter::default(),
            bad_frames: Counter::default(),
            heal_pending: Counter::default(),
            heal_bytes: Counter::default(),
        }
    }

    /// Only from the brick's thread.
    pub fn answered(&self, op: Op, ns: u64) {
        if let Some(histogram) = self.latency(op) {
            histogram.record(ns);
        }
    }

    pub fn latency(&self, op: Op) -> Option<&Histogram> {
        self.latency.get(usize::from(op.code()))?.as_ref()
    }
}

/// Adds lines of its own to the page.
type Source = Box<dyn Fn(&mut String) + Send + Sync>;

/// Everything that a scrape shows.
#[derive(Default)]
pub struct Registry {
    bricks: Mutex<BTreeMap<BrickId, Arc<BrickMetrics>>>,
    sources: Mutex<Vec<Source>>,
}

impl Registry {
    pub fn add(&self, metrics: Arc<BrickMetrics>) {
        self.bricks.lock().expect("no panic under this lock").insert(metrics.brick, metrics);
    }

    pub fn remove(&self, brick: BrickId) {
        self.bricks.lock().expect("no panic under this lock").remove(&brick);
    }

    /// `source` appends whole exposition lines at every scrape; it must not block.
    pub fn add_source(&self, source: impl Fn(&mut String) + Send + Sync + 'static) {
        self.sources.lock().expect("no panic under this lock").push(Box::new(source));
    }

    /// The page in the Prometheus text format.
    pub fn render(&self) -> String {
        let bricks: Vec<Arc<BrickMetrics>> =
            self.bricks.lock().expect("no panic under this lock").values().cloned().collect();
        let mut page = text::render(&bricks);
        for source in self.sources.lock().expect("no panic under this lock").iter() {
            source(&mut page);
        }
        page
    }
}
