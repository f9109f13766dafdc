//! `pool recover`: this peer goes on without a voter majority that is lost for ever.
//!
//! Purpose: what raft cannot do by itself, decided by an administrator. Assumes: the peers that
//! do not answer now never come back with their old state. Promises: nothing is changed while a
//! majority answers, or while another peer that answers knows more; the lost peers' bricks have
//! stopped serving before anybody goes on without them; the certificates of the lost peers are
//! void, and whoever of them comes back and speaks to a peer of this pool stops (see `dropped`).
//! Deliberately does not: tell a lost peer from one that is cut off. Nobody can.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proto::PeerId;
use proto_grpc::peer::{PingReply, PingRequest};
use proto_rules::SetKey;

use super::membership::Ask;
use super::raft::{self, RaftPeer};
use super::state::recover::{Left, left, recover};
use super::state::{PeerState, PoolState};
use super::{Pool, Running};

/// A peer that is up answers within a millisecond; here a mistake is expensive.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
/// The last promise given to a lost peer, 5 % longer than it counts there, and some slack.
const PROMISES_END: Duration = Duration::from_millis(1700);
/// A sole voter elects itself within a second.
const LEAD_TIMEOUT: Duration = Duration::from_secs(15);

/// What a recovery would do.
#[derive(Clone, Debug)]
pub struct Plan {
    pub lost: Vec<PeerState>,
    pub staying: Vec<PeerState>,
    /// Sets that have only an older copy left, in words.
    pub older: Vec<String>,
    /// Sets that have no copy left, in words.
    pub nothing: Vec<String>,
}

impl Pool {
    /// Looks who answers, and works out what a recovery would do.
    ///
    /// # Errors
    /// Why there is nothing to recover, or not here; one line.
    pub async fn recovery_plan(&self) -> Result<Plan, String> {
        let own = self.log_end().ok_or("this peer belongs to no pool")?;
        let state = self.state();
        let others = state.living().filter(|p| p.id != self.id());
        let asked = others.map(|peer| async move { (peer.clone(), self.answer_of(peer).await) });
        let answers = futures_util::future::join_all(asked).await;
        let (mut staying, mut lost) = (Vec::new(), Vec::new());
        for (peer, answer) in answers {
            let Some(answer) = answer else {
                lost.push(peer);
                continue;
            };
            if (answer.last_term, answer.last_index) > own {
                return Err(format!(
                    "{0} knows more of the pool than this peer; type 'brick pool recover' there",
                    peer.host
                ));
            }
            staying.push(peer);
        }
        let voters = self.voters();
        let own_node = self.membership().map(|m| m.node);
        let there =
            |node: &&u64| Some(**node) == own_node || staying.iter().any(|p| p.node == **node);
        let answering = voters.iter().filter(there).count();
        if answering > voters.len() / 2 {
            return Err(format!(
                "{answering} of {} voters answer, which is a majority: there is nothing to recover",
                voters.len()
            ));
        }
        let gone: BTreeSet<PeerId> =
            state.peers.values().filter(|p| p.lost).chain(&lost).map(|p| p.id).collect();
        let (older, nothing) = sets(&state, &gone);
        Ok(Plan { lost, staying, older, nothing })
    }

    async fn answer_of(&self, peer: &PeerState) -> Option<PingReply> {
        let mut client = self.peer_client(peer).ok()?;
        let ping = tokio::time::timeout(ANSWER_TIMEOUT, client.ping(PingRequest {}));
        Some(ping.await.ok()?.ok()?.into_inner())
    }

    /// Term and index of the last entry in this peer's log.
    pub fn log_end(&self) -> Option<(u64, u64)> {
        self.running().as_ref().map(|r| r.log.end())
    }

    /// Goes on without the peers in `lost`, which are those of a plan.
    ///
    /// # Errors
    /// Something is not as the plan said, or the state could not be stored. Nothing is changed.
    pub async fn recover(
        &self,
        expected: &BTreeSet<PeerId>,
        accept_loss: bool,
    ) -> Result<(), String> {
        let plan = self.recovery_plan().await?;
        let lost: BTreeSet<PeerId> = plan.lost.iter().map(|p| p.id).collect();
        if lost != *expected {
            return Err("other peers answer now than a moment ago; type it again".into());
        }
        if !plan.older.is_empty() && !accept_loss {
            return Err(format!(
                "{}; --accept-loss goes on with it, and what it lacks is gone",
                plan.older.join("; ")
            ));
        }
        let _one = self.0.transition.lock().await;
        self.stop_promising(&lost).await;
        if accept_loss {
            self.stop_older_bricks(&lost).await;
        }
        self.begin_anew(lost, accept_loss).await?;
        let mut metrics = self.raft().map_err(|e| e.to_string())?.metrics();
        let leads = metrics.wait_for(|m| m.current_leader == Some(m.id));
        match tokio::time::timeout(LEAD_TIMEOUT, leads).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err("the pool goes on here, but it has no leader yet; see brickd's log".into()),
        }
    }

    /// No promise that a lost peer may still hold is running when this returns.
    async fn stop_promising(&self, lost: &BTreeSet<PeerId>) {
        let state = self.state();
        let asks = state.volumes.values().flat_map(|v| v.sets.iter().map(move |s| (v.id, s)));
        let asks = asks.flat_map(|(volume, set)| {
            let key = SetKey { volume, set: set.id };
            let victims = set.in_sync().filter(|m| lost.contains(&m.peer));
            victims.map(move |m| {
                (set, Ask::StopPromising { set: key, epoch: set.epoch, victim: m.brick })
            })
        });
        let mut asked = Vec::new();
        for (set, ask) in asks {
            for peer in set.in_sync().filter_map(|m| state.peers.get(&m.peer)) {
                if !lost.contains(&peer.id) {
                    asked.push((peer, ask.clone()));
                }
            }
        }
        let answers = asked.iter().map(|(peer, ask)| self.ask(peer, ask));
        for answer in futures_util::future::join_all(answers).await {
            if let Err(why) = answer {
                tracing::info!(why, "no promise to stop");
            }
        }
        // A daemon that has just started does not know what its predecessor promised.
        tokio::time::sleep(PROMISES_END).await;
    }

    /// A brick that was not in-sync begins as the set's lead with nothing in memory.
    async fn stop_older_bricks(&self, lost: &BTreeSet<PeerId>) {
        let Some(hooks) = self.hooks() else { return };
        for spec in super::brick_driver::own_specs(self.id(), &self.state()) {
            let state = self.state();
            let set = state.volumes.get(&spec.volume).and_then(|v| v.set_of_brick(spec.brick));
            if set.is_some_and(|set| matches!(left(set, lost), Left::Older(_))) {
                hooks.bricks.stop(&spec).await;
            }
        }
    }

    async fn begin_anew(&self, lost: BTreeSet<PeerId>, accept_loss: bool) -> Result<(), String> {
        let running = self.0.running.write().expect("no panic under this lock").take();
        let Some(running) = running else { return Err("this peer belongs to no pool".into()) };
        running.reconcile.abort();
        if let Err(error) = running.raft.shutdown().await {
            tracing::warn!(%error, "raft did not stop cleanly");
        }
        let Running { pool, log, machine, .. } = running;
        let state = self.state();
        let stays = state.living().filter(|p| !lost.contains(&p.id));
        let nodes: BTreeMap<u64, RaftPeer> = stays
            .map(|p| {
                let (id, host, control_port) = (p.id, p.host.clone(), p.control_port);
                (p.node, RaftPeer { id, host, control_port })
            })
            .collect();
        let (node, parts) = (pool.node, (log.clone(), machine.clone()));
        let stored = tokio::task::spawn_blocking(move || {
            let change = |state: &mut PoolState, index: u64| {
                let before = state.peers.values().filter(|p| p.lost).map(|p| p.id);
                let all: BTreeSet<PeerId> = before.chain(lost.iter().copied()).collect();
                recover(state, index, &all, accept_loss)
            };
            raft::reset((&parts.0, &parts.1), node, nodes, change)
        });
        let stored =
            stored.await.map_err(|e| e.to_string()).and_then(|r| r.map_err(|e| format!("{e:#}")));
        // With the old log or with the new one.
        self.serve_log(pool, log, machine).await.map_err(|e| format!("{e:#}"))?;
        let index = stored?;
        tracing::warn!(index, "the pool was recovered without the lost peers");
        Ok(())
    }
}

/// In words: sets with an older copy only, and sets without any.
fn sets(state: &PoolState, gone: &BTreeSet<PeerId>) -> (Vec<String>, Vec<String>) {
    let (mut older, mut nothing) = (Vec::new(), Vec::new());
    for volume in state.volumes.values() {
        for set in &volume.sets {
            let name = format!("volume {} set {}", volume.name, set.id);
            match left(set, gone) {
                Left::Current => {}
                Left::Older(brick) => {
                    let member = set.member(brick);
                    let host = member.and_then(|m| state.peers.get(&m.peer));
                    let host = host.map_or("another peer", |p| p.host.as_str());
                    older.push(format!(
                        "{name}: all its current copies are on lost peers, {host} has an older one"
                    ));
                }
                Left::Nothing => nothing.push(format!("{name}: all its copies are on lost peers")),
            }
        }
    }
    (older, nothing)
}
