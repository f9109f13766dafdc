//! What was fsynced survives the loss of all memory: a value that an fsynced one had replaced
//! is never read again.

use super::Broken;
use super::history::{History, Kind, Res};
use super::registers::{register_of, show};

pub fn check(history: &History) -> Result<(), Broken> {
    for cut in &history.cuts {
        let syncs = history.ops.iter().filter(|e| e.done() && e.to < *cut);
        for sync in syncs {
            let Kind::Fsync { gfid } = sync.kind else { continue };
            // A write lost in an earlier loss of all memory was not there to be synced.
            let lost = |from: u64| history.cuts.iter().any(|c| *c >= from && *c <= sync.to);
            let kept = history.ops.iter().filter(|e| e.done() && e.to < sync.from && !lost(e.from));
            for write in kept {
                let Kind::Write { gfid: written, .. } = write.kind else { continue };
                if written != gfid {
                    continue;
                }
                let register = register_of(&write.kind);
                let later = history
                    .ops
                    .iter()
                    .filter(|e| e.from > *cut && register_of(&e.kind) == register);
                for read in later {
                    let Some(Res::Value(value)) = read.res else { continue };
                    if replaced(history, register, value, write.from) {
                        let what = format!("{} after {} and its fsync", show(read), show(write));
                        return Err(Broken::new("fsynced data survives", what));
                    }
                }
            }
        }
    }
    Ok(())
}

/// Whether the write of `value` had returned before `by` began.
pub fn replaced(
    history: &History,
    register: Option<super::registers::Register>,
    value: u64,
    by: u64,
) -> bool {
    if value == 0 {
        return true;
    }
    let source = history.ops.iter().find(|e| match e.kind {
        Kind::Write { value: v, .. } | Kind::Setattr { value: v, .. } => {
            v == value && register_of(&e.kind) == register
        }
        _ => false,
    });
    source.is_some_and(|e| e.done() && e.to < by)
}
