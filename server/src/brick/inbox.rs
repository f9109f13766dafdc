//! What the rest of the daemon says to a brick's thread, and what the brick says back.

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use proto::fop::ChangedItem;
use proto::frame::Credential;
use proto::map::VolumeMap;
use proto::{BrickId, Epoch, Gfid, Incarnation, PeerId, SessionId};
use proto_rules::SetKey;
use tokio::sync::{mpsc, oneshot};

use super::io::Backend;
use crate::heal::job::Resume;
use crate::lead::PeerCredential;
use crate::metrics::BrickMetrics;

use super::gate::Gate;

/// Commands waiting for a brick's thread: connections, maps, a stop.
pub const INBOX_MAX: usize = 1024;

/// A connection whose HELLO passed.
pub struct Newcomer {
    pub stream: TcpStream,
    pub from: SocketAddr,
    pub session: SessionId,
    pub credential: Credential,
    /// The session's number of this connection; 0 is where recalls are best sent.
    pub number: u32,
    pub host: String,
}

pub enum BrickCommand {
    Connect(Newcomer),
    Map(Arc<VolumeMap>),
    /// The join to which this brick agreed ended by the joiner's word.
    JoinEnded,
    /// Of this peer's own heal, before the join: what the lead's log holds.
    TakeOverLog {
        items: Vec<ChangedItem>,
        complete_since: Option<u64>,
        answer: oneshot::Sender<bool>,
    },
    /// Of this peer's own heal: of which inodes, by the marks that came with `lead`'s list, this
    /// brick keeps its own copy.
    Keeps {
        lead: BrickId,
        marks: BTreeSet<(BrickId, Gfid)>,
        answer: oneshot::Sender<BTreeSet<Gfid>>,
    },
    /// An administrator's word: `source`'s copies are the good ones where no good one is left.
    /// The answer says of how many inodes.
    TrustCopies {
        source: BrickId,
        answer: oneshot::Sender<Result<usize, String>>,
    },
    /// Of this peer's own heal: how far it has come.
    NoteHeal {
        resume: Resume,
        answer: oneshot::Sender<bool>,
    },
    /// Stop serving, make a checkpoint, close the store. The answer says whether it was clean.
    Stop(oneshot::Sender<bool>),
}

/// Who a brick is in this incarnation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BrickIdentity {
    pub peer: PeerId,
    pub brick: BrickId,
    pub set: SetKey,
    pub incarnation: Incarnation,
}

/// Told of what a brick cannot decide by itself. Called on the brick's thread: must not block.
pub trait Owner: Send + Sync + 'static {
    /// The brick took itself out of service; it is to leave its set.
    fn failed(&self, brick: BrickIdentity, epoch: Epoch, reason: &str);

    /// A joiner's pause is over its length: the join is to be withdrawn.
    fn withdraw_join(&self, brick: BrickIdentity, epoch: Epoch);
}

/// Everything a brick's thread starts with.
pub struct Setup {
    pub identity: BrickIdentity,
    pub backend: Backend,
    pub gate: Arc<Gate>,
    pub metrics: Arc<BrickMetrics>,
    pub owner: Arc<dyn Owner>,
    /// How this peer shows the other members that it is one.
    pub credential: Arc<dyn PeerCredential>,
    pub map: Option<Arc<VolumeMap>>,
}

/// A brick that runs.
#[derive(Clone)]
pub struct BrickHandle {
    pub identity: BrickIdentity,
    pub inbox: mpsc::Sender<BrickCommand>,
    pub gate: Arc<Gate>,
    pub metrics: Arc<BrickMetrics>,
}
