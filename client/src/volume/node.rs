//! One inode as this mount knows it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Instant;

use bytes::Bytes;
use proto::{Attr, Errno, Gfid, Stamp};
use tokio::sync::Notify;

use crate::cache::extents::{Extents, Run};
use crate::cache::names::Names;
use crate::cache::table::Slot;
use crate::sync::lock;

#[derive(Debug)]
pub(super) struct Node {
    pub gfid: Gfid,
    /// Buckets of a directory, once known: they never change.
    buckets: AtomicU32,
    used: AtomicBool,
    /// A lock is lost: nothing more is read or written until all opens are closed.
    broken: AtomicBool,
    state: Mutex<State>,
    /// Told after each flushed run and when a recall has ended.
    pub progress: Notify,
    /// Told when there is more to flush.
    pub more: Notify,
}

/// What is remembered of an inode. Attributes, data and xattrs are believed only while the
/// inode's lease is held, names only while the part's is.
#[derive(Debug, Default)]
pub(super) struct State {
    pub attr: Option<Attr>,
    /// The whole content of a small file, as of the attributes' stamp.
    pub data: Option<Bytes>,
    pub xattrs: Xattrs,
    /// Until when the kernel was told to believe the attributes.
    pub told: Option<Instant>,
    /// The kernel may have pages of it.
    pub pages: bool,
    pub opens: u32,
    pub writers: u32,
    /// It has no name any more; its last close frees it.
    pub orphan: bool,
    /// A recall is writing back: dirty pages of the kernel are still taken.
    pub recalling: u32,
    /// Advisory locks were taken through this mount.
    pub locks: bool,
    pub behind: Option<Box<Behind>>,
    pub trouble: Trouble,
    pub names: Option<Box<Names>>,
}

/// Extended attributes: those looked at, and whether there are no others.
#[derive(Debug, Default)]
pub(super) struct Xattrs {
    pub known: HashMap<Box<[u8]>, Option<Bytes>>,
    pub complete: bool,
}

/// Write-behind of one inode: what is not yet on the bricks.
#[derive(Debug, Default)]
pub(super) struct Behind {
    pub dirty: Extents,
    /// Runs on their way, none overlapping another.
    pub flight: Vec<Run>,
    /// Bytes of `flight`.
    pub flight_bytes: u64,
    /// Number of the last write.
    pub seq: u64,
    /// All writes up to this one are wanted on the bricks.
    pub wanted: u64,
    /// A task is flushing.
    pub flushing: bool,
    /// Drop set-user-id and set-group-id with the next run.
    pub kill_privileges: bool,
    /// Stamp of the newest buffered write.
    pub stamp: Stamp,
}

impl Behind {
    pub fn is_empty(&self) -> bool {
        self.dirty.is_empty() && self.flight.is_empty()
    }

    pub fn bytes(&self) -> u64 {
        self.dirty.bytes() + self.flight_bytes
    }

    pub fn end(&self) -> u64 {
        self.flight.iter().map(Run::end).max().unwrap_or(0).max(self.dirty.end())
    }

    /// Whether every write up to `mark` is on the bricks, or has failed.
    pub fn is_done(&self, mark: u64) -> bool {
        let flight = self.flight.iter().map(|r| r.written.seq).min();
        let oldest = [self.dirty.oldest_seq(), flight].into_iter().flatten().min();
        oldest.is_none_or(|oldest| oldest > mark)
    }
}

/// Failed flushes, told once to each open file.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Trouble {
    pub count: u64,
    pub errno: Option<Errno>,
}

impl Node {
    pub fn new(gfid: Gfid) -> Node {
        Node {
            gfid,
            buckets: AtomicU32::new(0),
            used: AtomicBool::new(false),
            broken: AtomicBool::new(false),
            state: Mutex::default(),
            progress: Notify::new(),
            more: Notify::new(),
        }
    }

    pub fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    pub fn use_now(&self) {
        // Written only when it changes, so that readers of a hot inode share the cache line.
        if !self.used.load(Ordering::Relaxed) {
            self.used.store(true, Ordering::Relaxed);
        }
    }

    pub fn set_broken(&self, broken: bool) {
        self.broken.store(broken, Ordering::Relaxed);
    }

    /// EIO after a lock was lost.
    pub fn demand_unbroken(&self) -> Result<(), Errno> {
        if self.broken.load(Ordering::Relaxed) { Err(Errno::EIO) } else { Ok(()) }
    }

    /// Buckets of this directory, when known.
    pub fn buckets(&self) -> Option<u32> {
        match self.buckets.load(Ordering::Relaxed) {
            0 => None,
            buckets => Some(buckets),
        }
    }

    /// Notes what can never change from an inode's attributes.
    pub fn learn_kind(&self, attr: &Attr) {
        if attr.is_dir() {
            self.buckets.store(attr.buckets.max(1), Ordering::Relaxed);
        }
    }
}

impl State {
    /// The attributes as applications see them: with what is not yet flushed.
    pub fn shown(&self) -> Option<Attr> {
        let mut attr = self.attr?;
        if let Some(behind) = &self.behind
            && !behind.is_empty()
        {
            attr.size = attr.size.max(behind.end());
            if behind.stamp.0 > attr.stamp {
                attr.mtime = behind.stamp.into();
                attr.ctime = attr.mtime;
                attr.stamp = behind.stamp.0;
            }
            let (dirty_blocks, flat) = (behind.bytes().div_ceil(512), attr.size.div_ceil(512));
            attr.blocks = attr.blocks.saturating_add(dirty_blocks).min(flat.max(attr.blocks));
        }
        Some(attr)
    }

    /// Takes in newer attributes; older ones (a late answer) are left.
    pub fn note(&mut self, attr: Attr) {
        match &self.attr {
            Some(known) if known.stamp > attr.stamp => {}
            _ => self.attr = Some(attr),
        }
    }

    /// A write of this mount's own made the file this long. Nothing makes it shorter while
    /// writes are under way: a truncation waits for them.
    pub fn grow_to(&mut self, size: u64) {
        if let Some(known) = &mut self.attr {
            known.size = known.size.max(size);
        }
    }

    pub fn behind(&mut self) -> &mut Behind {
        self.behind.get_or_insert_default()
    }

    pub fn is_dirty(&self) -> bool {
        self.behind.as_ref().is_some_and(|b| !b.is_empty())
    }

    pub fn names(&mut self) -> &mut Names {
        self.names.get_or_insert_default()
    }

    /// A flush failed: each open file will hear of it.
    pub fn fail(&mut self, errno: Errno) {
        self.trouble.count += 1;
        self.trouble.errno = Some(errno);
    }
}

impl Slot for Node {
    fn take_used(&self) -> bool {
        self.used.swap(false, Ordering::Relaxed)
    }

    fn is_busy(&self) -> bool {
        let now = Instant::now();
        let state = self.lock();
        state.opens > 0
            || state.recalling > 0
            || state.is_dirty()
            || state.told.is_some_and(|t| t > now)
            || state.names.as_ref().and_then(|n| n.told_until()).is_some_and(|t| t > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two writes are under way together: the later one, inside the file, is answered first.
    /// The late answer of the one that made the file longer is older, and its size counts.
    #[test]
    fn a_late_answer_of_a_growing_write_still_makes_the_file_longer() {
        let mut state = State::default();
        let attr = |stamp, size| Attr { stamp, size, ..Attr::default() };
        state.note(attr(1, 100));
        state.note(attr(3, 100));
        state.note(attr(2, 150));
        assert_eq!(state.attr.map(|a| (a.stamp, a.size)), Some((3, 100)), "its times do not");
        state.grow_to(150);
        assert_eq!(state.attr.map(|a| (a.stamp, a.size)), Some((3, 150)));
        state.grow_to(120);
        assert_eq!(state.attr.map(|a| a.size), Some(150));
    }
}
