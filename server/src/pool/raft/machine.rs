//! Feeds committed entries to [`apply`] and publishes the outcome; snapshots in RocksDB.
//!
//! The state lives in memory. A restart reads the last snapshot and applies the log behind it
//! again, which `apply` being pure makes the same state.

use std::io::Cursor;
use std::sync::{Arc, Mutex, MutexGuard};

use anyhow::Context;
use openraft::storage::{RaftStateMachine, Snapshot};
use openraft::{
    Entry, EntryPayload, LogId, RaftSnapshotBuilder, SnapshotMeta, StorageIOError, StoredMembership,
};
use rocksdb::{DB, WriteOptions};
use serde::{Deserialize, Serialize};

use super::{RaftPeer, StorageError, Types};
use crate::pool::command::CommandReply;
use crate::pool::published::Published;
use crate::pool::state::PoolState;
use crate::pool::state::apply::apply;

/// Column family of the snapshot.
pub const STATE: &str = "state";
pub(super) const SNAPSHOT: &[u8] = b"snapshot";

#[derive(Clone)]
pub struct Machine {
    pub(super) db: Arc<DB>,
    published: Arc<Published>,
    /// The membership that this machine publishes for.
    term: u64,
    current: Arc<Mutex<Applied>>,
}

#[derive(Clone, Default, Serialize, Deserialize)]
pub(super) struct Applied {
    pub last: Option<LogId<u64>>,
    pub membership: StoredMembership<u64, RaftPeer>,
    pub state: PoolState,
}

/// What is stored and sent.
#[derive(Serialize, Deserialize)]
pub(super) struct Stored {
    pub meta: SnapshotMeta<u64, RaftPeer>,
    pub applied: Applied,
}

impl Applied {
    fn take(&mut self, entry: Entry<Types>) -> CommandReply {
        let index = entry.log_id.index;
        self.last = Some(entry.log_id);
        let reply = match entry.payload {
            EntryPayload::Blank => CommandReply::Done { index },
            EntryPayload::Normal(command) => apply(&mut self.state, index, &command),
            EntryPayload::Membership(membership) => {
                self.membership = StoredMembership::new(Some(entry.log_id), membership);
                CommandReply::Done { index }
            }
        };
        self.state.applied = index;
        reply
    }

    /// Of which entry on the log says more.
    fn next(&self) -> u64 {
        self.last.map_or(0, |id| id.index + 1)
    }
}

impl Stored {
    pub fn new(applied: Applied) -> Self {
        let snapshot_id = applied.last.map_or_else(String::new, |id| id.to_string());
        let meta = SnapshotMeta {
            last_log_id: applied.last,
            last_membership: applied.membership.clone(),
            snapshot_id,
        };
        Self { meta, applied }
    }
}

impl Machine {
    /// Reads the last snapshot; blocking, for the start only.
    ///
    /// # Errors
    /// RocksDB's, or a snapshot that cannot be read.
    pub fn open(db: Arc<DB>, published: Arc<Published>) -> anyhow::Result<Self> {
        let applied = match read(&db)? {
            Some(stored) => stored.applied,
            None => Applied::default(),
        };
        let term = published.begin();
        published.publish(term, &applied.state);
        Ok(Self { db, published, term, current: Arc::new(Mutex::new(applied)) })
    }

    /// What it would be if all of `entries` were committed.
    pub(super) fn with(&self, entries: Vec<Entry<Types>>) -> Applied {
        let mut applied = self.current().clone();
        for entry in entries {
            if entry.log_id.index >= applied.next() {
                applied.take(entry);
            }
        }
        applied
    }

    /// From now on this is the state.
    pub(super) fn replace(&self, applied: Applied) {
        let mut current = self.current();
        *current = applied;
        self.published.publish(self.term, &current.state);
    }

    fn current(&self) -> MutexGuard<'_, Applied> {
        self.current.lock().expect("no panic under this lock")
    }

    async fn store(&self, text: Vec<u8>) -> std::io::Result<()> {
        let db = self.db.clone();
        let write = move || -> anyhow::Result<()> {
            let state = db.cf_handle(STATE).context("no state column family")?;
            let mut options = WriteOptions::default();
            options.set_sync(true);
            Ok(db.put_cf_opt(state, SNAPSHOT, text, &options)?)
        };
        tokio::task::spawn_blocking(move || write().map_err(std::io::Error::other))
            .await
            .map_err(std::io::Error::other)?
    }
}

fn read(db: &DB) -> anyhow::Result<Option<Stored>> {
    let state = db.cf_handle(STATE).context("no state column family")?;
    let Some(text) = db.get_cf(state, SNAPSHOT)? else { return Ok(None) };
    Ok(Some(serde_json::from_slice(&text).context("stored pool state")?))
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotBuilder = Self;

    async fn applied_state(
        &mut self,
    ) -> Result<(Option<LogId<u64>>, StoredMembership<u64, RaftPeer>), StorageError> {
        let current = self.current();
        Ok((current.last, current.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<CommandReply>, StorageError>
    where
        I: IntoIterator<Item = Entry<Types>> + Send,
        I::IntoIter: Send,
    {
        let mut current = self.current();
        let replies = entries.into_iter().map(|entry| current.take(entry)).collect();
        self.published.publish(self.term, &current.state);
        Ok(replies)
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Cursor<Vec<u8>>>, StorageError> {
        Ok(Box::default())
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta<u64, RaftPeer>,
        snapshot: Box<Cursor<Vec<u8>>>,
    ) -> Result<(), StorageError> {
        let text = snapshot.into_inner();
        let stored: Stored = serde_json::from_slice(&text)
            .map_err(|e| StorageIOError::read_snapshot(Some(meta.signature()), &e))?;
        self.store(text)
            .await
            .map_err(|e| StorageIOError::write_snapshot(Some(meta.signature()), &e))?;
        let mut current = self.current();
        *current = stored.applied;
        self.published.publish(self.term, &current.state);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<Types>>, StorageError> {
        let db = self.db.clone();
        let stored = tokio::task::spawn_blocking(move || read(&db).map_err(std::io::Error::other))
            .await
            .map_err(std::io::Error::other)
            .and_then(|r| r)
            .map_err(|e| StorageIOError::read_snapshot(None, &e))?;
        stored.map(snapshot_of).transpose()
    }
}

impl RaftSnapshotBuilder<Types> for Machine {
    async fn build_snapshot(&mut self) -> Result<Snapshot<Types>, StorageError> {
        let snapshot = snapshot_of(Stored::new(self.current().clone()))?;
        self.store(snapshot.snapshot.get_ref().clone())
            .await
            .map_err(|e| StorageIOError::write_snapshot(Some(snapshot.meta.signature()), &e))?;
        Ok(snapshot)
    }
}

// The error's size is openraft's choice, and its traits ask for it unboxed.
#[allow(clippy::result_large_err)]
fn snapshot_of(stored: Stored) -> Result<Snapshot<Types>, StorageError> {
    let text = serde_json::to_vec(&stored)
        .map_err(|e| StorageIOError::read_snapshot(Some(stored.meta.signature()), &e))?;
    Ok(Snapshot { meta: stored.meta, snapshot: Box::new(Cursor::new(text)) })
}
