//! `volume info | status | list`.

use std::collections::BTreeMap;
use std::sync::Arc;

use proto::map::{MemberMap, MemberState, SetMap};
use proto::{BrickId, PeerId};
use proto_grpc::control::{
    BrickDetail, BrickInfo, BrickStatus, OptionValue, VolumeInfo, VolumeInfoReply, VolumeRequest,
    VolumeStatus, VolumeStatusReply, VolumeStatusRequest,
};
use proto_grpc::peer::BrickRun;
use tonic::Status;

use super::refuse;
use crate::pool::Pool;
use crate::pool::membership::change;
use crate::pool::state::{PoolState, VolumeState};

/// The named volume, or all of them by name.
pub fn volumes(state: &PoolState, name: &str) -> Result<Vec<Arc<VolumeState>>, Status> {
    let mut found: Vec<_> = state
        .volumes
        .values()
        .filter(|v| matches!(name, "" | "all") || v.name == name)
        .cloned()
        .collect();
    if found.is_empty() && !matches!(name, "" | "all") {
        return Err(refuse(format!("Volume {name} does not exist")));
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

pub fn host(state: &PoolState, peer: PeerId) -> String {
    state.peers.get(&peer).map_or_else(|| peer.to_string(), |p| p.host.clone())
}

pub fn state_name(state: MemberState) -> &'static str {
    match state {
        MemberState::InSync => "in-sync",
        MemberState::Syncing => "syncing",
        MemberState::Out => "out",
    }
}

pub async fn info(pool: &Pool, request: VolumeRequest) -> Result<VolumeInfoReply, Status> {
    let state = pool.state();
    let volumes = volumes(&state, &request.name)?;
    Ok(VolumeInfoReply { volumes: volumes.iter().map(|v| info_of(&state, v)).collect() })
}

fn info_of(state: &PoolState, volume: &VolumeState) -> VolumeInfo {
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    VolumeInfo {
        name: volume.name.clone(),
        uuid: volume.id.to_string(),
        r#type: volume.type_name().into(),
        status: volume.status_name().into(),
        distribute: count(volume.distribute()),
        stripe: volume.stripe.into(),
        replica: volume.replica_shown().into(),
        num_bricks: count(volume.sets.iter().map(|set| volume.stays(set).count()).sum()),
        transport: volume.transport.clone(),
        bricks: volume
            .sets
            .iter()
            .flat_map(|set| set.members.iter().map(move |member| (set, member)))
            .map(|(set, m)| BrickInfo {
                host: host(state, m.peer),
                path: m.path.clone(),
                uuid: m.brick.to_string(),
                host_uuid: m.peer.to_string(),
                change: change::briefly(state, volume, set, m.brick),
            })
            .collect(),
        options: volume
            .options
            .iter()
            .map(|(name, value)| OptionValue { name: name.clone(), value: value.clone() })
            .collect(),
    }
}

pub async fn status(
    pool: &Pool,
    request: VolumeStatusRequest,
) -> Result<VolumeStatusReply, Status> {
    let state = pool.state();
    let wanted = volumes(&state, &request.name)?;
    let all = wanted.iter().map(|volume| status_of(pool, &state, volume, request.detail));
    let (mut volumes, majority) =
        futures_util::join!(futures_util::future::join_all(all), majority_alarm(pool));
    for volume in &mut volumes {
        volume.alarms.extend(majority.clone());
    }
    Ok(VolumeStatusReply { volumes })
}

/// Why nothing can be decided, as this peer sees it.
async fn majority_alarm(pool: &Pool) -> Option<String> {
    let (silent, voters) = pool.silent_voters().await;
    let there = voters - silent.len();
    (there <= voters / 2 && voters > 0).then(|| {
        let hosts: Vec<_> = silent.iter().map(|p| p.host.as_str()).collect();
        format!(
            "{there} of {voters} voters answer here, which is no majority: no failed brick can be \
             left behind, none can return, and no configuration change is possible; start brickd \
             on {}",
            hosts.join(", ")
        )
    })
}

async fn status_of(
    pool: &Pool,
    state: &PoolState,
    volume: &VolumeState,
    detail: bool,
) -> VolumeStatus {
    let runs = change::runs(pool, state, volume, detail).await;
    let bricks = volume
        .sets
        .iter()
        .flat_map(|set| set.members.iter().map(move |member| (set, member)))
        .map(|(set, member)| {
            let mut brick = brick_of(state, set, member, runs.get(&member.peer));
            if let Some(words) = change::words(state, volume, set, member.brick, &runs) {
                brick.reason = match brick.reason.is_empty() {
                    true => words,
                    false => format!("{words}; {}", brick.reason),
                };
            }
            brick
        })
        .collect();
    VolumeStatus {
        name: volume.name.clone(),
        status: volume.status_name().into(),
        bricks,
        alarms: alarms(state, volume),
    }
}

fn brick_of(
    state: &PoolState,
    set: &SetMap,
    member: &MemberMap,
    runs: Option<&Option<BTreeMap<BrickId, BrickRun>>>,
) -> BrickStatus {
    let silent = matches!(runs, Some(None) | None);
    let run = runs.and_then(Option::as_ref).and_then(|r| r.get(&member.brick)).cloned();
    let run = run.unwrap_or_default();
    let lost = state.peers.get(&member.peer).is_some_and(|p| p.lost);
    let reason = match (silent, run.error.is_empty()) {
        (true, _) if lost => "its peer is lost; 'brick peer probe HOST --reinstalled' brings \
                              it back"
            .replace("HOST", &host(state, member.peer)),
        (true, _) => "its peer does not answer".to_owned(),
        (false, false) => run.error,
        (false, true) => member.reason.clone(),
    };
    BrickStatus {
        host: host(state, member.peer),
        path: member.path.clone(),
        uuid: member.brick.to_string(),
        online: run.online,
        port: run.port,
        pid: run.pid,
        set: set.id.0,
        state: state_name(member.state).into(),
        reason,
        lead: set.lead == Some(member.brick),
        epoch: set.epoch.0,
        incarnation: member.incarnation.0,
        free_bytes: run.free_bytes,
        total_bytes: run.total_bytes,
        detail: run.disk.map(|disk| BrickDetail {
            device: disk.device,
            fs_name: disk.fs_name,
            mount_options: disk.mount_options,
            inode_size: disk.inode_size,
            size_free: disk.free_bytes,
            size_total: disk.total_bytes,
            free_inodes: disk.free_inodes,
            total_inodes: disk.total_inodes,
        }),
    }
}

fn alarms(state: &PoolState, volume: &VolumeState) -> Vec<String> {
    let options = volume.parsed_options();
    let mut alarms = Vec::new();
    for set in volume.sets.iter().filter(|_| volume.started) {
        let members = u16::try_from(volume.stays(set).count()).unwrap_or(u16::MAX);
        let in_sync = u16::try_from(set.in_sync().count()).unwrap_or(u16::MAX);
        let needed = volume.needed();
        if in_sync > 0 && set.in_sync().all(|m| !state.trusts(m.peer)) {
            alarms.push(format!(
                "set {}: all its current copies are on lost peers; it waits until one is probed \
                 with --reinstalled",
                set.id
            ));
        } else if in_sync < needed {
            alarms.push(format!(
                "set {}: {in_sync} of {members} in-sync, changes need {needed} and wait",
                set.id
            ));
        } else if in_sync == 1 && members > 1 {
            let how = match options.lone_sync {
                true => "changes are on its disk before they are answered (cluster.lone-sync)",
                false => {
                    "its loss is the loss of data; 'cluster.lone-sync on' makes changes safe \
                          from a loss of power"
                }
            };
            alarms.push(format!("set {}: one copy is left: {how}", set.id));
        }
    }
    alarms
}
