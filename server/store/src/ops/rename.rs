//! Rename: over, without replacing, exchanging; files and directories.

use std::os::fd::AsFd;

use proto::error::Errno;
use proto::fop::{Answer, Call, Rename, Renamed, Return};
use proto::ids::{Gfid, Stamp};
use rocksdb::WriteBatch;

use crate::dir::Child;
use crate::node::{Node, Under, inner_name};
use crate::record::Record;
use crate::store::Store;

const NOREPLACE: u32 = 1;
const EXCHANGE: u32 = 2;

/// The two directories of a rename and what stands in them.
struct Names {
    from: Node,
    to: Node,
    source: Under,
    target: Under,
}

impl Store {
    pub(crate) fn rename(&mut self, a: &Rename, call: &Call) -> Result<Return, Errno> {
        self.guard_name(a.from_parent, &a.from_name)?;
        self.guard_name(a.to_parent, &a.to_name)?;
        let (from, to) = (self.dir(a.from_parent)?, self.dir(a.to_parent)?);
        let source = self.under(&from, &a.from_name)?;
        let target = self.under(&to, &a.to_name)?;
        let names = Names { from, to, source, target };
        if call.resend && renamed_before(a, &names) {
            return self.renamed(a, &names, a.expect_from, a.expect_to);
        }
        let moved = match names.source {
            Under::Name(rec) if rec.gfid == a.expect_from => rec,
            Under::Name(_) => return Err(Errno::ESTALE),
            _ => return Err(Errno::ENOENT),
        };
        let target = self.rename_target(a, &names)?;
        if target.is_some_and(|t| t.gfid == moved.gfid) {
            // Two names of one inode: POSIX says that nothing happens.
            return self.renamed(a, &names, moved.gfid, Gfid::NIL);
        }
        let moved = self.open_under(&names.from, &a.from_name, &moved)?;
        let target = match target {
            Some(rec) => Some(self.open_under(&names.to, &a.to_name, &rec)?),
            None => None,
        };
        match (&target, a.flags & EXCHANGE != 0) {
            (Some(target), true) => self.exchange(a, &names, &moved, target, call.stamp)?,
            (_, true) => return Err(Errno::ENOENT),
            _ => self.move_over(a, &names, &moved, target.as_ref(), call.stamp)?,
        }
        self.parents_modified(&names, call.stamp)?;
        self.renamed(a, &names, a.expect_from, a.expect_to)
    }

    fn rename_target(&mut self, a: &Rename, names: &Names) -> Result<Option<Record>, Errno> {
        let target = match names.target {
            Under::Name(rec) => Some(rec),
            Under::Leftover => {
                self.set_aside(names.to.fd(), &a.to_name)?;
                None
            }
            Under::Nothing => None,
        };
        if a.flags & NOREPLACE != 0 && target.is_some() {
            return Err(Errno::EEXIST);
        }
        if a.flags & EXCHANGE != 0 && target.is_none() {
            return Err(Errno::ENOENT);
        }
        // Here NIL expects nothing to be there: an inode that the sender does not know of, and
        // has no lease on, is never replaced.
        if target.map_or(Gfid::NIL, |t| t.gfid) != a.expect_to {
            return Err(Errno::ESTALE);
        }
        Ok(target)
    }

    fn move_over(
        &mut self,
        a: &Rename,
        names: &Names,
        moved: &Node,
        replaced: Option<&Node>,
        stamp: Stamp,
    ) -> Result<(), Errno> {
        let orphan = replaced.filter(|r| a.keep && !r.is_dir() && r.rec.nlink <= 1);
        if let Some(orphan) = orphan {
            // The second name first, so that the inode is never without one.
            let name = inner_name(orphan.rec.gfid);
            match self.disk.link_fd_at(orphan.fd(), self.tree.orphans.as_fd(), &name) {
                Ok(()) | Err(Errno::EEXIST) => {}
                Err(errno) => return Err(errno),
            }
        }
        if let Err(errno) = self.rename_on_disk(a, names, replaced) {
            if let Some(orphan) = orphan {
                let name = inner_name(orphan.rec.gfid);
                self.disk.unlink_at(self.tree.orphans.as_fd(), &name)?;
            }
            return Err(errno);
        }
        if let Some(replaced) = replaced {
            self.was_replaced(a, replaced, stamp)?;
        }
        self.has_name(moved, a.to_parent, &a.to_name, stamp)?;
        self.dirs.remove(a.from_parent, &a.from_name);
        Ok(())
    }

    fn rename_on_disk(
        &mut self,
        a: &Rename,
        names: &Names,
        replaced: Option<&Node>,
    ) -> Result<(), Errno> {
        let (from, to) = (names.from.fd(), names.to.fd());
        match self.disk.rename_at(from, &a.from_name, to, &a.to_name, 0) {
            Err(Errno::ENOTEMPTY | Errno::EEXIST) => {}
            renamed => return renamed,
        }
        let Some(replaced) = replaced.filter(|r| r.is_dir()) else { return Err(Errno::EEXIST) };
        if !self.is_empty(replaced)? {
            return Err(Errno::ENOTEMPTY);
        }
        self.set_leftovers_aside(replaced)?;
        self.disk.rename_at(from, &a.from_name, to, &a.to_name, 0)
    }

    fn was_replaced(&mut self, a: &Rename, replaced: &Node, stamp: Stamp) -> Result<(), Errno> {
        let gfid = replaced.rec.gfid;
        let left = replaced.rec.nlink.saturating_sub(1);
        if replaced.is_dir() || (left == 0 && !a.keep) {
            return self.drop_inode(gfid);
        }
        let mut node = replaced.clone();
        node.rec.nlink = left;
        node.rec.changed(stamp);
        self.save(&node)?;
        self.forget_place_name(gfid, a.to_parent, &a.to_name)
    }

    fn exchange(
        &mut self,
        a: &Rename,
        names: &Names,
        moved: &Node,
        target: &Node,
        stamp: Stamp,
    ) -> Result<(), Errno> {
        let (from, to) = (names.from.fd(), names.to.fd());
        self.disk.rename_at(from, &a.from_name, to, &a.to_name, EXCHANGE)?;
        self.has_name(moved, a.to_parent, &a.to_name, stamp)?;
        self.has_name(target, a.from_parent, &a.from_name, stamp)
    }

    /// An inode has got this name: handle, listing, change time.
    fn has_name(&mut self, node: &Node, dir: Gfid, name: &[u8], stamp: Stamp) -> Result<(), Errno> {
        let mut node = node.clone();
        node.rec.changed(stamp);
        self.save(&node)?;
        let place = self.place_of(&node, dir, name)?;
        let mut batch = WriteBatch::default();
        self.db.put_place(&mut batch, node.rec.gfid, &place);
        self.commit(batch)?;
        self.dirs.put(dir, name, Child { gfid: node.rec.gfid, kind: node.kind });
        Ok(())
    }

    fn parents_modified(&mut self, names: &Names, stamp: Stamp) -> Result<(), Errno> {
        let mut from = names.from.clone();
        from.rec.modified(stamp);
        self.save(&from)?;
        if names.to.rec.gfid != from.rec.gfid {
            let mut to = names.to.clone();
            to.rec.modified(stamp);
            self.save(&to)?;
        }
        Ok(())
    }

    fn renamed(
        &mut self,
        a: &Rename,
        names: &Names,
        moved: Gfid,
        replaced: Gfid,
    ) -> Result<Return, Errno> {
        let mut attr_of = |gfid: Gfid| match self.node(gfid) {
            Ok(node) => self.attr(&node).map(Some),
            Err(Errno::ESTALE) => Ok(None),
            Err(errno) => Err(errno),
        };
        let attr = attr_of(moved)?;
        let replaced = attr_of(replaced)?;
        let from_parent = attr_of(names.from.rec.gfid)?;
        let to_parent = attr_of(a.to_parent)?;
        Ok(Answer::Renamed(Renamed { from_parent, to_parent, attr, replaced }).into())
    }
}

/// Whether the names stand as this rename would leave them.
fn renamed_before(a: &Rename, names: &Names) -> bool {
    let is = |under: &Under, gfid: Gfid| matches!(under, Under::Name(rec) if rec.gfid == gfid);
    let target_done = is(&names.target, a.expect_from);
    if a.flags & EXCHANGE != 0 {
        target_done && is(&names.source, a.expect_to)
    } else {
        target_done && !is(&names.source, a.expect_from)
    }
}
