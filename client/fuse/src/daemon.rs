//! Into the background: the caller waits until the mount is there or has failed.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;

/// Exit code of mount(8) for a mount that failed.
pub const MOUNT_FAILED: u8 = 32;

/// Which of the two processes this is.
pub enum Forked {
    /// The one that was called: waits for the other's word and ends with it.
    Caller(Status),
    /// The one that mounts.
    Daemon(Tell),
}

/// The caller's end.
pub struct Status(File);

/// The daemon's end.
pub struct Tell(File);

impl Status {
    /// The daemon's word, or failure when it died without one.
    pub fn wait(mut self) -> u8 {
        let mut code = [0];
        match self.0.read(&mut code) {
            Ok(1) => code[0],
            _ => MOUNT_FAILED,
        }
    }
}

impl Tell {
    /// The mount is there: lets the caller go, and leaves its terminal and folder.
    ///
    /// # Errors
    /// `/dev/null` cannot be opened.
    pub fn ready(mut self) -> io::Result<()> {
        let null = File::options().read(true).write(true).open("/dev/null")?;
        rustix::stdio::dup2_stdin(&null)?;
        rustix::stdio::dup2_stdout(&null)?;
        rustix::stdio::dup2_stderr(&null)?;
        std::env::set_current_dir("/")?;
        self.0.write_all(&[0])
    }

    /// Ends the caller with a failure that was written to its stderr.
    pub fn failed(mut self) {
        // A caller that is gone does not want to know.
        let _ = self.0.write_all(&[MOUNT_FAILED]);
    }
}

/// Splits the process. To be called before any thread is started.
///
/// # Errors
/// No pipe or no process is to be had.
pub fn fork() -> io::Result<Forked> {
    let (status, tell): (OwnedFd, OwnedFd) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    if sys::fork()? {
        drop(tell);
        return Ok(Forked::Caller(Status(status.into())));
    }
    drop(status);
    rustix::process::setsid()?;
    Ok(Forked::Daemon(Tell(tell.into())))
}

mod sys {
    //! The one system call without a safe form.

    use std::io;

    /// True in the caller, false in the new process.
    pub fn fork() -> io::Result<bool> {
        // SAFETY: `main` forks before it starts any thread or runtime, so no lock can be held
        // by a thread that does not exist in the new process.
        match unsafe { libc::fork() } {
            -1 => Err(io::Error::last_os_error()),
            0 => Ok(false),
            _ => Ok(true),
        }
    }
}
