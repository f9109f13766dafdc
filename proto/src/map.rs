//! The volume map: everything a client needs to compute where a file lives and whom to ask.
//!
//! Made by the pool from its replicated state, sent whole over the watch stream whenever
//! anything in it changes. `version` is the log index of the last entry that touched it:
//! a map with a lower version than the one held is ignored.

use serde::{Deserialize, Serialize};

use crate::ids::{BrickId, Epoch, Incarnation, PeerId, SetId, SlotId, VolumeId};
use crate::options::VolumeOptions;

/// Slots in every volume, for ever: 8192 gives a share within 1 % for up to about 80 sets.
pub const SLOTS: u16 = 8192;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VolumeMap {
    pub version: u64,
    pub volume: VolumeId,
    pub name: String,
    pub started: bool,
    pub replica: u16,
    pub stripe: u16,
    /// Bytes per stripe block; 1 MiB unless the volume was created otherwise.
    pub stripe_block: u32,
    pub sets: Vec<SetMap>,
    /// `slots[s]` is the set that holds slot `s`; always `SLOTS` long.
    pub slots: Vec<SetId>,
    pub peers: Vec<PeerAddress>,
    pub options: VolumeOptions,
}

/// One replica set as the pool knows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SetMap {
    pub id: SetId,
    pub epoch: Epoch,
    /// The in-sync member that orders the set. `None` only before the first start.
    pub lead: Option<BrickId>,
    pub members: Vec<MemberMap>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MemberMap {
    pub brick: BrickId,
    pub peer: PeerId,
    /// Absolute path of the brick directory on its peer.
    pub path: String,
    pub state: MemberState,
    /// The only incarnation that may serve in this epoch.
    pub incarnation: Incarnation,
    /// Why the member is not in-sync, for people; empty when it is.
    pub reason: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MemberState {
    /// Serves clients; every change waits for it.
    InSync,
    /// Catches up; serves no client.
    Syncing,
    /// Away.
    Out,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerAddress {
    pub peer: PeerId,
    /// Host name or address as it was probed.
    pub host: String,
    pub control_port: u16,
    pub data_port: u16,
    pub promise_port: u16,
}

impl VolumeMap {
    pub fn set(&self, id: SetId) -> Option<&SetMap> {
        self.sets.get(id.0 as usize)
    }

    /// The set that holds `slot`.
    pub fn set_of_slot(&self, slot: SlotId) -> Option<&SetMap> {
        self.set(*self.slots.get(usize::from(slot.0))?)
    }

    pub fn peer(&self, id: PeerId) -> Option<&PeerAddress> {
        self.peers.iter().find(|p| p.peer == id)
    }

    /// The set and member that `brick` is.
    pub fn member(&self, brick: BrickId) -> Option<(&SetMap, &MemberMap)> {
        self.sets.iter().find_map(|s| s.member(brick).map(|m| (s, m)))
    }
}

impl SetMap {
    pub fn member(&self, brick: BrickId) -> Option<&MemberMap> {
        self.members.iter().find(|m| m.brick == brick)
    }

    pub fn in_sync(&self) -> impl Iterator<Item = &MemberMap> {
        self.members.iter().filter(|m| m.state == MemberState::InSync)
    }
}
