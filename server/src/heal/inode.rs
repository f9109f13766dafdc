//! Makes one inode equal: attributes, xattrs, meta record, data. Not its names.

use std::ops::Range;

use bytes::Bytes;
use futures_util::future::ready;
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use proto::fop::{BLOCK_BYTES, Inspected};
use proto::{Gfid, Kind};

use super::pace::Pace;
use super::progress::Progress;
use super::side::{self, HealError, Side};

/// Blocks asked for at once: 128 MiB of file, a 8 KiB answer.
const SUMS_PER_QUESTION: u64 = 1024;
/// Questions about one file under way at once; the pace bounds how many are at work.
const QUESTIONS: usize = 8;
/// Most blocks copied in one read: 1 MiB.
const BLOCKS_PER_READ: u64 = 8;
/// Reads of one question under way at once: 4 MiB. They are paced, too.
const READS: usize = 4;
/// Files up to this size travel whole with their record: comparing them costs more than copying.
const SMALL_BYTES: u32 = 64 << 10;

/// Which of a file's data may differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Data {
    None,
    /// Blocks of `BLOCK_BYTES`, ascending.
    Extents(Vec<u64>),
    All,
    /// All; the sink hardly has this inode yet.
    New,
}

impl Data {
    fn comes_along(&self) -> bool {
        matches!(self, Data::Extents(_) | Data::New)
    }

    /// The blocks to be compared, in runs.
    fn runs(&self, end: u64) -> Vec<Range<u64>> {
        let whole: Vec<Range<u64>> = match self {
            Data::None => return Vec::new(),
            Data::All | Data::New => std::iter::once(0..end.div_ceil(BLOCK_BYTES)).collect(),
            Data::Extents(blocks) => {
                let runs = blocks.chunk_by(|a, b| a + 1 == *b);
                runs.map(|run| run[0]..run[run.len() - 1] + 1).collect()
            }
        };
        let cut = |run: Range<u64>| {
            let starts = run.clone().step_by(SUMS_PER_QUESTION as usize);
            starts.map(move |first| first..run.end.min(first + SUMS_PER_QUESTION))
        };
        whole.into_iter().flat_map(cut).collect()
    }
}

/// What an inode's copy found.
#[derive(Debug, PartialEq, Eq)]
pub enum Healed {
    /// The source has it; both are equal now.
    Equal(Kind),
    /// The source has no such inode: its names go by the directories' diffs.
    Gone,
}

/// From where to where, and how fast.
#[derive(Clone, Copy)]
pub struct Way<'a> {
    pub from: &'a dyn Side,
    pub to: &'a dyn Side,
    pub progress: &'a Progress,
    pub pace: &'a Pace,
}

/// Copies whatever differs of `gfid`.
///
/// # Errors
/// Either brick failed; nothing is lost, the inode stays pending.
pub async fn heal(way: Way<'_>, gfid: Gfid, data: &Data) -> Result<Healed, HealError> {
    match equalise(way, gfid, data).await {
        // Removed at the source under our hands: its log says so for the next round.
        Err(error) if error.is_gone() && !side::inspect(way.from, gfid).await?.found => {
            Ok(Healed::Gone)
        }
        healed => healed,
    }
}

/// What the first look at both sides left to do.
enum Left {
    Nothing(Healed),
    /// Blocks to be compared, and what to say at the end.
    Blocks {
        runs: Vec<Range<u64>>,
        image: Box<Inspected>,
        unequal: bool,
    },
}

async fn equalise(way: Way<'_>, gfid: Gfid, data: &Data) -> Result<Healed, HealError> {
    let (runs, image, unequal) = match way.pace.run(look(way, gfid, data)).await? {
        Left::Nothing(healed) => return Ok(healed),
        Left::Blocks { runs, image, unequal } => (runs, *image, unequal),
    };
    let questions = runs.into_iter().map(|run| copy_run(way, gfid, run)).collect();
    let copied = all(questions, QUESTIONS).await?;
    let kind = image.attr.kind();
    if unequal || copied > 0 {
        side::install(way.to, image, true).await?;
    }
    Ok(Healed::Equal(kind))
}

/// All of a small inode is made equal at once, in one request to each side and one more.
async fn look(way: Way<'_>, gfid: Gfid, data: &Data) -> Result<Left, HealError> {
    let data_max = if data.comes_along() { SMALL_BYTES } else { 0 };
    let ((image, content), (mine, _)) = futures_util::try_join!(
        side::inspect_with(way.from, gfid, data_max),
        side::inspect_with(way.to, gfid, 0)
    )?;
    if !image.found {
        if mine.found && mine.orphan {
            // Nameless here and gone there: an image that is not found tells the sink to drop it.
            let mut gone = image;
            gone.attr.gfid = gfid;
            side::install(way.to, gone, true).await?;
        }
        return Ok(Left::Nothing(Healed::Gone));
    }
    let kind = image.attr.kind();
    let fresh = !mine.found || mine.attr.kind() != kind;
    let known_to_differ = fresh || matches!(data, Data::Extents(_));
    if known_to_differ && (!content.is_empty() || image.attr.size == 0 || kind != Kind::File) {
        way.progress.copied(content.len() as u64);
        if fresh || !content.is_empty() || !same(&image, &mine) {
            side::install_whole(way.to, image, content).await?;
        }
        return Ok(Left::Nothing(Healed::Equal(kind)));
    }
    if fresh {
        side::install(way.to, image.clone(), false).await?;
    }
    let end = image.attr.size.max(mine.attr.size);
    let runs = match (kind, fresh) {
        (Kind::File, true) => Data::All.runs(end),
        (Kind::File, false) => data.runs(end),
        _ => Vec::new(),
    };
    let unequal = fresh || !same(&image, &mine);
    Ok(Left::Blocks { runs, image: Box::new(image), unequal })
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

/// Compares a run of blocks and copies those that differ. Returns bytes copied.
async fn copy_run(way: Way<'_>, gfid: Gfid, run: Range<u64>) -> Result<u64, HealError> {
    let (first, count) = (run.start, (run.end - run.start) as u32);
    let sums = async {
        futures_util::try_join!(
            side::block_sums(way.from, gfid, first, count),
            side::block_sums(way.to, gfid, first, count)
        )
    };
    let (theirs, ours) = way.pace.run(sums).await?;
    let differing = (first..)
        .zip(&theirs.sums)
        .enumerate()
        .filter(|(n, (_, sum))| ours.sums.get(*n) != Some(sum))
        .map(|(_, (block, sum))| (block, *sum == 0))
        .collect::<Vec<(u64, bool)>>();
    let pieces = pieces(&differing).into_iter();
    let copies = pieces.map(|piece| way.pace.run(copy_piece(way, gfid, theirs.size, piece)));
    all(copies.collect(), READS).await
}

/// The sum of what all the work brings, so much of it at once.
async fn all(
    work: Vec<impl Future<Output = Result<u64, HealError>>>,
    at_once: usize,
) -> Result<u64, HealError> {
    let done = stream::iter(work).buffer_unordered(at_once);
    done.try_fold(0, |sum, bytes| ready(Ok(sum + bytes))).await
}

/// Neighbours (of blocks, each with whether it is a hole) together, up to a read's size.
fn pieces(blocks: &[(u64, bool)]) -> Vec<(Range<u64>, bool)> {
    let mut pieces: Vec<(Range<u64>, bool)> = Vec::new();
    for (block, hole) in blocks {
        match pieces.last_mut() {
            Some((run, of)) if of == hole && run.end == *block && fits(run) => run.end += 1,
            _ => pieces.push((*block..block + 1, *hole)),
        }
    }
    pieces
}

fn fits(run: &Range<u64>) -> bool {
    run.end - run.start < BLOCKS_PER_READ
}

async fn copy_piece(
    way: Way<'_>,
    gfid: Gfid,
    size: u64,
    (run, hole): (Range<u64>, bool),
) -> Result<u64, HealError> {
    let offset = run.start * BLOCK_BYTES;
    let len = ((run.end - run.start) * BLOCK_BYTES).min(size.saturating_sub(offset));
    if hole {
        side::install_hole(way.to, gfid, offset, len).await?;
    } else {
        let data: Bytes = side::read(way.from, gfid, offset, len as u32).await?;
        way.progress.copied(data.len() as u64);
        if !data.is_empty() {
            side::install_data(way.to, gfid, offset, data).await?;
        }
    }
    Ok(len)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_log_names_is_asked_in_runs_of_neighbours() {
        let named = Data::Extents(vec![3, 4, 5, 9]);
        assert_eq!(named.runs(1), [3..6, 9..10], "beyond the end, too: it may have been cut");
        let all = Data::All.runs(1500 * BLOCK_BYTES - 1);
        assert_eq!(all, [0..SUMS_PER_QUESTION, SUMS_PER_QUESTION..1500]);
        assert!(Data::All.runs(0).is_empty());
    }

    #[test]
    fn neighbours_are_read_together_up_to_a_mebibyte() {
        let blocks: Vec<(u64, bool)> = (0..10).map(|n| (n, false)).chain([(10, true)]).collect();
        assert_eq!(pieces(&blocks), [(0..8, false), (8..10, false), (10..11, true)]);
        assert_eq!(pieces(&[(1, false), (3, false)]), [(1..2, false), (3..4, false)]);
    }
}
