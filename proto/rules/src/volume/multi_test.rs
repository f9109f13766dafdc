use std::collections::BTreeMap;

use proptest::prelude::*;
use proto::SlotId;

use super::super::multi_world::{State, World, file, id, inode, moves, name};
use super::super::parts::Parts;
use super::super::settler::{Settler, SettlerCommand, leases};
use super::*;
use crate::lease::LeaseKey;
use crate::plant::without;

/// The inode of `a` (names on slot 1) lives on slot 3, that of `b` (slot 2) on slot 4.
fn world() -> World {
    let mut world = World::default();
    world.create(inode(3, 1), &name(1, "a"));
    world.create(inode(4, 2), &name(2, "b"));
    world.sync();
    world
}

fn a() -> Gfid {
    inode(3, 1)
}

fn b() -> Gfid {
    inode(4, 2)
}

/// One change of each kind.
fn changes() -> Vec<Intent> {
    let exchange =
        Action::Exchange { from: name(1, "a"), to: name(2, "b"), other: b(), other_dir: false };
    vec![
        moves(1, a(), name(1, "a"), name(2, "c"), None),
        moves(1, a(), name(1, "a"), name(2, "b"), Some(b())),
        file(1, a(), exchange),
        file(1, a(), Action::Link { to: name(2, "c") }),
        file(1, a(), Action::Unlink { from: name(1, "a") }),
    ]
}

fn names_after(intent: &Intent) -> BTreeMap<String, Gfid> {
    let mut world = world();
    assert_eq!(world.run(intent, usize::MAX), Some(Ok(())));
    world.names()
}

#[test]
fn each_change_ends_with_the_names_it_means_and_right_counts() {
    let expected: [&[(&str, Gfid)]; 5] = [
        &[("b", b()), ("c", a())],
        &[("b", a())],
        &[("a", b()), ("b", a())],
        &[("a", a()), ("b", b()), ("c", a())],
        &[("b", b())],
    ];
    for (intent, expected) in changes().iter().zip(expected) {
        let mut world = world();
        assert_eq!(world.run(intent, usize::MAX), Some(Ok(())));
        let expected: BTreeMap<String, Gfid> =
            expected.iter().map(|(n, g)| ((*n).to_owned(), *g)).collect();
        assert_eq!(world.names(), expected, "{intent:?}");
        world.settle_all();
        assert_eq!(world.check(), Ok(()), "{world:?}");
        assert_eq!(world.names(), expected, "settling what is done changes nothing");
        assert!(world.intents().is_empty());
    }
}

/// Stops each change after each number of steps; then power is lost, and each set keeps any part
/// of what it had not synced; then every intent is settled.
fn any_cut() -> Result<(), String> {
    for intent in changes() {
        let (before, after) = (world().names(), names_after(&intent));
        for steps in 0..=10 {
            for kept in 0..4_usize.pow(4) {
                let mut world = world();
                let outcome = world.run(&intent, steps);
                world.never_too_few()?;
                for (at, set) in world.sets.values_mut().enumerate() {
                    set.lose_power(kept / 4_usize.pow(at as u32) % 4);
                }
                world.settle_all();
                let names = world.names();
                let text = format!("{:?} cut after {steps}, kept {kept}", intent.action);
                world.check().map_err(|e| format!("{text}: {e}"))?;
                // What began is finished: an answered change is there after any crash.
                let fits = names == after || names == before && outcome.is_none();
                fits.then_some(()).ok_or_else(|| format!("{text}: {names:?}"))?;
            }
        }
    }
    Ok(())
}

/// Trap 33: the old name's removal is on disk, the new pointer is not; power loss of all.
#[test]
fn trap_33_a_change_over_several_sets_survives_a_loss_of_power_whole() {
    any_cut().unwrap();
    without(Plant::NoIntent, any_cut).expect_err("no intent: nothing finishes it");
    without(Plant::NamesBeforeCounts, any_cut).expect_err("counts after names");
}

#[test]
fn a_refused_name_leaves_everything_as_it_was() {
    let refused = [
        moves(1, a(), name(1, "a"), name(2, "b"), None),
        file(1, a(), Action::Link { to: name(2, "b") }),
    ];
    for intent in refused {
        let mut world = world();
        let before = world.clone();
        assert_eq!(world.run(&intent, usize::MAX), Some(Err(Errno::EEXIST)));
        assert_eq!(world.names(), before.names());
        assert_eq!(world.find(a()), before.find(a()), "count and intent are back");
    }
}

#[test]
fn a_full_directory_is_not_replaced_and_an_empty_one_is() {
    let (dir, target) = (inode(3, 5), inode(4, 6));
    let replaced = Some(Replaced { gfid: target, dir: true });
    let action = Action::Move { from: name(1, "d"), to: name(2, "t"), replaced };
    let intent = Intent { id: id(1), inode: dir, dir: true, action };
    for full in [true, false] {
        let mut world = World::default();
        world.create(dir, &name(1, "d"));
        world.create(target, &name(2, "t"));
        if full {
            let inside = Name { dir: target, slot: SlotId(4), name: b"f".to_vec() };
            world.create(inode(4, 9), &inside);
        }
        let outcome = world.run(&intent, usize::MAX);
        world.check().unwrap();
        let sealed = world.sets.values().any(|s| !s.now.sealed.is_empty());
        assert!(!sealed, "no seal is left");
        let expected = if full { Err(Errno::ENOTEMPTY) } else { Ok(()) };
        assert_eq!(outcome, Some(expected));
        assert_eq!(world.find(target).is_some(), full);
    }
}

/// The next change of an inode waits until the last one is durable and cleared: else nothing
/// finishes the last one again after a loss of power.
#[test]
fn an_inodes_next_change_waits_until_the_last_one_is_durable() {
    let twice = |ignores_ids| {
        let mut world = World { ignores_ids, ..world() };
        let first = file(1, a(), Action::Link { to: name(2, "c") });
        world.run(&first, usize::MAX).unwrap().unwrap();
        let second = file(2, a(), Action::Link { to: name(5, "d") });
        // The second one is cut off before its name is there; of the first, set 2 lost all.
        world.run(&second, 2);
        world.set(SlotId(2)).lose_power(0);
        world.settle_all();
        world.check()
    };
    assert_eq!(twice(false), Ok(()));
    assert!(twice(true).is_err(), "the first one's name is gone, its count is not");
}

/// What a session that looks around may see while a change is settled, and at the end.
struct Settling {
    world: World,
    parts: Parts,
    fenced: Vec<(LeaseKey, SlotId)>,
    seen: Vec<BTreeMap<String, Gfid>>,
}

impl Settling {
    /// The client dies after so many steps; the leads of its sets find them.
    fn after(intent: &Intent, steps: usize) -> Self {
        let mut world = world();
        world.run(intent, steps);
        let mut parts = Parts::default();
        parts.found(intent.id, intent.inode, leases(intent).iter().map(|(key, _)| key.gfid()));
        Self { world, parts, fenced: Vec::new(), seen: Vec::new() }
    }

    fn look(&mut self) {
        let dir = super::super::multi_world::DIR;
        if !self.parts.blocks(dir, None) {
            self.seen.push(self.world.names());
        }
    }

    /// The inode's lead does all that it says.
    fn settle(&mut self, intent: &Intent) {
        self.look();
        let (mut settler, mut todo) = Settler::start(intent.clone());
        while !todo.is_empty() {
            let more = match todo.remove(0) {
                SettlerCommand::TakeLease { key, slot } => {
                    self.fenced.push((key, slot));
                    settler.on_leased()
                }
                SettlerCommand::ReadIntent => {
                    let there = self.world.find(intent.inode).is_some_and(|i| i.intent.is_some());
                    settler.on_intent(there)
                }
                SettlerCommand::Multi(MultiCommand::Run { number, step, .. }) => {
                    let answer = self.world.execute(intent, &step);
                    assert_eq!(answer, StepAnswer::Done);
                    settler.on_answer(number, answer)
                }
                SettlerCommand::Multi(_) => Vec::new(),
                SettlerCommand::Settled => {
                    self.parts.on_settled(settler.id());
                    Vec::new()
                }
            };
            todo.extend(more);
            self.look();
        }
    }

    /// A step that the client had sent arrives late: members refuse numbers of revoked leases.
    fn late(&mut self, intent: &Intent, step: &Step) {
        let slot = slot_of(intent, step);
        if !self.fenced.iter().any(|(_, fenced)| *fenced == slot) {
            self.world.execute(intent, step);
        }
    }
}

/// Trap 61: both names, or none, after the session dies.
fn half_settled() -> Result<(), String> {
    let intent = moves(1, a(), name(1, "a"), name(2, "c"), None);
    for steps in 0..6 {
        let mut settling = Settling::after(&intent, steps);
        settling.settle(&intent);
        for names in &settling.seen {
            let named = names.values().filter(|g| **g == a()).count();
            (named == 1).then_some(()).ok_or_else(|| format!("after {steps}: {names:?}"))?;
        }
        settling.world.clear(intent.id);
        settling.world.check()?;
    }
    Ok(())
}

/// Trap 61: settled under a living holder, or one whose frames are still on their way.
fn settled_under_a_holder() -> Result<(), String> {
    let intent = moves(1, a(), name(1, "a"), name(2, "c"), None);
    let mut settling = Settling::after(&intent, 1);
    settling.settle(&intent);
    // Somebody else removes the new name; then the dead client's own frame arrives.
    settling.world.clear(intent.id);
    let unlink = file(2, a(), Action::Unlink { from: name(2, "c") });
    settling.world.run(&unlink, usize::MAX);
    settling.world.clear(unlink.id);
    settling.late(&intent, &Step::Put { at: name(2, "c"), inode: a(), expect: None });
    settling.world.check()
}

#[test]
fn trap_61_a_change_over_several_sets_is_settled_as_a_whole() {
    half_settled().unwrap();
    without(Plant::SettleAlone, half_settled).expect_err("each set by itself");
}

#[test]
fn trap_61_nothing_is_settled_before_its_leases_are_held() {
    settled_under_a_holder().unwrap();
    without(Plant::SettleUnleased, settled_under_a_holder).expect_err("late frames live");
    // A living holder finishes, and returns its leases then: there is nothing to do.
    let intent = moves(1, a(), name(1, "a"), name(2, "c"), None);
    let (mut settler, first) = Settler::start(intent.clone());
    assert!(matches!(first[..], [SettlerCommand::TakeLease { .. }]));
    let keys = leases(&intent).len();
    for left in (0..keys).rev() {
        let next = settler.on_leased();
        assert_eq!(matches!(next[..], [SettlerCommand::ReadIntent]), left == 0, "{next:?}");
    }
    assert_eq!(settler.on_intent(false), [SettlerCommand::Settled]);
}

#[test]
fn leases_are_taken_in_one_order_by_everybody() {
    for intent in changes() {
        let keys = leases(&intent);
        let order: Vec<_> = keys.iter().map(|(k, s)| (k.gfid(), *k, *s)).collect();
        assert!(order.windows(2).all(|w| w[0] < w[1]), "{order:?}");
    }
}

#[test]
fn an_answered_change_waits_for_all_its_sets_before_its_intent_goes() {
    let intent = moves(1, a(), name(1, "a"), name(2, "b"), Some(b()));
    let (mut multi, mut todo) = Multi::start(intent);
    let mut waits = BTreeSet::new();
    while !todo.is_empty() {
        match todo.remove(0) {
            MultiCommand::Run { number, .. } => {
                todo.extend(multi.on_answer(number, StepAnswer::Done))
            }
            MultiCommand::AwaitDurable { slots } => waits = slots,
            other => assert_eq!(other, MultiCommand::Answer(Ok(()))),
        }
    }
    assert_eq!(waits, [1, 2, 3, 4].map(SlotId).into());
    for slot in [1, 1, 2, 3] {
        assert!(multi.on_durable(SlotId(slot)).is_empty());
    }
    let cleared = multi.on_durable(SlotId(4));
    let clears = |gfid| matches!(&cleared[..], [MultiCommand::Run { step: Step::Clear { inode }, .. }] if *inode == gfid);
    assert!(clears(a()), "the intent first: {cleared:?}");
}

/// A file of several names over four sets, changed again and again; every few changes one is cut
/// off and power is lost.
#[derive(Clone, Debug)]
struct Turn {
    kind: u8,
    from: u8,
    to: u8,
    cut: Option<(usize, u32)>,
}

fn random_steps() -> impl Strategy<Value = Vec<Turn>> {
    let cut = prop::option::weighted(0.3, (0..8_usize, any::<u32>()));
    let step = (0..4_u8, 0..6_u8, 0..6_u8, cut);
    prop::collection::vec(
        step.prop_map(|(kind, from, to, cut)| Turn { kind, from, to, cut }),
        1..30,
    )
}

fn nth(n: u8) -> Name {
    name(u16::from(n % 4), &format!("n{n}"))
}

/// The change that a random step means now, if any.
fn intent_of(world: &World, number: u64, step: &Turn) -> Option<Intent> {
    let names = world.names();
    let at = |n: u8| names.get(&format!("n{n}")).copied();
    let (from, to) = (nth(step.from), nth(step.to));
    let (source, target) = (at(step.from)?, at(step.to));
    if step.from == step.to || target == Some(source) {
        return None;
    }
    Some(match (step.kind, target) {
        (0, _) => moves(number, source, from, to, target),
        (1, None) => file(number, source, Action::Link { to }),
        (2, _) => file(number, source, Action::Unlink { from }),
        (3, Some(other)) => {
            file(number, source, Action::Exchange { from, to, other, other_dir: false })
        }
        _ => return None,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_changes_with_any_losses_of_power_leave_whole_changes(steps in random_steps()) {
        let mut world = World::default();
        for n in 0..4 {
            world.create(inode(u16::from(n) + 4, n + 1), &nth(n));
        }
        world.sync();
        for (number, step) in (1..).zip(&steps) {
            let Some(intent) = intent_of(&world, number, step) else { continue };
            let before = world.names();
            let mut whole = world.clone();
            prop_assert_eq!(whole.run(&intent, usize::MAX), Some(Ok(())));
            let Some((cut, kept)) = step.cut else {
                world = whole;
                continue;
            };
            let began = world.run(&intent, cut);
            for (at, set) in world.sets.values_mut().enumerate() {
                let unsynced = set.unsynced() + 1;
                set.lose_power((kept.rotate_left(5 * at as u32) as usize) % unsynced);
            }
            world.settle_all();
            prop_assert_eq!(world.check(), Ok(()));
            let names = world.names();
            let after = names == whole.names();
            prop_assert!(after || names == before && began.is_none(), "{:?} {:?}", intent, names);
        }
        let empty = State::default();
        prop_assert!(world.sets.values().any(|s| s.now != empty) || world.names().is_empty());
    }
}
