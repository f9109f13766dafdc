//! A mount and its connection to the kernel.

use std::path::Path;
use std::sync::Arc;

use crate::buffer::BufferPool;
use crate::channel::Channel;
use crate::error::{Error, Result};
use crate::flags::InitFlags;
use crate::init::{self, Features, InitConfig};
use crate::mount::{MountOptions, Mounted};
use crate::notify::Notifier;
use crate::sys::Device;

/// Mounts at `path`. Until [`Session::init`] every access to it waits.
pub fn mount(options: &MountOptions, path: &Path) -> Result<Session> {
    let (device, mounted) = crate::mount::mount(options, path)?;
    Ok(Session { device: Some(Arc::new(device)), mounted, ready: None })
}

/// A mounted file system. Dropping it unmounts, lazily if files are still open.
#[derive(Debug)]
pub struct Session {
    /// The first channel; carries the handshake and notifications, never requests. `None` only
    /// during drop.
    device: Option<Arc<Device>>,
    mounted: Mounted,
    ready: Option<Ready>,
}

#[derive(Debug)]
struct Ready {
    features: Features,
    pool: BufferPool,
}

impl Session {
    /// Makes the handshake; blocks until the kernel's INIT is there, which is at once.
    pub fn init(&mut self, config: &InitConfig) -> Result<&Features> {
        let features = init::handshake(self.device(), config)?;
        if config.readahead_max > features.readahead {
            self.mounted.raise_readahead(config.readahead_max);
        }
        let pool = BufferPool::new(features.payload_max);
        Ok(&self.ready.insert(Ready { features, pool }).features)
    }

    fn device(&self) -> &Arc<Device> {
        self.device.as_ref().expect("taken only by drop")
    }

    fn ready(&self) -> Result<&Ready> {
        self.ready.as_ref().ok_or(Error::NotInitialised)
    }

    /// What kernel and mount agreed on.
    pub fn features(&self) -> Result<&Features> {
        Ok(&self.ready()?.features)
    }

    /// The buffers that the channels share.
    pub fn pool(&self) -> Result<&BufferPool> {
        Ok(&self.ready()?.pool)
    }

    /// A channel for one more worker thread. At least one must exist and be served.
    pub fn clone_channel(&self) -> Result<Channel> {
        let ready = self.ready()?;
        let setxattr_ext = ready.features.has(InitFlags::SETXATTR_EXT);
        let device = self.device().clone_channel().map_err(Error::Device)?;
        Ok(Channel::new(device, &ready.pool, setxattr_ext)?)
    }

    /// For telling the kernel what to forget. It ends with the session.
    pub fn notifier(&self) -> Result<Notifier> {
        let offered = self.ready()?.features.offered;
        Ok(Notifier::new(Arc::downgrade(self.device()), offered))
    }

    /// The mount point, absolute.
    pub fn path(&self) -> &Path {
        self.mounted.path()
    }

    /// Whether the mount is still in place (nobody else has unmounted it).
    pub fn is_mounted(&self) -> bool {
        self.mounted.is_ours()
    }

    /// Unmounts; [`Error::Busy`] while files are open. The channels then end by themselves.
    ///
    /// Blocks while dirty mapped pages are written back, so the channels must be served: call
    /// it from a thread that serves none.
    pub fn unmount(&self) -> Result<()> {
        self.mounted.unmount(false)
    }

    /// Takes the mount out of the tree now; it ends when the last file is closed.
    pub fn unmount_lazy(&self) -> Result<()> {
        self.mounted.unmount(true)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // First our own descriptor: if no channel is left the kernel ends the connection, and
        // nothing below can wait for an answer that nobody would give.
        self.device = None;
        if let Err(error) = self.mounted.unmount(true) {
            tracing::error!(path = ?self.path(), %error, "the mount is left behind");
        }
    }
}
