//! Many seeds on all cores, with the coverage of all of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::coverage::Coverage;
use crate::invariant::Broken;
use crate::plant::Plant;
use crate::run;

/// Events kept of a failing seed.
const TRACE: usize = 40;
/// From so many seeds on, an event that was never reached fails the run.
const COVERING: u64 = 300;

pub struct Report {
    pub seeds: u64,
    pub coverage: Coverage,
    pub undecided: u64,
    pub operations: u64,
    /// The first failing seed.
    pub failed: Option<(u64, Broken, Vec<String>)>,
    /// By invariant: how often it broke, and the first seeds that broke it.
    pub broken: BTreeMap<&'static str, (u64, BTreeSet<u64>)>,
    plant: Plant,
}

/// Failing seeds named of each invariant.
const NAMED_MAX: usize = 12;

impl Report {
    pub fn passed(&self) -> bool {
        self.failed.is_none() && self.uncovered().is_empty()
    }

    fn uncovered(&self) -> Vec<&'static str> {
        let enough = self.seeds >= COVERING && self.plant == Plant::None && self.failed.is_none();
        if enough { self.coverage.missing() } else { Vec::new() }
    }

    pub fn text(&self) -> String {
        let mut text = self.coverage.table();
        if let Some((seed, broken, trace)) = &self.failed {
            let trace = trace.join("\n");
            text += &format!("{trace}\nseed {seed}: {}: {}\n", broken.invariant, broken.what);
        }
        for (invariant, (count, seeds)) in &self.broken {
            text += &format!("broken {count} times, first by seeds {seeds:?}: {invariant}\n");
        }
        for event in self.uncovered() {
            text += &format!("never reached: {event}\n");
        }
        text += &format!(
            "{} seeds, {} operations, {} histories undecided\n",
            self.seeds, self.operations, self.undecided
        );
        text
    }
}

struct Shared {
    coverage: Coverage,
    undecided: u64,
    operations: u64,
    failed: Option<(u64, Broken)>,
    broken: BTreeMap<&'static str, (u64, BTreeSet<u64>)>,
}

/// Runs seeds `first..first + seeds` to the end, on all cores.
pub fn run_many(first: u64, seeds: u64, plant: Plant) -> Report {
    run_some(first, seeds, plant, &[])
}

/// As `run_many`, but stops as soon as one of these invariants breaks.
pub fn run_until_broken(first: u64, seeds: u64, plant: Plant, wanted: &[&str]) -> Report {
    run_some(first, seeds, plant, wanted)
}

fn run_some(first: u64, seeds: u64, plant: Plant, wanted: &[&str]) -> Report {
    let next = AtomicU64::new(first);
    let stopped = AtomicBool::new(false);
    let shared = Mutex::new(Shared {
        coverage: Coverage::default(),
        undecided: 0,
        operations: 0,
        failed: None,
        broken: BTreeMap::new(),
    });
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= first + seeds || stopped.load(Ordering::Relaxed) {
                return;
            }
            let outcome = run(seed, plant, 0);
            let mut all = shared.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            all.coverage.add(&outcome.coverage);
            all.undecided += u64::from(outcome.undecided);
            all.operations += outcome.operations as u64;
            if let Some(broken) = outcome.broken {
                stopped.fetch_or(wanted.contains(&broken.invariant), Ordering::Relaxed);
                let (count, seeds) = all.broken.entry(broken.invariant).or_default();
                *count += 1;
                seeds.insert(seed);
                if seeds.len() > NAMED_MAX {
                    seeds.pop_last();
                }
                if all.failed.as_ref().is_none_or(|(s, _)| seed < *s) {
                    all.failed = Some((seed, broken));
                }
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    let all = shared.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    // Replay is exact: the same seed again, with its events.
    let failed = all.failed.map(|(seed, broken)| (seed, broken, run(seed, plant, TRACE).trace));
    Report {
        seeds,
        coverage: all.coverage,
        undecided: all.undecided,
        operations: all.operations,
        failed,
        broken: all.broken,
        plant,
    }
}
