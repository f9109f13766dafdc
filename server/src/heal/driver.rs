//! Brings one brick of this peer back whenever the map says that it is syncing.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use client::transport::{BrickClient, Connector, Counters, Identity, Proof, Pushes, Target};
use proto::fop::{Call, ChangedItem, Recall};
use proto::map::{MemberState, VolumeMap};
use proto::{BrickId, Epoch, Errno, Failure, Gfid, Incarnation, Refusal, SessionId, SetId};
use proto_grpc::peer::HealRun;
use proto_rules::set::{COMPARE_ALL, SetEntry};
use tokio::sync::{oneshot, watch};

use super::job::{self, INTERVALS_BACK, Resume, Surroundings};
use super::progress::Progress;
use super::side::{Answered, HealError, Side, Waits};
use crate::brick::manager::Manager;
use crate::brick::{BrickCommand, BrickHandle, Facts, now};
use crate::pool::Pool;
use crate::promise::Board;

/// Between attempts. Doubles up to the second value: a rejoin soon after a leave of its own
/// must not shake the set again and again.
const AGAIN_FIRST: Duration = Duration::from_millis(300);
const AGAIN_MAX: Duration = Duration::from_secs(10);
/// How long one operation is tried again while its brick refuses for a passing reason.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
const CALL_AGAIN: Duration = Duration::from_millis(20);

/// The heal of one brick: the task that follows its map, and what it tells.
pub struct Heal {
    handle: BrickHandle,
    maps: watch::Receiver<Arc<VolumeMap>>,
    progress: Mutex<Arc<Progress>>,
    /// Why the last attempt ended; empty when none failed.
    trouble: Mutex<String>,
}

impl Heal {
    pub fn new(handle: BrickHandle, maps: watch::Receiver<Arc<VolumeMap>>) -> Arc<Heal> {
        Arc::new(Heal { handle, maps, progress: Mutex::default(), trouble: Mutex::default() })
    }

    /// For `volume heal info`; from memory, at once.
    pub fn status(&self) -> HealRun {
        let progress = lock(&self.progress).clone();
        let brick_id = self.handle.identity.brick.as_bytes().to_vec().into();
        let stale = self.handle.gate.stale_copies();
        let Some(waits_for) = self.waits_for() else {
            let oldest = match stale {
                0 => String::new(),
                n => format!("{n} copies differ from the others' and are healed one by one"),
            };
            let run = HealRun { brick_id, pending: stale, oldest, ..HealRun::default() };
            return HealRun { done_bytes: progress.snapshot().bytes, ..run };
        };
        let shown = progress.snapshot();
        let trouble = lock(&self.trouble).clone();
        let oldest = match (shown.oldest, trouble.is_empty()) {
            (Some(oldest), _) => oldest,
            (None, false) => trouble,
            (None, true) if shown.phase.is_empty() => waits_for,
            (None, true) => format!("{waits_for}: {}", shown.phase),
        };
        HealRun {
            brick_id,
            // The brick itself is pending until it is in-sync, whatever is left of the list.
            pending: shown.pending.max(1),
            bytes: shown.pending_bytes,
            done_bytes: shown.bytes,
            rate: shown.rate as u64,
            eta_s: shown.eta_s,
            oldest,
        }
    }

    /// Why the brick does not serve; `None`: it does. By its own promises, for the map that this
    /// peer has may be an old one: after a restart, or after a pause.
    fn waits_for(&self) -> Option<String> {
        let map = self.maps.borrow().clone();
        let me = self.handle.identity;
        let member = map.set(me.set.set).and_then(|s| s.member(me.brick))?;
        if !map.started {
            return None;
        }
        let why = match (member.state, member.incarnation == me.incarnation) {
            _ if self.handle.gate.failed() => "the brick took itself out of service",
            (MemberState::InSync, true) if now() < self.handle.gate.serve_until() => return None,
            (MemberState::InSync, true) => "the brick lacks the other members' promises",
            (MemberState::Syncing, true) => "the brick catches up",
            _ => "the brick has started and is not named yet",
        };
        Some(why.to_owned())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs for as long as the brick is served.
pub async fn supervise(
    manager: Arc<Manager>,
    pool: Pool,
    handle: BrickHandle,
    maps: watch::Receiver<Arc<VolumeMap>>,
    heal: Arc<Heal>,
) {
    let world = World {
        board: manager.board().clone(),
        manager,
        pool,
        handle,
        maps: maps.clone(),
        counters: Arc::default(),
    };
    let mut maps = maps;
    let mut again = AGAIN_FIRST;
    loop {
        while !world.catches_up() {
            again = AGAIN_FIRST;
            if maps.changed().await.is_err() {
                return;
            }
        }
        let progress = Arc::new(Progress::default());
        progress.expect_bytes(world.more_at_the_lead());
        *lock(&heal.progress) = progress.clone();
        let start = Instant::now();
        match job::attempt(&world, maps.clone(), &progress).await {
            Ok(lead) => {
                lock(&heal.trouble).clear();
                progress.phase("", 0);
                let shown = progress.snapshot();
                tracing::info!(
                    brick = %world.handle.identity.brick, %lead, inodes = shown.healed, bytes = shown.bytes,
                    took = ?start.elapsed(), "healed and in-sync"
                );
            }
            Err(error) => {
                *lock(&heal.trouble) = error.to_string();
                tracing::warn!(brick = %world.handle.identity.brick, %error, "heal will be tried again");
                tokio::time::sleep(again).await;
                again = (again * 2).min(AGAIN_MAX);
            }
        }
    }
}

struct World {
    manager: Arc<Manager>,
    board: Arc<Board>,
    pool: Pool,
    handle: BrickHandle,
    maps: watch::Receiver<Arc<VolumeMap>>,
    counters: Arc<Counters>,
}

impl World {
    fn map(&self) -> Arc<VolumeMap> {
        self.maps.borrow().clone()
    }

    /// A side for `brick`, by the address that the map has for it now.
    fn connect(&self, brick: BrickId) -> Option<Arc<BrickClient>> {
        let map = self.map();
        let (_, member) = map.member(brick)?;
        let peer = map.peer(member.peer)?;
        let target = Target::straight(brick, peer.host.clone(), peer.data_port);
        let session = SessionId(0);
        let proof = self.manager.peer_proof(brick, session)?;
        let identity = Identity {
            session,
            proof: Proof::Peer(proof.into()),
            host: format!("heal of {}", self.handle.identity.brick),
        };
        let connector = Connector::new(identity, Arc::new(NoPushes), self.counters.clone());
        Some(BrickClient::new(target, connector))
    }

    fn side(&self, brick: BrickId) -> Arc<dyn Side> {
        let set = self.handle.identity.set.set;
        Arc::new(Remote { client: self.connect(brick), maps: self.maps.clone(), set })
    }

    /// The map has a lead to copy from, and names this incarnation as catching up.
    fn catches_up(&self) -> bool {
        job::syncing(self, &self.map()).is_some_and(|set| set.lead.is_some())
    }

    /// By how much the lead's disk holds more than this brick's.
    fn more_at_the_lead(&self) -> u64 {
        let set = self.handle.identity.set;
        let lead = self.map().set(set.set).and_then(|s| s.lead);
        let facts = lead.and_then(|lead| self.board.heard(set, lead));
        let used = |f: Facts| f.total_bytes.saturating_sub(f.free_bytes);
        facts.map_or(0, used).saturating_sub(used(self.handle.gate.facts()))
    }
}

impl Surroundings for World {
    fn me(&self) -> (SetId, BrickId, Incarnation) {
        let me = self.handle.identity;
        (me.set.set, me.brick, me.incarnation)
    }

    fn failed(&self) -> bool {
        self.handle.gate.failed()
    }

    fn base(&self) -> Option<Resume> {
        let distrusted = |(_, m): (_, &proto::map::MemberMap)| m.reason == COMPARE_ALL;
        if self.map().member(self.handle.identity.brick).is_some_and(distrusted) {
            return None;
        }
        let in_sync = match self.handle.gate.in_sync_interval() {
            0 => None,
            // All had heard this number; one more, for a question overlaps.
            since => Some(Resume { since: since - 1, pending: Vec::new() }),
        };
        let resume = self
            .handle
            .gate
            .resume()
            .map(|noted| Resume { since: noted.since.saturating_sub(INTERVALS_BACK), ..noted });
        resume.or(in_sync)
    }

    fn note(&self, resume: Resume) -> Waits<'_, ()> {
        Box::pin(async move {
            let (answer, noted) = oneshot::channel();
            let command = BrickCommand::NoteHeal { resume, answer };
            let sent = self.handle.inbox.send(command).await.is_ok();
            let done = sent && noted.await.unwrap_or(false);
            done.then_some(())
                .ok_or_else(|| HealError::Control("our database takes no note".into()))
        })
    }

    fn side_of(&self, brick: BrickId) -> Arc<dyn Side> {
        self.side(brick)
    }

    fn own_side(&self) -> Arc<dyn Side> {
        self.side(self.handle.identity.brick)
    }

    fn take_over_log(&self, items: Vec<ChangedItem>, complete_since: Option<u64>) -> Waits<'_, ()> {
        Box::pin(async move {
            let (answer, taken) = oneshot::channel();
            let command = BrickCommand::TakeOverLog { items, complete_since, answer };
            let sent = self.handle.inbox.send(command).await.is_ok();
            let done = sent && taken.await.unwrap_or(false);
            done.then_some(()).ok_or_else(|| HealError::Control("our log takes no entries".into()))
        })
    }

    fn keeps(&self, lead: BrickId, marks: BTreeSet<(BrickId, Gfid)>) -> Waits<'_, BTreeSet<Gfid>> {
        Box::pin(async move {
            let (answer, kept) = oneshot::channel();
            let command = BrickCommand::Keeps { lead, marks, answer };
            let gone = || HealError::Control("our brick has stopped".into());
            self.handle.inbox.send(command).await.map_err(|_| gone())?;
            kept.await.map_err(|_| gone())
        })
    }

    fn offer(&self, epoch: Epoch) -> bool {
        let me = self.handle.identity;
        self.board.offer_join(me.set, me.brick, epoch)
    }

    fn agree(&self, member: BrickId, epoch: Epoch) -> Waits<'_, ()> {
        Box::pin(async move {
            let me = self.handle.identity;
            let joiner = (me.brick, me.incarnation);
            let asked = self.pool.ask_to_join(me.set, epoch, member, joiner);
            asked.await.map_err(HealError::Control)
        })
    }

    fn propose(&self, epoch: Epoch) -> Waits<'_, ()> {
        Box::pin(async move {
            let me = self.handle.identity;
            let proposed = self.pool.propose_join(me.set, epoch, me.brick, me.incarnation);
            proposed.await.map_err(HealError::Control)
        })
    }

    fn withdraw(&self, epoch: Epoch) -> Waits<'_, ()> {
        Box::pin(async move {
            let entry = SetEntry::Bump { epoch };
            let proposed = self.pool.propose_one(self.handle.identity.set, entry).await;
            proposed.map(|_| ()).map_err(|e| HealError::Control(e.to_string()))
        })
    }

    fn foreground_us(&self, lead: BrickId) -> u64 {
        let facts = self.board.heard(self.handle.identity.set, lead);
        facts.map_or(0, |f| f.foreground_us)
    }
}

/// A brick over the data plane, asked in whatever epoch its set is in now.
struct Remote {
    client: Option<Arc<BrickClient>>,
    maps: watch::Receiver<Arc<VolumeMap>>,
    set: proto::SetId,
}

impl Remote {
    async fn ask(&self, call: Call) -> proto::fop::Outcome {
        let client = self.client.as_ref().ok_or(Errno::ENOTCONN)?;
        let start = Instant::now();
        loop {
            let epoch = self.maps.borrow().set(self.set).map_or(Epoch::NONE, |s| s.epoch);
            let answer = client.call(&call, epoch, Vec::new(), Vec::new());
            let outcome = match tokio::time::timeout(CALL_TIMEOUT, answer).await {
                Ok(Ok(outcome)) => outcome,
                Ok(Err(error)) => {
                    tracing::debug!(brick = %client.brick(), %error, "heal");
                    return Err(Errno::ENOTCONN.into());
                }
                Err(_) => return Err(Errno::ETIMEDOUT.into()),
            };
            match outcome {
                Err(Failure::Refused(refusal)) if passing(refusal) => {
                    if start.elapsed() > CALL_TIMEOUT {
                        return outcome;
                    }
                    tokio::time::sleep(CALL_AGAIN).await;
                }
                outcome => return outcome,
            }
        }
    }
}

/// Refusals that end by themselves.
fn passing(refusal: Refusal) -> bool {
    matches!(refusal, Refusal::Epoch { .. } | Refusal::NotServing | Refusal::Grace | Refusal::Busy)
}

impl Side for Remote {
    fn call(&self, call: Call) -> Answered<'_> {
        Box::pin(self.ask(call))
    }
}

/// Peers are pushed nothing.
struct NoPushes;

impl Pushes for NoPushes {
    fn recall(&self, _: BrickId, _: Recall) {}

    fn welcome(&self, _: BrickId, _: Epoch, _: u64) {}
}
