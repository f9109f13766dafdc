//! Whether a set serves a slot: at its lead, for every request that names one.
//!
//! Promises: with the release (`slot_release`) and the flip's entry (`slot_move::apply_flip`), at
//! most one set serves a slot at any time, whatever maps senders and sets have (traps 38, 39).
//!
//! Assumes: the set's own gate (epoch, promises) was passed; a member that serves in an epoch
//! has the map of that epoch at least. Reads and changes under a lease go to other members, too:
//! before a release all leases of the slot have ended.

use std::collections::BTreeMap;

use proto::{Epoch, SetId, SlotId};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotVerdict {
    Serve,
    /// Another set has it by this set's map: the sender gets the newest map.
    Moved,
    /// The sender has a newer map: this set gets that first, then looks again.
    GetMap,
    /// Released, or draining: wait for a flip or the end of the epoch.
    Held,
}

#[derive(Clone, Debug)]
pub struct SlotGate {
    set: SetId,
    version: u64,
    epoch: Epoch,
    slots: Vec<SetId>,
    held: BTreeMap<SlotId, Epoch>,
}

impl SlotGate {
    pub fn new(set: SetId) -> Self {
        let (slots, held) = (Vec::new(), BTreeMap::new());
        Self { set, version: 0, epoch: Epoch::NONE, slots, held }
    }

    /// A map; an older one is ignored. A slot held back is served again in an epoch after the
    /// one of its release: that release is void then, or the flip stands in this map.
    pub fn on_map(&mut self, version: u64, epoch: Epoch, slots: &[SetId]) {
        if version < self.version {
            return;
        }
        self.version = version;
        self.epoch = epoch;
        slots.clone_into(&mut self.slots);
        self.held.retain(|_, held_in| epoch <= *held_in);
    }

    pub fn version(&self) -> u64 {
        self.version
    }

    fn owns(&self, slot: SlotId) -> bool {
        self.slots.get(usize::from(slot.0)) == Some(&self.set)
    }

    /// For a request made with a map of `version`.
    pub fn check(&self, slot: SlotId, version: u64) -> SlotVerdict {
        match (self.owns(slot), self.held.contains_key(&slot)) {
            (true, true) => SlotVerdict::Held,
            (true, false) if version <= self.version => SlotVerdict::Serve,
            // The sender may know of a flip away from here.
            (true, false) => SlotVerdict::GetMap,
            (false, _) if version > self.version => SlotVerdict::GetMap,
            (false, _) => SlotVerdict::Moved,
        }
    }

    /// Whether a mover may write to the slot here, in a round of copying or a hand-over: not once
    /// it is this set's own. (A mover that died had proposed the flip; the next one has not heard
    /// that it was committed, and copies over what clients have written here since.)
    pub fn may_install(&self, slot: SlotId) -> bool {
        !self.owns(slot)
    }

    /// The epoch in which a release of now holds.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Serves nothing of the slot from now on, in this epoch.
    pub fn hold(&mut self, slot: SlotId) {
        self.held.insert(slot, self.epoch);
    }

    /// The mover's word that it does not propose the flip.
    pub fn resume(&mut self, slot: SlotId) {
        self.held.remove(&slot);
    }
}
