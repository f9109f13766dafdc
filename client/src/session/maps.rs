//! The watch on the volume map, and the ticket's renewal.

use std::sync::Arc;
use std::time::Duration;

use proto::map::VolumeMap;
use tokio::time::sleep;
use tokio_stream::StreamExt;

use super::control::MapStream;
use super::{Session, identity};

const BACKOFF_MIN: Duration = Duration::from_millis(50);
/// Another stream is wanted now.
const BACKOFF_LATE: Duration = Duration::from_millis(5);
const BACKOFF_MAX: Duration = Duration::from_secs(1);
/// A stream that has not brought the epoch of which members speak by then hangs on a peer
/// that is cut off: the others are asked. Well below a new lead's grace (0.5 s): a mount that learns
/// of it later loses its leases.
const NEWS_LATE: Duration = Duration::from_millis(100);

/// Follows the map for the session's life.
pub(super) async fn watch(session: Arc<Session>, first: MapStream) {
    let mut stream = Some(first);
    let mut backoff = BACKOFF_MIN;
    loop {
        if let Some(stream) = stream.take() {
            backoff = follow(&session, stream, backoff).await;
        }
        sleep(backoff).await;
        backoff = (backoff * 2).min(BACKOFF_MAX);
        match session.control.watch_map(session.members.map().version).await {
            Ok(opened) => stream = Some(opened),
            Err(error) => tracing::warn!("watching the volume map: {error}"),
        }
    }
}

/// Until the stream ends or is too late. The pause before the next one.
async fn follow(session: &Arc<Session>, mut stream: MapStream, backoff: Duration) -> Duration {
    let mut pause = backoff;
    loop {
        tokio::select! {
            update = stream.next() => match update {
                Some(Ok(Some(map))) => {
                    take(session, map);
                    pause = BACKOFF_MIN;
                }
                Some(Ok(None)) => tracing::error!("the volume was deleted"),
                Some(Err(error)) => {
                    tracing::info!("the map stream broke: {error}");
                    return pause;
                }
                None => return pause,
            },
            () = late(session) => return BACKOFF_LATE,
        }
    }
}

/// Returns when members speak of a newer epoch and no map comes.
async fn late(session: &Session) {
    loop {
        session.map_is_old.notified().await;
        let version = session.members.map().version;
        sleep(NEWS_LATE).await;
        if session.members.map().version == version {
            return;
        }
    }
}

/// Leases first: nothing may be sent in a new epoch by what held in the old one.
pub(super) fn take(session: &Arc<Session>, map: VolumeMap) {
    let held = session.members.map();
    if map.version <= held.version || map.volume != held.volume {
        return;
    }
    session.note_sets(&map);
    session.members.set_map(map);
}

/// A ticket opens connections for a while only; a fresh one is fetched at half of its time.
pub(super) async fn renew_ticket(session: Arc<Session>, valid: Duration) {
    let mut valid = valid;
    loop {
        // An hour bounds what a nonsense value could do.
        sleep((valid / 2).clamp(BACKOFF_MAX, Duration::from_secs(3600))).await;
        match session.control.ticket().await {
            Ok(ticket) if ticket.session == session.id => {
                valid = ticket.valid;
                session.connector.set_identity(identity(&ticket, &session.host));
            }
            // A ticket of another session cannot open connections of this one.
            Ok(_) => tracing::warn!("the pool gave a ticket of another session"),
            Err(error) => tracing::warn!("renewing the ticket: {error}"),
        }
    }
}
