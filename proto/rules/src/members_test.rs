//! Schedules of changing members, as tables: the map, what is known, the next step.

use proto::map::MemberState::{InSync, Out, Syncing};

use super::*;
use crate::set::{SetEntry, SetOutcome, apply};
use crate::testing::{brick, in_sync, inc, peer, set_map};

fn all_known(_: BrickId) -> Option<Known> {
    Some(Known { noted: Epoch(u64::MAX), stale: 0 })
}

fn join(map: &mut SetMap, index: u64, n: u8) {
    let up = SetEntry::BrickUp { epoch: map.epoch, brick: brick(n), incarnation: inc(70) };
    apply(map, index, &up);
    let joined = SetEntry::Join { epoch: map.epoch, brick: brick(n), incarnation: inc(70) };
    assert!(matches!(apply(map, index + 1, &joined), SetOutcome::NewEpoch { .. }));
}

fn leave(map: &mut SetMap, index: u64, n: u8) {
    let incarnation = map.member(brick(n)).unwrap().incarnation;
    let reason = "replaced".to_owned();
    let entry = SetEntry::Leave { epoch: map.epoch, brick: brick(n), incarnation, reason };
    assert!(matches!(apply(map, index, &entry), SetOutcome::NewEpoch { .. }));
}

#[test]
fn a_replaced_brick_leaves_when_the_new_one_is_in_sync_and_takes_no_place_before() {
    let mut map = in_sync(5, &[1, 2, 3]);
    insert(&mut map, (brick(4), peer(4)), "/b4", Some(brick(1)));
    let change = Change::Replace { old: brick(1), new: brick(4) };
    let mut changes = vec![change];
    assert_eq!(step(&map, &changes, &change, 2, all_known), Step::Wait(Why::Heals));
    assert_eq!((map.epoch, map.in_sync().count()), (Epoch(5), 3), "nobody needs it yet");
    join(&mut map, 6, 4);
    progress(&map, &mut changes);
    assert_eq!(changes, [Change::Remove { brick: brick(1) }]);
    let retire = Step::Retire { brick: brick(1), incarnation: inc(10) };
    assert_eq!(step(&map, &changes, &changes[0], 2, all_known), retire);
    leave(&mut map, 8, 1);
    progress(&map, &mut changes);
    assert_eq!(step(&map, &changes, &changes[0], 2, all_known), Step::Drop { brick: brick(1) });
    let dropped = SetEntry::Drop { epoch: map.epoch, brick: brick(1) };
    assert_eq!(apply(&mut map, 9, &dropped), SetOutcome::Noted);
    progress(&map, &mut changes);
    assert!(changes.is_empty());
    // The new one stands where the old one stood.
    let order: Vec<BrickId> = map.members.iter().map(|m| m.brick).collect();
    assert_eq!(order, [brick(4), brick(2), brick(3)]);
}

/// Once the old one is to go, what befalls the new one does not call it back: it may be gone
/// already, and its disk in another machine.
#[test]
fn a_replaced_brick_that_is_to_leave_is_never_taken_back() {
    let mut map = in_sync(5, &[1, 2]);
    insert(&mut map, (brick(4), peer(4)), "/b4", Some(brick(1)));
    let mut changes = vec![Change::Replace { old: brick(1), new: brick(4) }];
    join(&mut map, 6, 4);
    progress(&map, &mut changes);
    let evict = SetEntry::Evict { epoch: map.epoch, brick: brick(4), reason: "dead".into() };
    apply(&mut map, 8, &evict);
    progress(&map, &mut changes);
    assert_eq!(changes, [Change::Remove { brick: brick(1) }]);
    // But it stays as long as it is needed.
    assert_eq!(
        step(&map, &changes, &changes[0], 2, all_known),
        Step::Wait(Why::TooFew { left: 1, needed: 2 })
    );
}

#[test]
fn nobody_is_retired_below_one_good_copy_or_what_changes_need() {
    let change = Change::Remove { brick: brick(1) };
    let changes = [change];
    let alone = set_map(5, &[(1, InSync), (2, Out)]);
    assert_eq!(step(&alone, &changes, &change, 1, all_known), Step::Wait(Why::LastCopy));
    let two = in_sync(5, &[1, 2]);
    let silent = |b: BrickId| all_known(b).filter(|_| b == brick(1));
    assert_eq!(step(&two, &changes, &change, 1, silent), Step::Wait(Why::LastCopy), "2 is silent");
    let few = Step::Wait(Why::TooFew { left: 1, needed: 2 });
    assert_eq!(step(&two, &changes, &change, 2, all_known), few);
    let stale = |b: BrickId| Some(Known { stale: u64::from(b == brick(2)), ..all_known(b)? });
    let waits = Step::Wait(Why::StaleCopies(brick(2)));
    assert_eq!(step(&two, &changes, &change, 1, stale), waits, "1 may have the good ones");
    let behind = |b: BrickId| Some(Known { noted: Epoch(u64::from(b == brick(1)) * 9), stale: 0 });
    assert_eq!(step(&two, &changes, &change, 1, behind), Step::Wait(Why::LastCopy), "2 serves not");
    let mute = |b: BrickId| all_known(b).filter(|_| b == brick(2));
    assert_eq!(step(&two, &changes, &change, 1, mute), Step::Wait(Why::Silent));
}

/// Of two that leave, neither is counted for the other.
#[test]
fn two_that_leave_are_not_each_others_reason_to_go() {
    let map = in_sync(5, &[1, 2]);
    let changes = [Change::Remove { brick: brick(1) }, Change::Remove { brick: brick(2) }];
    for change in &changes {
        assert_eq!(step(&map, &changes, change, 1, all_known), Step::Wait(Why::LastCopy));
    }
}

/// B is evicted; A has not noted the epoch without it, and may have lost power meanwhile: B alone
/// remembers (`restart`), and is not forgotten.
#[test]
fn an_evicted_member_is_not_dropped_before_those_in_sync_have_gone_on_without_it() {
    let mut map = in_sync(5, &[1, 2]);
    let evict = SetEntry::Evict { epoch: Epoch(5), brick: brick(2), reason: "silent".into() };
    apply(&mut map, 6, &evict);
    let change = Change::Remove { brick: brick(2) };
    let noted = |epoch: u64| {
        move |b: BrickId| (b == brick(1)).then_some(Known { noted: Epoch(epoch), stale: 0 })
    };
    assert_eq!(step(&map, &[change], &change, 1, noted(5)), Step::Wait(Why::NotNoted));
    assert_eq!(step(&map, &[change], &change, 1, noted(6)), Step::Drop { brick: brick(2) });
    let nobody = |_| None;
    assert_eq!(step(&map, &[change], &change, 1, nobody), Step::Wait(Why::LastCopy));
    let stale = |_| Some(Known { noted: Epoch(6), stale: 3 });
    let waits = Step::Wait(Why::StaleCopies(brick(1)));
    assert_eq!(step(&map, &[change], &change, 1, stale), waits, "2 has the last good ones");
}

#[test]
fn a_newcomer_is_dropped_whatever_the_others_say_and_those_that_agreed_to_it_go_on() {
    let mut map = in_sync(5, &[1, 2]);
    insert(&mut map, (brick(3), peer(3)), "/b3", None);
    let change = Change::Remove { brick: brick(3) };
    assert_eq!(step(&map, &[change], &change, 2, |_| None), Step::Drop { brick: brick(3) });
    let up = SetEntry::BrickUp { epoch: Epoch(5), brick: brick(3), incarnation: inc(30) };
    assert_eq!(apply(&mut map, 6, &up), SetOutcome::Noted);
    assert_eq!((map.members[2].state, map.members[2].reason.as_str()), (Syncing, NEW_MEMBER));
    let dropped = SetEntry::Drop { epoch: Epoch(5), brick: brick(3) };
    assert!(matches!(apply(&mut map, 7, &dropped), SetOutcome::NewEpoch { .. }));
    let join = SetEntry::Join { epoch: Epoch(7), brick: brick(3), incarnation: inc(30) };
    assert!(matches!(apply(&mut map, 8, &join), SetOutcome::Void(_)));
}

#[test]
fn a_member_that_serves_is_never_dropped() {
    let mut map = in_sync(5, &[1, 2]);
    let before = map.clone();
    let dropped = SetEntry::Drop { epoch: Epoch(5), brick: brick(1) };
    assert!(matches!(apply(&mut map, 6, &dropped), SetOutcome::Void(_)));
    assert_eq!(map, before);
}

#[test]
fn a_reset_brick_waits_for_its_commit_and_an_added_one_is_done_when_it_joined() {
    let mut map = in_sync(5, &[1, 2]);
    let reset = Change::Reset { brick: brick(2) };
    let mut changes = vec![reset];
    let retire = Step::Retire { brick: brick(2), incarnation: inc(20) };
    assert_eq!(step(&map, &changes, &reset, 1, all_known), retire);
    leave(&mut map, 6, 2);
    progress(&map, &mut changes);
    assert_eq!(step(&map, &changes, &reset, 1, all_known), Step::Wait(Why::Committed));
    insert(&mut map, (brick(3), peer(3)), "/b3", None);
    changes.push(Change::Add { new: brick(3) });
    join(&mut map, 7, 3);
    progress(&map, &mut changes);
    assert_eq!(changes, [reset]);
    assert!(leaves(&changes, brick(2)) && !leaves(&changes, brick(3)));
}

/// The disk with the last good copy is lost: one of those that are left is made the good one, and
/// only where there is no better.
#[test]
fn a_copy_is_trusted_by_command_only_where_no_good_one_is_left() {
    let mut marks = crate::member::stale::StaleMarks::default();
    let (all, some) = (crate::testing::gfid(1), crate::testing::gfid(2));
    for (n, gfid) in [(1, all), (2, all), (1, some)] {
        marks.mark(brick(n), gfid);
    }
    let members = [brick(1), brick(2)];
    assert_eq!(marks.hopeless(brick(1), &members), [all]);
    assert_eq!(marks.source(all, brick(1), &members), None);
    marks.clear(brick(1), all);
    assert_eq!(marks.hopeless(brick(1), &members), []);
    assert_eq!(marks.source(all, brick(2), &members), Some(brick(1)), "the others are healed");
    assert_eq!(marks.hopeless(brick(3), &members), [], "not one whose copy is not marked");
}

#[test]
fn what_a_set_can_do_without_is_told_from_the_map() {
    let map = set_map(5, &[(1, InSync), (2, InSync), (3, Out)]);
    assert_eq!(can_do_without(&map, &[brick(3)], 2), Ok(()));
    assert_eq!(can_do_without(&map, &[brick(1)], 1), Ok(()));
    let few = Err(Why::TooFew { left: 1, needed: 2 });
    assert_eq!(can_do_without(&map, &[brick(1)], 2), few);
    assert_eq!(can_do_without(&map, &[brick(1), brick(2)], 1), Err(Why::LastCopy));
}
