//! `peer probe | accept | detach | status | can-stop`, `pool list`.

use std::collections::BTreeSet;
use std::time::Duration;

use proto::map::{MemberState, SetMap};
use proto::{BrickId, PeerId};
use proto_grpc::connect::fingerprint;
use proto_grpc::control::{
    Message, Nothing, Peer, PeerAcceptRequest, PeerCanStopReply, PeerCanStopRequest,
    PeerDetachRequest, PeerProbeReply, PeerProbeRequest, PeersReply, VolumeRequest, WhoamiReply,
};
use proto_grpc::peer::Empty;
use proto_rules::set::{CannotStop, can_stop as set_can_stop};
use tonic::Status;

use super::{commit, heal, hosts, message, refuse};
use crate::pool::command::Command;
use crate::pool::join::{Probed, hex, unhex};
use crate::pool::state::{PeerState, PoolState};
use crate::pool::{Pool, PoolError, identity};

/// For raft to drop a detached peer.
const DETACH_TIMEOUT: Duration = Duration::from_secs(10);

pub async fn whoami(pool: &Pool, _: Nothing) -> Result<WhoamiReply, Status> {
    let member = pool.membership();
    let ca = member.as_ref().and_then(|m| identity::certificate_of(&m.ca_pem).ok());
    Ok(WhoamiReply {
        uuid: pool.id().to_string(),
        host: member.as_ref().map(|m| m.host.clone()).unwrap_or_default(),
        fingerprint: hex(&pool.tls().fingerprint()),
        pool_id: member.map(|m| m.pool_id.to_string()).unwrap_or_default(),
        pool_fingerprint: ca.map(|ca| hex(&fingerprint(&ca))).unwrap_or_default(),
        version: env!("CARGO_PKG_VERSION").into(),
        witness: pool.config().witness,
    })
}

pub async fn list(pool: &Pool, _: Nothing) -> Result<PeersReply, Status> {
    let state = pool.state();
    let (leader, voters) = (pool.leader().map(|l| l.id), pool.voters());
    let peers = state.peers.values().map(|peer| async {
        Peer {
            uuid: peer.id.to_string(),
            hostname: peer.host.clone(),
            state: if peer.lost { "Peer lost" } else { "Peer in Cluster" }.into(),
            connected: pool.answers(peer).await,
            local: peer.id == pool.id(),
            leader: leader == Some(peer.id),
            voter: voters.contains(&peer.node),
            witness: peer.witness,
        }
    });
    let peers = futures_util::future::join_all(peers).await;
    let pool_id = state.secrets.as_ref().map(|s| s.pool_id.to_string()).unwrap_or_default();
    Ok(PeersReply { pool_id, peers })
}

pub async fn probe(pool: &Pool, request: PeerProbeRequest) -> Result<PeerProbeReply, Status> {
    let host = request.host.trim();
    if !hosts::plausible(host) {
        return Err(refuse(format!("'{host}' is not a host name or address")));
    }
    let expected = match request.fingerprint.as_str() {
        "" => None,
        text => Some(unhex(text).ok_or_else(|| refuse("a fingerprint has 64 hexadecimal digits"))?),
    };
    let probed = pool.probe(host, expected, request.reinstalled).await.map_err(|e| match e
        .downcast_ref::<PoolError>()
    {
        Some(error) => super::pool_error(error),
        None => refuse(format!("{e:#}")),
    })?;
    let port = pool.config().control_port;
    let (text, peer, fingerprint) = match probed {
        Probed::Added { peer, fingerprint } => ("success".into(), Some(peer), hex(&fingerprint)),
        Probed::Known(peer) => {
            (format!("Host {host} port {port} already in peer list"), Some(peer), String::new())
        }
        Probed::Myself => ("Probe on localhost not needed".into(), None, String::new()),
    };
    let uuid = peer.as_ref().map_or_else(|| pool.id(), |p| p.id);
    Ok(PeerProbeReply { message: text, uuid: uuid.to_string(), hostname: host.into(), fingerprint })
}

pub async fn accept(pool: &Pool, request: PeerAcceptRequest) -> Result<Message, Status> {
    let ca = unhex(request.fingerprint.trim()).ok_or_else(|| {
        refuse("a fingerprint has 64 hexadecimal digits; 'brick pool info' on the pool shows it")
    })?;
    pool.accept(ca).map_err(refuse)?;
    Ok(message("success; now probe this peer from the pool"))
}

pub async fn detach(pool: &Pool, request: PeerDetachRequest) -> Result<Message, Status> {
    let (state, host) = (pool.state(), request.host.as_str());
    let peer = hosts::find(pool, &state, host).await;
    let peer = peer.ok_or_else(|| refuse(format!("{host} is not part of cluster")))?;
    if peer.id == pool.id() {
        return Err(refuse(format!("{host} is localhost; detach it from another peer")));
    }
    let there = pool.answers(&peer).await;
    if !there && !request.force && !peer.lost {
        return Err(refuse(
            "the peer is probably down. Check with 'brick peer status', or use 'force'",
        ));
    }
    commit(pool, Command::RemovePeer { peer: peer.id }).await?;
    let dropped = raft_dropped(pool, peer.node).await;
    // Not before: while its vote counts, the pool may need it to agree to its own removal.
    if there && dropped {
        wipe(pool, &peer).await;
    }
    Ok(message("success"))
}

async fn raft_dropped(pool: &Pool, node: u64) -> bool {
    let Ok(raft) = pool.raft() else { return false };
    let mut metrics = raft.metrics();
    let dropped = metrics.wait_for(|m| m.membership_config.membership().get_node(&node).is_none());
    matches!(tokio::time::timeout(DETACH_TIMEOUT, dropped).await, Ok(Ok(_)))
}

async fn wipe(pool: &Pool, peer: &PeerState) {
    let Ok(mut client) = pool.peer_client(peer) else { return };
    let mut request = tonic::Request::new(Empty {});
    request.set_timeout(DETACH_TIMEOUT);
    if let Err(error) = client.detached(request).await {
        tracing::warn!(peer = peer.host, error = error.message(), "detached peer not told");
    }
}

pub async fn can_stop(
    pool: &Pool,
    request: PeerCanStopRequest,
) -> Result<PeerCanStopReply, Status> {
    let (state, host) = (pool.state(), request.host.as_str());
    let peer = hosts::find(pool, &state, host).await;
    let peer = peer.ok_or_else(|| refuse(format!("{host} is not part of cluster")))?;
    let others = state.living().filter(|p| p.id != peer.id);
    let alive = others.map(|p| async move { pool.answers(p).await.then_some(p.node) });
    let alive: BTreeSet<u64> =
        futures_util::future::join_all(alive).await.into_iter().flatten().collect();
    let doubtful = not_current(pool, &state).await?;
    let reasons = reasons_to_stay(&state, &peer, &pool.voters(), &alive, &doubtful);
    Ok(PeerCanStopReply { can_stop: reasons.is_empty(), reasons })
}

/// Bricks that do not say of themselves that they are current. The map that this peer has may be
/// an old one; and copies that differ are not there when they are needed.
async fn not_current(pool: &Pool, state: &PoolState) -> Result<BTreeSet<BrickId>, Status> {
    let mut doubtful = BTreeSet::new();
    for volume in state.volumes.values().filter(|v| v.started) {
        let info = heal::info(pool, VolumeRequest { name: volume.name.clone() }).await?;
        let told = volume.bricks().zip(&info.bricks);
        doubtful.extend(told.filter(|(_, b)| !b.known || b.pending > 0).map(|(m, _)| m.brick));
    }
    Ok(doubtful)
}

/// The set as it would be if the other peers' doubtful bricks were not in-sync.
fn at_worst(set: &SetMap, peer: PeerId, doubtful: &BTreeSet<BrickId>) -> SetMap {
    let mut set = set.clone();
    for member in &mut set.members {
        let doubted = member.peer != peer && doubtful.contains(&member.brick);
        if doubted && member.state == MemberState::InSync {
            member.state = MemberState::Syncing;
        }
    }
    set
}

/// Why `peer` should not stop now; `alive`: nodes of the other peers that answer.
fn reasons_to_stay(
    state: &PoolState,
    peer: &PeerState,
    voters: &[u64],
    alive: &BTreeSet<u64>,
    doubtful: &BTreeSet<BrickId>,
) -> Vec<String> {
    let mut reasons = Vec::new();
    for volume in state.volumes.values().filter(|v| v.started) {
        let needed = volume.needed();
        for set in &volume.sets {
            let name = format!("volume {} set {}", volume.name, set.id);
            match set_can_stop(&at_worst(set, peer.id, doubtful), peer.id, needed) {
                Ok(()) => {}
                Err(CannotStop::LastInSync) => {
                    reasons.push(format!("{name}: it holds the only in-sync copy"));
                }
                Err(CannotStop::TooFew { left, needed }) => reasons.push(format!(
                    "{name}: {left} in-sync members would be left, changes need {needed}"
                )),
            }
        }
    }
    let left = voters.iter().filter(|v| **v != peer.node && alive.contains(v)).count();
    if voters.contains(&peer.node) && left <= voters.len() / 2 && state.living().count() > 1 {
        reasons.push(format!(
            "the pool would have {left} of {} voters, which is no majority",
            voters.len()
        ));
    }
    reasons
}

#[cfg(test)]
mod tests {
    use proto::map::MemberMap;
    use proto::{Epoch, Incarnation, SetId};

    use super::*;

    /// A peer that has just started still stands in an old map as in-sync.
    #[test]
    fn a_brick_that_is_not_current_does_not_count_for_the_others() {
        let peers = [(); 3].map(|()| PeerId::random());
        let member = |peer: PeerId| MemberMap {
            brick: BrickId::random(),
            peer,
            path: "/b".into(),
            state: MemberState::InSync,
            incarnation: Incarnation(1),
            reason: String::new(),
        };
        let members = peers.map(member).to_vec();
        let set = SetMap { id: SetId(0), epoch: Epoch(5), lead: None, members };
        let doubtful = BTreeSet::from([set.members[2].brick]);
        let worst = |peer| set_can_stop(&at_worst(&set, peer, &doubtful), peer, 2);
        assert_eq!(worst(peers[0]), Err(CannotStop::TooFew { left: 1, needed: 2 }));
        assert_eq!(worst(peers[2]), Ok(()), "the one that catches up may stop");
        assert_eq!(set_can_stop(&set, peers[0], 2), Ok(()));
    }
}
