//! Changes of contended keys: the lead executes them for their sessions, in turns.
//!
//! A request with the flag EXECUTE waits here until it has a turn on each key that it needs
//! (`proto_rules::lease::table`), gets what only the lead knows, passes the gate, and is executed
//! like any change. `lead::execute` then sends it on to the other members; the turns end with the
//! answer, whichever that is.

use proto::fop::{Answer, Call, Class, FILE_BYTES_MAX, Fop, Getattr, LeaseKey, Lookup, Return};
use proto::{Attr, Errno, Gfid, Refusal, SessionId, Stamp};
use proto_rules::lease::Lease;
use proto_rules::lease::table::LeaseCommand;
use proto_rules::window::Arrival;

use super::clock::now;
use super::core::Core;
use super::request::{Pending, Stored, Turn};

/// What goes back when a request has its answer.
pub struct HeldBy {
    session: SessionId,
    borrowed: Vec<Lease>,
    turns: Vec<Turn>,
    executed: Option<(SessionId, proto::Seq)>,
}

impl Core {
    /// A session's change that the lead shall execute.
    pub fn execute_for(&mut self, mut pending: Pending) {
        if let Some(refusal) = self.not_leading(&pending) {
            return self.refuse(pending, refusal);
        }
        let (session, seq) = (pending.head.session, pending.head.seq);
        let Some(lead) = &self.lead else { return self.refuse(pending, Refusal::Grace) };
        if !lead.table.serving() {
            return self.refuse(pending, Refusal::Grace);
        }
        if lead.executing.contains(&(session, seq)) {
            // Sent again: what it was answered is in the window when all members have answered.
            return self.refuse(pending, Refusal::Busy);
        }
        if self.member.windows.look(session, seq) != Arrival::New {
            return self.through_gate(pending);
        }
        if pending.turns_due.is_none() {
            let Some(keys) = turn_keys(&pending.call.fop) else {
                return self.fail(pending, Errno::EINVAL);
            };
            pending.turns_due = Some(keys);
            self.without_new_inode(&mut pending);
        }
        let taken = self.take_leases(pending).and_then(|pending| self.take_turns(pending));
        if let Some(pending) = taken {
            match self.prepared(pending) {
                Ok(pending) => self.through_gate(pending),
                Err((pending, Some(errno))) => self.decline(pending, errno),
                Err((pending, None)) => self.refuse(pending, Refusal::Busy),
            }
        }
    }

    /// The creator's lease of a new inode has the number of its directory's turn, which members
    /// note for it. One that it was granted before would be older than that.
    fn without_new_inode(&mut self, pending: &mut Pending) {
        let Fop::Create(a) = &pending.call.fop else { return };
        let (gfid, session) = (a.gfid, pending.head.session);
        let (new, others): (Vec<_>, Vec<_>) =
            std::mem::take(&mut pending.wants).into_iter().partition(|w| w.key.gfid == gfid);
        pending.wants = others;
        if new.iter().any(|want| want.open) {
            self.pin(session, gfid);
        }
    }

    /// `None`: the request waits, or was refused.
    fn take_turns(&mut self, mut pending: Pending) -> Option<Pending> {
        while let Some(key) = pending.turns_due.as_mut().and_then(Vec::pop) {
            let (id, session) = (self.fresh_id(), pending.head.session);
            let Some(lead) = &mut self.lead else {
                self.refuse(pending, Refusal::NotLead);
                return None;
            };
            let commands = match single_inode(&pending.call.fop) {
                Some(_) => lead.table.ask_turn_alone(now(), session, id, key),
                None => lead.table.ask_turn(now(), session, id, key),
            };
            let (mut waits, mut refused, mut others) = (true, None, Vec::new());
            for command in commands {
                match command {
                    LeaseCommand::Turn { ask, lease, .. } if ask == id => {
                        take(&mut pending, id, lease);
                        waits = false;
                    }
                    LeaseCommand::Refuse { ask, refusal, .. } if ask == id => {
                        refused = Some(refusal);
                    }
                    other => others.push(other),
                }
            }
            self.lease_commands(others);
            match refused {
                Some(Refusal::LeaseNeeded) => {
                    self.decline(pending, Errno::EAGAIN);
                    return None;
                }
                Some(refusal) => {
                    self.refuse(pending, refusal);
                    return None;
                }
                None => {}
            }
            if waits {
                self.wait_for_lease(id, pending);
                return None;
            }
        }
        Some(pending)
    }

    /// The session makes the change anew, under its own lease or when that has gone back. The
    /// window says so to late copies of the frame: it is another change then.
    fn decline(&mut self, pending: Pending, errno: Errno) {
        let (session, seq) = (pending.head.session, pending.head.seq);
        self.member.decline(session, seq, Stored::of(&Err(errno)));
        self.fail(pending, errno);
    }

    /// Whether the change may have been executed before this brick's memory begins. It has not
    /// if nothing of the inode is as late as it, and it was the last one if that has its stamp:
    /// done again, it is the same then.
    fn may_be_done(&mut self, pending: &Pending) -> bool {
        if !pending.call.resend || self.member.remembers(pending.first_epoch) {
            return false;
        }
        let changed = match &pending.call.fop {
            Fop::Create(a) if self.is_there(a) => return false,
            Fop::Create(a) => a.parent,
            // Recognised by the inode that is expected under the name.
            Fop::Unlink(_) => return false,
            fop => match single_inode(fop) {
                Some(gfid) => gfid,
                None => return false,
            },
        };
        self.attr_here(changed).is_ok_and(|attr| attr.stamp > pending.call.stamp.0)
    }

    fn is_there(&mut self, a: &proto::fop::Create) -> bool {
        let lookup = Lookup { parent: a.parent, name: a.name.clone(), data_bytes_max: 0 };
        let found = self.store.execute(&Call::new(lookup), &self.context());
        matches!(found, Ok(Return { answer: Answer::Entry(e), .. }) if e.attr.gfid == a.gfid)
    }

    /// An exclusive lease of the session is recalled. What it writes back before the return waits
    /// for its own changes of the same, so none of them may wait here behind whoever wants the
    /// lease (trap 26).
    pub fn decline_waiting(&mut self, session: SessionId, key: LeaseKey) {
        let Some(lead) = &mut self.lead else { return };
        let of = |p: &Pending| p.execute && p.head.session == session;
        let about = |p: &Pending| p.head.touches.iter().any(|t| t.gfid() == key.gfid());
        let waiting: Vec<(u64, Pending)> =
            lead.waiting.extract_if(.., |_, p| of(p) && about(p)).collect();
        for (id, pending) in waiting {
            let Some(lead) = &mut self.lead else { return };
            let commands = lead.table.cancel(now(), session, id);
            self.lease_commands(commands);
            self.decline(pending, Errno::EAGAIN);
        }
    }

    /// The table has come to an ask for a turn.
    pub fn turn_granted(&mut self, ask: u64, lease: Lease) {
        let waiting = self.lead.as_mut().and_then(|lead| lead.waiting.remove(&ask));
        match waiting {
            Some(mut pending) => {
                take(&mut pending, ask, lease);
                self.advance(pending);
            }
            None => self.end_turn(Turn { key: lease.key, ask }),
        }
    }

    /// Puts into the request what only the lead knows: where an append goes, a stamp later than
    /// the inode's, whether what loses its name is open somewhere. `Err` with no errno: not now.
    #[allow(clippy::result_large_err, reason = "it goes on with the request either way")]
    fn prepared(&mut self, mut pending: Pending) -> Result<Pending, (Pending, Option<Errno>)> {
        if self.may_be_done(&pending) {
            return Err((pending, Some(Errno::EIO)));
        }
        let attr = single_inode(&pending.call.fop).map(|gfid| (gfid, self.attr_here(gfid)));
        if let Fop::Write(a) = &mut pending.call.fop
            && a.append
            && let Some((gfid, attr)) = &attr
        {
            if self.member.stale.is_stale(self.setup.identity.brick, *gfid) {
                // The end of a stale copy is not the file's: it is healed at once.
                return Err((pending, None));
            }
            let attr = match attr {
                Ok(attr) => attr,
                Err(errno) => return Err((pending, Some(*errno))),
            };
            // All members have restarted since it was sent, and it was the last change: by its
            // stamp it is known, and the same bytes in the same place are no second append.
            let done = pending.call.resend && attr.stamp == pending.call.stamp.0;
            let end = if done { attr.size.saturating_sub(a.len) } else { attr.size };
            if end.checked_add(a.len).is_none_or(|end| end > FILE_BYTES_MAX) {
                return Err((pending, Some(Errno::EFBIG)));
            }
            (a.offset, a.append) = (end, false);
        }
        if let Some((_, Ok(attr))) = attr
            && pending.call.stamp.0 < attr.stamp
        {
            pending.call.stamp = Stamp(attr.stamp + 1);
        }
        if let Fop::Unlink(a) = &mut pending.call.fop {
            let table = self.lead.as_ref().map(|lead| &lead.table);
            a.keep |= table.is_some_and(|t| t.pinned(a.expect, None));
        }
        pending.head.touches = pending.call.fop.touches();
        Ok(pending)
    }

    fn attr_here(&mut self, gfid: Gfid) -> Result<Attr, Errno> {
        let call = Call::new(Getattr { gfid });
        match self.store.execute(&call, &self.context())?.answer {
            Answer::Attr(attr) => Ok(attr),
            _ => Err(Errno::EIO),
        }
    }

    /// A member: the lead executes a change for a session, and sends its frame on.
    pub fn sent_on(&mut self, pending: Pending) {
        let map = self.member.map();
        let lead = map.and_then(|map| map.member(map.lead?)).map(|m| (m.peer, m.brick));
        let by_lead = lead.is_some_and(|(peer, brick)| {
            Some(peer) == pending.conn.peer() && brick != self.setup.identity.brick
        });
        if !by_lead {
            return self.refuse(pending, Refusal::NotLead);
        }
        if pending.head.epoch == self.epoch() {
            // Whom the lead works for it knows.
            self.member.session_named(pending.head.session);
        }
        self.through_gate(pending);
    }

    /// A wish to keep what is fought for, or a directory's attributes beside its names: the read
    /// has it for its own time only.
    pub fn is_contended(&self, pending: &Pending, key: LeaseKey) -> bool {
        let Some(lead) = &self.lead else { return false };
        let names = LeaseKey::Part(key.gfid());
        pending.op.class() == Class::Read
            && (lead.table.contended(now(), key) || lead.table.contended(now(), names))
    }

    /// Whether something is being executed or fanned out for the session. Under numbers raised
    /// meanwhile the members would refuse it for ever.
    pub fn executes_for(&self, session: SessionId) -> bool {
        let Some(lead) = &self.lead else { return false };
        lead.executing.iter().any(|(s, _)| *s == session)
            || self.member.windows.runs_by_lead(session)
    }

    /// What a request holds for its own time is its no more.
    pub fn held_by(&mut self, pending: &mut Pending) -> HeldBy {
        let (session, seq) = (pending.head.session, pending.head.seq);
        HeldBy {
            session,
            borrowed: std::mem::take(&mut pending.borrowed),
            turns: std::mem::take(&mut pending.turns),
            executed: std::mem::take(&mut pending.fanned_out).then_some((session, seq)),
        }
    }

    pub fn free(&mut self, held: HeldBy) {
        if let (Some(executed), Some(lead)) = (held.executed, &mut self.lead) {
            lead.executing.remove(&executed);
        }
        for lease in held.borrowed {
            self.give_back_lent(held.session, lease);
        }
        for turn in held.turns {
            self.end_turn(turn);
        }
    }

    /// Nobody waits for the request any more.
    pub fn let_go(&mut self, mut pending: Pending) {
        let held = self.held_by(&mut pending);
        self.free(held);
    }

    fn end_turn(&mut self, turn: Turn) {
        let Some(lead) = &mut self.lead else { return };
        let commands = lead.table.end_turn(now(), turn.key, turn.ask);
        self.lease_commands(commands);
    }
}

fn take(pending: &mut Pending, ask: u64, lease: Lease) {
    pending.turns.push(Turn { key: lease.key, ask });
    // The very number that a grant along with the request may have had.
    pending.head.under.retain(|(key, _)| *key != lease.key);
    pending.head.under.push((lease.key, lease.number));
}

/// Keys of which a change needs a turn, the first one last. `None`: it is not executed for anybody.
///
/// A change of names moves the directory's times, which others may keep under the inode's lease.
fn turn_keys(fop: &Fop) -> Option<Vec<LeaseKey>> {
    use LeaseKey::{Inode, Part};
    let mut keys = match fop {
        Fop::Create(a) => vec![Inode(a.parent), Part(a.parent)],
        Fop::Unlink(a) => vec![Inode(a.parent), Part(a.parent), Inode(a.expect)],
        fop => vec![Inode(single_inode(fop)?)],
    };
    keys.sort_by_key(|key| std::cmp::Reverse((key.gfid(), *key)));
    keys.dedup();
    Some(keys)
}

/// The inode that a change is about, if it changes no name.
fn single_inode(fop: &Fop) -> Option<Gfid> {
    match fop {
        Fop::Write(a) => Some(a.gfid),
        Fop::Setattr(a) => Some(a.gfid),
        Fop::Setxattr(a) => Some(a.gfid),
        Fop::Removexattr(a) => Some(a.gfid),
        Fop::Fallocate(a) => Some(a.gfid),
        _ => None,
    }
}
