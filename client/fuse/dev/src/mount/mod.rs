//! Putting the file system into the tree and taking it out again.
//!
//! Root mounts directly; everybody else through `fusermount3`, the set-uid helper of the
//! distribution. Unmounting first makes sure that the topmost mount at the path is ours: it may
//! have been unmounted from outside, and another file system mounted there since.

mod direct;
mod helper;
mod mountinfo;
mod options;

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

pub use options::MountOptions;

use crate::error::{Error, Result};
use crate::sys::Device;

/// A mount of ours.
#[derive(Debug)]
pub(crate) struct Mounted {
    path: PathBuf,
    /// `major:minor` of the file system, which no other mount has at the same time.
    device: Option<String>,
    by_helper: bool,
}

/// Mounts and returns the connection on which the kernel's INIT waits.
pub(crate) fn mount(options: &MountOptions, path: &Path) -> Result<(Device, Mounted)> {
    options.check()?;
    let (path, root_mode) = mount_point(path)?;
    let (device, by_helper) = if rustix::process::geteuid().is_root() {
        match direct::mount(options, &path, root_mode) {
            // Root inside a container without the right to mount: the helper may have it.
            Err(Error::Mount { source, .. }) if source.raw_os_error() == Some(libc::EPERM) => {
                (helper::mount(options, &path)?, true)
            }
            other => (other?, false),
        }
    } else {
        (helper::mount(options, &path)?, true)
    };
    let device_id = mountinfo::read().ok().and_then(|table| mountinfo::topmost(&table, &path));
    Ok((device, Mounted { path, device: device_id, by_helper }))
}

/// The absolute path and the mode of what is there. `stat` on a dead mount fails, which tells
/// the user what to do about it.
fn mount_point(path: &Path) -> Result<(PathBuf, u32)> {
    let fail = |source: io::Error| {
        let hint = match source.raw_os_error() {
            Some(libc::ENOTCONN) => " (left by a mount that died; umount -l it first)",
            _ => "",
        };
        Error::MountPoint { path: path.to_path_buf(), source, hint }
    };
    let absolute = std::fs::canonicalize(path).map_err(fail)?;
    let metadata = std::fs::metadata(&absolute).map_err(fail)?;
    if !metadata.is_dir() {
        return Err(fail(io::ErrorKind::NotADirectory.into()));
    }
    Ok((absolute, metadata.mode()))
}

impl Mounted {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the topmost mount at the path is the one made here.
    pub(crate) fn is_ours(&self) -> bool {
        match mountinfo::read() {
            Ok(table) => {
                self.device.is_some() && self.device == mountinfo::topmost(&table, &self.path)
            }
            // Without /proc nothing can be known; the mount was made, so assume it is there.
            Err(_) => true,
        }
    }

    /// Unmounts if the mount is still there.
    pub(crate) fn unmount(&self, lazy: bool) -> Result<()> {
        if !self.is_ours() {
            return Ok(());
        }
        if self.by_helper {
            return helper::unmount(&self.path, lazy);
        }
        match direct::unmount(&self.path, lazy) {
            Ok(()) => Ok(()),
            // Unmounted from outside between the look and the call.
            Err(Errno::INVAL) if !self.is_ours() => Ok(()),
            Err(Errno::BUSY) => Err(Error::Busy(self.path.clone())),
            Err(errno) => Err(Error::Unmount { path: self.path.clone(), source: errno.into() }),
        }
    }

    /// Lets the kernel read further ahead than its default of 128 KiB, without which buffered
    /// reads never fill a request. Needs root; without it reads are only smaller.
    pub(crate) fn raise_readahead(&self, bytes: u32) {
        let Some(device) = &self.device else { return };
        let path = format!("/sys/class/bdi/{device}/read_ahead_kb");
        if let Err(error) = std::fs::write(&path, (bytes / 1024).to_string()) {
            tracing::debug!(path, %error, "read-ahead stays at the kernel's default");
        }
    }
}
