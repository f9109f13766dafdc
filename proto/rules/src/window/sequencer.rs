//! Client's side of the change window: numbers, and the settled mark.

use std::collections::BTreeSet;

use proto::Seq;

use super::WINDOW_MAX;

/// Numbers a session's changes of one set.
#[derive(Clone, Debug)]
pub struct Sequencer {
    next: Seq,
    open: BTreeSet<Seq>,
}

impl Default for Sequencer {
    fn default() -> Self {
        Self { next: Seq(1), open: BTreeSet::new() }
    }
}

impl Sequencer {
    /// The next number; `None` while `WINDOW_MAX` changes are above the mark.
    pub fn begin(&mut self) -> Option<Seq> {
        if self.next.0 - 1 - self.mark().0 >= WINDOW_MAX as u64 {
            return None;
        }
        let seq = self.next;
        self.next.0 += 1;
        self.open.insert(seq);
        Some(seq)
    }

    /// Every in-sync member has answered `seq` (or the lead has settled it).
    pub fn settled(&mut self, seq: Seq) {
        self.open.remove(&seq);
    }

    /// Everything up to this number is settled.
    pub fn mark(&self) -> Seq {
        Seq(self.open.first().unwrap_or(&self.next).0 - 1)
    }

    /// Changes that not every member has answered.
    pub fn open(&self) -> impl Iterator<Item = Seq> {
        self.open.iter().copied()
    }
}
