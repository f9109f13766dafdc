//! Membership of one replica set: the pure `apply` of the pool's log entries.
//!
//! Assumes: the proposer checked what the entry says (members stopped promising, agreed to a
//! join, reported their incarnations) in the epoch that the entry names.
//!
//! Promises: an entry is void unless its epoch is the set's; the last in-sync member is never
//! removed; the lead stays while it is in-sync, else the first in-sync member in order leads;
//! no incarnation becomes in-sync unless an entry names it.
//!
//! Deliberately does not: know who is alive; `choose_eviction` and `restart` say what to
//! propose, from what members report.

use std::collections::BTreeSet;

use proto::map::{MemberMap, MemberState, SetMap};
use proto::{BrickId, Epoch, Incarnation, PeerId};
use serde::{Deserialize, Serialize};

/// One change of one set's membership.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SetEntry {
    /// First start of the volume: these incarnations are the set, in-sync and empty.
    Start { members: Vec<(BrickId, Incarnation)> },
    /// A remaining in-sync member stopped promising `brick` in `epoch` and waited.
    Evict { epoch: Epoch, brick: BrickId, reason: String },
    /// One set's part of the removal of a dead peer from all its sets.
    EvictPeer { epoch: Epoch, peer: PeerId, reason: String },
    /// Every in-sync member agreed to this incarnation in `epoch`.
    Join { epoch: Epoch, brick: BrickId, incarnation: Incarnation },
    /// Same members, new epoch: voids what was proposed or agreed in `epoch`.
    Bump { epoch: Epoch },
    /// A brick's daemon started. In-sync by the map: proposed only when another in-sync
    /// member is alive, or when it is the only one (see `restart::on_brick_up`).
    BrickUp { epoch: Epoch, brick: BrickId, incarnation: Incarnation },
    /// The member's own word: a clean stop, or a disk that failed.
    Leave { epoch: Epoch, brick: BrickId, incarnation: Incarnation, reason: String },
    /// All members were down; `lead` alone is in-sync now (see `restart`). It was in-sync, or
    /// an earlier choice that never served passed it over.
    Restart { epoch: Epoch, lead: BrickId, incarnation: Incarnation },
    /// The member is none any more: it is not in-sync, and those that are need nothing of it.
    Drop { epoch: Epoch, brick: BrickId },
}

/// Why a member of a set all of whose members were down is out.
const ALL_WERE_DOWN: &str = "all members were down; another one leads";
const HEALING: &str = "healing";
/// Why a member that came back under another incarnation syncs.
const DAEMON_RESTARTED: &str = "its daemon restarted";

/// Why a member starts from nothing that its brick notes of itself: its peer came back with
/// another identity, or the pool went on without it. Stays until the member has joined.
pub const COMPARE_ALL: &str = "its peer was lost or reinstalled: everything is compared";

/// Why a member that was added has nothing yet. Stays until it has joined.
pub const NEW_MEMBER: &str = "a new member: everything is copied to it";

/// Before the reason of a member that was evicted or left, until the next epoch.
const OUT: &str = "out: ";

/// Reasons that stay with a member until it has joined.
fn lasts(reason: &str) -> bool {
    [COMPARE_ALL, NEW_MEMBER].contains(&reason)
}

/// Whether the entry that began this epoch passed this member over for those in-sync now. As
/// long as they have not served in it, another choice may fall on it.
pub fn passed_over(member: &MemberMap) -> bool {
    let reason = member.reason.as_str();
    member.state != MemberState::InSync
        && ([ALL_WERE_DOWN, DAEMON_RESTARTED].contains(&reason) || reason.starts_with(OUT))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetOutcome {
    /// A new epoch began: the log index of the entry.
    NewEpoch {
        epoch: Epoch,
        lead_changed: bool,
    },
    /// The map changed without a new epoch (a member that is not in-sync).
    Noted,
    Void(Void),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Void {
    /// Checked in another epoch than the set's.
    Epoch,
    UnknownBrick,
    /// It would remove the last in-sync member.
    LastInSync,
    /// The member is not in the state that the entry assumes.
    State,
    /// The entry names another incarnation than the map.
    Incarnation,
    /// Nothing would change.
    Same,
}

/// Applies `entry`, which is at `index` of the pool's log. Pure; the same on every peer.
pub fn apply(map: &mut SetMap, index: u64, entry: &SetEntry) -> SetOutcome {
    if let Some(epoch) = entry.epoch()
        && epoch != map.epoch
    {
        return SetOutcome::Void(Void::Epoch);
    }
    let before = leader(map);
    let passed: Vec<BrickId> =
        map.members.iter().filter(|m| passed_over(m)).map(|m| m.brick).collect();
    // A choice made again, because the one chosen before never served.
    let again = matches!(entry, SetEntry::Restart { .. }) && map.in_sync().count() == 1;
    let changed = match entry {
        SetEntry::Start { members } => start(map, members),
        SetEntry::Evict { brick, reason, .. } => remove(map, *brick, reason),
        SetEntry::EvictPeer { peer, reason, .. } => evict_peer(map, *peer, reason),
        SetEntry::Join { brick, incarnation, .. } => join(map, *brick, *incarnation),
        SetEntry::Bump { .. } => Ok(Change::Epoch),
        SetEntry::BrickUp { brick, incarnation, .. } => brick_up(map, *brick, *incarnation),
        SetEntry::Leave { brick, incarnation, reason, .. } => {
            leave(map, *brick, *incarnation, reason)
        }
        SetEntry::Restart { lead, incarnation, .. } => restart(map, *lead, *incarnation),
        SetEntry::Drop { brick, .. } => drop_member(map, *brick),
    };
    match changed {
        Err(void) => SetOutcome::Void(void),
        Ok(Change::Noted) => SetOutcome::Noted,
        Ok(Change::Epoch) => {
            map.epoch = Epoch(index);
            elect(map);
            use MemberState::Out;
            let earlier = |m: &&mut MemberMap| passed.contains(&m.brick) && passed_over(m);
            for member in map.members.iter_mut().filter(earlier).filter(|_| !again) {
                let said = member.reason.strip_prefix(OUT).filter(|_| member.state == Out);
                member.reason = said.unwrap_or(HEALING).to_owned();
            }
            SetOutcome::NewEpoch { epoch: map.epoch, lead_changed: leader(map) != before }
        }
    }
}

impl SetEntry {
    /// The epoch in which the entry was checked; `None` for the first start.
    pub fn epoch(&self) -> Option<Epoch> {
        match self {
            SetEntry::Start { .. } => None,
            SetEntry::Evict { epoch, .. }
            | SetEntry::EvictPeer { epoch, .. }
            | SetEntry::Join { epoch, .. }
            | SetEntry::Bump { epoch }
            | SetEntry::BrickUp { epoch, .. }
            | SetEntry::Leave { epoch, .. }
            | SetEntry::Drop { epoch, .. }
            | SetEntry::Restart { epoch, .. } => Some(*epoch),
        }
    }
}

enum Change {
    Epoch,
    Noted,
}

/// The lead with its incarnation: the owner of one lease table.
fn leader(map: &SetMap) -> Option<(BrickId, Incarnation)> {
    map.member(map.lead?).map(|m| (m.brick, m.incarnation))
}

/// The lead stays while it is in-sync; else the first in-sync member in order.
pub fn elect(map: &mut SetMap) {
    let stays = map.lead.is_some_and(|lead| map.in_sync().any(|m| m.brick == lead));
    if !stays {
        let first = map.in_sync().next().map(|m| m.brick);
        map.lead = first;
    }
}

fn position(map: &SetMap, brick: BrickId) -> Result<usize, Void> {
    map.members.iter().position(|m| m.brick == brick).ok_or(Void::UnknownBrick)
}

fn start(map: &mut SetMap, members: &[(BrickId, Incarnation)]) -> Result<Change, Void> {
    if map.epoch != Epoch::NONE {
        return Err(Void::Epoch);
    }
    if !members.iter().any(|(b, _)| map.member(*b).is_some()) {
        return Err(Void::UnknownBrick);
    }
    for member in &mut map.members {
        match members.iter().find(|(b, _)| *b == member.brick) {
            Some((_, incarnation)) => {
                member.state = MemberState::InSync;
                member.incarnation = *incarnation;
                member.reason.clear();
            }
            None => {
                member.state = MemberState::Out;
                member.reason = "was not up at the volume's first start".into();
            }
        }
    }
    Ok(Change::Epoch)
}

fn remove(map: &mut SetMap, brick: BrickId, reason: &str) -> Result<Change, Void> {
    let at = position(map, brick)?;
    if map.members[at].state != MemberState::InSync {
        return Err(Void::State);
    }
    if map.in_sync().count() == 1 {
        return Err(Void::LastInSync);
    }
    map.members[at].state = MemberState::Out;
    map.members[at].reason = format!("{OUT}{reason}");
    Ok(Change::Epoch)
}

fn evict_peer(map: &mut SetMap, peer: PeerId, reason: &str) -> Result<Change, Void> {
    let bricks: Vec<BrickId> = map.in_sync().filter(|m| m.peer == peer).map(|m| m.brick).collect();
    if bricks.is_empty() {
        return Err(Void::State);
    }
    if map.in_sync().count() == bricks.len() {
        return Err(Void::LastInSync);
    }
    for brick in bricks {
        remove(map, brick, reason)?;
    }
    Ok(Change::Epoch)
}

fn join(map: &mut SetMap, brick: BrickId, incarnation: Incarnation) -> Result<Change, Void> {
    let at = position(map, brick)?;
    let member = &mut map.members[at];
    if member.state != MemberState::Syncing {
        return Err(Void::State);
    }
    if member.incarnation != incarnation {
        return Err(Void::Incarnation);
    }
    member.state = MemberState::InSync;
    member.reason.clear();
    Ok(Change::Epoch)
}

fn brick_up(map: &mut SetMap, brick: BrickId, new: Incarnation) -> Result<Change, Void> {
    let at = position(map, brick)?;
    let in_sync = map.in_sync().count();
    let member = &mut map.members[at];
    let was = member.state;
    if member.incarnation == new && was != MemberState::Out {
        return Err(Void::Same);
    }
    member.incarnation = new;
    match was {
        // A sole member goes on with what it has, but only under its new name.
        MemberState::InSync if in_sync == 1 => Ok(Change::Epoch),
        MemberState::InSync => {
            member.state = MemberState::Syncing;
            member.reason = DAEMON_RESTARTED.into();
            Ok(Change::Epoch)
        }
        MemberState::Out | MemberState::Syncing => {
            member.state = MemberState::Syncing;
            if !passed_over(member) && !lasts(&member.reason) {
                member.reason = HEALING.into();
            }
            Ok(Change::Noted)
        }
    }
}

fn leave(
    map: &mut SetMap,
    brick: BrickId,
    incarnation: Incarnation,
    reason: &str,
) -> Result<Change, Void> {
    let at = position(map, brick)?;
    let member = &mut map.members[at];
    if member.incarnation != incarnation {
        return Err(Void::Incarnation);
    }
    match member.state {
        MemberState::Out => Err(Void::Same),
        MemberState::Syncing => {
            member.state = MemberState::Out;
            if !lasts(&member.reason) {
                member.reason = reason.to_owned();
            }
            Ok(Change::Noted)
        }
        MemberState::InSync => remove(map, brick, reason),
    }
}

fn restart(map: &mut SetMap, lead: BrickId, incarnation: Incarnation) -> Result<Change, Void> {
    let at = position(map, lead)?;
    let chosen = &map.members[at];
    if chosen.state != MemberState::InSync && !passed_over(chosen) {
        return Err(Void::State);
    }
    for member in &mut map.members {
        if member.brick == lead {
            member.incarnation = incarnation;
            member.state = MemberState::InSync;
            member.reason.clear();
        } else if member.state == MemberState::InSync {
            member.state = MemberState::Out;
            member.reason = ALL_WERE_DOWN.into();
        }
    }
    Ok(Change::Epoch)
}

fn drop_member(map: &mut SetMap, brick: BrickId) -> Result<Change, Void> {
    let at = position(map, brick)?;
    match map.members[at].state {
        MemberState::InSync => Err(Void::State),
        MemberState::Out => {
            map.members.remove(at);
            Ok(Change::Noted)
        }
        // Members may have agreed to its join, and need its promise until the epoch ends.
        MemberState::Syncing => {
            map.members.remove(at);
            Ok(Change::Epoch)
        }
    }
}

/// Whom the pool's leader should evict, from what it hears; `None` when nobody.
///
/// `silent`: in-sync bricks whose peer the leader does not hear. `lacks`: (holder, giver) pairs
/// of bricks where a member that the leader hears reports the other's promise missing. Among
/// members that are all heard, the one that is cut off from the most others goes; where that
/// does not tell (two that do not hear each other) a fixed order does: never the lead.
pub fn choose_eviction(
    map: &SetMap,
    silent: &BTreeSet<BrickId>,
    lacks: &BTreeSet<(BrickId, BrickId)>,
) -> Option<BrickId> {
    let order: Vec<BrickId> = map.in_sync().map(|m| m.brick).collect();
    if order.len() < 2 {
        return None;
    }
    let heard = |b: &BrickId| order.contains(b) && !silent.contains(b);
    // A silent member goes only when a member that is heard misses its promise too.
    let dead = |b: &BrickId| {
        silent.contains(b) && lacks.iter().any(|(holder, giver)| giver == b && heard(holder))
    };
    let not_lead = |b: &&BrickId| map.lead != Some(**b);
    if let Some(victim) = order.iter().rev().filter(|b| dead(b)).find(not_lead) {
        return Some(*victim);
    }
    if let Some(victim) = order.iter().find(|b| dead(b)) {
        return Some(*victim);
    }
    // From how many others a member is cut off, whichever of the two says so.
    let cut_from = |b: &BrickId| -> usize {
        let pair = |o: &BrickId| lacks.contains(&(*b, *o)) || lacks.contains(&(*o, *b));
        order.iter().filter(|o| *o != b && heard(o) && pair(o)).count()
    };
    let cut: Vec<(BrickId, usize)> =
        order.iter().filter(|b| heard(b)).map(|b| (*b, cut_from(b))).collect();
    let most = cut.iter().map(|(_, n)| *n).max().filter(|n| *n > 0)?;
    let worst: Vec<BrickId> = cut.iter().filter(|(_, n)| *n == most).map(|(b, _)| *b).collect();
    worst.iter().rev().find(not_lead).or(worst.first()).copied()
}

/// Whether the pool's leader proposes a member's own `Leave`: only while another in-sync member
/// answers. Else the set would pass to one that is gone, and with its memory maybe.
pub fn may_leave(
    map: &SetMap,
    brick: BrickId,
    alive: impl Fn(BrickId, Incarnation) -> bool,
) -> bool {
    map.in_sync().any(|m| m.brick != brick && alive(m.brick, m.incarnation))
}

/// Why a peer cannot be stopped without interrupting a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CannotStop {
    /// It holds the only in-sync copy.
    LastInSync,
    /// Fewer in-sync members than `min-in-sync` would be left.
    TooFew { left: u16, needed: u16 },
}

/// May `peer` stop without interrupting this set? `needed` is the set's `min-in-sync`.
pub fn can_stop(map: &SetMap, peer: PeerId, needed: u16) -> Result<(), CannotStop> {
    let all = map.in_sync().count();
    let left = map.in_sync().filter(|m| m.peer != peer).count();
    if left == all {
        return Ok(());
    }
    let left = u16::try_from(left).unwrap_or(u16::MAX);
    match left {
        0 => Err(CannotStop::LastInSync),
        _ if left < needed => Err(CannotStop::TooFew { left, needed }),
        _ => Ok(()),
    }
}

#[cfg(test)]
#[path = "set_test.rs"]
mod tests;
