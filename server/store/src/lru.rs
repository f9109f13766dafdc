//! A bounded map that forgets what has not been used lately (second chance, "clock").
//!
//! A hit costs one hash look-up and sets a bit; strict LRU order would cost a list update per
//! hit and buys nothing here.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

pub struct Lru<K, V> {
    map: HashMap<K, Slot<V>>,
    /// Every key of the map once, and keys removed since: those are skipped.
    clock: VecDeque<(K, u64)>,
    next_id: u64,
    weight: usize,
    weight_max: usize,
}

struct Slot<V> {
    value: V,
    weight: usize,
    used: bool,
    id: u64,
}

impl<K: Hash + Eq + Copy, V> Lru<K, V> {
    /// Holds entries up to a total weight, and always at least the newest one.
    pub fn new(weight_max: usize) -> Self {
        Self { map: HashMap::new(), clock: VecDeque::new(), next_id: 0, weight: 0, weight_max }
    }

    pub fn get(&mut self, key: &K) -> Option<&mut V> {
        let slot = self.map.get_mut(key)?;
        slot.used = true;
        Some(&mut slot.value)
    }

    pub fn contains(&self, key: &K) -> bool {
        self.map.contains_key(key)
    }

    pub fn insert(&mut self, key: K, value: V, weight: usize) {
        if let Some(slot) = self.map.get_mut(&key) {
            self.weight = self.weight - slot.weight + weight;
            slot.value = value;
            slot.weight = weight;
            slot.used = true;
            return;
        }
        self.make_room(weight);
        let id = self.next_id;
        self.next_id += 1;
        self.clock.push_back((key, id));
        self.weight += weight;
        self.map.insert(key, Slot { value, weight, used: false, id });
    }

    /// Corrects the weight of an entry that grew or shrank in place.
    pub fn reweigh(&mut self, key: &K, weight: usize) {
        if let Some(slot) = self.map.get_mut(key) {
            self.weight = self.weight - slot.weight + weight;
            slot.weight = weight;
        }
    }

    pub fn remove(&mut self, key: &K) -> Option<V> {
        let slot = self.map.remove(key)?;
        self.weight -= slot.weight;
        // Stale clock entries are dropped as the hand passes; this bounds their number when
        // entries come and go faster than room is needed.
        if self.clock.len() > 2 * self.map.len() + 64 {
            let map = &self.map;
            self.clock.retain(|(k, id)| map.get(k).is_some_and(|s| s.id == *id));
        }
        Some(slot.value)
    }

    pub fn clear(&mut self) {
        self.map.clear();
        self.clock.clear();
        self.weight = 0;
    }

    fn make_room(&mut self, weight: usize) {
        while self.weight + weight > self.weight_max {
            let Some((key, id)) = self.clock.pop_front() else { return };
            match self.map.get_mut(&key) {
                Some(slot) if slot.id == id && slot.used => {
                    slot.used = false;
                    self.clock.push_back((key, id));
                }
                Some(slot) if slot.id == id => {
                    self.weight -= slot.weight;
                    self.map.remove(&key);
                }
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn used_entries_outlive_unused_ones() {
        let mut lru = Lru::new(3);
        for k in 0..3 {
            lru.insert(k, k, 1);
        }
        assert!(lru.get(&0).is_some());
        lru.insert(3, 3, 1);
        assert!(lru.contains(&0) && !lru.contains(&1));
    }

    #[test]
    fn weight_stays_in_bounds_through_churn() {
        let mut lru = Lru::new(10);
        for k in 0..10_000_u32 {
            lru.insert(k, (), 1 + (k % 3) as usize);
            if k % 2 == 0 {
                lru.remove(&k);
            }
            assert!(lru.weight <= 12);
            assert!(lru.clock.len() <= 200);
        }
        assert_eq!(lru.weight, lru.map.values().map(|s| s.weight).sum::<usize>());
    }
}
