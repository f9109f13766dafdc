//! The last copy, under the lead's pause: what is left, the log, and the rules' state.

use std::time::Instant;

use bytes::Bytes;
use proto::fop::{Call, ChangedList, Checkpoint, HandOver, SweepParked, TakeOver};

use super::job::Surroundings;
use super::round::{self, Round};
use super::side::{self, HealError};

/// What the pausing lead shipped.
pub struct Rest {
    pub state: HandOver,
    pub payload: Bytes,
    pub list: ChangedList,
}

/// Copies it and puts it all on stable storage. `log`: the lead's, as of before the pause.
///
/// # Errors
/// Either brick failed.
pub async fn copy(
    world: &dyn Surroundings,
    round: &Round,
    rest: Rest,
    log: ChangedList,
) -> Result<(), HealError> {
    let start = Instant::now();
    let items = round::items(&[&rest.list]);
    let count = items.len();
    round.run(items).await?;
    side::done(&*round.to, Call::new(SweepParked { keep: Vec::new() })).await?;
    let complete_since = log.complete_since;
    let entries = log.items.into_iter().chain(rest.list.items).collect();
    world.take_over_log(entries, complete_since).await?;
    let take_over = Call::new(TakeOver { state: rest.state }).with_payload(rest.payload);
    side::done(&*round.to, take_over).await?;
    side::done(&*round.to, Call::new(Checkpoint {})).await?;
    tracing::info!(count, took = ?start.elapsed(), "copied the rest under the pause");
    Ok(())
}
