//! What the promise thread and a brick's thread tell each other: atomics, no queue, no lock
//! that a ping could wait for.
//!
//! The promise thread writes until when the brick may serve and what it heard of the other
//! members; the brick's thread writes the facts that pings carry. Each cell has one writer.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use proto::{BrickId, Epoch};
use proto_rules::Tick;

use crate::heal::job::Resume;

#[derive(Debug, Default)]
pub struct Gate {
    serve_until: AtomicU64,
    leased_until: AtomicU64,
    heard_interval: AtomicU64,
    others_free: AtomicU64,
    interval: AtomicU64,
    free: AtomicU64,
    total: AtomicU64,
    checkpoint: AtomicU64,
    in_sync_interval: AtomicU64,
    stale_copies: AtomicU64,
    stale_elsewhere: AtomicU64,
    foreground_us: AtomicU64,
    durable: AtomicU64,
    noted: AtomicU64,
    failed: AtomicBool,
    /// Between the brick's thread and its heal only; no ping waits for it.
    resume: Mutex<Option<Resume>>,
    /// What the set's members said to have on disk. Skipped by the promise thread while the
    /// brick's thread reads it.
    words: Mutex<BTreeMap<BrickId, u64>>,
    why_failed: Mutex<String>,
    /// When the brick's thread last came round.
    beat: AtomicU64,
}

/// Facts of a brick as its pings carry them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Facts {
    /// Change-log interval in which it logs now.
    pub interval: u64,
    /// Interval of its last durable checkpoint.
    pub checkpoint: u64,
    pub free_bytes: u64,
    pub total_bytes: u64,
    /// How long its clients wait for an answer, µs; 0: it has none.
    #[serde(default)]
    pub foreground_us: u64,
    /// The newest interval in-sync that a checkpoint of its has made durable.
    #[serde(default)]
    pub durable: u64,
}

impl Gate {
    /// The promise thread: until when the brick holds every promise that it needs.
    pub fn set_serve_until(&self, until: Tick) {
        self.serve_until.store(until.0, Ordering::Release);
    }

    pub fn serve_until(&self) -> Tick {
        Tick(self.serve_until.load(Ordering::Acquire))
    }

    /// The promise thread: until when leases of earlier leads may run.
    pub fn set_leased_until(&self, until: Tick) {
        self.leased_until.store(until.0, Ordering::Release);
    }

    pub fn leased_until(&self) -> Tick {
        Tick(self.leased_until.load(Ordering::Acquire))
    }

    /// The promise thread: the members' highest interval number, and the least free space of the other
    /// in-sync members (`u64::MAX` when there are none).
    pub fn set_heard(&self, interval: u64, others_free: u64) {
        self.heard_interval.store(interval, Ordering::Relaxed);
        self.others_free.store(others_free, Ordering::Relaxed);
    }

    pub fn heard_interval(&self) -> u64 {
        self.heard_interval.load(Ordering::Relaxed)
    }

    /// `u64::MAX` until something was heard.
    pub fn others_free(&self) -> u64 {
        match self.others_free.load(Ordering::Relaxed) {
            0 if self.heard_interval() == 0 => u64::MAX,
            free => free,
        }
    }

    /// The brick's thread.
    pub fn set_facts(&self, facts: Facts) {
        self.interval.store(facts.interval, Ordering::Relaxed);
        self.checkpoint.store(facts.checkpoint, Ordering::Relaxed);
        self.free.store(facts.free_bytes, Ordering::Relaxed);
        self.total.store(facts.total_bytes, Ordering::Relaxed);
        self.foreground_us.store(facts.foreground_us, Ordering::Relaxed);
        self.durable.store(facts.durable, Ordering::Relaxed);
    }

    pub fn facts(&self) -> Facts {
        Facts {
            interval: self.interval.load(Ordering::Relaxed),
            checkpoint: self.checkpoint.load(Ordering::Relaxed),
            free_bytes: self.free.load(Ordering::Relaxed),
            total_bytes: self.total.load(Ordering::Relaxed),
            foreground_us: self.foreground_us.load(Ordering::Relaxed),
            durable: self.durable.load(Ordering::Relaxed),
        }
    }

    /// The brick's thread: the newest interval in which it was in-sync. 0: its log cannot tell
    /// what it missed.
    pub fn set_in_sync_interval(&self, interval: u64) {
        self.in_sync_interval.store(interval, Ordering::Relaxed);
    }

    pub fn in_sync_interval(&self) -> u64 {
        self.in_sync_interval.load(Ordering::Relaxed)
    }

    /// The brick's thread: the newest epoch that this incarnation has noted as in-sync.
    pub fn set_noted(&self, epoch: Epoch) {
        self.noted.store(epoch.0, Ordering::Release);
    }

    /// `NONE` until this incarnation was in-sync.
    pub fn noted(&self) -> Epoch {
        Epoch(self.noted.load(Ordering::Acquire))
    }

    /// The brick's thread: how many of its own copies are marked stale.
    pub fn set_stale_copies(&self, count: u64) {
        self.stale_copies.store(count, Ordering::Relaxed);
    }

    pub fn stale_copies(&self) -> u64 {
        self.stale_copies.load(Ordering::Relaxed)
    }

    /// The brick's thread: how many copies of the other in-sync members are marked stale.
    pub fn set_stale_elsewhere(&self, count: u64) {
        self.stale_elsewhere.store(count, Ordering::Relaxed);
    }

    pub fn stale_elsewhere(&self) -> u64 {
        self.stale_elsewhere.load(Ordering::Relaxed)
    }

    /// The brick's thread: from where a heal that was cut off goes on.
    pub fn set_resume(&self, resume: Option<Resume>) {
        *self.resume.lock().unwrap_or_else(PoisonError::into_inner) = resume;
    }

    pub fn resume(&self) -> Option<Resume> {
        self.resume.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The promise thread: a member's durable interval.
    pub fn set_word(&self, brick: BrickId, durable: u64) {
        if let Ok(mut words) = self.words.try_lock() {
            words.insert(brick, durable);
        }
    }

    pub fn words(&self) -> BTreeMap<BrickId, u64> {
        self.words.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The brick took itself out of service. It stays so.
    pub fn set_failed(&self, why: &str) {
        *self.why_failed.lock().unwrap_or_else(PoisonError::into_inner) = why.to_owned();
        self.failed.store(true, Ordering::Release);
    }

    /// The brick's thread, each time it comes round, some times a second.
    pub fn set_beat(&self, now: Tick) {
        self.beat.store(now.0, Ordering::Release);
    }

    /// 0: it has not begun yet.
    pub fn beat(&self) -> Tick {
        Tick(self.beat.load(Ordering::Acquire))
    }

    pub fn why_failed(&self) -> String {
        self.why_failed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }
}
