//! `volume start | stop | delete`.

use std::time::Duration;

use proto::Epoch;
use proto_grpc::control::{Message, VolumeForceRequest, VolumeRequest};
use tonic::Status;

use super::{commit, message};
use crate::pool::Pool;
use crate::pool::command::Command;

/// Bricks start within a fraction of a second; a first start waits 10 s for a missing one.
const SERVING_TIMEOUT: Duration = Duration::from_secs(12);

pub async fn start(pool: &Pool, request: VolumeForceRequest) -> Result<Message, Status> {
    let VolumeForceRequest { name, force } = request;
    commit(pool, Command::StartVolume { name: name.clone(), force }).await?;
    Ok(message(match serving(pool, &name).await {
        true => "success",
        false => "success, but not all bricks serve yet; check 'brick volume status'",
    }))
}

/// Waits until every set has begun its first epoch, so that a mount right after succeeds.
async fn serving(pool: &Pool, name: &str) -> bool {
    let mut state = pool.watch_state();
    let serving = state.wait_for(|s| {
        s.volume_by_name(name).is_none_or(|v| v.sets.iter().all(|set| set.epoch != Epoch::NONE))
    });
    matches!(tokio::time::timeout(SERVING_TIMEOUT, serving).await, Ok(Ok(_)))
}

pub async fn stop(pool: &Pool, request: VolumeForceRequest) -> Result<Message, Status> {
    let VolumeForceRequest { name, force } = request;
    commit(pool, Command::StopVolume { name, force }).await?;
    Ok(message("success"))
}

pub async fn delete(pool: &Pool, request: VolumeRequest) -> Result<Message, Status> {
    commit(pool, Command::DeleteVolume { name: request.name }).await?;
    Ok(message("success"))
}
