//! What the command says and how it ends.

use std::error::Error;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use serde::Serialize;
use tonic::{Code, Status};

use crate::next;

/// How to speak.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    pub json: bool,
    /// Confirmations are asked for, if there is somebody to ask.
    pub ask: bool,
}

/// Why the command failed: one line.
#[derive(Debug)]
pub struct Failure {
    message: String,
    code: u8,
}

const NO: u8 = 1;
const USAGE: u8 = 2;
const UNDECIDED: u8 = 3;

impl Failure {
    pub fn plain(message: impl Into<String>) -> Self {
        Self { message: message.into(), code: NO }
    }

    /// The reply that was printed says it already: only the exit code is left to give.
    pub fn said() -> Self {
        Self::plain("")
    }

    /// The command line is wrong.
    pub fn usage(message: impl Into<String>) -> Self {
        Self { message: message.into(), code: USAGE }
    }

    pub fn not_running() -> Self {
        Self::plain(
            "Connection failed. Is brickd running? 'systemctl start brickd' starts it; \
             --socket or BRICK_SOCKET names another one's socket, --host another peer",
        )
    }

    /// What the pool answered, behind the command's name; a lost connection as such.
    pub fn of(command: &str, status: &Status) -> Self {
        if status.source().is_some() {
            return Self::not_running();
        }
        let message = next::after(&status.message().replace('\n', " "));
        // As gRPC means it: the change may have been made, or may be made later.
        let undecided = status.code() == Code::DeadlineExceeded;
        let outcome = if undecided { "not decided" } else { "failed" };
        let message = match command {
            "" => message,
            _ => format!("{command}: {outcome}: {message}"),
        };
        Self { message, code: if undecided { UNDECIDED } else { NO } }
    }
}

impl Output {
    /// Prints the reply as JSON, or what `text` makes of it.
    pub fn reply<T: Serialize>(self, reply: &T, text: impl FnOnce(&T) -> String) {
        let line = match self.json {
            true => serde_json::to_string(reply).unwrap_or_default(),
            false => text(reply),
        };
        print(&line);
    }

    pub fn failure(self, failure: &Failure) -> ExitCode {
        if failure.message.is_empty() {
            // Said already.
        } else if self.json {
            print(&serde_json::json!({ "error": failure.message }).to_string());
        } else {
            eprintln!("{}", failure.message);
        }
        ExitCode::from(failure.code)
    }

    /// As `confirmed`, for what cannot be undone: nobody at the terminal is no yes.
    pub fn insists(self, command: &str, question: &str) -> Result<(), Failure> {
        if !self.ask {
            return Ok(());
        }
        let terminal = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
        if self.json || !terminal {
            return Err(Failure::plain(format!(
                "{command}: nothing was changed: it asks for confirmation; type it at a terminal, \
                 or with --mode=script if you are sure"
            )));
        }
        match self.confirmed(question) {
            true => Ok(()),
            false => Err(Failure::plain(format!("{command}: nothing was changed"))),
        }
    }

    /// True unless somebody at a terminal says no.
    pub fn confirmed(self, question: &str) -> bool {
        let terminal = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
        if !self.ask || self.json || !terminal {
            return true;
        }
        print!("{question} (y/n) ");
        let _ = std::io::stdout().flush();
        let mut answer = String::new();
        let read = std::io::stdin().read_line(&mut answer);
        read.is_ok() && matches!(answer.trim(), "y" | "Y" | "yes")
    }
}

/// A line on standard output; a reader that went away (`| head`) is no failure.
pub fn print(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}
