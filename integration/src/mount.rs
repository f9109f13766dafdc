//! A mounted volume, in the foreground, as a child of the test.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::Signal;

use crate::netns;
use crate::node;
use crate::scratch;
use crate::sys::{self, Poll};

/// A mount is there, or refused, within this time.
const MOUNT_MAX: Duration = Duration::from_secs(30);
const UMOUNT_MAX: Duration = Duration::from_secs(30);

/// What to mount where.
#[derive(Clone, Debug)]
pub struct Request {
    /// `host[,host...]:/volume[/subdir]`.
    pub source: String,
    /// Comma-separated mount options, maybe empty.
    pub options: String,
    pub point: PathBuf,
    /// Token file of a client; without one the options say what lets the mount in.
    pub token: Option<PathBuf>,
    pub space: Option<String>,
}

/// Unmounted when dropped.
#[derive(Debug)]
pub struct Mount {
    request: Request,
    log: PathBuf,
    child: Option<Child>,
}

impl Mount {
    /// Mounts and waits until the volume is there.
    ///
    /// # Errors
    /// The program refused; its words are in the error.
    pub fn new(request: Request) -> Result<Self> {
        fs::create_dir_all(&request.point)?;
        let log = request.point.with_extension("log");
        let mut mount = Self { request, log, child: None };
        mount.start()?;
        Ok(mount)
    }

    fn start(&mut self) -> Result<()> {
        let log = OpenOptions::new().create(true).append(true).open(&self.log)?;
        let program = node::program("mount.brick")?;
        let mut command = netns::command(self.request.space.as_deref(), program.as_os_str());
        command.arg("-f").arg(&self.request.source).arg(&self.request.point);
        let token = self.request.token.as_ref();
        let mut options: Vec<String> =
            token.map(|file| format!("credential={}", file.display())).into_iter().collect();
        if !self.request.options.is_empty() {
            options.push(self.request.options.clone());
        }
        if !options.is_empty() {
            command.args(["-o", &options.join(",")]);
        }
        command.env("NO_COLOR", "1");
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let mut child = command.spawn().context("cannot start mount.brick")?;
        let mut ended = None;
        let waited = sys::wait_until("the mount", MOUNT_MAX, || {
            ended = child.try_wait()?;
            let done = ended.is_some() || is_mounted(&self.request.point);
            Ok(Poll::of(done, || "not mounted yet".into()))
        });
        self.child = Some(child);
        waited.with_context(|| node::tail(&self.log))?;
        match ended {
            Some(status) => bail!("mount.brick ended with {status}: {}", node::tail(&self.log)),
            None => Ok(()),
        }
    }

    pub fn point(&self) -> &Path {
        &self.request.point
    }

    pub fn log(&self) -> &Path {
        &self.log
    }

    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// kill -9 of the mount's process; the dead mount point is removed.
    /// Stops the program of the mount; the kernel's part goes on.
    ///
    /// # Errors
    /// It does not run.
    pub fn pause(&self) -> Result<Paused> {
        let pid = self.pid().context("the mount runs")?;
        sys::signal(pid, Signal::STOP);
        Ok(Paused(pid))
    }

    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            sys::signal(child.id(), Signal::KILL);
            let _ = child.wait();
        }
        if is_mounted(self.point()) {
            scratch::unmount(self.point());
        }
    }

    /// Mounts again after [`Self::kill`] or [`Self::unmount`].
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn again(&mut self) -> Result<()> {
        self.start()
    }

    /// umount(8), and waits for the process to end by itself.
    ///
    /// # Errors
    /// It does not, or not with 0.
    pub fn unmount(&mut self) -> Result<()> {
        sys::must("umount", &[self.point()])?;
        let Some(mut child) = self.child.take() else { return Ok(()) };
        let waited = sys::wait_until("the end of mount.brick", UMOUNT_MAX, || {
            Ok(Poll::of(child.try_wait()?.is_some(), || "still runs".into()))
        });
        if waited.is_err() {
            let _ = child.kill();
        }
        let status = child.wait()?;
        waited?;
        if !status.success() {
            bail!("mount.brick ended with {status} after umount:\n{}", node::tail(&self.log));
        }
        Ok(())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The program of a mount, stopped until this is dropped.
pub struct Paused(u32);

impl Drop for Paused {
    fn drop(&mut self) {
        sys::signal(self.0, Signal::CONT);
    }
}

/// True when something is mounted exactly there. Never touches the mount itself, which may hang.
pub fn is_mounted(point: &Path) -> bool {
    scratch::mounts_below(point).iter().any(|p| p == point)
}
