//! The leader keeps raft's membership in line with the pool's peers.
//!
//! A new peer becomes a learner; who votes follows [`voters::desired`](super::state::voters).
//! Runs on every peer and acts only where raft leads, one step at a time, again until nothing differs.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use openraft::ChangeMembers;

use super::Pool;
use super::raft::{Raft, RaftPeer};
use super::state::PoolState;
use super::state::voters;

/// Also looks without any news, for steps that failed.
const EVERY: Duration = Duration::from_millis(500);
/// A learner this close to the leader's log may vote.
const LAG_MAX: u64 = 50;

pub async fn run(pool: Pool, raft: Raft) {
    let mut state = pool.watch_state();
    let mut metrics = raft.server_metrics();
    loop {
        tokio::select! {
            changed = state.changed() => if changed.is_err() { return },
            changed = metrics.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(EVERY) => {}
        }
        while step(&pool, &raft).await {}
    }
}

/// One change, if one is due and went through.
async fn step(pool: &Pool, raft: &Raft) -> bool {
    let state = pool.state();
    let (due, id) = {
        let metrics = raft.metrics();
        let now = metrics.borrow();
        if now.current_leader != Some(now.id) || state.secrets.is_none() {
            return false;
        }
        (due(&state, &now), now.id)
    };
    let Some(change) = due else { return false };
    tracing::info!(node = id, ?change, "raft membership");
    match raft.change_membership(change, true).await {
        Ok(_) => true,
        Err(error) => {
            tracing::warn!(%error, "raft membership");
            false
        }
    }
}

type Change = ChangeMembers<u64, RaftPeer>;

fn due(state: &PoolState, now: &openraft::RaftMetrics<u64, RaftPeer>) -> Option<Change> {
    let membership = now.membership_config.membership();
    let nodes: BTreeSet<u64> = membership.nodes().map(|(id, _)| *id).collect();
    let missing: BTreeMap<u64, RaftPeer> = state
        .living()
        .filter(|p| !nodes.contains(&p.node))
        .map(|p| {
            let (id, host, control_port) = (p.id, p.host.clone(), p.control_port);
            (p.node, RaftPeer { id, host, control_port })
        })
        .collect();
    if !missing.is_empty() {
        return Some(ChangeMembers::AddNodes(missing));
    }
    let current: BTreeSet<u64> = membership.voter_ids().collect();
    let desired = voters::desired(state, &current);
    let ready = |node: &u64| current.contains(node) || caught_up(now, *node);
    if desired != current && desired.iter().all(ready) {
        return Some(ChangeMembers::ReplaceAllVoters(desired));
    }
    let gone: BTreeSet<u64> = nodes
        .into_iter()
        .filter(|n| state.peer_by_node(*n).is_none_or(|p| p.lost) && !current.contains(n))
        .collect();
    (!gone.is_empty()).then_some(ChangeMembers::RemoveNodes(gone))
}

fn caught_up(now: &openraft::RaftMetrics<u64, RaftPeer>, node: u64) -> bool {
    let last = now.last_log_index.unwrap_or(0);
    let matched = now.replication.as_ref().and_then(|r| r.get(&node)).copied().flatten();
    matched.is_some_and(|id| id.index + LAG_MAX >= last)
}
