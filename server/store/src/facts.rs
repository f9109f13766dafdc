//! Durable facts of a brick: epoch, incarnations, last checkpoint, the machine's boot, and
//! whether the last daemon closed it.

use std::time::{SystemTime, UNIX_EPOCH};

use proto::error::Errno;
use proto::fop::{MarkStale, Return, StatfsAnswer};
use proto::ids::{BrickId, Epoch, Gfid, Incarnation};
use rocksdb::WriteBatch;
use std::collections::HashSet;
use std::os::fd::{AsFd, BorrowedFd};

use crate::checkpoint::{CHECKPOINT, CheckpointMark};
use crate::db::{CF_STALE, Db};
use crate::disk::Disk;
use crate::store::{Opened, Store, done};

const EPOCH: &str = "epoch";
const INCARNATIONS: &str = "incarnations";
const BOOT: &str = "boot-id";
const CLEAN: &str = "clean";
/// Prefix of the facts of the layer above.
const RULES: &str = "rules.";
/// Incarnations remembered: the restart rule asks for the last, the rest is for people.
const INCARNATIONS_MAX: usize = 16;

pub struct Facts {
    epoch: Epoch,
    incarnations: Vec<Incarnation>,
    boot_id: String,
}

fn number(bytes: Option<Vec<u8>>) -> Option<u64> {
    bytes.and_then(|b| b.try_into().ok()).map(u64::from_le_bytes)
}

/// Nanoseconds since 1970 by this machine's wall clock; only ever compared with itself.
pub fn wall_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// The kernel's name for this start of the machine and for this mount of the brick's file
/// system; what is empty it has no name for. A file system that was shut down and mounted again
/// has lost what was not on the disk, as in a power loss.
fn boot_id(disk: &dyn Disk, root: BorrowedFd<'_>) -> String {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let mount = disk.mount_id(root).map_or(String::new(), |id| format!("/{id}"));
    format!("{}{mount}", id.trim())
}

impl Facts {
    /// Reads what the last daemon left.
    pub fn open(db: &Db, disk: &dyn Disk, root: BorrowedFd<'_>) -> Result<(Facts, Opened), Errno> {
        let boot_id = boot_id(disk, root);
        let old_boot = db.fact(BOOT)?;
        let mark = db.fact(CHECKPOINT)?.and_then(|b| CheckpointMark::decode(&b));
        let opened = Opened {
            fresh_db: false,
            distrusted: false,
            // No boot noted: the database is new, or its first crawl was cut off.
            boot_changed: old_boot.is_none_or(|old| old != boot_id.as_bytes()),
            clean: db.fact(CLEAN)?.is_some_and(|c| c == b"1"),
            clock_behind: mark.is_some_and(|m| m.wall_ns > wall_ns()),
        };
        let incarnations = db.fact(INCARNATIONS)?.unwrap_or_default();
        let incarnation = |b: &[u8]| Incarnation(u64::from_le_bytes(b.try_into().expect("eight")));
        let facts = Facts {
            epoch: Epoch(number(db.fact(EPOCH)?).unwrap_or(0)),
            incarnations: incarnations.chunks_exact(8).map(incarnation).collect(),
            boot_id,
        };
        Ok((facts, opened))
    }

    /// Notes that a daemon runs on this start of the machine; after the crawl, if one was due,
    /// so that a crawl cut off is made again.
    pub fn started(&self, db: &Db) -> Result<(), Errno> {
        let mut batch = WriteBatch::default();
        batch.put(CLEAN, b"0");
        batch.put(BOOT, &self.boot_id);
        db.write(batch, true)
    }

    pub fn mark_clean(&self, db: &Db) -> Result<(), Errno> {
        db.put_fact(CLEAN, b"1", true)
    }

    #[allow(clippy::unused_self, reason = "one owner of durable facts")]
    pub fn stale_marks(&self, db: &Db) -> Result<HashSet<(Gfid, BrickId)>, Errno> {
        let mut marks = HashSet::new();
        db.scan(CF_STALE, &[], |key, _| {
            let parts = key.split_at_checked(16);
            if let Some((gfid, brick)) = parts
                && let (Some(gfid), Some(brick)) =
                    (Gfid::from_slice(gfid), BrickId::from_slice(brick))
            {
                marks.insert((gfid, brick));
            }
            true
        })?;
        Ok(marks)
    }
}

impl Store {
    /// The last epoch made durable here.
    pub fn epoch(&self) -> Epoch {
        self.facts.epoch
    }

    /// # Errors
    /// The database failed.
    pub fn set_epoch(&mut self, epoch: Epoch) -> Result<(), Errno> {
        self.db.put_fact(EPOCH, &epoch.0.to_le_bytes(), true)?;
        self.facts.epoch = epoch;
        Ok(())
    }

    /// Starts of this brick's daemon, the newest last.
    pub fn incarnations(&self) -> &[Incarnation] {
        &self.facts.incarnations
    }

    /// # Errors
    /// The database failed.
    pub fn add_incarnation(&mut self, incarnation: Incarnation) -> Result<(), Errno> {
        let mut all = self.facts.incarnations.clone();
        all.push(incarnation);
        let from = all.len().saturating_sub(INCARNATIONS_MAX);
        all.drain(..from);
        let bytes: Vec<u8> = all.iter().flat_map(|i| i.0.to_le_bytes()).collect();
        self.db.put_fact(INCARNATIONS, &bytes, true)?;
        self.facts.incarnations = all;
        Ok(())
    }

    /// The last checkpoint that was completed.
    ///
    /// # Errors
    /// The database failed.
    pub fn last_checkpoint(&self) -> Result<Option<CheckpointMark>, Errno> {
        Ok(self.db.fact(CHECKPOINT)?.and_then(|b| CheckpointMark::decode(&b)))
    }

    /// A small value kept for the layer above.
    ///
    /// # Errors
    /// The database failed.
    pub fn meta_get(&self, key: &str) -> Result<Option<Vec<u8>>, Errno> {
        self.db.fact(&format!("{RULES}{key}"))
    }

    /// # Errors
    /// The database failed.
    pub fn meta_put(&mut self, key: &str, value: &[u8], sync: bool) -> Result<(), Errno> {
        self.db.put_fact(&format!("{RULES}{key}"), value, sync)
    }

    /// Marks a member's copy of an inode as stale, durably, or clears the mark.
    ///
    /// # Errors
    /// The database failed.
    pub fn mark_stale(&mut self, gfid: Gfid, brick: BrickId, clear: bool) -> Result<(), Errno> {
        let mut key = [0; 32];
        key[..16].copy_from_slice(&gfid.0);
        key[16..].copy_from_slice(brick.as_bytes());
        let mut batch = WriteBatch::default();
        if clear {
            batch.delete_cf(self.db.family(CF_STALE), key);
        } else {
            batch.put_cf(self.db.family(CF_STALE), key, []);
        }
        self.db.write(batch, true)?;
        if clear {
            self.stale.remove(&(gfid, brick));
        } else {
            self.stale.insert((gfid, brick));
        }
        Ok(())
    }

    pub(crate) fn mark_stale_fop(&mut self, a: &MarkStale) -> Result<Return, Errno> {
        self.mark_stale(a.gfid, BrickId::from_bytes(a.brick.0), a.clear).map(|()| done())
    }

    pub fn is_stale(&self, gfid: Gfid, brick: BrickId) -> bool {
        self.stale.contains(&(gfid, brick))
    }

    pub fn stale_marks(&self) -> Vec<(Gfid, BrickId)> {
        let mut marks: Vec<_> = self.stale.iter().copied().collect();
        marks.sort_unstable();
        marks
    }

    /// Space of this brick.
    ///
    /// # Errors
    /// The file system's own.
    pub fn statfs(&self) -> Result<StatfsAnswer, Errno> {
        let space = self.disk.space(self.tree.root.as_fd())?;
        let total_bytes = space.blocks.saturating_mul(space.block_bytes);
        let free_bytes = space.blocks_free.saturating_mul(space.block_bytes);
        Ok(StatfsAnswer {
            total_bytes,
            free_bytes,
            available_bytes: free_bytes.saturating_sub(reserve(self.reserve_bytes, total_bytes)),
            total_inodes: space.inodes,
            free_inodes: space.inodes_free,
        })
    }

    /// Sets `storage.reserve`; 0 is automatic.
    pub fn set_reserve(&mut self, bytes: u64) {
        self.reserve_bytes = bytes;
    }

    /// Less than twice the reserve is free: such a brick does not join its set.
    ///
    /// # Errors
    /// The file system's own.
    pub fn low_space(&self) -> Result<bool, Errno> {
        let space = self.statfs()?;
        Ok(space.free_bytes < 2 * reserve(self.reserve_bytes, space.total_bytes))
    }
}

/// Bytes kept free: as set, or 1 % and at least 1 GiB, but at most 5 % of a small disk.
fn reserve(set: u64, total: u64) -> u64 {
    const SMALL: u64 = 20 << 30;
    let auto = (total / 100).max(1 << 30);
    match set {
        0 if total < SMALL => auto.min(total / 20),
        0 => auto,
        bytes => bytes.min(total / 2),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reserve_fits_large_and_small_disks() {
        assert_eq!(reserve(0, 300 << 20), (300 << 20) / 20);
        assert_eq!(reserve(0, 50 << 30), 1 << 30);
        assert_eq!(reserve(0, 1000 << 30), 10 << 30);
        assert_eq!(reserve(5 << 30, 50 << 30), 5 << 30);
    }

    /// After a power loss the log's end may be gone: nobody may take it for complete.
    #[test]
    fn a_start_of_the_machine_without_a_clean_end_makes_the_log_incomplete() {
        let Some(xfs) = crate::testing::Xfs::new(300) else { return };
        let path = xfs.path().join("b");
        std::fs::create_dir(&path).unwrap();
        let brick = BrickId::random();
        let new = crate::NewBrick {
            brick,
            volume: proto::VolumeId::random(),
            set: proto::SetId(0),
            dir_buckets: 64,
            stamp: proto::Stamp(1),
        };
        let store = Store::create(&path, &new, false, crate::Config::default()).unwrap();
        store.db.put_fact(BOOT, b"another start", true).unwrap();
        drop(store);
        let mut store = Store::open(&path, brick, crate::Config::default()).unwrap();
        assert!(store.opened().boot_changed && store.opened().suspect());
        assert_eq!(store.log_complete_since(), u64::MAX);
        store.log(7, &[proto::fop::Touch::Attrs(Gfid::ROOT)]).unwrap();
        assert_eq!(store.log_complete_since(), 8);
        store.db.put_fact(BOOT, b"yet another", true).unwrap();
        store.close().unwrap();
        let store = Store::open(&path, brick, crate::Config::default()).unwrap();
        assert!(store.opened().boot_changed && !store.opened().suspect(), "it ended cleanly");
        assert_eq!(store.log_complete_since(), 8);
    }
}
