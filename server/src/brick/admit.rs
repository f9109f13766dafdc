//! From a parsed request to the store: first the leases it asks for, then the gate.
//!
//! `advance` takes a request as far as it can go now. Where it has to wait it is put where the
//! event that it waits for finds it, and comes back here.

use proto::fop::{Class, Fop, LeaseKey, Mode, Under};
use proto::{Errno, Failure, Refusal};
use proto_rules::lease::table::How;
use proto_rules::member::{Head, Hold, Verdict};

use super::clock::now;
use super::core::{Brick, Core};
use super::directory::First;
use super::request::{Outcome, Pending};
use std::rc::Rc;

/// What became of one wish for a lease.
pub enum Asked {
    /// Granted, or to be done without: on with the request.
    Go,
    Refused(Refusal),
    /// The lease table names the request later by this number.
    Waits(u64),
}

impl Core {
    /// Takes a request on; it is answered or put aside when this returns.
    pub fn advance(&mut self, pending: Pending) {
        self.member.set_serve_until(self.setup.gate.serve_until());
        match pending.op.class() {
            Class::Peer => self.peer_request(pending),
            Class::Lead => self.lead_request(pending),
            Class::Read | Class::Change => self.client_request(pending),
        }
    }

    fn client_request(&mut self, mut pending: Pending) {
        if pending.conn.peer().is_some() && pending.execute {
            return self.sent_on(pending);
        }
        if pending.conn.peer().is_some() && !matches!(pending.call.fop, Fop::Forget(_)) {
            return self.fail(pending, Errno::EPERM);
        }
        let read_only =
            pending.conn.read_only() || self.map.as_ref().is_some_and(|map| map.options.read_only);
        if pending.op.class() == Class::Change && pending.conn.peer().is_none() && read_only {
            return self.fail(pending, Errno::EROFS);
        }
        if pending.conn.peer().is_some() {
            return self.forget_orphan(pending);
        }
        if pending.execute {
            return self.execute_for(pending);
        }
        if !pending.wants.is_empty() || self.must_borrow(&pending) {
            if let Some(refusal) = self.not_leading(&pending) {
                return self.refuse(pending, refusal);
            }
            pending = match self.take_leases(pending) {
                Some(pending) => pending,
                None => return,
            };
        }
        self.through_gate(pending);
    }

    /// Why leases cannot be asked for here and now.
    pub fn not_leading(&mut self, pending: &Pending) -> Option<Refusal> {
        let table = self.lead.as_ref().map(|lead| &lead.table);
        match self.member.admit(now(), &fencing(&pending.head), table) {
            Verdict::Refuse(refusal) => Some(refusal),
            // It leads by the map and still collects what the other members hold.
            _ if self.lead.is_none() => Some(Refusal::Grace),
            _ => None,
        }
    }

    /// Asks for all leases wished for, one after the other. `None`: the request waits, or was
    /// refused.
    pub fn take_leases(&mut self, mut pending: Pending) -> Option<Pending> {
        while let Some(want) = pending.wants.pop() {
            let key = match LeaseKey::from(want.key) {
                key if !key.gfid().is_nil() => key,
                _ => match self.found_by(&mut pending) {
                    Some(key) => key,
                    None => continue,
                },
            };
            let mode = Mode::try_from(want.mode).unwrap_or(Mode::None);
            if want.open {
                self.pin(pending.head.session, key.gfid());
            }
            if mode == Mode::None {
                continue;
            }
            if mode == Mode::Shared && self.is_contended(&pending, key) {
                if !want.only_if_free {
                    pending = self.borrow_lease(pending, key)?;
                }
                continue;
            }
            let how = match (want.only_if_free, want.yields) {
                (true, _) => How::IfFree,
                (false, true) => How::Yields,
                (false, false) => How::Waits,
            };
            pending = match self.first_of_directory(&pending, key, mode, want.only_if_free) {
                First::Nothing => self.take_lease(pending, key, mode, how)?,
                First::Without => continue,
                First::Borrow => self.borrow_lease(pending, key)?,
                First::BorrowPart => {
                    pending.wants.push(want);
                    self.borrow_lease(pending, LeaseKey::Part(key.gfid()))?
                }
                First::ClearInode => {
                    pending.wants.push(want);
                    self.take_lease(pending, LeaseKey::Inode(key.gfid()), Mode::None, How::Waits)?
                }
            };
        }
        if self.must_borrow(&pending)
            && let Some(key) = self.borrowed_key(&pending)
        {
            return self.borrow_lease(pending, key);
        }
        Some(pending)
    }

    /// `None`: the request waits, or was refused.
    fn take_lease(
        &mut self,
        mut pending: Pending,
        key: LeaseKey,
        mode: Mode,
        how: How,
    ) -> Option<Pending> {
        let session = pending.head.session;
        match self.ask(&mut pending, key, mode, how) {
            Asked::Go => {
                if let Some(lease) = self.granted_last(&pending, key) {
                    self.lasts(session, lease);
                }
                Some(pending)
            }
            Asked::Refused(refusal) => {
                self.refuse(pending, refusal);
                None
            }
            Asked::Waits(id) => {
                self.wait_for_lease(id, pending);
                None
            }
        }
    }

    /// The inode that the request is about to find: a wish for it names no key.
    fn found_by(&mut self, pending: &mut Pending) -> Option<LeaseKey> {
        let Fop::Lookup(_) = &pending.call.fop else { return None };
        let found = self.store.execute(&pending.call, &self.context()).ok()?;
        let key = match &found.answer {
            proto::fop::Answer::Entry(entry) => Some(LeaseKey::Inode(entry.attr.gfid)),
            _ => None,
        };
        pending.found = Some((self.executed, found));
        key
    }

    /// A read without a lease must not miss what a holder has buffered: it takes the lease for
    /// its own time. Names are never buffered.
    fn must_borrow(&self, pending: &Pending) -> bool {
        let Some(key) = self.borrowed_key(pending) else { return false };
        if !pending.head.under.is_empty() || !pending.borrowed.is_empty() {
            return false;
        }
        let granted = pending.grants.iter().any(|g| LeaseKey::from(g.key) == key);
        let session = pending.head.session;
        let held = self.lead.as_ref().is_some_and(|l| l.table.held(session, key).is_some());
        !granted && !held
    }

    /// What a read without a lease has to wait for: data and attributes may be buffered, and what
    /// is being executed by the lead may not be everywhere.
    fn borrowed_key(&self, pending: &Pending) -> Option<LeaseKey> {
        let executed = |key: &LeaseKey| self.lead.as_ref().is_some_and(|l| l.table.in_turn(*key));
        match &pending.call.fop {
            Fop::Lookup(a) => Some(LeaseKey::Part(a.parent)).filter(executed),
            Fop::Readdir(a) => Some(LeaseKey::Part(a.gfid)).filter(executed),
            fop => borrowed_key(fop),
        }
    }

    pub fn through_gate(&mut self, mut pending: Pending) {
        if pending.op.class() == Class::Change {
            // Leases granted with this very request count for it.
            for grant in &pending.grants {
                let known = |(key, _): &(LeaseKey, _)| *key == LeaseKey::from(grant.key);
                let exclusive = grant.mode == Mode::Exclusive as i32;
                if exclusive && !pending.head.under.iter().any(known) {
                    pending.head.under.push((grant.key.into(), grant.number));
                }
            }
        }
        if self.member.is_lead() && self.lead.is_none() {
            return self.refuse(pending, Refusal::Grace);
        }
        let table = self.lead.as_ref().map(|lead| &lead.table);
        match self.member.admit(now(), &pending.head, table) {
            Verdict::Serve => self.read(pending),
            Verdict::Execute => self.change(pending),
            Verdict::Replay(stored) => {
                if self.store.log(self.interval.current(), &pending.head.touches).is_err() {
                    return self.own_error(pending, "the change log cannot be written");
                }
                self.answer(pending, Outcome::Replay(stored));
            }
            Verdict::Refuse(refusal) => self.refuse(pending, refusal),
            Verdict::Fail(errno) => self.fail(pending, errno),
            // Its first sending may have come over a connection that is gone; whoever sent it
            // again comes again.
            Verdict::Hold(Hold::Running) => self.refuse(pending, Refusal::Busy),
            Verdict::Hold(Hold::Paused) => {
                pending.defer();
                self.held.push(pending);
            }
            Verdict::Hold(Hold::AskSession) => self.ask_lead(pending, Vec::new()),
            Verdict::Hold(Hold::AskNumber { key, number }) => {
                self.ask_lead(pending, vec![Under { key: key.into(), number }]);
            }
        }
    }

    /// Has the lead vouch for the session, or for a lease number that was forgotten here, then
    /// goes on. Once per request: a lead that changes meanwhile makes it come again.
    fn ask_lead(&mut self, mut pending: Pending, under: Vec<Under>) {
        if pending.vouched && under.is_empty() {
            return self.refuse(pending, Refusal::UnknownSession);
        }
        pending.vouched = true;
        pending.defer();
        let (epoch, session) = (self.epoch(), pending.head.session);
        let asked = self.members.vouch(epoch, session, under.clone());
        self.spawn(|brick| async move {
            let vouched = asked.await;
            brick.vouched(pending, under, vouched);
        });
    }
}

impl Brick {
    fn vouched(self: Rc<Self>, pending: Pending, under: Vec<Under>, vouched: Result<(), Failure>) {
        let mut core = self.core.borrow_mut();
        match vouched {
            Ok(()) => {
                core.member.session_named(pending.head.session);
                for Under { key, number } in under {
                    core.member.number_confirmed(key.into(), number);
                }
                core.advance(pending);
            }
            Err(Failure::Refused(
                refusal @ (Refusal::UnknownSession | Refusal::StaleLease | Refusal::Grace),
            )) => core.refuse(pending, refusal),
            // The lead is away or another one: the map will say.
            Err(_) => core.refuse(pending, Refusal::Busy),
        }
    }
}

/// The head of a request as far as fencing looks at it.
fn fencing(head: &Head) -> Head {
    Head {
        session: head.session,
        epoch: head.epoch,
        class: Class::Lead,
        seq: head.seq,
        mark: head.mark,
        under: Vec::new(),
        touches: Vec::new(),
        reads: Vec::new(),
        by_lead: head.by_lead,
    }
}

/// What a read without a lease has to wait for: data and attributes may be buffered.
fn borrowed_key(fop: &Fop) -> Option<LeaseKey> {
    match fop {
        Fop::Getattr(a) => Some(LeaseKey::Inode(a.gfid)),
        Fop::Read(a) => Some(LeaseKey::Inode(a.gfid)),
        Fop::Getxattr(a) => Some(LeaseKey::Inode(a.gfid)),
        Fop::Listxattr(a) => Some(LeaseKey::Inode(a.gfid)),
        Fop::Seek(a) => Some(LeaseKey::Inode(a.gfid)),
        _ => None,
    }
}
