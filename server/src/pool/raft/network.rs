//! Raft's messages over the pool's channels.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use openraft::RPCTypes;
use openraft::error::{
    InstallSnapshotError, NetworkError, RPCError, RaftError, RemoteError, Timeout, Unreachable,
};
use openraft::network::{Backoff, RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse,
    VoteRequest, VoteResponse,
};
use proto_grpc::peer::Blob;
use proto_grpc::peer::raft_client::RaftClient;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tonic::transport::Channel;

use super::{Raft, RaftPeer, Types};
use crate::pool::peers::{Channels, Lane};
use crate::pool::published::Published;

/// A whole state in one message; far above any real one.
pub const MESSAGE_BYTES_MAX: usize = 64 << 20;
/// How long raft leaves an unreachable peer alone. Short, because a peer that is back should
/// follow within a fraction of an election.
const RETRY_AFTER: Duration = Duration::from_millis(100);

#[derive(Clone)]
pub struct Network {
    pub channels: Arc<Channels>,
    pub published: Arc<Published>,
    pub node: u64,
}

pub struct Link {
    network: Network,
    target: u64,
    peer: RaftPeer,
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Link;

    async fn new_client(&mut self, target: u64, peer: &RaftPeer) -> Link {
        Link { network: self.clone(), target, peer: peer.clone() }
    }
}

type Rpc<E> = RPCError<u64, RaftPeer, E>;

impl Link {
    fn client(&self) -> Result<RaftClient<Channel>, tonic::Status> {
        let state = self.network.published.state();
        let (host, port) = match state.peer_by_node(self.target) {
            Some(known) => (known.host.clone(), known.control_port),
            None => (self.peer.host.clone(), self.peer.control_port),
        };
        let channel = self.network.channels.get(Lane::Raft, self.peer.id, &host, port)?;
        Ok(RaftClient::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX))
    }

    /// Sends `request` with `call`, whose answer is a JSON `Result` of the other raft.
    async fn send<Q, A, E, F>(
        &self,
        request: &Q,
        kind: RPCTypes,
        ttl: Duration,
        call: impl FnOnce(RaftClient<Channel>, Blob) -> F,
    ) -> Result<A, Rpc<E>>
    where
        Q: Serialize,
        A: DeserializeOwned,
        E: std::error::Error + DeserializeOwned,
        F: Future<Output = Result<tonic::Response<Blob>, tonic::Status>>,
    {
        let data = serde_json::to_vec(request).map_err(|e| NetworkError::new(&e))?;
        let client = self.client().map_err(|e| Unreachable::new(&e))?;
        let answer = tokio::time::timeout(ttl, call(client, Blob { data: data.into() }));
        let Ok(answer) = answer.await else {
            let (id, target, timeout) = (self.network.node, self.target, ttl);
            return Err(RPCError::Timeout(Timeout { action: kind, id, target, timeout }));
        };
        let blob = answer.inspect_err(|e| self.network.channels.refused(e));
        let blob = blob.map_err(|e| Unreachable::new(&e))?.into_inner();
        let answer: Result<A, E> =
            serde_json::from_slice(&blob.data).map_err(|e| NetworkError::new(&e))?;
        answer.map_err(|e| RemoteError::new_with_node(self.target, self.peer.clone(), e).into())
    }
}

impl RaftNetwork<Types> for Link {
    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<u64>, Rpc<RaftError<u64>>> {
        let call = |mut c: RaftClient<Channel>, b| async move { c.append(b).await };
        self.send(&request, RPCTypes::AppendEntries, option.hard_ttl(), call).await
    }

    async fn install_snapshot(
        &mut self,
        request: InstallSnapshotRequest<Types>,
        option: RPCOption,
    ) -> Result<InstallSnapshotResponse<u64>, Rpc<RaftError<u64, InstallSnapshotError>>> {
        let call = |mut c: RaftClient<Channel>, b| async move { c.snapshot(b).await };
        self.send(&request, RPCTypes::InstallSnapshot, option.hard_ttl(), call).await
    }

    async fn vote(
        &mut self,
        request: VoteRequest<u64>,
        option: RPCOption,
    ) -> Result<VoteResponse<u64>, Rpc<RaftError<u64>>> {
        let call = |mut c: RaftClient<Channel>, b| async move { c.vote(b).await };
        self.send(&request, RPCTypes::Vote, option.hard_ttl(), call).await
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(RETRY_AFTER))
    }
}

/// The answering side: one message of each kind, JSON in, JSON `Result` out.
///
/// # Errors
/// The message cannot be read.
pub async fn answer(raft: &Raft, kind: RPCTypes, data: &[u8]) -> serde_json::Result<Vec<u8>> {
    match kind {
        RPCTypes::AppendEntries => {
            serde_json::to_vec(&raft.append_entries(serde_json::from_slice(data)?).await)
        }
        RPCTypes::Vote => serde_json::to_vec(&raft.vote(serde_json::from_slice(data)?).await),
        RPCTypes::InstallSnapshot => {
            serde_json::to_vec(&raft.install_snapshot(serde_json::from_slice(data)?).await)
        }
    }
}
