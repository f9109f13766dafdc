//! brick: administers a pool, in the words of `gluster`.
//!
//! Exit codes: 0 done, 1 the pool said no or could not be reached, 2 the command line is wrong,
//! 3 nothing was decided in time: it may still take effect.

mod arguments;
mod bricks;
mod clients;
mod complaint;
mod connection;
mod grammar;
mod heal;
mod mount;
mod next;
mod output;
mod peers;
mod recover;
mod volumes;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use arguments::{Arguments, Command, PeerCommand, VolumeCommand};
use connection::Control;
use output::{Failure, Output};
use proto_grpc::control::PeerProbeRequest;

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return unparsed(&error),
    };
    let output = Output { json: arguments.json, ask: !arguments.script() };
    match run(arguments, output) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => output.failure(&failure),
    }
}

/// Help and version go to standard output; everything else is one line, as JSON where it is asked for.
fn unparsed(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        output::print(error.render().to_string().trim_end());
        return ExitCode::SUCCESS;
    }
    let json = std::env::args().take_while(|word| word != "--").any(|word| word == "--json");
    Output { json, ask: false }.failure(&Failure::usage(complaint::line(error)))
}

fn run(arguments: Arguments, output: Output) -> Result<(), Failure> {
    match arguments.command {
        Command::Completion { shell } => {
            let mut command = Arguments::command();
            clap_complete::generate(shell, &mut command, "brick", &mut std::io::stdout());
            Ok(())
        }
        Command::Mount { ref words } => Err(mount::exec(words)),
        Command::Volume(VolumeCommand::Set { ref name, ref words })
            if name == "help" && words.is_empty() =>
        {
            volumes::options_help(output);
            Ok(())
        }
        _ => {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(|e| Failure::plain(e.to_string()))?;
            runtime.block_on(call(arguments, output))
        }
    }
}

async fn call(arguments: Arguments, output: Output) -> Result<(), Failure> {
    let mut control = connection::open(&arguments).await?;
    match arguments.command {
        Command::Pool(command) => peers::pool(&mut control, output, command).await,
        Command::Peer(command) => peer(&mut control, output, command).await,
        Command::Volume(command) => volumes::run(&mut control, output, command).await,
        Command::Client(command) => clients::run(&mut control, output, command).await,
        // Handled before there is a connection.
        Command::Completion { .. } | Command::Mount { .. } => Ok(()),
    }
}

async fn peer(control: &mut Control, output: Output, command: PeerCommand) -> Result<(), Failure> {
    match command {
        PeerCommand::Probe { host, fingerprint, reinstalled } => {
            let fingerprint = fingerprint.unwrap_or_default();
            let request = PeerProbeRequest { host, fingerprint, reinstalled };
            peers::probe(control, output, request).await
        }
        PeerCommand::Accept { fingerprint } => peers::accept(control, output, fingerprint).await,
        PeerCommand::Detach { host, force } => {
            peers::detach(control, output, host, force.is_some()).await
        }
        PeerCommand::Status => peers::status(control, output).await,
        PeerCommand::CanStop { host } => peers::can_stop(control, output, host).await,
    }
}
