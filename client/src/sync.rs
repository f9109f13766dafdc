//! Short locks around plain state.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks, whether or not another thread panicked meanwhile: all state behind these mutexes is
/// changed in steps that cannot panic half-way.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
