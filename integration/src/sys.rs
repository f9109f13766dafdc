//! Commands of the system, run with a time limit and an error that shows what they said.

use std::ffi::OsStr;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

/// No command of the harness itself takes longer, unless it says so.
pub const LIMIT: Duration = Duration::from_secs(60);

/// What a command answered.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Answer {
    pub fn ok(&self) -> bool {
        self.code == Some(0)
    }
}

/// Runs a command to its end, whatever its exit code.
///
/// # Errors
/// It could not be started, or did not end in time (it is killed then).
pub fn answer(command: &mut Command, limit: Duration) -> Result<Answer> {
    let shown = show(command);
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {shown}"))?;
    let pid = child.id();
    let (done, wait) = mpsc::channel();
    thread::spawn(move || {
        // The receiver is gone after a time-out; the answer is of no use then.
        let _ = done.send(child.wait_with_output());
    });
    let Ok(output) = wait.recv_timeout(limit) else {
        signal(pid, Signal::KILL);
        bail!("{shown} did not end within {limit:?} and was killed");
    };
    let output = output.with_context(|| format!("cannot wait for {shown}"))?;
    Ok(Answer {
        code: output.status.code(),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

/// Runs a command that must succeed, within `limit`; returns its standard output.
///
/// # Errors
/// It failed; the error shows what it printed.
pub fn must_within(command: &mut Command, limit: Duration) -> Result<String> {
    let answer = answer(command, limit)?;
    if !answer.ok() {
        let code = answer.code.map_or_else(|| "a signal".to_owned(), |c| c.to_string());
        bail!(
            "{} ended with {code}\n{}{}",
            show(command),
            answer.out.trim_end(),
            answer.err.trim_end()
        );
    }
    Ok(answer.out)
}

/// [`must_within`] the usual limit, from words.
///
/// # Errors
/// As there.
pub fn must<S: AsRef<OsStr>>(program: &str, args: &[S]) -> Result<String> {
    must_within(Command::new(program).args(args), LIMIT)
}

/// A short shell script, `set -eu`, in a directory.
///
/// # Errors
/// As [`must_within`].
pub fn shell(dir: &std::path::Path, script: &str, limit: Duration) -> Result<String> {
    must_within(Command::new("sh").arg("-euc").arg(script).current_dir(dir), limit)
}

/// The command as one would type it.
pub fn show(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|a| a.to_string_lossy().into_owned()));
    words.join(" ")
}

/// Sends a signal; a process that is gone is what was wanted.
pub fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}

/// close(2) with its error, which `drop` hides: a mount reports there what it could not write.
///
/// # Errors
/// The descriptor is closed all the same.
pub fn close(file: std::fs::File) -> std::io::Result<()> {
    let fd = std::os::fd::IntoRawFd::into_raw_fd(file);
    // SAFETY: `into_raw_fd` gave the descriptor to us; nobody else closes it.
    match unsafe { libc::close(fd) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

/// Polls until `done` says true.
///
/// An error of `done` counts as "not yet": a command that fails now may succeed later.
///
/// # Errors
/// The time ran out; `what` says what was waited for, with the last state seen.
pub fn wait_until(
    what: &str,
    limit: Duration,
    mut done: impl FnMut() -> Result<Poll>,
) -> Result<Duration> {
    let start = Instant::now();
    loop {
        let last = match done() {
            Ok(Poll::Done) => return Ok(start.elapsed()),
            Ok(Poll::Wait(state)) => state,
            Err(error) => format!("{error:#}"),
        };
        if start.elapsed() > limit {
            bail!("{what}: not within {limit:?}; last seen: {last}");
        }
        thread::sleep(Duration::from_millis(100));
    }
}

/// One look at something that is waited for.
#[derive(Debug)]
pub enum Poll {
    Done,
    /// Not yet; what it looks like.
    Wait(String),
}

impl Poll {
    pub fn of(done: bool, state: impl FnOnce() -> String) -> Self {
        if done { Self::Done } else { Self::Wait(state()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_command_shows_what_it_said() {
        let error = must("sh", &["-c", "echo seen; echo why >&2; exit 3"]).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("ended with 3") && text.contains("seen") && text.contains("why"));
    }

    #[test]
    fn a_command_that_hangs_is_killed_in_time() {
        let start = Instant::now();
        let error = answer(Command::new("sleep").arg("60"), Duration::from_millis(200));
        assert!(error.unwrap_err().to_string().contains("did not end"));
        assert!(start.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn waiting_ends_with_the_last_state_seen() {
        let limit = Duration::from_millis(50);
        let error = wait_until("the moon", limit, || Ok(Poll::Wait("half".into()))).unwrap_err();
        assert!(error.to_string().contains("half"));
        wait_until("now", limit, || Ok(Poll::Done)).unwrap();
    }
}
