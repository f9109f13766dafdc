//! The change log: which inodes changed in which 10-second interval, and what of them.
//!
//! Keys are (interval, gfid), values are merged by union, so logging is one blind write and
//! never a read. What was logged in the current interval is remembered, so that a hot file or
//! directory is logged once per interval however often it changes. The log is written before
//! the change is made: an entry without a change costs a comparison, a change without an
//! entry would be lost to a joiner.
//!
//! Promises: an entry for every change since `complete_since`. A lost database or a power
//! loss moves that mark up; an older question is answered with "compare everything".

use std::collections::{BTreeMap, HashMap};

use proto::error::Errno;
use proto::fop::{BLOCK_BYTES, Changed, ChangedItem, ChangedList, Touch};
use proto::ids::Gfid;
use rocksdb::{MergeOperands, WriteBatch};

use crate::db::{CF_LOG, Db};

/// Bytes of one extent: a block of the heal's comparison, so that no more is compared than what
/// was written to.
const EXTENT_SHIFT: u32 = BLOCK_BYTES.trailing_zeros();
/// Above this many extents (256 MiB) of one inode in an interval the whole file is compared.
const EXTENTS_MAX: usize = 2048;
/// Extents in values without the bit `BLOCKS` are of 1 MiB: so many of ours.
const COARSE: u64 = 8;
/// Extents in one answer: an answer is a message of at most 1 MiB.
const PAGE_EXTENTS_MAX: usize = 64 * 1024;
/// Inodes remembered as logged; beyond it they are logged again, which is harmless.
const SEEN_MAX: usize = 65_536;
/// Most items in one answer to `Changed`.
const PAGE_MAX: u32 = 4096;
const COMPLETE_SINCE: &str = "log.complete-since";

const NAMES: u8 = 1;
const ATTRS: u8 = 2;
const ALL_DATA: u8 = 4;
/// Of a value only: its extents are of `BLOCK_BYTES`.
const BLOCKS: u8 = 8;

/// What changed of one inode.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Delta {
    bits: u8,
    /// Ascending; empty when `ALL_DATA` is set.
    extents: Vec<u64>,
}

impl Delta {
    fn of(touch: &Touch) -> Delta {
        match *touch {
            Touch::Name { .. } => Delta { bits: NAMES, extents: Vec::new() },
            Touch::Attrs(_) => Delta { bits: ATTRS, extents: Vec::new() },
            Touch::Range { start, end, .. } if start < end => {
                let (first, last) = (start >> EXTENT_SHIFT, (end - 1) >> EXTENT_SHIFT);
                if last - first >= EXTENTS_MAX as u64 {
                    return Delta { bits: ALL_DATA, extents: Vec::new() };
                }
                Delta { bits: 0, extents: (first..=last).collect() }
            }
            Touch::Range { .. } => Delta::default(),
        }
    }

    fn covers(&self, other: &Delta) -> bool {
        other.bits & !self.bits == 0
            && (self.bits & ALL_DATA != 0
                || other.extents.iter().all(|x| self.extents.binary_search(x).is_ok()))
    }

    fn merge(&mut self, other: &Delta) {
        self.bits |= other.bits;
        if self.bits & ALL_DATA == 0 {
            for x in &other.extents {
                if let Err(at) = self.extents.binary_search(x) {
                    self.extents.insert(at, *x);
                }
            }
            if self.extents.len() > EXTENTS_MAX {
                self.bits |= ALL_DATA;
            }
        }
        if self.bits & ALL_DATA != 0 {
            self.extents.clear();
        }
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(1 + 8 * self.extents.len());
        out.push(self.bits | BLOCKS);
        self.extents.iter().for_each(|x| out.extend_from_slice(&x.to_le_bytes()));
        out
    }

    /// A value that cannot be read means "everything", never "nothing".
    fn decode(bytes: &[u8]) -> Delta {
        let Some((bits, extents)) = bytes.split_first() else { return Delta::everything() };
        if extents.len() % 8 != 0 || extents.len() / 8 > EXTENTS_MAX {
            return Delta::everything();
        }
        let number = |x: &[u8]| u64::from_le_bytes(x.try_into().expect("chunks of eight"));
        let extents = extents.chunks_exact(8).map(number);
        let extents: Vec<u64> = match bits & BLOCKS {
            0 => extents.flat_map(|x| (0..COARSE).map(move |n| x * COARSE + n)).collect(),
            _ => extents.collect(),
        };
        Delta { bits: bits & !BLOCKS, extents }
    }

    fn everything() -> Delta {
        Delta { bits: NAMES | ATTRS | ALL_DATA, extents: Vec::new() }
    }

    fn from_item(item: &ChangedItem) -> Delta {
        let bit = |on: bool, bit: u8| if on { bit } else { 0 };
        let bits = bit(item.names, NAMES) | bit(item.attrs, ATTRS) | bit(item.all_data, ALL_DATA);
        let mut delta = Delta { bits, extents: Vec::new() };
        let mut extents = item.extents.clone();
        extents.sort_unstable();
        extents.dedup();
        delta.merge(&Delta { bits: 0, extents });
        delta
    }

    fn item(&self, gfid: Gfid, interval: u64) -> ChangedItem {
        ChangedItem {
            gfid,
            names: self.bits & NAMES != 0,
            attrs: self.bits & ATTRS != 0,
            extents: self.extents.clone(),
            all_data: self.bits & ALL_DATA != 0,
            interval,
        }
    }
}

/// RocksDB's merge: the union of all deltas.
pub fn merge_deltas(_key: &[u8], old: Option<&[u8]>, new: &MergeOperands) -> Option<Vec<u8>> {
    let mut all = old.map(Delta::decode).unwrap_or_default();
    new.iter().for_each(|delta| all.merge(&Delta::decode(delta)));
    Some(all.encode())
}

fn key(interval: u64, gfid: Gfid) -> [u8; 24] {
    let mut key = [0; 24];
    key[..8].copy_from_slice(&interval.to_be_bytes());
    key[8..].copy_from_slice(&gfid.0);
    key
}

fn parse_key(bytes: &[u8]) -> Option<(u64, Gfid)> {
    let (interval, gfid) = bytes.split_at_checked(8)?;
    Some((u64::from_be_bytes(interval.try_into().ok()?), Gfid::from_slice(gfid)?))
}

/// Merged entries since an interval, kept between the pages of one question.
struct Snapshot {
    since: u64,
    taken_at: u64,
    /// With the newest interval of each.
    items: BTreeMap<Gfid, (Delta, u64)>,
}

pub struct ChangeLog {
    interval: u64,
    seen: HashMap<Gfid, Delta>,
    /// `None`: from the interval after the first one logged.
    complete_since: Option<u64>,
    entries: usize,
    entries_max: usize,
    snapshot: Option<Snapshot>,
}

impl ChangeLog {
    /// A log that has been there from the brick's first change.
    pub fn begin(db: &Db, entries_max: usize) -> Result<ChangeLog, Errno> {
        db.put_fact(COMPLETE_SINCE, &0_u64.to_le_bytes(), true)?;
        Ok(Self::with(Some(0), 0, entries_max))
    }

    /// The log as it was left; `gap` when entries may be missing from its end.
    pub fn open(db: &Db, entries_max: usize, gap: bool) -> Result<ChangeLog, Errno> {
        let stored = db.fact(COMPLETE_SINCE)?.and_then(|b| b.try_into().ok());
        let complete_since = stored.map(u64::from_le_bytes).filter(|_| !gap);
        if complete_since.is_none() {
            // Durable before anything is logged: a second crash must not bring the old mark back.
            db.put_fact(COMPLETE_SINCE, &[], true)?;
        }
        let (mut entries, mut interval) = (0, 0);
        db.scan(CF_LOG, &[], |k, _| {
            entries += 1;
            interval = parse_key(k).map_or(interval, |(interval, _)| interval);
            true
        })?;
        // On from where it was: a closed interval stays closed over a restart.
        Ok(ChangeLog { interval, ..Self::with(complete_since, entries, entries_max) })
    }

    fn with(complete_since: Option<u64>, entries: usize, entries_max: usize) -> ChangeLog {
        ChangeLog {
            interval: 0,
            seen: HashMap::new(),
            complete_since,
            entries,
            entries_max,
            snapshot: None,
        }
    }

    /// First interval for which an entry exists for every change; `u64::MAX` when not known yet.
    pub fn complete_since(&self) -> u64 {
        self.complete_since.unwrap_or(u64::MAX)
    }

    /// Adds to `batch` what has not been logged in this interval yet.
    pub fn add(
        &mut self,
        db: &Db,
        batch: &mut WriteBatch,
        interval: u64,
        touches: &[Touch],
    ) -> Result<(), Errno> {
        self.enter(db, interval)?;
        for touch in touches {
            let gfid = touch.gfid();
            if !gfid.is_nil() {
                self.add_delta(db, batch, gfid, &Delta::of(touch));
            }
        }
        Ok(())
    }

    fn add_delta(&mut self, db: &Db, batch: &mut WriteBatch, gfid: Gfid, delta: &Delta) {
        if *delta == Delta::default() {
            return;
        }
        if self.seen.len() >= SEEN_MAX {
            self.seen.clear();
        }
        match self.seen.get_mut(&gfid) {
            Some(logged) if logged.covers(delta) => return,
            Some(logged) => logged.merge(delta),
            None => {
                self.seen.insert(gfid, delta.clone());
                self.entries += 1;
            }
        }
        batch.merge_cf(db.family(CF_LOG), key(self.interval, gfid), delta.encode());
    }

    /// Forgets what is remembered as logged: the batch was not written.
    pub fn batch_lost(&mut self) {
        self.seen.clear();
    }

    fn enter(&mut self, db: &Db, interval: u64) -> Result<(), Errno> {
        // Intervals never go back: a change is filed where it is applied, not where it began.
        if interval > self.interval {
            self.interval = interval;
            self.seen.clear();
            if self.entries > self.entries_max {
                self.shed(db)?;
            }
        }
        if self.complete_since.is_none() {
            self.set_complete_since(db, self.interval + 1)?;
        }
        Ok(())
    }

    fn set_complete_since(&mut self, db: &Db, interval: u64) -> Result<(), Errno> {
        db.put_fact(COMPLETE_SINCE, &interval.to_le_bytes(), true)?;
        self.complete_since = Some(interval);
        Ok(())
    }

    /// Over the size bound: drops the older half and says so.
    fn shed(&mut self, db: &Db) -> Result<(), Errno> {
        let (mut passed, mut cut) = (0, self.interval);
        let half = self.entries / 2;
        db.scan(CF_LOG, &[], |k, _| {
            passed += 1;
            cut = parse_key(k).map_or(cut, |(interval, _)| interval);
            passed <= half
        })?;
        tracing::warn!(below = cut, entries = self.entries, "change log over its bound: cut");
        self.cut(db, cut)
    }

    /// Drops all entries of intervals below `below`.
    pub fn trim(&mut self, db: &Db, below: u64) -> Result<(), Errno> {
        if self.complete_since.is_none_or(|since| since >= below) {
            return Ok(());
        }
        self.cut(db, below.min(self.interval))
    }

    fn cut(&mut self, db: &Db, below: u64) -> Result<(), Errno> {
        if self.complete_since.is_some_and(|since| since < below) {
            self.set_complete_since(db, below)?;
        }
        let mut batch = WriteBatch::default();
        batch.delete_range_cf(db.family(CF_LOG), key(0, Gfid::NIL), key(below, Gfid::NIL));
        db.write(batch, false)?;
        let mut entries = 0;
        db.scan(CF_LOG, &[], |_, _| {
            entries += 1;
            true
        })?;
        self.entries = entries;
        self.snapshot = None;
        Ok(())
    }

    /// A joiner takes over the lead's log, each item in its own interval, so that a later list
    /// names what changed since and no more. Items of no known interval go into `interval`.
    /// `complete_since`: given with the last of them, from when on the log is then complete.
    pub fn take_over(
        &mut self,
        db: &Db,
        items: &[ChangedItem],
        interval: u64,
        complete_since: Option<u64>,
    ) -> Result<(), Errno> {
        // Numbers of the lead that are ahead of ours come here, too: nothing is filed later.
        let newest = items.iter().map(|i| i.interval).max().unwrap_or(0);
        self.enter(db, interval.max(newest))?;
        let mut batch = WriteBatch::default();
        for item in items {
            let delta = Delta::from_item(item);
            if item.interval == 0 || item.interval == self.interval {
                self.add_delta(db, &mut batch, item.gfid, &delta);
                continue;
            }
            let key = key(item.interval, item.gfid);
            self.entries += usize::from(!db.has(CF_LOG, &key)?);
            batch.merge_cf(db.family(CF_LOG), key, delta.encode());
        }
        db.write(batch, false).inspect_err(|_| self.batch_lost())?;
        self.snapshot = None;
        complete_since.map_or(Ok(()), |since| self.set_complete_since(db, since))
    }

    /// One page of the log as it stands. What changes between two pages is in an interval not
    /// below `current` of the first.
    fn rows(&self, db: &Db, ask: &Changed) -> Result<ChangedList, Errno> {
        let mut list = self.empty_list(ask);
        let from = match ask.after.is_nil() {
            true => key(ask.since, Gfid::NIL),
            false => key(ask.after_interval, ask.after),
        };
        let (limit, mut room) = (ask.limit.clamp(1, PAGE_MAX) as usize, PAGE_EXTENTS_MAX);
        db.scan(CF_LOG, &from, |k, v| {
            let Some((interval, gfid)) = parse_key(k) else { return true };
            if k == from {
                return true;
            }
            let delta = Delta::decode(v);
            list.end =
                list.items.is_empty() || (list.items.len() < limit && delta.extents.len() <= room);
            if list.end {
                room = room.saturating_sub(delta.extents.len());
                list.items.push(delta.item(gfid, interval));
            }
            list.end
        })?;
        Ok(list)
    }

    fn empty_list(&self, ask: &Changed) -> ChangedList {
        let complete_since = self.complete_since();
        ChangedList {
            items: Vec::new(),
            end: true,
            complete_since,
            current: self.interval,
            compare_all: ask.since < complete_since,
            stale: Vec::new(),
        }
    }

    /// One page of the inodes changed since an interval, in gfid order.
    ///
    /// `kept`: inodes without a name, listed with every first page. No directory's names lead
    /// to them, so that a comparison of the tree would miss them (trap 30).
    pub fn changed(&mut self, db: &Db, ask: &Changed, kept: &[Gfid]) -> Result<ChangedList, Errno> {
        if ask.rows {
            return self.rows(db, ask);
        }
        let mut list = self.empty_list(ask);
        // `since` 0 asks for all there is, complete or not.
        if list.compare_all && ask.since != 0 {
            return Ok(list);
        }
        let fresh =
            ask.after.is_nil() || self.snapshot.as_ref().is_none_or(|s| s.since != ask.since);
        if fresh {
            self.snapshot = Some(self.take_snapshot(db, ask, kept)?);
        }
        let Some(snapshot) = &self.snapshot else { return Ok(list) };
        // A question with several pages is answered as of its first page: what changed since
        // then is in an interval not below `taken_at`, which the asker asks for next.
        list.current = snapshot.taken_at;
        let limit = ask.limit.clamp(1, PAGE_MAX) as usize;
        let after = (std::ops::Bound::Excluded(ask.after), std::ops::Bound::Unbounded);
        let mut room = PAGE_EXTENTS_MAX;
        for (gfid, (delta, interval)) in snapshot.items.range(after) {
            list.end =
                list.items.is_empty() || (list.items.len() < limit && delta.extents.len() <= room);
            if !list.end {
                break;
            }
            room = room.saturating_sub(delta.extents.len());
            list.items.push(delta.item(*gfid, *interval));
        }
        if list.end {
            self.snapshot = None;
        }
        Ok(list)
    }

    fn take_snapshot(&mut self, db: &Db, ask: &Changed, kept: &[Gfid]) -> Result<Snapshot, Errno> {
        let since = ask.since;
        let mut items: BTreeMap<Gfid, (Delta, u64)> = BTreeMap::new();
        db.scan(CF_LOG, &key(since, Gfid::NIL), |k, v| {
            if let Some((interval, gfid)) = parse_key(k) {
                let (delta, newest) = items.entry(gfid).or_default();
                delta.merge(&Delta::decode(v));
                *newest = interval;
            }
            true
        })?;
        let attrs = Delta { bits: ATTRS, extents: Vec::new() };
        kept.iter().for_each(|gfid| items.entry(*gfid).or_default().0.merge(&attrs));
        if ask.advance {
            self.enter(db, self.interval + 1)?;
        }
        Ok(Snapshot { since, taken_at: self.interval, items })
    }

    pub fn current(&self) -> u64 {
        self.interval
    }

    /// Directories of which names changed since an interval.
    pub fn directories(&self, db: &Db, since: u64) -> Result<Vec<Gfid>, Errno> {
        let mut dirs = Vec::new();
        db.scan(CF_LOG, &key(since, Gfid::NIL), |k, v| {
            if let Some((_, gfid)) = parse_key(k)
                && Delta::decode(v).bits & NAMES != 0
            {
                dirs.push(gfid);
            }
            true
        })?;
        dirs.sort_unstable();
        dirs.dedup();
        Ok(dirs)
    }
}

#[cfg(test)]
#[path = "changelog_test.rs"]
mod changelog_test;
