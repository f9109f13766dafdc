//! The promise thread: pings to every peer that shares a set, each 300 ms, and their answers.
//!
//! A thread, a runtime and a port of its own, so that nothing else can delay a promise. What
//! is said and what it means is the handler's part; this is the plumbing.
//!
//! Promises: a ping is stamped by the handler right before it is sent; a late answer is
//! delivered all the same (the rules count from the sending). One ping per peer is under way
//! at a time, so that a slow peer costs one connection and no queue.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context;
use futures_util::future::BoxFuture;
use proto::PeerId;
use proto_grpc::peer::Blob;
use proto_grpc::peer::promise_client::PromiseClient;
use proto_grpc::peer::promise_server::{Promise, PromiseServer};
use proto_rules::time::{MS, PING_EVERY, PROMISE};
use tonic::{Request, Response, Status};

use super::Pool;
use super::peers::Lane;
use super::state::PeerState;
use super::tls;
use crate::daemon::port_in_use;
use crate::rpc::caller;

/// A promise that arrives after its whole term is of no use.
const PING_TIMEOUT: Duration = Duration::from_millis(PROMISE / MS);

/// A member that did not know the new epoch yet knows it a moment later.
const AGAIN: Duration = Duration::from_millis(10);

/// The rules' side of the thread. Called on the promise thread only, so that it must not block; messages are opaque
/// bytes here.
pub trait PromiseHandler: Send + Sync + 'static {
    /// Peers to ping now.
    fn peers(&self) -> Vec<PeerId>;
    /// The ping to `to`, made right before it is sent.
    fn ping(&self, to: PeerId) -> Vec<u8>;
    /// The answer to a ping of `from`, which its certificate proves.
    fn on_ping(&self, from: PeerId, ping: &[u8]) -> Result<Vec<u8>, String>;
    fn on_answer(&self, from: PeerId, answer: &[u8]);
    /// After each round: reports are due, `serve_until` is to be published.
    fn round(&self);
    /// Returns when a round is due at once: a new epoch serves only with new promises.
    fn hurry(&self) -> BoxFuture<'_, ()>;
    /// Promises of a new epoch are still missing: the next round is due soon.
    fn impatient(&self) -> bool;
}

/// Starts the thread and its port. It ends with the process.
///
/// # Errors
/// The port cannot be used, or no thread can be made.
pub fn spawn(pool: Pool, handler: Arc<dyn PromiseHandler>) -> anyhow::Result<()> {
    let config = pool.config();
    let address = SocketAddr::new(config.listen, config.promise_port);
    let listener =
        std::net::TcpListener::bind(address).with_context(|| port_in_use("promise", &address))?;
    listener.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let thread = std::thread::Builder::new().name("promise".into());
    thread.spawn(move || {
        runtime.block_on(async move {
            match tokio::net::TcpListener::from_std(listener) {
                Ok(listener) => run(pool, handler, listener).await,
                Err(error) => tracing::error!(%error, "promise port"),
            }
        });
    })?;
    Ok(())
}

async fn run(pool: Pool, handler: Arc<dyn PromiseHandler>, listener: tokio::net::TcpListener) {
    let service = Service { pool: pool.clone(), handler: handler.clone() };
    let serve = tonic::transport::Server::builder()
        .add_service(PromiseServer::new(service))
        .serve_with_incoming(tls::listen_tls(listener, pool.tls().clone()));
    tokio::spawn(async move {
        if let Err(error) = serve.await {
            tracing::error!(%error, "promise port");
        }
    });
    // Channels of this runtime: one made on another would be driven there.
    let under_way = Arc::new(Mutex::new(BTreeSet::new()));
    let mut rounds = tokio::time::interval(Duration::from_millis(PING_EVERY / MS));
    rounds.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = rounds.tick() => {}
            () = handler.hurry() => rounds.reset(),
        }
        let state = pool.state();
        for peer in handler.peers().iter().filter_map(|id| state.peers.get(id)) {
            if peer.id == pool.id() || !lock(&under_way).insert(peer.id) {
                continue;
            }
            let (pool, handler, peer) = (pool.clone(), handler.clone(), peer.clone());
            let under_way = under_way.clone();
            tokio::spawn(async move {
                exchange(&pool, handler.as_ref(), &peer).await;
                lock(&under_way).remove(&peer.id);
            });
        }
        handler.round();
        if handler.impatient() {
            rounds.reset_after(AGAIN);
        }
    }
}

fn lock(under_way: &Mutex<BTreeSet<PeerId>>) -> std::sync::MutexGuard<'_, BTreeSet<PeerId>> {
    under_way.lock().expect("no panic under this lock")
}

async fn exchange(pool: &Pool, handler: &dyn PromiseHandler, peer: &PeerState) {
    let Ok(channel) = pool.channel(Lane::Promise, peer) else { return };
    let ping = Blob { data: handler.ping(peer.id).into() };
    let answer = async { PromiseClient::new(channel).ping(ping).await };
    match tokio::time::timeout(PING_TIMEOUT, answer).await {
        Ok(Ok(answer)) => handler.on_answer(peer.id, &answer.into_inner().data),
        Ok(Err(error)) => {
            pool.refused(&error);
            tracing::debug!(peer = peer.host, error = error.message(), "ping");
        }
        Err(_) => tracing::debug!(peer = peer.host, "ping not answered"),
    }
}

struct Service {
    pool: Pool,
    handler: Arc<dyn PromiseHandler>,
}

#[tonic::async_trait]
impl Promise for Service {
    async fn ping(&self, request: Request<Blob>) -> Result<Response<Blob>, Status> {
        let from = caller::peer(&self.pool, &request)?;
        let answer = self.handler.on_ping(from, &request.get_ref().data);
        let data = answer.map_err(Status::invalid_argument)?.into();
        Ok(Response::new(Blob { data }))
    }
}
