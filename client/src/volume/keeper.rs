//! Leases that go.
//!
//! A recall waits for the kernel to forget, and the kernel may wait for a request that waits for
//! the very lease: a create in the directory whose names are being recalled holds its lock. So
//! names are waited for only until the kernel's own time for them has run out, a quarter of a
//! second at most, and in a directory that other mounts change as well the kernel is told to
//! believe nothing for a while, which makes later recalls of it wait for nothing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use proto::fop::{LeaseKey, Mode};
use proto::{Errno, Gfid, SetId};

use super::Volume;
use super::node::Node;

/// How long a recall waits for the kernel's pages; their writing back may take a while.
const PAGES_WAIT: Duration = Duration::from_secs(1);
/// For so long after a recall the kernel is told to believe no name of a directory.
const CONTENDED: Duration = Duration::from_secs(10);

impl Volume {
    /// Lets go of what `keep` does not cover; answers whether the inode is open here.
    pub(super) async fn recalled(&self, set: SetId, key: LeaseKey, keep: Mode) -> bool {
        match key {
            LeaseKey::Part(dir) => self.part_recalled(set, dir, keep).await,
            LeaseKey::Inode(gfid) => self.inode_recalled(gfid, key, keep).await,
        }
    }

    async fn part_recalled(&self, set: SetId, dir: Gfid, keep: Mode) -> bool {
        let Some(node) = self.nodes.get(dir) else {
            self.recalls.note(LeaseKey::Part(dir));
            return false;
        };
        if keep == Mode::Shared {
            // Names are changed on the bricks at once: all that is known stays true.
            return node.lock().opens > 0;
        }
        self.recalls.note(LeaseKey::Part(dir));
        let now = Instant::now();
        let (told, until) = {
            let mut state = node.lock();
            state.recalling += 1;
            let names = state.names();
            names.contended_until = Some(now + CONTENDED);
            names.drop_part(set, now)
        };
        if let (Some(kernel), Some(until)) = (self.kernel(), until) {
            let count = told.len();
            let forgotten = kernel.forget_names(dir, told);
            // Late is as good: the kernel asks again by itself when its time has run out.
            let late = tokio::time::timeout_at(until.into(), forgotten).await.is_err();
            tracing::debug!(%dir, names = count, late, took = ?now.elapsed(), "names forgotten");
        }
        let mut state = node.lock();
        state.recalling -= 1;
        state.opens > 0
    }

    async fn inode_recalled(&self, gfid: Gfid, key: LeaseKey, keep: Mode) -> bool {
        let Some(node) = self.nodes.get(gfid) else {
            self.recalls.note(key);
            self.forget_in_kernel(gfid).await;
            return false;
        };
        let (told, pages) = {
            let mut state = node.lock();
            state.recalling += 1;
            let writers = state.writers > 0;
            let told = state.told.is_some_and(|t| t > Instant::now());
            // Under a shared lease clean pages and attributes stay true.
            let pages = writers || (keep == Mode::None && state.pages);
            if keep == Mode::None {
                state.pages = false;
            }
            (told && keep == Mode::None, pages)
        };
        if keep == Mode::None {
            self.recalls.note(key);
        }
        if told || pages {
            self.forget_in_kernel(gfid).await;
        }
        self.flush_node(&node).await;
        let mut state = node.lock();
        state.recalling -= 1;
        if keep == Mode::None {
            self.drop_inode(&mut state);
        }
        let open = state.opens > 0;
        drop(state);
        node.progress.notify_waiters();
        open
    }

    /// Waits for pages that are being read, within reason: such a read may itself wait for the
    /// lead, if it began when the recall was already on its way here.
    async fn forget_in_kernel(&self, gfid: Gfid) {
        let Some(kernel) = self.kernel() else { return };
        if tokio::time::timeout(PAGES_WAIT, kernel.forget_inode(gfid)).await.is_err() {
            tracing::warn!(%gfid, "the kernel takes long to forget an inode");
        }
    }

    /// The lease is gone already. The kernel's time for what it guarded has run out with it;
    /// its pages are dropped all the same.
    pub(super) fn lost(&self, set: SetId, key: LeaseKey) {
        self.recalls.note(key);
        let Some(node) = self.nodes.get(key.gfid()) else { return };
        match key {
            LeaseKey::Part(_) => {
                let mut state = node.lock();
                if let Some(names) = state.names.as_mut() {
                    names.drop_part(set, Instant::now());
                }
            }
            LeaseKey::Inode(_) => self.inode_lost(&node),
        }
    }

    pub(super) fn lock_lost(&self, gfid: Gfid) {
        let Some(node) = self.nodes.get(gfid) else { return };
        let open = node.lock().opens > 0;
        if open {
            tracing::warn!(%gfid, "a lock is lost: its open files answer EIO");
            node.set_broken(true);
        }
    }

    fn inode_lost(&self, node: &Arc<Node>) {
        let pages = {
            let mut state = node.lock();
            self.drop_inode(&mut state);
            if let Some(behind) = state.behind.as_mut()
                && !behind.dirty.is_empty()
            {
                let bytes = behind.dirty.clear();
                self.dirty_bytes.fetch_sub(bytes, std::sync::atomic::Ordering::Relaxed);
                tracing::warn!(gfid = %node.gfid, bytes, "a lease is lost, and bytes with it");
                state.fail(Errno::EIO);
            }
            std::mem::take(&mut state.pages) || state.writers > 0
        };
        node.progress.notify_waiters();
        if pages && let Some(kernel) = self.kernel() {
            let (kernel, gfid) = (kernel.clone(), node.gfid);
            tokio::spawn(async move { kernel.forget_inode(gfid).await });
        }
    }
}
