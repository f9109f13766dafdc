use super::*;
use crate::set::{SetEntry, apply};
use crate::testing::{brick, in_sync, inc, key, peer, set_map};
use crate::time::{MS, PROMISE_GIVEN};
use MemberState::{InSync, Syncing};
use proto::map::MemberState;

const S: u64 = 1000 * MS;

/// Peers 1, 2, ... each with brick n of one set, incarnation 10 n, long up.
struct Pool(BTreeMap<u8, Promises>);

impl Pool {
    fn new(map: &SetMap, bricks: &[u8]) -> Self {
        let mut pool = Self(BTreeMap::new());
        for n in bricks {
            pool.0.insert(*n, Promises::new(peer(*n)));
            pool.start(Tick(0), *n, u64::from(*n) * 10, true);
            pool.learn(*n, map);
        }
        pool
    }

    fn of(&mut self, n: u8) -> &mut Promises {
        self.0.get_mut(&n).expect("a peer of this test")
    }

    fn start(&mut self, now: Tick, n: u8, incarnation: u64, clean: bool) {
        self.of(n).brick_up(now, key(), brick(n), inc(incarnation), clean);
    }

    fn learn(&mut self, n: u8, map: &SetMap) {
        self.of(n).on_map(Tick(0), key(), map);
    }

    fn learn_all(&mut self, bricks: &[u8], map: &SetMap) {
        bricks.iter().for_each(|n| self.learn(*n, map));
    }

    /// `from` pings `to` at `sent`, the answer is made at once and arrives at `back`.
    fn ping(&mut self, from: u8, to: u8, sent: Tick, back: Tick) -> Vec<PromiseEvent> {
        let ping = self.of(from).ping(sent, peer(to));
        let (answer, mut events) = self.of(to).on_ping(sent, &ping);
        events.extend(self.of(from).on_answer(back, &answer));
        events
    }

    fn all_ping(&mut self, now: Tick) {
        let peers: Vec<u8> = self.0.keys().copied().collect();
        for from in &peers {
            for to in peers.iter().filter(|to| *to != from) {
                self.ping(*from, *to, now, now);
            }
        }
    }

    fn until(&self, n: u8) -> Tick {
        self.0[&n].serve_until(key(), brick(n))
    }
}

fn at(ms: u64) -> Tick {
    Tick(10 * S).after(ms * MS)
}

#[test]
fn a_member_serves_while_it_holds_every_other_members_promise() {
    let map = in_sync(5, &[1, 2, 3]);
    let mut pool = Pool::new(&map, &[1, 2, 3]);
    assert_eq!(pool.until(1), Tick::ZERO);
    pool.ping(1, 2, at(0), at(1));
    assert_eq!(pool.until(1), Tick::ZERO, "brick 3 has not promised");
    pool.ping(1, 3, at(100), at(101));
    assert_eq!(pool.until(1), at(1500), "the earlier of two promises, from its sending");
    let sole = in_sync(5, &[1]);
    assert_eq!(Pool::new(&sole, &[1]).until(1), Tick::NEVER);
}

/// Trap 19: ten queued answers drained after a pause of 5 s are worth nothing.
#[test]
fn trap_19_a_promise_counts_from_the_sending_of_its_ping() {
    let mut pool = Pool::new(&in_sync(5, &[1, 2]), &[1, 2]);
    for n in 0..10 {
        pool.ping(1, 2, at(n * 300), at(9000));
    }
    assert_eq!(pool.until(1), at(9 * 300 + 1500));
    assert!(pool.until(1) < at(9000), "run out before it was read");
    // An answer from the future of our clock is none.
    let ping = pool.of(1).ping(at(99_000), peer(2));
    let (answer, _) = pool.of(2).on_ping(at(9000), &ping);
    pool.of(1).on_answer(at(9001), &answer);
    assert!(pool.until(1) < at(9000));
}

/// Promise 3 and the fencing rule: the giver's count ends after the holder's, whatever the
/// delays, for clock rates that differ by 5 %.
#[test]
fn an_eviction_waits_out_the_last_promise_given() {
    let mut pool = Pool::new(&in_sync(5, &[1, 2]), &[1, 2]);
    pool.ping(2, 1, at(0), at(200));
    let agree_at = pool.of(1).stop(key(), brick(1), Epoch(5), brick(2)).expect("both in-sync");
    assert_eq!(agree_at, Tick(at(0).0 + PROMISE_GIVEN));
    assert!(pool.until(2).0 + 1500 * MS / 20 <= agree_at.0);
}

/// A peer dead for 1.6 s costs no extra wait.
#[test]
fn a_peer_long_dead_is_evicted_without_a_wait() {
    let mut pool = Pool::new(&in_sync(5, &[1, 2]), &[1, 2]);
    pool.ping(2, 1, at(0), at(1));
    assert!(pool.of(1).silent(at(900)).is_empty());
    assert_eq!(pool.of(1).silent(at(1000)), [peer(2)]);
    let agree_at = pool.of(1).stop(key(), brick(1), Epoch(5), brick(2)).expect("in-sync");
    assert!(agree_at <= at(1600));
}

/// Trap 20: B stopped promising C, the leader vanished: never again in E; a bump ends E.
#[test]
fn trap_20_a_stopped_promise_is_never_resumed_in_its_epoch() {
    let mut map = in_sync(5, &[1, 2, 3]);
    let mut pool = Pool::new(&map, &[1, 2, 3]);
    pool.all_ping(at(0));
    pool.of(2).stop(key(), brick(2), Epoch(5), brick(3));
    for n in 1..100 {
        pool.all_ping(at(n * 300));
    }
    assert_eq!(pool.until(3), at(1500), "brick 3 never serves again in epoch 5");
    assert_eq!(pool.until(1), at(99 * 300 + 1500));
    apply(&mut map, 6, &SetEntry::Bump { epoch: Epoch(5) });
    pool.learn_all(&[1, 2, 3], &map);
    pool.all_ping(at(40_000));
    assert_eq!(pool.until(3), at(41_500));
    // A stop for an epoch that is over is refused.
    assert_eq!(pool.of(2).stop(key(), brick(2), Epoch(5), brick(3)), None);
}

/// Trap 17: a machine that is back in 1 s, within its promises, neither holds its
/// predecessor's promises nor knows what it gave.
#[test]
fn trap_17_a_new_incarnation_holds_nothing_and_waits_out_what_it_forgot() {
    let map = in_sync(5, &[1, 2, 3]);
    let mut pool = Pool::new(&map, &[1, 2, 3]);
    pool.all_ping(at(0));
    *pool.of(2) = Promises::new(peer(2));
    pool.start(at(1000), 2, 21, false);
    pool.learn(2, &map);
    pool.ping(2, 1, at(1000), at(1001));
    assert_eq!(pool.until(2), Tick::ZERO, "the map names incarnation 20");
    assert_eq!(pool.until(1), Tick::ZERO, "its hello ended its predecessor's promise");
    assert_eq!(pool.until(3), at(1500), "brick 3 has not heard the hello");
    pool.ping(1, 2, at(1100), at(1101));
    assert_eq!(pool.until(1), Tick::ZERO, "it promises nothing unless the map names it");
    let wait = |p: &mut Pool, n| p.of(2).wait_before_evict(key(), brick(2), brick(n));
    assert_eq!(wait(&mut pool, 1), Tick::ZERO, "brick 1 dropped the predecessor's promise");
    assert_eq!(wait(&mut pool, 3), Tick(at(1000).0 + PROMISE_GIVEN), "brick 3 may hold one");
}

/// Trap 17: named at once, a new incarnation still promises nothing in its first promise time
/// while somebody may hold its predecessor's; all hellos heard, it does.
#[test]
fn trap_17_a_new_incarnation_promises_nothing_at_first() {
    let mut map = in_sync(5, &[1, 2, 3]);
    let mut pool = Pool::new(&map, &[1, 2, 3]);
    map.epoch = Epoch(6);
    map.members[1].incarnation = inc(21);
    *pool.of(2) = Promises::new(peer(2));
    pool.start(at(0), 2, 21, false);
    pool.learn_all(&[1, 2, 3], &map);
    pool.all_ping(at(10));
    let ping = pool.of(1).ping(at(20), peer(2));
    let word = |p: &mut Pool, ms| p.of(2).on_ping(at(ms), &ping).0.promises[0].word;
    assert_eq!(word(&mut pool, 20), Word::Stay, "1 and 3 both answered its hello");
    let mut late = Pool::new(&map, &[1]);
    late.0.insert(2, Promises::new(peer(2)));
    late.start(at(0), 2, 21, false);
    late.learn(2, &map);
    assert_eq!(word(&mut late, 1574), Word::Fresh);
    assert_eq!(word(&mut late, 1575), Word::Stay);
}

#[test]
fn a_late_ping_of_a_gone_incarnation_revives_nothing() {
    let mut map = in_sync(5, &[1, 2]);
    let mut pool = Pool::new(&map, &[1, 2]);
    let late = pool.of(2).ping(at(0), peer(1));
    map.epoch = Epoch(6);
    map.members[1].incarnation = inc(21);
    pool.learn(1, &map);
    *pool.of(2) = Promises::new(peer(2));
    pool.start(at(0), 2, 21, true);
    pool.learn(2, &map);
    pool.all_ping(at(100));
    assert_eq!(pool.until(1), at(1600));
    let (answer, _) = pool.of(1).on_ping(at(200), &late);
    assert_eq!(answer.promises[0].word, Word::NotNamed);
    assert_eq!(pool.until(1), at(1600), "incarnation 21's promise stands");
}

/// A clean stop's bye ends given and held promises: a rolling restart costs one commit.
#[test]
fn a_bye_ends_promises_both_ways_at_once() {
    let map = in_sync(5, &[1, 2]);
    let mut pool = Pool::new(&map, &[1, 2]);
    pool.all_ping(at(0));
    pool.of(2).brick_down(key(), brick(2));
    pool.ping(2, 1, at(100), at(101));
    assert_eq!(pool.until(1), Tick::ZERO);
    assert_eq!(pool.of(1).stop(key(), brick(1), Epoch(5), brick(2)), Some(Tick::ZERO));
}

fn joining() -> (SetMap, Pool) {
    let map = set_map(5, &[(1, InSync), (2, Syncing)]);
    let mut pool = Pool::new(&map, &[1, 2]);
    assert!(pool.of(2).offer_join(key(), brick(2), Epoch(5)));
    let agreed = pool.of(1).agree_join(key(), brick(1), Epoch(5), (brick(2), inc(20)));
    assert_eq!(agreed, Ok(()));
    (map, pool)
}

fn join() -> SetEntry {
    SetEntry::Join { epoch: Epoch(5), brick: brick(2), incarnation: inc(20) }
}

/// Trap 1: A, alone in the set, is cut off at the commit of B's join. It agreed first and
/// needs B's promise from then on, so it stops before B can serve without it.
#[test]
fn trap_01_a_sole_member_that_agreed_to_a_join_stops_when_cut_off() {
    let (mut map, mut pool) = joining();
    assert_eq!(pool.until(1), Tick::ZERO, "from the agreement on");
    pool.all_ping(at(0));
    assert_eq!(pool.until(1), at(1500));
    // The Join commits; only B learns it. A is cut off, B evicts it after the wait.
    apply(&mut map, 6, &join());
    pool.learn(2, &map);
    let agree_at = pool.of(2).stop(key(), brick(2), Epoch(6), brick(1)).expect("in-sync");
    assert!(pool.until(1) < agree_at, "A has stopped before the eviction can commit");
    apply(
        &mut map,
        7,
        &SetEntry::Evict { epoch: Epoch(6), brick: brick(1), reason: "cut off".into() },
    );
    pool.learn(2, &map);
    assert_eq!(pool.until(2), Tick::NEVER);
    // Were A reachable again with its old map, B would answer with the newer epoch.
    let events = pool.ping(1, 2, at(9000), at(9001));
    assert_eq!(events, [PromiseEvent::NewerEpoch { set: key(), epoch: Epoch(7) }]);
    assert!(pool.until(1) <= at(1500));
}

/// Trap 52: the joiner dies before the commit; the bare bump ends the need for its promise.
#[test]
fn trap_52_a_bump_ends_the_agreement_to_a_dead_joiner() {
    let (mut map, mut pool) = joining();
    pool.all_ping(at(0));
    pool.0.remove(&2);
    assert_eq!(pool.until(1), at(1500), "it must not serve on by itself");
    apply(&mut map, 6, &SetEntry::Bump { epoch: Epoch(5) });
    pool.learn(1, &map);
    assert_eq!(pool.until(1), Tick::NEVER);
    assert!(matches!(apply(&mut map, 7, &join()), crate::set::SetOutcome::Void(_)));
}

/// Traps 52, 53: a living joiner withdraws by its word; should its Join commit all the same,
/// it serves nobody and promises nobody.
#[test]
fn trap_52_never_serves_ends_the_agreement_at_once_and_holds_for_ever() {
    let (mut map, mut pool) = joining();
    pool.all_ping(at(0));
    pool.of(2).never_serve(key(), brick(2));
    let events = pool.ping(1, 2, at(100), at(101));
    let ended = PromiseEvent::JoinEnded { set: key(), brick: brick(1), joiner: brick(2) };
    assert_eq!(events, [ended]);
    assert_eq!(pool.until(1), Tick::NEVER);
    apply(&mut map, 6, &join());
    pool.learn_all(&[1, 2], &map);
    pool.all_ping(at(200));
    assert_eq!((pool.until(1), pool.until(2)), (Tick::ZERO, Tick::ZERO));
}

/// Trap 54: A crashes before it learns of the join and restarts in a partition: it believes
/// itself the sole member, but no entry names its new incarnation.
#[test]
fn trap_54_a_restarted_sole_member_does_not_serve_before_an_entry_names_it() {
    let map = set_map(5, &[(1, InSync), (2, Syncing)]);
    let mut pool = Pool::new(&map, &[1]);
    pool.start(at(0), 1, 11, false);
    pool.learn(1, &map);
    assert_eq!(pool.until(1), Tick::ZERO);
    let agreed = pool.of(1).agree_join(key(), brick(1), Epoch(5), (brick(2), inc(20)));
    assert_eq!(agreed, Err(JoinRefused::NotInSync));
}

#[test]
fn a_join_is_agreed_to_only_as_checked() {
    let map = set_map(5, &[(1, InSync), (2, Syncing), (3, Syncing)]);
    let mut pool = Pool::new(&map, &[1]);
    let mut agree = |e, n, i| pool.of(1).agree_join(key(), brick(1), Epoch(e), (brick(n), inc(i)));
    assert_eq!(agree(4, 2, 20), Err(JoinRefused::Epoch(Epoch(5))));
    assert_eq!(agree(5, 2, 21), Err(JoinRefused::Joiner));
    assert_eq!(agree(5, 2, 20), Ok(()));
    assert_eq!(agree(5, 2, 20), Ok(()), "asked twice");
    assert_eq!(agree(5, 3, 30), Err(JoinRefused::Another));
}

/// Trap 21: only the link between A and B is cut: nobody of the two serves, and both say whom
/// they miss, so that the leader can choose.
#[test]
fn trap_21_both_ends_of_a_cut_link_report_each_other() {
    let mut pool = Pool::new(&in_sync(5, &[1, 2, 3]), &[1, 2, 3]);
    pool.all_ping(at(0));
    for (from, to) in [(1, 3), (3, 1), (2, 3), (3, 2)] {
        pool.ping(from, to, at(1100), at(1100));
    }
    assert_eq!(pool.of(1).lacks(at(1100)), [(key(), brick(1), brick(2))]);
    assert_eq!(pool.of(2).lacks(at(1100)), [(key(), brick(2), brick(1))]);
    assert_eq!(pool.of(3).lacks(at(1100)), []);
    assert_eq!(pool.of(1).silent(at(1100)), [peer(2)]);
}

#[test]
fn two_bricks_of_one_peer_need_no_pings_between_them() {
    let mut map = in_sync(5, &[1, 2]);
    map.members[1].peer = peer(1);
    let mut promises = Promises::new(peer(1));
    promises.brick_up(at(0), key(), brick(1), inc(10), true);
    promises.on_map(at(0), key(), &map);
    assert_eq!(promises.serve_until(key(), brick(1)), Tick::ZERO, "brick 2 is not up");
    promises.brick_up(at(0), key(), brick(2), inc(20), true);
    promises.on_map(at(0), key(), &map);
    assert_eq!(promises.serve_until(key(), brick(1)), Tick::NEVER);
    assert!(promises.peers().is_empty());
}

/// The lead's hello or bye ends its promises at once, and an eviction may follow without a
/// wait; what it leased on them runs on.
#[test]
fn leases_of_a_lead_outlive_its_hello_and_its_bye() {
    let map = set_map(5, &[(1, InSync), (2, InSync), (3, InSync)]);
    let mut pool = Pool::new(&map, &[1, 2, 3]);
    let up = pool.of(2).leased_until(key(), brick(2));
    assert_eq!(up, Tick(PROMISE_GIVEN), "what a lead leased before it was up");
    pool.all_ping(Tick(10 * S));
    let until = Tick(10 * S + PROMISE_GIVEN);
    assert_eq!(pool.of(2).leased_until(key(), brick(2)), until);
    // Member 3's promise counts for nothing here: it does not lead.
    pool.ping(3, 2, Tick(11 * S), Tick(11 * S));
    assert_eq!(pool.of(2).leased_until(key(), brick(2)), until);
    pool.start(Tick(11 * S), 1, 11, false);
    pool.learn(1, &map);
    pool.ping(1, 2, Tick(11 * S), Tick(11 * S));
    assert_eq!(pool.of(2).stop(key(), brick(2), Epoch(5), brick(1)), Some(Tick::ZERO));
    assert_eq!(pool.of(2).leased_until(key(), brick(2)), until);
}

/// Until it joined, the lead leased without its promise.
#[test]
fn a_joiner_assumes_that_the_lead_has_just_leased() {
    let mut map = set_map(5, &[(1, InSync), (2, Syncing)]);
    let mut pool = Pool::new(&map, &[1, 2]);
    map.members[1].state = InSync;
    map.epoch = Epoch(6);
    pool.of(2).on_map(Tick(20 * S), key(), &map);
    assert_eq!(pool.of(2).leased_until(key(), brick(2)), Tick(20 * S + PROMISE_GIVEN));
}

/// Bricks of one process promise each other by being there.
#[test]
fn a_lead_of_the_same_process_may_have_leased_until_it_ends() {
    let mut map = set_map(5, &[(1, InSync), (2, InSync)]);
    map.members[1].peer = peer(1);
    let mut pool = Pool::new(&map, &[1]);
    pool.of(1).brick_up(Tick(0), key(), brick(2), inc(20), true);
    pool.learn(1, &map);
    pool.of(1).brick_down(key(), brick(1));
    map.members[0].state = MemberState::Out;
    (map.lead, map.epoch) = (Some(brick(2)), Epoch(6));
    pool.of(1).on_map(Tick(20 * S), key(), &map);
    assert_eq!(pool.of(1).leased_until(key(), brick(2)), Tick(20 * S + PROMISE_GIVEN));
}
