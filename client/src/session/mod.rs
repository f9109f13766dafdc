//! One session of one volume: everything between the caching volume and the replica sets.
//!
//! ```text
//! control.rs    what is asked of the pool: ticket, map; grpc.rs asks real peers
//! maps.rs       the watch on the map: newer versions only, another peer when a stream ends
//! heartbeat.rs  one renewal per brick each 300 ms: leases, settled marks, the leads' clocks
//! leases.rs     what is held, who uses it, what has to go back
//! locks.rs      advisory locks that are held, and their claims from a new lead
//! recall.rs     the task that gives back, reclaims, and tells what was lost
//! space.rs      what may be taken on a set before its lead has to be asked
//! needs.rs      which leases an operation needs
//! perform.rs    one operation: place, leases, change or read
//! below.rs      the seam to the volume (`layer::Below`)
//! ```
//!
//! Assumes: `connect` is called on a runtime that outlives the session; operations may come
//! from any thread (workers have called `transport::shard::set_worker`).
//!
//! Promises: refusals never leave this layer; an operation ends within `client.op-timeout`;
//! a lease is given back only after the keeper has written back and nothing uses it; a recall
//! never waits behind an operation that waits for a lead, because it runs in a task of its own.
//!
//! Deliberately does not: cache anything but leases and directories' bucket counts.

mod below;
pub mod control;
pub mod grpc;
mod heartbeat;
mod leases;
mod locks;
mod maps;
mod needs;
mod perform;
mod recall;
mod space;
mod stamps;

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, RwLock, Weak};
use std::time::Duration;

use proto::fop::{Call, Recall, Release, ReturnMsg};
use proto::map::VolumeMap;
use proto::{BrickId, Epoch, SessionId, SetId};
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_stream::StreamExt;

use crate::clock;
use crate::distribute::BucketMemory;
use crate::layer::Keeper;
use crate::replicate::{Ask, Members, Notices, ReplicaSet};
use crate::sync::lock;
use crate::transport::{Connector, Counters, Identity, Proof, Pushes};
use control::{ControlError, ControlPlane, MapStream, Ticket};
use grpc::{Access, GrpcControl};
use leases::Leases;
use stamps::Stamps;

/// A volume none of whose bricks says a word in this time cannot be mounted. As long as a
/// restart of all members may take that waits for the last of them, and some.
const FIRST_WORD_TIMEOUT: Duration = Duration::from_secs(40);
/// How long a clean end may wait for leads to take the leases back: they run out anyway.
const GOODBYE_TIMEOUT: Duration = Duration::from_millis(1000);
/// Returns in one message, as `Fop::check` allows.
const RETURNS_MAX: usize = 4096;

/// What to mount, from whom, with what.
#[derive(Clone, Debug)]
pub struct Options {
    /// `host` or `host:port` of any peers of the pool, in order of preference.
    pub servers: Vec<String>,
    pub volume: String,
    /// Absolute path inside the volume that the ticket is for; empty: the whole volume.
    pub subdir: String,
    pub read_only: bool,
    pub access: Access,
    /// Name of this client, for people.
    pub host: String,
}

#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    #[error("volume {volume}: {source}")]
    Control { volume: String, source: ControlError },
    #[error("volume {0} does not exist any more")]
    Deleted(String),
}

/// One set: its members, its leases, and the space taken on it.
struct SetState {
    replica: Arc<ReplicaSet>,
    leases: Arc<Leases>,
    credit: space::Credit,
}

/// See the module.
pub struct Session {
    id: SessionId,
    read_only: bool,
    control: Arc<dyn ControlPlane>,
    members: Arc<Members>,
    sets: RwLock<Vec<Arc<SetState>>>,
    buckets: BucketMemory,
    stamps: Stamps,
    keeper: OnceLock<Arc<dyn Keeper>>,
    counters: Arc<Counters>,
    /// Where the session's own tasks run.
    home: Handle,
    /// A member spoke of a newer epoch than the map's.
    map_is_old: Notify,
    ended: AtomicBool,
    ending: Notify,
    connector: Arc<Connector>,
    host: String,
}

/// What connections call back; the session may be gone already.
#[derive(Default)]
struct Ears(Mutex<Weak<Session>>);

impl Ears {
    fn session(&self) -> Option<Arc<Session>> {
        lock(&self.0).upgrade()
    }
}

impl Pushes for Ears {
    fn recall(&self, brick: BrickId, recall: Recall) {
        if let Some(session) = self.session()
            && let Some(set) = session.set_of_brick(brick)
        {
            set.leases.recalled(brick, recall);
        }
    }

    fn welcome(&self, _: BrickId, _: Epoch, time_ns: u64) {
        // Only until the first renewal: that is a lead's word.
        if let Some(session) = self.session()
            && !session.stamps.is_set()
        {
            session.stamps.set(time_ns, clock::now());
        }
    }
}

impl Notices for Ears {
    fn session_unknown(&self, set: SetId, brick: BrickId) {
        if let Some(session) = self.session() {
            session.unknown_at(set, brick);
        }
    }

    fn map_is_old(&self) {
        if let Some(session) = self.session() {
            session.map_is_old.notify_one();
        }
    }
}

impl Session {
    /// Opens a session: ticket, map, heartbeats.
    ///
    /// # Errors
    /// The pool says no, or none of the servers answers.
    pub async fn connect(options: Options) -> Result<Arc<Session>, SessionError> {
        let Options { servers, volume, subdir, read_only, access, host } = options;
        let control = GrpcControl::new(&servers, access, &volume)
            .with_subdir(&subdir)
            .with_read_only(read_only);
        Session::over(Arc::new(control), &volume, &host).await
    }

    /// As `connect`, over any control plane.
    ///
    /// # Errors
    /// As `connect`.
    pub async fn over(
        control: Arc<dyn ControlPlane>,
        volume: &str,
        host: &str,
    ) -> Result<Arc<Session>, SessionError> {
        let failed = |source| SessionError::Control { volume: volume.to_owned(), source };
        let ticket = control.ticket().await.map_err(failed)?;
        let mut maps = control.watch_map(0).await.map_err(failed)?;
        let ended = || ControlError::Unreachable("the map stream ended".into());
        let first = maps.next().await.ok_or_else(ended).and_then(|map| map).map_err(failed)?;
        let map = first.ok_or_else(|| SessionError::Deleted(volume.to_owned()))?;
        let session = Session::start(control, ticket, map, maps, host);
        if timeout(FIRST_WORD_TIMEOUT, session.stamps.known()).await.is_err() {
            session.close().await;
            return Err(failed(ControlError::Unreachable("no brick of it answers".into())));
        }
        Ok(session)
    }

    fn start(
        control: Arc<dyn ControlPlane>,
        ticket: Ticket,
        map: VolumeMap,
        maps: MapStream,
        host: &str,
    ) -> Arc<Session> {
        let ears = Arc::new(Ears::default());
        let counters = Arc::new(Counters::default());
        let identity = identity(&ticket, host);
        let connector = Connector::new(identity, ears.clone(), counters.clone());
        let members = Members::new(map.clone(), connector.clone(), counters.clone(), ears.clone());
        let session = Arc::new(Session {
            id: ticket.session,
            read_only: ticket.read_only,
            control,
            members,
            sets: RwLock::default(),
            buckets: BucketMemory::default(),
            stamps: Stamps::default(),
            keeper: OnceLock::new(),
            counters,
            home: Handle::current(),
            map_is_old: Notify::new(),
            ended: AtomicBool::new(false),
            ending: Notify::new(),
            connector,
            host: host.to_owned(),
        });
        *lock(&ears.0) = Arc::downgrade(&session);
        session.note_sets(&map);
        session.spawn(maps::watch(session.clone(), maps));
        session.spawn(heartbeat::beat(session.clone()));
        session.spawn(maps::renew_ticket(session.clone(), ticket.valid));
        session
    }

    /// Runs a task of the session until it ends.
    fn spawn(self: &Arc<Self>, task: impl Future<Output = ()> + Send + 'static) {
        let session = self.clone();
        self.home.spawn(async move {
            tokio::select! {
                () = task => {}
                () = session.end() => {}
            }
        });
    }

    /// Returns when the session ends.
    async fn end(&self) {
        loop {
            let ending = self.ending.notified();
            if self.ended.load(Relaxed) {
                return;
            }
            ending.await;
        }
    }

    pub fn id(&self) -> SessionId {
        self.id
    }

    pub fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    fn set(&self, id: SetId) -> Option<Arc<SetState>> {
        let sets = self.sets.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        sets.get(id.0 as usize).cloned()
    }

    fn all_sets(&self) -> Vec<Arc<SetState>> {
        self.sets.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    fn set_of_brick(&self, brick: BrickId) -> Option<Arc<SetState>> {
        let map = self.members.map();
        let (set, _) = map.member(brick)?;
        self.set(set.id)
    }

    /// A member does not know the session; if it is the lead, all leases are gone.
    fn unknown_at(&self, set: SetId, brick: BrickId) {
        if self.set(set).is_some_and(|state| state.leases.unknown_at(brick)) {
            tracing::warn!(%set, %brick, "the lead does not know this session: its leases are gone");
        }
    }

    /// Sets and leads of a new map, before anybody sends anything by it.
    fn note_sets(self: &Arc<Self>, map: &VolumeMap) {
        for set in &map.sets {
            let state = self.set(set.id).unwrap_or_else(|| self.add_set(set.id));
            let lead = set.lead.and_then(|lead| set.member(lead));
            if let Some(lead) = lead {
                state.leases.on_map(set.epoch, (lead.brick, lead.incarnation));
            }
        }
    }

    /// Sets are numbered from 0 and come in order.
    fn add_set(self: &Arc<Self>, id: SetId) -> Arc<SetState> {
        let replica = ReplicaSet::new(id, self.members.clone());
        let leases = Leases::new(self.counters.clone());
        let state = Arc::new(SetState { replica, leases, credit: space::Credit::default() });
        let mut sets = self.sets.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        sets.push(state.clone());
        drop(sets);
        self.spawn(recall::work(self.clone(), state.clone()));
        state
    }

    /// Ends the session in order: gives all leases back, says goodbye. The volume above must
    /// have written back everything.
    pub async fn close(&self) {
        let returns = self.all_sets().into_iter().map(|set| async move {
            for leases in set.leases.give_up().chunks(RETURNS_MAX) {
                let returns = leases.iter().map(|lease| ReturnMsg {
                    key: lease.key.into(),
                    number: lease.number,
                    keep: 0,
                    open: false,
                });
                let call = Call::new(Release { returns: returns.collect(), unpin: Vec::new() });
                let ask = Ask { call: &call, under: None, wants: Vec::new(), background: true };
                let deadline = clock::now().after(GOODBYE_TIMEOUT.as_nanos() as u64);
                // What is not taken back runs out by itself.
                if set.replica.ask(ask, deadline).await.is_err() {
                    return;
                }
            }
        });
        futures_util::future::join_all(returns).await;
        self.ended.store(true, Relaxed);
        self.ending.notify_waiters();
        for set in self.all_sets() {
            set.replica.close();
        }
        self.members.close();
    }
}

fn identity(ticket: &Ticket, host: &str) -> Identity {
    let proof = Proof::Ticket(ticket.bytes.clone());
    Identity { session: ticket.session, proof, host: host.to_owned() }
}

#[cfg(test)]
mod tests;
