use super::read::{ReadCommand, ReadTxn};
use super::*;
use crate::testing::{brick, in_sync, inc};
use crate::time::MS;

type Command = TxnCommand<&'static str>;

fn at(ms: u64) -> Tick {
    Tick(1_000_000 * MS).after(ms * MS)
}

fn targets(epoch: u64, bricks: &[u8]) -> Targets {
    Targets::of(&in_sync(epoch, bricks)).expect("it has a lead")
}

fn start(bricks: &[u8]) -> Txn<&'static str> {
    let (txn, sends) = Txn::start(targets(5, bricks), at(30_000));
    let expected: Vec<Command> =
        bricks.iter().map(|b| TxnCommand::Send { to: brick(*b), resend: false }).collect();
    assert_eq!(sends, expected);
    txn
}

fn answer(txn: &mut Txn<&'static str>, b: u8, reply: &'static str) -> Vec<Command> {
    let epoch = txn.epoch();
    txn.on_answer(at(1), brick(b), epoch, reply.len() as u64, reply)
}

fn resend(b: u8) -> Command {
    TxnCommand::Send { to: brick(b), resend: true }
}

#[test]
fn a_change_is_done_when_all_in_sync_members_have_answered() {
    let mut txn = start(&[1, 2, 3]);
    assert!(answer(&mut txn, 2, "ok").is_empty());
    assert!(answer(&mut txn, 1, "ok").is_empty());
    assert!(answer(&mut txn, 1, "ok").is_empty(), "one member's second answer counts once");
    assert_eq!(answer(&mut txn, 3, "ok"), [TxnCommand::Done("ok"), TxnCommand::Settled]);
    assert!(txn.is_over());
}

/// Trap 7: a differing answer is reported and durably marked before the application knows.
#[test]
fn trap_07_a_differing_answer_marks_its_member_before_the_acknowledgement() {
    let mut txn = start(&[1, 2, 3]);
    answer(&mut txn, 1, "ok");
    answer(&mut txn, 2, "enoent");
    let report = TxnCommand::ReportDivergence { stale: vec![brick(2)] };
    assert_eq!(answer(&mut txn, 3, "ok"), std::slice::from_ref(&report));
    assert_eq!(txn.on_connected(brick(1)), [report], "the lead's answer was lost");
    assert_eq!(txn.on_marked(), [TxnCommand::Done("ok"), TxnCommand::Settled]);
    // Of two, the lead's answer stands.
    let mut txn = start(&[1, 2]);
    answer(&mut txn, 2, "ok");
    let commands = answer(&mut txn, 1, "eexist");
    assert_eq!(commands, [TxnCommand::ReportDivergence { stale: vec![brick(2)] }]);
    assert_eq!(txn.on_marked()[0], TxnCommand::Done("eexist"));
}

/// Promise 3 and trap 32: in a new epoch everything is asked again, of all its members.
#[test]
fn trap_32_a_member_that_never_answers_is_outlived_by_the_next_epoch() {
    let mut txn = start(&[1, 2, 3]);
    answer(&mut txn, 1, "ok");
    answer(&mut txn, 2, "ok");
    assert_eq!(txn.on_map(targets(6, &[1, 2])), [resend(1), resend(2)]);
    assert!(txn.on_map(targets(6, &[1, 2])).is_empty(), "the same map again");
    assert!(txn.on_answer(at(2), brick(3), Epoch(5), 2, "ok").is_empty(), "of the old epoch");
    assert!(answer(&mut txn, 1, "ok").is_empty());
    assert_eq!(answer(&mut txn, 2, "ok")[0], TxnCommand::Done("ok"));
}

#[test]
fn a_refused_member_is_asked_again_soon() {
    let mut txn = start(&[1, 2]);
    for refusal in [Refusal::NotServing, Refusal::Busy, Refusal::Grace] {
        assert!(txn.on_refused(at(0), brick(1), refusal).is_empty());
        assert_eq!(txn.next_wake(), Some(at(20)));
        assert!(txn.on_tick(at(19)).is_empty());
        assert_eq!(txn.on_tick(at(20)), [resend(1)]);
    }
}

#[test]
fn a_newer_epoch_is_fetched_once() {
    let mut txn = start(&[1, 2]);
    let refusal = Refusal::Epoch { current: 6 };
    let fetch = TxnCommand::FetchMap { at_least: Epoch(6) };
    assert_eq!(txn.on_refused(at(0), brick(1), refusal), [fetch]);
    assert!(txn.on_refused(at(0), brick(2), refusal).is_empty());
    // A member that is behind will catch up.
    let mut txn = start(&[1, 2]);
    assert!(txn.on_refused(at(0), brick(2), Refusal::Epoch { current: 4 }).is_empty());
    assert_eq!(txn.on_tick(at(20)), [resend(2)]);
}

#[test]
fn a_lost_connection_is_followed_by_a_resend() {
    let mut txn = start(&[1, 2]);
    txn.on_lost(brick(1));
    assert!(txn.on_tick(at(100)).is_empty());
    assert_eq!(txn.on_connected(brick(1)), [resend(1)]);
    answer(&mut txn, 1, "ok");
    txn.on_lost(brick(1));
    assert!(txn.on_connected(brick(1)).is_empty(), "it has answered");
}

/// Trap 4: under a new lead nothing is re-sent before the lease is reclaimed.
#[test]
fn trap_04_a_new_leads_epoch_waits_for_the_reclaim() {
    let mut txn = start(&[1, 2, 3]);
    assert!(txn.on_map(targets(6, &[2, 3])).is_empty());
    assert!(answer(&mut txn, 2, "ok").is_empty());
    assert!(txn.on_map(targets(7, &[2])).is_empty(), "not reclaimed yet");
    assert_eq!(txn.on_reclaimed(), [resend(2)]);
    assert!(txn.on_reclaimed().is_empty());
    assert_eq!(answer(&mut txn, 2, "ok")[0], TxnCommand::Done("ok"));
    let mut txn = start(&[1, 2]);
    txn.on_map(targets(6, &[2]));
    assert_eq!(txn.on_lease_lost(), [TxnCommand::LeaseLost, TxnCommand::Settled]);
}

#[test]
fn a_restarted_lead_is_a_new_lead() {
    let mut txn = start(&[1]);
    let mut map = in_sync(6, &[1]);
    map.members[0].incarnation = inc(11);
    assert!(txn.on_map(Targets::of(&map).expect("a lead")).is_empty());
    assert_eq!(txn.on_reclaimed(), [resend(1)]);
}

/// Trap 48: some members executed it before the revoke. The number counts as settled only
/// when the lead has settled it, which shows when nobody has it in a window any more.
#[test]
fn trap_48_a_change_cut_by_a_revoke_is_not_settled_before_all_members_agree() {
    let mut txn = start(&[1, 2]);
    txn.on_refused(at(0), brick(1), Refusal::StaleLease);
    assert!(answer(&mut txn, 2, "ok").is_empty());
    assert_eq!(txn.on_tick(at(21)), [resend(2)]);
    assert!(answer(&mut txn, 2, "ok").is_empty(), "the settle has not come to it yet");
    assert_eq!(txn.on_tick(at(50)), [resend(2)]);
    let commands = txn.on_refused(at(51), brick(2), Refusal::StaleLease);
    assert_eq!(commands, [TxnCommand::LeaseLost, TxnCommand::Settled]);
}

#[test]
fn a_timed_out_change_fails_once_and_goes_on_to_be_settled() {
    let mut txn = start(&[1, 2]);
    answer(&mut txn, 1, "ok");
    txn.on_lost(brick(2));
    assert_eq!(txn.on_tick(at(30_000)), [TxnCommand::Fail(TxnError::TimedOut)]);
    assert!(txn.on_tick(at(40_000)).is_empty());
    assert!(!txn.is_over(), "its number and its conflicts stay taken");
    txn.on_connected(brick(2));
    assert_eq!(answer(&mut txn, 2, "ok"), [TxnCommand::Settled]);
}

#[test]
fn too_few_members_for_the_whole_timeout_is_told_as_such() {
    let mut txn = start(&[1]);
    txn.on_refused(at(0), brick(1), Refusal::TooFewInSync);
    assert_eq!(txn.on_tick(at(30_000)), [resend(1), TxnCommand::Fail(TxnError::TooFewInSync)]);
}

#[test]
fn a_leased_read_goes_on_to_the_next_member() {
    let order = vec![brick(3), brick(2)];
    let (mut read, first) = ReadTxn::start(targets(5, &[1, 2, 3]), true, order, at(30_000));
    let send = |b| ReadCommand::Send { to: brick(b) };
    assert_eq!(first, [send(3)]);
    assert!(read.accepts(brick(3), Epoch(5)));
    assert_eq!(read.on_refused(at(0), brick(3), Refusal::StaleCopy), [send(2)]);
    assert!(!read.accepts(brick(3), Epoch(5)), "an answer of one that was given up");
    assert_eq!(read.on_lost(at(0), brick(2)), [send(1)], "the lead is always the last");
    assert!(read.on_refused(at(0), brick(1), Refusal::NotServing).is_empty());
    assert_eq!(read.next_wake(), Some(at(20)));
    assert_eq!(read.on_tick(at(20)), [send(3)]);
    assert_eq!(read.on_tick(at(30_000)), [ReadCommand::Fail(TxnError::TimedOut)]);
    assert!(read.on_tick(at(30_001)).is_empty());
}

/// Trap 24: without a lease only the lead is asked.
#[test]
fn trap_24_a_leaseless_read_goes_to_the_lead_only() {
    let order = vec![brick(3), brick(2)];
    let (mut read, first) = ReadTxn::start(targets(5, &[1, 2, 3]), false, order, at(30_000));
    assert_eq!(first, [ReadCommand::Send { to: brick(1) }]);
    assert!(read.on_refused(at(0), brick(1), Refusal::Grace).is_empty());
    assert_eq!(read.on_tick(at(20)), [ReadCommand::Send { to: brick(1) }]);
    let fetch = ReadCommand::FetchMap { at_least: Epoch(6) };
    let refusal = Refusal::Epoch { current: 6 };
    assert_eq!(read.on_refused(at(20), brick(1), refusal), [fetch]);
    let sends = read.on_map(targets(6, &[2, 3]), false, vec![]);
    assert_eq!(sends, [ReadCommand::Send { to: brick(2) }]);
    assert!(!read.accepts(brick(2), Epoch(5)));
}
