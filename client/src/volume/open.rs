//! Opening, closing, and making durable.

use std::sync::Arc;

use proto::fop::{Forget, Fsync, LeaseKey, Mode};
use proto::{Errno, Gfid, Meta};

use super::node::Node;
use super::{File, OpenHow, Volume};

impl Volume {
    /// Opens an inode. With a lease in hand this asks nobody.
    ///
    /// # Errors
    /// EISDIR for writing to a directory, and what the bricks answer.
    pub async fn open(&self, gfid: Gfid, how: OpenHow) -> Result<Arc<File>, Errno> {
        let node = self.node(gfid);
        self.note_open(&node, how);
        match self.prepare_open(&node, how).await {
            Ok(()) => Ok(Arc::new(File::new(node, how))),
            Err(errno) => {
                self.note_close(&node, how);
                Err(errno)
            }
        }
    }

    async fn prepare_open(&self, node: &Arc<Node>, how: OpenHow) -> Result<(), Errno> {
        // The lease's return will say that the inode is open, whoever removes its name.
        let attr = self.attr_of(node).await?;
        if attr.is_dir() && how.write {
            return Err(Errno::EISDIR);
        }
        if self.inode_held(node.gfid).is_none() {
            let set = self.below.set_of_inode(node.gfid);
            self.below.acquire(set, LeaseKey::Inode(node.gfid), Mode::Shared).await?;
        }
        if how.truncate && how.write && attr.size > 0 {
            self.truncate(node, Meta { size: Some(0), ..Meta::default() }, how.kill_privileges)
                .await?;
        }
        Ok(())
    }

    /// Counts an open; the pin is told to the layers below with the first.
    pub(super) fn note_open(&self, node: &Node, how: OpenHow) {
        let first = {
            let mut state = node.lock();
            state.opens += 1;
            state.writers += u32::from(how.write);
            state.opens == 1
        };
        if first {
            self.below.set_open(node.gfid, true);
        }
    }

    /// Counts a close; true when it was the last one of an inode without a name.
    fn note_close(&self, node: &Node, how: OpenHow) -> bool {
        let (last, orphan) = {
            let mut state = node.lock();
            state.opens -= 1;
            state.writers -= u32::from(how.write);
            (state.opens == 0, state.orphan)
        };
        if last {
            node.set_broken(false);
            self.below.set_open(node.gfid, false);
        }
        last && orphan
    }

    /// The last close of an open file. What was not flushed by `flush` is flushed here; its
    /// error can be told to nobody any more.
    pub async fn release(&self, file: &File) {
        if file.how.write {
            self.flush_node(&file.node).await;
        }
        if self.note_close(&file.node, file.how) {
            self.forget_orphan(&file.node).await;
        }
    }

    async fn forget_orphan(&self, node: &Node) {
        self.drop_inode(&mut node.lock());
        // Gone already when another mount closed it last.
        match self.ask(Forget { gfid: node.gfid }, Vec::new()).await {
            Ok(_) | Err(Errno::ENOENT | Errno::ESTALE) => {}
            Err(errno) => tracing::warn!(gfid = %node.gfid, %errno, "a removed file stays behind"),
        }
    }

    /// A close of one descriptor: every buffered byte is on all in-sync replicas when this
    /// returns.
    ///
    /// # Errors
    /// The error of any flush that failed since this file was told last.
    pub async fn flush(&self, file: &File) -> Result<(), Errno> {
        if file.how.write {
            self.flush_node(&file.node).await;
        }
        file.take_trouble()
    }

    /// Everything written before is on stable storage on all in-sync replicas.
    ///
    /// # Errors
    /// The error of any flush that failed since this file was told last, or of the fsync.
    pub async fn fsync(&self, file: &File, data_only: bool) -> Result<(), Errno> {
        self.flush_node(&file.node).await;
        let synced = self.ask(Fsync { gfid: file.gfid(), data_only }, Vec::new()).await;
        file.take_trouble()?;
        synced.map(|_| ())
    }

    /// As `fsync`, for an inode that need not be open (directories).
    ///
    /// # Errors
    /// What the bricks answer.
    pub async fn fsync_inode(&self, gfid: Gfid, data_only: bool) -> Result<(), Errno> {
        self.flush_node(&self.node(gfid)).await;
        self.ask(Fsync { gfid, data_only }, Vec::new()).await.map(|_| ())
    }
}
