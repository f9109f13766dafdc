use super::*;
use proto::map::{MemberMap, MemberState};
use proto::options::VolumeOptions;
use proto::{SetId, VolumeId};
use proto_rules::time::PROMISE;

#[derive(Default)]
struct Heard(Mutex<Vec<Lack>>);

impl Reports for Heard {
    fn lacking(&self, lacks: Vec<Lack>) {
        *self.0.lock().unwrap() = lacks;
    }

    fn newer_epoch(&self, _: SetKey, _: Epoch) {}

    fn join_ended(&self, _: SetKey, _: BrickId, _: BrickId) {}
}

struct Side {
    peer: PeerId,
    brick: BrickId,
    board: Board,
    gate: Arc<Gate>,
    heard: Arc<Heard>,
}

fn side() -> Side {
    let (peer, heard) = (PeerId::random(), Arc::new(Heard::default()));
    let board = Board::new(peer, heard.clone());
    Side { peer, brick: BrickId::random(), board, gate: Arc::default(), heard }
}

fn map(sides: &[&Side]) -> VolumeMap {
    let member = |(at, side): (usize, &&Side)| MemberMap {
        brick: side.brick,
        peer: side.peer,
        path: format!("/{at}"),
        state: MemberState::InSync,
        incarnation: Incarnation(at as u64 + 1),
        reason: String::new(),
    };
    let set = SetMap {
        id: SetId(0),
        epoch: Epoch(3),
        lead: Some(sides[0].brick),
        members: sides.iter().enumerate().map(member).collect(),
    };
    VolumeMap {
        version: 3,
        volume: VolumeId::random(),
        name: "gv0".into(),
        started: true,
        replica: 2,
        stripe: 1,
        stripe_block: 1 << 20,
        sets: vec![set],
        slots: Vec::new(),
        peers: Vec::new(),
        options: VolumeOptions::default(),
    }
}

fn ping(from: &Side, to: &Side) {
    let answer = to.board.on_ping(from.peer, &from.board.ping(to.peer)).expect("a ping");
    from.board.on_answer(to.peer, &answer);
}

/// Two sides of one set, up and with the map.
fn pair() -> (Side, Side, SetKey) {
    let (a, b) = (side(), side());
    let map = map(&[&a, &b]);
    let set = SetKey { volume: map.volume, set: SetId(0) };
    for (at, side) in [&a, &b].into_iter().enumerate() {
        let incarnation = Incarnation(at as u64 + 1);
        side.board.brick_up(set, side.brick, incarnation, true, side.gate.clone());
        side.board.on_map(&map);
    }
    (a, b, set)
}

#[test]
fn a_brick_serves_with_the_others_promise_and_not_before() {
    let (a, b, set) = pair();
    assert_eq!(a.gate.serve_until(), Tick::ZERO);
    a.board.round();
    assert_eq!(a.heard.0.lock().unwrap().len(), 0, "a young epoch lacks nothing yet");
    assert!(a.board.impatient(), "but the next ping is due soon");
    b.gate.set_facts(Facts { free_bytes: 77, interval: 9, ..Facts::default() });
    ping(&a, &b);
    let until = a.gate.serve_until();
    assert!(until > now() && until <= now().after(PROMISE));
    assert_eq!(a.gate.others_free(), 77);
    assert_eq!(b.gate.serve_until(), Tick::ZERO, "its own ping is not answered yet");
    // b stops promising a: what it gave runs on, and nothing new is given.
    let agree_at = b.board.stop(set, Epoch(3), a.brick).expect("in-sync here");
    assert!(agree_at > until);
    ping(&a, &b);
    assert!(a.gate.serve_until() <= until);
}

#[test]
fn a_ping_in_another_peers_name_and_garbage_are_refused() {
    let (a, b, _) = pair();
    let forged = a.board.ping(b.peer);
    assert!(b.board.on_ping(PeerId::random(), &forged).is_err());
    assert!(b.board.on_ping(a.peer, b"{").is_err());
    a.board.on_answer(b.peer, b"[]");
    assert_eq!(a.gate.serve_until(), Tick::ZERO);
}

#[test]
fn a_stopped_brick_says_goodbye_for_a_while() {
    let (a, b, set) = pair();
    ping(&a, &b);
    ping(&b, &a);
    a.board.brick_down(set, a.brick);
    assert_eq!(a.gate.serve_until(), Tick::ZERO, "its gate closes at once");
    assert_eq!(a.board.peers(), [b.peer], "pinged a little longer");
    ping(&a, &b);
    assert_eq!(b.board.stop(set, Epoch(3), a.brick), Some(Tick::ZERO), "nothing to wait for");
}

#[test]
fn a_brick_leaves_only_while_another_member_is_heard() {
    let (a, b, set) = pair();
    let elsewhere = SetKey { volume: set.volume, set: SetId(7) };
    assert!(!a.board.may_leave(elsewhere, a.brick), "a set that is not known here");
    ping(&a, &b);
    assert!(a.board.may_leave(set, a.brick));
    a.board.brick_down(set, a.brick);
    assert!(a.board.may_leave(set, a.brick), "a failed brick is gone from the board already");
    b.gate.set_failed("its disk");
    assert!(b.board.may_leave(set, b.brick), "a is heard, whatever became of b");
}
