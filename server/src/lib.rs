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
