//! `apply`: the one way the pool's state changes. Pure and total; the same on every peer.

use std::collections::BTreeMap;
use std::sync::Arc;

use proto::map::SetMap;
use proto::options::VolumeOptions;
use proto::placement::table;
use proto::{PeerId, VolumeId};
use proto_rules::SetKey;
use proto_rules::members;
use proto_rules::set::{self, SetEntry, SetOutcome};

use super::{
    ClientState, PeerState, PoolState, STATE_FORMAT, VolumeState, bricks, recover, validate,
};
use crate::pool::command::{
    BrickChange, Command, CommandReply, NewPeer, NewVolume, SetResult, unstarted_set,
};

/// 1 MiB, as DESIGN section 11 has it.
const STRIPE_BLOCK_BYTES: u32 = 1 << 20;
/// More tokens than this is a leak, not a need.
const CLIENTS_MAX: usize = 10_000;

type Outcome = Result<(), String>;

/// Applies the command at `index` of the log.
pub fn apply(state: &mut PoolState, index: u64, command: &Command) -> CommandReply {
    state.applied = index;
    let outcome = match command {
        Command::CreatePool { secrets, first } => create_pool(state, secrets.clone(), first),
        Command::AddPeer(peer) => add_peer(state, index, peer),
        Command::RemovePeer { peer } => remove_peer(state, *peer),
        Command::UpdatePeer(peer) => update_peer(state, index, peer),
        Command::ReplacePeer { old, new } => recover::replace_peer(state, index, *old, new),
        Command::CreateVolume(volume) => create_volume(state, index, volume),
        Command::StartVolume { name, force } => start_volume(state, index, name, *force),
        Command::StopVolume { name, force } => stop_volume(state, index, name, *force),
        Command::DeleteVolume { name } => delete_volume(state, name),
        Command::SetOptions { name, options } => set_options(state, index, name, options),
        Command::ResetOptions { name, option } => {
            reset_options(state, index, name, option.as_deref())
        }
        Command::AddClient { name, hash, created_s } => {
            add_client(state, name, ClientState { hash: *hash, created_s: *created_s })
        }
        Command::RemoveClient { name } => match state.clients.remove(name) {
            Some(_) => Ok(()),
            None => Err(format!("Client {name} does not exist")),
        },
        Command::Membership(entries) => return membership(state, index, entries),
        Command::ChangeBricks { name, change } => change_bricks(state, index, name, change),
    };
    match outcome {
        Ok(()) => CommandReply::Done { index },
        Err(why) => CommandReply::Refused(why),
    }
}

fn create_pool(
    state: &mut PoolState,
    secrets: crate::pool::command::PoolSecrets,
    first: &NewPeer,
) -> Outcome {
    if state.secrets.is_some() {
        return Err("this peer already belongs to a pool".into());
    }
    state.format = STATE_FORMAT;
    state.secrets = Some(secrets);
    // The first peer is raft's node 1 before there is any log.
    state.peers.insert(first.id, peer_state(first, 1));
    Ok(())
}

pub(super) fn peer_state(peer: &NewPeer, node: u64) -> PeerState {
    PeerState {
        id: peer.id,
        node,
        host: peer.host.clone(),
        control_port: peer.control_port,
        data_port: peer.data_port,
        promise_port: peer.promise_port,
        witness: peer.witness,
        lost: false,
    }
}

fn add_peer(state: &mut PoolState, index: u64, peer: &NewPeer) -> Outcome {
    if let Some(known) = state.peers.get(&peer.id) {
        return match *known == peer_state(peer, known.node) {
            true => Ok(()),
            false => Err(format!("{} is already in the pool as {}", peer.host, known.host)),
        };
    }
    if state.peers.values().any(|p| p.host == peer.host && p.control_port == peer.control_port) {
        return Err(format!("another peer of the pool has the address {}", peer.host));
    }
    state.peers.insert(peer.id, peer_state(peer, index));
    Ok(())
}

fn remove_peer(state: &mut PoolState, peer: PeerId) -> Outcome {
    let Some(known) = state.peers.get(&peer) else { return Ok(()) };
    if let Some((volume, _, _)) = state.bricks().find(|(_, _, m)| m.peer == peer) {
        return Err(format!(
            "{} holds bricks of volume {}; remove or replace them first",
            known.host, volume.name
        ));
    }
    if state.peers.len() == 1 {
        return Err(format!("{} is the last peer of the pool", known.host));
    }
    state.removed_nodes.insert(known.node);
    state.peers.remove(&peer);
    Ok(())
}

fn update_peer(state: &mut PoolState, index: u64, peer: &NewPeer) -> Outcome {
    let known = state.peers.get_mut(&peer.id).ok_or("the peer does not belong to the pool")?;
    let updated = peer_state(peer, known.node);
    if *known == updated {
        return Ok(());
    }
    *known = updated;
    for volume in state.volumes.values_mut() {
        if volume.bricks().any(|m| m.peer == peer.id) {
            Arc::make_mut(volume).version = index;
        }
    }
    Ok(())
}

fn create_volume(state: &mut PoolState, index: u64, new: &NewVolume) -> Outcome {
    if state.volumes.get(&new.id).is_some_and(|v| v.name == new.name) {
        return Ok(());
    }
    validate::new_volume(state, new)?;
    let sets: Vec<_> = new
        .bricks
        .chunks(usize::from(new.replica))
        .enumerate()
        .map(|(id, bricks)| unstarted_set(u32::try_from(id).unwrap_or(u32::MAX), bricks))
        .collect();
    // All sets weigh the same: what their disks hold is not known here.
    let weights: Vec<_> =
        sets.iter().map(|set: &SetMap| table::Weight { set: set.id, weight: 1 }).collect();
    let slots = table::initial(&weights).map_err(|e| e.to_string())?;
    let volume = VolumeState {
        id: new.id,
        name: new.name.clone(),
        replica: new.replica,
        stripe: new.stripe,
        stripe_block: STRIPE_BLOCK_BYTES,
        transport: new.transport.clone(),
        started: false,
        ever_started: false,
        created_s: new.created_s,
        version: index,
        slots: Arc::new(slots),
        sets,
        options: BTreeMap::new(),
        changes: Vec::new(),
    };
    state.volumes.insert(new.id, Arc::new(volume));
    Ok(())
}

/// The volume, its version set to `index`: every caller changes its map.
fn volume_mut<'a>(
    state: &'a mut PoolState,
    index: u64,
    name: &str,
) -> Result<&'a mut VolumeState, String> {
    let id = volume_id(state, name)?;
    let volume = state.volumes.get_mut(&id).ok_or("no such volume")?;
    let volume = Arc::make_mut(volume);
    volume.version = index;
    Ok(volume)
}

fn volume_id(state: &PoolState, name: &str) -> Result<VolumeId, String> {
    let volume = state.volume_by_name(name);
    volume.map(|v| v.id).ok_or_else(|| format!("Volume {name} does not exist"))
}

fn start_volume(state: &mut PoolState, index: u64, name: &str, force: bool) -> Outcome {
    let id = volume_id(state, name)?;
    if state.volumes[&id].started {
        return if force { Ok(()) } else { Err(format!("Volume {name} already started")) };
    }
    // The client does not cut files into blocks yet: they would lie whole on one set.
    if state.volumes[&id].stripe > 1 {
        return Err(format!(
            "Volume {name} is striped; this version creates striped volumes and does not serve them"
        ));
    }
    let volume = volume_mut(state, index, name)?;
    volume.started = true;
    volume.ever_started = true;
    Ok(())
}

fn stop_volume(state: &mut PoolState, index: u64, name: &str, force: bool) -> Outcome {
    let id = volume_id(state, name)?;
    if !state.volumes[&id].started {
        let why = format!("Volume {name} is not in the started state");
        return if force { Ok(()) } else { Err(why) };
    }
    volume_mut(state, index, name)?.started = false;
    Ok(())
}

fn delete_volume(state: &mut PoolState, name: &str) -> Outcome {
    let id = volume_id(state, name)?;
    if state.volumes[&id].started {
        return Err(format!(
            "Volume {name} has been started. Volume needs to be stopped before deletion."
        ));
    }
    state.volumes.remove(&id);
    Ok(())
}

fn set_options(
    state: &mut PoolState,
    index: u64,
    name: &str,
    options: &[(String, String)],
) -> Outcome {
    volume_id(state, name)?;
    let mut checked = VolumeOptions::default();
    for (option, value) in options {
        checked.set(option, value)?;
    }
    volume_mut(state, index, name)?.options.extend(options.iter().cloned());
    Ok(())
}

fn reset_options(state: &mut PoolState, index: u64, name: &str, option: Option<&str>) -> Outcome {
    volume_id(state, name)?;
    if let Some(option) = option
        && !proto::options::OPTIONS.iter().any(|o| o.name == option)
    {
        return Err(format!("unknown option {option}; 'brick volume set help' lists them all"));
    }
    let volume = volume_mut(state, index, name)?;
    match option {
        Some(option) => {
            volume.options.remove(option);
        }
        None => volume.options.clear(),
    }
    Ok(())
}

fn add_client(state: &mut PoolState, name: &str, client: ClientState) -> Outcome {
    validate::name(name)?;
    if state.clients.len() >= CLIENTS_MAX {
        return Err(format!("there are already {CLIENTS_MAX} clients; remove some first"));
    }
    match state.clients.get(name) {
        Some(known) if *known == client => Ok(()),
        Some(_) => Err(format!("Client {name} already exists")),
        None => {
            state.clients.insert(name.to_owned(), client);
            Ok(())
        }
    }
}

fn change_bricks(state: &mut PoolState, index: u64, name: &str, change: &BrickChange) -> Outcome {
    let changed = bricks::change(state, name, change)?;
    let known = state.volumes.get_mut(&changed.id).ok_or("no such volume")?;
    if **known != changed {
        *known = Arc::new(VolumeState { version: index, ..changed });
    }
    Ok(())
}

fn membership(state: &mut PoolState, index: u64, entries: &[(SetKey, SetEntry)]) -> CommandReply {
    let results = entries
        .iter()
        .map(|(key, entry)| (*key, membership_of_one(state, index, *key, entry)))
        .collect();
    CommandReply::Membership { index, results }
}

fn membership_of_one(
    state: &mut PoolState,
    index: u64,
    key: SetKey,
    entry: &SetEntry,
) -> SetResult {
    let Some(volume) = state.volumes.get_mut(&key.volume) else {
        return SetResult::Void("no such volume".into());
    };
    if volume.sets.get(key.set.0 as usize).is_none() {
        return SetResult::Void("no such set".into());
    }
    let volume = Arc::make_mut(volume);
    if let SetEntry::Drop { brick, .. } = entry
        && !members::leaves(&volume.changes_of(key.set), *brick)
    {
        return SetResult::Void("no change takes this brick out".into());
    }
    let outcome = set::apply(&mut volume.sets[key.set.0 as usize], index, entry);
    if !volume.changes.is_empty() {
        bricks::settle(volume);
    }
    match outcome {
        SetOutcome::Void(why) => SetResult::Void(format!("{why:?}")),
        SetOutcome::Noted => {
            volume.version = index;
            SetResult::Noted
        }
        SetOutcome::NewEpoch { epoch, lead_changed } => {
            volume.version = index;
            SetResult::NewEpoch { epoch, lead_changed }
        }
    }
}

#[cfg(test)]
#[path = "apply_test.rs"]
mod tests;
