//! One `brickd`: its promise thread, its control thread and the thread of its brick.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use proto::map::{MemberState, SetMap};
use proto::{BrickId, Epoch, Incarnation, LeaseNumber};
use proto_rules::Tick;
use proto_rules::heal::log::{Interval, IntervalClock};
use proto_rules::lease::LeaseKey;
use proto_rules::lease::table::{LeaseTable, SettleScope};
use proto_rules::member::{Member, MemberCommand};
use proto_rules::promise::{PromiseEvent, Promises};
use proto_rules::restart::Report;
use proto_rules::time::{MS, PING_EVERY};

use super::join::Sink;
use super::leader::Leader;
use super::serve::Held;
use super::settle::Job;
use crate::cx::{Cx, Later, Out, brick_of, peer_of, proc_of_peer, set_key};
use crate::model::change::Outcome;
use crate::model::net::{CONTROL, PEER_DATA, PROMISES, Proc};
use crate::model::store::Store;
use crate::msg::{Call, Done, Map, Msg, Word};

/// The drivers look after everything that waits this often.
const TICK: u64 = 20 * MS;
const CHECKPOINT_EVERY: u64 = 5000 * MS;
const CALL_AGAIN: u64 = 200 * MS;

/// A call to another peer that has not been answered.
pub struct Pending {
    pub to: Proc,
    pub epoch: Epoch,
    pub call: Rc<Call>,
    pub sent: Tick,
    pub why: Why,
}

/// Who waits for the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// Of a settle's list or clearing.
    Settle(u64),
    /// Of one inode's copying: to its source, then to a target.
    Copy(u64, proto::Gfid),
    Graced(Epoch),
    Vouch,
    Join,
    Mark(u64),
    StaleHeal,
    Told,
}

/// Survives the end of the process: the pool's state machine and the brick's disk.
pub struct Lasting {
    pub map: Map,
    pub store: Store,
    pub boot: u64,
}

pub struct Peer {
    pub has_brick: bool,
    pub brick: BrickId,
    pub incarnation: Incarnation,
    pub lasting: Lasting,
    pub promises: Promises,
    pub member: Member<Outcome>,
    pub table: Option<LeaseTable>,
    pub held: Vec<Held>,
    pub calls: BTreeMap<u64, Pending>,
    pub next_call: u64,
    pub settles: BTreeMap<u64, Job>,
    /// Sessions heard of since the start.
    pub heard: BTreeSet<proto::SessionId>,
    /// Members that have yet to note an epoch as graced.
    pub graced_wait: Option<(Epoch, u32)>,
    pub markings: BTreeMap<u64, super::lead::MarkJob>,
    pub asks: BTreeMap<(proto::SessionId, u64), super::lead::AskFrom>,
    pub executions: BTreeMap<super::execute::ExecutionKey, super::execute::Execution>,
    /// Settles that wait for executions of their session.
    pub later_settles: Vec<(SettleScope, Vec<(LeaseKey, LeaseNumber)>)>,
    pub pause: Option<super::lead::Pause>,
    pub stale_job: Option<super::stale::StaleJob>,
    pub joiner: Option<Sink>,
    /// Settled pieces installed, by caller and call.
    pub installed: BTreeSet<(Proc, u64)>,
    pub leader: Leader,
    pub interval: IntervalClock,
    stops: Vec<(Epoch, BrickId, Tick)>,
    next_ping: Tick,
    next_checkpoint: Tick,
    /// `min-in-sync` of the volume.
    pub needed: u16,
}

impl Peer {
    pub fn new(me: Proc, has_brick: bool, needed: u16, lasting: Lasting) -> Self {
        let brick = brick_of(me);
        Self {
            has_brick,
            brick,
            incarnation: Incarnation(0),
            lasting,
            promises: Promises::new(peer_of(me)),
            member: Member::new(brick, Incarnation(0)),
            table: None,
            held: Vec::new(),
            calls: BTreeMap::new(),
            next_call: 0,
            settles: BTreeMap::new(),
            heard: BTreeSet::new(),
            graced_wait: None,
            markings: BTreeMap::new(),
            asks: BTreeMap::new(),
            executions: BTreeMap::new(),
            later_settles: Vec::new(),
            pause: None,
            stale_job: None,
            joiner: None,
            installed: BTreeSet::new(),
            leader: Leader::default(),
            interval: IntervalClock::new(Tick::ZERO, Interval(0)),
            stops: Vec::new(),
            next_ping: Tick::ZERO,
            next_checkpoint: Tick::ZERO,
            needed,
        }
    }

    /// The process starts, with nothing but what is on disk.
    pub fn start(&mut self, cx: &mut Cx<'_>, incarnation: Incarnation) {
        let lasting = std::mem::replace(
            &mut self.lasting,
            Lasting {
                map: Map {
                    version: 0,
                    set: Rc::new(SetMap {
                        id: proto::SetId(0),
                        epoch: Epoch::NONE,
                        lead: None,
                        members: Vec::new(),
                    }),
                },
                store: Store::new(crate::model::store::Image::new()),
                boot: 0,
            },
        );
        *self = Self::new(cx.me, self.has_brick, self.needed, lasting);
        self.begin(cx, incarnation);
        let wait = cx.rng.below(TICK);
        cx.after(wait, Later::Tick);
    }

    fn begin(&mut self, cx: &mut Cx<'_>, incarnation: Incarnation) {
        let facts = &mut self.lasting.store.facts;
        let (clean, graced) = (std::mem::take(&mut facts.clean), facts.graced);
        self.incarnation = incarnation;
        let last = self.lasting.store.last_interval().max(self.interval.current().0);
        self.interval = IntervalClock::new(cx.tick, Interval(last));
        self.next_call = cx.rng.below(1 << 40) << 20;
        self.next_ping = cx.tick;
        self.next_checkpoint = cx.tick.after(CHECKPOINT_EVERY);
        if self.has_brick {
            self.promises.brick_up(cx.tick, set_key(), self.brick, incarnation, clean);
            self.member = Member::new(self.brick, incarnation);
            self.member.note_graced(graced);
            for (key, number) in &self.lasting.store.facts.raised {
                self.member.numbers.raise(*key, *number);
            }
            for (gfid, brick) in &self.lasting.store.facts.stale {
                self.member.stale.mark(*brick, *gfid);
            }
        }
        let map = self.lasting.map.clone();
        self.on_map(cx, &map);
    }

    /// The joiner gave up: the same process goes on as another incarnation of the brick.
    pub fn reincarnate(&mut self, cx: &mut Cx<'_>) {
        let incarnation = Incarnation(cx.rng.next() | 1);
        cx.note(|me| format!("p{} goes on as incarnation {incarnation}", me));
        self.calls.clear();
        self.joiner = None;
        self.table = None;
        self.begin(cx, incarnation);
    }

    pub fn map(&self) -> &SetMap {
        &self.lasting.map.set
    }

    pub fn take_map(&mut self, cx: &mut Cx<'_>, map: &Map) {
        if map.version > self.lasting.map.version {
            self.lasting.map = map.clone();
            self.on_map(cx, map);
            for to in 0..cx.peers + cx.oracle.clients {
                if to != cx.me {
                    cx.send(to, CONTROL, Msg::Map(map.clone()));
                }
            }
            self.ping(cx);
        }
    }

    fn on_map(&mut self, cx: &mut Cx<'_>, map: &Map) {
        if !self.has_brick {
            return;
        }
        self.promises.on_map(cx.tick, set_key(), &map.set);
        let commands = self.member.on_map(&map.set, self.needed);
        if self.member.in_sync() {
            let facts = &mut self.lasting.store.facts;
            facts.epoch = map.set.epoch;
            facts.incarnation = self.incarnation;
            facts.boot = self.lasting.boot;
            if map.set.in_sync().count() == map.set.members.len() {
                facts.fallback = None;
            }
        }
        cx.note(|me| format!("p{} map v{} {:?} -> {commands:?}", me, map.version, short(&map.set)));
        self.run_member(cx, commands);
        let mine = map.set.member(self.brick);
        let syncing = mine
            .is_some_and(|m| m.state == MemberState::Syncing && m.incarnation == self.incarnation);
        self.on_syncing(cx, syncing);
    }

    pub fn run_member(&mut self, cx: &mut Cx<'_>, commands: Vec<MemberCommand>) {
        for command in commands {
            match command {
                MemberCommand::Relog(list) => {
                    for unsettled in list {
                        self.lasting.store.log(self.interval.current().0, &unsettled.touches);
                    }
                }
                MemberCommand::BecomeLead { epoch } => self.become_lead(cx, epoch),
                MemberCommand::LeadOn { epoch } => self.lead_on(cx, epoch),
                MemberCommand::LoseLead | MemberCommand::Out => self.lose_lead(),
                MemberCommand::Readmit => self.readmit(cx),
                MemberCommand::WithdrawJoin => self.withdraw_join(cx),
            }
        }
    }

    fn refresh(&mut self) {
        self.member.set_serve_until(self.promises.serve_until(set_key(), self.brick));
    }

    pub fn on_msg(&mut self, cx: &mut Cx<'_>, from: Proc, chan: u8, msg: Msg) {
        self.refresh();
        match msg {
            Msg::Ping { ping, map, interval } => {
                self.take_map(cx, &map);
                self.interval.heard(cx.tick, interval);
                let (answer, events) = self.promises.on_ping(cx.tick, &ping);
                for promise in &answer.promises {
                    match promise.word {
                        proto_rules::promise::Word::Stopped => {
                            cx.hit("promise: refused as stopped");
                        }
                        proto_rules::promise::Word::Fresh => cx.hit("promise: fresh"),
                        _ => {}
                    }
                }
                let (map, interval) = (self.lasting.map.clone(), self.interval.current());
                cx.send(from, PROMISES, Msg::Answer { answer, map, interval });
                self.on_promise_events(cx, events);
            }
            Msg::Answer { answer, map, interval } => {
                self.take_map(cx, &map);
                self.interval.heard(cx.tick, interval);
                let events = self.promises.on_answer(cx.tick, &answer);
                self.on_promise_events(cx, events);
            }
            Msg::Map(map) => self.take_map(cx, &map),
            Msg::MapAsk => cx.send(from, CONTROL, Msg::Map(self.lasting.map.clone())),
            Msg::Word(word) => self.leader_word(cx, from, word),
            Msg::Stop { epoch, victim } => self.on_stop(epoch, victim),
            Msg::Call { id, epoch, call } => self.on_call(cx, from, id, epoch, &call),
            Msg::Done { id, done } => self.on_done(cx, from, id, done),
            Msg::Request(request) => self.on_request(cx, from, chan, request),
            Msg::Reply(reply) => self.on_sent_on(cx, from, &reply),
            Msg::Recall { .. } => {}
        }
        self.refresh();
    }

    fn on_promise_events(&mut self, cx: &mut Cx<'_>, events: Vec<PromiseEvent>) {
        for event in events {
            if let PromiseEvent::JoinEnded { .. } = event {
                cx.hit("heal: join withdrawn");
                self.pause = None;
                let commands = self.member.resume();
                self.run_member(cx, commands);
            }
        }
    }

    fn ping(&mut self, cx: &mut Cx<'_>) {
        if !self.has_brick {
            return;
        }
        self.next_ping = cx.tick.after(PING_EVERY);
        for peer in self.promises.peers() {
            let ping = self.promises.ping(cx.tick, peer);
            let (map, interval) = (self.lasting.map.clone(), self.interval.current());
            cx.send(proc_of_peer(peer), PROMISES, Msg::Ping { ping, map, interval });
        }
    }

    pub fn ping_now(&mut self, cx: &mut Cx<'_>) {
        self.ping(cx);
    }

    pub fn on_later(&mut self, cx: &mut Cx<'_>, what: Later) {
        self.refresh();
        match what {
            Later::Tick => self.on_tick(cx),
            Later::Execute { from, chan, request } => self.execute(cx, from, chan, &request),
        }
    }

    fn on_tick(&mut self, cx: &mut Cx<'_>) {
        cx.after(TICK, Later::Tick);
        self.leader_tick(cx);
        if !self.has_brick {
            return;
        }
        if cx.tick >= self.next_ping {
            self.ping(cx);
            self.report(cx);
        }
        if self.member.is_lead() {
            self.interval.lead_tick(cx.tick);
        }
        if cx.tick >= self.next_checkpoint {
            self.next_checkpoint = cx.tick.after(CHECKPOINT_EVERY);
            if self.member.in_sync() && !self.member.failed() {
                let _ = self.lasting.store.checkpoint(self.interval.current().0);
            }
        }
        if let Some(command) = self.member.tick(cx.tick) {
            self.run_member(cx, vec![command]);
        }
        self.tick_stops(cx);
        self.tick_lead(cx);
        self.tick_joiner(cx);
        self.tick_calls(cx);
        if self.member.failed() && self.member.in_sync() {
            let (epoch, brick, incarnation) = (self.member.epoch(), self.brick, self.incarnation);
            let reason = "its disk failed".to_owned();
            let entry = proto_rules::set::SetEntry::Leave { epoch, brick, incarnation, reason };
            self.say(cx, Word::Propose(entry));
        }
    }

    /// To the pool's leader, wherever it is.
    pub fn say(&mut self, cx: &mut Cx<'_>, word: Word) {
        match cx.leader {
            Some(leader) if leader == cx.me => self.leader_word(cx, cx.me, word),
            Some(leader) => cx.send(leader, CONTROL, Msg::Word(word)),
            None => {}
        }
    }

    fn report(&mut self, cx: &mut Cx<'_>) {
        if self.member.failed() && !self.member.in_sync() {
            // It left; it comes back with another disk, or with room, as another incarnation.
            return;
        }
        let report = Report {
            brick: self.brick,
            incarnation: self.incarnation,
            // Noted when it is in-sync: what it lost before that was healed.
            memory_intact: self.lasting.store.facts.boot == self.lasting.boot,
            durable: self.lasting.store.facts.epoch,
        };
        let lacks = self.promises.lacks(cx.tick).into_iter().map(|(_, h, g)| (h, g)).collect();
        self.say(cx, Word::Report { report, lacks });
    }

    fn on_stop(&mut self, epoch: Epoch, victim: BrickId) {
        if let Some(at) = self.promises.stop(set_key(), self.brick, epoch, victim) {
            self.stops.retain(|(e, v, _)| (*e, *v) != (epoch, victim));
            self.stops.push((epoch, victim, at));
        }
    }

    fn tick_stops(&mut self, cx: &mut Cx<'_>) {
        let now = cx.tick;
        let (ready, waiting): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.stops).into_iter().partition(|(_, _, at)| now > *at);
        self.stops = waiting;
        for (epoch, victim, _) in ready {
            // What was given meanwhile is nothing; a later promise would show here.
            if self.promises.wait_before_evict(set_key(), self.brick, victim) < now {
                self.say(cx, Word::StopReady { epoch, victim });
            }
        }
    }

    pub fn call(&mut self, cx: &mut Cx<'_>, to: Proc, call: Call, why: Why) -> u64 {
        self.next_call += 1;
        let id = self.next_call;
        let (epoch, call) = (self.member.epoch(), Rc::new(call));
        cx.send(to, PEER_DATA, Msg::Call { id, epoch, call: call.clone() });
        self.calls.insert(id, Pending { to, epoch, call, sent: cx.tick, why });
        id
    }

    /// Unanswered calls are made again; every call may arrive twice.
    fn tick_calls(&mut self, cx: &mut Cx<'_>) {
        let epoch = self.member.epoch();
        self.calls.retain(|_, p| p.epoch == epoch || p.why == Why::Join);
        for (id, pending) in &mut self.calls {
            if cx.tick.since(pending.sent) >= CALL_AGAIN {
                pending.sent = cx.tick;
                pending.epoch = epoch;
                let msg = Msg::Call { id: *id, epoch: pending.epoch, call: pending.call.clone() };
                cx.out.push(Out::Send { to: pending.to, chan: PEER_DATA, msg });
            }
        }
    }

    fn on_done(&mut self, cx: &mut Cx<'_>, from: Proc, id: u64, done: Done) {
        if let Done::Busy = done {
            // Asked again at its time.
            return;
        }
        let Some(pending) = self.calls.remove(&id) else { return };
        match pending.why {
            Why::Settle(job) => self.settle_done(cx, job, from, done),
            Why::Copy(job, gfid) => self.copy_done(cx, (job, gfid), from, done),
            Why::Graced(epoch) => self.graced_done(cx, epoch),
            Why::Vouch => self.vouch_done(cx, &pending.call, &done),
            Why::Join => self.join_done(cx, from, &pending.call, done),
            Why::Mark(job) => self.mark_done(cx, job, from),
            Why::StaleHeal => self.stale_done(cx, done),
            Why::Told => {}
        }
    }
}

pub fn short(map: &SetMap) -> String {
    let member = |m: &proto::map::MemberMap| {
        let letter = match m.state {
            MemberState::InSync => 'S',
            MemberState::Syncing => 'h',
            MemberState::Out => '-',
        };
        format!("{letter}{}", if map.lead == Some(m.brick) { "*" } else { "" })
    };
    let members: Vec<String> = map.members.iter().map(member).collect();
    format!("e{} {}", map.epoch, members.join(" "))
}

impl Peer {
    /// Nothing is left to do here: for the end of the quiet phase.
    pub fn settled_down(&self, epoch: Epoch) -> bool {
        let serving =
            !self.member.is_lead() || self.table.as_ref().is_some_and(LeaseTable::serving);
        self.member.epoch() == epoch
            && self.member.in_sync()
            && serving
            && self.settles.is_empty()
            && self.member.stale.iter().next().is_none()
    }

    pub fn state(&self) -> String {
        format!(
            "agreed {:?} in-sync {} lead {} serving {:?} settles {} stale {} serve_until {:?} joiner {} calls {:?}",
            self.promises.agreed_join(set_key(), self.brick),
            self.member.in_sync(),
            self.member.is_lead(),
            self.table.as_ref().map(LeaseTable::serving),
            self.settles.len(),
            self.member.stale.iter().count(),
            self.member.serve_until(),
            self.joiner.is_some(),
            self.calls.values().map(|c| (c.to, c.why, c.epoch)).collect::<Vec<_>>(),
        )
    }
}
