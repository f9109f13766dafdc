//! Which slots go, and to whom, when their numbers are settled: by the bytes in them.

use std::collections::{BTreeMap, BTreeSet};

use super::table::{SlotMove, Weight};
use crate::ids::{SetId, SlotId};

/// Bytes per slot, and per set what it holds and what it should give.
pub(super) struct Sizes<'a> {
    /// Empty when nothing is known: then all slots count alike.
    bytes: &'a [u64],
    held: BTreeMap<SetId, u64>,
    over: BTreeMap<SetId, u64>,
}

/// A set that holds too many slots, and how many it gives.
pub(super) struct Donor<'a> {
    pub set: SetId,
    pub held: &'a [SlotId],
    pub gives: usize,
}

impl<'a> Sizes<'a> {
    pub fn new(slots: &[SetId], bytes: &'a [u64]) -> Self {
        let bytes = if bytes.len() == slots.len() { bytes } else { &[] };
        let mut held: BTreeMap<SetId, u64> = BTreeMap::new();
        for (set, n) in slots.iter().zip(bytes) {
            let sum = held.entry(*set).or_default();
            *sum = sum.saturating_add(*n);
        }
        Self { bytes, held, over: BTreeMap::new() }
    }

    /// How many bytes each donor should give, so that `takers` come to their share of what all
    /// of `weights` hold: from those that hold most for their weight, down to one level. A donor
    /// that must give so many slots gives the bytes of its smallest ones at least.
    pub fn share_out(&mut self, weights: &[Weight], donors: &[Donor<'_>], takers: &[SetId]) {
        let all: u128 = self.held.values().map(|n| u128::from(*n)).sum();
        let total: u128 = weights.iter().map(|w| u128::from(w.weight)).sum();
        let fair = |w: &Weight| (all * u128::from(w.weight)).checked_div(total).unwrap_or(0);
        let takes = |w: &&Weight| takers.contains(&w.set);
        let needs = weights.iter().filter(takes);
        let need: u128 = needs.map(|w| fair(w).saturating_sub(self.bytes_of(w.set))).sum();
        let weight = |set| weights.iter().find(|w| w.set == set).map_or(0, |w| w.weight);
        let givers: Vec<(SetId, u128, u128)> =
            donors.iter().map(|d| (d.set, weight(d.set).into(), self.least(d))).collect();
        let above = |level: u128, (set, weight, least): &(SetId, u128, u128)| {
            self.bytes_of(*set).saturating_sub(level.saturating_mul(*weight)).max(*least)
        };
        // The lowest level, in bytes per weight, above which there is no more than is needed.
        let (mut low, mut high) = (0_u128, u128::from(u64::MAX));
        while low < high {
            let middle = (low + high) / 2;
            let given: u128 = givers.iter().map(|g| above(middle, g)).sum();
            if given <= need { high = middle } else { low = middle + 1 }
        }
        let give =
            |g: &(SetId, u128, u128)| (g.0, u64::try_from(above(low, g)).unwrap_or(u64::MAX));
        self.over = givers.iter().map(give).collect();
    }

    /// Bytes of a donor's smallest slots.
    fn least(&self, donor: &Donor<'_>) -> u128 {
        let mut sizes: Vec<u64> = donor.held.iter().map(|slot| self.of(*slot)).collect();
        sizes.sort_unstable();
        sizes.iter().take(donor.gives).map(|n| u128::from(*n)).sum()
    }

    fn bytes_of(&self, set: SetId) -> u128 {
        self.held.get(&set).copied().unwrap_or(0).into()
    }

    fn of(&self, slot: SlotId) -> u64 {
        self.bytes.get(usize::from(slot.0)).copied().unwrap_or(0)
    }

    /// The slots that a donor gives: with about as many bytes as it should. Without sizes, its
    /// last ones, so that runs stay whole.
    pub fn give(&self, donor: &Donor<'_>) -> Vec<SlotId> {
        if self.bytes.is_empty() || donor.gives >= donor.held.len() {
            return donor.held[donor.held.len().saturating_sub(donor.gives)..].to_vec();
        }
        let mut over = self.over.get(&donor.set).copied().unwrap_or(0);
        let mut left: BTreeSet<(u64, SlotId)> =
            donor.held.iter().map(|slot| (self.of(*slot), *slot)).collect();
        let mut given = Vec::with_capacity(donor.gives);
        for more in (1..=donor.gives as u64).rev() {
            // The slot nearest to an even share of what is still to be given.
            let Some(next) = nearest(&left, over / more) else { break };
            left.remove(&next);
            over = over.saturating_sub(next.0);
            given.push(next.1);
        }
        given.sort_unstable();
        given
    }

    /// Each slot of the pool to a set with room: the largest first, to whoever has the fewest
    /// bytes for its weight then.
    pub fn hand_out(
        &self,
        mut pool: Vec<(SlotId, SetId)>,
        room: Vec<(Weight, u16)>,
    ) -> Vec<SlotMove> {
        pool.sort_unstable_by_key(|(slot, _)| (std::cmp::Reverse(self.of(*slot)), *slot));
        let mut order: BTreeSet<(u128, u32, SetId)> = BTreeSet::new();
        let mut takers: BTreeMap<SetId, (Weight, u16, u64)> = BTreeMap::new();
        for (w, room) in room {
            let bytes = self.held.get(&w.set).copied().unwrap_or(0);
            order.insert((per_weight(bytes, w), 0, w.set));
            takers.insert(w.set, (w, room, bytes));
        }
        let mut moves = Vec::with_capacity(pool.len());
        for (slot, from) in pool {
            let Some((_, taken, to)) = order.pop_first() else { break };
            let Some((w, room, bytes)) = takers.get_mut(&to) else { break };
            *bytes = bytes.saturating_add(self.of(slot));
            *room -= 1;
            if *room > 0 {
                // With equal bytes (none known) they take turns.
                order.insert((per_weight(*bytes, *w), taken + 1, to));
            }
            moves.push(SlotMove { slot, from, to });
        }
        moves.sort_unstable_by_key(|m| m.slot);
        moves
    }
}

fn per_weight(bytes: u64, w: Weight) -> u128 {
    (u128::from(bytes) << 32) / u128::from(w.weight.max(1))
}

fn nearest(left: &BTreeSet<(u64, SlotId)>, wanted: u64) -> Option<(u64, SlotId)> {
    let pivot = (wanted, SlotId(0));
    let above = left.range(pivot..).next().copied();
    let below = left.range(..pivot).next_back().copied();
    match (below, above) {
        (Some(b), Some(a)) if wanted - b.0 < a.0 - wanted => Some(b),
        (below, above) => above.or(below),
    }
}
