//! The client library of Brickwork: a volume as a stack of layers.
//!
//! ```text
//! volume/      names, attributes, data under leases; write-behind; the API that mounts use
//! layer.rs     the seam: `Below` (operations and leases), `Keeper` (recalls)
//! session/     one session: maps, tickets, leases, heartbeats
//! replicate/   one change to all in-sync members, one read from one of them
//! transport/   connections, frames, requests in flight
//! ```

mod clock;
pub mod layer;
mod sync;
pub mod transport;

#[cfg(test)]
#[path = "testing/scripted_brick.rs"]
mod scripted_brick;
