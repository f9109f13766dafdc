//! Changes of a volume's bricks: checked against the state, then begun. Pure.
//!
//! How a change goes on from there is `proto_rules::members`'; [`settle`] carries into the
//! volume what the sets' entries have made of it.

use std::collections::BTreeSet;

use proto::map::{MemberState, SetMap};
use proto::{BrickId, Epoch, SetId};
use proto_rules::members::{self, Change, Why};
use proto_rules::set::COMPARE_ALL;

use super::validate;
use super::{PoolState, VolumeState};
use crate::pool::command::{BrickChange, NewBrick};

/// Begins a change, or ends one by command.
///
/// # Errors
/// Why not, in one line; nothing is changed then.
pub fn change(state: &PoolState, name: &str, change: &BrickChange) -> Result<VolumeState, String> {
    let volume = state.volume_by_name(name);
    let mut volume =
        volume.ok_or_else(|| format!("Volume {name} does not exist"))?.as_ref().clone();
    if done_before(&volume, change) {
        return Ok(volume);
    }
    servable(&volume)?;
    match change {
        BrickChange::Replace { old, new } => replace(state, &mut volume, *old, new)?,
        BrickChange::Abort { old, new } => abort(&mut volume, *old, *new)?,
        BrickChange::Add { replica, bricks } => add(state, &mut volume, *replica, bricks)?,
        BrickChange::Remove { replica, bricks } => remove(&mut volume, *replica, bricks)?,
        BrickChange::Reset { brick } => reset(&mut volume, *brick)?,
        BrickChange::CommitReset { brick } => commit_reset(&mut volume, *brick)?,
    }
    settle(&mut volume);
    Ok(volume)
}

/// The same command again: its answer was lost.
fn done_before(volume: &VolumeState, change: &BrickChange) -> bool {
    let here = |brick: BrickId| volume.set_of_brick(brick).is_some();
    let under_way = |change: Change| volume.changes.iter().any(|(_, c)| *c == change);
    match change {
        BrickChange::Replace { new, .. } => here(new.id),
        BrickChange::Add { bricks, .. } => !bricks.is_empty() && bricks.iter().all(|b| here(b.id)),
        BrickChange::Abort { new, .. } => !here(*new) || under_way(Change::Remove { brick: *new }),
        BrickChange::Remove { bricks, .. } => {
            let done = |b: &BrickId| !here(*b) || under_way(Change::Remove { brick: *b });
            !bricks.is_empty() && bricks.iter().all(done)
        }
        BrickChange::Reset { brick } => under_way(Change::Reset { brick: *brick }),
        BrickChange::CommitReset { brick } => {
            let fresh = |set: &SetMap| set.member(*brick).is_some_and(|m| m.reason == COMPARE_ALL);
            !under_way(Change::Reset { brick: *brick })
                && volume.set_of_brick(*brick).is_some_and(fresh)
        }
    }
}

/// A new brick heals from those that serve; before the first start there is nothing to heal.
fn servable(volume: &VolumeState) -> Result<(), String> {
    if volume.ever_started && !volume.started {
        return Err(format!("Volume {} is not in the started state", volume.name));
    }
    if volume.ever_started && volume.sets.iter().any(|set| set.epoch == Epoch::NONE) {
        return Err("the volume is being started for the first time; try again in a moment".into());
    }
    Ok(())
}

fn set_at(volume: &VolumeState, brick: BrickId) -> Result<usize, String> {
    let at = volume.sets.iter().position(|s| s.member(brick).is_some());
    at.ok_or_else(|| format!("brick {brick} does not exist in volume: {}", volume.name))
}

/// One change at a time, so that what is said about one is not made wrong by another.
fn idle(volume: &VolumeState) -> Result<(), String> {
    match volume.changes.is_empty() {
        true => Ok(()),
        false => Err(format!(
            "another change of the volume's bricks is under way; 'brick volume status {}' shows \
             how far it is",
            volume.name
        )),
    }
}

fn no_copy(set: &SetMap, why: Why) -> String {
    format!("set {}: {why}; 'brick volume heal VOLNAME info' shows what the others lack", set.id)
}

fn replace(
    state: &PoolState,
    volume: &mut VolumeState,
    old: BrickId,
    new: &NewBrick,
) -> Result<(), String> {
    let at = set_at(volume, old)?;
    idle(volume)?;
    validate::new_brick(state, new)?;
    let (set, id) = (&mut volume.sets[at], SetId(at as u32));
    members::insert(set, (new.id, new.peer), &new.path, Some(old));
    if set.epoch == Epoch::NONE {
        set.members.retain(|m| m.brick != old);
        never_started(set);
        return Ok(());
    }
    let old_serves = set.in_sync().any(|m| m.brick == old);
    if !old_serves {
        // It is not current, and what it lacks it would have to be healed of first.
        members::can_do_without(set, &[old], 1).map_err(|why| no_copy(set, why))?;
        volume.changes.push((id, Change::Remove { brick: old }));
        volume.changes.push((id, Change::Add { new: new.id }));
        return Ok(());
    }
    volume.changes.push((id, Change::Replace { old, new: new.id }));
    Ok(())
}

/// The new brick goes, before it was ever in-sync, and the old one stays.
fn abort(volume: &mut VolumeState, old: BrickId, new: BrickId) -> Result<(), String> {
    let wanted = Change::Replace { old, new };
    let found = volume.changes.iter_mut().find(|(_, change)| *change == wanted);
    let (_, change) = found.ok_or(
        "no replacement of this brick is under way, or the new one is in-sync already and the \
         old one leaves",
    )?;
    *change = Change::Remove { brick: new };
    Ok(())
}

fn add(
    state: &PoolState,
    volume: &mut VolumeState,
    replica: u16,
    bricks: &[NewBrick],
) -> Result<(), String> {
    idle(volume)?;
    let more = replica.checked_sub(volume.replica).filter(|n| *n > 0);
    let more = usize::from(more.ok_or_else(|| {
        format!(
            "replica count ({replica}) must be greater than the volume's ({}); adding whole \
             replica sets is not part of this version",
            volume.replica
        )
    })?);
    if replica > validate::REPLICA_MAX {
        return Err(format!("replica count must be 1 to {}", validate::REPLICA_MAX));
    }
    let needed = more * volume.sets.len();
    if bricks.len() != needed {
        return Err(format!(
            "Incorrect number of bricks supplied {} with count {needed}: {more} for each of {} \
             replica sets",
            bricks.len(),
            volume.sets.len()
        ));
    }
    if volume.brick_count() + bricks.len() > validate::BRICKS_MAX {
        return Err(format!("a volume has 1 to {} bricks", validate::BRICKS_MAX));
    }
    for (at, brick) in bricks.iter().enumerate() {
        validate::new_brick(state, brick)?;
        validate::apart(brick, &bricks[..at])?;
    }
    for (set, bricks) in volume.sets.iter_mut().zip(bricks.chunks(more)) {
        for brick in bricks {
            members::insert(set, (brick.id, brick.peer), &brick.path, None);
            volume.changes.push((set.id, Change::Add { new: brick.id }));
        }
        never_started(set);
    }
    Ok(())
}

fn remove(volume: &mut VolumeState, replica: u16, bricks: &[BrickId]) -> Result<(), String> {
    let named: BTreeSet<BrickId> = bricks.iter().copied().collect();
    if named.len() != bricks.len() {
        return Err("a brick is named twice".into());
    }
    for brick in bricks {
        set_at(volume, *brick)?;
    }
    let newcomer = |brick: &BrickId| {
        let change = Change::Add { new: *brick };
        volume.changes.iter().any(|(_, c)| *c == change)
    };
    // An addition may be taken back before it is done.
    if !named.iter().all(newcomer) {
        idle(volume)?;
    }
    let shown = volume.replica_shown();
    if replica == 0 || replica >= shown {
        return Err(format!(
            "replica count ({replica}) must be less than the volume's ({shown}); removing whole \
             replica sets is not part of this version"
        ));
    }
    let needed = volume.parsed_options().min_in_sync_of(replica);
    for set in &volume.sets {
        let leavers: Vec<BrickId> =
            set.members.iter().map(|m| m.brick).filter(|b| named.contains(b)).collect();
        let stay = volume.stays(set).count().saturating_sub(leavers.len());
        if stay != usize::from(replica) {
            return Err(format!(
                "set {}: {stay} bricks would be left, and replica {replica} was said; name {} of \
                 each replica set",
                set.id,
                shown - replica
            ));
        }
        if set.epoch != Epoch::NONE {
            members::can_do_without(set, &leavers, needed).map_err(|why| no_copy(set, why))?;
        }
    }
    volume.changes.retain(|(_, c)| c.newcomer().is_none_or(|b| !named.contains(&b)));
    for (at, set) in volume.sets.iter_mut().enumerate() {
        if set.epoch == Epoch::NONE {
            set.members.retain(|m| !named.contains(&m.brick));
            continue;
        }
        let leavers = set.members.iter().map(|m| m.brick).filter(|b| named.contains(b));
        let changes = leavers.map(|brick| (SetId(at as u32), Change::Remove { brick }));
        volume.changes.extend(changes);
    }
    Ok(())
}

fn reset(volume: &mut VolumeState, brick: BrickId) -> Result<(), String> {
    let at = set_at(volume, brick)?;
    idle(volume)?;
    let set = &volume.sets[at];
    if set.epoch == Epoch::NONE {
        return Err(format!("Volume {} is not in the started state", volume.name));
    }
    let needed = volume.parsed_options().min_in_sync_of(volume.replica);
    members::can_do_without(set, &[brick], needed).map_err(|why| no_copy(set, why))?;
    volume.changes.push((SetId(at as u32), Change::Reset { brick }));
    Ok(())
}

fn commit_reset(volume: &mut VolumeState, brick: BrickId) -> Result<(), String> {
    let at = set_at(volume, brick)?;
    let before = volume.changes.len();
    let member = volume.sets[at].members.iter_mut().find(|m| m.brick == brick);
    let out = member.filter(|m| m.state != MemberState::InSync);
    volume.changes.retain(|(_, c)| *c != Change::Reset { brick });
    let was = volume.changes.len() != before;
    let member = out.filter(|_| was).ok_or_else(|| {
        format!(
            "Source brick must be stopped. Please use 'brick volume reset-brick {} <dst-brick> start'",
            volume.name
        )
    })?;
    // As of a peer that was installed anew: an empty folder is made a brick, a full one compared.
    member.state = MemberState::Out;
    member.reason = COMPARE_ALL.into();
    Ok(())
}

/// Members of a set that has never begun have missed nothing.
fn never_started(set: &mut SetMap) {
    if set.epoch == Epoch::NONE {
        for member in &mut set.members {
            member.reason = crate::pool::command::NEVER_STARTED.into();
        }
    }
}

/// Carries on the volume's changes after anything happened to its sets.
pub fn settle(volume: &mut VolumeState) {
    let changes = std::mem::take(&mut volume.changes);
    for set in &volume.sets {
        let own = changes.iter().filter(|(id, _)| *id == set.id).map(|(_, change)| *change);
        let mut own: Vec<Change> = own.collect();
        match set.epoch {
            Epoch::NONE => own.clear(),
            _ => members::progress(set, &mut own),
        }
        volume.changes.extend(own.into_iter().map(|change| (set.id, change)));
    }
    // More members count for `min-in-sync` once all of them are there, fewer at once.
    let (is, shown) = (volume.replica, volume.replica_shown());
    let adding = volume.changes.iter().any(|(_, c)| matches!(c, Change::Add { .. }));
    if shown < is || !adding {
        volume.replica = shown;
    }
}

#[cfg(test)]
#[path = "bricks_test.rs"]
mod tests;
