//! A brick's disk: what is in the page cache, what is on the platter, and what power loss
//! leaves of the difference.
//!
//! Metadata reaches the disk in order (a journal): power loss keeps a prefix. Data blocks reach
//! it in any order, each by itself. The change log has a journal of its own. Facts that the
//! product syncs at once (epochs, stale marks, in-doubt entries) are never lost.

use std::collections::{BTreeMap, BTreeSet};

use proto::fop::{LeaseKey, Touch};
use proto::{BrickId, Epoch, Errno, Gfid, Incarnation, LeaseNumber};
use proto_rules::heal::log::{Interval, LogBook};

use super::change::{BLOCK_BYTES, BLOCKS, Change, Name, Outcome, block_touch};
use crate::rng::Rng;
use crate::workload;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inode {
    pub blocks: [u64; BLOCKS as usize],
    /// Value and stamp of the last setattr: the greater stamp wins, whatever comes first.
    pub attr: (u64, u64),
    pub names: BTreeMap<Name, Gfid>,
    /// Names that point here.
    pub links: u32,
}

pub type Image = BTreeMap<Gfid, Inode>;

/// The smallest thing that reaches the disk by itself.
#[derive(Clone, Debug)]
enum Effect {
    Block { gfid: Gfid, block: u8, value: u64 },
    Attr { gfid: Gfid, value: (u64, u64) },
    Put { dir: Gfid, name: Name, gfid: Gfid },
    Remove { dir: Gfid, name: Name },
    Make { gfid: Gfid },
    Drop { gfid: Gfid },
}

impl Effect {
    fn gfid(&self) -> Gfid {
        match *self {
            Effect::Block { gfid, .. }
            | Effect::Attr { gfid, .. }
            | Effect::Make { gfid }
            | Effect::Drop { gfid } => gfid,
            Effect::Put { dir, .. } | Effect::Remove { dir, .. } => dir,
        }
    }

    fn apply(&self, image: &mut Image) {
        match *self {
            Effect::Make { gfid } => {
                image.entry(gfid).or_default();
            }
            Effect::Drop { gfid } => {
                image.remove(&gfid);
            }
            Effect::Block { gfid, block, value } => {
                if let Some(inode) = image.get_mut(&gfid) {
                    inode.blocks[usize::from(block)] = value;
                }
            }
            Effect::Attr { gfid, value } => {
                if let Some(inode) = image.get_mut(&gfid) {
                    inode.attr = value;
                }
            }
            Effect::Put { dir, name, gfid } => {
                let old = image.get_mut(&dir).and_then(|d| d.names.insert(name, gfid));
                unlink(image, old);
                if let Some(inode) = image.get_mut(&gfid) {
                    inode.links += 1;
                }
            }
            Effect::Remove { dir, name } => {
                let old = image.get_mut(&dir).and_then(|d| d.names.remove(&name));
                unlink(image, old);
            }
        }
    }
}

fn unlink(image: &mut Image, gfid: Option<Gfid>) {
    if let Some(inode) = gfid.and_then(|g| image.get_mut(&g)) {
        inode.links = inode.links.saturating_sub(1);
    }
}

/// What changed, by interval of application.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChangeLog {
    pub intervals: BTreeMap<u64, BTreeSet<Touch>>,
}

impl ChangeLog {
    fn add(&mut self, interval: u64, touch: Touch) {
        self.intervals.entry(interval).or_default().insert(touch);
    }
}

/// Synced at once.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    pub epoch: Epoch,
    pub graced: Epoch,
    pub incarnation: Incarnation,
    /// Kernel boot in which this brick was last in-sync.
    pub boot: u64,
    pub clean: bool,
    pub stale: BTreeSet<(Gfid, BrickId)>,
    /// Numbers of leases that ended otherwise than by a return, since the last graced epoch.
    pub raised: BTreeMap<LeaseKey, LeaseNumber>,
    /// Greatest interval that a checkpoint completed.
    pub checkpoint: u64,
    /// It lost memory, and may lack what it did after the checkpoint in that interval, until all
    /// members are in-sync again.
    pub fallback: Option<u64>,
}

#[derive(Clone, Debug)]
pub struct Store {
    pub live: Image,
    durable: Image,
    meta: Vec<Vec<Effect>>,
    data: Vec<Effect>,
    pub log: ChangeLog,
    /// Since when the log is complete.
    pub book: LogBook,
    log_durable: ChangeLog,
    log_tail: Vec<(u64, Touch)>,
    in_doubt: BTreeSet<Touch>,
    /// Found by the ctime scan and the in-doubt list after power loss: may differ from what
    /// the log says.
    pub suspects: BTreeSet<Gfid>,
    pub facts: Facts,
    /// A fail-stop error: nothing is executed any more.
    pub failed: bool,
    /// Nothing new finds room.
    pub full: bool,
}

impl Store {
    pub fn new(image: Image) -> Self {
        Self {
            durable: image.clone(),
            live: image,
            meta: Vec::new(),
            data: Vec::new(),
            log: ChangeLog::default(),
            book: LogBook::of_new_set(),
            log_durable: ChangeLog::default(),
            log_tail: Vec::new(),
            in_doubt: BTreeSet::new(),
            suspects: BTreeSet::new(),
            facts: Facts::default(),
            failed: false,
            full: false,
        }
    }

    /// An empty disk in the place of a lost one: it knows nothing, and says so.
    pub fn replaced() -> Self {
        Self { book: LogBook::new(Interval(u64::MAX - 1)), ..Self::new(Image::new()) }
    }

    pub fn execute(&mut self, change: &Change, stamp: u64, resend: bool, interval: u64) -> Outcome {
        if self.failed {
            return Err(Errno::EIO);
        }
        let effects = self.effects(change, stamp, resend)?;
        let grows = matches!(change, Change::Write { .. } | Change::Create { .. });
        if self.full && grows && !effects.is_empty() {
            return Err(Errno::ENOSPC);
        }
        self.log(interval, &change.touches());
        self.run(effects);
        Ok(())
    }

    /// What the change does here; nothing when it is recognised as done.
    fn effects(&self, change: &Change, stamp: u64, resend: bool) -> Result<Vec<Effect>, Errno> {
        match *change {
            Change::Write { gfid, block, value } => {
                self.live.get(&gfid).ok_or(Errno::ESTALE)?;
                Ok(vec![Effect::Block { gfid, block, value }])
            }
            Change::Setattr { gfid, value } => {
                let inode = self.live.get(&gfid).ok_or(Errno::ESTALE)?;
                let new = (value, stamp);
                let newer = stamp > inode.attr.1;
                Ok(newer.then_some(Effect::Attr { gfid, value: new }).into_iter().collect())
            }
            Change::Create { dir, name, gfid } => match self.name(dir, name)? {
                Some(there) if resend && there == gfid => Ok(Vec::new()),
                Some(_) => Err(Errno::EEXIST),
                None => Ok(vec![Effect::Make { gfid }, Effect::Put { dir, name, gfid }]),
            },
            Change::Unlink { dir, name, expect } => match self.name(dir, name)? {
                Some(there) if there == expect => {
                    let mut effects = vec![Effect::Remove { dir, name }];
                    effects.extend(self.dropped(expect));
                    Ok(effects)
                }
                // Also when it is sent again: nobody could give the name to another inode
                // meanwhile, so the disk has gone back and the removal was never made here.
                Some(_) => Err(Errno::ESTALE),
                None if resend => Ok(Vec::new()),
                None => Err(Errno::ENOENT),
            },
            Change::Rename { from, to, expect, over } => {
                self.rename(from, to, (expect, over), resend)
            }
        }
    }

    fn rename(
        &self,
        from: (Gfid, Name),
        to: (Gfid, Name),
        (expect, over): (Gfid, Gfid),
        resend: bool,
    ) -> Result<Vec<Effect>, Errno> {
        let source = self.name(from.0, from.1)?;
        let target = self.name(to.0, to.1)?;
        if source != Some(expect) {
            return match source {
                _ if resend && target == Some(expect) => Ok(Vec::new()),
                Some(_) => Err(Errno::ESTALE),
                None => Err(Errno::ENOENT),
            };
        }
        if target.unwrap_or(Gfid::NIL) != over {
            return Err(Errno::ESTALE);
        }
        let mut effects = vec![
            Effect::Remove { dir: from.0, name: from.1 },
            Effect::Put { dir: to.0, name: to.1, gfid: expect },
        ];
        if !over.is_nil() {
            effects.extend(self.dropped(over));
        }
        Ok(effects)
    }

    fn dropped(&self, gfid: Gfid) -> Option<Effect> {
        let last = self.live.get(&gfid).is_some_and(|i| i.links <= 1);
        last.then_some(Effect::Drop { gfid })
    }

    pub fn name(&self, dir: Gfid, name: Name) -> Result<Option<Gfid>, Errno> {
        Ok(self.live.get(&dir).ok_or(Errno::ESTALE)?.names.get(&name).copied())
    }

    fn run(&mut self, effects: Vec<Effect>) {
        let mut meta = Vec::new();
        for effect in effects {
            effect.apply(&mut self.live);
            if let Effect::Block { gfid, block, .. } = effect {
                // An overwrite in place may reach the disk before anything that tells of it.
                self.in_doubt.insert(block_touch(gfid, block));
                self.data.push(effect);
            } else {
                meta.push(effect);
            }
        }
        if !meta.is_empty() {
            self.meta.push(meta);
        }
    }

    /// Notes touches in the current interval.
    pub fn log(&mut self, interval: u64, touches: &[Touch]) {
        for touch in touches {
            self.log.add(interval, *touch);
            self.log_tail.push((interval, *touch));
        }
    }

    /// The inode's data, all metadata before it, and the log are on the platter.
    pub fn fsync(&mut self, gfid: Gfid) -> Outcome {
        if self.failed {
            return Err(Errno::EIO);
        }
        self.sync_meta();
        self.sync_log();
        let (mine, rest) =
            std::mem::take(&mut self.data).into_iter().partition(|e| e.gfid() == gfid);
        self.data = rest;
        let mine: Vec<Effect> = mine;
        mine.iter().for_each(|e| e.apply(&mut self.durable));
        Ok(())
    }

    fn sync_meta(&mut self) {
        for group in std::mem::take(&mut self.meta) {
            group.iter().for_each(|e| e.apply(&mut self.durable));
        }
    }

    fn sync_log(&mut self) {
        self.log_tail.clear();
        self.log_durable = self.log.clone();
    }

    /// Everything up to now is on the platter; what was applied in intervals before `interval`
    /// need not be asked for again after power loss.
    pub fn checkpoint(&mut self, interval: u64) -> Outcome {
        if self.failed {
            return Err(Errno::EIO);
        }
        self.sync_meta();
        self.sync_log();
        self.data.clear();
        self.durable = self.live.clone();
        self.in_doubt.clear();
        self.suspects.clear();
        self.facts.checkpoint = interval;
        Ok(())
    }

    /// What the platter holds when power comes back.
    pub fn power_loss(&mut self, rng: &mut Rng) {
        let back = self.facts.fallback.unwrap_or(u64::MAX).min(self.facts.checkpoint);
        self.facts.fallback = Some(back);
        let mut image = self.durable.clone();
        let kept = rng.index(self.meta.len() + 1);
        for effect in self.meta.iter().take(kept).flatten() {
            // The ctime scan sees it.
            self.suspects.insert(effect.gfid());
            effect.apply(&mut image);
        }
        for effect in &self.data {
            if rng.percent(50) {
                effect.apply(&mut image);
            }
        }
        self.suspects.extend(self.in_doubt.iter().map(Touch::gfid));
        let kept = rng.index(self.log_tail.len() + 1);
        for (interval, touch) in self.log_tail.iter().take(kept) {
            self.log_durable.add(*interval, *touch);
        }
        if rng.percent(10) {
            // The database is lost and begun anew: it knows nothing of what was before.
            self.book = LogBook::new(Interval(self.last_interval() + 1));
            self.log_durable = ChangeLog::default();
        }
        self.log = self.log_durable.clone();
        self.live = image.clone();
        self.durable = image;
        self.meta.clear();
        self.data.clear();
        self.log_tail.clear();
    }

    /// The log's inodes since an interval, and what a crash made doubtful.
    pub fn changed_since(&self, interval: u64) -> BTreeSet<Gfid> {
        let logged = self.log.intervals.range(interval..).flat_map(|(_, t)| t.iter());
        logged.map(Touch::gfid).chain(self.suspects.iter().copied()).collect()
    }

    pub fn last_interval(&self) -> u64 {
        let logged = self.log.intervals.keys().next_back().copied().unwrap_or(0);
        logged.max(self.facts.checkpoint)
    }

    pub fn take_over_log(&mut self, log: &ChangeLog, book: &LogBook) {
        for (interval, touches) in &log.intervals {
            self.log(*interval, &touches.iter().copied().collect::<Vec<_>>());
        }
        self.book.take_over(book);
    }

    /// Makes one inode equal to the source's (`None`: it is not there). Names of a directory
    /// that the source lacks go; inodes that lose their last name are the sweep's.
    pub fn install(&mut self, gfid: Gfid, source: Option<&Inode>, interval: u64) -> bool {
        let mine = self.live.get(&gfid).cloned();
        let Some(source) = source else {
            if mine.is_some() {
                self.run(vec![Effect::Drop { gfid }]);
            }
            return mine.is_some();
        };
        let mut effects = Vec::new();
        let mine = mine.unwrap_or_else(|| {
            effects.push(Effect::Make { gfid });
            Inode::default()
        });
        for (block, value) in (0..BLOCKS).zip(source.blocks) {
            if mine.blocks[usize::from(block)] != value {
                effects.push(Effect::Block { gfid, block, value });
            }
        }
        if mine.attr != source.attr {
            effects.push(Effect::Attr { gfid, value: source.attr });
        }
        for name in mine.names.keys().filter(|n| !source.names.contains_key(n)) {
            effects.push(Effect::Remove { dir: gfid, name: *name });
        }
        for (name, target) in &source.names {
            if mine.names.get(name) != Some(target) {
                effects.push(Effect::Make { gfid: *target });
                effects.push(Effect::Put { dir: gfid, name: *name, gfid: *target });
            }
        }
        let changed = !effects.is_empty();
        if changed {
            self.log(interval, &[Touch::Attrs(gfid)]);
            self.run(effects);
        }
        changed
    }

    /// As `install`, where no sweep follows: inodes that lose their last name by it go at once.
    pub fn install_alone(&mut self, gfid: Gfid, source: Option<&Inode>, interval: u64) {
        let names = |i: &Inode| i.names.values().copied().collect::<BTreeSet<Gfid>>();
        let before = self.live.get(&gfid).map(names).unwrap_or_default();
        self.install(gfid, source, interval);
        let named = |g: &Gfid| self.live.values().any(|i| i.names.values().any(|t| t == g));
        let gone = before.into_iter().filter(|g| self.live.contains_key(g) && !named(g));
        let effects: Vec<Effect> = gone.map(|gfid| Effect::Drop { gfid }).collect();
        self.run(effects);
    }

    /// Drops inodes without a name, except the listed ones. Links are counted anew first: an
    /// inode that went and came back meanwhile found names that had stayed.
    pub fn sweep(&mut self, keep: &BTreeSet<Gfid>) {
        let mut links: BTreeMap<Gfid, u32> = BTreeMap::new();
        for target in self.live.values().flat_map(|i| i.names.values()) {
            *links.entry(*target).or_default() += 1;
        }
        for (gfid, inode) in &mut self.live {
            let named = links.get(gfid).copied().unwrap_or(0);
            inode.links = if workload::is_fixed(*gfid) { 1 } else { named };
        }
        let nameless = |(g, i): &(&Gfid, &Inode)| i.links == 0 && !keep.contains(g);
        let drop: Vec<Effect> =
            self.live.iter().filter(nameless).map(|(g, _)| Effect::Drop { gfid: *g }).collect();
        self.run(drop);
    }

    /// Exactly what these touches name, as it is here: the piece that settling copies.
    pub fn piece(&self, touch: &Touch) -> Piece {
        match *touch {
            Touch::Range { gfid, start, .. } => {
                let block = (start / BLOCK_BYTES) as u8;
                let value = self.live.get(&gfid).map(|i| i.blocks[usize::from(block)]);
                Piece::Block { gfid, block, value }
            }
            Touch::Attrs(gfid) => {
                Piece::Attrs { gfid, value: self.live.get(&gfid).map(|i| i.attr) }
            }
            Touch::Name { dir, hash } => {
                let name = hash as u8;
                Piece::Name { dir, name, value: self.name(dir, name).ok().flatten() }
            }
        }
    }

    pub fn install_piece(&mut self, piece: &Piece, interval: u64) {
        let mut effects = Vec::new();
        match *piece {
            Piece::Block { gfid, block, value: Some(value) } => {
                effects.push(Effect::Block { gfid, block, value });
                self.log(interval, &[block_touch(gfid, block)]);
            }
            Piece::Attrs { gfid, value: Some(value) } => {
                if !self.live.contains_key(&gfid) {
                    effects.push(Effect::Make { gfid });
                }
                effects.push(Effect::Attr { gfid, value });
                self.log(interval, &[Touch::Attrs(gfid)]);
            }
            Piece::Block { .. } => {}
            Piece::Attrs { gfid, value: None } => {
                effects.push(Effect::Drop { gfid });
                self.log(interval, &[Touch::Attrs(gfid)]);
            }
            Piece::Name { dir, name, value } => {
                self.log(interval, &[Touch::Name { dir, hash: u64::from(name) }]);
                match value {
                    Some(gfid) if self.name(dir, name) != Ok(Some(gfid)) => {
                        effects.push(Effect::Make { gfid });
                        effects.push(Effect::Put { dir, name, gfid });
                    }
                    Some(_) => {}
                    None => effects.push(Effect::Remove { dir, name }),
                }
            }
        }
        self.run(effects);
    }
}

/// One range, inode's attributes or name with the value that the lead has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece {
    Block { gfid: Gfid, block: u8, value: Option<u64> },
    Attrs { gfid: Gfid, value: Option<(u64, u64)> },
    Name { dir: Gfid, name: Name, value: Option<Gfid> },
}
