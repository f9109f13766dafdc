use super::*;
use crate::testing::{brick, gfid};

const W: SessionId = SessionId(7);

fn range(n: u8, start: u64, end: u64) -> Touch {
    Touch::Range { gfid: gfid(n), start, end }
}

fn entry(seq: u64, touches: &[Touch]) -> Unsettled {
    Unsettled { session: W, seq: Seq(seq), touches: touches.to_vec(), by_lead: false }
}

fn list(entries: &[Unsettled], mark: u64) -> MemberList {
    let marks = vec![(W, Seq(mark))];
    MemberList { entries: entries.to_vec(), marks, sessions: vec![W], ..MemberList::default() }
}

/// Brick 1 leads; the lists are of bricks 1, 2, ... in order.
fn settle(lists: &[MemberList], stale: &StaleMarks) -> (Settle, Vec<SettleCommand>) {
    let members: Vec<BrickId> = (1..=lists.len() as u8).map(brick).collect();
    let (mut settle, collect) = Settle::start(Scope::All, brick(1), members.clone(), vec![]);
    assert_eq!(collect.len(), lists.len());
    let mut commands = Vec::new();
    for (member, list) in members.into_iter().zip(lists) {
        assert!(commands.is_empty(), "nothing before the last list");
        commands = settle.on_list(member, list.clone(), stale);
    }
    (settle, commands)
}

fn done() -> SettleCommand {
    SettleCommand::Done { sessions: BTreeSet::from([W]) }
}

fn ranges(ranges: &[(u64, u64)]) -> CopyWhat {
    CopyWhat { ranges: ranges.to_vec(), ..CopyWhat::default() }
}

/// Trap 4: W and the old lead died together; W's last frame reached C (brick 3), not the new
/// lead. Its range is copied from the lead before anything touches the inode.
#[test]
fn trap_04_what_only_one_member_has_is_made_equal_before_anything_is_served() {
    let stale = StaleMarks::default();
    let lists = [list(&[], 0), list(&[], 0), list(&[entry(1, &[range(1, 100, 200)])], 0)];
    let (mut settle, commands) = settle(&lists, &stale);
    let copy = SettleCommand::Copy {
        gfid: gfid(1),
        what: ranges(&[(100, 200)]),
        source: brick(1),
        targets: vec![brick(2), brick(3)],
    };
    assert_eq!(commands, [copy]);
    assert!(settle.blocks(gfid(1)));
    assert!(!settle.blocks(gfid(2)));
    let commands = settle.on_copied(gfid(1), &stale);
    assert_eq!(commands.len(), 3, "every member clears");
    let (entries, take_over) = (vec![(W, Seq(1))], vec![]);
    assert_eq!(commands[2], SettleCommand::Clear { at: brick(3), entries, take_over });
    assert!(settle.on_cleared(brick(1)).is_empty());
    assert!(settle.on_cleared(brick(2)).is_empty());
    assert_eq!(settle.on_cleared(brick(3)), [done()]);
    assert!(settle.is_done() && !settle.blocks(gfid(1)));
}

/// Trap 60: the old lead had executed W's append, on the new one too, and died before it answered.
/// With the bytes the others get the reply: W's re-send is answered by whoever leads.
#[test]
fn trap_60_what_the_dead_lead_executed_is_settled_with_its_reply() {
    let stale = StaleMarks::default();
    let append = Unsettled { by_lead: true, ..entry(1, &[range(1, 100, 200)]) };
    let has = MemberList { replies: vec![((W, Seq(1)), 0)], ..list(&[append], 0) };
    let (mut run, commands) = settle(&[has.clone(), list(&[], 0)], &stale);
    assert!(matches!(&commands[0], SettleCommand::Copy { source, .. } if *source == brick(1)));
    let commands = run.on_copied(gfid(1), &stale);
    let take_over = vec![(brick(1), W, Seq(1))];
    let here = SettleCommand::Clear { at: brick(1), entries: vec![], take_over: vec![] };
    assert_eq!(commands, [here, SettleCommand::Clear { at: brick(2), entries: vec![], take_over }]);
    // Only the other member has it: it is undone there, and forgotten.
    let (mut run, _) = settle(&[list(&[], 0), has], &stale);
    let commands = run.on_copied(gfid(1), &stale);
    let entries = vec![(W, Seq(1))];
    assert_eq!(commands[1], SettleCommand::Clear { at: brick(2), entries, take_over: vec![] });
}

/// Trap 5: a 1 TiB image is settled by its unsettled ranges only, merged.
#[test]
fn trap_05_only_the_unsettled_ranges_are_copied() {
    let a = [entry(1, &[range(1, 0, 10)]), entry(2, &[range(1, 5, 20)])];
    let b = [entry(3, &[range(1, 1 << 40, (1 << 40) + 4096), Touch::Attrs(gfid(1))])];
    let (_, commands) = settle(&[list(&a, 0), list(&b, 0)], &StaleMarks::default());
    let SettleCommand::Copy { what, .. } = &commands[0] else { panic!("{commands:?}") };
    assert_eq!(what.ranges, [(0, 20), (1 << 40, (1 << 40) + 4096)]);
    assert!(what.attrs);
    assert_eq!(commands.len(), 1);
}

#[test]
fn what_all_members_have_or_a_mark_covers_is_left_alone() {
    let everywhere = entry(4, &[range(1, 0, 10)]);
    let covered = entry(3, &[range(2, 0, 10)]);
    let lists = [list(&[covered, everywhere.clone()], 0), list(&[everywhere], 3)];
    let (settle, commands) = settle(&lists, &StaleMarks::default());
    assert_eq!(commands, [done()]);
    assert!(settle.is_done());
}

/// Traps 7, 48: a stale copy is no source; the lead's own is then a target.
#[test]
fn trap_07_a_stale_lead_is_a_target_not_a_source() {
    let mut stale = StaleMarks::default();
    stale.mark(brick(1), gfid(1));
    let known = |list: MemberList| MemberList { stale: vec![(brick(1), gfid(1))], ..list };
    let lists = [known(list(&[], 0)), known(list(&[entry(1, &[range(1, 0, 9)])], 0))];
    let (_, commands) = settle(&lists, &stale);
    let SettleCommand::Copy { source, targets, .. } = &commands[0] else { panic!() };
    assert_eq!((*source, &targets[..]), (brick(2), &[brick(1)][..]));
}

#[test]
fn inodes_are_copied_before_the_names_that_point_to_them() {
    let stale = StaleMarks::default();
    let create = [Touch::Name { dir: gfid(9), hash: 77 }, Touch::Attrs(gfid(1))];
    let (mut settle, commands) = settle(&[list(&[], 0), list(&[entry(1, &create)], 0)], &stale);
    let of = |c: &SettleCommand| match c {
        SettleCommand::Copy { gfid, what, .. } => (*gfid, what.clone()),
        other => panic!("{other:?}"),
    };
    let attrs = CopyWhat { attrs: true, ..CopyWhat::default() };
    assert_eq!(commands.iter().map(of).collect::<Vec<_>>(), [(gfid(1), attrs)]);
    assert!(settle.blocks(gfid(9)), "the directory too");
    let commands = settle.on_copied(gfid(1), &stale);
    let names = CopyWhat { names: vec![77], ..CopyWhat::default() };
    assert_eq!(commands.iter().map(of).collect::<Vec<_>>(), [(gfid(9), names)]);
    assert_eq!(settle.on_copied(gfid(9), &stale).len(), 2);
}

/// A member that dies while its list is awaited, or while it is copied to, is out of the next
/// epoch; the same lead begins again with those left.
#[test]
fn a_settle_begins_again_when_the_members_change() {
    let stale = StaleMarks::default();
    let lists = [list(&[], 0), list(&[entry(1, &[range(1, 0, 9)])], 0), list(&[], 0)];
    let (mut settle, _) = settle(&lists, &stale);
    assert_eq!(settle.on_members(vec![brick(1), brick(2)]).len(), 2);
    assert!(settle.on_copied(gfid(1), &stale).is_empty(), "of the attempt before");
    assert!(settle.blocks(gfid(5)), "everything, until the lists are there");
    assert!(settle.on_list(brick(3), lists[2].clone(), &stale).is_empty());
    settle.on_list(brick(1), lists[0].clone(), &stale);
    let commands = settle.on_list(brick(2), lists[1].clone(), &stale);
    let SettleCommand::Copy { targets, .. } = &commands[0] else { panic!() };
    assert_eq!(targets[..], [brick(2)]);
}

#[test]
fn a_sole_member_has_nothing_to_copy() {
    let (settle, commands) =
        settle(&[list(&[entry(1, &[range(1, 0, 9)])], 0)], &StaleMarks::default());
    assert_eq!(commands, [done()]);
    assert!(settle.is_done());
}

/// Trap 48: one revoked lease settles its holder's changes of that inode, with the new number
/// told to all first.
#[test]
fn trap_48_one_revoked_lease_is_settled_by_itself() {
    let key = LeaseKey::Inode(gfid(1));
    let scope = SettleScope { session: W, key: Some(key) };
    let raise = vec![(key, LeaseNumber { base: 5, counter: 9 })];
    let members = vec![brick(1), brick(2)];
    let (settle, commands) = Settle::start(Scope::One(scope), brick(1), members, raise.clone());
    assert_eq!(commands[1], SettleCommand::Collect { from: brick(2), raise });
    assert_eq!(settle.scope().filter(), (Some(W), Some(gfid(1))));
    assert!(settle.blocks(gfid(1)) && !settle.blocks(gfid(2)));
}

/// The lead that had marks noted died before all members had them.
#[test]
fn a_new_lead_gives_all_members_the_same_marks() {
    let marked = |marks: &[(BrickId, Gfid)]| MemberList { stale: marks.to_vec(), ..list(&[], 0) };
    let mark = (brick(3), gfid(1));
    let lists = [marked(&[]), marked(&[mark]), marked(&[])];
    let stale = StaleMarks::default();
    let (mut settle, commands) = settle(&lists, &stale);
    let to = |at| SettleCommand::Mark { at: brick(at), set: vec![mark], clear: vec![] };
    assert_eq!(commands, [to(1), to(3)]);
    assert!(settle.on_marked(brick(1), &stale).is_empty());
    assert_eq!(settle.on_marked(brick(3), &stale), [done()]);
}

/// A mark that not all have was told to nobody: it goes when no good copy would be left.
#[test]
fn an_unfinished_mark_does_not_take_the_last_good_copy() {
    let marked = |marks: &[(BrickId, Gfid)]| MemberList { stale: marks.to_vec(), ..list(&[], 0) };
    let (mine, theirs) = ((brick(1), gfid(1)), (brick(2), gfid(1)));
    let lists = [marked(&[mine]), marked(&[mine, theirs])];
    let (_, commands) = settle(&lists, &StaleMarks::default());
    assert_eq!(commands, [SettleCommand::Mark { at: brick(2), set: vec![], clear: vec![theirs] }]);
}

/// Executed everywhere, with different results: the client died before it could say so.
#[test]
fn what_was_answered_differently_is_copied() {
    let entry = entry(1, &[range(1, 0, 9)]);
    let told = |reply| MemberList {
        replies: vec![((W, Seq(1)), reply)],
        ..list(std::slice::from_ref(&entry), 0)
    };
    let (_, commands) = settle(&[told(0), told(0)], &StaleMarks::default());
    assert_eq!(commands, [done()]);
    let (_, commands) = settle(&[told(0), told(5)], &StaleMarks::default());
    assert!(matches!(commands[0], SettleCommand::Copy { .. }), "{commands:?}");
}
