//! Where a new inode lives when its name's set is short of space.
//!
//! Lookup never depends on this: the name stays in its slot, and is a pointer to an inode
//! whose gfid names a slot of another set.

use crate::ids::{SetId, SlotId};

/// Free space of a set, by its smallest member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    pub set: SetId,
    pub free_bytes: u64,
    pub total_bytes: u64,
}

impl Space {
    /// A tenth, as GlusterFS's `cluster.min-free-disk` has it: what is left below that is for
    /// the growth of files that are there.
    pub fn under_floor(&self) -> bool {
        self.free_bytes < self.total_bytes / 10
    }
}

/// The slots that new inodes take; made anew with every map and every news of space.
#[derive(Clone, Debug)]
pub struct NewInodes {
    /// By slot: whether its set is short of space. Empty when no rule applies.
    short: Vec<bool>,
    /// Sets with space: the sum of free MiB up to and with it, and its slots.
    with_space: Vec<(u64, Vec<SlotId>)>,
}

impl NewInodes {
    /// Sets of which nothing is known count as having space, but nothing is sent to them.
    pub fn new(slots: &[SetId], space: &[Space]) -> Self {
        let floor =
            |set: &SetId| space.iter().find(|s| s.set == *set).is_some_and(Space::under_floor);
        let mut with_space = Vec::new();
        let mut sum: u64 = 0;
        for s in space.iter().filter(|s| !s.under_floor()) {
            let of_set = |(slot, set): (u16, &SetId)| (*set == s.set).then_some(SlotId(slot));
            let own: Vec<SlotId> = (0..).zip(slots).filter_map(of_set).collect();
            if !own.is_empty() {
                sum = sum.saturating_add((s.free_bytes >> 20).max(1));
                with_space.push((sum, own));
            }
        }
        if with_space.is_empty() || !space.iter().any(Space::under_floor) {
            return Self { short: Vec::new(), with_space: Vec::new() };
        }
        Self { short: slots.iter().map(floor).collect(), with_space }
    }

    /// The slot of a new inode whose name lives in `name`; `random` decides among sets with
    /// space, in proportion to it, and among their slots.
    pub fn slot(&self, name: SlotId, random: u64) -> SlotId {
        if !self.short.get(usize::from(name.0)).copied().unwrap_or(false) {
            return name;
        }
        let Some((sum, _)) = self.with_space.last() else { return name };
        let at = random % *sum;
        let chosen = self.with_space.partition_point(|(upto, _)| *upto <= at);
        let Some((_, own)) = self.with_space.get(chosen) else { return name };
        // Other bits than those that chose the set.
        let nth = (random.rotate_right(32) % own.len() as u64) as usize;
        own.get(nth).copied().unwrap_or(name)
    }
}
