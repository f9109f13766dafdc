use super::*;
use crate::testing::{brick, gfid, inc};
use crate::time::{LEASE_TERM, MS};

fn key(n: u8) -> LeaseKey {
    LeaseKey::Inode(gfid(n))
}

fn lease(n: u8, mode: Mode, counter: u64) -> Lease {
    Lease { key: key(n), mode, number: LeaseNumber { base: 5, counter } }
}

fn at(ms: u64) -> Tick {
    Tick(1_000_000 * MS).after(ms * MS)
}

fn cache() -> LeaseCache {
    let mut cache = LeaseCache::default();
    assert!(cache.on_map(Epoch(5), (brick(1), inc(10))).is_empty());
    cache
}

#[test]
fn a_term_counts_from_the_sending_of_the_request() {
    let mut cache = cache();
    let x = lease(1, Mode::Exclusive, 1);
    assert_eq!(cache.on_granted(at(0), LEASE_TERM, x), None);
    assert_eq!(cache.valid(at(1499), key(1), Mode::Shared), Some(x.number));
    assert_eq!(cache.valid(at(1500), key(1), Mode::Shared), None);
    cache.on_renewed(at(1000), LEASE_TERM, &[]);
    assert_eq!(cache.valid(at(2499), key(1), Mode::Exclusive), Some(x.number));
    // An old answer shortens nothing.
    cache.on_renewed(at(300), LEASE_TERM, &[]);
    assert_eq!(cache.rest(at(2000), key(1)), 500 * MS);
    assert_eq!(cache.rest(at(2600), key(1)), 0);
}

#[test]
fn a_shared_lease_allows_no_change() {
    let mut cache = cache();
    cache.on_granted(at(0), LEASE_TERM, lease(1, Mode::Shared, 1));
    assert!(cache.valid(at(1), key(1), Mode::Shared).is_some());
    assert!(cache.valid(at(1), key(1), Mode::Exclusive).is_none());
}

/// Trap 22: a lease named overdue is not extended, and its recall is learnt by that.
#[test]
fn trap_22_an_overdue_lease_is_not_extended_by_a_renewal() {
    let mut cache = cache();
    let x = lease(1, Mode::Exclusive, 1);
    cache.on_granted(at(0), LEASE_TERM, x);
    cache.on_granted(at(0), LEASE_TERM, lease(2, Mode::Shared, 2));
    let actions = cache.on_renewed(at(600), LEASE_TERM, &[key(1)]);
    assert_eq!(actions, [RecallAction::GiveBack { lease: x, keep: Mode::None }]);
    assert!(cache.may_begin(at(700), key(1), Mode::Shared).is_none());
    assert!(cache.valid(at(1499), key(1), Mode::Exclusive).is_some(), "to write back");
    assert!(cache.valid(at(1500), key(1), Mode::Exclusive).is_none());
    assert!(cache.valid(at(2000), key(2), Mode::Shared).is_some());
}

/// Found by `lease_properties`: asked for again while held, given back, then the grant comes.
/// Traps 16, 22: a grant that arrives when its lease was revoked already, or of an earlier
/// lead, or of before the session was forgotten, gives nothing.
#[test]
fn trap_16_a_late_grant_revives_nothing() {
    let mut cache = cache();
    let x = lease(1, Mode::Exclusive, 1);
    cache.on_granted(at(0), LEASE_TERM, x);
    cache.on_renewed(at(2500), LEASE_TERM, &[key(1)]);
    cache.returning(key(1), Mode::None);
    cache.on_returned(x);
    let not_held = Some(RecallAction::NotHeld { lease: x });
    assert_eq!(cache.on_granted(at(2), LEASE_TERM, x), not_held);
    let y = lease(2, Mode::Exclusive, 2);
    cache.lose_all_at(at(3000));
    assert_eq!(cache.on_granted(at(2999), LEASE_TERM, y), Some(RecallAction::NotHeld { lease: y }));
    assert_eq!(cache.on_granted(at(3000), LEASE_TERM, lease(2, Mode::Exclusive, 3)), None);
    cache.on_map(Epoch(7), (brick(2), inc(20)));
    let z = lease(3, Mode::Shared, 9);
    assert_eq!(cache.on_granted(at(3100), LEASE_TERM, z), Some(RecallAction::NotHeld { lease: z }));
}

#[test]
fn a_recall_that_overtakes_its_grant_is_honoured_when_it_arrives() {
    let mut cache = cache();
    let x = lease(1, Mode::Exclusive, 3);
    assert_eq!(cache.on_recall(x, Mode::Shared), RecallAction::Wait);
    let action = cache.on_granted(at(0), LEASE_TERM, x);
    assert_eq!(action, Some(RecallAction::GiveBack { lease: x, keep: Mode::Shared }));
    assert_eq!(cache.on_recall(x, Mode::Shared), RecallAction::Wait, "already under way");
    // No grant is coming: the lead is told that nothing is held.
    let y = lease(2, Mode::Exclusive, 4);
    cache.on_recall(y, Mode::None);
    assert_eq!(cache.no_grant_coming(key(2)), Some(RecallAction::NotHeld { lease: y }));
}

/// The lead has taken the return and calls back what was kept, for somebody who waits to change
/// it: that push came before the answer to the return, and waited for the renewal which named
/// the lease as overdue.
#[test]
fn what_was_kept_is_given_back_though_its_recall_overtook_the_returns_answer() {
    let mut cache = cache();
    let x = lease(1, Mode::Exclusive, 1);
    let kept = lease(1, Mode::Shared, 1);
    cache.on_granted(at(0), LEASE_TERM, x);
    cache.on_recall(x, Mode::Shared);
    cache.returning(key(1), Mode::Shared);
    assert_eq!(cache.on_recall(kept, Mode::None), RecallAction::Wait);
    assert_eq!(cache.no_grant_coming(key(1)), None, "it is held, whatever is on the way");
    let action = cache.on_returned(x);
    assert_eq!(action, Some(RecallAction::GiveBack { lease: kept, keep: Mode::None }));
    assert!(cache.may_begin(at(1), key(1), Mode::Shared).is_none());
    assert_eq!(cache.returning(key(1), Mode::None), Some((kept, Mode::None, false)));
    assert_eq!(cache.on_returned(kept), None);
    assert_eq!(cache.lease(key(1)), None);
}

#[test]
fn nothing_is_asked_while_a_return_is_under_way() {
    let mut cache = cache();
    let x = lease(1, Mode::Exclusive, 1);
    cache.opened(gfid(1));
    cache.on_granted(at(0), LEASE_TERM, x);
    cache.on_recall(x, Mode::Shared);
    assert_eq!(cache.returning(key(1), Mode::Shared), Some((x, Mode::Shared, true)));
    assert!(!cache.may_ask(key(1)));
    assert!(cache.valid(at(1), key(1), Mode::Shared).is_none());
    cache.on_returned(x);
    assert!(cache.may_ask(key(1)));
    assert!(cache.valid(at(1), key(1), Mode::Shared).is_some());
    assert!(cache.valid(at(1), key(1), Mode::Exclusive).is_none());
}

/// Traps 16, 59: under a new lead nothing is valid before it is reclaimed, and a claim names
/// the last epoch in which the lease was renewed.
#[test]
fn trap_16_leases_are_reclaimed_from_a_new_lead_or_lost() {
    let mut cache = cache();
    cache.on_granted(at(0), LEASE_TERM, lease(1, Mode::Exclusive, 1));
    cache.on_granted(at(0), LEASE_TERM, lease(2, Mode::Exclusive, 2));
    cache.on_granted(at(0), LEASE_TERM, lease(3, Mode::Shared, 3));
    cache.opened(gfid(1));
    assert!(cache.on_map(Epoch(6), (brick(1), inc(10))).is_empty(), "same lead");
    assert!(cache.valid(at(1), key(1), Mode::Exclusive).is_some());
    assert_eq!(cache.on_map(Epoch(7), (brick(2), inc(20))), [key(3)]);
    assert!(cache.valid(at(1), key(1), Mode::Exclusive).is_none());
    cache.on_renewed(at(2), LEASE_TERM, &[]);
    assert!(cache.valid(at(3), key(1), Mode::Exclusive).is_none(), "renewal reclaims nothing");
    let (claims, pins) = cache.reclaims();
    assert_eq!(
        claims.iter().map(|c| (c.key, c.last_renewed_epoch)).collect::<Vec<_>>(),
        [(key(1), Epoch(5)), (key(2), Epoch(5))]
    );
    assert_eq!(pins, [gfid(1)]);
    let new = Lease { number: LeaseNumber { base: 7, counter: 1 }, ..claims_lease(1) };
    let answer = Reclaimed { granted: vec![new], refused: vec![key(2)] };
    assert_eq!(cache.on_reclaimed(at(4), LEASE_TERM, &answer), [key(2)]);
    assert_eq!(cache.valid(at(5), key(1), Mode::Exclusive), Some(new.number));
    assert!(cache.may_ask(key(2)));
    assert!(cache.lose_unreclaimed().is_empty());
}

fn claims_lease(n: u8) -> Lease {
    lease(n, Mode::Exclusive, 1)
}

#[test]
fn a_restarted_lead_is_a_new_lead() {
    let mut cache = cache();
    cache.on_granted(at(0), LEASE_TERM, lease(1, Mode::Exclusive, 1));
    cache.on_map(Epoch(6), (brick(1), inc(11)));
    assert!(cache.valid(at(1), key(1), Mode::Exclusive).is_none());
    assert_eq!(cache.lose_unreclaimed(), [key(1)]);
}

#[test]
fn a_forgotten_session_holds_nothing() {
    let mut cache = cache();
    cache.on_granted(at(0), LEASE_TERM, lease(1, Mode::Exclusive, 1));
    assert!(!cache.lost(key(1), LeaseNumber { base: 5, counter: 9 }));
    assert_eq!(cache.lose_all(), [key(1)]);
    assert!(cache.valid(at(1), key(1), Mode::Shared).is_none());
}

/// The grant of a second lease never arrived, its recall did. Given back unseen, the lead names
/// neither in renewals any more: the older lease must not be kept alive by them.
#[test]
fn a_recall_whose_grant_was_lost_ends_the_older_lease() {
    let mut cache = cache();
    cache.on_granted(at(0), LEASE_TERM, lease(1, Mode::Shared, 1));
    let newer = lease(1, Mode::Exclusive, 2);
    assert_eq!(cache.on_recall(newer, Mode::None), RecallAction::Wait);
    let answer = cache.no_grant_coming(key(1));
    assert_eq!(answer, Some(RecallAction::NotHeld { lease: newer }));
    assert_eq!(cache.take_lapsed(), [key(1)]);
    cache.on_renewed(at(100), LEASE_TERM, &[]);
    assert_eq!(cache.valid(at(101), key(1), Mode::Shared), None);
    let late = cache.on_granted(at(50), LEASE_TERM, newer);
    assert_eq!(late, Some(RecallAction::NotHeld { lease: newer }), "it was given back");
}

/// Recalled by one lead, given back to the next: it is for the new lead to recall it.
#[test]
fn a_recall_ends_with_its_lead() {
    let mut cache = cache();
    let x = lease(1, Mode::Exclusive, 1);
    cache.on_granted(at(0), LEASE_TERM, x);
    cache.on_recall(x, Mode::Shared);
    cache.on_map(Epoch(6), (brick(2), inc(20)));
    assert_eq!(cache.returning(key(1), Mode::Shared), None);
    cache.on_returned(x);
    cache.on_renewed(at(100), LEASE_TERM, &[]);
    assert_eq!(cache.valid(at(101), key(1), Mode::Shared), None, "only a reclaim revives it");
}
