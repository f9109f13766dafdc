//! One round: a list of inodes, copied several at once.
//!
//! Directories come first, because they decide which inodes are new and which are gone; an
//! inode that a directory brought in whole is not copied again in the same round.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use proto::fop::{ChangedItem, ChangedList};
use proto::{Gfid, Kind};

use super::inode::{Data, Healed};
use super::progress::Progress;
use super::side::{HealError, Side};
use super::{dir, inode};

/// Inodes at work at once: enough to fill a round trip, few enough to spare the foreground.
const AT_ONCE: usize = 16;

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
    let mut merged: HashMap<Gfid, ChangedItem> = HashMap::new();
    for item in lists.iter().flat_map(|l| &l.items) {
        let into = merged
            .entry(item.gfid)
            .or_insert_with(|| ChangedItem { gfid: item.gfid, ..ChangedItem::default() });
        into.names |= item.names;
        into.attrs |= item.attrs;
        into.all_data |= item.all_data;
        into.extents.extend(&item.extents);
    }
    let mut items: Vec<Item> = merged.into_values().map(item).collect();
    items.sort_by_key(|i| i.gfid);
    items
}

/// All that the lists name, to be compared as a whole: beside a comparison of the tree, for the
/// inodes to which no directory leads.
pub fn nameless(lists: &[&ChangedList]) -> Vec<Item> {
    let whole = |item: Item| Item { data: Data::All, names: false, ..item };
    items(lists).into_iter().map(whole).collect()
}

fn item(mut changed: ChangedItem) -> Item {
    changed.extents.sort_unstable();
    changed.extents.dedup();
    let data = match (changed.all_data, changed.extents.is_empty()) {
        (true, _) => Data::All,
        (false, true) => Data::None,
        (false, false) => Data::Extents(changed.extents),
    };
    Item { gfid: changed.gfid, names: changed.names, data, deep: false }
}

/// Shared by all the work of one round.
pub struct Round {
    pub from: Arc<dyn Side>,
    pub to: Arc<dyn Side>,
    pub progress: Arc<Progress>,
    /// Inodes made whole in this round.
    whole: Mutex<HashSet<Gfid>>,
    /// One lock per group of gfids: two directories that name the same new inode take turns.
    turns: Vec<tokio::sync::Mutex<()>>,
}

impl Round {
    pub fn new(from: Arc<dyn Side>, to: Arc<dyn Side>, progress: Arc<Progress>) -> Round {
        let turns = (0..64).map(|_| tokio::sync::Mutex::new(())).collect();
        Round { from, to, progress, whole: Mutex::default(), turns }
    }

    /// A new round: what was whole may have changed since.
    pub fn forget_whole(&self) {
        self.whole.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Copies all of `items`; those below a deep directory are found on the way.
    ///
    /// # Errors
    /// The first failure, after the work under way has ended. What was copied stays copied.
    pub async fn run(&self, items: Vec<Item>) -> Result<(), HealError> {
        self.progress.listed(items.len() as u64);
        let (dirs, files): (Vec<Item>, Vec<Item>) = items.into_iter().partition(|i| i.names);
        self.run_queue(dirs.into()).await?;
        self.run_queue(files.into()).await
    }

    async fn run_queue(&self, mut queue: VecDeque<Item>) -> Result<(), HealError> {
        let mut at_work = FuturesUnordered::new();
        let mut failed = None;
        loop {
            while failed.is_none() && at_work.len() < AT_ONCE {
                let Some(item) = queue.pop_front() else { break };
                at_work.push(self.heal(item));
            }
            match at_work.next().await {
                Some(Ok(found)) => {
                    self.progress.listed(found.len() as u64);
                    queue.extend(found);
                }
                Some(Err(error)) => failed = failed.or(Some(error)),
                None => return failed.map_or(Ok(()), Err),
            }
        }
    }

    /// Heals one item; returns what it found below.
    async fn heal(&self, item: Item) -> Result<Vec<Item>, HealError> {
        self.progress.started(item.gfid);
        let result = self.heal_item(&item).await;
        self.progress.finished(item.gfid);
        result
    }

    async fn heal_item(&self, item: &Item) -> Result<Vec<Item>, HealError> {
        let healed = self.make_whole(item.gfid, &item.data).await?;
        if item.names && healed == Healed::Equal(Kind::Directory) {
            return self.heal_names(item).await;
        }
        Ok(Vec::new())
    }

    async fn heal_names(&self, item: &Item) -> Result<Vec<Item>, HealError> {
        let diff = dir::clear(&*self.from, &*self.to, item.gfid).await?;
        let mut found = Vec::new();
        for entry in &diff.add {
            if self.make_whole(entry.gfid, &Data::All).await? == Healed::Gone {
                // Removed at the source meanwhile: the next round's list has this directory.
                continue;
            }
            dir::place(&*self.to, item.gfid, entry).await?;
            if dir::is_dir(entry) {
                found.push(Item::whole(entry.gfid));
            }
        }
        if !diff.add.is_empty() || !diff.remove.is_empty() {
            // Names changed the directory's own times on the sink: set them again.
            inode::heal(&*self.from, &*self.to, item.gfid, &Data::None, &self.progress).await?;
        }
        if item.deep {
            found.extend(diff.same.iter().map(|entry| Item::whole(entry.gfid)));
        }
        Ok(found)
    }

    async fn make_whole(&self, gfid: Gfid, data: &Data) -> Result<Healed, HealError> {
        let turn = &self.turns[usize::from(gfid.0[15]) % self.turns.len()];
        let _turn = turn.lock().await;
        let known = self.whole.lock().unwrap_or_else(PoisonError::into_inner).contains(&gfid);
        let data = if known { &Data::None } else { data };
        let healed = inode::heal(&*self.from, &*self.to, gfid, data, &self.progress).await?;
        if *data == Data::All {
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
