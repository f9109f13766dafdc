//! brickd: parses the command line, sets up logging, hands over to the daemon.

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;
use server::config::{Arguments, Config, Subcommand};
use server::{daemon, pool};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // One line, whatever the causes said: it goes to a journal and to a person.
            let causes: Vec<String> = error.chain().map(|e| e.to_string()).collect();
            eprintln!("brickd: {}", causes.join(": ").replace('\n', " "));
            ExitCode::FAILURE
        }
    }
}

fn run() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let config = Config::load(&arguments)?;
    if let Some(Subcommand::MakeJoinKey { force }) = arguments.command {
        pool::join::make_key(&config.join_key, force)?;
        println!("{}", config.join_key.display());
        return Ok(());
    }
    let filter = EnvFilter::try_new(&config.log_level)?;
    let colours = std::io::stderr().is_terminal();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(colours)
        .with_writer(std::io::stderr)
        .init();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(daemon::run(config, |pool| match pool.config().witness {
        true => Ok(daemon::no_bricks()),
        false => Ok(daemon::with_bricks(pool)?.0),
    }))
}
