use super::*;
use crate::lease::numbers::Numbers;
use crate::testing::gfid;
use crate::time::{GRACE, MS, RECALL_OVERDUE, SESSION_FORGET};

const W: SessionId = SessionId(1);
const M: SessionId = SessionId(2);
const N: SessionId = SessionId(3);

fn key(n: u8) -> LeaseKey {
    LeaseKey::Inode(gfid(n))
}

fn at(ms: u64) -> Tick {
    Tick(1_000_000 * MS).after(ms * MS)
}

fn serving(epoch: u64) -> LeaseTable {
    let mut table = LeaseTable::new_lead(Epoch(epoch), Epoch(0), []);
    let commands = table.lists_settled(at(0));
    assert_eq!(commands, [LeaseCommand::NoteGraced { epoch: Epoch(epoch) }]);
    table.graced(Epoch(epoch));
    for session in [W, M, N] {
        table.hello(at(0), session).expect("a new session");
    }
    table
}

fn wish(session: SessionId, id: u64, n: u8, mode: Mode) -> Ask {
    Ask { session, id, key: key(n), mode, how: How::Waits }
}

fn granted(commands: &[LeaseCommand]) -> Vec<(SessionId, Lease)> {
    let grant = |c: &LeaseCommand| match c {
        LeaseCommand::Grant { session, lease, .. } => Some((*session, *lease)),
        _ => None,
    };
    commands.iter().filter_map(grant).collect()
}

fn one_grant(commands: &[LeaseCommand]) -> Lease {
    let grants = granted(commands);
    assert_eq!(grants.len(), 1, "{commands:?}");
    grants[0].1
}

fn recalls(commands: &[LeaseCommand]) -> Vec<(SessionId, Mode)> {
    let recall = |c: &LeaseCommand| match c {
        LeaseCommand::Recall { session, keep, .. } => Some((*session, *keep)),
        _ => None,
    };
    commands.iter().filter_map(recall).collect()
}

fn take(table: &mut LeaseTable, ms: u64, session: SessionId, n: u8, mode: Mode) -> Lease {
    one_grant(&table.ask(at(ms), wish(session, ms, n, mode)))
}

/// Looks as often as the driver does.
fn looked(table: &mut LeaseTable, from: u64, to: u64) -> Vec<LeaseCommand> {
    (from..=to).step_by(100).flat_map(|ms| table.tick(at(ms))).collect()
}

/// Renews W (and the others) every 300 ms; returns all commands with their times.
fn live(table: &mut LeaseTable, from: u64, to: u64, who: &[SessionId]) -> Vec<(u64, LeaseCommand)> {
    let mut commands = Vec::new();
    for ms in (from..to).step_by(100) {
        if ms % 300 == 0 {
            for session in who {
                let _ = table.renew(at(ms), *session, LEASE_TERM, &[]);
            }
        }
        commands.extend(table.tick(at(ms)).into_iter().map(|c| (ms, c)));
    }
    commands
}

#[test]
fn many_readers_or_one_writer() {
    let mut table = serving(5);
    take(&mut table, 0, W, 1, Mode::Shared);
    take(&mut table, 1, M, 1, Mode::Shared);
    let commands = table.ask(at(2), wish(N, 2, 1, Mode::Exclusive));
    assert_eq!(recalls(&commands), [(W, Mode::None), (M, Mode::None)]);
    let w = table.held(W, key(1)).expect("still held");
    let m = table.held(M, key(1)).expect("still held");
    assert!(table.on_return(at(3), W, w, Mode::None, false).is_empty());
    let commands = table.on_return(at(4), M, m, Mode::None, false);
    let lease = one_grant(&commands);
    assert_eq!(lease.mode, Mode::Exclusive);
    assert!(lease.number > m.number && m.number > w.number);
    // A reader makes the writer keep a shared lease.
    let commands = table.ask(at(5), wish(W, 5, 1, Mode::Shared));
    assert_eq!(recalls(&commands), [(N, Mode::Shared)]);
    let commands = table.on_return(at(6), N, lease, Mode::Shared, false);
    assert_eq!(granted(&commands).len(), 1);
    assert!(!table.permits(N, key(1), lease.number));
    assert_eq!(table.held(N, key(1)).map(|l| l.mode), Some(Mode::Shared));
}

#[test]
fn askers_are_served_in_order_and_no_reader_overtakes_a_writer() {
    let mut table = serving(5);
    let w = take(&mut table, 0, W, 1, Mode::Shared);
    assert_eq!(recalls(&table.ask(at(1), wish(M, 1, 1, Mode::Exclusive))).len(), 1);
    assert!(table.ask(at(2), wish(N, 2, 1, Mode::Shared)).is_empty(), "waits behind M");
    let m = one_grant(&table.on_return(at(3), W, w, Mode::None, false));
    assert_eq!(table.held(M, key(1)), Some(m));
    assert_eq!(recalls(&table.tick(at(20))), [], "N's recall went out at once");
    let commands = table.on_return(at(21), M, m, Mode::Shared, false);
    assert_eq!(granted(&commands)[0].0, N);
}

#[test]
fn a_wish_for_a_free_lease_recalls_nobody() {
    let mut table = serving(5);
    take(&mut table, 0, W, 1, Mode::Exclusive);
    let ask = Ask { how: How::IfFree, ..wish(M, 1, 1, Mode::Shared) };
    let refused = LeaseCommand::Refuse { session: M, ask: 1, refusal: Refusal::Busy };
    assert_eq!(table.ask(at(1), ask), [refused]);
    let free = Ask { key: key(2), ..ask };
    assert_eq!(granted(&table.ask(at(1), free)).len(), 1);
}

#[test]
fn a_return_overtaken_by_a_later_grant_ends_nothing() {
    let mut table = serving(5);
    let old = take(&mut table, 0, W, 1, Mode::Exclusive);
    table.on_return(at(1), W, old, Mode::None, false);
    let new = take(&mut table, 2, W, 1, Mode::Exclusive);
    assert!(new.number > old.number);
    table.on_return(at(3), W, old, Mode::None, false);
    assert_eq!(table.held(W, key(1)), Some(new));
    // Asked while its recall is under way, the holder waits for its own return.
    table.ask(at(4), wish(M, 4, 1, Mode::Exclusive));
    assert!(table.ask(at(5), wish(W, 5, 1, Mode::Exclusive)).is_empty());
    let commands = table.on_return(at(6), W, new, Mode::None, false);
    assert_eq!(granted(&commands)[0].0, M);
}

/// Found by `lease_properties`: a lease asked for again while held is granted again, with a new
/// term, by which its holder counts.
#[test]
fn a_lease_granted_again_is_not_revoked_before_its_new_term_ends() {
    let mut table = serving(5);
    let lease = take(&mut table, 0, W, 1, Mode::Exclusive);
    let mut revoked_at = None;
    for ms in (0..4000).step_by(50) {
        // A lead with little promise left gives short terms, so that the grant's counts.
        for session in [W, M, N] {
            table.renew(at(ms), session, 100 * MS, &[]).expect("alive");
        }
        if ms == 1400 {
            assert_eq!(take(&mut table, ms, W, 1, Mode::Shared), lease, "the same lease");
            assert_eq!(recalls(&table.ask(at(ms), wish(M, 9, 1, Mode::Exclusive))).len(), 1);
        }
        if !table.tick(at(ms)).is_empty() {
            revoked_at.get_or_insert(ms);
        }
    }
    assert_eq!(revoked_at, Some(3000), "its holder counts to 2900, 2975 by a slow clock");
}

/// Trap 22: the holder's heartbeat lives, its recall handler is wedged. Its lease is revoked
/// once its last renewal has run out, the session stays, and nothing is granted before what it
/// left is settled (trap 48).
#[test]
fn trap_22_an_overdue_lease_is_not_renewed_and_revoked_when_it_ran_out() {
    let mut table = serving(5);
    let lease = take(&mut table, 0, W, 1, Mode::Exclusive);
    let other = take(&mut table, 0, W, 2, Mode::Exclusive);
    assert_eq!(recalls(&table.ask(at(100), wish(M, 1, 1, Mode::Exclusive))).len(), 1);
    let commands = live(&mut table, 300, 4000, &[W, M, N]);
    let (ms, settle) = &commands[0];
    // Renewed at 300; overdue from 600 on; its last term counted by the lead ends at 1875.
    let scope = SettleScope { session: W, key: Some(key(1)) };
    let LeaseCommand::Settle { scope: s, raise } = settle else { panic!("{settle:?}") };
    assert_eq!((*s, *ms), (scope, 1900));
    assert!(raise[0].1 > lease.number, "late frames die by the new number");
    assert_eq!(commands.len(), 1, "granted to nobody before it is settled");
    assert!(table.knows(W));
    assert!(table.permits(W, key(2), other.number), "only the lease goes, never the session");
    assert!(table.pinned(gfid(1), None), "it did not say whether the file is open");
    let answer = table.renew(at(4000), W, LEASE_TERM, &[]).expect("alive");
    assert_eq!(answer.overdue, [key(1)], "named until it knows");
    let commands = table.settled(at(4001), scope);
    assert_eq!(granted(&commands)[0].0, M);
    table.on_return(at(4002), W, lease, Mode::Shared, false);
    let answer = table.renew(at(4002), W, LEASE_TERM, &[]).expect("alive");
    assert_eq!(answer.overdue, [key(1)], "of a revoked lease nothing is kept");
    table.on_return(at(4002), W, lease, Mode::None, false);
    let answer = table.renew(at(4003), W, LEASE_TERM, &[]).expect("alive");
    assert!(answer.overdue.is_empty());
    assert!(table.held(M, key(1)).is_some(), "a revoked holder's return ends nothing");
}

#[test]
fn a_holder_that_writes_back_has_five_seconds() {
    let mut table = serving(5);
    take(&mut table, 0, W, 1, Mode::Exclusive);
    table.ask(at(100), wish(M, 1, 1, Mode::Exclusive));
    let mut revoked = None;
    for ms in (300..9000).step_by(300) {
        let _ = table.renew(at(ms), W, LEASE_TERM, &[key(1)]);
        let _ = table.renew(at(ms), M, LEASE_TERM, &[]);
        let _ = table.renew(at(ms), N, LEASE_TERM, &[]);
        if !table.tick(at(ms)).is_empty() {
            revoked.get_or_insert(ms);
        }
    }
    let revoked = revoked.expect("not for ever");
    assert!((5100..7200).contains(&revoked), "{revoked}");
}

/// Trap 23: the lead's lease ends, by a slow client's clock too, before its promises do.
#[test]
fn trap_23_a_lead_never_renews_beyond_its_promises() {
    assert_eq!(term(at(0), at(10_000)), LEASE_TERM);
    for rest in [1u64, 10, 300, 1499, 1500, 1574] {
        assert!(given(term(at(0), at(rest))) <= rest * MS);
    }
    assert_eq!(term(at(5), at(5)), 0);
    assert_eq!(term(at(5), Tick::ZERO), 0);
    let mut table = serving(5);
    assert_eq!(table.renew(at(0), W, 0, &[]), Err(Refusal::NotServing));
}

#[test]
fn a_silent_session_loses_its_leases_after_a_term_and_its_pins_after_30_s() {
    let mut table = serving(5);
    let lease = take(&mut table, 0, W, 1, Mode::Exclusive);
    take(&mut table, 0, W, 2, Mode::Shared);
    table.pin(W, gfid(9));
    table.pin(M, gfid(8));
    table.ask(at(0), wish(M, 1, 1, Mode::Exclusive));
    let commands = live(&mut table, 300, 3000, &[M, N]);
    let (ms, LeaseCommand::Settle { scope, raise }) = &commands[0] else { panic!() };
    assert_eq!((*ms, scope.key, scope.session), (1600, None, W));
    assert_eq!(raise.len(), 1, "only exclusive leases can have left changes");
    assert!(raise[0].1 > lease.number);
    assert_eq!(commands.len(), 1);
    assert_eq!(table.hello(at(3000), W), Err(Refusal::Busy), "its death is being settled");
    let commands = table.settled(at(3000), *scope);
    assert_eq!(granted(&commands)[0].0, M);
    assert_eq!(table.renew(at(3100), W, LEASE_TERM, &[]), Err(Refusal::UnknownSession));
    assert!(table.pinned(gfid(9), None));
    let commands = live(&mut table, 3300, 31_000, &[M, N]);
    let forget = LeaseCommand::Forget { session: W, unpinned: vec![gfid(9)] };
    assert_eq!(commands, [(SESSION_FORGET / MS + 100, forget)]);
    assert!(table.pinned(gfid(8), None));
}

/// Found by the simulation: the client counts a grant from sending its ask, not from the last
/// renewal; until then nobody else may get the key.
#[test]
fn a_session_is_not_dead_before_its_latest_grant_has_run_out() {
    let mut table = serving(5);
    table.renew(at(0), W, LEASE_TERM, &[]).expect("alive");
    take(&mut table, 1500, W, 1, Mode::Exclusive);
    let dead = |commands: &[LeaseCommand]| {
        commands.iter().any(|c| {
            matches!(c, LeaseCommand::Settle { scope, .. } if scope.session == W && scope.key.is_none())
        })
    };
    assert!(!dead(&looked(&mut table, 0, 3000)));
    assert!(dead(&table.tick(at(3100))));
}

#[test]
fn a_dead_session_that_says_hello_again_has_no_leases_and_keeps_its_pins() {
    let mut table = serving(5);
    take(&mut table, 0, W, 1, Mode::Exclusive);
    table.pin(W, gfid(9));
    let commands = live(&mut table, 300, 3000, &[M, N]);
    let LeaseCommand::Settle { scope, .. } = &commands[0].1 else { panic!() };
    table.settled(at(3000), *scope);
    assert!(!table.knows(W));
    table.hello(at(3001), W).expect("settled");
    assert!(table.knows(W));
    assert_eq!(table.held(W, key(1)), None);
    assert!(table.pinned(gfid(9), Some(M)));
}

#[test]
fn a_dead_askers_place_in_the_queue_goes() {
    let mut table = serving(5);
    let w = take(&mut table, 0, W, 1, Mode::Shared);
    table.ask(at(0), wish(M, 1, 1, Mode::Exclusive));
    table.ask(at(0), wish(N, 1, 1, Mode::Shared));
    table.cancel(at(1), M, 1);
    assert!(table.held(N, key(1)).is_some(), "the writer gave up: the reader goes on");
    let commands = table.on_return(at(2), W, w, Mode::None, false);
    assert!(commands.is_empty());
}

/// Trap 28 (first half): a bouncing key stays at least 10 ms with each holder.
#[test]
fn trap_28_a_contended_key_is_held_for_a_moment() {
    let mut table = serving(5);
    let mut lease = take(&mut table, 0, W, 1, Mode::Exclusive);
    let mut holder = W;
    for (n, next) in [M, W, M].into_iter().enumerate() {
        let ms = 100 + n as u64;
        let mut commands = table.ask(at(ms), wish(next, ms, 1, Mode::Exclusive));
        if commands.is_empty() {
            assert!(table.contended(at(ms), key(1)));
            assert!(table.tick(at(ms + 2)).is_empty());
            commands = table.tick(at(ms + 11));
        }
        assert_eq!(recalls(&commands), [(holder, Mode::None)]);
        lease = one_grant(&table.on_return(at(ms), holder, lease, Mode::None, false));
        holder = next;
    }
    assert!(!table.contended(at(9000), key(1)));
}

/// Trap 28: the third in a row waits for the holder's moment, and no longer.
#[test]
fn trap_28_a_bouncing_key_is_not_recalled_before_its_moment_is_over() {
    let mut table = serving(5);
    let first = take(&mut table, 0, W, 1, Mode::Exclusive);
    assert_eq!(recalls(&table.ask(at(100), wish(M, 1, 1, Mode::Exclusive))).len(), 1);
    let second = one_grant(&table.on_return(at(101), W, first, Mode::None, false));
    assert_eq!(recalls(&table.ask(at(200), wish(W, 2, 1, Mode::Exclusive))).len(), 1);
    one_grant(&table.on_return(at(201), M, second, Mode::None, false));
    assert!(table.contended(at(202), key(1)));
    assert!(table.ask(at(202), wish(M, 3, 1, Mode::Exclusive)).is_empty(), "W has just got it");
    assert!(table.tick(at(210)).is_empty());
    assert_eq!(recalls(&table.tick(at(211))), [(W, Mode::None)]);
}

/// Traps 4, 48: W's lease is revoked, and W dies before that is settled: both settles copy what it
/// left, so nobody has the key before both are over.
#[test]
fn a_key_waits_for_the_settle_of_its_dead_session_too() {
    let mut table = serving(5);
    take(&mut table, 0, W, 1, Mode::Exclusive);
    table.ask(at(100), wish(M, 1, 1, Mode::Exclusive));
    let commands = live(&mut table, 300, 2500, &[W, M, N]);
    let one = SettleScope { session: W, key: Some(key(1)) };
    let all = SettleScope { session: W, key: None };
    let begun = |commands: &[(u64, LeaseCommand)], scope| {
        let is =
            |c: &LeaseCommand| matches!(c, LeaseCommand::Settle { scope: s, .. } if *s == scope);
        commands.iter().any(|(_, c)| is(c))
    };
    assert!(begun(&commands, one) && !begun(&commands, all), "{commands:?}");
    let commands = live(&mut table, 2500, 5000, &[M, N]);
    assert!(begun(&commands, all), "{commands:?}");
    assert!(granted(&table.settled(at(5001), one)).is_empty(), "the session's own goes on");
    assert_eq!(granted(&table.settled(at(5002), all))[0].0, M);
}

/// Two that fight for a key, up to the moment from which it is contended: M holds it.
fn fought_for(table: &mut LeaseTable) -> Lease {
    let first = take(table, 0, W, 1, Mode::Exclusive);
    table.ask(at(100), wish(M, 1, 1, Mode::Exclusive));
    let second = one_grant(&table.on_return(at(101), W, first, Mode::None, false));
    table.ask(at(200), wish(W, 2, 1, Mode::Exclusive));
    let third = one_grant(&table.on_return(at(201), M, second, Mode::None, false));
    table.ask(at(300), wish(M, 3, 1, Mode::Exclusive));
    one_grant(&table.on_return(at(301), W, third, Mode::None, false))
}

fn yielding(session: SessionId, id: u64) -> Ask {
    Ask { how: How::Yields, ..wish(session, id, 1, Mode::Exclusive) }
}

fn one_turn(commands: &[LeaseCommand]) -> Lease {
    match commands {
        [LeaseCommand::Turn { lease, .. }] => *lease,
        other => panic!("{other:?}"),
    }
}

/// Trap 28: whoever may yield is told to have its change executed, until the fight is over.
#[test]
fn trap_28_a_contended_key_is_not_granted_to_who_may_yield() {
    let mut table = serving(5);
    let m = fought_for(&mut table);
    let refused = |id| LeaseCommand::Refuse { session: W, ask: id, refusal: Refusal::Contended };
    assert_eq!(table.ask(at(400), yielding(W, 4)), [refused(4)]);
    assert_eq!(one_grant(&table.ask(at(401), yielding(M, 5))), m, "it has the lease already");
    // Executed for W: M gives its lease back; nobody is recalled for the changes that follow.
    assert_eq!(recalls(&table.ask_turn(at(420), W, 6, key(1))).len(), 1);
    one_turn(&table.on_return(at(421), M, m, Mode::None, false));
    assert!(table.end_turn(at(422), key(1), 6).is_empty());
    for (n, session) in [M, W, M, W].into_iter().enumerate() {
        let (ms, id) = (1000 * (n as u64 + 1), 10 + n as u64);
        assert_eq!(table.ask(at(ms), yielding(session, id)).len(), 1);
        assert!(table.contended(at(ms + 1), key(1)), "it is fought for until {ms}");
        one_turn(&table.ask_turn(at(ms + 1), session, id, key(1)));
        assert!(table.end_turn(at(ms + 2), key(1), id).is_empty());
        live(&mut table, ms + 100, ms + 1000, &[W, M, N]);
    }
    // W alone goes on: after 2 s it gets the lease.
    one_turn(&table.ask_turn(at(5900), W, 20, key(1)));
    table.end_turn(at(5901), key(1), 20);
    assert!(table.held(W, key(1)).is_none());
    one_grant(&table.ask(at(6100), yielding(W, 21)));
}

#[test]
fn a_turn_excludes_everybody_until_it_ends_and_has_a_number_of_its_own() {
    let mut table = serving(5);
    let shared = take(&mut table, 0, W, 1, Mode::Shared);
    // Its own shared lease has to go: what it caches is about to change.
    assert_eq!(recalls(&table.ask_turn(at(1), W, 1, key(1))), [(W, Mode::None)]);
    let turn = one_turn(&table.on_return(at(2), W, shared, Mode::None, false));
    assert!(turn.number > shared.number);
    assert!(table.permits(W, key(1), turn.number) && !table.permits(M, key(1), turn.number));
    assert!(table.in_turn(key(1)) && table.others_hold(M, key(1)));
    let free = Ask { how: How::IfFree, ..wish(M, 2, 1, Mode::Shared) };
    assert!(granted(&table.ask(at(3), free)).is_empty());
    assert!(table.ask(at(4), wish(M, 3, 1, Mode::Shared)).is_empty());
    assert!(table.ask_turn(at(5), N, 4, key(1)).is_empty(), "one after the other");
    assert!(table.end_turn(at(6), key(1), 99).is_empty(), "another's");
    let commands = table.end_turn(at(7), key(1), 1);
    assert_eq!(granted(&commands).len(), 1);
    assert_eq!(recalls(&commands), [(M, Mode::None)], "N is next");
    assert!(!table.permits(W, key(1), turn.number));
    // No time ends it.
    looked(&mut table, 100, 1000);
    assert!(!table.settling());
}

/// The session's own exclusive lease stays: nothing changes of which it would have to hear.
#[test]
fn a_turn_beside_the_own_exclusive_lease_has_its_number() {
    let mut table = serving(5);
    let own = take(&mut table, 0, W, 1, Mode::Exclusive);
    let turn = one_turn(&table.ask_turn(at(1), W, 1, key(1)));
    assert_eq!(turn.number, own.number);
    // Another asks: the lease goes back, the key to the asker only after the turn.
    assert_eq!(recalls(&table.ask(at(2), wish(M, 2, 1, Mode::Exclusive))), [(W, Mode::None)]);
    assert!(table.on_return(at(3), W, own, Mode::None, false).is_empty());
    assert!(table.permits(W, key(1), turn.number));
    assert_eq!(granted(&table.end_turn(at(4), key(1), 1))[0].0, M);
}

/// Trap 60: the holder may have bytes buffered at the very end to which the lead would append.
#[test]
fn trap_60_bytes_are_not_changed_by_the_lead_beside_the_own_exclusive_lease() {
    let mut table = serving(5);
    let refused = [LeaseCommand::Refuse { session: W, ask: 2, refusal: Refusal::LeaseNeeded }];
    let own = take(&mut table, 0, W, 1, Mode::Exclusive);
    assert_eq!(table.ask_turn_alone(at(1), W, 2, key(1)), refused);
    table.on_return(at(2), W, own, Mode::None, false);
    one_turn(&table.ask_turn_alone(at(3), W, 3, key(1)));
    // In the turn the session is granted nothing of the key, so it begins to buffer nothing.
    assert!(table.ask(at(4), wish(W, 4, 1, Mode::Exclusive)).is_empty());
    assert_eq!(granted(&table.end_turn(at(5), key(1), 3))[0].0, W);
}

/// Trap 26: W writes back what M wants, and that waits for W's own change, on its way to the lead.
#[test]
fn trap_26_no_turn_waits_for_the_return_of_the_askers_own_lease() {
    let mut table = serving(5);
    take(&mut table, 0, W, 1, Mode::Exclusive);
    assert_eq!(recalls(&table.ask(at(1), wish(M, 1, 1, Mode::Shared))).len(), 1);
    let refused = [LeaseCommand::Refuse { session: W, ask: 2, refusal: Refusal::LeaseNeeded }];
    assert_eq!(table.ask_turn(at(2), W, 2, key(1)), refused);
}

#[test]
fn a_turn_waits_for_the_settling_and_goes_with_its_asker() {
    let mut table = serving(5);
    take(&mut table, 0, W, 1, Mode::Exclusive);
    table.ask_turn(at(100), M, 1, key(1));
    let commands = live(&mut table, 300, 2500, &[W, M, N]);
    let settles = |c: &LeaseCommand| matches!(c, LeaseCommand::Settle { .. });
    assert!(commands.iter().any(|(_, c)| settles(c)), "{commands:?}");
    assert!(!table.in_turn(key(1)));
    let scope = SettleScope { session: W, key: Some(key(1)) };
    table.cancel(at(2501), M, 1);
    assert!(table.settled(at(2502), scope).is_empty(), "nobody waits any more");
    one_turn(&table.ask_turn(at(2503), N, 2, key(1)));
}

/// Trap 48: W lives, its lease is revoked; whoever asks, new or waiting, waits for the settling.
#[test]
fn trap_48_a_revoked_lease_is_settled_before_anybody_has_the_key() {
    let mut table = serving(5);
    take(&mut table, 0, W, 1, Mode::Exclusive);
    assert_eq!(recalls(&table.ask(at(100), wish(M, 1, 1, Mode::Exclusive))).len(), 1);
    let commands = live(&mut table, 300, 2500, &[W, M, N]);
    let scope = SettleScope { session: W, key: Some(key(1)) };
    let settles =
        |c: &LeaseCommand| matches!(c, LeaseCommand::Settle { scope: s, .. } if *s == scope);
    assert!(commands.iter().any(|(_, c)| settles(c)), "{commands:?}");
    assert!(table.settling());
    assert!(table.ask(at(2501), wish(N, 2, 1, Mode::Shared)).is_empty());
    let only = Ask { how: How::IfFree, ..wish(N, 3, 1, Mode::Shared) };
    assert!(granted(&table.ask(at(2502), only)).is_empty());
    assert!(granted(&table.tick(at(2503))).is_empty());
    assert_eq!(granted(&table.settled(at(2504), scope))[0].0, M);
    assert!(!table.settling());
}

/// Trap 58: a slot from a set at epoch 90 comes to one at epoch 3.
#[test]
fn trap_58_numbers_start_from_the_later_of_epoch_and_flip() {
    let mut table = serving(3);
    table.slot_flipped(gfid(1).slot(), 95);
    let lease = take(&mut table, 0, W, 1, Mode::Exclusive);
    assert!(lease.number > LeaseNumber { base: 90, counter: 1000 });
    table.on_epoch(Epoch(120));
    let next = take(&mut table, 1, W, 2, Mode::Exclusive);
    assert_eq!(next.number.base, 120);
    assert!(table.permits(W, key(1), lease.number), "same lead: the table carries over");
}

#[test]
fn a_created_inode_is_held_under_its_parts_number() {
    let mut table = serving(5);
    let part = LeaseKey::Part(gfid(1));
    let ask = Ask { key: part, ..wish(W, 0, 1, Mode::Exclusive) };
    let part = one_grant(&table.ask(at(0), ask));
    table.created(at(1), W, gfid(2), part.number);
    assert!(table.permits(W, key(2), part.number));
    let commands = table.ask(at(2), wish(M, 2, 2, Mode::Shared));
    assert_eq!(recalls(&commands), [(W, Mode::Shared)]);
}

#[test]
fn an_open_inode_is_pinned_when_its_lease_goes_back() {
    let mut table = serving(5);
    let lease = take(&mut table, 0, W, 1, Mode::Exclusive);
    table.ask(at(1), wish(M, 1, 1, Mode::Exclusive));
    let commands = table.on_return(at(2), W, lease, Mode::None, true);
    assert!(matches!(commands[0], LeaseCommand::Grant { pinned: true, .. }));
    assert!(!table.pinned(gfid(1), Some(W)), "its own open file does not count for W");
    assert!(table.unpin(W, gfid(1)), "the last one: an orphan may go");
    assert!(!table.pinned(gfid(1), None));
}

fn claim(session: SessionId, n: u8, base: u64, last: u64) -> Reclaim {
    let number = LeaseNumber { base, counter: 1 };
    let lease = ReclaimedLease { key: key(n), number, last_renewed_epoch: Epoch(last) };
    Reclaim { session, leases: vec![lease], pins: vec![], last: true }
}

fn new_lead(epoch: u64, graced: u64, sessions: &[SessionId]) -> LeaseTable {
    let mut table = LeaseTable::new_lead(Epoch(epoch), Epoch(graced), sessions.iter().copied());
    assert!(table.lists_settled(at(0)).is_empty());
    table
}

/// Trap 24: nothing is granted before a new lead's grace has ended and is noted everywhere.
#[test]
fn trap_24_asks_wait_for_the_grace_to_end_and_to_be_noted() {
    let mut table = new_lead(6, 5, &[W, M]);
    let refused = |table: &mut LeaseTable, ms| {
        let commands = table.ask(at(ms), wish(M, ms, 1, Mode::Shared));
        commands == [LeaseCommand::Refuse { session: M, ask: ms, refusal: Refusal::Grace }]
    };
    assert!(refused(&mut table, 1));
    assert!(table.tick(at(GRACE / MS - 1)).is_empty());
    let note = LeaseCommand::NoteGraced { epoch: Epoch(6) };
    assert_eq!(table.tick(at(GRACE / MS)), [note]);
    assert!(refused(&mut table, 501), "members may not have noted it yet");
    table.graced(Epoch(6));
    assert_eq!(granted(&table.ask(at(502), wish(M, 9, 1, Mode::Shared))).len(), 1);
}

#[test]
fn the_grace_ends_early_when_all_known_sessions_have_reclaimed() {
    let mut table = new_lead(6, 5, &[W, M]);
    let numbers = Numbers::default();
    let (result, commands) =
        table.reclaim(at(1), &claim(W, 1, 5, 5), &numbers).expect("in the grace");
    assert_eq!(result.granted[0].number.base, 6, "reclaimed under a new number");
    assert!(commands.is_empty());
    let (_, commands) = table.reclaim(at(2), &claim(M, 2, 5, 5), &numbers).expect("in grace");
    assert_eq!(commands, [LeaseCommand::NoteGraced { epoch: Epoch(6) }]);
    let late = table.reclaim(at(3), &claim(N, 3, 5, 5), &numbers);
    assert_eq!(late, Err(Refusal::StaleLease));
}

/// Trap 4: no reclaim before the unsettled changes are equal everywhere, since its holder
/// sends changes at once.
#[test]
fn trap_04_no_reclaim_before_the_lists_are_settled() {
    let mut table = LeaseTable::new_lead(Epoch(6), Epoch(5), [W]);
    let numbers = Numbers::default();
    assert_eq!(table.reclaim(at(1), &claim(W, 1, 5, 5), &numbers), Err(Refusal::Busy));
    table.lists_settled(at(2));
    assert!(table.reclaim(at(3), &claim(W, 1, 5, 5), &numbers).is_ok());
}

/// Trap 16: W1 held g in E, was away through E+1 where W2 changed it; E+1's grace had ended.
#[test]
fn trap_16_a_lease_of_an_epoch_before_the_last_graced_one_is_not_reclaimed() {
    let mut table = new_lead(7, 6, &[W, M]);
    let numbers = Numbers::default();
    let (result, _) = table.reclaim(at(1), &claim(W, 1, 5, 5), &numbers).expect("in grace");
    assert_eq!((result.granted.len(), result.refused), (0, vec![key(1)]));
    let (result, _) = table.reclaim(at(1), &claim(M, 1, 6, 6), &numbers).expect("in grace");
    assert_eq!(result.granted.len(), 1);
}

/// Trap 16: a lease that was revoked in its epoch is known by its higher number.
#[test]
fn trap_16_a_revoked_lease_is_not_reclaimed() {
    let mut table = new_lead(6, 5, &[W]);
    let mut numbers = Numbers::default();
    numbers.raise(key(1), LeaseNumber { base: 5, counter: 2 });
    numbers.new_lead(Epoch(6));
    let (result, _) = table.reclaim(at(1), &claim(W, 1, 5, 5), &numbers).expect("in grace");
    assert_eq!(result.refused, [key(1)]);
}

/// Trap 59: two epochs within 200 ms; the one between never ended its grace.
#[test]
fn trap_59_an_epoch_whose_grace_did_not_end_does_not_count() {
    let numbers = Numbers::default();
    // E=5 was graced, E=6 was not: leases renewed in 5, or reclaimed in 6, both stand in 7.
    for last in [5, 6] {
        let mut table = new_lead(7, 5, &[W]);
        let (result, _) = table.reclaim(at(1), &claim(W, 1, 5, last), &numbers).expect("in grace");
        assert_eq!(result.granted.len(), 1, "last renewed in {last}");
    }
}

#[test]
fn two_claims_of_one_lease_give_one_holder() {
    let mut table = new_lead(6, 5, &[W, M]);
    let numbers = Numbers::default();
    table.reclaim(at(1), &claim(W, 1, 5, 5), &numbers).expect("in the grace");
    let (result, _) = table.reclaim(at(2), &claim(M, 1, 5, 5), &numbers).expect("in grace");
    assert_eq!(result.refused, [key(1)]);
}

#[test]
fn a_session_that_never_reclaims_dies_after_the_grace() {
    let mut table = new_lead(6, 5, &[W]);
    table.tick(at(500));
    table.graced(Epoch(6));
    assert!(table.knows(W));
    let commands = looked(&mut table, 600, 2100);
    assert!(matches!(&commands[0], LeaseCommand::Settle { scope, .. } if scope.session == W));
}

#[test]
fn the_next_wake_is_never_after_something_is_due() {
    let mut table = serving(5);
    take(&mut table, 0, W, 1, Mode::Exclusive);
    table.ask(at(100), wish(M, 1, 1, Mode::Exclusive));
    let mut now = at(100);
    let mut fired = Vec::new();
    for _ in 0..20 {
        let _ = table.renew(now, M, LEASE_TERM, &[]);
        let _ = table.renew(now, N, LEASE_TERM, &[]);
        let wake = table.next_wake().expect("a recall and sessions are pending");
        assert!(wake > now);
        now = wake;
        fired.extend(table.tick(now));
        if !fired.is_empty() {
            break;
        }
    }
    assert!(matches!(fired[0], LeaseCommand::Settle { .. }), "{fired:?}");
    assert!(now.since(at(100)) >= RECALL_OVERDUE && now < at(1600));
}

/// A lead that left, or restarted fast, ends no lease by that: what it granted runs on.
#[test]
fn the_grace_lasts_while_leases_of_an_earlier_lead_may_run() {
    let mut table = LeaseTable::new_lead(Epoch(6), Epoch(5), [W]);
    table.earlier_leases(at(1575));
    assert!(table.lists_settled(at(0)).is_empty());
    let (_, commands) =
        table.reclaim(at(1), &claim(W, 1, 5, 5), &Numbers::default()).expect("in the grace");
    assert!(commands.is_empty(), "a session that no member knows may hold a lease");
    assert_eq!(table.next_wake(), Some(at(1576)));
    assert!(table.tick(at(1574)).is_empty());
    let late = table.reclaim(at(1574), &claim(M, 2, 5, 5), &Numbers::default());
    assert_eq!(late.expect("still in the grace").0.granted.len(), 1);
    assert_eq!(table.tick(at(1576)), [LeaseCommand::NoteGraced { epoch: Epoch(6) }]);
    // Run out long ago, as after an eviction: it ends with the last reclaim.
    let mut table = LeaseTable::new_lead(Epoch(6), Epoch(5), [W]);
    table.earlier_leases(at(0));
    assert!(table.lists_settled(at(10)).is_empty());
    let (_, commands) =
        table.reclaim(at(11), &claim(W, 1, 5, 5), &Numbers::default()).expect("in the grace");
    assert_eq!(commands, [LeaseCommand::NoteGraced { epoch: Epoch(6) }]);
}

/// All members have restarted and forgot their sessions; the mounts live.
#[test]
fn holders_whom_nobody_remembers_have_the_whole_grace_to_reclaim() {
    let mut table = LeaseTable::new_lead(Epoch(6), Epoch(5), []);
    assert!(table.lists_settled(at(0)).is_empty());
    let late = table.reclaim(at(400), &claim(W, 1, 5, 5), &Numbers::default());
    let (reclaimed, commands) = late.expect("in the grace");
    assert_eq!(reclaimed.granted.len(), 1);
    assert!(commands.is_empty());
    assert_eq!(table.tick(at(500)), [LeaseCommand::NoteGraced { epoch: Epoch(6) }]);
}

/// A wish for a free lease behind somebody who waits is refused, not put in his queue: nobody
/// would take the grant.
#[test]
fn a_wish_for_a_free_lease_never_waits() {
    let mut table = serving(5);
    let w = take(&mut table, 0, W, 1, Mode::Shared);
    assert_eq!(recalls(&table.ask(at(1), wish(M, 1, 1, Mode::Exclusive))).len(), 1);
    let ask = Ask { how: How::IfFree, ..wish(N, 2, 1, Mode::Shared) };
    let refused = LeaseCommand::Refuse { session: N, ask: 2, refusal: Refusal::Busy };
    assert_eq!(table.ask(at(2), ask), [refused]);
    let commands = table.on_return(at(3), W, w, Mode::None, false);
    assert_eq!(granted(&commands).len(), 1, "M alone");
    assert!(recalls(&commands).is_empty());
}

#[test]
fn an_ask_for_nothing_is_answered_when_nobody_else_holds_the_key() {
    let mut table = serving(5);
    let w = take(&mut table, 0, W, 1, Mode::Shared);
    let own = take(&mut table, 1, M, 1, Mode::Shared);
    assert!(table.others_hold(M, key(1)) && !table.others_hold(M, key(2)));
    assert_eq!(recalls(&table.ask(at(2), wish(M, 2, 1, Mode::None))), [(W, Mode::None)]);
    assert!(table.ask(at(3), wish(N, 3, 1, Mode::Shared)).is_empty(), "waits behind it");
    let answers = granted(&table.on_return(at(4), W, w, Mode::None, false));
    assert_eq!((answers[0].0, answers[0].1.mode), (M, Mode::None));
    assert_eq!(answers[1].0, N);
    assert_eq!(table.held(M, key(1)), Some(own), "as it was");
    assert!(!table.another_would_change(M, key(1)));
    table.ask(at(5), wish(W, 5, 1, Mode::Exclusive));
    assert!(table.another_would_change(M, key(1)) && !table.another_changes(M, key(1)));
}

/// Silence is counted only while the lead could hear: it was stopped, or lacked a promise.
#[test]
fn a_lead_that_could_not_hear_takes_nobody_for_dead() {
    let mut table = serving(5);
    take(&mut table, 0, W, 1, Mode::Exclusive);
    assert!(looked(&mut table, 0, 1000).is_empty());
    assert!(table.tick(at(4000)).is_empty(), "it looked away for 3 s");
    table.renew(at(4300), W, LEASE_TERM, &[]).expect("W lives and has its lease");
    assert!(table.held(W, key(1)).is_some());
    let commands = looked(&mut table, 4000, 5000);
    let dead = |s| {
        commands
            .iter()
            .any(|c| matches!(c, LeaseCommand::Settle { scope, .. } if scope.session == s))
    };
    assert!(!dead(W) && dead(M), "who is silent now is dead all the same");
}

/// Trap 30: inodes without a name that somebody has open are named for a joiner's list.
#[test]
fn trap_30_open_unlinked_inodes_are_known_to_the_lead() {
    let mut table = serving(5);
    table.pin(W, gfid(9));
    table.pin(M, gfid(9));
    assert_eq!(table.pins().map(|(g, s)| (g, s.len())).collect::<Vec<_>>(), [(gfid(9), 2)]);
    assert!(!table.unpin(W, gfid(9)), "M has it open");
    assert!(table.unpin(M, gfid(9)));
    assert_eq!(table.pins().count(), 0);
}

/// Trap 26: what no answer has named is not left with a session that waits for more.
#[test]
fn a_grant_that_is_taken_back_leaves_what_its_session_knows_of() {
    let mut table = serving(3);
    let known = take(&mut table, 1, W, 1, Mode::Shared);
    let (more, fresh) = match table.ask(at(2), wish(W, 2, 1, Mode::Exclusive))[..] {
        [LeaseCommand::Grant { lease, fresh, .. }] => (lease, fresh),
        _ => panic!("nobody stands in the way"),
    };
    assert!(fresh && more.number > known.number);
    // Somebody wants it who would have to wait for W, which has not heard of its grant.
    let commands = table.ask(at(3), wish(M, 3, 1, Mode::Exclusive));
    assert_eq!(recalls(&commands), [(W, Mode::None)]);
    let commands = table.take_back(at(4), W, more);
    assert_eq!(commands, [LeaseCommand::Recall { session: W, lease: known, keep: Mode::None }]);
    assert_eq!(table.held(W, key(1)), Some(known));
    assert!(!table.permits(W, key(1), more.number), "nothing is changed under it");
    let commands = table.on_return(at(5), W, known, Mode::None, false);
    let given = one_grant(&commands);
    assert_eq!((table.held(W, key(1)), table.held(M, key(1))), (None, Some(given)));
    // Held already: it is the same lease, and the session knows of it.
    let again = table.ask(at(6), wish(M, 6, 1, Mode::Exclusive));
    assert!(
        matches!(again[..], [LeaseCommand::Grant { fresh: false, lease, .. }] if lease == given)
    );
    // One who held nothing is left with nothing.
    let first = take(&mut table, 7, N, 2, Mode::Exclusive);
    assert!(table.take_back(at(8), N, first).is_empty());
    assert_eq!(table.held(N, key(2)), None);
}
