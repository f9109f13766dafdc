//! Every member's memory of lease numbers: an old holder's late frames die everywhere.
//!
//! Promises: a number below the highest one seen for its key is refused. The memory is
//! bounded: forgetting an entry raises the set's floor to its number, and a frame at or below
//! the floor without an entry is checked with the lead (trap 57).

use std::collections::{BTreeMap, BTreeSet};

use proto::{Epoch, LeaseNumber};

use super::LeaseKey;

/// Keys remembered per set: about 100 bytes each.
pub const NUMBERS_MAX: usize = 65_536;

#[derive(Clone, Debug)]
pub struct Numbers {
    max: usize,
    known: BTreeMap<LeaseKey, LeaseNumber>,
    by_number: BTreeSet<(LeaseNumber, LeaseKey)>,
    floor: LeaseNumber,
    dead_below: LeaseNumber,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NumberVerdict {
    /// The newest known, or newer.
    Current,
    /// A newer lease of the key was granted or revoked: the frame is dead.
    Old,
    /// Nothing is remembered of this key and the number is at or below the floor.
    AskLead,
}

impl Default for Numbers {
    fn default() -> Self {
        Self::new(NUMBERS_MAX)
    }
}

impl Numbers {
    pub fn new(max: usize) -> Self {
        let (known, by_number) = (BTreeMap::new(), BTreeSet::new());
        Self {
            max: max.max(1),
            known,
            by_number,
            floor: LeaseNumber::NONE,
            dead_below: LeaseNumber::NONE,
        }
    }

    /// May a change under this number be executed?
    pub fn check(&self, key: LeaseKey, number: LeaseNumber) -> NumberVerdict {
        if number < self.dead_below {
            return NumberVerdict::Old;
        }
        match self.known.get(&key) {
            Some(known) if number >= *known => NumberVerdict::Current,
            Some(_) => NumberVerdict::Old,
            None if number > self.floor => NumberVerdict::Current,
            None => NumberVerdict::AskLead,
        }
    }

    /// Notes a number: of an executed change, of a revoke, or as confirmed by the lead. Those of
    /// revokes are noted again after a restart, from stable storage.
    pub fn raise(&mut self, key: LeaseKey, number: LeaseNumber) {
        if let Some(known) = self.known.get(&key) {
            if number <= *known {
                return;
            }
            self.by_number.remove(&(*known, key));
        }
        self.known.insert(key, number);
        self.by_number.insert((number, key));
        if self.known.len() > self.max {
            self.forget_lowest_but(key);
        }
    }

    /// Never the entry just made: it may be one that the lead confirmed for a waiting frame.
    fn forget_lowest_but(&mut self, kept: LeaseKey) {
        let lowest = self.by_number.iter().find(|(_, key)| *key != kept).copied();
        if let Some((number, key)) = lowest {
            self.by_number.remove(&(number, key));
            self.known.remove(&key);
            self.floor = self.floor.max(number);
        }
    }

    /// A new lead's epoch: every lease of an earlier lead is dead until it is reclaimed, and
    /// a reclaimed one has a new number. So no late frame races with the new lead's settling.
    pub fn new_lead(&mut self, epoch: Epoch) {
        self.dead_below = self.dead_below.max(LeaseNumber { base: epoch.0, counter: 0 });
    }

    /// May a lease under this number be reclaimed? Like `check`, but numbers of earlier leads
    /// count, and what was forgotten is refused: a holder that has not changed the inode for
    /// 65 536 changes of others has nothing left to write back.
    pub fn may_reclaim(&self, key: LeaseKey, number: LeaseNumber) -> bool {
        match self.known.get(&key) {
            Some(known) => number >= *known,
            None => number > self.floor,
        }
    }

    /// A joiner takes over the lead's memory before it serves (trap 15).
    pub fn import(
        &mut self,
        floor: LeaseNumber,
        dead_below: LeaseNumber,
        known: impl IntoIterator<Item = (LeaseKey, LeaseNumber)>,
    ) {
        self.floor = self.floor.max(floor);
        self.dead_below = self.dead_below.max(dead_below);
        known.into_iter().for_each(|(key, number)| self.raise(key, number));
    }

    pub fn dead_below(&self) -> LeaseNumber {
        self.dead_below
    }

    pub fn highest(&self, key: LeaseKey) -> Option<LeaseNumber> {
        self.known.get(&key).copied()
    }

    pub fn floor(&self) -> LeaseNumber {
        self.floor
    }

    /// For the new lead's reclaims and a joiner's hand-over.
    pub fn export(&self) -> impl Iterator<Item = (LeaseKey, LeaseNumber)> {
        self.known.iter().map(|(k, n)| (*k, *n))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::gfid;

    fn key(n: u8) -> LeaseKey {
        LeaseKey::Inode(gfid(n))
    }

    fn number(base: u64, counter: u64) -> LeaseNumber {
        LeaseNumber { base, counter }
    }

    #[test]
    fn an_old_holders_late_frame_dies() {
        let mut numbers = Numbers::default();
        numbers.raise(key(1), number(5, 2));
        assert_eq!(numbers.check(key(1), number(5, 1)), NumberVerdict::Old);
        assert_eq!(numbers.check(key(1), number(5, 2)), NumberVerdict::Current);
        assert_eq!(numbers.check(key(1), number(6, 1)), NumberVerdict::Current);
        assert_eq!(numbers.check(LeaseKey::Part(gfid(1)), number(5, 1)), NumberVerdict::Current);
        numbers.raise(key(1), number(4, 9));
        assert_eq!(numbers.highest(key(1)), Some(number(5, 2)), "numbers never fall");
    }

    /// Trap 57: C forgets g's number; the old frame is not executed but checked.
    #[test]
    fn trap_57_a_forgotten_number_raises_the_floor() {
        let mut numbers = Numbers::new(2);
        numbers.raise(key(1), number(5, 7));
        numbers.raise(key(2), number(5, 8));
        numbers.raise(key(3), number(5, 9));
        assert_eq!(numbers.floor(), number(5, 7));
        assert_eq!(numbers.check(key(1), number(5, 6)), NumberVerdict::AskLead);
        assert_eq!(numbers.check(key(1), number(5, 7)), NumberVerdict::AskLead);
        assert_eq!(numbers.check(key(1), number(5, 10)), NumberVerdict::Current);
        // The lead confirms 7: from then on it is known here.
        numbers.raise(key(1), number(5, 7));
        assert_eq!(numbers.check(key(1), number(5, 7)), NumberVerdict::Current);
        assert_eq!(numbers.check(key(2), number(5, 8)), NumberVerdict::AskLead);
        assert_eq!(numbers.check(key(3), number(5, 9)), NumberVerdict::Current);
    }

    /// Traps 4, 16: at a new lead, nothing under an earlier lead's number is executed any more,
    /// remembered or not; a reclaim is judged by what was known.
    #[test]
    fn trap_04_a_new_leads_epoch_kills_all_earlier_numbers() {
        let mut numbers = Numbers::default();
        numbers.raise(key(1), number(5, 2));
        numbers.new_lead(Epoch(6));
        assert_eq!(numbers.check(key(1), number(5, 2)), NumberVerdict::Old);
        assert_eq!(numbers.check(key(2), number(5, 9)), NumberVerdict::Old);
        assert_eq!(numbers.check(key(1), number(6, 1)), NumberVerdict::Current);
        assert!(numbers.may_reclaim(key(1), number(5, 2)));
        assert!(!numbers.may_reclaim(key(1), number(5, 1)));
    }

    /// Trap 15: a joiner knows what the lead knows before it serves.
    #[test]
    fn trap_15_a_joiner_takes_over_numbers_and_floors() {
        let mut lead = Numbers::new(1);
        lead.raise(key(1), number(5, 1));
        lead.raise(key(2), number(5, 2));
        let mut joiner = Numbers::new(1);
        joiner.import(lead.floor(), lead.dead_below(), lead.export());
        assert_eq!(joiner.check(key(2), number(5, 1)), NumberVerdict::Old);
        assert_eq!(joiner.check(key(1), number(5, 1)), NumberVerdict::AskLead);
        assert!(!joiner.may_reclaim(key(1), number(5, 1)), "forgotten");
        lead.new_lead(Epoch(6));
        joiner.import(lead.floor(), lead.dead_below(), lead.export());
        assert_eq!(joiner.check(key(2), number(5, 2)), NumberVerdict::Old);
    }

    /// Trap 58: the base is the later of epoch and flip, so numbers compare across sets.
    #[test]
    fn trap_58_a_later_base_beats_any_counter() {
        let mut numbers = Numbers::default();
        numbers.raise(key(1), number(90, 4));
        assert_eq!(numbers.check(key(1), number(3, 1000)), NumberVerdict::Old);
        assert_eq!(numbers.check(key(1), number(91, 1)), NumberVerdict::Current);
    }
}
