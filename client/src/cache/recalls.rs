//! Which leases were called back lately.
//!
//! An answer may be remembered only when no recall of its lease came between sending the
//! question and remembering: the lease may have gone and come back in between.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use proto::fop::LeaseKey;

/// Recalls remembered. A question that sees more than this many pass is not remembered.
const RECALLS_MAX: usize = 1024;

#[derive(Debug, Default)]
pub struct Recalls {
    count: AtomicU64,
    latest: Mutex<VecDeque<LeaseKey>>,
}

/// A moment in the sequence of recalls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment(u64);

impl Recalls {
    pub fn now(&self) -> Moment {
        Moment(self.count.load(Ordering::Acquire))
    }

    /// To be called before anything is dropped because of the recall.
    pub fn note(&self, key: LeaseKey) {
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        if latest.len() == RECALLS_MAX {
            latest.pop_front();
        }
        latest.push_back(key);
        self.count.fetch_add(1, Ordering::Release);
    }

    /// Whether `key` was certainly not recalled since.
    pub fn none_since(&self, moment: Moment, key: LeaseKey) -> bool {
        if self.count.load(Ordering::Acquire) == moment.0 {
            return true;
        }
        let latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        let passed = self.count.load(Ordering::Acquire) - moment.0;
        match usize::try_from(passed) {
            Ok(passed) if passed <= latest.len() => {
                !latest.iter().rev().take(passed).any(|recalled| *recalled == key)
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use proto::{Gfid, SlotId};

    use super::*;

    #[test]
    fn only_the_recalled_key_is_in_doubt_until_too_many_pass() {
        let recalls = Recalls::default();
        let key = |i| LeaseKey::Inode(Gfid::new(SlotId(0), [i; 14]));
        recalls.note(key(1));
        let moment = recalls.now();
        assert!(recalls.none_since(moment, key(1)));
        recalls.note(key(2));
        assert!(recalls.none_since(moment, key(1)));
        assert!(!recalls.none_since(moment, key(2)));
        for _ in 0..RECALLS_MAX {
            recalls.note(key(3));
        }
        assert!(!recalls.none_since(moment, key(1)), "cannot be known any more");
    }
}
