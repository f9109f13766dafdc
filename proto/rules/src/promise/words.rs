//! What peers say to each other about promises: the ping, its answer, and what they bring up.

use proto::{BrickId, Epoch, Incarnation, PeerId};
use serde::{Deserialize, Serialize};

use crate::SetKey;
use crate::time::Tick;

/// Asks for the promises of all bricks that the receiver shares a set with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ping {
    pub from: PeerId,
    /// The sender's clock; the answer brings it back.
    pub sent: Tick,
    pub claims: Vec<Claim>,
    /// Incarnations of the sender's bricks that ended cleanly and never serve again.
    pub byes: Vec<(BrickId, Incarnation)>,
}

/// "This incarnation of my brick is in that epoch. Do you stay in it?" Also its hello.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    pub set: SetKey,
    pub brick: BrickId,
    pub incarnation: Incarnation,
    pub epoch: Epoch,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    pub from: PeerId,
    /// The ping's `sent`.
    pub sent: Tick,
    pub promises: Vec<Promise>,
}

/// One giver's word to one holder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promise {
    pub set: SetKey,
    pub giver: BrickId,
    pub giver_incarnation: Incarnation,
    pub holder: BrickId,
    pub holder_incarnation: Incarnation,
    pub epoch: Epoch,
    pub word: Word,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Word {
    /// "I stay in this epoch for a promise's time."
    Stay,
    /// The giver knows the set in that epoch.
    OtherEpoch(Epoch),
    /// It agreed, or is about to agree, to the holder's eviction.
    Stopped,
    /// Its predecessor's promises may still be running.
    Fresh,
    /// Holder or giver is not in-sync under this incarnation.
    NotNamed,
    /// A joiner gave up: this incarnation of the giver never serves.
    NeverServes,
}

/// What the driver should know from a ping or an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PromiseEvent {
    /// Somebody knows a later epoch: fetch the map.
    NewerEpoch { set: SetKey, epoch: Epoch },
    /// The agreed join ended by the joiner's word: release queued changes.
    JoinEnded { set: SetKey, brick: BrickId, joiner: BrickId },
}

/// Why a member does not agree to a join.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JoinRefused {
    /// The member is not in-sync itself, by its map.
    NotInSync,
    /// The set is in that epoch now.
    Epoch(Epoch),
    /// The joiner is not syncing under this incarnation.
    Joiner,
    /// It has agreed to another join in this epoch.
    Another,
}
