//! No operation hangs: every application is told something within the operation timeout, by
//! its own clock, and the time that its process was stopped.

use super::Broken;
use super::history::History;
use super::registers::show;
use crate::model::clock::{MS, Nanos};

/// Ticks of the drivers, and the slowest clock allowed.
const SLACK_PERCENT: u64 = 5;
const SLACK: Nanos = 500 * MS;

/// `stopped(client, from)`: how long that client was stopped since; `None`: it died.
pub fn check(
    history: &History,
    now: Nanos,
    timeout: Nanos,
    stopped: impl Fn(usize, Nanos) -> Option<Nanos>,
) -> Result<(), Broken> {
    for entry in &history.ops {
        let Some(stopped) = stopped(entry.client, entry.from) else { continue };
        let bound = timeout + timeout * SLACK_PERCENT / 100 + SLACK + stopped;
        let took = entry.told.unwrap_or(now) - entry.from;
        if took > bound {
            let what = format!("{} took {} ms", show(entry), took / MS);
            return Err(Broken::new("no operation hangs", what));
        }
    }
    Ok(())
}
