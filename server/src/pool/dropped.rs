//! A peer that is told that its pool has gone on without it: detached while it was away, or lost
//! to a `pool recover`.
//!
//! It stops at once and is un-pooled: its bricks serve nobody, its log counts no more, so that no
//! second truth begins. Its pool state is set aside, not removed, in case the word was a mistake.

use super::identity::PoolIdentity;
use super::{Pool, storage};
use crate::rpc::caller::DETACHED;

/// Whether a peer's refusal says that.
pub fn says_dropped(status: &tonic::Status) -> bool {
    status.code() == tonic::Code::PermissionDenied && status.message() == DETACHED
}

/// Waits for the word of another peer of this pool, and obeys.
pub async fn watch(pool: Pool) {
    loop {
        pool.0.channels.dropped().await;
        if pool.membership().is_some() {
            pool.stop_as_dropped().await;
        }
    }
}

impl Pool {
    async fn stop_as_dropped(&self) {
        let _one = self.0.transition.lock().await;
        let Some(member) = self.membership() else { return };
        tracing::error!(
            "the pool went on without this peer (it was detached, or the pool was recovered): it \
             serves nothing any more, and its bricks are left as they are; 'brick peer probe {0}' \
             on a member takes it in, with --reinstalled if bricks of the pool are here",
            member.host
        );
        let dir = &self.0.config.state_dir;
        let aside = storage::set_aside(dir, &member).and_then(|()| PoolIdentity::set_aside(dir));
        if let Err(error) = aside {
            tracing::error!(%error, "the pool's state cannot be set aside");
        }
        self.halt().await;
    }
}
