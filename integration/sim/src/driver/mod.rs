//! Thin drivers around the rules, as the product's: they carry messages, keep what waits, and
//! touch the store; every decision is the rules'.
//!
//! `peer` is a `brickd` with its promise thread, `serve` its brick's gate, `lead` and `settle`
//! what the brick does when it leads, `execute` what it then does for sessions, `join` the sink of a heal, `leader` the pool's leader,
//! `client` a mount.

pub mod client;
pub mod client_ops;
pub mod client_wire;
pub mod execute;
pub mod join;
pub mod lead;
pub mod leader;
pub mod peer;
pub mod serve;
pub mod settle;
pub mod stale;
