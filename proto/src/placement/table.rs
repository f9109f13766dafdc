//! Which set holds which slot: new tables, and what moves when sets come, go or change weight.
//!
//! *How many* slots a set holds follows from weights alone, so that future names spread evenly;
//! *which* slots move, from the bytes in them where those are known, so that bytes become even.
//! Every function is total and deterministic: the same input gives the same plan on every peer.
//!
//! Deliberately does not: put a plan into a map. Each slot is moved and flipped by itself.

use std::collections::{BTreeMap, BTreeSet};

use super::choose;
use crate::ids::{SetId, SlotId};
use crate::map::SLOTS;

/// A set and how much it is to hold beside others: GiB of its smallest member, see
/// [`weight_of`]. A set of weight 0 is to hold nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weight {
    pub set: SetId,
    pub weight: u64,
}

/// One slot that goes to another set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotMove {
    pub slot: SlotId,
    pub from: SetId,
    pub to: SetId,
}

/// What cannot be planned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CannotPlan {
    #[error("no set may hold a slot: all weights are 0")]
    NoWeight,
    #[error("a slot table has {SLOTS} slots")]
    BadTable,
    #[error("a set is named twice")]
    NamedTwice,
}

/// How many slots each set holds, or is to hold.
pub type Counts = BTreeMap<SetId, u16>;

/// The weight of a set whose smallest member has that many bytes in all.
pub fn weight_of(total_bytes: u64) -> u64 {
    (total_bytes >> 30).max(1)
}

/// The table of a new volume: each set's share by weight, in runs, so that tables compress;
/// shares are within one slot of exact.
///
/// # Errors
/// All weights are 0, or a set is named twice.
pub fn initial(weights: &[Weight]) -> Result<Vec<SetId>, CannotPlan> {
    let total = total_weight(weights)?;
    let mut table = Vec::with_capacity(usize::from(SLOTS));
    let mut sum: u128 = 0;
    for Weight { set, weight } in weights {
        sum += u128::from(*weight);
        let end = (sum * u128::from(SLOTS)).checked_div(total).unwrap_or(0);
        let missing = end.saturating_sub(table.len() as u128);
        table.extend(std::iter::repeat_n(*set, usize::try_from(missing).unwrap_or(0)));
    }
    Ok(table)
}

/// What moves when the sets in `weights` that hold no slot yet are to get their share: exactly
/// that share, rounded down, and only to them. Sets of weight 0 neither give nor get.
///
/// `bytes[s]` are the bytes in slot `s`; empty when they are not known.
///
/// # Errors
/// See [`CannotPlan`].
pub fn grow(
    slots: &[SetId],
    weights: &[Weight],
    bytes: &[u64],
) -> Result<Vec<SlotMove>, CannotPlan> {
    let total = total_weight(weights)?;
    let held = counts(slots)?;
    let mut targets = held.clone();
    let mut wanted: u32 = 0;
    for w in weights.iter().filter(|w| !held.contains_key(&w.set) && w.weight > 0) {
        let share = u128::from(SLOTS) * u128::from(w.weight) / total;
        let share = u16::try_from(share).unwrap_or(SLOTS);
        targets.insert(w.set, share);
        wanted += u32::from(share);
    }
    let old = weights.iter().filter(|w| held.contains_key(&w.set) && w.weight > 0);
    drain(&mut targets, &old.copied().collect::<Vec<_>>(), wanted);
    Ok(plan(slots, weights, &targets, bytes))
}

/// What moves when `leaving` give up all their slots: those, each to one of the others, and
/// nothing between the others.
///
/// # Errors
/// See [`CannotPlan`]; `NoWeight` when nobody is left to take them.
pub fn shrink(
    slots: &[SetId],
    weights: &[Weight],
    leaving: &[SetId],
    bytes: &[u64],
) -> Result<Vec<SlotMove>, CannotPlan> {
    let stay: Vec<Weight> =
        weights.iter().copied().filter(|w| !leaving.contains(&w.set) && w.weight > 0).collect();
    total_weight(&stay)?;
    let mut targets = counts(slots)?;
    let mut left = 0;
    for set in leaving {
        left += u32::from(targets.remove(set).unwrap_or(0));
    }
    pour(&mut targets, &stay, left);
    Ok(plan(slots, &stay, &targets, bytes))
}

/// What moves so that every set of `weights` holds its share: what is over it, to whoever is
/// under it. Sets that are not named, or weigh 0, give up everything.
///
/// # Errors
/// See [`CannotPlan`].
pub fn rebalance(
    slots: &[SetId],
    weights: &[Weight],
    bytes: &[u64],
) -> Result<Vec<SlotMove>, CannotPlan> {
    let held = counts(slots)?;
    let targets = quotas(weights, &held)?;
    Ok(plan(slots, weights, &targets, bytes))
}

/// Each set's share of all slots: rounded down, and the rest to those with the greatest
/// remainder, at a tie to who holds one more already, so that nothing moves for a rounding.
///
/// # Errors
/// See [`CannotPlan`].
pub fn quotas(weights: &[Weight], held: &Counts) -> Result<Counts, CannotPlan> {
    let total = total_weight(weights)?;
    let mut quotas = Counts::new();
    let mut remainders = Vec::new();
    let mut given: u32 = 0;
    for w in weights {
        let exact = u128::from(SLOTS) * u128::from(w.weight);
        let share = u16::try_from(exact / total).unwrap_or(SLOTS);
        quotas.insert(w.set, share);
        given += u32::from(share);
        let holds_more = held.get(&w.set).is_some_and(|held| *held > share);
        remainders.push((std::cmp::Reverse((exact % total, holds_more)), w.set));
    }
    remainders.sort_unstable();
    let rest = u32::from(SLOTS).saturating_sub(given) as usize;
    for (_, set) in remainders.into_iter().take(rest) {
        *quotas.entry(set).or_default() += 1;
    }
    Ok(quotas)
}

/// Slots held by each set that holds any.
///
/// # Errors
/// The table does not have [`SLOTS`] slots.
pub fn counts(slots: &[SetId]) -> Result<Counts, CannotPlan> {
    if slots.len() != usize::from(SLOTS) {
        return Err(CannotPlan::BadTable);
    }
    let mut counts = Counts::new();
    for set in slots {
        *counts.entry(*set).or_default() += 1;
    }
    Ok(counts)
}

/// The table after a plan.
pub fn after(slots: &[SetId], moves: &[SlotMove]) -> Vec<SetId> {
    let mut table = slots.to_vec();
    for m in moves {
        if let Some(set) = table.get_mut(usize::from(m.slot.0)) {
            *set = m.to;
        }
    }
    table
}

fn total_weight(weights: &[Weight]) -> Result<u128, CannotPlan> {
    let mut seen = BTreeSet::new();
    if weights.iter().any(|w| !seen.insert(w.set)) {
        return Err(CannotPlan::NamedTwice);
    }
    match weights.iter().map(|w| u128::from(w.weight)).sum() {
        0 => Err(CannotPlan::NoWeight),
        total => Ok(total),
    }
}

/// Takes `wanted` slots, one after the other, from whoever holds most for its weight.
fn drain(targets: &mut Counts, from: &[Weight], wanted: u32) {
    let mut order: BTreeSet<_> =
        from.iter().map(|w| (load(targets, *w, 0), w.set, w.weight)).collect();
    for _ in 0..wanted {
        let Some((_, set, weight)) = order.pop_last() else { return };
        let Some(count) = targets.get_mut(&set).filter(|count| **count > 0) else { return };
        *count -= 1;
        order.insert((load(targets, Weight { set, weight }, 0), set, weight));
    }
}

/// Gives `left` slots, one after the other, to whoever then holds least for its weight.
fn pour(targets: &mut Counts, to: &[Weight], left: u32) {
    let mut order: BTreeSet<_> =
        to.iter().map(|w| (load(targets, *w, 1), w.set, w.weight)).collect();
    for _ in 0..left {
        let Some((_, set, weight)) = order.pop_first() else { return };
        *targets.entry(set).or_default() += 1;
        order.insert((load(targets, Weight { set, weight }, 1), set, weight));
    }
}

/// Slots (and `more`) per weight, as a number that compares exactly enough: 64 bits of fraction.
fn load(targets: &Counts, w: Weight, more: u16) -> u128 {
    let slots = u128::from(targets.get(&w.set).copied().unwrap_or(0) + more);
    (slots << 64) / u128::from(w.weight.max(1))
}

/// Takes what is over `targets` and hands it to who is under.
fn plan(slots: &[SetId], weights: &[Weight], targets: &Counts, bytes: &[u64]) -> Vec<SlotMove> {
    let mut by_set: BTreeMap<SetId, Vec<SlotId>> = BTreeMap::new();
    for (slot, set) in (0..).zip(slots) {
        by_set.entry(*set).or_default().push(SlotId(slot));
    }
    let target = |set: SetId| usize::from(targets.get(&set).copied().unwrap_or(0));
    let holds = |set: SetId| by_set.get(&set).map_or(0, Vec::len);
    let under = |w: &Weight| {
        let room = target(w.set).saturating_sub(holds(w.set));
        u16::try_from(room).ok().filter(|room| *room > 0).map(|room| (*w, room))
    };
    let room: Vec<(Weight, u16)> = weights.iter().filter_map(under).collect();
    let takers: Vec<SetId> = room.iter().map(|(w, _)| w.set).collect();
    let donors: Vec<choose::Donor<'_>> = by_set
        .iter()
        .map(|(set, held)| choose::Donor {
            set: *set,
            held,
            gives: held.len().saturating_sub(target(*set)),
        })
        .filter(|donor| donor.gives > 0)
        .collect();
    let mut sizes = choose::Sizes::new(slots, bytes);
    sizes.share_out(weights, &donors, &takers);
    let mut pool: Vec<(SlotId, SetId)> = Vec::new();
    for donor in &donors {
        pool.extend(sizes.give(donor).into_iter().map(|slot| (slot, donor.set)));
    }
    sizes.hand_out(pool, room)
}
