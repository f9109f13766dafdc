//! The replication rules: who may serve, who may change what, what must be copied to whom.
//!
//! Purpose: every decision of DESIGN sections 4, 8 and 9 that needs no disk and no socket, as
//! pure state machines. Product drivers and the simulation run exactly this code.
//!
//! Assumes: callers pass `now` from one clock per process that runs through suspend and never
//! goes back; clock rates differ by at most 5 %; committed maps arrive in any order (older
//! ones are ignored).
//!
//! Promises: events in, commands out; no clock, no I/O, no randomness, no async; the same
//! events give the same commands in the same order.
//!
//! Deliberately does not: know file operations. It sees keys, ranges, names and reply values
//! of a caller's type. See `docs/replication.md` for the tables.

pub mod heal;
pub mod lease;
pub mod locks;
pub mod member;
pub mod members;
pub mod plant;
pub mod promise;
pub mod restart;
pub mod set;
pub mod settle;
pub mod space;
pub mod time;
pub mod txn;
pub mod volume;
pub mod window;

#[cfg(test)]
mod testing;

pub use time::Tick;

use proto::{SetId, VolumeId};
use serde::{Deserialize, Serialize};

/// A replica set anywhere in the pool (`SetId` alone counts inside one volume).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SetKey {
    pub volume: VolumeId,
    pub set: SetId,
}
