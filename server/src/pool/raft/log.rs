//! Raft's log and vote in RocksDB, with a mirror of the log in memory.
//!
//! The log is short (snapshots every 500 entries), so all of it is kept in memory and reads
//! touch no disk. A write is acknowledged when RocksDB's WAL is synced.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::ops::RangeBounds;
use std::sync::{Arc, Mutex, MutexGuard};

use anyhow::Context;
use openraft::storage::{LogFlushed, RaftLogStorage};
use openraft::{Entry, LogId, LogState, RaftLogId, RaftLogReader, StorageIOError, Vote};
use rocksdb::{DB, WriteBatch, WriteOptions};

use super::{StorageError, Types};

/// Column family of the log: big-endian index to JSON entry.
pub const LOG: &str = "raft-log";
/// Column family of single values.
pub const META: &str = "raft-meta";
pub(super) const VOTE: &[u8] = b"vote";
pub(super) const COMMITTED: &[u8] = b"committed";
pub(super) const PURGED: &[u8] = b"purged";

#[derive(Clone)]
pub struct LogStore {
    db: Arc<DB>,
    memory: Arc<Mutex<Memory>>,
}

#[derive(Default)]
struct Memory {
    entries: BTreeMap<u64, Entry<Types>>,
    purged: Option<LogId<u64>>,
    vote: Option<Vote<u64>>,
    committed: Option<LogId<u64>>,
}

impl LogStore {
    /// Reads everything; blocking, for the start only.
    ///
    /// # Errors
    /// RocksDB's, or an entry that cannot be read.
    pub fn open(db: Arc<DB>) -> anyhow::Result<Self> {
        let log = db.cf_handle(LOG).context("no log column family")?;
        let mut memory = Memory {
            vote: value(&db, VOTE)?,
            committed: value(&db, COMMITTED)?,
            purged: value(&db, PURGED)?,
            entries: BTreeMap::new(),
        };
        for row in db.iterator_cf(log, rocksdb::IteratorMode::Start) {
            let (key, text) = row?;
            let index = u64::from_be_bytes(key.as_ref().try_into().context("log key")?);
            let entry = serde_json::from_slice(&text).with_context(|| format!("entry {index}"))?;
            memory.entries.insert(index, entry);
        }
        Ok(Self { db, memory: Arc::new(Mutex::new(memory)) })
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().expect("no panic under this lock")
    }

    /// Every entry, the greatest term seen, and the last index.
    pub(super) fn all(&self) -> (Vec<Entry<Types>>, u64, u64) {
        let memory = self.memory();
        let last = memory.entries.last_key_value().map(|(_, e)| *e.get_log_id());
        let last = last.or(memory.purged);
        let term = memory.vote.map_or(0, |v| v.leader_id().term);
        let entries = memory.entries.values().cloned().collect();
        let of_log = last.map_or((0, 0), |id| (id.leader_id.term, id.index));
        (entries, term.max(of_log.0), of_log.1)
    }

    /// The end of the log: its entry's term and index.
    pub fn end(&self) -> (u64, u64) {
        let memory = self.memory();
        let last = memory.entries.last_key_value().map(|(_, e)| *e.get_log_id());
        last.or(memory.purged).map_or((0, 0), |id| (id.leader_id.term, id.index))
    }

    /// The log is empty behind `at`, as [`super::reset`] has stored it.
    pub(super) fn begin_anew(&self, vote: Vote<u64>, at: LogId<u64>) {
        let (purged, committed) = (Some(at), Some(at));
        *self.memory() = Memory { entries: BTreeMap::new(), purged, vote: Some(vote), committed };
    }

    /// Runs a batch with a synced WAL on a blocking thread.
    async fn write(&self, batch: Vec<Change>, sync: bool) -> std::io::Result<()> {
        let db = self.db.clone();
        tokio::task::spawn_blocking(move || write(&db, batch, sync).map_err(std::io::Error::other))
            .await
            .map_err(std::io::Error::other)?
    }
}

enum Change {
    Put(u64, Vec<u8>),
    /// Removes `from..to`.
    Remove(u64, u64),
    Meta(&'static [u8], Vec<u8>),
}

fn write(db: &DB, changes: Vec<Change>, sync: bool) -> anyhow::Result<()> {
    let log = db.cf_handle(LOG).context("no log column family")?;
    let meta = db.cf_handle(META).context("no meta column family")?;
    let mut batch = WriteBatch::default();
    for change in changes {
        match change {
            Change::Put(index, text) => batch.put_cf(log, index.to_be_bytes(), text),
            Change::Remove(from, to) => {
                batch.delete_range_cf(log, from.to_be_bytes(), to.to_be_bytes());
            }
            Change::Meta(key, text) => batch.put_cf(meta, key, text),
        }
    }
    let mut options = WriteOptions::default();
    options.set_sync(sync);
    Ok(db.write_opt(batch, &options)?)
}

fn value<T: serde::de::DeserializeOwned>(db: &DB, key: &[u8]) -> anyhow::Result<Option<T>> {
    let meta = db.cf_handle(META).context("no meta column family")?;
    let Some(text) = db.get_cf(meta, key)? else { return Ok(None) };
    Ok(Some(serde_json::from_slice(&text)?))
}

// The error's size is openraft's choice, and its traits ask for it unboxed.
#[allow(clippy::result_large_err)]
fn json<T: serde::Serialize>(value: &T) -> Result<Vec<u8>, StorageError> {
    serde_json::to_vec(value).map_err(|e| StorageIOError::write(&e).into())
}

impl RaftLogReader<Types> for LogStore {
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + Debug + Send>(
        &mut self,
        range: R,
    ) -> Result<Vec<Entry<Types>>, StorageError> {
        Ok(self.memory().entries.range(range).map(|(_, e)| e.clone()).collect())
    }
}

impl RaftLogStorage<Types> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, StorageError> {
        let memory = self.memory();
        let last = memory.entries.last_key_value().map(|(_, e)| *e.get_log_id());
        Ok(LogState { last_purged_log_id: memory.purged, last_log_id: last.or(memory.purged) })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote<u64>) -> Result<(), StorageError> {
        let change = Change::Meta(VOTE, json(vote)?);
        self.write(vec![change], true).await.map_err(|e| StorageIOError::write_vote(&e))?;
        self.memory().vote = Some(*vote);
        Ok(())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote<u64>>, StorageError> {
        Ok(self.memory().vote)
    }

    async fn save_committed(&mut self, committed: Option<LogId<u64>>) -> Result<(), StorageError> {
        // Not synced: it only lets a restart apply at once what is known to be committed.
        if let Some(id) = committed {
            let change = Change::Meta(COMMITTED, json(&id)?);
            self.write(vec![change], false).await.map_err(|e| StorageIOError::write(&e))?;
        }
        self.memory().committed = committed;
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId<u64>>, StorageError> {
        Ok(self.memory().committed)
    }

    async fn append<I>(&mut self, entries: I, done: LogFlushed<Types>) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = Entry<Types>> + Send,
        I::IntoIter: Send,
    {
        let entries: Vec<Entry<Types>> = entries.into_iter().collect();
        let mut changes = Vec::with_capacity(entries.len());
        for entry in &entries {
            changes.push(Change::Put(entry.get_log_id().index, json(entry)?));
        }
        // Readable before it is durable, as openraft asks for.
        self.memory().entries.extend(entries.into_iter().map(|e| (e.get_log_id().index, e)));
        done.log_io_completed(self.write(changes, true).await);
        Ok(())
    }

    async fn truncate(&mut self, from: LogId<u64>) -> Result<(), StorageError> {
        self.memory().entries.split_off(&from.index);
        let change = Change::Remove(from.index, u64::MAX);
        Ok(self.write(vec![change], true).await.map_err(|e| StorageIOError::write_logs(&e))?)
    }

    async fn purge(&mut self, upto: LogId<u64>) -> Result<(), StorageError> {
        {
            let mut memory = self.memory();
            memory.entries = memory.entries.split_off(&(upto.index + 1));
            memory.purged = Some(upto);
        }
        let changes = vec![Change::Meta(PURGED, json(&upto)?), Change::Remove(0, upto.index + 1)];
        Ok(self.write(changes, true).await.map_err(|e| StorageIOError::write_logs(&e))?)
    }
}
