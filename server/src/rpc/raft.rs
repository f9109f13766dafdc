//! Raft's messages, from peers only.

use openraft::RPCTypes;
use proto_grpc::peer::Blob;
use proto_grpc::peer::raft_server::Raft;
use tonic::{Request, Response, Status};

use super::caller;
use crate::pool::Pool;
use crate::pool::raft::network;

pub struct Service(pub Pool);

impl Service {
    async fn answer(
        &self,
        request: Request<Blob>,
        kind: RPCTypes,
    ) -> Result<Response<Blob>, Status> {
        caller::peer(&self.0, &request)?;
        let raft = self.0.raft().map_err(|e| Status::unavailable(e.to_string()))?;
        let answer = network::answer(&raft, kind, &request.get_ref().data).await;
        let data = answer.map_err(|e| Status::invalid_argument(e.to_string()))?.into();
        Ok(Response::new(Blob { data }))
    }
}

#[tonic::async_trait]
impl Raft for Service {
    async fn append(&self, request: Request<Blob>) -> Result<Response<Blob>, Status> {
        self.answer(request, RPCTypes::AppendEntries).await
    }

    async fn vote(&self, request: Request<Blob>) -> Result<Response<Blob>, Status> {
        self.answer(request, RPCTypes::Vote).await
    }

    async fn snapshot(&self, request: Request<Blob>) -> Result<Response<Blob>, Status> {
        self.answer(request, RPCTypes::InstallSnapshot).await
    }
}
