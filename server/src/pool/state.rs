//! The pool's replicated state: peers, volumes, options, slots, membership, clients.
//!
//! A value. [`apply`](apply::apply) is the only way to change it and is pure, so that every
//! peer that applied the same log holds the same state. Knows nothing of raft's types.

pub mod apply;
pub mod bricks;
pub mod recover;
pub mod validate;
pub mod voters;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proto::map::{MemberMap, PeerAddress, SetMap, VolumeMap};
use proto::options::VolumeOptions;
use proto::{BrickId, PeerId, SetId, VolumeId};
use proto_rules::members::Change;
use serde::{Deserialize, Serialize};

use super::command::PoolSecrets;

/// Raised when a stored snapshot of an older program can no longer be read as it is.
pub const STATE_FORMAT: u32 = 1;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PoolState {
    pub format: u32,
    /// Log index of the last entry applied.
    pub applied: u64,
    /// `None` until the pool's first entry.
    pub secrets: Option<PoolSecrets>,
    pub peers: BTreeMap<PeerId, PeerState>,
    /// Node numbers of detached peers, whose certificates are void. Never used again.
    pub removed_nodes: BTreeSet<u64>,
    pub volumes: BTreeMap<VolumeId, Arc<VolumeState>>,
    pub clients: BTreeMap<String, ClientState>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PeerState {
    pub id: PeerId,
    /// Raft node number and certificate serial: the log index of the entry that added the peer.
    pub node: u64,
    pub host: String,
    pub control_port: u16,
    pub data_port: u16,
    pub promise_port: u16,
    pub witness: bool,
    /// `pool recover` went on without it: its certificate is void, its bricks wait for whoever
    /// is probed in its place.
    #[serde(default)]
    pub lost: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VolumeState {
    pub id: VolumeId,
    pub name: String,
    pub replica: u16,
    pub stripe: u16,
    pub stripe_block: u32,
    pub transport: String,
    pub started: bool,
    pub ever_started: bool,
    pub created_s: u64,
    /// Log index of the last entry that changed the volume's map.
    pub version: u64,
    pub sets: Vec<SetMap>,
    pub slots: Arc<Vec<SetId>>,
    /// Only what was set, as text; validated when it was set.
    pub options: BTreeMap<String, String>,
    /// Changes of the sets' members that are under way.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<(SetId, Change)>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClientState {
    pub hash: [u8; 32],
    pub created_s: u64,
}

impl PoolState {
    pub fn volume_by_name(&self, name: &str) -> Option<&Arc<VolumeState>> {
        self.volumes.values().find(|v| v.name == name)
    }

    pub fn peer_by_node(&self, node: u64) -> Option<&PeerState> {
        self.peers.values().find(|p| p.node == node)
    }

    /// Peers that belong to the pool and are not lost.
    pub fn living(&self) -> impl Iterator<Item = &PeerState> {
        self.peers.values().filter(|p| !p.lost)
    }

    /// Whether the peer belongs to the pool and is not lost.
    pub fn trusts(&self, peer: PeerId) -> bool {
        self.peers.get(&peer).is_some_and(|p| !p.lost)
    }

    /// Every brick of the pool with its volume and set.
    pub fn bricks(&self) -> impl Iterator<Item = (&VolumeState, &SetMap, &MemberMap)> {
        self.volumes.values().flat_map(|v| {
            v.sets.iter().flat_map(move |s| s.members.iter().map(move |m| (v.as_ref(), s, m)))
        })
    }

    pub fn holds_bricks(&self, peer: PeerId) -> bool {
        self.bricks().any(|(_, _, m)| m.peer == peer)
    }

    /// The map that clients and bricks of `volume` work with.
    pub fn map_of(&self, volume: &VolumeState) -> VolumeMap {
        let options = volume.parsed_options();
        let peers: BTreeSet<PeerId> =
            volume.sets.iter().flat_map(|s| s.members.iter().map(|m| m.peer)).collect();
        VolumeMap {
            version: volume.version,
            volume: volume.id,
            name: volume.name.clone(),
            started: volume.started,
            replica: volume.replica,
            stripe: volume.stripe,
            stripe_block: match volume.options.contains_key("cluster.stripe-block-size") {
                true => options.stripe_block,
                false => volume.stripe_block,
            },
            sets: volume.sets.clone(),
            slots: volume.slots.as_ref().clone(),
            peers: peers.iter().filter_map(|p| self.peers.get(p)).map(PeerState::address).collect(),
            options,
        }
    }
}

impl PeerState {
    pub fn address(&self) -> PeerAddress {
        PeerAddress {
            peer: self.id,
            host: self.host.clone(),
            control_port: self.control_port,
            data_port: self.data_port,
            promise_port: self.promise_port,
        }
    }
}

impl VolumeState {
    pub fn parsed_options(&self) -> VolumeOptions {
        let mut options = VolumeOptions::default();
        for (name, value) in &self.options {
            // A value that an older program accepted and this one does not keeps its default.
            if let Err(error) = options.set(name, value) {
                tracing::warn!(volume = self.name, %error, "stored option ignored");
            }
        }
        options
    }

    pub fn bricks(&self) -> impl Iterator<Item = &MemberMap> {
        self.sets.iter().flat_map(|s| &s.members)
    }

    pub fn brick_count(&self) -> usize {
        self.sets.iter().map(|s| s.members.len()).sum()
    }

    /// How many groups of stripe × replica bricks.
    pub fn distribute(&self) -> usize {
        self.sets.len() / usize::from(self.stripe.max(1))
    }

    /// The members that a set will have when its changes are done.
    pub fn stays<'a>(&'a self, set: &'a SetMap) -> impl Iterator<Item = &'a MemberMap> {
        let goes = |m: &MemberMap| self.changes.iter().any(|(_, c)| c.goes() == Some(m.brick));
        set.members.iter().filter(move |m| !goes(m))
    }

    /// The replica count that the volume has when its changes are done.
    pub fn replica_shown(&self) -> u16 {
        let counts = self.sets.iter().map(|set| self.stays(set).count()).max();
        counts.and_then(|n| u16::try_from(n).ok()).unwrap_or(self.replica)
    }

    /// The changes under way in one set.
    pub fn changes_of(&self, set: SetId) -> Vec<Change> {
        self.changes.iter().filter(|(id, _)| *id == set).map(|(_, change)| *change).collect()
    }

    /// In-sync members that a set needs for a change.
    pub fn needed(&self) -> u16 {
        self.parsed_options().min_in_sync_of(self.replica)
    }

    /// The type's name as GlusterFS prints it.
    pub fn type_name(&self) -> &'static str {
        match (self.distribute() > 1, self.stripe > 1, self.replica_shown() > 1) {
            (_, false, false) => "Distribute",
            (false, false, true) => "Replicate",
            (false, true, false) => "Stripe",
            (false, true, true) => "Striped-Replicate",
            (true, false, true) => "Distributed-Replicate",
            (true, true, false) => "Distributed-Stripe",
            (true, true, true) => "Distributed-Striped-Replicate",
        }
    }

    pub fn status_name(&self) -> &'static str {
        match (self.started, self.ever_started) {
            (true, _) => "Started",
            (false, true) => "Stopped",
            (false, false) => "Created",
        }
    }

    pub fn set_of_brick(&self, brick: BrickId) -> Option<&SetMap> {
        self.sets.iter().find(|s| s.member(brick).is_some())
    }
}
