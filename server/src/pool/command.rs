//! What the pool's replicated log says: every change of the configuration is one of these.
//!
//! Commands are facts that were checked before; `apply` checks again whatever could have
//! changed in between, and refuses with a sentence for people. Proposing the same command
//! twice (an answer was lost) never does the thing twice.

use proto::map::SetMap;
use proto::{BrickId, Epoch, PeerId, VolumeId};
use proto_rules::SetKey;
use proto_rules::set::SetEntry;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Command {
    /// The first entry of a pool.
    CreatePool {
        secrets: PoolSecrets,
        first: NewPeer,
    },
    AddPeer(NewPeer),
    /// Refused while the peer holds bricks.
    RemovePeer {
        peer: PeerId,
    },
    /// The peer's address or ports changed.
    UpdatePeer(NewPeer),
    /// The machine of `old` was installed anew: `new` is its name and has its bricks.
    ReplacePeer {
        old: PeerId,
        new: NewPeer,
    },
    CreateVolume(NewVolume),
    StartVolume {
        name: String,
        force: bool,
    },
    StopVolume {
        name: String,
        force: bool,
    },
    DeleteVolume {
        name: String,
    },
    SetOptions {
        name: String,
        options: Vec<(String, String)>,
    },
    /// `None` resets all.
    ResetOptions {
        name: String,
        option: Option<String>,
    },
    /// Only the SHA-256 of the token's 32 random bytes is kept.
    AddClient {
        name: String,
        hash: [u8; 32],
        created_s: u64,
    },
    RemoveClient {
        name: String,
    },
    /// Membership of sets; each is void or not by itself.
    Membership(Vec<(SetKey, SetEntry)>),
    /// Which bricks a volume has.
    ChangeBricks {
        name: String,
        change: BrickChange,
    },
}

/// A change of a volume's bricks, begun by an administrator.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum BrickChange {
    /// `new` is healed, then `old` leaves; one that is not in-sync leaves at once.
    Replace { old: BrickId, new: NewBrick },
    /// Takes a replacement back while `new` has not been in-sync yet.
    Abort { old: BrickId, new: BrickId },
    /// So many of `bricks` for each set, in order, that each has `replica`.
    Add { replica: u16, bricks: Vec<NewBrick> },
    /// These leave; `replica` members of each set stay.
    Remove { replica: u16, bricks: Vec<BrickId> },
    /// Takes the brick out of service until its reset is committed.
    Reset { brick: BrickId },
    /// The brick comes back with an empty disk, or one of which nothing is believed.
    CommitReset { brick: BrickId },
}

/// What only peers may know. Never printed.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct PoolSecrets {
    pub pool_id: Uuid,
    pub ca_pem: String,
    pub ca_key_pem: String,
    /// HMAC key of tickets.
    pub ticket_key: [u8; 32],
}

impl std::fmt::Debug for PoolSecrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PoolSecrets({})", self.pool_id)
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NewPeer {
    pub id: PeerId,
    pub host: String,
    pub control_port: u16,
    pub data_port: u16,
    pub promise_port: u16,
    pub witness: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NewVolume {
    pub id: VolumeId,
    pub name: String,
    pub replica: u16,
    pub stripe: u16,
    pub transport: String,
    /// In the order of the command line: consecutive `replica` bricks form a set, and
    /// consecutive `stripe` sets a group.
    pub bricks: Vec<NewBrick>,
    pub created_s: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NewBrick {
    pub id: BrickId,
    pub peer: PeerId,
    pub path: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum CommandReply {
    /// `index` is the entry's place in the log.
    Done {
        index: u64,
    },
    /// Nothing changed; why, in one line.
    Refused(String),
    Membership {
        index: u64,
        results: Vec<(SetKey, SetResult)>,
    },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum SetResult {
    NewEpoch { epoch: Epoch, lead_changed: bool },
    Noted,
    Void(String),
}

impl CommandReply {
    /// # Errors
    /// The refusal.
    pub fn done(self) -> Result<u64, String> {
        match self {
            CommandReply::Done { index } | CommandReply::Membership { index, .. } => Ok(index),
            CommandReply::Refused(why) => Err(why),
        }
    }
}

/// Why a member of a set that has never begun is out.
pub const NEVER_STARTED: &str = "the volume was never started";

/// A set before its first start.
pub fn unstarted_set(id: u32, bricks: &[NewBrick]) -> SetMap {
    use proto::map::{MemberMap, MemberState};
    SetMap {
        id: proto::SetId(id),
        epoch: Epoch::NONE,
        lead: None,
        members: bricks
            .iter()
            .map(|b| MemberMap {
                brick: b.id,
                peer: b.peer,
                path: b.path.clone(),
                state: MemberState::Out,
                incarnation: proto::Incarnation(0),
                reason: NEVER_STARTED.into(),
            })
            .collect(),
    }
}
