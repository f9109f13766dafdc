//! Settling: copies exactly what unfinished changes touched, from one member to another.

use std::sync::Arc;

use proto::Gfid;
use proto::fop::{DirEntry, Touch};

use super::inode::{self, Data};
use super::progress::Progress;
use super::side::{self, HealError, Side};
use super::{dir, round::Round};

/// Makes the touched names, then attributes and ranges, of `to` equal to those of `from`.
///
/// # Errors
/// Either brick failed; the caller tries again or evicts the member.
pub async fn settle(
    from: &Arc<dyn Side>,
    to: &Arc<dyn Side>,
    touches: &[Touch],
) -> Result<(), HealError> {
    let progress = Arc::new(Progress::default());
    let round = Round::new(from.clone(), to.clone(), progress.clone());
    for touch in touches {
        if let Touch::Name { dir, hash } = touch {
            settle_name(&round, *dir, *hash).await?;
        }
    }
    for touch in touches {
        match *touch {
            Touch::Range { gfid, start, end } => {
                inode::copy_range(&**from, &**to, gfid, start..end, &progress)
                    .await
                    .or_else(gone)?;
                inode::heal(&**from, &**to, gfid, &Data::None, &progress).await?;
            }
            Touch::Attrs(gfid) => {
                inode::heal(&**from, &**to, gfid, &Data::None, &progress).await?;
            }
            Touch::Name { dir, .. } => {
                inode::heal(&**from, &**to, dir, &Data::None, &progress).await?;
            }
        }
    }
    Ok(())
}

/// An inode that one side lacks has no range to copy: `heal` deals with it.
fn gone(error: HealError) -> Result<u64, HealError> {
    match error {
        HealError::Failed { failure: proto::Failure::Errno(proto::Errno::ENOENT), .. } => Ok(0),
        other => Err(other),
    }
}

/// All names of one hash (nearly always one name) as the source has them.
async fn settle_name(round: &Round, dir_gfid: Gfid, hash: u64) -> Result<(), HealError> {
    let of_hash = |entries: Vec<DirEntry>| -> Vec<DirEntry> {
        entries.into_iter().filter(|e| e.hash == hash).collect()
    };
    let theirs = of_hash(side::names(&*round.from, dir_gfid).await?);
    let ours = of_hash(side::names(&*round.to, dir_gfid).await?);
    let diff = dir::diff(&theirs, &ours);
    for entry in &diff.remove {
        side::remove_name(&*round.to, dir_gfid, entry.name.clone()).await?;
    }
    for entry in &diff.add {
        let data = Data::All;
        inode::heal(&*round.from, &*round.to, entry.gfid, &data, &round.progress).await?;
        dir::place(&*round.to, dir_gfid, entry).await?;
    }
    Ok(())
}
