//! Fans out what the lead executed for a session, as a client fans out its own changes.
//!
//! The members get the session's own frame: its number and mark, the turns' numbers. They note
//! it in the session's window with their reply. The rules' `Txn` judges the answers; the turns
//! last until it is over, so nobody sees or changes what is on some members only.
//!
//! A new epoch under this lead asks all members again; the end of the lead ends the task, and the
//! next lead settles what is left.

use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use client::transport::{Reply, Request, digest};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use proto::fop::{Return, Touch};
use proto::frame::Status;
use proto::{BrickId, Epoch, Errno, Failure, Gfid, Refusal};
use proto_rules::Tick;
use proto_rules::time::RETRY_AFTER;
use proto_rules::txn::{Targets, Txn, TxnCommand};
use tokio::sync::watch;

use crate::brick::{Brick, Core, Outcome, Pending, Stored, now};

const AGAIN: Duration = Duration::from_nanos(RETRY_AFTER);

enum Event {
    Replied(BrickId, u64, Option<Reply>),
    Again(BrickId),
    Marked(bool),
    /// Another epoch, or the brick stops.
    Epoch,
    Tick,
}

type Waiting = Pin<Box<dyn Future<Output = Event>>>;

/// How it ended.
enum End {
    Done(Reply),
    /// This brick leads no more, or could not see it through: the session asks again.
    Refused(Refusal),
}

struct Run {
    brick: Rc<Brick>,
    here: BrickId,
    epochs: watch::Receiver<Epoch>,
    request: Request,
    gfids: Vec<Gfid>,
    /// This brick's own answer.
    own: Reply,
    txn: Txn<Reply>,
    waiting: FuturesUnordered<Waiting>,
    /// Counts sendings: only the latest to a member counts.
    sendings: u64,
    latest: Vec<(BrickId, u64)>,
    end: Option<End>,
}

impl Core {
    /// Executed here: now by the other members, then the session gets its answer.
    pub fn fan_out(&mut self, mut pending: Pending, result: Result<Return, Errno>) {
        self.setup.metrics.executed.add(1);
        let Some(targets) = self.member.map().and_then(Targets::of) else {
            return self.refuse(pending, Refusal::NotLead);
        };
        if targets.members.len() < 2 {
            return self.answer(pending, result.into());
        }
        let (session, seq) = (pending.head.session, pending.head.seq);
        let Some(lead) = &mut self.lead else { return self.refuse(pending, Refusal::NotLead) };
        lead.executing.insert((session, seq));
        pending.fanned_out = true;
        pending.defer();
        let under = pending.head.under.iter();
        let request = Request {
            mark: pending.head.mark.0,
            execute: true,
            on_behalf: Some(session),
            under: under
                .map(|(key, n)| proto::fop::Under { key: (*key).into(), number: *n })
                .collect(),
            ..Request::new(&pending.call, targets.epoch)
        };
        let gfids = pending.head.touches.iter().map(Touch::gfid).collect();
        let (here, epochs) = (self.setup.identity.brick, self.members.epochs());
        self.spawn(|brick| async move {
            let own = own_reply(&result, request.epoch);
            let means = digest(request.op, &own);
            let op = request.op;
            let (txn, commands) = Txn::start(targets, Tick::NEVER);
            let (waiting, latest) = (FuturesUnordered::new(), Vec::new());
            let run = Run {
                brick: brick.clone(),
                here,
                epochs,
                request,
                gfids,
                own,
                txn,
                waiting,
                sendings: 0,
                latest,
                end: None,
            };
            let end = run.through(commands).await;
            brick.slowed().await;
            let mut core = brick.core.borrow_mut();
            match end {
                End::Done(reply) if digest(op, &reply) == means => {
                    core.answer(pending, result.into())
                }
                End::Done(reply) => {
                    let outcome = match reply.into_outcome(op) {
                        Ok(done) => Outcome::Done(done),
                        Err(failure) => Outcome::Failed(failure),
                    };
                    core.answer(pending, outcome);
                }
                End::Refused(refusal) => core.refuse(pending, refusal),
            }
        });
    }
}

impl Brick {
    /// While a heal does not get ahead of the writers, they are answered later.
    async fn slowed(&self) {
        let slow = self.core.borrow().slow;
        if let Some((delay, until)) = slow
            && now() < until
        {
            tokio::time::sleep(delay).await;
        }
    }
}

/// This brick's answer, as a member would have sent it.
fn own_reply(result: &Result<Return, Errno>, epoch: Epoch) -> Reply {
    let status = match result {
        Ok(_) => Status::Ok,
        Err(errno) => Status::Failed((*errno).into()),
    };
    Reply {
        status,
        answer: Stored::of(result).answer,
        payload: bytes::Bytes::new(),
        grants: Vec::new(),
        epoch,
        replay: false,
        sent: now(),
    }
}

impl Run {
    async fn through(mut self, commands: Vec<TxnCommand<Reply>>) -> End {
        self.obey(commands);
        loop {
            if let Some(end) = self.end.take() {
                return end;
            }
            let wake =
                self.txn.next_wake().map_or(AGAIN, |at| Duration::from_nanos(at.since(now())));
            let event = tokio::select! {
                biased;
                changed = self.epochs.changed() => {
                    if changed.is_err() {
                        return End::Refused(Refusal::NotLead);
                    }
                    Event::Epoch
                }
                Some(event) = self.waiting.next() => event,
                () = tokio::time::sleep(wake.min(AGAIN)) => Event::Tick,
            };
            self.handle(event);
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Replied(member, sending, reply) => {
                if self.latest.contains(&(member, sending)) {
                    self.replied(member, reply);
                }
            }
            Event::Again(member) => {
                let commands = self.txn.on_connected(member);
                self.obey(commands);
            }
            Event::Marked(true) => {
                let commands = self.txn.on_marked();
                self.obey(commands);
            }
            Event::Marked(false) => self.later(Event::Again(self.here)),
            Event::Epoch | Event::Tick => self.look(),
        }
    }

    /// Goes on in the epoch that is now, or ends with the lead.
    fn look(&mut self) {
        let targets = {
            let core = self.brick.core.borrow();
            let leads = core.lead.is_some() && core.leads_in(core.epoch());
            core.member.map().filter(|_| leads).and_then(Targets::of)
        };
        let Some(targets) = targets.filter(|t| t.lead.0 == self.here) else {
            self.end = Some(End::Refused(Refusal::NotLead));
            return;
        };
        let commands = if targets.epoch > self.txn.epoch() {
            self.request.epoch = targets.epoch;
            self.latest.clear();
            self.txn.on_map(targets)
        } else {
            self.txn.on_tick(now())
        };
        self.obey(commands);
    }

    fn replied(&mut self, member: BrickId, reply: Option<Reply>) {
        let commands = match reply {
            None => {
                self.txn.on_lost(member);
                return self.later(Event::Again(member));
            }
            Some(Reply { status: Status::Failed(Failure::Refused(refusal)), .. }) => {
                self.txn.on_refused(now(), member, refusal)
            }
            Some(reply) => {
                let means = digest(self.request.op, &reply);
                self.txn.on_answer(now(), member, self.txn.epoch(), means, reply)
            }
        };
        self.obey(commands);
    }

    fn later(&self, event: Event) {
        self.waiting.push(Box::pin(async move {
            tokio::time::sleep(AGAIN).await;
            event
        }));
    }

    fn obey(&mut self, commands: Vec<TxnCommand<Reply>>) {
        for command in commands {
            match command {
                TxnCommand::Send { to, resend } => self.send(to, resend),
                TxnCommand::ReportDivergence { stale } => self.report(&stale),
                TxnCommand::Done(reply) => self.end = Some(End::Done(reply)),
                // Every member refuses it: the session may send it as new.
                TxnCommand::LeaseLost | TxnCommand::Fail(_) => {
                    self.end = Some(End::Refused(Refusal::Busy));
                }
                // Maps come by themselves, and this brick is its sessions' own lead.
                TxnCommand::FetchMap { .. } | TxnCommand::Hello { .. } | TxnCommand::Settled => {}
            }
        }
    }

    fn send(&mut self, to: BrickId, resend: bool) {
        self.sendings += 1;
        let sending = self.sendings;
        self.latest.retain(|(member, _)| *member != to);
        self.latest.push((to, sending));
        if to == self.here {
            // Executed already, whatever the epoch: its window says the same.
            let own = self.own.clone();
            return self.waiting.push(Box::pin(std::future::ready(Event::Replied(
                to,
                sending,
                Some(own),
            ))));
        }
        let members = self.brick.core.borrow().members.in_sync();
        let Some(member) = members.into_iter().find(|m| m.brick == to) else {
            self.txn.on_lost(to);
            return self.later(Event::Again(to));
        };
        // What the session sent again may have been executed by a member that has restarted since.
        let resend = resend || self.request.resend;
        let request = Request { resend, ..self.request.clone() };
        self.waiting.push(Box::pin(async move {
            Event::Replied(to, sending, member.send_on(&request).await)
        }));
    }

    /// Members whose answers differ are stale, durably on all members, before the session is
    /// answered.
    fn report(&self, stale: &[BrickId]) {
        let marks: Vec<(BrickId, Gfid)> =
            stale.iter().flat_map(|b| self.gfids.iter().map(|g| (*b, *g))).collect();
        let (brick, epoch) = (self.brick.clone(), self.txn.epoch());
        self.waiting.push(Box::pin(async move {
            if !brick.core.borrow_mut().member.begin_marking(&marks) {
                return Event::Marked(false);
            }
            for (member, gfid) in &marks {
                tracing::warn!(%gfid, brick = %member, "a copy differs and is marked stale");
            }
            let noted = brick.mark_all(epoch, marks).await;
            if noted.is_err() {
                brick.core.borrow_mut().leave("a stale mark cannot be written");
            }
            Event::Marked(noted == Ok(true))
        }));
    }
}
