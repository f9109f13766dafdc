//! Makes one inode equal: attributes, xattrs, meta record, data. Not its names.

use bytes::Bytes;
use proto::fop::{BLOCK_BYTES, Inspected};
use proto::{Gfid, Kind};

use super::progress::Progress;
use super::side::{self, HealError, Side};

/// Blocks asked for at once: 128 MiB of file, a 8 KiB answer.
const SUMS_PER_QUESTION: u64 = 1024;
/// Most blocks copied in one read: 1 MiB.
const BLOCKS_PER_READ: u64 = 8;
/// Bytes of a change-log extent.
const EXTENT_BYTES: u64 = 1 << 20;

/// Which of a file's data may differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Data {
    None,
    /// 1 MiB extents, ascending.
    Extents(Vec<u64>),
    All,
}

/// What an inode's copy found.
#[derive(Debug, PartialEq, Eq)]
pub enum Healed {
    /// The source has it; both are equal now.
    Equal(Kind),
    /// The source has no such inode: its names go by the directories' diffs.
    Gone,
}

/// Copies whatever differs of `gfid` from `from` to `to`.
///
/// # Errors
/// Either brick failed; nothing is lost, the inode stays pending.
pub async fn heal(
    from: &dyn Side,
    to: &dyn Side,
    gfid: Gfid,
    data: &Data,
    progress: &Progress,
) -> Result<Healed, HealError> {
    match equalise(from, to, gfid, data, progress).await {
        // Removed at the source under our hands: its log says so for the next round.
        Err(error) if error.is_gone() && !side::inspect(from, gfid).await?.found => {
            Ok(Healed::Gone)
        }
        healed => healed,
    }
}

async fn equalise(
    from: &dyn Side,
    to: &dyn Side,
    gfid: Gfid,
    data: &Data,
    progress: &Progress,
) -> Result<Healed, HealError> {
    let image = side::inspect(from, gfid).await?;
    let mine = side::inspect(to, gfid).await?;
    if !image.found {
        if mine.found && mine.orphan {
            // Nameless here and gone there: an image that is not found tells the sink to drop it.
            let mut gone = image;
            gone.attr.gfid = gfid;
            side::install(to, gone, true).await?;
        }
        return Ok(Healed::Gone);
    }
    let kind = image.attr.kind();
    let fresh = !mine.found || mine.attr.kind() != kind;
    if fresh {
        side::install(to, image.clone(), false).await?;
    }
    let copied = match (kind, if fresh { &Data::All } else { data }) {
        (Kind::File, Data::All) => {
            let end = image.attr.size.max(mine.attr.size);
            copy_range(from, to, gfid, 0..end, progress).await?
        }
        (Kind::File, Data::Extents(extents)) => {
            copy_extents(from, to, gfid, extents, progress).await?
        }
        _ => 0,
    };
    if fresh || copied > 0 || !same(&image, &mine) {
        side::install(to, image, true).await?;
    }
    Ok(Healed::Equal(kind))
}

/// Equal in everything but data and names.
fn same(a: &Inspected, b: &Inspected) -> bool {
    let attr = |i: &Inspected| proto::Attr { blocks: 0, ..i.attr };
    attr(a) == attr(b)
        && a.meta == b.meta
        && a.xattrs == b.xattrs
        && a.target == b.target
        && a.orphan == b.orphan
}

async fn copy_extents(
    from: &dyn Side,
    to: &dyn Side,
    gfid: Gfid,
    extents: &[u64],
    progress: &Progress,
) -> Result<u64, HealError> {
    let mut copied = 0;
    let mut rest = extents;
    while let Some(first) = rest.first() {
        let run = rest.iter().enumerate().take_while(|(n, e)| **e == first + *n as u64).count();
        let bytes = first * EXTENT_BYTES..(first + run as u64) * EXTENT_BYTES;
        copied += copy_range(from, to, gfid, bytes, progress).await?;
        rest = &rest[run..];
    }
    Ok(copied)
}

/// Compares the blocks of a byte range and copies those that differ. Returns bytes copied.
async fn copy_range(
    from: &dyn Side,
    to: &dyn Side,
    gfid: Gfid,
    bytes: std::ops::Range<u64>,
    progress: &Progress,
) -> Result<u64, HealError> {
    let mut copied = 0;
    let mut first = bytes.start / BLOCK_BYTES;
    let end = bytes.end.div_ceil(BLOCK_BYTES);
    while first < end {
        let count = (end - first).min(SUMS_PER_QUESTION) as u32;
        let (theirs, ours) = futures_util::try_join!(
            side::block_sums(from, gfid, first, count),
            side::block_sums(to, gfid, first, count)
        )?;
        let differing: Vec<(u64, bool)> = (first..)
            .zip(&theirs.sums)
            .enumerate()
            .filter(|(n, (_, sum))| ours.sums.get(*n) != Some(sum))
            .map(|(_, (block, sum))| (block, *sum == 0))
            .collect();
        copied += copy_blocks(from, to, gfid, theirs.size, &differing, progress).await?;
        if theirs.sums.len() < count as usize {
            break;
        }
        first += u64::from(count);
    }
    Ok(copied)
}

/// Copies blocks (number, is a hole), neighbours together.
async fn copy_blocks(
    from: &dyn Side,
    to: &dyn Side,
    gfid: Gfid,
    size: u64,
    blocks: &[(u64, bool)],
    progress: &Progress,
) -> Result<u64, HealError> {
    let mut copied = 0;
    let mut rest = blocks;
    while let Some((first, hole)) = rest.first().copied() {
        let run = (0..rest.len().min(BLOCKS_PER_READ as usize))
            .take_while(|n| rest[*n] == (first + *n as u64, hole))
            .count();
        let offset = first * BLOCK_BYTES;
        let len = (run as u64 * BLOCK_BYTES).min(size.saturating_sub(offset));
        if hole {
            side::install_hole(to, gfid, offset, len).await?;
        } else {
            let data: Bytes = side::read(from, gfid, offset, len as u32).await?;
            progress.copied(data.len() as u64);
            if !data.is_empty() {
                side::install_data(to, gfid, offset, data).await?;
            }
        }
        copied += len;
        rest = &rest[run..];
    }
    Ok(copied)
}
