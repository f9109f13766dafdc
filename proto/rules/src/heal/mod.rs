//! Healing: what a returning member asks for, and when it may join.
//!
//! `log` says into which interval a change is logged, when a log may be trimmed, and what a
//! question gets for an answer. `joiner` drives a member from "syncing" to "in-sync": rounds
//! of copying while the set works, a checkpoint, then one short pause of the lead.

pub mod joiner;
pub mod log;

#[cfg(test)]
#[path = "../heal_test.rs"]
mod tests;
