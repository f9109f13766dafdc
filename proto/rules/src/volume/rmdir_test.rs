use proto::SessionId;

use super::super::home::Home;
use super::*;
use crate::plant::without;
use crate::testing::gfid;

const ID: ChangeId = ChangeId { session: SessionId(7), number: 1 };

fn name() -> Name {
    Name { dir: Gfid::ROOT, slot: SlotId(3), name: b"d".to_vec() }
}

fn dir() -> Gfid {
    gfid(4)
}

/// A directory whose buckets are on as many sets.
#[derive(Clone, Debug, Default)]
struct World {
    named: bool,
    there: bool,
    intent: Option<ChangeId>,
    parts: BTreeMap<u16, u32>,
    seals: Seals,
    recorded: BTreeSet<u16>,
}

impl World {
    fn new(names: &[(u16, u32)]) -> Self {
        let parts: BTreeMap<u16, u32> = names.iter().copied().collect();
        let recorded = parts.keys().copied().collect();
        Self { named: true, there: true, parts, recorded, ..Self::default() }
    }

    /// Does one command; the event that follows.
    fn execute(&mut self, rmdir: &mut Rmdir, command: &RmdirCommand) -> Vec<RmdirCommand> {
        match command {
            RmdirCommand::Note => {
                self.intent = Some(ID);
                rmdir.on_noted()
            }
            RmdirCommand::Seal { bucket, .. } => {
                let empty = self.parts.get(bucket).is_none_or(|names| *names == 0);
                let sealed = self.seals.seal(dir(), *bucket, ID, empty);
                rmdir.on_sealed(*bucket, sealed)
            }
            RmdirCommand::Unseal { bucket, .. } => {
                self.seals.unseal(dir(), *bucket, ID);
                rmdir.on_unsealed(*bucket)
            }
            RmdirCommand::RemoveName { .. } => {
                self.named = false;
                rmdir.on_name_removed()
            }
            RmdirCommand::Drop { bucket, .. } => {
                self.parts.remove(bucket);
                self.seals.unseal(dir(), *bucket, ID);
                rmdir.on_dropped(*bucket)
            }
            RmdirCommand::RemoveHome => {
                self.there = false;
                self.intent = None;
                rmdir.on_home_removed()
            }
            RmdirCommand::Forget => {
                self.intent = None;
                rmdir.on_forgotten()
            }
            RmdirCommand::Answer(_) => Vec::new(),
        }
    }

    fn run(&mut self, begun: (Rmdir, Vec<RmdirCommand>), steps: usize) -> Option<RmdirCommand> {
        let (mut rmdir, mut todo) = begun;
        for _ in 0..steps {
            if todo.is_empty() {
                return None;
            }
            let command = todo.remove(0);
            if matches!(command, RmdirCommand::Answer(_)) {
                return Some(command);
            }
            todo.extend(self.execute(&mut rmdir, &command));
        }
        None
    }

    fn start(&self) -> (Rmdir, Vec<RmdirCommand>) {
        Rmdir::start(ID, dir(), name(), self.recorded.clone())
    }

    /// The next lead of the home.
    fn go_on(&mut self) {
        if let Some(id) = self.intent {
            let begun = Rmdir::resume(id, dir(), name(), self.recorded.clone());
            self.run(begun, usize::MAX);
        }
    }

    fn check(&self) -> Result<(), String> {
        let gone = !self.named && !self.there && self.parts.is_empty();
        let stays = self.named && self.there;
        let fits = (gone || stays) && self.seals.is_empty() && self.intent.is_none();
        let lost = !self.there && self.parts.values().any(|names| *names > 0);
        (fits && !lost).then_some(()).ok_or_else(|| format!("{self:?}"))
    }
}

#[test]
fn an_empty_directory_goes_and_a_full_one_stays() {
    for (names, answer) in [(0, Ok(())), (2, Err(Errno::ENOTEMPTY))] {
        let mut world = World::new(&[(1, 0), (2, names), (9, 0)]);
        let done = world.run(world.start(), usize::MAX);
        assert_eq!(done, Some(RmdirCommand::Answer(answer)));
        assert_eq!(world.there, names > 0);
        world.check().unwrap();
    }
    let mut none = World::new(&[]);
    assert_eq!(none.run(none.start(), usize::MAX), Some(RmdirCommand::Answer(Ok(()))));
    none.check().unwrap();
}

/// Trap 62: it sealed three of five parts and dies; and at every other step.
fn cut_anywhere() -> Result<(), String> {
    for full in [None, Some(1), Some(5)] {
        for steps in 0..16 {
            let names = |b| (b, u32::from(full == Some(b)));
            let mut world = World::new(&[1, 2, 3, 4, 5].map(names));
            world.run(world.start(), steps);
            world.go_on();
            world.check().map_err(|e| format!("after {steps}: {e}"))?;
            if full.is_some() && !world.there {
                return Err(format!("after {steps}: removed with a name"));
            }
        }
    }
    Ok(())
}

#[test]
fn trap_62_an_rmdir_that_is_cut_off_is_finished_or_unsealed() {
    cut_anywhere().unwrap();
    without(Plant::NoRmdirIntent, cut_anywhere).expect_err("parts stay sealed");
}

/// Another mount makes a name in a bucket that has none yet, step by step, beside an rmdir.
#[derive(Clone)]
struct Race {
    world: World,
    home: Home,
    rmdir: Option<(Rmdir, Vec<RmdirCommand>)>,
    creator: Creator,
}

#[derive(Clone, Copy, PartialEq)]
enum Creator {
    Asking,
    Recorded,
    Made,
}

impl Race {
    fn new() -> Self {
        let home = Home::found(dir(), [1].into(), true, 0);
        Self { world: World::new(&[(1, 0)]), home, rmdir: None, creator: Creator::Asking }
    }

    fn create(&mut self) -> bool {
        let next = match self.creator {
            Creator::Asking => {
                let asked = self.home.record(SessionId(9), &[2].into(), false);
                asked.map(|_| Creator::Recorded).ok()
            }
            Creator::Recorded if self.world.seals.may_add(dir(), 2).is_ok() => {
                *self.world.parts.entry(2).or_default() += 1;
                Some(Creator::Made)
            }
            _ => None,
        };
        self.creator = next.unwrap_or(self.creator);
        next.is_some()
    }

    fn remove(&mut self) -> bool {
        let Some((rmdir, todo)) = &mut self.rmdir else {
            let Ok(buckets) = self.home.remove(ID) else { return false };
            self.rmdir = Some(Rmdir::start(ID, dir(), name(), buckets));
            return true;
        };
        if todo.is_empty() {
            return false;
        }
        let command = todo.remove(0);
        let more = self.world.execute(rmdir, &command);
        todo.extend(more);
        // Its lease has ended with the seal.
        if self.creator == Creator::Recorded && self.world.seals.may_add(dir(), 2).is_err() {
            self.creator = Creator::Asking;
        }
        if matches!(command, RmdirCommand::Answer(Err(_))) {
            self.home.kept(ID);
        }
        true
    }

    /// All schedules; whether in one of them a name is made in a directory that goes.
    fn any_loss(&self) -> bool {
        let lost = self.creator == Creator::Made && !self.world.there;
        let (mut one, mut other) = (self.clone(), self.clone());
        lost || one.create() && one.any_loss() || other.remove() && other.any_loss()
    }
}

/// Trap 36: rmdir finds d empty everywhere; another mount creates d/f on a set that makes its
/// part lazily.
#[test]
fn trap_36_no_name_is_made_in_a_directory_that_goes() {
    assert!(!Race::new().any_loss());
    assert!(without(Plant::NoRecording, || Race::new().any_loss()), "the home must know first");
    assert!(without(Plant::NoSeals, || Race::new().any_loss()), "seals must refuse");
}

#[test]
fn a_seal_is_lifted_by_its_own_change_only() {
    let mut seals = Seals::default();
    assert!(!seals.seal(dir(), 1, ID, false), "not empty");
    assert!(seals.seal(dir(), 1, ID, true));
    assert_eq!(seals.may_add(dir(), 1), Err(ID));
    assert_eq!(seals.may_add(dir(), 2), Ok(()));
    seals.unseal(dir(), 1, ChangeId { number: 2, ..ID });
    assert_eq!(seals.may_add(dir(), 1), Err(ID));
    seals.unseal(dir(), 1, ID);
    assert_eq!(seals.may_add(dir(), 1), Ok(()));
}
