//! The last copy, under the lead's pause: what is left, the log, and the rules' state.

use std::time::Instant;

use bytes::Bytes;
use proto::fop::{Call, ChangedItem, ChangedList, HandOver, SweepParked, TakeOver};

use super::job::Surroundings;
use super::round::{self, Round};
use super::side::{self, HealError};

/// What the pausing lead shipped.
pub struct Rest {
    pub state: HandOver,
    pub payload: Bytes,
    pub list: ChangedList,
}

/// The lead's log, of which the greater part is taken over before the pause.
#[derive(Clone, Debug, Default)]
pub struct Log {
    pub complete_since: u64,
    /// What the lists since then named.
    pub later: Vec<ChangedItem>,
}

/// Copies it; a checkpoint follows. `log`: what the lists named after the lead's log was taken
/// over.
///
/// # Errors
/// Either brick failed.
pub async fn copy(
    world: &dyn Surroundings,
    round: &Round,
    rest: Rest,
    log: Log,
) -> Result<(), HealError> {
    let start = Instant::now();
    let items = round::items(&[&rest.list]);
    let count = items.len();
    round.run(items).await?;
    side::done(&*round.to, Call::new(SweepParked { keep: Vec::new() })).await?;
    let entries = log.later.into_iter().chain(rest.list.items).collect();
    world.take_over_log(entries, Some(log.complete_since)).await?;
    let take_over = Call::new(TakeOver { state: rest.state }).with_payload(rest.payload);
    side::done(&*round.to, take_over).await?;
    tracing::info!(count, took = ?start.elapsed(), "copied the rest under the pause");
    Ok(())
}
