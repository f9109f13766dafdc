//! What a heal asks its source for, and what it makes of the answers.

use std::collections::HashMap;

use proto::fop::{BLOCK_BYTES, ChangedItem, ChangedList};
use proto::{BrickId, Gfid};
use proto_rules::heal::joiner::Left;

use super::job::Surroundings;
use super::round::{self, Item};
use super::side::{self, HealError, Side};

/// Taken for the size of a tree that nobody has counted.
const EVERYTHING_INODES: u64 = 1_000_000;

/// From when on the lead is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// From an interval of this very lead.
    Since(u64),
    /// A brick comes back, or to another lead: its own entries since then count too.
    Returning(u64),
    /// Nothing is known.
    Everything,
}

/// One list, and whose.
pub struct Listing {
    pub lead: BrickId,
    pub list: ChangedList,
    /// What this brick did by itself (trap 11).
    own: Option<ChangedList>,
    /// The tree has to be compared; the lists name only what no directory leads to.
    pub everything: bool,
    /// From which interval on the last list, in the pause, has to reach.
    pub asked: u64,
}

/// Asks the lead, and where needed this brick itself. Closes the lead's interval.
///
/// # Errors
/// Either brick failed.
pub async fn ask(
    from: &dyn Side,
    to: &dyn Side,
    lead: BrickId,
    question: Question,
) -> Result<Listing, HealError> {
    let since = match question {
        Question::Since(since) | Question::Returning(since) => since,
        Question::Everything => u64::MAX,
    };
    let mut list = side::changed(from, since, true).await?;
    let mut everything = question == Question::Everything || list.compare_all;
    let mut own = None;
    if !everything && matches!(question, Question::Returning(_)) {
        let mine = side::changed(to, since, false).await?;
        everything = mine.compare_all;
        own = Some(mine);
    }
    if everything {
        // Those that no directory leads to.
        list.items = side::changed(from, u64::MAX, false).await?.items;
        own = Some(side::changed(to, u64::MAX, false).await?);
    }
    let asked = if everything { list.current } else { since };
    Ok(Listing { lead, list, own, everything, asked })
}

impl Listing {
    pub fn items(&self) -> Vec<Item> {
        let lists: Vec<&ChangedList> = std::iter::once(&self.list).chain(&self.own).collect();
        if self.everything {
            let root = std::iter::once(Item::whole(Gfid::ROOT));
            return root.chain(round::nameless(&lists)).collect();
        }
        round::items(&lists)
    }

    /// How much that is. Of a comparison of everything nothing is known, but that it is not
    /// little: it must not be left to a pause.
    pub fn left(&self) -> Left {
        if self.everything {
            return Left { inodes: EVERYTHING_INODES, bytes: 0 };
        }
        let lists = std::iter::once(&self.list).chain(&self.own);
        let items = lists.flat_map(|l| &l.items);
        items.fold(Left::default(), |left, item| Left {
            inodes: left.inodes + 1,
            bytes: left.bytes + item.extents.len() as u64 * BLOCK_BYTES,
        })
    }
}

/// Files in our log what the lead's holds, each in its own interval: a member that is away may
/// ask us one day. Returns since when the lead's is complete. What is logged there meanwhile is
/// in the lists that follow.
///
/// # Errors
/// Either brick failed.
pub async fn copy_log(from: &dyn Side, world: &dyn Surroundings) -> Result<u64, HealError> {
    let mut after = (0, Gfid::NIL);
    let mut complete_since = 0;
    loop {
        let page = side::log_page(from, after).await?;
        complete_since = complete_since.max(page.complete_since);
        let last = page.items.last().map(|i| (i.interval, i.gfid));
        world.take_over_log(page.items, None).await?;
        match last {
            Some(last) if !page.end => after = last,
            _ => return Ok(complete_since),
        }
    }
}

/// The union of several lists, one item for each inode.
pub fn merged(lists: &[&ChangedList]) -> Vec<ChangedItem> {
    let mut merged: HashMap<Gfid, ChangedItem> = HashMap::new();
    for item in lists.iter().flat_map(|l| &l.items) {
        let into = merged
            .entry(item.gfid)
            .or_insert_with(|| ChangedItem { gfid: item.gfid, ..ChangedItem::default() });
        into.names |= item.names;
        into.attrs |= item.attrs;
        into.all_data |= item.all_data;
        into.interval = into.interval.max(item.interval);
        into.extents.extend(&item.extents);
    }
    let mut items: Vec<ChangedItem> = merged.into_values().collect();
    for item in &mut items {
        item.extents.sort_unstable();
        item.extents.dedup();
    }
    items.sort_by_key(|i| i.gfid);
    items
}
