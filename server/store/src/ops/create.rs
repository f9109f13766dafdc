//! Any new inode with its first name.
//!
//! The record is written last: until then what stands under the name is a leftover that no
//! operation sees, so a create cut off by a crash never shows a half-made inode.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

use proto::attr::Kind;
use proto::error::Errno;
use proto::fop::{Answer, Call, Create, Entry, Return, Touch};
use rocksdb::WriteBatch;

use crate::dir::Child;
use crate::disk::{At, Open, Stat};
use crate::node::{Node, Under};
use crate::record::{META_XATTR, Record};
use crate::store::{Ctx, Store};

/// What kind of thing to make, and with what.
pub struct Make<'a> {
    pub mode: u32,
    pub rdev: u64,
    pub target: &'a [u8],
}

impl Store {
    pub(crate) fn create_inode(
        &mut self,
        a: &Create,
        call: &Call,
        ctx: &Ctx,
    ) -> Result<Return, Errno> {
        self.guard_name(a.parent, &a.name)?;
        let mut dir = self.dir(a.parent)?;
        if call.resend
            && let Some(node) = self.created_before(&dir, a)?
        {
            self.log(ctx.interval, &[Touch::Attrs(a.gfid)])?;
            return self.entry(&node, &dir);
        }
        let kind = Kind::of_mode(a.mode);
        let payload_misplaced = kind != Kind::File && !call.payload.is_empty();
        if payload_misplaced || (a.buckets > 0) != (kind == Kind::Directory) {
            return Err(Errno::EINVAL);
        }
        // Two inodes of one gfid would be no file system; the bloom filter makes this cheap.
        if self.nodes.contains(&a.gfid) || self.db.place(a.gfid)?.is_some() {
            return Err(Errno::EEXIST);
        }
        let fd = self.make_under(&dir, a)?;
        let rec = Record::new(a.gfid, a.buckets as u16, call.stamp);
        let node = Node { fd: Arc::new(fd), kind, rec };
        let stat = match self.furnish(&node, a, call) {
            Ok(stat) => stat,
            Err(errno) => {
                self.unmake(&dir, &a.name, kind);
                return Err(errno);
            }
        };
        let mut batch = WriteBatch::default();
        let place = self.place_of(&node, a.parent, &a.name)?;
        self.db.put_place(&mut batch, a.gfid, &place);
        self.changes.add(&self.db, &mut batch, ctx.interval, &[Touch::Attrs(a.gfid)])?;
        self.commit(batch)?;
        self.nodes.insert(a.gfid, node, 1);
        self.dirs.put(a.parent, &a.name, Child { gfid: a.gfid, kind });
        dir.rec.modified(call.stamp);
        self.save(&dir)?;
        let parent = Some(self.attr(&dir)?);
        Ok(Answer::Entry(Entry { attr: rec.attr(&stat), parent, with_data: false }).into())
    }

    pub(crate) fn entry(&mut self, node: &Node, dir: &Node) -> Result<Return, Errno> {
        let (attr, parent) = (self.attr(node)?, Some(self.attr(dir)?));
        Ok(Answer::Entry(Entry { attr, parent, with_data: false }).into())
    }

    /// Our own earlier work: the inode is there, under this name or (renamed since) another.
    fn created_before(&mut self, dir: &Node, a: &Create) -> Result<Option<Node>, Errno> {
        if let Under::Name(rec) = self.under(dir, &a.name)?
            && rec.gfid != a.gfid
        {
            return Err(Errno::EEXIST);
        }
        match self.node(a.gfid) {
            Ok(node) => Ok(Some(node)),
            Err(Errno::ESTALE) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    fn make_under(&mut self, dir: &Node, a: &Create) -> Result<OwnedFd, Errno> {
        let make = Make { mode: a.mode, rdev: a.rdev, target: &a.target };
        match self.make_at(dir.fd(), &a.name, &make) {
            Err(Errno::EEXIST) => {}
            made => return made,
        }
        if let Under::Name(_) = self.under(dir, &a.name)? {
            return Err(Errno::EEXIST);
        }
        self.set_aside(dir.fd(), &a.name)?;
        self.make_at(dir.fd(), &a.name, &make)
    }

    /// Makes and opens an inode of any kind; EEXIST when the name is taken.
    pub(crate) fn make_at(
        &self,
        dir: BorrowedFd<'_>,
        name: &[u8],
        make: &Make<'_>,
    ) -> Result<OwnedFd, Errno> {
        let kind = Kind::of_mode(make.mode);
        match kind {
            Kind::File => return self.disk.open_at(dir, name, Open::New { mode: make.mode }),
            Kind::Directory => self.disk.mkdir_at(dir, name, make.mode)?,
            Kind::Symlink => self.disk.symlink_at(make.target, dir, name)?,
            Kind::Unknown => return Err(Errno::EINVAL),
            _ => self.disk.mknod_at(dir, name, make.mode, make.rdev)?,
        }
        self.disk.open_at(dir, name, Open::of(kind))
    }

    /// Owner, mode, xattrs, data, then the record.
    fn furnish(&self, node: &Node, a: &Create, call: &Call) -> Result<Stat, Errno> {
        let mut stat = self.own(node, a.uid, a.gid, a.mode)?;
        for x in &a.xattrs {
            Self::check_xattr_name(&x.name)?;
            self.disk.set_xattr(node.at(), &x.name, &x.value, 0)?;
        }
        if !call.payload.is_empty() {
            self.write_all(node.fd(), &call.payload, 0)?;
        }
        self.disk.set_xattr(node.at(), META_XATTR, &node.rec.encode(), 0)?;
        self.disk.set_times(node.at(), node.rec.atime, node.rec.mtime)?;
        if !call.payload.is_empty() || !a.xattrs.is_empty() {
            stat = self.stat(node)?;
        }
        Ok(stat)
    }

    /// Owner and permission bits exactly as given, whatever umask, set-group-id directories
    /// and default ACLs made of them.
    pub(crate) fn own(&self, node: &Node, uid: u32, gid: u32, mode: u32) -> Result<Stat, Errno> {
        let mut stat = self.stat(node)?;
        if (stat.uid, stat.gid) != (uid, gid) {
            self.disk.chown(node.at(), uid, gid)?;
            stat = Stat { uid, gid, ..self.stat(node)? };
        }
        // A symlink's mode is 0777 for ever.
        if node.kind != Kind::Symlink && (stat.mode ^ mode) & 0o7777 != 0 {
            self.disk.chmod(node.at(), mode)?;
            stat.mode = (stat.mode & !0o7777) | (mode & 0o7777);
        }
        Ok(stat)
    }

    /// Takes back a create that failed half-way. If that fails too, a leftover stays, which is
    /// no name.
    fn unmake(&self, dir: &Node, name: &[u8], kind: Kind) {
        let undone = match kind {
            Kind::Directory => self.disk.rmdir_at(dir.fd(), name),
            _ => {
                // Should the record have been written already, the leftover must not keep it.
                match self.disk.remove_xattr(At::Name(dir.fd(), name), META_XATTR) {
                    Ok(()) | Err(Errno::ENODATA) => {}
                    Err(errno) => tracing::warn!(%errno, "record of a failed create stays"),
                }
                self.disk.unlink_at(dir.fd(), name)
            }
        };
        if let Err(errno) = undone {
            tracing::warn!(%errno, "a failed create leaves an unnamed file");
        }
    }
}
