//! The joiner's way back: rounds until little is left, then a short pause and the join.
//!
//! ```text
//! list ── rounds ──(little left)── checkpoint ── pause ── last list ── take over ── agree
//!   ▲                                              │                              │
//!   └── the lead changed, or anything failed ◄─────┴── over 0.5 s: withdrawn      └─► Join
//! ```
//!
//! Each listing closes the lead's change-log interval, so that the next list holds only what
//! changed since, however busy the writers are. While the lead pauses, every change waits for
//! its answer, so nothing can be acknowledged that the last list misses.

use std::sync::Arc;
use std::time::{Duration, Instant};

use proto::fop::{
    Answer, Call, ChangedItem, ChangedList, Checkpoint, PauseForJoin, SweepParked, TakeOver,
};
use proto::{BrickId, Epoch, Gfid};

use super::inode::Data;
use super::progress::Progress;
use super::round::{self, Item, Round};
use super::side::{self, HealError, Side};

/// Longest time for which the lead is asked to hold changes back.
pub const PAUSE_MS_MAX: u32 = 500;
/// A list this short is left to the pause: 200 inodes of small changes take well under it.
const LITTLE_ITEMS: usize = 200;
/// ... unless it names this much data (1 MiB extents).
const LITTLE_EXTENTS: usize = 32;
/// A writer as fast as the copier keeps the list long for ever; after this many rounds the
/// pause is tried all the same (and withdrawn if it does not fit).
const ROUNDS_MAX: u32 = 30;

/// From when on the lead is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base {
    /// The joiner's own last interval in-sync, less one.
    Since(u64),
    /// Nothing is known: compare everything.
    Everything,
}

/// What the job needs of its surroundings. All of it is about one brick of this peer.
pub trait Surroundings: Send + Sync {
    /// The lead to copy from, in which epoch. `None`: there is none, or we are not syncing.
    fn lead(&self) -> Option<(BrickId, Epoch)>;
    fn base(&self) -> Base;
    fn side_of(&self, brick: BrickId) -> Arc<dyn Side>;
    fn own_side(&self) -> Arc<dyn Side>;
    /// Our change log answers for what `items` name, as the lead's did since `complete_since`.
    fn take_over_log(&self, items: Vec<ChangedItem>, complete_since: u64) -> side::Waits<'_, ()>;
    /// Gets every in-sync member's agreement, proposes the join, waits until it is committed.
    fn join(&self, epoch: Epoch) -> side::Waits<'_, ()>;
    /// Ends the agreement by an epoch without us.
    fn bump(&self, epoch: Epoch) -> side::Waits<'_, ()>;
}

/// One attempt, from the first list to the committed join.
///
/// # Errors
/// Whatever stopped it. Nothing copied is lost; the next attempt starts from the same base.
pub async fn attempt(
    world: &dyn Surroundings,
    progress: &Arc<Progress>,
) -> Result<BrickId, HealError> {
    let control = |what: &str| HealError::Control(what.to_owned());
    let (lead, _) = world.lead().ok_or_else(|| control("no lead to copy from"))?;
    let (from, to) = (world.side_of(lead), world.own_side());
    let round = Round::new(from.clone(), to.clone(), progress.clone());
    let since = catch_up(world, &round, progress, lead).await?;
    progress.phase("checkpoint", 0);
    let log = lead_log(&*from).await?;
    checkpoint(&*to).await?;
    progress.phase("joining", 0);
    let (now, epoch) = world.lead().ok_or_else(|| control("no lead to join"))?;
    if now != lead {
        return Err(control("the lead changed"));
    }
    if let Err(error) = final_pause(world, &round, epoch, since, log).await {
        // Nobody was asked to agree yet: the lead may go on at once. If this is lost, it ends
        // the pause itself, by a new epoch.
        let off = PauseForJoin { epoch: epoch.0, pause_ms: 0 };
        let _ = from.call(Call::new(off)).await;
        return Err(error);
    }
    match world.join(epoch).await {
        Ok(()) => Ok(lead),
        Err(error) => {
            world.bump(epoch).await?;
            Err(error)
        }
    }
}

/// Everything that the lead's log holds: a member that is away may ask us one day.
async fn lead_log(from: &dyn Side) -> Result<ChangedList, HealError> {
    let complete_since = side::changed(from, u64::MAX, false).await?.complete_since;
    side::changed(from, complete_since, false).await
}

/// Rounds until little is left. Returns the interval from which the last list is asked.
async fn catch_up(
    world: &dyn Surroundings,
    round: &Round,
    progress: &Progress,
    lead: BrickId,
) -> Result<u64, HealError> {
    progress.phase("listing", 0);
    let base = world.base();
    let mut list = match base {
        Base::Since(since) => side::changed(&*round.from, since, true).await?,
        Base::Everything => side::changed(&*round.from, u64::MAX, true).await?,
    };
    let mut since = list.current;
    let mut items = match base {
        Base::Since(since) if !list.compare_all => {
            // What we executed and the others perhaps did not.
            let own = side::changed(&*round.to, since, false).await?;
            if own.compare_all { whole_tree() } else { round::items(&[&list, &own]) }
        }
        _ => {
            let own = side::changed(&*round.to, u64::MAX, false).await?;
            let list = side::changed(&*round.from, u64::MAX, false).await?;
            whole_tree().into_iter().chain(round::nameless(&[&list, &own])).collect()
        }
    };
    for number in 1..=ROUNDS_MAX {
        if number > 1 && is_little(&items) {
            break;
        }
        if world.lead().is_none_or(|(now, _)| now != lead) {
            return Err(HealError::Control("the lead changed".into()));
        }
        progress.phase("copying", number);
        round.forget_whole();
        round.run(items).await?;
        since = list.current;
        list = side::changed(&*round.from, since, true).await?;
        items = round::items(&[&list]);
    }
    // The last list is not copied yet: the pause asks for it again, with what came after.
    Ok(since)
}

fn whole_tree() -> Vec<Item> {
    vec![Item::whole(Gfid::ROOT)]
}

fn is_little(items: &[Item]) -> bool {
    let extents: usize = items
        .iter()
        .map(|i| match &i.data {
            Data::None => 0,
            Data::Extents(extents) => extents.len(),
            Data::All => LITTLE_EXTENTS / 4,
        })
        .sum();
    items.len() <= LITTLE_ITEMS && extents <= LITTLE_EXTENTS
}

/// The lead holds changes back; the rest is copied, log and rules' state are handed over.
async fn final_pause(
    world: &dyn Surroundings,
    round: &Round,
    epoch: Epoch,
    since: u64,
    log: ChangedList,
) -> Result<(), HealError> {
    let start = Instant::now();
    let pause = PauseForJoin { epoch: epoch.0, pause_ms: PAUSE_MS_MAX };
    let shipped = round.from.call(Call::new(pause)).await;
    let shipped = shipped.map_err(|f| HealError::Control(format!("pause refused: {f:?}")))?;
    let Answer::HandOver(state) = shipped.answer else {
        return Err(HealError::Control("the lead's pause has another shape".into()));
    };
    let list: ChangedList = side::changed(&*round.from, since, false).await?;
    let items = round::items(&[&list]);
    let (count, listed) = (items.len(), start.elapsed());
    round.forget_whole();
    round.run(items).await?;
    side::done(&*round.to, Call::new(SweepParked { keep: Vec::new() })).await?;
    let complete_since = log.complete_since;
    world.take_over_log(log.items.into_iter().chain(list.items).collect(), complete_since).await?;
    let take_over = Call::new(TakeOver { state }).with_payload(shipped.payload);
    side::done(&*round.to, take_over).await?;
    checkpoint(&*round.to).await?;
    tracing::info!(count, ?listed, total = ?start.elapsed(), "copied the rest under the pause");
    if start.elapsed() > Duration::from_millis(u64::from(PAUSE_MS_MAX)) {
        return Err(HealError::Control("the last copy took longer than the pause".into()));
    }
    Ok(())
}

async fn checkpoint(to: &dyn Side) -> Result<(), HealError> {
    side::done(to, Call::new(Checkpoint {})).await
}
