//! Changing who the members of a set are: a brick replaced, added, taken out, reset.
//!
//! ```text
//! Replace ──(new in-sync)──▶ Remove ──(retired: Out)──▶ dropped, done
//! Add ─────(new in-sync)──▶ done
//! Reset ───(retired: Out)──▶ waits for its commit ──▶ heals as a returning member
//! ```
//!
//! Assumes: a member that begins as [`NEW_MEMBER`](crate::set::NEW_MEMBER) is started by its
//! peer and heals like any other; whoever carries out a `Retire` closes that member's gate for
//! good before its `Leave` is proposed.
//!
//! Promises: nobody is retired while fewer good in-sync members than the set needs would stay;
//! nobody is dropped from the map as long as it may remember more than those in-sync, or hold a
//! good copy that they lack; a change that has begun to take a brick away is never undone by
//! what befalls the others meanwhile.
//!
//! Deliberately does not: keep anything. The changes are part of the pool's state, and every
//! step is worked out anew from the map and from what the members say now.

use proto::map::{MemberMap, MemberState, SetMap};
use proto::{BrickId, Epoch, Incarnation, PeerId};
use serde::{Deserialize, Serialize};

use crate::set::{NEW_MEMBER, passed_over};

/// One change under way in a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// `old` leaves once `new` is in-sync.
    Replace { old: BrickId, new: BrickId },
    /// `new` is a member from its first join on.
    Add { new: BrickId },
    /// `brick` leaves for good.
    Remove { brick: BrickId },
    /// `brick` is out of service until its reset is committed.
    Reset { brick: BrickId },
}

impl Change {
    pub fn concerns(&self, brick: BrickId) -> bool {
        match self {
            Change::Replace { old, new } => *old == brick || *new == brick,
            Change::Add { new: b } | Change::Remove { brick: b } | Change::Reset { brick: b } => {
                *b == brick
            }
        }
    }

    /// The brick that is to go out of service now.
    pub fn leaver(&self) -> Option<BrickId> {
        match self {
            Change::Remove { brick } | Change::Reset { brick } => Some(*brick),
            Change::Replace { .. } | Change::Add { .. } => None,
        }
    }

    /// The brick that has not been in-sync yet.
    pub fn newcomer(&self) -> Option<BrickId> {
        match self {
            Change::Replace { new, .. } | Change::Add { new } => Some(*new),
            Change::Remove { .. } | Change::Reset { .. } => None,
        }
    }

    /// The brick that will not be a member when all is done.
    pub fn goes(&self) -> Option<BrickId> {
        match self {
            Change::Remove { brick: b } | Change::Replace { old: b, .. } => Some(*b),
            Change::Add { .. } | Change::Reset { .. } => None,
        }
    }
}

/// Whether `brick` is to be out of service: it is not started again once it has left.
pub fn leaves(changes: &[Change], brick: BrickId) -> bool {
    changes.iter().any(|c| c.leaver() == Some(brick))
}

/// Adds a member that has nothing, behind `after` or at the end. No epoch: nobody needs it.
pub fn insert(
    map: &mut SetMap,
    (brick, peer): (BrickId, PeerId),
    path: &str,
    after: Option<BrickId>,
) {
    let at = after.and_then(|a| map.members.iter().position(|m| m.brick == a));
    let member = MemberMap {
        brick,
        peer,
        path: path.to_owned(),
        state: MemberState::Out,
        incarnation: Incarnation::default(),
        reason: NEW_MEMBER.into(),
    };
    map.members.insert(at.map_or(map.members.len(), |at| at + 1), member);
}

/// What the set's entries have made of its changes. To be called after each of them.
pub fn progress(map: &SetMap, changes: &mut Vec<Change>) {
    let in_sync = |brick: BrickId| map.in_sync().any(|m| m.brick == brick);
    for change in changes.iter_mut() {
        // From here on there is no way back for the old one, whatever becomes of the new one.
        if let Change::Replace { old, new } = *change
            && in_sync(new)
        {
            *change = Change::Remove { brick: old };
        }
    }
    changes.retain(|change| match change {
        Change::Replace { .. } => true,
        Change::Add { new } => map.member(*new).is_some() && !in_sync(*new),
        Change::Remove { brick } | Change::Reset { brick } => map.member(*brick).is_some(),
    });
}

/// What a member's named incarnation, alive, says of itself now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// The newest epoch that it has noted on stable storage as in-sync.
    pub noted: Epoch,
    /// How many of its own copies are marked stale.
    pub stale: u64,
}

/// What is to be done next for one change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Wait(Why),
    /// Close this incarnation's gate for good, then propose its `Leave`.
    Retire {
        brick: BrickId,
        incarnation: Incarnation,
    },
    /// Propose its `Drop`.
    Drop {
        brick: BrickId,
    },
}

/// Why a change waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The new brick is being healed.
    Heals,
    /// Without the brick no current copy would be left, or none that answers.
    LastCopy,
    /// Without it changes would have to wait.
    TooFew { left: u16, needed: u16 },
    /// A member that stays has copies marked stale, whose good ones the brick may hold.
    StaleCopies(BrickId),
    /// It is in-sync by the map, and says nothing: the pool evicts it, or hears of it again.
    Silent,
    /// Those in-sync have not noted the epoch in which it went out: it may remember more.
    NotNoted,
    /// It is out of service, until the reset is committed.
    Committed,
}

impl std::fmt::Display for Why {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Why::Heals => f.write_str("the new brick is being healed"),
            Why::LastCopy => f.write_str("no other current copy answers"),
            Why::TooFew { left, needed } => {
                write!(f, "{left} in-sync members would be left, changes need {needed}")
            }
            Why::StaleCopies(_) => {
                f.write_str("a member that stays has copies that differ, and are healed first")
            }
            Why::Silent => f.write_str("it does not answer"),
            Why::NotNoted => f.write_str("the members that stay have not gone on without it yet"),
            Why::Committed => f.write_str("out of service until the reset is committed"),
        }
    }
}

/// The next step of `change`, one of the set's `changes`. `needed`: the set's `min-in-sync`.
pub fn step(
    map: &SetMap,
    changes: &[Change],
    change: &Change,
    needed: u16,
    known: impl Fn(BrickId) -> Option<Known>,
) -> Step {
    let Some(brick) = change.leaver() else { return Step::Wait(Why::Heals) };
    let Some(member) = map.member(brick) else { return Step::Wait(Why::NotNoted) };
    let staying: Vec<(BrickId, Known)> = map
        .in_sync()
        .filter(|m| !leaves(changes, m.brick))
        .filter_map(|m| Some((m.brick, known(m.brick)?)))
        .collect();
    if member.state == MemberState::InSync {
        // Whoever serves has noted the epoch.
        let serving = staying.iter().filter(|(_, k)| k.noted >= map.epoch).count();
        let left = u16::try_from(serving).unwrap_or(u16::MAX);
        return match known(brick) {
            _ if left == 0 => Step::Wait(Why::LastCopy),
            _ if left < needed => Step::Wait(Why::TooFew { left, needed }),
            None => Step::Wait(Why::Silent),
            Some(_) => match with_stale(&staying) {
                Some(stale) => Step::Wait(Why::StaleCopies(stale)),
                None => Step::Retire { brick, incarnation: member.incarnation },
            },
        };
    }
    if matches!(change, Change::Reset { .. }) {
        return Step::Wait(Why::Committed);
    }
    // One that has only ever been a newcomer holds nothing that counts.
    if member.reason == NEW_MEMBER {
        return Step::Drop { brick };
    }
    if staying.is_empty() {
        return Step::Wait(Why::LastCopy);
    }
    if passed_over(member) && !staying.iter().any(|(_, k)| k.noted >= map.epoch) {
        return Step::Wait(Why::NotNoted);
    }
    match with_stale(&staying) {
        Some(stale) => Step::Wait(Why::StaleCopies(stale)),
        None => Step::Drop { brick },
    }
}

fn with_stale(staying: &[(BrickId, Known)]) -> Option<BrickId> {
    staying.iter().find(|(_, known)| known.stale > 0).map(|(brick, _)| *brick)
}

/// Whether the set can do without all of `leavers`, by the map. `needed`: of what it will be.
///
/// # Errors
/// Why not.
pub fn can_do_without(map: &SetMap, leavers: &[BrickId], needed: u16) -> Result<(), Why> {
    let left = map.in_sync().filter(|m| !leavers.contains(&m.brick)).count();
    let left = u16::try_from(left).unwrap_or(u16::MAX);
    match left {
        0 => Err(Why::LastCopy),
        _ if left < needed => Err(Why::TooFew { left, needed }),
        _ => Ok(()),
    }
}

#[cfg(test)]
#[path = "members_test.rs"]
mod tests;
