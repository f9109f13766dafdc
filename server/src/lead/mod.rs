//! What only the lead of a set does: leases, locks, recalls, settles.
//!
//! Purpose: drive the rules' lease table: keep the requests that wait for a lease, push
//! recalls, collect and copy unsettled changes when a lease ends badly, take over as a new
//! lead.
//!
//! Assumes: it runs on the brick's thread; `settle` and `takeover` are tasks of it that reach
//! the other members through the client library's transport, as a peer.
//!
//! Promises: every command of the table is carried out or tried again until the epoch ends;
//! nothing is granted while it is not.
//!
//! Deliberately does not: judge. Who may have what, and when, is `proto_rules::lease::table`.

mod copy;
mod execute;
mod members;
mod settle;
mod stale;
mod takeover;

use std::collections::{BTreeMap, BTreeSet};

use proto::{LeaseNumber, Seq, SessionId};
use proto_rules::lease::table::LeaseTable;
use proto_rules::lease::{Lease, LeaseKey};
use proto_rules::locks::Locks;
use proto_rules::space::Ledger;
use tokio::sync::oneshot;

pub use members::{Member, Members, PeerCredential};
pub use settle::{touch_of, touch_to};

use crate::brick::Pending;

/// The lead's own state, gone when it leads no more.
pub struct Lead {
    pub table: LeaseTable,
    pub locks: Locks,
    /// Space lent to sessions.
    pub space: Ledger,
    /// Requests that wait for a lease, by the ask's id.
    pub waiting: BTreeMap<u64, Pending>,
    /// Requests that wait for a lock, by the waiter's number.
    pub lock_waiting: BTreeMap<u64, Pending>,
    /// Leases taken for the time of a read, unless they were granted for good meanwhile.
    pub lent: BTreeSet<(SessionId, LeaseKey, LeaseNumber)>,
    /// Changes that are being fanned out for their sessions.
    pub executing: BTreeSet<(SessionId, Seq)>,
    /// The members are noting that a grace has ended: begun again in the next epoch.
    pub noting: bool,
    /// Leases that the lead itself waits for, by the ask's id.
    pub asks: BTreeMap<u64, oneshot::Sender<Lease>>,
    pub stale: stale::StaleHeal,
}

impl Lead {
    pub fn new(table: LeaseTable) -> Self {
        Self {
            table,
            locks: Locks::default(),
            space: Ledger::default(),
            waiting: BTreeMap::new(),
            lock_waiting: BTreeMap::new(),
            lent: BTreeSet::new(),
            executing: BTreeSet::new(),
            noting: false,
            asks: BTreeMap::new(),
            stale: stale::StaleHeal::default(),
        }
    }

    /// Everything that waits, to be refused: the lead leads no more.
    pub fn into_waiting(self) -> impl Iterator<Item = Pending> {
        self.waiting.into_values().chain(self.lock_waiting.into_values())
    }
}
