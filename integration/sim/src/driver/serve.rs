//! The brick's gate: requests of clients, held ones, and their execution.

use std::rc::Rc;

use proto::fop::Class;
use proto::{Errno, Failure, Gfid, Refusal};
use proto_rules::member::{Head, Hold, OwnError, Verdict};
use proto_rules::time::MS;

use super::peer::{Peer, Why};
use crate::cx::{Cx, Later, lead_proc};
use crate::model::change::Outcome;
use crate::model::net::{Chan, Proc};
use crate::msg::{Ans, Body, Call, Done, Msg, Reply, Request};

/// A request that waits inside a member.
pub struct Held {
    pub from: Proc,
    pub chan: Chan,
    pub request: Rc<Request>,
    pub why: Hold,
}

pub fn head(request: &Request) -> Head {
    let class = match &request.body {
        Body::Read { .. } | Body::Getattr { .. } | Body::Lookup { .. } => Class::Read,
        Body::Change(_) | Body::Fsync { .. } => Class::Change,
        _ => Class::Lead,
    };
    let reads: Vec<Gfid> = match &request.body {
        Body::Read { gfid, .. } | Body::Getattr { gfid } => vec![*gfid],
        Body::Lookup { dir, .. } => vec![*dir],
        _ => Vec::new(),
    };
    let touches = match &request.body {
        Body::Change(change) => change.touches(),
        _ => Vec::new(),
    };
    Head {
        session: request.session,
        epoch: request.epoch,
        class,
        seq: request.seq,
        mark: request.mark,
        under: request.under.clone(),
        touches,
        reads,
        by_lead: request.by_lead,
    }
}

impl Peer {
    pub fn on_request(&mut self, cx: &mut Cx<'_>, from: Proc, chan: Chan, request: Rc<Request>) {
        if !self.has_brick {
            return;
        }
        self.heard.insert(request.session);
        if self.member.is_lead() && self.table.is_none() {
            // It knows no session before its members' lists are in: nobody is unknown yet.
            return self.refuse(cx, from, chan, &request, Refusal::Grace);
        }
        if request.execute && self.execute_for(cx, from, chan, &request) {
            return;
        }
        // Marks come with every heartbeat, to every member.
        if matches!(request.body, Body::Renew { .. }) && self.member.in_sync() {
            self.member.windows.set_mark(request.session, request.mark);
        }
        let head = head(&request);
        let verdict = self.member.admit(cx.tick, &head, self.table.as_ref());
        cx.note(|me| {
            format!(
                "p{} {:?} s{} seq{} e{} -> {}",
                me,
                request.body,
                request.session,
                request.seq,
                request.epoch,
                brief(&verdict)
            )
        });
        if self.execution_admitted(cx, &request, &verdict) {
            return;
        }
        match verdict {
            Verdict::Serve => {
                self.served(cx);
                self.serve(cx, from, chan, &request);
            }
            Verdict::Execute => {
                self.served(cx);
                self.begin_execution(cx, from, chan, request);
            }
            Verdict::Replay(outcome) => self.replay(cx, from, chan, &request, outcome),
            Verdict::Refuse(refusal) => self.refuse(cx, from, chan, &request, refusal),
            Verdict::Fail(errno) => self.answer(cx, from, chan, &request, Err(errno.into())),
            Verdict::Hold(Hold::Running) => {}
            Verdict::Hold(why) => self.hold(cx, Held { from, chan, request, why }),
        }
    }

    fn served(&mut self, cx: &mut Cx<'_>) {
        cx.oracle.served(cx.now, cx.me, self.member.epoch());
    }

    /// Most executions are at once; some wait for the disk, and the world goes on meanwhile.
    fn begin_execution(&mut self, cx: &mut Cx<'_>, from: Proc, chan: Chan, request: Rc<Request>) {
        let slow = matches!(request.body, Body::Fsync { .. }) || cx.rng.percent(10);
        if slow {
            let wait = cx.rng.range(MS / 10, 20 * MS);
            cx.after(wait, Later::Execute { from, chan, request });
        } else {
            self.execute(cx, from, chan, &request);
        }
    }

    pub fn execute(&mut self, cx: &mut Cx<'_>, from: Proc, chan: Chan, request: &Request) {
        let store = &mut self.lasting.store;
        let (outcome, gfid) = match &request.body {
            Body::Change(change) if cx.oracle.take_misanswer(cx.me) => {
                cx.hit("fault: misanswer");
                (Err(Errno::ESTALE), change.touches().first().map(proto::fop::Touch::gfid))
            }
            Body::Change(change) => {
                let done =
                    store.execute(change, request.stamp, request.resend, self.interval.current().0);
                (done, change.touches().first().map(proto::fop::Touch::gfid))
            }
            Body::Fsync { gfid } => (store.fsync(*gfid), Some(*gfid)),
            _ => return,
        };
        let mut outcome = outcome;
        // Others have room: it does not overrule their success (a sole member's answer stands).
        let own = store.failed && outcome == Err(Errno::EIO)
            || outcome == Err(Errno::ENOSPC) && !self.member.lone();
        if own {
            match self.member.own_error(gfid) {
                // Nobody is answered from now on.
                OwnError::Leave => {
                    self.member.windows.cancel(request.session, request.seq);
                    return;
                }
                OwnError::Sole => outcome = Err(Errno::EIO),
            }
        }
        self.member.finish(request.session, request.seq, outcome);
        // The lead's table learns who created what (the creator's lease) before anybody asks.
        if let (Ok(()), Body::Change(crate::model::change::Change::Create { gfid, dir, .. })) =
            (outcome, &request.body)
            && let Some(table) = self.table.as_mut()
            && let Some((_, number)) =
                request.under.iter().find(|(k, _)| *k == proto::fop::LeaseKey::Part(*dir))
        {
            table.created(cx.tick, request.session, *gfid, *number);
        }
        if !self.executed(cx, request, outcome) {
            self.reply_outcome(cx, from, chan, request, (outcome, true));
        }
        self.pause_may_be_quiet(cx);
    }

    pub fn reply_outcome(
        &mut self,
        cx: &mut Cx<'_>,
        from: Proc,
        chan: Chan,
        request: &Request,
        (outcome, first): (Outcome, bool),
    ) {
        let result = outcome.map(|()| self.done(cx, request, first)).map_err(Failure::from);
        self.answer(cx, from, chan, request, result);
    }

    /// The lead's answer to a create brings the creator's lease, if it (still) holds it.
    /// A re-sent one brings no term: the next renewal does.
    fn done(&self, cx: &Cx<'_>, request: &Request, first: bool) -> Ans {
        let Body::Change(crate::model::change::Change::Create { gfid, .. }) = &request.body else {
            return Ans::Done;
        };
        let key = proto::fop::LeaseKey::Inode(*gfid);
        let held = self.table.as_ref().and_then(|t| t.held(request.session, key));
        match held {
            Some(lease) => {
                let term = proto_rules::lease::table::term(cx.tick, self.member.serve_until());
                Ans::Created { lease, term: if first { term } else { 0 } }
            }
            None => Ans::Done,
        }
    }

    fn replay(
        &mut self,
        cx: &mut Cx<'_>,
        from: Proc,
        chan: Chan,
        request: &Request,
        outcome: Outcome,
    ) {
        cx.hit("gate: replay");
        let touches = self.member.windows.touches(request.session, request.seq).to_vec();
        self.lasting.store.log(self.interval.current().0, &touches);
        self.reply_outcome(cx, from, chan, request, (outcome, false));
    }

    pub fn answer(
        &mut self,
        cx: &mut Cx<'_>,
        from: Proc,
        chan: Chan,
        request: &Request,
        result: Result<Ans, Failure>,
    ) {
        let behind = request.epoch < self.member.epoch();
        let map = behind.then(|| self.lasting.map.clone());
        let reply = Reply { id: request.id, map, result };
        cx.send(from, chan, Msg::Reply(reply));
    }

    pub fn refuse(
        &mut self,
        cx: &mut Cx<'_>,
        from: Proc,
        chan: Chan,
        request: &Request,
        refusal: Refusal,
    ) {
        match refusal {
            Refusal::NotServing => cx.hit("gate: not serving"),
            Refusal::Epoch { .. } => cx.hit("gate: other epoch"),
            Refusal::StaleLease => cx.hit("gate: stale lease"),
            Refusal::Grace => cx.hit("gate: grace"),
            Refusal::Busy => cx.hit("gate: busy"),
            Refusal::StaleCopy => cx.hit("gate: stale copy"),
            Refusal::TooFewInSync => cx.hit("gate: too few in-sync"),
            _ => {}
        }
        self.answer(cx, from, chan, request, Err(refusal.into()));
    }

    fn hold(&mut self, cx: &mut Cx<'_>, held: Held) {
        let lead = lead_proc(self.map());
        let call = match &held.why {
            Hold::AskSession => {
                cx.hit("gate: session asked");
                Some(Call::Vouch { session: held.request.session, lease: None })
            }
            Hold::AskNumber { key, number } => {
                Some(Call::Vouch { session: held.request.session, lease: Some((*key, *number)) })
            }
            Hold::Paused => {
                cx.hit("gate: paused");
                None
            }
            Hold::Running => return,
        };
        if let (Some(call), Some(lead)) = (call, lead) {
            self.call(cx, lead, call, Why::Vouch);
        }
        self.held.push(held);
    }

    pub fn vouch_done(&mut self, cx: &mut Cx<'_>, call: &Call, done: &Done) {
        let Call::Vouch { session, lease } = call else { return };
        let Done::Vouched(known) = done else { return };
        let waits = |held: &Held| match &held.why {
            Hold::AskSession => lease.is_none() && held.request.session == *session,
            Hold::AskNumber { key, number } => *lease == Some((*key, *number)),
            _ => false,
        };
        let (ready, rest) = std::mem::take(&mut self.held).into_iter().partition(waits);
        self.held = rest;
        let ready: Vec<Held> = ready;
        match (known, lease) {
            (true, None) => self.member.session_named(*session),
            (true, Some((key, number))) => self.member.number_confirmed(*key, *number),
            (false, _) => {}
        }
        for held in ready {
            if *known {
                self.on_request(cx, held.from, held.chan, held.request);
            } else {
                let refusal = match lease {
                    None => Refusal::UnknownSession,
                    Some(_) => Refusal::StaleLease,
                };
                self.refuse(cx, held.from, held.chan, &held.request, refusal);
            }
        }
    }

    /// All held requests pass the gate again.
    pub fn readmit(&mut self, cx: &mut Cx<'_>) {
        for held in std::mem::take(&mut self.held) {
            self.on_request(cx, held.from, held.chan, held.request);
        }
    }

    /// What has passed the gate and is no change of inodes.
    fn serve(&mut self, cx: &mut Cx<'_>, from: Proc, chan: Chan, request: &Request) {
        let live = &self.lasting.store.live;
        let result = match &request.body {
            Body::Read { gfid, block } => live
                .get(gfid)
                .map(|i| Ans::Value(i.blocks[usize::from(*block)]))
                .ok_or(Errno::ESTALE.into()),
            Body::Getattr { gfid } => {
                live.get(gfid).map(|i| Ans::Attr(i.attr.0, i.attr.1)).ok_or(Errno::ESTALE.into())
            }
            Body::Lookup { dir, name } => {
                self.lasting.store.name(*dir, *name).map(Ans::Name).map_err(Failure::from)
            }
            _ => return self.serve_lead(cx, from, chan, request),
        };
        self.answer(cx, from, chan, request, result);
    }
}

fn brief(verdict: &Verdict<Outcome>) -> String {
    format!("{verdict:?}")
}
