//! The bricks of this peer: made, started, stopped, and kept informed.
//!
//! Purpose: the pool's `Bricks` and `Members` on one side, brick threads and the promise board
//! on the other.
//!
//! Assumes: the pool calls `start` again and again for every brick that should be served.
//!
//! Promises: a brick reports its new incarnation until it is in-sync; a brick that failed
//! leaves its set and is not started again by itself; a clean stop leaves the set first, so
//! that nobody waits for promises to run out.
//!
//! Deliberately does not: decide what is served (the pool's state).

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use async_trait::async_trait;
use proto::map::{MemberState, VolumeMap};
use proto::{BrickId, Epoch, Incarnation, PeerId, SessionId, VolumeId};
use proto_grpc::peer::{BrickRun, HealRun};
use proto_rules::promise::JoinRefused;
use proto_rules::restart::Report as BrickReport;
use proto_rules::set::{COMPARE_ALL, SetEntry};
use proto_rules::{SetKey, Tick};
use server_store::{Config, Store};
use tokio::sync::{mpsc, oneshot};

use super::io::Backend;
use super::{
    BrickCommand, BrickHandle, BrickIdentity, Gate, OLDEST_DISK_REQUEST, Owner, Setup, folder, now,
    spawn,
};
use crate::heal::{self, driver::Heal};
use crate::lead::PeerCredential;
use crate::listener::{Door, Doorman, Guard, Route, proof};
use crate::metrics::{BrickMetrics, Registry};
use crate::pool::bricks::{BrickSpec, Bricks, HealStatus, Members};
use crate::pool::membership::{Lack, Report};
use crate::pool::{Pool, PoolError};
use crate::promise::{Board, Reports};

/// A started brick says so again until the map has its incarnation in-sync.
const REPORT_EVERY: Duration = Duration::from_secs(1);
/// A leave that no majority takes does not hold up the end of the daemon.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(3);
/// Before a failed brick that could not leave tries again.
const LEAVE_AGAIN: Duration = Duration::from_secs(1);
/// How often the bricks' threads are looked at.
const WATCH_EVERY: Duration = Duration::from_secs(1);
/// One round of pings, and some slack.
const FAREWELL: Duration = Duration::from_millis(400);
/// Reports to the pool's leader that wait to be sent. Each comes again.
const REPORTS_MAX: usize = 64;

/// A brick that is served, or was until it failed.
struct Running {
    handle: BrickHandle,
    spec: BrickSpec,
    /// Follows the map and reports; ends with the brick.
    task: tokio::task::JoinHandle<()>,
    heal: Arc<Heal>,
    healer: tokio::task::JoinHandle<()>,
}

pub struct Manager {
    pool: Pool,
    backend: Backend,
    board: Arc<Board>,
    registry: Arc<Registry>,
    running: Mutex<BTreeMap<BrickId, Running>>,
    /// Starts and stops of one brick go one at a time; of different bricks they do not wait for
    /// each other, for a disk may hang.
    turns: Mutex<BTreeMap<BrickId, Arc<tokio::sync::Mutex<()>>>>,
    stopping: AtomicBool,
    runtime: tokio::runtime::Handle,
    me: Weak<Manager>,
}

impl Manager {
    /// To be made on the control runtime.
    pub fn new(pool: Pool, backend: Backend, registry: Arc<Registry>) -> Arc<Self> {
        let runtime = tokio::runtime::Handle::current();
        let (lacking, reports) = mpsc::channel(REPORTS_MAX);
        runtime.spawn(send_reports(pool.clone(), reports));
        let manager = Arc::new_cyclic(|me: &Weak<Manager>| {
            let from_board = FromBoard { lacking, manager: me.clone() };
            Self {
                board: Arc::new(Board::new(pool.id(), Arc::new(from_board))),
                pool,
                backend,
                registry,
                running: Mutex::default(),
                turns: Mutex::default(),
                stopping: AtomicBool::new(false),
                runtime,
                me: me.clone(),
            }
        });
        manager.runtime.spawn(watch_threads(manager.me.clone()));
        manager
    }

    /// The promises of this peer's bricks, for the promise thread and the heal.
    pub fn board(&self) -> &Arc<Board> {
        &self.board
    }

    /// A brick that is served here.
    pub fn handle(&self, brick: BrickId) -> Option<BrickHandle> {
        self.running().get(&brick).map(|r| r.handle.clone())
    }

    /// Every brick that is served here.
    pub fn handles(&self) -> Vec<BrickHandle> {
        self.running().values().map(|r| r.handle.clone()).collect()
    }

    /// Proof of being this peer, for a connection to any brick of the pool.
    pub fn peer_proof(&self, brick: BrickId, session: SessionId) -> Option<Vec<u8>> {
        let secret = proof::peer_secret(&self.pool.ticket_key()?);
        proof::make(&secret, proof::Purpose::Peer, self.pool.id(), brick, session).ok()
    }

    /// Present from a failure of the brick's disk to its next start.
    fn failed_mark(&self, brick: BrickId) -> PathBuf {
        self.pool.config().state_dir.join("failed").join(brick.to_string())
    }

    fn turn(&self, brick: BrickId) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = self.turns.lock().expect("no panic under this lock");
        turns.entry(brick).or_default().clone()
    }

    fn running(&self) -> MutexGuard<'_, BTreeMap<BrickId, Running>> {
        self.running.lock().expect("no panic under this lock")
    }

    async fn start_brick(&self, spec: &BrickSpec) -> Result<(), String> {
        let mut maps = self.pool.watch_map(spec.volume).ok_or("there is no such volume")?;
        let map = maps.borrow_and_update().clone();
        let set = SetKey { volume: spec.volume, set: spec.set };
        let identity = BrickIdentity {
            peer: self.pool.id(),
            brick: spec.brick,
            set,
            incarnation: Incarnation(fresh_number()?),
        };
        let (path, brick) = (PathBuf::from(&spec.path), spec.brick);
        let (tell, told) = oneshot::channel();
        let mark = self.failed_mark(brick);
        let failed = mark.exists();
        let (renewed, made) = (is_renewed(&map, brick), spec.clone());
        let open = move || {
            if renewed {
                folder::make_if_bare(&made)?;
            }
            let config = Config { distrusted: failed || renewed, ..Config::default() };
            let store = Store::open(&path, brick, config).map_err(|e| e.to_string())?;
            let opened = store.opened();
            // Nobody listens any more when the start was given up.
            let _ = tell.send((opened.clean, !opened.suspect(), store.epoch()));
            Ok(store)
        };
        let gate = Arc::new(Gate::default());
        let metrics = Arc::new(BrickMetrics::new(&spec.volume_name, spec.brick));
        let manager = self.me.upgrade().ok_or("the daemon ends")?;
        let setup = Setup {
            identity,
            backend: self.backend,
            gate: gate.clone(),
            metrics: metrics.clone(),
            owner: manager.clone(),
            credential: manager.clone(),
            map: Some(map.clone()),
        };
        let handle = spawn(setup, open).await?;
        if failed {
            // The brick itself has it on stable storage now that everything is to be compared.
            tracing::warn!(brick = %spec.brick, "its disk had failed: everything is compared");
            std::fs::remove_file(&mark).map_err(|e| format!("{}: {e}", mark.display()))?;
        }
        let (clean, memory_intact, durable) =
            told.await.map_err(|_| "the store said nothing".to_owned())?;
        self.board.brick_up(set, spec.brick, identity.incarnation, clean, gate);
        self.board.on_map(&map);
        self.registry.add(metrics);
        let report = BrickReport {
            brick: spec.brick,
            incarnation: identity.incarnation,
            memory_intact: memory_intact || clean,
            durable,
        };
        let heal = Heal::new(handle.clone(), maps.clone());
        let healing = heal::driver::supervise(
            manager.clone(),
            self.pool.clone(),
            handle.clone(),
            maps.clone(),
            heal.clone(),
        );
        let healer = self.runtime.spawn(healing);
        let task = self.runtime.spawn(follow(manager, handle.clone(), maps, report));
        tracing::info!(volume = spec.volume_name, path = spec.path, "brick started");
        let running = Running { handle, spec: spec.clone(), task, heal, healer };
        self.running().insert(spec.brick, running);
        Ok(())
    }

    /// Leaves the set, unless no other in-sync member is there to go on. False: not yet.
    async fn leave(&self, identity: BrickIdentity, reason: &str) -> bool {
        let Some(map) = self.pool.watch_map(identity.set.volume) else { return true };
        let map = map.borrow().clone();
        let Some(set) = map.set(identity.set.set) else { return true };
        // A volume that is stopped as a whole keeps its sets as they are.
        if !map.started {
            return true;
        }
        let named = set.member(identity.brick).is_some_and(|m| {
            m.state == MemberState::InSync && m.incarnation == identity.incarnation
        });
        if !named {
            return true;
        }
        if !self.board.may_leave(identity.set, identity.brick) {
            return false;
        }
        // Nobody is served from here on: the others may go on before this peer hears of it.
        self.board.brick_down(identity.set, identity.brick);
        let entry = SetEntry::Leave {
            epoch: set.epoch,
            brick: identity.brick,
            incarnation: identity.incarnation,
            reason: reason.to_owned(),
        };
        let proposed = self.pool.propose_one(identity.set, entry);
        match tokio::time::timeout(LEAVE_TIMEOUT, proposed).await {
            Ok(Ok(result)) => {
                tracing::info!(brick = %identity.brick, ?result, "left its set");
                return true;
            }
            Ok(Err(error)) => {
                tracing::warn!(brick = %identity.brick, %error, "leave not committed")
            }
            Err(_) => tracing::warn!(brick = %identity.brick, "leave not committed in time"),
        }
        false
    }

    async fn bump(&self, set: SetKey, epoch: Epoch) -> Result<(), PoolError> {
        self.pool.propose_one(set, SetEntry::Bump { epoch }).await.map(|_| ())
    }
}

fn note_failed(mark: &std::path::Path, reason: &str) -> std::io::Result<()> {
    use std::io::Write as _;
    let folder = mark.parent().ok_or(std::io::ErrorKind::InvalidInput)?;
    std::fs::create_dir_all(folder)?;
    let mut file = std::fs::File::create(mark)?;
    writeln!(file, "{reason}")?;
    file.sync_all()?;
    std::fs::File::open(folder)?.sync_all()
}

fn fresh_number() -> Result<u64, String> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(|e| format!("random numbers: {e}"))?;
    Ok(u64::from_le_bytes(bytes).max(1))
}

/// Whether the pool's leader is still to be told of a started brick. Also of one that is named and
/// catches up: if all in-sync members are lost meanwhile, the leader chooses among those it hears
/// of, and a new leader, or one in a new epoch, remembers no report.
fn to_be_reported(map: &VolumeMap, report: &BrickReport) -> bool {
    !map.member(report.brick).is_some_and(|(_, member)| {
        member.incarnation == report.incarnation && member.state == MemberState::InSync
    })
}

/// Passes maps on to a brick and the board, and reports the brick until it is in-sync.
async fn follow(
    manager: Arc<Manager>,
    handle: BrickHandle,
    mut maps: tokio::sync::watch::Receiver<Arc<VolumeMap>>,
    report: BrickReport,
) {
    let set = handle.identity.set;
    let mut every = tokio::time::interval(REPORT_EVERY);
    loop {
        tokio::select! {
            changed = maps.changed() => {
                if changed.is_err() {
                    return;
                }
                let map = maps.borrow_and_update().clone();
                manager.board.on_map(&map);
                if handle.inbox.send(BrickCommand::Map(map)).await.is_err() {
                    return;
                }
            }
            _ = every.tick() => {
                let due = to_be_reported(&maps.borrow(), &report);
                if due && !handle.gate.failed() {
                    let report = as_of_now(&report, handle.gate.noted());
                    manager.pool.report(Report::BrickUp { set, report }).await;
                }
            }
        }
    }
}

/// What a brick says of itself: as found at its start, unless it was in-sync since. What it had
/// lost before that was healed, and it has been running ever since.
fn as_of_now(found: &BrickReport, noted: Epoch) -> BrickReport {
    match noted {
        Epoch::NONE => found.clone(),
        durable => BrickReport { memory_intact: true, durable, ..found.clone() },
    }
}

/// A system call that its disk never ends holds a brick's whole thread, its own watch too, while
/// the promises go on: somebody else has to say that it is dead.
async fn watch_threads(manager: Weak<Manager>) {
    loop {
        tokio::time::sleep(WATCH_EVERY).await;
        let Some(manager) = manager.upgrade() else { return };
        for handle in manager.handles() {
            let (gate, now) = (&handle.gate, now());
            let beat = gate.beat();
            if gate.failed() || beat == Tick::ZERO || now.since(beat) < OLDEST_DISK_REQUEST {
                continue;
            }
            let reason = "its disk has held a request for 10 s";
            tracing::error!(brick = %handle.identity.brick, reason, "the brick leaves its set");
            gate.set_failed(reason);
            manager.failed(handle.identity, Epoch::NONE, reason);
        }
    }
}

/// Lacks are reported one after the other, the newest instead of a queue of old ones.
async fn send_reports(pool: Pool, mut lacking: mpsc::Receiver<Vec<Lack>>) {
    while let Some(mut lacks) = lacking.recv().await {
        while let Ok(newer) = lacking.try_recv() {
            lacks = newer;
        }
        pool.report(Report::Lacks { from: pool.id(), lacks }).await;
    }
}

#[async_trait]
impl Bricks for Manager {
    async fn prepare(&self, spec: &BrickSpec, force: bool) -> Result<(), String> {
        let (spec, state) = (spec.clone(), self.pool.state());
        let made = tokio::task::spawn_blocking(move || folder::prepare(&state, &spec, force));
        made.await.map_err(|e| e.to_string())?
    }

    async fn abandon(&self, spec: &BrickSpec) {
        self.stop(spec).await;
        let spec = spec.clone();
        let done = tokio::task::spawn_blocking(move || folder::abandon(&spec));
        match done.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(error, "a brick's folder stays marked"),
            Err(error) => tracing::warn!(%error, "a brick's folder stays marked"),
        }
    }

    async fn start(&self, spec: &BrickSpec) -> Result<(), String> {
        let turn = self.turn(spec.brick);
        let _turn = turn.lock().await;
        if self.stopping.load(Ordering::Acquire) {
            return Err("the daemon is stopping".into());
        }
        let known = self.running().get(&spec.brick).map(|r| r.handle.clone());
        match known {
            Some(handle) if handle.gate.failed() => {
                Err("it took itself out of service; check its disk and restart brickd".into())
            }
            Some(_) => Ok(()),
            None => self.start_brick(spec).await,
        }
    }

    async fn stop(&self, spec: &BrickSpec) {
        let turn = self.turn(spec.brick);
        let _turn = turn.lock().await;
        let Some(running) = self.running().remove(&spec.brick) else { return };
        let identity = running.handle.identity;
        if !running.handle.gate.failed() {
            self.leave(identity, "stopped").await;
        }
        running.task.abort();
        running.healer.abort();
        let (answer, stopped) = oneshot::channel();
        let asked = running.handle.inbox.send(BrickCommand::Stop(answer)).await.is_ok();
        let clean = asked && stopped.await.unwrap_or(false);
        self.board.brick_down(identity.set, identity.brick);
        self.registry.remove(identity.brick);
        tracing::info!(volume = spec.volume_name, path = spec.path, clean, "brick stopped");
    }

    async fn dropped(&self, spec: &BrickSpec) {
        let (spec, mark) = (spec.clone(), self.failed_mark(spec.brick));
        let noted = tokio::task::spawn_blocking(move || {
            // Of a start that is not to come any more.
            let _ = std::fs::remove_file(mark);
            folder::note_dropped(&spec);
        });
        if let Err(error) = noted.await {
            tracing::warn!(%error, "a dropped brick's folder is not marked");
        }
    }

    async fn stop_all(&self) {
        self.stopping.store(true, Ordering::Release);
        let specs: Vec<BrickSpec> = self.running().values().map(|r| r.spec.clone()).collect();
        futures_util::future::join_all(specs.iter().map(|spec| self.stop(spec))).await;
        // Some pings carry the bricks' goodbye to the other peers.
        tokio::time::sleep(FAREWELL).await;
    }

    fn status(&self, volume: VolumeId) -> Vec<BrickRun> {
        let running = self.running();
        let of_volume = running.values().filter(|r| r.spec.volume == volume);
        of_volume
            .map(|r| {
                let (facts, failed) = (r.handle.gate.facts(), r.handle.gate.failed());
                BrickRun {
                    brick_id: r.spec.brick.as_bytes().to_vec().into(),
                    online: !failed,
                    port: self.pool.config().data_port.into(),
                    pid: std::process::id(),
                    incarnation: r.handle.identity.incarnation.0,
                    free_bytes: facts.free_bytes,
                    total_bytes: facts.total_bytes,
                    error: if failed {
                        format!("out of service: {}", r.handle.gate.why_failed())
                    } else {
                        String::new()
                    },
                    noted_epoch: r.handle.gate.noted().0,
                    stale_copies: r.handle.gate.stale_copies(),
                    // Asked of the disk only by who wants to know (`pool::disk`).
                    disk: None,
                }
            })
            .collect()
    }
}

/// What the brick notes of itself is of another history, of a pool that was lost, or is not there:
/// its peer has another identity than when it was in-sync.
fn is_renewed(map: &VolumeMap, brick: BrickId) -> bool {
    map.member(brick).is_some_and(|(_, member)| {
        member.state != MemberState::InSync && member.reason == COMPARE_ALL
    })
}

#[async_trait]
impl Members for Manager {
    async fn stop_promising(&self, set: SetKey, epoch: Epoch, victim: BrickId) -> bool {
        let Some(until) = self.board.stop(set, epoch, victim) else { return false };
        let rest = until.since(now());
        tokio::time::sleep(Duration::from_nanos(rest)).await;
        now() >= until || until == Tick::ZERO
    }

    async fn agree_join(
        &self,
        set: SetKey,
        epoch: Epoch,
        joiner: BrickId,
        incarnation: Incarnation,
    ) -> Result<(), String> {
        self.board.agree_join(set, epoch, (joiner, incarnation)).map_err(|refused| match refused {
            JoinRefused::NotInSync => "no in-sync member here".into(),
            JoinRefused::Epoch(epoch) => format!("the set is in epoch {epoch}"),
            JoinRefused::Joiner => "the joiner is not syncing under this incarnation".into(),
            JoinRefused::Another => "another join is under way".into(),
        })
    }

    async fn trust_copies(&self, set: SetKey, source: BrickId) -> Result<usize, String> {
        let map = self.pool.watch_map(set.volume).ok_or("there is no such volume")?;
        let lead = map.borrow().set(set.set).and_then(|s| s.lead);
        let handle = lead.and_then(|lead| self.handle(lead)).ok_or("its set's lead is not here")?;
        let (answer, trusted) = oneshot::channel();
        let gone = |_| "its set's lead has stopped".to_owned();
        let command = BrickCommand::TrustCopies { source, answer };
        handle.inbox.send(command).await.map_err(|_| gone(()))?;
        trusted.await.map_err(|_| gone(()))?
    }

    async fn retire(
        &self,
        set: SetKey,
        epoch: Epoch,
        brick: BrickId,
        incarnation: Incarnation,
    ) -> Result<(), String> {
        // Neither a start nor a stop of it is under way.
        let turn = self.turn(brick);
        let _turn = turn.lock().await;
        let named =
            |h: &BrickHandle| (h.identity.set, h.identity.incarnation) == (set, incarnation);
        let handle = self.handle(brick).filter(named);
        let handle = handle.ok_or("this incarnation does not run here")?;
        if handle.gate.stale_elsewhere() > 0 {
            return Err("a member that stays has copies that differ".into());
        }
        match self.board.retire(set, brick, epoch) {
            true => Ok(()),
            false => Err("no other in-sync member is heard in that epoch".into()),
        }
    }
}

impl HealStatus for Manager {
    fn heal_status(&self, volume: VolumeId) -> Vec<HealRun> {
        let running = self.running();
        running.values().filter(|r| r.spec.volume == volume).map(|r| r.heal.status()).collect()
    }
}

impl Owner for Manager {
    fn failed(&self, identity: BrickIdentity, _: Epoch, reason: &str) {
        let Some(manager) = self.me.upgrade() else { return };
        let reason = reason.to_owned();
        self.board.brick_down(identity.set, identity.brick);
        let mark = self.failed_mark(identity.brick);
        self.runtime.spawn(async move {
            // Its own disk can hold no note. Without this one, a restart after the file system
            // was mounted anew would take the brick's files for what was acknowledged.
            let (text, marked) = (reason.clone(), mark.clone());
            let noted = tokio::task::spawn_blocking(move || note_failed(&marked, &text)).await;
            if !matches!(noted, Ok(Ok(()))) {
                tracing::error!(?mark, "that the brick failed cannot be noted");
            }
            // The last one in-sync stays named, and answers nobody: it leaves when another is there.
            while !manager.leave(identity, &reason).await {
                if manager.stopping.load(Ordering::Acquire) {
                    return;
                }
                tokio::time::sleep(LEAVE_AGAIN).await;
            }
        });
    }

    fn withdraw_join(&self, identity: BrickIdentity, epoch: Epoch) {
        let Some(manager) = self.me.upgrade() else { return };
        self.runtime.spawn(async move {
            if let Err(error) = manager.bump(identity.set, epoch).await {
                tracing::warn!(%error, "a join that takes too long is not withdrawn yet");
            }
        });
    }
}

impl PeerCredential for Manager {
    fn proof(&self, brick: BrickId, session: SessionId) -> Option<Vec<u8>> {
        self.peer_proof(brick, session)
    }
}

impl Doorman for Manager {
    fn ticket_key(&self) -> Option<[u8; 32]> {
        self.pool.ticket_key()
    }

    fn is_peer(&self, peer: PeerId) -> bool {
        self.pool.state().trusts(peer)
    }

    fn me(&self) -> PeerId {
        self.pool.id()
    }

    fn brick(&self, brick: BrickId) -> Option<Door> {
        let running = self.running();
        let found = running.get(&brick).filter(|r| !r.handle.gate.failed())?;
        let map = self.pool.watch_map(found.spec.volume)?;
        let map = map.borrow();
        Some(Door {
            guard: guard(&map),
            inbox: found.handle.inbox.clone(),
            read_only: map.options.read_only,
        })
    }

    fn elsewhere(&self, brick: BrickId) -> Option<Route> {
        let state = self.pool.state();
        state.volumes.keys().find_map(|volume| {
            let map = self.pool.watch_map(*volume)?;
            let map = map.borrow();
            let (_, member) = map.member(brick)?;
            let peer = map.peer(member.peer).filter(|peer| peer.peer != self.pool.id())?;
            Some(Route { guard: guard(&map), host: peer.host.clone(), port: peer.data_port })
        })
    }
}

fn guard(map: &VolumeMap) -> Guard {
    let options = &map.options;
    Guard {
        volume: map.volume,
        allow: options.auth_allow.clone(),
        reject: options.auth_reject.clone(),
    }
}

/// The board's reports. The board is part of the manager, so this holds it weakly.
struct FromBoard {
    lacking: mpsc::Sender<Vec<Lack>>,
    manager: Weak<Manager>,
}

impl Reports for FromBoard {
    fn lacking(&self, lacks: Vec<Lack>) {
        // Full: the leader does not answer; the next round says it again.
        let _ = self.lacking.try_send(lacks);
    }

    fn newer_epoch(&self, set: SetKey, epoch: Epoch) {
        tracing::debug!(volume = %set.volume, set = %set.set, %epoch, "a later epoch is known elsewhere");
    }

    fn join_ended(&self, _: SetKey, brick: BrickId, joiner: BrickId) {
        tracing::info!(%brick, %joiner, "a join has ended by the joiner's word");
        let handle = self.manager.upgrade().and_then(|m| m.handle(brick));
        if let Some(handle) = handle {
            // Full: the pause ends by its length.
            let _ = handle.inbox.try_send(BrickCommand::JoinEnded);
        }
    }
}

#[cfg(test)]
mod tests {
    use proto::SetId;
    use proto::map::{MemberMap, SLOTS, SetMap};
    use proto::options::VolumeOptions;

    use super::*;

    #[test]
    fn a_started_brick_reports_until_it_is_in_sync() {
        let brick = BrickId::random();
        let mut map = VolumeMap {
            volume: VolumeId::random(),
            name: "gv0".into(),
            version: 1,
            stripe: 1,
            stripe_block: 1 << 20,
            replica: 1,
            started: true,
            sets: vec![SetMap {
                id: SetId(0),
                epoch: Epoch(5),
                lead: None,
                members: vec![MemberMap {
                    brick,
                    peer: PeerId::random(),
                    path: "/b".into(),
                    state: MemberState::Syncing,
                    incarnation: Incarnation(7),
                    reason: String::new(),
                }],
            }],
            slots: vec![SetId(0); SLOTS.into()],
            peers: Vec::new(),
            options: VolumeOptions::default(),
        };
        let report = |incarnation| BrickReport {
            brick,
            incarnation: Incarnation(incarnation),
            memory_intact: true,
            durable: Epoch(4),
        };
        assert!(to_be_reported(&map, &report(7)), "named, but not in-sync");
        map.sets[0].members[0].state = MemberState::InSync;
        assert!(to_be_reported(&map, &report(8)), "another incarnation");
        assert!(!to_be_reported(&map, &report(7)));
    }

    #[test]
    fn a_brick_that_was_in_sync_since_its_start_has_lost_nothing() {
        let found = BrickReport {
            brick: BrickId::random(),
            incarnation: Incarnation(7),
            memory_intact: false,
            durable: Epoch(5),
        };
        assert_eq!(as_of_now(&found, Epoch::NONE), found);
        let now = as_of_now(&found, Epoch(9));
        assert!(now.memory_intact && now.durable == Epoch(9));
    }
}
