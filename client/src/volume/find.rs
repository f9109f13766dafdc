//! Names and attributes.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use proto::fop::{Getattr, LeaseKey, Lookup, Mode, Readlink};
use proto::{Attr, Errno, Gfid, SetId};

use super::node::Node;
use super::{Volume, answer, bytes, want};
use crate::cache::names::Look;

/// Lookups in a row that bring data along without anybody reading it, before they stop to.
pub(super) const DATA_BETS: i64 = 32;
/// One lookup in so many tries again.
const DATA_RETRY: i64 = 16;
/// The kernel is told of a name for no longer than this, however long the lease runs: a recall
/// may have to wait until that time is over (`keeper`), and is overdue after 500 ms. Asking
/// again costs a word with this process, no trip.
const NAME_TOLD_MAX: Duration = Duration::from_millis(250);
/// Entry of the root that belongs to the bricks.
pub(super) const RESERVED_NAME: &[u8] = b".brickwork";

/// An inode and how long its attributes may be believed without asking again.
#[derive(Clone, Copy, Debug)]
pub struct Found {
    pub attr: Attr,
    pub attr_ttl: Duration,
}

/// What a name stands for, and how long that may be believed.
#[derive(Clone, Copy, Debug)]
pub enum Looked {
    Entry { found: Found, name_ttl: Duration },
    Absent { name_ttl: Duration },
}

impl Looked {
    /// # Errors
    /// ENOENT when there is no such name.
    pub fn found(self) -> Result<Found, Errno> {
        match self {
            Looked::Entry { found, .. } => Ok(found),
            Looked::Absent { .. } => Err(Errno::ENOENT),
        }
    }
}

impl Volume {
    /// Attributes of an inode, buffered writes included.
    ///
    /// # Errors
    /// ESTALE or ENOENT when the inode is gone, and what the bricks answer.
    pub async fn getattr(&self, gfid: Gfid) -> Result<Found, Errno> {
        let node = self.node(gfid);
        let attr = match self.cached_attr(&node) {
            Some(attr) => attr,
            None => self.fetch_attr(&node).await?,
        };
        Ok(Found { attr, attr_ttl: self.tell_attr(&node) })
    }

    /// Attributes under a lease that is held, or `None`.
    pub(super) fn cached_attr(&self, node: &Node) -> Option<Attr> {
        let state = node.lock();
        let shown = state.shown()?;
        self.inode_held(node.gfid).map(|_| shown)
    }

    pub(super) async fn fetch_attr(&self, node: &Node) -> Result<Attr, Errno> {
        let key = LeaseKey::Inode(node.gfid);
        let before = self.before(self.below.set_of_inode(node.gfid), key);
        let open = node.lock().opens > 0;
        let wish = proto::fop::Want { open, ..want(key, Mode::Shared) };
        let done = self.ask(Getattr { gfid: node.gfid }, vec![wish]).await?;
        let grants = done.grants.clone();
        Ok(self.learn_attr_of(node, answer!(done, Attr)?, before, &grants))
    }

    /// The attributes, cached or fetched.
    pub(super) async fn attr_of(&self, node: &Node) -> Result<Attr, Errno> {
        match self.cached_attr(node) {
            Some(attr) => Ok(attr),
            None => self.fetch_attr(node).await,
        }
    }

    /// A directory's node with its buckets known.
    pub(super) async fn dir(&self, gfid: Gfid) -> Result<(Arc<Node>, u32), Errno> {
        let node = self.node(gfid);
        if let Some(buckets) = node.buckets() {
            return Ok((node, buckets));
        }
        self.fetch_attr(&node).await?;
        let buckets = node.buckets().ok_or(Errno::ENOTDIR)?;
        Ok((node, buckets))
    }

    /// The directory, checked for names that no caller may use.
    pub(super) async fn dir_for(
        &self,
        parent: Gfid,
        name: &[u8],
    ) -> Result<(Arc<Node>, SetId), Errno> {
        if parent == Gfid::ROOT && name == RESERVED_NAME {
            return Err(Errno::EPERM);
        }
        proto::fop::check_name(name)?;
        let (dir, buckets) = self.dir(parent).await?;
        let set = self.below.set_of_name(parent, buckets, name);
        Ok((dir, set))
    }

    /// Finds a name.
    ///
    /// # Errors
    /// ENOTDIR, ENAMETOOLONG, and what the bricks answer; not ENOENT for a missing name.
    pub async fn lookup(&self, parent: Gfid, name: &[u8]) -> Result<Looked, Errno> {
        let (dir, set) = self.dir_for(parent, name).await?;
        let gfid = match self.cached_name(&dir, set, name) {
            Look::Is(gfid) => gfid,
            Look::Absent => {
                return Ok(Looked::Absent { name_ttl: self.tell_name(&dir, set, name) });
            }
            Look::Unknown => {
                let along = self.bet_on_data();
                let Some(attr) = self.fetch_name(&dir, set, name, along).await? else {
                    return Ok(Looked::Absent { name_ttl: self.tell_name(&dir, set, name) });
                };
                let found = Found { attr, attr_ttl: self.tell_attr(&self.node(attr.gfid)) };
                let name_ttl = self.tell_name(&dir, set, name);
                return Ok(Looked::Entry { found, name_ttl });
            }
        };
        match self.getattr(gfid).await {
            Ok(found) => Ok(Looked::Entry { found, name_ttl: self.tell_name(&dir, set, name) }),
            // The name was removed elsewhere since it was looked at.
            Err(Errno::ENOENT | Errno::ESTALE) => Ok(Looked::Absent { name_ttl: Duration::ZERO }),
            Err(errno) => Err(errno),
        }
    }

    /// What the cache says about a name under a lease that is held.
    pub(super) fn cached_name(&self, dir: &Node, set: SetId, name: &[u8]) -> Look {
        let state = dir.lock();
        let look = state.names.as_ref().map_or(Look::Unknown, |n| n.look(set, name));
        if look == Look::Unknown || self.below.held(set, LeaseKey::Part(dir.gfid)).is_none() {
            return Look::Unknown;
        }
        look
    }

    /// The inode that a name stands for, cheapest way; ENOENT when none.
    pub(super) async fn gfid_of(
        &self,
        dir: &Node,
        set: SetId,
        name: &[u8],
    ) -> Result<Option<Gfid>, Errno> {
        match self.cached_name(dir, set, name) {
            Look::Is(gfid) => Ok(Some(gfid)),
            Look::Absent => Ok(None),
            Look::Unknown => Ok(self.fetch_name(dir, set, name, 0).await?.map(|a| a.gfid)),
        }
    }

    /// Asks the bricks for a name and remembers the answer.
    async fn fetch_name(
        &self,
        dir: &Node,
        set: SetId,
        name: &[u8],
        data_bytes_max: u32,
    ) -> Result<Option<Attr>, Errno> {
        let part = LeaseKey::Part(dir.gfid);
        let (before, inodes) = (self.before(set, part), self.before_unknown());
        let (fetch, calm) = {
            let mut state = dir.lock();
            (state.names().begin_fetch(), state.recalling == 0)
        };
        // While the part is being given back, wishing for it would make this lookup wait for
        // the one it is given to, and our recall wait for this lookup (in the kernel).
        let mut wants = vec![want(LeaseKey::Inode(Gfid::NIL), Mode::Shared)];
        wants.extend(calm.then(|| want(part, Mode::Shared)));
        let lookup = Lookup { parent: dir.gfid, name: bytes(name), data_bytes_max };
        let done = self.ask(lookup, wants).await;
        let gfid = match &done {
            Ok(done) => match &done.answer {
                proto::fop::Answer::Entry(entry) => Some(Some(entry.attr.gfid)),
                _ => None,
            },
            Err(Errno::ENOENT) => Some(None),
            Err(_) => None,
        };
        {
            let mut state = dir.lock();
            let grants = done.as_ref().map_or(&[][..], |d| &d.grants);
            if let Some(gfid) = gfid
                && self.may_keep(set, before, grants)
                && state.names().learn(fetch, set, name, gfid)
            {
                self.names.fetch_add(1, Ordering::Relaxed);
            }
            state.names().end_fetch(fetch);
        }
        let done = match done {
            Err(Errno::ENOENT) => return Ok(None),
            other => other?,
        };
        let (payload, grants) = (done.payload.clone(), done.grants.clone());
        let entry = answer!(done, Entry)?;
        let attr = self.learn_attr(entry.attr, inodes, &grants);
        if entry.with_data && data_bytes_max > 0 {
            self.data_bet.fetch_sub(1, Ordering::Relaxed);
            self.learn_data(&entry.attr, payload);
        }
        Ok(Some(attr))
    }

    /// How much data a lookup may bring along: none when nobody read such data lately (a
    /// `find`, a backup's scan).
    fn bet_on_data(&self) -> u32 {
        let bet = self.data_bet.load(Ordering::Relaxed);
        if bet > 0 {
            return self.config.data_along_max;
        }
        let again = self.data_bet.fetch_sub(1, Ordering::Relaxed) % DATA_RETRY == 0;
        if again { self.config.data_along_max } else { 0 }
    }

    /// How long the kernel may believe what it is told of a name.
    pub(super) fn tell_name(&self, dir: &Node, set: SetId, name: &[u8]) -> Duration {
        let Some(held) = self.below.held(set, LeaseKey::Part(dir.gfid)) else {
            return Duration::ZERO;
        };
        let now = Instant::now();
        let mut state = dir.lock();
        let calm = state.recalling == 0;
        let Some(names) = state.names.as_mut() else { return Duration::ZERO };
        let contended = names.contended_until.is_some_and(|t| t > now);
        if contended || !calm || names.look(set, name) == Look::Unknown {
            return Duration::ZERO;
        }
        let until = held.until.min(now + NAME_TOLD_MAX);
        names.tell(set, name, until);
        super::kernel_time(until, now)
    }

    /// Target of a symbolic link, which never changes.
    ///
    /// # Errors
    /// EINVAL when it is none, and what the bricks answer.
    pub async fn readlink(&self, gfid: Gfid) -> Result<Bytes, Errno> {
        let node = self.node(gfid);
        if let Some(target) = self.cached_data(&node) {
            return Ok(target);
        }
        let done = self.ask(Readlink { gfid }, Vec::new()).await?;
        let target = answer!(done, Value)?.bytes;
        let mut state = node.lock();
        if state.attr.is_some() {
            self.keep_data(&mut state, target.clone());
        }
        Ok(target)
    }

    /// The whole content of a small file (or a link's target) under a lease that is held.
    pub(super) fn cached_data(&self, node: &Node) -> Option<Bytes> {
        let state = node.lock();
        let data = state.data.clone()?;
        self.inode_held(node.gfid)?;
        self.data_bet.store(DATA_BETS, Ordering::Relaxed);
        Some(data)
    }
}
