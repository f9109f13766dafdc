//! The simulation can fail: with one rule switched off, an invariant that rests on it breaks within
//! 2 000 seeds.
//!
//! Each search begins where a seed is known to show it; should a change of the rules or of the
//! world have moved it, the search goes on.

use integration_sim::many::run_until_broken;
use integration_sim::plant::Plant;

const SEEDS: u64 = 2000;

fn breaks(plant: Plant, first: u64, wanted: &[&str]) {
    let report = run_until_broken(first, SEEDS, plant, wanted);
    let broken: Vec<_> = report.broken.keys().collect();
    let found = wanted.iter().any(|w| report.broken.contains_key(w));
    assert!(found, "{plant:?} broke {broken:?}, not {wanted:?}, in {SEEDS} seeds from {first}");
}

const DIFFER: &str = "replicas are equal after the heal";
const REGISTERS: &str = "registers are linearizable";
const NAMES: &str = "names are linearizable";
const LOST: &str = "no acknowledged change is lost";
const FSYNCED: &str = "fsynced data survives";

#[test]
fn without_promises_two_epochs_serve() {
    breaks(Plant::NoFencing, 1, &["two epochs serve"]);
}

#[test]
fn without_lease_numbers_a_late_frame_is_executed() {
    breaks(Plant::NoLeaseNumbers, 1, &[REGISTERS, NAMES, DIFFER, LOST]);
}

#[test]
fn without_settling_members_differ_in_what_a_dead_session_left() {
    breaks(Plant::NoSettle, 1, &[REGISTERS, NAMES, DIFFER, LOST]);
}

#[test]
fn without_the_overlap_of_a_question_a_joiner_misses_changes() {
    breaks(Plant::NoLogOverlap, 1, &[DIFFER, REGISTERS, LOST]);
}

#[test]
fn without_its_checkpoint_a_joiner_loses_what_was_fsynced() {
    breaks(Plant::NoJoinerCheckpoint, 1, &[FSYNCED]);
}

#[test]
fn without_slots_a_change_that_is_sent_again_is_made_twice() {
    breaks(Plant::NoReplay, 1, &[NAMES]);
}
