//! The lead's settling, and every member's side of it.

use std::collections::{BTreeMap, BTreeSet};

use proto::fop::Touch;
use proto::{BrickId, Epoch, Gfid, LeaseNumber, Seq, SessionId};
use proto_rules::lease::LeaseKey;
use proto_rules::lease::table::{LeaseTable, SettleScope};
use proto_rules::settle::{CopyWhat, MemberList, Scope, Settle, SettleCommand};
use proto_rules::window::Entry;

use super::peer::{Peer, Why};
use crate::cx::{Cx, brick_of, proc_of, set_key};
use crate::model::change::{BLOCK_BYTES, Outcome, block_touch};
use crate::model::net::Proc;
use crate::msg::{Call, Done};

/// A settle with what its driver keeps beside it.
pub struct Job {
    rules: Settle,
    graced: Epoch,
    /// Inodes being copied: targets that have not answered.
    copies: BTreeMap<Gfid, BTreeSet<BrickId>>,
    targets: BTreeMap<Gfid, Vec<BrickId>>,
    /// What leads executed, as each member has it.
    by_lead: BTreeMap<(BrickId, SessionId, Seq), Entry<Outcome>>,
}

impl Peer {
    /// This brick leads from now on, without its predecessor's memory.
    pub fn become_lead(&mut self, cx: &mut Cx<'_>, epoch: Epoch) {
        self.lose_lead();
        cx.hit("settle: new lead");
        cx.note(|me| format!("p{} becomes lead in e{epoch}", me));
        self.settle(cx, Scope::All, Vec::new());
    }

    /// It led and leads on with its table: settles start again with the members left.
    pub fn lead_on(&mut self, cx: &mut Cx<'_>, epoch: Epoch) {
        self.calls.retain(|_, p| p.why == Why::Join);
        self.pause = None;
        self.drop_unfinished_marks(cx);
        self.stale_abort(cx);
        let members: Vec<BrickId> = self.map().in_sync().map(|m| m.brick).collect();
        let jobs: Vec<u64> = self.settles.keys().copied().collect();
        for job in jobs {
            let Some(settle) = self.settles.get_mut(&job) else { continue };
            settle.copies.clear();
            settle.targets.clear();
            let commands = settle.rules.on_members(members.clone());
            self.run_settle(cx, job, commands);
        }
        self.executions_lead_on(cx);
        let Some(table) = self.table.as_mut() else { return };
        table.on_epoch(epoch);
        // As the product: only a grace that has just ended is noted, again in the new epoch.
        if self.graced_wait.is_some() {
            self.note_graced(cx, epoch);
        }
    }

    pub fn start_settle(
        &mut self,
        cx: &mut Cx<'_>,
        scope: Option<SettleScope>,
        raise: Vec<(LeaseKey, LeaseNumber)>,
    ) {
        let Some(scope) = scope else { return };
        if self.executes_for(cx, &scope) {
            return self.later_settles.push((scope, raise));
        }
        cx.rounds = true;
        cx.hit(if scope.key.is_some() { "settle: one lease" } else { "settle: one session" });
        self.settle(cx, Scope::One(scope), raise);
    }

    fn settle(&mut self, cx: &mut Cx<'_>, scope: Scope, raise: Vec<(LeaseKey, LeaseNumber)>) {
        let members: Vec<BrickId> = self.map().in_sync().map(|m| m.brick).collect();
        let (rules, commands) = Settle::start(scope, self.brick, members, raise);
        self.next_call += 1;
        let job = self.next_call;
        let (copies, targets) = (BTreeMap::new(), BTreeMap::new());
        let graced = self.member.graced();
        self.settles.insert(job, Job { rules, graced, copies, targets, by_lead: BTreeMap::new() });
        self.run_settle(cx, job, commands);
    }

    fn run_settle(&mut self, cx: &mut Cx<'_>, job: u64, commands: Vec<SettleCommand>) {
        for command in commands {
            cx.note(|me| format!("p{} settle {job}: {command:?}", me));
            match command {
                SettleCommand::Collect { from, raise } => {
                    let Some(settle) = self.settles.get(&job) else { return };
                    let (session, gfid) = settle.rules.scope().filter();
                    let call = Call::Unsettled { session, gfid, raise };
                    self.call(cx, proc_of(from), call, Why::Settle(job));
                }
                SettleCommand::Copy { gfid, what, source, targets } => {
                    cx.hit("settle: piece copied");
                    if let Some(settle) = self.settles.get_mut(&job) {
                        settle.targets.insert(gfid, targets);
                    }
                    let call = Call::Fetch(touches(gfid, &what));
                    self.call(cx, proc_of(source), call, Why::Copy(job, gfid));
                }
                SettleCommand::Mark { at, set, clear } => {
                    cx.hit("settle: marks united");
                    let call = Call::Mark { set, clear };
                    self.call(cx, proc_of(at), call, Why::Settle(job));
                }
                SettleCommand::Clear { at, entries, take_over } => {
                    if !take_over.is_empty() {
                        cx.hit("settle: reply taken over");
                    }
                    let call = Call::Clear {
                        settled: entries,
                        taken: self.taken(job, &take_over),
                        ended: Vec::new(),
                        graced: None,
                    };
                    self.call(cx, proc_of(at), call, Why::Settle(job));
                }
                SettleCommand::Done { sessions } => self.settle_over(cx, job, sessions),
            }
        }
    }

    pub fn settle_done(&mut self, cx: &mut Cx<'_>, job: u64, from: Proc, done: Done) {
        let Some(settle) = self.settles.get_mut(&job) else { return };
        let commands = match done {
            Done::Unsettled { list, graced, by_lead } => {
                let from = brick_of(from);
                settle.by_lead.retain(|(member, ..), _| *member != from);
                let own = by_lead.into_iter().map(|(s, seq, entry)| ((from, s, seq), entry));
                settle.by_lead.extend(own);
                settle.graced = settle.graced.max(graced);
                settle.rules.on_list(from, list, &self.member.stale)
            }
            Done::Marked => settle.rules.on_marked(brick_of(from), &self.member.stale),
            Done::Ok => settle.rules.on_cleared(brick_of(from)),
            _ => return,
        };
        self.run_settle(cx, job, commands);
    }

    /// First the source's pieces, then one answer of each target.
    pub fn copy_done(&mut self, cx: &mut Cx<'_>, (job, gfid): (u64, Gfid), from: Proc, done: Done) {
        let Some(settle) = self.settles.get_mut(&job) else { return };
        if let Done::Pieces(pieces) = done {
            let targets = settle.targets.remove(&gfid).unwrap_or_default();
            settle.copies.insert(gfid, targets.iter().copied().collect());
            for target in &targets {
                let call = Call::Pieces(pieces.clone());
                self.call(cx, proc_of(*target), call, Why::Copy(job, gfid));
            }
            if !targets.is_empty() {
                return;
            }
        } else if let Some(waiting) = settle.copies.get_mut(&gfid) {
            waiting.remove(&brick_of(from));
        }
        let Some(settle) = self.settles.get_mut(&job) else { return };
        if settle.copies.get(&gfid).is_some_and(BTreeSet::is_empty) {
            settle.copies.remove(&gfid);
            let commands = settle.rules.on_copied(gfid, &self.member.stale);
            self.run_settle(cx, job, commands);
        }
    }

    fn settle_over(&mut self, cx: &mut Cx<'_>, job: u64, sessions: BTreeSet<SessionId>) {
        let Some(settle) = self.settles.remove(&job) else { return };
        let epoch = self.member.epoch();
        match settle.rules.scope() {
            Scope::All => {
                let mut table = LeaseTable::new_lead(epoch, settle.graced, sessions);
                // A set in which no grace has ended yet has never granted anything.
                if settle.graced != Epoch::NONE {
                    table.earlier_leases(self.promises.leased_until(set_key(), self.brick));
                }
                let commands = table.lists_settled(cx.tick);
                self.table = Some(table);
                self.run_lease(cx, commands);
            }
            Scope::One(scope) => {
                let Some(table) = self.table.as_mut() else { return };
                let commands = table.settled(cx.tick, scope);
                if scope.key.is_none() {
                    self.tell_ended(cx, scope.session, false);
                }
                self.run_lease(cx, commands);
            }
        }
    }

    fn taken(
        &self,
        job: u64,
        take_over: &[(BrickId, SessionId, Seq)],
    ) -> Vec<(SessionId, Seq, Entry<Outcome>)> {
        let known = self.settles.get(&job).map(|settle| &settle.by_lead);
        let entry =
            |key: &(BrickId, SessionId, Seq)| Some((key.1, key.2, known?.get(key)?.clone()));
        take_over.iter().filter_map(entry).collect()
    }

    /// A member's side: numbers first, then the list, when nothing in scope runs any more.
    pub fn unsettled(
        &mut self,
        session: Option<SessionId>,
        gfid: Option<Gfid>,
        raise: &[(LeaseKey, LeaseNumber)],
    ) -> Done {
        for (key, number) in raise {
            self.member.numbers.raise(*key, *number);
            self.lasting.store.facts.raised.insert(*key, *number);
        }
        if self.member.windows.running(session, gfid) {
            return Done::Busy;
        }
        let list = MemberList {
            entries: self.member.windows.unsettled(session, gfid),
            marks: self.member.windows.marks(),
            sessions: self.heard.iter().copied().collect(),
            replies: self.member.windows.replies(session, |outcome| match outcome {
                Ok(()) => 0,
                Err(errno) => errno.0 as u64,
            }),
            stale: self.member.stale.iter().collect(),
        };
        let entry = |u: &proto_rules::window::Unsettled| {
            let entry = self.member.windows.entry(u.session, u.seq)?;
            u.by_lead.then(|| (u.session, u.seq, entry.clone()))
        };
        let by_lead = list.entries.iter().filter_map(entry).collect();
        Done::Unsettled { list, graced: self.member.graced(), by_lead }
    }
}

fn touches(gfid: Gfid, what: &CopyWhat) -> Vec<Touch> {
    let mut touches = Vec::new();
    if what.attrs {
        touches.push(Touch::Attrs(gfid));
    }
    for (start, end) in &what.ranges {
        let blocks = start / BLOCK_BYTES..end.div_ceil(BLOCK_BYTES);
        touches.extend(blocks.map(|b| block_touch(gfid, b as u8)));
    }
    touches.extend(what.names.iter().map(|hash| Touch::Name { dir: gfid, hash: *hash }));
    touches
}
