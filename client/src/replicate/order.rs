//! Numbers of changes, and no two conflicting ones in flight.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use proto::fop::{Fop, Touch};
use proto::{Gfid, Seq};
use proto_rules::window::conflict::Conflicts;
use proto_rules::window::sequencer::Sequencer;
use tokio::sync::{Notify, oneshot};

use crate::sync::lock;

#[derive(Default)]
struct Flying {
    conflicts: Conflicts,
    next: u64,
    waiting: HashMap<u64, oneshot::Sender<()>>,
}

/// The order of one session's changes on one set.
#[derive(Default)]
pub(super) struct Order {
    numbers: Mutex<Sequencer>,
    settled: Notify,
    flying: Mutex<Flying>,
    landed: Notify,
}

/// Leave to send a change; what conflicts with it waits until this drops.
pub(super) struct Leave {
    order: Arc<Order>,
    id: u64,
}

/// A number taken; settled when this drops.
pub(super) struct Numbered {
    order: Arc<Order>,
    pub(super) seq: Seq,
}

impl Order {
    pub(super) fn mark(&self) -> Seq {
        lock(&self.numbers).mark()
    }

    /// Waits for all conflicting changes that came earlier.
    pub(super) async fn leave(self: &Arc<Self>, touches: Vec<Touch>) -> Leave {
        let (leave, waiting) = {
            let mut flying = lock(&self.flying);
            flying.next += 1;
            let id = flying.next;
            let leave = Leave { order: self.clone(), id };
            let waiting = (!flying.conflicts.submit(id, touches)).then(|| {
                let (go, wait) = oneshot::channel();
                flying.waiting.insert(id, go);
                wait
            });
            (leave, waiting)
        };
        if let Some(wait) = waiting {
            // The sender is kept until it sends: an error cannot be.
            let _ = wait.await;
        }
        leave
    }

    /// Takes the next number; waits while the members' windows are full.
    pub(super) async fn number(self: &Arc<Self>) -> Numbered {
        loop {
            let settled = self.settled.notified();
            if let Some(seq) = lock(&self.numbers).begin() {
                return Numbered { order: self.clone(), seq };
            }
            settled.await;
        }
    }

    /// Waits until no bytes that `fop` reads are in flight: they are on some members only
    /// (trap 3).
    pub(super) async fn quiet(&self, fop: &Fop) {
        let Fop::Read(a) = fop else { return };
        let end = a.offset.saturating_add(a.len.into());
        loop {
            let landed = self.landed.notified();
            if !lock(&self.flying).conflicts.writes_in(a.gfid, a.offset, end) {
                return;
            }
            landed.await;
        }
    }

    /// Whether something of the inode is in flight: only the lead's word is steady then.
    pub(super) fn busy(&self, gfid: Gfid) -> bool {
        lock(&self.flying).conflicts.busy(gfid)
    }
}

impl Drop for Leave {
    fn drop(&mut self) {
        let mut flying = lock(&self.order.flying);
        flying.waiting.remove(&self.id);
        for id in flying.conflicts.finish(self.id) {
            if let Some(go) = flying.waiting.remove(&id) {
                // Whoever gave up meanwhile has its own `Leave` to drop.
                let _ = go.send(());
            }
        }
        drop(flying);
        self.order.landed.notify_waiters();
    }
}

impl Drop for Numbered {
    fn drop(&mut self) {
        lock(&self.order.numbers).settled(self.seq);
        self.order.settled.notify_waiters();
    }
}
