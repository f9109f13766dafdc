//! The first frame each way on a data connection.

use bytes::Bytes;

/// From whoever connects.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Hello {
    /// Newest frame format of the sender.
    #[prost(uint32, tag = "1")]
    pub version: u32,
    #[prost(uint64, tag = "2")]
    pub features: u64,
    /// Brick meant, 16 bytes.
    #[prost(bytes = "bytes", tag = "3")]
    pub brick: Bytes,
    #[prost(fixed64, tag = "4")]
    pub session: u64,
    /// One of the two: a ticket signed by the pool, or a proof of being a peer.
    #[prost(bytes = "bytes", tag = "5")]
    pub ticket: Bytes,
    #[prost(bytes = "bytes", tag = "6")]
    pub peer_proof: Bytes,
    /// Number of this connection within the session on this brick: several share one session.
    #[prost(uint32, tag = "7")]
    pub connection: u32,
    /// For people, in `volume status clients`.
    #[prost(string, tag = "8")]
    pub host: String,
    /// From a peer that passes a session's connection on: its own proof, beside the ticket.
    #[prost(bytes = "bytes", tag = "9")]
    pub relay_proof: Bytes,
}

/// From the brick; `error` not empty means that the connection ends now.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Welcome {
    /// Frame format that both speak from here on.
    #[prost(uint32, tag = "1")]
    pub version: u32,
    #[prost(uint64, tag = "2")]
    pub features: u64,
    #[prost(fixed64, tag = "3")]
    pub incarnation: u64,
    #[prost(uint64, tag = "4")]
    pub epoch: u64,
    /// One line for people.
    #[prost(string, tag = "5")]
    pub error: String,
    /// The brick's wall clock, ns since 1970: first base of the session's stamps.
    #[prost(fixed64, tag = "6")]
    pub time_ns: u64,
}

/// Who a connection proved to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Credential {
    /// A session with a valid ticket for the brick's volume.
    Session { read_only: bool },
    /// A peer of the pool.
    Peer(crate::ids::PeerId),
}
