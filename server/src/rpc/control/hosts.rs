//! Which peer a host name on the command line means.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::pool::Pool;
use crate::pool::state::{PeerState, PoolState};

/// The peer known as `host`: by the name it was probed with, or by an address in common.
pub async fn find(pool: &Pool, state: &PoolState, host: &str) -> Option<PeerState> {
    if let Some(peer) = state.peers.values().find(|p| p.host.eq_ignore_ascii_case(host)) {
        return Some(peer.clone());
    }
    let wanted = addresses(host).await;
    for peer in state.peers.values() {
        if !addresses(&peer.host).await.is_disjoint(&wanted) {
            return Some(peer.clone());
        }
    }
    // Other loopback addresses may be other peers of this machine that are not in the pool.
    let here = wanted.iter().any(|ip| *ip == Ipv4Addr::LOCALHOST || *ip == Ipv6Addr::LOCALHOST);
    here.then(|| state.peers.get(&pool.id()).cloned()).flatten()
}

async fn addresses(host: &str) -> BTreeSet<IpAddr> {
    match tokio::net::lookup_host((host, 0)).await {
        Ok(found) => found.map(|a| a.ip()).collect(),
        Err(_) => BTreeSet::new(),
    }
}

/// Characters of host names and addresses, and no more than DNS allows.
pub fn plausible(host: &str) -> bool {
    !host.is_empty()
        && host.len() <= 253
        && !host.starts_with('-')
        && host.chars().all(|c| c.is_ascii_alphanumeric() || ".-_:".contains(c))
}
