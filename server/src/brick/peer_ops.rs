//! Operations between peers: what a joiner asks, what a settling lead does, what members tell
//! each other.
//!
//! Who may do what: the members of the epoch to each other; and whatever this peer's own heal
//! does to a brick that is not in-sync.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use proto::fop::{
    Answer, BlockSums, Call, Changed, ClearWindows, Done, Fop, HandOver, PauseForJoin, Return,
    SettledSeq, Under, Unsettled, UnsettledEntry, UnsettledList, Vouch,
};
use proto::{Epoch, Errno, Failure, LeaseNumber, Refusal, Seq, SessionId};
use proto_rules::time::MS;
use proto_rules::window::Entry;

use super::clock::now;
use super::core::{Brick, Core};
use super::handover::{self, Shipped};
use super::io::blocking;
use super::marks::mark_of;
use super::raised;
use super::request::{Outcome, Pending, Stored};
use crate::lead::{touch_of, touch_to};

/// How often a pausing lead looks whether the last change under way is done.
const QUIET_LOOK: Duration = Duration::from_millis(1);
/// Writers are slowed by at most this, whatever a joiner asks for.
const SLOW_MAX: Duration = Duration::from_millis(64);
/// And no longer than this by one word: a joiner that is gone does not keep them slow.
const SLOW_FOR: u64 = 3000 * MS;

pub fn done() -> Outcome {
    Outcome::Done(Answer::Done(Done {}).into())
}

impl Core {
    pub fn peer_request(&mut self, pending: Pending) {
        let Some(peer) = pending.conn.peer() else {
            return match pending.call.fop {
                // A client that saw members answer differently has the lead note it.
                Fop::MarkStale(mark) => self.mark_stale_everywhere(pending, mark),
                _ => self.fail(pending, Errno::EPERM),
            };
        };
        let own_heal = peer == self.setup.identity.peer && !self.member.in_sync();
        if !own_heal && let Some(refusal) = self.not_a_member(&pending) {
            return self.refuse(pending, refusal);
        }
        match &pending.call.fop {
            Fop::PeerRead(a) => {
                let plan = self.store.plan_read(a.gfid, a.offset, a.len);
                self.run_read(pending, plan);
            }
            Fop::BlockSums(sums) => {
                let sums = *sums;
                self.block_sums(pending, &sums);
            }
            Fop::Checkpoint(_) => self.checkpoint_now(pending),
            Fop::Unsettled(ask) => {
                let ask = ask.clone();
                let outcome = match self.unsettled(&ask) {
                    Ok(list) => Outcome::Done(Answer::UnsettledList(list).into()),
                    Err(failure) => Outcome::Failed(failure),
                };
                self.answer(pending, outcome);
            }
            Fop::ClearWindows(note) => {
                let note = note.clone();
                let noted = self.clear_windows(&note);
                self.noted(pending, noted);
            }
            Fop::MarkStale(mark) => {
                let mark = *mark;
                let noted = self.mark_stale_here(&mark);
                self.noted(pending, noted);
            }
            Fop::Vouch(ask) => {
                let ask = ask.clone();
                self.vouch(pending, &ask);
            }
            Fop::PauseForJoin(pause) => {
                let pause = pause.clone();
                self.pause_for_join(pending, &pause);
            }
            Fop::TakeOver(state) => {
                let state = state.state.clone();
                self.take_over(pending, &state, own_heal);
            }
            Fop::Changed(ask) => {
                let ask = *ask;
                self.list_changed(pending, ask);
            }
            _ => {
                let result = self.store.execute(&pending.call, &self.context());
                self.done(pending, result);
            }
        }
    }

    fn noted(&mut self, pending: Pending, noted: Result<(), Errno>) {
        match noted {
            Ok(()) => self.answer(pending, done()),
            Err(_) => self.own_error(pending, "a note cannot be written"),
        }
    }

    /// Why a peer's request is not for this brick in its present state. Settling goes on while
    /// promises are renewed: it needs the epoch, not the right to serve clients.
    fn not_a_member(&self, pending: &Pending) -> Option<Refusal> {
        let serves = matches!(
            pending.op,
            proto::fop::Op::Vouch | proto::fop::Op::PauseForJoin | proto::fop::Op::Changed
        );
        if self.failed.is_some() {
            Some(Refusal::Failed)
        } else if !self.member.in_sync() {
            Some(Refusal::NotServing)
        } else if pending.head.epoch != self.epoch() {
            Some(Refusal::Epoch { current: self.epoch().0 })
        } else if serves && now() >= self.member.serve_until() {
            Some(Refusal::NotServing)
        } else {
            None
        }
    }

    /// The store closes the interval with the list; the number goes on from there.
    fn list_changed(&mut self, pending: Pending, mut ask: Changed) {
        ask.advance &= self.member.is_lead() && self.interval.may_close(now());
        let mut result = self.store.execute(&Call::new(ask), &self.context());
        if let Ok(Return { answer: Answer::ChangedList(list), .. }) = &mut result
            && ask.after.is_nil()
        {
            let marks = self.member.marks_of_own().into_iter();
            list.stale = marks.map(|(brick, gfid)| mark_of(brick, gfid, false)).collect();
        }
        self.interval.at_least(self.store.interval(), now());
        self.refresh_facts();
        self.done(pending, result);
    }

    fn block_sums(&mut self, mut pending: Pending, sums: &BlockSums) {
        let job = match self.store.plan_block_sums(sums) {
            Ok(job) => job,
            Err(errno) => return self.done(pending, Err(errno)),
        };
        pending.defer();
        // Not noted as a request to the disk: a gigabyte of sums may well take 10 s.
        self.spawn(|brick| async move {
            let result = blocking(move || job.run()).await;
            brick.core.borrow_mut().done(pending, result);
        });
    }

    fn checkpoint_now(&mut self, mut pending: Pending) {
        pending.defer();
        let (handle, interval) = (self.store.checkpoint_handle(), self.interval.current());
        self.spawn(|brick| async move {
            let result = blocking(move || handle.run(interval)).await;
            let mut core = brick.core.borrow_mut();
            core.refresh_facts();
            core.done(pending, result.map(|()| Answer::Done(Done {}).into()));
        });
    }

    /// What this brick holds above the settled marks, after it has heard of the new numbers.
    ///
    /// # Errors
    /// Busy while a change in question is being executed.
    pub fn unsettled(&mut self, ask: &Unsettled) -> Result<UnsettledList, Failure> {
        for Under { key, number } in &ask.raise {
            self.member.numbers.raise((*key).into(), *number);
        }
        if !ask.raise.is_empty() {
            // Without it a restart of all members could not tell them from leases to reclaim.
            raised::note(&mut self.store, &ask.raise)?;
        }
        let session = (ask.session != 0).then_some(SessionId(ask.session));
        let gfid = (!ask.gfid.is_nil()).then_some(ask.gfid);
        if let (Some(session), None) = (session, gfid) {
            self.member.session_ended(session, false);
        }
        if self.member.windows.running(session, gfid) {
            return Err(Refusal::Busy.into());
        }
        let answered: BTreeMap<_, _> =
            self.member.windows.replies(session, |r| r.errno as u64).into_iter().collect();
        let entries = self.member.windows.unsettled(session, gfid).into_iter().map(|u| {
            let touches = u.touches.iter().map(touch_to).collect();
            let answered = answered.get(&(u.session, u.seq)).map(|errno| *errno as i32);
            let entry = self.member.windows.entry(u.session, u.seq).filter(|_| u.by_lead);
            let reply = entry.and_then(|e| e.reply.as_ref());
            UnsettledEntry {
                session: u.session.0,
                seq: u.seq.0,
                touches,
                answered,
                by_lead: u.by_lead,
                answer: reply.map_or_else(Bytes::new, |r| r.answer.clone()),
                number: entry.map(|e| e.number),
            }
        });
        // Only a new lead asks for everything; one that leads on has them.
        let everything = session.is_none() && gfid.is_none();
        let stale = self.member.stale.iter().filter(|_| everything);
        let stale = stale.map(|(brick, gfid)| mark_of(brick, gfid, false)).collect();
        let marks = self.member.windows.marks().into_iter();
        Ok(UnsettledList {
            marks: marks.map(|(s, mark)| SettledSeq { session: s.0, seq: mark.0 }).collect(),
            entries: entries.collect(),
            sessions: self.client_sessions().map(|s| s.0).collect(),
            graced: self.member.graced().0,
            stale,
        })
    }

    /// Sessions that this brick has heard of.
    pub fn client_sessions(&self) -> impl Iterator<Item = SessionId> {
        let connected = self.sessions.keys().copied().filter(|s| s.0 != 0);
        connected.chain(self.member.windows.sessions())
    }

    /// Notes what the lead says.
    ///
    /// # Errors
    /// The note cannot be made durable.
    pub fn clear_windows(&mut self, note: &ClearWindows) -> Result<(), Errno> {
        let settled: Vec<(SessionId, Seq)> =
            note.settled.iter().map(|s| (SessionId(s.session), Seq(s.seq))).collect();
        self.member.windows.clear(&settled);
        for taken in &note.take_over {
            let (session, seq) = (SessionId(taken.session), Seq(taken.seq));
            self.member.windows.take_over(session, seq, entry_of(taken));
        }
        for session in &note.sessions {
            self.member.session_ended(SessionId(*session), true);
        }
        if Epoch(note.graced) > self.member.graced() {
            handover::note_graced(&mut self.store, Epoch(note.graced))?;
            raised::forget_before(&mut self.store, Epoch(note.graced))?;
            self.member.note_graced(Epoch(note.graced));
        }
        Ok(())
    }

    fn vouch(&mut self, pending: Pending, ask: &Vouch) {
        let session = SessionId(ask.session);
        let Some(lead) = &self.lead else { return self.refuse(pending, Refusal::Grace) };
        let held = |u: &Under| lead.table.permits(session, u.key.into(), u.number);
        if !lead.table.knows(session) {
            self.refuse(pending, Refusal::UnknownSession);
        } else if ask.under.iter().all(held) {
            self.answer(pending, done());
        } else {
            self.refuse(pending, Refusal::StaleLease);
        }
    }

    /// A joiner's final pause: changes are held, and what it needs is shipped once the last
    /// one under way is done.
    fn pause_for_join(&mut self, mut pending: Pending, pause: &PauseForJoin) {
        if pause.slow_us > 0 {
            let leads = self.member.is_lead() && pause.epoch == self.epoch().0;
            if leads {
                let delay = Duration::from_micros(pause.slow_us.into()).min(SLOW_MAX);
                self.slow = Some((delay, now().after(SLOW_FOR)));
            }
            return self.answer(pending, done_handover());
        }
        if pause.pause_ms == 0 {
            self.answer(pending, done_handover());
            let commands = self.member.resume();
            return self.member_commands(commands);
        }
        // A lead that is making the members equal is no source: the joiner would not be among them.
        let settling = self.lead.as_ref().is_none_or(|lead| lead.table.settling());
        if settling || !self.marked_for(pause) {
            return self.refuse(pending, Refusal::Busy);
        }
        let (epoch, length) = (Epoch(pause.epoch), u64::from(pause.pause_ms) * MS);
        if !self.member.pause(now(), epoch, length) {
            return self.refuse(pending, Refusal::NotLead);
        }
        pending.defer();
        self.spawn(|brick| async move {
            while !brick.core.borrow().member.quiet() {
                let ended = {
                    let core = brick.core.borrow();
                    core.epoch() != epoch || core.failed.is_some()
                };
                if ended {
                    return brick.core.borrow_mut().refuse(pending, Refusal::Busy);
                }
                tokio::time::sleep(QUIET_LOOK).await;
            }
            brick.ship(pending);
        });
    }

    fn take_over(&mut self, pending: Pending, from: &HandOver, own_heal: bool) {
        if !own_heal {
            return self.fail(pending, Errno::EPERM);
        }
        let bytes = if from.rules.is_empty() { &pending.call.payload } else { &from.rules };
        let Some(Shipped { state, book, raised }) = handover::decode(bytes) else {
            return self.fail(pending, Errno::EINVAL);
        };
        if let Some(book) = book {
            self.trim.book.take_over(&book);
        }
        self.interval.at_least(from.current_interval, now());
        let graced = handover::note_graced(&mut self.store, state.graced)
            .and_then(|()| raised::note(&mut self.store, &raised));
        self.member.take_over(state);
        let noted = graced.and_then(|()| self.store_stale_marks());
        match noted {
            Ok(()) => self.answer(pending, done()),
            Err(_) => self.own_error(pending, "a note cannot be written"),
        }
    }

    /// The marks on disk become those in memory: the lead's, none of this brick's own copies,
    /// which are healed.
    fn store_stale_marks(&mut self) -> Result<(), Errno> {
        let right: std::collections::BTreeSet<_> =
            self.member.stale.iter().map(|(brick, gfid)| (gfid, brick)).collect();
        let known: std::collections::BTreeSet<_> = self.store.stale_marks().into_iter().collect();
        for (gfid, brick) in known.difference(&right) {
            self.store.mark_stale(*gfid, *brick, true)?;
        }
        for (gfid, brick) in right.difference(&known) {
            self.store.mark_stale(*gfid, *brick, false)?;
        }
        Ok(())
    }

    /// The join to which this brick agreed has ended by the joiner's word.
    pub fn join_ended(&mut self) {
        let commands = self.member.resume();
        self.member_commands(commands);
    }
}

impl Brick {
    fn ship(self: Rc<Self>, pending: Pending) {
        let mut core = self.core.borrow_mut();
        let sessions: Vec<SessionId> = core.client_sessions().collect();
        let Ok(raised) = raised::known(&core.store) else {
            return core.own_error(pending, "its database cannot be read");
        };
        let state = core.member.hand_over(sessions);
        let (rules, payload) = handover::placed(handover::encode(state, &core.trim.book, raised));
        let state = HandOver { rules, current_interval: core.interval.current() };
        let shipped = Return { answer: Answer::HandOver(state), payload, grants: Vec::new() };
        core.answer(pending, Outcome::Done(shipped));
    }
}

/// What a lead executed, as another member has it.
fn entry_of(entry: &UnsettledEntry) -> Entry<Stored> {
    let errno = entry.answered.unwrap_or_default();
    Entry {
        touches: entry.touches.iter().filter_map(touch_of).collect(),
        number: entry.number.unwrap_or(LeaseNumber::NONE),
        reply: Some(Stored { answer: entry.answer.clone(), errno }),
        by_lead: true,
    }
}

fn done_handover() -> Outcome {
    let state = HandOver { rules: Bytes::new(), current_interval: 0 };
    Outcome::Done(Answer::HandOver(state).into())
}
