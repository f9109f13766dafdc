//! No two conflicting changes of a session in flight, and no reading of a range in flight.
//!
//! Frames on different connections arrive in any order; two changes of the same bytes, of one
//! inode's attributes or of one name would be applied in different orders by different members
//! (trap 2). The later one waits here until the earlier one is settled.

use std::collections::{BTreeMap, VecDeque};

use proto::Gfid;
use proto::fop::Touch;

/// What is in flight of one session to one set, and who waits for it, in order.
#[derive(Clone, Debug, Default)]
pub struct Conflicts {
    flying: BTreeMap<u64, Vec<Touch>>,
    waiting: VecDeque<(u64, Vec<Touch>)>,
}

impl Conflicts {
    /// Submits change `id` (unique, the caller's). True: send it now; false: `finish` of
    /// another will name it.
    pub fn submit(&mut self, id: u64, touches: Vec<Touch>) -> bool {
        let earlier = self.flying.values().chain(self.waiting.iter().map(|(_, t)| t));
        let free = !earlier.into_iter().any(|t| conflict(t, &touches));
        if free {
            self.flying.insert(id, touches);
        } else {
            self.waiting.push_back((id, touches));
        }
        free
    }

    /// Change `id` is settled, or was given up before it was sent. Returns the changes that
    /// can be sent now, in the order of their submission.
    pub fn finish(&mut self, id: u64) -> Vec<u64> {
        self.flying.remove(&id);
        self.waiting.retain(|(waiter, _)| *waiter != id);
        let mut started = Vec::new();
        let mut still: VecDeque<(u64, Vec<Touch>)> = VecDeque::new();
        for (id, touches) in std::mem::take(&mut self.waiting) {
            let mut earlier = self.flying.values().chain(still.iter().map(|(_, t)| t));
            if earlier.any(|t| conflict(t, &touches)) {
                still.push_back((id, touches));
            } else {
                self.flying.insert(id, touches);
                started.push(id);
            }
        }
        self.waiting = still;
        started
    }

    /// Whether bytes of `gfid` are in flight or waiting to be sent: such a range is read from
    /// the session's buffer only, never from a member (trap 3).
    pub fn writes_in(&self, gfid: Gfid, start: u64, end: u64) -> bool {
        let range = Touch::Range { gfid, start, end };
        self.any(|t| t.conflicts(&range))
    }

    /// Whether anything of `gfid` is in flight or waiting.
    pub fn busy(&self, gfid: Gfid) -> bool {
        self.any(|t| t.gfid() == gfid)
    }

    fn any(&self, test: impl Fn(&Touch) -> bool) -> bool {
        let all = self.flying.values().chain(self.waiting.iter().map(|(_, t)| t));
        all.flatten().any(test)
    }
}

fn conflict(a: &[Touch], b: &[Touch]) -> bool {
    a.iter().any(|a| b.iter().any(|b| a.conflicts(b)))
}
