//! Heartbeats: one renewal per brick each 300 ms.
//!
//! They go to every in-sync member, because each keeps the session's changes above the settled
//! mark; only the lead's answer extends leases. A term counts from the sending.

use std::collections::HashSet;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use proto::fop::{Answer, Call, LeaseKey, Renew};
use proto::frame::Status;
use proto::{BrickId, Epoch, Failure, Refusal, SetId};
use proto_rules::time::RENEW_EVERY;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::{Session, SetState};
use crate::clock;
use crate::sync::lock;
use crate::transport::{BrickClient, CallError, Reply, Request};

/// An answer that took longer says nothing that the next one does not say better.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(1200);

/// From then on the way to the brick is looked at: early enough that a renewal by another way
/// still comes within the leases' term (1.5 s, counted from the beat before).
const LATE: Duration = Duration::from_millis(500);

/// Beats for the session's life.
pub(super) async fn beat(session: Arc<Session>) {
    let mut ticks = interval(Duration::from_nanos(RENEW_EVERY));
    // After a pause of the process one beat is enough.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let busy: Arc<Mutex<HashSet<BrickId>>> = Arc::default();
    loop {
        ticks.tick().await;
        let map = session.members.map();
        for set in &map.sets {
            let Some(state) = session.set(set.id) else { continue };
            // The same words for all members: what is buffered is counted once.
            let renewal = state.credit.renewal(state.replica.mark(), session.buffered(set.id), 0);
            for member in set.in_sync() {
                let Some(client) = session.members.client_of(member.brick) else { continue };
                // One at a time: to a brick that hangs they must not pile up.
                if !lock(&busy).insert(member.brick) {
                    continue;
                }
                let (session, state, busy) = (session.clone(), state.clone(), busy.clone());
                let (id, epoch, renewal) = (set.id, set.epoch, renewal.clone());
                tokio::spawn(async move {
                    renew(&session, &state, (id, epoch), &client, renewal).await;
                    lock(&busy).remove(&client.brick());
                });
            }
        }
    }
}

async fn renew(
    session: &Session,
    state: &SetState,
    at: (SetId, Epoch),
    client: &BrickClient,
    renewal: Renew,
) {
    let mark = renewal.mark;
    let call = Call::new(renewal);
    let request = Request { mark, ..Request::new(&call, at.1) };
    let mut answer = timeout(ANSWER_TIMEOUT, patiently(client, &request)).await;
    if matches!(answer, Ok(Err(_))) {
        // The connection ended under it; the next one may go another way.
        answer = timeout(ANSWER_TIMEOUT, client.exchange_in_background(&request)).await;
    }
    match answer {
        Ok(Ok(reply)) => {
            answered(session, state, at.0, client.brick(), reply);
        }
        Ok(Err(error)) => tracing::debug!(brick = %client.brick(), "heartbeat: {error}"),
        Err(_) => tracing::debug!(brick = %client.brick(), "heartbeat: no answer"),
    }
}

/// Waits for the answer; when it is late, looks meanwhile whether the way is closed.
async fn patiently(client: &BrickClient, request: &Request) -> Result<Reply, CallError> {
    let exchange = client.exchange_in_background(request);
    let look = async {
        sleep(LATE).await;
        client.look_for_another_way().await
    };
    let (mut exchange, mut look) = (pin!(exchange), pin!(look));
    tokio::select! {
        biased;
        answer = &mut exchange => return answer,
        _ = &mut look => {}
    }
    exchange.await
}

/// Takes in what a renewal says. Whether the lead told how much space there is.
pub(super) fn answered(
    session: &Session,
    state: &SetState,
    set: SetId,
    brick: BrickId,
    reply: Reply,
) -> bool {
    let now = clock::now();
    let sent = reply.sent;
    let mut told = false;
    match reply.status {
        Status::Failed(Failure::Refused(Refusal::UnknownSession)) => {
            session.unknown_at(set, brick);
        }
        Status::Failed(Failure::Refused(Refusal::Epoch { current })) => {
            if session.members.map().set(set).is_some_and(|s| s.epoch.0 < current) {
                session.map_is_old.notify_one();
            }
        }
        Status::Failed(_) => {}
        Status::Ok => {
            let Ok(Answer::Renewed(renewed)) = Answer::decode(proto::fop::Op::Renew, reply.answer)
            else {
                return false;
            };
            let map = session.members.map();
            let lead = map.set(set).and_then(|s| s.lead) == Some(brick);
            if renewed.term_ms > 0 && lead {
                let overdue: Vec<LeaseKey> =
                    renewed.overdue.iter().map(|key| LeaseKey::from(*key)).collect();
                state.leases.renewed(brick, sent, renewed.term_ms, &overdue);
                if let Some(limit) = renewed.space_limit {
                    state.credit.set_limit(limit);
                    told = true;
                }
                // One clock for the session: that of the first set's lead.
                if set == SetId(0) {
                    session.stamps.set(renewed.time_ns, now);
                }
            }
            if renewed.map_version > map.version {
                session.map_is_old.notify_one();
            }
        }
    }
    told
}
