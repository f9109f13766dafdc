//! The task that gives leases back, claims them from a new lead, and tells what was lost.

use std::sync::Arc;

use proto::fop::{Acquire, Call, Mode, Release, ReturnMsg};
use proto::frame::Status;
use proto::{Failure, Gfid, Refusal, SetId};
use proto_rules::Tick;
use proto_rules::lease::{Lease, LeaseKey};
use proto_rules::time::{MS, Nanos};

use super::leases::Todo;
use super::{RETURNS_MAX, Session, SetState, locks};
use crate::clock;
use crate::replicate::Ask;

/// How long one try to reach the lead lasts; a new lead makes most returns pointless.
const TRY: Nanos = 10_000 * MS;

/// Does what comes up at one set, for the session's life. Each recall gets a task of its own:
/// one that takes long to write back must not hold up the others.
pub(super) async fn work(session: Arc<Session>, set: Arc<SetState>) {
    loop {
        for todo in set.leases.work().await {
            let (session, set) = (session.clone(), set.clone());
            match todo {
                Todo::Lost(key) => tell_lost(&session, &set, key),
                Todo::GiveBack { lease, keep } => {
                    tokio::spawn(async move { give_back(&session, &set, lease, keep).await });
                }
                Todo::Acknowledge { lease } => {
                    tokio::spawn(async move { acknowledge(&set, lease).await });
                }
                Todo::Unpin(gfid) => {
                    tokio::spawn(async move {
                        release(&set, Vec::new(), vec![gfid]).await;
                    });
                }
                Todo::LockLost(gfid) => {
                    if let Some(keeper) = session.keeper.get() {
                        keeper.lock_lost(gfid);
                    }
                }
                Todo::Reclaim => {
                    tokio::spawn(async move { reclaim(&set).await });
                }
            }
        }
    }
}

fn tell_lost(session: &Session, set: &SetState, key: LeaseKey) {
    tracing::info!(set = %set.replica.id, ?key, "lease lost");
    if let Some(keeper) = session.keeper.get() {
        keeper.lost(set.replica.id, key);
    }
}

/// Writes back, waits for the last user, returns.
async fn give_back(session: &Session, set: &SetState, lease: Lease, keep: Mode) {
    let id: SetId = set.replica.id;
    let began = clock::now();
    if let Some(keeper) = session.keeper.get()
        && keeper.recall(id, lease.key, keep).await
    {
        // The keeper knows best whether the inode is open.
        set.leases.set_open(lease.key.gfid(), true);
    }
    let kept = clock::now();
    set.leases.close(lease.key);
    let open = loop {
        let changed = set.leases.changed();
        match set.leases.returning(lease, keep) {
            Ok(Some(open)) => break open,
            Ok(None) => return,
            Err(()) => changed.await,
        }
    };
    let returned = ReturnMsg {
        key: lease.key.into(),
        number: lease.number,
        keep: keep as i32,
        open: open && matches!(lease.key, LeaseKey::Inode(_)),
    };
    let unused = clock::now();
    release(set, vec![returned], Vec::new()).await;
    set.leases.returned(lease);
    let ms = |from: Tick, to: Tick| to.since(from) / MS;
    let (keeper_ms, users_ms) = (ms(began, kept), ms(kept, unused));
    let lead_ms = ms(unused, clock::now());
    tracing::debug!(set = %id, key = ?lease.key, ?keep, keeper_ms, users_ms, lead_ms, "given back");
}

/// Nothing is held: says so, and that the inode is not open if it is not.
async fn acknowledge(set: &SetState, lease: Lease) {
    let gfid = lease.key.gfid();
    let is_inode = matches!(lease.key, LeaseKey::Inode(_));
    let open = is_inode && set.leases.is_open(gfid);
    let returned =
        ReturnMsg { key: lease.key.into(), number: lease.number, keep: Mode::None as i32, open };
    // A lead that revokes pins the inode, to be on the safe side.
    let unpin: Vec<Gfid> = (is_inode && !open).then_some(gfid).into_iter().collect();
    release(set, vec![returned], unpin).await;
}

/// Until the lead has taken it. A lead that never does counts the lease's end by time.
async fn release(set: &SetState, returns: Vec<ReturnMsg>, unpin: Vec<Gfid>) {
    let call = Call::new(Release { returns, unpin });
    let ask = Ask { call: &call, under: None, wants: Vec::new(), background: true };
    if let Err(error) = set.replica.ask(ask, clock::now().after(TRY)).await {
        tracing::warn!(set = %set.replica.id, "returning a lease: {error}");
    }
}

/// Claims from a new lead what was held under the one before. A batch with fewer than
/// `RETURNS_MAX` claims is the last: with it this session has said all, and the lead's grace
/// need not wait for it any longer. So a session that held nothing sends an empty one.
async fn reclaim(set: &SetState) {
    let (lead_since, claims) = set.leases.claims();
    let mut batches: Vec<_> = claims.chunks(RETURNS_MAX).map(<[_]>::to_vec).collect();
    if batches.last().is_none_or(|last| last.len() == RETURNS_MAX) {
        batches.push(Vec::new());
    }
    let deadline: Tick = clock::now().after(TRY);
    // First: with the last of the leases the grace may end.
    locks::reclaim(set, deadline).await;
    for batch in batches {
        let call = Call::new(Acquire {});
        let ask = Ask { call: &call, under: None, wants: batch.clone(), background: true };
        let said = match set.replica.ask(ask, deadline).await {
            Ok(said) => said,
            Err(error) => {
                tracing::warn!(set = %set.replica.id, "reclaiming leases: {error}");
                break;
            }
        };
        match said.reply.status {
            Status::Ok => {
                let (sent, grants) = (said.reply.sent, &said.reply.grants);
                set.leases.reclaimed(said.brick, sent, &batch, grants);
            }
            // Too late, or not known to this lead.
            Status::Failed(Failure::Refused(Refusal::StaleLease) | Failure::Errno(_)) => break,
            Status::Failed(_) => {}
        }
    }
    // Whatever was not granted again is lost; nothing is left after full answers.
    set.leases.not_reclaimed(lead_since);
}
