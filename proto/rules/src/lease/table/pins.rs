//! Open-file pins: an inode that a session has open survives the loss of its last name.

use std::collections::BTreeSet;

use proto::{Gfid, SessionId};

use super::LeaseTable;

impl LeaseTable {
    /// The session has the inode open. Lives until `unpin` or until the session is forgotten.
    pub fn pin(&mut self, session: SessionId, gfid: Gfid) {
        self.pins.entry(gfid).or_default().insert(session);
    }

    /// True when this was the inode's last pin: an orphan of it may go.
    pub fn unpin(&mut self, session: SessionId, gfid: Gfid) -> bool {
        let Some(sessions) = self.pins.get_mut(&gfid) else { return false };
        sessions.remove(&session);
        let last = sessions.is_empty();
        if last {
            self.pins.remove(&gfid);
        }
        last
    }

    /// Whether a session (other than `except`) has the inode open.
    pub fn pinned(&self, gfid: Gfid, except: Option<SessionId>) -> bool {
        self.pins.get(&gfid).is_some_and(|s| s.iter().any(|s| Some(*s) != except))
    }

    /// All pins, for a joiner's list (trap 30) and its hand-over.
    pub fn pins(&self) -> impl Iterator<Item = (Gfid, &BTreeSet<SessionId>)> {
        self.pins.iter().map(|(gfid, sessions)| (*gfid, sessions))
    }

    /// Drops all pins of a session; returns the inodes that nobody has open now.
    pub(super) fn unpin_all(&mut self, session: SessionId) -> Vec<Gfid> {
        let gfids: Vec<Gfid> =
            self.pins.iter().filter(|(_, s)| s.contains(&session)).map(|(g, _)| *g).collect();
        gfids.into_iter().filter(|gfid| self.unpin(session, *gfid)).collect()
    }
}
