//! Giving a slot away, at the lead of its old set.
//!
//! Promises: nothing of the slot is served between the release and its outcome; the outcome is
//! the flip in the map, an epoch after this one, or the mover's word, never a guess.

use proto::{Epoch, SlotId};

use crate::plant::{Plant, planted};
use crate::time::{JOIN_PAUSE, Tick};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReleaseCommand {
    /// The gate holds the slot back: `SlotGate::hold`.
    Hold,
    /// All leases of the slot's inodes and of parts with its buckets are recalled or revoked, and
    /// what their holders left is settled; then `on_drained`.
    Drain,
    /// Tell the mover: the rest of the data, locks, pins, unsettled lists, numbers, seals, and the
    /// list that its receipt must equal.
    HandOver { epoch: Epoch },
    /// Tell the mover that nothing was released.
    Refuse,
    /// `SlotGate::resume`.
    Resume,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Draining,
    Released,
    Over,
}

/// One slot on its way out.
#[derive(Clone, Debug)]
pub struct SlotRelease {
    slot: SlotId,
    epoch: Epoch,
    deadline: Tick,
    phase: Phase,
}

impl SlotRelease {
    /// `epoch` as the gate knows it.
    pub fn start(now: Tick, slot: SlotId, epoch: Epoch) -> (Self, Vec<ReleaseCommand>) {
        let deadline = now.after(JOIN_PAUSE);
        let release = Self { slot, epoch, deadline, phase: Phase::Draining };
        let hold = (!planted(Plant::NoRelease)).then_some(ReleaseCommand::Hold);
        (release, hold.into_iter().chain([ReleaseCommand::Drain]).collect())
    }

    pub fn slot(&self) -> SlotId {
        self.slot
    }

    pub fn on_drained(&mut self) -> Option<ReleaseCommand> {
        if self.phase != Phase::Draining {
            return None;
        }
        self.phase = Phase::Released;
        Some(ReleaseCommand::HandOver { epoch: self.epoch })
    }

    /// Draining takes too long: writers wait, so another time. What is released stays so.
    pub fn on_tick(&mut self, now: Tick) -> Vec<ReleaseCommand> {
        if self.phase != Phase::Draining || now < self.deadline {
            return Vec::new();
        }
        self.phase = Phase::Over;
        vec![ReleaseCommand::Refuse, ReleaseCommand::Resume]
    }

    /// The mover will not propose the flip of this release.
    pub fn on_withdrawn(&mut self, epoch: Epoch) -> Option<ReleaseCommand> {
        let ends = self.phase != Phase::Over && epoch == self.epoch;
        ends.then(|| {
            self.phase = Phase::Over;
            ReleaseCommand::Resume
        })
    }

    /// A later epoch: the release is void, or the flip stands in the map; the gate knows.
    pub fn on_epoch(&mut self, epoch: Epoch) {
        if epoch > self.epoch {
            self.phase = Phase::Over;
        }
    }

    pub fn is_over(&self) -> bool {
        self.phase == Phase::Over
    }
}
