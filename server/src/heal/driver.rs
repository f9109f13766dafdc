//! Brings one brick of this peer back whenever the map says that it is syncing.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use client::transport::{BrickClient, Connector, Counters, Identity, Proof, Pushes, Target};
use proto::fop::{Call, ChangedItem, Recall};
use proto::map::{MemberState, VolumeMap};
use proto::{BrickId, Epoch, Errno, Failure, Refusal, SessionId};
use proto_grpc::peer::HealRun;
use proto_rules::set::SetEntry;
use tokio::sync::{oneshot, watch};

use super::job::{self, Base, Surroundings};
use super::progress::Progress;
use super::side::{Answered, HealError, Side, Waits};
use crate::brick::manager::Manager;
use crate::brick::{BrickCommand, BrickHandle};
use crate::pool::Pool;
use crate::promise::Board;

/// Between attempts. Doubles up to the second value: a rejoin soon after a leave of its own
/// must not shake the set again and again.
const AGAIN_FIRST: Duration = Duration::from_millis(300);
const AGAIN_MAX: Duration = Duration::from_secs(10);
/// How long one operation is tried again while its brick refuses for a passing reason.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
const CALL_AGAIN: Duration = Duration::from_millis(20);
/// The map with the committed join reaches us within a round trip; then the members serve.
const JOINED_TIMEOUT: Duration = Duration::from_secs(3);
/// Intervals asked for beyond the last one in-sync. Members hear the lead's number in pings: one
/// that serves is at most a promise's time (1.5 s) behind, in which joiners close at most one
/// interval each 250 ms.
const INTERVALS_BACK: u64 = 8;

/// The heal of one brick: the task that follows its map, and what it tells.
pub struct Heal {
    pub brick: BrickId,
    progress: Mutex<Arc<Progress>>,
    /// Why the last attempt ended; empty when none failed.
    trouble: Mutex<String>,
    syncing: AtomicU64,
}

impl Heal {
    pub fn new(brick: BrickId) -> Arc<Heal> {
        let (progress, trouble) = (Mutex::default(), Mutex::default());
        Arc::new(Heal { brick, progress, trouble, syncing: AtomicU64::new(0) })
    }

    /// For `volume heal info`; from memory, at once.
    pub fn status(&self) -> HealRun {
        let progress = lock(&self.progress).clone();
        let shown = progress.snapshot();
        let syncing = self.syncing.load(Ordering::Relaxed) != 0;
        let trouble = lock(&self.trouble).clone();
        let oldest = match (shown.oldest, trouble.is_empty(), syncing) {
            (_, _, false) => String::new(),
            (Some(oldest), _, _) => oldest,
            (None, false, _) => trouble,
            (None, true, _) => shown.phase.to_owned(),
        };
        HealRun {
            brick_id: self.brick.as_bytes().to_vec().into(),
            // The brick itself is pending until it is in-sync, whatever is left of the list.
            pending: if syncing { shown.pending.max(1) } else { 0 },
            bytes: 0,
            done_bytes: shown.bytes,
            rate: if syncing { shown.rate as u64 } else { 0 },
            eta_s: shown.eta_s.filter(|_| syncing),
            oldest,
        }
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
        while world.lead().is_none() {
            heal.syncing.store(0, Ordering::Relaxed);
            again = AGAIN_FIRST;
            if maps.changed().await.is_err() {
                return;
            }
        }
        heal.syncing.store(1, Ordering::Relaxed);
        let progress = Arc::new(Progress::default());
        *lock(&heal.progress) = progress.clone();
        let start = Instant::now();
        match job::attempt(&world, &progress).await {
            Ok(lead) => {
                lock(&heal.trouble).clear();
                let shown = progress.snapshot();
                tracing::info!(
                    brick = %heal.brick, %lead, inodes = shown.healed, bytes = shown.bytes,
                    took = ?start.elapsed(), "healed and in-sync"
                );
            }
            Err(error) => {
                *lock(&heal.trouble) = error.to_string();
                tracing::warn!(brick = %heal.brick, %error, "heal will be tried again");
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
        let target = Target { brick, host: peer.host.clone(), port: peer.data_port };
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

    async fn joined(&self, epoch: Epoch) -> Result<(), HealError> {
        let mut maps = self.maps.clone();
        let me = self.handle.identity;
        let wait = maps.wait_for(|map| {
            let set = map.set(me.set.set).filter(|s| s.epoch >= epoch);
            set.and_then(|s| s.member(me.brick))
                .is_some_and(|m| m.state == MemberState::InSync && m.incarnation == me.incarnation)
        });
        match tokio::time::timeout(JOINED_TIMEOUT, wait).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(HealError::Control("the committed join does not show in the map".into())),
        }
    }
}

impl Surroundings for World {
    fn lead(&self) -> Option<(BrickId, Epoch)> {
        if self.handle.gate.failed() {
            return None;
        }
        let map = self.map();
        let me = self.handle.identity;
        let set = map.set(me.set.set).filter(|_| map.started)?;
        let member = set.member(me.brick)?;
        let syncing = member.state == MemberState::Syncing && member.incarnation == me.incarnation;
        set.lead.filter(|_| syncing).map(|lead| (lead, set.epoch))
    }

    fn base(&self) -> Base {
        match self.handle.gate.in_sync_interval() {
            0 => Base::Everything,
            last => Base::Since(last.saturating_sub(INTERVALS_BACK)),
        }
    }

    fn side_of(&self, brick: BrickId) -> Arc<dyn Side> {
        self.side(brick)
    }

    fn own_side(&self) -> Arc<dyn Side> {
        self.side(self.handle.identity.brick)
    }

    fn take_over_log(&self, items: Vec<ChangedItem>, complete_since: u64) -> Waits<'_, ()> {
        Box::pin(async move {
            let (answer, taken) = oneshot::channel();
            let command = BrickCommand::TakeOverLog { items, complete_since, answer };
            let sent = self.handle.inbox.send(command).await.is_ok();
            let done = sent && taken.await.unwrap_or(false);
            done.then_some(()).ok_or_else(|| HealError::Control("our log takes no entries".into()))
        })
    }

    fn join(&self, epoch: Epoch) -> Waits<'_, ()> {
        Box::pin(async move {
            let me = self.handle.identity;
            if !self.board.offer_join(me.set, me.brick, epoch) {
                return Err(HealError::Control("the set is in another epoch".into()));
            }
            let joined = self.pool.propose_join(me.set, epoch, me.brick, me.incarnation).await;
            self.joined(joined.map_err(HealError::Control)?).await
        })
    }

    fn bump(&self, epoch: Epoch) -> Waits<'_, ()> {
        Box::pin(async move {
            let entry = SetEntry::Bump { epoch };
            let proposed = self.pool.propose_one(self.handle.identity.set, entry).await;
            proposed.map(|_| ()).map_err(|e| HealError::Control(e.to_string()))
        })
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
