//! Table tests of `apply`: set state, one command, look at state and reply.

use super::*;
use crate::pool::command::{NewBrick, PoolSecrets};
use proto::map::MemberState;
use proto::{BrickId, Epoch, Incarnation, SetId};
use uuid::Uuid;

fn peer(number: u128, host: &str) -> NewPeer {
    NewPeer {
        id: PeerId(Uuid::from_u128(number)),
        host: host.into(),
        control_port: 1,
        data_port: 2,
        promise_port: 3,
        witness: false,
    }
}

fn volume(name: &str, replica: u16, bricks: &[(u128, &str)]) -> NewVolume {
    NewVolume {
        id: VolumeId(Uuid::from_u128(name.bytes().map(u128::from).sum())),
        name: name.into(),
        replica,
        stripe: 1,
        transport: "tcp".into(),
        bricks: bricks
            .iter()
            .enumerate()
            .map(|(n, (peer, path))| NewBrick {
                id: BrickId(Uuid::from_u128(1000 + n as u128)),
                peer: PeerId(Uuid::from_u128(*peer)),
                path: (*path).into(),
            })
            .collect(),
        created_s: 5,
    }
}

fn pool() -> PoolState {
    let mut state = PoolState::default();
    let secrets = PoolSecrets {
        pool_id: Uuid::from_u128(99),
        ca_pem: String::new(),
        ca_key_pem: String::new(),
        ticket_key: [1; 32],
    };
    let create = Command::CreatePool { secrets, first: peer(1, "n1") };
    assert_eq!(apply(&mut state, 2, &create), CommandReply::Done { index: 2 });
    for n in 2..=3 {
        apply(&mut state, n + 1, &Command::AddPeer(peer(u128::from(n), &format!("n{n}"))));
    }
    state
}

const THREE: [(u128, &str); 3] = [(1, "/b/1"), (2, "/b/1"), (3, "/b/1")];

fn with_volume() -> PoolState {
    let mut state = pool();
    let reply = apply(&mut state, 10, &Command::CreateVolume(volume("gv0", 3, &THREE)));
    assert_eq!(reply, CommandReply::Done { index: 10 });
    state
}

fn refused(state: &PoolState, command: Command) -> String {
    let mut changed = state.clone();
    let CommandReply::Refused(why) = apply(&mut changed, 50, &command) else {
        panic!("{command:?} was not refused");
    };
    changed.applied = state.applied;
    assert_eq!(&changed, state, "a refused command changed the state");
    why
}

#[test]
fn peers_get_node_numbers_that_are_never_used_again() {
    let mut state = pool();
    let node = |state: &PoolState, n: u128| state.peers[&PeerId(Uuid::from_u128(n))].node;
    assert_eq!((node(&state, 1), node(&state, 2), node(&state, 3)), (1, 3, 4));
    apply(&mut state, 8, &Command::RemovePeer { peer: PeerId(Uuid::from_u128(3)) });
    assert!(state.removed_nodes.contains(&4));
    apply(&mut state, 9, &Command::AddPeer(peer(3, "n3")));
    assert_eq!(node(&state, 3), 9);
}

#[test]
fn a_second_pool_and_a_doubled_address_are_refused() {
    let state = pool();
    let secrets = state.secrets.clone().unwrap();
    assert!(
        refused(&state, Command::CreatePool { secrets, first: peer(7, "n7") }).contains("pool")
    );
    assert!(refused(&state, Command::AddPeer(peer(7, "n2"))).contains("n2"));
}

#[test]
fn a_peer_that_holds_bricks_stays() {
    let state = with_volume();
    let why = refused(&state, Command::RemovePeer { peer: PeerId(Uuid::from_u128(2)) });
    assert!(why.contains("gv0"), "{why}");
}

#[test]
fn bad_volumes_are_refused_before_anything_changes() {
    let state = with_volume();
    let create = |v: NewVolume| refused(&state, Command::CreateVolume(v));
    assert!(
        create(NewVolume { id: VolumeId::random(), ..volume("gv0", 1, &[(1, "/c")]) })
            .contains("already exists")
    );
    assert!(create(volume("x", 2, &[(1, "/c"), (2, "/c"), (3, "/c")])).contains("multiple"));
    assert!(create(volume("x", 1, &[(1, "/b/1")])).contains("part of volume gv0"));
    assert!(create(volume("x", 1, &[(1, "/b/1/sub")])).contains("part of volume gv0"));
    assert!(create(volume("x", 1, &[(1, "/c"), (1, "/c")])).contains("twice"));
    assert!(create(volume("x", 1, &[(1, "/c"), (1, "/c/d")])).contains("inside"));
    assert!(create(volume("x", 1, &[(9, "/c")])).contains("does not belong"));
    assert!(create(volume("x", 1, &[(1, "c")])).contains("absolute"));
    assert!(create(volume("x y", 1, &[(1, "/c")])).contains("valid name"));
    assert!(create(volume("x", 0, &[(1, "/c")])).contains("replica"));
    assert!(create(volume("x", 1, &[])).contains("bricks"));
}

#[test]
fn creating_the_same_volume_again_is_the_same_answer() {
    let mut state = with_volume();
    let before = state.volumes.clone();
    let reply = apply(&mut state, 11, &Command::CreateVolume(volume("gv0", 3, &THREE)));
    assert_eq!(reply, CommandReply::Done { index: 11 });
    assert_eq!(state.volumes, before);
}

#[test]
fn consecutive_bricks_form_sets_that_share_the_slots() {
    let mut state = pool();
    let bricks = [(1, "/a"), (2, "/a"), (3, "/a"), (1, "/b"), (2, "/b"), (3, "/b")];
    apply(&mut state, 10, &Command::CreateVolume(volume("dr", 3, &bricks)));
    let volume = state.volume_by_name("dr").unwrap();
    assert_eq!((volume.sets.len(), volume.distribute()), (2, 2));
    assert_eq!(volume.type_name(), "Distributed-Replicate");
    assert_eq!(volume.sets[1].members[0].path, "/b");
    assert_eq!(volume.slots.iter().filter(|s| **s == SetId(0)).count(), 4096);
}

#[test]
fn start_stop_and_delete_follow_each_other() {
    let mut state = with_volume();
    let start = Command::StartVolume { name: "gv0".into(), force: false };
    let stop = Command::StopVolume { name: "gv0".into(), force: false };
    let delete = Command::DeleteVolume { name: "gv0".into() };
    assert!(refused(&state, stop.clone()).contains("not in the started state"));
    apply(&mut state, 11, &start);
    assert_eq!(state.volume_by_name("gv0").unwrap().status_name(), "Started");
    assert_eq!(state.volume_by_name("gv0").unwrap().version, 11);
    assert!(refused(&state, start).contains("already started"));
    assert!(refused(&state, delete.clone()).contains("stopped before deletion"));
    apply(&mut state, 12, &stop);
    assert_eq!(state.volume_by_name("gv0").unwrap().status_name(), "Stopped");
    apply(&mut state, 13, &delete);
    assert!(state.volumes.is_empty());
    assert!(
        refused(&state, Command::StartVolume { name: "gv0".into(), force: true })
            .contains("does not exist")
    );
}

#[test]
fn options_are_checked_kept_and_reset() {
    let mut state = with_volume();
    let set = |option: &str, value: &str| Command::SetOptions {
        name: "gv0".into(),
        options: vec![(option.into(), value.into())],
    };
    assert!(refused(&state, set("client.op-timeout", "0")).contains("range"));
    assert!(refused(&state, set("no.such", "0")).contains("unknown option"));
    apply(&mut state, 11, &set("client.op-timeout", "7"));
    let volume = state.volume_by_name("gv0").unwrap().clone();
    assert_eq!(state.map_of(&volume).options.op_timeout_s, 7);
    apply(&mut state, 12, &Command::ResetOptions { name: "gv0".into(), option: None });
    assert!(state.volume_by_name("gv0").unwrap().options.is_empty());
}

#[test]
fn clients_are_named_once() {
    let mut state = pool();
    let add = |hash: u8| Command::AddClient { name: "web".into(), hash: [hash; 32], created_s: 1 };
    apply(&mut state, 9, &add(1));
    assert_eq!(apply(&mut state, 10, &add(1)), CommandReply::Done { index: 10 });
    assert!(refused(&state, add(2)).contains("already exists"));
    apply(&mut state, 11, &Command::RemoveClient { name: "web".into() });
    assert!(
        refused(&state, Command::RemoveClient { name: "web".into() }).contains("does not exist")
    );
}

fn started() -> (PoolState, SetKey) {
    let mut state = with_volume();
    let key = SetKey { volume: state.volume_by_name("gv0").unwrap().id, set: SetId(0) };
    let members: Vec<_> = state.volumes[&key.volume]
        .bricks()
        .enumerate()
        .map(|(n, m)| (m.brick, Incarnation(n as u64 + 1)))
        .collect();
    let start = Command::Membership(vec![(key, SetEntry::Start { members })]);
    apply(&mut state, 20, &start);
    (state, key)
}

#[test]
fn membership_entries_change_epoch_and_map_version_together() {
    let (state, key) = started();
    let volume = &state.volumes[&key.volume];
    assert_eq!((volume.sets[0].epoch, volume.version), (Epoch(20), 20));
    assert_eq!(volume.sets[0].lead, Some(volume.sets[0].members[0].brick));
}

#[test]
fn a_membership_entry_of_another_epoch_or_volume_is_void() {
    let (mut state, key) = started();
    let brick = state.volumes[&key.volume].sets[0].members[1].brick;
    let evict = |key, epoch| {
        let entry = SetEntry::Evict { epoch: Epoch(epoch), brick, reason: "silent".into() };
        Command::Membership(vec![(key, entry)])
    };
    let nowhere = SetKey { volume: VolumeId::random(), set: SetId(0) };
    for command in [evict(key, 19), evict(nowhere, 20)] {
        let CommandReply::Membership { results, .. } = apply(&mut state, 21, &command) else {
            panic!("not a membership reply");
        };
        assert!(matches!(results[0].1, SetResult::Void(_)));
    }
    assert_eq!(state.volumes[&key.volume].version, 20);
    apply(&mut state, 22, &evict(key, 20));
    let set = &state.volumes[&key.volume].sets[0];
    assert_eq!((set.epoch, set.member(brick).unwrap().state), (Epoch(22), MemberState::Out));
}

/// All seven types, as `volume create NAME [stripe S] [replica R]` makes them of so many bricks.
#[test]
fn every_type_is_grouped_in_command_line_order_and_named() {
    let types = [
        (1, 1, 2, "Distribute"),
        (2, 1, 2, "Stripe"),
        (1, 3, 3, "Replicate"),
        (2, 1, 4, "Distributed-Stripe"),
        (1, 2, 4, "Distributed-Replicate"),
        (2, 2, 4, "Striped-Replicate"),
        (2, 2, 8, "Distributed-Striped-Replicate"),
        (16, 16, 512, "Distributed-Striped-Replicate"),
    ];
    for (stripe, replica, bricks, name) in types {
        let mut state = pool();
        let new = grouped(stripe, replica, bricks);
        let reply = apply(&mut state, 10, &Command::CreateVolume(new.clone()));
        assert_eq!(reply, CommandReply::Done { index: 10 }, "{name}");
        let volume = &state.volumes[&new.id];
        assert_eq!(volume.type_name(), name);
        let sets = bricks / usize::from(replica);
        assert_eq!((volume.sets.len(), volume.brick_count()), (sets, bricks));
        assert_eq!(volume.distribute(), sets / usize::from(stripe));
        let order: Vec<BrickId> = volume.bricks().map(|m| m.brick).collect();
        assert_eq!(order, new.bricks.iter().map(|b| b.id).collect::<Vec<_>>());
        let held = proto::placement::table::counts(&volume.slots).unwrap();
        let (least, most) = (held.values().min().unwrap(), held.values().max().unwrap());
        assert!(held.len() == sets && most - least <= 1, "{name}: {least}..{most}");
        let start = Command::StartVolume { name: new.name, force: false };
        match stripe > 1 {
            true => assert!(refused(&state, start).contains("does not serve")),
            false => assert_eq!(apply(&mut state, 11, &start), CommandReply::Done { index: 11 }),
        }
    }
}

/// So many bricks, on the pool's three peers by turns.
fn grouped(stripe: u16, replica: u16, bricks: usize) -> NewVolume {
    let paths: Vec<String> = (0..bricks).map(|n| format!("/b/{n}")).collect();
    let bricks: Vec<(u128, &str)> =
        paths.iter().zip([1, 2, 3].iter().cycle()).map(|(path, peer)| (*peer, &path[..])).collect();
    NewVolume { stripe, ..volume("gv0", replica, &bricks) }
}

#[test]
fn counts_out_of_their_limits_are_refused_with_the_limit() {
    let why = |stripe, replica, bricks| {
        refused(&pool(), Command::CreateVolume(grouped(stripe, replica, bricks)))
    };
    assert_eq!(why(17, 1, 17), "stripe count must be 1 to 16");
    assert_eq!(why(0, 1, 2), "stripe count must be 1 to 16");
    assert_eq!(why(1, 17, 17), "replica count must be 1 to 16");
    assert_eq!(why(2, 1, 3), "number of bricks (3) is not a multiple of the stripe count (2)");
    assert_eq!(
        why(2, 2, 6),
        "number of bricks (6) is not a multiple of the stripe x replica count (4)"
    );
    assert_eq!(why(1, 1, 1025), "a volume has 1 to 1024 bricks");
    let rdma = NewVolume { transport: "rdma".into(), ..grouped(1, 1, 2) };
    let why = refused(&pool(), Command::CreateVolume(rdma));
    assert_eq!(why, "transport rdma is not supported; use tcp");
}

#[test]
fn a_volumes_stripe_block_is_an_option() {
    let mut state = with_volume();
    let block = |state: &PoolState| {
        let volume = state.volume_by_name("gv0").unwrap();
        state.map_of(volume).stripe_block
    };
    assert_eq!(block(&state), 1 << 20);
    let options = vec![("cluster.stripe-block-size".to_owned(), "128K".to_owned())];
    apply(&mut state, 11, &Command::SetOptions { name: "gv0".into(), options });
    assert_eq!(block(&state), 128 << 10);
}

#[test]
fn state_survives_its_json() {
    let (state, _) = started();
    let text = serde_json::to_vec(&state).unwrap();
    assert_eq!(serde_json::from_slice::<PoolState>(&text).unwrap(), state);
}
