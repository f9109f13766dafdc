//! Small builders shared by the tests of this crate.

use proto::map::{MemberMap, MemberState, SetMap};
use proto::{BrickId, Epoch, Gfid, Incarnation, PeerId, SetId, VolumeId};

use crate::SetKey;

pub fn brick(n: u8) -> BrickId {
    BrickId::from_bytes([n; 16])
}

pub fn peer(n: u8) -> PeerId {
    PeerId::from_bytes([n; 16])
}

pub fn gfid(n: u8) -> Gfid {
    let mut bytes = [0; 16];
    bytes[15] = n;
    bytes[14] = 1;
    Gfid(bytes)
}

pub fn key() -> SetKey {
    SetKey { volume: VolumeId::from_bytes([9; 16]), set: SetId(0) }
}

/// Incarnation `n` of some brick; tests number a brick's starts 10, 11, ... for brick 1.
pub fn inc(n: u64) -> Incarnation {
    Incarnation(n)
}

/// A set in `epoch`: brick `n` on peer `n` with incarnation `10 n`, in the given states; the
/// first in-sync one leads.
pub fn set_map(epoch: u64, states: &[(u8, MemberState)]) -> SetMap {
    let members: Vec<MemberMap> = states
        .iter()
        .map(|(n, state)| MemberMap {
            brick: brick(*n),
            peer: peer(*n),
            path: format!("/b{n}"),
            state: *state,
            incarnation: inc(u64::from(*n) * 10),
            reason: String::new(),
        })
        .collect();
    let lead = members.iter().find(|m| m.state == MemberState::InSync).map(|m| m.brick);
    SetMap { id: SetId(0), epoch: Epoch(epoch), lead, members }
}

/// All of `bricks` in-sync.
pub fn in_sync(epoch: u64, bricks: &[u8]) -> SetMap {
    let states: Vec<(u8, MemberState)> = bricks.iter().map(|b| (*b, MemberState::InSync)).collect();
    set_map(epoch, &states)
}
