//! Changing attributes.

use std::sync::Arc;

use bytes::Bytes;
use proto::attr::Time;
use proto::fop::{FILE_BYTES_MAX, LeaseKey, Setattr};
use proto::{Errno, Gfid, Meta};

use super::node::Node;
use super::{Found, Volume, answer};

/// A time to set.
#[derive(Clone, Copy, Debug)]
pub enum SetTime {
    /// The moment of the change, by the bricks' clock.
    Now,
    At(Time),
}

/// Attribute values to set; `None` leaves one as it is.
#[derive(Clone, Copy, Debug, Default)]
pub struct SetAttributes {
    /// Permission bits.
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub size: Option<u64>,
    pub atime: Option<SetTime>,
    pub mtime: Option<SetTime>,
    /// Drop set-user-id and set-group-id bits.
    pub kill_privileges: bool,
}

impl Volume {
    /// Changes attributes of an inode.
    ///
    /// # Errors
    /// EFBIG, and what the bricks answer.
    pub async fn setattr(&self, gfid: Gfid, set: SetAttributes) -> Result<Found, Errno> {
        if set.size.is_some_and(|s| s > FILE_BYTES_MAX) {
            return Err(Errno::EFBIG);
        }
        let node = self.node(gfid);
        let now = Time::from(self.below.stamp());
        let time = |time| match time {
            SetTime::Now => now,
            SetTime::At(time) => time,
        };
        let meta = Meta {
            mode: set.mode.map(|m| m & 0o7777),
            uid: set.uid,
            gid: set.gid,
            size: set.size,
            atime: set.atime.map(time),
            mtime: set.mtime.map(time),
        };
        self.truncate(&node, meta, set.kill_privileges).await?;
        self.getattr(gfid).await
    }

    /// Sends new attributes after the bytes written before: these would change size and times
    /// again, and belong to the old owner and mode.
    pub(super) async fn truncate(
        &self,
        node: &Arc<Node>,
        set: Meta,
        kill_privileges: bool,
    ) -> Result<(), Errno> {
        self.flush_node(node).await;
        let before = self.before(self.below.set_of_inode(node.gfid), LeaseKey::Inode(node.gfid));
        let setattr = Setattr { gfid: node.gfid, set, kill_privileges };
        let done = self.ask(setattr, Vec::new()).await;
        if done.is_err() {
            self.drop_inode(&mut node.lock());
        }
        let attr = answer!(done?, Attr)?;
        if set.mode.is_some() {
            // An access ACL follows the permission bits.
            node.lock().xattrs.known.remove(super::acl::ACCESS);
            node.lock().xattrs.complete &= set.mode.is_none();
        }
        self.learn_attr_of(node, attr, before.taken(), &[]);
        if set.size == Some(0) {
            self.learn_data(&attr, Bytes::new());
        }
        Ok(())
    }
}
