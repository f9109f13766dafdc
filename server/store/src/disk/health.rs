//! Fail-stop: the first error that means a broken disk is kept, and everything later refused.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use proto::error::Errno;

use super::Disk;

/// Linux's "structure needs cleaning": the file system found itself corrupt.
const EUCLEAN: Errno = Errno(117);
/// What XFS answers on some paths after it has shut itself down.
const ESHUTDOWN: Errno = Errno(108);

/// Whether the brick's disk can still be trusted. Shared with other threads.
#[derive(Debug, Default)]
pub struct Health {
    broken: AtomicBool,
    reason: OnceLock<String>,
}

impl Health {
    /// Why the brick took itself out of service, if it did.
    pub fn failed(&self) -> Option<String> {
        if !self.is_failed() {
            return None;
        }
        Some(self.reason.get().cloned().unwrap_or_else(|| "disk error".into()))
    }

    pub fn is_failed(&self) -> bool {
        self.broken.load(Ordering::Acquire)
    }

    /// Keeps the error if it means a broken disk; all others are outcomes.
    pub fn note(&self, call: &str, errno: Errno) {
        if matches!(errno, Errno::EIO | EUCLEAN | ESHUTDOWN) {
            self.poison(format!("{call}: {errno}"));
        }
    }

    pub fn poison(&self, reason: String) {
        if self.reason.set(reason).is_ok() {
            tracing::error!(reason = self.reason.get(), "brick fails: its disk gave an error");
        }
        self.broken.store(true, Ordering::Release);
    }
}

/// Passes every call on and notes errors in the brick's `Health`.
pub struct Watched {
    pub(super) inner: Box<dyn Disk>,
    pub(super) health: std::sync::Arc<Health>,
}

impl Watched {
    pub fn new(inner: Box<dyn Disk>, health: std::sync::Arc<Health>) -> Self {
        Self { inner, health }
    }
}
