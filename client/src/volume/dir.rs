//! Listings: names in the order of their hashes, so that a position means the same on every
//! replica and a directory may change while it is read.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use proto::fop::{LeaseKey, Mode, READDIR_ENTRIES_MAX, Readdir};
use proto::placement::name_hash;
use proto::{Attr, Errno, Gfid, Kind, SetId};

use super::find::RESERVED_NAME;
use super::node::Node;
use super::remember::Before;
use super::{Found, Volume, answer, bytes, want, want_if_free};
use crate::cache::names::Fetch;
use crate::sync::lock;

/// Cookies below are for `.` and `..`.
pub const COOKIES_RESERVED: u64 = 3;
/// Sorts after every name with the same hash.
const LAST_NAME: [u8; 255] = [0xff; 255];

/// One entry of a listing.
#[derive(Clone, Debug)]
pub struct DirItem {
    pub name: Bytes,
    pub gfid: Gfid,
    pub kind: Kind,
    /// Attributes as the brick gave them; they may have changed since.
    pub attr: Option<Attr>,
    /// Where reading continues after this entry; not below `COOKIES_RESERVED`.
    pub cookie: u64,
}

/// An open directory.
pub struct DirScan {
    node: Arc<Node>,
    /// The last entry taken: hash and name.
    hash: u64,
    name: Bytes,
    items: VecDeque<DirItem>,
    end: bool,
    /// While everything since the beginning was remembered.
    whole: Option<Whole>,
}

/// A listing from the first name on that may make the directory known completely.
struct Whole {
    fetch: Fetch,
    parts: Vec<(SetId, Before)>,
}

impl DirScan {
    pub fn gfid(&self) -> Gfid {
        self.node.gfid
    }

    /// Continues after the entry with this cookie; 0 is the beginning.
    pub fn seek(&mut self, cookie: u64) {
        self.items.clear();
        self.end = false;
        self.stop_whole();
        if cookie < COOKIES_RESERVED {
            (self.hash, self.name) = (0, Bytes::new());
        } else {
            // Cookies are hashes without their lowest bit: two names would have to share 63
            // bits for one to be skipped here, and only in a seek.
            (self.hash, self.name) = (cookie << 1 | 1, Bytes::from_static(&LAST_NAME));
        }
    }

    /// The next entry, if one is at hand.
    pub fn peek(&self) -> Option<&DirItem> {
        self.items.front()
    }

    /// Takes the entry that `peek` showed.
    pub fn take(&mut self) -> Option<DirItem> {
        self.items.pop_front()
    }

    fn stop_whole(&mut self) {
        if let Some(whole) = self.whole.take() {
            self.node.lock().names().end_fetch(whole.fetch);
        }
    }
}

impl Drop for DirScan {
    fn drop(&mut self) {
        self.stop_whole();
    }
}

fn cookie(hash: u64) -> u64 {
    (hash >> 1).max(COOKIES_RESERVED)
}

impl Volume {
    /// Opens a directory for reading.
    ///
    /// # Errors
    /// ENOTDIR, and what the bricks answer.
    pub async fn opendir(&self, gfid: Gfid) -> Result<DirScan, Errno> {
        let (node, _) = self.dir(gfid).await?;
        Ok(DirScan {
            node,
            hash: 0,
            name: Bytes::new(),
            items: VecDeque::new(),
            end: false,
            whole: None,
        })
    }

    /// Sees to it that `peek` shows the next entry; `None` then means the end.
    ///
    /// # Errors
    /// What the bricks answer.
    pub async fn fill(&self, scan: &mut DirScan, plus: bool) -> Result<(), Errno> {
        while scan.items.is_empty() && !scan.end {
            let start = scan.hash == 0 && scan.name.is_empty();
            if start && let Some(items) = self.local_listing(&scan.node, plus) {
                scan.items = items;
                scan.end = true;
                return Ok(());
            }
            if start {
                scan.stop_whole();
                scan.whole = Some(self.begin_whole(&scan.node));
            }
            self.next_page(scan, plus).await?;
        }
        Ok(())
    }

    fn begin_whole(&self, node: &Node) -> Whole {
        let key = LeaseKey::Part(node.gfid);
        let parts = self.sets().into_iter().map(|set| (set, self.before(set, key))).collect();
        Whole { fetch: node.lock().names().begin_fetch(), parts }
    }

    async fn next_page(&self, scan: &mut DirScan, plus: bool) -> Result<(), Errno> {
        let inodes = self.before_unknown();
        let calm = scan.node.lock().recalling == 0;
        let mut wants = Vec::new();
        wants.extend(calm.then(|| want(LeaseKey::Part(scan.gfid()), Mode::Shared)));
        wants.extend(plus.then(|| want_if_free(LeaseKey::Inode(Gfid::NIL), Mode::Shared)));
        let ask = Readdir {
            gfid: scan.gfid(),
            after_hash: scan.hash,
            after_name: scan.name.clone(),
            limit: READDIR_ENTRIES_MAX,
            plus,
        };
        let done = self.ask(ask, wants).await?;
        let grants = done.grants.clone();
        let page = answer!(done, Entries)?;
        scan.end = page.end || page.entries.is_empty();
        if let Some(last) = page.entries.last() {
            (scan.hash, scan.name) = (last.hash, last.name.clone());
        }
        let given: std::collections::HashSet<Gfid> =
            grants.iter().filter(|g| !g.key.part).map(|g| g.key.gfid).collect();
        let root = scan.gfid() == Gfid::ROOT;
        for entry in page.entries {
            if root && entry.name == RESERVED_NAME {
                continue;
            }
            if let Some(attr) = entry.attr
                && given.contains(&entry.gfid)
            {
                self.learn_attr(attr, inodes.taken_for(LeaseKey::Inode(entry.gfid)), &[]);
            }
            scan.items.push_back(DirItem {
                cookie: cookie(entry.hash),
                kind: Kind::try_from(entry.kind).unwrap_or(Kind::Unknown),
                name: entry.name,
                gfid: entry.gfid,
                attr: entry.attr,
            });
        }
        self.learn_page(scan, &grants);
        Ok(())
    }

    /// Remembers the names of a page, and after the last one that there are no others.
    fn learn_page(&self, scan: &mut DirScan, grants: &[proto::fop::Grant]) {
        let Some(whole) = &mut scan.whole else { return };
        let node = &scan.node;
        let key = LeaseKey::Part(node.gfid);
        if super::remember::granted(grants, key) {
            // Granted with the first page: held from then on, whichever set gave it.
            for (set, before) in &mut whole.parts {
                if self.below.held(*set, key).is_some() {
                    *before = before.taken();
                }
            }
        }
        let room = self.names.load(Ordering::Relaxed) < self.config.names_max;
        let buckets = node.buckets().unwrap_or(1);
        let mut state = node.lock();
        let kept = room && whole.parts.iter().all(|(set, b)| self.may_keep(*set, *b, &[]));
        if kept {
            let fetch = whole.fetch;
            for item in &scan.items {
                let set = self.below.set_of_name(node.gfid, buckets, &item.name);
                state.names().learn(fetch, set, &item.name, Some(item.gfid));
            }
            self.names.fetch_add(scan.items.len(), Ordering::Relaxed);
            if scan.end {
                for (set, _) in &whole.parts {
                    state.names().learn_complete(fetch, *set);
                }
            }
        }
        drop(state);
        if !kept || scan.end {
            scan.stop_whole();
        }
    }

    /// The listing of a directory that is known completely, if (for `plus`) nearly all
    /// attributes are known too: a trip for a thousand names is better than many for one each.
    fn local_listing(&self, node: &Node, plus: bool) -> Option<VecDeque<DirItem>> {
        let key = LeaseKey::Part(node.gfid);
        let sets = self.sets();
        let mut found: Vec<(u64, Bytes, Gfid)> = Vec::new();
        {
            let state = node.lock();
            let names = state.names.as_ref()?;
            let known =
                |set: &SetId| names.is_complete(*set) && self.below.held(*set, key).is_some();
            if !sets.iter().all(known) {
                return None;
            }
            for set in &sets {
                found.extend(names.existing(*set).map(|(n, g)| (name_hash(n), bytes(n), g)));
            }
        }
        found.sort_unstable();
        let mut unknown = 0;
        let items: VecDeque<DirItem> = found
            .into_iter()
            .map(|(hash, name, gfid)| {
                let node = self.nodes.get(gfid);
                let attr = node.and_then(|n| self.cached_attr(&n));
                unknown += usize::from(attr.is_none());
                let kind = attr.map_or(Kind::Unknown, |a| a.kind());
                DirItem { name, gfid, kind, attr, cookie: cookie(hash) }
            })
            .collect();
        (unknown == 0 || (plus && unknown * 1000 < items.len())).then_some(items)
    }

    /// An entry for the kernel: attributes only under a lease, with how long both they and the
    /// name may be believed.
    pub fn tell_item(&self, scan: &DirScan, item: &DirItem) -> Option<(Found, Duration)> {
        let node = self.nodes.get(item.gfid)?;
        let attr = self.cached_attr(&node)?;
        let attr_ttl = self.tell_attr(&node);
        let buckets = scan.node.buckets().unwrap_or(1);
        let set = self.below.set_of_name(scan.gfid(), buckets, &item.name);
        let name_ttl = match self.cached_name(&scan.node, set, &item.name) {
            crate::cache::names::Look::Is(gfid) if gfid == item.gfid => {
                self.tell_name(&scan.node, set, &item.name)
            }
            _ => Duration::ZERO,
        };
        Some((Found { attr, attr_ttl }, name_ttl))
    }

    /// Inodes with bytes that are not yet on the bricks.
    pub fn dirty_inodes(&self) -> usize {
        lock(&self.dirty).len()
    }
}
