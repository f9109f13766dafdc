//! A whole pool in one process from one seed: peers with their bricks, mounts, network, clocks,
//! disks, and everything that can go wrong with them; then a quiet phase in which all must heal.
//!
//! The decisions are the product's own (`proto-rules`); `driver` carries them out as thinly as
//! the product does, over the `model` of the world. `faults` says what must be survived,
//! `invariant` what must hold. The same seed is the same run, to the last message.

pub mod coverage;
mod cx;
mod driver;
pub mod faults;
pub mod invariant;
pub mod many;
mod model;
mod msg;
mod rng;
mod workload;
mod world;
mod world_faults;

use coverage::Coverage;
use invariant::Broken;
pub use proto_rules::plant;
use proto_rules::plant::Plant;

/// What one seed came to.
pub struct Outcome {
    pub coverage: Coverage,
    pub broken: Option<Broken>,
    /// The last events before the end, when asked for.
    pub trace: Vec<String>,
    /// Histories that the checker gave up on.
    pub undecided: u32,
    pub operations: usize,
    pub virtual_ms: u64,
}

/// Runs one seed. `trace`: how many of the last events to keep.
pub fn run(seed: u64, planted: Plant, trace: usize) -> Outcome {
    plant::plant(planted);
    let outcome = world::World::new(seed, trace).run();
    plant::plant(Plant::None);
    outcome
}
