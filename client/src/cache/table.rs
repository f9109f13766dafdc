//! A bounded table with second-chance replacement, in shards so that threads rarely meet.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use proto::Gfid;

const SHARDS: usize = 16;
/// Candidates looked at for each insertion above the bound: enough to make room when most may
/// go, and little work when none may.
const STEPS: usize = 4;

/// What stands in the table.
pub trait Slot: Send + Sync {
    /// True once after each use.
    fn take_used(&self) -> bool;
    /// Must not go: dirty, open, or believed by the kernel.
    fn is_busy(&self) -> bool;
}

#[derive(Debug)]
pub struct Table<T> {
    shards: [Mutex<Shard<T>>; SHARDS],
    shard_max: usize,
}

#[derive(Debug)]
struct Shard<T> {
    map: HashMap<Gfid, Arc<T>>,
    clock: VecDeque<Gfid>,
}

impl<T: Slot> Table<T> {
    /// A table that keeps about `entries_max` entries beyond the busy ones.
    pub fn new(entries_max: usize) -> Self {
        let shard = |_| Mutex::new(Shard { map: HashMap::new(), clock: VecDeque::new() });
        Self { shards: std::array::from_fn(shard), shard_max: (entries_max / SHARDS).max(1) }
    }

    fn shard(&self, gfid: Gfid) -> MutexGuard<'_, Shard<T>> {
        let index = usize::from(gfid.0[15]) % SHARDS;
        self.shards[index].lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn get(&self, gfid: Gfid) -> Option<Arc<T>> {
        self.shard(gfid).map.get(&gfid).cloned()
    }

    /// The entry, made if it is missing, and what had to go for it.
    pub fn get_or_insert(&self, gfid: Gfid, make: impl FnOnce() -> T) -> (Arc<T>, Vec<Arc<T>>) {
        let mut shard = self.shard(gfid);
        if let Some(found) = shard.map.get(&gfid) {
            return (found.clone(), Vec::new());
        }
        let evicted = shard.make_room(self.shard_max);
        let made = Arc::new(make());
        shard.map.insert(gfid, made.clone());
        shard.clock.push_back(gfid);
        (made, evicted)
    }

    pub fn len(&self) -> usize {
        let len = |s: &Mutex<Shard<T>>| s.lock().unwrap_or_else(PoisonError::into_inner).map.len();
        self.shards.iter().map(len).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Every entry, for a walk without locks.
    pub fn all(&self) -> Vec<Arc<T>> {
        let mut all = Vec::new();
        for shard in &self.shards {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            all.extend(shard.map.values().cloned());
        }
        all
    }
}

impl<T: Slot> Shard<T> {
    fn make_room(&mut self, max: usize) -> Vec<Arc<T>> {
        let mut evicted = Vec::new();
        for _ in 0..STEPS {
            if self.map.len() < max {
                break;
            }
            let Some(gfid) = self.clock.pop_front() else { break };
            let Some(slot) = self.map.get(&gfid) else { continue };
            // A second reference is somebody who works with it just now.
            if Arc::strong_count(slot) > 1 || slot.take_used() || slot.is_busy() {
                self.clock.push_back(gfid);
            } else {
                evicted.extend(self.map.remove(&gfid));
            }
        }
        evicted
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use proto::SlotId;

    use super::*;

    #[derive(Default)]
    struct Thing {
        used: AtomicBool,
        busy: AtomicBool,
    }

    impl Slot for Thing {
        fn take_used(&self) -> bool {
            self.used.swap(false, Ordering::Relaxed)
        }

        fn is_busy(&self) -> bool {
            self.busy.load(Ordering::Relaxed)
        }
    }

    fn gfid(i: u16) -> Gfid {
        let mut random = [0; 14];
        random[..2].copy_from_slice(&i.to_be_bytes());
        random[13] = 16;
        Gfid::new(SlotId(0), random)
    }

    #[test]
    fn busy_and_used_entries_outlive_the_others() {
        let table = Table::new(16 * 100);
        for i in 0..1000 {
            let (thing, _) = table.get_or_insert(gfid(i), Thing::default);
            thing.busy.store(i == 0, Ordering::Relaxed);
            if let Some(kept) = table.get(gfid(1)) {
                kept.used.store(true, Ordering::Relaxed);
            }
        }
        assert!(table.get(gfid(0)).is_some() && table.get(gfid(1)).is_some());
        assert!(table.len() <= 101, "{}", table.len());
    }
}
