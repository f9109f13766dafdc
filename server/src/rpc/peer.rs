//! What peers of one pool ask of each other.

use proto::VolumeId;
use proto_grpc::peer::pool_server::Pool as PoolService;
use proto_grpc::peer::{
    Blob, BrickStatusReply, BrickStatusRequest, Empty, HealStatusReply, HealStatusRequest,
    PingReply, PingRequest, PrepareBrickRequest,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tonic::{Request, Response, Status};

use super::caller;
use crate::pool::{Hooks, Pool, disk};

pub struct Service(pub Pool);

fn read<T: DeserializeOwned>(data: &[u8]) -> Result<T, Status> {
    serde_json::from_slice(data).map_err(|e| Status::invalid_argument(e.to_string()))
}

fn blob<T: Serialize>(value: &T) -> Result<Response<Blob>, Status> {
    let data = serde_json::to_vec(value).map_err(|e| Status::internal(e.to_string()))?;
    Ok(Response::new(Blob { data: data.into() }))
}

fn volume(id: &[u8]) -> Result<VolumeId, Status> {
    VolumeId::from_slice(id).ok_or_else(|| Status::invalid_argument("volume id"))
}

impl Service {
    fn hooks(&self) -> Result<&Hooks, Status> {
        self.0.hooks().ok_or_else(|| Status::unavailable("the daemon is starting"))
    }
}

#[tonic::async_trait]
impl PoolService for Service {
    async fn propose(&self, request: Request<Blob>) -> Result<Response<Blob>, Status> {
        caller::peer(&self.0, &request)?;
        let command = read(&request.get_ref().data)?;
        let reply = self.0.propose_here(command).await;
        match reply.map_err(|e| Status::unavailable(e.to_string()))? {
            Ok(reply) => blob(&reply),
            Err(_) => Err(Status::failed_precondition("not the leader")),
        }
    }

    async fn ping(&self, request: Request<PingRequest>) -> Result<Response<PingReply>, Status> {
        caller::peer(&self.0, &request)?;
        Ok(Response::new(PingReply {
            peer_id: self.0.id().as_bytes().to_vec().into(),
            applied: self.0.state().applied,
            leader: self.0.leader().map_or(0, |l| l.node),
            last_term: self.0.log_end().map_or(0, |end| end.0),
            last_index: self.0.log_end().map_or(0, |end| end.1),
        }))
    }

    async fn prepare_brick(
        &self,
        request: Request<PrepareBrickRequest>,
    ) -> Result<Response<Empty>, Status> {
        caller::peer(&self.0, &request)?;
        let request = request.into_inner();
        let spec = read(&request.spec)?;
        let prepared = self.hooks()?.bricks.prepare(&spec, request.force).await;
        prepared.map_err(Status::failed_precondition)?;
        Ok(Response::new(Empty {}))
    }

    async fn abandon_brick(&self, request: Request<Blob>) -> Result<Response<Empty>, Status> {
        caller::peer(&self.0, &request)?;
        self.hooks()?.bricks.abandon(&read(&request.get_ref().data)?).await;
        Ok(Response::new(Empty {}))
    }

    async fn brick_status(
        &self,
        request: Request<BrickStatusRequest>,
    ) -> Result<Response<BrickStatusReply>, Status> {
        caller::peer(&self.0, &request)?;
        let request = request.get_ref();
        let volume = volume(&request.volume_id)?;
        let mut bricks = self.hooks()?.bricks.status(volume);
        if request.detail {
            disk::describe(&self.0, volume, &mut bricks).await;
        }
        Ok(Response::new(BrickStatusReply { bricks }))
    }

    async fn heal_status(
        &self,
        request: Request<HealStatusRequest>,
    ) -> Result<Response<HealStatusReply>, Status> {
        caller::peer(&self.0, &request)?;
        let bricks = self.hooks()?.heal.heal_status(volume(&request.get_ref().volume_id)?);
        Ok(Response::new(HealStatusReply { bricks }))
    }

    async fn report(&self, request: Request<Blob>) -> Result<Response<Empty>, Status> {
        caller::peer(&self.0, &request)?;
        self.0.take_report(read(&request.get_ref().data)?);
        Ok(Response::new(Empty {}))
    }

    async fn ask(&self, request: Request<Blob>) -> Result<Response<Blob>, Status> {
        caller::peer(&self.0, &request)?;
        blob(&self.0.answer(&read(&request.get_ref().data)?).await)
    }

    async fn detached(&self, request: Request<Empty>) -> Result<Response<Empty>, Status> {
        caller::peer(&self.0, &request)?;
        self.0.leave().await;
        Ok(Response::new(Empty {}))
    }
}
