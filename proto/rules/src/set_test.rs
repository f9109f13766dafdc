use super::*;
use crate::testing::{brick, in_sync, inc, peer, set_map};
use MemberState::{InSync, Out, Syncing};

fn states(map: &SetMap) -> Vec<MemberState> {
    map.members.iter().map(|m| m.state).collect()
}

fn evict(epoch: u64, n: u8) -> SetEntry {
    SetEntry::Evict { epoch: Epoch(epoch), brick: brick(n), reason: "silent".into() }
}

fn new_epoch(epoch: u64, lead_changed: bool) -> SetOutcome {
    SetOutcome::NewEpoch { epoch: Epoch(epoch), lead_changed }
}

/// Trap 1: entries name the epoch in which they were checked and are void in any other.
#[test]
fn trap_01_an_entry_checked_in_another_epoch_is_void() {
    let bump = SetEntry::Bump { epoch: Epoch(4) };
    let join = SetEntry::Join { epoch: Epoch(4), brick: brick(2), incarnation: inc(20) };
    let leave = SetEntry::Leave {
        epoch: Epoch(4),
        brick: brick(1),
        incarnation: inc(10),
        reason: String::new(),
    };
    let up = SetEntry::BrickUp { epoch: Epoch(4), brick: brick(1), incarnation: inc(11) };
    let restart = SetEntry::Restart { epoch: Epoch(4), lead: brick(1), incarnation: inc(11) };
    let peer = SetEntry::EvictPeer { epoch: Epoch(4), peer: peer(1), reason: String::new() };
    for entry in [bump, join, leave, up, restart, peer, evict(4, 2)] {
        let mut map = in_sync(5, &[1, 2, 3]);
        let before = map.clone();
        assert_eq!(apply(&mut map, 9, &entry), SetOutcome::Void(Void::Epoch), "{entry:?}");
        assert_eq!(map, before);
    }
}

#[test]
fn the_last_in_sync_member_is_never_removed() {
    let entries = [
        evict(5, 1),
        SetEntry::EvictPeer { epoch: Epoch(5), peer: peer(1), reason: String::new() },
        SetEntry::Leave {
            epoch: Epoch(5),
            brick: brick(1),
            incarnation: inc(10),
            reason: "stop".into(),
        },
    ];
    for entry in entries {
        let mut map = set_map(5, &[(1, InSync), (2, Syncing), (3, Out)]);
        assert_eq!(apply(&mut map, 9, &entry), SetOutcome::Void(Void::LastInSync));
        assert_eq!(map.epoch, Epoch(5));
    }
}

#[test]
fn the_lead_is_sticky_and_falls_to_the_first_in_sync_in_order() {
    let mut map = in_sync(5, &[1, 2, 3]);
    assert_eq!(apply(&mut map, 6, &evict(5, 1)), new_epoch(6, true));
    assert_eq!(map.lead, Some(brick(2)));
    // Brick 1 comes back and joins: 2 still leads.
    let up = SetEntry::BrickUp { epoch: Epoch(6), brick: brick(1), incarnation: inc(11) };
    assert_eq!(apply(&mut map, 7, &up), SetOutcome::Noted);
    assert_eq!(map.epoch, Epoch(6), "a syncing member begins no epoch");
    let join = SetEntry::Join { epoch: Epoch(6), brick: brick(1), incarnation: inc(11) };
    assert_eq!(apply(&mut map, 8, &join), new_epoch(8, false));
    assert_eq!(map.lead, Some(brick(2)));
}

/// Trap 17: membership names the incarnation; a new one is syncing at most.
#[test]
fn trap_17_a_restarted_in_sync_member_becomes_syncing_under_its_new_incarnation() {
    let mut map = in_sync(5, &[1, 2]);
    let up = SetEntry::BrickUp { epoch: Epoch(5), brick: brick(1), incarnation: inc(11) };
    assert_eq!(apply(&mut map, 6, &up), new_epoch(6, true));
    assert_eq!(states(&map), [Syncing, InSync]);
    assert_eq!(map.members[0].incarnation, inc(11));
    assert_eq!(map.lead, Some(brick(2)));
}

/// Trap 54: not even a sole member's new incarnation serves before an entry names it.
#[test]
fn trap_54_a_sole_members_new_incarnation_is_named_by_a_bare_bump() {
    let mut map = set_map(5, &[(1, InSync), (2, Out)]);
    let up = SetEntry::BrickUp { epoch: Epoch(5), brick: brick(1), incarnation: inc(11) };
    assert_eq!(apply(&mut map, 6, &up), new_epoch(6, true), "its lease table is gone");
    assert_eq!(map.members[0].incarnation, inc(11));
    assert_eq!(states(&map), [InSync, Out]);
    let again = SetEntry::BrickUp { epoch: Epoch(6), brick: brick(1), incarnation: inc(11) };
    assert_eq!(apply(&mut map, 7, &again), SetOutcome::Void(Void::Same));
}

/// Traps 52, 53: a bare bump voids a Join proposed before it, also one in the log already.
#[test]
fn trap_52_a_bump_voids_the_join_behind_it() {
    let mut map = set_map(5, &[(1, InSync), (2, Syncing)]);
    assert_eq!(apply(&mut map, 6, &SetEntry::Bump { epoch: Epoch(5) }), new_epoch(6, false));
    let join = SetEntry::Join { epoch: Epoch(5), brick: brick(2), incarnation: inc(20) };
    assert_eq!(apply(&mut map, 7, &join), SetOutcome::Void(Void::Epoch));
    assert_eq!(states(&map), [InSync, Syncing]);
}

#[test]
fn a_join_of_a_gone_incarnation_is_void() {
    let mut map = set_map(5, &[(1, InSync), (2, Syncing)]);
    let up = SetEntry::BrickUp { epoch: Epoch(5), brick: brick(2), incarnation: inc(21) };
    assert_eq!(apply(&mut map, 6, &up), SetOutcome::Noted);
    let join = |i| SetEntry::Join { epoch: Epoch(5), brick: brick(2), incarnation: inc(i) };
    assert_eq!(apply(&mut map, 7, &join(20)), SetOutcome::Void(Void::Incarnation));
    assert_eq!(apply(&mut map, 8, &join(21)), new_epoch(8, false));
    assert_eq!(apply(&mut map, 9, &join(21)), SetOutcome::Void(Void::Epoch));
}

#[test]
fn a_leave_of_an_earlier_incarnation_is_void() {
    let mut map = in_sync(5, &[1, 2]);
    let leave = |i| SetEntry::Leave {
        epoch: Epoch(5),
        brick: brick(1),
        incarnation: inc(i),
        reason: "stopped".into(),
    };
    assert_eq!(apply(&mut map, 6, &leave(9)), SetOutcome::Void(Void::Incarnation));
    assert_eq!(apply(&mut map, 7, &leave(10)), new_epoch(7, true));
    assert!(passed_over(&map.members[0]), "until brick 2 has served");
    assert_eq!(map.members[0].reason, "out: stopped");
    apply(&mut map, 8, &SetEntry::Bump { epoch: Epoch(7) });
    assert!(!passed_over(&map.members[0]));
    assert_eq!(map.members[0].reason, "stopped");
}

/// Trap 55: after the loss of all, exactly the chosen member is in-sync, named.
#[test]
fn trap_55_a_restart_leaves_only_the_chosen_lead_in_sync() {
    let mut map = set_map(5, &[(1, InSync), (2, InSync), (3, Syncing)]);
    let entry = SetEntry::Restart { epoch: Epoch(5), lead: brick(2), incarnation: inc(21) };
    assert_eq!(apply(&mut map, 6, &entry), new_epoch(6, true));
    assert_eq!(states(&map), [Out, InSync, Syncing]);
    assert_eq!((map.lead, map.members[1].incarnation), (Some(brick(2)), inc(21)));
    // A member that was not in-sync is never chosen.
    let bad = SetEntry::Restart { epoch: Epoch(6), lead: brick(3), incarnation: inc(31) };
    assert_eq!(apply(&mut map, 7, &bad), SetOutcome::Void(Void::State));
}

#[test]
fn the_first_start_happens_once() {
    let mut map = set_map(0, &[(1, Out), (2, Out)]);
    map.lead = None;
    let start = SetEntry::Start { members: vec![(brick(1), inc(1)), (brick(2), inc(2))] };
    assert_eq!(apply(&mut map, 3, &start), new_epoch(3, true));
    assert_eq!(states(&map), [InSync, InSync]);
    assert_eq!(apply(&mut map, 4, &start), SetOutcome::Void(Void::Epoch));
}

fn lacks(pairs: &[(u8, u8)]) -> BTreeSet<(BrickId, BrickId)> {
    pairs.iter().map(|(h, g)| (brick(*h), brick(*g))).collect()
}

fn silent(bricks: &[u8]) -> BTreeSet<BrickId> {
    bricks.iter().map(|b| brick(*b)).collect()
}

/// Trap 21: only the link A-B is cut; the one that does not lead goes, whoever complains.
#[test]
fn trap_21_a_cut_link_evicts_by_order_and_never_the_lead() {
    let map = in_sync(5, &[1, 2, 3]);
    for pairs in [&[(1, 2)][..], &[(2, 1)], &[(1, 2), (2, 1)]] {
        assert_eq!(choose_eviction(&map, &silent(&[]), &lacks(pairs)), Some(brick(2)));
    }
    assert_eq!(choose_eviction(&map, &silent(&[]), &lacks(&[(2, 3)])), Some(brick(3)));
    assert_eq!(choose_eviction(&map, &silent(&[]), &lacks(&[])), None);
}

/// Trap 21: the order alone would take it.
#[test]
fn trap_21_a_lead_that_is_last_in_order_is_not_evicted() {
    let mut map = in_sync(5, &[1, 2, 3]);
    map.lead = Some(brick(3));
    for pairs in [&[(2, 3)][..], &[(3, 2)], &[(2, 3), (3, 2)]] {
        assert_eq!(choose_eviction(&map, &silent(&[]), &lacks(pairs)), Some(brick(2)));
    }
    // Both others are dead: the lead's turn would come last.
    let dead = lacks(&[(1, 2), (1, 3)]);
    assert_eq!(choose_eviction(&map, &silent(&[2, 3]), &dead), Some(brick(2)));
}

/// A member whose own link is bad is cut off from all others: it goes, the lead too, and not
/// first everybody else.
#[test]
fn the_member_that_is_cut_off_from_the_most_goes() {
    let map = in_sync(5, &[1, 2, 3]);
    for bad in [1, 2, 3] {
        let others = [1, 2, 3].into_iter().filter(|o| *o != bad);
        let pairs: Vec<(u8, u8)> = others.map(|o| (bad, o)).collect();
        let turned: Vec<(u8, u8)> = pairs.iter().map(|(a, b)| (*b, *a)).collect();
        for reports in [pairs, turned] {
            let victim = choose_eviction(&map, &silent(&[]), &lacks(&reports));
            assert_eq!(victim, Some(brick(bad)));
        }
    }
}

#[test]
fn a_silent_member_goes_only_when_a_heard_member_misses_it() {
    let map = in_sync(5, &[1, 2, 3]);
    assert_eq!(choose_eviction(&map, &silent(&[1]), &lacks(&[])), None);
    assert_eq!(choose_eviction(&map, &silent(&[1]), &lacks(&[(2, 1)])), Some(brick(1)));
    // Both others silent: the lead, which misses both, evicts one after the other.
    let two = choose_eviction(&map, &silent(&[2, 3]), &lacks(&[(1, 2), (1, 3)]));
    assert_eq!(two, Some(brick(3)));
    let all = choose_eviction(&map, &silent(&[1, 2, 3]), &lacks(&[(1, 2), (2, 1)]));
    assert_eq!(all, None, "nobody is heard: nobody can have waited");
    assert_eq!(choose_eviction(&in_sync(5, &[1]), &silent(&[1]), &lacks(&[])), None);
}

#[test]
fn a_peer_may_stop_while_enough_members_stay() {
    let map = set_map(5, &[(1, InSync), (2, InSync), (3, Syncing)]);
    assert_eq!(can_stop(&map, peer(3), 2), Ok(()));
    assert_eq!(can_stop(&map, peer(1), 1), Ok(()));
    let few = Err(CannotStop::TooFew { left: 1, needed: 2 });
    assert_eq!(can_stop(&map, peer(1), 2), few);
    let sole = set_map(5, &[(1, InSync), (2, Out)]);
    assert_eq!(can_stop(&sole, peer(1), 1), Err(CannotStop::LastInSync));
    assert_eq!(can_stop(&sole, peer(2), 1), Ok(()));
}

/// A full brick does not leave the set to one that is gone.
#[test]
fn a_member_leaves_only_while_another_one_answers() {
    let map = in_sync(5, &[1, 2]);
    assert!(!may_leave(&map, brick(1), |_, _| false));
    assert!(!may_leave(&map, brick(1), |b, _| b == brick(1)), "its own word does not count");
    assert!(may_leave(&map, brick(1), |b, i| (b, i) == (brick(2), inc(20))));
}
