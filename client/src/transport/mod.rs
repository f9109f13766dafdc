//! Data connections: frames over TCP, requests in flight, pushes.
//!
//! ```text
//! BrickClient      one brick; a lane per shard, connected when needed, with backoff
//!   verdict        what a member's answer means
//!   way            straight to the brick's peer, or through another peer that passes it on
//!   Connection     one TCP connection: inline sends, one task that reads (and sends leftovers)
//!     FrameReader  bytes to checked frames, payloads straight into their own buffers
//! ```
//!
//! Assumes: a tokio runtime; each worker thread has a current-thread runtime of its own and has
//! called `shard::set_worker`. Promises: a request issued on a worker thread is sent by that
//! thread, and its reply is read and handed over on that thread: no wake-up of another one
//! stands in its way (45 us each). Every request ends with one reply or with `Lost`. What is in
//! flight is bounded in number and bytes.
//!
//! Deliberately does not: send anything twice. Whoever asked knows whether a request whose fate
//! is unknown may be repeated, and to whom.

mod brick;
mod connection;
mod connector;
mod counters;
mod reader;
mod request;
pub mod shard;
mod verdict;
mod way;

pub use brick::{BrickClient, Target};
pub use connector::{ConnectError, Connector, Identity, Proof, Pushes};
pub use counters::{Counters, OpCount};
pub use reader::FrameReader;
pub use request::{CallError, Reply, Request};
pub use verdict::digest;

#[cfg(test)]
mod transport_test;
