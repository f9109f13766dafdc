//! What a heal's sink does: inodes, data and names put in place exactly as the source has
//! them, times and records untouched until the last step.
//!
//! A name that goes never drops its inode: it is parked by gfid, so that a name found later in
//! another directory adopts it with its data (a rename seen half-way moves no bytes). What
//! nothing adopted is swept at the end.

use std::os::fd::AsFd;
use std::sync::Arc;

use bytes::Bytes;
use proto::attr::Kind;
use proto::error::Errno;
use proto::fop::{
    Call, Forget, Inspected, Install, InstallData, InstallName, RemoveName, Return, SweepParked,
    Touch,
};
use proto::ids::Gfid;
use proto::placement::name_hash;
use rocksdb::WriteBatch;

use super::create::Make;
use crate::dir::Child;
use crate::disk::{At, Open};
use crate::node::{Node, Under, inner_name};
use crate::record::{META_XATTR, Record};
use crate::store::{Ctx, Store, done};

/// FALLOC_FL_PUNCH_HOLE with FALLOC_FL_KEEP_SIZE.
const PUNCH: u32 = 3;

/// Content comes with the last step only, and whole.
fn fits(a: &Install, content: &Bytes) -> bool {
    let attr = &a.image.attr;
    a.finish && attr.kind() == Kind::File && attr.size == content.len() as u64
}

impl Store {
    /// `content`: empty, or all that a small file holds.
    pub(crate) fn install(
        &mut self,
        a: &Install,
        content: &Bytes,
        ctx: &Ctx,
    ) -> Result<Return, Errno> {
        let image = &a.image;
        if !image.found && image.attr.gfid != Gfid::ROOT {
            // The source has no such inode: if it is an orphan here, nobody has it open.
            return self.forget(&Forget { gfid: image.attr.gfid });
        }
        let mut rec = Record::decode(&image.meta).ok_or(Errno::EINVAL)?;
        if !a.finish {
            // Cut off before its end, it must not compare as equal: its data moved its times.
            rec.stamp = 0;
        }
        let misfit = rec.gfid != image.attr.gfid || (!content.is_empty() && !fits(a, content));
        if misfit || (rec.gfid == Gfid::ROOT && !image.attr.is_dir()) {
            return Err(Errno::EINVAL);
        }
        let data = Touch::Range { gfid: rec.gfid, start: 0, end: content.len() as u64 };
        self.change(ctx, &[Touch::Attrs(rec.gfid), data])?;
        let mut node = match self.node(rec.gfid) {
            Ok(node) if node.kind == image.attr.kind() => node,
            // A gfid never changes its kind; what stands there is not what it says it is.
            Ok(_) => return Err(Errno::EINVAL),
            Err(Errno::ESTALE) if content.is_empty() => self.make_parked(image, rec)?,
            // Its record must not say that it is whole before its content is there.
            Err(Errno::ESTALE) => self.make_parked(image, Record { stamp: 0, ..rec })?,
            Err(errno) => return Err(errno),
        };
        self.write_all(node.fd(), content, 0)?;
        node.rec = rec;
        self.equalise(&node, image)?;
        if image.orphan && !node.is_dir() {
            self.make_orphan(rec.gfid)?;
        }
        Ok(done())
    }

    /// Logs a heal's change and notes that a checkpoint is due.
    fn change(&mut self, ctx: &Ctx, touches: &[Touch]) -> Result<(), Errno> {
        self.dirty.store(true, std::sync::atomic::Ordering::Release);
        self.log(ctx.interval, touches)
    }

    fn make_parked(&mut self, image: &Inspected, rec: Record) -> Result<Node, Errno> {
        let name = inner_name(rec.gfid);
        let make = Make { mode: image.attr.mode, rdev: image.attr.rdev, target: &image.target };
        let parked = self.tree.parked.as_fd();
        let fd = match self.make_at(parked, &name, &make) {
            Err(Errno::EEXIST) => {
                // Without a record (or it would have been found): cut off by a crash.
                self.set_aside(parked, &name)?;
                self.make_at(parked, &name, &make)?
            }
            made => made?,
        };
        let node = Node { fd: Arc::new(fd), kind: image.attr.kind(), rec };
        self.disk.set_xattr(node.at(), META_XATTR, &rec.encode(), 0)?;
        let place = self.place_of(&node, Gfid::NIL, b"")?;
        let mut batch = WriteBatch::default();
        self.db.put_place(&mut batch, rec.gfid, &place);
        self.commit(batch)?;
        Ok(node)
    }

    /// Owner before mode, size before xattrs (both strip privileges), times and record last.
    fn equalise(&mut self, node: &Node, image: &Inspected) -> Result<(), Errno> {
        if node.kind == Kind::File && self.stat(node)?.size != image.attr.size {
            self.disk.truncate(node.fd(), image.attr.size)?;
        }
        self.own(node, image.attr.uid, image.attr.gid, image.attr.mode)?;
        self.equal_xattrs(node, &image.xattrs)?;
        // An ACL taken away or set may have moved the group bits.
        self.own(node, image.attr.uid, image.attr.gid, image.attr.mode)?;
        self.save(node)
    }

    fn make_orphan(&mut self, gfid: Gfid) -> Result<(), Errno> {
        let name = inner_name(gfid);
        let (parked, orphans) = (self.tree.parked.as_fd(), self.tree.orphans.as_fd());
        match self.disk.rename_at(parked, &name, orphans, &name, 0) {
            // Already there, or still under a name that its directory's diff will remove.
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    pub(crate) fn install_data(
        &mut self,
        a: &InstallData,
        call: &Call,
        ctx: &Ctx,
    ) -> Result<Return, Errno> {
        let node = self.node(a.gfid)?;
        let misfit = !a.hole && call.payload.len() as u64 != a.len;
        if node.kind != Kind::File || misfit {
            return Err(Errno::EINVAL);
        }
        let end = a.offset.checked_add(a.len).ok_or(Errno::EINVAL)?;
        self.change(ctx, &[Touch::Range { gfid: a.gfid, start: a.offset, end }])?;
        if !a.hole {
            self.write_all(node.fd(), &call.payload, a.offset)?;
        } else if a.len > 0 {
            self.disk.fallocate(node.fd(), PUNCH, a.offset, a.len)?;
        }
        Ok(done())
    }

    pub(crate) fn install_name(&mut self, a: &InstallName, ctx: &Ctx) -> Result<Return, Errno> {
        self.guard_name(a.parent, &a.name)?;
        let dir = self.dir(a.parent)?;
        let node = self.node(a.gfid)?;
        self.change(ctx, &[Touch::Name { dir: a.parent, hash: name_hash(&a.name) }])?;
        match self.under(&dir, &a.name)? {
            Under::Name(rec) if rec.gfid == a.gfid => return Ok(done()),
            Under::Name(rec) => self.park(&dir, &a.name, &rec)?,
            Under::Leftover => self.set_aside(dir.fd(), &a.name)?,
            Under::Nothing => {}
        }
        self.adopt_name(&dir, &a.name, &node)?;
        let place = self.place_of(&node, a.parent, &a.name)?;
        let mut batch = WriteBatch::default();
        self.db.put_place(&mut batch, a.gfid, &place);
        self.commit(batch)?;
        self.dirs.put(a.parent, &a.name, Child { gfid: a.gfid, kind: node.kind });
        self.show_times(&dir)?;
        Ok(done())
    }

    /// The inode gets this name: from where it is parked, else (a file) as a further link, else
    /// (a directory, which has but one name) by moving it.
    fn adopt_name(&mut self, dir: &Node, name: &[u8], node: &Node) -> Result<(), Errno> {
        let inner = inner_name(node.rec.gfid);
        for nameless in [&self.tree.parked, &self.tree.orphans] {
            match self.disk.rename_at(nameless.as_fd(), &inner, dir.fd(), name, 1) {
                Err(Errno::ENOENT) => {}
                adopted => return adopted,
            }
        }
        if !node.is_dir() {
            return self.disk.link_fd_at(node.fd(), dir.fd(), name);
        }
        let place = self.db.place(node.rec.gfid)?.ok_or(Errno::ESTALE)?;
        let old = self.dir(place.parent)?;
        self.disk.rename_at(old.fd(), &place.name, dir.fd(), name, 1)?;
        self.dirs.remove(place.parent, &place.name);
        self.show_times(&old)
    }

    /// Lets the file system show the record's times again after a change of names.
    fn show_times(&self, dir: &Node) -> Result<(), Errno> {
        self.disk.set_times(dir.at(), dir.rec.atime, dir.rec.mtime)
    }

    pub(crate) fn remove_name(&mut self, a: &RemoveName, ctx: &Ctx) -> Result<Return, Errno> {
        self.guard_name(a.parent, &a.name)?;
        let dir = self.dir(a.parent)?;
        self.change(ctx, &[Touch::Name { dir: a.parent, hash: name_hash(&a.name) }])?;
        match self.under(&dir, &a.name)? {
            Under::Name(rec) => self.park(&dir, &a.name, &rec)?,
            Under::Leftover => self.set_aside(dir.fd(), &a.name)?,
            Under::Nothing => {}
        }
        self.show_times(&dir)?;
        Ok(done())
    }

    /// The name goes, the inode is parked; further names of a parked inode just go.
    fn park(&mut self, dir: &Node, name: &[u8], rec: &Record) -> Result<(), Errno> {
        let inner = inner_name(rec.gfid);
        match self.disk.rename_at(dir.fd(), name, self.tree.parked.as_fd(), &inner, 1) {
            Err(Errno::EEXIST) => self.disk.unlink_at(dir.fd(), name)?,
            parked => parked?,
        }
        self.dirs.remove(dir.rec.gfid, name);
        self.forget_place_name(rec.gfid, dir.rec.gfid, name)
    }

    /// Drops what no name adopted. A directory's subdirectories are parked beside it first,
    /// so that neither depth nor a crash half-way matters.
    pub(crate) fn sweep_parked(&mut self, a: &SweepParked) -> Result<Return, Errno> {
        self.dirty.store(true, std::sync::atomic::Ordering::Release);
        let mut todo = self.inner_gfids(self.tree.parked.as_fd())?;
        while let Some(gfid) = todo.pop() {
            let name = inner_name(gfid);
            let stat = self.disk.stat(At::Name(self.tree.parked.as_fd(), &name))?;
            if stat.kind() == Kind::Directory {
                self.sweep_dir(&name, &a.keep, &mut todo)?;
                self.drop_inode(gfid)?;
            } else if a.keep.contains(&gfid) {
                self.make_orphan(gfid)?;
            } else {
                self.disk.unlink_at(self.tree.parked.as_fd(), &name)?;
                self.drop_unless_named(gfid, stat.nlink)?;
            }
        }
        Ok(done())
    }

    fn sweep_dir(&mut self, name: &[u8], keep: &[Gfid], todo: &mut Vec<Gfid>) -> Result<(), Errno> {
        let dir = self.disk.open_at(self.tree.parked.as_fd(), name, Open::Directory)?;
        for entry in self.disk.read_dir(dir.as_fd())? {
            let at = At::Name(dir.as_fd(), &entry.name);
            let stat = self.disk.stat(at)?;
            let Some(rec) = self.record_at(at)? else {
                self.set_aside(dir.as_fd(), &entry.name)?;
                continue;
            };
            let inner = inner_name(rec.gfid);
            if stat.kind() == Kind::Directory {
                let parked = self.tree.parked.as_fd();
                self.disk.rename_at(dir.as_fd(), &entry.name, parked, &inner, 1)?;
                todo.push(rec.gfid);
            } else if keep.contains(&rec.gfid) {
                let orphans = self.tree.orphans.as_fd();
                self.disk.rename_at(dir.as_fd(), &entry.name, orphans, &inner, 0)?;
            } else {
                self.disk.unlink_at(dir.as_fd(), &entry.name)?;
                self.drop_unless_named(rec.gfid, stat.nlink)?;
            }
        }
        self.disk.rmdir_at(self.tree.parked.as_fd(), name)
    }

    /// After an unlink: other names of the inode may still stand.
    fn drop_unless_named(&mut self, gfid: Gfid, links_before: u64) -> Result<(), Errno> {
        if links_before <= 1 { self.drop_inode(gfid) } else { Ok(()) }
    }
}
