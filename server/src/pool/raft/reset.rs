//! A log of its own for the survivor of a pool: what is left when the majority is lost for ever.
//!
//! Assumes that raft has stopped here. All that the log holds counts as committed: the lost
//! majority may have committed it, and nobody is left to ask. The state, changed by the caller,
//! becomes a snapshot far ahead of everything that anybody can have ([`JUMP`]), with this node as
//! its only voter; the other survivors are sent it like any peer that is behind.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context;
use openraft::{CommittedLeaderId, LogId, Membership, StoredMembership, Vote};
use rocksdb::{WriteBatch, WriteOptions};

use super::RaftPeer;
use super::log::{COMMITTED, LOG, LogStore, META, PURGED, VOTE};
use super::machine::{Machine, SNAPSHOT, STATE, Stored};
use crate::pool::state::PoolState;
use crate::pool::state::recover::JUMP;

/// Starts the log anew at node `me`, with `change` made to the state at the new log's first
/// index. `nodes`: who follows from there, `me` included. Blocking.
///
/// # Errors
/// `change` refused, or RocksDB failed; nothing is changed then.
pub fn reset(
    (log, machine): (&LogStore, &Machine),
    me: u64,
    nodes: BTreeMap<u64, RaftPeer>,
    change: impl FnOnce(&mut PoolState, u64) -> Result<(), String>,
) -> anyhow::Result<u64> {
    let (entries, term, index) = log.all();
    let mut applied = machine.with(entries);
    let (term, index) = (term + JUMP, index.max(applied.state.applied) + JUMP);
    change(&mut applied.state, index).map_err(anyhow::Error::msg)?;
    let at = LogId::new(CommittedLeaderId::new(term, me), index);
    let vote = Vote::new(term, me);
    applied.last = Some(at);
    applied.membership =
        StoredMembership::new(Some(at), Membership::new(vec![BTreeSet::from([me])], nodes));
    let stored = Stored::new(applied);
    let family = |name: &str| machine.db.cf_handle(name).context("a column family is missing");
    let mut batch = WriteBatch::default();
    batch.put_cf(family(STATE)?, SNAPSHOT, serde_json::to_vec(&stored)?);
    batch.put_cf(family(META)?, VOTE, serde_json::to_vec(&vote)?);
    batch.put_cf(family(META)?, COMMITTED, serde_json::to_vec(&at)?);
    batch.put_cf(family(META)?, PURGED, serde_json::to_vec(&at)?);
    batch.delete_range_cf(family(LOG)?, 0_u64.to_be_bytes(), u64::MAX.to_be_bytes());
    let mut options = WriteOptions::default();
    options.set_sync(true);
    machine.db.write_opt(batch, &options)?;
    log.begin_anew(vote, at);
    machine.replace(stored.applied);
    Ok(index)
}
