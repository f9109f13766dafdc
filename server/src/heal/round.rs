//! One round: a list of inodes, copied several at once.
//!
//! Directories come first, because they decide which inodes are new and which are gone; an
//! inode that a directory brought in whole is not copied again in the same round.

use std::collections::{BTreeSet, HashSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::ready;
use futures_util::stream::{self, FuturesUnordered, StreamExt as _, TryStreamExt as _};
use proto::fop::{ChangedItem, ChangedList, DirEntry};
use proto::{Gfid, Kind};

use super::inode::{Data, Healed, Way};
use super::pace::Pace;
use super::progress::Progress;
use super::side::{HealError, Side, Waits};
use super::{dir, inode, list};

/// Items under way at once; the pace bounds how many are at work.
const AT_ONCE: usize = 32;
/// New names of one directory under way at once, likewise.
const NAMES_AT_ONCE: usize = 16;
/// How often a comparison of everything notes where it is.
const NOTE_EVERY: Duration = Duration::from_secs(1);
/// Longest list noted: 512 KiB. The note before stands for a longer one.
const NOTED_MAX: usize = 32_768;

/// One pending inode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    pub gfid: Gfid,
    pub names: bool,
    pub data: Data,
    /// Compare every name and inode below, too.
    pub deep: bool,
}

impl Item {
    /// Everything, from `gfid` down.
    pub fn whole(gfid: Gfid) -> Item {
        Item { gfid, names: true, data: Data::All, deep: true }
    }
}

/// Merges change lists of several members into one item per inode.
pub fn items(lists: &[&ChangedList]) -> Vec<Item> {
    list::merged(lists).into_iter().map(item).collect()
}

/// All that the lists name, to be compared as a whole: beside a comparison of the tree, for the
/// inodes to which no directory leads.
pub fn nameless(lists: &[&ChangedList]) -> Vec<Item> {
    let whole = |item: Item| Item { data: Data::All, names: false, ..item };
    items(lists).into_iter().map(whole).collect()
}

fn item(changed: ChangedItem) -> Item {
    let data = match (changed.all_data, changed.extents.is_empty()) {
        (true, _) => Data::All,
        (false, true) => Data::None,
        (false, false) => Data::Extents(changed.extents),
    };
    Item { gfid: changed.gfid, names: changed.names, data, deep: false }
}

/// Directories come first: they decide which inodes are new and which are gone.
fn by_kind(items: Vec<Item>) -> (VecDeque<Item>, VecDeque<Item>) {
    let (dirs, files): (Vec<Item>, Vec<Item>) = items.into_iter().partition(|i| i.names);
    (dirs.into(), files.into())
}

/// Shared by all the work of one round.
pub struct Round {
    pub from: Arc<dyn Side>,
    pub to: Arc<dyn Side>,
    pub progress: Arc<Progress>,
    pace: Arc<Pace>,
    note_every: Duration,
    /// Inodes of which the sink keeps its own copy: the source's is stale.
    keeps: BTreeSet<Gfid>,
    /// Inodes made whole in this round.
    whole: Mutex<HashSet<Gfid>>,
    /// One lock per group of gfids: two directories that name the same new inode take turns.
    turns: Vec<tokio::sync::Mutex<()>>,
}

/// Takes down what is still to be compared, with all below it.
pub type Note<'a, 'w> = &'a (dyn Fn(Vec<Gfid>) -> Waits<'w, ()> + Send + Sync);

impl Round {
    /// For one list: what was whole in a round may have changed in the next.
    pub fn new(from: Arc<dyn Side>, to: Arc<dyn Side>, progress: Arc<Progress>) -> Round {
        let turns = (0..64).map(|_| tokio::sync::Mutex::new(())).collect();
        Round {
            from,
            to,
            progress,
            pace: Arc::default(),
            note_every: NOTE_EVERY,
            keeps: BTreeSet::new(),
            whole: Mutex::default(),
            turns,
        }
    }

    pub fn paced(self, pace: Arc<Pace>) -> Round {
        Round { pace, ..self }
    }

    pub fn keeping(self, keeps: BTreeSet<Gfid>) -> Round {
        Round { keeps, ..self }
    }

    pub fn noting_every(self, note_every: Duration) -> Round {
        Round { note_every, ..self }
    }

    /// Copies all of `items`; those below a deep directory are found on the way.
    ///
    /// # Errors
    /// The first failure, after the work under way has ended. What was copied stays copied.
    pub async fn run(&self, items: Vec<Item>) -> Result<(), HealError> {
        let (dirs, files) = by_kind(items);
        self.run_queue(dirs, &[], None).await?;
        self.run_queue(files, &[], None).await
    }

    /// As `run`; notes now and then what a comparison of everything has left, so that a healer
    /// that is killed goes on from there.
    ///
    /// # Errors
    /// As `run`.
    pub async fn run_noting(&self, items: Vec<Item>, note: Note<'_, '_>) -> Result<(), HealError> {
        let deep = items.iter().any(|i| i.deep);
        let (dirs, files) = by_kind(items);
        let later: Vec<Gfid> = files.iter().map(|i| i.gfid).collect();
        self.run_queue(dirs, &later, deep.then_some(note)).await?;
        self.run_queue(files, &[], None).await
    }

    async fn run_queue(
        &self,
        mut queue: VecDeque<Item>,
        later: &[Gfid],
        note: Option<Note<'_, '_>>,
    ) -> Result<(), HealError> {
        let mut at_work = FuturesUnordered::new();
        let mut busy: HashSet<Gfid> = HashSet::new();
        let mut noted = Instant::now();
        let mut failed = None;
        loop {
            while failed.is_none() && at_work.len() < AT_ONCE {
                let Some(item) = queue.pop_front() else { break };
                busy.insert(item.gfid);
                at_work.push(self.heal(item));
            }
            match at_work.next().await {
                Some((gfid, Ok(found))) => {
                    busy.remove(&gfid);
                    self.progress.found(&found);
                    queue.extend(found);
                }
                Some((_, Err(error))) => failed = failed.or(Some(error)),
                None => return failed.map_or(Ok(()), Err),
            }
            if let Some(note) = note
                && failed.is_none()
                && noted.elapsed() >= self.note_every
            {
                noted = Instant::now();
                let open = queue.iter().map(|i| i.gfid).chain(busy.iter().copied());
                let pending: Vec<Gfid> = open.chain(later.iter().copied()).collect();
                if pending.len() <= NOTED_MAX {
                    note(pending).await?;
                }
            }
        }
    }

    /// Heals one item; returns what it found below.
    async fn heal(&self, item: Item) -> (Gfid, Result<Vec<Item>, HealError>) {
        self.progress.started(&item);
        let result = self.heal_item(&item).await;
        self.progress.finished(&item);
        (item.gfid, result)
    }

    async fn heal_item(&self, item: &Item) -> Result<Vec<Item>, HealError> {
        if self.keeps.contains(&item.gfid) {
            return self.below_kept(item).await;
        }
        let healed = self.make_whole(item.gfid, &item.data).await?;
        if item.names && healed == Healed::Equal(Kind::Directory) {
            return self.heal_names(item).await;
        }
        Ok(Vec::new())
    }

    async fn heal_names(&self, item: &Item) -> Result<Vec<Item>, HealError> {
        let diff = self.pace.run(dir::clear(&*self.from, &*self.to, item.gfid)).await?;
        self.progress.more(diff.add.len());
        // By number: a closure over borrowed entries is not general enough for a `Send` future.
        let each = stream::iter(0..diff.add.len());
        let added = each.map(|n| self.add_name(item.gfid, &diff.add[n]));
        let added = added.buffer_unordered(NAMES_AT_ONCE);
        let mut found: Vec<Item> =
            added.try_filter_map(|item| ready(Ok(item))).try_collect().await?;
        if !diff.add.is_empty() || !diff.remove.is_empty() {
            // Names changed the directory's own times on the sink: set them again.
            inode::heal(self.way(), item.gfid, &Data::None).await?;
        }
        if item.deep {
            found.extend(diff.same.iter().map(|entry| Item::whole(entry.gfid)));
        }
        Ok(found)
    }

    /// A directory that the sink keeps is not compared; what both have below it is, in its turn.
    async fn below_kept(&self, item: &Item) -> Result<Vec<Item>, HealError> {
        if !item.deep {
            return Ok(Vec::new());
        }
        let same = self.pace.run(dir::common(&*self.from, &*self.to, item.gfid)).await?;
        Ok(same.iter().map(|entry| Item::whole(entry.gfid)).collect())
    }

    /// Brings a name that the sink lacks; a directory's own names are still to come.
    async fn add_name(&self, dir: Gfid, entry: &DirEntry) -> Result<Option<Item>, HealError> {
        let kept = self.keeps.contains(&entry.gfid);
        let gone = !kept && self.make_whole(entry.gfid, &Data::New).await? == Healed::Gone;
        self.progress.one_less();
        if gone {
            // Removed at the source meanwhile: the next round's list has this directory.
            return Ok(None);
        }
        self.pace.run(dir::place(&*self.to, dir, entry)).await?;
        Ok(dir::is_dir(entry).then(|| Item::whole(entry.gfid)))
    }

    fn way(&self) -> Way<'_> {
        let (from, to, progress, pace) = (&*self.from, &*self.to, &*self.progress, &*self.pace);
        Way { from, to, progress, pace }
    }

    async fn make_whole(&self, gfid: Gfid, data: &Data) -> Result<Healed, HealError> {
        let turn = &self.turns[usize::from(gfid.0[15]) % self.turns.len()];
        let _turn = turn.lock().await;
        let known = self.whole.lock().unwrap_or_else(PoisonError::into_inner).contains(&gfid);
        let data = if known { &Data::None } else { data };
        let healed = inode::heal(self.way(), gfid, data).await?;
        if matches!(data, Data::All | Data::New) {
            self.whole.lock().unwrap_or_else(PoisonError::into_inner).insert(gfid);
        }
        Ok(healed)
    }
}

#[cfg(test)]
mod tests {
    use proto::SlotId;

    use super::*;

    #[test]
    fn lists_of_several_members_merge_into_one_item() {
        let gfid = Gfid::new(SlotId(1), [7; 14]);
        let one = |extents: &[u64], names| ChangedList {
            items: vec![ChangedItem {
                gfid,
                names,
                extents: extents.to_vec(),
                ..Default::default()
            }],
            ..ChangedList::default()
        };
        let (a, b) = (one(&[3, 1], false), one(&[1, 2], true));
        let merged = items(&[&a, &b]);
        let expected = Item { gfid, names: true, data: Data::Extents(vec![1, 2, 3]), deep: false };
        assert_eq!(merged, [expected]);
    }
}
