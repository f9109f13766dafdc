//! Space taken on a set: within the limit that its lead lends, before anything is sent.
//!
//! A limit is a sum since the session began, so an answer that comes late takes nothing back.
//! Who finds the limit too low asks the lead at once; who is refused then gets ENOSPC before a
//! byte is written anywhere.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use proto::fop::{Call, Create, Fop, Renew};
use proto::{Errno, SetId};
use proto_rules::Tick;
use tokio::sync::Mutex;

use super::{Session, SetState, heartbeat};
use crate::replicate::{Ask, RETRY_AFTER};

/// What an inode and its name take beyond data: an inode, a share of a directory's block, the
/// database's records.
const INODE_BYTES: u64 = 8 << 10;
/// A name or an attribute more.
const ENTRY_BYTES: u64 = 4 << 10;
/// fallocate(2) mode bit: takes space away.
const PUNCH_HOLE: u32 = 2;

/// What a session has taken on one set.
#[derive(Debug, Default)]
pub(super) struct Credit {
    taken: AtomicU64,
    limit: AtomicU64,
    /// Who asks the lead for more; the others wait for what comes of it.
    asking: Mutex<()>,
}

impl Credit {
    /// Takes so many bytes if the limit allows it.
    pub(super) fn take(&self, bytes: u64) -> bool {
        let limit = self.limit.load(Relaxed);
        let more = |taken: u64| taken.checked_add(bytes).filter(|sum| *sum <= limit);
        bytes == 0 || self.taken.fetch_update(Relaxed, Relaxed, more).is_ok()
    }

    /// The lead's newest word.
    pub(super) fn set_limit(&self, limit: u64) {
        self.limit.store(limit, Relaxed);
    }

    /// What a renewal says: `buffered` is not on the members yet.
    pub(super) fn renewal(&self, mark: u64, buffered: u64, need: u64) -> Renew {
        let taken = self.taken.load(Relaxed);
        Renew { mark, taken, done: taken.saturating_sub(buffered), need }
    }
}

/// Bytes that a change takes at most. Buffered writes took theirs when they were buffered.
pub(super) fn needed(call: &Call) -> u64 {
    match &call.fop {
        Fop::Create(Create { .. }) => INODE_BYTES + call.payload.len() as u64,
        Fop::Write(_) if call.stamp.0 == 0 => call.payload.len() as u64,
        Fop::Link(_) => ENTRY_BYTES,
        Fop::Setxattr(a) => ENTRY_BYTES + a.value.len() as u64,
        Fop::Fallocate(a) if a.mode & PUNCH_HOLE == 0 => a.len,
        _ => 0,
    }
}

impl Session {
    /// Takes space on a set, asking its lead for more where the limit is too low.
    ///
    /// # Errors
    /// ENOSPC: the lead has no more. ETIMEDOUT: no lead answers.
    pub(super) async fn take_space(
        &self,
        set: SetId,
        bytes: u64,
        deadline: Tick,
    ) -> Result<(), Errno> {
        let state = self.set(set).ok_or(Errno::EIO)?;
        if state.credit.take(bytes) {
            return Ok(());
        }
        let _one_asks = state.credit.asking.lock().await;
        loop {
            if state.credit.take(bytes) {
                return Ok(());
            }
            if self.ask_for_space(&state, bytes, deadline).await? {
                return if state.credit.take(bytes) { Ok(()) } else { Err(Errno::ENOSPC) };
            }
            tokio::time::sleep(RETRY_AFTER).await;
        }
    }

    /// Whether a lead has said how much there is.
    async fn ask_for_space(
        &self,
        state: &SetState,
        need: u64,
        deadline: Tick,
    ) -> Result<bool, Errno> {
        let set = state.replica.id;
        let mark = state.replica.mark();
        let call = Call::new(state.credit.renewal(mark, self.buffered(set), need));
        let ask = Ask { call: &call, under: None, wants: Vec::new(), background: true };
        let said = state.replica.ask(ask, deadline).await?;
        Ok(heartbeat::answered(self, state, set, said.brick, said.reply))
    }

    /// Bytes that the volume above holds for a set.
    pub(super) fn buffered(&self, set: SetId) -> u64 {
        self.keeper.get().map_or(0, |keeper| keeper.buffered(set))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_taken_beyond_the_limit() {
        let credit = Credit::default();
        assert!(credit.take(0), "what needs nothing needs no limit");
        assert!(!credit.take(1));
        credit.set_limit(10);
        assert!(credit.take(10));
        assert!(!credit.take(1));
        assert_eq!(credit.renewal(3, 4, 7), Renew { mark: 3, taken: 10, done: 6, need: 7 });
    }
}
