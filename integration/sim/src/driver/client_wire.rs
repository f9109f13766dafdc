//! A mount's requests in flight and their replies.

use std::rc::Rc;

use proto::fop::{LeaseKey, Mode};
use proto::{BrickId, Epoch, Failure, Incarnation, Refusal, Seq};
use proto_rules::Tick;
use proto_rules::lease::Lease;
use proto_rules::time::{CONTENDED_ASK, MS, RETRY_AFTER};
use proto_rules::txn::Targets;

use super::client::Client;
use super::client_ops::Op;
use crate::cx::Cx;
use crate::model::net::{Chan, DATA, Proc};
use crate::msg::{Ans, Body, Msg, Reply, Request};

/// A request unanswered for so long is taken for lost with its connection.
const FLIGHT_MAX: u64 = 2500 * MS;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    Hello,
    Renew,
    Reclaim,
    Ask(LeaseKey),
    Return(Lease),
    Change(u64),
    Read(u64),
    Diverged(u64),
}

impl Purpose {
    /// Whether only the lead to which it was sent can mean anything by its answer.
    pub fn of_lead(self) -> bool {
        !matches!(self, Purpose::Change(_) | Purpose::Read(_) | Purpose::Diverged(_))
    }
}

pub struct Flight {
    pub to: Proc,
    pub chan: Chan,
    pub sent: Tick,
    pub lead: (BrickId, Incarnation),
    pub epoch: Epoch,
    pub purpose: Purpose,
}

impl Client {
    pub fn send(&mut self, cx: &mut Cx<'_>, to: Proc, body: Body, purpose: Purpose) {
        let change = match purpose {
            Purpose::Change(op) => self.ops.get(&op).map(|op| op.frame()),
            Purpose::Read(op) => self.ops.get(&op).map(|op| op.frame()),
            _ => None,
        };
        let (seq, resend, stamp, under) = change.unwrap_or((Seq(0), false, 0, Vec::new()));
        let execute = match purpose {
            Purpose::Change(op) => self.ops.get(&op).is_some_and(Op::is_executed),
            _ => false,
        };
        let Some(targets) = Targets::of(&self.map.set) else { return };
        let first_epoch = match purpose {
            Purpose::Change(op) => self.ops.get_mut(&op).map(|op| op.first_epoch(targets.epoch)),
            _ => None,
        };
        let first_epoch = first_epoch.unwrap_or(targets.epoch);
        self.next_id += 1;
        let id = self.next_id;
        let request = Request {
            session: self.session,
            id,
            epoch: targets.epoch,
            seq,
            mark: self.mark(),
            resend,
            stamp,
            execute,
            first_epoch,
            by_lead: false,
            under,
            body,
        };
        let chan = *cx.rng.pick(&DATA);
        let flight =
            Flight { to, chan, sent: cx.tick, lead: targets.lead, epoch: targets.epoch, purpose };
        self.flights.insert(id, flight);
        if let Purpose::Change(op) | Purpose::Read(op) = purpose
            && let Some(op) = self.ops.get_mut(&op)
        {
            op.sent(to, id);
        }
        cx.send(to, chan, Msg::Request(Rc::new(request)));
    }

    pub fn on_reply(&mut self, cx: &mut Cx<'_>, from: Proc, reply: Reply) {
        let Some(flight) = self.flights.remove(&reply.id) else { return };
        cx.note(|me| format!("c{} {:?} from p{from}: {:?}", me, flight.purpose, reply.result));
        if let Purpose::Change(op) | Purpose::Read(op) = flight.purpose
            && self.ops.get(&op).is_some_and(|op| !op.awaits(from, reply.id))
        {
            // Of an earlier sending, maybe of another question.
            return;
        }
        match flight.purpose {
            Purpose::Hello => match reply.result {
                Ok(_) => self.greeted(cx),
                Err(_) => self.may_lose(cx, &flight, &reply),
            },
            Purpose::Renew if Some(from) == self.lead() => self.renewed(cx, &flight, &reply),
            Purpose::Renew => {}
            Purpose::Reclaim => self.reclaimed(cx, &flight, reply),
            Purpose::Ask(key) => self.granted(cx, &flight, key, reply),
            Purpose::Return(lease) => self.returned(cx, lease, &reply),
            Purpose::Change(op) => self.change_answered(cx, op, &flight, reply),
            Purpose::Read(op) => self.read_answered(cx, op, from, flight.epoch, reply),
            Purpose::Diverged(op) => self.marked(cx, op, &reply),
        }
        self.step(cx);
        self.give_back(cx);
    }

    fn greeted(&mut self, cx: &mut Cx<'_>) {
        self.known = true;
        // Whatever it had left was settled before it was greeted.
        self.leases_lost(cx);
    }

    pub fn may_lose(&mut self, cx: &mut Cx<'_>, flight: &Flight, reply: &Reply) {
        let current = Targets::of(&self.map.set).is_some_and(|t| t.lead == flight.lead);
        if current && reply.result == Err(Failure::Refused(Refusal::UnknownSession)) {
            self.lose_session(cx);
        }
    }

    fn renewed(&mut self, cx: &mut Cx<'_>, flight: &Flight, reply: &Reply) {
        match &reply.result {
            Ok(Ans::Renewed { term, overdue, wall }) => {
                self.stamp_base = (*wall, flight.sent);
                for action in self.cache.on_renewed(flight.sent, *term, overdue) {
                    self.act(cx, action);
                }
            }
            _ => self.may_lose(cx, flight, reply),
        }
    }

    fn reclaimed(&mut self, cx: &mut Cx<'_>, flight: &Flight, reply: Reply) {
        match reply.result {
            Ok(Ans::Reclaimed { answer, term, wall }) => {
                self.stamp_base = (wall, flight.sent);
                for key in self.cache.on_reclaimed(flight.sent, term, &answer) {
                    cx.hit("lease: lost");
                    self.forget_cached(key);
                }
                self.reclaiming = false;
                self.known = true;
                self.leases_reclaimed(cx, &answer.granted);
            }
            Err(Failure::Refused(Refusal::StaleLease)) => {
                for key in self.cache.lose_unreclaimed() {
                    cx.hit("lease: lost");
                    self.forget_cached(key);
                }
                self.lose_session(cx);
            }
            _ => {}
        }
    }

    fn granted(&mut self, cx: &mut Cx<'_>, flight: &Flight, key: LeaseKey, reply: Reply) {
        match reply.result {
            Ok(Ans::Granted { lease, term }) => {
                let fresh = self.cache.valid(cx.tick, key, Mode::Shared).is_none();
                if fresh {
                    // Whatever was cached was cached under a lease that has ended.
                    self.forget_cached(key);
                }
                if let Some(action) = self.cache.on_granted(flight.sent, term, lease) {
                    self.act(cx, action);
                }
            }
            _ => {
                if let Some(action) = self.cache.no_grant_coming(key) {
                    self.act(cx, action);
                }
                if reply.result == Err(Failure::Refused(Refusal::Contended)) {
                    cx.hit("lease: contended");
                    self.contended.insert(key, cx.tick.after(CONTENDED_ASK));
                    return;
                }
                self.next_ask = cx.tick.after(RETRY_AFTER);
                self.may_lose(cx, flight, &reply);
            }
        }
    }

    fn returned(&mut self, cx: &mut Cx<'_>, lease: Lease, reply: &Reply) {
        if reply.result == Ok(Ans::Done) {
            if let Some(action) = self.cache.on_returned(lease) {
                cx.hit("lease: recall overtook a return");
                self.act(cx, action);
            }
            if self.returning.get(&lease.key).is_some_and(|r| r.0.number == lease.number) {
                self.returning.remove(&lease.key);
            }
        }
    }

    /// A connection broke: what was in flight on it may or may not have been executed.
    pub fn on_broken(&mut self, cx: &mut Cx<'_>, other: Proc, chan: Chan) {
        let lost: Vec<u64> = self
            .flights
            .iter()
            .filter(|(_, f)| f.to == other && f.chan == chan)
            .map(|(id, _)| *id)
            .collect();
        self.lose(cx, lost);
    }

    pub fn stale_flights(&mut self, cx: &mut Cx<'_>) {
        let old = |f: &Flight| cx.tick.since(f.sent) >= FLIGHT_MAX;
        let lost: Vec<u64> =
            self.flights.iter().filter(|(_, f)| old(f)).map(|(id, _)| *id).collect();
        self.lose(cx, lost);
    }

    fn lose(&mut self, cx: &mut Cx<'_>, lost: Vec<u64>) {
        for id in lost {
            let Some(flight) = self.flights.remove(&id) else { continue };
            match flight.purpose {
                Purpose::Ask(key) => {
                    if let Some(action) = self.cache.no_grant_coming(key) {
                        self.act(cx, action);
                    }
                }
                Purpose::Change(op) => self.change_lost(cx, op, flight.to),
                Purpose::Read(op) => self.read_lost(cx, op, flight.to),
                Purpose::Diverged(op) => self.diverged_lost(cx, op),
                _ => {}
            }
        }
    }
}
