//! `client add | list | remove`: tokens with which other machines mount.

use proto_grpc::Credential;
use proto_grpc::connect::fingerprint;
use proto_grpc::control::{
    Client, ClientAddReply, ClientListReply, ClientRequest, Message, Nothing,
};
use proto_grpc::credential::Kind;
use sha2::{Digest, Sha256};
use tonic::Status;

use super::{commit, message, refuse};
use crate::pool::command::Command;
use crate::pool::{Pool, PoolError, files, identity};

pub async fn add(pool: &Pool, request: ClientRequest) -> Result<ClientAddReply, Status> {
    let state = pool.state();
    let secrets = state.secrets.as_ref().ok_or_else(|| refuse(PoolError::NotPooled))?;
    let internal = |e: anyhow::Error| Status::internal(e.to_string());
    let ca = identity::certificate_of(&secrets.ca_pem).map_err(internal)?;
    let secret = files::random::<32>().map_err(internal)?;
    let add = Command::AddClient {
        name: request.name.clone(),
        // Of 32 random bytes a plain hash is as good as a slow one: there is nothing to guess.
        hash: Sha256::digest(secret).into(),
        created_s: files::wall_s(),
    };
    commit(pool, add).await?;
    let name = request.name;
    let token =
        Credential { kind: Kind::Client, name: name.clone(), secret, pin: fingerprint(&ca) };
    Ok(ClientAddReply { name, token: token.to_text() })
}

pub async fn list(pool: &Pool, _: Nothing) -> Result<ClientListReply, Status> {
    let clients = pool
        .state()
        .clients
        .iter()
        .map(|(name, client)| Client { name: name.clone(), created_s: client.created_s })
        .collect();
    Ok(ClientListReply { clients })
}

pub async fn remove(pool: &Pool, request: ClientRequest) -> Result<Message, Status> {
    commit(pool, Command::RemoveClient { name: request.name.clone() }).await?;
    Ok(message(format!(
        "client {} removed; its tickets open no new session from now on",
        request.name
    )))
}
