//! Signals to callers, brought to the handlers that wait on their behalf.
//!
//! The kernel sends INTERRUPT for a request that is under way; it may be fetched by another
//! thread than the request, before the request's handler has registered, or after it has
//! answered. The protocol's own remedy (answer EAGAIN, get the INTERRUPT again) works only on
//! the channel that fetched the request, since the kernel looks it up in that channel's queue:
//! on any other channel the answer is refused and the interrupt is lost. So the table remembers
//! interrupts that came early instead. Numbers of requests are never used twice, hence a
//! remembered interrupt of a finished request harms nobody and ages out.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// Early interrupts remembered. One per caller that was signalled between the kernel's sending
/// of its request and the handler's registration: a thousand at once are beyond any load seen.
const EARLY_MAX: usize = 1024;

/// Which requests can be interrupted, shared by all channels of a mount.
#[derive(Clone, Debug, Default)]
pub struct InterruptTable {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    waiting: HashMap<u64, Arc<Signal>>,
    early: VecDeque<u64>,
}

#[derive(Debug, Default)]
struct Signal {
    fired: AtomicBool,
    notify: Notify,
}

impl InterruptTable {
    /// An empty table.
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // No code that can panic runs under this lock.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// To be called by a handler that may wait, before it first awaits; `unique` is its
    /// request's.
    pub fn register(&self, unique: u64) -> Interruptible {
        let signal = Arc::new(Signal::default());
        let mut inner = self.lock();
        if let Some(position) = inner.early.iter().position(|early| *early == unique) {
            inner.early.remove(position);
            signal.fired.store(true, Ordering::Release);
        }
        inner.waiting.insert(unique, signal.clone());
        drop(inner);
        Interruptible { unique, signal, table: self.clone() }
    }

    /// To be called for [`Op::Interrupt`](crate::Op::Interrupt). False when no handler has
    /// registered for `unique`, which is then remembered.
    pub fn interrupt(&self, unique: u64) -> bool {
        let mut inner = self.lock();
        if let Some(signal) = inner.waiting.get(&unique) {
            signal.fired.store(true, Ordering::Release);
            signal.notify.notify_one();
            return true;
        }
        if inner.early.len() == EARLY_MAX {
            inner.early.pop_front();
        }
        inner.early.push_back(unique);
        false
    }

    /// Handlers registered at the moment.
    pub fn waiting(&self) -> usize {
        self.lock().waiting.len()
    }
}

/// A handler's registration; ends when dropped.
#[derive(Debug)]
pub struct Interruptible {
    unique: u64,
    signal: Arc<Signal>,
    table: InterruptTable,
}

impl Interruptible {
    /// Whether the caller was signalled.
    pub fn is_interrupted(&self) -> bool {
        self.signal.fired.load(Ordering::Acquire)
    }

    /// Waits until the caller is signalled; then the request should end with EINTR soon, or
    /// complete. One task may wait at a time.
    pub async fn interrupted(&self) {
        while !self.is_interrupted() {
            self.signal.notify.notified().await;
        }
    }
}

impl Drop for Interruptible {
    fn drop(&mut self) {
        self.table.lock().waiting.remove(&self.unique);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn interrupt_wakes_the_registered_handler() {
        let table = InterruptTable::new();
        let handler = table.register(8);
        assert!(!handler.is_interrupted());
        assert!(table.interrupt(8));
        handler.interrupted().await;
        drop(handler);
        assert_eq!(table.waiting(), 0);
    }

    #[tokio::test]
    async fn interrupt_that_comes_first_is_kept() {
        let table = InterruptTable::new();
        assert!(!table.interrupt(8));
        assert!(!table.register(10).is_interrupted());
        table.register(8).interrupted().await;
        // It was consumed: the same number would not fire again.
        assert!(!table.register(8).is_interrupted());
    }

    #[test]
    fn early_interrupts_are_bounded() {
        let table = InterruptTable::new();
        for unique in 0..EARLY_MAX as u64 + 5 {
            table.interrupt(unique);
        }
        assert_eq!(table.lock().early.len(), EARLY_MAX);
        assert!(!table.register(4).is_interrupted());
        assert!(table.register(5).is_interrupted());
    }
}
