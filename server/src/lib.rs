//! brickd: one per peer. Serves its bricks and the pool's control plane.

pub mod brick;
pub mod config;
pub mod daemon;
pub mod heal;
pub mod lead;
pub mod listener;
pub mod metrics;
pub mod pool;
pub mod promise;
pub mod rpc;

// A brick that can break its own rules must not exist (docs/decisions/0005).
const _: () = assert!(!proto_rules::plant::COMPILED_IN, "the rules were built with planted faults");
