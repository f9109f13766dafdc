//! A brick: one thread that owns everything of it.
//!
//! Purpose: serve the requests of clients and peers against one store, under the rules.
//!
//! Assumes: the promise thread keeps `Gate` current; maps arrive in the order of their
//! versions; the data port hands over only connections whose credential it has checked.
//!
//! Promises: a request is parsed, admitted, executed and answered on this thread, inline
//! unless it has to wait for the disk or for a lease; no lock is taken on its way; a disk that
//! blocks stalls this brick and no other; after the first I/O error of its own the brick
//! answers nobody and asks to leave its set.
//!
//! Deliberately does not: decide membership (the pool), or copy data to heal (`heal`).
//!
//! ```text
//! connection   bytes in, frames out       request    a request and its reply
//! core         all state of the brick     admit      leases, then the gate
//! execute      the store                  lead_ops   leases, pins, locks: at the lead
//! turns        what the lead executes     peer_ops   heal, settle, hand-over
//! thread       the loop around it all
//! ```

mod admit;
mod clock;
mod connection;
mod core;
mod directory;
mod execute;
mod folder;
mod foreground;
mod gate;
mod handover;
mod inbound;
mod inbox;
mod interval;
pub mod io;
mod lead_ops;
pub mod manager;
mod marks;
mod outbox;
mod peer_ops;
mod raised;
mod request;
mod thread;
mod trim;
mod turns;

pub use clock::{now, wall_ns};
pub use core::{Brick, Core, OLDEST_DISK_REQUEST};
pub use gate::{Facts, Gate};
pub use inbox::{BrickCommand, BrickHandle, BrickIdentity, Newcomer, Owner, Setup};
pub use io::blocking;
pub use marks::{KEPT_MAX, mark_of};
pub use request::{Outcome, Pending, Stored};
pub use thread::spawn;

#[cfg(test)]
#[path = "brick_test/mod.rs"]
mod brick_test;
