//! The join handshake: the one service that answers strangers.

use std::sync::Arc;

use proto_grpc::peer::join_server::Join;
use proto_grpc::peer::{Empty, HelloReply, HelloRequest, ProveReply, ProveRequest, WelcomeRequest};
use tonic::{Request, Response, Status};

use super::caller::connection;
use crate::pool::Pool;
use crate::pool::join::Handshakes;

pub struct Service {
    pub pool: Pool,
    pub handshakes: Arc<Handshakes>,
}

#[tonic::async_trait]
impl Join for Service {
    async fn hello(&self, request: Request<HelloRequest>) -> Result<Response<HelloReply>, Status> {
        let connection = connection(&request);
        self.handshakes.hello(&self.pool, &connection, request.get_ref()).map(Response::new)
    }

    async fn prove(&self, request: Request<ProveRequest>) -> Result<Response<ProveReply>, Status> {
        let connection = connection(&request);
        self.handshakes.prove(&self.pool, &connection, request.get_ref()).map(Response::new)
    }

    async fn welcome(&self, request: Request<WelcomeRequest>) -> Result<Response<Empty>, Status> {
        let connection = connection(&request);
        self.handshakes.welcome(&self.pool, &connection, request.get_ref()).await?;
        Ok(Response::new(Empty {}))
    }
}
