//! What becomes of the state when peers are lost for ever, or come back as somebody else.
//!
//! Two changes, both pure. [`recover`]: the voters' majority is lost and an administrator
//! decided to go on without it. [`replace_peer`]: a machine was installed anew, and its bricks
//! go over to its new identity. Both end the trust in what a lost peer's bricks note of
//! themselves ([`COMPARE_ALL`]): they may hold changes that the pool never heard of.

use std::collections::BTreeSet;
use std::sync::Arc;

use proto::map::{MemberMap, MemberState, SetMap};
use proto::{BrickId, Epoch, Incarnation, PeerId};
use proto_rules::set::{COMPARE_ALL, NEW_MEMBER, elect};

use super::apply::peer_state;
use super::{PoolState, VolumeState};
use crate::pool::command::NewPeer;

/// How far a recovered pool's log, terms and epochs jump: beyond anything that the lost
/// majority can have reached unseen, so that every number of theirs is an old one.
pub const JUMP: u64 = 1_000_000_000;

/// What a set has left without some peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// An in-sync copy, or nothing was ever written.
    Current,
    /// Only this copy, which was not in-sync.
    Older(BrickId),
    Nothing,
}

/// What `set` has left without the peers in `lost`.
pub fn left(set: &SetMap, lost: &BTreeSet<PeerId>) -> Left {
    let stays = |peer: &PeerId| !lost.contains(peer);
    if set.epoch == Epoch::NONE || set.in_sync().any(|m| stays(&m.peer)) {
        return Left::Current;
    }
    // One that was catching up holds most.
    let rank = |state: MemberState| u8::from(state != MemberState::Syncing);
    // A member that was only being added holds less than all, and maybe nothing.
    let had_all = |m: &&MemberMap| m.reason != NEW_MEMBER;
    let others = set.members.iter().filter(|m| stays(&m.peer)).filter(had_all);
    others.min_by_key(|m| rank(m.state)).map_or(Left::Nothing, |m| Left::Older(m.brick))
}

/// The state goes on without the peers in `lost`, from `index` of a log of its own.
///
/// # Errors
/// A set has only an older copy left, and `accept_loss` is not given. Nothing is changed then.
pub fn recover(
    state: &mut PoolState,
    index: u64,
    lost: &BTreeSet<PeerId>,
    accept_loss: bool,
) -> Result<(), String> {
    let sets = state.volumes.values().flat_map(|v| v.sets.iter().map(move |s| (v, s)));
    for (volume, set) in sets {
        if matches!(left(set, lost), Left::Older(_)) && !accept_loss {
            return Err(format!(
                "volume {} set {}: all its current copies are on lost peers; --accept-loss goes \
                 on with an older one, and what it lacks is gone",
                volume.name, set.id
            ));
        }
    }
    for id in lost {
        let Some(peer) = state.peers.get_mut(id) else { continue };
        peer.lost = true;
        state.removed_nodes.insert(peer.node);
    }
    for volume in state.volumes.values_mut() {
        let volume = Arc::make_mut(volume);
        volume.version = index;
        volume.sets.iter_mut().for_each(|set| recover_set(set, index, lost));
    }
    state.applied = index;
    Ok(())
}

fn recover_set(set: &mut SetMap, index: u64, lost: &BTreeSet<PeerId>) {
    let left = left(set, lost);
    // Without any copy the set waits as it is, for the machines to be installed anew.
    if set.epoch == Epoch::NONE || left == Left::Nothing {
        return;
    }
    for member in &mut set.members {
        match left {
            // Its daemon reports it; the sole member of a set is named whoever it is.
            Left::Older(brick) if member.brick == brick => {
                member.state = MemberState::InSync;
                member.incarnation = Incarnation(0);
                member.reason.clear();
            }
            Left::Current if !lost.contains(&member.peer) => {}
            _ => {
                member.state = MemberState::Out;
                member.incarnation = Incarnation(0);
                member.reason = COMPARE_ALL.into();
            }
        }
    }
    begin(set, index);
}

fn begin(set: &mut SetMap, index: u64) {
    set.epoch = Epoch(index);
    elect(set);
}

/// `new` takes the place and the bricks of `old`, which never comes back.
///
/// # Errors
/// One line for people.
pub fn replace_peer(
    state: &mut PoolState,
    index: u64,
    old: PeerId,
    new: &NewPeer,
) -> Result<(), String> {
    let Some(known) = state.peers.get(&old) else {
        return match state.peers.get(&new.id) {
            // The same command again.
            Some(there) if *there == peer_state(new, there.node) => Ok(()),
            _ => Err(format!("{} is not part of cluster", new.host)),
        };
    };
    if old != new.id && state.peers.contains_key(&new.id) {
        return Err(format!("{} is already in the pool under another name", new.host));
    }
    if new.witness && state.holds_bricks(old) {
        return Err(format!(
            "{} holds bricks of the pool; it cannot come back as a witness",
            known.host
        ));
    }
    let node = known.node;
    for volume in state.volumes.values() {
        if let Some(set) = volume.sets.iter().find(|set| still_counts(state, volume, set, old)) {
            return Err(format!(
                "volume {} set {}: the old brick is in-sync still; wait until it was evicted",
                volume.name, set.id
            ));
        }
    }
    state.removed_nodes.insert(node);
    state.peers.remove(&old);
    state.peers.insert(new.id, peer_state(new, index));
    let lost: BTreeSet<PeerId> = state.peers.values().filter(|p| p.lost).map(|p| p.id).collect();
    for volume in state.volumes.values_mut().filter(|v| v.bricks().any(|m| m.peer == old)) {
        let volume = Arc::make_mut(volume);
        volume.version = index;
        volume.sets.iter_mut().for_each(|set| hand_over(set, index, (old, new.id), &lost));
    }
    Ok(())
}

/// Others serve beside the old peer's brick, and wait for its promises.
fn still_counts(state: &PoolState, volume: &VolumeState, set: &SetMap, old: PeerId) -> bool {
    volume.started
        && set.in_sync().any(|m| m.peer == old)
        && set.in_sync().any(|m| m.peer != old && state.trusts(m.peer))
}

fn hand_over(set: &mut SetMap, index: u64, (old, new): (PeerId, PeerId), lost: &BTreeSet<PeerId>) {
    let others = set.in_sync().any(|m| m.peer != old && !lost.contains(&m.peer));
    let mut ended = false;
    for member in set.members.iter_mut().filter(|m| m.peer == old) {
        member.peer = new;
        // The only current copy goes on with what is on its disk, as after a restart.
        if member.state == MemberState::InSync && !others {
            continue;
        }
        if set.epoch == Epoch::NONE {
            continue;
        }
        ended |= member.state == MemberState::InSync;
        member.state = MemberState::Out;
        member.incarnation = Incarnation(0);
        member.reason = COMPARE_ALL.into();
    }
    if ended {
        begin(set, index);
    }
}

#[cfg(test)]
#[path = "recover_test.rs"]
mod tests;
