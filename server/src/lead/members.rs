//! The other members of a set, reached as a peer.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use client::transport::{
    BrickClient, Connector, Counters, Identity, Proof, Pushes, Reply, Request, Target,
};
use proto::fop::{Call, Fop, Recall, Return, Under, Vouch};
use proto::map::{SetMap, VolumeMap};
use proto::{BrickId, Epoch, Errno, Failure, Refusal, SessionId};
use tokio::sync::watch;

use crate::brick::BrickIdentity;

/// A member that has not answered after this time is asked again, or given up by the epoch.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections between peers belong to no session.
const NO_SESSION: SessionId = SessionId(0);

/// Makes the proof that this peer belongs to the pool.
pub trait PeerCredential: Send + Sync + 'static {
    /// `None` while this peer is in no pool.
    fn proof(&self, brick: BrickId, session: SessionId) -> Option<Vec<u8>>;
}

/// Clients of the set's bricks other than this one.
pub struct Members {
    identity: BrickIdentity,
    credential: Arc<dyn PeerCredential>,
    counters: Arc<Counters>,
    known: BTreeMap<BrickId, Arc<BrickClient>>,
    in_sync: Vec<BrickId>,
    lead: Option<BrickId>,
    /// What is asked in an epoch ends with it: a member that was cut off never answers.
    epoch: watch::Sender<Epoch>,
    /// Held by whoever copies between the members.
    pub turn: Arc<tokio::sync::Mutex<()>>,
}

impl Members {
    pub fn new(identity: BrickIdentity, credential: Arc<dyn PeerCredential>) -> Self {
        Self {
            identity,
            credential,
            counters: Arc::default(),
            known: BTreeMap::new(),
            in_sync: Vec::new(),
            lead: None,
            epoch: watch::Sender::new(Epoch::NONE),
            turn: Arc::default(),
        }
    }

    pub fn on_map(&mut self, map: &VolumeMap, set: &SetMap) {
        let me = self.identity.brick;
        let others = set.members.iter().filter(|m| m.brick != me);
        let targets: BTreeMap<BrickId, Target> = others
            .filter_map(|m| {
                let peer = map.peer(m.peer)?;
                let (host, port) = (peer.host.clone(), peer.data_port);
                Some((m.brick, Target::straight(m.brick, host, port)))
            })
            .collect();
        self.known.retain(|brick, _| targets.contains_key(brick));
        for (brick, target) in targets {
            match self.known.get(&brick) {
                Some(client) => client.set_target(target),
                None => {
                    if let Some(client) = self.connect(target) {
                        self.known.insert(brick, client);
                    }
                }
            }
        }
        self.in_sync = set.in_sync().map(|m| m.brick).filter(|b| *b != me).collect();
        self.lead = set.lead;
        self.epoch.send_replace(set.epoch);
    }

    fn connect(&self, target: Target) -> Option<Arc<BrickClient>> {
        let proof = self.credential.proof(target.brick, NO_SESSION)?;
        let identity = Identity {
            session: NO_SESSION,
            proof: Proof::Peer(proof.into()),
            host: format!("peer {}", self.identity.peer),
        };
        let connector = Connector::new(identity, Arc::new(NoPushes), self.counters.clone());
        Some(BrickClient::new(target, connector))
    }

    /// The epochs as they begin.
    pub fn epochs(&self) -> watch::Receiver<Epoch> {
        self.epoch.subscribe()
    }

    /// The other in-sync members.
    pub fn in_sync(&self) -> Vec<Member> {
        let member = |brick: &BrickId| {
            let (client, now) = (self.known.get(brick)?.clone(), self.epoch.subscribe());
            Some(Member { brick: *brick, client, now })
        };
        self.in_sync.iter().filter_map(member).collect()
    }

    /// Asks the lead about a session and leases that are not remembered here.
    pub fn vouch(
        &self,
        epoch: Epoch,
        session: SessionId,
        under: Vec<Under>,
    ) -> impl Future<Output = Result<(), Failure>> + 'static {
        let lead = self.lead.and_then(|lead| self.known.get(&lead)).cloned();
        async move {
            let client = lead.ok_or(Errno::ENOTCONN)?;
            let fop = Vouch { session: session.0, under }.into();
            call(&client, epoch, fop).await.map(|_| ())
        }
    }
}

/// One of the other in-sync members.
#[derive(Clone)]
pub struct Member {
    pub brick: BrickId,
    client: Arc<BrickClient>,
    now: watch::Receiver<Epoch>,
}

impl Member {
    /// # Errors
    /// The member's own answer; ETIMEDOUT or ENOTCONN when there was none; `Epoch` when
    /// another one has begun.
    pub async fn call(&self, epoch: Epoch, fop: Fop) -> Result<Return, Failure> {
        self.send(epoch, Call::new(fop)).await
    }

    /// Sends on a session's frame. `None`: it may or may not have been executed.
    pub async fn send_on(&self, request: &Request) -> Option<Reply> {
        match tokio::time::timeout(ANSWER_TIMEOUT, self.client.exchange(request)).await {
            Ok(Ok(reply)) => Some(reply),
            Ok(Err(error)) => {
                tracing::debug!(brick = %self.brick, %error, "member");
                None
            }
            Err(_) => None,
        }
    }

    /// As `call`, with bulk data.
    ///
    /// # Errors
    /// As `call`.
    pub async fn send(&self, epoch: Epoch, call: Call) -> Result<Return, Failure> {
        let mut now = self.now.clone();
        let moved = async {
            // An error: the brick stops, and the call ends with it.
            now.wait_for(|now| *now > epoch).await.map(|now| *now).ok()
        };
        tokio::select! {
            answer = exchange(&self.client, epoch, &call) => answer,
            Some(current) = moved => Err(Refusal::Epoch { current: current.0 }.into()),
        }
    }
}

async fn call(client: &BrickClient, epoch: Epoch, fop: Fop) -> Result<Return, Failure> {
    exchange(client, epoch, &Call::new(fop)).await
}

async fn exchange(client: &BrickClient, epoch: Epoch, call: &Call) -> Result<Return, Failure> {
    let answer = client.call(call, epoch, Vec::new(), Vec::new());
    match tokio::time::timeout(ANSWER_TIMEOUT, answer).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(error)) => {
            tracing::debug!(brick = %client.brick(), %error, "member");
            Err(Errno::ENOTCONN.into())
        }
        Err(_) => Err(Errno::ETIMEDOUT.into()),
    }
}

/// Members push nothing to peers.
struct NoPushes;

impl Pushes for NoPushes {
    fn recall(&self, _: BrickId, _: Recall) {}

    fn welcome(&self, _: BrickId, _: Epoch, _: u64) {}
}
