use super::conflict::{Conflicts, Reads};
use super::sequencer::Sequencer;
use super::*;
use crate::testing::gfid;

const W: SessionId = SessionId(7);

fn range(n: u8, start: u64, end: u64) -> Touch {
    Touch::Range { gfid: gfid(n), start, end }
}

fn begin(windows: &mut Windows<u32>, seq: u64, touch: Touch) {
    windows.begin(W, Seq(seq), vec![touch], LeaseNumber::NONE);
}

#[test]
fn a_resent_change_is_executed_once_and_answered_again() {
    let mut windows = Windows::<u32>::default();
    assert_eq!(windows.look(W, Seq(1)), Arrival::New);
    begin(&mut windows, 1, range(1, 0, 10));
    assert_eq!(windows.look(W, Seq(1)), Arrival::Running);
    windows.finish(W, Seq(1), 42);
    assert_eq!(windows.look(W, Seq(1)), Arrival::Replay(42));
    assert_eq!(windows.look(SessionId(8), Seq(1)), Arrival::New, "windows are per session");
}

/// Trap 2: a late duplicate of a settled change dies, also when it never reached this member
/// before.
#[test]
fn trap_02_a_late_lower_number_dies() {
    let mut windows = Windows::<u32>::default();
    windows.set_mark(W, Seq(5));
    assert_eq!(windows.look(W, Seq(3)), Arrival::Stale);
    assert_eq!(windows.look(W, Seq(5)), Arrival::Stale);
    assert_eq!(windows.look(W, Seq(6)), Arrival::New);
    windows.set_mark(W, Seq(2));
    assert_eq!(windows.mark(W), Seq(5), "marks never fall");
}

/// Traps 4, 48: what a dead holder left unfinished is known to whoever got it.
#[test]
fn trap_04_changes_above_the_mark_are_listed_with_what_they_touch() {
    let mut windows = Windows::<u32>::default();
    begin(&mut windows, 1, range(1, 0, 10));
    begin(&mut windows, 2, range(2, 5, 9));
    windows.begin(SessionId(8), Seq(1), vec![Touch::Attrs(gfid(1))], LeaseNumber::NONE);
    windows.finish(W, Seq(1), 0);
    windows.set_mark(W, Seq(1));
    let all = windows.unsettled(None, None);
    assert_eq!(
        all.iter().map(|u| (u.session, u.seq)).collect::<Vec<_>>(),
        [(W, Seq(2)), (SessionId(8), Seq(1))]
    );
    let of_inode = windows.unsettled(Some(W), Some(gfid(2)));
    assert_eq!(of_inode[0].touches, [range(2, 5, 9)]);
    assert!(windows.unsettled(Some(W), Some(gfid(1))).is_empty());
}

#[test]
fn what_is_being_executed_is_not_cleared_as_settled() {
    let mut windows = Windows::<u32>::default();
    begin(&mut windows, 1, range(1, 0, 10));
    assert!(windows.running(Some(W), Some(gfid(1))));
    windows.clear(&[(W, Seq(1))]);
    assert_eq!(windows.look(W, Seq(1)), Arrival::Running);
    windows.finish(W, Seq(1), 1);
    assert!(!windows.running(None, None));
    windows.clear(&[(W, Seq(1))]);
    assert_eq!(windows.look(W, Seq(1)), Arrival::New, "recognised by state from now on");
}

#[test]
fn a_change_that_was_not_executed_is_new_again() {
    let mut windows = Windows::<u32>::default();
    begin(&mut windows, 1, range(1, 0, 10));
    windows.cancel(W, Seq(1));
    assert_eq!(windows.look(W, Seq(1)), Arrival::New);
}

#[test]
fn window_and_sequencer_agree_on_the_bound() {
    let mut sequencer = Sequencer::default();
    let mut windows = Windows::<u32>::default();
    for _ in 0..WINDOW_MAX {
        let seq = sequencer.begin().expect("inside the bound");
        assert_eq!(windows.look(W, seq), Arrival::New);
        begin(&mut windows, seq.0, range(1, seq.0, seq.0 + 1));
    }
    assert_eq!(sequencer.begin(), None);
    assert_eq!(windows.look(W, Seq(WINDOW_MAX as u64 + 1)), Arrival::Full);
    sequencer.settled(Seq(2));
    assert_eq!((sequencer.begin(), sequencer.mark()), (None, Seq(0)), "1 is still open");
    sequencer.settled(Seq(1));
    assert_eq!(sequencer.mark(), Seq(2));
    windows.set_mark(W, sequencer.mark());
    let next = sequencer.begin().expect("two were settled");
    assert_eq!(windows.look(W, next), Arrival::New);
}

/// Trap 2: x=1 in flight, x=2 flushed behind it on another connection.
#[test]
fn trap_02_no_two_conflicting_changes_are_in_flight() {
    let mut conflicts = Conflicts::default();
    assert!(conflicts.submit(1, vec![range(1, 0, 10)]));
    assert!(!conflicts.submit(2, vec![range(1, 5, 15)]));
    assert!(conflicts.submit(3, vec![range(1, 20, 30)]), "disjoint bytes fly together");
    assert!(!conflicts.submit(4, vec![range(1, 12, 14)]), "not past a waiting one");
    assert!(conflicts.submit(5, vec![Touch::Attrs(gfid(1))]));
    assert!(!conflicts.submit(6, vec![Touch::Attrs(gfid(1)), range(1, 90, 99)]));
    assert_eq!(conflicts.finish(1), [2]);
    assert_eq!(conflicts.finish(5), [6]);
    assert_eq!(conflicts.finish(2), [4]);
}

#[test]
fn one_name_is_changed_once_at_a_time() {
    let mut conflicts = Conflicts::default();
    let name = |hash| Touch::Name { dir: gfid(1), hash };
    assert!(conflicts.submit(1, vec![name(5)]));
    assert!(conflicts.submit(2, vec![name(6)]));
    assert!(!conflicts.submit(3, vec![name(7), name(5)]));
    assert!(!conflicts.submit(4, vec![name(7)]), "the rename before it has that name too");
    assert_eq!(conflicts.finish(1), [3]);
    assert_eq!(conflicts.finish(3), [4]);
    assert!(conflicts.in_flight(Reads::Inode(gfid(1))));
}

/// Trap 3: a range in flight is read from the buffer only.
#[test]
fn trap_03_a_range_in_flight_is_not_read_from_a_member() {
    let mut conflicts = Conflicts::default();
    conflicts.submit(1, vec![range(1, 100, 200)]);
    assert!(conflicts.in_flight(bytes(1, 199, 300)));
    assert!(!conflicts.in_flight(bytes(1, 200, 300)));
    assert!(!conflicts.in_flight(bytes(2, 100, 200)));
    assert!(!conflicts.read(2, bytes(1, 0, 101)), "nor is such a read begun");
    conflicts.finish(1);
    assert!(!conflicts.in_flight(bytes(1, 100, 200)));
    assert!(conflicts.read(2, bytes(1, 0, 101)));
}

/// Trap 3, the other way round (simulation, seed 7189): a read was under way when the same mount
/// began to set what it reads; a member showed the change, whose lease then ended, and which was
/// undone. The read was of nothing.
#[test]
fn trap_03_a_change_waits_for_reads_of_what_it_changes() {
    let mut conflicts = Conflicts::default();
    assert!(conflicts.read(1, Reads::Inode(gfid(4))));
    assert!(conflicts.read(2, Reads::Inode(gfid(4))), "reads do not wait for each other");
    assert!(!conflicts.submit(3, vec![Touch::Attrs(gfid(4))]));
    assert!(conflicts.submit(4, vec![Touch::Attrs(gfid(5))]), "another inode's may go");
    assert!(conflicts.finish(1).is_empty(), "the other read is still under way");
    assert!(!conflicts.read(5, Reads::Inode(gfid(4))), "no later read gets ahead of the change");
    assert_eq!(conflicts.finish(2), [3]);
    assert!(!conflicts.read(5, Reads::Inode(gfid(4))));
    assert!(conflicts.finish(3).is_empty());
    assert!(conflicts.read(5, Reads::Inode(gfid(4))), "and now it shows what is done");
}

#[test]
fn a_change_waits_for_reads_of_overlapping_bytes_and_names_only() {
    let mut conflicts = Conflicts::default();
    let name = |dir, hash| Touch::Name { dir: gfid(dir), hash };
    assert!(conflicts.read(1, bytes(1, 0, 100)));
    assert!(conflicts.read(2, Reads::Inode(gfid(2))));
    assert!(conflicts.submit(3, vec![range(1, 100, 200)]), "behind what is read");
    assert!(!conflicts.submit(4, vec![range(1, 99, 100)]));
    assert!(!conflicts.submit(5, vec![name(2, 7), Touch::Attrs(gfid(3))]), "a listing shows it");
    assert!(conflicts.submit(6, vec![name(9, 7)]));
    assert!(!conflicts.submit(7, vec![Touch::Attrs(gfid(3))]), "not past a waiting one");
    assert_eq!(conflicts.finish(2), [5]);
    assert_eq!(conflicts.finish(5), [7]);
    assert_eq!(conflicts.finish(1), [4]);
}

fn bytes(n: u8, start: u64, end: u64) -> Reads {
    Reads::Bytes { gfid: gfid(n), start, end }
}
