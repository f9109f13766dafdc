//! The peer's promises and what follows from them, behind one short lock.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

use futures_util::future::BoxFuture;
use proto::map::{SetMap, VolumeMap};
use proto::{BrickId, Epoch, Incarnation, PeerId};
use proto_rules::promise::{JoinRefused, PromiseEvent, Promises};
use proto_rules::set::may_leave;
use proto_rules::time::MS;
use proto_rules::{SetKey, Tick};
use tokio::sync::Notify;

use super::words::{AnswerMessage, PingMessage};
use crate::brick::{Facts, Gate, now};
use crate::pool::membership::Lack;
use crate::pool::promise::PromiseHandler;

/// Told of what the rules bring up. Called from the promise thread: must not block.
pub trait Reports: Send + Sync + 'static {
    /// Each 300 ms while bricks of this peer lack others' promises.
    fn lacking(&self, lacks: Vec<Lack>);

    /// Somebody knows a later epoch of the set than this peer.
    fn newer_epoch(&self, set: SetKey, epoch: Epoch);

    /// The join to which `brick` agreed has ended by the joiner's word.
    fn join_ended(&self, set: SetKey, brick: BrickId, joiner: BrickId);
}

/// All promises of this peer's bricks.
pub struct Board {
    inner: Mutex<Inner>,
    reports: Arc<dyn Reports>,
    /// A set is in a new epoch: ask for promises in it at once.
    new_epoch: Notify,
}

struct Inner {
    promises: Promises,
    gates: BTreeMap<(SetKey, BrickId), Arc<Gate>>,
    maps: BTreeMap<SetKey, SetMap>,
    heard: BTreeMap<(SetKey, BrickId), Facts>,
    /// Peers of bricks that went down: pinged a little longer, to say so.
    farewell: BTreeMap<PeerId, Tick>,
}

/// Some rounds of pings, should one get lost.
const FAREWELL: u64 = 1500 * MS;

impl Board {
    pub fn new(me: PeerId, reports: Arc<dyn Reports>) -> Self {
        let inner = Inner {
            promises: Promises::new(me),
            gates: BTreeMap::new(),
            maps: BTreeMap::new(),
            heard: BTreeMap::new(),
            farewell: BTreeMap::new(),
        };
        Self { inner: Mutex::new(inner), reports, new_epoch: Notify::new() }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no panic under this lock")
    }

    /// A brick of this peer starts; `clean`: its predecessor said goodbye to everybody.
    pub fn brick_up(
        &self,
        set: SetKey,
        brick: BrickId,
        incarnation: Incarnation,
        clean: bool,
        gate: Arc<Gate>,
    ) {
        let mut inner = self.inner();
        inner.promises.brick_up(now(), set, brick, incarnation, clean);
        inner.gates.insert((set, brick), gate);
        if let Some(map) = inner.maps.get(&set).cloned() {
            inner.promises.on_map(now(), set, &map);
        }
        inner.publish();
    }

    /// A brick of this peer has stopped serving for good: its gate closes at once, and the
    /// next pings say so.
    pub fn brick_down(&self, set: SetKey, brick: BrickId) {
        self.inner().down(set, brick);
    }

    /// Closes the gate of a brick that is to leave its set in `epoch`, unless nobody would go on.
    /// From then on it is as if it had stopped. True also when that was done before.
    pub fn retire(&self, set: SetKey, brick: BrickId, epoch: Epoch) -> bool {
        let mut inner = self.inner();
        if !inner.gates.contains_key(&(set, brick)) {
            return true;
        }
        let current = inner.maps.get(&set).is_some_and(|map| map.epoch == epoch);
        if !current || !inner.may_leave(set, brick) {
            return false;
        }
        inner.down(set, brick);
        true
    }

    /// A committed map.
    pub fn on_map(&self, map: &VolumeMap) {
        let mut inner = self.inner();
        for set in &map.sets {
            let key = SetKey { volume: map.volume, set: set.id };
            if inner.maps.get(&key).is_some_and(|known| known.epoch > set.epoch) {
                continue;
            }
            let known = inner.maps.insert(key, set.clone());
            inner.promises.on_map(now(), key, set);
            if known.is_none_or(|known| known.epoch < set.epoch) {
                self.new_epoch.notify_one();
            }
        }
        inner.publish();
    }

    /// Stops promising `victim` in `epoch`, for ever, for all in-sync members of this peer.
    /// Returns when the last promise given to it has run out; `None` when there is no such
    /// member here in that epoch.
    pub fn stop(&self, set: SetKey, epoch: Epoch, victim: BrickId) -> Option<Tick> {
        let mut inner = self.inner();
        let until = inner
            .bricks_of(set)
            .into_iter()
            .filter(|brick| *brick != victim)
            .filter_map(|brick| inner.promises.stop(set, brick, epoch, victim))
            .max();
        inner.publish();
        until
    }

    /// Whether a brick of this peer may leave its set by its own word: only while another
    /// in-sync member is heard, or the set would pass to one that is gone.
    pub fn may_leave(&self, set: SetKey, brick: BrickId) -> bool {
        self.inner().may_leave(set, brick)
    }

    /// Agrees to a join, for all in-sync members of this peer.
    ///
    /// # Errors
    /// The first member's reason not to; others may have agreed, which ends with the epoch.
    pub fn agree_join(
        &self,
        set: SetKey,
        epoch: Epoch,
        joiner: (BrickId, Incarnation),
    ) -> Result<(), JoinRefused> {
        let mut inner = self.inner();
        let members: Vec<BrickId> =
            inner.bricks_of(set).into_iter().filter(|brick| inner.in_sync(set, *brick)).collect();
        let mut agreed = Err(JoinRefused::NotInSync);
        for brick in members {
            agreed = inner.promises.agree_join(set, brick, epoch, joiner);
            if agreed.is_err() {
                break;
            }
        }
        inner.publish();
        agreed
    }

    /// Joiner's side: promises the members of `epoch` from now on.
    pub fn offer_join(&self, set: SetKey, brick: BrickId, epoch: Epoch) -> bool {
        self.inner().promises.offer_join(set, brick, epoch)
    }

    /// Joiner's side: this incarnation never serves.
    pub fn never_serve(&self, set: SetKey, brick: BrickId) {
        let mut inner = self.inner();
        inner.promises.never_serve(set, brick);
        inner.publish();
    }

    /// What a brick of another peer last said of itself.
    pub fn heard(&self, set: SetKey, brick: BrickId) -> Option<Facts> {
        let inner = self.inner();
        let own = inner.gates.get(&(set, brick)).map(|gate| gate.facts());
        own.or_else(|| inner.heard.get(&(set, brick)).copied())
    }

    fn report(&self, events: Vec<PromiseEvent>) {
        for event in events {
            match event {
                PromiseEvent::NewerEpoch { set, epoch } => self.reports.newer_epoch(set, epoch),
                PromiseEvent::JoinEnded { set, brick, joiner } => {
                    self.reports.join_ended(set, brick, joiner);
                }
            }
        }
    }
}

impl PromiseHandler for Board {
    fn peers(&self) -> Vec<PeerId> {
        let mut inner = self.inner();
        let now = now();
        inner.farewell.retain(|_, until| *until > now);
        let mut peers = inner.promises.peers();
        peers.extend(inner.farewell.keys());
        peers.sort_unstable();
        peers.dedup();
        peers
    }

    fn ping(&self, to: PeerId) -> Vec<u8> {
        let inner = self.inner();
        let message = PingMessage { ping: inner.promises.ping(now(), to), facts: inner.facts() };
        serde_json::to_vec(&message).expect("plain values become JSON")
    }

    fn on_ping(&self, from: PeerId, ping: &[u8]) -> Result<Vec<u8>, String> {
        let message: PingMessage =
            serde_json::from_slice(ping).map_err(|_| "not a ping of this version")?;
        if message.ping.from != from {
            return Err("a ping names its own sender".to_owned());
        }
        let mut inner = self.inner();
        let (answer, events) = inner.promises.on_ping(now(), &message.ping);
        inner.hear(&message.facts);
        inner.publish();
        let message = AnswerMessage { answer, facts: inner.facts() };
        drop(inner);
        self.report(events);
        serde_json::to_vec(&message).map_err(|e| e.to_string())
    }

    fn on_answer(&self, from: PeerId, answer: &[u8]) {
        let message = match serde_json::from_slice::<AnswerMessage>(answer) {
            Ok(message) if message.answer.from == from => message,
            _ => {
                tracing::warn!(%from, "not an answer to a ping");
                return;
            }
        };
        let mut inner = self.inner();
        let events = inner.promises.on_answer(now(), &message.answer);
        inner.hear(&message.facts);
        inner.publish();
        drop(inner);
        self.report(events);
    }

    fn hurry(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.new_epoch.notified())
    }

    fn impatient(&self) -> bool {
        self.inner().promises.impatient(now())
    }

    fn round(&self) {
        let inner = self.inner();
        inner.publish();
        let lacks = inner.promises.lacks(now());
        let lacks: Vec<Lack> = lacks
            .into_iter()
            .filter_map(|(set, holder, giver)| {
                let epoch = inner.maps.get(&set)?.epoch;
                Some(Lack { set, epoch, holder, giver })
            })
            .collect();
        drop(inner);
        if !lacks.is_empty() {
            self.reports.lacking(lacks);
        }
    }
}

impl Inner {
    fn down(&mut self, set: SetKey, brick: BrickId) {
        let until = now().after(FAREWELL);
        for peer in self.promises.peers() {
            self.farewell.insert(peer, until);
        }
        self.promises.brick_down(set, brick);
        if let Some(gate) = self.gates.remove(&(set, brick)) {
            gate.set_serve_until(Tick::ZERO);
        }
    }

    fn may_leave(&self, set: SetKey, brick: BrickId) -> bool {
        let Some(map) = self.maps.get(&set) else { return false };
        may_leave(map, brick, |other, _| match self.gates.get(&(set, other)) {
            Some(gate) => !gate.failed(),
            None => map.member(other).is_some_and(|member| self.promises.hears(now(), member.peer)),
        })
    }

    fn bricks_of(&self, set: SetKey) -> BTreeSet<BrickId> {
        self.gates.keys().filter(|(s, _)| *s == set).map(|(_, brick)| *brick).collect()
    }

    fn in_sync(&self, set: SetKey, brick: BrickId) -> bool {
        self.maps.get(&set).is_some_and(|map| map.in_sync().any(|m| m.brick == brick))
    }

    /// Lets every brick of this peer see what has changed.
    fn publish(&self) {
        for ((set, brick), gate) in &self.gates {
            let until = match gate.failed() {
                true => Tick::ZERO,
                false => self.promises.serve_until(*set, *brick),
            };
            gate.set_serve_until(until);
            gate.set_leased_until(self.promises.leased_until(*set, *brick));
        }
    }

    fn facts(&self) -> Vec<(SetKey, BrickId, Facts)> {
        self.gates.iter().map(|((set, brick), gate)| (*set, *brick, gate.facts())).collect()
    }

    /// Notes facts of other peers' bricks and passes on what their set's bricks here need.
    fn hear(&mut self, facts: &[(SetKey, BrickId, Facts)]) {
        for (set, brick, facts) in facts {
            let member = self.maps.get(set).is_some_and(|map| map.member(*brick).is_some());
            if member && !self.gates.contains_key(&(*set, *brick)) {
                self.heard.insert((*set, *brick), *facts);
                for ((_, _), gate) in self.gates.iter().filter(|((s, _), _)| s == set) {
                    gate.set_word(*brick, facts.durable);
                }
            }
        }
        for ((set, brick), gate) in &self.gates {
            let Some(map) = self.maps.get(set) else { continue };
            let of = |other: BrickId| match self.gates.get(&(*set, other)) {
                Some(gate) => Some(gate.facts()),
                None => self.heard.get(&(*set, other)).copied(),
            };
            // The highest number of all members, those that catch up too: a lead that is behind
            // would file changes below what a newcomer calls its last interval in-sync.
            let members = map.members.iter().filter_map(|m| of(m.brick));
            let interval = members.map(|f| f.interval).max().unwrap_or(0);
            let others = map.in_sync().filter(|m| m.brick != *brick);
            let free = others.filter_map(|m| of(m.brick)).map(|f| f.free_bytes).min();
            gate.set_heard(interval, free.unwrap_or(u64::MAX));
        }
    }
}

#[cfg(test)]
#[path = "board_test.rs"]
mod tests;
