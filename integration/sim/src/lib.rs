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
pub mod plant;
mod rng;
mod workload;
mod world;
mod world_faults;

use coverage::Coverage;
use invariant::Broken;
use plant::Plant;

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
pub fn run(seed: u64, plant: Plant, trace: usize) -> Outcome {
    world::World::new(seed, plant, trace).run()
}
