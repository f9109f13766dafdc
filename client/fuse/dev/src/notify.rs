//! Messages to the kernel that answer no request: what it must forget.
//!
//! **These calls wait for locks of the kernel.** Invalidating an inode waits for its pages:
//! for reads under way, and for dirty mapped pages, which come back as WRITE requests that
//! must be *served* before the call returns. Invalidating or deleting an entry waits for the
//! parent directory's lock, which a create, unlink, rename or lookup in that directory holds
//! until it is *answered*. So:
//!
//! - never notify while holding a lock, lease or queue place that answering any request needs;
//! - never notify from the only thread that fetches requests, nor from one that must answer
//!   the operation on the same directory; use a thread of its own;
//! - in answering a recall never wait for an operation that itself waits for the recaller.
//!
//! [`Notifier::expire_entry`] takes the parent's lock as well.

use std::io;
use std::sync::Weak;

use crate::abi::{NAME_LEN_MAX, notify};
use crate::flags::InitFlags;
use crate::sys::Device;
use crate::wire::Out;

/// Whether there was something to forget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// The kernel had it and has forgotten it.
    Yes,
    /// The kernel did not know it, which is as good; also when the mount has ended.
    No,
}

/// Sends invalidations; usable from any thread, see the module for where not to.
#[derive(Clone, Debug)]
pub struct Notifier {
    /// Weak, so that a forgotten notifier does not keep a dead connection open.
    device: Weak<Device>,
    offered: InitFlags,
}

impl Notifier {
    pub(crate) fn new(device: Weak<Device>, offered: InitFlags) -> Self {
        Self { device, offered }
    }

    fn send(&self, code: i32, body: &[&[u8]]) -> io::Result<Known> {
        let Some(device) = self.device.upgrade() else { return Ok(Known::No) };
        match device.write(0, code, body) {
            Ok(()) => Ok(Known::Yes),
            Err(error) => match error.raw_os_error() {
                Some(libc::ENOENT | libc::ENODEV | libc::ENOTCONN) => Ok(Known::No),
                _ => Err(error),
            },
        }
    }

    /// Forgets the inode's attributes and its pages from `offset`, `len` bytes of them, 0 for
    /// all. With a negative `offset` the pages stay.
    pub fn inval_inode(&self, nodeid: u64, offset: i64, len: i64) -> io::Result<Known> {
        let out = Out::<24>::new().u64(nodeid).u64(offset.cast_unsigned()).u64(len.cast_unsigned());
        self.send(notify::INVAL_INODE, &[out.bytes()])
    }

    /// Forgets a name at once. Mounts and open directories below it are detached.
    pub fn inval_entry(&self, parent: u64, name: &[u8]) -> io::Result<Known> {
        self.entry(parent, name, 0)
    }

    /// Makes a name ask again at its next use, leaving what hangs below it in place. Where the
    /// kernel lacks this (before Linux 6.2) the name is forgotten instead.
    pub fn expire_entry(&self, parent: u64, name: &[u8]) -> io::Result<Known> {
        let can = self.offered.contains(InitFlags::HAS_EXPIRE_ONLY);
        self.entry(parent, name, if can { notify::EXPIRE_ONLY } else { 0 })
    }

    fn entry(&self, parent: u64, name: &[u8], flags: u32) -> io::Result<Known> {
        let out = Out::<16>::new().u64(parent).u32(name_len(name)?).u32(flags);
        self.send(notify::INVAL_ENTRY, &[out.bytes(), name, &[0]])
    }

    /// The name is gone: like an invalidation, and watchers (inotify) see a deletion.
    pub fn delete(&self, parent: u64, child: u64, name: &[u8]) -> io::Result<Known> {
        let out = Out::<24>::new().u64(parent).u64(child).u32(name_len(name)?);
        self.send(notify::DELETE, &[out.bytes(), name, &[0]])
    }

    /// Puts data into the inode's page cache.
    pub fn store(&self, nodeid: u64, offset: u64, data: &[u8]) -> io::Result<Known> {
        let len = u32::try_from(data.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        let out = Out::<24>::new().u64(nodeid).u64(offset).u32(len);
        self.send(notify::STORE, &[out.bytes(), data])
    }
}

fn name_len(name: &[u8]) -> io::Result<u32> {
    if name.is_empty() || name.len() > NAME_LEN_MAX || name.contains(&0) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    u32::try_from(name.len()).map_err(|_| io::ErrorKind::InvalidInput.into())
}
