//! Rebuilding what RocksDB held of the tree: one walk over the brick.
//!
//! Needed when the database is lost, and after a power loss, when its last unsynced entries
//! may be gone while the files are there.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use proto::attr::Kind;
use proto::error::Errno;
use proto::ids::Gfid;
use rocksdb::WriteBatch;

use crate::brick::{Refused, Tree};
use crate::db::{Db, Place};
use crate::disk::{At, Disk, Health, Open};
use crate::store::Store;

/// Entries per write to the database.
const BATCH: usize = 4096;

/// Opens the brick's database, and makes a new one when it is lost or corrupt; whether it is
/// new. The corrupt one is kept aside for people to look at.
pub fn open_db(disk: &dyn Disk, tree: &Tree, health: &Arc<Health>) -> Result<(Db, bool), Refused> {
    let path = tree.db_path();
    let refused = |error: rocksdb::Error| Refused::Database {
        path: tree.path.clone(),
        why: error.to_string(),
    };
    let fresh = !has_database(disk, tree).map_err(|errno| Refused::Disk {
        path: tree.path.clone(),
        what: "looking for the database",
        errno,
    })?;
    match Db::open(&path, health.clone()) {
        Ok(db) => Ok((db, fresh)),
        Err(error) if is_lost(&error) => {
            tracing::error!(%error, brick = ?tree.path, "database corrupt: rebuilding it");
            let aside = format!("db-{}-{}", std::process::id(), crate::facts::wall_ns());
            disk.rename_at(tree.inner.as_fd(), b"db", tree.lost.as_fd(), aside.as_bytes(), 1)
                .map_err(|errno| Refused::Disk {
                    path: tree.path.clone(),
                    what: "setting the corrupt database aside",
                    errno,
                })?;
            Ok((Db::open(&path, health.clone()).map_err(refused)?, true))
        }
        Err(error) => Err(refused(error)),
    }
}

/// Whether files of the database are damaged or missing, as against a disk or a memory error.
fn is_lost(error: &rocksdb::Error) -> bool {
    match error.kind() {
        rocksdb::ErrorKind::Corruption => true,
        rocksdb::ErrorKind::IOError => error.to_string().contains("No such file or directory"),
        _ => false,
    }
}

/// RocksDB names its newest manifest in `CURRENT`; without that file there is no database.
fn has_database(disk: &dyn Disk, tree: &Tree) -> Result<bool, Errno> {
    let current = disk
        .open_at(tree.inner.as_fd(), b"db", Open::Directory)
        .and_then(|db| disk.stat(At::Name(db.as_fd(), b"CURRENT")));
    match current {
        Ok(_) => Ok(true),
        Err(Errno::ENOENT) => Ok(false),
        Err(errno) => Err(errno),
    }
}

struct Walk {
    batch: WriteBatch,
    found: u64,
}

impl Store {
    /// Files the handle and a name of every inode of the tree.
    pub(crate) fn crawl(&mut self) -> Result<(), Errno> {
        let mut walk = Walk { batch: WriteBatch::default(), found: 0 };
        // Depth first with one open directory per level would run out of descriptors in a deep
        // tree; a list of directories to visit, reopened by handle, has no such bound.
        let root = self.tree.root.clone();
        let mut todo = vec![(Gfid::ROOT, None)];
        while let Some((gfid, handle)) = todo.pop() {
            let opened = match &handle {
                None => None,
                Some(h) => Some(self.disk.open_handle(root.as_fd(), h, Open::Directory)?),
            };
            let dir = opened.as_ref().map_or(root.as_fd(), |fd| fd.as_fd());
            self.crawl_dir(&mut walk, gfid, dir, &mut todo)?;
        }
        for (dir, _) in [(&self.tree.orphans, "orphans"), (&self.tree.parked, "parked")] {
            let mut below = Vec::new();
            self.crawl_dir(&mut walk, Gfid::NIL, dir.as_fd(), &mut below)?;
            while let Some((gfid, Some(handle))) = below.pop() {
                let fd = self.disk.open_handle(root.as_fd(), &handle, Open::Directory)?;
                self.crawl_dir(&mut walk, gfid, fd.as_fd(), &mut below)?;
            }
        }
        self.db.write(walk.batch, true)?;
        tracing::info!(inodes = walk.found, brick = ?self.tree.path, "brick's index rebuilt");
        Ok(())
    }

    fn crawl_dir(
        &self,
        walk: &mut Walk,
        parent: Gfid,
        dir: BorrowedFd<'_>,
        todo: &mut Vec<(Gfid, Option<crate::disk::FileHandle>)>,
    ) -> Result<(), Errno> {
        for entry in self.disk.read_dir(dir)? {
            if !self.is_name(parent, &entry.name) {
                continue;
            }
            let at = At::Name(dir, &entry.name);
            let Some(rec) = self.record_at(at)? else {
                // A create that a power loss cut off. Without a database of its own the brick
                // may be a copy that lost its xattrs: then nothing is touched.
                if !self.opened.fresh_db && !parent.is_nil() {
                    self.set_aside(dir, &entry.name)?;
                }
                continue;
            };
            let kind = match entry.kind {
                Kind::Unknown => self.disk.stat(at)?.kind(),
                kind => kind,
            };
            let handle = self.disk.handle_of(at)?;
            if kind == Kind::Directory {
                todo.push((rec.gfid, Some(handle.clone())));
            }
            // Below orphans and parked the names are gfids, no names of the volume.
            let name = if parent.is_nil() { Vec::new() } else { entry.name };
            self.db.put_place(&mut walk.batch, rec.gfid, &Place { kind, handle, parent, name });
            walk.found += 1;
            if walk.batch.len() >= BATCH {
                self.db.write(std::mem::take(&mut walk.batch), false)?;
            }
        }
        Ok(())
    }
}
