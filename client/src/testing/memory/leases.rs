//! Who holds which lease.

use std::collections::HashMap;

use proto::fop::{LeaseKey, Mode};

#[derive(Debug, Default)]
struct Lease {
    mode: Option<Mode>,
    /// What a recall under way leaves.
    recalled_to: Option<Mode>,
    guards: u32,
    changes: u32,
}

/// A lease that an operation cannot do without.
#[derive(Clone, Copy, Debug)]
pub(super) struct Needed {
    pub key: LeaseKey,
    pub mode: Mode,
    /// To be held by the asker when the operation is executed.
    pub take: bool,
}

/// A lease of somebody else that stands in the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Conflict {
    pub session: u64,
    pub key: LeaseKey,
    pub keep: Mode,
}

#[derive(Debug, Default)]
pub(super) struct Leases {
    keys: HashMap<LeaseKey, HashMap<u64, Lease>>,
}

impl Leases {
    fn entry(&mut self, session: u64, key: LeaseKey) -> &mut Lease {
        self.keys.entry(key).or_default().entry(session).or_default()
    }

    fn get(&self, session: u64, key: LeaseKey) -> Option<&Lease> {
        self.keys.get(&key)?.get(&session)
    }

    /// The mode, unless it is being recalled.
    pub fn held(&self, session: u64, key: LeaseKey) -> Option<Mode> {
        self.get(session, key).filter(|l| l.recalled_to.is_none())?.mode
    }

    pub fn grant(&mut self, session: u64, key: LeaseKey, mode: Mode) {
        let lease = self.entry(session, key);
        lease.mode = lease.mode.max(Some(mode));
    }

    pub fn give_back(&mut self, session: u64, key: LeaseKey, keep: Mode) {
        let lease = self.entry(session, key);
        lease.recalled_to = None;
        lease.mode = (keep != Mode::None).then_some(keep);
    }

    pub fn guards(&self, session: u64, key: LeaseKey) -> u32 {
        self.get(session, key).map_or(0, |l| l.guards)
    }

    pub fn begin_guard(&mut self, session: u64, key: LeaseKey) {
        self.entry(session, key).guards += 1;
    }

    pub fn end_guard(&mut self, session: u64, key: LeaseKey) {
        self.entry(session, key).guards -= 1;
    }

    /// Changes under way that were sent under the lease while it was held.
    pub fn changes(&self, session: u64, key: LeaseKey) -> u32 {
        self.get(session, key).filter(|l| l.mode == Some(Mode::Exclusive)).map_or(0, |l| l.changes)
    }

    pub fn begin_change(&mut self, session: u64, key: LeaseKey) {
        let lease = self.entry(session, key);
        lease.changes += u32::from(lease.mode == Some(Mode::Exclusive));
    }

    pub fn end_change(&mut self, session: u64, key: LeaseKey) {
        let lease = self.entry(session, key);
        lease.changes = lease.changes.saturating_sub(1);
    }

    /// The leases of others that must go first.
    pub fn conflicts(&self, session: u64, needed: &[Needed]) -> Vec<Conflict> {
        let mut conflicts = Vec::new();
        for need in needed {
            self.conflicts_on(session, need.key, need.mode, &mut conflicts);
            // A directory's attributes change with its names.
            if let (LeaseKey::Part(dir), Mode::Exclusive) = (need.key, need.mode) {
                self.conflicts_on(session, LeaseKey::Inode(dir), need.mode, &mut conflicts);
            }
        }
        conflicts
    }

    fn conflicts_on(&self, session: u64, key: LeaseKey, mode: Mode, out: &mut Vec<Conflict>) {
        let Some(holders) = self.keys.get(&key) else { return };
        for (holder, lease) in holders.iter().filter(|(s, _)| **s != session) {
            let keep = match (mode, lease.mode) {
                (_, None) | (Mode::Shared, Some(Mode::Shared)) => continue,
                (Mode::Shared, _) => Mode::Shared,
                _ => Mode::None,
            };
            out.push(Conflict { session: *holder, key, keep });
        }
    }

    /// Marks recalls; answers those that nobody has begun.
    pub fn start_recalls(&mut self, conflicts: Vec<Conflict>) -> Vec<Conflict> {
        let mut fresh = Vec::new();
        for conflict in conflicts {
            let lease = self.entry(conflict.session, conflict.key);
            if lease.recalled_to.is_none() {
                lease.recalled_to = Some(conflict.keep);
                fresh.push(conflict);
            }
        }
        fresh
    }

    /// Nobody gets a directory's attributes while another may change its names, and nobody
    /// gets anew what he is giving back.
    pub fn may_share(&self, session: u64, key: LeaseKey) -> bool {
        if self.get(session, key).is_some_and(|l| l.recalled_to.is_some()) {
            return false;
        }
        let LeaseKey::Inode(gfid) = key else { return true };
        let Some(holders) = self.keys.get(&LeaseKey::Part(gfid)) else { return true };
        !holders.iter().any(|(s, l)| *s != session && l.mode == Some(Mode::Exclusive))
    }
}
