//! Unlink, rmdir, link, and the end of orphans.

use std::os::fd::AsFd;

use proto::error::Errno;
use proto::fop::{Answer, Call, Forget, Link, Return, Rmdir, Touch, Unlink, Unlinked};
use proto::ids::Gfid;
use rocksdb::WriteBatch;

use crate::dir::Child;
use crate::disk::At;
use crate::node::{Node, Under, inner_name};
use crate::record::Record;
use crate::store::{Ctx, Store, done};

impl Store {
    pub(crate) fn unlink(&mut self, a: &Unlink, call: &Call, ctx: &Ctx) -> Result<Return, Errno> {
        self.guard_name(a.parent, &a.name)?;
        let mut dir = self.dir(a.parent)?;
        let Some(rec) = self.expected(&dir, &a.name, a.expect, call.resend)? else {
            return self.unlinked_before(&dir, a.expect);
        };
        if a.expect.is_nil() {
            // The sender did not say which inode loses a name, so it is not in the log yet.
            self.log(ctx.interval, &[Touch::Attrs(rec.gfid)])?;
        }
        let left = rec.nlink.saturating_sub(1);
        let node = if left > 0 || a.keep {
            let mut node = self.open_under(&dir, &a.name, &rec)?;
            if node.is_dir() {
                return Err(Errno::EISDIR);
            }
            self.unname(&dir, &a.name, &node, left)?;
            node.rec.nlink = left;
            node.rec.changed(call.stamp);
            self.save(&node)?;
            Some(node)
        } else {
            self.disk.unlink_at(dir.fd(), &a.name)?;
            self.drop_inode(rec.gfid)?;
            None
        };
        self.dirs.remove(a.parent, &a.name);
        dir.rec.modified(call.stamp);
        self.save(&dir)?;
        let attr = node.map(|node| self.attr(&node)).transpose()?;
        Ok(Answer::Unlinked(Unlinked { nlink: left, parent: Some(self.attr(&dir)?), attr }).into())
    }

    /// The record under a name if it is the expected inode; `None` when a re-sent removal finds
    /// its work done.
    fn expected(
        &mut self,
        dir: &Node,
        name: &[u8],
        expect: Gfid,
        resend: bool,
    ) -> Result<Option<Record>, Errno> {
        match self.under(dir, name)? {
            Under::Name(rec) if expect.is_nil() || rec.gfid == expect => Ok(Some(rec)),
            // Also when it is sent again: nobody could give the name to another inode meanwhile,
            // so the disk has gone back (power loss of all) and this removal was never made.
            Under::Name(_) => Err(Errno::ESTALE),
            _ if resend => Ok(None),
            _ => Err(Errno::ENOENT),
        }
    }

    fn unlinked_before(&mut self, dir: &Node, gfid: Gfid) -> Result<Return, Errno> {
        let attr = match self.node(gfid) {
            Ok(node) => Some(self.attr(&node)?),
            Err(Errno::ESTALE) => None,
            Err(errno) => return Err(errno),
        };
        let nlink = attr.as_ref().map_or(0, |a| a.nlink);
        Ok(Answer::Unlinked(Unlinked { nlink, parent: Some(self.attr(dir)?), attr }).into())
    }

    /// The name goes, the inode stays: with its other names, or as an orphan.
    fn unname(&mut self, dir: &Node, name: &[u8], node: &Node, left: u32) -> Result<(), Errno> {
        let gfid = node.rec.gfid;
        if left > 0 {
            self.disk.unlink_at(dir.fd(), name)?;
        } else {
            let orphan = inner_name(gfid);
            self.disk.rename_at(dir.fd(), name, self.tree.orphans.as_fd(), &orphan, 0)?;
        }
        self.forget_place_name(gfid, dir.rec.gfid, name)
    }

    /// The name filed with an inode's handle is no longer one of its names.
    pub(crate) fn forget_place_name(
        &mut self,
        gfid: Gfid,
        dir: Gfid,
        name: &[u8],
    ) -> Result<(), Errno> {
        let Some(mut place) = self.db.place(gfid)? else { return Ok(()) };
        if place.parent != dir || place.name != name {
            return Ok(());
        }
        place.parent = Gfid::NIL;
        place.name.clear();
        let mut batch = WriteBatch::default();
        self.db.put_place(&mut batch, gfid, &place);
        self.commit(batch)
    }

    /// Nothing leads to the inode any more.
    pub(crate) fn drop_inode(&mut self, gfid: Gfid) -> Result<(), Errno> {
        self.nodes.remove(&gfid);
        self.dirs.forget(gfid);
        let mut batch = WriteBatch::default();
        self.db.delete_place(&mut batch, gfid);
        self.commit(batch)
    }

    pub(crate) fn rmdir(&mut self, a: &Rmdir, call: &Call) -> Result<Return, Errno> {
        self.guard_name(a.parent, &a.name)?;
        let mut dir = self.dir(a.parent)?;
        let Some(rec) = self.expected(&dir, &a.name, a.expect, call.resend)? else {
            return Ok(done());
        };
        let child = self.open_under(&dir, &a.name, &rec)?;
        if !child.is_dir() {
            return Err(Errno::ENOTDIR);
        }
        match self.disk.rmdir_at(dir.fd(), &a.name) {
            Err(Errno::ENOTEMPTY | Errno::EEXIST) => {
                if !self.is_empty(&child)? {
                    return Err(Errno::ENOTEMPTY);
                }
                self.set_leftovers_aside(&child)?;
                self.disk.rmdir_at(dir.fd(), &a.name)?;
            }
            removed => removed?,
        }
        self.drop_inode(rec.gfid)?;
        self.dirs.remove(a.parent, &a.name);
        dir.rec.modified(call.stamp);
        self.save(&dir)?;
        Ok(done())
    }

    /// The count goes up before the name appears: a crash between leaves a count too high,
    /// never a file that vanishes with names left.
    pub(crate) fn link(&mut self, a: &Link, call: &Call) -> Result<Return, Errno> {
        self.guard_name(a.parent, &a.name)?;
        let mut dir = self.dir(a.parent)?;
        let mut node = self.node(a.gfid)?;
        if node.is_dir() {
            return Err(Errno::EPERM);
        }
        match self.under(&dir, &a.name)? {
            Under::Name(rec) if call.resend && rec.gfid == a.gfid => {
                return self.entry(&node, &dir);
            }
            Under::Name(_) => return Err(Errno::EEXIST),
            Under::Leftover => self.set_aside(dir.fd(), &a.name)?,
            Under::Nothing => {}
        }
        if node.rec.nlink == 0 {
            return Err(Errno::ENOENT);
        }
        let before = node.rec;
        node.rec.nlink = before.nlink.checked_add(1).ok_or(Errno::EMLINK)?;
        node.rec.changed(call.stamp);
        self.save(&node)?;
        if let Err(errno) = self.disk.link_fd_at(node.fd(), dir.fd(), &a.name) {
            node.rec = before;
            self.save(&node)?;
            return Err(errno);
        }
        let place = self.place_of(&node, a.parent, &a.name)?;
        let mut batch = WriteBatch::default();
        self.db.put_place(&mut batch, a.gfid, &place);
        self.commit(batch)?;
        self.dirs.put(a.parent, &a.name, Child { gfid: a.gfid, kind: node.kind });
        dir.rec.modified(call.stamp);
        self.save(&dir)?;
        self.entry(&node, &dir)
    }

    /// The last close of an orphan. One that has names, or is gone, is left alone.
    pub(crate) fn forget(&mut self, a: &Forget) -> Result<Return, Errno> {
        match self.disk.unlink_at(self.tree.orphans.as_fd(), &inner_name(a.gfid)) {
            Ok(()) => {}
            Err(Errno::ENOENT) => return Ok(done()),
            Err(errno) => return Err(errno),
        }
        let named = match self.node(a.gfid) {
            Ok(node) => self.stat(&node)?.nlink > 0,
            Err(Errno::ESTALE) => false,
            Err(errno) => return Err(errno),
        };
        if !named {
            self.drop_inode(a.gfid)?;
        }
        Ok(done())
    }

    /// Inodes without a name that are kept.
    ///
    /// # Errors
    /// The file system's own.
    pub fn orphans(&self) -> Result<Vec<Gfid>, Errno> {
        self.inner_gfids(self.tree.orphans.as_fd())
    }

    /// Whether an inode stands among the orphans.
    pub(crate) fn is_kept(&self, gfid: Gfid) -> Result<bool, Errno> {
        match self.disk.stat(At::Name(self.tree.orphans.as_fd(), &inner_name(gfid))) {
            Ok(_) => Ok(true),
            Err(Errno::ENOENT) => Ok(false),
            Err(errno) => Err(errno),
        }
    }

    pub(crate) fn inner_gfids(&self, dir: std::os::fd::BorrowedFd<'_>) -> Result<Vec<Gfid>, Errno> {
        let parse = |name: &[u8]| {
            let id: proto::BrickId = std::str::from_utf8(name).ok()?.parse().ok()?;
            Some(Gfid(*id.as_bytes()))
        };
        let entries = self.disk.read_dir(dir)?;
        let mut gfids: Vec<Gfid> = entries.iter().filter_map(|e| parse(&e.name)).collect();
        gfids.sort_unstable();
        Ok(gfids)
    }
}
