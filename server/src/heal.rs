//! Healing: making a stale copy current. One copier for a returning and for a replaced brick.
//!
//! Situations, and what is copied:
//!
//! - *A brick was away.* The joiner asks the lead for the inodes changed since the interval
//!   before its last one in-sync, adds its own entries of that time, and copies in rounds: what
//!   changes meanwhile is the next round (`job.rs`, `round.rs`).
//! - *The log cannot answer* (new brick, log lost or trimmed): everything is compared, from the
//!   root down.
//! - *Little is left*: the joiner makes a checkpoint, the lead holds changes back, the rest is
//!   copied, the rules' state is handed over, the join is committed (`job.rs`).
//! - *Unfinished changes* of a lost session or lead are settled by the lead (`lead/settle.rs`).
//!
//! Assumes that the sink serves no client, or that the lead keeps everybody else away from what
//! is copied. Promises that after a copy of an inode under these conditions both sides are equal
//! in data, names, attributes, xattrs and meta record. Removed names are parked and adopted by
//! gfid, so that a rename seen half-way moves no data; the parked rest is swept at the end.
//!
//! Speaks file operations only (`side.rs`), so it runs the same over the network and over two
//! stores in a test.

pub mod dir;
pub mod driver;
pub mod inode;
pub mod job;
pub mod list;
pub mod pace;
pub mod progress;
pub mod rest;
pub mod round;
pub mod side;

#[cfg(test)]
mod copier_test;
#[cfg(test)]
mod job_test;
