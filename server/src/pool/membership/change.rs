//! Changes of a volume's bricks, carried on: who is retired, who is dropped, why one waits.
//!
//! Nothing of it is kept but in the pool's log: whoever leads the pool works out the next step
//! from the map and from what the bricks say now, twice a second.

use std::collections::BTreeMap;
use std::sync::Arc;

use proto::map::SetMap;
use proto::{BrickId, Epoch, PeerId};
use proto_grpc::peer::BrickRun;
use proto_rules::SetKey;
use proto_rules::members::{Change, Known, Step, step};
use proto_rules::set::SetEntry;

use super::{Ask, Shared, lock};
use crate::pool::Pool;
use crate::pool::command::Command;
use crate::pool::state::{PoolState, VolumeState};

/// Starts work on every volume whose bricks are being changed and for which nothing is under way.
pub(super) fn consider(pool: &Pool, memory: &Shared) {
    let state = pool.state();
    let changing = state.volumes.values().filter(|v| v.started && !v.changes.is_empty());
    for volume in changing {
        if !lock(memory).changing.insert(volume.id) {
            continue;
        }
        let (pool, memory) = (pool.clone(), memory.clone());
        let (state, volume) = (state.clone(), volume.clone());
        tokio::spawn(async move {
            carry_on(&pool, &state, &volume).await;
            lock(&memory).changing.remove(&volume.id);
        });
    }
}

async fn carry_on(pool: &Pool, state: &PoolState, volume: &Arc<VolumeState>) {
    let runs = runs(pool, state, volume, false).await;
    let mut entries = Vec::new();
    for set in &volume.sets {
        let key = SetKey { volume: volume.id, set: set.id };
        if let Some(entry) = next(pool, state, volume, set, &runs).await {
            entries.push((key, entry));
        }
    }
    if entries.is_empty() {
        return;
    }
    tracing::info!(volume = volume.name, ?entries, "bricks are changed");
    if let Err(error) = pool.propose(Command::Membership(entries)).await {
        tracing::warn!(%error, "a change of bricks is not committed yet");
    }
}

/// One entry at a time for a set: each may begin an epoch in which the next is void.
async fn next(
    pool: &Pool,
    state: &PoolState,
    volume: &VolumeState,
    set: &SetMap,
    runs: &Runs,
) -> Option<SetEntry> {
    let (changes, needed, epoch) = (volume.changes_of(set.id), volume.needed(), set.epoch);
    for change in &changes {
        match step(set, &changes, change, needed, |brick| known(set, runs, brick)) {
            Step::Wait(why) => tracing::debug!(volume = volume.name, ?change, %why),
            Step::Drop { brick } => return Some(SetEntry::Drop { epoch, brick }),
            Step::Retire { brick, incarnation } => {
                let peer = state.peers.get(&set.member(brick)?.peer)?;
                let key = SetKey { volume: volume.id, set: set.id };
                let ask = Ask::Retire { set: key, epoch, brick, incarnation };
                match pool.ask(peer, &ask).await {
                    Ok(()) => {
                        let reason = "it was taken out of its set".to_owned();
                        return Some(SetEntry::Leave { epoch, brick, incarnation, reason });
                    }
                    Err(why) => tracing::info!(volume = volume.name, why, "a brick stays for now"),
                }
            }
        }
    }
    None
}

/// What each peer says of its bricks; `None` where it does not answer.
pub type Runs = BTreeMap<PeerId, Option<BTreeMap<BrickId, BrickRun>>>;

/// Asks all peers of the volume; with `detail` their disks, too.
pub async fn runs(pool: &Pool, state: &PoolState, volume: &VolumeState, detail: bool) -> Runs {
    let peers = volume.bricks().filter_map(|m| state.peers.get(&m.peer));
    let peers: BTreeMap<PeerId, _> = peers.map(|p| (p.id, p)).collect();
    let asked = peers.into_iter().map(|(id, peer)| async move {
        let by_id = |run: BrickRun| Some((BrickId::from_slice(&run.brick_id)?, run));
        let runs = pool.brick_runs_with(peer, volume.id, detail).await;
        (id, runs.map(|runs| runs.into_iter().filter_map(by_id).collect()))
    });
    futures_util::future::join_all(asked).await.into_iter().collect()
}

/// What a brick says, if the incarnation that the map names is there to say it.
fn known(set: &SetMap, runs: &Runs, brick: BrickId) -> Option<Known> {
    let member = set.member(brick)?;
    let run = runs.get(&member.peer)?.as_ref()?.get(&brick)?;
    let named = run.online && run.incarnation == member.incarnation.0;
    named.then_some(Known { noted: Epoch(run.noted_epoch), stale: run.stale_copies })
}

/// What is being changed about a brick, in words; empty: nothing.
pub fn briefly(state: &PoolState, volume: &VolumeState, set: &SetMap, brick: BrickId) -> String {
    let changes = volume.changes_of(set.id);
    let Some(change) = changes.iter().find(|c| c.concerns(brick)) else { return String::new() };
    let name = |brick: BrickId| {
        let member = set.member(brick);
        let host = member.and_then(|m| state.peers.get(&m.peer)).map_or("", |p| p.host.as_str());
        format!("{host}:{}", member.map_or("", |m| m.path.as_str()))
    };
    match change {
        Change::Replace { old, new } if *new == brick => {
            format!("takes the place of {}", name(*old))
        }
        Change::Replace { new, .. } => format!("is being replaced by {}", name(*new)),
        Change::Add { .. } => "is being added".to_owned(),
        Change::Remove { .. } => "leaves the volume".to_owned(),
        Change::Reset { .. } => "is being reset".to_owned(),
    }
}

/// The same, and what it waits for.
pub fn words(
    state: &PoolState,
    volume: &VolumeState,
    set: &SetMap,
    brick: BrickId,
    runs: &Runs,
) -> Option<String> {
    let changes = volume.changes_of(set.id);
    let change = changes.iter().find(|c| c.concerns(brick))?;
    let brief = briefly(state, volume, set, brick);
    let next = step(set, &changes, change, volume.needed(), |b| known(set, runs, b));
    Some(match (change.leaver(), next) {
        (Some(_), Step::Wait(why)) => format!("{brief}: {why}"),
        _ => brief,
    })
}
