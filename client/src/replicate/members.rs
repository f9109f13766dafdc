//! The newest map, and a client for every brick in it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use proto::map::{MemberMap, VolumeMap};
use proto::{BrickId, Epoch, SetId};
use proto_rules::txn::Targets;
use tokio::sync::watch;
use tokio::time::sleep;

use super::RETRY_AFTER;
use crate::sync::lock;
use crate::transport::{BrickClient, Connector, Counters, Target};

/// Told of what replies say about the session as a whole.
pub(crate) trait Notices: Send + Sync {
    /// A member does not know the session (any more).
    fn session_unknown(&self, set: SetId, brick: BrickId);

    /// A member is in a later epoch than the map.
    fn map_is_old(&self);
}

/// See the module.
pub(crate) struct Members {
    maps: watch::Sender<Arc<VolumeMap>>,
    connector: Arc<Connector>,
    bricks: Mutex<HashMap<BrickId, Arc<BrickClient>>>,
    pub(crate) counters: Arc<Counters>,
    pub(super) notices: Arc<dyn Notices>,
}

impl Members {
    pub(crate) fn new(
        map: VolumeMap,
        connector: Arc<Connector>,
        counters: Arc<Counters>,
        notices: Arc<dyn Notices>,
    ) -> Arc<Members> {
        let maps = watch::Sender::new(Arc::new(map));
        Arc::new(Members { maps, connector, bricks: Mutex::default(), counters, notices })
    }

    pub(crate) fn map(&self) -> Arc<VolumeMap> {
        self.maps.borrow().clone()
    }

    /// Takes a map unless one at least as new is held. What it replaced.
    pub(crate) fn set_map(&self, map: VolumeMap) -> Option<Arc<VolumeMap>> {
        let mut old = None;
        self.maps.send_if_modified(|held| {
            let newer = map.version > held.version && map.volume == held.volume;
            if newer {
                old = Some(std::mem::replace(held, Arc::new(map)));
            }
            newer
        });
        if old.is_some() {
            self.retarget();
        }
        old
    }

    /// Bricks that the map no longer has are let go, moved ones get their new address.
    fn retarget(&self) {
        let map = self.map();
        lock(&self.bricks).retain(|brick, client| {
            let target = map.member(*brick).and_then(|(_, member)| target(&map, member));
            target.map(|t| client.set_target(t)).is_some()
        });
    }

    fn client(&self, map: &VolumeMap, member: &MemberMap) -> Option<Arc<BrickClient>> {
        let target = target(map, member)?;
        let mut bricks = lock(&self.bricks);
        let client = bricks
            .entry(member.brick)
            .or_insert_with(|| BrickClient::new(target, self.connector.clone()));
        Some(client.clone())
    }

    pub(crate) fn close(&self) {
        for (_, client) in lock(&self.bricks).drain() {
            client.close();
        }
    }

    /// Returns when the set's epoch in the map is another one.
    pub(super) async fn left(&self, set: SetId, epoch: Epoch) {
        let other = |map: &Arc<VolumeMap>| map.set(set).is_none_or(|s| s.epoch != epoch);
        if self.maps.subscribe().wait_for(other).await.is_err() {
            // Cannot be: the sender is in `self`. Waiting for ever ends with the deadline.
            std::future::pending::<()>().await;
        }
    }

    /// Whom to ask in the set's epoch; waits while it has no lead.
    pub(super) async fn targets(&self, set: SetId) -> Targets {
        loop {
            if let Some(targets) = self.targets_now(set) {
                return targets;
            }
            sleep(RETRY_AFTER).await;
        }
    }

    pub(super) fn targets_now(&self, set: SetId) -> Option<Targets> {
        Targets::of(self.map().set(set)?)
    }

    pub(super) fn epoch(&self, set: SetId) -> Epoch {
        self.map().set(set).map_or(Epoch::NONE, |s| s.epoch)
    }

    /// `None` for a brick that the newest map does not have.
    pub(crate) fn client_of(&self, brick: BrickId) -> Option<Arc<BrickClient>> {
        if let Some(client) = lock(&self.bricks).get(&brick) {
            return Some(client.clone());
        }
        let map = self.map();
        let (_, member) = map.member(brick)?;
        self.client(&map, member)
    }
}

fn target(map: &VolumeMap, member: &MemberMap) -> Option<Target> {
    let peer = map.peer(member.peer)?;
    let others = map.peers.iter().filter(|other| other.peer != member.peer);
    Some(Target {
        brick: member.brick,
        host: peer.host.clone(),
        port: peer.data_port,
        relays: others.map(|other| (other.host.clone(), other.data_port)).collect(),
    })
}
