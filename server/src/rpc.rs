//! The control port: every gRPC service of a peer, over TLS and over the local socket.
//!
//! Handlers read parse → check → act → reply and see only [`Pool`](crate::pool::Pool). Who
//! calls is worked out in [`caller`]; each service checks it first.

pub mod caller;
pub mod control;
mod join;
mod peer;
mod raft;
mod volume;

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use anyhow::Context;
use proto_grpc::control::control_server::ControlServer;
use proto_grpc::control::volume_server::VolumeServer;
use proto_grpc::peer::join_server::JoinServer;
use proto_grpc::peer::pool_server::PoolServer;
use proto_grpc::peer::raft_server::RaftServer;
use tonic::transport::Server;
use tonic::transport::server::Router;

use crate::daemon::port_in_use;
use crate::pool::Pool;
use crate::pool::raft::network::MESSAGE_BYTES_MAX;
use crate::pool::tls;

/// Requests of one connection that are worked on at a time.
const REQUESTS_MAX: usize = 256;

/// Opens the control port and the local socket and serves both.
///
/// # Errors
/// The port or the socket cannot be used.
pub async fn serve(pool: &Pool) -> anyhow::Result<()> {
    let config = pool.config();
    let address = SocketAddr::new(config.listen, config.control_port);
    let tcp = tokio::net::TcpListener::bind(address).await;
    let tcp = tcp.with_context(|| port_in_use("control", &address))?;
    let unix = local_socket(&config.control_socket())?;
    run(router(pool).serve_with_incoming(tls::listen_tls(tcp, pool.tls().clone())));
    run(router(pool).serve_with_incoming(tls::listen_unix(unix)));
    tracing::info!(%address, "control port open");
    Ok(())
}

fn run(server: impl Future<Output = Result<(), tonic::transport::Error>> + Send + 'static) {
    tokio::spawn(async move {
        if let Err(error) = server.await {
            tracing::error!(%error, "control port");
        }
    });
}

fn router(pool: &Pool) -> Router {
    let handshakes = std::sync::Arc::default();
    Server::builder()
        .concurrency_limit_per_connection(REQUESTS_MAX)
        .http2_keepalive_interval(Some(Duration::from_secs(10)))
        .add_service(
            RaftServer::new(raft::Service(pool.clone()))
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX),
        )
        .add_service(JoinServer::new(join::Service { pool: pool.clone(), handshakes }))
        .add_service(PoolServer::new(peer::Service(pool.clone())))
        .add_service(VolumeServer::new(volume::Service(pool.clone())))
        .add_service(ControlServer::new(control::Service(pool.clone())))
}

/// A socket that only root may open; the folder that it lies in is root's too.
fn local_socket(path: &std::path::Path) -> anyhow::Result<tokio::net::UnixListener> {
    let _ = std::fs::remove_file(path);
    let bound = tokio::net::UnixListener::bind(path);
    let listener = bound.with_context(|| path.display().to_string())?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}
