//! What a brick does when it leads its set: sessions, leases, marks, and the joiner's pause.

use std::collections::BTreeSet;
use std::rc::Rc;

use proto::fop::Mode;
use proto::{BrickId, Epoch, Failure, Gfid, Incarnation, Refusal, SessionId};
use proto_rules::Tick;
use proto_rules::heal::log::{Interval, LogAnswer};
use proto_rules::lease::table::{Ask, How, LeaseCommand, term};
use proto_rules::member::stale::Marking;
use proto_rules::set::SetEntry;
use proto_rules::time::{JOIN_PAUSE, MS};

use super::execute::ExecutionKey;
use super::peer::{Peer, Why};
use super::stale::STALE_HEALER;
use crate::cx::{Cx, proc_of};
use crate::model::net::{CONTROL, Chan, Proc};
use crate::msg::{Ans, Body, Call, Done, Msg, Request, Rest, Word};

/// Who asked for a lease, to be answered when it is granted.
pub struct AskFrom {
    pub from: Proc,
    pub chan: Chan,
    pub request: Request,
}

/// A divergence being noted by every member.
pub struct MarkJob {
    marking: Marking,
    /// The client that reported it; none when it is for a joiner.
    asked: Option<(Proc, Chan, Request)>,
    /// What the lead executes and was answered differently.
    execution: Option<ExecutionKey>,
}

/// A joiner waits for the rest.
pub struct Pause {
    pub joiner: BrickId,
    pub incarnation: Incarnation,
    from: Proc,
    call: u64,
    since: Option<Interval>,
    keeps: BTreeSet<Gfid>,
    shipped: bool,
    withdraw_at: Option<Tick>,
}

/// How long the lead waits for the joiner's word before it asks for a bare bump.
const WITHDRAW_WAIT: u64 = 300 * MS;

impl Peer {
    pub fn in_sync_procs(&self) -> Vec<Proc> {
        self.map().in_sync().map(|m| proc_of(m.brick)).collect()
    }

    pub fn others(&self) -> Vec<Proc> {
        let me = proc_of(self.brick);
        self.in_sync_procs().into_iter().filter(|p| *p != me).collect()
    }

    /// Requests of class Lead that passed the gate.
    pub fn serve_lead(&mut self, cx: &mut Cx<'_>, from: Proc, chan: Chan, request: &Request) {
        let session = request.session;
        let Some(table) = self.table.as_mut() else {
            return self.refuse(cx, from, chan, request, Refusal::NotLead);
        };
        let length = term(cx.tick, self.member.serve_until());
        let mut commands = Vec::new();
        let result: Result<Ans, Failure> = match &request.body {
            Body::Hello => table.hello(cx.tick, session).map(|()| Ans::Done).map_err(Failure::from),
            Body::Renew { progress } => table
                .renew(cx.tick, session, length, progress)
                .map(|a| Ans::Renewed { term: a.term, overdue: a.overdue, wall: cx.wall })
                .map_err(Failure::from),
            Body::Reclaim(reclaim) => table
                .reclaim(cx.tick, reclaim, &self.member.numbers)
                .map(|(answer, more)| {
                    commands = more;
                    Ans::Reclaimed { answer, term: length, wall: cx.wall }
                })
                .map_err(Failure::from),
            Body::Ask { key, mode, yields } => {
                // Asked again: nobody waits for the answer to the earlier ask.
                let same = |(id, a): (&(SessionId, u64), &AskFrom)| {
                    let again = matches!(&a.request.body, Body::Ask { key: k, .. } if k == key);
                    (id.0 == session && again && id.1 != request.id).then_some(id.1)
                };
                let earlier: Vec<u64> = self.asks.iter().filter_map(same).collect();
                let how = if *yields { How::Yields } else { How::Waits };
                let mut commands = Vec::new();
                for id in earlier {
                    self.asks.remove(&(session, id));
                    commands.extend(table.cancel(cx.tick, session, id));
                }
                let ask = Ask { session, id: request.id, key: *key, mode: *mode, how };
                self.asks.insert(
                    (session, request.id),
                    AskFrom { from, chan, request: request.clone() },
                );
                commands.extend(table.ask(cx.tick, ask));
                return self.run_lease(cx, commands);
            }
            Body::Return { lease, keep, open } => {
                commands = table.on_return(cx.tick, session, *lease, *keep, *open);
                Ok(Ans::Done)
            }
            Body::Diverged { gfids, stale } => {
                let marks: Vec<(BrickId, Gfid)> =
                    stale.iter().flat_map(|b| gfids.iter().map(|g| (*b, *g))).collect();
                return self.mark(cx, from, chan, request, marks);
            }
            _ => return,
        };
        if let (Body::Reclaim(_), Ok(Ans::Reclaimed { answer, .. })) = (&request.body, &result) {
            if !answer.granted.is_empty() {
                cx.hit("lease: reclaim");
            }
            if !answer.refused.is_empty() {
                cx.hit("lease: reclaim refused");
            }
        }
        match result {
            Err(Failure::Refused(refusal)) => self.refuse(cx, from, chan, request, refusal),
            other => self.answer(cx, from, chan, request, other),
        }
        self.run_lease(cx, commands);
    }

    pub fn run_lease(&mut self, cx: &mut Cx<'_>, commands: Vec<LeaseCommand>) {
        for command in commands {
            cx.note(|me| format!("p{} lead: {command:?}", me));
            match command {
                LeaseCommand::Grant { session, ask, lease, .. } => {
                    if session == STALE_HEALER {
                        self.stale_lease(cx, lease);
                        continue;
                    }
                    let Some(asked) = self.asks.remove(&(session, ask)) else { continue };
                    let term = term(cx.tick, self.member.serve_until());
                    let ans = Ans::Granted { lease, term };
                    self.answer(cx, asked.from, asked.chan, &asked.request, Ok(ans));
                }
                LeaseCommand::Turn { ask, lease, .. } => self.turn_granted(cx, ask, lease),
                LeaseCommand::Refuse { session, ask, refusal } => {
                    if let Some(asked) = self.asks.remove(&(session, ask)) {
                        self.refuse(cx, asked.from, asked.chan, &asked.request, refusal);
                    } else {
                        self.turn_refused(cx, ask, refusal);
                    }
                }
                // It gives everything back as soon as it can.
                LeaseCommand::Recall { session, .. } if session == STALE_HEALER => {}
                LeaseCommand::Recall { session, lease, keep } => {
                    cx.hit("lease: recall");
                    if lease.mode == Mode::Exclusive {
                        self.decline_waiting(cx, session, lease.key);
                    }
                    let to = cx.peers + session.0 as usize % 100;
                    cx.send(to, crate::model::net::DATA[0], Msg::Recall { lease, keep });
                }
                LeaseCommand::Settle { scope, raise } => {
                    match scope.key {
                        Some(_) => cx.hit("lease: revoke"),
                        None => cx.hit("lease: session dead"),
                    }
                    self.start_settle(cx, Some(scope), raise);
                }
                LeaseCommand::NoteGraced { epoch } => self.note_graced(cx, epoch),
                LeaseCommand::Forget { session, .. } => self.tell_ended(cx, session, true),
            }
        }
    }

    pub fn tell_ended(&mut self, cx: &mut Cx<'_>, session: SessionId, forgotten: bool) {
        self.member.session_ended(session, forgotten);
        for to in self.others() {
            let ended = vec![(session, forgotten)];
            let (settled, taken) = (Vec::new(), Vec::new());
            let call = Call::Clear { settled, taken, ended, graced: None };
            self.call(cx, to, call, Why::Told);
        }
    }

    pub fn note_graced(&mut self, cx: &mut Cx<'_>, epoch: Epoch) {
        let others = self.others();
        self.graced_here(epoch);
        self.graced_wait = Some((epoch, others.len() as u32));
        for to in others {
            let (settled, taken, ended) = (Vec::new(), Vec::new(), Vec::new());
            let call = Call::Clear { settled, taken, ended, graced: Some(epoch) };
            self.call(cx, to, call, Why::Graced(epoch));
        }
        self.graced_if_all(cx);
    }

    /// Durably; what was revoked in earlier epochs cannot be reclaimed any more anyway.
    pub fn graced_here(&mut self, epoch: Epoch) {
        let facts = &mut self.lasting.store.facts;
        facts.graced = epoch;
        facts.raised.retain(|_, number| number.base >= epoch.0);
        self.member.note_graced(epoch);
    }

    pub fn graced_done(&mut self, cx: &mut Cx<'_>, epoch: Epoch) {
        if let Some((waiting, left)) = &mut self.graced_wait
            && *waiting == epoch
        {
            *left = left.saturating_sub(1);
        }
        self.graced_if_all(cx);
    }

    fn graced_if_all(&mut self, cx: &mut Cx<'_>) {
        if let Some((epoch, 0)) = self.graced_wait {
            self.graced_wait = None;
            if let Some(table) = self.table.as_mut() {
                table.graced(epoch);
                cx.note(|me| format!("p{} grants in e{epoch}", me));
            }
        }
    }

    /// Every in-sync member notes the marks durably; then the client may acknowledge.
    fn mark(
        &mut self,
        cx: &mut Cx<'_>,
        from: Proc,
        chan: Chan,
        request: &Request,
        marks: Vec<(BrickId, Gfid)>,
    ) {
        if !self.member.begin_marking(&marks) {
            return self.refuse(cx, from, chan, request, Refusal::Busy);
        }
        cx.hit("stale: mark");
        self.mark_all(cx, &marks, Some((from, chan, request.clone())), None);
    }

    /// As `mark`, for what the lead executes itself.
    pub fn mark_for(&mut self, cx: &mut Cx<'_>, marks: &[(BrickId, Gfid)], key: ExecutionKey) {
        self.mark_all(cx, marks, None, Some(key));
    }

    fn mark_all(
        &mut self,
        cx: &mut Cx<'_>,
        marks: &[(BrickId, Gfid)],
        asked: Option<(Proc, Chan, Request)>,
        execution: Option<ExecutionKey>,
    ) {
        cx.rounds = true;
        let members: Vec<BrickId> = self.map().in_sync().map(|m| m.brick).collect();
        self.note_marks(marks, &[]);
        let mut marking = Marking::new(marks.to_vec(), members);
        self.next_call += 1;
        let job = self.next_call;
        let done = marking.on_noted(self.brick);
        for to in self.others() {
            let call = Call::Mark { set: marks.to_vec(), clear: Vec::new() };
            self.call(cx, to, call, Why::Mark(job));
        }
        self.markings.insert(job, MarkJob { marking, asked, execution });
        if done {
            self.mark_done(cx, job, cx.me);
        }
    }

    /// The epoch ended before all members had noted them.
    pub fn drop_unfinished_marks(&mut self, cx: &mut Cx<'_>) {
        for job in std::mem::take(&mut self.markings).into_values() {
            let clear = self.member.unfinished(&job.marking.marks);
            if clear.is_empty() {
                continue;
            }
            self.note_marks(&[], &clear);
            for to in self.others() {
                let call = Call::Mark { set: Vec::new(), clear: clear.clone() };
                self.call(cx, to, call, Why::Told);
            }
        }
    }

    pub fn note_marks(&mut self, set: &[(BrickId, Gfid)], clear: &[(BrickId, Gfid)]) {
        let facts = &mut self.lasting.store.facts;
        for (brick, gfid) in clear {
            self.member.stale.clear(*brick, *gfid);
            facts.stale.remove(&(*gfid, *brick));
        }
        for (brick, gfid) in set {
            self.member.stale.mark(*brick, *gfid);
            facts.stale.insert((*gfid, *brick));
        }
    }

    pub fn mark_done(&mut self, cx: &mut Cx<'_>, job: u64, from: Proc) {
        let Some(marking) = self.markings.get_mut(&job) else { return };
        if marking.marking.on_noted(crate::cx::brick_of(from))
            && let Some(done) = self.markings.remove(&job)
        {
            self.member.end_marking();
            if let Some((from, chan, request)) = done.asked {
                self.answer(cx, from, chan, &request, Ok(Ans::Done));
            }
            if let Some(key) = done.execution {
                self.execution_marked(cx, key);
            }
        }
    }

    pub fn tick_lead(&mut self, cx: &mut Cx<'_>) {
        if !self.member.is_lead() {
            return;
        }
        if let Some(table) = self.table.as_mut()
            && self.member.may_revoke(cx.tick)
        {
            let commands = table.tick(cx.tick);
            self.run_lease(cx, commands);
        }
        self.tick_executions(cx);
        self.tick_pause(cx);
        self.tick_stale(cx);
    }

    /// A joiner wants the rest: changes wait, and what is being executed ends first.
    pub fn on_pause(
        &mut self,
        cx: &mut Cx<'_>,
        from: Proc,
        call: u64,
        (since, keeps): (Option<Interval>, &BTreeSet<Gfid>),
    ) -> Option<Done> {
        let joiner = crate::cx::brick_of(from);
        let Some(incarnation) = self.map().member(joiner).map(|m| m.incarnation) else {
            return Some(Done::Refused);
        };
        let clean = self.table.as_ref().is_some_and(|t| t.serving() && !t.settling());
        if self.pause.as_ref().is_some_and(|p| p.call == call && p.joiner == joiner) {
            return None;
        }
        if self.pause.is_some() || !clean {
            return Some(Done::Refused);
        }
        let marks = self.member.marks_for(joiner, keeps);
        if !marks.is_empty() {
            if self.member.begin_marking(&[]) {
                self.mark_all(cx, &marks, None, None);
            }
            return Some(Done::Refused);
        }
        if !self.member.pause(cx.tick, self.member.epoch(), JOIN_PAUSE) {
            return Some(Done::Refused);
        }
        cx.hit("heal: joiner's pause");
        self.pause = Some(Pause {
            joiner,
            incarnation,
            from,
            call,
            since,
            keeps: keeps.clone(),
            shipped: false,
            withdraw_at: None,
        });
        self.pause_may_be_quiet(cx);
        None
    }

    pub fn pause_may_be_quiet(&mut self, cx: &mut Cx<'_>) {
        let quiet = self.member.quiet();
        let Some(pause) = self.pause.as_mut().filter(|p| quiet && !p.shipped) else { return };
        pause.shipped = true;
        let (from, id, since) = (pause.from, pause.call, pause.since);
        let keeps = pause.keeps.clone();
        let rest = self.rest(since, &keeps);
        cx.note(|me| format!("p{} ships {} inodes to the joiner", me, rest.inodes.len()));
        let done = Done::Rest(Rc::new(rest));
        cx.send(from, crate::model::net::PEER_DATA, Msg::Done { id, done });
    }

    fn rest(&self, since: Option<Interval>, keeps: &BTreeSet<Gfid>) -> Rest {
        let store = &self.lasting.store;
        let all: BTreeSet<Gfid> = store.live.keys().copied().collect();
        let mut gfids = match store.book.answer(since) {
            LogAnswer::Since(since) => store.changed_since(since.0),
            LogAnswer::Everything => all.clone(),
        };
        for unsettled in self.member.windows.unsettled(None, None) {
            gfids.extend(unsettled.touches.iter().map(proto::fop::Touch::gfid));
        }
        let known = |s: &SessionId| self.table.as_ref().is_some_and(|t| t.knows(*s));
        let sessions: Vec<SessionId> = self.heard.iter().copied().filter(known).collect();
        gfids.retain(|g| !(keeps.contains(g) && self.member.stale.is_stale(self.brick, *g)));
        Rest {
            inodes: gfids.into_iter().map(|g| (g, store.live.get(&g).cloned())).collect(),
            log: store.log.clone(),
            rules: self.member.hand_over(sessions),
            book: store.book.clone(),
            keep: all,
            fallback: store.facts.fallback,
            raised: store.facts.raised.clone(),
            interval: self.interval.current(),
        }
    }

    /// Too long: by the joiner's word, or by a bare bump when it has none.
    pub fn withdraw_join(&mut self, cx: &mut Cx<'_>) {
        let epoch = self.member.epoch();
        let Some(pause) = self.pause.as_mut() else {
            let entry = SetEntry::Bump { epoch };
            return self.say(cx, Word::Propose(entry));
        };
        match pause.withdraw_at {
            None => {
                pause.withdraw_at = Some(cx.tick.after(WITHDRAW_WAIT));
                let (to, incarnation) = (pause.from, pause.incarnation);
                self.call(cx, to, Call::Withdraw { incarnation }, Why::Told);
            }
            Some(at) if cx.tick >= at => {
                pause.withdraw_at = Some(cx.tick.after(WITHDRAW_WAIT));
                self.say(cx, Word::Propose(SetEntry::Bump { epoch }));
            }
            Some(_) => {}
        }
    }

    /// An agreed join whose joiner is silent keeps everybody waiting: a bare bump ends it.
    fn tick_pause(&mut self, cx: &mut Cx<'_>) {
        let agreed = self.promises.agreed_join(crate::cx::set_key(), self.brick);
        let stuck = agreed.is_some() && cx.tick >= self.member.serve_until();
        if stuck && cx.rng.percent(5) {
            let epoch = self.member.epoch();
            self.say(cx, Word::Propose(SetEntry::Bump { epoch }));
        }
    }

    pub fn lose_lead(&mut self) {
        self.table = None;
        self.settles.clear();
        self.graced_wait = None;
        self.markings.clear();
        self.asks.clear();
        self.executions.clear();
        self.later_settles.clear();
        self.pause = None;
        self.stale_job = None;
    }

    pub fn tell_leader_of_map(&self, cx: &mut Cx<'_>, to: Proc) {
        cx.send(to, CONTROL, Msg::Map(self.lasting.map.clone()));
    }
}
