//! A mount: its session, leases and caches, and the operations of its threads.

use std::collections::{BTreeMap, BTreeSet};

use proto::fop::{LeaseKey, Mode};
use proto::{BrickId, Gfid, Incarnation, Seq, SessionId};
use proto_rules::Tick;
use proto_rules::lease::Lease;
use proto_rules::lease::cache::{LeaseCache, RecallAction};
use proto_rules::lease::table::Reclaim;
use proto_rules::time::{MS, RENEW_EVERY};
use proto_rules::txn::Targets;
use proto_rules::window::conflict::Conflicts;
use proto_rules::window::sequencer::Sequencer;

use super::client_ops::Op;
use super::client_wire::{Flight, Purpose};
use crate::cx::{Cx, Later, lead_proc, proc_of};
use crate::model::change::Name;
use crate::model::net::{CONTROL, Chan, Proc};
use crate::msg::{Body, Map, Msg};

const TICK: u64 = 20 * MS;
/// Between two sendings of a reclaim or hello that was refused.
const AGAIN: u64 = 40 * MS;
/// A return whose answer is lost is sent again.
const RETURN_AGAIN: u64 = 300 * MS;

pub struct Client {
    pub session: SessionId,
    pub map: Map,
    pub cache: LeaseCache,
    pub sequencer: Sequencer,
    pub conflicts: Conflicts,
    pub ops: BTreeMap<u64, Op>,
    pub flights: BTreeMap<u64, Flight>,
    pub next_id: u64,
    pub blocks: BTreeMap<(Gfid, u8), u64>,
    pub attrs: BTreeMap<Gfid, (u64, u64)>,
    pub names: BTreeMap<(Gfid, Name), Option<Gfid>>,
    /// Changes begun, by inode: a read that overlapped one is not cached.
    pub changes: BTreeMap<Gfid, u64>,
    /// Leases to give back as soon as no change uses them.
    pub giving: BTreeMap<LeaseKey, Mode>,
    pub returning: BTreeMap<LeaseKey, (Lease, Mode, bool, Tick)>,
    /// The lead knows this session.
    pub known: bool,
    pub reclaiming: bool,
    lead_seen: Option<(BrickId, Incarnation)>,
    /// Every key ever asked for.
    pub asked_keys: BTreeSet<LeaseKey>,
    /// Keys whose changes the lead executes, and until when no lease is asked for.
    pub contended: BTreeMap<LeaseKey, Tick>,
    /// A refused ask is made again after a pause.
    pub next_ask: Tick,
    next_hello: Tick,
    next_renew: Tick,
    /// Lead's wall time at the last renewal, and when that was sent.
    pub stamp_base: (u64, Tick),
    pub last_stamp: u64,
    /// A fault: recalls are not answered, renewals go on.
    pub wedged: bool,
}

impl Client {
    pub fn new(session: SessionId, map: Map) -> Self {
        Self {
            session,
            map,
            cache: LeaseCache::default(),
            sequencer: Sequencer::default(),
            conflicts: Conflicts::default(),
            ops: BTreeMap::new(),
            flights: BTreeMap::new(),
            next_id: 0,
            blocks: BTreeMap::new(),
            attrs: BTreeMap::new(),
            names: BTreeMap::new(),
            changes: BTreeMap::new(),
            giving: BTreeMap::new(),
            returning: BTreeMap::new(),
            known: false,
            reclaiming: false,
            lead_seen: None,
            asked_keys: BTreeSet::new(),
            contended: BTreeMap::new(),
            next_ask: Tick::ZERO,
            next_hello: Tick::ZERO,
            next_renew: Tick::ZERO,
            stamp_base: (1, Tick::ZERO),
            last_stamp: 0,
            wedged: false,
        }
    }

    pub fn start(&mut self, cx: &mut Cx<'_>) {
        self.stamp_base = (1, cx.tick);
        self.apply_map(cx);
        let wait = cx.rng.below(TICK);
        cx.after(wait, Later::Tick);
    }

    pub fn lead(&self) -> Option<Proc> {
        lead_proc(&self.map.set)
    }

    pub fn on_msg(&mut self, cx: &mut Cx<'_>, from: Proc, _chan: Chan, msg: Msg) {
        match msg {
            Msg::Map(map) => self.take_map(cx, &map),
            Msg::Reply(reply) => {
                if let Some(map) = &reply.map {
                    self.take_map(cx, map);
                }
                self.on_reply(cx, from, reply);
            }
            Msg::Recall { lease, keep } => {
                let action = self.cache.on_recall(lease, keep);
                cx.note(|me| format!("c{} recall {lease:?} -> {action:?}", me));
                self.act(cx, action);
                // A reclaim's or a create's answer may bring the lease, too.
                let asking = |f: &Flight| match f.purpose {
                    Purpose::Ask(key) => key == lease.key,
                    Purpose::Reclaim | Purpose::Change(_) => true,
                    _ => false,
                };
                if action == RecallAction::Wait && !self.flights.values().any(asking) {
                    // Granted to an ask whose answer was lost: there is nothing to wait for.
                    if let Some(action) = self.cache.no_grant_coming(lease.key) {
                        self.act(cx, action);
                    }
                }
                self.give_back(cx);
            }
            _ => {}
        }
    }

    pub fn take_map(&mut self, cx: &mut Cx<'_>, map: &Map) {
        if map.version > self.map.version {
            let newer_epoch = map.set.epoch > self.map.set.epoch;
            self.map = map.clone();
            if newer_epoch {
                self.apply_map(cx);
            }
        }
    }

    fn apply_map(&mut self, cx: &mut Cx<'_>) {
        let Some(targets) = Targets::of(&self.map.set) else { return };
        let lapsed = self.cache.on_map(targets.epoch, targets.lead);
        for key in lapsed {
            self.forget_cached(key);
        }
        let new_lead = self.lead_seen.is_some_and(|seen| seen != targets.lead);
        if new_lead {
            // After the loss of all memory the set may have gone back behind what is cached
            // clean here: a lease that is reclaimed does not vouch for it.
            self.blocks.clear();
            self.attrs.clear();
            self.names.clear();
        }
        if self.known && new_lead {
            self.reclaiming = true;
            self.next_hello = cx.tick;
        }
        self.lead_seen = Some(targets.lead);
        // Grants, renewals and returns of an earlier lead are nothing any more.
        self.flights.retain(|_, f| f.lead == targets.lead || !f.purpose.of_lead());
        if self.reclaiming {
            self.returning.clear();
        }
        self.ops_on_map(cx, &targets);
        self.step(cx);
    }

    pub fn on_later(&mut self, cx: &mut Cx<'_>, what: &Later) {
        if let Later::Tick = what {
            cx.after(TICK, Later::Tick);
            self.on_tick(cx);
        }
    }

    fn on_tick(&mut self, cx: &mut Cx<'_>) {
        if cx.tick >= self.next_renew {
            self.next_renew = cx.tick.after(RENEW_EVERY);
            self.renew(cx);
        }
        self.greet(cx);
        self.return_again(cx);
        self.stale_flights(cx);
        self.step(cx);
        self.give_back(cx);
    }

    fn renew(&mut self, cx: &mut Cx<'_>) {
        for member in self.map.set.clone().in_sync() {
            let progress = self.giving.keys().copied().collect();
            let to = proc_of(member.brick);
            let ask = self.known && !self.reclaiming;
            if ask || Some(to) != self.lead() {
                self.send(cx, to, Body::Renew { progress }, Purpose::Renew);
            }
        }
        let someone = cx.rng.index(cx.peers);
        cx.send(someone, CONTROL, Msg::MapAsk);
    }

    /// Says hello to a lead that does not know the session, or reclaims from a new one.
    fn greet(&mut self, cx: &mut Cx<'_>) {
        if (self.known && !self.reclaiming) || cx.tick < self.next_hello {
            return;
        }
        self.next_hello = cx.tick.after(AGAIN);
        if self.flights.values().any(|f| matches!(f.purpose, Purpose::Hello | Purpose::Reclaim)) {
            return;
        }
        let Some(lead) = self.lead() else { return };
        if self.reclaiming {
            let (leases, pins) = self.cache.reclaims();
            let reclaim = Reclaim { session: self.session, leases, pins, last: true };
            self.send(cx, lead, Body::Reclaim(reclaim), Purpose::Reclaim);
        } else {
            self.send(cx, lead, Body::Hello, Purpose::Hello);
        }
    }

    /// The lead does not know the session (any more): whatever it held is gone.
    pub fn lose_session(&mut self, cx: &mut Cx<'_>) {
        if !self.known && !self.reclaiming {
            return;
        }
        cx.note(|me| format!("c{} its session is unknown", me));
        self.known = false;
        self.reclaiming = false;
        self.next_hello = cx.tick;
        for key in self.cache.lose_all_at(cx.tick) {
            cx.hit("lease: lost");
            self.forget_cached(key);
        }
        self.giving.clear();
        self.returning.clear();
        // A grant still on its way is of the life before.
        self.flights.retain(|_, f| !f.purpose.of_lead());
    }

    pub fn forget_cached(&mut self, key: LeaseKey) {
        match key {
            LeaseKey::Inode(gfid) => {
                self.blocks.retain(|(g, _), _| *g != gfid);
                self.attrs.remove(&gfid);
            }
            LeaseKey::Part(gfid) => self.names.retain(|(g, _), _| *g != gfid),
        }
    }

    pub fn act(&mut self, cx: &mut Cx<'_>, action: RecallAction) {
        for key in self.cache.take_lapsed() {
            cx.hit("lease: lost");
            self.giving.remove(&key);
            self.returning.remove(&key);
            self.forget_cached(key);
        }
        match action {
            RecallAction::GiveBack { lease, keep } => {
                self.giving.insert(lease.key, keep);
            }
            RecallAction::Wait => {}
            RecallAction::NotHeld { lease } => {
                if let Some(lead) = self.lead() {
                    let body = Body::Return { lease, keep: Mode::None, open: false };
                    self.send(cx, lead, body, Purpose::Return(lease));
                }
            }
        }
    }

    /// Gives back what was recalled and no change uses.
    pub fn give_back(&mut self, cx: &mut Cx<'_>) {
        if self.wedged {
            return;
        }
        let ready: Vec<(LeaseKey, Mode)> = self
            .giving
            .iter()
            .filter(|(key, _)| !self.ops.values().any(|op| op.uses(**key)))
            .map(|(key, keep)| (*key, *keep))
            .collect();
        for (key, keep) in ready {
            self.giving.remove(&key);
            if keep == Mode::None {
                self.forget_cached(key);
            }
            let Some((lease, keep, open)) = self.cache.returning(key, keep) else { continue };
            self.returning.insert(key, (lease, keep, open, cx.tick));
            self.send_return(cx, lease, keep, open);
        }
    }

    fn send_return(&mut self, cx: &mut Cx<'_>, lease: Lease, keep: Mode, open: bool) {
        if let Some(lead) = self.lead() {
            let body = Body::Return { lease, keep, open };
            self.send(cx, lead, body, Purpose::Return(lease));
        }
    }

    fn return_again(&mut self, cx: &mut Cx<'_>) {
        let due: Vec<LeaseKey> = self
            .returning
            .iter()
            .filter(|(_, r)| cx.tick.since(r.3) >= RETURN_AGAIN)
            .map(|(k, _)| *k)
            .collect();
        for key in due {
            let Some(entry) = self.returning.get_mut(&key) else { continue };
            entry.3 = cx.tick;
            let (lease, keep, open, _) = *entry;
            self.send_return(cx, lease, keep, open);
        }
    }

    /// Greater than every stamp that this client used or saw on the inode.
    pub fn stamp(&mut self, cx: &Cx<'_>, above: u64) -> u64 {
        let (wall, at) = self.stamp_base;
        let stamp = (wall + cx.tick.since(at)).max(above + 1).max(self.last_stamp + 1);
        self.last_stamp = stamp;
        stamp
    }

    pub fn mark(&self) -> Seq {
        self.sequencer.mark()
    }

    /// What it believes to hold now: for the invariant, not for any decision.
    pub fn believes(&self, now: Tick) -> Vec<(LeaseKey, Mode)> {
        let held = |key: &LeaseKey| {
            let exclusive = self.cache.valid(now, *key, Mode::Exclusive).is_some();
            let shared = self.cache.valid(now, *key, Mode::Shared).is_some();
            match (exclusive, shared) {
                (true, _) => Some((*key, Mode::Exclusive)),
                (false, true) => Some((*key, Mode::Shared)),
                _ => None,
            }
        };
        self.asked_keys.iter().filter_map(held).collect()
    }
}
