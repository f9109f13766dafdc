//! The leader's part in set membership: reports in, checked entries into the log.
//!
//! Members report what they lack and what started, again and again until the map says so; the
//! peer that leads the pool remembers the reports, decides by the pure rules (`proto_rules::{set, restart}`), has a
//! remaining member agree, and proposes. It keeps nothing that a new leader would miss.
//! Deliberately does not: decide who may serve. That is the promises' part.

pub mod change;
mod evict;
mod start;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use proto::map::{MemberState, SetMap};
use proto::{BrickId, Epoch, Incarnation, PeerId, VolumeId};
use proto_grpc::peer::Blob;
use proto_rules::restart::{Report as BrickReport, Restart};
use proto_rules::set::SetEntry;
use proto_rules::time::{MS, Nanos};
use proto_rules::{SetKey, Tick, members};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::command::{Command, CommandReply, SetResult};
use super::state::{PeerState, PoolState};
use super::{Pool, PoolError, clock};

/// Reports waiting for the driver. Each is sent again, so that dropping one costs a moment.
const REPORTS_MAX: usize = 1024;
/// A lack that was not reported again within this time is over: two pings and some slack.
const LACK_FRESH: Nanos = 1000 * MS;
/// Reports of one event arrive from several members; the first waits this long for the rest.
const GATHER: Duration = Duration::from_millis(30);
/// Decisions that wait for time, not for a report.
const TICK: Duration = Duration::from_millis(500);
/// A member waits out a promise (1.6 s) before it answers.
const ASK_TIMEOUT: Duration = Duration::from_secs(4);

/// What a member tells the leader.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Report {
    /// Promises that bricks of `from` lack now. Sent with every ping round while it lasts.
    Lacks { from: PeerId, lacks: Vec<Lack> },
    /// A brick's daemon started. Sent each second until the map names the incarnation.
    BrickUp { set: SetKey, report: BrickReport },
}

/// `holder` lacks the promise of `giver` in `epoch`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lack {
    pub set: SetKey,
    pub epoch: Epoch,
    pub holder: BrickId,
    pub giver: BrickId,
}

/// What a peer asks another about the members there.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Ask {
    StopPromising { set: SetKey, epoch: Epoch, victim: BrickId },
    AgreeJoin { set: SetKey, epoch: Epoch, joiner: BrickId, incarnation: Incarnation },
    TrustCopies { set: SetKey, source: BrickId },
    Retire { set: SetKey, epoch: Epoch, brick: BrickId, incarnation: Incarnation },
}

/// `Err` says why not.
pub type Answer = Result<(), String>;

#[derive(Clone, Debug)]
pub struct Inbox(mpsc::Sender<Report>);

pub fn inbox() -> (Inbox, mpsc::Receiver<Report>) {
    let (sender, receiver) = mpsc::channel(REPORTS_MAX);
    (Inbox(sender), receiver)
}

impl Pool {
    /// Sends a report to the leader; lost when there is none. The caller reports again.
    pub async fn report(&self, report: Report) {
        let Some(leader) = self.leader() else { return };
        if leader.id == self.id() {
            return self.take_report(report);
        }
        let send = async {
            let data = serde_json::to_vec(&report).ok()?;
            let mut request = tonic::Request::new(Blob { data: data.into() });
            request.set_timeout(Duration::from_secs(1));
            self.peer_client(&leader).ok()?.report(request).await.ok()
        };
        if send.await.is_none() {
            tracing::debug!(leader = leader.host, "report not taken");
        }
    }

    /// A report that arrived at this peer.
    pub(crate) fn take_report(&self, report: Report) {
        if self.0.membership.0.try_send(report).is_err() {
            tracing::warn!("membership reports come faster than they are handled");
        }
    }

    /// Asks the member `of` to agree to a join in `epoch`. Once one has agreed, the join must be
    /// committed or taken back (`never_serve`, or a bump).
    ///
    /// # Errors
    /// Why it did not agree.
    pub async fn ask_to_join(
        &self,
        set: SetKey,
        epoch: Epoch,
        of: BrickId,
        (joiner, incarnation): (BrickId, Incarnation),
    ) -> Result<(), String> {
        let state = self.state();
        let map = set_of(&state, set).filter(|m| m.epoch == epoch);
        let map = map.ok_or("the set is in another epoch")?;
        let peer = map.member(of).and_then(|m| state.peers.get(&m.peer));
        let peer = peer.ok_or("a member's peer left the pool")?;
        self.ask(peer, &Ask::AgreeJoin { set, epoch, joiner, incarnation }).await
    }

    /// Proposes a join to which every in-sync member has agreed.
    ///
    /// # Errors
    /// Not committed, or void.
    pub async fn propose_join(
        &self,
        set: SetKey,
        epoch: Epoch,
        brick: BrickId,
        incarnation: Incarnation,
    ) -> Result<(), String> {
        let entry = SetEntry::Join { epoch, brick, incarnation };
        match self.propose_one(set, entry).await.map_err(|e| e.to_string())? {
            SetResult::NewEpoch { .. } => Ok(()),
            SetResult::Noted => Err("the join changed nothing".into()),
            SetResult::Void(why) => Err(format!("the join is void: {why}")),
        }
    }

    /// Proposes one membership entry, without any check.
    ///
    /// # Errors
    /// The pool's. That the entry is void is an `Ok`.
    pub async fn propose_one(&self, set: SetKey, entry: SetEntry) -> Result<SetResult, PoolError> {
        let reply = self.propose(Command::Membership(vec![(set, entry)])).await?;
        match reply {
            CommandReply::Membership { results, .. } => results
                .into_iter()
                .next()
                .map(|(_, result)| result)
                .ok_or_else(|| PoolError::Internal("empty membership reply".into())),
            other => Err(PoolError::Internal(format!("unexpected reply {other:?}"))),
        }
    }

    /// By an administrator's word: `source`'s copies are the good ones where none is left.
    ///
    /// # Errors
    /// Why not.
    pub async fn trust_copies(&self, set: SetKey, source: BrickId) -> Answer {
        let state = self.state();
        let map = set_of(&state, set).ok_or("there is no such set")?;
        let lead = map.lead.and_then(|lead| map.member(lead));
        let peer = lead.and_then(|m| state.peers.get(&m.peer)).ok_or("its set has no lead")?;
        self.ask(peer, &Ask::TrustCopies { set, source }).await
    }

    pub(super) async fn ask(&self, peer: &PeerState, ask: &Ask) -> Answer {
        if peer.id == self.id() {
            return self.answer(ask).await;
        }
        let unreachable = |e: &dyn std::fmt::Display| format!("{} does not answer: {e}", peer.host);
        let data = serde_json::to_vec(ask).map_err(|e| e.to_string())?;
        let mut request = tonic::Request::new(Blob { data: data.into() });
        request.set_timeout(ASK_TIMEOUT);
        let mut client = self.peer_client(peer).map_err(|e| unreachable(&e.message()))?;
        let reply = client.ask(request).await.map_err(|e| unreachable(&e.message()))?;
        serde_json::from_slice(&reply.into_inner().data).map_err(|e| unreachable(&e))?
    }

    /// This peer's answer to an [`Ask`].
    pub(crate) async fn answer(&self, ask: &Ask) -> Answer {
        let hooks = self.hooks().ok_or("the daemon is starting")?;
        match ask {
            Ask::StopPromising { set, epoch, victim } => {
                match hooks.members.stop_promising(*set, *epoch, *victim).await {
                    true => Ok(()),
                    false => Err("no in-sync member here in that epoch".into()),
                }
            }
            Ask::AgreeJoin { set, epoch, joiner, incarnation } => {
                hooks.members.agree_join(*set, *epoch, *joiner, *incarnation).await
            }
            Ask::TrustCopies { set, source } => {
                let trusted = hooks.members.trust_copies(*set, *source).await?;
                tracing::warn!(brick = %source, trusted, "copies are trusted by command");
                match trusted {
                    0 => Err("it has no copies that differ from all others'".into()),
                    _ => Ok(()),
                }
            }
            Ask::Retire { set, epoch, brick, incarnation } => {
                hooks.members.retire(*set, *epoch, *brick, *incarnation).await
            }
        }
    }
}

fn set_of(state: &PoolState, set: SetKey) -> Option<&SetMap> {
    state.volumes.get(&set.volume)?.sets.get(set.set.0 as usize)
}

/// The leader's memory. Forgotten when it stops leading.
#[derive(Default)]
struct Memory {
    lacks: BTreeMap<(SetKey, BrickId, BrickId), (Epoch, Tick)>,
    first: BTreeMap<SetKey, start::FirstStart>,
    restarts: BTreeMap<SetKey, Restart>,
    /// Sets for which something is being asked or proposed.
    busy: BTreeSet<SetKey>,
    /// Volumes whose bricks are being changed, and which are being asked how far they are.
    changing: BTreeSet<VolumeId>,
}

type Shared = Arc<std::sync::Mutex<Memory>>;

/// Takes reports for as long as the daemon runs; acts while this peer leads.
pub async fn drive(pool: Pool, mut reports: mpsc::Receiver<Report>) {
    let memory = Shared::default();
    loop {
        let first = tokio::select! {
            report = reports.recv() => match report {
                Some(report) => Some(report),
                None => return,
            },
            () = tokio::time::sleep(TICK) => None,
        };
        if let Some(report) = first {
            take(&pool, &memory, report);
            tokio::time::sleep(GATHER).await;
            while let Ok(report) = reports.try_recv() {
                take(&pool, &memory, report);
            }
        }
        if !pool.is_leader() {
            *lock(&memory) = Memory::default();
            continue;
        }
        evict::consider(&pool, &memory);
        start::consider(&pool, &memory);
        change::consider(&pool, &memory);
    }
}

fn lock(memory: &Shared) -> std::sync::MutexGuard<'_, Memory> {
    memory.lock().expect("no panic under this lock")
}

fn take(pool: &Pool, memory: &Shared, report: Report) {
    let (state, now, mut memory) = (pool.state(), clock::now(), lock(memory));
    match report {
        Report::Lacks { lacks, .. } => {
            for lack in lacks {
                if set_of(&state, lack.set).is_some_and(|m| m.epoch == lack.epoch) {
                    memory.lacks.insert((lack.set, lack.holder, lack.giver), (lack.epoch, now));
                }
            }
            memory.lacks.retain(|_, (_, at)| now.since(*at) < LACK_FRESH);
        }
        Report::BrickUp { set, report } => {
            let Some(map) = set_of(&state, set) else { return };
            let Some(member) = map.member(report.brick) else { return };
            // One that has left for good is being stopped, and is not named again.
            let changes = state.volumes.get(&set.volume).map(|v| v.changes_of(set.set));
            let leaves = changes.is_some_and(|changes| members::leaves(&changes, report.brick));
            if leaves && member.state != MemberState::InSync {
                return;
            }
            if map.epoch == Epoch::NONE {
                memory.first.entry(set).or_default().on_report(now, &report);
            } else {
                memory.first.remove(&set);
                memory.restarts.entry(set).or_default().on_report(now, map, report);
            }
        }
    }
}
