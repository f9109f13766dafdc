//! Fencing holds for clocks that differ in rate by 5 %, pings and answers that take any time,
//! and any order: when a member may agree to an eviction, the victim has stopped serving.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proto::map::{MemberMap, MemberState, SetMap};
use proto::{BrickId, Epoch, Incarnation, PeerId, SetId, VolumeId};
use proto_rules::promise::{Answer, Ping, Promises};
use proto_rules::time::MS;
use proto_rules::{SetKey, Tick};

const KEY: fn() -> SetKey = || SetKey { volume: VolumeId::from_bytes([9; 16]), set: SetId(0) };

fn brick(n: usize) -> BrickId {
    BrickId::from_bytes([n as u8 + 1; 16])
}

fn peer(n: usize) -> PeerId {
    PeerId::from_bytes([n as u8 + 1; 16])
}

fn map() -> SetMap {
    let member = |n: usize| MemberMap {
        brick: brick(n),
        peer: peer(n),
        path: String::new(),
        state: MemberState::InSync,
        incarnation: Incarnation(n as u64 + 1),
        reason: String::new(),
    };
    SetMap {
        id: SetId(0),
        epoch: Epoch(5),
        lead: Some(brick(0)),
        members: (0..3).map(member).collect(),
    }
}

enum Message {
    Ping { to: usize, ping: Ping },
    Answer { to: usize, answer: Answer },
}

/// A node's clock at real time `ms`: its rate is up to 5 % below the fastest one's.
fn clock(rate_ppm: u64, offset_ms: u64, ms: u64) -> Tick {
    Tick((offset_ms + 1000) * MS + ms * (1_000_000 - rate_ppm))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn a_victim_has_stopped_when_its_eviction_may_be_agreed_to(
        rates in prop::array::uniform3(0u64..47_619),
        offsets in prop::array::uniform3(0u64..1_000_000),
        // Per ping, in order: how long it and its answer travel, ms.
        travel in prop::collection::vec((0u64..2500, 0u64..2500), 64),
        quick in prop::collection::vec(any::<bool>(), 64),
        stop_at in 0u64..4000,
    ) {
        let mut nodes: Vec<Promises> = (0..3).map(|n| {
            let mut p = Promises::new(peer(n));
            let start = clock(rates[n], offsets[n], 0);
            p.brick_up(start, KEY(), brick(n), Incarnation(n as u64 + 1), true);
            p.on_map(start, KEY(), &map());
            p
        }).collect();
        let mut queue: BTreeMap<(u64, usize), Message> = BTreeMap::new();
        let mut count = 0;
        let mut agree_at = None;
        let victim = 2;
        for ms in 0..9000u64 {
            let now = |n: usize| clock(rates[n], offsets[n], ms);
            if ms % 300 == 0 {
                for (from, to) in [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)] {
                    let ping = nodes[from].ping(now(from), peer(to));
                    let way = if quick[count % 64] { 1 } else { travel[count % 64].0 };
                    queue.insert((ms + way, count), Message::Ping { to, ping });
                    count += 1;
                }
            }
            while queue.first_key_value().is_some_and(|((due, _), _)| *due <= ms) {
                let (_, message) = queue.pop_first().expect("just looked");
                match message {
                    Message::Ping { to, ping } => {
                        let from = (0..3).find(|n| peer(*n) == ping.from).expect("a node");
                        let (answer, _) = nodes[to].on_ping(now(to), &ping);
                        let way = if quick[count % 64] { 1 } else { travel[count % 64].1 };
                        queue.insert((ms + way, count), Message::Answer { to: from, answer });
                        count += 1;
                    }
                    Message::Answer { to, answer } => {
                        let _ = nodes[to].on_answer(now(to), &answer);
                    }
                }
            }
            if ms == stop_at {
                agree_at = nodes[1].stop(KEY(), brick(1), Epoch(5), brick(victim));
                prop_assert!(agree_at.is_some());
            }
            if let Some(agree_at) = agree_at && now(1) >= agree_at {
                let serves = now(victim) < nodes[victim].serve_until(KEY(), brick(victim));
                prop_assert!(!serves, "at {ms} ms brick 1 may agree and the victim serves");
            }
        }
        prop_assert!(agree_at.is_some_and(|at| at <= clock(rates[1], offsets[1], stop_at + 1700)));
    }
}
