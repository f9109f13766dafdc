//! The simulation can fail: with one rule switched off in the drivers, an invariant breaks
//! within 2 000 seeds.

use integration_sim::many::run_until_broken;
use integration_sim::plant::Plant;

const SEEDS: u64 = 2000;

fn breaks(plant: Plant) {
    let report = run_until_broken(1, SEEDS, plant);
    assert!(report.failed.is_some(), "{plant:?} broke nothing in {SEEDS} seeds");
}

#[test]
fn without_fencing_two_epochs_serve() {
    breaks(Plant::NoFencing);
}

#[test]
fn without_replay_something_breaks() {
    breaks(Plant::NoReplay);
}
