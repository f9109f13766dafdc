//! Makes the names of one directory equal.
//!
//! Order: names that are wrong on the sink go first (parked, so that nothing is lost and a
//! rename seen half-way moves no data), then missing ones come, each after its inode is whole.

use std::cmp::Ordering;

use proto::fop::DirEntry;
use proto::{Gfid, Kind};

use super::side::{self, HealError, Side};

/// What a directory's diff says.
#[derive(Debug, Default, PartialEq)]
pub struct Diff {
    /// On the sink only, or for another inode there.
    pub remove: Vec<DirEntry>,
    /// Missing on the sink.
    pub add: Vec<DirEntry>,
    /// On both, for the same inode.
    pub same: Vec<DirEntry>,
}

/// Compares two lists in (hash, name) order.
pub fn diff(source: &[DirEntry], sink: &[DirEntry]) -> Diff {
    let mut out = Diff::default();
    let (mut a, mut b) = (source.iter().peekable(), sink.iter().peekable());
    loop {
        let order = match (a.peek(), b.peek()) {
            (None, None) => return out,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(x), Some(y)) => (x.hash, &x.name).cmp(&(y.hash, &y.name)),
        };
        let theirs = (order != Ordering::Greater).then(|| a.next()).flatten();
        let ours = (order != Ordering::Less).then(|| b.next()).flatten();
        match (theirs, ours) {
            (Some(x), Some(y)) if x.gfid == y.gfid => out.same.push(x.clone()),
            (x, y) => {
                out.add.extend(x.cloned());
                out.remove.extend(y.cloned());
            }
        }
    }
}

/// Lists both sides and takes away what does not belong on the sink. The caller makes each
/// inode of `add` whole and then calls `place`.
///
/// # Errors
/// Either brick failed.
pub async fn clear(from: &dyn Side, to: &dyn Side, dir: Gfid) -> Result<Diff, HealError> {
    let (theirs, ours) =
        futures_util::try_join!(side::names(from, dir), side::names_of_sink(to, dir))?;
    let diff = diff(&theirs, &ours);
    for entry in &diff.remove {
        side::remove_name(to, dir, entry.name.clone()).await?;
    }
    Ok(diff)
}

/// What both sides name below `dir`, if it is a directory on both.
///
/// # Errors
/// Either brick failed.
pub async fn common(from: &dyn Side, to: &dyn Side, dir: Gfid) -> Result<Vec<DirEntry>, HealError> {
    let named = futures_util::try_join!(side::names(from, dir), side::names(to, dir));
    match named {
        Ok((theirs, ours)) => Ok(diff(&theirs, &ours).same),
        Err(error) if error.is_no_directory() => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Gives a whole inode its name on the sink.
///
/// # Errors
/// The sink failed.
pub async fn place(to: &dyn Side, dir: Gfid, entry: &DirEntry) -> Result<(), HealError> {
    side::install_name(to, dir, entry.name.clone(), entry.gfid).await
}

pub fn is_dir(entry: &DirEntry) -> bool {
    entry.kind() == Kind::Directory
}

#[cfg(test)]
mod tests {
    use proto::SlotId;

    use super::*;

    fn entry(hash: u64, name: &'static str, id: u8) -> DirEntry {
        let gfid = Gfid::new(SlotId(0), [id; 14]);
        DirEntry { name: name.into(), hash, gfid, ..DirEntry::default() }
    }

    #[test]
    fn names_are_added_removed_and_replaced() {
        let source = [entry(1, "a", 1), entry(2, "b", 2), entry(2, "c", 3)];
        let sink = [entry(1, "a", 1), entry(2, "b", 9), entry(5, "old", 4)];
        let diff = diff(&source, &sink);
        assert_eq!(diff.same, [entry(1, "a", 1)]);
        assert_eq!(diff.add, [entry(2, "b", 2), entry(2, "c", 3)]);
        assert_eq!(diff.remove, [entry(2, "b", 9), entry(5, "old", 4)]);
    }
}
