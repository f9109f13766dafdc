use super::handover::HandOver;
use super::stale::Marking;
use super::*;
use crate::lease::table::{Ask, How, LeaseCommand};
use crate::lease::{Lease, Mode};
use crate::testing::{brick, gfid, in_sync, inc, set_map};
use crate::time::MS;
use MemberState::{InSync, Out, Syncing};

const W: SessionId = SessionId(7);

fn at(ms: u64) -> Tick {
    Tick(1_000_000 * MS).after(ms * MS)
}

fn key(n: u8) -> LeaseKey {
    LeaseKey::Inode(gfid(n))
}

fn number(base: u64, counter: u64) -> LeaseNumber {
    LeaseNumber { base, counter }
}

fn change(epoch: u64, seq: u64, n: u8, lease: LeaseNumber) -> Head {
    Head {
        session: W,
        epoch: Epoch(epoch),
        class: Class::Change,
        seq: Seq(seq),
        mark: Seq(0),
        under: vec![(key(n), lease)],
        touches: vec![Touch::Range { gfid: gfid(n), start: 0, end: 10 }],
        reads: vec![],
        by_lead: false,
    }
}

fn read(epoch: u64, n: u8, leased: bool) -> Head {
    let under = if leased { vec![(key(n), number(5, 1))] } else { vec![] };
    Head {
        class: Class::Read,
        seq: Seq(0),
        under,
        touches: vec![],
        reads: vec![gfid(n)],
        ..change(epoch, 0, n, LeaseNumber::NONE)
    }
}

/// Brick 2, which does not lead, in-sync, with promises, W named.
fn follower(map: &SetMap) -> Member<u32> {
    let mut member = Member::new(brick(2), inc(20));
    member.on_map(map, 1);
    member.set_serve_until(at(10_000));
    member.session_named(W);
    member
}

/// Brick 1, the lead, with W holding the exclusive lease of inode 1.
fn lead(map: &SetMap) -> (Member<u32>, LeaseTable, LeaseNumber) {
    let mut member = Member::new(brick(1), inc(10));
    assert_eq!(member.on_map(map, 1), [MemberCommand::BecomeLead { epoch: map.epoch }]);
    member.set_serve_until(at(10_000));
    let mut table = LeaseTable::new_lead(map.epoch, Epoch(0), []);
    table.lists_settled(at(0));
    table.graced(map.epoch);
    table.hello(at(0), W).expect("a new session");
    let ask = Ask { session: W, id: 0, key: key(1), mode: Mode::Exclusive, how: How::Waits };
    let commands = table.ask(at(0), ask);
    let LeaseCommand::Grant { lease: Lease { number, .. }, .. } = commands[0] else { panic!() };
    (member, table, number)
}

fn refused(verdict: Verdict<u32>) -> Refusal {
    match verdict {
        Verdict::Refuse(refusal) => refusal,
        other => panic!("{other:?}"),
    }
}

#[test]
fn trap_18_a_change_is_executed_once_and_replayed() {
    let mut member = follower(&in_sync(5, &[1, 2]));
    let head = change(5, 1, 1, number(5, 1));
    assert_eq!(member.admit(at(0), &head, None), Verdict::Execute);
    assert_eq!(member.admit(at(0), &head, None), Verdict::Hold(Hold::Running));
    member.finish(W, Seq(1), 42);
    assert_eq!(member.admit(at(0), &head, None), Verdict::Replay(42));
    let settled = Head { mark: Seq(1), ..change(5, 2, 1, number(5, 1)) };
    assert_eq!(member.admit(at(0), &settled, None), Verdict::Execute);
    assert_eq!(refused(member.admit(at(0), &head, None)), Refusal::StaleSeq);
}

/// Trap 60: all members were killed. W's change may have been executed before, and others may have
/// changed the same since; what was sent first to a lead with this memory has not been.
#[test]
fn trap_60_a_restarted_lead_does_not_remember_what_was_sent_before() {
    let (restarted, ..) = lead(&in_sync(5, &[1, 2]));
    assert!(!restarted.remembers(Epoch(4)) && restarted.remembers(Epoch(5)));
    // A joiner's memory reaches as far back as that of the lead from which it has it.
    let mut joiner: Member<u32> = Member::new(brick(2), inc(20));
    joiner.on_map(&set_map(7, &[(1, InSync), (2, Syncing)]), 1);
    let state = HandOver { epoch: Epoch(7), ..restarted.hand_over([W]) };
    joiner.take_over(state.clone());
    joiner.on_map(&in_sync(8, &[1, 2]), 1);
    assert!(!joiner.remembers(Epoch(4)) && joiner.remembers(Epoch(5)));
    // An epoch under the same memory changes nothing; a choice without a join is a restart.
    joiner.on_map(&in_sync(9, &[2]), 1);
    assert!(joiner.remembers(Epoch(5)));
    let mut chosen: Member<u32> = Member::new(brick(2), inc(20));
    chosen.on_map(&set_map(7, &[(1, InSync), (2, Syncing)]), 1);
    chosen.take_over(state);
    chosen.on_map(&set_map(8, &[(1, InSync), (2, Syncing)]), 1);
    chosen.on_map(&in_sync(9, &[2]), 1);
    assert!(!chosen.remembers(Epoch(8)) && chosen.remembers(Epoch(9)));
}

/// Trap 60: the lead did not execute W's change, and W makes it anew: a copy of the first frame
/// that comes late is not executed either.
#[test]
fn trap_60_a_declined_change_is_never_executed() {
    let (mut member, table, held) = lead(&in_sync(5, &[1, 2]));
    let late = Head { by_lead: true, ..change(5, 1, 1, held) };
    member.decline(W, Seq(1), 11);
    assert_eq!(member.admit(at(1000), &late, Some(&table)), Verdict::Replay(11));
    let anew = Head { by_lead: true, ..change(5, 2, 1, held) };
    assert_eq!(member.admit(at(1000), &anew, Some(&table)), Verdict::Execute);
    // What is being executed is not declined any more.
    member.decline(W, Seq(2), 11);
    member.finish(W, Seq(2), 22);
    assert_eq!(member.admit(at(1000), &anew, Some(&table)), Verdict::Replay(22));
}

/// Traps 1, 19: without a running promise of every other member nothing is served.
#[test]
fn trap_01_nothing_is_served_after_the_promises_ran_out() {
    let mut member = follower(&in_sync(5, &[1, 2]));
    member.set_serve_until(at(100));
    for head in [change(5, 1, 1, number(5, 1)), read(5, 1, true)] {
        assert!(!matches!(member.admit(at(99), &head, None), Verdict::Refuse(_)));
        assert_eq!(refused(member.admit(at(100), &head, None)), Refusal::NotServing);
    }
}

#[test]
fn a_request_of_another_epoch_is_refused_with_the_members_epoch() {
    let mut member = follower(&in_sync(5, &[1, 2]));
    for epoch in [4, 6] {
        let verdict = member.admit(at(0), &change(epoch, 1, 1, number(5, 1)), None);
        assert_eq!(refused(verdict), Refusal::Epoch { current: 5 });
    }
}

/// Traps 17, 54: the map names another incarnation, or another state.
#[test]
fn trap_17_only_the_named_incarnation_serves() {
    let mut restarted: Member<u32> = Member::new(brick(2), inc(21));
    restarted.on_map(&in_sync(5, &[1, 2]), 1);
    restarted.set_serve_until(Tick::NEVER);
    restarted.session_named(W);
    assert_eq!(refused(restarted.admit(at(0), &read(5, 1, true), None)), Refusal::NotServing);
    let mut syncing = follower(&set_map(5, &[(1, InSync), (2, Syncing)]));
    assert_eq!(refused(syncing.admit(at(0), &read(5, 1, true), None)), Refusal::NotServing);
}

/// Trap 15: W was revoked, C restarted and rejoined: it serves only sessions that the lead of
/// this epoch named, and it took over the numbers before it serves.
#[test]
fn trap_15_a_rejoined_member_serves_named_sessions_under_known_numbers() {
    let (mut lead, table, held) = lead(&set_map(5, &[(1, InSync), (2, Syncing)]));
    lead.numbers.raise(key(1), number(5, held.counter + 1));
    let mut joiner: Member<u32> = Member::new(brick(2), inc(20));
    joiner.on_map(&set_map(5, &[(1, InSync), (2, Syncing)]), 1);
    joiner.take_over(lead.hand_over([W].into_iter().filter(|s| table.knows(*s))));
    joiner.set_serve_until(at(10_000));
    joiner.on_map(&in_sync(6, &[1, 2]), 1);
    let verdict = joiner.admit(at(0), &change(6, 1, 1, held), None);
    assert_eq!(refused(verdict), Refusal::StaleLease);
    let stranger = Head { session: SessionId(8), ..read(6, 1, true) };
    assert_eq!(joiner.admit(at(0), &stranger, None), Verdict::Hold(Hold::AskSession));
}

/// Found by the simulation: the joiner's first map shows epoch 9, but the lead leads since 5, and
/// the leases that it granted then are carried over.
#[test]
fn a_joiner_honours_leases_from_before_its_first_map() {
    let (lead, table, held) = lead(&set_map(5, &[(1, InSync), (2, Syncing)]));
    let mut joiner: Member<u32> = Member::new(brick(2), inc(20));
    joiner.on_map(&set_map(9, &[(1, InSync), (2, Syncing)]), 1);
    joiner.take_over(lead.hand_over([W].into_iter().filter(|s| table.knows(*s))));
    joiner.set_serve_until(at(10_000));
    joiner.on_map(&in_sync(10, &[1, 2]), 1);
    assert_eq!(joiner.admit(at(0), &change(10, 1, 1, held), None), Verdict::Execute);
}

#[test]
fn trap_15_sessions_are_named_anew_by_a_new_lead() {
    let mut member = follower(&in_sync(5, &[1, 2]));
    member.on_map(&in_sync(6, &[1, 2]), 1);
    assert_eq!(member.admit(at(0), &read(6, 1, true), None), Verdict::Serve);
    let mut map = in_sync(7, &[1, 2]);
    map.lead = Some(brick(2));
    assert_eq!(member.on_map(&map, 1), [MemberCommand::BecomeLead { epoch: Epoch(7) }]);
    map = in_sync(8, &[1, 2]);
    map.members[0].incarnation = inc(11);
    assert_eq!(member.on_map(&map, 1), [MemberCommand::LoseLead]);
    let verdict = member.admit(at(0), &read(8, 1, true), None);
    assert_eq!(verdict, Verdict::Hold(Hold::AskSession));
}

/// Traps 4, 16: in a new lead's epoch a frame under an earlier lead's number dies.
#[test]
fn trap_04_an_earlier_leads_numbers_are_dead() {
    let mut map = in_sync(5, &[1, 2, 3]);
    let mut member = follower(&map);
    map.epoch = Epoch(6);
    map.members[0].state = Out;
    map.lead = Some(brick(3));
    member.on_map(&map, 1);
    member.session_named(W);
    let verdict = member.admit(at(0), &change(6, 1, 1, number(5, 9)), None);
    assert_eq!(refused(verdict), Refusal::StaleLease);
    let verdict = member.admit(at(0), &change(6, 1, 1, number(6, 1)), None);
    assert_eq!(verdict, Verdict::Execute);
}

#[test]
fn the_lead_executes_only_under_leases_that_it_gave() {
    let (mut member, mut table, held) = lead(&in_sync(5, &[1, 2]));
    let head = change(5, 1, 1, held);
    let other = change(5, 2, 2, number(5, 99));
    assert_eq!(member.admit(at(0), &head, Some(&table)), Verdict::Execute);
    assert_eq!(refused(member.admit(at(0), &other, Some(&table))), Refusal::StaleLease);
    let bare = Head { under: vec![], ..head };
    let bare = Head { seq: Seq(3), ..bare };
    assert_eq!(refused(member.admit(at(0), &bare, Some(&table))), Refusal::LeaseNeeded);
    let lease = Lease { key: key(1), mode: Mode::Exclusive, number: held };
    table.on_return(at(1), W, lease, Mode::None, false);
    let late = change(5, 4, 1, held);
    assert_eq!(refused(member.admit(at(1), &late, Some(&table))), Refusal::StaleLease);
}

#[test]
fn reads_without_a_lease_go_to_the_lead() {
    let map = in_sync(5, &[1, 2]);
    let (mut member, table, _) = lead(&map);
    assert_eq!(member.admit(at(0), &read(5, 1, false), Some(&table)), Verdict::Serve);
    let mut other = follower(&map);
    assert_eq!(refused(other.admit(at(0), &read(5, 1, false), None)), Refusal::NotLead);
    assert_eq!(other.admit(at(0), &read(5, 1, true), None), Verdict::Serve);
    let lease_op = Head { class: Class::Lead, ..read(5, 1, false) };
    assert_eq!(refused(other.admit(at(0), &lease_op, None)), Refusal::NotLead);
}

/// Trap 24: a lease-less read waits for the grace to end.
#[test]
fn trap_24_a_leaseless_read_waits_for_the_grace_to_end() {
    let mut member: Member<u32> = Member::new(brick(1), inc(10));
    member.on_map(&in_sync(5, &[1, 2]), 1);
    member.set_serve_until(at(10_000));
    let mut table = LeaseTable::new_lead(Epoch(5), Epoch(4), [W]);
    let leaseless = read(5, 1, false);
    assert_eq!(refused(member.admit(at(0), &leaseless, Some(&table))), Refusal::Grace);
    table.lists_settled(at(0));
    assert_eq!(refused(member.admit(at(1), &leaseless, Some(&table))), Refusal::Grace);
    let change = change(5, 1, 1, number(4, 1));
    assert_eq!(refused(member.admit(at(1), &change, Some(&table))), Refusal::Grace);
    table.tick(at(500));
    table.graced(Epoch(5));
    assert_eq!(member.admit(at(501), &leaseless, Some(&table)), Verdict::Serve);
}

/// Trap 57: a member that forgot the number asks the lead before it executes.
#[test]
fn trap_57_a_number_at_the_floor_is_checked_with_the_lead() {
    let mut member = follower(&in_sync(5, &[1, 2]));
    member.numbers = Numbers::new(1);
    member.numbers.raise(key(1), number(5, 1));
    member.numbers.raise(key(2), number(5, 2));
    let head = change(5, 1, 1, number(5, 1));
    let ask = Hold::AskNumber { key: key(1), number: number(5, 1) };
    assert_eq!(member.admit(at(0), &head, None), Verdict::Hold(ask));
    member.number_confirmed(key(1), number(5, 1));
    assert_eq!(member.admit(at(0), &head, None), Verdict::Execute);
}

/// Trap 51: what is above the marks is logged again in the interval of the new epoch.
#[test]
fn trap_51_unsettled_changes_are_logged_again_at_each_epoch() {
    let mut member = follower(&in_sync(5, &[1, 2]));
    member.admit(at(0), &change(5, 1, 1, number(5, 1)), None);
    member.finish(W, Seq(1), 0);
    let commands = member.on_map(&in_sync(6, &[1, 2]), 1);
    let MemberCommand::Relog(list) = &commands[0] else { panic!("{commands:?}") };
    assert_eq!((list[0].session, list[0].seq), (W, Seq(1)));
    assert!(member.on_map(&in_sync(6, &[1, 2]), 1).is_empty(), "once an epoch");
    assert!(member.on_map(&in_sync(5, &[1, 2]), 1).is_empty(), "older maps are ignored");
    assert_eq!(member.epoch(), Epoch(6));
}

/// Trap 6: B's ENOSPC or EIO: it answers nobody and leaves; the success of others stands.
#[test]
fn trap_06_a_member_with_a_disk_error_answers_nobody() {
    let mut member = follower(&in_sync(5, &[1, 2]));
    let head = change(5, 1, 1, number(5, 1));
    assert_eq!(member.admit(at(0), &head, None), Verdict::Execute);
    assert_eq!(member.own_error(Some(gfid(1))), OwnError::Leave);
    for head in [head, read(5, 9, true)] {
        assert_eq!(refused(member.admit(at(0), &head, None)), Refusal::Failed);
    }
}

/// Promise 7: the only copy cannot leave; the inode answers EIO until it is cured.
#[test]
fn a_sole_members_failed_inode_answers_eio() {
    let map = set_map(5, &[(1, InSync), (2, Out)]);
    let (mut member, table, held) = lead(&map);
    assert!(member.lone());
    assert_eq!(member.own_error(Some(gfid(1))), OwnError::Sole);
    let head = change(5, 1, 1, held);
    assert_eq!(member.admit(at(0), &head, Some(&table)), Verdict::Fail(Errno::EIO));
    let bad = member.admit(at(0), &read(5, 1, false), Some(&table));
    assert_eq!(bad, Verdict::Fail(Errno::EIO));
    assert_eq!(member.admit(at(0), &read(5, 2, false), Some(&table)), Verdict::Serve);
    member.cured(gfid(1));
    assert_eq!(member.admit(at(0), &head, Some(&table)), Verdict::Execute);
}

/// Traps 7, 8 of the stale rule: a stale copy is never read and counts as missing.
#[test]
fn trap_07_a_stale_copy_is_not_read_and_counts_as_missing() {
    let map = in_sync(5, &[1, 2]);
    let mut member = follower(&map);
    member.on_map(&in_sync(6, &[1, 2]), 2);
    member.stale.mark(brick(2), gfid(1));
    assert_eq!(refused(member.admit(at(0), &read(6, 1, true), None)), Refusal::StaleCopy);
    let head = change(6, 1, 1, number(6, 1));
    assert_eq!(refused(member.admit(at(0), &head, None)), Refusal::TooFewInSync);
    let other = change(6, 2, 2, number(6, 2));
    assert_eq!(member.admit(at(0), &other, None), Verdict::Execute);
    assert_eq!(member.stale.source(gfid(1), brick(2), &[brick(1)]), Some(brick(1)));
    member.stale.clear(brick(2), gfid(1));
    assert_eq!(member.admit(at(0), &head, None), Verdict::Execute);
}

/// Trap 7: acknowledged only when the mark is durable on all, the stale one too.
#[test]
fn trap_07_a_divergence_is_acknowledged_when_all_members_noted_it() {
    let bricks = [brick(1), brick(2), brick(3)];
    let mut marking = Marking::new(vec![(brick(2), gfid(1))], bricks);
    assert!(!marking.on_noted(brick(1)));
    assert!(!marking.on_noted(brick(3)));
    assert_eq!(marking.awaiting().collect::<Vec<_>>(), [brick(2)]);
    assert!(marking.on_noted(brick(2)));
}

#[test]
fn with_too_few_members_changes_wait_and_reads_go_on() {
    let map = set_map(5, &[(1, InSync), (2, InSync), (3, Out)]);
    let mut member = follower(&map);
    member.on_map(&set_map(6, &[(1, Out), (2, InSync), (3, Out)]), 2);
    assert_eq!(member.needed, 2);
    let mut table = LeaseTable::new_lead(Epoch(6), Epoch(0), []);
    table.lists_settled(at(0));
    table.graced(Epoch(6));
    table.hello(at(0), W).expect("a new session");
    let ask = Ask { session: W, id: 0, key: key(1), mode: Mode::Exclusive, how: How::Waits };
    let commands = table.ask(at(0), ask);
    let LeaseCommand::Grant { lease, .. } = &commands[0] else { panic!() };
    let head = change(6, 1, 1, lease.number);
    assert_eq!(refused(member.admit(at(0), &head, Some(&table))), Refusal::TooFewInSync);
    assert_eq!(member.admit(at(0), &read(6, 1, false), Some(&table)), Verdict::Serve);
}

/// Trap 53: a pause ends by the joiner's word or by a new epoch, never by guess.
#[test]
fn trap_53_a_joins_pause_holds_changes_until_it_is_ended_by_word_or_epoch() {
    let map = set_map(5, &[(1, InSync), (2, Syncing)]);
    let (mut member, table, held) = lead(&map);
    assert_eq!(member.admit(at(0), &change(5, 1, 1, held), Some(&table)), Verdict::Execute);
    assert!(!member.pause(at(0), Epoch(4), JOIN_PAUSE), "of another epoch");
    assert!(member.pause(at(0), Epoch(5), JOIN_PAUSE));
    assert!(!member.quiet(), "one change is being executed");
    member.finish(W, Seq(1), 0);
    assert!(member.quiet());
    let head = change(5, 2, 1, held);
    assert_eq!(member.admit(at(1), &head, Some(&table)), Verdict::Hold(Hold::Paused));
    assert_eq!(member.admit(at(1), &read(5, 1, false), Some(&table)), Verdict::Serve);
    assert_eq!(member.tick(at(499)), None);
    assert_eq!(member.tick(at(500)), Some(MemberCommand::WithdrawJoin));
    assert_eq!(
        member.admit(at(9000), &head, Some(&table)),
        Verdict::Hold(Hold::Paused),
        "time alone releases nothing"
    );
    assert_eq!(member.resume(), [MemberCommand::Readmit]);
    assert_eq!(member.admit(at(9001), &head, Some(&table)), Verdict::Execute);
    member.pause(at(9002), Epoch(5), JOIN_PAUSE);
    let commands = member.on_map(&in_sync(6, &[1, 2]), 1);
    assert!(commands.contains(&MemberCommand::Readmit));
    assert!(commands.contains(&MemberCommand::LeadOn { epoch: Epoch(6) }));
}

/// Traps 10, 11: a joiner knows the windows and unsettled changes of the set when it joins.
#[test]
fn trap_10_a_joiner_takes_over_windows_and_unsettled_changes() {
    let map = set_map(5, &[(1, InSync), (2, Syncing)]);
    let (mut member, table, held) = lead(&map);
    member.admit(at(0), &change(5, 1, 1, held), Some(&table));
    member.finish(W, Seq(1), 42);
    member.stale.mark(brick(2), gfid(4));
    member.note_graced(Epoch(5));
    let mut joiner: Member<u32> = Member::new(brick(2), inc(20));
    joiner.on_map(&map, 1);
    joiner.take_over(member.hand_over([W]));
    assert_eq!(joiner.windows.look(W, Seq(1)), Arrival::Replay(42));
    assert_eq!(joiner.windows.unsettled(None, None).len(), 1);
    assert!(!joiner.stale.is_stale(brick(2), gfid(4)), "its copy was healed");
    assert_eq!(joiner.graced(), Epoch(5));
}

/// A joiner has its list of marks from the beginning of the pause: none may change meanwhile.
#[test]
fn marks_and_a_joiners_pause_exclude_each_other() {
    let (mut member, _, _) = lead(&in_sync(5, &[1, 2, 3]));
    let mark = [(brick(2), gfid(1))];
    assert!(member.begin_marking(&mark));
    assert!(!member.pause(at(0), Epoch(5), JOIN_PAUSE), "a mark is being noted");
    member.end_marking();
    assert!(member.pause(at(0), Epoch(5), JOIN_PAUSE));
    assert!(!member.begin_marking(&mark), "the joiner would miss it");
    member.resume();
    assert!(member.begin_marking(&[]), "clearing is a round, too");
}

#[test]
fn a_mark_that_leaves_no_good_copy_waits() {
    let (mut member, _, _) = lead(&in_sync(5, &[1, 2]));
    member.stale.mark(brick(2), gfid(1));
    assert!(!member.begin_marking(&[(brick(1), gfid(1))]), "the other copy is healed first");
    assert!(member.begin_marking(&[(brick(1), gfid(2))]));
}

/// Sessions and numbers are handed over at the pause: what ended during it, the joiner would
/// go on serving.
#[test]
fn leases_do_not_end_in_a_joiners_pause_nor_while_nobody_can_be_heard() {
    let (mut member, _, _) = lead(&in_sync(5, &[1, 2]));
    assert!(member.may_revoke(at(0)));
    assert!(!member.may_revoke(at(10_000)), "its promises have run out");
    assert!(member.pause(at(0), Epoch(5), JOIN_PAUSE));
    assert!(!member.may_revoke(at(1)));
    member.on_map(&in_sync(6, &[1, 2, 3]), 1);
    assert!(member.may_revoke(at(2)));
    assert!(!follower(&in_sync(5, &[1, 2])).may_revoke(at(0)), "only the lead ends leases");
}

/// A copy taken from a stale one is stale, unless the joiner was there when that was marked.
#[test]
fn what_is_taken_from_a_stale_copy_is_stale() {
    let map = set_map(5, &[(1, InSync), (2, Syncing)]);
    let (mut source, _, _) = lead(&map);
    source.stale.mark(brick(1), gfid(1));
    let mut away: Member<u32> = Member::new(brick(2), inc(20));
    away.on_map(&map, 1);
    let stale = source.marks_of_own();
    let kept = away.keeps(brick(1), &stale);
    assert!(kept.is_empty());
    let marks = source.marks_for(brick(2), &kept);
    assert_eq!(marks, [(brick(2), gfid(1))]);
    marks.iter().for_each(|(b, g)| assert!(source.stale.mark(*b, *g)));
    away.take_over(source.hand_over([]));
    assert!(away.stale.is_stale(brick(2), gfid(1)));

    let mut there: Member<u32> = Member::new(brick(2), inc(20));
    there.on_map(&map, 1);
    there.stale.mark(brick(1), gfid(1));
    assert_eq!(there.keeps(brick(1), &stale), BTreeSet::from([gfid(1)]));
    assert!(there.keeps(brick(1), &BTreeSet::new()).is_empty(), "healed meanwhile");
}

/// Seed 9354. A's copy is good, C's is marked; A goes, C is alone, B takes C's copy (marked, too)
/// and leads. A, which knows C's mark only, still has the one good copy, and keeps it.
#[test]
fn the_last_good_copy_is_kept_whoever_leads_when_it_returns() {
    let mut a: Member<u32> = Member::new(brick(1), inc(10));
    a.stale.mark(brick(3), gfid(1));
    let alone = set_map(5, &[(1, Out), (2, Syncing), (3, InSync)]);
    let mut c: Member<u32> = Member::new(brick(3), inc(30));
    c.on_map(&alone, 1);
    c.stale.mark(brick(3), gfid(1));
    c.stale.mark(brick(2), gfid(2));
    let mut b: Member<u32> = Member::new(brick(2), inc(20));
    b.on_map(&alone, 1);
    let kept = b.keeps(brick(3), &c.marks_of_own());
    assert!(kept.is_empty(), "it knows of no mark");
    let marks = c.marks_for(brick(2), &kept);
    assert_eq!(marks, [(brick(2), gfid(1))]);
    marks.iter().for_each(|(b, g)| assert!(c.stale.mark(*b, *g)));
    b.take_over(c.hand_over([]));
    b.on_map(&set_map(7, &[(1, Syncing), (2, InSync), (3, Out)]), 1);
    assert!(b.is_lead());
    let kept = a.keeps(brick(2), &b.marks_of_own());
    assert_eq!(kept, BTreeSet::from([gfid(1)]), "C's mark is among B's");
    assert!(b.marks_for(brick(1), &kept).is_empty());
    // Had it taken B's copy in an earlier attempt, it would be marked itself.
    b.stale.mark(brick(1), gfid(1));
    assert!(a.keeps(brick(2), &b.marks_of_own()).is_empty());
}

/// A lead whose own copy can be healed first does not hand it to a joiner.
#[test]
fn a_lead_with_a_stale_copy_heals_it_before_a_pause() {
    let (mut member, _, _) = lead(&in_sync(5, &[1, 2]));
    member.stale.mark(brick(1), gfid(1));
    assert!(!member.pause(at(0), Epoch(5), JOIN_PAUSE));
    member.stale.clear(brick(1), gfid(1));
    // Where nobody has a better one, or another member's is stale, it need not wait.
    member.stale.mark(brick(2), gfid(2));
    assert!(member.pause(at(0), Epoch(5), JOIN_PAUSE));
    member.resume();
    member.stale.mark(brick(1), gfid(2));
    assert!(member.pause(at(0), Epoch(5), JOIN_PAUSE));
}

/// Trap 15: nor does the lead itself serve who has not said hello, and what the lead calls dead
/// is served by nobody; with a forgotten session goes its window.
#[test]
fn trap_15_a_session_that_is_unknown_or_has_ended_is_not_served() {
    let (mut member, table, number) = lead(&in_sync(5, &[1, 2]));
    let stranger = Head { session: SessionId(99), ..change(5, 1, 1, number) };
    let refusal = refused(member.admit(at(0), &stranger, Some(&table)));
    assert_eq!(refusal, Refusal::UnknownSession);
    let hello = Head { session: SessionId(99), class: Class::Lead, ..change(5, 0, 1, number) };
    assert_eq!(member.admit(at(0), &hello, Some(&table)), Verdict::Serve);

    let mut member = follower(&in_sync(5, &[1, 2]));
    let first = change(5, 1, 1, LeaseNumber { base: 5, counter: 1 });
    assert_eq!(member.admit(at(0), &first, None), Verdict::Execute);
    member.finish(W, Seq(1), 0);
    member.session_ended(W, false);
    assert_eq!(member.windows.unsettled(None, None).len(), 1, "it is settled first");
    assert_eq!(member.admit(at(1), &first, None), Verdict::Hold(Hold::AskSession));
    member.session_ended(W, true);
    assert!(member.windows.sessions().next().is_none());
}

/// The volume's `min-in-sync` may change without a new epoch.
#[test]
fn a_map_of_the_same_epoch_is_taken() {
    let mut member = follower(&in_sync(5, &[1, 2]));
    member.on_map(&in_sync(5, &[1, 2]), 3);
    let first = change(5, 1, 1, LeaseNumber { base: 5, counter: 1 });
    assert_eq!(refused(member.admit(at(0), &first, None)), Refusal::TooFewInSync);
}

/// It touches nothing, so no settling would ever clear it where it was executed.
#[test]
fn an_fsync_is_not_fenced_by_the_end_of_a_lease() {
    let mut member = follower(&in_sync(5, &[1, 2]));
    member.numbers.raise(key(1), number(5, 9));
    let fsync = Head { touches: vec![], ..change(5, 1, 1, number(5, 1)) };
    assert_eq!(member.admit(at(0), &fsync, None), Verdict::Execute);
    let write = change(5, 2, 1, number(5, 1));
    assert_eq!(refused(member.admit(at(0), &write, None)), Refusal::StaleLease);
}

/// Trap 47: with one copy left it is known to be the last: `lone-sync` makes changes durable,
/// status says so, and its peer cannot be stopped.
#[test]
fn trap_47_the_last_copy_is_known_as_such() {
    let mut member = follower(&in_sync(5, &[1, 2]));
    assert!(!member.lone());
    let map = set_map(6, &[(1, Out), (2, InSync)]);
    member.on_map(&map, 1);
    assert!(member.lone());
    let peer = crate::testing::peer(2);
    assert_eq!(crate::set::can_stop(&map, peer, 1), Err(crate::set::CannotStop::LastInSync));
}

/// The other member died before it had noted the mark; the epoch without it begins.
#[test]
fn an_unfinished_mark_of_the_last_copy_is_dropped() {
    let (mut member, _, _) = lead(&in_sync(5, &[1, 2]));
    let mark = [(brick(1), gfid(1))];
    assert!(member.begin_marking(&mark));
    member.stale.mark(brick(1), gfid(1));
    assert!(member.unfinished(&mark).is_empty(), "brick 2 has a good one");
    member.on_map(&set_map(6, &[(1, InSync), (2, Out)]), 1);
    assert_eq!(member.unfinished(&mark), mark);
}

/// Seed 1047. B was healed, and drops its mark first; A dies before it has dropped its own. B is
/// alone with a good copy, and knows that. (In the other order it would take it for stale.)
#[test]
fn the_healed_member_is_good_when_the_round_is_cut_off() {
    let map = in_sync(5, &[1, 2]);
    let (mut a, _, _) = lead(&map);
    let mut b = follower(&map);
    for member in [&mut a, &mut b] {
        assert!(member.stale.mark(brick(2), gfid(1)));
    }
    assert!(a.begin_marking(&[]));
    b.stale.clear(brick(2), gfid(1));
    b.on_map(&set_map(6, &[(1, Out), (2, InSync)]), 1);
    assert!(b.stale.iter().next().is_none());
    // A returns and takes B's marks over: its own was never cleared.
    a.on_map(&set_map(6, &[(1, Syncing), (2, InSync)]), 1);
    assert!(a.keeps(brick(2), &b.marks_of_own()).is_empty());
    assert!(b.marks_for(brick(1), &BTreeSet::new()).is_empty());
    a.take_over(b.hand_over([]));
    assert!(a.stale.iter().next().is_none());
}
