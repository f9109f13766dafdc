//! The client's side of one read: one member is asked, others when it cannot answer.
//!
//! Under a lease any in-sync member may answer, in the caller's order of preference (local
//! first, then the fewer outstanding bytes); without one only the lead.

use proto::{BrickId, Epoch, Refusal};

use super::{Targets, TxnError};
use crate::time::{RETRY_AFTER, Tick};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReadCommand {
    Send { to: BrickId },
    FetchMap { at_least: Epoch },
    Hello { to: BrickId },
    Fail(TxnError),
}

#[derive(Clone, Debug)]
pub struct ReadTxn {
    targets: Targets,
    leased: bool,
    order: Vec<BrickId>,
    next: usize,
    asked: Option<BrickId>,
    retry_at: Option<Tick>,
    deadline: Tick,
    failed: bool,
}

impl ReadTxn {
    /// `order`: in-sync members as preferred; ignored without a lease. A member known to be
    /// stale for the inode is left out by the caller.
    pub fn start(
        targets: Targets,
        leased: bool,
        order: Vec<BrickId>,
        deadline: Tick,
    ) -> (Self, Vec<ReadCommand>) {
        let mut read = Self {
            targets,
            leased,
            order: Vec::new(),
            next: 0,
            asked: None,
            retry_at: None,
            deadline,
            failed: false,
        };
        read.set_order(order);
        let first = read.ask_next();
        (read, first)
    }

    pub fn epoch(&self) -> Epoch {
        self.targets.epoch
    }

    /// Whether an answer from this member in this epoch is the one awaited.
    pub fn accepts(&self, from: BrickId, epoch: Epoch) -> bool {
        !self.failed && self.asked == Some(from) && epoch == self.targets.epoch
    }

    fn set_order(&mut self, preferred: Vec<BrickId>) {
        let lead = self.targets.lead.0;
        self.order = match self.leased {
            true => preferred.into_iter().filter(|b| self.targets.members.contains(b)).collect(),
            false => vec![lead],
        };
        if !self.order.contains(&lead) {
            self.order.push(lead);
        }
        self.next = 0;
    }

    fn ask_next(&mut self) -> Vec<ReadCommand> {
        self.retry_at = None;
        self.asked = self.order.get(self.next).copied();
        self.next += 1;
        self.asked.map(|to| ReadCommand::Send { to }).into_iter().collect()
    }

    /// The member asked did not answer the read itself.
    pub fn on_refused(&mut self, now: Tick, from: BrickId, refusal: Refusal) -> Vec<ReadCommand> {
        if self.asked != Some(from) || self.failed {
            return Vec::new();
        }
        let mut commands = Vec::new();
        match refusal {
            Refusal::Epoch { current } if Epoch(current) > self.targets.epoch => {
                self.wait(now);
                return vec![ReadCommand::FetchMap { at_least: Epoch(current) }];
            }
            Refusal::UnknownSession => commands.push(ReadCommand::Hello { to: from }),
            _ => {}
        }
        commands.extend(self.elsewhere(now));
        commands
    }

    /// The connection to the member asked ended.
    pub fn on_lost(&mut self, now: Tick, from: BrickId) -> Vec<ReadCommand> {
        if self.asked == Some(from) && !self.failed { self.elsewhere(now) } else { Vec::new() }
    }

    /// The next in the order, or all of them again after a pause.
    fn elsewhere(&mut self, now: Tick) -> Vec<ReadCommand> {
        if self.next < self.order.len() {
            return self.ask_next();
        }
        self.wait(now);
        Vec::new()
    }

    fn wait(&mut self, now: Tick) {
        self.asked = None;
        self.next = 0;
        self.retry_at = Some(now.after(RETRY_AFTER));
    }

    /// A newer map; `leased`: whether the lease is valid in it.
    pub fn on_map(
        &mut self,
        targets: Targets,
        leased: bool,
        order: Vec<BrickId>,
    ) -> Vec<ReadCommand> {
        if targets.epoch <= self.targets.epoch || self.failed {
            return Vec::new();
        }
        self.targets = targets;
        self.leased = leased;
        self.set_order(order);
        self.ask_next()
    }

    pub fn on_tick(&mut self, now: Tick) -> Vec<ReadCommand> {
        if self.failed {
            return Vec::new();
        }
        if now >= self.deadline {
            self.failed = true;
            return vec![ReadCommand::Fail(TxnError::TimedOut)];
        }
        if self.retry_at.is_some_and(|at| at <= now) { self.ask_next() } else { Vec::new() }
    }

    pub fn next_wake(&self) -> Option<Tick> {
        (!self.failed).then(|| self.retry_at.map_or(self.deadline, |at| at.min(self.deadline)))
    }
}
