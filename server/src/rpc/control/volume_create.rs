//! `volume create`: everything is checked, every brick is prepared, then the volume exists.

use std::collections::BTreeSet;
use std::time::Duration;

use proto::{BrickId, PeerId, SetId, VolumeId};
use proto_grpc::control::{BrickAddress, Message, VolumeCreateRequest};
use proto_grpc::peer::{Blob, PrepareBrickRequest};
use tonic::Status;

use super::{hosts, message, pool_error, refuse};
use crate::pool::bricks::BrickSpec;
use crate::pool::command::{Command, CommandReply, NewBrick, NewVolume};
use crate::pool::state::{PeerState, PoolState, validate};
use crate::pool::{Pool, files};

/// A disk that takes longer than this to make a folder is no good brick.
const PREPARE_TIMEOUT: Duration = Duration::from_secs(20);

pub async fn create(pool: &Pool, request: VolumeCreateRequest) -> Result<Message, Status> {
    check_text(&request).map_err(refuse)?;
    pool_of_one(pool).await?;
    let state = pool.state();
    let volume = resolve(pool, &state, &request).await?;
    validate::new_volume(&state, &volume).map_err(refuse)?;
    let together = one_peer_per_set(&state, &volume);
    if let (Err(why), false) = (&together, request.force) {
        return Err(refuse(format!("{why}; use 'force' to do it all the same")));
    }
    all_reachable(pool, &state, &volume.bricks).await?;
    let specs: Vec<_> = specs(&state, &volume).collect();
    prepare(pool, &specs, request.force).await?;
    match pool.propose(Command::CreateVolume(volume.clone())).await {
        Ok(CommandReply::Refused(why)) => {
            abandon(pool, &specs).await;
            Err(refuse(why))
        }
        Ok(_) => {
            let warning = together.err().map(|why| format!("\nwarning: {why}"));
            let success = "success: please start the volume to access data";
            Ok(message(format!("{success}{}", warning.unwrap_or_default())))
        }
        // It may have been committed all the same: the bricks stay prepared.
        Err(error) => Err(pool_error(&error)),
    }
}

/// What can be said without knowing the pool.
fn check_text(request: &VolumeCreateRequest) -> Result<(), String> {
    validate::name(&request.name)?;
    check_addresses(&request.bricks)
}

/// Bricks as they were named.
pub fn check_addresses(bricks: &[BrickAddress]) -> Result<(), String> {
    for brick in bricks {
        if !hosts::plausible(&brick.host) {
            return Err(format!("'{}' is not a host name or address", brick.host));
        }
        validate::brick_path(&brick.path)?;
    }
    Ok(())
}

/// The first volume on an un-pooled peer makes a pool of one.
async fn pool_of_one(pool: &Pool) -> Result<(), Status> {
    if pool.membership().is_some() {
        return Ok(());
    }
    let config = pool.config();
    let own = config.advertise.clone().or(config.bind().map(|ip| ip.to_string()));
    let own = own.unwrap_or_else(|| {
        rustix::system::uname().nodename().to_str().unwrap_or("localhost").to_owned()
    });
    pool.ensure_pooled(&own).await.map_err(|e| Status::internal(format!("{e:#}")))
}

async fn resolve(
    pool: &Pool,
    state: &PoolState,
    request: &VolumeCreateRequest,
) -> Result<NewVolume, Status> {
    let count = |n: u32, what: &str| {
        u16::try_from(n.max(1)).map_err(|_| refuse(format!("{what} count {n} is too large")))
    };
    let bricks = new_bricks(pool, state, &request.bricks).await?;
    let transport = if request.transport.is_empty() { "tcp" } else { &request.transport };
    Ok(NewVolume {
        id: VolumeId::random(),
        name: request.name.clone(),
        replica: count(request.replica, "replica")?,
        stripe: count(request.stripe, "stripe")?,
        transport: transport.into(),
        bricks,
        created_s: files::wall_s(),
    })
}

/// The bricks named on a command line, each on its peer, with an id of its own.
pub async fn new_bricks(
    pool: &Pool,
    state: &PoolState,
    named: &[BrickAddress],
) -> Result<Vec<NewBrick>, Status> {
    let mut bricks = Vec::with_capacity(named.len());
    for brick in named {
        let peer = hosts::find(pool, state, &brick.host).await.ok_or_else(|| {
            refuse(format!(
                "Host {0} is not in 'Peer in Cluster' state; 'brick peer probe {0}' first",
                brick.host
            ))
        })?;
        bricks.push(NewBrick { id: BrickId::random(), peer: peer.id, path: brick.path.clone() });
    }
    Ok(bricks)
}

/// Two copies on one peer are lost together.
fn one_peer_per_set(state: &PoolState, volume: &NewVolume) -> Result<(), String> {
    for set in volume.bricks.chunks(usize::from(volume.replica)) {
        let mut peers = BTreeSet::new();
        if let Some(twice) = set.iter().find(|b| !peers.insert(b.peer)) {
            let host = state.peers.get(&twice.peer).map_or("", |p| p.host.as_str());
            return Err(format!(
                "a replica set has two bricks on {host}, which would be lost together"
            ));
        }
    }
    Ok(())
}

/// The peers of all these bricks answer.
pub async fn all_reachable(
    pool: &Pool,
    state: &PoolState,
    bricks: &[NewBrick],
) -> Result<(), Status> {
    let ids: BTreeSet<PeerId> = bricks.iter().map(|b| b.peer).collect();
    let asked = ids
        .iter()
        .filter_map(|id| state.peers.get(id))
        .map(|peer| async move { (peer, pool.answers(peer).await) });
    for (peer, there) in futures_util::future::join_all(asked).await {
        if !there {
            return Err(refuse(format!(
                "Host {} is not connected; start brickd there and check 'brick peer status'",
                peer.host
            )));
        }
    }
    Ok(())
}

fn specs<'a>(
    state: &'a PoolState,
    volume: &'a NewVolume,
) -> impl Iterator<Item = (&'a PeerState, BrickSpec)> {
    volume.bricks.iter().enumerate().filter_map(|(at, brick)| {
        let set = u32::try_from(at / usize::from(volume.replica)).ok()?;
        let spec = BrickSpec {
            volume: volume.id,
            volume_name: volume.name.clone(),
            set: SetId(set),
            brick: brick.id,
            path: brick.path.clone(),
            created_s: volume.created_s,
        };
        Some((state.peers.get(&brick.peer)?, spec))
    })
}

/// All bricks, or none: a failure takes back what the others did.
pub async fn prepare(
    pool: &Pool,
    specs: &[(&PeerState, BrickSpec)],
    force: bool,
) -> Result<(), Status> {
    let prepared = specs.iter().map(|(peer, spec)| async move {
        let done = prepare_one(pool, peer, spec, force).await;
        done.map_err(|why| format!("brick {}:{}: {why}", peer.host, spec.path))
    });
    let failed = futures_util::future::join_all(prepared).await.into_iter().find_map(Result::err);
    let Some(why) = failed else { return Ok(()) };
    abandon(pool, specs).await;
    Err(refuse(why))
}

pub async fn prepare_one(
    pool: &Pool,
    peer: &PeerState,
    spec: &BrickSpec,
    force: bool,
) -> Result<(), String> {
    if peer.id == pool.id() {
        let hooks = pool.hooks().ok_or("the daemon is starting")?;
        return hooks.bricks.prepare(spec, force).await;
    }
    let spec = serde_json::to_vec(spec).map_err(|e| e.to_string())?.into();
    let mut request = tonic::Request::new(PrepareBrickRequest { spec, force });
    request.set_timeout(PREPARE_TIMEOUT);
    let mut client = pool.peer_client(peer).map_err(|e| e.message().to_owned())?;
    client.prepare_brick(request).await.map(drop).map_err(|e| e.message().to_owned())
}

/// Also those whose outcome is unknown: a peer abandons only what this command prepared.
pub async fn abandon(pool: &Pool, specs: &[(&PeerState, BrickSpec)]) {
    let abandoned = specs.iter().map(|(peer, spec)| async move {
        if peer.id == pool.id() {
            if let Some(hooks) = pool.hooks() {
                hooks.bricks.abandon(spec).await;
            }
            return;
        }
        let Ok(data) = serde_json::to_vec(spec) else { return };
        let mut request = tonic::Request::new(Blob { data: data.into() });
        request.set_timeout(PREPARE_TIMEOUT);
        let Ok(mut client) = pool.peer_client(peer) else { return };
        if let Err(error) = client.abandon_brick(request).await {
            tracing::warn!(
                peer = peer.host,
                path = spec.path,
                error = error.message(),
                "brick not taken back"
            );
        }
    });
    futures_util::future::join_all(abandoned).await;
}
