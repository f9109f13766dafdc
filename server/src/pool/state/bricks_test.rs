//! Tables of changes of bricks: set state, commands and entries, look at the volume.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::*;
use crate::pool::command::{Command, CommandReply, NewPeer, SetResult, unstarted_set};
use crate::pool::state::PeerState;
use crate::pool::state::apply::apply;
use proto::map::MemberState::{InSync, Out};
use proto::{Incarnation, PeerId, VolumeId};
use proto_rules::SetKey;
use proto_rules::set::{NEW_MEMBER, SetEntry};
use uuid::Uuid;

fn brick(n: u128) -> BrickId {
    BrickId(Uuid::from_u128(n))
}

/// Brick `n` on peer `n`.
fn new(n: u128) -> NewBrick {
    NewBrick { id: brick(n), peer: PeerId(Uuid::from_u128(n)), path: "/b".into() }
}

fn peer(n: u128) -> PeerState {
    let new = NewPeer {
        id: PeerId(Uuid::from_u128(n)),
        host: format!("n{n}"),
        control_port: 1,
        data_port: 2,
        promise_port: 3,
        witness: false,
    };
    super::super::apply::peer_state(&new, n as u64)
}

fn key(set: u32) -> SetKey {
    SetKey { volume: VolumeId(Uuid::from_u128(7)), set: SetId(set) }
}

/// `sets` sets of `replica` bricks, numbered from 1 on, all in-sync; peers 1 to 20.
fn pool(sets: u128, replica: u128) -> PoolState {
    let peers = (1..=20).map(|n| (PeerId(Uuid::from_u128(n)), peer(n))).collect();
    let mut state = PoolState { peers, ..PoolState::default() };
    let set = |at: u128| {
        let bricks: Vec<NewBrick> = (1..=replica).map(|n| new(at * replica + n)).collect();
        let mut set = unstarted_set(at as u32, &bricks);
        let members = bricks.iter().map(|b| (b.id, Incarnation(1))).collect();
        proto_rules::set::apply(&mut set, 5, &SetEntry::Start { members });
        set
    };
    let volume = VolumeState {
        id: key(0).volume,
        name: "gv0".into(),
        replica: replica as u16,
        stripe: 1,
        stripe_block: 1,
        transport: "tcp".into(),
        started: true,
        ever_started: true,
        created_s: 0,
        version: 5,
        sets: (0..sets).map(set).collect(),
        slots: Arc::default(),
        options: BTreeMap::new(),
        changes: Vec::new(),
    };
    state.volumes.insert(volume.id, Arc::new(volume));
    state
}

fn volume(state: &PoolState) -> &VolumeState {
    state.volumes.values().next().unwrap()
}

fn bricks_of(state: &PoolState, set: usize) -> Vec<BrickId> {
    volume(state).sets[set].members.iter().map(|m| m.brick).collect()
}

fn command(change: BrickChange) -> Command {
    Command::ChangeBricks { name: "gv0".into(), change }
}

fn done(state: &mut PoolState, index: u64, change: BrickChange) {
    let reply = apply(state, index, &command(change));
    assert_eq!(reply, CommandReply::Done { index });
}

fn refused(state: &PoolState, change: BrickChange) -> String {
    let mut changed = state.clone();
    let CommandReply::Refused(why) = apply(&mut changed, 90, &command(change.clone())) else {
        panic!("{change:?} was not refused");
    };
    assert_eq!(changed.volumes, state.volumes, "a refused change changed the state");
    why
}

fn entry(state: &mut PoolState, index: u64, set: u32, entry: SetEntry) -> SetResult {
    let reply = apply(state, index, &Command::Membership(vec![(key(set), entry)]));
    let CommandReply::Membership { mut results, .. } = reply else { panic!("{reply:?}") };
    results.remove(0).1
}

fn epoch(state: &PoolState, set: u32) -> Epoch {
    volume(state).sets[set as usize].epoch
}

fn join(state: &mut PoolState, index: u64, set: u32, n: u128) {
    let (brick, incarnation) = (brick(n), Incarnation(2));
    let up = SetEntry::BrickUp { epoch: epoch(state, set), brick, incarnation };
    assert_eq!(entry(state, index, set, up), SetResult::Noted);
    let joined = SetEntry::Join { epoch: epoch(state, set), brick, incarnation };
    assert!(matches!(entry(state, index + 1, set, joined), SetResult::NewEpoch { .. }));
}

/// Leaves by its own word, then is dropped.
fn go(state: &mut PoolState, index: u64, set: u32, n: u128) {
    let (brick, epoch_of) = (brick(n), |state: &PoolState| epoch(state, set));
    let incarnation = volume(state).sets[set as usize].member(brick).unwrap().incarnation;
    let reason = String::new();
    let leave = SetEntry::Leave { epoch: epoch_of(state), brick, incarnation, reason };
    assert!(matches!(entry(state, index, set, leave), SetResult::NewEpoch { .. }));
    let dropped = SetEntry::Drop { epoch: epoch_of(state), brick };
    assert_eq!(entry(state, index + 1, set, dropped), SetResult::Noted);
}

#[test]
fn a_replacement_goes_from_command_to_drop_and_counts_stay_as_they_are() {
    let mut state = pool(1, 3);
    let replace = BrickChange::Replace { old: brick(2), new: new(4) };
    done(&mut state, 10, replace.clone());
    assert_eq!(volume(&state).version, 10);
    assert_eq!(bricks_of(&state, 0), [1, 2, 4, 3].map(brick));
    assert_eq!((volume(&state).replica, volume(&state).replica_shown()), (3, 3));
    assert_eq!(volume(&state).sets[0].member(brick(4)).unwrap().reason, NEW_MEMBER);
    // The same again changes nothing; another one waits its turn.
    done(&mut state, 11, replace);
    assert_eq!((volume(&state).version, volume(&state).changes.len()), (10, 1));
    let other = BrickChange::Replace { old: brick(1), new: new(5) };
    assert!(refused(&state, other).contains("under way"));
    let early = SetEntry::Drop { epoch: epoch(&state, 0), brick: brick(2) };
    assert!(matches!(entry(&mut state, 12, 0, early), SetResult::Void(_)));
    join(&mut state, 13, 0, 4);
    assert_eq!(volume(&state).changes, [(SetId(0), Change::Remove { brick: brick(2) })]);
    go(&mut state, 15, 0, 2);
    assert_eq!(bricks_of(&state, 0), [1, 4, 3].map(brick));
    assert!(volume(&state).changes.is_empty());
}

#[test]
fn a_dead_brick_leaves_at_once_and_the_last_current_one_never() {
    let mut state = pool(1, 2);
    let dead = SetEntry::Evict { epoch: Epoch(5), brick: brick(2), reason: "dead".into() };
    entry(&mut state, 6, 0, dead);
    done(&mut state, 10, BrickChange::Replace { old: brick(2), new: new(4) });
    let begun = [Change::Remove { brick: brick(2) }, Change::Add { new: brick(4) }];
    assert_eq!(volume(&state).changes_of(SetId(0)), begun);
    let dropped = SetEntry::Drop { epoch: epoch(&state, 0), brick: brick(2) };
    assert_eq!(entry(&mut state, 11, 0, dropped), SetResult::Noted);
    assert_eq!((volume(&state).replica, bricks_of(&state, 0)), (2, [1, 4].map(brick).to_vec()));
    join(&mut state, 12, 0, 4);
    assert!(volume(&state).changes.is_empty());

    let mut alone = pool(1, 2);
    let dead = SetEntry::Evict { epoch: Epoch(5), brick: brick(2), reason: "dead".into() };
    entry(&mut alone, 6, 0, dead);
    let remove = BrickChange::Remove { replica: 1, bricks: vec![brick(1)] };
    assert!(refused(&alone, remove).contains("no other current copy"));
    assert!(refused(&alone, BrickChange::Reset { brick: brick(1) }).contains("no other current"));
}

#[test]
fn a_replacement_is_taken_back_while_the_new_brick_was_never_in_sync() {
    let mut state = pool(1, 3);
    done(&mut state, 10, BrickChange::Replace { old: brick(2), new: new(4) });
    let abort = BrickChange::Abort { old: brick(2), new: brick(4) };
    done(&mut state, 11, abort.clone());
    assert_eq!(volume(&state).changes_of(SetId(0)), [Change::Remove { brick: brick(4) }]);
    let dropped = SetEntry::Drop { epoch: epoch(&state, 0), brick: brick(4) };
    assert_eq!(entry(&mut state, 12, 0, dropped), SetResult::Noted);
    assert_eq!((bricks_of(&state, 0), volume(&state).replica), ([1, 2, 3].map(brick).to_vec(), 3));
    done(&mut state, 13, BrickChange::Replace { old: brick(2), new: new(5) });
    join(&mut state, 14, 0, 5);
    assert!(
        refused(&state, BrickChange::Abort { old: brick(2), new: brick(5) }).contains("in-sync")
    );
}

#[test]
fn copies_are_added_and_taken_out_in_every_set() {
    let mut state = pool(2, 2);
    let add = |replica, bricks: &[u128]| BrickChange::Add {
        replica,
        bricks: bricks.iter().map(|n| new(*n)).collect(),
    };
    for (change, says) in [
        (add(2, &[5]), "must be greater"),
        (add(1, &[5]), "must be greater"),
        (add(3, &[5]), "Incorrect number of bricks supplied 1 with count 2"),
        (add(3, &[]), "Incorrect number of bricks supplied 0"),
        (add(17, &[5]), "replica count must be"),
        (add(3, &[1, 5]), "already part of volume"),
        (add(3, &[5, 5]), "named twice"),
    ] {
        let why = refused(&state, change);
        assert!(why.contains(says), "{says}: {why}");
    }
    done(&mut state, 10, add(3, &[5, 6]));
    assert_eq!(bricks_of(&state, 0), [1, 2, 5].map(brick));
    assert_eq!(bricks_of(&state, 1), [3, 4, 6].map(brick));
    // Changes go on needing what two members need until all sets have three.
    assert_eq!((volume(&state).replica, volume(&state).replica_shown()), (2, 3));
    assert_eq!(volume(&state).type_name(), "Distributed-Replicate");
    join(&mut state, 11, 0, 5);
    assert_eq!(volume(&state).replica, 2);
    join(&mut state, 13, 1, 6);
    assert_eq!((volume(&state).replica, volume(&state).needed()), (3, 2));

    let remove = |replica, bricks: &[u128]| BrickChange::Remove {
        replica,
        bricks: bricks.iter().map(|n| brick(*n)).collect(),
    };
    for (change, says) in [
        (remove(3, &[1]), "must be less"),
        (remove(0, &[1]), "must be less"),
        (remove(2, &[]), "2 was said"),
        (remove(2, &[1]), "2 was said"),
        (remove(2, &[1, 2]), "2 was said"),
        (remove(2, &[1, 1]), "twice"),
        (remove(2, &[1, 9]), "does not exist"),
    ] {
        let why = refused(&state, change);
        assert!(why.contains(says), "{says}: {why}");
    }
    done(&mut state, 20, remove(2, &[1, 4]));
    assert_eq!((volume(&state).replica, volume(&state).brick_count()), (2, 6));
    go(&mut state, 21, 0, 1);
    go(&mut state, 23, 1, 4);
    assert_eq!(bricks_of(&state, 0), [2, 5].map(brick));
    assert_eq!(bricks_of(&state, 1), [3, 6].map(brick));
    assert!(volume(&state).changes.is_empty());
}

#[test]
fn an_addition_is_taken_back_before_it_is_done() {
    let mut state = pool(1, 2);
    done(&mut state, 10, BrickChange::Add { replica: 3, bricks: vec![new(5)] });
    let other = BrickChange::Remove { replica: 2, bricks: vec![brick(1)] };
    assert!(refused(&state, other).contains("under way"));
    done(&mut state, 11, BrickChange::Remove { replica: 2, bricks: vec![brick(5)] });
    assert_eq!(volume(&state).changes_of(SetId(0)), [Change::Remove { brick: brick(5) }]);
    assert_eq!((volume(&state).replica, volume(&state).replica_shown()), (2, 2));
}

#[test]
fn a_reset_brick_comes_back_only_by_its_commit() {
    let mut state = pool(1, 3);
    let commit = BrickChange::CommitReset { brick: brick(2) };
    assert!(refused(&state, commit.clone()).contains("must be stopped"));
    done(&mut state, 10, BrickChange::Reset { brick: brick(2) });
    assert!(refused(&state, commit.clone()).contains("must be stopped"), "it serves still");
    let dropped = SetEntry::Drop { epoch: Epoch(5), brick: brick(2) };
    assert!(matches!(entry(&mut state, 11, 0, dropped), SetResult::Void(_)));
    let reason = String::new();
    let incarnation = Incarnation(1);
    let leave = SetEntry::Leave { epoch: Epoch(5), brick: brick(2), incarnation, reason };
    entry(&mut state, 12, 0, leave);
    done(&mut state, 13, commit.clone());
    let member = volume(&state).sets[0].member(brick(2)).unwrap().clone();
    assert_eq!((member.state, member.reason.as_str()), (Out, COMPARE_ALL));
    assert!(volume(&state).changes.is_empty());
    done(&mut state, 14, commit);
    join(&mut state, 15, 0, 2);
    assert!(volume(&state).sets[0].members.iter().all(|m| m.state == InSync));
}

#[test]
fn before_the_first_start_bricks_change_at_once_and_of_a_stopped_volume_never() {
    let mut state = pool(1, 2);
    let mut fresh = volume(&state).clone();
    fresh.sets = vec![unstarted_set(0, &[new(1), new(2)])];
    (fresh.started, fresh.ever_started) = (false, false);
    state.volumes.insert(fresh.id, Arc::new(fresh));
    done(&mut state, 10, BrickChange::Replace { old: brick(1), new: new(4) });
    assert_eq!((bricks_of(&state, 0), volume(&state).replica), ([4, 2].map(brick).to_vec(), 2));
    done(&mut state, 11, BrickChange::Add { replica: 3, bricks: vec![new(5)] });
    assert_eq!(volume(&state).replica, 3);
    done(&mut state, 12, BrickChange::Remove { replica: 2, bricks: vec![brick(2)] });
    assert_eq!((bricks_of(&state, 0), volume(&state).replica), ([4, 5].map(brick).to_vec(), 2));
    assert!(volume(&state).changes.is_empty());
    assert!(volume(&state).sets[0].members.iter().all(|m| m.reason != NEW_MEMBER));

    let mut stopped = pool(1, 3);
    apply(&mut stopped, 9, &Command::StopVolume { name: "gv0".into(), force: false });
    let replace = BrickChange::Replace { old: brick(1), new: new(4) };
    assert!(refused(&stopped, replace).contains("not in the started state"));
}

/// What was written to the log by the first programs, and what these write.
#[test]
fn logs_and_snapshots_of_earlier_programs_are_readable() {
    let state = pool(1, 2);
    let text = serde_json::to_string(&state).unwrap();
    assert!(!text.contains("changes"), "nothing of it where nothing is changed");
    assert_eq!(serde_json::from_str::<PoolState>(&text).unwrap(), state);
    let old = r#"{"Membership":[[{"volume":"00000000-0000-0000-0000-000000000007","set":0},
        {"Evict":{"epoch":5,"brick":"00000000-0000-0000-0000-000000000002","reason":"dead"}}]]}"#;
    assert!(matches!(serde_json::from_str::<Command>(old).unwrap(), Command::Membership(_)));
    // Of this version, for the next one: a line is never edited.
    for (command, line) in [
        (
            command(BrickChange::Replace { old: brick(1), new: new(4) }),
            r#"{"ChangeBricks":{"name":"gv0","change":{"Replace":{"old":"00000000-0000-0000-0000-000000000001","new":{"id":"00000000-0000-0000-0000-000000000004","peer":"00000000-0000-0000-0000-000000000004","path":"/b"}}}}}"#,
        ),
        (
            command(BrickChange::Remove { replica: 2, bricks: vec![brick(1)] }),
            r#"{"ChangeBricks":{"name":"gv0","change":{"Remove":{"replica":2,"bricks":["00000000-0000-0000-0000-000000000001"]}}}}"#,
        ),
        (
            command(BrickChange::Add { replica: 3, bricks: Vec::new() }),
            r#"{"ChangeBricks":{"name":"gv0","change":{"Add":{"replica":3,"bricks":[]}}}}"#,
        ),
        (
            command(BrickChange::Reset { brick: brick(1) }),
            r#"{"ChangeBricks":{"name":"gv0","change":{"Reset":{"brick":"00000000-0000-0000-0000-000000000001"}}}}"#,
        ),
        (
            command(BrickChange::CommitReset { brick: brick(1) }),
            r#"{"ChangeBricks":{"name":"gv0","change":{"CommitReset":{"brick":"00000000-0000-0000-0000-000000000001"}}}}"#,
        ),
        (
            command(BrickChange::Abort { old: brick(1), new: brick(4) }),
            r#"{"ChangeBricks":{"name":"gv0","change":{"Abort":{"old":"00000000-0000-0000-0000-000000000001","new":"00000000-0000-0000-0000-000000000004"}}}}"#,
        ),
        (
            Command::Membership(vec![(
                key(0),
                SetEntry::Drop { epoch: Epoch(6), brick: brick(1) },
            )]),
            r#"{"Membership":[[{"volume":"00000000-0000-0000-0000-000000000007","set":0},{"Drop":{"epoch":6,"brick":"00000000-0000-0000-0000-000000000001"}}]]}"#,
        ),
    ] {
        assert_eq!(serde_json::to_string(&command).unwrap(), line);
        assert_eq!(serde_json::from_str::<Command>(line).unwrap(), command);
    }
    let mut changing = pool(1, 2);
    done(&mut changing, 10, BrickChange::Add { replica: 3, bricks: vec![new(5)] });
    let text = serde_json::to_string(&changing).unwrap();
    assert!(text.contains(r#""changes":[[0,{"Add":{"new":"#), "{text}");
    assert_eq!(serde_json::from_str::<PoolState>(&text).unwrap(), changing);
}
