//! The sink of a heal: rounds, the final pause, and the join; and the other side of its calls.

use std::collections::BTreeSet;
use std::rc::Rc;

use proto::{Epoch, Gfid};
use proto_rules::Tick;
use proto_rules::heal::joiner::{JoinCommand, Joiner, Left};
use proto_rules::heal::log::{Interval, LogAnswer};
use proto_rules::set::SetEntry;
use proto_rules::time::MS;

use super::peer::{Peer, Why};
use crate::cx::{Cx, brick_of, lead_proc, proc_of, set_key};
use crate::model::net::{PEER_DATA, Proc};
use crate::msg::{Call, Done, Msg, Rest, Word};

/// Inodes per trip.
const BATCH: usize = 3;
/// How long it goes on saying "never serves" before it takes its new name.
const NEVER_FOR: u64 = 350 * MS;

/// The rules' joiner with what its driver keeps beside it.
pub struct Sink {
    rules: Joiner,
    /// The list being copied.
    left: Vec<Gfid>,
    since: Option<Interval>,
    rounds: u32,
    all: bool,
    /// The lead lost what it did after that.
    fallback: Option<Interval>,
    /// What it keeps its own copy of, by the last list.
    keeps: BTreeSet<Gfid>,
    /// The interval of the rest, once that is here.
    rest: Option<Interval>,
    never_until: Option<Tick>,
}

impl Peer {
    /// Called with every map: this brick is syncing under its present incarnation, or not.
    pub fn on_syncing(&mut self, cx: &mut Cx<'_>, syncing: bool) {
        let map = self.lasting.map.set.clone();
        if self.joiner.is_some() {
            let commands = self.joiner.as_mut().map(|j| j.rules.on_map(&map)).unwrap_or_default();
            if !commands.is_empty() {
                self.calls.retain(|_, p| p.why != Why::Join);
            }
            self.run_join(cx, commands);
        } else if syncing && !self.member.failed() {
            let facts = &self.lasting.store.facts;
            let new = facts.epoch == Epoch::NONE;
            let last_durable = (!new).then_some(Interval(facts.checkpoint));
            let (rules, commands) = Joiner::start(self.brick, self.incarnation, &map, last_durable);
            self.joiner = Some(Sink {
                rules,
                left: Vec::new(),
                since: last_durable,
                rounds: 0,
                all: false,
                fallback: None,
                keeps: BTreeSet::new(),
                rest: None,
                never_until: None,
            });
            self.run_join(cx, commands);
        }
    }

    fn run_join(&mut self, cx: &mut Cx<'_>, commands: Vec<JoinCommand>) {
        for command in commands {
            cx.note(|me| format!("p{} join: {command:?}", me));
            let Some(sink) = self.joiner.as_mut() else { return };
            let lead = lead_proc(&self.lasting.map.set);
            match command {
                JoinCommand::AskChanges { since } => {
                    sink.since = since;
                    sink.rest = None;
                    sink.rounds += 1;
                    if sink.rounds > 2 {
                        cx.hit("heal: rounds");
                    }
                    if let Some(lead) = lead {
                        self.call(cx, lead, Call::Changed { since }, Why::Join);
                    }
                }
                JoinCommand::CopyList => self.copy_next(cx),
                JoinCommand::Checkpoint => self.join_checkpoint(cx),
                JoinCommand::SlowWriters { .. } => {}
                JoinCommand::Pause { epoch } => {
                    let since = sink.since;
                    self.promises.offer_join(set_key(), self.brick, epoch);
                    if let Some(lead) = lead {
                        let keeps = sink.keeps.clone();
                        self.call(cx, lead, Call::Pause { since, keeps }, Why::Join);
                    }
                }
                JoinCommand::CopyRest => {}
                JoinCommand::EndPause { .. } => {
                    self.calls.retain(|_, p| p.why != Why::Join);
                    if let Some(lead) = lead {
                        self.call(cx, lead, Call::EndPause, Why::Told);
                    }
                }
                JoinCommand::AskAgreement { of, .. } => {
                    let (brick, incarnation) = (self.brick, self.incarnation);
                    for to in of {
                        let call = Call::AgreeJoin { brick, incarnation };
                        self.call(cx, proc_of(to), call, Why::Join);
                    }
                }
                JoinCommand::ProposeJoin { epoch, incarnation } => {
                    let entry = SetEntry::Join { epoch, brick: self.brick, incarnation };
                    self.say(cx, Word::Propose(entry));
                }
                JoinCommand::NeverServe => self.never_serve(cx),
                JoinCommand::Joined => {
                    self.joiner = None;
                    self.calls.retain(|_, p| p.why != Why::Join);
                }
            }
        }
    }

    fn join_checkpoint(&mut self, cx: &mut Cx<'_>) {
        let store = &mut self.lasting.store;
        let rest = self.joiner.as_ref().and_then(|sink| sink.rest);
        // What it was healed to is on disk; its question stays the old one until the rest is.
        let interval = rest.map_or(store.facts.checkpoint, |i| i.0);
        let suspects = store.suspects.clone();
        if store.checkpoint(interval).is_err() {
            return;
        }
        if rest.is_none() {
            store.suspects = suspects;
        }
        let commands = self.joiner.as_mut().map(|j| j.rules.on_checkpoint()).unwrap_or_default();
        self.run_join(cx, commands);
    }

    pub fn join_done(&mut self, cx: &mut Cx<'_>, from: Proc, call: &Call, done: Done) {
        let Some(sink) = self.joiner.as_mut() else { return };
        let commands = match (done, call) {
            (Done::Changed { gfids, all, current, stale, fallback }, Call::Changed { .. }) => {
                sink.fallback = fallback;
                sink.all |= all;
                sink.keeps = self.member.keeps(brick_of(from), &stale);
                self.listed(cx, gfids, all, current)
            }
            (Done::Inodes(inodes), _) => {
                for (gfid, inode) in &inodes {
                    self.lasting.store.install(*gfid, inode.as_ref(), self.interval.current().0);
                }
                return self.copy_next(cx);
            }
            (Done::Ok, Call::AgreeJoin { .. }) => sink.rules.on_agreed(brick_of(from)),
            (Done::Refused, Call::AgreeJoin { .. }) => sink.rules.on_disagreed(),
            (Done::Refused, Call::Pause { .. }) => sink.rules.on_pause_refused(),
            (Done::Rest(rest), _) => return self.take_rest(cx, &rest),
            _ => return,
        };
        self.run_join(cx, commands);
    }

    /// The lead's list and this brick's own late entries: what its log, its crash and its
    /// former rounds say (traps 11, 13; what it took from another lead is in its log too).
    fn listed(
        &mut self,
        cx: &mut Cx<'_>,
        lead: BTreeSet<Gfid>,
        all: bool,
        current: Interval,
    ) -> Vec<JoinCommand> {
        let store = &self.lasting.store;
        let fallback = self.joiner.as_ref().and_then(|sink| sink.fallback);
        let own = Interval(store.facts.checkpoint);
        let own = match store.book.own_list(own, fallback) {
            LogAnswer::Since(since) => store.changed_since(since.0),
            LogAnswer::Everything => store.live.keys().copied().collect(),
        };
        let everything = all || own.len() == store.live.len();
        let Some(sink) = self.joiner.as_mut() else { return Vec::new() };
        let mut list = lead.clone();
        if sink.rounds == 1 || sink.all {
            cx.hit(if everything { "heal: everything" } else { "heal: by log" });
        }
        list.extend(own);
        list.retain(|gfid| !sink.keeps.contains(gfid));
        cx.note(|me| format!("p{} heals {} inodes: {list:?}", me, list.len()));
        sink.left = list.into_iter().collect();
        let left = Left { inodes: lead.len() as u64, bytes: 0 };
        sink.rules.on_list(cx.tick, left, current)
    }

    fn copy_next(&mut self, cx: &mut Cx<'_>) {
        let lead = lead_proc(self.map());
        let Some(sink) = self.joiner.as_mut() else { return };
        if sink.left.is_empty() {
            let commands = sink.rules.on_copied(cx.tick);
            return self.run_join(cx, commands);
        }
        let batch: Vec<Gfid> = sink.left.drain(..sink.left.len().min(BATCH)).collect();
        if let Some(lead) = lead {
            self.call(cx, lead, Call::Inspect(batch), Why::Join);
        }
    }

    fn take_rest(&mut self, cx: &mut Cx<'_>, rest: &Rest) {
        let Some(sink) = self.joiner.as_mut() else { return };
        if sink.rules.on_paused() != vec![JoinCommand::CopyRest] {
            return;
        }
        let store = &mut self.lasting.store;
        for (gfid, inode) in &rest.inodes {
            store.install(*gfid, inode.as_ref(), rest.interval.0);
        }
        store.take_over_log(&rest.log, &rest.book);
        store.sweep(&rest.keep);
        store.facts.stale.clear();
        self.interval.heard(cx.tick, rest.interval);
        sink.rest = Some(rest.interval);
        self.member.take_over(rest.rules.clone());
        let marks = self.member.stale.iter().map(|(brick, gfid)| (gfid, brick));
        self.lasting.store.facts.stale = marks.collect();
        self.lasting.store.facts.raised = rest.raised.clone();
        self.lasting.store.facts.fallback = rest.fallback;
        self.heard.extend(rest.rules.sessions.iter().copied());
        self.lasting.store.facts.graced = self.member.graced();
        let commands = self.joiner.as_mut().map(|j| j.rules.on_rest()).unwrap_or_default();
        self.run_join(cx, commands);
    }

    pub fn tick_joiner(&mut self, cx: &mut Cx<'_>) {
        let Some(sink) = self.joiner.as_mut() else { return };
        match sink.never_until {
            Some(until) if cx.tick >= until => return self.reincarnate(cx),
            Some(_) => return,
            None => {}
        }
        let commands = sink.rules.on_tick(cx.tick);
        self.run_join(cx, commands);
    }

    fn never_serve(&mut self, cx: &mut Cx<'_>) {
        self.promises.never_serve(set_key(), self.brick);
        self.calls.retain(|_, p| p.why != Why::Join);
        if let Some(sink) = self.joiner.as_mut() {
            sink.never_until.get_or_insert(cx.tick.after(NEVER_FOR));
        }
    }

    /// The other side of all calls between peers.
    pub fn on_call(&mut self, cx: &mut Cx<'_>, from: Proc, id: u64, epoch: Epoch, call: &Rc<Call>) {
        if !self.has_brick {
            return;
        }
        if let Some(done) = self.answer_call(cx, from, id, epoch, call) {
            cx.send(from, PEER_DATA, Msg::Done { id, done });
        }
    }

    fn end_pause(&mut self, cx: &mut Cx<'_>, from: Proc) {
        if self.pause.as_ref().is_some_and(|p| p.joiner == brick_of(from)) {
            self.pause = None;
            let commands = self.member.resume();
            self.run_member(cx, commands);
        }
    }

    fn withdrawn(&mut self, cx: &mut Cx<'_>, incarnation: proto::Incarnation, epoch: Epoch) {
        if incarnation == self.incarnation && epoch == self.member.epoch() {
            let commands = self.joiner.as_mut().map(|j| j.rules.on_disagreed()).unwrap_or_default();
            self.run_join(cx, commands);
        }
    }

    fn answer_call(
        &mut self,
        cx: &mut Cx<'_>,
        from: Proc,
        id: u64,
        epoch: Epoch,
        call: &Call,
    ) -> Option<Done> {
        if let Call::Withdraw { incarnation } = call {
            self.withdrawn(cx, *incarnation, epoch);
            return Some(Done::Ok);
        }
        // The same gate as for clients, but for the promises: who leads a settle serves nobody
        // yet, and what it copies is fenced by its epoch.
        if epoch != self.member.epoch() || !self.member.in_sync() || self.member.failed() {
            return Some(Done::Busy);
        }
        Some(match call {
            Call::Unsettled { session, gfid, raise } => self.unsettled(*session, *gfid, raise),
            Call::Fetch(touches) => {
                Done::Pieces(touches.iter().map(|t| self.lasting.store.piece(t)).collect())
            }
            Call::Pieces(pieces) => {
                // A call made again must not undo what came after its first arrival.
                if self.installed.insert((from, id)) {
                    for piece in pieces {
                        self.lasting.store.install_piece(piece, self.interval.current().0);
                    }
                }
                Done::Ok
            }
            Call::Clear { settled, taken, ended, graced } => {
                self.member.windows.clear(settled);
                taken.iter().cloned().for_each(|(s, n, e)| self.member.windows.take_over(s, n, e));
                for (session, forgotten) in ended {
                    self.member.session_ended(*session, *forgotten);
                }
                if let Some(graced) = graced {
                    self.graced_here(*graced);
                }
                Done::Ok
            }
            Call::Vouch { session, lease } => {
                let Some(table) = &self.table else { return Some(Done::Busy) };
                let leased = lease.is_none_or(|(k, n)| table.permits(*session, k, n));
                Done::Vouched(table.knows(*session) && leased)
            }
            Call::Mark { set, clear } => {
                if self.installed.insert((from, id)) {
                    self.note_marks(set, clear);
                }
                Done::Marked
            }
            Call::AgreeJoin { brick, incarnation } => {
                let joiner = (*brick, *incarnation);
                match self.promises.agree_join(set_key(), self.brick, epoch, joiner) {
                    Ok(()) => {
                        self.ping_now(cx);
                        Done::Ok
                    }
                    Err(_) => Done::Refused,
                }
            }
            Call::EndPause => {
                self.end_pause(cx, from);
                Done::Ok
            }
            Call::Install { gfid, inode } => {
                let interval = self.interval.current().0;
                self.lasting.store.install_alone(*gfid, inode.as_ref(), interval);
                Done::Ok
            }
            Call::Pause { since, keeps } => return self.on_pause(cx, from, id, (*since, keeps)),
            Call::Changed { since } => self.changed(*since),
            Call::Inspect(gfids) => {
                let live = &self.lasting.store.live;
                Done::Inodes(gfids.iter().map(|g| (*g, live.get(g).cloned())).collect())
            }
            Call::Withdraw { .. } => Done::Ok,
        })
    }

    fn changed(&self, since: Option<Interval>) -> Done {
        let store = &self.lasting.store;
        let current = self.interval.current();
        let stale = self.member.marks_of_own();
        let fallback = store.facts.fallback.map(Interval);
        match store.book.answer(since) {
            LogAnswer::Since(since) => Done::Changed {
                gfids: store.changed_since(since.0),
                all: false,
                current,
                stale,
                fallback,
            },
            LogAnswer::Everything => {
                let gfids = store.live.keys().copied().collect();
                Done::Changed { gfids, all: true, current, stale, fallback }
            }
        }
    }
}
