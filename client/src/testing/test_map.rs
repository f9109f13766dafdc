//! Volume maps for tests.

use proto::map::{MemberMap, MemberState, PeerAddress, SLOTS, SetMap, VolumeMap};
use proto::options::VolumeOptions;
use proto::{BrickId, Epoch, Incarnation, PeerId, SetId, VolumeId};

/// A started volume: all members in-sync, the first of each set leads, slots dealt in turn.
pub fn volume_map(volume: VolumeId, sets: u32, replica: u16) -> VolumeMap {
    let peers = (0..u32::from(replica) * sets).map(|_| PeerAddress {
        peer: PeerId::random(),
        host: "127.0.0.1".into(),
        control_port: 1,
        data_port: 1,
        promise_port: 1,
    });
    let peers: Vec<PeerAddress> = peers.collect();
    let set = |id: u32| {
        let at = (id * u32::from(replica)) as usize;
        let members = peers[at..at + usize::from(replica)].iter().map(|peer| MemberMap {
            brick: BrickId::random(),
            peer: peer.peer,
            path: "/b".into(),
            state: MemberState::InSync,
            incarnation: Incarnation(1),
            reason: String::new(),
        });
        let members: Vec<MemberMap> = members.collect();
        SetMap { id: SetId(id), epoch: Epoch(1), lead: Some(members[0].brick), members }
    };
    VolumeMap {
        version: 1,
        volume,
        name: "v".into(),
        started: true,
        replica,
        stripe: 1,
        stripe_block: 1 << 20,
        sets: (0..sets).map(set).collect(),
        slots: (0..SLOTS).map(|slot| SetId(u32::from(slot) % sets)).collect(),
        peers,
        options: VolumeOptions::default(),
    }
}
