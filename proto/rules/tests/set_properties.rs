//! Any log of membership entries, in any order, keeps the set's invariants.

use proptest::prelude::*;
use proto::map::{MemberMap, MemberState, SetMap};
use proto::{BrickId, Epoch, Incarnation, PeerId, SetId};
use proto_rules::set::{SetEntry, SetOutcome, apply};

const BRICKS: u8 = 3;

fn brick(n: u8) -> BrickId {
    BrickId::from_bytes([n; 16])
}

fn entry(kind: u8, n: u8, incarnation: u64, epoch: Epoch) -> SetEntry {
    let (brick, incarnation) = (brick(n), Incarnation(incarnation));
    let reason = String::new();
    match kind {
        0 => SetEntry::Evict { epoch, brick, reason },
        1 => SetEntry::EvictPeer { epoch, peer: PeerId::from_bytes([n; 16]), reason },
        2 => SetEntry::Join { epoch, brick, incarnation },
        3 => SetEntry::Bump { epoch },
        4 | 5 => SetEntry::BrickUp { epoch, brick, incarnation },
        6 => SetEntry::Leave { epoch, brick, incarnation, reason },
        7 => SetEntry::Restart { epoch, lead: brick, incarnation },
        _ => SetEntry::Drop { epoch, brick },
    }
}

/// (kind, brick, incarnation, how many epochs ago it was checked)
fn entries() -> impl Strategy<Value = Vec<(u8, u8, u64, u64)>> {
    prop::collection::vec((0u8..9, 0..BRICKS, 1u64..4, 0u64..3), 1..200)
}

fn new_set() -> SetMap {
    let member = |n| MemberMap {
        brick: brick(n),
        peer: PeerId::from_bytes([n; 16]),
        path: String::new(),
        state: MemberState::Out,
        incarnation: Incarnation(0),
        reason: String::new(),
    };
    let members = (0..BRICKS).map(member).collect();
    let mut map = SetMap { id: SetId(0), epoch: Epoch(0), lead: None, members };
    let members = (0..BRICKS).map(|n| (brick(n), Incarnation(1))).collect();
    apply(&mut map, 10, &SetEntry::Start { members });
    map
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn any_log_keeps_an_in_sync_lead_and_names_who_serves(entries in entries()) {
        let mut map = new_set();
        let mut epochs = vec![map.epoch];
        for (at, (kind, n, incarnation, ago)) in entries.into_iter().enumerate() {
            let index = 11 + at as u64;
            let checked = epochs[epochs.len().saturating_sub(1 + ago as usize)];
            let entry = entry(kind, n, incarnation, checked);
            let before = map.clone();
            match apply(&mut map, index, &entry) {
                SetOutcome::Void(_) => prop_assert_eq!(&map, &before),
                SetOutcome::Noted => {
                    prop_assert_eq!(checked, before.epoch);
                    prop_assert_eq!(map.epoch, before.epoch);
                    let serving = |m: &SetMap| -> Vec<_> {
                        m.in_sync().map(|m| (m.brick, m.incarnation)).collect()
                    };
                    prop_assert_eq!(serving(&map), serving(&before));
                }
                SetOutcome::NewEpoch { epoch, .. } => {
                    prop_assert_eq!(checked, before.epoch);
                    prop_assert_eq!(epoch, Epoch(index));
                    epochs.push(epoch);
                }
            }
            let lead = map.lead.expect("a started set has a lead");
            prop_assert!(map.in_sync().any(|m| m.brick == lead));
            let stays = before.lead.filter(|l| map.in_sync().any(|m| m.brick == *l));
            prop_assert!(stays.is_none() || stays == map.lead, "the lead is sticky");
            for member in map.in_sync() {
                let was = before.member(member.brick).expect("members do not change");
                let named = (member.brick, member.incarnation) == (brick(n), Incarnation(incarnation));
                prop_assert!(
                    named || (was.state == MemberState::InSync
                        && was.incarnation == member.incarnation),
                    "in-sync only as named"
                );
            }
        }
    }
}
