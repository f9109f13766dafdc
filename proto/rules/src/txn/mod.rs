//! The client's side of one replicated change: sent to all in-sync members at once, done when
//! all have answered the same.
//!
//! Assumes: the driver sends what it is told; it reports every lost connection, and answers
//! and refusals only of the latest sending to that member; it calls `on_tick` at `next_wake`.
//!
//! Promises: `Done` only after every in-sync member of one epoch has answered, and members
//! whose answer differs are durably marked stale; in a new epoch everything is asked again,
//! with the same number; `Fail` at the operation timeout, after which the change goes on in
//! the background until it is `Settled` (its number and its conflicts stay taken till then).
//!
//! Deliberately does not: choose numbers (`Sequencer`) or wait for conflicts (`Conflicts`).

pub mod read;

use std::collections::BTreeMap;

use proto::map::SetMap;
use proto::{BrickId, Epoch, Incarnation, Refusal};

use crate::plant::{Plant, planted};
use crate::time::{RETRY_AFTER, Tick};

/// Whom to ask in one epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Targets {
    pub epoch: Epoch,
    pub lead: (BrickId, Incarnation),
    /// In-sync members, the lead among them.
    pub members: Vec<BrickId>,
}

impl Targets {
    /// `None` while a set has no lead (before its first start).
    pub fn of(map: &SetMap) -> Option<Targets> {
        let lead = map.member(map.lead?)?;
        Some(Targets {
            epoch: map.epoch,
            lead: (lead.brick, lead.incarnation),
            members: map.in_sync().map(|m| m.brick).collect(),
        })
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TxnCommand<R> {
    Send {
        to: BrickId,
        resend: bool,
    },
    /// A member knows this epoch: get a map that has it.
    FetchMap {
        at_least: Epoch,
    },
    /// The session is unknown there: say HELLO (its leases are gone).
    Hello {
        to: BrickId,
    },
    /// The lead has every member mark these copies stale, durably; then `on_marked`.
    ReportDivergence {
        stale: Vec<BrickId>,
    },
    /// The application's answer.
    Done(R),
    /// The lease ended under the change: whether it happened is unknown to this session, but
    /// all members agree. EIO for buffered data; an operation may be tried anew.
    LeaseLost,
    Fail(TxnError),
    /// Nothing more will happen: the number is settled, conflicting changes may go.
    Settled,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TxnError {
    TimedOut,
    /// `min-in-sync` was not met for the whole timeout: EROFS.
    TooFewInSync,
}

#[derive(Clone, Debug)]
enum At<R> {
    Sent,
    /// Its connection is gone.
    Lost,
    Again(Tick),
    Answered {
        digest: u64,
        reply: R,
    },
    /// It will not execute the change: its lease ended.
    Fenced,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Asking,
    /// Another lead: the lease has to be reclaimed first.
    Reclaiming,
    Marking,
    Over,
}

/// Whether a sending that is not the first says so.
fn again() -> bool {
    !planted(Plant::NoReplay)
}

/// One change on its way.
#[derive(Clone, Debug)]
pub struct Txn<R> {
    targets: Targets,
    members: BTreeMap<BrickId, At<R>>,
    phase: Phase,
    deadline: Tick,
    /// The application has its answer.
    answered: bool,
    too_few: bool,
    fetching: Epoch,
}

impl<R: Clone> Txn<R> {
    /// Starts: send to every in-sync member. `deadline`: now + `client.op-timeout`.
    pub fn start(targets: Targets, deadline: Tick) -> (Self, Vec<TxnCommand<R>>) {
        let members = targets.members.iter().map(|m| (*m, At::Sent)).collect();
        let sends = targets.members.iter();
        let sends = sends.map(|to| TxnCommand::Send { to: *to, resend: false }).collect();
        let txn = Self {
            targets,
            members,
            phase: Phase::Asking,
            deadline,
            answered: false,
            too_few: false,
            fetching: Epoch::NONE,
        };
        (txn, sends)
    }

    pub fn epoch(&self) -> Epoch {
        self.targets.epoch
    }

    /// A member executed it (in `epoch`). `digest`: what its answer means, the same for equal
    /// answers (errno, or the answer without what may differ by member).
    pub fn on_answer(
        &mut self,
        now: Tick,
        member: BrickId,
        epoch: Epoch,
        digest: u64,
        reply: R,
    ) -> Vec<TxnCommand<R>> {
        if epoch != self.targets.epoch || self.phase != Phase::Asking {
            return Vec::new();
        }
        if let Some(at) = self.members.get_mut(&member) {
            *at = At::Answered { digest, reply };
        }
        self.judge(now)
    }

    /// A member did not execute it.
    pub fn on_refused(
        &mut self,
        now: Tick,
        member: BrickId,
        refusal: Refusal,
    ) -> Vec<TxnCommand<R>> {
        let mut commands = Vec::new();
        let Some(at) = self.members.get_mut(&member) else { return commands };
        if self.phase != Phase::Asking || matches!(at, At::Answered { .. }) {
            return commands;
        }
        *at = At::Again(now.after(RETRY_AFTER));
        match refusal {
            Refusal::Epoch { current } => {
                let current = Epoch(current);
                if current > self.targets.epoch && current > self.fetching {
                    self.fetching = current;
                    commands.push(TxnCommand::FetchMap { at_least: current });
                }
            }
            Refusal::StaleLease | Refusal::LeaseNeeded | Refusal::StaleSeq => {
                *at = At::Fenced;
                commands.extend(self.judge(now));
            }
            Refusal::UnknownSession => commands.push(TxnCommand::Hello { to: member }),
            Refusal::TooFewInSync => self.too_few = true,
            Refusal::NotServing
            | Refusal::NotLead
            | Refusal::Grace
            | Refusal::Busy
            | Refusal::StaleCopy
            | Refusal::Moved
            | Refusal::Contended
            | Refusal::Failed => {}
        }
        commands
    }

    /// The connection to a member ended; its answer may be lost.
    pub fn on_lost(&mut self, member: BrickId) {
        if let Some(at) = self.members.get_mut(&member)
            && !matches!(at, At::Answered { .. } | At::Fenced)
        {
            *at = At::Lost;
        }
    }

    /// There is a connection to the member again.
    pub fn on_connected(&mut self, member: BrickId) -> Vec<TxnCommand<R>> {
        match self.members.get_mut(&member) {
            Some(at @ At::Lost) if self.phase == Phase::Asking => {
                *at = At::Sent;
                vec![TxnCommand::Send { to: member, resend: again() }]
            }
            _ if self.phase == Phase::Marking && member == self.targets.lead.0 => {
                let stale = self.vote().map_or_else(Vec::new, |(_, stale)| stale);
                vec![TxnCommand::ReportDivergence { stale }]
            }
            _ => Vec::new(),
        }
    }

    /// A newer map. Whatever was answered before is asked again, of all: a member may have
    /// joined, and one that answered may have fallen out (trap 32).
    pub fn on_map(&mut self, targets: Targets) -> Vec<TxnCommand<R>> {
        if targets.epoch <= self.targets.epoch || self.phase == Phase::Over {
            return Vec::new();
        }
        let new_lead = targets.lead != self.targets.lead;
        self.targets = targets;
        if new_lead || self.phase == Phase::Reclaiming {
            // Under the old number every member would refuse it.
            self.phase = Phase::Reclaiming;
            return Vec::new();
        }
        self.ask_all()
    }

    /// The leases were reclaimed from the new lead: re-send under their new numbers.
    pub fn on_reclaimed(&mut self) -> Vec<TxnCommand<R>> {
        if self.phase != Phase::Reclaiming {
            return Vec::new();
        }
        self.ask_all()
    }

    /// The new lead refused the reclaim. It had settled everything before it answered.
    pub fn on_lease_lost(&mut self) -> Vec<TxnCommand<R>> {
        match self.phase {
            Phase::Over => Vec::new(),
            _ => self.over(TxnCommand::LeaseLost),
        }
    }

    fn ask_all(&mut self) -> Vec<TxnCommand<R>> {
        self.phase = Phase::Asking;
        self.too_few = false;
        self.members = self.targets.members.iter().map(|m| (*m, At::Sent)).collect();
        let sends = self.targets.members.iter();
        sends.map(|to| TxnCommand::Send { to: *to, resend: again() }).collect()
    }

    /// The lead says that the marks are durable on every member.
    pub fn on_marked(&mut self) -> Vec<TxnCommand<R>> {
        match (self.phase, self.vote()) {
            (Phase::Marking, Some((reply, _))) => self.over(TxnCommand::Done(reply)),
            _ => Vec::new(),
        }
    }

    /// Time passes: retries, and the operation timeout.
    pub fn on_tick(&mut self, now: Tick) -> Vec<TxnCommand<R>> {
        let mut commands = Vec::new();
        if self.phase == Phase::Over {
            return commands;
        }
        if self.phase == Phase::Asking {
            for (member, at) in &mut self.members {
                if matches!(at, At::Again(due) if *due <= now) {
                    *at = At::Sent;
                    commands.push(TxnCommand::Send { to: *member, resend: again() });
                }
            }
        }
        if now >= self.deadline && !self.answered {
            self.answered = true;
            let error = if self.too_few { TxnError::TooFewInSync } else { TxnError::TimedOut };
            commands.push(TxnCommand::Fail(error));
        }
        commands
    }

    pub fn next_wake(&self) -> Option<Tick> {
        if self.phase == Phase::Over {
            return None;
        }
        let retries = self.members.values().filter_map(|at| match at {
            At::Again(due) if self.phase == Phase::Asking => Some(*due),
            _ => None,
        });
        retries.chain((!self.answered).then_some(self.deadline)).min()
    }

    pub fn is_over(&self) -> bool {
        self.phase == Phase::Over
    }

    fn judge(&mut self, now: Tick) -> Vec<TxnCommand<R>> {
        let count = |test: fn(&At<R>) -> bool| self.members.values().filter(|a| test(a)).count();
        let answered = count(|a| matches!(a, At::Answered { .. }));
        let fenced = count(|a| matches!(a, At::Fenced));
        if answered + fenced < self.members.len() {
            return Vec::new();
        }
        if fenced == 0 {
            return self.conclude();
        }
        if answered == 0 {
            // Nobody has it, or those who had it have settled and dropped it.
            return self.over(TxnCommand::LeaseLost);
        }
        // Some executed it before the lease ended. The lead settles that; until then those
        // members answer from their windows. The number must not count as settled before.
        for at in self.members.values_mut() {
            if matches!(at, At::Answered { .. }) {
                *at = At::Again(now.after(RETRY_AFTER));
            }
        }
        Vec::new()
    }

    fn conclude(&mut self) -> Vec<TxnCommand<R>> {
        let Some((reply, stale)) = self.vote() else { return Vec::new() };
        if stale.is_empty() {
            return self.over(TxnCommand::Done(reply));
        }
        self.phase = Phase::Marking;
        vec![TxnCommand::ReportDivergence { stale }]
    }

    /// The answer of the most members, of the lead's group when they are as many; and those
    /// who answered otherwise.
    fn vote(&self) -> Option<(R, Vec<BrickId>)> {
        let digest_of = |brick: &BrickId| match self.members.get(brick) {
            Some(At::Answered { digest, .. }) => Some(*digest),
            _ => None,
        };
        let lead = digest_of(&self.targets.lead.0);
        let mut groups: BTreeMap<u64, usize> = BTreeMap::new();
        for digest in self.targets.members.iter().filter_map(digest_of) {
            *groups.entry(digest).or_default() += 1;
        }
        let best = groups.iter().max_by_key(|(d, n)| (**n, Some(**d) == lead));
        let winner = *best?.0;
        let reply = self.members.values().find_map(|at| match at {
            At::Answered { digest, reply } if *digest == winner => Some(reply.clone()),
            _ => None,
        })?;
        let others = self.targets.members.iter().filter(|m| digest_of(m) != Some(winner));
        Some((reply, others.copied().collect()))
    }

    fn over(&mut self, outcome: TxnCommand<R>) -> Vec<TxnCommand<R>> {
        self.phase = Phase::Over;
        let first = (!self.answered).then_some(outcome);
        self.answered = true;
        first.into_iter().chain([TxnCommand::Settled]).collect()
    }
}

#[cfg(test)]
#[path = "../txn_test.rs"]
mod tests;
