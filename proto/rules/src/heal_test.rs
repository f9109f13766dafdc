use super::joiner::{JoinCommand, Joiner, Left};
use super::log::{CtimeScan, INTERVAL_NS, Interval, IntervalClock, LogAnswer, LogBook, ctime_scan};
use crate::testing::{brick, in_sync, inc, set_map};
use crate::time::{MS, Tick};
use proto::Epoch;
use proto::map::MemberState::{InSync, Out, Syncing};

fn at(ms: u64) -> Tick {
    Tick(1_000_000 * MS).after(ms * MS)
}

/// Trap 9: a change is filed in the interval that is open when it is applied.
#[test]
fn trap_09_a_closed_interval_is_never_open_again() {
    let mut lead = IntervalClock::new(at(0), Interval(6));
    let mut other = IntervalClock::new(at(0), Interval(3));
    assert_eq!(lead.current(), Interval(7), "a start opens a new one");
    assert_eq!(lead.lead_tick(at(9_999)), Interval(7));
    assert_eq!(lead.lead_tick(Tick(at(0).0 + INTERVAL_NS)), Interval(8));
    other.heard(at(10_001), lead.current());
    assert_eq!(other.current(), Interval(8));
    other.heard(at(10_002), Interval(7));
    assert_eq!(other.current(), Interval(8), "a late ping opens nothing again");
}

/// Traps 9, 51: one interval of overlap, for members' numbers differ by one.
#[test]
fn trap_09_a_question_overlaps_by_one_interval() {
    let book = LogBook::of_new_set();
    assert_eq!(book.answer(Some(Interval(8))), LogAnswer::Since(Interval(7)));
    assert_eq!(book.answer(None), LogAnswer::Everything, "a new brick compares everything");
}

/// Trap 8: trimmed by what all members have on disk, those away too.
#[test]
fn trap_08_a_log_is_kept_for_the_member_that_is_away() {
    let map = set_map(5, &[(1, InSync), (2, InSync), (3, Out)]);
    let mut book = LogBook::of_new_set();
    for (n, durable) in [(1, 90), (2, 91), (3, 40)] {
        book.on_durable(brick(n), Interval(durable));
    }
    assert_eq!(book.trim(&map, Interval(0)), Interval(39));
    assert_eq!(book.answer(Some(Interval(40))), LogAnswer::Since(Interval(39)));
    // Beyond the size bound the log forgets, and says so.
    assert_eq!(book.trim(&map, Interval(60)), Interval(60));
    assert_eq!(book.answer(Some(Interval(40))), LogAnswer::Everything);
    assert_eq!(book.answer(Some(Interval(61))), LogAnswer::Since(Interval(60)));
    // A member that never had a checkpoint keeps everything.
    let mut book = LogBook::of_new_set();
    book.on_durable(brick(1), Interval(90));
    assert_eq!(book.trim(&in_sync(5, &[1, 2]), Interval(0)), Interval(0));
}

/// Trap 12: B's log was lost and rebuilt; C gets "compare everything", not an empty list.
#[test]
fn trap_12_a_rebuilt_log_says_since_when_it_is_complete() {
    let book = LogBook::new(Interval(50));
    assert_eq!(book.answer(Some(Interval(50))), LogAnswer::Everything);
    assert_eq!(book.answer(Some(Interval(51))), LogAnswer::Everything);
    assert_eq!(book.answer(Some(Interval(52))), LogAnswer::Since(Interval(51)));
}

/// Trap 10: B healed from A and took its log over; when A dies, B can answer for C.
#[test]
fn trap_10_a_joiner_answers_as_far_back_as_the_lead_it_healed_from() {
    let mut lead = LogBook::of_new_set();
    lead.on_durable(brick(3), Interval(40));
    let mut joiner = LogBook::new(Interval(70));
    joiner.take_over(&lead);
    assert_eq!(joiner.answer(Some(Interval(40))), LogAnswer::Since(Interval(39)));
    let map = set_map(5, &[(2, InSync), (3, Out)]);
    joiner.on_durable(brick(2), Interval(71));
    assert_eq!(joiner.trim(&map, Interval(0)), Interval(39));
}

/// Traps 13, 56: inodes changed since the checkpoint are listed; a clock that stepped back
/// makes it everything.
#[test]
fn trap_13_the_ctime_scan_distrusts_a_clock_behind_the_checkpoint() {
    let checkpoint = 1_000_000 * MS;
    let since = CtimeScan::Since(checkpoint - 2_000 * MS);
    assert_eq!(ctime_scan(Some(checkpoint), checkpoint + 5), since);
    assert_eq!(ctime_scan(Some(checkpoint), checkpoint - 1), CtimeScan::Everything);
    assert_eq!(ctime_scan(None, checkpoint), CtimeScan::Everything);
}

fn left(inodes: u64, bytes: u64) -> Left {
    Left { inodes, bytes }
}

fn begin() -> Joiner {
    let map = set_map(5, &[(1, InSync), (2, InSync), (3, Syncing)]);
    let (joiner, commands) = Joiner::start(brick(3), inc(30), &map, Some(Interval(8)));
    assert_eq!(commands, [JoinCommand::AskChanges { since: Some(Interval(8)) }]);
    joiner
}

/// Through rounds and the checkpoint to the pause at `at(2000)`.
fn paused() -> Joiner {
    let mut joiner = begin();
    assert_eq!(joiner.on_list(at(0), left(100, 100 << 20), Interval(20)), [JoinCommand::CopyList]);
    let ask = [JoinCommand::AskChanges { since: Some(Interval(20)) }];
    assert_eq!(joiner.on_copied(at(1000)), ask);
    assert_eq!(joiner.on_list(at(1001), left(1, 1 << 20), Interval(21)), [JoinCommand::CopyList]);
    // Trap 32: a checkpoint before it may join.
    assert_eq!(joiner.on_copied(at(1011)), [JoinCommand::Checkpoint]);
    let ask = [JoinCommand::AskChanges { since: Some(Interval(21)) }];
    assert_eq!(joiner.on_checkpoint(), ask);
    let commands = joiner.on_list(at(2000), left(2, 4096), Interval(21));
    assert_eq!(commands, [JoinCommand::Pause { epoch: Epoch(5) }]);
    joiner
}

#[test]
fn a_joiner_rounds_makes_a_checkpoint_pauses_and_joins() {
    let mut joiner = paused();
    assert_eq!(joiner.on_paused(), [JoinCommand::CopyRest]);
    let of = vec![brick(1), brick(2)];
    assert_eq!(joiner.on_rest(), [JoinCommand::Checkpoint], "the rest is synced, too");
    assert_eq!(joiner.on_checkpoint(), [JoinCommand::AskAgreement { of, epoch: Epoch(5) }]);
    assert!(joiner.on_agreed(brick(2)).is_empty(), "every in-sync member has to agree");
    let join = JoinCommand::ProposeJoin { epoch: Epoch(5), incarnation: inc(30) };
    assert_eq!(joiner.on_agreed(brick(1)), [join]);
    let mut map = in_sync(6, &[1, 2, 3]);
    map.lead = Some(brick(1));
    assert_eq!(joiner.on_map(&map), [JoinCommand::Joined]);
    assert!(joiner.on_tick(at(9000)).is_empty());
}

/// Trap 53: a pause over 0.5 s ends by the joiner's word, at whatever step it stands; once
/// members were asked to agree, by the end of its incarnation.
#[test]
fn trap_53_a_pause_over_its_bound_is_withdrawn_by_the_joiners_word() {
    let steps: [fn(&mut Joiner); 4] = [
        |_| {},
        |j| drop(j.on_paused()),
        |j| drop((j.on_paused(), j.on_rest(), j.on_checkpoint())),
        |j| {
            drop((j.on_paused(), j.on_rest(), j.on_checkpoint()));
            drop((j.on_agreed(brick(1)), j.on_agreed(brick(2))));
        },
    ];
    for (n, step) in steps.into_iter().enumerate() {
        let mut joiner = paused();
        step(&mut joiner);
        assert!(joiner.on_tick(at(2499)).is_empty());
        let commands = joiner.on_tick(at(2500));
        if n < 2 {
            let ask = JoinCommand::AskChanges { since: Some(Interval(21)) };
            assert_eq!(commands, [JoinCommand::EndPause { epoch: Epoch(5) }, ask]);
            continue;
        }
        assert_eq!(commands, [JoinCommand::NeverServe]);
        assert!(joiner.on_tick(at(2600)).is_empty(), "said once");
        let joined = in_sync(6, &[1, 2, 3]);
        assert!(joiner.on_map(&joined).is_empty(), "this incarnation never serves");
    }
}

/// Trap 52: a new epoch before the commit voids everything agreed; rounds go on.
#[test]
fn trap_52_a_new_epoch_leads_back_to_rounds() {
    let mut joiner = paused();
    joiner.on_paused();
    joiner.on_rest();
    joiner.on_agreed(brick(1));
    let map = set_map(6, &[(1, InSync), (2, Out), (3, Syncing)]);
    let ask = [JoinCommand::AskChanges { since: Some(Interval(21)) }];
    assert_eq!(joiner.on_map(&map), ask);
    assert!(joiner.on_agreed(brick(2)).is_empty(), "of the epoch before");
    let commands = joiner.on_list(at(2100), left(0, 0), Interval(21));
    assert_eq!(commands, [JoinCommand::Pause { epoch: Epoch(6) }]);
}

#[test]
fn a_lead_that_dies_in_a_round_is_followed_by_its_successor() {
    let mut joiner = begin();
    joiner.on_list(at(0), left(100, 1 << 30), Interval(20));
    let same_lead = set_map(6, &[(1, InSync), (2, Out), (3, Syncing)]);
    assert!(joiner.on_map(&same_lead).is_empty(), "the copy goes on");
    let other = set_map(7, &[(1, Out), (2, InSync), (3, Syncing)]);
    let ask = [JoinCommand::AskChanges { since: Some(Interval(8)) }];
    assert_eq!(joiner.on_map(&other), ask, "nothing of the unfinished round counts");
    assert!(joiner.on_copied(at(10)).is_empty());
}

/// Trap 31: under a heavy writer rounds do not converge; writers are slowed more and more.
#[test]
fn trap_31_writers_are_slowed_while_rounds_do_not_converge() {
    let mut joiner = begin();
    let mut delays = Vec::new();
    for round in 0..12 {
        let commands = joiner.on_list(at(round * 2000), left(10, 100 << 20), Interval(20));
        delays.extend(commands.iter().filter_map(|c| match c {
            JoinCommand::SlowWriters { delay } => Some(*delay / MS),
            _ => None,
        }));
        joiner.on_copied(at(round * 2000 + 1000));
    }
    assert_eq!(delays, [1, 2, 4, 8, 16]);
    // Slowed enough, the next list is small and it goes on to the checkpoint and the pause.
    joiner.on_list(at(90_000), left(1, 1 << 20), Interval(30));
    assert_eq!(joiner.on_copied(at(90_010)), [JoinCommand::Checkpoint]);
}

#[test]
fn a_member_that_does_not_agree_ends_the_attempt() {
    let mut joiner = paused();
    joiner.on_paused();
    joiner.on_rest();
    joiner.on_checkpoint();
    joiner.on_agreed(brick(1));
    assert_eq!(joiner.on_disagreed(), [JoinCommand::NeverServe]);
    let mut joiner = paused();
    let ask = [JoinCommand::AskChanges { since: Some(Interval(21)) }];
    assert!(joiner.on_pause_refused().is_empty(), "nobody has agreed yet: no harm done");
    assert_eq!(joiner.on_tick(Tick(400 * MS)), ask, "another round, but not at once");
}

/// Trap 32: what it was healed to is on disk before it may join, the rest of the pause as well.
#[test]
fn trap_32_a_joiner_syncs_before_anybody_is_asked_to_agree() {
    let mut joiner = paused();
    joiner.on_paused();
    assert_eq!(joiner.on_rest(), [JoinCommand::Checkpoint]);
    assert!(joiner.on_agreed(brick(1)).is_empty(), "nobody was asked yet");
    assert!(matches!(joiner.on_checkpoint()[..], [JoinCommand::AskAgreement { .. }]));
}

/// The proposal was lost with the pool's leader: it is made again, by whom all agreed with in
/// this very epoch and nowhere else.
#[test]
fn a_join_is_proposed_again_only_where_all_members_agreed() {
    let mut joiner = paused();
    drop((joiner.on_paused(), joiner.on_rest(), joiner.on_checkpoint()));
    drop((joiner.on_agreed(brick(1)), joiner.on_agreed(brick(2))));
    assert!(joiner.on_tick(at(2010)).is_empty());
    let join = JoinCommand::ProposeJoin { epoch: Epoch(5), incarnation: inc(30) };
    assert_eq!(joiner.on_tick(at(2200)), [join]);
    let map = set_map(6, &[(1, InSync), (2, InSync), (3, Syncing)]);
    joiner.on_map(&map);
    let again = (0..20).flat_map(|n| joiner.on_tick(at(2210 + 20 * n)));
    assert_eq!(again.count(), 0, "nobody agreed in the new epoch");
}

/// The lead restarted and may have lost what was copied from it.
#[test]
fn a_restarted_lead_is_asked_from_the_beginning() {
    let mut joiner = paused();
    let mut map = set_map(6, &[(1, InSync), (2, InSync), (3, Syncing)]);
    map.members[0].incarnation = inc(11);
    let ask = [JoinCommand::AskChanges { since: Some(Interval(8)) }];
    assert_eq!(joiner.on_map(&map), ask);
    let commands = joiner.on_list(at(3000), left(0, 0), Interval(22));
    assert_eq!(commands, [JoinCommand::CopyList], "what was copied before is compared again");
}

/// Trap 11: only C had a dying session's frame, and nobody else lists what it touched. Seed 53:
/// the lead fell back behind what C has on disk.
#[test]
fn trap_11_a_joiner_adds_its_own_entries_to_the_leads_list() {
    let book = LogBook::of_new_set();
    assert_eq!(book.own_list(Interval(7), None), LogAnswer::Since(Interval(6)));
    assert_eq!(book.own_list(Interval(7), Some(Interval(9))), LogAnswer::Since(Interval(6)));
    assert_eq!(book.own_list(Interval(7), Some(Interval(4))), LogAnswer::Since(Interval(3)));
    let rebuilt = LogBook::new(Interval(5));
    assert_eq!(rebuilt.own_list(Interval(7), Some(Interval(4))), LogAnswer::Everything);
}
