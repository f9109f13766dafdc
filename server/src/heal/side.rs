//! One end of a copy: a brick that answers peer operations.

use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;
use proto::fop::{
    Answer, BlockSumList, BlockSums, Call, Changed, ChangedList, DirEntry, Inspect, InspectDir,
    Inspected, Install, InstallData, InstallName, Outcome, PeerRead, READDIR_ENTRIES_MAX,
    RemoveName,
};
use proto::{Errno, Failure, Gfid};

/// Why a copy stopped.
#[derive(Clone, Debug, thiserror::Error)]
pub enum HealError {
    /// The brick refused or failed: the round is tried again later.
    #[error("{op} of {gfid}: {failure:?}")]
    Failed { op: &'static str, gfid: Gfid, failure: Failure },
    #[error("{op} of {gfid}: the answer has another shape")]
    Shape { op: &'static str, gfid: Gfid },
    #[error("{0}")]
    Control(String),
}

impl HealError {
    /// The brick has no such inode (any more).
    pub fn is_gone(&self) -> bool {
        let gone = [Errno::ENOENT, Errno::ESTALE].map(Failure::Errno);
        matches!(self, HealError::Failed { failure, .. } if gone.contains(failure))
    }

    pub fn is_no_directory(&self) -> bool {
        let failure = Failure::Errno(Errno::ENOTDIR);
        matches!(self, HealError::Failed { failure: f, .. } if *f == failure)
    }
}

pub type Answered<'a> = Pin<Box<dyn Future<Output = Outcome> + Send + 'a>>;
/// A boxed step of the control plane.
pub type Waits<'a, T> = Pin<Box<dyn Future<Output = Result<T, HealError>> + Send + 'a>>;

/// A brick reached as a peer: over the data plane, or a store in the same process.
pub trait Side: Send + Sync {
    fn call(&self, call: Call) -> Answered<'_>;
}

macro_rules! expect_answer {
    ($side:expr, $call:expr, $gfid:expr, $variant:ident) => {{
        let call: Call = $call;
        let op = call.fop.op().name();
        match $side.call(call).await {
            Ok(ret) => match ret.answer {
                Answer::$variant(answer) => Ok((answer, ret.payload)),
                _ => Err(HealError::Shape { op, gfid: $gfid }),
            },
            Err(failure) => Err(HealError::Failed { op, gfid: $gfid, failure }),
        }
    }};
}

/// The typed words of a copy. Free functions over `dyn Side`, so that the trait stays one method.
pub async fn inspect(side: &dyn Side, gfid: Gfid) -> Result<Inspected, HealError> {
    Ok(inspect_with(side, gfid, 0).await?.0)
}

/// With the content of a file of at most `data_max` bytes, where that is at hand.
pub async fn inspect_with(
    side: &dyn Side,
    gfid: Gfid,
    data_max: u32,
) -> Result<(Inspected, Bytes), HealError> {
    expect_answer!(side, Call::new(Inspect { gfid, data_max }), gfid, Inspected)
}

/// All names of a directory in (hash, name) order; empty when the brick lacks the directory.
pub async fn names(side: &dyn Side, gfid: Gfid) -> Result<Vec<DirEntry>, HealError> {
    all_names(side, gfid, false).await
}

/// As `names`, after the sink has set aside what a create that was cut off left there: no
/// listing shows it, and the other bricks do not have it.
pub async fn names_of_sink(side: &dyn Side, gfid: Gfid) -> Result<Vec<DirEntry>, HealError> {
    all_names(side, gfid, true).await
}

async fn all_names(side: &dyn Side, gfid: Gfid, tidy: bool) -> Result<Vec<DirEntry>, HealError> {
    let mut all: Vec<DirEntry> = Vec::new();
    loop {
        let (after_hash, after_name) =
            all.last().map_or((0, Bytes::new()), |e| (e.hash, e.name.clone()));
        let (limit, tidy) = (READDIR_ENTRIES_MAX, tidy && all.is_empty());
        let page = InspectDir { gfid, after_hash, after_name, limit, tidy };
        let (page, _) = match expect_answer!(side, Call::new(page), gfid, Entries) {
            Err(error) if error.is_gone() => return Ok(all),
            other => other?,
        };
        let got = page.entries.len();
        all.extend(page.entries);
        if page.end || got == 0 {
            return Ok(all);
        }
    }
}

pub async fn block_sums(
    side: &dyn Side,
    gfid: Gfid,
    first: u64,
    count: u32,
) -> Result<BlockSumList, HealError> {
    let call = Call::new(BlockSums { gfid, first, count });
    Ok(expect_answer!(side, call, gfid, BlockSumList)?.0)
}

/// At most 1 MiB at a time, by the caller's choice of `len`; shorter at the end of the file.
pub async fn read(side: &dyn Side, gfid: Gfid, offset: u64, len: u32) -> Result<Bytes, HealError> {
    let call = Call::new(PeerRead { gfid, offset, len });
    Ok(expect_answer!(side, call, gfid, Read)?.1)
}

pub async fn install(side: &dyn Side, image: Inspected, finish: bool) -> Result<(), HealError> {
    let gfid = image.attr.gfid;
    expect_answer!(side, Call::new(Install { image, finish }), gfid, Done)?;
    Ok(())
}

/// All of an inode: `content` is empty where it has none.
pub async fn install_whole(
    side: &dyn Side,
    image: Inspected,
    content: Bytes,
) -> Result<(), HealError> {
    let gfid = image.attr.gfid;
    let call = Call::new(Install { image, finish: true }).with_payload(content);
    expect_answer!(side, call, gfid, Done)?;
    Ok(())
}

pub async fn install_data(
    side: &dyn Side,
    gfid: Gfid,
    offset: u64,
    data: Bytes,
) -> Result<(), HealError> {
    let args = InstallData { gfid, offset, len: data.len() as u64, hole: false };
    expect_answer!(side, Call::new(args).with_payload(data), gfid, Done)?;
    Ok(())
}

pub async fn install_hole(
    side: &dyn Side,
    gfid: Gfid,
    offset: u64,
    len: u64,
) -> Result<(), HealError> {
    let args = InstallData { gfid, offset, len, hole: true };
    expect_answer!(side, Call::new(args), gfid, Done)?;
    Ok(())
}

pub async fn install_name(
    side: &dyn Side,
    parent: Gfid,
    name: Bytes,
    gfid: Gfid,
) -> Result<(), HealError> {
    expect_answer!(side, Call::new(InstallName { parent, name, gfid }), gfid, Done)?;
    Ok(())
}

pub async fn remove_name(side: &dyn Side, parent: Gfid, name: Bytes) -> Result<(), HealError> {
    expect_answer!(side, Call::new(RemoveName { parent, name }), parent, Done)?;
    Ok(())
}

/// Any operation that answers Done.
pub async fn done(side: &dyn Side, call: Call) -> Result<(), HealError> {
    expect_answer!(side, call, Gfid::NIL, Done)?;
    Ok(())
}

/// Every page of a change list. `advance` closes the brick's present interval first: `current`
/// of the answer is then a new one, in which nothing of the list stands.
pub async fn changed(side: &dyn Side, since: u64, advance: bool) -> Result<ChangedList, HealError> {
    let mut all = ChangedList::default();
    let mut after = Gfid::NIL;
    loop {
        let advance = advance && after.is_nil();
        let call = Call::new(Changed {
            since,
            after,
            limit: READDIR_ENTRIES_MAX,
            advance,
            ..Changed::default()
        });
        let (page, _) = expect_answer!(side, call, after, ChangedList)?;
        let last = page.items.last().map(|i| i.gfid);
        let end = page.end || page.compare_all;
        if all.current == 0 {
            all.current = page.current;
        }
        all.complete_since = page.complete_since;
        all.stale.extend(page.stale);
        all.compare_all |= page.compare_all;
        all.items.extend(page.items);
        match last {
            Some(gfid) if !end => after = gfid,
            _ => return Ok(all),
        }
    }
}

/// One page of a brick's change log as it stands, after (interval, gfid).
pub async fn log_page(
    side: &dyn Side,
    (after_interval, after): (u64, Gfid),
) -> Result<ChangedList, HealError> {
    let limit = READDIR_ENTRIES_MAX;
    let ask = Changed { rows: true, after_interval, after, limit, ..Changed::default() };
    Ok(expect_answer!(side, Call::new(ask), after, ChangedList)?.0)
}
