//! Sets as changes over several sets see them, for tests: they execute steps as the store must,
//! and lose what is not on disk.

use std::collections::{BTreeMap, BTreeSet};

use proto::{Errno, Gfid, SessionId, SlotId};

use super::multi::{Action, Intent, Multi, MultiCommand, Replaced, Step, StepAnswer, slot_of};
use super::{ChangeId, Name};

/// What is on one set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    pub names: BTreeMap<(Gfid, Vec<u8>), Gfid>,
    pub inodes: BTreeMap<Gfid, Inode>,
    pub sealed: BTreeSet<Gfid>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inode {
    pub count: i64,
    /// The change that it bears, and whether it counted down under it.
    pub id: Option<(ChangeId, bool)>,
    pub intent: Option<Intent>,
}

/// A set, and what it was since its last sync.
#[derive(Clone, Debug, Default)]
pub struct Set {
    pub now: State,
    unsynced: Vec<State>,
}

impl Set {
    pub fn change(&mut self, change: impl FnOnce(&mut State)) {
        self.unsynced.push(self.now.clone());
        change(&mut self.now);
    }

    pub fn sync(&mut self) {
        self.unsynced.clear();
    }

    /// Power is lost: of what is not synced, only the first `kept` changes are on disk.
    pub fn lose_power(&mut self, kept: usize) {
        if let Some(state) = self.unsynced.get(kept) {
            self.now = state.clone();
        }
        self.unsynced.clear();
    }

    pub fn unsynced(&self) -> usize {
        self.unsynced.len()
    }
}

/// A volume: the set of slot `n` is set `n`.
#[derive(Clone, Debug, Default)]
pub struct World {
    pub sets: BTreeMap<SlotId, Set>,
    /// Ids of earlier changes do not stop later ones.
    pub ignores_ids: bool,
    /// Changes that are being finished, each because of the one before it.
    pub finishing: Vec<ChangeId>,
}

pub const DIR: Gfid = Gfid([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);

pub fn id(number: u64) -> ChangeId {
    ChangeId { session: SessionId(7), number }
}

pub fn inode(slot: u16, n: u8) -> Gfid {
    Gfid::new(SlotId(slot), [n; 14])
}

pub fn name(slot: u16, name: &str) -> Name {
    Name { dir: DIR, slot: SlotId(slot), name: name.as_bytes().to_vec() }
}

pub fn file(number: u64, inode: Gfid, action: Action) -> Intent {
    Intent { id: id(number), inode, dir: false, action }
}

pub fn moves(number: u64, inode: Gfid, from: Name, to: Name, replaced: Option<Gfid>) -> Intent {
    let replaced = replaced.map(|gfid| Replaced { gfid, dir: false });
    file(number, inode, Action::Move { from, to, replaced })
}

fn key(name: &Name) -> (Gfid, Vec<u8>) {
    (name.dir, name.name.clone())
}

impl World {
    pub fn set(&mut self, slot: SlotId) -> &mut Set {
        self.sets.entry(slot).or_default()
    }

    /// A file with one name.
    pub fn create(&mut self, inode: Gfid, at: &Name) {
        self.set(inode.slot()).change(|s| {
            s.inodes.insert(inode, Inode { count: 1, ..Inode::default() });
        });
        self.set(at.slot).change(|s| {
            s.names.insert(key(at), inode);
        });
    }

    pub fn sync(&mut self) {
        self.sets.values_mut().for_each(Set::sync);
    }

    /// All names of all sets.
    pub fn names(&self) -> BTreeMap<String, Gfid> {
        let all = self.sets.values().flat_map(|s| &s.now.names);
        all.map(|((_, n), gfid)| (String::from_utf8_lossy(n).into_owned(), *gfid)).collect()
    }

    pub fn find(&self, gfid: Gfid) -> Option<&Inode> {
        self.sets.get(&gfid.slot())?.now.inodes.get(&gfid)
    }

    pub fn intents(&self) -> Vec<Intent> {
        let inodes = self.sets.values().flat_map(|s| s.now.inodes.values());
        inodes.filter_map(|i| i.intent.clone()).collect()
    }

    /// Every name has its inode, and every inode as many names as it counts.
    pub fn check(&self) -> Result<(), String> {
        let names = self.names();
        for (name, gfid) in &names {
            self.find(*gfid).ok_or_else(|| format!("{name} names {gfid}, which is gone"))?;
        }
        for (gfid, inode) in self.sets.values().flat_map(|s| &s.now.inodes) {
            let has = names.values().filter(|g| *g == gfid).count() as i64;
            if has != inode.count {
                return Err(format!("{gfid} counts {} and has {has} names", inode.count));
            }
        }
        Ok(())
    }

    /// At any moment: no inode has more names than it counts, unless it is gone as counted.
    pub fn never_too_few(&self) -> Result<(), String> {
        for (name, gfid) in &self.names() {
            let has = self.names().values().filter(|g| *g == gfid).count() as i64;
            match self.find(*gfid) {
                Some(inode) if inode.count >= has => {}
                found => return Err(format!("{name}: {found:?} of {gfid} with {has} names")),
            }
        }
        Ok(())
    }

    pub fn execute(&mut self, intent: &Intent, step: &Step) -> StepAnswer {
        let ignores = self.ignores_ids;
        let set = self.set(slot_of(intent, step));
        let mut next = set.now.clone();
        let answer = next.execute(intent, step, ignores);
        if next != set.now {
            set.change(|s| *s = next);
        }
        if matches!(
            step,
            Step::Begin { .. } | Step::Mark { .. } | Step::Seal { .. } | Step::Clear { .. }
        ) {
            set.sync();
        }
        answer
    }

    /// Does what a change says, at most `steps` steps of it; its outcome, if it got so far.
    pub fn run(&mut self, intent: &Intent, steps: usize) -> Option<Result<(), Errno>> {
        let (mut multi, commands) = Multi::start(intent.clone());
        let mut todo: Vec<MultiCommand> = commands;
        let mut outcome = None;
        let mut left = steps;
        let mut tries = 100;
        while !todo.is_empty() {
            match todo.remove(0) {
                MultiCommand::Run { .. } if left == 0 => return outcome,
                MultiCommand::Run { number, step, .. } => {
                    left -= 1;
                    tries -= 1;
                    assert!(tries > 0, "{step:?} is tried for ever");
                    let answer = self.execute(intent, &step);
                    todo.extend(multi.on_answer(number, answer));
                }
                MultiCommand::ClearFirst { number, earlier, .. } => {
                    self.finish(earlier);
                    todo.extend(multi.on_cleared(number));
                }
                MultiCommand::FinishFirst { number, inode } => {
                    if let Some((earlier, _)) = self.find(inode).and_then(|i| i.id) {
                        self.finish(earlier);
                    }
                    todo.extend(multi.on_cleared(number));
                }
                MultiCommand::Answer(answer) => outcome = Some(answer),
                // Nothing is durable by itself here; see `clear`.
                MultiCommand::AwaitDurable { .. } | MultiCommand::Gone => {}
            }
        }
        outcome
    }

    /// What is asked of an inode's lead before the next change: an earlier one is run again, if
    /// it was cut off, and then cleared.
    fn finish(&mut self, earlier: ChangeId) {
        // Else each of them waits for the other for ever.
        assert!(!self.finishing.contains(&earlier), "{earlier:?} waits for itself");
        self.finishing.push(earlier);
        for intent in self.intents() {
            if intent.id == earlier {
                self.run(&intent, usize::MAX);
            }
        }
        self.finishing.pop();
        self.clear(earlier);
    }

    /// All sets are synced; then the intent goes, on stable storage; then the id of others.
    pub fn clear(&mut self, earlier: ChangeId) {
        self.sync();
        let bears = |i: &Inode| i.id.is_some_and(|id| id.0 == earlier);
        for intents in [true, false] {
            for set in self.sets.values_mut() {
                set.change(|s| {
                    let inodes = s.inodes.values_mut().filter(|i| bears(i));
                    for inode in inodes.filter(|i| i.intent.is_some() == intents) {
                        inode.id = None;
                        inode.intent = None;
                    }
                    s.inodes.retain(|_, i| i.count > 0 || i.id.is_some());
                });
                if intents {
                    set.sync();
                }
            }
        }
    }

    /// After a loss of power: every intent is settled.
    pub fn settle_all(&mut self) {
        while let Some(intent) = self.intents().first() {
            self.finish(intent.id);
        }
        // What was counted under an intent that is gone.
        let ids: BTreeSet<ChangeId> = self
            .sets
            .values()
            .flat_map(|s| s.now.inodes.values())
            .filter_map(|i| i.id)
            .map(|i| i.0)
            .collect();
        ids.into_iter().for_each(|id| self.clear(id));
    }
}

impl State {
    fn execute(&mut self, intent: &Intent, step: &Step, ignores_ids: bool) -> StepAnswer {
        let id = intent.id;
        match step {
            Step::Begin { count, intent: note } => {
                let note = note.then(|| intent.clone());
                self.count_up(intent.inode, id, i64::from(*count), note, ignores_ids)
            }
            // Gone with the power, or removed under this id.
            Step::Mark { inode, .. } if !self.inodes.contains_key(inode) => StepAnswer::Done,
            Step::Mark { inode, count } => {
                self.count_up(*inode, id, i64::from(*count), None, ignores_ids)
            }
            Step::Put { at, inode, expect } => {
                let there = self.names.get(&key(at)).copied();
                if let Some(there) = there.filter(|g| g != inode && Some(*g) != *expect) {
                    return StepAnswer::Occupied(there);
                }
                self.names.insert(key(at), *inode);
                StepAnswer::Done
            }
            Step::Drop { at, inode } => {
                if self.names.get(&key(at)) == Some(inode) {
                    self.names.remove(&key(at));
                }
                StepAnswer::Done
            }
            Step::CountDown { inode } => self.count_down(*inode, id),
            Step::End { count } => {
                if let Some(inode) =
                    self.bearing(intent.inode, id).filter(|i| i.id == Some((id, false)))
                {
                    inode.count -= i64::from(*count);
                    inode.id = Some((id, true));
                }
                StepAnswer::Done
            }
            Step::Revert { count } => {
                if let Some(inode) = self.bearing(intent.inode, id) {
                    let ended = inode.id == Some((id, true));
                    inode.count -= i64::from(*count && !ended);
                    inode.id = None;
                    inode.intent = None;
                }
                StepAnswer::Done
            }
            Step::Clear { inode } => {
                if let Some(inode) = self.bearing(*inode, id) {
                    inode.id = None;
                    inode.intent = None;
                }
                self.inodes.retain(|_, i| i.count > 0 || i.id.is_some());
                StepAnswer::Done
            }
            Step::Seal { dir } => match self.names.keys().any(|(d, _)| d == dir) {
                true => StepAnswer::Refused(Errno::ENOTEMPTY),
                false => {
                    self.sealed.insert(*dir);
                    StepAnswer::Done
                }
            },
            Step::Unseal { dir } => {
                self.sealed.remove(dir);
                StepAnswer::Done
            }
            Step::Remove { dir } => {
                self.inodes.remove(dir);
                self.sealed.remove(dir);
                StepAnswer::Done
            }
        }
    }

    fn bearing(&mut self, gfid: Gfid, id: ChangeId) -> Option<&mut Inode> {
        self.inodes.get_mut(&gfid).filter(|i| i.id.is_some_and(|(own, _)| own == id))
    }

    fn count_up(
        &mut self,
        gfid: Gfid,
        id: ChangeId,
        count: i64,
        note: Option<Intent>,
        ignores_ids: bool,
    ) -> StepAnswer {
        let Some(inode) = self.inodes.get_mut(&gfid) else {
            return StepAnswer::Refused(Errno::ESTALE);
        };
        match inode.id {
            Some((own, _)) if own == id => return StepAnswer::Done,
            Some((own, _)) if !ignores_ids => return StepAnswer::Uncleared(own),
            _ => {}
        }
        inode.count += count;
        inode.id = Some((id, false));
        inode.intent = note;
        StepAnswer::Done
    }

    fn count_down(&mut self, gfid: Gfid, id: ChangeId) -> StepAnswer {
        if let Some(inode) = self.inodes.get_mut(&gfid).filter(|i| i.id == Some((id, false))) {
            inode.count -= 1;
            inode.id = Some((id, true));
            if inode.count <= 0 {
                self.inodes.remove(&gfid);
            }
        }
        StepAnswer::Done
    }
}
