//! The control plane's gRPC services and how to reach them.
//!
//! Purpose: generated messages, clients and servers ([`peer`], [`control`]), the credential
//! that opens a connection ([`credential`]), and the connection itself ([`connect`]).
//! Assumes: a tokio runtime. Promises: no connection to a server that the credential does not
//! name. Deliberately does not: decide who may do what; the server does.

pub mod connect;
pub mod credential;
pub mod socket;

pub use credential::Credential;

/// Administration, and what mounts ask of the pool.
#[allow(clippy::all, clippy::pedantic)]
pub mod control {
    tonic::include_proto!("brickwork.control.v1");
}

/// What peers say to each other.
#[allow(clippy::all, clippy::pedantic)]
pub mod peer {
    tonic::include_proto!("brickwork.peer.v1");
}
