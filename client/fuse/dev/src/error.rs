//! Errors of mounting and of the device.

use std::io;
use std::path::PathBuf;

/// Why a mount, its handshake or its device failed. Every message ends in the next step to take
/// where there is one.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The device node cannot be opened.
    #[error("cannot open /dev/fuse: {0}; is the fuse module loaded (modprobe fuse)?")]
    Device(#[source] io::Error),
    /// The mount point cannot be used.
    #[error("mount point {path:?}: {source}{hint}")]
    MountPoint {
        /// The path as given.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
        /// Empty, or the next step to take.
        hint: &'static str,
    },
    /// An option holds a character that the mount call cannot carry.
    #[error("mount option {0:?} holds a NUL or a line break")]
    Option(String),
    /// `mount(2)` refused.
    #[error("mount on {path:?}: {source}")]
    Mount {
        /// The mount point.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// `fusermount3` refused or is missing; its own words.
    #[error("fusermount3 on {path:?}: {message}")]
    Helper {
        /// The mount point.
        path: PathBuf,
        /// What the helper wrote, or why it could not be run.
        message: String,
    },
    /// Files are open below the mount point.
    #[error("{0:?} is busy; close its files, or unmount lazily (umount -l)")]
    Busy(PathBuf),
    /// The unmount call failed.
    #[error("unmount {path:?}: {source}")]
    Unmount {
        /// The mount point.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The kernel is too old or speaks another major version.
    #[error("the kernel speaks FUSE {major}.{minor}; 7.32 (Linux 5.10) or newer is needed")]
    Version {
        /// The kernel's major version.
        major: u32,
        /// The kernel's minor version.
        minor: u32,
    },
    /// The first message was no INIT, or malformed.
    #[error("handshake with the kernel: {0}")]
    Handshake(&'static str),
    /// Channels exist only after [`Session::init`](crate::Session::init).
    #[error("the handshake with the kernel has not been made")]
    NotInitialised,
    /// Any other failure of the device.
    #[error("fuse device: {0}")]
    Io(#[from] io::Error),
}

/// Result with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;
