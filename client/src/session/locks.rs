//! The advisory locks that this session holds at one set.
//!
//! A new lead knows of none: they are claimed from it in its grace, with the leases and before
//! the last of them. A lock that cannot be claimed any more is lost, and its file answers EIO.

use futures_util::stream::{self, StreamExt as _};
use proto::SessionId;
use proto::fop::{Call, Lock};
use proto::frame::Status;
use proto_rules::Tick;

use super::SetState;
use super::leases::{Inner, Leases, Todo};
use crate::replicate::Ask;

/// The table is this session's own.
const OURS: SessionId = SessionId(0);
/// Claims under way at once.
const CLAIMS_AT_ONCE: usize = 64;

impl Leases {
    pub(super) fn lead_since(&self) -> Tick {
        self.with(|inner, _| inner.lead_since)
    }

    /// A lock or unlock that was asked of the lead of that time is done. False: there is another
    /// lead by now, which has not heard of it.
    pub(super) fn locked(&self, lead_since: Tick, lock: &Lock) -> bool {
        self.with(|inner, _| {
            let still = inner.lead_since == lead_since;
            if still {
                inner.locks.lock(OURS, lock, 0);
            }
            still
        })
    }

    fn lock_lost(&self, lead_since: Tick, lock: &Lock) {
        self.with(|inner, _| {
            if inner.lead_since == lead_since {
                inner.locks.lock(OURS, &Lock { kind: 0, ..*lock }, 0);
                inner.todo.push(Todo::LockLost(lock.gfid));
            }
        });
    }
}

impl Inner {
    /// The lead has taken this session for dead.
    pub(super) fn lose_locks(&mut self) {
        let gfids = self.locks.held(OURS).into_iter().map(|lock| Todo::LockLost(lock.gfid));
        self.todo.extend(gfids);
        self.locks = Default::default();
    }
}

/// Claims all locks from a new lead.
pub(super) async fn reclaim(set: &SetState, deadline: Tick) {
    let (lead_since, held) = set.leases.with(|inner, _| (inner.lead_since, inner.locks.held(OURS)));
    let claims = held.into_iter().map(|lock| async move {
        let call = Call::new(lock);
        let ask = Ask { call: &call, under: None, wants: Vec::new(), background: true };
        let said = set.replica.ask(ask, deadline).await;
        if !matches!(said, Ok(said) if matches!(said.reply.status, Status::Ok)) {
            tracing::warn!(set = %set.replica.id, gfid = %lock.gfid, "a lock is lost with its lead");
            set.leases.lock_lost(lead_since, &lock);
        }
    });
    stream::iter(claims).buffer_unordered(CLAIMS_AT_ONCE).collect::<Vec<()>>().await;
}
