//! `pool recover`: first what would be done, then, confirmed, the doing.

use std::collections::BTreeSet;

use proto::PeerId;
use proto_grpc::control::{PeerName, PoolRecoverReply, PoolRecoverRequest};
use tonic::Status;

use super::refuse;
use crate::pool::Pool;
use crate::pool::state::PeerState;

pub async fn recover(pool: &Pool, request: PoolRecoverRequest) -> Result<PoolRecoverReply, Status> {
    let plan = pool.recovery_plan().await.map_err(refuse)?;
    let state = pool.state();
    let own = state.peers.get(&pool.id()).into_iter();
    let reply = PoolRecoverReply {
        lost: plan.lost.iter().map(name).collect(),
        staying: own.chain(&plan.staying).map(name).collect(),
        older: plan.older,
        nothing: plan.nothing,
        done: false,
    };
    if request.lost.is_empty() {
        return Ok(reply);
    }
    let lost: Option<BTreeSet<PeerId>> = request.lost.iter().map(|id| id.parse().ok()).collect();
    let lost = lost.ok_or_else(|| refuse("a lost peer is named by its UUID"))?;
    // Not cut off in the middle when the caller goes away.
    let (pool, accept_loss) = (pool.clone(), request.accept_loss);
    let done = tokio::spawn(async move { pool.recover(&lost, accept_loss).await });
    done.await.map_err(|e| Status::internal(e.to_string()))?.map_err(refuse)?;
    Ok(PoolRecoverReply { done: true, ..reply })
}

fn name(peer: &PeerState) -> PeerName {
    PeerName { uuid: peer.id.to_string(), hostname: peer.host.clone() }
}
