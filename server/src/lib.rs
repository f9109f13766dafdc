//! brickd: one per peer. Serves its bricks and the pool's control plane.

pub mod config;
pub mod daemon;
pub mod heal;
pub mod pool;
pub mod rpc;
