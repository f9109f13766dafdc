//! One change on its way: drives the rules' `Txn` over the members' connections.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use proto::fop::{Call, MarkStale, Touch, Under, Want};
use proto::frame::Status;
use proto::{BrickId, Epoch, Errno, Failure, Gfid, Refusal};
use proto_rules::Tick;
use proto_rules::time::{Nanos, SESSION_FORGET};
use proto_rules::txn::{Targets, Txn, TxnCommand, TxnError};
use tokio::time::sleep;

use super::order::{Leave, Numbered};
use super::{RETRY_AFTER, ReplicaSet, wake_at};
use crate::clock;
use crate::transport::{CallError, Counters, Reply, Request, digest};

/// A session that says HELLO so long after a change was first sent may have been forgotten in
/// between, whose last word was then, at the clocks' worst rates and a renewal earlier.
const FORGOTTEN_AFTER: Nanos = SESSION_FORGET - SESSION_FORGET / 6;

/// The leases under which a change is made, as they stand now.
pub(crate) enum Ground {
    Firm(Vec<Under>),
    /// To be reclaimed from a new lead.
    Waiting,
    Gone,
}

/// Keeps leases from being given back while a change is on its way, and tells their numbers:
/// a new lead gives them new ones.
pub(crate) trait Footing: Send + Sync {
    fn ground(&self) -> Ground;
}

/// A change with everything it needs.
pub(crate) struct Change {
    /// With its stamp.
    pub(crate) call: Call,
    /// Leases to ask the lead for along with it.
    pub(crate) wants: Vec<Want>,
    pub(crate) footing: Box<dyn Footing>,
    /// To be executed by the lead: sent to nobody else.
    pub(crate) execute: bool,
}

impl Change {
    /// Whom it is sent to.
    fn only(&self, mut targets: Targets) -> Targets {
        if self.execute {
            let lead = targets.lead.0;
            targets.members.retain(|member| *member == lead);
        }
        targets
    }

    fn request(&self, epoch: Epoch, first: Epoch) -> Request {
        let first_epoch = if self.execute { first } else { Epoch::NONE };
        Request { execute: self.execute, first_epoch, ..Request::new(&self.call, epoch) }
    }
}

/// How a change ended.
#[allow(
    clippy::large_enum_variant,
    reason = "one lives for one operation; a box would cost an allocation"
)]
pub(crate) enum End {
    /// Every in-sync member has answered the same, or the others are marked stale.
    Done { reply: Reply, lead: Option<(BrickId, Reply)> },
    /// A lease ended under it. Whether it happened is not known here, but all members agree.
    LeaseLost,
    /// Not done in time (it goes on by itself), or not to be acknowledged.
    Failed(Errno),
}

enum Event {
    Replied(BrickId, u64, Result<Reply, CallError>),
    /// Time to try a member again whose connection broke.
    Reconnect(BrickId),
    Marked(Result<(), Failure>),
    /// The set is in another epoch.
    Map,
    Tick,
}

type Waiting = Pin<Box<dyn Future<Output = Event> + Send>>;

impl ReplicaSet {
    /// Makes a change on all in-sync members.
    pub(crate) async fn change(self: &Arc<Self>, change: Change, deadline: Tick) -> End {
        let begin = async {
            let leave = self.order.leave(change.call.fop.touches()).await;
            let numbered = self.order.number().await;
            let targets = change.only(self.members.targets(self.id).await);
            (leave, numbered, targets)
        };
        let begun = tokio::select! {
            begun = begin => begun,
            () = wake_at(deadline) => return End::Failed(Errno::ETIMEDOUT),
        };
        let mut guard = Guard(Some(Flight::start(self.clone(), change, begun, deadline)));
        let flight = guard.0.as_mut().expect("just put there");
        let end = flight.fly().await;
        if flight.txn.is_over() {
            // Nothing is left to do in the background.
            guard.0 = None;
        }
        end
    }
}

struct Flight {
    set: Arc<ReplicaSet>,
    change: Change,
    txn: Txn<Reply>,
    epoch: Epoch,
    lead: BrickId,
    /// The lead's own reply, for what it granted along with it.
    lead_reply: Option<(BrickId, Reply)>,
    under: Vec<Under>,
    request: Request,
    waiting: FuturesUnordered<Waiting>,
    /// Counts sendings: only the latest to a member counts.
    sendings: u64,
    latest: Vec<(BrickId, u64)>,
    /// Another lead: its numbers for the leases are awaited.
    reclaiming: bool,
    /// When it was first sent.
    begun: Tick,
    first_epoch: Epoch,
    end: Option<End>,
    _order: (Leave, Numbered),
}

impl Flight {
    fn start(
        set: Arc<ReplicaSet>,
        mut change: Change,
        (leave, numbered, targets): (Leave, Numbered, Targets),
        deadline: Tick,
    ) -> Flight {
        change.call.seq = numbered.seq;
        let request = change.request(targets.epoch, targets.epoch);
        let first_epoch = targets.epoch;
        let (epoch, lead) = (targets.epoch, targets.lead.0);
        let (txn, commands) = Txn::start(targets, deadline);
        let mut flight = Flight {
            set,
            change,
            txn,
            epoch,
            lead,
            lead_reply: None,
            under: Vec::new(),
            request,
            waiting: FuturesUnordered::new(),
            sendings: 0,
            latest: Vec::new(),
            reclaiming: false,
            begun: clock::now(),
            first_epoch,
            end: None,
            _order: (leave, numbered),
        };
        flight.set.members.counters.trip(flight.request.op);
        flight.obey(commands);
        flight
    }

    /// Until the application has its answer.
    async fn fly(&mut self) -> End {
        loop {
            if let Some(end) = self.end.take() {
                return end;
            }
            let event = self.event().await;
            self.handle(event);
        }
    }

    async fn event(&mut self) -> Event {
        let wake = match self.reclaiming {
            true => Some(clock::now().after(RETRY_AFTER.as_nanos() as u64 / 2)),
            false => self.txn.next_wake(),
        };
        let next = async {
            match self.waiting.next().await {
                Some(event) => event,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            event = next => event,
            () = self.set.members.left(self.set.id, self.epoch) => Event::Map,
            () = wake_at(wake.unwrap_or(Tick::NEVER)) => Event::Tick,
        }
    }

    fn handle(&mut self, event: Event) {
        let now = clock::now();
        match event {
            Event::Replied(member, sending, result) => self.replied(now, member, sending, result),
            Event::Reconnect(member) => {
                let commands = self.txn.on_connected(member);
                self.obey(commands);
            }
            Event::Marked(result) => self.marked(result),
            Event::Map => self.new_epoch(),
            Event::Tick => {
                if self.reclaiming {
                    self.regain_footing();
                }
                let commands = self.txn.on_tick(now);
                self.obey(commands);
            }
        }
    }

    fn replied(&mut self, now: Tick, member: BrickId, sending: u64, got: Result<Reply, CallError>) {
        if !self.latest.contains(&(member, sending)) {
            return;
        }
        match got {
            Ok(reply) => match reply.status {
                Status::Failed(Failure::Refused(refusal)) => self.refused(now, member, refusal),
                _ => {
                    if member == self.lead {
                        self.lead_reply = Some((member, reply.clone()));
                    }
                    let digest = digest(self.request.op, &reply);
                    let commands = self.txn.on_answer(now, member, self.epoch, digest, reply);
                    self.obey(commands);
                }
            },
            Err(error) => {
                // A connection that cannot be made has its pause in the transport; one that
                // broke is made anew at once.
                let pause = match error {
                    CallError::Lost => Duration::ZERO,
                    CallError::Connect(error) => {
                        tracing::debug!(brick = %member, "{error}");
                        RETRY_AFTER
                    }
                };
                self.txn.on_lost(member);
                self.later(pause, Event::Reconnect(member));
            }
        }
    }

    fn refused(&mut self, now: Tick, member: BrickId, refusal: Refusal) {
        if refusal == Refusal::Moved {
            self.set.members.notices.map_is_old();
        }
        let mut commands = self.txn.on_refused(now, member, refusal);
        // Forgotten: what was executed for the session is nowhere remembered, and sent once more it
        // might be done twice. No lease of the session's own would stop it.
        let long_ago = now.since(self.begun) >= FORGOTTEN_AFTER;
        if self.change.execute && refusal == Refusal::UnknownSession && long_ago {
            commands.extend(self.txn.on_lease_lost());
        }
        self.obey(commands);
    }

    fn later(&self, pause: Duration, event: Event) {
        self.waiting.push(Box::pin(async move {
            sleep(pause).await;
            event
        }));
    }

    fn new_epoch(&mut self) {
        let targets = self.set.members.targets_now(self.set.id);
        let Some(targets) = targets.map(|targets| self.change.only(targets)) else {
            // Between two leads: the next map has one.
            self.later(RETRY_AFTER, Event::Tick);
            self.epoch = self.set.members.epoch(self.set.id);
            return;
        };
        self.epoch = targets.epoch;
        self.lead = targets.lead.0;
        self.lead_reply = None;
        self.request = self.change.request(self.epoch, self.first_epoch);
        self.latest.clear();
        let commands = self.txn.on_map(targets);
        if commands.is_empty() && !self.txn.is_over() {
            self.reclaiming = true;
            self.regain_footing();
        } else {
            self.set.members.counters.trip(self.request.op);
            self.obey(commands);
        }
    }

    /// Under a new lead: goes on once the leases have their new numbers.
    fn regain_footing(&mut self) {
        let commands = match self.change.footing.ground() {
            Ground::Waiting => return,
            Ground::Firm(_) => self.txn.on_reclaimed(),
            Ground::Gone => self.txn.on_lease_lost(),
        };
        self.reclaiming = false;
        self.obey(commands);
    }

    fn obey(&mut self, commands: Vec<TxnCommand<Reply>>) {
        for command in commands {
            match command {
                TxnCommand::Send { to, resend } => self.send(to, resend),
                TxnCommand::FetchMap { .. } => self.set.members.notices.map_is_old(),
                TxnCommand::Hello { to } => {
                    // The transport says HELLO with the next request.
                    self.set.members.notices.session_unknown(self.set.id, to);
                }
                TxnCommand::ReportDivergence { stale } => self.report(&stale),
                TxnCommand::Done(reply) => {
                    let lead = self.lead_reply.take();
                    self.end = Some(End::Done { reply, lead });
                }
                TxnCommand::LeaseLost => self.end = Some(End::LeaseLost),
                TxnCommand::Fail(TxnError::TimedOut) => self.fail(Errno::ETIMEDOUT),
                TxnCommand::Fail(TxnError::TooFewInSync) => self.fail(Errno::EROFS),
                // `is_over` says it too.
                TxnCommand::Settled => {}
            }
        }
    }

    fn fail(&mut self, errno: Errno) {
        self.end = Some(End::Failed(errno));
    }

    fn send(&mut self, to: BrickId, resend: bool) {
        let Some(client) = self.set.members.client_of(to) else {
            self.later(RETRY_AFTER, Event::Reconnect(to));
            self.txn.on_lost(to);
            return;
        };
        if let Ground::Firm(under) = self.change.footing.ground() {
            self.under = under;
        }
        if resend {
            Counters::add(&self.set.members.counters.resent);
        }
        let wants = if to == self.lead { self.change.wants.clone() } else { Vec::new() };
        let request = Request {
            mark: self.set.mark(),
            under: self.under.clone(),
            resend: resend || self.change.call.resend,
            wants,
            ..self.request.clone()
        };
        self.sendings += 1;
        let sending = self.sendings;
        self.latest.retain(|(member, _)| *member != to);
        self.latest.push((to, sending));
        self.waiting.push(Box::pin(async move {
            Event::Replied(to, sending, client.exchange(&request).await)
        }));
    }

    /// Has the lead mark copies stale on all members, before the change is acknowledged.
    fn report(&mut self, stale: &[BrickId]) {
        let gfids: Vec<Gfid> = self.change.call.fop.touches().iter().map(Touch::gfid).collect();
        for brick in stale {
            Counters::add(&self.set.members.counters.differing);
            let op = self.request.op.name();
            tracing::error!(set = %self.set.id, %brick, op, "a member's answer differs");
        }
        let marks: Vec<Call> = stale
            .iter()
            .flat_map(|brick| gfids.iter().map(|gfid| (*gfid, Gfid(*brick.as_bytes()))))
            .map(|(gfid, brick)| Call::new(MarkStale { gfid, brick, clear: false }))
            .collect();
        let lead = self.set.members.client_of(self.lead);
        let (epoch, mark) = (self.epoch, self.set.mark());
        self.waiting.push(Box::pin(async move {
            let Some(lead) = lead else { return Event::Marked(Err(Refusal::NotLead.into())) };
            for call in marks {
                let request = Request { mark, ..Request::new(&call, epoch) };
                let told = match lead.exchange(&request).await {
                    Ok(reply) => reply.into_outcome(request.op).map(|_| ()),
                    Err(_) => Err(Refusal::Busy.into()),
                };
                if told.is_err() {
                    return Event::Marked(told);
                }
            }
            Event::Marked(Ok(()))
        }));
    }

    fn marked(&mut self, result: Result<(), Failure>) {
        match result {
            Ok(()) => {
                let commands = self.txn.on_marked();
                self.obey(commands);
            }
            Err(Failure::Refused(_)) => self.later(RETRY_AFTER, Event::Reconnect(self.lead)),
            // Not marked, so not acknowledged: a later read from the differing member would
            // show another history. It stays unsettled, for the lead to find.
            Err(Failure::Errno(errno)) => {
                tracing::error!(set = %self.set.id, %errno, "the lead does not mark copies stale");
                self.fail(Errno::EIO);
            }
        }
    }

    /// Flies on without a caller.
    async fn alone(mut self) {
        tracing::warn!(set = %self.set.id, seq = %self.request.seq, "a change outlives its operation");
        while !self.txn.is_over() && !self.set.closed.load(Relaxed) {
            tokio::select! {
                event = self.event() => self.handle(event),
                // Looks whether the session has ended.
                () = sleep(RETRY_AFTER * 50) => {}
            }
        }
    }
}

/// A change whose caller is gone goes on in a task of its own.
struct Guard(Option<Flight>);

impl Drop for Guard {
    fn drop(&mut self) {
        let Some(flight) = self.0.take().filter(|flight| !flight.txn.is_over()) else { return };
        // Without a runtime the process is ending; the lead settles what it leaves.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(flight.alone());
        }
    }
}
