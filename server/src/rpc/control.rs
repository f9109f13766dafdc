//! Administration: one file per family of commands, one trait between them and gRPC.
//!
//! Every call needs root of this peer's machine. Errors are one line with the next step; the
//! CLI puts the command's name in front.

mod clients;
mod heal;
mod hosts;
mod peers;
mod recover;
mod volume_bricks;
mod volume_change;
mod volume_create;
mod volume_options;
mod volume_show;

use proto_grpc::control::control_server::Control;
use proto_grpc::control::{
    ClientAddReply, ClientListReply, ClientRequest, HealInfoReply, HealSourceRequest, Message,
    Nothing, PeerAcceptRequest, PeerCanStopReply, PeerCanStopRequest, PeerDetachRequest,
    PeerProbeReply, PeerProbeRequest, PeersReply, PoolRecoverReply, PoolRecoverRequest,
    VolumeAddBrickRequest, VolumeCreateRequest, VolumeForceRequest, VolumeGetReply,
    VolumeGetRequest, VolumeInfoReply, VolumeRemoveBrickRequest, VolumeReplaceBrickRequest,
    VolumeRequest, VolumeResetBrickRequest, VolumeSetRequest, VolumeStatusReply,
    VolumeStatusRequest, WhoamiReply,
};
use tonic::{Request, Response, Status};

use super::caller;
use crate::pool::command::Command;
use crate::pool::{Pool, PoolError};

pub struct Service(pub Pool);

/// A refusal, in one line.
fn refuse(why: impl std::fmt::Display) -> Status {
    Status::failed_precondition(why.to_string())
}

fn pool_error(error: &PoolError) -> Status {
    match error {
        PoolError::NotPooled => refuse(error),
        // The code by which gRPC says just this.
        PoolError::Undecided => Status::deadline_exceeded(error.to_string()),
        PoolError::NoMajority | PoolError::Internal(_) => Status::unavailable(error.to_string()),
    }
}

/// Proposes and turns a refusal into the call's error.
async fn commit(pool: &Pool, command: Command) -> Result<u64, Status> {
    let reply = pool.propose(command).await.map_err(|e| pool_error(&e))?;
    reply.done().map_err(refuse)
}

fn message(text: impl Into<String>) -> Message {
    Message { message: text.into() }
}

/// The same three steps for every call: check the caller, call the handler, wrap the reply.
macro_rules! calls {
    ($($name:ident($request:ty) -> $reply:ty = $handler:path;)*) => {
        #[tonic::async_trait]
        impl Control for Service {
            $(async fn $name(
                &self,
                request: Request<$request>,
            ) -> Result<Response<$reply>, Status> {
                caller::admin(&self.0, &request)?;
                $handler(&self.0, request.into_inner()).await.map(Response::new)
            })*

            type HealWatchStream = heal::Watch;

            async fn heal_watch(
                &self,
                request: Request<VolumeRequest>,
            ) -> Result<Response<heal::Watch>, Status> {
                caller::admin(&self.0, &request)?;
                heal::watch(&self.0, request.into_inner()).map(Response::new)
            }
        }
    };
}

calls! {
    whoami(Nothing) -> WhoamiReply = peers::whoami;
    peers(Nothing) -> PeersReply = peers::list;
    pool_recover(PoolRecoverRequest) -> PoolRecoverReply = recover::recover;
    peer_probe(PeerProbeRequest) -> PeerProbeReply = peers::probe;
    peer_accept(PeerAcceptRequest) -> Message = peers::accept;
    peer_detach(PeerDetachRequest) -> Message = peers::detach;
    peer_can_stop(PeerCanStopRequest) -> PeerCanStopReply = peers::can_stop;
    volume_create(VolumeCreateRequest) -> Message = volume_create::create;
    volume_start(VolumeForceRequest) -> Message = volume_change::start;
    volume_stop(VolumeForceRequest) -> Message = volume_change::stop;
    volume_delete(VolumeRequest) -> Message = volume_change::delete;
    volume_info(VolumeRequest) -> VolumeInfoReply = volume_show::info;
    volume_status(VolumeStatusRequest) -> VolumeStatusReply = volume_show::status;
    volume_set(VolumeSetRequest) -> Message = volume_options::set;
    volume_get(VolumeGetRequest) -> VolumeGetReply = volume_options::get;
    volume_reset(VolumeGetRequest) -> Message = volume_options::reset;
    volume_replace_brick(VolumeReplaceBrickRequest) -> Message = volume_bricks::replace;
    volume_reset_brick(VolumeResetBrickRequest) -> Message = volume_bricks::reset;
    volume_add_brick(VolumeAddBrickRequest) -> Message = volume_bricks::add;
    volume_remove_brick(VolumeRemoveBrickRequest) -> Message = volume_bricks::remove;
    heal_source(HealSourceRequest) -> Message = volume_bricks::trust;
    heal_info(VolumeRequest) -> HealInfoReply = heal::info;
    client_add(ClientRequest) -> ClientAddReply = clients::add;
    client_list(Nothing) -> ClientListReply = clients::list;
    client_remove(ClientRequest) -> Message = clients::remove;
}
