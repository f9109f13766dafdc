//! Opens connections: TCP, HELLO, WELCOME.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use proto::fop::Recall;
use proto::{BrickId, Epoch, SessionId};

use super::connection::Connection;
use super::shard::Shard;
use super::{Counters, Target, way};
use crate::sync::lock;

/// What opens a connection.
#[derive(Clone)]
pub enum Proof {
    /// Signed by the pool for one session on one volume.
    Ticket(Bytes),
    /// Of being a peer of the pool.
    Peer(Bytes),
}

/// Who connects.
#[derive(Clone)]
pub struct Identity {
    pub session: SessionId,
    pub proof: Proof,
    /// For people.
    pub host: String,
}

/// Told of what a brick says by itself. Called on the thread that reads the connection, which
/// must not be held up: start a task for anything that waits.
pub trait Pushes: Send + Sync {
    fn recall(&self, brick: BrickId, recall: Recall);

    /// A connection came up; `time_ns` is the brick's wall clock.
    fn welcome(&self, brick: BrickId, epoch: Epoch, time_ns: u64);
}

#[derive(Clone, Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("{host}:{port}: {reason}")]
    Unreachable { host: String, port: u16, reason: String },
    /// The brick's own words: wrong ticket, unknown brick, not serving.
    #[error("{host}:{port} refused: {reason}")]
    Refused { host: String, port: u16, reason: String },
}

/// Opens connections for one session (or one peer).
pub struct Connector {
    identity: Mutex<Identity>,
    pushes: Arc<dyn Pushes>,
    pub(super) counters: Arc<Counters>,
}

impl Connector {
    pub fn new(
        identity: Identity,
        pushes: Arc<dyn Pushes>,
        counters: Arc<Counters>,
    ) -> Arc<Connector> {
        Arc::new(Connector { identity: Mutex::new(identity), pushes, counters })
    }

    /// A renewed ticket, for connections opened from now on.
    pub fn set_identity(&self, identity: Identity) {
        *lock(&self.identity) = identity;
    }

    pub fn session(&self) -> SessionId {
        lock(&self.identity).session
    }

    /// Opens a connection and starts its task on the current runtime.
    pub(super) async fn connect(
        &self,
        target: &Target,
        shard: Shard,
        known: &way::Known,
    ) -> Result<Arc<Connection>, ConnectError> {
        let identity = lock(&self.identity).clone();
        let session = identity.session;
        let greeted = way::find(target, shard, &identity, known).await?;
        Counters::add(&self.counters.connects);
        let relayed = greeted.through.is_some();
        if let Some(through) = &greeted.through {
            Counters::add(&self.counters.relayed);
            tracing::warn!(brick = %target.brick, host = target.host, through,
                "not reached straight; through another peer until it is");
        }
        let welcome = greeted.welcome;
        self.pushes.welcome(target.brick, Epoch(welcome.epoch), welcome.time_ns);
        let connection = Connection::new(
            (greeted.stream, greeted.through),
            session,
            self.counters.clone(),
            self.pushes.clone(),
        );
        tokio::spawn(connection.clone().run(greeted.reader, target.brick));
        if relayed {
            let connection = Arc::downgrade(&connection);
            tokio::spawn(way::straighten(connection, target.clone()));
        }
        Ok(connection)
    }
}
