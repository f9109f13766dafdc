//! The checkpoint: everything done so far to stable storage, and a durable note of it.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use proto::error::Errno;

use crate::db::Db;
use crate::disk::{Disk, Health};
use crate::facts::wall_ns;
use crate::store::Store;

pub const CHECKPOINT: &str = "checkpoint";

/// Everything up to here is on stable storage.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CheckpointMark {
    /// This machine's wall clock when the checkpoint began.
    pub wall_ns: u64,
    /// The change-log interval then.
    pub interval: u64,
}

impl CheckpointMark {
    fn encode(self) -> [u8; 16] {
        let mut out = [0; 16];
        out[..8].copy_from_slice(&self.wall_ns.to_le_bytes());
        out[8..].copy_from_slice(&self.interval.to_le_bytes());
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<CheckpointMark> {
        let (wall, interval) = bytes.split_at_checked(8)?;
        Some(CheckpointMark {
            wall_ns: u64::from_le_bytes(wall.try_into().ok()?),
            interval: u64::from_le_bytes(interval.try_into().ok()?),
        })
    }
}

/// Makes checkpoints from any thread while the store goes on.
#[derive(Clone)]
pub struct CheckpointHandle {
    disk: Arc<dyn Disk>,
    health: Arc<Health>,
    root: Arc<OwnedFd>,
    db: Db,
    dirty: Arc<AtomicBool>,
}

impl CheckpointHandle {
    /// Waits until everything done before the call is on stable storage.
    ///
    /// # Errors
    /// The sync failed, and with it the brick.
    pub fn run(&self, interval: u64) -> Result<(), Errno> {
        if self.health.is_failed() {
            return Err(Errno::EIO);
        }
        let mark = CheckpointMark { wall_ns: wall_ns(), interval };
        self.dirty.store(false, Ordering::Release);
        // The log first: a change on disk without its entry would be lost to a joiner.
        let synced = self.db.sync().and_then(|()| self.disk.sync_fs(self.root.as_fd()));
        let noted = synced.and_then(|()| self.db.put_fact(CHECKPOINT, &mark.encode(), true));
        noted.inspect_err(|errno| self.health.poison(format!("checkpoint: {errno}")))
    }
}

impl Store {
    pub fn checkpoint_handle(&self) -> CheckpointHandle {
        CheckpointHandle {
            disk: self.disk.clone(),
            health: self.health.clone(),
            root: self.tree.root.clone(),
            db: self.db.clone(),
            dirty: self.dirty.clone(),
        }
    }
}
