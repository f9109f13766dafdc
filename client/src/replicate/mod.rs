//! One replica set: a change to all in-sync members, a read from one of them.
//!
//! ```text
//! members.rs   who they are by the newest map, and a client for each brick
//! order.rs     numbers of changes, the settled mark, no two conflicting ones in flight, none
//!              beside a read of the same
//! flight.rs    one change: drives the rules' `Txn` (proto-rules) over the connections
//! read.rs      one read: drives the rules' `ReadTxn`
//! ```
//!
//! A change is sent to all in-sync members in parallel and is done when all of them have
//! answered. What happens when they do not:
//!
//! - *A connection breaks.* Executed or not, nobody knows: the same number is sent again to that
//!   member, flagged as a re-send; its window or its state recognises it.
//! - *A member dies.* Nothing here decides that. The pool moves the set to its next epoch, the
//!   map says so, and everything unfinished is sent again to all members of the new epoch, also
//!   to those that had answered: a new lead may have settled an unfinished change by undoing it.
//! - *A member refuses for now* (another epoch, no promise, grace, pause): it is asked again
//!   after 20 ms, until the operation's time is over.
//! - *The lead is another one.* Nothing is sent before the leases have been reclaimed from it.
//! - *The lease is gone.* Members that executed the change answer again until the lead has
//!   settled it; then the layer above asks for the lease again and for the change anew, or
//!   tells the application that its buffered data is lost.
//! - *Answers differ.* The lead has the differing copies marked stale on all members first; if
//!   it says that it cannot, the operation ends in EIO and stays unsettled.
//! - *The time is over, or the caller gave up.* The change goes on by itself until it is
//!   settled, because a change on some members only would leave replicas that differ. Until then
//!   it keeps its number, its leases, and whatever conflicts with it waiting.
//!
//! Assumes: leases are not given back while a change is on its way (`Footing`). Promises:
//! success only when every in-sync member has answered the same; at most 1024 changes above the
//! mark. Deliberately does not: acquire leases, choose sets, count epochs.

mod flight;
mod members;
mod order;
mod read;

pub(crate) use flight::{Change, End, Footing, Ground};
pub(crate) use members::{Members, Notices};
pub(crate) use read::{Ask, Said};

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use proto::SetId;
use proto_rules::Tick;

use crate::clock;
use order::Order;

/// Pause before a member that could not serve is asked again.
pub(crate) const RETRY_AFTER: Duration = Duration::from_nanos(proto_rules::time::RETRY_AFTER);

/// One set of one session.
pub(crate) struct ReplicaSet {
    pub(crate) id: SetId,
    members: Arc<Members>,
    order: Arc<Order>,
    /// The session ended: changes that go on by themselves stop.
    closed: AtomicBool,
}

impl ReplicaSet {
    pub(crate) fn new(id: SetId, members: Arc<Members>) -> Arc<ReplicaSet> {
        let order = Arc::new(Order::default());
        Arc::new(ReplicaSet { id, members, order, closed: AtomicBool::new(false) })
    }

    /// Every in-sync member has answered all changes up to this one.
    pub(crate) fn mark(&self) -> u64 {
        self.order.mark().0
    }

    pub(crate) fn close(&self) {
        self.closed.store(true, Relaxed);
    }
}

/// Sleeps until a tick.
pub(crate) async fn wake_at(at: Tick) {
    let nanos = at.since(clock::now());
    tokio::time::sleep(Duration::from_nanos(nanos)).await;
}
