//! Changes of contended keys: the lead executes them for their sessions, and fans them out.

use std::collections::BTreeMap;
use std::rc::Rc;

use proto::fop::Touch;
use proto::{BrickId, Errno, Failure, Gfid, Refusal, Seq, SessionId};
use proto_rules::Tick;
use proto_rules::lease::table::SettleScope;
use proto_rules::lease::{Lease, LeaseKey};
use proto_rules::member::Verdict;
use proto_rules::time::MS;
use proto_rules::txn::{Targets, Txn, TxnCommand};
use proto_rules::window::Arrival;

use super::peer::Peer;
use super::serve::head;
use crate::cx::{Cx, brick_of, lead_proc, proc_of};
use crate::model::change::{Change, Outcome};
use crate::model::net::{Chan, PEER_DATA, Proc};
use crate::msg::{Body, Msg, Reply, Request};

/// A member that has not answered in this time is asked again.
const SEND_AGAIN: u64 = 200 * MS;

pub type ExecutionKey = (SessionId, Seq);

/// One change on its way through the lead.
pub struct Execution {
    from: Proc,
    chan: Chan,
    /// As the session sent it; with the turns it becomes the frame of all members.
    request: Request,
    due: Vec<LeaseKey>,
    turns: Vec<(LeaseKey, u64)>,
    /// The ask for a turn that it waits for.
    asked: Option<u64>,
    own: Option<Outcome>,
    txn: Option<Txn<Outcome>>,
    latest: BTreeMap<BrickId, (u64, Tick)>,
    /// Members to be marked stale, as soon as that can be.
    diverged: Option<Vec<BrickId>>,
}

/// Keys of which a change needs a turn, the first one last.
fn turn_keys(change: &Change) -> Vec<LeaseKey> {
    match *change {
        Change::Write { gfid, .. } | Change::Setattr { gfid, .. } => vec![LeaseKey::Inode(gfid)],
        Change::Create { dir, .. } => vec![LeaseKey::Part(dir)],
        Change::Unlink { .. } | Change::Rename { .. } => Vec::new(),
    }
}

impl Peer {
    /// A frame with the flag. True when it is dealt with; else it goes through the gate.
    pub fn execute_for(
        &mut self,
        cx: &mut Cx<'_>,
        from: Proc,
        chan: Chan,
        request: &Rc<Request>,
    ) -> bool {
        let key = (request.session, request.seq);
        if request.by_lead {
            let sent_on = lead_proc(self.map()) == Some(from) && from != cx.me;
            if sent_on && request.epoch == self.member.epoch() {
                // Whom the lead works for it knows.
                self.member.session_named(request.session);
            }
            return !sent_on && !self.executions.contains_key(&key);
        }
        let lead = proto_rules::member::Head { class: proto::fop::Class::Lead, ..head(request) };
        if let Verdict::Refuse(refusal) = self.member.admit(cx.tick, &lead, self.table.as_ref()) {
            self.refuse(cx, from, chan, request, refusal);
            return true;
        }
        let serving = self.table.as_ref().is_some_and(|t| t.serving());
        if !serving || self.executions.contains_key(&key) {
            let refusal = if serving { Refusal::Busy } else { Refusal::Grace };
            self.refuse(cx, from, chan, request, refusal);
            return true;
        }
        if self.member.windows.look(key.0, key.1) != Arrival::New {
            return false;
        }
        let Body::Change(change) = &request.body else { return false };
        let remembers = self.member.remembers(request.first_epoch) || !request.resend;
        let execution = Execution {
            from,
            chan,
            request: Request::clone(request),
            due: turn_keys(change),
            turns: Vec::new(),
            asked: None,
            own: None,
            txn: None,
            latest: BTreeMap::new(),
            diverged: None,
        };
        self.executions.insert(key, execution);
        match remembers {
            true => self.take_turns(cx, key),
            // The product looks at the inode's stamp, which blocks and names do not have here.
            false => self.decline(cx, key, Errno::EIO),
        }
        true
    }

    fn take_turns(&mut self, cx: &mut Cx<'_>, key: ExecutionKey) {
        let Some(execution) = self.executions.get_mut(&key) else { return };
        let Some(due) = execution.due.pop() else { return self.begin_executing(cx, key) };
        self.next_call += 1;
        execution.asked = Some(self.next_call);
        let Some(table) = self.table.as_mut() else { return };
        let commands = match due {
            LeaseKey::Inode(_) => table.ask_turn_alone(cx.tick, key.0, self.next_call, due),
            LeaseKey::Part(_) => table.ask_turn(cx.tick, key.0, self.next_call, due),
        };
        self.run_lease(cx, commands);
    }

    /// An exclusive lease of the session is recalled: nothing of the same waits here for it.
    pub fn decline_waiting(&mut self, cx: &mut Cx<'_>, session: SessionId, lease: LeaseKey) {
        let about = |e: &Execution| match &e.request.body {
            Body::Change(change) => change.touches().iter().any(|t| t.gfid() == lease.gfid()),
            _ => false,
        };
        let of = |(key, e): &(&ExecutionKey, &Execution)| {
            key.0 == session && e.asked.is_some() && about(e)
        };
        let waiting = self.executions.iter().filter(of).map(|(key, e)| (*key, e.asked));
        for (key, ask) in waiting.collect::<Vec<_>>() {
            let (Some(table), Some(ask)) = (self.table.as_mut(), ask) else { return };
            let commands = table.cancel(cx.tick, session, ask);
            self.run_lease(cx, commands);
            self.decline(cx, key, Errno::EAGAIN);
        }
    }

    fn decline(&mut self, cx: &mut Cx<'_>, key: ExecutionKey, errno: Errno) {
        cx.hit("lead: declined");
        self.member.decline(key.0, key.1, Err(errno));
        self.end_execution(cx, key, Err(errno.into()));
    }

    pub fn turn_granted(&mut self, cx: &mut Cx<'_>, ask: u64, lease: Lease) {
        let waits = |(_, e): &(&ExecutionKey, &Execution)| e.asked == Some(ask);
        let Some(key) = self.executions.iter().find(waits).map(|(key, _)| *key) else {
            let Some(table) = self.table.as_mut() else { return };
            let commands = table.end_turn(cx.tick, lease.key, ask);
            return self.run_lease(cx, commands);
        };
        if let Some(execution) = self.executions.get_mut(&key) {
            execution.asked = None;
            execution.turns.push((lease.key, ask));
            execution.request.under.push((lease.key, lease.number));
        }
        self.take_turns(cx, key);
    }

    pub fn turn_refused(&mut self, cx: &mut Cx<'_>, ask: u64, refusal: Refusal) {
        let waits = |(_, e): &(&ExecutionKey, &Execution)| e.asked == Some(ask);
        if let Some(key) = self.executions.iter().find(waits).map(|(key, _)| *key) {
            match refusal {
                Refusal::LeaseNeeded => self.decline(cx, key, Errno::EAGAIN),
                _ => self.end_execution(cx, key, Err(refusal.into())),
            }
        }
    }

    /// It has its turns: what only the lead knows goes into the frame, then it passes the gate.
    fn begin_executing(&mut self, cx: &mut Cx<'_>, key: ExecutionKey) {
        let Some(execution) = self.executions.get_mut(&key) else { return };
        if let Body::Change(Change::Setattr { gfid, .. }) = &execution.request.body
            && let Some(inode) = self.lasting.store.live.get(gfid)
        {
            execution.request.stamp = execution.request.stamp.max(inode.attr.1 + 1);
        }
        execution.request.by_lead = true;
        let (from, chan) = (execution.from, execution.chan);
        let frame = Rc::new(execution.request.clone());
        self.on_request(cx, from, chan, frame);
    }

    /// The gate's word to what this lead executes. False: it is not that.
    pub fn execution_admitted(
        &mut self,
        cx: &mut Cx<'_>,
        request: &Rc<Request>,
        verdict: &Verdict<Outcome>,
    ) -> bool {
        let key = (request.session, request.seq);
        if !request.by_lead || !self.executions.contains_key(&key) {
            return false;
        }
        match verdict {
            Verdict::Refuse(refusal) => {
                self.end_execution(cx, key, Err((*refusal).into()));
                true
            }
            Verdict::Replay(outcome) => {
                self.end_execution(cx, key, Ok(*outcome));
                true
            }
            Verdict::Fail(errno) => {
                self.end_execution(cx, key, Err((*errno).into()));
                true
            }
            _ => false,
        }
    }

    /// Executed here: now by the others. False: it is no execution of this lead.
    pub fn executed(&mut self, cx: &mut Cx<'_>, request: &Request, outcome: Outcome) -> bool {
        let key = (request.session, request.seq);
        let targets = Targets::of(self.map());
        let Some(execution) = self.executions.get_mut(&key).filter(|_| request.by_lead) else {
            return false;
        };
        let Some(targets) = targets else { return false };
        cx.hit("lead: executed");
        let (txn, commands) = Txn::start(targets, Tick::NEVER);
        (execution.own, execution.txn) = (Some(outcome), Some(txn));
        self.run_execution(cx, key, commands);
        true
    }

    fn run_execution(
        &mut self,
        cx: &mut Cx<'_>,
        key: ExecutionKey,
        commands: Vec<TxnCommand<Outcome>>,
    ) {
        for command in commands {
            match command {
                TxnCommand::Send { to, resend } => self.send_on(cx, key, to, resend),
                TxnCommand::ReportDivergence { stale } => {
                    if let Some(execution) = self.executions.get_mut(&key) {
                        execution.diverged = Some(stale);
                    }
                    self.mark_diverged(cx, key);
                }
                TxnCommand::Done(outcome) => self.end_execution(cx, key, Ok(outcome)),
                TxnCommand::LeaseLost | TxnCommand::Fail(_) => {
                    self.end_execution(cx, key, Err(Refusal::Busy.into()));
                }
                TxnCommand::FetchMap { .. } | TxnCommand::Hello { .. } | TxnCommand::Settled => {}
            }
        }
    }

    fn send_on(&mut self, cx: &mut Cx<'_>, key: ExecutionKey, to: BrickId, resend: bool) {
        self.next_call += 1;
        let (id, epoch) = (self.next_call, self.member.epoch());
        let Some(execution) = self.executions.get_mut(&key) else { return };
        if to == self.brick {
            let (Some(own), Some(txn)) = (execution.own, execution.txn.as_mut()) else { return };
            let commands = txn.on_answer(cx.tick, to, txn.epoch(), digest(&own), own);
            return self.run_execution(cx, key, commands);
        }
        execution.latest.insert(to, (id, cx.tick));
        // What the session sent again may have been executed by a member that has restarted since.
        let resend = resend || execution.request.resend;
        let request = Request { id, epoch, resend, ..execution.request.clone() };
        cx.send(proc_of(to), PEER_DATA, Msg::Request(Rc::new(request)));
    }

    /// A member's answer to a frame that was sent on.
    pub fn on_sent_on(&mut self, cx: &mut Cx<'_>, from: Proc, reply: &Reply) {
        let member = brick_of(from);
        let latest = |e: &Execution| e.latest.get(&member).is_some_and(|(id, _)| *id == reply.id);
        let found = self.executions.iter_mut().find(|(_, e)| latest(e));
        let Some((key, execution)) = found else { return };
        let key = *key;
        let Some(txn) = execution.txn.as_mut() else { return };
        let outcome: Outcome = match &reply.result {
            Ok(_) => Ok(()),
            Err(Failure::Errno(errno)) => Err(*errno),
            Err(Failure::Refused(refusal)) => {
                execution.latest.remove(&member);
                let commands = txn.on_refused(cx.tick, member, *refusal);
                return self.run_execution(cx, key, commands);
            }
        };
        execution.latest.remove(&member);
        let commands = txn.on_answer(cx.tick, member, txn.epoch(), digest(&outcome), outcome);
        self.run_execution(cx, key, commands);
    }

    fn mark_diverged(&mut self, cx: &mut Cx<'_>, key: ExecutionKey) {
        let Some(execution) = self.executions.get_mut(&key) else { return };
        let Some(stale) = execution.diverged.clone() else { return };
        let Body::Change(change) = &execution.request.body else { return };
        let gfids: Vec<Gfid> = change.touches().iter().map(Touch::gfid).collect();
        let marks: Vec<(BrickId, Gfid)> =
            stale.iter().flat_map(|b| gfids.iter().map(|g| (*b, *g))).collect();
        if self.member.begin_marking(&marks) {
            cx.hit("stale: mark");
            execution.diverged = None;
            self.mark_for(cx, &marks, key);
        }
    }

    /// The marks are on all members.
    pub fn execution_marked(&mut self, cx: &mut Cx<'_>, key: ExecutionKey) {
        let txn = self.executions.get_mut(&key).and_then(|e| e.txn.as_mut());
        let commands = txn.map(Txn::on_marked).unwrap_or_default();
        self.run_execution(cx, key, commands);
    }

    pub fn tick_executions(&mut self, cx: &mut Cx<'_>) {
        for key in self.executions.keys().copied().collect::<Vec<_>>() {
            self.mark_diverged(cx, key);
            let Some(execution) = self.executions.get_mut(&key) else { continue };
            let Some(txn) = execution.txn.as_mut() else { continue };
            let late = |sent: Tick| cx.tick.since(sent) >= SEND_AGAIN;
            let lost: Vec<BrickId> =
                execution.latest.iter().filter(|(_, l)| late(l.1)).map(|(m, _)| *m).collect();
            let mut commands = txn.on_tick(cx.tick);
            for member in lost {
                execution.latest.remove(&member);
                txn.on_lost(member);
                commands.extend(txn.on_connected(member));
            }
            self.run_execution(cx, key, commands);
        }
        for (scope, raise) in std::mem::take(&mut self.later_settles) {
            self.start_settle(cx, Some(scope), raise);
        }
    }

    /// A new epoch under this lead: whatever was answered is asked again.
    pub fn executions_lead_on(&mut self, cx: &mut Cx<'_>) {
        let Some(targets) = Targets::of(self.map()) else { return };
        for key in self.executions.keys().copied().collect::<Vec<_>>() {
            let Some(execution) = self.executions.get_mut(&key) else { continue };
            execution.latest.clear();
            execution.diverged = None;
            let Some(txn) = execution.txn.as_mut() else { continue };
            let commands = txn.on_map(targets.clone());
            self.run_execution(cx, key, commands);
        }
    }

    /// What is executed for a session ends before the session is settled; what still waits never
    /// begins.
    pub fn executes_for(&mut self, cx: &mut Cx<'_>, scope: &SettleScope) -> bool {
        let of = |key: &&ExecutionKey| key.0 == scope.session;
        if scope.key.is_none() {
            let waits = |(_, e): &(&ExecutionKey, &Execution)| e.asked.is_some();
            let waiting = self.executions.iter().filter(waits).map(|(key, _)| *key);
            for key in waiting.filter(|key| of(&key)).collect::<Vec<_>>() {
                self.end_execution(cx, key, Err(Refusal::UnknownSession.into()));
            }
        }
        self.executions.iter().any(|(key, e)| of(&key) && e.txn.is_some())
            || self.member.windows.running(Some(scope.session), None)
    }

    fn end_execution(
        &mut self,
        cx: &mut Cx<'_>,
        key: ExecutionKey,
        result: Result<Outcome, Failure>,
    ) {
        let Some(execution) = self.executions.remove(&key) else { return };
        let Execution { from, chan, request, turns, .. } = execution;
        match result {
            Ok(outcome) => self.reply_outcome(cx, from, chan, &request, (outcome, true)),
            Err(Failure::Refused(refusal)) => {
                self.refuse(cx, from, chan, &request, refusal);
            }
            Err(failure) => self.answer(cx, from, chan, &request, Err(failure)),
        }
        for (lease, ask) in turns {
            let Some(table) = self.table.as_mut() else { return };
            let commands = table.end_turn(cx.tick, lease, ask);
            self.run_lease(cx, commands);
        }
    }
}

fn digest(outcome: &Outcome) -> u64 {
    match outcome {
        Ok(()) => 0,
        Err(errno) => errno.0 as u64,
    }
}
