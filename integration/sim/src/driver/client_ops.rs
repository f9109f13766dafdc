//! The operations of a mount's threads: leases first, then one change or one read.

use std::collections::BTreeMap;

use proto::fop::{LeaseKey, Mode, Touch};
use proto::{BrickId, Epoch, Errno, Failure, Gfid, LeaseNumber, Seq};
use proto_rules::Tick;
use proto_rules::lease::Lease;
use proto_rules::txn::read::{ReadCommand, ReadTxn};
use proto_rules::txn::{Targets, Txn, TxnCommand};
use proto_rules::window::conflict::Reads;

use super::client::Client;
use super::client_wire::{Flight, Purpose};
use crate::cx::{Cx, brick_of, proc_of};
use crate::invariant::history::{Kind, Res};
use crate::model::change::{BLOCK_BYTES, Change, Name, Outcome};
use crate::model::net::{CONTROL, Proc};
use crate::msg::{Ans, Body, Msg, Reply};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    Block(Gfid, u8),
    Attr(Gfid),
    Name(Gfid, Name),
}

impl Wish {
    fn body(self) -> Body {
        match self {
            Wish::Block(gfid, block) => Body::Read { gfid, block },
            Wish::Attr(gfid) => Body::Getattr { gfid },
            Wish::Name(dir, name) => Body::Lookup { dir, name },
        }
    }

    fn gfid(self) -> Gfid {
        match self {
            Wish::Block(gfid, _) | Wish::Attr(gfid) | Wish::Name(gfid, _) => gfid,
        }
    }

    fn reads(self) -> Reads {
        match self {
            Wish::Block(gfid, block) => {
                let start = u64::from(block) * BLOCK_BYTES;
                Reads::Bytes { gfid, start, end: start + BLOCK_BYTES }
            }
            other => Reads::Inode(other.gfid()),
        }
    }
}

/// What an operation needs next.
enum Plan {
    /// Something of its own session is in flight on it.
    Wait,
    Lease(Vec<(LeaseKey, Mode)>),
    Read(Wish, LeaseKey),
    Local(Res),
    Change(Body, Vec<LeaseKey>),
    /// By the lead: the key is contended.
    Execute(Body),
}

pub struct Op {
    pub kind: Kind,
    pub hist: usize,
    pub thread: usize,
    deadline: Tick,
    under: Vec<(LeaseKey, LeaseNumber)>,
    /// The lead executes it.
    execute: bool,
    /// When it was sent first.
    first_epoch: Option<Epoch>,
    body: Option<Body>,
    seq: Seq,
    stamp: u64,
    resend: bool,
    txn: Option<Txn<Outcome>>,
    read: Option<(ReadTxn, Wish, u64)>,
    /// Waits for conflicting changes of its own session.
    queued: bool,
    answered: bool,
    diverged: Option<Vec<BrickId>>,
    /// The new inode's lease, from the lead's answer: counted from that request's sending.
    created: Option<(Tick, u64, Lease)>,
    lost: Vec<BrickId>,
    /// The latest sending to each member: only its answer counts.
    latest: BTreeMap<Proc, u64>,
}

impl Op {
    pub fn sent(&mut self, to: Proc, flight: u64) {
        self.latest.insert(to, flight);
    }

    pub fn awaits(&self, from: Proc, flight: u64) -> bool {
        self.latest.get(&from) == Some(&flight)
    }

    pub fn frame(&self) -> (Seq, bool, u64, Vec<(LeaseKey, LeaseNumber)>) {
        (self.seq, self.resend, self.stamp, self.under.clone())
    }

    /// Whether a change on its way was made under this lease.
    pub fn uses(&self, key: LeaseKey) -> bool {
        (self.txn.is_some() || self.queued) && self.under.iter().any(|(k, _)| *k == key)
    }

    pub fn is_executed(&self) -> bool {
        self.execute
    }

    /// The epoch of the first sending; this may be it.
    pub fn first_epoch(&mut self, now: Epoch) -> Epoch {
        *self.first_epoch.get_or_insert(now)
    }

    /// Whom a change of it is sent to.
    fn only(&self, mut targets: Targets) -> Targets {
        if self.execute {
            let lead = targets.lead.0;
            targets.members.retain(|member| *member == lead);
        }
        targets
    }

    fn touches(&self) -> Vec<Touch> {
        match &self.body {
            Some(Body::Change(change)) => change.touches(),
            _ => Vec::new(),
        }
    }
}

impl Client {
    pub fn begin(&mut self, cx: &mut Cx<'_>, thread: usize, kind: Kind, timeout: u64) {
        let hist = cx.oracle.history.invoke(cx.me, cx.now, kind);
        cx.note(|me| format!("c{} begins {kind:?} as #{hist}", me));
        self.next_id += 1;
        let op = Op {
            kind,
            hist,
            thread,
            deadline: cx.tick.after(timeout),
            under: Vec::new(),
            execute: false,
            first_epoch: None,
            body: None,
            seq: Seq(0),
            stamp: 0,
            resend: false,
            txn: None,
            read: None,
            queued: false,
            answered: false,
            diverged: None,
            created: None,
            lost: Vec::new(),
            latest: BTreeMap::new(),
        };
        self.ops.insert(self.next_id, op);
        self.step(cx);
    }

    /// Lets every operation go on as far as it can.
    pub fn step(&mut self, cx: &mut Cx<'_>) {
        let ids: Vec<u64> = self.ops.keys().copied().collect();
        for id in ids {
            self.step_op(cx, id);
        }
    }

    fn step_op(&mut self, cx: &mut Cx<'_>, id: u64) {
        let Some(op) = self.ops.get_mut(&id) else { return };
        if let Some(txn) = op.txn.as_mut() {
            let mut commands = txn.on_tick(cx.tick);
            for member in std::mem::take(&mut op.lost) {
                commands.extend(txn.on_connected(member));
            }
            return self.run_txn(cx, id, commands);
        }
        if let Some((read, ..)) = op.read.as_mut() {
            let commands = read.on_tick(cx.tick);
            return self.run_read(cx, id, commands);
        }
        if op.queued || op.answered {
            return;
        }
        if cx.tick >= op.deadline {
            // Nothing of it was ever sent.
            return self.finish(cx, id, Some(Res::Err(Errno::ETIMEDOUT)));
        }
        let kind = op.kind;
        match self.plan(cx.tick, kind) {
            Plan::Wait => {}
            Plan::Lease(keys) => {
                let yields = may_be_executed(kind);
                keys.into_iter().for_each(|(k, m)| self.ask(cx, k, m, yields));
            }
            Plan::Local(res) => {
                if matches!(kind, Kind::Read { .. } | Kind::Getattr { .. } | Kind::Lookup { .. }) {
                    cx.hit("op: read from cache");
                }
                self.finish(cx, id, Some(res));
            }
            Plan::Read(wish, key) => self.start_read(cx, id, wish, key),
            Plan::Change(body, keys) => self.queue_change(cx, id, body, &keys),
            Plan::Execute(body) => {
                if let Some(op) = self.ops.get_mut(&id) {
                    op.execute = true;
                }
                self.queue_change(cx, id, body, &[]);
            }
        }
    }

    fn ask(&mut self, cx: &mut Cx<'_>, key: LeaseKey, mode: Mode, yields: bool) {
        let asking = self.flights.values().any(|f| f.purpose == Purpose::Ask(key));
        if asking || !self.cache.may_ask(key) || !self.known || self.reclaiming {
            return;
        }
        if self.giving.contains_key(&key) || cx.tick < self.next_ask {
            return;
        }
        self.asked_keys.insert(key);
        if let Some(lead) = self.lead() {
            self.send(cx, lead, Body::Ask { key, mode, yields }, Purpose::Ask(key));
        }
    }

    fn missing(&self, now: Tick, keys: &[(LeaseKey, Mode)]) -> Option<Plan> {
        let mut missing: Vec<(LeaseKey, Mode)> = keys
            .iter()
            .copied()
            .filter(|(k, m)| self.cache.may_begin(now, *k, *m).is_none())
            .collect();
        missing.sort_unstable();
        (!missing.is_empty()).then_some(Plan::Lease(missing))
    }

    /// A change of one key that is fought for and not held here.
    fn plan_executed(&self, now: Tick, kind: Kind) -> Option<Plan> {
        let (key, change) = match kind {
            Kind::Write { gfid, block, value } => {
                (LeaseKey::Inode(gfid), Change::Write { gfid, block, value })
            }
            Kind::Setattr { gfid, value } => {
                (LeaseKey::Inode(gfid), Change::Setattr { gfid, value })
            }
            Kind::Create { dir, name, gfid } => {
                (LeaseKey::Part(dir), Change::Create { dir, name, gfid })
            }
            _ => return None,
        };
        let fought = self.contended.get(&key).is_some_and(|until| now < *until);
        let held = self.cache.may_begin(now, key, Mode::Exclusive).is_some();
        let may = fought && !held && self.known && !self.reclaiming;
        may.then_some(Plan::Execute(Body::Change(change)))
    }

    fn plan(&self, now: Tick, kind: Kind) -> Plan {
        if let Some(plan) = self.plan_executed(now, kind) {
            return plan;
        }
        match kind {
            Kind::Read { gfid, block } => self.plan_read(now, Wish::Block(gfid, block)),
            Kind::Getattr { gfid } => self.plan_read(now, Wish::Attr(gfid)),
            Kind::Lookup { dir, name } => self.plan_read(now, Wish::Name(dir, name)),
            Kind::Write { gfid, block, value } => {
                let key = LeaseKey::Inode(gfid);
                let body = Body::Change(Change::Write { gfid, block, value });
                self.missing(now, &[(key, Mode::Exclusive)])
                    .unwrap_or_else(|| Plan::Change(body, vec![key]))
            }
            Kind::Fsync { gfid } => {
                let key = LeaseKey::Inode(gfid);
                self.missing(now, &[(key, Mode::Exclusive)])
                    .unwrap_or_else(|| Plan::Change(Body::Fsync { gfid }, vec![key]))
            }
            Kind::Setattr { gfid, value } => {
                let key = LeaseKey::Inode(gfid);
                if let Some(plan) = self.missing(now, &[(key, Mode::Exclusive)]) {
                    return plan;
                }
                match self.attrs.get(&gfid) {
                    Some(_) => {
                        Plan::Change(Body::Change(Change::Setattr { gfid, value }), vec![key])
                    }
                    None if self.conflicts.in_flight(Reads::Inode(gfid)) => Plan::Wait,
                    None => Plan::Read(Wish::Attr(gfid), key),
                }
            }
            Kind::Create { dir, name, gfid } => {
                let key = LeaseKey::Part(dir);
                let body = Body::Change(Change::Create { dir, name, gfid });
                self.missing(now, &[(key, Mode::Exclusive)])
                    .unwrap_or_else(|| Plan::Change(body, vec![key]))
            }
            Kind::Unlink { dir, name } => self.plan_unlink(now, dir, name),
            Kind::Rename { from, to } => self.plan_rename(now, from, to),
        }
    }

    fn plan_read(&self, now: Tick, wish: Wish) -> Plan {
        let key = match wish {
            Wish::Name(dir, _) => LeaseKey::Part(dir),
            Wish::Block(gfid, _) | Wish::Attr(gfid) => LeaseKey::Inode(gfid),
        };
        if let Some(plan) = self.missing(now, &[(key, Mode::Shared)]) {
            return plan;
        }
        if self.conflicts.in_flight(wish.reads()) {
            return Plan::Wait;
        }
        let cached = match wish {
            Wish::Block(gfid, block) => self.blocks.get(&(gfid, block)).map(|v| Res::Value(*v)),
            Wish::Attr(gfid) => self.attrs.get(&gfid).map(|v| Res::Value(v.0)),
            Wish::Name(dir, name) => self.names.get(&(dir, name)).map(|v| Res::Name(*v)),
        };
        cached.map_or(Plan::Read(wish, key), Plan::Local)
    }

    /// What a name under an exclusive part lease points to.
    fn name_under(&self, dir: Gfid, name: Name) -> Result<Option<Gfid>, Plan> {
        match self.names.get(&(dir, name)) {
            _ if self.conflicts.in_flight(Reads::Inode(dir)) => Err(Plan::Wait),
            Some(known) => Ok(*known),
            None => Err(Plan::Read(Wish::Name(dir, name), LeaseKey::Part(dir))),
        }
    }

    fn plan_unlink(&self, now: Tick, dir: Gfid, name: Name) -> Plan {
        let mut keys = vec![(LeaseKey::Part(dir), Mode::Exclusive)];
        if let Some(plan) = self.missing(now, &keys) {
            return plan;
        }
        let expect = match self.name_under(dir, name) {
            Err(plan) => return plan,
            Ok(None) => return Plan::Local(Res::Err(Errno::ENOENT)),
            Ok(Some(expect)) => expect,
        };
        keys.push((LeaseKey::Inode(expect), Mode::Exclusive));
        let body = Body::Change(Change::Unlink { dir, name, expect });
        self.missing(now, &keys)
            .unwrap_or_else(|| Plan::Change(body, keys.iter().map(|k| k.0).collect()))
    }

    fn plan_rename(&self, now: Tick, from: (Gfid, Name), to: (Gfid, Name)) -> Plan {
        let mut keys = vec![(LeaseKey::Part(from.0), Mode::Exclusive)];
        if to.0 != from.0 {
            keys.push((LeaseKey::Part(to.0), Mode::Exclusive));
        }
        if let Some(plan) = self.missing(now, &keys) {
            return plan;
        }
        let (source, target) = match (self.name_under(from.0, from.1), self.name_under(to.0, to.1))
        {
            (Err(plan), _) | (_, Err(plan)) => return plan,
            (Ok(source), Ok(target)) => (source, target),
        };
        let Some(expect) = source else { return Plan::Local(Res::Err(Errno::ENOENT)) };
        keys.push((LeaseKey::Inode(expect), Mode::Exclusive));
        if let Some(over) = target {
            keys.push((LeaseKey::Inode(over), Mode::Exclusive));
        }
        let over = target.unwrap_or(Gfid::NIL);
        let body = Body::Change(Change::Rename { from, to, expect, over });
        self.missing(now, &keys)
            .unwrap_or_else(|| Plan::Change(body, keys.iter().map(|k| k.0).collect()))
    }

    fn queue_change(&mut self, cx: &mut Cx<'_>, id: u64, body: Body, keys: &[LeaseKey]) {
        let under = self.numbers(cx.tick, keys);
        let Some(op) = self.ops.get_mut(&id) else { return };
        op.under = under;
        op.body = Some(body);
        if self.conflicts.submit(id, op.touches()) {
            self.start_change(cx, id);
        } else {
            op.queued = true;
        }
    }

    fn numbers(&self, now: Tick, keys: &[LeaseKey]) -> Vec<(LeaseKey, LeaseNumber)> {
        let number = |k: &LeaseKey| self.cache.valid(now, *k, Mode::Exclusive).map(|n| (*k, n));
        keys.iter().filter_map(number).collect()
    }

    /// No conflicting change of this session is in flight: number it and send it.
    fn start_change(&mut self, cx: &mut Cx<'_>, id: u64) {
        let Some(op) = self.ops.get(&id) else { return };
        let keys: Vec<LeaseKey> = op.under.iter().map(|(k, _)| *k).collect();
        let under = self.numbers(cx.tick, &keys);
        let targets = Targets::of(&self.map.set).map(|targets| op.only(targets));
        // What it planned on may have changed while it waited.
        let stale = op.queued || under.len() < keys.len() || self.reclaiming;
        let seq = if stale { None } else { self.sequencer.begin() };
        let (Some(seq), Some(targets)) = (seq, targets) else {
            if let Some(op) = self.ops.get_mut(&id) {
                (op.queued, op.body, op.under) = (false, None, Vec::new());
                op.execute = false;
            }
            return self.release(cx, id);
        };
        let gfids: Vec<Gfid> = op.touches().iter().map(Touch::gfid).collect();
        let above = gfids.iter().filter_map(|g| self.attrs.get(g)).map(|a| a.1).max().unwrap_or(0);
        let stamp = self.stamp(cx, above);
        for gfid in gfids {
            *self.changes.entry(gfid).or_default() += 1;
        }
        let Some(op) = self.ops.get_mut(&id) else { return };
        let (txn, commands) = Txn::start(targets, op.deadline);
        (op.txn, op.seq, op.stamp, op.under) = (Some(txn), seq, stamp, under);
        cx.changes = true;
        self.run_txn(cx, id, commands);
    }

    /// Its touches are free: whoever waited for them goes on.
    fn release(&mut self, cx: &mut Cx<'_>, id: u64) {
        for next in self.conflicts.finish(id) {
            self.start_change(cx, next);
        }
    }

    pub fn run_txn(&mut self, cx: &mut Cx<'_>, id: u64, commands: Vec<TxnCommand<Outcome>>) {
        for command in commands {
            match command {
                TxnCommand::Send { to, resend } => {
                    let Some(op) = self.ops.get_mut(&id) else { return };
                    op.resend = resend;
                    let Some(body) = op.body.clone() else { return };
                    self.send(cx, proc_of(to), body, Purpose::Change(id));
                }
                TxnCommand::FetchMap { .. } => self.fetch_map(cx),
                // The lead's answer to the next renewal says whether the session is gone.
                TxnCommand::Hello { .. } => {}
                TxnCommand::ReportDivergence { stale } => {
                    if let Some(op) = self.ops.get_mut(&id) {
                        op.diverged = Some(stale);
                    }
                    self.report_divergence(cx, id);
                }
                TxnCommand::Done(outcome) => self.change_done(cx, id, outcome),
                TxnCommand::LeaseLost | TxnCommand::Fail(_) => {
                    self.forget_touched(id);
                    self.finish(cx, id, None);
                }
                TxnCommand::Settled => self.settled(cx, id),
            }
        }
    }

    fn forget_touched(&mut self, id: u64) {
        let gfids: Vec<Gfid> = self
            .ops
            .get(&id)
            .map(|op| op.touches().iter().map(Touch::gfid).collect())
            .unwrap_or_default();
        for gfid in gfids {
            self.forget_cached(LeaseKey::Inode(gfid));
            self.forget_cached(LeaseKey::Part(gfid));
        }
    }

    fn settled(&mut self, cx: &mut Cx<'_>, id: u64) {
        if let Some(op) = self.ops.remove(&id) {
            self.sequencer.settled(op.seq);
            self.release(cx, id);
        }
        self.give_back(cx);
    }

    fn change_done(&mut self, cx: &mut Cx<'_>, id: u64, outcome: Outcome) {
        self.forget_touched(id);
        if let Some(Op { body: Some(Body::Change(change)), stamp, created, execute, .. }) =
            self.ops.get(&id)
            && outcome.is_ok()
        {
            match *change {
                // No lease guards what the lead executed: others may have changed it since.
                Change::Write { .. } | Change::Setattr { .. } if *execute => {}
                Change::Write { gfid, block, value } => {
                    self.blocks.insert((gfid, block), value);
                }
                Change::Setattr { gfid, value } => {
                    self.attrs.insert(gfid, (value, *stamp));
                }
                Change::Create { dir, name, gfid } => {
                    if !execute {
                        self.names.insert((dir, name), Some(gfid));
                    }
                    if let Some((sent, term, lease)) = *created {
                        self.asked_keys.insert(lease.key);
                        if let Some(action) = self.cache.on_granted(sent, term, lease) {
                            self.act(cx, action);
                        }
                    }
                }
                Change::Unlink { dir, name, .. } => {
                    self.names.insert((dir, name), None);
                }
                Change::Rename { from, to, expect, .. } => {
                    self.names.insert(from, None);
                    self.names.insert(to, Some(expect));
                }
            }
        }
        let res = match outcome {
            // By a lead that lost its memory: it may have been executed before.
            Err(Errno::EIO) if self.ops.get(&id).is_some_and(Op::is_executed) => {
                return self.finish(cx, id, None);
            }
            // Not executed, and never will be: the mount would make it anew.
            Err(Errno::EAGAIN) => Res::Err(Errno::ETIMEDOUT),
            Err(errno) => Res::Err(errno),
            Ok(()) => Res::Done,
        };
        self.finish(cx, id, Some(res));
    }

    /// The application gets its answer; `None`: EIO or a timeout, and nobody knows.
    fn finish(&mut self, cx: &mut Cx<'_>, id: u64, res: Option<Res>) {
        let Some(op) = self.ops.get_mut(&id) else { return };
        op.answered = true;
        let (kind, hist, thread, background) = (op.kind, op.hist, op.thread, op.txn.is_some());
        if !background {
            self.ops.remove(&id);
        }
        cx.note(|me| format!("c{} #{hist} {kind:?} = {res:?}", me));
        cx.hit(if res.is_some() { kind.event() } else { "op: unknown outcome" });
        cx.oracle.finished(cx.me, cx.now, hist, thread, res);
    }

    pub fn change_answered(&mut self, cx: &mut Cx<'_>, id: u64, flight: &Flight, reply: Reply) {
        let (now, from, epoch) = (cx.tick, flight.to, flight.epoch);
        let Some(op) = self.ops.get_mut(&id) else { return };
        let Some(txn) = op.txn.as_mut() else { return };
        if epoch != txn.epoch() {
            return;
        }
        if let Ok(Ans::Created { lease, term }) = &reply.result {
            op.created = Some((flight.sent, *term, *lease));
        }
        let member = brick_of(from);
        let commands = match reply.result {
            Ok(_) => txn.on_answer(now, member, epoch, 0, Ok(())),
            Err(Failure::Errno(errno)) => {
                txn.on_answer(now, member, epoch, errno.0 as u64, Err(errno))
            }
            Err(Failure::Refused(refusal)) => txn.on_refused(now, member, refusal),
        };
        self.run_txn(cx, id, commands);
    }

    pub fn change_lost(&mut self, _cx: &mut Cx<'_>, id: u64, to: Proc) {
        let Some(op) = self.ops.get_mut(&id) else { return };
        if let Some(txn) = op.txn.as_mut() {
            txn.on_lost(brick_of(to));
            op.lost.push(brick_of(to));
        }
    }

    fn report_divergence(&mut self, cx: &mut Cx<'_>, id: u64) {
        let Some(op) = self.ops.get(&id) else { return };
        let (Some(stale), Some(lead)) = (op.diverged.clone(), self.lead()) else { return };
        let gfids = op.touches().iter().map(Touch::gfid).collect();
        self.send(cx, lead, Body::Diverged { gfids, stale }, Purpose::Diverged(id));
    }

    pub fn marked(&mut self, cx: &mut Cx<'_>, id: u64, reply: &Reply) {
        if reply.result != Ok(Ans::Done) {
            return self.report_divergence(cx, id);
        }
        let Some(op) = self.ops.get_mut(&id) else { return };
        op.diverged = None;
        let commands = op.txn.as_mut().map(Txn::on_marked).unwrap_or_default();
        self.run_txn(cx, id, commands);
    }

    pub fn diverged_lost(&mut self, cx: &mut Cx<'_>, id: u64) {
        self.report_divergence(cx, id);
    }

    fn fetch_map(&mut self, cx: &mut Cx<'_>) {
        for to in 0..cx.peers {
            cx.send(to, CONTROL, Msg::MapAsk);
        }
    }

    pub fn ops_on_map(&mut self, cx: &mut Cx<'_>, targets: &Targets) {
        let ids: Vec<u64> = self.ops.keys().copied().collect();
        for id in ids {
            let Some(op) = self.ops.get_mut(&id) else { continue };
            op.lost.clear();
            let targets = op.only(targets.clone());
            if let Some(txn) = op.txn.as_mut() {
                op.diverged = None;
                op.created = None;
                let mut commands = txn.on_map(targets);
                if op.execute {
                    // No lease of its own to reclaim.
                    commands.extend(txn.on_reclaimed());
                }
                self.run_txn(cx, id, commands);
                continue;
            }
            let under = op.under.first().copied();
            if let Some((read, ..)) = op.read.as_mut() {
                let valid = under.and_then(|(k, _)| self.cache.valid(cx.tick, k, Mode::Shared));
                if valid.is_none() || valid != under.map(|u| u.1) {
                    op.read = None;
                    self.release(cx, id);
                    continue;
                }
                let commands = read.on_map(targets.clone(), true, targets.members.clone());
                self.run_read(cx, id, commands);
            }
        }
    }

    /// A new lead gave some leases back under new numbers.
    pub fn leases_reclaimed(&mut self, cx: &mut Cx<'_>, granted: &[Lease]) {
        let ids: Vec<u64> = self.ops.keys().copied().collect();
        for id in ids {
            let Some(op) = self.ops.get_mut(&id) else { continue };
            let Some(txn) = op.txn.as_mut() else { continue };
            if op.execute {
                continue;
            }
            let mut all = true;
            for (key, number) in &mut op.under {
                match granted.iter().find(|l| l.key == *key) {
                    Some(lease) => *number = lease.number,
                    None => all = false,
                }
            }
            if all {
                cx.hit("op: retried under a new lease");
            }
            let commands = if all { txn.on_reclaimed() } else { txn.on_lease_lost() };
            self.run_txn(cx, id, commands);
        }
    }

    /// The session is new to the lead: everything that it had is settled and gone.
    pub fn leases_lost(&mut self, cx: &mut Cx<'_>) {
        let ids: Vec<u64> = self.ops.keys().copied().collect();
        for id in ids {
            let Some(op) = self.ops.get_mut(&id).filter(|op| !op.execute) else { continue };
            let Some(txn) = op.txn.as_mut() else { continue };
            let commands = txn.on_lease_lost();
            self.run_txn(cx, id, commands);
        }
    }

    fn start_read(&mut self, cx: &mut Cx<'_>, id: u64, wish: Wish, key: LeaseKey) {
        let Some(number) = self.cache.may_begin(cx.tick, key, Mode::Shared) else { return };
        let Some(targets) = Targets::of(&self.map.set) else { return };
        let mut order = targets.members.clone();
        let turn = cx.rng.index(order.len().max(1));
        order.rotate_left(turn);
        let changes = self.changes.get(&wish.gfid()).copied().unwrap_or(0);
        if !self.conflicts.read(id, wish.reads()) {
            return;
        }
        let Some(op) = self.ops.get_mut(&id) else { return };
        let (read, commands) = ReadTxn::start(targets, true, order, op.deadline);
        op.latest.clear();
        op.read = Some((read, wish, changes));
        op.under = vec![(key, number)];
        self.run_read(cx, id, commands);
    }

    fn run_read(&mut self, cx: &mut Cx<'_>, id: u64, commands: Vec<ReadCommand>) {
        for command in commands {
            match command {
                ReadCommand::Send { to } => {
                    let Some((_, wish, _)) = self.ops.get(&id).and_then(|op| op.read.as_ref())
                    else {
                        return;
                    };
                    let body = wish.body();
                    self.send(cx, proc_of(to), body, Purpose::Read(id));
                }
                ReadCommand::FetchMap { .. } => self.fetch_map(cx),
                ReadCommand::Hello { .. } => {}
                ReadCommand::Fail(_) => {
                    if let Some(op) = self.ops.get_mut(&id) {
                        op.read = None;
                    }
                    self.finish(cx, id, Some(Res::Err(Errno::ETIMEDOUT)));
                    self.release(cx, id);
                }
            }
        }
    }

    pub fn read_answered(
        &mut self,
        cx: &mut Cx<'_>,
        id: u64,
        from: Proc,
        epoch: proto::Epoch,
        reply: Reply,
    ) {
        let Some(op) = self.ops.get_mut(&id) else { return };
        let Some((read, wish, changes)) = op.read.as_mut() else { return };
        let (wish, changes) = (*wish, *changes);
        let ans = match reply.result {
            Err(Failure::Refused(refusal)) => {
                let commands = read.on_refused(cx.tick, brick_of(from), refusal);
                return self.run_read(cx, id, commands);
            }
            _ if !read.accepts(brick_of(from), epoch) => return,
            ans => ans,
        };
        op.read = None;
        self.answer_read(cx, id, wish, changes, ans);
        self.release(cx, id);
    }

    fn answer_read(
        &mut self,
        cx: &mut Cx<'_>,
        id: u64,
        wish: Wish,
        changes: u64,
        ans: Result<Ans, Failure>,
    ) {
        let Some(op) = self.ops.get(&id) else { return };
        let Some((key, number)) = op.under.first().copied() else { return };
        // The lease it was made under must not have ended meanwhile: else it is made again.
        if self.cache.valid(cx.tick, key, Mode::Shared) != Some(number) {
            return;
        }
        let unchanged = self.changes.get(&wish.gfid()).copied().unwrap_or(0) == changes;
        let res = match (ans, wish) {
            (Ok(Ans::Value(value)), Wish::Block(gfid, block)) => {
                if unchanged {
                    self.blocks.insert((gfid, block), value);
                }
                Res::Value(value)
            }
            (Ok(Ans::Attr(value, stamp)), Wish::Attr(gfid)) => {
                if unchanged {
                    self.attrs.insert(gfid, (value, stamp));
                }
                Res::Value(value)
            }
            (Ok(Ans::Name(gfid)), Wish::Name(dir, name)) => {
                if unchanged {
                    self.names.insert((dir, name), gfid);
                }
                Res::Name(gfid)
            }
            (Err(Failure::Errno(errno)), _) => Res::Err(errno),
            _ => return,
        };
        let own = match self.ops.get(&id).map(|op| op.kind) {
            Some(Kind::Read { .. } | Kind::Getattr { .. } | Kind::Lookup { .. }) => true,
            // It was a first step: the operation itself goes on.
            _ => matches!(res, Res::Err(_)),
        };
        if own {
            self.finish(cx, id, Some(res));
        }
    }

    pub fn read_lost(&mut self, cx: &mut Cx<'_>, id: u64, to: Proc) {
        let Some((read, ..)) = self.ops.get_mut(&id).and_then(|op| op.read.as_mut()) else {
            return;
        };
        let commands = read.on_lost(cx.tick, brick_of(to));
        self.run_read(cx, id, commands);
    }
}

/// As `may_be_executed` of the product's client, for the operations that stand here for all.
fn may_be_executed(kind: Kind) -> bool {
    matches!(kind, Kind::Write { .. } | Kind::Setattr { .. } | Kind::Create { .. })
}
