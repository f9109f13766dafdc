//! A set's steps of changes over several sets, at its lead, when their client ended.
//!
//! The set's own settle makes its members equal (`crate::settle`); whether the change as a whole
//! is finished or undone is for the lead of the inode's slot (`settler`) to decide.
//!
//! Promises: what such a step touched is granted to nobody, but to that lead, before it has said
//! that the change is settled (trap 61).

use std::collections::{BTreeMap, BTreeSet};

use proto::{Gfid, SlotId};

use super::ChangeId;
use crate::plant::{Plant, planted};

/// Ask the lead of the inode's slot to settle a change, again after every change of the map
/// and each second; `on_settled` when it says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AskSettle {
    pub id: ChangeId,
    pub inode: Gfid,
    pub slot: SlotId,
}

/// Steps of unfinished changes over several sets.
#[derive(Clone, Debug, Default)]
pub struct Parts {
    waiting: BTreeMap<ChangeId, Waiting>,
}

#[derive(Clone, Debug)]
struct Waiting {
    inode: Gfid,
    touched: BTreeSet<Gfid>,
}

impl Parts {
    /// An unsettled list has a step of change `id`, whose intent is `inode`'s.
    pub fn found(&mut self, id: ChangeId, inode: Gfid, touched: impl IntoIterator<Item = Gfid>) {
        if planted(Plant::SettleAlone) {
            return;
        }
        let waiting = Waiting { inode, touched: BTreeSet::new() };
        self.waiting.entry(id).or_insert(waiting).touched.extend(touched);
    }

    pub fn asks(&self) -> Vec<AskSettle> {
        let ask = |(id, w): (&ChangeId, &Waiting)| AskSettle {
            id: *id,
            inode: w.inode,
            slot: w.inode.slot(),
        };
        self.waiting.iter().map(ask).collect()
    }

    /// Whether nobody but the settling lead of `except` may have leases of this inode's keys.
    pub fn blocks(&self, gfid: Gfid, except: Option<ChangeId>) -> bool {
        let blocks =
            |(id, w): (&ChangeId, &Waiting)| Some(*id) != except && w.touched.contains(&gfid);
        self.waiting.iter().any(blocks)
    }

    pub fn on_settled(&mut self, id: ChangeId) {
        self.waiting.remove(&id);
    }
}
