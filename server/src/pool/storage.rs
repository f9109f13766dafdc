//! The RocksDB of one membership in one pool.
//!
//! Named after the pool and the node number, so that a peer that was detached and joins again
//! never finds its old log.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use rocksdb::{ColumnFamilyDescriptor, DB, Options};

use super::identity::PoolIdentity;
use super::published::Published;
use super::raft::log::{self, LogStore};
use super::raft::machine::{self, Machine};

const PREFIX: &str = "pool-";

fn path(state_dir: &Path, pool: &PoolIdentity) -> PathBuf {
    state_dir.join(format!("{PREFIX}{}-{}", pool.pool_id, pool.node))
}

/// Opens, or makes, the log and the state machine. Blocking.
///
/// # Errors
/// RocksDB's, or content that cannot be understood.
pub fn open(
    state_dir: &Path,
    pool: &PoolIdentity,
    published: Arc<Published>,
) -> anyhow::Result<(LogStore, Machine)> {
    let path = path(state_dir, pool);
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    // Kilobytes of data: RocksDB's defaults would keep 64 MiB buffers and 1000 log files.
    options.set_write_buffer_size(4 << 20);
    options.set_max_total_wal_size(16 << 20);
    options.set_keep_log_file_num(2);
    options.set_max_background_jobs(2);
    let families = [log::LOG, log::META, machine::STATE]
        .map(|name| ColumnFamilyDescriptor::new(name, Options::default()));
    let db = DB::open_cf_descriptors(&options, &path, families)
        .with_context(|| path.display().to_string())?;
    let db = Arc::new(db);
    Ok((LogStore::open(db.clone())?, Machine::open(db, published)?))
}

/// Keeps the log of a membership that another peer ended, under a name that nothing opens.
///
/// # Errors
/// The folder cannot be renamed.
pub fn set_aside(state_dir: &Path, pool: &PoolIdentity) -> anyhow::Result<()> {
    let aside = state_dir.join(format!("dropped-{}-{}", pool.pool_id, pool.node));
    let renamed = std::fs::rename(path(state_dir, pool), &aside);
    renamed.with_context(|| aside.display().to_string())
}

/// Removes what memberships that are over left behind.
///
/// # Errors
/// A folder that cannot be read or removed.
pub fn remove_leftovers(state_dir: &Path, current: Option<&PoolIdentity>) -> anyhow::Result<()> {
    let keep = current.map(|pool| path(state_dir, pool));
    for entry in std::fs::read_dir(state_dir).with_context(|| state_dir.display().to_string())? {
        let path = entry?.path();
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        let ours = name.starts_with(PREFIX) && path.is_dir();
        if ours && Some(&path) != keep.as_ref() {
            std::fs::remove_dir_all(&path).with_context(|| path.display().to_string())?;
        }
    }
    Ok(())
}
