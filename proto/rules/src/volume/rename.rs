//! A directory changes its parent only under one lease for the whole volume.
//!
//! The lease is an ordinary exclusive one, on [`RENAMES`], at the lead of that key's slot; this
//! guards what a holder left behind. The holder says first which directory it moves, then walks
//! from the new parent to the root, then makes the change; the exclusive lease of the directory
//! itself is held all the while.
//!
//! Promises: two moves whose loop checks both pass never make a loop together (trap 35), also
//! when the first holder's frames arrive after its lease has ended.

use proto::{Gfid, LeaseNumber};

use crate::plant::{Plant, planted};

/// The key of the volume-wide rename lease: an id that no inode has, in slot 0.
pub const RENAMES: Gfid = Gfid([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);

/// At the lead that grants the rename lease.
#[derive(Clone, Debug, Default)]
pub struct RenameLease {
    moving: Option<(LeaseNumber, Gfid)>,
    settling: Option<Gfid>,
}

impl RenameLease {
    /// The holder under `number` says which directory it is going to move.
    pub fn name(&mut self, number: LeaseNumber, dir: Gfid) {
        self.moving = Some((number, dir));
    }

    /// The lease has ended: returned by its holder (its move is done), or otherwise. The answer
    /// is the directory to be settled by the lead of its slot: that takes its exclusive lease,
    /// whose number kills what the old holder has sent, finishes what has begun, and then
    /// `on_settled`.
    pub fn ended(&mut self, number: LeaseNumber, returned: bool) -> Option<Gfid> {
        let (_, dir) = self.moving.take_if(|(named_under, _)| *named_under == number)?;
        if returned || planted(Plant::NoRenameSettle) {
            return None;
        }
        self.settling = Some(dir);
        self.settling
    }

    pub fn on_settled(&mut self, dir: Gfid) {
        self.settling.take_if(|settling| *settling == dir);
    }

    /// Whether the lease table may grant the lease to anybody. A new lead asks the leads of all
    /// slots for intents of directories first.
    pub fn free(&self) -> bool {
        self.settling.is_none()
    }
}

/// Directories deeper than this are not moved: longer than any path that Linux takes.
const DEPTH_MAX: u32 = 4096;

/// The holder's walk from the new parent to the root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoopCheck {
    dir: Gfid,
    steps: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Walk {
    /// Ask the home of this directory for its parent, then `on_parent`.
    Ask(Gfid),
    /// No loop: the move may be made while the lease is held.
    Clear,
    /// The directory would be its own ancestor: EINVAL.
    Loop,
    /// ELOOP.
    TooDeep,
}

impl LoopCheck {
    pub fn start(dir: Gfid, new_parent: Gfid) -> (Self, Walk) {
        let mut check = Self { dir, steps: 0 };
        let walk = check.on_parent(new_parent);
        (check, walk)
    }

    /// The next directory upwards.
    pub fn on_parent(&mut self, parent: Gfid) -> Walk {
        self.steps += 1;
        match parent {
            parent if parent == self.dir => Walk::Loop,
            Gfid::ROOT => Walk::Clear,
            _ if self.steps > DEPTH_MAX => Walk::TooDeep,
            parent => Walk::Ask(parent),
        }
    }
}

#[cfg(test)]
#[path = "rename_test.rs"]
mod tests;
