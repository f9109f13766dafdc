//! Leases, pins, renewals and locks: what a brick does with them while it leads.

use std::rc::Rc;
use std::time::Duration;

use proto::fop::{
    Acquire, Answer, Done, Fop, Grant, KeyMsg, LeaseKey, Lock, Locked, Mode, Recall, Release,
    Renew, Renewed, TestLock, Want,
};
use proto::frame::{FrameKind, Header};
use proto::{Epoch, Errno, Gfid, LeaseNumber, Refusal, SessionId};
use proto_rules::Tick;
use proto_rules::lease::Lease;
use proto_rules::lease::table::{Ask, How, LeaseCommand, Reclaim, ReclaimedLease, term};
use proto_rules::locks::LockOutcome;
use proto_rules::space::Use;
use proto_rules::time::MS;
use tokio::sync::Notify;

use super::admit::Asked;
use super::clock::{now, wall_ns};
use super::connection::Conn;
use super::core::Core;
use super::request::{Outcome, Pending};

/// A reclaim of fewer leases than this is a session's last.
const RECLAIM_BATCH: usize = 4096;
/// When nothing is due earlier, the table is looked at this often.
const LOOK_EVERY: u64 = 100 * MS;

impl Core {
    /// Asks for one lease. A grant is put into the request.
    pub fn ask(&mut self, pending: &mut Pending, key: LeaseKey, mode: Mode, how: How) -> Asked {
        let (id, session) = (self.fresh_id(), pending.head.session);
        let Some(lead) = &mut self.lead else { return Asked::Refused(Refusal::NotLead) };
        let commands = lead.table.ask(now(), Ask { session, id, key, mode, how });
        let mut asked = Asked::Waits(id);
        let mut others = Vec::new();
        for command in commands {
            match command {
                LeaseCommand::Grant { ask, lease, pinned, .. } if ask == id => {
                    if lease.mode != Mode::None {
                        pending.grants.push(self.grant_of(lease, pinned));
                    }
                    asked = Asked::Go;
                }
                LeaseCommand::Refuse { ask, refusal, .. } if ask == id => {
                    let without = how == How::IfFree && refusal == Refusal::Busy;
                    asked = if without { Asked::Go } else { Asked::Refused(refusal) };
                }
                other => others.push(other),
            }
        }
        self.lease_commands(others);
        asked
    }

    pub fn wait_for_lease(&mut self, id: u64, mut pending: Pending) {
        pending.defer();
        if let Some(lead) = &mut self.lead {
            lead.waiting.insert(id, pending);
        }
        self.tick_sooner();
    }

    /// Takes a shared lease for the time of a read that came without one.
    pub fn borrow_lease(&mut self, mut pending: Pending, key: LeaseKey) -> Option<Pending> {
        let before = pending.grants.len();
        let session = pending.head.session;
        let held = self.lead.as_ref().is_some_and(|l| l.table.held(session, key).is_some());
        match self.ask(&mut pending, key, Mode::Shared, How::Waits) {
            Asked::Go => {
                self.note_borrowed(&mut pending, before, held);
                Some(pending)
            }
            Asked::Refused(refusal) => {
                self.refuse(pending, refusal);
                None
            }
            Asked::Waits(id) => {
                pending.borrowing = true;
                self.wait_for_lease(id, pending);
                None
            }
        }
    }

    fn take_back(&mut self, session: SessionId, lease: Lease) {
        let Some(lead) = &mut self.lead else { return };
        let commands = lead.table.take_back(now(), session, lease);
        self.lease_commands(commands);
    }

    pub fn give_back(&mut self, session: SessionId, lease: Lease) {
        let Some(lead) = &mut self.lead else { return };
        let commands = lead.table.on_return(now(), session, lease, Mode::None, false);
        self.lease_commands(commands);
    }

    fn term_ms(&self) -> u32 {
        (term(now(), self.member.serve_until()) / MS) as u32
    }

    fn grant_of(&self, lease: Lease, pinned: bool) -> Grant {
        Grant {
            key: lease.key.into(),
            mode: lease.mode as i32,
            number: lease.number,
            term_ms: self.term_ms(),
            pinned,
        }
    }

    /// The creator holds the new inode's lease, under the number of the directory's part.
    pub fn grant_created(
        &mut self,
        session: SessionId,
        gfid: Gfid,
        number: LeaseNumber,
    ) -> Option<Grant> {
        let lead = self.lead.as_mut()?;
        lead.table.created(now(), session, gfid, number);
        let lease = lead.table.held(session, LeaseKey::Inode(gfid))?;
        Some(self.grant_of(lease, false))
    }

    /// A shared lease for one of many inodes found, if nobody has to give one back for it.
    /// `Some(None)`: no lease was wished for, and the attributes may be shown all the same.
    pub fn grant_if_free(
        &mut self,
        session: SessionId,
        key: LeaseKey,
        wished: bool,
    ) -> Option<Option<Grant>> {
        let id = self.fresh_id();
        let lead = self.lead.as_mut()?;
        let held = lead.table.held(session, key);
        let ask = Ask { session, id, key, mode: Mode::Shared, how: How::IfFree };
        let commands = lead.table.ask(now(), ask);
        let granted = commands.into_iter().find_map(|command| match command {
            LeaseCommand::Grant { lease, pinned, .. } => Some((lease, pinned)),
            _ => None,
        });
        let (lease, pinned) = granted?;
        if wished {
            self.lasts(session, lease);
            return Some(Some(self.grant_of(lease, pinned)));
        }
        if held.is_none() {
            self.give_back(session, lease);
        }
        Some(None)
    }

    pub fn pin(&mut self, session: SessionId, gfid: Gfid) {
        if let Some(lead) = &mut self.lead {
            lead.table.pin(session, gfid);
        }
    }

    /// Carries out what the lease table says.
    pub fn lease_commands(&mut self, commands: Vec<LeaseCommand>) {
        for command in commands {
            match command {
                LeaseCommand::Grant { ask, lease, pinned, fresh, .. } => {
                    self.granted(ask, lease, pinned, fresh);
                }
                LeaseCommand::Turn { ask, lease, .. } => self.turn_granted(ask, lease),
                LeaseCommand::Refuse { ask, refusal, .. } => {
                    let waiting = self.lead.as_mut().and_then(|l| {
                        l.asks.remove(&ask);
                        l.waiting.remove(&ask)
                    });
                    if let Some(pending) = waiting {
                        self.refuse(pending, refusal);
                    }
                }
                LeaseCommand::Recall { session, lease, keep } => self.recall(session, lease, keep),
                LeaseCommand::Settle { scope, raise } => self.start_settle(scope, raise),
                LeaseCommand::NoteGraced { epoch } => self.start_noting(epoch),
                LeaseCommand::Forget { session, unpinned } => {
                    self.forget_session(session, unpinned)
                }
            }
        }
    }

    fn granted(&mut self, ask: u64, lease: Lease, pinned: bool, fresh: bool) {
        if self.granted_to_heal(ask, lease) {
            return;
        }
        let waiting = self.lead.as_mut().and_then(|l| l.waiting.remove(&ask));
        let Some(mut pending) = waiting else { return };
        if lease.mode != Mode::None {
            let before = pending.grants.len();
            pending.grants.push(self.grant_of(lease, pinned));
            if std::mem::take(&mut pending.borrowing) {
                self.note_borrowed(&mut pending, before, false);
            } else if !self.lasts(pending.head.session, lease) {
                // It was lent to a read that has just given it back: asked for again.
                pending.grants.truncate(before);
                let (key, mode) = (lease.key.into(), lease.mode as i32);
                pending.wants.push(Want { key, mode, ..Want::default() });
            }
        }
        if self.granted_too_early(&pending, lease) {
            // Kept, it could wait for a request that waits for it: its holder cannot give back
            // what no answer has named. One that was held before has been named.
            if fresh {
                pending.grants.retain(|g| LeaseKey::from(g.key) != lease.key);
                self.take_back(pending.head.session, lease);
            }
            let (key, mode) = (lease.key.into(), lease.mode as i32);
            pending.wants.push(Want { key, mode, ..Want::default() });
        }
        self.advance(pending);
    }

    fn recall(&mut self, session: SessionId, lease: Lease, keep: Mode) {
        self.setup.metrics.recalls.add(1);
        if lease.mode == Mode::Exclusive {
            self.decline_waiting(session, lease.key);
        }
        // Without a connection the holder learns of it by its next renewal, or dies.
        let Some(conn) = self.connection_of(session) else { return };
        let recall = Recall { key: lease.key.into(), number: lease.number, keep: keep as i32 };
        let mut header = Header::new(FrameKind::Push);
        header.session = session.0;
        header.epoch = self.epoch().0;
        conn.push(header, &recall, bytes::Bytes::new());
        conn.outbox.wake();
    }

    pub fn lead_tick(&mut self, now: Tick) {
        if !self.member.may_revoke(now) {
            return;
        }
        let Some(lead) = &mut self.lead else { return };
        let commands = lead.table.tick(now);
        self.lease_commands(commands);
        self.heal_stale(now);
    }

    /// How long until `tick` has something to do, and what says that it is sooner.
    pub fn plan_tick(&mut self, now: Tick) -> (Duration, Rc<Notify>) {
        let wake = self.lead.as_ref().and_then(|lead| lead.table.next_wake());
        let pause = wake.map_or(LOOK_EVERY, |at| at.since(now).clamp(MS, LOOK_EVERY));
        self.next_tick = now.after(pause);
        (Duration::from_nanos(pause), self.sooner.clone())
    }

    /// The lease table may have something to do before the planned tick: a contended key changes
    /// hands after some milliseconds.
    fn tick_sooner(&self) {
        let wake = self.lead.as_ref().and_then(|lead| lead.table.next_wake());
        if wake.is_some_and(|at| at < self.next_tick) {
            self.sooner.notify_one();
        }
    }

    /// A request of class Lead.
    pub fn lead_request(&mut self, mut pending: Pending) {
        if pending.conn.peer().is_some() {
            return self.fail(pending, Errno::EPERM);
        }
        if let Some(refusal) = self.not_leading(&pending) {
            return match pending.call.fop {
                Fop::Renew(_) if refusal == Refusal::NotLead => self.renew_at_member(pending),
                // What a new lead still collects, reclaims cannot be judged without.
                Fop::Acquire(_) if refusal == Refusal::Grace => self.refuse(pending, Refusal::Busy),
                _ => self.refuse(pending, refusal),
            };
        }
        let mark = match &pending.call.fop {
            Fop::Renew(a) => proto::Seq(a.mark.max(pending.head.mark.0)),
            _ => pending.head.mark,
        };
        self.member.windows.set_mark(pending.head.session, mark);
        match pending.call.fop.clone() {
            Fop::Acquire(Acquire {}) if self.reclaims(&pending) => self.reclaim(pending),
            Fop::Acquire(Acquire {}) => {
                if let Some(pending) = self.take_leases(pending) {
                    self.answer(pending, Outcome::Done(Answer::Done(Done {}).into()));
                }
            }
            Fop::Release(release) => self.release(pending, &release),
            Fop::Renew(renew) => self.renew(pending, &renew),
            Fop::Lock(lock) => {
                pending.wants.clear();
                self.lock(pending, &lock);
            }
            Fop::TestLock(TestLock { lock }) => self.test_lock(pending, &lock),
            _ => self.fail(pending, Errno::ENOSYS),
        }
    }

    /// In a grace every Acquire is a reclaim, also an empty one: nothing was held.
    fn reclaims(&self, pending: &Pending) -> bool {
        let serving = self.lead.as_ref().is_some_and(|l| l.table.serving());
        pending.wants.iter().any(|w| w.reclaim.is_some())
            || (!serving && pending.wants.iter().all(|w| w.mode == Mode::None as i32))
    }

    fn reclaim(&mut self, mut pending: Pending) {
        let Some(lead) = &mut self.lead else { return };
        let wants = std::mem::take(&mut pending.wants);
        let reclaim = Reclaim {
            session: pending.head.session,
            leases: wants
                .iter()
                .filter_map(|w| {
                    Some(ReclaimedLease {
                        key: w.key.into(),
                        number: w.reclaim?,
                        last_renewed_epoch: Epoch(w.last_renewed_epoch),
                    })
                })
                .collect(),
            pins: wants.iter().filter(|w| w.open).map(|w| w.key.gfid).collect(),
            last: wants.len() < RECLAIM_BATCH,
        };
        match lead.table.reclaim(now(), &reclaim, &self.member.numbers) {
            Err(refusal) => self.refuse(pending, refusal),
            Ok((reclaimed, commands)) => {
                for lease in reclaimed.granted {
                    pending.grants.push(self.grant_of(lease, false));
                }
                self.answer(pending, Outcome::Done(Answer::Done(Done {}).into()));
                self.lease_commands(commands);
            }
        }
    }

    fn release(&mut self, pending: Pending, release: &Release) {
        let (session, now) = (pending.head.session, now());
        let mut commands = Vec::new();
        let mut unpinned = Vec::new();
        if let Some(lead) = &mut self.lead {
            for back in &release.returns {
                let keep = Mode::try_from(back.keep).unwrap_or(Mode::None);
                let lease =
                    Lease { key: back.key.into(), mode: Mode::Exclusive, number: back.number };
                commands.extend(lead.table.on_return(now, session, lease, keep, back.open));
            }
            let last = release.unpin.iter().filter(|gfid| lead.table.unpin(session, **gfid));
            unpinned.extend(last.copied());
        }
        self.answer(pending, Outcome::Done(Answer::Done(Done {}).into()));
        self.lease_commands(commands);
        self.tick_sooner();
        self.forget_orphans(unpinned);
    }

    fn renew(&mut self, pending: Pending, asked: &Renew) {
        let term = term(now(), self.member.serve_until());
        let left = self.space_left();
        let Some(lead) = &mut self.lead else { return };
        match lead.table.renew(now(), pending.head.session, term, &[]) {
            Err(refusal) => self.refuse(pending, refusal),
            Ok(renewed) => {
                let used = Use { taken: asked.taken, done: asked.done, need: asked.need };
                let limit = lead.space.renew(now(), pending.head.session, left, used);
                let overdue = renewed.overdue.into_iter().map(KeyMsg::from).collect();
                self.answer_renewal(pending, (renewed.term / MS) as u32, overdue, Some(limit));
            }
        }
    }

    /// A member that does not lead takes the session's mark and renews nothing.
    fn renew_at_member(&mut self, pending: Pending) {
        if let Fop::Renew(a) = &pending.call.fop {
            self.member.windows.set_mark(pending.head.session, proto::Seq(a.mark));
        }
        self.answer_renewal(pending, 0, Vec::new(), None);
    }

    fn answer_renewal(
        &mut self,
        pending: Pending,
        term_ms: u32,
        overdue: Vec<KeyMsg>,
        space_limit: Option<u64>,
    ) {
        let map_version = self.map.as_ref().map_or(0, |map| map.version);
        let renewed = Renewed { term_ms, overdue, time_ns: wall_ns(), map_version, space_limit };
        self.answer(pending, Outcome::Done(Answer::Renewed(renewed).into()));
    }

    fn lock(&mut self, mut pending: Pending, lock: &Lock) {
        let (id, session) = (self.fresh_id(), pending.head.session);
        let Some(lead) = &mut self.lead else { return };
        if lock.reclaim {
            return self.reclaim_lock(pending, lock);
        }
        if !lead.table.serving() {
            return self.refuse(pending, Refusal::Grace);
        }
        if !lead.table.knows(session) {
            return self.refuse(pending, Refusal::UnknownSession);
        }
        let (outcome, next, interrupted) = lead.locks.lock(session, lock, id);
        match outcome {
            LockOutcome::Done => {
                self.answer(pending, Outcome::Done(Answer::Locked(Locked::default()).into()));
            }
            LockOutcome::Failed(errno) => self.fail(pending, errno),
            LockOutcome::Waits => {
                pending.defer();
                lead.lock_waiting.insert(id, pending);
            }
        }
        self.locks_granted(next);
        for waiter in interrupted {
            let waiting = self.lead.as_mut().and_then(|l| l.lock_waiting.remove(&waiter));
            if let Some(pending) = waiting {
                self.fail(pending, Errno::EINTR);
            }
        }
    }

    /// Before the session has said all that it held: then the grace may end, and others may have
    /// had the lock.
    fn reclaim_lock(&mut self, pending: Pending, lock: &Lock) {
        let session = pending.head.session;
        let Some(lead) = &mut self.lead else { return };
        if !lead.table.reclaims(now()) || !lead.table.knows(session) {
            return self.refuse(pending, Refusal::StaleLease);
        }
        match lead.locks.reclaim(session, lock) {
            true => self.answer(pending, Outcome::Done(Answer::Locked(Locked::default()).into())),
            false => self.refuse(pending, Refusal::StaleLease),
        }
    }

    pub fn locks_granted(&mut self, waiters: Vec<u64>) {
        for waiter in waiters {
            let waiting = self.lead.as_mut().and_then(|l| l.lock_waiting.remove(&waiter));
            if let Some(pending) = waiting {
                self.answer(pending, Outcome::Done(Answer::Locked(Locked::default()).into()));
            }
        }
    }

    fn test_lock(&mut self, pending: Pending, lock: &Lock) {
        let session = pending.head.session;
        let conflict = self.lead.as_ref().and_then(|lead| lead.locks.test(session, lock));
        self.answer(pending, Outcome::Done(Answer::Locked(Locked { conflict }).into()));
    }

    /// A connection has ended: its requests wait for nothing any more.
    pub fn cancel_waits(&mut self, conn: &Conn) {
        let Some(lead) = &mut self.lead else { return };
        let gone: Vec<u64> =
            lead.waiting.iter().filter(|(_, p)| p.conn.id == conn.id).map(|(id, _)| *id).collect();
        let mut commands = Vec::new();
        let mut dropped = Vec::new();
        for id in gone {
            dropped.extend(lead.waiting.remove(&id));
            commands.extend(lead.table.cancel(now(), conn.session, id));
        }
        let waiters = lead.lock_waiting.iter().filter(|(_, p)| p.conn.id == conn.id);
        for waiter in waiters.map(|(id, _)| *id).collect::<Vec<_>>() {
            lead.lock_waiting.remove(&waiter);
            lead.locks.cancel(waiter);
        }
        self.lease_commands(commands);
        dropped.into_iter().for_each(|pending| self.let_go(pending));
    }
}

impl Core {
    /// The newest grant of the request is for its own time only. `held`: the session had it before.
    fn note_borrowed(&mut self, pending: &mut Pending, before: usize, held: bool) {
        for grant in pending.grants.drain(before..) {
            let mode = Mode::try_from(grant.mode).unwrap_or(Mode::None);
            let lease = Lease { key: grant.key.into(), mode, number: grant.number };
            pending.borrowed.push(lease);
            if let (Some(lead), false) = (&mut self.lead, held) {
                lead.lent.insert((pending.head.session, lease.key, lease.number));
            }
        }
    }

    /// A lease is granted for good: a read that borrowed it does not give it back. False: one has.
    pub fn lasts(&mut self, session: SessionId, lease: Lease) -> bool {
        let Some(lead) = &mut self.lead else { return false };
        lead.lent.remove(&(session, lease.key, lease.number));
        lead.table.held(session, lease.key).is_some_and(|held| held.number == lease.number)
    }

    /// What the request was granted of a key.
    pub fn granted_last(&self, pending: &Pending, key: LeaseKey) -> Option<Lease> {
        let grant = pending.grants.iter().rev().find(|g| LeaseKey::from(g.key) == key)?;
        let mode = Mode::try_from(grant.mode).ok()?;
        Some(Lease { key, mode, number: grant.number })
    }

    /// The time of a read that borrowed a lease is over.
    pub fn give_back_lent(&mut self, session: SessionId, lease: Lease) {
        let lent = (session, lease.key, lease.number);
        if self.lead.as_mut().is_some_and(|lead| lead.lent.remove(&lent)) {
            self.give_back(session, lease);
        }
    }
}
