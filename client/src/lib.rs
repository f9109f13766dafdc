//! The client library of Brickwork: a volume as a stack of layers.
//!
//! ```text
//! volume/      names, attributes, data under leases; write-behind; the API that mounts use
//! layer.rs     the seam: `Below` (operations and leases), `Keeper` (recalls)
//! session/     one session: maps, tickets, leases, heartbeats
//! distribute/  which set: slots, buckets, merged answers
//! replicate/   one change to all in-sync members, one read from one of them
//! transport/   connections, frames, requests in flight
//! ```

pub mod cache;
mod clock;
mod distribute;
pub mod layer;
mod replicate;
pub mod session;
mod sync;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod transport;
pub mod volume;

#[cfg(test)]
#[path = "testing/scripted_brick.rs"]
mod scripted_brick;
#[cfg(test)]
#[path = "testing/test_map.rs"]
mod test_map;
