//! A bounded number of seeds, all events reached. `BRICK_SIM_SEEDS` changes how many.

use integration_sim::many::run_many;
use integration_sim::plant::Plant;
use integration_sim::run;

#[test]
fn seeds_hold_all_invariants_and_reach_every_event() {
    let seeds = std::env::var("BRICK_SIM_SEEDS").ok().and_then(|s| s.parse().ok()).unwrap_or(2000);
    let report = run_many(1, seeds, Plant::None);
    assert!(report.passed(), "{}", report.text());
}

#[test]
fn a_seed_has_200_operations_and_its_replay_is_the_same_run() {
    let runs = [(); 2].map(|()| run(7, Plant::None, 100_000));
    let [first, second] = &runs;
    assert!(first.operations >= 200, "{} operations", first.operations);
    assert!(!first.trace.is_empty());
    assert_eq!(first.trace, second.trace);
    assert_eq!(first.virtual_ms, second.virtual_ms);
}
