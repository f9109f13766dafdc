//! Extended attributes, remembered under the inode's lease: the kernel asks for access lists
//! and capabilities of nearly every inode, and nearly none has any.

use bytes::Bytes;
use proto::fop::{
    Getxattr, INTERNAL_XATTR_ERRNO, LeaseKey, Listxattr, Mode, Removexattr, Setxattr,
    is_internal_xattr,
};
use proto::{Errno, Gfid};

use super::acl::{ACCESS, Acl};
use super::node::Node;
use super::remember::Before;
use super::{Volume, answer, bytes, want_if_free};

/// Values remembered per inode.
const VALUES_MAX: usize = 16;
/// Longest value remembered.
const VALUE_BYTES_MAX: usize = 4096;

impl Volume {
    /// # Errors
    /// ENODATA when there is none, and what the bricks answer.
    pub async fn getxattr(&self, gfid: Gfid, name: &[u8]) -> Result<Bytes, Errno> {
        if is_internal_xattr(name) {
            return Err(Errno::ENODATA);
        }
        self.xattr_known(&self.node(gfid), name).await?.ok_or(Errno::ENODATA)
    }

    /// A value, or `None` for none; from memory if possible.
    pub(super) async fn xattr_known(
        &self,
        node: &Node,
        name: &[u8],
    ) -> Result<Option<Bytes>, Errno> {
        if let Some(known) = self.cached_xattr(node, name) {
            return Ok(known);
        }
        // Most inodes have none: one question settles that for all names.
        let names = self.fetch_xattr_names(node).await?;
        if !names.iter().any(|n| n == name) {
            return Ok(None);
        }
        let before = self.before_inode(node);
        let wish = want_if_free(LeaseKey::Inode(node.gfid), Mode::Shared);
        let ask = Getxattr { gfid: node.gfid, name: bytes(name) };
        let done = match self.ask(ask, vec![wish]).await {
            Err(Errno::ENODATA) => return Ok(None),
            other => other?,
        };
        let grants = done.grants.clone();
        let value = answer!(done, Value)?.bytes;
        let mut state = node.lock();
        let set = self.below.set_of_inode(node.gfid);
        let small = value.len() <= VALUE_BYTES_MAX && state.xattrs.known.len() < VALUES_MAX;
        if small && self.may_keep(set, before, &grants) {
            state.xattrs.known.insert(name.into(), Some(value.clone()));
        }
        Ok(Some(value))
    }

    fn cached_xattr(&self, node: &Node, name: &[u8]) -> Option<Option<Bytes>> {
        let state = node.lock();
        let known = match state.xattrs.known.get(name) {
            Some(known) => known.clone(),
            None if state.xattrs.complete => None,
            None => return None,
        };
        self.inode_held(node.gfid).map(|_| known)
    }

    fn before_inode(&self, node: &Node) -> Before {
        self.before(self.below.set_of_inode(node.gfid), LeaseKey::Inode(node.gfid))
    }

    async fn fetch_xattr_names(&self, node: &Node) -> Result<Vec<Bytes>, Errno> {
        let before = self.before_inode(node);
        let wish = want_if_free(LeaseKey::Inode(node.gfid), Mode::Shared);
        let done = self.ask(Listxattr { gfid: node.gfid }, vec![wish]).await?;
        let grants = done.grants.clone();
        let names = answer!(done, Names)?.names;
        let mut state = node.lock();
        let set = self.below.set_of_inode(node.gfid);
        if names.is_empty() && self.may_keep(set, before, &grants) {
            state.xattrs.known.clear();
            state.xattrs.complete = true;
        } else if self.may_keep(set, before, &grants) {
            // The list is not kept, but what the kernel asks for all the time is.
            for asked in [ACCESS, super::acl::DEFAULT, b"security.capability"] {
                if !names.iter().any(|n| n == asked) {
                    state.xattrs.known.insert(asked.into(), None);
                }
            }
        }
        Ok(names)
    }

    /// Names of all extended attributes but our own.
    ///
    /// # Errors
    /// What the bricks answer.
    pub async fn listxattr(&self, gfid: Gfid) -> Result<Vec<Bytes>, Errno> {
        let node = self.node(gfid);
        {
            let state = node.lock();
            if state.xattrs.complete && self.inode_held(gfid).is_some() {
                let there = state.xattrs.known.iter().filter(|(_, v)| v.is_some());
                return Ok(there.map(|(n, _)| bytes(n)).collect());
            }
        }
        let mut names = self.fetch_xattr_names(&node).await?;
        names.retain(|n| !is_internal_xattr(n));
        Ok(names)
    }

    /// Sets a value; `flags` are those of setxattr(2).
    ///
    /// # Errors
    /// EPERM for our own names, EINVAL for a malformed access list, EEXIST, ENODATA, and
    /// what the bricks answer.
    pub async fn setxattr(
        &self,
        gfid: Gfid,
        name: &[u8],
        value: Bytes,
        flags: u32,
    ) -> Result<(), Errno> {
        if is_internal_xattr(name) {
            return Err(INTERNAL_XATTR_ERRNO);
        }
        let mut mode = None;
        if name == ACCESS {
            let (permissions, list) = Acl::parse(&value).ok_or(Errno::EINVAL)?.access();
            let node = self.node(gfid);
            let special = self.attr_of(&node).await?.mode & 0o7000;
            if list.is_none() {
                // The bits say it all: no list is kept.
                return self.set_plain_access(gfid, special | permissions).await;
            }
            mode = Some(special | permissions);
        }
        let fop = Setxattr { gfid, name: bytes(name), value: value.clone(), flags, mode };
        self.change_xattr(gfid, fop.into(), name, Some(value), mode.is_some()).await
    }

    async fn set_plain_access(&self, gfid: Gfid, mode: u32) -> Result<(), Errno> {
        match self.removexattr(gfid, ACCESS).await {
            Ok(()) | Err(Errno::ENODATA) => {}
            Err(errno) => return Err(errno),
        }
        let set = super::SetAttributes { mode: Some(mode), ..Default::default() };
        self.setattr(gfid, set).await.map(|_| ())
    }

    /// # Errors
    /// ENODATA when there is none, EPERM for our own names, and what the bricks answer.
    pub async fn removexattr(&self, gfid: Gfid, name: &[u8]) -> Result<(), Errno> {
        if is_internal_xattr(name) {
            return Err(INTERNAL_XATTR_ERRNO);
        }
        let fop = Removexattr { gfid, name: bytes(name) };
        self.change_xattr(gfid, fop.into(), name, None, false).await
    }

    async fn change_xattr(
        &self,
        gfid: Gfid,
        fop: proto::fop::Fop,
        name: &[u8],
        value: Option<Bytes>,
        mode: bool,
    ) -> Result<(), Errno> {
        let node = self.node(gfid);
        self.flush_node(&node).await;
        let before = self.before_inode(&node);
        let done = self.ask(fop, Vec::new()).await;
        let mut state = node.lock();
        // The answer tells no attributes: time of change and mode are asked for when needed.
        state.attr = None;
        let set = self.below.set_of_inode(gfid);
        let small = value.as_ref().is_none_or(|v| v.len() <= VALUE_BYTES_MAX);
        if done.is_ok() && small && !mode && self.may_keep(set, before.taken(), &[]) {
            state.xattrs.known.insert(name.into(), value);
        } else {
            state.xattrs = Default::default();
        }
        done.map(|_| ())
    }
}
