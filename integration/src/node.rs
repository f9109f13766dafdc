//! One node: a `brickd` of its own, with its state folder, its disk, its address, its log.
//!
//! All that the harness knows of the programs' command lines is in this file and in
//! [`crate::mount`].

use std::ffi::OsStr;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::Signal;

use crate::netns;
use crate::sys::{self, Answer, Poll};

/// A daemon answers its CLI within this time of its start, on a busy machine too.
const READY_MAX: Duration = Duration::from_secs(30);
/// A clean stop flushes and leaves its sets; nothing in it takes longer.
const STOP_MAX: Duration = Duration::from_secs(30);
/// No command of the CLI waits longer for the pool.
pub const CLI_MAX: Duration = Duration::from_secs(60);
const LOG_LINES_SHOWN: usize = 40;

/// One of the programs under test: `brickd`, `brick` or `mount.brick`.
///
/// # Errors
/// It is not built.
pub fn program(name: &str) -> Result<PathBuf> {
    let folder = match std::env::var_os("BRICK_BIN_DIR") {
        Some(dir) => PathBuf::from(dir),
        None => {
            // target/release/deps/cluster-0123 or target/release/brick-something
            let exe = std::env::current_exe().context("where is this program?")?;
            let dir = exe.parent().context("this program lies in no folder")?;
            if dir.ends_with("deps") { dir.join("..") } else { dir.to_owned() }
        }
    };
    let path = folder.join(name);
    if !path.is_file() {
        bail!("{} is not built: run 'cargo build --release' or 'make test'", path.display());
    }
    Ok(path)
}

/// A daemon and everything it owns, below one folder.
#[derive(Debug)]
pub struct Node {
    pub host: String,
    dir: PathBuf,
    space: Option<String>,
    join_key: PathBuf,
    child: Option<Child>,
    /// Becomes the daemon at the next [`Self::spawn`].
    waiting: Option<Child>,
    paused: bool,
}

impl Node {
    pub fn new(host: &str, dir: &Path, space: Option<String>, join_key: &Path) -> Result<Self> {
        fs::create_dir_all(dir.join("state"))?;
        Ok(Self {
            host: host.to_owned(),
            dir: dir.to_owned(),
            space,
            join_key: join_key.to_owned(),
            child: None,
            waiting: None,
            paused: false,
        })
    }

    /// From its next start on it votes and holds no bricks.
    ///
    /// # Errors
    /// Its configuration cannot be written.
    pub fn make_witness(&self) -> Result<()> {
        fs::write(self.dir.join("brickd.toml"), "witness = true\n").context("brickd.toml")
    }

    /// Its machine is installed anew: nothing of what the daemon knew is left. It must not run.
    ///
    /// # Errors
    /// The folder cannot be emptied.
    pub fn lose_state(&self) -> Result<()> {
        fs::remove_dir_all(self.state()).context("state folder")?;
        fs::create_dir_all(self.state()).context("state folder")
    }

    /// Writes a join key, for all nodes of one pool-to-be.
    ///
    /// # Errors
    /// brickd refuses.
    pub fn make_join_key(path: &Path) -> Result<()> {
        let mut command = Command::new(program("brickd")?);
        // Only the key's path is of interest here; no configuration file of this machine is.
        let config = path.with_extension("toml");
        fs::write(&config, "")?;
        command.arg("--config").arg(config).arg("--join-key").arg(path).arg("make-join-key");
        sys::must_within(&mut command, sys::LIMIT).map(drop)
    }

    /// Where bricks and nothing else lie: the mount point of the node's disk.
    pub fn disk(&self) -> PathBuf {
        self.dir.join("disk")
    }

    pub fn state(&self) -> PathBuf {
        self.dir.join("state")
    }

    pub fn log(&self) -> PathBuf {
        self.dir.join("log")
    }

    pub fn space(&self) -> Option<&str> {
        self.space.as_deref()
    }

    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Starts the daemon and waits until its CLI gets answers.
    ///
    /// # Errors
    /// It ended, or does not answer in time.
    pub fn start(&mut self) -> Result<()> {
        self.spawn()?;
        self.wait_ready()
    }

    /// Waits until the started daemon answers its CLI.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn wait_ready(&mut self) -> Result<()> {
        let mut ended = None;
        let what = format!("an answer of brickd at {}", self.host);
        sys::wait_until(&what, READY_MAX, || {
            if let Err(error) = self.demand_running() {
                ended = Some(error);
                return Ok(Poll::Done);
            }
            let answer = self.brick(&["pool", "list"])?;
            Ok(Poll::of(answer.ok(), || answer.err.trim().to_owned()))
        })?;
        ended.map_or(Ok(()), Err)
    }

    /// Makes the process that the next [`Self::spawn`] turns into the daemon.
    ///
    /// A process started while this one has files open on a mount closes its copies of them, and
    /// each close is a FLUSH that the mount answers when a member answers it: with all members
    /// dead, the daemon would not start before the operations have timed out.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn prepare(&mut self) -> Result<()> {
        let mut command = netns::command(self.space(), OsStr::new("sh"));
        command.args(["-c", "read -r _ && exec \"$@\" </dev/null", "sh"]);
        command.arg(program("brickd")?);
        self.add_arguments(&mut command)?;
        command.stdin(Stdio::piped());
        self.waiting = Some(command.spawn().context("cannot prepare brickd")?);
        Ok(())
    }

    /// Starts the daemon and does not wait.
    ///
    /// # Errors
    /// It runs already, or cannot be started.
    pub fn spawn(&mut self) -> Result<()> {
        if self.child.is_some() {
            bail!("brickd of {} runs already", self.host);
        }
        let child = if let Some(mut prepared) = self.waiting.take() {
            let mut go = prepared.stdin.take().context("a prepared brickd hears nothing")?;
            go.write_all(b"\n").context("a prepared brickd has ended")?;
            prepared
        } else {
            let mut command = netns::command(self.space(), program("brickd")?.as_os_str());
            self.add_arguments(&mut command)?;
            command.stdin(Stdio::null()).spawn().context("cannot start brickd")?
        };
        fs::write(self.dir.join("pid"), child.id().to_string())?;
        self.child = Some(child);
        Ok(())
    }

    fn add_arguments(&self, command: &mut Command) -> Result<()> {
        let config = self.dir.join("brickd.toml");
        if !config.exists() {
            fs::write(&config, "")?;
        }
        let log = OpenOptions::new().create(true).append(true).open(self.log())?;
        command.arg("--config").arg(config).arg("--state-dir").arg(self.state());
        command.args(["--listen", &self.host]).arg("--join-key").arg(&self.join_key);
        command.args(["--log-level", &log_level()]).env("NO_COLOR", "1");
        command.stdout(log.try_clone()?).stderr(log);
        Ok(())
    }

    fn demand_running(&mut self) -> Result<()> {
        let Some(child) = &mut self.child else { bail!("brickd of {} was not started", self.host) };
        if let Some(status) = child.try_wait()? {
            self.child = None;
            bail!("brickd of {} ended with {status}:\n{}", self.host, self.log_tail());
        }
        Ok(())
    }

    /// True while the process lives.
    pub fn runs(&mut self) -> bool {
        self.child.is_some() && self.demand_running().is_ok()
    }

    /// Started, and not paused.
    pub fn is_awake(&self) -> bool {
        self.child.is_some() && !self.paused
    }

    /// kill -9, as a crash of the daemon.
    pub fn kill(&mut self) {
        self.end(Signal::KILL);
    }

    /// SIGTERM, and waits for the end.
    ///
    /// # Errors
    /// It did not end in time (it is killed then), or not with 0.
    pub fn stop(&mut self) -> Result<()> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        sys::signal(child.id(), Signal::TERM);
        let ended = sys::wait_until(&format!("stop of {}", self.host), STOP_MAX, || {
            Ok(Poll::of(child.try_wait()?.is_some(), || "still runs".into()))
        });
        if let Err(error) = ended {
            let _ = child.kill();
            let _ = child.wait();
            return Err(error);
        }
        let status = child.wait()?;
        if !status.success() {
            bail!("brickd of {} ended its clean stop with {status}", self.host);
        }
        Ok(())
    }

    /// SIGSTOP: alive, silent.
    pub fn pause(&mut self) {
        if let Some(pid) = self.pid() {
            sys::signal(pid, Signal::STOP);
            self.paused = true;
        }
    }

    /// Undoes [`Self::pause`].
    pub fn resume(&mut self) {
        if let Some(pid) = self.pid() {
            sys::signal(pid, Signal::CONT);
            self.paused = false;
        }
    }

    fn end(&mut self, signal: Signal) {
        if let Some(mut child) = self.child.take() {
            sys::signal(child.id(), signal);
            let _ = child.wait();
        }
        self.paused = false;
    }

    /// The CLI, talking to this node's daemon; any exit code.
    ///
    /// # Errors
    /// It cannot be run or does not end.
    pub fn brick<S: AsRef<OsStr>>(&self, words: &[S]) -> Result<Answer> {
        let mut command = netns::command(self.space(), program("brick")?.as_os_str());
        command.env("BRICK_SOCKET", self.state().join("control.sock")).args(words);
        sys::answer(&mut command, CLI_MAX)
    }

    /// The last lines of the log.
    pub fn log_tail(&self) -> String {
        tail(&self.log())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if self.paused {
            self.resume();
        }
        self.end(Signal::KILL);
        // The end of its input is the end of a prepared one.
        if let Some(mut waiting) = self.waiting.take() {
            drop(waiting.stdin.take());
            let _ = waiting.wait();
        }
    }
}

/// The last lines of a log file.
pub fn tail(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n")
}

fn log_level() -> String {
    std::env::var("BRICK_LOG").unwrap_or_else(|_| "info,openraft=error".into())
}
