//! From a gfid to its open inode and record: cache, then file handle, then one known name.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use proto::attr::{Attr, Kind};
use proto::error::Errno;
use proto::ids::Gfid;
use rocksdb::WriteBatch;

use crate::brick::INNER;
use crate::db::Place;
use crate::disk::{At, Open, Stat};
use crate::record::{META_XATTR, RECORD_BYTES_MAX, Record};
use crate::store::Store;

/// Levels climbed when handle after handle is gone (a brick copied to another disk).
const CLIMB_MAX: u32 = 1024;

/// An open inode. The record is written through: what stands here stands on disk.
#[derive(Clone, Debug)]
pub struct Node {
    pub fd: Arc<OwnedFd>,
    pub kind: Kind,
    pub rec: Record,
}

impl Node {
    pub fn at(&self) -> At<'_> {
        match self.kind {
            Kind::File | Kind::Directory => At::Fd(self.fd.as_fd()),
            _ => At::Path(self.fd.as_fd()),
        }
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    pub fn is_dir(&self) -> bool {
        self.kind == Kind::Directory
    }
}

/// What stands under a name.
#[derive(Clone, Copy, Debug)]
pub enum Under {
    Nothing,
    /// Something without a record: a create that was cut off, or put there by hand. No name.
    Leftover,
    Name(Record),
}

/// The name of an inode below `.brickwork/orphans` and `parked`.
pub fn inner_name(gfid: Gfid) -> Vec<u8> {
    gfid.to_string().into_bytes()
}

impl Store {
    pub(crate) fn root(&mut self) -> Result<Node, Errno> {
        self.node(Gfid::ROOT)
    }

    /// The open inode of a gfid.
    ///
    /// # Errors
    /// ESTALE when this brick has no such inode.
    pub(crate) fn node(&mut self, gfid: Gfid) -> Result<Node, Errno> {
        self.node_climbing(gfid, 0)
    }

    pub(crate) fn dir(&mut self, gfid: Gfid) -> Result<Node, Errno> {
        let node = self.node(gfid)?;
        if node.is_dir() { Ok(node) } else { Err(Errno::ENOTDIR) }
    }

    fn node_climbing(&mut self, gfid: Gfid, depth: u32) -> Result<Node, Errno> {
        if let Some(node) = self.nodes.get(&gfid) {
            return Ok(node.clone());
        }
        let node = if gfid == Gfid::ROOT {
            self.adopt(self.tree.root.clone(), Kind::Directory)?.ok_or(Errno::EIO)?
        } else if gfid.is_nil() || depth > CLIMB_MAX {
            return Err(Errno::ESTALE);
        } else {
            self.node_by_place(gfid, depth)?
        };
        self.nodes.insert(gfid, node.clone(), 1);
        Ok(node)
    }

    fn node_by_place(&mut self, gfid: Gfid, depth: u32) -> Result<Node, Errno> {
        let Some(place) = self.db.place(gfid)? else { return self.node_inside(gfid) };
        let root = self.tree.root.clone();
        match self.disk.open_handle(root.as_fd(), &place.handle, Open::of(place.kind)) {
            Ok(fd) => {
                if let Some(node) = self.adopt(Arc::new(fd), place.kind)?
                    && node.rec.gfid == gfid
                {
                    return Ok(node);
                }
            }
            // EINVAL and EOPNOTSUPP: a handle of another kind of file system.
            Err(Errno::ESTALE | Errno::EINVAL | Errno::EOPNOTSUPP) => {}
            Err(errno) => return Err(errno),
        }
        if place.parent.is_nil() {
            return self.node_inside(gfid);
        }
        let node = self.node_by_name(gfid, &place, depth);
        if matches!(node, Err(Errno::ENOENT | Errno::ESTALE)) {
            return self.node_inside(gfid);
        }
        node
    }

    /// By the name stored with the handle; a handle that led nowhere is replaced.
    fn node_by_name(&mut self, gfid: Gfid, place: &Place, depth: u32) -> Result<Node, Errno> {
        let parent = self.node_climbing(place.parent, depth + 1)?;
        let fd = self.disk.open_at(parent.fd(), &place.name, Open::of(place.kind))?;
        let node = self.adopt(Arc::new(fd), place.kind)?.ok_or(Errno::ESTALE)?;
        if node.rec.gfid != gfid {
            return Err(Errno::ESTALE);
        }
        let handle = self.disk.handle_of(node.at())?;
        let mut batch = WriteBatch::default();
        self.db.put_place(&mut batch, gfid, &Place { handle, ..place.clone() });
        self.commit(batch)?;
        Ok(node)
    }

    /// Among the nameless ones.
    fn node_inside(&mut self, gfid: Gfid) -> Result<Node, Errno> {
        let node = match self.open_inner(self.tree.parked.as_fd(), gfid)? {
            Some(node) => node,
            None => self.open_inner(self.tree.orphans.as_fd(), gfid)?.ok_or(Errno::ESTALE)?,
        };
        let place = self.place_of(&node, Gfid::NIL, b"")?;
        let mut batch = WriteBatch::default();
        self.db.put_place(&mut batch, gfid, &place);
        self.commit(batch)?;
        Ok(node)
    }

    fn open_inner(&self, dir: BorrowedFd<'_>, gfid: Gfid) -> Result<Option<Node>, Errno> {
        let name = inner_name(gfid);
        let kind = match self.disk.stat(At::Name(dir, &name)) {
            Ok(stat) => stat.kind(),
            Err(Errno::ENOENT) => return Ok(None),
            Err(errno) => return Err(errno),
        };
        let fd = self.disk.open_at(dir, &name, Open::of(kind))?;
        Ok(self.adopt(Arc::new(fd), kind)?.filter(|node| node.rec.gfid == gfid))
    }

    /// Reads the record of an inode just opened; `None` when it has none.
    pub(crate) fn adopt(&self, fd: Arc<OwnedFd>, kind: Kind) -> Result<Option<Node>, Errno> {
        let at = match kind {
            Kind::File | Kind::Directory => At::Fd(fd.as_fd()),
            _ => At::Path(fd.as_fd()),
        };
        Ok(self.record_at(at)?.map(|rec| Node { fd, kind, rec }))
    }

    /// The record of what `at` names; `None` when it has none that can be read.
    pub(crate) fn record_at(&self, at: At<'_>) -> Result<Option<Record>, Errno> {
        let mut buf = [0; RECORD_BYTES_MAX];
        match self.disk.get_xattr(at, META_XATTR, &mut buf) {
            Ok(n) => Ok(Record::decode(&buf[..n])),
            Err(Errno::ENODATA | Errno::ERANGE) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    /// What stands under a name of a directory.
    pub(crate) fn under(&self, dir: &Node, name: &[u8]) -> Result<Under, Errno> {
        if !self.is_name(dir.rec.gfid, name) {
            return Ok(Under::Nothing);
        }
        match self.record_at(At::Name(dir.fd(), name)) {
            Ok(Some(rec)) => Ok(Under::Name(rec)),
            Ok(None) => Ok(Under::Leftover),
            Err(Errno::ENOENT) => Ok(Under::Nothing),
            Err(errno) => Err(errno),
        }
    }

    /// Whether an entry of a brick's directory is a name of the volume at all. With one set
    /// every entry is, but our own folder; with several, those whose slot lives elsewhere are
    /// not (DESIGN section 7).
    #[allow(clippy::unused_self, reason = "will ask the slot table")]
    pub(crate) fn is_name(&self, dir: Gfid, name: &[u8]) -> bool {
        !(dir == Gfid::ROOT && name == INNER)
    }

    /// A name that a change may make or take.
    pub(crate) fn guard_name(&self, dir: Gfid, name: &[u8]) -> Result<(), Errno> {
        if self.is_name(dir, name) { Ok(()) } else { Err(Errno::EPERM) }
    }

    /// The open inode under a name whose record was just read.
    pub(crate) fn open_under(
        &mut self,
        dir: &Node,
        name: &[u8],
        rec: &Record,
    ) -> Result<Node, Errno> {
        if let Some(node) = self.nodes.get(&rec.gfid) {
            return Ok(node.clone());
        }
        let kind = self.disk.stat(At::Name(dir.fd(), name))?.kind();
        let fd = self.disk.open_at(dir.fd(), name, Open::of(kind))?;
        let node = self.adopt(Arc::new(fd), kind)?.ok_or(Errno::ESTALE)?;
        self.nodes.insert(node.rec.gfid, node.clone(), 1);
        Ok(node)
    }

    /// Writes the record and lets the file system show the same times.
    pub(crate) fn save(&mut self, node: &Node) -> Result<(), Errno> {
        // The record last: cut off in between, it still tells that something is missing.
        self.disk.set_times(node.at(), node.rec.atime, node.rec.mtime)?;
        self.disk.set_xattr(node.at(), META_XATTR, &node.rec.encode(), 0)?;
        match self.nodes.get(&node.rec.gfid) {
            Some(cached) => cached.rec = node.rec,
            None => self.nodes.insert(node.rec.gfid, node.clone(), 1),
        }
        Ok(())
    }

    pub(crate) fn stat(&self, node: &Node) -> Result<Stat, Errno> {
        self.disk.stat(node.at())
    }

    pub(crate) fn attr(&self, node: &Node) -> Result<Attr, Errno> {
        Ok(node.rec.attr(&self.stat(node)?))
    }

    pub(crate) fn place_of(&self, node: &Node, parent: Gfid, name: &[u8]) -> Result<Place, Errno> {
        let handle = self.disk.handle_of(node.at())?;
        Ok(Place { kind: node.kind, handle, parent, name: name.to_vec() })
    }

    /// Sets aside what stands under a name without being one, so that the name can be used.
    pub(crate) fn set_aside(&self, dir: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
        loop {
            let count = self.lost_count.get() + 1;
            self.lost_count.set(count);
            let mut to = format!("{}-{count}-", std::process::id()).into_bytes();
            to.extend_from_slice(&name[..name.len().min(200)]);
            match self.disk.rename_at(dir, name, self.tree.lost.as_fd(), &to, 1) {
                Err(Errno::EEXIST) => {}
                done => return done,
            }
        }
    }

    /// Sets aside all leftovers of a directory; whether there were any.
    pub(crate) fn set_leftovers_aside(&self, dir: &Node) -> Result<bool, Errno> {
        let mut any = false;
        for entry in self.disk.read_dir(dir.fd())? {
            if matches!(self.under(dir, &entry.name)?, Under::Leftover) {
                self.set_aside(dir.fd(), &entry.name)?;
                any = true;
            }
        }
        Ok(any)
    }
}
