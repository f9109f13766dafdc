//! The command line of `brick-bench`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use benches::placement;
use benches::report::{self, Row};
use benches::verify::Verifier;
use benches::workload::{self, Plan};
use clap::{Args, Parser, Subcommand};

#[derive(Parser)]
#[command(name = "brick-bench", version, about = "Load generator for Brickwork and any directory")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run workloads on a directory
    Run(Run),
    /// Run the same workloads on two directories by turns and print the ratios
    Compare(Compare),
    /// Random operations that record checksums; finds lost, stale and torn data
    Verify(Verify),
    /// What growth moves and how even volumes of 3 to 1000 sets are, computed without machines
    Placement(Placement),
    /// List the workloads
    List,
}

#[derive(Args, Clone)]
struct Sizes {
    /// Workloads, comma-separated; all when absent
    #[arg(long, value_delimiter = ',')]
    workloads: Vec<String>,
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    clients: u16,
    /// Files per client
    #[arg(long, default_value_t = 1000)]
    files: u64,
    /// Bytes of a small file
    #[arg(long, default_value_t = 4096)]
    file_bytes: usize,
    /// MiB of a client's large file
    #[arg(long, default_value_t = 128)]
    large_mib: u64,
    /// Operations of the random workloads
    #[arg(long, default_value_t = 10_000)]
    operations: u64,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct Run {
    dir: PathBuf,
    #[command(flatten)]
    sizes: Sizes,
}

#[derive(Args)]
struct Compare {
    a: PathBuf,
    b: PathBuf,
    /// Rounds, by turns
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    #[command(flatten)]
    sizes: Sizes,
}

#[derive(Args)]
struct Verify {
    dir: PathBuf,
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    clients: u16,
    /// Seconds of load before the final check
    #[arg(long, default_value_t = 10)]
    duration: u64,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Fail if any operation took longer than this many seconds
    #[arg(long)]
    pause_max: Option<f64>,
    /// Keep the folder, for a look at the bricks
    #[arg(long)]
    keep: bool,
}

#[derive(Args)]
struct Placement {
    /// Sets before one more is added, comma-separated
    #[arg(long, value_delimiter = ',', default_values_t = [3, 4, 8, 16, 32, 64, 100, 200, 500, 1000],
          value_parser = clap::value_parser!(u32).range(1..=4000))]
    sets: Vec<u32>,
    /// Files of the made-up tree, for each set
    #[arg(long, default_value_t = 20_000)]
    files: u64,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    match dispatch(Cli::parse().command) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("brick-bench: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// True when nothing failed.
fn dispatch(command: Command) -> Result<bool> {
    match command {
        Command::Run(args) => run(&args),
        Command::Compare(args) => compare(&args),
        Command::Verify(args) => verify(&args),
        Command::Placement(args) => placement(&args),
        Command::List => {
            for w in workload::ALL {
                println!("{:<14}{}", w.name, w.meaning);
            }
            Ok(true)
        }
    }
}

fn plan(dir: &std::path::Path, sizes: &Sizes) -> Plan {
    Plan {
        dir: dir.join(format!("brick-bench-{}", std::process::id())),
        clients: sizes.clients.into(),
        files: sizes.files,
        file_bytes: sizes.file_bytes,
        large_bytes: sizes.large_mib << 20,
        operations: sizes.operations,
        seed: sizes.seed,
    }
}

fn chosen(sizes: &Sizes) -> Result<Vec<&'static workload::Workload>> {
    if sizes.workloads.is_empty() {
        return Ok(workload::ALL.iter().collect());
    }
    let unknown = |n: &str| format!("unknown workload {n}; 'brick-bench list' names them all");
    sizes.workloads.iter().map(|n| workload::by_name(n).with_context(|| unknown(n))).collect()
}

/// Runs the chosen workloads in a folder of their own and removes it.
fn rows_of(dir: &std::path::Path, sizes: &Sizes) -> Result<Vec<Row>> {
    if !dir.is_dir() {
        bail!("{} is not a directory; name a mounted volume or any folder", dir.display());
    }
    let plan = plan(dir, sizes);
    let mut rows = Vec::new();
    let mut result = Ok(());
    for workload in chosen(sizes)? {
        match benches::run::run(workload, &plan) {
            Ok(measured) => rows.push(Row::from(&measured)),
            Err(error) => {
                result = Err(error).with_context(|| format!("workload {}", workload.name));
                break;
            }
        }
    }
    std::fs::remove_dir_all(&plan.dir).ok();
    result.map(|()| rows)
}

fn run(args: &Run) -> Result<bool> {
    let rows = rows_of(&args.dir, &args.sizes)?;
    if args.sizes.json {
        println!("{}", serde_json::to_string_pretty(&rows)?);
    } else {
        print!("{}", report::text(&rows));
    }
    Ok(rows.iter().all(|r| r.failed == 0))
}

fn compare(args: &Compare) -> Result<bool> {
    let (mut a, mut b) = (Vec::new(), Vec::new());
    for round in 0..args.rounds.max(1) {
        // Who goes first alternates, so that a drift of the machine hits both.
        let pair = if round % 2 == 0 { [&args.a, &args.b] } else { [&args.b, &args.a] };
        for dir in pair {
            let rows = rows_of(dir, &args.sizes)?;
            if dir == &args.a { a.extend(rows) } else { b.extend(rows) }
        }
    }
    println!("{:<14}{:>14}{:>14}{:>10}", "workload", "A ops/s", "B ops/s", "B / A");
    for workload in chosen(&args.sizes)? {
        let of = |rows: &[Row]| median(rows, workload.name);
        let (x, y) = (of(&a), of(&b));
        println!("{:<14}{x:>14.0}{y:>14.0}{:>10.2}", workload.name, y / x.max(1e-9));
    }
    Ok(a.iter().chain(&b).all(|r| r.failed == 0))
}

/// True when no growth moved more than 1.1/(n+1) of the slots.
fn placement(args: &Placement) -> Result<bool> {
    let tree = |sets| placement::Tree::new(args.files.max(1) * u64::from(sets), args.seed);
    let rows = args.sets.iter().map(|sets| placement::row(&tree(*sets), *sets));
    let rows = rows.collect::<Result<Vec<_>, _>>()?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&rows)?);
    } else {
        print!("{}", placement::text(&rows));
    }
    Ok(rows.iter().all(|r| r.slots_moved <= 1.1 * r.optimum))
}

fn median(rows: &[Row], name: &str) -> f64 {
    let mut rates: Vec<f64> =
        rows.iter().filter(|r| r.workload == name).map(|r| r.per_second).collect();
    rates.sort_by(f64::total_cmp);
    rates.get(rates.len() / 2).copied().unwrap_or(0.0)
}

fn verify(args: &Verify) -> Result<bool> {
    let dir = args.dir.join(format!("brick-verify-{}", std::process::id()));
    let stop = AtomicBool::new(false);
    let mut clients = (0..args.clients)
        .map(|n| Verifier::new(&dir.join(format!("client-{n}")), args.seed + u64::from(n)))
        .collect::<std::io::Result<Vec<_>>>()?;
    std::thread::scope(|scope| {
        for client in &mut clients {
            scope.spawn(|| client.run(&stop, u64::MAX));
        }
        std::thread::sleep(Duration::from_secs(args.duration));
        stop.store(true, Ordering::Relaxed);
    });
    let mut fine = true;
    for client in &mut clients {
        let root = client.dir().to_owned();
        let wrong = client.check_all(&root);
        let longest = client.record.longest().as_secs_f64();
        let (operations, failed) = (client.record.operations(), client.record.failed);
        println!(
            "{}: {operations} operations, {failed} failed, longest {longest:.3} s",
            root.display()
        );
        for what in wrong.iter().chain(&client.record.errors) {
            println!("    {what}");
        }
        fine &= wrong.is_empty() && failed == 0 && args.pause_max.is_none_or(|max| longest <= max);
    }
    if !args.keep {
        std::fs::remove_dir_all(&dir).ok();
    }
    Ok(fine)
}
