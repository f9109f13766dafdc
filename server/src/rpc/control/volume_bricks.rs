//! `volume replace-brick | reset-brick | add-brick | remove-brick`: checked, prepared, committed.
//! How a change goes on is the pool's business (`pool::membership::change`).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use proto::BrickId;
use proto::map::{MemberState, SetMap};
use proto_grpc::control::{
    BrickAddress, HealSourceRequest, Message, VolumeAddBrickRequest, VolumeRemoveBrickRequest,
    VolumeReplaceBrickRequest, VolumeResetBrickRequest,
};
use proto_rules::SetKey;
use proto_rules::members::Change;
use tonic::Status;

use super::volume_create::{
    abandon, all_reachable, check_addresses, new_bricks, prepare, prepare_one,
};
use super::{hosts, message, pool_error, refuse};
use crate::pool::Pool;
use crate::pool::bricks::BrickSpec;
use crate::pool::command::{BrickChange, Command, CommandReply, NewBrick};
use crate::pool::membership::change;
use crate::pool::state::{PeerState, PoolState, VolumeState, bricks};

/// A brick that may leave has left within a second; its set then begins an epoch without it.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(12);

pub async fn replace(pool: &Pool, request: VolumeReplaceBrickRequest) -> Result<Message, Status> {
    let (state, volume) = volume(pool, &request.name)?;
    let (old, new) = (address(request.old_brick)?, address(request.new_brick)?);
    let (set, old) = existing(pool, &state, &volume, &old).await?;
    if request.abort {
        let (_, new) = existing(pool, &state, &volume, &new).await?;
        commit(pool, &volume.name, BrickChange::Abort { old, new }).await?;
        return Ok(message("success: replace-brick abort operation successful"));
    }
    let news = new_bricks(pool, &state, std::slice::from_ref(&new)).await?;
    let Some(new) = news.into_iter().next() else { return Err(refuse("no new brick is named")) };
    only_copy(set, old)?;
    let warning = together(&state, set, &[old], std::slice::from_ref(&new)).err();
    let done = BrickChange::Replace { old, new: new.clone() };
    begin(pool, &state, &volume, &[(set, new)], done, true).await?;
    Ok(message(format!(
        "success: replace-brick commit force operation successful{}{}",
        warning.map(|why| format!("\nwarning: {why}")).unwrap_or_default(),
        progress(&volume)
    )))
}

fn progress(volume: &VolumeState) -> String {
    match volume.ever_started {
        true => format!("\n'brick volume heal {} info' shows how far it is", volume.name),
        false => String::new(),
    }
}

/// Of what is nowhere else nothing can be healed.
fn only_copy(set: &SetMap, old: BrickId) -> Result<(), Status> {
    let serves = set.in_sync().any(|m| m.brick == old);
    if set.epoch == proto::Epoch::NONE || serves || set.in_sync().next().is_some() {
        return Ok(());
    }
    Err(refuse(
        "no brick of its replica set is current, so that a new one could not be healed; bring the \
         brick's disk and its brickd back, or restore the files into another volume",
    ))
}

pub async fn reset(pool: &Pool, request: VolumeResetBrickRequest) -> Result<Message, Status> {
    let (state, volume) = volume(pool, &request.name)?;
    let brick = address(request.brick)?;
    let (set, brick) = existing(pool, &state, &volume, &brick).await?;
    if !request.commit {
        commit(pool, &volume.name, BrickChange::Reset { brick }).await?;
        let out = gone(pool, &volume, &[brick]).await;
        return Ok(message(match out {
            true => "success: reset-brick start operation successful".to_owned(),
            false => waits(&volume, "reset-brick start"),
        }));
    }
    let started = volume.changes_of(set.id).contains(&Change::Reset { brick });
    let member = set.member(brick).filter(|m| started && m.state != MemberState::InSync);
    // Also where it was not begun: the refusal is the state's.
    if let Some(member) = member
        && let Some(peer) = state.peers.get(&member.peer)
    {
        let spec = spec(&volume, set, brick, &member.path);
        let made = prepare_one(pool, peer, &spec, request.force).await;
        made.map_err(|why| refuse(format!("brick {}:{}: {why}", peer.host, member.path)))?;
    } else if started {
        return Err(refuse(format!(
            "the brick is in service still; 'brick volume status {}' shows why",
            volume.name
        )));
    }
    commit(pool, &volume.name, BrickChange::CommitReset { brick }).await?;
    let force = if request.force { " force" } else { "" };
    Ok(message(format!(
        "success: reset-brick commit{force} operation successful{}",
        progress(&volume)
    )))
}

pub async fn add(pool: &Pool, request: VolumeAddBrickRequest) -> Result<Message, Status> {
    let (state, volume) = volume(pool, &request.name)?;
    check_addresses(&request.bricks).map_err(refuse)?;
    if request.replica == 0 {
        return Err(refuse(format!(
            "adding whole sets of bricks is not part of this version; 'replica N' with N above \
             {} adds copies to each set",
            volume.replica
        )));
    }
    let replica = count(request.replica)?;
    let news = new_bricks(pool, &state, &request.bricks).await?;
    let done = BrickChange::Add { replica, bricks: news.clone() };
    bricks::change(&state, &volume.name, &done).map_err(refuse)?;
    let more = news.len() / volume.sets.len();
    let mut placed = Vec::new();
    let mut warnings = BTreeSet::new();
    for (set, news) in volume.sets.iter().zip(news.chunks(more)) {
        warnings.extend(together(&state, set, &[], news).err());
        placed.extend(news.iter().map(|new| (set, new.clone())));
    }
    let warning = warnings.into_iter().next();
    if let (Some(why), false) = (&warning, request.force) {
        return Err(refuse(format!("{why}; use 'force' to do it all the same")));
    }
    begin(pool, &state, &volume, &placed, done, request.force).await?;
    let warning = warning.map(|why| format!("\nwarning: {why}")).unwrap_or_default();
    Ok(message(format!("success{warning}{}", progress(&volume))))
}

pub async fn remove(pool: &Pool, request: VolumeRemoveBrickRequest) -> Result<Message, Status> {
    let (state, volume) = volume(pool, &request.name)?;
    check_addresses(&request.bricks).map_err(refuse)?;
    if request.status {
        return status(pool, &state, &volume).await;
    }
    if request.replica == 0 {
        return Err(refuse(
            "Removing bricks from replicate configuration is not allowed without reducing replica \
             count explicitly; say 'replica N' before the bricks (removing whole sets is not part \
             of this version)",
        ));
    }
    let replica = count(request.replica)?;
    let mut named = Vec::with_capacity(request.bricks.len());
    for brick in &request.bricks {
        let found = find(pool, &state, &volume, brick).await;
        let wrong =
            || format!("Incorrect brick {}:{} for volume {}", brick.host, brick.path, volume.name);
        named.push(found.ok_or_else(|| refuse(wrong()))?.1);
    }
    let change = BrickChange::Remove { replica, bricks: named.clone() };
    commit(pool, &volume.name, change).await?;
    Ok(message(match gone(pool, &volume, &named).await {
        true => "success".to_owned(),
        false => waits(&volume, "remove-brick"),
    }))
}

/// `volume heal VOL split-brain source-brick BRICK force`: the last resort, when the disk with the
/// last good copy of something is lost.
pub async fn trust(pool: &Pool, request: HealSourceRequest) -> Result<Message, Status> {
    let (state, volume) = volume(pool, &request.name)?;
    let named = address(request.brick)?;
    let (set, brick) = existing(pool, &state, &volume, &named).await?;
    let away: Vec<String> = set
        .members
        .iter()
        .filter(|m| m.state != MemberState::InSync)
        .map(|m| format!("{}:{}", super::volume_show::host(&state, m.peer), m.path))
        .collect();
    let warning = match away.is_empty() {
        true => String::new(),
        false => format!("; bring {} back first, if you can: it may have them", away.join(", ")),
    };
    if !request.force {
        return Err(refuse(format!(
            "WARNING: where no brick of its set has a good copy, {}:{} will be taken for good, \
             and what the lost copies had besides is gone{warning}; 'force' does it",
            named.host, named.path
        )));
    }
    let set = SetKey { volume: volume.id, set: set.id };
    tracing::warn!(volume = volume.name, %brick, "told to trust a brick's copies");
    pool.trust_copies(set, brick).await.map_err(refuse)?;
    Ok(message(format!(
        "success: its copies are taken for good where there was no other{warning}\n\
         'brick volume heal {} info' shows what is healed from them",
        volume.name
    )))
}

fn waits(volume: &VolumeState, what: &str) -> String {
    format!(
        "success: {what} is under way; 'brick volume status {}' shows what it waits for",
        volume.name
    )
}

/// What is being changed about each brick, a line each.
async fn status(pool: &Pool, state: &PoolState, volume: &VolumeState) -> Result<Message, Status> {
    let runs = change::runs(pool, state, volume, false).await;
    let mut lines = Vec::new();
    for set in &volume.sets {
        for member in &set.members {
            let Some(words) = change::words(state, volume, set, member.brick, &runs) else {
                continue;
            };
            let host = super::volume_show::host(state, member.peer);
            lines.push(format!("{host}:{}: {words}", member.path));
        }
    }
    match lines.is_empty() {
        true => Err(refuse(format!("remove-brick not started for volume {}.", volume.name))),
        false => Ok(message(lines.join("\n"))),
    }
}

fn volume(pool: &Pool, name: &str) -> Result<(Arc<PoolState>, Arc<VolumeState>), Status> {
    let state = pool.state();
    let volume = state.volume_by_name(name).cloned();
    let volume = volume.ok_or_else(|| refuse(format!("Volume {name} does not exist")))?;
    Ok((state, volume))
}

fn address(brick: Option<BrickAddress>) -> Result<BrickAddress, Status> {
    let brick = brick.ok_or_else(|| Status::invalid_argument("a brick is missing"))?;
    check_addresses(std::slice::from_ref(&brick)).map_err(refuse)?;
    Ok(brick)
}

fn count(replica: u32) -> Result<u16, Status> {
    u16::try_from(replica).map_err(|_| refuse(format!("replica count {replica} is too large")))
}

async fn find<'v>(
    pool: &Pool,
    state: &PoolState,
    volume: &'v VolumeState,
    brick: &BrickAddress,
) -> Option<(&'v SetMap, BrickId)> {
    let peer = hosts::find(pool, state, &brick.host).await?.id;
    volume.sets.iter().find_map(|set| {
        let member = set.members.iter().find(|m| m.peer == peer && m.path == brick.path)?;
        Some((set, member.brick))
    })
}

async fn existing<'v>(
    pool: &Pool,
    state: &PoolState,
    volume: &'v VolumeState,
    brick: &BrickAddress,
) -> Result<(&'v SetMap, BrickId), Status> {
    find(pool, state, volume, brick).await.ok_or_else(|| {
        refuse(format!(
            "brick: {}:{} does not exist in volume: {}",
            brick.host, brick.path, volume.name
        ))
    })
}

/// Two copies on one peer are lost together.
fn together(
    state: &PoolState,
    set: &SetMap,
    leave: &[BrickId],
    news: &[NewBrick],
) -> Result<(), String> {
    let stay = set.members.iter().filter(|m| !leave.contains(&m.brick)).map(|m| m.peer);
    let mut peers: BTreeSet<_> = stay.collect();
    match news.iter().find(|new| !peers.insert(new.peer)) {
        None => Ok(()),
        Some(twice) => {
            let host = state.peers.get(&twice.peer).map_or("", |p| p.host.as_str());
            Err(format!("a replica set has two bricks on {host}, which would be lost together"))
        }
    }
}

fn spec(volume: &VolumeState, set: &SetMap, brick: BrickId, path: &str) -> BrickSpec {
    BrickSpec {
        volume: volume.id,
        volume_name: volume.name.clone(),
        set: set.id,
        brick,
        path: path.to_owned(),
        created_s: volume.created_s,
    }
}

/// Checks the change, makes the new bricks' folders, and commits it; all of them, or none.
async fn begin(
    pool: &Pool,
    state: &PoolState,
    volume: &VolumeState,
    news: &[(&SetMap, NewBrick)],
    done: BrickChange,
    force: bool,
) -> Result<(), Status> {
    bricks::change(state, &volume.name, &done).map_err(refuse)?;
    let all: Vec<NewBrick> = news.iter().map(|(_, new)| new.clone()).collect();
    all_reachable(pool, state, &all).await?;
    let specs: Vec<(&PeerState, BrickSpec)> = news
        .iter()
        .filter_map(|(set, new)| {
            Some((state.peers.get(&new.peer)?, spec(volume, set, new.id, &new.path)))
        })
        .collect();
    prepare(pool, &specs, force).await?;
    let command = Command::ChangeBricks { name: volume.name.clone(), change: done };
    match pool.propose(command).await {
        Ok(CommandReply::Refused(why)) => {
            abandon(pool, &specs).await;
            Err(refuse(why))
        }
        Ok(_) => Ok(()),
        // It may have been committed all the same: the bricks stay prepared.
        Err(error) => Err(pool_error(&error)),
    }
}

async fn commit(pool: &Pool, name: &str, change: BrickChange) -> Result<(), Status> {
    let command = Command::ChangeBricks { name: name.to_owned(), change };
    super::commit(pool, command).await.map(drop)
}

/// Waits until these bricks are out of service; false: not yet.
async fn gone(pool: &Pool, volume: &VolumeState, bricks: &[BrickId]) -> bool {
    let mut state = pool.watch_state();
    let id = volume.id;
    let gone = state.wait_for(|s| {
        let Some(volume) = s.volumes.get(&id) else { return true };
        bricks.iter().all(|brick| {
            let Some(set) = volume.set_of_brick(*brick) else { return true };
            let resets = volume.changes_of(set.id).contains(&Change::Reset { brick: *brick });
            let out = set.member(*brick).is_some_and(|m| m.state != MemberState::InSync);
            out && resets
        })
    });
    matches!(tokio::time::timeout(LEAVE_TIMEOUT, gone).await, Ok(Ok(_)))
}
