use proptest::prelude::*;

use super::super::gate::{SlotGate, SlotVerdict};
use super::super::slot_release::{ReleaseCommand, SlotRelease};
use super::*;
use crate::plant::without;
use crate::time::{JOIN_PAUSE, Tick};

const OLD: SetId = SetId(0);
const NEW: SetId = SetId(1);
const SLOT: SlotId = SlotId(0);

/// One slot with one file on its way from `OLD` to `NEW`, and two clients that write, read and
/// lock it, each by the map that it has.
struct World {
    version: u64,
    slots: Vec<SetId>,
    epochs: [Epoch; 2],
    gates: [SlotGate; 2],
    release: Option<SlotRelease>,
    mover: SlotMove,
    todo: Vec<MoveCommand>,
    proposed: Vec<Flip>,
    data: [u32; 2],
    locks: [Option<usize>; 2],
    acknowledged: u32,
    locked: Option<usize>,
    clients: [(u64, SetId); 2],
    now: Tick,
    wrong: Option<String>,
    done: bool,
}

impl World {
    fn new() -> Self {
        let slots = vec![OLD; 2];
        let epochs = [Epoch(90), Epoch(3)];
        let mut gates = [SlotGate::new(OLD), SlotGate::new(NEW)];
        gates.iter_mut().zip(epochs).for_each(|(g, epoch)| g.on_map(100, epoch, &slots));
        let (mover, todo) = SlotMove::resume(SLOT, (OLD, NEW), OLD, epochs[1]);
        Self {
            version: 100,
            slots,
            epochs,
            gates,
            release: None,
            mover,
            todo,
            proposed: Vec::new(),
            data: [0; 2],
            locks: [None; 2],
            acknowledged: 0,
            locked: None,
            clients: [(100, OLD); 2],
            now: Tick::ZERO,
            wrong: None,
            done: false,
        }
    }

    fn set(&self, client: usize) -> Option<usize> {
        let (version, owner) = self.clients[client];
        let set = owner.0 as usize;
        (self.gates[set].check(SLOT, version) == SlotVerdict::Serve).then_some(set)
    }

    fn fail(&mut self, what: String) {
        self.wrong.get_or_insert(what);
    }

    /// Both sets' leads would serve a client that has the right map for each.
    fn check_authority(&mut self) {
        let serves = |g: &SlotGate| g.check(SLOT, g.version()) == SlotVerdict::Serve;
        if self.gates.iter().filter(|g| serves(g)).count() > 1 {
            self.fail("two sets serve the slot".into());
        }
    }

    fn client(&mut self, client: usize, kind: u8) {
        let Some(set) = self.set(client) else { return };
        match kind {
            0 => {
                self.acknowledged += 1;
                self.data[set] = self.acknowledged;
            }
            1 if self.data[set] != self.acknowledged => {
                self.fail(format!("read {} of {}", self.data[set], self.acknowledged));
            }
            2 if self.locks[set].is_none() => {
                if self.locked.is_some_and(|holder| holder != client) {
                    self.fail("two clients hold the lock".into());
                }
                self.locks[set] = Some(client);
                self.locked = Some(client);
            }
            3 if self.locks[set] == Some(client) => {
                self.locks[set] = None;
                self.locked = None;
            }
            _ => {}
        }
    }

    fn mover_step(&mut self) {
        if self.todo.is_empty() {
            return;
        }
        let more = match self.todo.remove(0) {
            MoveCommand::Copy | MoveCommand::TakeOver if !self.gates[1].may_install(SLOT) => {
                self.mover.on_map(self.slots[0], self.epochs[0], self.epochs[1])
            }
            MoveCommand::Copy => {
                self.data[1] = self.data[0];
                self.mover.on_copied(0)
            }
            MoveCommand::AskRelease => self.ask_release(),
            MoveCommand::TakeOver => {
                self.data[1] = self.data[0];
                self.locks[1] = self.locks[0];
                self.mover.on_taken_over(true)
            }
            MoveCommand::Propose(flip) => {
                self.proposed.push(flip);
                Vec::new()
            }
            MoveCommand::Withdraw { epoch } => {
                self.at_release(|release| release.on_withdrawn(epoch).into_iter().collect())
            }
            MoveCommand::AskReceipt => {
                let receipt = Receipt { inodes: 1, ..Receipt::default() };
                self.mover.on_receipt(receipt, receipt)
            }
            MoveCommand::Delete => {
                self.data[0] = u32::MAX;
                self.mover.on_deleted()
            }
            MoveCommand::Done => {
                self.done = true;
                Vec::new()
            }
            MoveCommand::Differs { .. } => unreachable!("the receipts are equal"),
        };
        self.todo.extend(more);
    }

    fn ask_release(&mut self) -> Vec<MoveCommand> {
        let owns = self.gates[0].check(SLOT, 0) == SlotVerdict::Serve;
        if !owns || self.release.as_ref().is_some_and(|r| !r.is_over()) {
            return self.mover.on_refused();
        }
        let (release, commands) = SlotRelease::start(self.now, SLOT, self.gates[0].epoch());
        self.release = Some(release);
        self.released(commands)
    }

    fn at_release(
        &mut self,
        event: impl FnOnce(&mut SlotRelease) -> Vec<ReleaseCommand>,
    ) -> Vec<MoveCommand> {
        let commands = self.release.as_mut().map(event).unwrap_or_default();
        self.released(commands)
    }

    fn released(&mut self, commands: Vec<ReleaseCommand>) -> Vec<MoveCommand> {
        let mut more = Vec::new();
        for command in commands {
            match command {
                ReleaseCommand::Hold => self.gates[0].hold(SLOT),
                ReleaseCommand::Resume => self.gates[0].resume(SLOT),
                ReleaseCommand::Drain => {}
                ReleaseCommand::Refuse => more.extend(self.mover.on_refused()),
                ReleaseCommand::HandOver { epoch } => {
                    let receipt = Receipt { inodes: 1, ..Receipt::default() };
                    more.extend(self.mover.on_released(epoch, receipt));
                }
            }
        }
        more
    }

    fn pool(&mut self, bump: Option<usize>) {
        if let Some(set) = bump {
            self.version += 1;
            self.epochs[set] = Epoch(self.version);
        } else if let Some(flip) = self.proposed.pop() {
            let epochs = self.epochs;
            let epoch_of = |set: SetId| epochs.get(set.0 as usize).copied();
            if apply_flip(&mut self.slots, epoch_of, &flip) {
                self.version += 1;
            }
        }
    }

    fn event(&mut self, event: u8) {
        let more = match event {
            0..=7 => {
                self.client(usize::from(event % 2), event / 2);
                Vec::new()
            }
            8 | 9 => {
                self.clients[usize::from(event - 8)] = (self.version, self.slots[0]);
                Vec::new()
            }
            10 | 11 => {
                let set = usize::from(event - 10);
                self.gates[set].on_map(self.version, self.epochs[set], &self.slots);
                let epoch = self.gates[0].epoch();
                self.at_release(|release| {
                    release.on_epoch(epoch);
                    Vec::new()
                })
            }
            12..=15 => {
                self.mover_step();
                Vec::new()
            }
            16 => self.at_release(|release| release.on_drained().into_iter().collect()),
            17 => {
                self.now = self.now.after(JOIN_PAUSE);
                let now = self.now;
                self.at_release(|release| release.on_tick(now))
            }
            18 | 19 => {
                self.pool(None);
                Vec::new()
            }
            20 => {
                self.pool(Some(0));
                Vec::new()
            }
            21 => {
                self.pool(Some(1));
                Vec::new()
            }
            22 => self.mover.on_map(self.slots[0], self.epochs[0], self.epochs[1]),
            _ => {
                // The mover dies; what it has sent may still arrive.
                let new = SlotMove::resume(SLOT, (OLD, NEW), self.slots[0], self.epochs[1]);
                self.mover = new.0;
                self.todo.clear();
                new.1
            }
        };
        self.todo.extend(more);
        self.check_authority();
    }
}

fn run(events: &[u8]) -> Result<bool, String> {
    let mut world = World::new();
    for event in events {
        world.event(*event);
        if let Some(wrong) = world.wrong {
            return Err(wrong);
        }
    }
    Ok(world.done)
}

/// Anything; or a whole move with anything in between, which ends more often.
fn schedules() -> impl Strategy<Value = Vec<u8>> {
    let between = prop::collection::vec(prop::collection::vec(0_u8..24, 0..4), WHOLE.len());
    let mixed = between.prop_map(|between| {
        let steps = WHOLE.iter().zip(between);
        steps.flat_map(|(step, before)| before.into_iter().chain([*step])).collect()
    });
    prop_oneof![prop::collection::vec(0_u8..24, 0..120), mixed]
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None, cases: 20_000, ..ProptestConfig::default()
    })]

    /// Traps 38, 39 and 40 in any schedule, with crashes of the mover and new epochs of both sets.
    #[test]
    fn a_slot_has_one_authority_and_loses_nothing(events in schedules()) {
        prop_assert_eq!(run(&events).err(), None);
    }
}

/// Copy, ask; the old lead drains; take over, propose; commit; maps; receipt, delete, done.
const WHOLE: [u8; 14] = [12, 12, 16, 12, 12, 18, 10, 11, 8, 9, 22, 12, 12, 12];

#[test]
fn a_move_without_faults_ends() {
    assert_eq!(run(&WHOLE), Ok(true));
}

/// Trap 38: one authority until the flip, then `moved`. The new set is asked first, has nothing
/// yet and says no; the old one would say so, too, after the delete.
#[test]
fn trap_38_one_set_serves_a_slot_until_the_flip_and_the_other_from_then_on() {
    // Between release and flip nobody is served; before it the old set, after it the new one.
    let mut world = World::new();
    let mut owners = Vec::new();
    for event in WHOLE {
        world.event(event);
        let by_newest = (world.version, world.slots[0]);
        world.clients[0] = by_newest;
        owners.push(world.set(0));
    }
    assert_eq!(owners[0], Some(0));
    assert_eq!(owners[1..6], [None; 5], "held back");
    assert_eq!(owners[13], Some(1));
    assert_eq!(world.gates[0].check(SLOT, world.version), SlotVerdict::Moved);
    // Without the release, the old set serves until it hears of the flip: a write is lost.
    let lost = [12, 12, 16, 12, 0, 12, 18, 11, 9, 3];
    assert_eq!(run(&lost), Ok(false));
    without(Plant::NoRelease, || run(&lost)).expect_err("two sets serve the slot");
}

/// Trap 39: two maps in use: M1 writes by the old one, M2 by the new one.
#[test]
fn trap_39_clients_with_different_maps_never_write_to_different_sets() {
    let two_maps = [12, 12, 16, 12, 12, 18, 11, 9, 1, 0, 3];
    assert_eq!(run(&two_maps), Ok(false));
    without(Plant::NoRelease, || run(&two_maps)).expect_err("M1 writes to the old set");
    // A set that has not heard of the flip gets the map before it serves a sender that has.
    let mut gate = SlotGate::new(OLD);
    gate.on_map(100, Epoch(90), &[OLD]);
    assert_eq!(gate.check(SLOT, 101), SlotVerdict::GetMap);
    assert_eq!(gate.check(SLOT, 100), SlotVerdict::Serve);
    gate.on_map(99, Epoch(80), &[NEW]);
    assert_eq!(gate.check(SLOT, 100), SlotVerdict::Serve, "an older map is ignored");
}

/// Trap 40: a lock that the old lead alone knows.
#[test]
fn trap_40_locks_are_at_the_new_lead_before_the_flip() {
    // Client 0 locks; the slot moves; client 1 tries to lock at the new set.
    let locked = [4, 12, 12, 16, 12, 18, 11, 9, 5, 12, 18, 11, 9, 5];
    assert_eq!(run(&locked), Ok(false));
    without(Plant::FlipBeforeHandOver, || run(&locked)).expect_err("two clients hold the lock");
}

/// A mover proposes and dies; the next one begins to copy before it hears of the flip.
#[test]
fn a_slot_that_has_come_is_not_copied_over_by_a_mover_that_does_not_know() {
    let late = [12, 12, 16, 12, 12, 23, 18, 11, 9, 1, 12, 3, 12, 12, 12];
    assert_eq!(run(&late), Ok(true));
}

#[test]
fn a_flip_of_another_epoch_or_owner_is_void() {
    let flip = Flip { slot: SLOT, from: OLD, from_epoch: Epoch(5), to: NEW, to_epoch: Epoch(6) };
    let epochs = |old, new| move |set: SetId| [Epoch(old), Epoch(new)].get(set.0 as usize).copied();
    let apply = |flip: &Flip, owner, old, new| {
        let mut slots = vec![owner; 2];
        let applied = apply_flip(&mut slots, epochs(old, new), flip);
        assert_eq!(slots[0] == flip.to, applied || owner == flip.to);
        assert_eq!(slots[1], owner, "no other slot");
        applied
    };
    assert!(apply(&flip, OLD, 5, 6));
    assert!(!apply(&flip, OLD, 7, 6), "the release is void");
    assert!(!apply(&flip, OLD, 5, 8), "a newcomer of the new set lacks it");
    assert!(!apply(&flip, NEW, 5, 6), "done already");
    assert!(!apply(&Flip { slot: SlotId(9), ..flip }, OLD, 5, 6), "no such slot");
    assert!(!apply(&Flip { to: SetId(9), ..flip }, OLD, 5, 6), "no such set");
}

#[test]
fn nothing_is_deleted_against_a_receipt_that_differs() {
    let (mut mover, first) = SlotMove::resume(SLOT, (OLD, NEW), NEW, Epoch(6));
    assert_eq!(first, [MoveCommand::AskReceipt], "the map says that it has moved");
    let released = Receipt { inodes: 3, bytes: 9, digest: 1 };
    let received = Receipt { digest: 2, ..released };
    let differs = MoveCommand::Differs { released, received };
    assert_eq!(mover.on_receipt(received, released), [differs]);
    assert!(mover.on_deleted().is_empty());
}

#[test]
fn rounds_go_on_until_little_is_left() {
    let (mut mover, first) = SlotMove::resume(SLOT, (OLD, NEW), OLD, Epoch(6));
    assert_eq!(first, [MoveCommand::Copy]);
    assert_eq!(mover.on_copied(SMALL_REST_BYTES + 1), [MoveCommand::Copy]);
    assert_eq!(mover.on_copied(SMALL_REST_BYTES), [MoveCommand::AskRelease]);
    assert_eq!(mover.on_refused(), [MoveCommand::Copy], "too slow: another round");
}
