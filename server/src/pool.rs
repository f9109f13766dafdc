//! The pool: who belongs to it, what is configured, and who is in which set.
//!
//! Purpose: one replicated state ([`state`]) changed by one log ([`raft`]), and this peer's
//! handle on it. Assumes: a tokio runtime on which nothing blocks. Promises: what [`Pool::propose`]
//! reported as done is on stable storage of a majority of the voters, and this peer's
//! [`Pool::state`] has it; committed maps reach watchers as soon as they are applied here.
//! Deliberately does not: see file data or file metadata.

pub mod announce;
pub mod brick_driver;
pub mod bricks;
mod claim;
pub mod clock;
pub mod command;
pub mod disk;
pub mod dropped;
pub mod files;
pub mod identity;
pub mod join;
pub mod membership;
pub mod peers;
pub mod promise;
pub mod published;
pub mod raft;
pub mod reconcile;
pub mod recovery;
pub mod state;
pub mod storage;
pub mod ticket;
pub mod tls;
pub mod token;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, RwLock};
use std::time::Duration;

use anyhow::Context;
use openraft::error::{ClientWriteError, RaftError};
use proto::map::VolumeMap;
use proto::{PeerId, VolumeId};
use proto_grpc::peer::pool_client::PoolClient;
use proto_grpc::peer::{Blob, PingRequest};
use tokio::sync::watch;
use tonic::transport::Channel;

use crate::config::Config;
use bricks::{Bricks, HealStatus, Members};
use command::{Command, CommandReply, NewPeer, PoolSecrets};
use identity::{Identity, PoolIdentity};
use peers::{Channels, Lane};
use published::Published;
use raft::log::LogStore;
use raft::machine::Machine;
use raft::{Raft, RaftPeer, Types};
use state::{PeerState, PoolState};
use tls::Tls;

/// How long a change of the configuration waits for a leader and a majority.
const PROPOSE_TIMEOUT: Duration = Duration::from_secs(10);
const RETRY_EVERY: Duration = Duration::from_millis(50);
/// A living peer answers within a millisecond; a dead one should not delay `peer status`.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(1500);

#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    #[error("this peer belongs to no pool; 'brick peer probe HOST' or the first volume makes one")]
    NotPooled,
    #[error(
        "no majority of the pool's voters answers, so that nothing can be decided; nothing was \
         changed; check 'brick peer status'"
    )]
    NoMajority,
    #[error(
        "no majority of the pool's voters answered in time; it may still take effect when one is \
         back; check 'brick peer status', then look again"
    )]
    Undecided,
    #[error("pool: {0}")]
    Internal(String),
}

/// The request never left this machine, or was answered by a peer that does not lead.
fn never_sent(status: &tonic::Status) -> bool {
    use std::error::Error;
    let mut cause = status.source();
    while let Some(error) = cause {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        cause = error.source();
    }
    matches!(status.code(), tonic::Code::FailedPrecondition | tonic::Code::PermissionDenied)
}

/// This peer's handle on the pool. Cheap to clone.
#[derive(Clone)]
pub struct Pool(Arc<Inner>);

struct Inner {
    config: Config,
    identity: Identity,
    tls: Arc<Tls>,
    channels: Arc<Channels>,
    published: Arc<Published>,
    running: RwLock<Option<Running>>,
    /// One join, leave or pool creation at a time.
    transition: tokio::sync::Mutex<()>,
    /// Fingerprint of the pool that `brick peer accept` let in.
    accepted: Mutex<Option<[u8; 32]>>,
    hooks: OnceLock<Hooks>,
    local_secret: Mutex<Option<[u8; 32]>>,
    membership: membership::Inbox,
    /// Held for as long as this daemon uses its state folder.
    _claim: claim::Claim,
}

/// The parts of the daemon that own bricks, heals and promises.
#[derive(Clone)]
pub struct Hooks {
    pub bricks: Arc<dyn Bricks>,
    pub heal: Arc<dyn HealStatus>,
    pub members: Arc<dyn Members>,
}

struct Running {
    raft: Raft,
    pool: PoolIdentity,
    log: LogStore,
    machine: Machine,
    reconcile: tokio::task::JoinHandle<()>,
}

impl Pool {
    /// Opens this peer's part of the pool; un-pooled when it was never let into one.
    ///
    /// # Errors
    /// State that cannot be read, or a port or folder that cannot be used.
    pub async fn open(config: Config) -> anyhow::Result<Self> {
        files::private_folder(&config.state_dir)?;
        let claim = claim::Claim::take(&config.state_dir)?;
        let identity = Identity::load(&config.state_dir)?;
        let pooled = PoolIdentity::load(&config.state_dir)?;
        storage::remove_leftovers(&config.state_dir, pooled.as_ref())?;
        let tls = Arc::new(Tls::new(&identity, pooled.as_ref(), config.bind())?);
        let (inbox, reports) = membership::inbox();
        let pool = Self(Arc::new(Inner {
            channels: Arc::new(Channels::new(tls.clone())),
            published: Arc::default(),
            running: RwLock::default(),
            transition: tokio::sync::Mutex::default(),
            accepted: Mutex::default(),
            hooks: OnceLock::new(),
            local_secret: Mutex::default(),
            membership: inbox,
            config,
            identity,
            tls,
            _claim: claim,
        }));
        match pooled {
            Some(pooled) => pool.run(pooled).await?,
            None => pool.write_local_token()?,
        }
        tokio::spawn(membership::drive(pool.clone(), reports));
        tokio::spawn(dropped::watch(pool.clone()));
        Ok(pool)
    }

    /// Connects the daemon's other parts. Once.
    pub fn attach(&self, hooks: Hooks) {
        if self.0.hooks.set(hooks).is_err() {
            tracing::error!("the pool's hooks were attached twice");
        }
    }

    pub fn hooks(&self) -> Option<&Hooks> {
        self.0.hooks.get()
    }

    pub fn config(&self) -> &Config {
        &self.0.config
    }

    pub fn id(&self) -> PeerId {
        self.0.identity.id
    }

    pub fn tls(&self) -> &Arc<Tls> {
        &self.0.tls
    }

    /// The applied state of this peer. Empty while un-pooled.
    pub fn state(&self) -> Arc<PoolState> {
        self.0.published.state()
    }

    pub fn watch_state(&self) -> watch::Receiver<Arc<PoolState>> {
        self.0.published.watch_state()
    }

    /// The volume's map, now and after every change; `None` when there is no such volume. The
    /// channel closes when the volume is deleted.
    pub fn watch_map(&self, volume: VolumeId) -> Option<watch::Receiver<Arc<VolumeMap>>> {
        self.0.published.watch_map(volume)
    }

    /// What this peer is in its pool.
    pub fn membership(&self) -> Option<PoolIdentity> {
        self.running().as_ref().map(|r| r.pool.clone())
    }

    /// The key of tickets, once the pool's state is here.
    pub fn ticket_key(&self) -> Option<[u8; 32]> {
        self.state().secrets.as_ref().map(|s| s.ticket_key)
    }

    fn running(&self) -> std::sync::RwLockReadGuard<'_, Option<Running>> {
        self.0.running.read().expect("no panic under this lock")
    }

    pub(crate) fn raft(&self) -> Result<Raft, PoolError> {
        self.running().as_ref().map(|r| r.raft.clone()).ok_or(PoolError::NotPooled)
    }

    /// The peer that leads the pool, as far as known here.
    pub fn leader(&self) -> Option<PeerState> {
        let node = self.raft().ok()?.metrics().borrow().current_leader?;
        self.state().peer_by_node(node).cloned()
    }

    pub fn is_leader(&self) -> bool {
        self.leader().is_some_and(|leader| leader.id == self.id())
    }

    /// Node numbers of the voters.
    pub fn voters(&self) -> Vec<u64> {
        let Ok(raft) = self.raft() else { return Vec::new() };
        raft.metrics().borrow().membership_config.membership().voter_ids().collect()
    }

    /// Voters that do not answer now, and how many there are. Empty while this peer is un-pooled.
    pub async fn silent_voters(&self) -> (Vec<PeerState>, usize) {
        let (state, voters) = (self.state(), self.voters());
        let others = voters.iter().filter_map(|node| state.peer_by_node(*node));
        let asked = others
            .filter(|p| p.id != self.id())
            .map(|peer| async move { (!self.answers(peer).await).then(|| peer.clone()) });
        let silent = futures_util::future::join_all(asked).await;
        (silent.into_iter().flatten().collect(), voters.len())
    }

    /// Whether the peer answers now.
    pub async fn answers(&self, peer: &PeerState) -> bool {
        if peer.id == self.id() {
            return true;
        }
        let Ok(mut client) = self.peer_client(peer) else { return false };
        let ping = client.ping(PingRequest {});
        !peer.lost && matches!(tokio::time::timeout(ANSWER_TIMEOUT, ping).await, Ok(Ok(_)))
    }

    /// A peer refused to answer; see [`dropped`].
    pub fn refused(&self, status: &tonic::Status) {
        self.0.channels.refused(status);
    }

    /// A channel to another peer of the pool.
    ///
    /// # Errors
    /// This peer belongs to no pool.
    pub fn channel(&self, lane: Lane, peer: &PeerState) -> Result<Channel, tonic::Status> {
        let port = match lane {
            Lane::Promise => peer.promise_port,
            Lane::Raft | Lane::Control => peer.control_port,
        };
        self.0.channels.get(lane, peer.id, &peer.host, port)
    }

    /// The pool service of another peer.
    ///
    /// # Errors
    /// This peer belongs to no pool.
    pub fn peer_client(&self, peer: &PeerState) -> Result<PoolClient<Channel>, tonic::Status> {
        Ok(PoolClient::new(self.channel(Lane::Control, peer)?)
            .max_decoding_message_size(raft::network::MESSAGE_BYTES_MAX)
            .max_encoding_message_size(raft::network::MESSAGE_BYTES_MAX))
    }

    /// Puts a command into the log, wherever the leader is, and waits until it is applied here.
    ///
    /// A command whose answer got lost is proposed again; commands are made for that.
    ///
    /// # Errors
    /// Un-pooled, or no majority answers in 10 s: `Undecided` if a leader may have the command in
    /// its log, and may commit it later. A refusal by `apply` is an `Ok`.
    pub async fn propose(&self, command: Command) -> Result<CommandReply, PoolError> {
        let taken = AtomicBool::new(false);
        let work = async {
            loop {
                if let Some(reply) = self.propose_once(&command, &taken).await? {
                    return Ok(reply);
                }
                tokio::time::sleep(RETRY_EVERY).await;
            }
        };
        let reply = tokio::time::timeout(PROPOSE_TIMEOUT, work).await;
        let reply = reply.map_err(|_| match taken.load(Ordering::Relaxed) {
            true => PoolError::Undecided,
            false => PoolError::NoMajority,
        })??;
        if let CommandReply::Done { index } | CommandReply::Membership { index, .. } = &reply {
            self.wait_applied(*index).await;
        }
        Ok(reply)
    }

    /// `None`: try again. `taken`: a leader may have the command in its log.
    async fn propose_once(
        &self,
        command: &Command,
        taken: &AtomicBool,
    ) -> Result<Option<CommandReply>, PoolError> {
        // Whoever is asked answers at once that it does not lead, or has the command.
        let doubted = taken.swap(true, Ordering::Relaxed);
        match self.propose_here(command.clone()).await? {
            Ok(reply) => Ok(Some(reply)),
            Err(None) => {
                taken.store(doubted, Ordering::Relaxed);
                Ok(None)
            }
            Err(Some(leader)) => match self.propose_at(&leader, command).await {
                Ok(reply) => Ok(Some(reply)),
                Err(maybe) => {
                    taken.store(doubted || maybe, Ordering::Relaxed);
                    Ok(None)
                }
            },
        }
    }

    /// Proposes at this peer; the inner error names the leader, if it is known.
    pub(crate) async fn propose_here(
        &self,
        command: Command,
    ) -> Result<Result<CommandReply, Option<RaftPeer>>, PoolError> {
        match self.raft()?.client_write(command).await {
            Ok(done) => Ok(Ok(done.data)),
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(to))) => {
                Ok(Err(to.leader_node))
            }
            Err(error) => Err(PoolError::Internal(error.to_string())),
        }
    }

    /// `Err`: no answer; true when the command may have been taken all the same.
    async fn propose_at(&self, leader: &RaftPeer, command: &Command) -> Result<CommandReply, bool> {
        let data = serde_json::to_vec(command).map_err(|_| false)?;
        let (id, port) = (leader.id, leader.control_port);
        let channel = self.0.channels.get(Lane::Control, id, &leader.host, port);
        let mut client = PoolClient::new(channel.map_err(|_| false)?);
        match client.propose(Blob { data: data.into() }).await {
            Ok(blob) => serde_json::from_slice(&blob.into_inner().data).map_err(|_| true),
            Err(error) => {
                tracing::debug!(%leader, %error, "proposal not taken");
                Err(!never_sent(&error))
            }
        }
    }

    async fn wait_applied(&self, index: u64) {
        let mut state = self.watch_state();
        let applied = state.wait_for(|s| s.applied >= index);
        // A peer cut off from the log right now reads its own change a little later.
        let _ = tokio::time::timeout(Duration::from_secs(2), applied).await;
    }

    /// Makes a pool of this peer alone, unless it belongs to one.
    ///
    /// # Errors
    /// Files that cannot be written.
    pub async fn ensure_pooled(&self, host: &str) -> anyhow::Result<()> {
        let _one = self.0.transition.lock().await;
        if self.membership().is_some() {
            return Ok(());
        }
        let (ca_pem, ca_key_pem) = identity::new_ca()?;
        let request = self.0.identity.signing_request()?;
        let pool_id = uuid::Uuid::new_v4();
        let certificate_pem = identity::sign((&ca_pem, &ca_key_pem), &request, self.id(), 1)?;
        let pool = PoolIdentity {
            pool_id,
            node: 1,
            host: host.to_owned(),
            ca_pem: ca_pem.clone(),
            certificate_pem,
        };
        self.run(pool.clone()).await?;
        let secrets = PoolSecrets { pool_id, ca_pem, ca_key_pem, ticket_key: files::random()? };
        let created = self.found(host, secrets).await;
        match created {
            // Only now: a crash before leaves an un-pooled peer.
            Ok(()) => pool.store(&self.0.config.state_dir),
            Err(error) => {
                self.halt().await;
                Err(error)
            }
        }
    }

    async fn found(&self, host: &str, secrets: PoolSecrets) -> anyhow::Result<()> {
        let first = self.new_peer(host);
        let node = RaftPeer { id: first.id, host: host.into(), control_port: first.control_port };
        let raft = self.raft()?;
        raft.initialize(std::collections::BTreeMap::from([(1, node)])).await?;
        let reply = self.propose(Command::CreatePool { secrets, first }).await?;
        reply.done().map_err(anyhow::Error::msg)?;
        Ok(())
    }

    pub(crate) fn new_peer(&self, host: &str) -> NewPeer {
        let config = &self.0.config;
        NewPeer {
            id: self.id(),
            host: host.to_owned(),
            control_port: config.control_port,
            data_port: config.data_port,
            promise_port: config.promise_port,
            witness: config.witness,
        }
    }

    /// Starts this peer's raft in `pool`.
    async fn run(&self, pool: PoolIdentity) -> anyhow::Result<()> {
        self.0.tls.switch(&self.0.identity, Some(&pool))?;
        let published = self.0.published.clone();
        let (dir, of) = (self.0.config.state_dir.clone(), pool.clone());
        let opened = tokio::task::spawn_blocking(move || storage::open(&dir, &of, published));
        let (log, machine) = opened.await??;
        self.serve_log(pool, log, machine).await?;
        self.write_local_token()
    }

    /// Runs raft over this log.
    async fn serve_log(
        &self,
        pool: PoolIdentity,
        log: LogStore,
        machine: Machine,
    ) -> anyhow::Result<()> {
        let network = raft::network::Network {
            channels: self.0.channels.clone(),
            published: self.0.published.clone(),
            node: pool.node,
        };
        let parts = (log.clone(), machine.clone());
        let config = raft::config();
        let raft = openraft::Raft::<Types>::new(pool.node, config, network, parts.0, parts.1)
            .await
            .context("pool log")?;
        let reconcile = tokio::spawn(reconcile::run(self.clone(), raft.clone()));
        let running = Running { raft, pool, log, machine, reconcile };
        *self.0.running.write().expect("no panic under this lock") = Some(running);
        Ok(())
    }

    /// Stops raft and forgets the pool in memory and on disk: un-pooled again.
    async fn halt(&self) {
        let running = self.0.running.write().expect("no panic under this lock").take();
        let Some(running) = running else { return };
        running.reconcile.abort();
        if let Err(error) = running.raft.shutdown().await {
            tracing::warn!(%error, "raft did not stop cleanly");
        }
        self.0.channels.clear();
        self.0.published.end();
        let dir = &self.0.config.state_dir;
        let wiped = PoolIdentity::remove(dir)
            .and_then(|()| self.0.tls.switch(&self.0.identity, None))
            .and_then(|()| storage::remove_leftovers(dir, None))
            .and_then(|()| self.write_local_token());
        if let Err(error) = wiped {
            tracing::error!(%error, "pool state could not be removed");
        }
    }

    /// This peer was detached: it wipes the pool's state.
    pub async fn leave(&self) {
        let _one = self.0.transition.lock().await;
        tracing::info!("this peer was detached from its pool");
        self.halt().await;
    }

    /// Stops for the end of the process; nothing is forgotten.
    pub async fn shutdown(&self) {
        let raft = self.raft();
        if let Ok(raft) = raft {
            let _ = raft.shutdown().await;
        }
    }
}
