//! No two conflicting changes of a session in flight, and no reading of a range in flight.
//!
//! Frames on different connections arrive in any order; two changes of the same bytes, of one
//! inode's attributes or of one name would be applied in different orders by different members
//! (trap 2). The later one waits here until the earlier one is settled.
//!
//! Reads that any member may answer are known here as well. One is not begun while what it reads
//! is in flight (trap 3), and a change waits for those under way: such a read would show the
//! change as soon as one member has it, and when the change is never done there (its lease ends,
//! the mount dies) it was a read of nothing.

use std::collections::{BTreeMap, VecDeque};

use proto::Gfid;
use proto::fop::Touch;

/// What a read shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reads {
    /// Bytes `start..end` of a file.
    Bytes { gfid: Gfid, start: u64, end: u64 },
    /// Anything else of an inode, or names of a directory.
    Inode(Gfid),
}

impl Reads {
    fn shows(&self, touch: &Touch) -> bool {
        match *self {
            Reads::Bytes { gfid, start, end } => {
                touch.conflicts(&Touch::Range { gfid, start, end })
            }
            Reads::Inode(gfid) => touch.gfid() == gfid,
        }
    }
}

/// What is in flight of one session to one set, and who waits for it, in order.
#[derive(Clone, Debug, Default)]
pub struct Conflicts {
    flying: BTreeMap<u64, Vec<Touch>>,
    reading: BTreeMap<u64, Reads>,
    waiting: VecDeque<(u64, Vec<Touch>)>,
}

impl Conflicts {
    /// Submits change `id` (unique, the caller's). True: send it now; false: `finish` of
    /// another will name it.
    pub fn submit(&mut self, id: u64, touches: Vec<Touch>) -> bool {
        let mut earlier = self.flying.values().chain(self.waiting.iter().map(|(_, t)| t));
        let free = !earlier.any(|t| conflict(t, &touches)) && !self.is_read(&touches);
        if free {
            self.flying.insert(id, touches);
        } else {
            self.waiting.push_back((id, touches));
        }
        free
    }

    /// Begins read `id` (unique among changes, too) of what a member may be asked for. False:
    /// some of it is in flight, or waits to be; nothing was noted, and it is tried again when
    /// something has finished. So reads hold up no change that came before them.
    pub fn read(&mut self, id: u64, reads: Reads) -> bool {
        let free = !self.in_flight(reads);
        if free {
            self.reading.insert(id, reads);
        }
        free
    }

    /// Change `id` is settled, or was given up before it was sent; or read `id` is answered.
    /// Returns the changes that can be sent now, in the order of their submission.
    pub fn finish(&mut self, id: u64) -> Vec<u64> {
        self.flying.remove(&id);
        self.reading.remove(&id);
        self.waiting.retain(|(waiter, _)| *waiter != id);
        let mut started = Vec::new();
        let mut still: VecDeque<(u64, Vec<Touch>)> = VecDeque::new();
        for (id, touches) in std::mem::take(&mut self.waiting) {
            let mut earlier = self.flying.values().chain(still.iter().map(|(_, t)| t));
            if earlier.any(|t| conflict(t, &touches)) || self.is_read(&touches) {
                still.push_back((id, touches));
            } else {
                self.flying.insert(id, touches);
                started.push(id);
            }
        }
        self.waiting = still;
        started
    }

    /// Whether some of this is in flight or waiting to be sent: it is read from the session's
    /// buffer only, never from a member (trap 3).
    pub fn in_flight(&self, reads: Reads) -> bool {
        let all = self.flying.values().chain(self.waiting.iter().map(|(_, t)| t));
        all.flatten().any(|t| reads.shows(t))
    }

    fn is_read(&self, touches: &[Touch]) -> bool {
        self.reading.values().any(|reads| touches.iter().any(|t| reads.shows(t)))
    }
}

fn conflict(a: &[Touch], b: &[Touch]) -> bool {
    a.iter().any(|a| b.iter().any(|b| a.conflicts(b)))
}
