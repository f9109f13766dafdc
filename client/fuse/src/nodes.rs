//! The kernel's numbers for inodes.
//!
//! A node id is the inode number, which is part of the gfid; the mount's root is 1 whatever its
//! own number. The kernel says how often it was given each (lookups), and takes them back.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use client_fuse_dev::ROOT_NODE;
use proto::{Errno, Gfid};

const SHARDS: usize = 16;

#[derive(Debug)]
pub struct Nodes {
    root: Gfid,
    shards: [Mutex<HashMap<u64, Known>>; SHARDS],
}

#[derive(Debug)]
struct Known {
    gfid: Gfid,
    lookups: u64,
}

impl Nodes {
    pub fn new(root: Gfid) -> Nodes {
        Nodes { root, shards: std::array::from_fn(|_| Mutex::default()) }
    }

    pub fn root(&self) -> Gfid {
        self.root
    }

    fn shard(&self, id: u64) -> MutexGuard<'_, HashMap<u64, Known>> {
        let shard = &self.shards[(id % SHARDS as u64) as usize];
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// # Errors
    /// ESTALE for a number that the kernel should have forgotten.
    pub fn gfid(&self, id: u64) -> Result<Gfid, Errno> {
        if id == ROOT_NODE {
            return Ok(self.root);
        }
        self.shard(id).get(&id).map(|known| known.gfid).ok_or(Errno::ESTALE)
    }

    fn id_for(&self, gfid: Gfid) -> u64 {
        if gfid == self.root { ROOT_NODE } else { gfid.ino() }
    }

    /// The number to give the kernel, counted as one lookup.
    ///
    /// # Errors
    /// EIO when another inode has the same number: 64 random bits would have to agree.
    pub fn remember(&self, gfid: Gfid) -> Result<u64, Errno> {
        let id = self.id_for(gfid);
        if id == ROOT_NODE {
            return Ok(id);
        }
        let mut shard = self.shard(id);
        let known = shard.entry(id).or_insert(Known { gfid, lookups: 0 });
        if known.gfid != gfid {
            tracing::error!(%gfid, other = %known.gfid, "two inodes with one number");
            return Err(Errno::EIO);
        }
        known.lookups += 1;
        Ok(id)
    }

    /// The kernel takes lookups back.
    pub fn forget(&self, id: u64, lookups: u64) {
        let mut shard = self.shard(id);
        if let Some(known) = shard.get_mut(&id) {
            known.lookups = known.lookups.saturating_sub(lookups);
            if known.lookups == 0 {
                shard.remove(&id);
            }
        }
    }

    /// The number of an inode that the kernel knows.
    pub fn known(&self, gfid: Gfid) -> Option<u64> {
        let id = self.id_for(gfid);
        (id == ROOT_NODE || self.shard(id).contains_key(&id)).then_some(id)
    }
}

#[cfg(test)]
mod tests {
    use proto::SlotId;

    use super::*;

    #[test]
    fn numbers_live_as_long_as_the_kernel_counts() {
        let root = Gfid::new(SlotId(1), [9; 14]);
        let nodes = Nodes::new(root);
        let gfid = Gfid::new(SlotId(3), [5; 14]);
        assert_eq!(nodes.remember(root), Ok(ROOT_NODE));
        let id = nodes.remember(gfid).unwrap();
        assert_eq!(nodes.remember(gfid), Ok(id));
        nodes.forget(id, 1);
        assert_eq!((nodes.gfid(id), nodes.known(gfid)), (Ok(gfid), Some(id)));
        nodes.forget(id, 1);
        assert_eq!((nodes.gfid(id), nodes.known(gfid)), (Err(Errno::ESTALE), None));
        assert_eq!(nodes.gfid(ROOT_NODE), Ok(root));
    }
}
