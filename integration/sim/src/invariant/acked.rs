//! No acknowledged change is lost: what the quiet phase reads at the end is not older than any
//! acknowledged write, unless all memory was lost after it.

use super::Broken;
use super::fsynced::replaced;
use super::history::{History, Kind, Res};
use super::registers::{register_of, show};

/// `since`: when the quiet phase's own reads began.
pub fn check(history: &History, since: u64) -> Result<(), Broken> {
    let lost_until = history.cuts.last().copied().unwrap_or(0);
    for read in history.ops.iter().filter(|e| e.from >= since) {
        let (Some(Res::Value(value)), Some(register)) = (read.res, register_of(&read.kind)) else {
            continue;
        };
        let acked = history.ops.iter().find(|e| {
            let write = matches!(e.kind, Kind::Write { .. } | Kind::Setattr { .. });
            let mine = write && register_of(&e.kind) == Some(register);
            mine && e.done()
                && e.from > lost_until
                && replaced(history, Some(register), value, e.from)
        });
        if let Some(acked) = acked {
            let what = format!("{} was acknowledged; {}", show(acked), show(read));
            return Err(Broken::new("no acknowledged change is lost", what));
        }
    }
    Ok(())
}
