//! Channels to the other peers: opened when first used, kept, opened again after a loss.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use proto::PeerId;
use tokio::sync::Notify;
use tonic::transport::Channel;

use super::tls::Tls;

/// Connections of their own, so that a big message of one kind never delays another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lane {
    Raft,
    Control,
    Promise,
}

#[derive(Debug)]
pub struct Channels {
    tls: Arc<Tls>,
    open: Mutex<HashMap<(Lane, PeerId), Open>>,
    dropped: Notify,
}

#[derive(Debug)]
struct Open {
    host: String,
    port: u16,
    channel: Channel,
}

impl Channels {
    pub fn new(tls: Arc<Tls>) -> Self {
        Self { tls, open: Mutex::default(), dropped: Notify::new() }
    }

    /// A channel to `peer` at this address; only that peer's certificate is accepted there.
    ///
    /// # Errors
    /// This peer belongs to no pool.
    pub fn get(
        &self,
        lane: Lane,
        peer: PeerId,
        host: &str,
        port: u16,
    ) -> Result<Channel, tonic::Status> {
        let mut open = self.open.lock().expect("no panic under this lock");
        if let Some(known) = open.get(&(lane, peer))
            && known.host == host
            && known.port == port
        {
            return Ok(known.channel.clone());
        }
        let unpooled = || tonic::Status::failed_precondition("this peer belongs to no pool");
        let channel = self.tls.dial_peer(peer, host, port).ok_or_else(unpooled)?.channel();
        let fresh = Open { host: host.to_owned(), port, channel: channel.clone() };
        open.insert((lane, peer), fresh);
        Ok(channel)
    }

    /// A peer refused to answer: perhaps because this one does not belong to the pool any more.
    pub fn refused(&self, status: &tonic::Status) {
        if super::dropped::says_dropped(status) {
            self.dropped.notify_one();
        }
    }

    /// Returns when a peer has said so.
    pub async fn dropped(&self) {
        self.dropped.notified().await;
    }

    /// Forgets all: the pool was left.
    pub fn clear(&self) {
        self.open.lock().expect("no panic under this lock").clear();
    }
}
