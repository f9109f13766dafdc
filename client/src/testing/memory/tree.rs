//! Inodes and names, and every operation on them.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use proto::attr::Time;
use proto::fop::*;
use proto::placement::name_hash;
use proto::{Attr, Errno, Gfid, Kind, Stamp};

#[derive(Debug, Default)]
struct Inode {
    attr: Attr,
    data: Vec<u8>,
    target: Bytes,
    xattrs: BTreeMap<Bytes, Bytes>,
    names: BTreeMap<(u64, Bytes), Gfid>,
    kept: bool,
}

#[derive(Debug)]
pub(super) struct Tree {
    inodes: HashMap<Gfid, Inode>,
}

type Done1 = Result<Answer, Errno>;

fn entry_key(name: &Bytes) -> (u64, Bytes) {
    (name_hash(name), name.clone())
}

impl Inode {
    fn changed(&mut self, stamp: Stamp) -> Stamp {
        let stamp = Stamp(stamp.0.max(self.attr.stamp + 1));
        self.attr.stamp = stamp.0;
        self.attr.ctime = stamp.into();
        stamp
    }

    fn data_changed(&mut self, stamp: Stamp) {
        let stamp = self.changed(stamp);
        self.attr.mtime = stamp.into();
        self.attr.size = self.data.len() as u64;
        self.attr.blocks = self.attr.size.div_ceil(512);
    }

    fn kill_privileges(&mut self) {
        self.attr.mode &= !libc::S_ISUID;
        if self.attr.mode & libc::S_IXGRP != 0 {
            self.attr.mode &= !libc::S_ISGID;
        }
        self.xattrs.remove(&b"security.capability"[..]);
    }
}

impl Tree {
    pub fn new() -> Tree {
        let attr = Attr {
            gfid: Gfid::ROOT,
            mode: libc::S_IFDIR | 0o755,
            nlink: 1,
            size: 4096,
            buckets: 64,
            stamp: 1,
            ..Attr::default()
        };
        let root = Inode { attr, ..Inode::default() };
        Tree { inodes: HashMap::from([(Gfid::ROOT, root)]) }
    }

    pub fn len(&self) -> usize {
        self.inodes.len()
    }

    pub fn content(&self, gfid: Gfid) -> Option<Vec<u8>> {
        self.inodes.get(&gfid).map(|i| i.data.clone())
    }

    pub fn find(&self, parent: Gfid, name: &Bytes) -> Option<Gfid> {
        self.inodes.get(&parent)?.names.get(&entry_key(name)).copied()
    }

    /// Frees an orphan that nobody has open.
    pub fn forget(&mut self, gfid: Gfid) {
        if self.inodes.get(&gfid).is_some_and(|i| i.kept) {
            self.inodes.remove(&gfid);
        }
    }

    fn inode(&mut self, gfid: Gfid) -> Result<&mut Inode, Errno> {
        self.inodes.get_mut(&gfid).ok_or(Errno::ESTALE)
    }

    fn dir(&mut self, gfid: Gfid) -> Result<&mut Inode, Errno> {
        let inode = self.inode(gfid)?;
        if inode.attr.is_dir() { Ok(inode) } else { Err(Errno::ENOTDIR) }
    }

    pub fn execute(&mut self, call: &Call) -> Result<(Answer, Bytes), Errno> {
        let stamp = call.stamp;
        let answer = match &call.fop {
            Fop::Lookup(a) => return self.lookup(a),
            Fop::Read(a) => return self.read(a),
            Fop::Getattr(a) => Answer::Attr(self.inode(a.gfid)?.attr),
            Fop::Readlink(a) => Answer::Value(Value { bytes: self.inode(a.gfid)?.target.clone() }),
            Fop::Readdir(a) => self.readdir(a)?,
            Fop::Statfs(_) => Answer::Statfs(StatfsAnswer {
                total_bytes: 1 << 40,
                free_bytes: 1 << 39,
                available_bytes: 1 << 38,
                total_inodes: 1 << 20,
                free_inodes: 1 << 19,
            }),
            Fop::Seek(a) => self.seek(a)?,
            Fop::Create(a) => self.create(a, &call.payload, stamp)?,
            Fop::Unlink(a) => self.unlink(a, stamp)?,
            Fop::Rmdir(a) => self.rmdir(a, stamp)?,
            Fop::Rename(a) => self.rename(a, stamp)?,
            Fop::Link(a) => self.link(a, stamp)?,
            Fop::Write(a) => self.write(a, &call.payload, stamp)?,
            Fop::Setattr(a) => self.setattr(a, stamp)?,
            Fop::Fallocate(a) => self.fallocate(a, stamp)?,
            Fop::Forget(a) => {
                self.forget(a.gfid);
                Answer::Done(Done {})
            }
            Fop::Fsync(a) => {
                self.inode(a.gfid)?;
                Answer::Done(Done {})
            }
            Fop::Acquire(_) => Answer::Done(Done {}),
            _ => self.xattr(&call.fop, stamp)?,
        };
        Ok((answer, Bytes::new()))
    }

    fn lookup(&mut self, a: &Lookup) -> Result<(Answer, Bytes), Errno> {
        self.dir(a.parent)?;
        let gfid = self.find(a.parent, &a.name).ok_or(Errno::ENOENT)?;
        let inode = self.inode(gfid)?;
        let with_data = a.data_bytes_max > 0
            && inode.attr.kind() == Kind::File
            && inode.data.len() <= a.data_bytes_max as usize;
        let data = if with_data { inode.data.clone().into() } else { Bytes::new() };
        Ok((Answer::Entry(Entry { attr: inode.attr, parent: None, with_data }), data))
    }

    fn read(&mut self, a: &Read) -> Result<(Answer, Bytes), Errno> {
        let data = &self.inode(a.gfid)?.data;
        let from = (a.offset as usize).min(data.len());
        let to = (from + a.len as usize).min(data.len());
        let bytes = Bytes::copy_from_slice(&data[from..to]);
        Ok((Answer::Read(ReadAnswer { eof: to == data.len() }), bytes))
    }

    fn readdir(&mut self, a: &Readdir) -> Done1 {
        let after = (a.after_hash, a.after_name.clone());
        let start = a.after_hash == 0 && a.after_name.is_empty();
        let names = &self.dir(a.gfid)?.names;
        let mut found: Vec<((u64, Bytes), Gfid)> = names
            .iter()
            .filter(|(key, _)| start || **key > after)
            .take(a.limit as usize + 1)
            .map(|(key, gfid)| (key.clone(), *gfid))
            .collect();
        let end = found.len() <= a.limit as usize;
        found.truncate(a.limit as usize);
        let entries = found
            .into_iter()
            .map(|((hash, name), gfid)| {
                let attr = self.inodes[&gfid].attr;
                DirEntry {
                    name,
                    hash,
                    gfid,
                    kind: attr.kind() as i32,
                    attr: a.plus.then_some(attr),
                }
            })
            .collect();
        Ok(Answer::Entries(Entries { entries, end }))
    }

    fn seek(&mut self, a: &Seek) -> Done1 {
        let size = self.inode(a.gfid)?.data.len() as u64;
        if a.offset >= size {
            return Err(Errno::ENXIO);
        }
        let offset = if a.hole { size } else { a.offset };
        Ok(Answer::Seek(SeekAnswer { offset }))
    }

    fn create(&mut self, a: &Create, data: &Bytes, stamp: Stamp) -> Done1 {
        let dir = self.dir(a.parent)?;
        let key = entry_key(&a.name);
        if dir.names.contains_key(&key) {
            return Err(Errno::EEXIST);
        }
        dir.names.insert(key, a.gfid);
        dir.data_changed_dir(stamp);
        let parent = Some(dir.attr);
        let is_dir = Kind::of_mode(a.mode) == Kind::Directory;
        let mut inode = Inode { target: a.target.clone(), data: data.to_vec(), ..Inode::default() };
        inode.attr = Attr {
            gfid: a.gfid,
            mode: a.mode,
            uid: a.uid,
            gid: a.gid,
            nlink: 1,
            rdev: a.rdev,
            buckets: a.buckets,
            atime: Time::from(stamp),
            ..Attr::default()
        };
        inode.data_changed(stamp);
        if is_dir {
            inode.attr.size = 4096;
        } else if !a.target.is_empty() {
            inode.attr.size = a.target.len() as u64;
        }
        inode.xattrs = a.xattrs.iter().map(|x| (x.name.clone(), x.value.clone())).collect();
        let attr = inode.attr;
        self.inodes.insert(a.gfid, inode);
        Ok(Answer::Entry(Entry { attr, parent, with_data: false }))
    }

    /// Removes a name's inode's count; answers its attributes while it lives.
    fn lose_name(&mut self, gfid: Gfid, keep: bool, stamp: Stamp) -> (u32, Option<Attr>) {
        let Some(inode) = self.inodes.get_mut(&gfid) else { return (0, None) };
        inode.attr.nlink -= 1;
        inode.changed(stamp);
        let attr = inode.attr;
        if attr.nlink == 0 && keep {
            inode.kept = true;
        } else if attr.nlink == 0 {
            self.inodes.remove(&gfid);
            return (0, None);
        }
        (attr.nlink, Some(attr))
    }

    fn expect(&self, parent: Gfid, name: &Bytes, expect: Gfid) -> Result<(), Errno> {
        match self.find(parent, name) {
            None => Err(Errno::ENOENT),
            Some(found) if found != expect && !expect.is_nil() => Err(Errno::ESTALE),
            Some(_) => Ok(()),
        }
    }

    fn unlink(&mut self, a: &Unlink, stamp: Stamp) -> Done1 {
        self.dir(a.parent)?;
        self.expect(a.parent, &a.name, a.expect)?;
        if self.inode(a.expect)?.attr.is_dir() {
            return Err(Errno::EISDIR);
        }
        let dir = self.dir(a.parent)?;
        dir.names.remove(&entry_key(&a.name));
        dir.data_changed_dir(stamp);
        let parent = Some(dir.attr);
        let (nlink, attr) = self.lose_name(a.expect, a.keep, stamp);
        Ok(Answer::Unlinked(Unlinked { nlink, parent, attr }))
    }

    fn rmdir(&mut self, a: &Rmdir, stamp: Stamp) -> Done1 {
        self.expect(a.parent, &a.name, a.expect)?;
        if !self.dir(a.expect)?.names.is_empty() {
            return Err(Errno::ENOTEMPTY);
        }
        let dir = self.dir(a.parent)?;
        dir.names.remove(&entry_key(&a.name));
        dir.data_changed_dir(stamp);
        self.inodes.remove(&a.expect);
        Ok(Answer::Done(Done {}))
    }

    fn rename(&mut self, a: &Rename, stamp: Stamp) -> Done1 {
        self.dir(a.from_parent)?;
        self.dir(a.to_parent)?;
        self.expect(a.from_parent, &a.from_name, a.expect_from)?;
        let there = self.find(a.to_parent, &a.to_name);
        if there.unwrap_or(Gfid::NIL) != a.expect_to {
            return Err(Errno::ESTALE);
        }
        if there == Some(a.expect_from) {
            return Ok(Answer::Renamed(Renamed::default()));
        }
        let (from, to) = (entry_key(&a.from_name), entry_key(&a.to_name));
        let exchange = a.flags == 2;
        if let Some(there) = there.filter(|_| !exchange) {
            let moved_is_dir = self.inode(a.expect_from)?.attr.is_dir();
            let there = self.inode(there)?;
            match (moved_is_dir, there.attr.is_dir()) {
                (true, false) => return Err(Errno::ENOTDIR),
                (false, true) => return Err(Errno::EISDIR),
                (true, true) if !there.names.is_empty() => return Err(Errno::ENOTEMPTY),
                _ => {}
            }
        }
        let source = self.dir(a.from_parent)?;
        source.names.remove(&from);
        if let Some(there) = there.filter(|_| exchange) {
            source.names.insert(from, there);
        }
        source.data_changed_dir(stamp);
        let target = self.dir(a.to_parent)?;
        target.names.insert(to, a.expect_from);
        target.data_changed_dir(stamp);
        let moved = self.inode(a.expect_from)?;
        moved.changed(stamp);
        let attr = Some(moved.attr);
        let replaced = match there {
            Some(there) if exchange => {
                self.inode(there)?.changed(stamp);
                Some(self.inode(there)?.attr)
            }
            Some(there) => self.lose_name(there, a.keep, stamp).1,
            None => None,
        };
        let from_parent = Some(self.dir(a.from_parent)?.attr);
        let to_parent = Some(self.dir(a.to_parent)?.attr);
        Ok(Answer::Renamed(Renamed { from_parent, to_parent, attr, replaced }))
    }

    fn link(&mut self, a: &Link, stamp: Stamp) -> Done1 {
        if self.inode(a.gfid)?.attr.is_dir() {
            return Err(Errno::EPERM);
        }
        let dir = self.dir(a.parent)?;
        let key = entry_key(&a.name);
        if dir.names.contains_key(&key) {
            return Err(Errno::EEXIST);
        }
        dir.names.insert(key, a.gfid);
        dir.data_changed_dir(stamp);
        let parent = Some(dir.attr);
        let inode = self.inode(a.gfid)?;
        inode.attr.nlink += 1;
        inode.changed(stamp);
        Ok(Answer::Entry(Entry { attr: inode.attr, parent, with_data: false }))
    }

    fn write(&mut self, a: &Write, data: &Bytes, stamp: Stamp) -> Done1 {
        assert_eq!(a.len, data.len() as u64, "the length stands in the frame twice");
        let inode = self.inode(a.gfid)?;
        let (from, to) = (a.offset as usize, (a.offset + a.len) as usize);
        assert!(!a.inside || to <= inode.data.len(), "a write said to lie inside does not");
        let size = inode.data.len().max(to);
        inode.data.resize(size, 0);
        inode.data[from..to].copy_from_slice(data);
        if a.kill_privileges {
            inode.kill_privileges();
        }
        inode.data_changed(stamp);
        Ok(Answer::Attr(inode.attr))
    }

    fn setattr(&mut self, a: &Setattr, stamp: Stamp) -> Done1 {
        let inode = self.inode(a.gfid)?;
        if let Some(size) = a.set.size {
            if inode.attr.is_dir() {
                return Err(Errno::EISDIR);
            }
            inode.data.resize(size as usize, 0);
            inode.data_changed(stamp);
        }
        if a.kill_privileges {
            inode.kill_privileges();
        }
        let attr = &mut inode.attr;
        if let Some(mode) = a.set.mode {
            attr.mode = attr.mode & libc::S_IFMT | mode;
        }
        attr.uid = a.set.uid.unwrap_or(attr.uid);
        attr.gid = a.set.gid.unwrap_or(attr.gid);
        attr.atime = a.set.atime.unwrap_or(attr.atime);
        attr.mtime = a.set.mtime.unwrap_or(attr.mtime);
        inode.changed(stamp);
        Ok(Answer::Attr(inode.attr))
    }

    fn fallocate(&mut self, a: &Fallocate, stamp: Stamp) -> Done1 {
        let inode = self.inode(a.gfid)?;
        let end = (a.offset + a.len) as usize;
        if a.mode & 1 == 0 && inode.data.len() < end {
            inode.data.resize(end, 0);
        }
        if a.mode & 0x12 != 0 {
            let end = end.min(inode.data.len());
            let start = (a.offset as usize).min(end);
            inode.data[start..end].fill(0);
        }
        inode.data_changed(stamp);
        Ok(Answer::Attr(inode.attr))
    }

    fn xattr(&mut self, fop: &Fop, stamp: Stamp) -> Done1 {
        match fop {
            Fop::Getxattr(a) => {
                let bytes = self.inode(a.gfid)?.xattrs.get(&a.name).cloned();
                Ok(Answer::Value(Value { bytes: bytes.ok_or(Errno::ENODATA)? }))
            }
            Fop::Listxattr(a) => {
                let names = self.inode(a.gfid)?.xattrs.keys().cloned().collect();
                Ok(Answer::Names(Names { names }))
            }
            Fop::Setxattr(a) => {
                let inode = self.inode(a.gfid)?;
                match (a.flags, inode.xattrs.contains_key(&a.name)) {
                    (1, true) => return Err(Errno::EEXIST),
                    (2, false) => return Err(Errno::ENODATA),
                    _ => {}
                }
                inode.xattrs.insert(a.name.clone(), a.value.clone());
                if let Some(mode) = a.mode {
                    inode.attr.mode = inode.attr.mode & libc::S_IFMT | mode;
                }
                inode.changed(stamp);
                Ok(Answer::Done(Done {}))
            }
            Fop::Removexattr(a) => {
                let inode = self.inode(a.gfid)?;
                inode.xattrs.remove(&a.name).ok_or(Errno::ENODATA)?;
                inode.changed(stamp);
                Ok(Answer::Done(Done {}))
            }
            other => unreachable!("{other:?} is not for a brick in memory"),
        }
    }
}

impl Inode {
    fn data_changed_dir(&mut self, stamp: Stamp) {
        let stamp = self.changed(stamp);
        self.attr.mtime = stamp.into();
    }
}
