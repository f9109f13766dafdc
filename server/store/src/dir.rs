//! Names of directories in (name hash, name) order, so that a position means the same on every
//! replica, whatever order the file system keeps.
//!
//! A directory's whole list is made on its first listing (one xattr read per name) and kept up
//! to date by changes until it is forgotten. A directory larger than the bound is still held
//! whole while it is the newest one.

use std::collections::BTreeMap;
use std::ops::Bound;

use proto::attr::Kind;
use proto::error::Errno;
use proto::fop::{Answer, DirEntry, Entries, InspectDir, Readdir, Return};
use proto::ids::Gfid;
use proto::placement::name_hash;

use crate::disk::At;
use crate::lru::Lru;
use crate::node::Node;
use crate::store::Store;

type Position = (u64, Box<[u8]>);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Child {
    pub gfid: Gfid,
    pub kind: Kind,
}

#[derive(Default)]
pub struct Listing(BTreeMap<Position, Child>);

/// Listings of the directories read lately.
pub struct Dirs(Lru<Gfid, Listing>);

fn position(name: &[u8]) -> Position {
    (name_hash(name), name.into())
}

impl Dirs {
    pub fn new(entries_max: usize) -> Dirs {
        Dirs(Lru::new(entries_max))
    }

    /// A name was made or now names another inode.
    pub fn put(&mut self, dir: Gfid, name: &[u8], child: Child) {
        self.change(dir, |listing| {
            listing.0.insert(position(name), child);
        });
    }

    pub fn remove(&mut self, dir: Gfid, name: &[u8]) {
        self.change(dir, |listing| {
            listing.0.remove(&position(name));
        });
    }

    /// The directory is gone, or what is known of it may be wrong.
    pub fn forget(&mut self, dir: Gfid) {
        self.0.remove(&dir);
    }

    fn change(&mut self, dir: Gfid, change: impl FnOnce(&mut Listing)) {
        let Some(listing) = self.0.get(&dir) else { return };
        change(listing);
        let weight = listing.0.len() + 1;
        self.0.reweigh(&dir, weight);
    }
}

/// One page of a listing.
struct Page {
    rows: Vec<(Position, Child)>,
    end: bool,
}

impl Store {
    pub(crate) fn readdir(&mut self, a: &Readdir) -> Result<Return, Errno> {
        let dir = self.dir(a.gfid)?;
        let page = self.page(&dir, a.after_hash, &a.after_name, a.limit)?;
        let mut entries = Vec::with_capacity(page.rows.len());
        for ((hash, name), child) in page.rows {
            let attr = if a.plus { self.child_attr(&dir, &name)? } else { None };
            // Gone between listing and look: somebody changed the tree behind us.
            if a.plus && attr.is_none() {
                self.dirs.forget(a.gfid);
                continue;
            }
            entries.push(entry(hash, &name, child, attr));
        }
        Ok(Answer::Entries(Entries { entries, end: page.end }).into())
    }

    pub(crate) fn inspect_dir(&mut self, a: &InspectDir) -> Result<Return, Errno> {
        let dir = self.dir(a.gfid)?;
        if a.tidy {
            self.set_leftovers_aside(&dir)?;
        }
        let limit = a.limit.clamp(1, 4096);
        let page = self.page(&dir, a.after_hash, &a.after_name, limit)?;
        let rows = page.rows.into_iter();
        let entries = rows.map(|((hash, name), child)| entry(hash, &name, child, None)).collect();
        Ok(Answer::Entries(Entries { entries, end: page.end }).into())
    }

    fn child_attr(&self, dir: &Node, name: &[u8]) -> Result<Option<proto::Attr>, Errno> {
        let at = At::Name(dir.fd(), name);
        let found = self.disk.stat(at).and_then(|stat| Ok((self.record_at(at)?, stat)));
        match found {
            Ok((rec, stat)) => Ok(rec.map(|rec| rec.attr(&stat))),
            Err(Errno::ENOENT) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    fn page(
        &mut self,
        dir: &Node,
        after_hash: u64,
        after_name: &[u8],
        limit: u32,
    ) -> Result<Page, Errno> {
        let gfid = dir.rec.gfid;
        if !self.dirs.0.contains(&gfid) {
            let listing = self.list(dir)?;
            let weight = listing.0.len() + 1;
            self.dirs.0.insert(gfid, listing, weight);
        }
        let Some(listing) = self.dirs.0.get(&gfid) else { return Err(Errno::ENOMEM) };
        let after: Position = (after_hash, after_name.into());
        let mut rows = listing.0.range((Bound::Excluded(after), Bound::Unbounded));
        let page = rows.by_ref().take(limit as usize).map(|(p, c)| (p.clone(), *c)).collect();
        Ok(Page { rows: page, end: rows.next().is_none() })
    }

    fn list(&self, dir: &Node) -> Result<Listing, Errno> {
        let mut listing = Listing::default();
        for entry in self.disk.read_dir(dir.fd())? {
            if !self.is_name(dir.rec.gfid, &entry.name) {
                continue;
            }
            let at = At::Name(dir.fd(), &entry.name);
            let Some(rec) = self.record_at(at)? else { continue };
            let kind = match entry.kind {
                Kind::Unknown => self.disk.stat(at)?.kind(),
                kind => kind,
            };
            listing.0.insert(position(&entry.name), Child { gfid: rec.gfid, kind });
        }
        Ok(listing)
    }

    /// Whether a directory holds no names.
    pub(crate) fn is_empty(&mut self, dir: &Node) -> Result<bool, Errno> {
        Ok(self.page(dir, 0, b"", 1)?.rows.is_empty())
    }
}

fn entry(hash: u64, name: &[u8], child: Child, attr: Option<proto::Attr>) -> DirEntry {
    let name = bytes::Bytes::copy_from_slice(name);
    DirEntry { name, hash, gfid: child.gfid, kind: child.kind as i32, attr }
}
