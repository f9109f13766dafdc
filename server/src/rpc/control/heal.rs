//! `volume heal VOL info | watch`: asks every peer, sums, never blocks on a dead one.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proto::map::MemberState;
use proto::{BrickId, PeerId, VolumeId};
use proto_grpc::control::{HealBrick, HealInfoReply, VolumeRequest};
use proto_grpc::peer::{HealRun, HealStatusRequest};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::refuse;
use super::volume_show::{host, state_name};
use crate::pool::Pool;
use crate::pool::state::{PeerState, PoolState, VolumeState};

const ASK_TIMEOUT: Duration = Duration::from_secs(1);
const WATCH_EVERY: Duration = Duration::from_millis(500);

pub type Watch = ReceiverStream<Result<HealInfoReply, Status>>;

pub async fn info(pool: &Pool, request: VolumeRequest) -> Result<HealInfoReply, Status> {
    let state = pool.state();
    let volume = state
        .volume_by_name(&request.name)
        .ok_or_else(|| refuse(format!("Volume {} does not exist", request.name)))?;
    let peers: BTreeSet<PeerId> = volume.bricks().map(|m| m.peer).collect();
    let asked = peers
        .iter()
        .filter_map(|id| state.peers.get(id))
        .map(|peer| async move { (peer.id, ask(pool, peer, volume.id).await) });
    let runs = futures_util::future::join_all(asked).await.into_iter().collect();
    Ok(summary(&state, volume, &runs))
}

/// The same again and again, until the client has seen enough.
pub fn watch(pool: &Pool, request: VolumeRequest) -> Result<Watch, Status> {
    let (sender, receiver) = mpsc::channel(1);
    let pool = pool.clone();
    tokio::spawn(async move {
        loop {
            let reply = info(&pool, request.clone()).await;
            let last = reply.is_err();
            if sender.send(reply).await.is_err() || last {
                return;
            }
            tokio::select! {
                () = sender.closed() => return,
                () = tokio::time::sleep(WATCH_EVERY) => {}
            }
        }
    });
    Ok(Watch::new(receiver))
}

async fn ask(pool: &Pool, peer: &PeerState, volume: VolumeId) -> Option<Vec<HealRun>> {
    if peer.lost {
        return None;
    }
    if peer.id == pool.id() {
        return Some(pool.hooks()?.heal.heal_status(volume));
    }
    let volume_id = volume.as_bytes().to_vec().into();
    let mut request = tonic::Request::new(HealStatusRequest { volume_id });
    request.set_timeout(ASK_TIMEOUT);
    Some(pool.peer_client(peer).ok()?.heal_status(request).await.ok()?.into_inner().bricks)
}

fn summary(
    state: &PoolState,
    volume: &VolumeState,
    runs: &BTreeMap<PeerId, Option<Vec<HealRun>>>,
) -> HealInfoReply {
    let mut reply = HealInfoReply { volume: volume.name.clone(), ..HealInfoReply::default() };
    // One that is being replaced or taken out is pending until it has gone.
    reply.complete = volume.changes.is_empty()
        && volume.sets.iter().all(|s| s.in_sync().count() == s.members.len());
    for member in volume.bricks() {
        let known = runs.get(&member.peer).and_then(Option::as_ref);
        let run = known.and_then(|runs| {
            runs.iter().find(|r| BrickId::from_slice(&r.brick_id) == Some(member.brick))
        });
        // What a peer does not say may be pending; the pool's map alone may be an old one.
        reply.complete &= run.is_some() || !volume.started;
        let run = run.cloned().unwrap_or_default();
        reply.pending += run.pending;
        reply.bytes += run.bytes;
        reply.rate += run.rate;
        reply.eta_s = reply.eta_s.max(run.eta_s);
        let oldest = match (run.oldest.is_empty(), member.state) {
            _ if known.is_none() && volume.started => {
                "unknown: its peer does not answer".to_owned()
            }
            (false, _) | (_, MemberState::InSync) => run.oldest,
            _ => format!("the whole brick: {}", member.reason),
        };
        if reply.oldest.is_empty() {
            reply.oldest.clone_from(&oldest);
        }
        reply.bricks.push(HealBrick {
            host: host(state, member.peer),
            path: member.path.clone(),
            state: state_name(member.state).into(),
            known: known.is_some(),
            pending: run.pending,
            bytes: run.bytes,
            done_bytes: run.done_bytes,
            rate: run.rate,
            eta_s: run.eta_s,
            oldest,
        });
    }
    reply.complete &= reply.pending == 0;
    reply
}
