//! `integration-sim --seeds N [--first S] [--replay SEED] [--plant NAME]`

use std::process::ExitCode;

use integration_sim::plant::{ALL, Plant};
use integration_sim::{many, run};

/// Events printed of a failing seed.
const TRACE: usize = 40;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let value = |name: &str| {
        args.iter().position(|a| a == name).and_then(|at| args.get(at + 1)).map(String::as_str)
    };
    let number = |name: &str| value(name).and_then(|v| v.parse::<u64>().ok());
    let plant = match value("--plant") {
        None => Plant::None,
        Some("list") => {
            ALL.iter().for_each(|(name, _)| println!("{name}"));
            return ExitCode::SUCCESS;
        }
        Some(name) => match Plant::named(name) {
            Some(plant) => plant,
            None => {
                eprintln!("no plant is called {name}; `--plant list` names them");
                return ExitCode::from(2);
            }
        },
    };
    if let Some(seed) = number("--replay") {
        let trace = number("--trace").map_or(TRACE, |n| n as usize);
        let outcome = run(seed, plant, trace);
        outcome.trace.iter().for_each(|line| println!("{line}"));
        println!("{} operations, {} virtual ms", outcome.operations, outcome.virtual_ms);
        return match outcome.broken {
            Some(broken) => {
                println!("seed {seed}: {}: {}", broken.invariant, broken.what);
                ExitCode::FAILURE
            }
            None => ExitCode::SUCCESS,
        };
    }
    let (seeds, first) = (number("--seeds").unwrap_or(300), number("--first").unwrap_or(1));
    let report = many::run_many(first, seeds, plant);
    print!("{}", report.text());
    if report.passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
