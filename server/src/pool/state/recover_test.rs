//! Table tests: a state, some peers lost or renamed, look at every set.

use std::collections::BTreeMap;

use proto::map::MemberMap;
use proto::{SetId, VolumeId};
use uuid::Uuid;

use super::*;
use MemberState::{InSync, Out, Syncing};

fn id(n: u128) -> PeerId {
    PeerId(Uuid::from_u128(n))
}

fn new_peer(n: u128, host: &str) -> NewPeer {
    let (control_port, data_port, promise_port) = (1, 2, 3);
    NewPeer { id: id(n), host: host.into(), control_port, data_port, promise_port, witness: false }
}

/// Peers 1, 2, 3 with a brick each, in these states.
fn pool(states: [MemberState; 3]) -> PoolState {
    let mut state = PoolState { applied: 40, ..PoolState::default() };
    for n in 1..=3 {
        state.peers.insert(id(n), peer_state(&new_peer(n, &format!("n{n}")), n as u64));
    }
    let members: Vec<_> = (1..=3_u128)
        .zip(states)
        .map(|(n, state)| MemberMap {
            brick: BrickId(Uuid::from_u128(n)),
            peer: id(n),
            path: "/b".into(),
            state,
            incarnation: Incarnation(10),
            reason: String::new(),
        })
        .collect();
    let lead = members.iter().find(|m| m.state == InSync).map(|m| m.brick);
    let set = SetMap { id: SetId(0), epoch: Epoch(30), lead, members };
    let volume = VolumeState {
        id: VolumeId(Uuid::from_u128(9)),
        name: "gv0".into(),
        replica: 3,
        stripe: 1,
        stripe_block: 1,
        transport: "tcp".into(),
        started: true,
        ever_started: true,
        created_s: 0,
        version: 30,
        sets: vec![set],
        slots: Arc::new(Vec::new()),
        options: BTreeMap::new(),
        changes: Vec::new(),
    };
    state.volumes.insert(volume.id, Arc::new(volume));
    state
}

fn set(state: &PoolState) -> &SetMap {
    &state.volumes.values().next().unwrap().sets[0]
}

fn states(state: &PoolState) -> Vec<MemberState> {
    set(state).members.iter().map(|m| m.state).collect()
}

#[test]
fn a_survivor_that_was_in_sync_goes_on_alone() {
    let mut state = pool([InSync, InSync, InSync]);
    recover(&mut state, 40 + JUMP, &[id(1), id(2)].into(), false).unwrap();
    assert_eq!(states(&state), [Out, Out, InSync]);
    let set = set(&state);
    assert_eq!((set.epoch, set.lead), (Epoch(40 + JUMP), Some(set.members[2].brick)));
    assert!(set.members[..2].iter().all(|m| m.reason == COMPARE_ALL));
    assert!(state.removed_nodes.contains(&1) && state.removed_nodes.contains(&2));
    assert!(!state.trusts(id(1)) && state.trusts(id(3)));
    assert_eq!(state.living().count(), 1);
}

#[test]
fn an_older_copy_goes_on_only_when_its_loss_is_accepted() {
    let mut state = pool([InSync, Out, Syncing]);
    let before = state.clone();
    let why = recover(&mut state, 99, &[id(1)].into(), false).unwrap_err();
    assert!(why.contains("gv0") && why.contains("--accept-loss"), "{why}");
    assert_eq!(state, before, "nothing changed");
    recover(&mut state, 99, &[id(1)].into(), true).unwrap();
    assert_eq!(states(&state), [Out, Out, InSync], "the one that was catching up holds most");
    let members = &set(&state).members;
    assert!(members[..2].iter().all(|m| m.reason == COMPARE_ALL), "the other one's notes too");
}

#[test]
fn a_set_without_any_copy_waits_as_it_is() {
    let mut state = pool([InSync, InSync, Out]);
    let before = set(&state).clone();
    recover(&mut state, 99, &[id(1), id(2), id(3)].into(), false).unwrap();
    assert_eq!(*set(&state), before);
}

#[test]
fn a_reinstalled_peer_takes_its_bricks_back_and_everything_is_compared() {
    let mut state = pool([InSync, InSync, Out]);
    replace_peer(&mut state, 50, id(3), &new_peer(7, "n3")).unwrap();
    let member = &set(&state).members[2];
    assert_eq!((member.peer, member.state), (id(7), Out));
    assert_eq!(member.reason, COMPARE_ALL);
    assert_eq!(set(&state).epoch, Epoch(30), "nobody else is concerned");
    assert!(state.removed_nodes.contains(&3) && !state.peers.contains_key(&id(3)));
    assert_eq!(state.peers[&id(7)].node, 50);
    // The answer was lost; it is proposed again.
    let once = state.clone();
    replace_peer(&mut state, 51, id(3), &new_peer(7, "n3")).unwrap();
    assert_eq!(state, once);
}

#[test]
fn a_peer_whose_brick_others_still_count_on_is_not_replaced() {
    let mut state = pool([InSync, InSync, Out]);
    let why = replace_peer(&mut state, 50, id(2), &new_peer(7, "n2")).unwrap_err();
    assert!(why.contains("in-sync still"), "{why}");
    // A stopped volume has nobody who waits for its promises.
    let stop = |v: &mut Arc<VolumeState>| Arc::make_mut(v).started = false;
    state.volumes.values_mut().for_each(stop);
    replace_peer(&mut state, 50, id(2), &new_peer(7, "n2")).unwrap();
    assert_eq!(states(&state), [InSync, Out, Out]);
    assert_eq!(set(&state).epoch, Epoch(50));
}

#[test]
fn the_only_current_copy_stays_current_under_the_new_name() {
    let mut state = pool([InSync, Out, Out]);
    replace_peer(&mut state, 50, id(1), &new_peer(7, "n1")).unwrap();
    assert_eq!(states(&state), [InSync, Out, Out]);
    assert_eq!(set(&state).members[0].peer, id(7));
}

#[test]
fn a_brick_compares_everything_until_it_has_joined() {
    use proto_rules::set::{SetEntry, apply};
    let mut state = pool([InSync, InSync, Out]);
    replace_peer(&mut state, 50, id(3), &new_peer(7, "n3")).unwrap();
    let mut set = set(&state).clone();
    let brick = set.members[2].brick;
    let up = |n| SetEntry::BrickUp { epoch: Epoch(30), brick, incarnation: Incarnation(n) };
    apply(&mut set, 51, &up(20));
    assert_eq!((set.members[2].state, set.members[2].reason.as_str()), (Syncing, COMPARE_ALL));
    apply(&mut set, 52, &up(21));
    assert_eq!(set.members[2].reason, COMPARE_ALL, "its daemon restarted in the middle");
    let join = SetEntry::Join { epoch: Epoch(30), brick, incarnation: Incarnation(21) };
    apply(&mut set, 53, &join);
    assert_eq!((set.members[2].state, set.members[2].reason.as_str()), (InSync, ""));
}
