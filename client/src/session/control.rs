//! What a session needs of the pool: a ticket and the volume map.

use std::pin::Pin;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use proto::SessionId;
use proto::map::VolumeMap;
use tokio_stream::Stream;

/// Opens data connections for one session.
#[derive(Clone)]
pub struct Ticket {
    pub bytes: Bytes,
    pub session: SessionId,
    /// For how long it opens new connections.
    pub valid: Duration,
    pub read_only: bool,
}

#[derive(Clone, Debug, thiserror::Error)]
pub enum ControlError {
    /// Nobody answers: try again, or elsewhere.
    #[error("{0}")]
    Unreachable(String),
    /// The pool's own words: no such volume, not allowed.
    #[error("{0}")]
    Refused(String),
}

/// The map at once, and again after every change; `None` when the volume was deleted.
pub type MapStream = Pin<Box<dyn Stream<Item = Result<Option<VolumeMap>, ControlError>> + Send>>;

/// The pool as a session sees it. Each call may go to another peer than the one before.
#[async_trait]
pub trait ControlPlane: Send + Sync + 'static {
    /// # Errors
    /// The pool says no, or nobody answers.
    async fn ticket(&self) -> Result<Ticket, ControlError>;

    /// Maps newer than `known` (0: whatever there is).
    ///
    /// # Errors
    /// As `ticket`.
    async fn watch_map(&self, known: u64) -> Result<MapStream, ControlError>;
}
