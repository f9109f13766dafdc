//! An open file.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use proto::{Errno, Gfid};

use super::ahead::Ahead;
use super::node::Node;
use crate::sync::lock;

/// How a file is opened.
#[derive(Clone, Copy, Debug, Default)]
pub struct OpenHow {
    pub write: bool,
    pub append: bool,
    pub truncate: bool,
    /// Each write is on stable storage when it returns (O_SYNC, O_DSYNC).
    pub sync: bool,
    /// Each write is on the bricks when it returns (O_DIRECT).
    pub direct: bool,
    /// The caller does not read ahead itself: do it here.
    pub readahead: bool,
    /// Truncating drops set-user-id and set-group-id bits.
    pub kill_privileges: bool,
}

impl OpenHow {
    pub fn reading() -> OpenHow {
        OpenHow { readahead: true, ..OpenHow::default() }
    }

    pub fn writing() -> OpenHow {
        OpenHow { write: true, ..OpenHow::default() }
    }

    /// From the flags of open(2).
    pub fn from_flags(flags: i32) -> OpenHow {
        OpenHow {
            write: flags & libc::O_ACCMODE != libc::O_RDONLY,
            append: flags & libc::O_APPEND != 0,
            truncate: flags & libc::O_TRUNC != 0,
            sync: flags & libc::O_DSYNC != 0,
            direct: flags & libc::O_DIRECT != 0,
            readahead: false,
            kill_privileges: false,
        }
    }
}

/// An open file of this mount. To be given to `Volume::release`.
#[derive(Debug)]
pub struct File {
    pub(super) node: Arc<Node>,
    pub(super) how: OpenHow,
    /// Failed flushes that this file's user has been told of.
    told_trouble: AtomicU64,
    pub(super) ahead: Mutex<Ahead>,
}

impl File {
    pub(super) fn new(node: Arc<Node>, how: OpenHow) -> File {
        let seen = node.lock().trouble.count;
        File { node, how, told_trouble: AtomicU64::new(seen), ahead: Mutex::default() }
    }

    pub fn gfid(&self) -> Gfid {
        self.node.gfid
    }

    pub fn how(&self) -> OpenHow {
        self.how
    }

    /// The error of flushes that failed since this file was told last.
    pub(super) fn take_trouble(&self) -> Result<(), Errno> {
        let trouble = self.node.lock().trouble;
        if self.told_trouble.swap(trouble.count, Ordering::AcqRel) == trouble.count {
            return Ok(());
        }
        Err(trouble.errno.unwrap_or(Errno::EIO))
    }

    pub(super) fn ahead(&self) -> std::sync::MutexGuard<'_, Ahead> {
        lock(&self.ahead)
    }
}
