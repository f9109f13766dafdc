//! Moving a slot to another set: the mover's side, and the entry that flips it.
//!
//! The mover runs in the pool's rebalance job, on the new set's lead; its only note is (slot,
//! from, to). After a crash it begins at `resume` with what the map says.
//!
//! Promises: the flip is proposed only after the old lead's release, and after locks, pins and
//! the rest are at the new lead (traps 38, 40); the source is deleted only when the new set's
//! receipt equals what was released.

use proto::{Epoch, SetId, SlotId};

use crate::plant::{Plant, planted};

/// The log entry that gives a slot to another set. Void unless everything in it is so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Flip {
    pub slot: SlotId,
    pub from: SetId,
    /// The epoch in which the old lead released it.
    pub from_epoch: Epoch,
    pub to: SetId,
    /// The epoch in which all in-sync members of the new set have it.
    pub to_epoch: Epoch,
}

/// Applies a flip to the slot table; false if it is void. Pure, the same on every peer.
pub fn apply_flip(
    slots: &mut [SetId],
    epoch_of: impl Fn(SetId) -> Option<Epoch>,
    flip: &Flip,
) -> bool {
    let epochs =
        epoch_of(flip.from) == Some(flip.from_epoch) && epoch_of(flip.to) == Some(flip.to_epoch);
    let Some(owner) = slots.get_mut(usize::from(flip.slot.0)) else { return false };
    if !epochs || *owner != flip.from || flip.from == flip.to {
        return false;
    }
    *owner = flip.to;
    true
}

/// What is in a slot: told at the release by the old lead, and as received by the new one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Receipt {
    pub inodes: u64,
    pub bytes: u64,
    /// xxh3 over (gfid, stamp, size, block sums) of the inodes in gfid order.
    pub digest: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MoveCommand {
    /// One round of copying to all in-sync members of the new set; then `on_copied`.
    Copy,
    /// Ask the old lead for its release; then `on_released` or `on_refused`.
    AskRelease,
    /// The new lead takes over what came with the release, on all its members; `on_taken_over`.
    TakeOver,
    /// To the pool's log; the outcome is in the map (`on_map`) or an epoch (`on_epoch`).
    Propose(Flip),
    /// Tell the old lead that this release will not be used.
    Withdraw {
        epoch: Epoch,
    },
    /// Ask the new lead what it has; then `on_receipt`.
    AskReceipt,
    /// The old set deletes the slot's inodes and names; then `on_deleted`.
    Delete,
    /// Nothing is deleted, and status says so.
    Differs {
        released: Receipt,
        received: Receipt,
    },
    Done,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Copying,
    Releasing,
    TakingOver { epoch: Epoch },
    Proposed { epoch: Epoch },
    Verifying,
    Deleting,
    Over,
}

/// One slot on its way.
#[derive(Clone, Debug)]
pub struct SlotMove {
    slot: SlotId,
    from: SetId,
    to: SetId,
    to_epoch: Epoch,
    /// What the old lead released; it keeps it as well, for after a crash of the mover.
    released: Option<Receipt>,
    phase: Phase,
}

/// So little is left that the final pause is short: bytes that differ after a round.
const SMALL_REST_BYTES: u64 = 4 << 20;

impl SlotMove {
    /// From the note; `owner` by the newest map, `to_epoch` of the new set.
    pub fn resume(
        slot: SlotId,
        (from, to): (SetId, SetId),
        owner: SetId,
        to_epoch: Epoch,
    ) -> (Self, Vec<MoveCommand>) {
        let mut slot_move =
            Self { slot, from, to, to_epoch, released: None, phase: Phase::Copying };
        if owner == to {
            slot_move.phase = Phase::Verifying;
            return (slot_move, vec![MoveCommand::AskReceipt]);
        }
        (slot_move, vec![MoveCommand::Copy])
    }

    /// A round has ended; so many bytes have changed meanwhile.
    pub fn on_copied(&mut self, left_bytes: u64) -> Vec<MoveCommand> {
        if self.phase != Phase::Copying {
            return Vec::new();
        }
        if left_bytes > SMALL_REST_BYTES {
            return vec![MoveCommand::Copy];
        }
        self.phase = Phase::Releasing;
        vec![MoveCommand::AskRelease]
    }

    /// The old lead serves the slot no more, in that epoch of its set.
    pub fn on_released(&mut self, epoch: Epoch, receipt: Receipt) -> Vec<MoveCommand> {
        if self.phase != Phase::Releasing {
            return vec![MoveCommand::Withdraw { epoch }];
        }
        self.released = Some(receipt);
        self.phase = Phase::TakingOver { epoch };
        if planted(Plant::FlipBeforeHandOver) {
            self.phase = Phase::Proposed { epoch };
            return vec![self.propose(epoch), MoveCommand::TakeOver];
        }
        vec![MoveCommand::TakeOver]
    }

    /// Too slow, or not its lead any more.
    pub fn on_refused(&mut self) -> Vec<MoveCommand> {
        if self.phase != Phase::Releasing {
            return Vec::new();
        }
        self.again()
    }

    /// The new lead has everything, on all its in-sync members; or could not.
    pub fn on_taken_over(&mut self, done: bool) -> Vec<MoveCommand> {
        let Phase::TakingOver { epoch } = self.phase else { return Vec::new() };
        if !done {
            let mut commands = vec![MoveCommand::Withdraw { epoch }];
            commands.extend(self.again());
            return commands;
        }
        self.phase = Phase::Proposed { epoch };
        vec![self.propose(epoch)]
    }

    fn propose(&self, from_epoch: Epoch) -> MoveCommand {
        let Self { slot, from, to, to_epoch, .. } = *self;
        MoveCommand::Propose(Flip { slot, from, from_epoch, to, to_epoch })
    }

    /// The newest map: who has the slot, and the epochs of both sets. A proposed flip that is not
    /// in it is void once one of the epochs is over; until then it may still come.
    pub fn on_map(&mut self, owner: SetId, from_epoch: Epoch, to_epoch: Epoch) -> Vec<MoveCommand> {
        let joined = std::mem::replace(&mut self.to_epoch, to_epoch) != to_epoch;
        match self.phase {
            Phase::Verifying | Phase::Deleting | Phase::Over => Vec::new(),
            _ if owner == self.to => {
                self.phase = Phase::Verifying;
                vec![MoveCommand::AskReceipt]
            }
            // A newcomer of the new set must get it, too; the old release ends with its word.
            Phase::Proposed { epoch } if joined || epoch != from_epoch => {
                let mut commands = vec![MoveCommand::Withdraw { epoch }];
                commands.extend(self.again());
                commands
            }
            Phase::TakingOver { epoch } if joined || epoch != from_epoch => {
                let mut commands = vec![MoveCommand::Withdraw { epoch }];
                commands.extend(self.again());
                commands
            }
            Phase::Copying | Phase::Releasing if joined => self.again(),
            _ => Vec::new(),
        }
    }

    fn again(&mut self) -> Vec<MoveCommand> {
        self.phase = Phase::Copying;
        vec![MoveCommand::Copy]
    }

    /// What the new lead has; `released` as the old lead remembers it, where the mover does not.
    pub fn on_receipt(&mut self, received: Receipt, released: Receipt) -> Vec<MoveCommand> {
        if self.phase != Phase::Verifying {
            return Vec::new();
        }
        let released = self.released.unwrap_or(released);
        if received != released {
            self.phase = Phase::Over;
            return vec![MoveCommand::Differs { released, received }];
        }
        self.phase = Phase::Deleting;
        vec![MoveCommand::Delete]
    }

    pub fn on_deleted(&mut self) -> Vec<MoveCommand> {
        if self.phase != Phase::Deleting {
            return Vec::new();
        }
        self.phase = Phase::Over;
        vec![MoveCommand::Done]
    }
}

#[cfg(test)]
#[path = "slot_move_test.rs"]
mod tests;
