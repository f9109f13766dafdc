//! Which peer a host name on the command line means.

use std::collections::BTreeSet;
use std::net::IpAddr;

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
    let here = wanted.iter().any(IpAddr::is_loopback);
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
