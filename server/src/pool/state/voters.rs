//! Who votes: 1 of 2 peers, 3 of 3–4, 5 of 5 and more; the rest learn.
//!
//! One of two and not two of two, because with two voters the loss of either stops the pool.
//! Sticky: whoever votes goes on voting while it belongs to the pool, except that from three peers on a
//! witness takes a seat, since it is there to survive the loss of a storage peer.

use std::collections::BTreeSet;

use super::PoolState;

/// The node numbers that should vote.
pub fn desired(state: &PoolState, current: &BTreeSet<u64>) -> BTreeSet<u64> {
    let count = state.living().count();
    let mut nodes: Vec<(bool, bool, u64)> = state
        .living()
        .map(|p| (!(p.witness && count >= 3), !current.contains(&p.node), p.node))
        .collect();
    nodes.sort_unstable();
    nodes.into_iter().take(seats(count)).map(|(_, _, node)| node).collect()
}

fn seats(peers: usize) -> usize {
    match peers {
        0..=2 => peers.min(1),
        3..=4 => 3,
        _ => 5,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::state::PeerState;
    use proto::PeerId;

    fn pool(peers: &[(u64, bool)]) -> PoolState {
        let mut state = PoolState::default();
        for (node, witness) in peers {
            let id = PeerId::random();
            let peer = PeerState {
                id,
                node: *node,
                host: format!("n{node}"),
                control_port: 1,
                data_port: 2,
                promise_port: 3,
                witness: *witness,
                lost: false,
            };
            state.peers.insert(id, peer);
        }
        state
    }

    fn voters(peers: &[(u64, bool)], current: &[u64]) -> Vec<u64> {
        desired(&pool(peers), &current.iter().copied().collect()).into_iter().collect()
    }

    #[test]
    fn one_of_two_three_of_three_and_four_five_of_more() {
        let peers: Vec<(u64, bool)> = (1..=7).map(|n| (n, false)).collect();
        assert_eq!(voters(&peers[..1], &[]), [1]);
        assert_eq!(voters(&peers[..2], &[1]), [1]);
        assert_eq!(voters(&peers[..3], &[1]), [1, 2, 3]);
        assert_eq!(voters(&peers[..4], &[1, 2, 3]), [1, 2, 3]);
        assert_eq!(voters(&peers, &[1, 2, 3]), [1, 2, 3, 4, 5]);
    }

    #[test]
    fn whoever_votes_goes_on_voting() {
        assert_eq!(
            voters(&[(2, false), (3, false), (4, false), (9, false)], &[3, 4, 9]),
            [3, 4, 9]
        );
    }

    #[test]
    fn who_is_lost_has_no_seat() {
        let mut state = pool(&[(1, false), (2, false), (3, false)]);
        state.peers.values_mut().filter(|p| p.node < 3).for_each(|p| p.lost = true);
        assert_eq!(desired(&state, &BTreeSet::from([3])), BTreeSet::from([3]));
    }

    #[test]
    fn a_witness_votes_from_three_peers_on() {
        let peers = [(1, false), (2, false), (3, false), (4, true)];
        assert_eq!(voters(&peers, &[1, 2, 3]), [1, 2, 4]);
        assert_eq!(voters(&[(1, false), (4, true)], &[1]), [1]);
    }
}
