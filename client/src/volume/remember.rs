//! When an answer may be remembered.
//!
//! Three things together: the lease was held when the question was sent, or came with the
//! answer; it was not recalled since; it is held now. The last two are looked at under the
//! inode's lock, and a recall is noted before it takes that lock, so nothing slips between.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use proto::fop::{Grant, LeaseKey, Mode};
use proto::{Attr, Gfid, SetId};

use super::Volume;
use super::node::{Node, State};
use crate::cache::recalls::Moment;
use crate::layer::Held;

/// Taken before a question is sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Before {
    moment: Moment,
    key: LeaseKey,
    held: bool,
}

impl Before {
    /// For a change, which takes the lease it needs by itself: held since then at the latest.
    pub fn taken(self) -> Before {
        Before { held: true, ..self }
    }

    /// The same moment for another key, whose lease a change takes.
    pub fn taken_for(self, key: LeaseKey) -> Before {
        Before { held: true, key, ..self }
    }
}

impl Volume {
    pub(super) fn before(&self, set: SetId, key: LeaseKey) -> Before {
        // The moment first: a recall between the two then counts as "since".
        let moment = self.recalls.now();
        Before { moment, key, held: self.below.held(set, key).is_some() }
    }

    /// For a question whose answer shows inodes that nobody knew before.
    pub(super) fn before_unknown(&self) -> Before {
        Before { moment: self.recalls.now(), key: LeaseKey::Inode(Gfid::NIL), held: false }
    }

    /// Whether an answer about `before`'s key may be remembered. To be asked with the inode's
    /// state locked.
    pub(super) fn may_keep(&self, set: SetId, before: Before, grants: &[Grant]) -> bool {
        (before.held || granted(grants, before.key))
            && self.recalls.none_since(before.moment, before.key)
            && self.below.held(set, before.key).is_some()
    }

    pub(super) fn recalls_none_since(&self, before: &Before) -> bool {
        self.recalls.none_since(before.moment, before.key)
    }

    fn may_keep_inode(&self, gfid: Gfid, before: Before, grants: &[Grant]) -> bool {
        let key = LeaseKey::Inode(gfid);
        let held = before.held && before.key == key;
        self.may_keep(self.below.set_of_inode(gfid), Before { key, held, ..before }, grants)
    }

    /// Remembers an inode's attributes from an answer, if a lease allows it; answers them as
    /// applications see them.
    pub(super) fn learn_attr(&self, attr: Attr, before: Before, grants: &[Grant]) -> Attr {
        let node = self.node(attr.gfid);
        self.learn_attr_of(&node, attr, before, grants)
    }

    pub(super) fn learn_attr_of(
        &self,
        node: &Node,
        attr: Attr,
        before: Before,
        grants: &[Grant],
    ) -> Attr {
        node.learn_kind(&attr);
        let mut state = node.lock();
        if self.may_keep_inode(attr.gfid, before, grants) {
            self.note(&mut state, attr);
            return state.shown().unwrap_or(attr);
        }
        // Not to be remembered, but buffered bytes still show in this answer.
        let kept = state.attr.replace(attr);
        let shown = state.shown().unwrap_or(attr);
        state.attr = kept;
        shown
    }

    /// Takes in attributes and drops data that is not of their stamp.
    pub(super) fn note(&self, state: &mut State, attr: Attr) {
        let old = state.attr.map(|a| a.stamp);
        state.note(attr);
        if state.attr.map(|a| a.stamp) != old {
            self.drop_data(state);
        }
    }

    /// Attributes of a directory after a change of its names by this mount. Without them what
    /// is known of it is outdated.
    pub(super) fn learn_parent(&self, dir: &Node, attr: Option<Attr>, before: Before) {
        match attr {
            Some(attr) => {
                self.learn_attr_of(dir, attr, before, &[]);
            }
            None => dir.lock().attr = None,
        }
    }

    /// Remembers the whole data of a small file under the attributes just learnt.
    pub(super) fn learn_data(&self, attr: &Attr, data: Bytes) {
        let node = self.node(attr.gfid);
        let mut state = node.lock();
        let same = state.attr.is_some_and(|a| a.stamp == attr.stamp && a.size == attr.size);
        if same && data.len() as u64 == attr.size && !state.is_dirty() {
            self.keep_data(&mut state, data);
        }
    }

    pub(super) fn keep_data(&self, state: &mut State, data: Bytes) {
        self.drop_data(state);
        let len = data.len() as i64;
        if self.clean_bytes.load(Ordering::Relaxed) + len > self.config.clean_bytes_max {
            return;
        }
        self.clean_bytes.fetch_add(len, Ordering::Relaxed);
        state.data = Some(data);
    }

    pub(super) fn drop_data(&self, state: &mut State) {
        if let Some(data) = state.data.take() {
            self.clean_bytes.fetch_sub(data.len() as i64, Ordering::Relaxed);
        }
    }

    /// Drops everything that the inode's lease guarded.
    pub(super) fn drop_inode(&self, state: &mut State) {
        state.attr = None;
        state.xattrs = Default::default();
        state.told = None;
        self.drop_data(state);
    }

    /// The lease on an inode, if it is held now.
    pub(super) fn inode_held(&self, gfid: Gfid) -> Option<Held> {
        self.below.held(self.below.set_of_inode(gfid), LeaseKey::Inode(gfid))
    }

    pub(super) fn exclusive(&self, gfid: Gfid) -> bool {
        self.inode_held(gfid).is_some_and(|h| h.mode == Mode::Exclusive)
    }

    /// How long the kernel may believe attributes, noted so that a recall can wait for it.
    pub(super) fn tell_attr(&self, node: &Arc<Node>) -> Duration {
        let Some(held) = self.inode_held(node.gfid) else { return Duration::ZERO };
        let mut state = node.lock();
        // A recall may have come since: what it did not find written down it does not undo.
        if state.attr.is_none() || state.recalling > 0 {
            return Duration::ZERO;
        }
        state.told = state.told.max(Some(held.until));
        super::kernel_time(held.until, Instant::now())
    }
}

pub(super) fn granted(grants: &[Grant], key: LeaseKey) -> bool {
    grants.iter().any(|g| LeaseKey::from(g.key) == key && g.mode != Mode::None as i32)
}
