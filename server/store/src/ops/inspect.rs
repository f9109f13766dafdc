//! What a heal's source tells: everything of an inode, and the change log.

use bytes::Bytes;
use proto::attr::{Attr, Kind};
use proto::error::Errno;
use proto::fop::{Answer, Changed, ChangedItem, ChangedList, Inspect, Inspected, Return};
use proto::ids::Gfid;

use crate::node::Node;
use crate::plan::ReadPlan;
use crate::store::{Ctx, Store};

impl Store {
    pub(crate) fn inspect(&mut self, a: &Inspect) -> Result<Return, Errno> {
        let node = match self.node(a.gfid) {
            Ok(node) => node,
            Err(Errno::ESTALE) => return Ok(Answer::Inspected(nothing()).into()),
            Err(errno) => return Err(errno),
        };
        let attr = self.attr(&node)?;
        let payload = self.small_content(&node, &attr, a.data_max)?;
        let target = match node.kind {
            Kind::Symlink => self.disk.read_link(node.fd())?.into(),
            _ => Bytes::new(),
        };
        let (parent, name) = match self.db.place(a.gfid)? {
            Some(place) => (place.parent, place.name.into()),
            None => (Gfid::NIL, Bytes::new()),
        };
        // A daemon killed between taking the last name and noting that there is none left.
        let nameless = parent.is_nil() && a.gfid != Gfid::ROOT && self.is_kept(a.gfid)?;
        let image = Inspected {
            found: true,
            attr,
            xattrs: self.xattrs(&node)?,
            target,
            meta: Bytes::copy_from_slice(&node.rec.encode()),
            parent,
            name,
            orphan: node.rec.nlink == 0 || (nameless && self.stat(&node)?.nlink <= 1),
        };
        Ok(Return { answer: Answer::Inspected(image), payload, grants: Vec::new() })
    }

    /// The content of a small file without holes, if no disk has to be waited for.
    fn small_content(&mut self, node: &Node, attr: &Attr, max: u32) -> Result<Bytes, Errno> {
        let dense = attr.blocks * 512 >= attr.size;
        if node.kind != Kind::File || attr.size == 0 || attr.size > max.into() || !dense {
            return Ok(Bytes::new());
        }
        let content = match self.plan_read(node.rec.gfid, 0, attr.size as u32)? {
            ReadPlan::Done(read) => read.payload,
            ReadPlan::Pending(_) => Bytes::new(),
        };
        Ok(if content.len() as u64 == attr.size { content } else { Bytes::new() })
    }

    /// One page of the change log.
    ///
    /// # Errors
    /// The database failed.
    pub fn changed(&mut self, a: &Changed, ctx: &Ctx) -> Result<ChangedList, Errno> {
        let kept = if a.after.is_nil() && !a.rows { self.orphans()? } else { Vec::new() };
        let mut list = self.changes.changed(&self.db, a, &kept)?;
        if a.after.is_nil() && list.items.is_empty() {
            list.current = list.current.max(ctx.interval);
        }
        Ok(list)
    }

    /// The interval into which changes are logged now: the greatest that any call named, and
    /// one more after each `Changed` with `advance`. This is the number for the lead's pings.
    pub fn interval(&self) -> u64 {
        self.changes.current()
    }

    /// First interval for which the log has every change; `u64::MAX` while not known.
    pub fn log_complete_since(&self) -> u64 {
        self.changes.complete_since()
    }

    /// Drops log entries of intervals below `below`: every member has them on disk.
    ///
    /// # Errors
    /// The database failed.
    pub fn trim_log(&mut self, below: u64) -> Result<(), Errno> {
        self.changes.trim(&self.db, below)
    }

    /// A joiner takes over the lead's log, before it is in-sync: in parts, `complete_since` with
    /// the last.
    ///
    /// # Errors
    /// The database failed.
    pub fn take_over_log(
        &mut self,
        items: &[ChangedItem],
        interval: u64,
        complete_since: Option<u64>,
    ) -> Result<(), Errno> {
        self.changes.take_over(&self.db, items, interval, complete_since)
    }
}

fn nothing() -> Inspected {
    Inspected {
        found: false,
        attr: Attr::default(),
        xattrs: Vec::new(),
        target: Bytes::new(),
        meta: Bytes::new(),
        parent: Gfid::NIL,
        name: Bytes::new(),
        orphan: false,
    }
}
