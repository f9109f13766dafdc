//! The joiner's way from "syncing" to "in-sync".
//!
//! Rounds: ask the lead what changed, copy it, ask again; what changed meanwhile is the next
//! round. When what is left would take a moment only: a checkpoint (so that a power loss of
//! the others finds the healed data on disk, trap 32), one more round, then the final pause.
//! In the pause the lead queues changes; the rest and the hand-over come, are synced, every
//! in-sync member agrees, and `Join` is proposed.
//!
//! Assumes: the driver copies with the one copier, takes over the lead's log before `on_rest`,
//! and gives each attempt after a withdrawal a new incarnation.
//!
//! Promises: Join is proposed only after the rest is on stable storage and all members of the
//! pause's epoch agreed; a pause over 0.5 s ends by the joiner's word, once members were asked to
//! agree by "never serves" (trap 53); a new epoch before the commit leads back to rounds, never
//! to a guess.
//!
//! Deliberately does not: copy, or know what is copied; it counts inodes and bytes.

use std::collections::BTreeSet;

use proto::map::{MemberState, SetMap};
use proto::{BrickId, Epoch, Incarnation};

use super::log::Interval;
use crate::plant::{Plant, planted};
use crate::time::{JOIN_PAUSE, MS, Nanos, Tick};

/// A round expected to take no longer may be the one inside the pause: well below its bound,
/// since the hand-over and the agreements need time too.
const LAST_ROUND: Nanos = 150 * MS;
/// A round that takes this share of the one before (or more) does not converge.
const NOT_CONVERGING_PERCENT: u64 = 70;
/// Rounds that may fail to converge before writers are slowed.
const PATIENCE: u32 = 2;
/// A Join that has not shown in the map yet is proposed again: the pool's leader may be gone.
const PROPOSE_AGAIN: Nanos = 150 * MS;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JoinCommand {
    /// Ask the lead for what changed since; `None`: compare everything. Answer: `on_list`.
    AskChanges {
        since: Option<Interval>,
    },
    /// Copy the list just got, with own late entries (since the last checkpoint of the lead
    /// before it lost its memory, if that is earlier than this brick's own base), pinned orphans and stale marks added
    /// (traps 11, 30), without what this brick keeps its own copy of (`Member::keeps`).
    /// Answer: `on_copied`.
    CopyList,
    /// `syncfs` and log sync: before the pause, to keep that short, and in it, of the rest.
    /// Answer: `on_checkpoint`.
    Checkpoint,
    /// Ask the lead to delay each change of its clients this much (0 ends it): rounds do not
    /// converge (trap 31).
    SlowWriters {
        delay: Nanos,
    },
    /// Promise the members to stay in this epoch (`Promises::offer_join`), and ask the lead
    /// to pause. Answer: `on_paused` with the last list.
    Pause {
        epoch: Epoch,
    },
    /// Copy the last list, take over log and hand-over. Answer: `on_rest`.
    CopyRest,
    /// Ask every in-sync member to agree (`Promises::agree_join`). Answers: `on_agreed`.
    AskAgreement {
        of: Vec<BrickId>,
        epoch: Epoch,
    },
    ProposeJoin {
        epoch: Epoch,
        incarnation: Incarnation,
    },
    /// Tell the lead to let its changes go: nobody was asked to agree in this pause.
    EndPause {
        epoch: Epoch,
    },
    /// Say "this incarnation never serves" (`Promises::never_serve`), then start anew under a
    /// new incarnation after a while: the attempt took too long.
    NeverServe,
    /// The map names it as in-sync.
    Joined,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Phase {
    Listing,
    Copying {
        since: Tick,
    },
    Checkpointing,
    Pausing {
        since: Tick,
    },
    Rest {
        since: Tick,
    },
    Syncing {
        since: Tick,
    },
    Agreeing {
        since: Tick,
        awaiting: BTreeSet<BrickId>,
    },
    Proposed {
        since: Tick,
        again: Option<Tick>,
    },
    /// The lead refused the pause: another round when some time has passed.
    Refused,
    /// It said "never serves".
    Withdrawn,
    Joined,
}

/// One attempt of one incarnation.
#[derive(Clone, Debug)]
pub struct Joiner {
    brick: BrickId,
    incarnation: Incarnation,
    map: SetMap,
    phase: Phase,
    /// From when on the first list of each lead is asked.
    base: Option<Interval>,
    since: Option<Interval>,
    /// The interval open at the lead when the present list was made.
    listed_at: Interval,
    left: Left,
    rate: Option<u64>,
    last_round: Option<Nanos>,
    slow_rounds: u32,
    delay: Nanos,
    checkpointed: bool,
}

/// How much a list asks to copy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Left {
    pub inodes: u64,
    pub bytes: u64,
}

impl Left {
    /// One inode costs about as much as this many bytes.
    const INODE_BYTES: u64 = 16 << 10;

    fn weight(self) -> u64 {
        self.bytes.saturating_add(self.inodes.saturating_mul(Self::INODE_BYTES))
    }
}

impl Joiner {
    /// `last_durable`: the last interval that this brick has on disk, `None` for a new brick.
    pub fn start(
        brick: BrickId,
        incarnation: Incarnation,
        map: &SetMap,
        last_durable: Option<Interval>,
    ) -> (Self, Vec<JoinCommand>) {
        let joiner = Self {
            brick,
            incarnation,
            map: map.clone(),
            phase: Phase::Listing,
            base: last_durable,
            since: last_durable,
            listed_at: Interval(0),
            left: Left::default(),
            rate: None,
            last_round: None,
            slow_rounds: 0,
            delay: 0,
            checkpointed: false,
        };
        let ask = joiner.ask();
        (joiner, vec![ask])
    }

    fn ask(&self) -> JoinCommand {
        JoinCommand::AskChanges { since: self.since }
    }

    /// The lead's list. `current`: the interval open at the lead when it made it.
    pub fn on_list(&mut self, now: Tick, left: Left, current: Interval) -> Vec<JoinCommand> {
        if self.phase != Phase::Listing {
            return Vec::new();
        }
        self.left = left;
        self.listed_at = current;
        let expected = self.expected(left);
        let converging = self
            .last_round
            .is_none_or(|last| expected.is_some_and(|e| e <= last / 100 * NOT_CONVERGING_PERCENT));
        self.slow_rounds = if converging { 0 } else { self.slow_rounds + 1 };
        let little = left == Left::default() || expected.is_some_and(|e| e <= LAST_ROUND);
        if little && (self.checkpointed || planted(Plant::NoJoinerCheckpoint)) {
            return self.pause(now);
        }
        let mut commands = self.slow_writers(little);
        self.phase = Phase::Copying { since: now };
        commands.push(JoinCommand::CopyList);
        commands
    }

    /// How long this will take at the rate measured; `None` before the first round.
    fn expected(&self, left: Left) -> Option<Nanos> {
        let rate = self.rate?.max(1);
        Some(left.weight().saturating_mul(1000) / rate * MS)
    }

    /// Rounds that do not converge slow the writers, more and more, until they do.
    fn slow_writers(&mut self, little: bool) -> Vec<JoinCommand> {
        if little || self.slow_rounds < PATIENCE {
            return Vec::new();
        }
        self.slow_rounds = 0;
        self.delay = (self.delay * 2).clamp(MS, 64 * MS);
        vec![JoinCommand::SlowWriters { delay: self.delay }]
    }

    /// The round's list is copied.
    pub fn on_copied(&mut self, now: Tick) -> Vec<JoinCommand> {
        let Phase::Copying { since } = self.phase else { return Vec::new() };
        let took = now.since(since).max(MS);
        self.rate = Some((self.left.weight() / (took / MS)).saturating_mul(1000).max(1));
        self.last_round = Some(took);
        self.since = Some(self.listed_at);
        if took <= LAST_ROUND && !self.checkpointed && !planted(Plant::NoJoinerCheckpoint) {
            self.phase = Phase::Checkpointing;
            return vec![JoinCommand::Checkpoint];
        }
        self.phase = Phase::Listing;
        vec![self.ask()]
    }

    pub fn on_checkpoint(&mut self) -> Vec<JoinCommand> {
        match self.phase {
            Phase::Checkpointing => {
                self.checkpointed = true;
                self.rounds()
            }
            Phase::Syncing { since } => self.ask_agreement(since),
            _ => Vec::new(),
        }
    }

    fn pause(&mut self, now: Tick) -> Vec<JoinCommand> {
        self.phase = Phase::Pausing { since: now };
        vec![JoinCommand::Pause { epoch: self.map.epoch }]
    }

    /// The lead holds changes back and nothing is being executed there; its last list is here.
    pub fn on_paused(&mut self) -> Vec<JoinCommand> {
        let Phase::Pausing { since } = self.phase else { return Vec::new() };
        self.phase = Phase::Rest { since };
        vec![JoinCommand::CopyRest]
    }

    /// The lead refused or lost the pause before anybody agreed: another round.
    pub fn on_pause_refused(&mut self) -> Vec<JoinCommand> {
        match self.phase {
            Phase::Pausing { .. } | Phase::Rest { .. } | Phase::Syncing { .. } => {
                // Not at once: it would ask again and again for what the lead is busy with.
                self.phase = Phase::Refused;
                Vec::new()
            }
            _ => Vec::new(),
        }
    }

    /// The rest and the hand-over are here.
    pub fn on_rest(&mut self) -> Vec<JoinCommand> {
        let Phase::Rest { since } = self.phase else { return Vec::new() };
        if planted(Plant::NoJoinerCheckpoint) {
            return self.ask_agreement(since);
        }
        self.phase = Phase::Syncing { since };
        vec![JoinCommand::Checkpoint]
    }

    fn ask_agreement(&mut self, since: Tick) -> Vec<JoinCommand> {
        let of: Vec<BrickId> = self.map.in_sync().map(|m| m.brick).collect();
        self.phase = Phase::Agreeing { since, awaiting: of.iter().copied().collect() };
        vec![JoinCommand::AskAgreement { of, epoch: self.map.epoch }]
    }

    /// A member agreed: from now on it needs this brick's promise.
    pub fn on_agreed(&mut self, member: BrickId) -> Vec<JoinCommand> {
        let Phase::Agreeing { since, awaiting } = &mut self.phase else { return Vec::new() };
        awaiting.remove(&member);
        if !awaiting.is_empty() {
            return Vec::new();
        }
        self.phase = Phase::Proposed { since: *since, again: None };
        vec![self.propose()]
    }

    fn propose(&self) -> JoinCommand {
        JoinCommand::ProposeJoin { epoch: self.map.epoch, incarnation: self.incarnation }
    }

    /// A member refused to agree. Others may have agreed: only "never serves" ends that.
    pub fn on_disagreed(&mut self) -> Vec<JoinCommand> {
        match self.phase {
            Phase::Agreeing { .. } | Phase::Proposed { .. } => self.withdraw(),
            _ => Vec::new(),
        }
    }

    /// A committed map. In another epoch whatever was agreed is void: it is joined, or it goes
    /// back to rounds. Nothing is taken over from a former lead's pause.
    pub fn on_map(&mut self, map: &SetMap) -> Vec<JoinCommand> {
        if map.epoch <= self.map.epoch || matches!(self.phase, Phase::Withdrawn | Phase::Joined) {
            return Vec::new();
        }
        let lead_changed = lead_of(map) != lead_of(&self.map);
        self.map = map.clone();
        let me = map.member(self.brick);
        let joined =
            me.is_some_and(|m| m.state == MemberState::InSync && m.incarnation == self.incarnation);
        if joined {
            self.phase = Phase::Joined;
            return vec![JoinCommand::Joined];
        }
        if lead_changed {
            // Another lead, or the same brick after a restart, which may have lost what was
            // copied from it: its log is asked from the beginning, and all that was copied
            // is compared again (this brick's own log names it).
            self.since = self.base;
            (self.rate, self.last_round, self.checkpointed) = (None, None, false);
            return self.rounds();
        }
        match self.phase {
            // The copy under way goes on.
            Phase::Copying { .. } | Phase::Checkpointing => Vec::new(),
            _ => self.rounds(),
        }
    }

    fn rounds(&mut self) -> Vec<JoinCommand> {
        self.phase = Phase::Listing;
        vec![self.ask()]
    }

    fn withdraw(&mut self) -> Vec<JoinCommand> {
        self.phase = Phase::Withdrawn;
        vec![JoinCommand::NeverServe]
    }

    /// Time passes: a pause over its bound is withdrawn. Before anybody was asked to agree its
    /// word to the lead is enough; afterwards only this incarnation's end is.
    pub fn on_tick(&mut self, now: Tick) -> Vec<JoinCommand> {
        let late = |since: Tick| now.since(since) >= JOIN_PAUSE;
        match self.phase {
            Phase::Pausing { since } | Phase::Rest { since } | Phase::Syncing { since }
                if late(since) =>
            {
                let mut commands = vec![JoinCommand::EndPause { epoch: self.map.epoch }];
                commands.extend(self.rounds());
                commands
            }
            Phase::Agreeing { since, .. } | Phase::Proposed { since, .. } if late(since) => {
                self.withdraw()
            }
            // Only here, where all members of this epoch agreed: never by the driver's memory
            // of an earlier proposal.
            Phase::Proposed { since, again } => {
                let due = again.is_some_and(|at| now >= at);
                if due || again.is_none() {
                    self.phase = Phase::Proposed { since, again: Some(now.after(PROPOSE_AGAIN)) };
                }
                if due { vec![self.propose()] } else { Vec::new() }
            }
            Phase::Refused => self.rounds(),
            _ => Vec::new(),
        }
    }

    /// What is left by the last list, for `heal info`.
    pub fn left(&self) -> Left {
        self.left
    }

    /// Milliseconds to the end by the rate measured, for `heal info`.
    pub fn eta_ms(&self) -> Option<u64> {
        self.expected(self.left).map(|ns| ns / MS)
    }
}

/// The owner of one change log and one memory.
fn lead_of(map: &SetMap) -> Option<(BrickId, Incarnation)> {
    map.member(map.lead?).map(|m| (m.brick, m.incarnation))
}
