//! Names that go, and names that move.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use proto::fop::{LeaseKey, Rename, Renamed, Rmdir, Unlink};
use proto::{Attr, Errno, Gfid, SetId};

use super::node::Node;
use super::remember::Before;
use super::{Volume, answer, bytes};

/// A name may change hands between finding its inode and changing it, when another mount has
/// the directory; after this many times in a row somebody else is to blame.
const TRIES: usize = 8;

/// A name in its directory.
struct Place {
    dir: Arc<Node>,
    set: SetId,
    before: Before,
    /// About the directory's own attributes.
    above: Before,
}

impl Volume {
    async fn place(&self, parent: Gfid, name: &[u8]) -> Result<Place, Errno> {
        let (dir, set) = self.dir_for(parent, name).await?;
        let before = self.before(set, LeaseKey::Part(parent));
        let above = self.before(self.below.set_of_inode(parent), LeaseKey::Inode(parent));
        Ok(Place { dir, set, before, above })
    }

    async fn inode_at(&self, place: &Place, name: &[u8]) -> Result<Gfid, Errno> {
        self.gfid_of(&place.dir, place.set, name).await?.ok_or(Errno::ENOENT)
    }

    fn doubt(&self, place: &Place, name: &[u8]) {
        place.dir.lock().names().forget_name(place.set, name);
    }

    fn is_open(&self, node: &Node) -> bool {
        node.lock().opens > 0 || self.inode_held(node.gfid).is_some_and(|h| h.pinned)
    }

    /// Removes a name of anything but a directory.
    ///
    /// # Errors
    /// ENOENT, EISDIR, and what the bricks answer.
    pub async fn unlink(&self, parent: Gfid, name: &[u8]) -> Result<(), Errno> {
        for _ in 0..TRIES {
            let place = self.place(parent, name).await?;
            let gfid = self.inode_at(&place, name).await?;
            let node = self.node(gfid);
            let keep = self.is_open(&node);
            let unlink = Unlink { parent, name: bytes(name), expect: gfid, keep };
            let done = match self.ask(unlink, Vec::new()).await {
                Ok(done) => answer!(done, Unlinked)?,
                Err(errno) => {
                    self.doubt(&place, name);
                    match errno {
                        Errno::ESTALE => continue,
                        errno => return Err(errno),
                    }
                }
            };
            self.note_name(&place.dir, place.set, name, None, place.before);
            self.learn_parent(&place.dir, done.parent, place.above);
            self.lost_name(&node, done.nlink, done.attr, place.before);
            return Ok(());
        }
        Err(Errno::ESTALE)
    }

    /// An inode has one name less.
    fn lost_name(&self, node: &Node, nlink: u32, attr: Option<Attr>, before: Before) {
        match attr {
            Some(attr) => {
                let own = before.taken_for(LeaseKey::Inode(node.gfid));
                self.learn_attr_of(node, attr, own, &[]);
            }
            None => self.drop_inode(&mut node.lock()),
        }
        if nlink > 0 {
            return;
        }
        let mut state = node.lock();
        state.orphan = true;
        if state.opens > 0 {
            return;
        }
        self.drop_inode(&mut state);
        if let Some(behind) = state.behind.as_mut() {
            // Nobody can read these bytes any more.
            let bytes = behind.dirty.clear();
            self.dirty_bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// ENOENT, ENOTDIR, ENOTEMPTY, and what the bricks answer.
    pub async fn rmdir(&self, parent: Gfid, name: &[u8]) -> Result<(), Errno> {
        for _ in 0..TRIES {
            let place = self.place(parent, name).await?;
            let gfid = self.inode_at(&place, name).await?;
            let rmdir = Rmdir { parent, name: bytes(name), expect: gfid };
            match self.ask(rmdir, Vec::new()).await {
                Ok(_) => {}
                Err(errno) => {
                    if errno != Errno::ENOTEMPTY {
                        self.doubt(&place, name);
                    }
                    match errno {
                        Errno::ESTALE => continue,
                        errno => return Err(errno),
                    }
                }
            }
            self.note_name(&place.dir, place.set, name, None, place.before);
            // The answer says nothing of the parent: ask when somebody wants to know.
            self.learn_parent(&place.dir, None, place.above);
            let node = self.node(gfid);
            let mut state = node.lock();
            self.drop_inode(&mut state);
            state.names = None;
            return Ok(());
        }
        Err(Errno::ESTALE)
    }

    /// Renames; `flags` are those of renameat2.
    ///
    /// # Errors
    /// EINVAL for flags other than RENAME_NOREPLACE or RENAME_EXCHANGE alone, and what
    /// the bricks answer.
    pub async fn rename(
        &self,
        from: (Gfid, &[u8]),
        to: (Gfid, &[u8]),
        flags: u32,
    ) -> Result<(), Errno> {
        if !matches!(flags, 0 | libc::RENAME_NOREPLACE | libc::RENAME_EXCHANGE) {
            return Err(Errno::EINVAL);
        }
        for _ in 0..TRIES {
            match self.try_rename(from, to, flags).await {
                Err(Errno::ESTALE) => {}
                other => return other,
            }
        }
        Err(Errno::ESTALE)
    }

    async fn try_rename(
        &self,
        (from_parent, from_name): (Gfid, &[u8]),
        (to_parent, to_name): (Gfid, &[u8]),
        flags: u32,
    ) -> Result<(), Errno> {
        let from = self.place(from_parent, from_name).await?;
        let moved = self.inode_at(&from, from_name).await?;
        let to = self.place(to_parent, to_name).await?;
        let there = self.gfid_of(&to.dir, to.set, to_name).await?;
        if flags == libc::RENAME_EXCHANGE && there.is_none() {
            return Err(Errno::ENOENT);
        }
        if flags == libc::RENAME_NOREPLACE && there.is_some() {
            return Err(Errno::EEXIST);
        }
        let keep = there.is_some_and(|g| self.is_open(&self.node(g)));
        let rename = Rename {
            from_parent,
            from_name: bytes(from_name),
            to_parent,
            to_name: bytes(to_name),
            expect_from: moved,
            expect_to: there.unwrap_or(Gfid::NIL),
            flags,
            keep,
        };
        let done = match self.ask(rename, Vec::new()).await {
            Ok(done) => answer!(done, Renamed)?,
            Err(errno) => {
                self.doubt(&from, from_name);
                self.doubt(&to, to_name);
                return Err(errno);
            }
        };
        // Two names of one inode: POSIX leaves both in place.
        if there != Some(moved) {
            let back = if flags == libc::RENAME_EXCHANGE { there } else { None };
            self.note_name(&from.dir, from.set, from_name, back, from.before);
            self.note_name(&to.dir, to.set, to_name, Some(moved), to.before);
            self.note_renamed(&done, moved, there, flags, from.before);
        }
        self.learn_parent(&from.dir, done.from_parent, from.above);
        if from_parent != to_parent {
            self.learn_parent(&to.dir, done.to_parent, to.above);
        }
        Ok(())
    }

    fn note_renamed(
        &self,
        done: &Renamed,
        moved: Gfid,
        there: Option<Gfid>,
        flags: u32,
        before: Before,
    ) {
        let own = |gfid| before.taken_for(LeaseKey::Inode(gfid));
        match done.attr {
            Some(attr) => {
                self.learn_attr(attr, own(moved), &[]);
            }
            None => self.drop_inode(&mut self.node(moved).lock()),
        }
        let Some(gfid) = there else { return };
        let node = self.node(gfid);
        if flags == libc::RENAME_EXCHANGE {
            match done.replaced {
                Some(attr) => {
                    self.learn_attr_of(&node, attr, own(gfid), &[]);
                }
                None => self.drop_inode(&mut node.lock()),
            }
            return;
        }
        let nlink = done.replaced.map_or(0, |a| a.nlink);
        self.lost_name(&node, nlink, done.replaced, before);
    }
}
