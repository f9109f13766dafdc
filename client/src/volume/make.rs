//! New names: of new inodes, and further ones of old.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use proto::fop::{Create, Entry, LeaseKey, Link, Mode, XattrMsg};
use proto::{Attr, Errno, Gfid, Kind, SetId};

use super::acl::{ACCESS, Acl, DEFAULT};
use super::node::Node;
use super::remember::Before;
use super::{File, Found, Looked, OpenHow, Volume, answer, bytes, is_file, want};

/// An inode to be made.
#[derive(Clone, Debug, Default)]
pub struct NewInode {
    /// Type and permission bits, before the umask.
    pub mode: u32,
    pub umask: u32,
    pub uid: u32,
    pub gid: u32,
    /// Of a device, as `dev_t` of glibc.
    pub rdev: u64,
    /// Of a symbolic link.
    pub target: Bytes,
}

impl NewInode {
    pub fn file(permissions: u32) -> NewInode {
        NewInode { mode: libc::S_IFREG | permissions, ..NewInode::default() }
    }

    pub fn dir(permissions: u32) -> NewInode {
        NewInode { mode: libc::S_IFDIR | permissions, ..NewInode::default() }
    }

    pub fn symlink(target: &[u8]) -> NewInode {
        NewInode { mode: libc::S_IFLNK | 0o777, target: bytes(target), ..NewInode::default() }
    }
}

/// What a creation inherits from its directory.
struct Inherited {
    mode: u32,
    gid: u32,
    xattrs: Vec<XattrMsg>,
}

impl Volume {
    /// Makes an inode of any kind with its first name.
    ///
    /// # Errors
    /// EEXIST, and what the bricks answer.
    pub async fn create(
        &self,
        parent: Gfid,
        name: &[u8],
        new: NewInode,
    ) -> Result<(Found, Duration), Errno> {
        let (dir, set) = self.dir_for(parent, name).await?;
        let attr = self.make(&dir, set, name, new, false).await?;
        let found = Found { attr, attr_ttl: self.tell_attr(&self.node(attr.gfid)) };
        Ok((found, self.tell_name(&dir, set, name)))
    }

    /// Makes a regular file and opens it; one that is there is opened unless `exclusive`.
    ///
    /// # Errors
    /// EEXIST when `exclusive`, EISDIR, and what the bricks answer.
    pub async fn create_open(
        &self,
        parent: Gfid,
        name: &[u8],
        new: NewInode,
        how: OpenHow,
        exclusive: bool,
    ) -> Result<(Found, Duration, Arc<File>), Errno> {
        loop {
            let (dir, set) = self.dir_for(parent, name).await?;
            match self.make(&dir, set, name, new.clone(), true).await {
                Ok(attr) => {
                    let node = self.node(attr.gfid);
                    let file = self.open(attr.gfid, OpenHow { truncate: false, ..how }).await?;
                    let found = Found { attr, attr_ttl: self.tell_attr(&node) };
                    return Ok((found, self.tell_name(&dir, set, name), file));
                }
                // Another mount was first: theirs is as good.
                Err(Errno::EEXIST) if !exclusive => {}
                Err(errno) => return Err(errno),
            }
            match self.open_existing(parent, name, how).await {
                // Gone again: once more from the start.
                Err(Errno::ENOENT | Errno::ESTALE) => {}
                other => return other,
            }
        }
    }

    async fn open_existing(
        &self,
        parent: Gfid,
        name: &[u8],
        how: OpenHow,
    ) -> Result<(Found, Duration, Arc<File>), Errno> {
        let Looked::Entry { found, name_ttl } = self.lookup(parent, name).await? else {
            return Err(Errno::ENOENT);
        };
        if !is_file(&found.attr) {
            // The kernel would follow a link or open a pipe itself: it shall look again.
            let is_dir = found.attr.is_dir();
            return Err(if is_dir { Errno::EISDIR } else { Errno::EEXIST });
        }
        let file = self.open(found.attr.gfid, how).await?;
        let now = self.getattr(found.attr.gfid).await?;
        Ok((now, name_ttl, file))
    }

    async fn inherited(&self, dir: &Node, new: &NewInode) -> Result<Inherited, Errno> {
        let parent = self.attr_of(dir).await?;
        if !parent.is_dir() {
            return Err(Errno::ENOTDIR);
        }
        let kind = Kind::of_mode(new.mode);
        let mut mode = new.mode;
        let setgid = parent.mode & libc::S_ISGID != 0;
        let gid = if setgid { parent.gid } else { new.gid };
        if setgid && kind == Kind::Directory {
            mode |= libc::S_ISGID;
        }
        let mut xattrs = Vec::new();
        let acl = match kind {
            Kind::Symlink => None,
            _ => self.xattr_known(dir, DEFAULT).await?.and_then(|v| Acl::parse(&v)),
        };
        match acl {
            Some(acl) => {
                let (permissions, access) = acl.inherited(mode);
                mode = mode & !0o777 | permissions;
                xattrs.extend(access.map(|a| (ACCESS, a)));
                if kind == Kind::Directory {
                    xattrs.push((DEFAULT, acl.encode()));
                }
            }
            None if kind != Kind::Symlink => mode &= !new.umask,
            None => {}
        }
        let message = |(name, value)| XattrMsg { name: bytes(name), value };
        Ok(Inherited { mode, gid, xattrs: xattrs.into_iter().map(message).collect() })
    }

    async fn make(
        &self,
        dir: &Node,
        set: SetId,
        name: &[u8],
        new: NewInode,
        open: bool,
    ) -> Result<Attr, Errno> {
        let inherited = self.inherited(dir, &new).await?;
        let gfid = self.below.new_gfid(dir.gfid, dir.buckets().unwrap_or(1), name);
        let is_dir = Kind::of_mode(new.mode) == Kind::Directory;
        let before = self.before(set, LeaseKey::Part(dir.gfid));
        let parent = self.before(self.below.set_of_inode(dir.gfid), LeaseKey::Inode(dir.gfid));
        let buckets = u32::from(self.below.map().options.dir_buckets);
        let create = Create {
            parent: dir.gfid,
            name: bytes(name),
            gfid,
            mode: inherited.mode,
            uid: new.uid,
            gid: inherited.gid,
            rdev: new.rdev,
            target: new.target.clone(),
            buckets: if is_dir { buckets } else { 0 },
            xattrs: inherited.xattrs.clone(),
        };
        let mut inode = want(LeaseKey::Inode(gfid), Mode::Exclusive);
        inode.open = open;
        let mut wants = vec![inode];
        if is_dir {
            wants.push(want(LeaseKey::Part(gfid), Mode::Exclusive));
        }
        let done = self.ask(create, wants).await;
        if done.is_err() {
            dir.lock().names().forget_name(set, name);
        }
        let entry = answer!(done?, Entry)?;
        self.note_name(dir, set, name, Some(gfid), before);
        self.learn_parent(dir, entry.parent, parent);
        Ok(self.note_new(&entry, before, inherited.xattrs, new.target))
    }

    /// A name was changed by this mount.
    pub(super) fn note_name(
        &self,
        dir: &Node,
        set: SetId,
        name: &[u8],
        gfid: Option<Gfid>,
        before: Before,
    ) {
        let mut state = dir.lock();
        if self.may_keep(set, before.taken(), &[]) {
            state.names().changed(set, name, gfid);
            self.names.fetch_add(1, Ordering::Relaxed);
        } else {
            state.names().forget_name(set, name);
        }
    }

    /// Everything about an inode that this mount has just made is known.
    fn note_new(
        &self,
        entry: &Entry,
        before: Before,
        xattrs: Vec<XattrMsg>,
        target: Bytes,
    ) -> Attr {
        let attr = entry.attr;
        let node = self.node(attr.gfid);
        let shown =
            self.learn_attr_of(&node, attr, before.taken_for(LeaseKey::Inode(attr.gfid)), &[]);
        let mut state = node.lock();
        if state.attr.is_some() {
            let known = xattrs.into_iter().map(|x| (x.name[..].into(), Some(x.value)));
            state.xattrs.known = known.collect();
            state.xattrs.complete = true;
            match attr.kind() {
                Kind::File if attr.size == 0 => self.keep_data(&mut state, Bytes::new()),
                Kind::Symlink => self.keep_data(&mut state, target),
                _ => {}
            }
        }
        if attr.is_dir() {
            let part = LeaseKey::Part(attr.gfid);
            for set in self.sets() {
                if self.may_keep(set, before.taken_for(part), &[]) {
                    state.names().set_complete(set);
                }
            }
        }
        shown
    }

    pub(super) fn sets(&self) -> Vec<SetId> {
        self.below.map().sets.iter().map(|s| s.id).collect()
    }

    /// A further name for an inode.
    ///
    /// # Errors
    /// EEXIST, EPERM for a directory, and what the bricks answer.
    pub async fn link(
        &self,
        gfid: Gfid,
        parent: Gfid,
        name: &[u8],
    ) -> Result<(Found, Duration), Errno> {
        let (dir, set) = self.dir_for(parent, name).await?;
        let node = self.node(gfid);
        // Buffered bytes keep their place before the change of the link count.
        self.flush_node(&node).await;
        let before = self.before(set, LeaseKey::Part(parent));
        let above = self.before(self.below.set_of_inode(parent), LeaseKey::Inode(parent));
        let done = self.ask(Link { gfid, parent, name: bytes(name) }, Vec::new()).await;
        if done.is_err() {
            dir.lock().names().forget_name(set, name);
        }
        let entry = answer!(done?, Entry)?;
        self.note_name(&dir, set, name, Some(gfid), before);
        self.learn_parent(&dir, entry.parent, above);
        let own = before.taken_for(LeaseKey::Inode(gfid));
        let attr = self.learn_attr_of(&node, entry.attr, own, &[]);
        node.lock().orphan = false;
        let found = Found { attr, attr_ttl: self.tell_attr(&node) };
        Ok((found, self.tell_name(&dir, set, name)))
    }
}
