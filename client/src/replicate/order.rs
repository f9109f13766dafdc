//! Numbers of changes, no two conflicting ones in flight, and none beside a read of the same.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use proto::fop::{Fop, Touch, Under};
use proto::{Gfid, Seq};
use proto_rules::window::conflict::{Conflicts, Reads};
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

/// Leave to send a change, or a read; what conflicts with it waits until this drops.
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

    /// Waits for all conflicting changes that came earlier, and for reads of what it changes.
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

    /// Before a read. `Some`: any member may be asked, nothing of what it shows is in flight, and
    /// changes of it wait. `None`: only the lead's word is steady. Bytes are waited for either
    /// way (trap 3); attributes and names that are being changed are asked of the lead, at once.
    ///
    /// Changes wait only for reads under a lease: one without may itself wait, at the lead, for
    /// the very lease whose return waits for those changes.
    pub(super) async fn look(self: &Arc<Self>, fop: &Fop, under: Option<Under>) -> Option<Leave> {
        let Fop::Read(a) = fop else {
            return under.and_then(|under| self.read(Reads::Inode(under.key.gfid)));
        };
        let end = a.offset.saturating_add(a.len.into());
        let bytes = Reads::Bytes { gfid: a.gfid, start: a.offset, end };
        loop {
            let landed = self.landed.notified();
            if let Some(leave) = self.read(bytes) {
                return under.map(|_| leave);
            }
            landed.await;
        }
    }

    fn read(self: &Arc<Self>, reads: Reads) -> Option<Leave> {
        let mut flying = lock(&self.flying);
        flying.next += 1;
        let id = flying.next;
        flying.conflicts.read(id, reads).then(|| Leave { order: self.clone(), id })
    }

    /// Whether something of the inode is in flight: only the lead's word is steady then.
    pub(super) fn busy(&self, gfid: Gfid) -> bool {
        lock(&self.flying).conflicts.in_flight(Reads::Inode(gfid))
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
