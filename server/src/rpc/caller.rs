//! Who calls, and what that allows.

use proto::PeerId;
use proto_grpc::credential::{AUTHORIZATION, Kind, Shown};
use sha2::{Digest, Sha256};
use tonic::{Request, Status};

use crate::pool::ticket::{Holder, Ticket};
use crate::pool::tls::Connection;
use crate::pool::token::equal;
use crate::pool::{Pool, files};

/// The message by which a peer learns that it was detached while it was away.
pub const DETACHED: &str = "this peer was detached from the pool";

/// Who asks for tickets and maps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    /// Root of this peer's machine.
    Local,
    Client(String),
    /// A mount that holds a ticket already: its own session and volume are open to it.
    Mount(Ticket),
}

pub fn connection<T>(request: &Request<T>) -> Connection {
    request.extensions().get::<Connection>().cloned().unwrap_or_default()
}

/// A peer of our pool, by its certificate.
///
/// # Errors
/// No certificate of the pool, or one of a detached peer.
pub fn peer<T>(pool: &Pool, request: &Request<T>) -> Result<PeerId, Status> {
    let (id, node) = connection(request)
        .peer
        .ok_or_else(|| Status::unauthenticated("only peers of the pool may ask this"))?;
    // Unknown here but not removed: this peer's log is behind, the CA's word counts.
    match pool.state().removed_nodes.contains(&node) {
        true => Err(Status::permission_denied(DETACHED)),
        false => Ok(id),
    }
}

/// Whoever may administer the pool: root of this peer's machine.
///
/// # Errors
/// Anybody else.
pub fn admin<T>(pool: &Pool, request: &Request<T>) -> Result<(), Status> {
    match caller(pool, request)? {
        Caller::Local => Ok(()),
        Caller::Client(name) => Err(Status::permission_denied(format!(
            "client {name} may mount volumes but not administer the pool"
        ))),
        Caller::Mount(_) => Err(Status::permission_denied("a ticket opens one volume only")),
    }
}

/// Whoever may mount.
///
/// # Errors
/// No credential, or a wrong one.
pub fn caller<T>(pool: &Pool, request: &Request<T>) -> Result<Caller, Status> {
    let header = request.metadata().get(AUTHORIZATION).and_then(|v| v.to_str().ok());
    let wrong = || Status::unauthenticated("the credential is not valid for this pool");
    let shown = header.map(|h| Shown::parse(h).ok_or_else(wrong)).transpose()?;
    let (kind, name, secret) = match shown {
        // Also on the local socket: a mount asks for its own session.
        Some(Shown::Ticket(bytes)) => return mount(pool, &bytes),
        _ if connection(request).local => return Ok(Caller::Local),
        Some(Shown::Token { kind, name, secret }) => (kind, name, secret),
        None => {
            return Err(Status::unauthenticated(
                "a credential is needed; 'brick client add NAME' on a peer makes a token",
            ));
        }
    };
    match kind {
        Kind::Local if pool.is_local_secret(&secret) => Ok(Caller::Local),
        Kind::Local => Err(wrong()),
        Kind::Client => {
            let hash: [u8; 32] = Sha256::digest(secret).into();
            let state = pool.state();
            let known = state.clients.get(&name).is_some_and(|c| equal(&c.hash, &hash));
            known.then_some(Caller::Client(name)).ok_or_else(wrong)
        }
    }
}

/// A ticket is as good as whoever it was made for.
fn mount(pool: &Pool, bytes: &[u8]) -> Result<Caller, Status> {
    let key = pool.ticket_key().ok_or_else(|| Status::unavailable("no pool state yet"))?;
    let ticket = Ticket::verify(bytes, &key, files::wall_s())
        .map_err(|error| Status::unauthenticated(error.to_string()))?;
    let state = pool.state();
    let known = match &ticket.holder {
        Holder::Peer(peer) => state.trusts(*peer),
        Holder::Client(name) => state.clients.contains_key(name),
    };
    match known {
        true => Ok(Caller::Mount(ticket)),
        false => Err(Status::unauthenticated("the ticket's holder was removed from the pool")),
    }
}
