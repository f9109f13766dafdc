//! Finishing a change over several sets whose client ended, at the lead of its inode's slot.
//!
//! Asked by the lead of any set that finds a step of it unsettled, and by that lead itself for
//! the intents that it finds on its members when it begins.
//!
//! Promises: nothing is done before all its exclusive leases are held here (trap 61), so that a
//! living holder has finished first, and a late frame of a dead one is refused by its number;
//! what was finished meanwhile is left alone.

use std::collections::VecDeque;

use proto::SlotId;

use super::multi::{Action, Intent, Multi, MultiCommand, StepAnswer};
use super::{ChangeId, Name};
use crate::lease::LeaseKey;
use crate::plant::{Plant, planted};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SettlerCommand {
    /// An exclusive lease, as anybody asks for one, from the lead of that slot; then `on_leased`.
    /// One that is held and not in use yet is given back when it is recalled, and asked for again.
    TakeLease { key: LeaseKey, slot: SlotId },
    /// Is the intent still there, and not ended? Then `on_intent`.
    ReadIntent,
    /// A step or its bookkeeping.
    Multi(MultiCommand),
    /// All leases are given back. The askers are told that it is settled.
    Settled,
}

#[derive(Clone, Debug)]
enum Phase {
    Leasing(VecDeque<(LeaseKey, SlotId)>),
    Reading,
    Running(Box<Multi>),
    Over,
}

/// One change that is settled.
#[derive(Clone, Debug)]
pub struct Settler {
    intent: Intent,
    phase: Phase,
    settled: bool,
}

impl Settler {
    pub fn start(intent: Intent) -> (Self, Vec<SettlerCommand>) {
        let keys = if planted(Plant::SettleUnleased) { Vec::new() } else { leases(&intent) };
        let phase = Phase::Leasing(keys.into());
        let mut settler = Self { intent, phase, settled: false };
        let commands = settler.next_lease();
        (settler, commands)
    }

    pub fn id(&self) -> ChangeId {
        self.intent.id
    }

    /// The first of the missing leases is held.
    pub fn on_leased(&mut self) -> Vec<SettlerCommand> {
        let Phase::Leasing(left) = &mut self.phase else { return Vec::new() };
        left.pop_front();
        self.next_lease()
    }

    /// What the inode's meta says now.
    pub fn on_intent(&mut self, there: bool) -> Vec<SettlerCommand> {
        if !matches!(self.phase, Phase::Reading) {
            return Vec::new();
        }
        if !there {
            self.phase = Phase::Over;
            return self.settled();
        }
        let (multi, commands) = Multi::start(self.intent.clone());
        self.phase = Phase::Running(Box::new(multi));
        self.pass_on(commands)
    }

    /// A step's answer; see [`Multi`].
    pub fn on_answer(&mut self, number: usize, answer: StepAnswer) -> Vec<SettlerCommand> {
        self.run(|multi| multi.on_answer(number, answer))
    }

    pub fn on_cleared(&mut self, number: usize) -> Vec<SettlerCommand> {
        self.run(|multi| multi.on_cleared(number))
    }

    pub fn on_durable(&mut self, slot: SlotId) -> Vec<SettlerCommand> {
        self.run(|multi| multi.on_durable(slot))
    }

    fn run(&mut self, event: impl FnOnce(&mut Multi) -> Vec<MultiCommand>) -> Vec<SettlerCommand> {
        let Phase::Running(multi) = &mut self.phase else { return Vec::new() };
        let commands = event(multi);
        self.pass_on(commands)
    }

    fn next_lease(&mut self) -> Vec<SettlerCommand> {
        let Phase::Leasing(left) = &self.phase else { return Vec::new() };
        match left.front() {
            Some((key, slot)) => vec![SettlerCommand::TakeLease { key: *key, slot: *slot }],
            None => {
                self.phase = Phase::Reading;
                vec![SettlerCommand::ReadIntent]
            }
        }
    }

    fn pass_on(&mut self, commands: Vec<MultiCommand>) -> Vec<SettlerCommand> {
        let answered = commands.iter().any(|c| matches!(c, MultiCommand::Answer(_)));
        let mut out: Vec<_> = commands.into_iter().map(SettlerCommand::Multi).collect();
        if answered {
            out.extend(self.settled());
        }
        out
    }

    fn settled(&mut self) -> Vec<SettlerCommand> {
        if std::mem::replace(&mut self.settled, true) {
            return Vec::new();
        }
        vec![SettlerCommand::Settled]
    }
}

/// The exclusive leases of a change, in the order in which everybody takes several: by gfid,
/// the inode before its part, then by slot.
pub fn leases(intent: &Intent) -> Vec<(LeaseKey, SlotId)> {
    let part = |name: &Name| (LeaseKey::Part(name.dir), name.slot);
    let inode = |gfid| (LeaseKey::Inode(gfid), gfid.slot());
    let mut keys = vec![inode(intent.inode)];
    match &intent.action {
        Action::Move { from, to, replaced } => {
            keys.extend([part(from), part(to)]);
            keys.extend(replaced.map(|r| inode(r.gfid)));
        }
        Action::Exchange { from, to, other, .. } => {
            keys.extend([part(from), part(to), inode(*other)]);
        }
        Action::Link { to: name } | Action::Unlink { from: name } => keys.push(part(name)),
    }
    keys.sort_unstable_by_key(|(key, slot)| (key.gfid(), *key, *slot));
    keys.dedup();
    keys
}
