//! One brick as a client sees it: a lane per shard, connected when needed.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use proto::fop::{Call, Outcome, Under, Want};
use proto::frame::Status;
use proto::{BrickId, Epoch, Failure, Refusal};
use tokio::time::Instant;

use super::connection::Connection;
use super::shard::{self, LANES, Shard};
use super::{CallError, ConnectError, Connector, Reply, Request, way};
use crate::sync::lock;

const BACKOFF_MIN: Duration = Duration::from_millis(10);
const BACKOFF_MAX: Duration = Duration::from_millis(500);
/// For how long after the straight way was found closed the others are tried at once.
const CLOSED_FOR: Duration = Duration::from_secs(5);

/// Where a brick is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Target {
    pub brick: BrickId,
    pub host: String,
    pub port: u16,
    /// Data ports of peers that pass a session's connection on when the brick's own peer cannot
    /// be reached from here.
    pub relays: Vec<(String, u16)>,
}

impl Target {
    /// A brick that is reached straight or not at all.
    pub fn straight(brick: BrickId, host: String, port: u16) -> Target {
        Target { brick, host, port, relays: Vec::new() }
    }
}

#[derive(Default)]
struct Lane {
    up: Mutex<Option<Arc<Connection>>>,
    /// Held while connecting, so that a shard opens one connection, not one per request.
    connecting: tokio::sync::Mutex<Backoff>,
}

#[derive(Default)]
struct Backoff {
    failures: u32,
    not_before: Option<Instant>,
}

/// Calls one brick. Shared by all threads; each uses its own lane.
pub struct BrickClient {
    brick: BrickId,
    target: Mutex<Target>,
    connector: Arc<Connector>,
    lanes: Vec<Lane>,
    /// Bytes asked of it and not yet answered: readers choose the member with the fewest.
    outstanding: AtomicU64,
    local: AtomicBool,
    relayed: AtomicBool,
    /// The straight way was found closed then.
    closed_at: Mutex<Option<Instant>>,
}

impl BrickClient {
    pub fn new(target: Target, connector: Arc<Connector>) -> Arc<BrickClient> {
        Arc::new(BrickClient {
            brick: target.brick,
            target: Mutex::new(target),
            connector,
            lanes: (0..LANES).map(|_| Lane::default()).collect(),
            outstanding: AtomicU64::new(0),
            local: AtomicBool::new(false),
            relayed: AtomicBool::new(false),
            closed_at: Mutex::default(),
        })
    }

    pub fn brick(&self) -> BrickId {
        self.brick
    }

    /// The brick's peer has another address now.
    pub fn set_target(&self, target: Target) {
        *lock(&self.target) = target;
    }

    pub fn outstanding(&self) -> u64 {
        self.outstanding.load(Relaxed)
    }

    /// One operation with an explicit epoch, for callers that do their own replication rules
    /// (heal, settle).
    ///
    /// # Errors
    /// There was no reply. A reply that says "failed" or "refused" is the `Outcome`.
    pub async fn call(
        &self,
        call: &Call,
        epoch: Epoch,
        wants: Vec<Want>,
        under: Vec<Under>,
    ) -> Result<Outcome, CallError> {
        let request = Request { wants, under, ..Request::new(call, epoch) };
        Ok(self.exchange(&request).await?.into_outcome(request.op))
    }

    /// Sends a request on this thread's connection and waits for the reply.
    ///
    /// # Errors
    /// `Lost` when nobody knows whether it was executed.
    pub async fn exchange(&self, request: &Request) -> Result<Reply, CallError> {
        self.exchange_on(shard::current(), request).await
    }

    /// As `exchange`, on the connection of heartbeats and lease returns.
    ///
    /// # Errors
    /// As `exchange`.
    pub async fn exchange_in_background(&self, request: &Request) -> Result<Reply, CallError> {
        self.exchange_on(Shard::BACKGROUND, request).await
    }

    async fn exchange_on(&self, shard: Shard, request: &Request) -> Result<Reply, CallError> {
        let connection = self.connection(&self.lanes[shard.0], shard).await?;
        let _outstanding = Outstanding::add(self, request);
        let reply = connection.call(request).await?;
        if reply.status == Status::Failed(Failure::Refused(Refusal::UnknownSession)) {
            // Only a new HELLO makes the session known again.
            connection.close();
        }
        Ok(reply)
    }

    /// Whether the brick is on this machine; known once it was connected to.
    pub fn is_local(&self) -> bool {
        self.local.load(Relaxed)
    }

    /// Whether it is reached through another peer, as far as is known.
    pub fn is_relayed(&self) -> bool {
        self.relayed.load(Relaxed)
    }

    /// The brick is late with an answer. If that is because the way to it is closed, all its
    /// connections end: what is in flight is sent again another way. Whether they did.
    pub async fn look_for_another_way(&self) -> bool {
        let target = lock(&self.target).clone();
        if target.relays.is_empty() {
            return false;
        }
        if self.is_relayed() {
            // Perhaps the peer that passes it on is gone.
            self.close();
            return true;
        }
        if way::is_open(&target).await {
            return false;
        }
        tracing::warn!(brick = %self.brick, host = target.host, "the way to it is closed");
        *lock(&self.closed_at) = Some(Instant::now());
        self.close();
        true
    }

    /// Says goodbye on all connections.
    pub fn close(&self) {
        self.close_lanes(|_| true);
    }

    fn close_lanes(&self, which: impl Fn(&Connection) -> bool) {
        for lane in &self.lanes {
            let chosen = lock(&lane.up).take_if(|connection| which(connection));
            if let Some(connection) = chosen {
                connection.close();
            }
        }
    }

    async fn connection(&self, lane: &Lane, shard: Shard) -> Result<Arc<Connection>, ConnectError> {
        if let Some(connection) = lane.open() {
            return Ok(connection);
        }
        let mut backoff = lane.connecting.lock().await;
        if let Some(connection) = lane.open() {
            return Ok(connection);
        }
        if let Some(not_before) = backoff.not_before {
            tokio::time::sleep_until(not_before).await;
        }
        let target = lock(&self.target).clone();
        let open: Vec<_> = self.lanes.iter().filter_map(Lane::open).collect();
        let closed = || lock(&self.closed_at).is_some_and(|at| at.elapsed() < CLOSED_FOR);
        let known = way::Known {
            closed: open.iter().all(|c| c.through().is_some()) && closed(),
            through: open.iter().find_map(|c| c.through().clone()),
        };
        let opened = self.connector.connect(&target, shard, &known).await;
        backoff.note(opened.is_ok());
        let connection = opened?;
        self.local.store(connection.is_local(), Relaxed);
        self.relayed.store(connection.through().is_some(), Relaxed);
        // Heartbeats go on one lane, and say when its way has closed. The others go the same way,
        // or they would say nothing for ever.
        self.close_lanes(|open| open.through() != connection.through());
        *lock(&lane.up) = Some(connection.clone());
        Ok(connection)
    }
}

impl Drop for BrickClient {
    /// Without this the reading tasks would keep the connections open.
    fn drop(&mut self) {
        self.close();
    }
}

impl Lane {
    fn open(&self) -> Option<Arc<Connection>> {
        lock(&self.up).as_ref().filter(|c| !c.is_closed()).cloned()
    }
}

impl Backoff {
    fn note(&mut self, opened: bool) {
        self.failures = if opened { 0 } else { (self.failures + 1).min(16) };
        let wait = BACKOFF_MIN.saturating_mul(1 << self.failures).min(BACKOFF_MAX);
        self.not_before = Some(Instant::now() + wait);
    }
}

struct Outstanding<'a> {
    client: &'a BrickClient,
    bytes: u64,
}

impl<'a> Outstanding<'a> {
    /// A small request counts too, so that many of them spread.
    const BASE: u64 = 512;

    fn add(client: &'a BrickClient, request: &Request) -> Self {
        let bytes = request.payload.len() as u64 + request.reply_bytes + Self::BASE;
        client.outstanding.fetch_add(bytes, Relaxed);
        Self { client, bytes }
    }
}

impl Drop for Outstanding<'_> {
    fn drop(&mut self) {
        self.client.outstanding.fetch_sub(self.bytes, Relaxed);
    }
}
