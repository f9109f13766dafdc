//! A change over several sets: intent, counts up, names, counts down.
//!
//! Run by the client under all its leases, and by the inode's lead when the client ended
//! (`settler`). Both run the same steps; each is repeatable by state (a name by the inode that it
//! is expected to name, a count by the id in the inode's record), so whoever comes later begins
//! at the beginning.
//!
//! Promises: at no moment has an inode more names than its count says (trap 33); undone only
//! while no name has changed, else finished; the intent is forgotten only when every set that
//! executed a step has made it durable.
//!
//! Deliberately does not: take leases, send again after `Moved` or a new epoch, check for loops.

use std::collections::BTreeSet;

use proto::{Errno, Gfid, SlotId};

use super::{ChangeId, Name};
use crate::plant::{Plant, planted};

/// What is changed. An inode with several names keeps the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    Move {
        from: Name,
        to: Name,
        replaced: Option<Replaced>,
    },
    /// The inode, at `from`, and the `other` one, at `to`, change places.
    Exchange {
        from: Name,
        to: Name,
        other: Gfid,
        other_dir: bool,
    },
    Link {
        to: Name,
    },
    Unlink {
        from: Name,
    },
}

/// What the new name named before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replaced {
    pub gfid: Gfid,
    /// A directory: must be empty, is sealed first.
    pub dir: bool,
}

/// The note in the inode's meta.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Intent {
    pub id: ChangeId,
    pub inode: Gfid,
    /// A directory has no link count.
    pub dir: bool,
    pub action: Action,
}

/// One step, for the set of its slot. All of them are answered "done" when they are done already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// The inode bears the id, its intent is stored, its count goes up if `count`: in one record.
    /// Answered when on stable storage.
    Begin {
        count: bool,
        intent: bool,
    },
    /// Another inode bears the id; its count goes up if `count`. On stable storage when answered.
    /// From here on none of the inodes bears the id of an earlier change, which might be finished
    /// again.
    Mark {
        inode: Gfid,
        count: bool,
    },
    /// The directory takes no new names, on stable storage; refused with ENOTEMPTY if it has any.
    /// Done, if there is no such directory.
    Seal {
        dir: Gfid,
    },
    Unseal {
        dir: Gfid,
    },
    /// The name names `inode`; refused if it names another one than that, or `expect`. (If it
    /// names nothing, what was expected there was lost with the power: put all the same.)
    Put {
        at: Name,
        inode: Gfid,
        expect: Option<Gfid>,
    },
    /// The name goes, if it names `inode`.
    Drop {
        at: Name,
        inode: Gfid,
    },
    /// Count down, if it bears the id and did not do so under it already; without names and pins
    /// it goes.
    CountDown {
        inode: Gfid,
    },
    /// The sealed directory goes.
    Remove {
        dir: Gfid,
    },
    /// The inode's count down if `count`, unless it is noted as ended; it is noted as ended. With
    /// count 0 it goes at `Clear`, for its intent is needed until then.
    End {
        count: bool,
    },
    /// Undone: count down if `count`, unless it is noted as ended; and no intent.
    Revert {
        count: bool,
    },
    /// The inode bears the id no more, and has no intent; on stable storage.
    Clear {
        inode: Gfid,
    },
}

/// What a set says to a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepAnswer {
    /// Now, or earlier.
    Done,
    Refused(Errno),
    /// `Put` found this inode under the name.
    Occupied(Gfid),
    /// `Begin` or `Mark` found that the inode bears the id of an earlier change.
    Uncleared(ChangeId),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MultiCommand {
    /// Then `on_answer`.
    Run { number: usize, slot: SlotId, step: Step },
    /// The inode still bears the id of an earlier change: its lead finishes that (if power was
    /// lost meanwhile), has its sets synced and clears it; then `on_cleared`.
    ClearFirst { number: usize, inode: Gfid, earlier: ChangeId },
    /// A name names another inode than expected: the lead of that one finishes whatever change it
    /// bears (power was lost, and a name came back that such a change had taken away); then
    /// `on_cleared`.
    FinishFirst { number: usize, inode: Gfid },
    /// The outcome, for the application. Leases may be returned.
    Answer(Result<(), Errno>),
    /// Tell each checkpoint of these slots' sets that began after now (`on_durable`).
    AwaitDurable { slots: BTreeSet<SlotId> },
    /// Nothing of it is left.
    Gone,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Running,
    /// Back, because of this.
    Undoing(Errno),
    /// Answered; until everything is durable.
    Ending,
    Clearing,
    Gone,
}

/// One change over several sets at whoever runs it.
#[derive(Clone, Debug)]
pub struct Multi {
    intent: Intent,
    /// Steps of a wave are sent together; the next wave when all are done.
    waves: Vec<Vec<Step>>,
    wave: usize,
    /// Number of the wave's first step; numbers are never used twice.
    first: usize,
    open: BTreeSet<usize>,
    phase: Phase,
    /// Names have changed: no way back.
    committed: bool,
    /// Inodes that stood in the way, and were finished.
    asked: BTreeSet<Gfid>,
    waits: BTreeSet<SlotId>,
}

impl Multi {
    /// A new change, by the holder of all its leases.
    pub fn start(intent: Intent) -> (Self, Vec<MultiCommand>) {
        let waves = waves(&intent);
        let mut multi = Self {
            intent,
            waves,
            wave: 0,
            first: 0,
            open: BTreeSet::new(),
            phase: Phase::Running,
            committed: false,
            asked: BTreeSet::new(),
            waits: BTreeSet::new(),
        };
        let commands = multi.send();
        (multi, commands)
    }

    pub fn intent(&self) -> &Intent {
        &self.intent
    }

    pub fn on_answer(&mut self, number: usize, answer: StepAnswer) -> Vec<MultiCommand> {
        if !self.open.contains(&number) {
            return Vec::new();
        }
        match answer {
            StepAnswer::Done => self.done(number),
            // What the name was is not known any more (power was lost): the inode stays, nameless.
            _ if matches!(self.phase, Phase::Undoing(_)) => self.done(number),
            StepAnswer::Refused(errno) => self.refused(number, errno),
            StepAnswer::Occupied(inode) if self.asked.insert(inode) => {
                vec![MultiCommand::FinishFirst { number, inode }]
            }
            StepAnswer::Occupied(_) => self.refused(number, Errno::EEXIST),
            StepAnswer::Uncleared(earlier) => {
                let inode = match self.step(number) {
                    Some(Step::Mark { inode, .. }) => *inode,
                    _ => self.intent.inode,
                };
                vec![MultiCommand::ClearFirst { number, inode, earlier }]
            }
        }
    }

    fn done(&mut self, number: usize) -> Vec<MultiCommand> {
        if let Some(Step::Put { .. } | Step::Drop { .. }) = self.step(number) {
            self.committed = true;
        }
        self.open.remove(&number);
        if !self.open.is_empty() {
            return Vec::new();
        }
        self.wave += 1;
        self.send()
    }

    /// A step found what it must not. Once a name has changed that cannot be (the leases are
    /// held): the step is tried again, and the driver says so.
    fn refused(&mut self, number: usize, errno: Errno) -> Vec<MultiCommand> {
        if self.committed {
            return self.run(number).into_iter().collect();
        }
        // What else of this wave is under way is taken back in the same order as it was sent.
        self.phase = Phase::Undoing(errno);
        self.waves = undo(&self.intent);
        self.wave = 0;
        self.open.clear();
        self.send()
    }

    /// What `ClearFirst` or `FinishFirst` asked for is done: the step once more.
    pub fn on_cleared(&mut self, number: usize) -> Vec<MultiCommand> {
        if self.open.contains(&number) {
            self.run(number).into_iter().collect()
        } else {
            Vec::new()
        }
    }

    /// The set of a slot has made a checkpoint that began after `AwaitDurable`, or was synced.
    pub fn on_durable(&mut self, slot: SlotId) -> Vec<MultiCommand> {
        if self.phase != Phase::Ending || !self.waits.remove(&slot) || !self.waits.is_empty() {
            return Vec::new();
        }
        self.phase = Phase::Clearing;
        let clear = |inode| Step::Clear { inode };
        // The intent first: were it found again after the next change of the other inode has
        // begun, that would be undone by finishing this one.
        let other: Vec<Step> = other(&self.intent).into_iter().map(clear).collect();
        self.waves = vec![vec![clear(self.intent.inode)], other];
        self.wave = 0;
        self.send()
    }

    fn step(&self, number: usize) -> Option<&Step> {
        self.waves.get(self.wave)?.get(number.checked_sub(self.first)?)
    }

    fn run(&self, number: usize) -> Option<MultiCommand> {
        let step = self.step(number)?.clone();
        Some(MultiCommand::Run { number, slot: slot_of(&self.intent, &step), step })
    }

    fn send(&mut self) -> Vec<MultiCommand> {
        self.first += STEPS_MAX;
        while self.waves.get(self.wave).is_some_and(Vec::is_empty) {
            self.wave += 1;
        }
        let Some(wave) = self.waves.get(self.wave) else { return self.after_last() };
        self.open = (0..wave.len()).map(|n| self.first + n).collect();
        self.open.clone().into_iter().filter_map(|number| self.run(number)).collect()
    }

    fn after_last(&mut self) -> Vec<MultiCommand> {
        match self.phase {
            Phase::Running => {
                self.phase = Phase::Ending;
                let steps = waves(&self.intent).into_iter().flatten();
                self.waits = steps.map(|step| slot_of(&self.intent, &step)).collect();
                let slots = self.waits.clone();
                vec![MultiCommand::Answer(Ok(())), MultiCommand::AwaitDurable { slots }]
            }
            Phase::Undoing(errno) => {
                self.phase = Phase::Gone;
                vec![MultiCommand::Answer(Err(errno)), MultiCommand::Gone]
            }
            Phase::Clearing => {
                self.phase = Phase::Gone;
                vec![MultiCommand::Gone]
            }
            Phase::Ending | Phase::Gone => Vec::new(),
        }
    }
}

/// More than any wave has.
const STEPS_MAX: usize = 8;

/// The slot that executes a step.
pub fn slot_of(intent: &Intent, step: &Step) -> SlotId {
    match step {
        Step::Begin { .. } | Step::End { .. } | Step::Revert { .. } => intent.inode.slot(),
        Step::Put { at, .. } | Step::Drop { at, .. } => at.slot,
        Step::Mark { inode, .. } | Step::CountDown { inode } | Step::Clear { inode } => {
            inode.slot()
        }
        Step::Seal { dir } | Step::Unseal { dir } | Step::Remove { dir } => dir.slot(),
    }
}

/// The other inode of which a count changes.
fn other(intent: &Intent) -> Option<Gfid> {
    match &intent.action {
        Action::Move { replaced: Some(r), .. } if !r.dir => Some(r.gfid),
        Action::Exchange { other, other_dir: false, .. } => Some(*other),
        _ => None,
    }
}

/// The steps, forward.
fn waves(intent: &Intent) -> Vec<Vec<Step>> {
    let inode = intent.inode;
    let file = !intent.dir;
    let begin = |count| Step::Begin { count: count && file, intent: !planted(Plant::NoIntent) };
    let mark = |count| other(intent).map(|inode| Step::Mark { inode, count }).into_iter();
    let put = |at: &Name, inode, expect| vec![Step::Put { at: at.clone(), inode, expect }];
    let drop = |at: &Name| vec![Step::Drop { at: at.clone(), inode }];
    let end = Step::End { count: file };
    let waves = match &intent.action {
        Action::Move { from, to, replaced } => {
            let (mut seal, mut last) = (Vec::new(), Vec::new());
            match replaced {
                Some(r) if r.dir => {
                    seal.push(Step::Seal { dir: r.gfid });
                    last.push(Step::Remove { dir: r.gfid });
                }
                Some(r) => last.push(Step::CountDown { inode: r.gfid }),
                None => {}
            }
            let expect = replaced.map(|r| r.gfid);
            // A mark without an intent is no harm: who finds it asks, and clears it.
            let first = std::iter::once(begin(true)).chain(mark(false)).collect();
            vec![first, seal, put(to, inode, expect), drop(from), last, vec![end]]
        }
        Action::Exchange { from, to, other, other_dir } => {
            let other_file = |step| if *other_dir { vec![] } else { vec![step] };
            vec![
                vec![begin(true)],
                // Not before the intent is there: nothing else would take the count back.
                mark(true).collect(),
                put(to, inode, Some(*other)),
                put(from, *other, Some(inode)),
                other_file(Step::CountDown { inode: *other }),
                vec![end],
            ]
        }
        Action::Link { to } => {
            vec![vec![begin(true)], put(to, inode, None), vec![Step::End { count: false }]]
        }
        Action::Unlink { from } => vec![vec![begin(false)], drop(from), vec![end]],
    };
    if planted(Plant::NamesBeforeCounts) {
        // The old name goes before the new one is there; counts follow.
        let names =
            |w: &Vec<Step>| w.iter().any(|s| matches!(s, Step::Put { .. } | Step::Drop { .. }));
        let (mut first, last): (Vec<_>, Vec<_>) = waves.into_iter().partition(names);
        first.reverse();
        first.extend(last);
        return first;
    }
    waves
}

/// The steps back, when the first name was refused. An earlier run may have got further before
/// power was lost, so that the old name is put again, too.
fn undo(intent: &Intent) -> Vec<Vec<Step>> {
    let inode = intent.inode;
    let back = |at: &Name, expect| vec![Step::Put { at: at.clone(), inode, expect }];
    let count = !intent.dir && !matches!(intent.action, Action::Unlink { .. });
    let mut waves = Vec::new();
    match &intent.action {
        Action::Move { from, replaced, .. } => {
            let unseal = replaced.filter(|r| r.dir).map(|r| Step::Unseal { dir: r.gfid });
            waves.extend([unseal.into_iter().collect(), back(from, None)]);
        }
        Action::Exchange { from, other, other_dir, .. } => {
            waves.push(back(from, Some(*other)));
            if !other_dir {
                waves.push(vec![Step::CountDown { inode: *other }]);
            }
        }
        Action::Link { .. } | Action::Unlink { .. } => {}
    }
    waves.push(other(intent).map(|inode| Step::Clear { inode }).into_iter().collect());
    waves.push(vec![Step::Revert { count }]);
    waves
}

#[cfg(test)]
#[path = "multi_test.rs"]
mod tests;
