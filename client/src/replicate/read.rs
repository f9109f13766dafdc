//! One request to one member: drives the rules' `ReadTxn`. Also what only the lead answers.

use std::sync::Arc;

use proto::fop::{Call, Under, Want};
use proto::frame::Status;
use proto::{BrickId, Epoch, Errno, Failure, Refusal};
use proto_rules::Tick;
use proto_rules::txn::Targets;
use proto_rules::txn::read::{ReadCommand, ReadTxn};

use super::order::Leave;
use super::{ReplicaSet, wake_at};
use crate::clock;
use crate::transport::{BrickClient, CallError, Counters, Reply, Request};

/// A request for one member.
pub(crate) struct Ask<'a> {
    pub(crate) call: &'a Call,
    /// The lease under which any member may answer; without one the lead is asked.
    pub(crate) under: Option<Under>,
    /// Leases to ask for along with it: a matter for the lead.
    pub(crate) wants: Vec<Want>,
    /// Not on the calling thread's connection, but on that of heartbeats.
    pub(crate) background: bool,
}

/// A reply and who gave it.
pub(crate) struct Said {
    pub(crate) reply: Reply,
    pub(crate) brick: BrickId,
}

impl ReplicaSet {
    /// Asks until a member answers: with success, with an errno, or (asked without a lease)
    /// with StaleLease, which a claim gets that comes too late, or Contended, for a wish that
    /// yields.
    ///
    /// # Errors
    /// ETIMEDOUT at the deadline.
    pub(crate) async fn ask(&self, ask: Ask<'_>, deadline: Tick) -> Result<Said, Errno> {
        let begin = async {
            let leave = self.order.look(&ask.call.fop, ask.under).await;
            (leave, self.members.targets(self.id).await)
        };
        let (leave, targets) = tokio::select! {
            begun = begin => begun,
            () = wake_at(deadline) => return Err(Errno::ETIMEDOUT),
        };
        let (leased, order) = self.preferred(&ask, leave.is_some(), &targets);
        let (txn, commands) = ReadTxn::start(targets, leased, order, deadline);
        self.members.counters.trip(ask.call.fop.op());
        Errand { set: self, ask, leave, txn, asked: None }.run(commands).await
    }

    /// Under a lease: members that are reached straight first, of those the ones with the fewest
    /// bytes outstanding, of equal ones that on this machine. Otherwise the lead, also for what is
    /// being changed right now: two members could show first the new and then the old.
    fn preferred(&self, ask: &Ask<'_>, has_leave: bool, targets: &Targets) -> (bool, Vec<BrickId>) {
        let calm = ask.under.is_some_and(|under| !self.order.busy(under.key.gfid));
        let steady = has_leave && calm;
        if !ask.wants.is_empty() || !steady {
            return (false, Vec::new());
        }
        let clients = targets.members.iter().filter_map(|m| self.members.client_of(*m));
        let mut clients: Vec<Arc<BrickClient>> = clients.collect();
        clients.sort_by_key(|c| (c.is_relayed(), c.outstanding(), !c.is_local()));
        (true, clients.iter().map(|c| c.brick()).collect())
    }
}

struct Errand<'a> {
    set: &'a ReplicaSet,
    ask: Ask<'a>,
    /// Keeps changes of what is read from beginning.
    leave: Option<Leave>,
    txn: ReadTxn,
    asked: Option<BrickId>,
}

impl Errand<'_> {
    async fn run(mut self, mut commands: Vec<ReadCommand>) -> Result<Said, Errno> {
        loop {
            for command in commands {
                match command {
                    ReadCommand::Send { to } => self.asked = Some(to),
                    ReadCommand::FetchMap { .. } => self.set.members.notices.map_is_old(),
                    ReadCommand::Hello { to } => {
                        self.set.members.notices.session_unknown(self.set.id, to);
                    }
                    ReadCommand::Fail(_) => return Err(Errno::ETIMEDOUT),
                }
            }
            commands = match self.next().await {
                Ok(said) => return Ok(said),
                Err(commands) => commands,
            };
        }
    }

    /// The answer, or what is to be done about its absence.
    async fn next(&mut self) -> Result<Said, Vec<ReadCommand>> {
        let epoch = self.txn.epoch();
        let wake = self.txn.next_wake().unwrap_or(Tick::NEVER);
        let asked = self.asked;
        tokio::select! {
            result = self.exchange(asked, epoch) => {
                self.asked = None;
                self.replied(asked, result)
            }
            () = self.set.members.left(self.set.id, epoch) => Err(self.new_epoch().await),
            () = wake_at(wake) => Err(self.txn.on_tick(clock::now())),
        }
    }

    async fn exchange(&self, to: Option<BrickId>, epoch: Epoch) -> Result<Reply, CallError> {
        let Some(client) = to.and_then(|to| self.set.members.client_of(to)) else {
            return std::future::pending().await;
        };
        let request = Request {
            mark: self.set.mark(),
            wants: self.ask.wants.clone(),
            under: self.ask.under.into_iter().collect(),
            ..Request::new(self.ask.call, epoch)
        };
        match self.ask.background {
            true => client.exchange_in_background(&request).await,
            false => client.exchange(&request).await,
        }
    }

    fn replied(
        &mut self,
        from: Option<BrickId>,
        result: Result<Reply, CallError>,
    ) -> Result<Said, Vec<ReadCommand>> {
        let Some(brick) = from else { return Err(Vec::new()) };
        let now = clock::now();
        let commands = match result {
            Ok(reply) => match reply.status {
                Status::Failed(Failure::Refused(refusal)) => {
                    let told = matches!(refusal, Refusal::StaleLease | Refusal::Contended);
                    if told && self.ask.under.is_none() {
                        return Ok(Said { reply, brick });
                    }
                    if refusal == Refusal::Moved {
                        self.set.members.notices.map_is_old();
                    }
                    self.txn.on_refused(now, brick, refusal)
                }
                _ => return Ok(Said { reply, brick }),
            },
            Err(error) => {
                tracing::debug!(%brick, "{error}");
                self.txn.on_lost(now, brick)
            }
        };
        Counters::add(&self.set.members.counters.resent);
        Err(commands)
    }

    async fn new_epoch(&mut self) -> Vec<ReadCommand> {
        let targets = self.set.members.targets(self.set.id).await;
        let (leased, order) = self.set.preferred(&self.ask, self.leave.is_some(), &targets);
        self.asked = None;
        self.txn.on_map(targets, leased, order)
    }
}
