//! The world: processes, the queue of events in virtual time, and the phases of a run.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

use proto::map::{MemberMap, MemberState, SetMap};
use proto::{BrickId, Epoch, Incarnation, SessionId, SetId};
use proto_rules::set::{SetEntry, SetOutcome, apply};

use crate::Outcome;
use crate::coverage::Coverage;
use crate::cx::{Cx, Later, Out, brick_of, peer_of, proc_of};
use crate::driver::client::Client;
use crate::driver::peer::{Lasting, Peer, short};
use crate::faults::{Cast, CutOff, Fault, Moment, aimed, cut_off, schedule};
use crate::invariant::{self, Broken, Oracle};
use crate::model::clock::{Clock, MS, Nanos};
use crate::model::net::{CONTROL, Chan, DATA, Flight, Net, Proc};
use crate::model::pool::Pool;
use crate::model::store::Store;
use crate::msg::{Map, Msg};
use crate::rng::Rng;
use crate::workload::{self, Workload};

/// `client.op-timeout`, in true time; clocks differ from it by their rates.
const OP_TIMEOUT: Nanos = 30_000 * MS;
const POOL_TICK: Nanos = 50 * MS;
/// The quiet phase must have healed everything by then: the wait for all members (30 s), the
/// operation timeout, and a few rounds.
const QUIET_MAX: Nanos = 120_000 * MS;
const THREADS: usize = 2;
const OPERATIONS: usize = 200;
/// Events of one run: a bound against a driver that runs in circles.
const EVENTS_MAX: u64 = 3_000_000;

pub enum Event {
    Deliver(Flight<Msg>),
    Later { proc: Proc, life: u32, what: Later },
    Broken { proc: Proc, life: u32, other: Proc, chan: Chan },
    Think { client: Proc, life: u32, thread: usize },
    Fault(Fault),
    Commit,
    PoolTick,
}

pub struct Process {
    pub up: bool,
    pub paused: bool,
    pub life: u32,
    pub clock: Clock,
    /// What arrived while it was stopped.
    pub inbox: VecDeque<Event>,
    pub stopped: Vec<(Nanos, Nanos)>,
    pub deaths: Vec<Nanos>,
}

pub struct World {
    pub now: Nanos,
    pub rng: Rng,
    seq: u64,
    queue: BTreeMap<(Nanos, u64), Event>,
    pub net: Net<Msg>,
    pub pool: Pool,
    pub procs: Vec<Process>,
    pub peers: Vec<Peer>,
    pub clients: Vec<Client>,
    pub cast: Cast,
    pub oracle: Oracle,
    pub cover: Coverage,
    workload: Workload,
    length: Nanos,
    think: Nanos,
    issued: usize,
    /// Aimed faults left for this seed.
    aims: u64,
    /// Changes left for this seed that are cut off on their way.
    cut_offs: u64,
    pub quiet: bool,
    finals: Vec<crate::invariant::history::Kind>,
    final_from: Nanos,
    trace_max: usize,
    trace: VecDeque<String>,
    /// Incarnations whose memory or disk is gone.
    pub lost: BTreeSet<(BrickId, Incarnation)>,
}

impl World {
    pub fn new(seed: u64, trace_max: usize) -> Self {
        let mut rng = Rng::new(seed);
        let peers = rng.range(3, 5) as usize;
        // Now and then two bricks and a witness.
        let bricks = if peers == 3 && rng.percent(30) { 2 } else { 3 };
        let clients = rng.range(2, 3) as usize;
        let cast = Cast { peers, bricks, clients };
        let mut map = new_map(bricks);
        let members: Vec<(BrickId, Incarnation)> =
            (0..bricks).map(|p| (brick_of(p), Incarnation(rng.next() | 1))).collect();
        apply(&mut map, 10, &SetEntry::Start { members: members.clone() });
        let voters = if peers == 5 { (0..5).collect() } else { (0..3).collect() };
        let needed = if bricks == 3 { 2 } else { 1 };
        let shared = Map { version: 1, set: Rc::new(map.clone()) };
        let lasting =
            || Lasting { map: shared.clone(), store: Store::new(workload::image()), boot: 1 };
        let procs = (0..peers + clients).map(|_| Process {
            up: true,
            paused: false,
            life: 1,
            clock: Clock::new(&mut rng),
            inbox: VecDeque::new(),
            stopped: Vec::new(),
            deaths: Vec::new(),
        });
        let procs = procs.collect();
        let length = rng.range(15_000 * MS, 35_000 * MS);
        let mut world = Self {
            now: 0,
            seq: 0,
            queue: BTreeMap::new(),
            net: Net::new(),
            pool: Pool::new(voters, map),
            procs,
            peers: (0..peers).map(|p| Peer::new(p, p < bricks, needed, lasting())).collect(),
            clients: (0..clients).map(|c| new_client(c, 1, &shared)).collect(),
            cast,
            oracle: Oracle::new(clients),
            cover: Coverage::default(),
            workload: Workload::new(rng.fork()),
            length,
            think: 2 * length * (clients * THREADS) as u64 / (OPERATIONS as u64 + 40),
            issued: 0,
            aims: rng.below(4),
            cut_offs: rng.below(4),
            quiet: false,
            finals: Vec::new(),
            final_from: 0,
            trace_max,
            trace: VecDeque::new(),
            lost: BTreeSet::new(),
            rng,
        };
        world.set_up(&members);
        world
    }

    fn set_up(&mut self, members: &[(BrickId, Incarnation)]) {
        for proc in 0..self.cast.peers {
            let incarnation = members.get(proc).map_or(Incarnation(1), |m| m.1);
            self.with_peer(proc, |peer, cx| peer.start(cx, incarnation));
        }
        for client in self.cast.peers..self.procs.len() {
            self.start_client(client);
        }
        for (at, fault) in schedule(&mut self.rng, self.cast, self.length) {
            self.at(at, Event::Fault(fault));
        }
        self.at(0, Event::PoolTick);
    }

    pub fn start_client(&mut self, proc: Proc) {
        self.with_client(proc, |client, cx| client.start(cx));
        for thread in 0..THREADS {
            self.think(proc, thread);
        }
    }

    fn think(&mut self, client: Proc, thread: usize) {
        let wait = if self.rng.percent(40) { MS / 2 } else { self.rng.below(self.think) };
        let life = self.procs[client].life;
        self.at(self.now + wait, Event::Think { client, life, thread });
    }

    pub fn at(&mut self, time: Nanos, event: Event) {
        self.seq += 1;
        self.queue.insert((time.max(self.now), self.seq), event);
    }

    pub fn note(&mut self, text: impl FnOnce() -> String) {
        if self.trace_max > 0 {
            self.push_note(text());
        }
    }

    fn push_note(&mut self, text: String) {
        if self.trace.len() >= self.trace_max {
            self.trace.pop_front();
        }
        self.trace.push_back(format!("{:>10.3} ms  {text}", self.now as f64 / MS as f64));
    }

    fn in_cx(&mut self, me: Proc, act: impl FnOnce(&mut Self, &mut Cx<'_>)) {
        let mut rng = self.rng.clone();
        let mut cover = std::mem::take(&mut self.cover);
        let mut oracle = std::mem::take(&mut self.oracle);
        let mut notes = Vec::new();
        let clock = self.procs[me].clock;
        let mut cx = Cx {
            me,
            now: self.now,
            tick: clock.tick(self.now),
            wall: clock.wall(self.now),
            peers: self.cast.peers,
            rng: &mut rng,
            cover: &mut cover,
            oracle: &mut oracle,
            leads_term: (self.pool.leader == Some(me)).then_some(self.pool.term),
            leader: self.pool.leader,
            out: Vec::new(),
            rounds: false,
            changes: false,
            notes: (self.trace_max > 0).then_some(&mut notes),
        };
        act(self, &mut cx);
        let out = std::mem::take(&mut cx.out);
        let (rounds, changes) = (cx.rounds, cx.changes);
        (self.rng, self.cover, self.oracle) = (rng, cover, oracle);
        notes.into_iter().for_each(|n| self.push_note(n));
        if changes {
            self.aim_at_change(me);
        }
        self.perform(me, out);
        if rounds {
            self.aim(Moment::Rounds(me));
        }
    }

    pub fn with_peer(&mut self, proc: Proc, act: impl FnOnce(&mut Peer, &mut Cx<'_>)) {
        self.in_cx(proc, |world, cx| act(&mut world.peers[proc], cx));
    }

    pub fn with_client(&mut self, proc: Proc, act: impl FnOnce(&mut Client, &mut Cx<'_>)) {
        let at = proc - self.cast.peers;
        self.in_cx(proc, |world, cx| act(&mut world.clients[at], cx));
        self.check_holders();
        for (client, thread) in std::mem::take(&mut self.oracle.ready) {
            self.think(client, thread);
        }
    }

    fn check_holders(&mut self) {
        let beliefs = self.clients.iter().enumerate().filter_map(|(at, client)| {
            let process = &self.procs[self.cast.peers + at];
            let tick = process.clock.tick(self.now);
            process.up.then(|| (client.session, client.believes(tick)))
        });
        let beliefs: Vec<_> = beliefs.collect();
        if let Some(broken) = invariant::holders::check(&beliefs) {
            self.oracle.break_with(broken);
        }
    }

    fn perform(&mut self, me: Proc, out: Vec<Out>) {
        for out in out {
            match out {
                Out::Send { to, chan, msg } => self.transmit(me, to, chan, msg),
                Out::After { wait, what } => {
                    let wait = self.procs[me].clock.true_span(wait);
                    let life = self.procs[me].life;
                    self.at(self.now + wait, Event::Later { proc: me, life, what });
                }
                Out::Propose { term, entry } => {
                    let due = self.pool.propose(self.now, &mut self.rng, term, entry);
                    if let Some(due) = due {
                        self.at(due, Event::Commit);
                    }
                }
            }
        }
    }

    fn transmit(&mut self, from: Proc, to: Proc, chan: Chan, msg: Msg) {
        if from == to {
            // To itself, by the same door, at once.
            let flight = Flight { at: self.now, from, to, chan, generation: u64::MAX, msg };
            return self.at(self.now, Event::Deliver(flight));
        }
        if !self.procs[to].up {
            return;
        }
        if let Some(flight) = self.net.send(self.now, &mut self.rng, (from, to, chan), msg) {
            self.at(flight.at, Event::Deliver(flight));
        }
    }

    /// Runs until `done` says so or `until` has come.
    fn run_until(&mut self, until: Nanos, done: impl Fn(&Self) -> bool) -> bool {
        let mut events = 0;
        while let Some(((time, _), event)) = self.queue.pop_first() {
            self.now = time;
            let checked = matches!(event, Event::PoolTick);
            self.handle(event);
            events += 1;
            if self.oracle.broken.is_some() {
                return false;
            }
            if checked && done(self) {
                return true;
            }
            if self.now >= until || events > EVENTS_MAX {
                return false;
            }
        }
        false
    }

    pub fn handle(&mut self, event: Event) {
        let proc = match &event {
            Event::Deliver(flight) => Some(flight.to),
            Event::Later { proc, .. } | Event::Broken { proc, .. } => Some(*proc),
            Event::Think { client, .. } => Some(*client),
            _ => None,
        };
        if let Some(proc) = proc
            && self.procs[proc].paused
        {
            return self.procs[proc].inbox.push_back(event);
        }
        match event {
            Event::Deliver(flight) => self.deliver(flight),
            Event::Later { proc, life, what } if self.alive(proc, life) => {
                if proc < self.cast.peers {
                    self.with_peer(proc, |peer, cx| peer.on_later(cx, what));
                } else {
                    self.with_client(proc, |client, cx| client.on_later(cx, &what));
                }
            }
            Event::Broken { proc, life, other, chan }
                if self.alive(proc, life) && proc >= self.cast.peers && DATA.contains(&chan) =>
            {
                self.with_client(proc, |client, cx| client.on_broken(cx, other, chan));
            }
            Event::Think { client, life, thread } if self.alive(client, life) => {
                self.next_operation(client, thread);
            }
            Event::Fault(fault) if !self.quiet => self.fault(fault),
            Event::Commit => self.commit(),
            Event::PoolTick => self.pool_tick(),
            _ => {}
        }
    }

    fn alive(&self, proc: Proc, life: u32) -> bool {
        self.procs[proc].up && self.procs[proc].life == life
    }

    fn deliver(&mut self, flight: Flight<Msg>) {
        let Flight { from, to, chan, generation, msg, .. } = flight;
        let own = from == to;
        if !self.procs[to].up || !(own || self.net.arrives(from, to, chan, generation)) {
            return;
        }
        if to < self.cast.peers {
            self.with_peer(to, |peer, cx| peer.on_msg(cx, from, chan, msg));
        } else {
            self.with_client(to, |client, cx| client.on_msg(cx, from, chan, msg));
        }
    }

    fn next_operation(&mut self, client: Proc, thread: usize) {
        let timeout = OP_TIMEOUT;
        let kind = if self.issued < OPERATIONS {
            self.issued += 1;
            self.workload.next()
        } else {
            let Some(kind) = self.finals.pop() else { return };
            kind
        };
        self.with_client(client, |c, cx| c.begin(cx, thread, kind, timeout));
    }

    fn reaches(&self, proc: Proc) -> bool {
        let on = |p: Proc| self.procs[p].up && !self.procs[p].paused;
        let linked = |v: Proc| v == proc || (self.net.linked(proc, v) && self.net.linked(v, proc));
        let votes = self.pool.voters.iter().filter(|v| on(**v) && linked(**v)).count();
        on(proc) && votes * 2 > self.pool.voters.len()
    }

    fn able(&self) -> BTreeSet<Proc> {
        self.pool.voters.iter().copied().filter(|p| self.reaches(*p)).collect()
    }

    fn commit(&mut self) {
        let able = self.able();
        let done = self.pool.commit(self.now, |p| able.contains(&p));
        self.committed(done);
    }

    fn pool_tick(&mut self) {
        self.at(self.now + POOL_TICK, Event::PoolTick);
        let able = self.able();
        let term = self.pool.term;
        let mut rng = self.rng.fork();
        let done = self.pool.tick(self.now, &mut rng, |p| able.contains(&p));
        if self.pool.term != term && term > 0 {
            self.cover.hit("pool: leader change");
        }
        if let Some(leader) = self.pool.leader.filter(|_| self.pool.term != term) {
            // A leader has all that was committed, also while it was away.
            let map = self.pool_map();
            self.with_peer(leader, |peer, cx| peer.take_map(cx, &map));
        }
        self.committed(done);
    }

    fn pool_map(&self) -> Map {
        Map { version: self.pool.version, set: Rc::new(self.pool.map.clone()) }
    }

    fn committed(&mut self, done: Vec<(SetEntry, SetOutcome)>) {
        for (entry, outcome) in done {
            let map = short(&self.pool.map);
            self.note(|| format!("pool: {entry:?} -> {outcome:?} ({map})"));
            self.count(&entry, outcome);
            self.aim_at(&entry, outcome);
            let map = self.pool_map();
            let Some(leader) = self.pool.leader else { continue };
            self.with_peer(leader, |peer, cx| peer.take_map(cx, &map));
            for to in (0..self.procs.len()).filter(|p| *p != leader) {
                self.transmit(leader, to, CONTROL, Msg::Map(map.clone()));
            }
        }
    }

    fn aim_at(&mut self, entry: &SetEntry, outcome: SetOutcome) {
        let SetOutcome::NewEpoch { lead_changed, .. } = outcome else { return };
        let moment = match entry {
            SetEntry::Join { brick, .. } => Moment::Join(proc_of(*brick)),
            _ if lead_changed => match self.pool.map.lead {
                Some(lead) => Moment::Lead(proc_of(lead)),
                None => return,
            },
            _ => return,
        };
        self.aim(moment);
    }

    fn aim(&mut self, moment: Moment) {
        // The first joins and leads of a seed are no better than later ones.
        if self.quiet || self.aims == 0 || !self.rng.percent(35) {
            return;
        }
        self.aims -= 1;
        self.cover.hit("fault: aimed");
        for (at, fault) in aimed(&mut self.rng, self.cast, self.now, moment) {
            self.at(at, Event::Fault(fault));
        }
    }

    /// Before the frames of a change are on their way.
    fn aim_at_change(&mut self, client: Proc) {
        if self.quiet || self.cut_offs == 0 || !self.rng.percent(3) {
            return;
        }
        self.cut_offs -= 1;
        let CutOff { first, plan, event } = cut_off(&mut self.rng, self.cast, self.now, client);
        self.cover.hit(event);
        self.fault(first);
        for (at, fault) in plan {
            self.at(at, Event::Fault(fault));
        }
    }

    fn count(&mut self, entry: &SetEntry, outcome: SetOutcome) {
        if let SetOutcome::Void(_) = outcome {
            return self.cover.hit("set: void entry");
        }
        if let SetOutcome::NewEpoch { lead_changed: true, .. } = outcome {
            self.cover.hit("set: lead change");
        }
        self.cover.hit(match entry {
            SetEntry::Evict { .. } => "set: eviction",
            SetEntry::EvictPeer { .. } => "set: eviction of a peer",
            SetEntry::Join { .. } => "set: join",
            SetEntry::Bump { .. } => "set: bump",
            SetEntry::Leave { .. } => "set: leave",
            SetEntry::Restart { .. } => "set: restart of all",
            SetEntry::BrickUp { .. } | SetEntry::Start { .. } => "set: brick up",
            SetEntry::Drop { .. } => "set: a member dropped",
        });
    }

    fn healed(&self) -> bool {
        let map = &self.pool.map;
        let all = map.members.iter().all(|m| m.state == MemberState::InSync);
        let idle = self.clients.iter().all(|c| c.ops.is_empty());
        let peers = self.peers[..self.cast.bricks].iter();
        all && idle
            && self.issued >= OPERATIONS
            && self.finals.is_empty()
            && peers.clone().all(|p| p.settled_down(map.epoch))
    }

    fn why_not_healed(&self) -> String {
        let ops: Vec<String> = self
            .clients
            .iter()
            .flat_map(|c| c.ops.values().map(|op| format!("#{} {:?}", op.hist, op.kind)))
            .collect();
        let peers: Vec<String> = self.peers[..self.cast.bricks]
            .iter()
            .enumerate()
            .map(|(p, peer)| format!("p{p} {} {}", short(peer.map()), peer.state()))
            .collect();
        format!("{}; issued {}; ops {ops:?}; {peers:#?}", short(&self.pool.map), self.issued)
    }

    pub fn run(mut self) -> Outcome {
        let end = self.length;
        self.run_until(end, |_| false);
        if self.oracle.broken.is_none() {
            self.quiet_phase();
        }
        let undecided = match self.judge() {
            Ok(undecided) => undecided,
            Err(broken) => {
                self.oracle.break_with(broken);
                0
            }
        };
        Outcome {
            coverage: self.cover,
            broken: self.oracle.broken,
            trace: self.trace.into(),
            undecided,
            operations: self.oracle.history.ops.len(),
            virtual_ms: self.now / MS,
        }
    }

    fn quiet_phase(&mut self) {
        self.note(|| "---- the faults end ----".to_owned());
        self.end_faults();
        self.quiet = true;
        for round in 0..2 {
            let until = self.now + QUIET_MAX;
            if !self.run_until(until, Self::healed) && self.oracle.broken.is_none() {
                let what = format!("in quiet round {round}: {}", self.why_not_healed());
                return self.oracle.break_with(invariant::heal_ends::broken(what));
            }
            if round == 0 && self.oracle.broken.is_none() {
                self.look_at_everything();
            }
        }
    }

    fn look_at_everything(&mut self) {
        self.finals = Workload::everything();
        self.final_from = self.now;
        for client in self.cast.peers..self.procs.len() {
            for thread in 0..THREADS {
                self.think(client, thread);
            }
        }
    }

    fn judge(&mut self) -> Result<u32, Broken> {
        if self.oracle.broken.is_some() {
            return Ok(0);
        }
        let in_sync = self.pool.map.in_sync().map(|m| proc_of(m.brick));
        invariant::equal::check(in_sync.map(|p| (p, &self.peers[p].lasting.store.live)))?;
        let history = &self.oracle.history;
        invariant::hang::check(history, self.now, OP_TIMEOUT, |c, from| self.stopped(c, from))?;
        invariant::fsynced::check(history)?;
        invariant::acked::check(history, self.final_from)?;
        let registers = invariant::registers::check_all(history)?;
        Ok(registers + invariant::names::check_all(history)?)
    }

    /// How long a client was stopped after `from`; `None` if it died.
    fn stopped(&self, client: Proc, from: Nanos) -> Option<Nanos> {
        let process = &self.procs[client];
        if process.deaths.iter().any(|at| *at >= from) {
            return None;
        }
        let spans = process.stopped.iter().filter(|(_, to)| *to > from);
        Some(spans.map(|(a, b)| b - a).sum())
    }
}

fn new_map(bricks: usize) -> SetMap {
    let member = |proc| MemberMap {
        brick: brick_of(proc),
        peer: peer_of(proc),
        path: String::new(),
        state: MemberState::Out,
        incarnation: Incarnation(0),
        reason: String::new(),
    };
    SetMap {
        id: SetId(0),
        epoch: Epoch::NONE,
        lead: None,
        members: (0..bricks).map(member).collect(),
    }
}

pub fn new_client(at: usize, life: u32, map: &Map) -> Client {
    Client::new(SessionId(u64::from(life) * 100 + at as u64), map.clone())
}
