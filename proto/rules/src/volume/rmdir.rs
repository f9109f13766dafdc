//! Removing a directory whose names are on several sets: sealed, then gone.
//!
//! Run by the lead of the directory's home, under the client's exclusive leases of the directory
//! and of the part with its name; from the intent again, by whoever leads the home after a crash.
//!
//! Promises: a directory with a name is not removed; no part of a directory that stays is left
//! sealed (trap 62). Going on is always from the start: seals stand on disk, so a removal that
//! had gone further finds all parts sealed and empty again.

use std::collections::{BTreeMap, BTreeSet};

use proto::placement::slot_of_bucket;
use proto::{Errno, Gfid, SlotId};

use super::{ChangeId, Name};
use crate::plant::{Plant, planted};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RmdirCommand {
    /// The intent goes into the directory's meta, on stable storage; then `on_noted`.
    Note,
    /// The bucket takes no new names, on stable storage at its members, and leases of its part
    /// have ended: who waits with a name must ask the home again, before the part is gone.
    /// `on_sealed` with whether it is empty; a part that is not there is.
    Seal {
        bucket: u16,
        slot: SlotId,
    },
    Unseal {
        bucket: u16,
        slot: SlotId,
    },
    /// The name goes, if it names the directory.
    RemoveName {
        at: Name,
    },
    /// What is left of the bucket's part goes, and its seal with it; then `on_dropped`.
    Drop {
        bucket: u16,
        slot: SlotId,
    },
    /// The directory goes at its home, with the intent.
    RemoveHome,
    /// The intent goes.
    Forget,
    Answer(Result<(), Errno>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Noting,
    Sealing,
    Unsealing,
    RemovingName,
    Dropping,
    RemovingHome,
    Forgetting,
    Over,
}

/// One rmdir at the home's lead.
#[derive(Clone, Debug)]
pub struct Rmdir {
    id: ChangeId,
    dir: Gfid,
    name: Name,
    /// Recorded buckets; none is added while the intent stands.
    buckets: BTreeSet<u16>,
    open: BTreeSet<u16>,
    empty: bool,
    phase: Phase,
}

impl Rmdir {
    pub fn start(
        id: ChangeId,
        dir: Gfid,
        name: Name,
        buckets: BTreeSet<u16>,
    ) -> (Self, Vec<RmdirCommand>) {
        let open = BTreeSet::new();
        let mut rmdir = Self { id, dir, name, buckets, open, empty: true, phase: Phase::Noting };
        if planted(Plant::NoRmdirIntent) {
            let commands = rmdir.on_noted();
            return (rmdir, commands);
        }
        (rmdir, vec![RmdirCommand::Note])
    }

    /// From an intent that was found.
    pub fn resume(
        id: ChangeId,
        dir: Gfid,
        name: Name,
        buckets: BTreeSet<u16>,
    ) -> (Self, Vec<RmdirCommand>) {
        let (mut rmdir, _) = Self::start(id, dir, name, buckets);
        rmdir.phase = Phase::Noting;
        let commands = rmdir.on_noted();
        (rmdir, commands)
    }

    pub fn id(&self) -> ChangeId {
        self.id
    }

    pub fn on_noted(&mut self) -> Vec<RmdirCommand> {
        if self.phase != Phase::Noting {
            return Vec::new();
        }
        let seal = |bucket, slot| RmdirCommand::Seal { bucket, slot };
        self.each(Phase::Sealing, seal)
    }

    pub fn on_sealed(&mut self, bucket: u16, empty: bool) -> Vec<RmdirCommand> {
        if self.phase != Phase::Sealing || !self.open.remove(&bucket) {
            return Vec::new();
        }
        self.empty &= empty;
        if !self.open.is_empty() {
            return Vec::new();
        }
        match self.empty {
            true => self.after_seals(),
            false => {
                self.each(Phase::Unsealing, |bucket, slot| RmdirCommand::Unseal { bucket, slot })
            }
        }
    }

    pub fn on_unsealed(&mut self, bucket: u16) -> Vec<RmdirCommand> {
        if self.phase != Phase::Unsealing || !self.open.remove(&bucket) || !self.open.is_empty() {
            return Vec::new();
        }
        self.phase = Phase::Forgetting;
        vec![RmdirCommand::Forget]
    }

    pub fn on_forgotten(&mut self) -> Vec<RmdirCommand> {
        self.end(Phase::Forgetting, Err(Errno::ENOTEMPTY))
    }

    pub fn on_name_removed(&mut self) -> Vec<RmdirCommand> {
        if self.phase != Phase::RemovingName {
            return Vec::new();
        }
        let drop = |bucket, slot| RmdirCommand::Drop { bucket, slot };
        let commands = self.each(Phase::Dropping, drop);
        if commands.is_empty() { self.remove_home() } else { commands }
    }

    pub fn on_dropped(&mut self, bucket: u16) -> Vec<RmdirCommand> {
        if self.phase != Phase::Dropping || !self.open.remove(&bucket) || !self.open.is_empty() {
            return Vec::new();
        }
        self.remove_home()
    }

    pub fn on_home_removed(&mut self) -> Vec<RmdirCommand> {
        self.end(Phase::RemovingHome, Ok(()))
    }

    fn each(
        &mut self,
        phase: Phase,
        command: impl Fn(u16, SlotId) -> RmdirCommand,
    ) -> Vec<RmdirCommand> {
        self.phase = phase;
        self.open.clone_from(&self.buckets);
        if self.open.is_empty() && phase == Phase::Sealing {
            return self.after_seals();
        }
        self.open.iter().map(|b| command(*b, slot_of_bucket(self.dir, *b))).collect()
    }

    fn after_seals(&mut self) -> Vec<RmdirCommand> {
        self.phase = Phase::RemovingName;
        vec![RmdirCommand::RemoveName { at: self.name.clone() }]
    }

    fn remove_home(&mut self) -> Vec<RmdirCommand> {
        self.phase = Phase::RemovingHome;
        vec![RmdirCommand::RemoveHome]
    }

    fn end(&mut self, expected: Phase, answer: Result<(), Errno>) -> Vec<RmdirCommand> {
        if self.phase != expected {
            return Vec::new();
        }
        self.phase = Phase::Over;
        vec![RmdirCommand::Answer(answer)]
    }
}

/// Seals of the buckets that a set holds, at every member; kept on disk by the driver.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seals {
    sealed: BTreeMap<(Gfid, u16), ChangeId>,
}

impl Seals {
    /// Whether the bucket is sealed now: it is, if it was `empty`.
    pub fn seal(&mut self, dir: Gfid, bucket: u16, id: ChangeId, empty: bool) -> bool {
        if empty {
            self.sealed.insert((dir, bucket), id);
        }
        empty
    }

    /// # Errors
    /// The change that sealed the bucket: the asker waits, and the lead asks the home whether
    /// that change is still there (`unseal` if not).
    pub fn may_add(&self, dir: Gfid, bucket: u16) -> Result<(), ChangeId> {
        match self.sealed.get(&(dir, bucket)) {
            Some(id) if !planted(Plant::NoSeals) => Err(*id),
            _ => Ok(()),
        }
    }

    pub fn unseal(&mut self, dir: Gfid, bucket: u16, id: ChangeId) {
        if self.sealed.get(&(dir, bucket)) == Some(&id) {
            self.sealed.remove(&(dir, bucket));
        }
    }

    pub fn is_empty(&self) -> bool {
        self.sealed.is_empty()
    }
}

#[cfg(test)]
#[path = "rmdir_test.rs"]
mod tests;
