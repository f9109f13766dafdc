//! Stale marks: copies known to differ, of one inode on one member.
//!
//! A mark is durable on *all* in-sync members, the stale one too, before the change that
//! revealed it is acknowledged (trap 7). A stale copy is never read, never a source, and
//! counts as missing for `min-in-sync`.

use std::collections::{BTreeMap, BTreeSet};

use proto::{BrickId, Gfid};

/// Marks per set; above it a member is taken out as a whole instead.
pub const MARKS_MAX: usize = 65_536;

/// The marks of one set, the same on every member.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StaleMarks {
    marks: BTreeMap<Gfid, BTreeSet<BrickId>>,
}

impl StaleMarks {
    /// Notes a mark. False when there are too many: the brick has to leave the set.
    pub fn mark(&mut self, brick: BrickId, gfid: Gfid) -> bool {
        if self.marks.len() >= MARKS_MAX && !self.marks.contains_key(&gfid) {
            return false;
        }
        self.marks.entry(gfid).or_default().insert(brick);
        true
    }

    /// The copy was healed. The healed member drops its mark first, the others after it: else it
    /// may be left as the only one that takes its good copy for stale.
    pub fn clear(&mut self, brick: BrickId, gfid: Gfid) {
        if let Some(bricks) = self.marks.get_mut(&gfid) {
            bricks.remove(&brick);
            if bricks.is_empty() {
                self.marks.remove(&gfid);
            }
        }
    }

    pub fn is_stale(&self, brick: BrickId, gfid: Gfid) -> bool {
        self.marks.get(&gfid).is_some_and(|b| b.contains(&brick))
    }

    /// Whether no member's copy would be good with this mark.
    pub fn would_leave_none(&self, brick: BrickId, gfid: Gfid, members: &[BrickId]) -> bool {
        members.iter().all(|m| *m == brick || self.is_stale(*m, gfid))
    }

    pub fn iter(&self) -> impl Iterator<Item = (BrickId, Gfid)> {
        self.marks.iter().flat_map(|(gfid, bricks)| bricks.iter().map(|b| (*b, *gfid)))
    }

    /// Inodes of which no member's copy is good, and `source`'s is one of those marked: an
    /// administrator may say that it is the good one from now on.
    pub fn hopeless(&self, source: BrickId, members: &[BrickId]) -> Vec<Gfid> {
        let none = |bricks: &BTreeSet<BrickId>| members.iter().all(|m| bricks.contains(m));
        let marks = self.marks.iter().filter(|(_, b)| b.contains(&source) && none(b));
        marks.map(|(gfid, _)| *gfid).collect()
    }

    /// The first of `members` whose copy of the inode is good, `first` before the others.
    pub fn source(&self, gfid: Gfid, first: BrickId, members: &[BrickId]) -> Option<BrickId> {
        std::iter::once(&first).chain(members).copied().find(|b| !self.is_stale(*b, gfid))
    }
}

/// The lead's round for one divergence: every in-sync member notes the marks durably, then
/// the change may be acknowledged.
#[derive(Clone, Debug)]
pub struct Marking {
    pub marks: Vec<(BrickId, Gfid)>,
    awaiting: BTreeSet<BrickId>,
}

impl Marking {
    pub fn new(marks: Vec<(BrickId, Gfid)>, in_sync: impl IntoIterator<Item = BrickId>) -> Self {
        Self { marks, awaiting: in_sync.into_iter().collect() }
    }

    /// A member has the marks on stable storage. True when all have: tell the client.
    pub fn on_noted(&mut self, member: BrickId) -> bool {
        self.awaiting.remove(&member);
        self.awaiting.is_empty()
    }

    pub fn awaiting(&self) -> impl Iterator<Item = BrickId> {
        self.awaiting.iter().copied()
    }
}
