//! The replicated log: openraft over our channels, its log and snapshots in RocksDB.
//!
//! The state machine itself is [`super::state`]; this module only feeds it. Every blocking
//! RocksDB call runs on tokio's blocking threads: the control runtime never waits for a disk.

pub mod log;
pub mod machine;
pub mod network;
mod reset;

use std::io::Cursor;
use std::sync::Arc;

use proto::PeerId;
use serde::{Deserialize, Serialize};

use super::command::{Command, CommandReply};

pub use reset::reset;

openraft::declare_raft_types!(
    pub Types:
        D            = Command,
        R            = CommandReply,
        NodeId       = u64,
        Node         = RaftPeer,
        Entry        = openraft::Entry<Types>,
        SnapshotData = Cursor<Vec<u8>>,
        AsyncRuntime = openraft::TokioRuntime,
);

pub type Raft = openraft::Raft<Types>;
pub type StorageError = openraft::StorageError<u64>;

/// How raft reaches a node. The state may know a newer address of the same peer; it wins.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RaftPeer {
    pub id: PeerId,
    pub host: String,
    pub control_port: u16,
}

impl std::fmt::Display for RaftPeer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.host, self.control_port)
    }
}

/// Times of the election. A follower stands after `max` + a random time in `min..max` without
/// a heartbeat: 700–900 ms, so that a new leader is there within a second (DESIGN section 4).
/// Longer minima would break that; shorter ones would take a slow fsync for a dead leader.
pub fn config() -> Arc<openraft::Config> {
    let config = openraft::Config {
        cluster_name: "brickwork".into(),
        heartbeat_interval: 90,
        election_timeout_min: 250,
        election_timeout_max: 450,
        // Entries are small and the state is small: keep the log short.
        snapshot_policy: openraft::SnapshotPolicy::LogsSinceLast(500),
        max_in_snapshot_log_to_keep: 300,
        max_payload_entries: 100,
        install_snapshot_timeout: 5000,
        ..Default::default()
    };
    Arc::new(config.validate().expect("the constants above fit together"))
}
