//! Space: lent by the lead before it is used, so that no member finds its disk full in the midst
//! of a change that the others have made (trap 63).
//!
//! Purpose: the lead knows the least free space of the in-sync members, a second late at most;
//! a session may take so many bytes in all, and hears a new limit with each renewal.
//!
//! Assumes: what a session says to have done is on the members' disks, and after `SEEN_AFTER`
//! also in the free space that their pings carry.
//!
//! Promises: the limits of all sessions together never exceed what was free above the reserve
//! when they were set, but for what a new lead does not know of an old one's limits: half of
//! the free space then at most, since no more is lent without being asked for.
//!
//! Deliberately does not: know files. Quota has its own bookkeeping.

use std::collections::{BTreeMap, VecDeque};

use proto::SessionId;

use crate::time::{MS, Nanos, Tick};

/// How old a member's free space may be at the lead: looked at each 500 ms, sent each 300 ms.
pub const SEEN_AFTER: Nanos = 1000 * MS;
/// Lent to a session that does not ask for more: 300 ms of a fast writer.
pub const CREDIT: u64 = 256 << 20;

/// What a session says with a renewal. All are sums since the session began, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Use {
    /// Taken so far.
    pub taken: u64,
    /// Of that, what is on the members by now.
    pub done: u64,
    /// Wanted at once beyond `taken`.
    pub need: u64,
}

#[derive(Debug, Default)]
struct Loan {
    limit: u64,
    /// The limit before: the session may act by it until it has heard of the newer one.
    before: u64,
    /// Done, as told at a time; the first is old enough to be seen in the free space.
    told: VecDeque<(Tick, u64)>,
}

impl Loan {
    fn tell(&mut self, now: Tick, done: u64) {
        self.told.push_back((now, done));
        while self.told.get(1).is_some_and(|(at, _)| now.since(*at) >= SEEN_AFTER) {
            self.told.pop_front();
        }
    }

    /// Done for so long that the free space shows it.
    fn seen(&self) -> u64 {
        self.told.front().map_or(0, |(_, done)| *done)
    }

    /// What may still come off the free space.
    fn open(&self) -> u64 {
        self.limit.max(self.before).saturating_sub(self.seen())
    }
}

/// The lead's book of what it has lent.
#[derive(Debug, Default)]
pub struct Ledger {
    loans: BTreeMap<SessionId, Loan>,
}

impl Ledger {
    /// A session renews: the sum up to which it may take. `available` is the least free space
    /// of the in-sync members less the reserve.
    pub fn renew(&mut self, now: Tick, session: SessionId, available: u64, used: Use) -> u64 {
        let others = self.loans.iter().filter(|(id, _)| **id != session);
        let lent = others.map(|(_, loan)| loan.open()).fold(0, u64::saturating_add);
        let loan = self.loans.entry(session).or_default();
        loan.tell(now, used.done.min(used.taken));
        let unseen = used.taken.saturating_sub(loan.seen());
        let left = available.saturating_sub(lent).saturating_sub(unseen);
        let share = left / 2 / self.loans.len() as u64;
        let credit = share.min(CREDIT).max(used.need.min(left));
        let Some(loan) = self.loans.get_mut(&session) else { return used.taken };
        loan.before = loan.limit;
        loan.limit = used.taken.saturating_add(credit);
        loan.limit
    }

    /// The session is gone, and what it did is on the disks.
    pub fn forget(&mut self, session: SessionId) {
        self.loans.remove(&session);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const A: SessionId = SessionId(1);
    const B: SessionId = SessionId(2);

    fn at(ms: u64) -> Tick {
        Tick(ms * MS)
    }

    fn taken(taken: u64, done: u64, need: u64) -> Use {
        Use { taken, done, need }
    }

    #[test]
    fn a_session_gets_a_share_and_more_when_it_asks() {
        let mut book = Ledger::default();
        assert_eq!(book.renew(at(0), A, 100 * MIB, Use::default()), 50 * MIB);
        assert_eq!(book.renew(at(1), A, 100 * MIB, taken(0, 0, 80 * MIB)), 80 * MIB);
        assert_eq!(book.renew(at(2), A, u64::MAX, Use::default()), CREDIT);
    }

    #[test]
    fn nothing_is_lent_twice() {
        let mut book = Ledger::default();
        assert_eq!(book.renew(at(0), A, 100 * MIB, Use::default()), 50 * MIB);
        // Half of the rest, for two.
        assert_eq!(book.renew(at(0), B, 100 * MIB, Use::default()), 50 * MIB / 4);
        let all = book.renew(at(1), B, 100 * MIB, taken(0, 0, 100 * MIB));
        assert_eq!(all, 50 * MIB, "the other one's half stays its own");
    }

    #[test]
    fn what_was_done_a_moment_ago_counts_until_the_free_space_shows_it() {
        let mut book = Ledger::default();
        book.renew(at(0), A, 100 * MIB, Use::default());
        // It has used its 50; the free space heard is still the old one.
        let limit = book.renew(at(300), A, 100 * MIB, taken(50 * MIB, 50 * MIB, 0));
        assert_eq!(limit, 75 * MIB);
        // A second later the members say 50, and that is not subtracted again.
        book.renew(at(600), A, 100 * MIB, taken(50 * MIB, 50 * MIB, 0));
        let limit = book.renew(at(1300), A, 50 * MIB, taken(50 * MIB, 50 * MIB, 0));
        assert_eq!(limit, 75 * MIB);
    }

    #[test]
    fn buffered_bytes_count_as_long_as_they_are_buffered() {
        let mut book = Ledger::default();
        book.renew(at(0), A, 100 * MIB, Use::default());
        for ms in [300, 1500, 3000] {
            let limit = book.renew(at(ms), A, 100 * MIB, taken(50 * MIB, 0, 0));
            assert_eq!(limit, 75 * MIB);
        }
    }

    #[test]
    fn a_limit_binds_the_book_until_the_session_has_heard_the_next() {
        let mut book = Ledger::default();
        assert_eq!(book.renew(at(0), A, 100 * MIB, taken(0, 0, 90 * MIB)), 90 * MIB);
        // The answer is under way; the session may still act by the 90.
        assert_eq!(book.renew(at(300), A, 100 * MIB, Use::default()), 50 * MIB);
        assert_eq!(book.renew(at(301), B, 100 * MIB, taken(0, 0, 50 * MIB)), 10 * MIB);
        book.renew(at(600), A, 100 * MIB, Use::default());
        assert_eq!(book.renew(at(601), B, 100 * MIB, taken(0, 0, 50 * MIB)), 50 * MIB);
    }

    /// Trap 63: sessions that fill the set by whatever they are lent never take more than there
    /// was, whatever the delay of the free space within its bound.
    #[test]
    fn trap_63_nearly_full_bricks_are_never_overdrawn() {
        const FREE: u64 = 1000 * MIB;
        let mut book = Ledger::default();
        let (mut used, mut limit) = ([0_u64; 3], [0_u64; 3]);
        let mut seen = VecDeque::from([(at(0), 0)]);
        let mut refused = 0;
        for step in 0..2000_u64 {
            let (now, who) = (at(step * 37), (step % 3) as usize);
            while seen.get(1).is_some_and(|(t, _)| now.since(*t) >= SEEN_AFTER - MS) {
                seen.pop_front();
            }
            let available = FREE - seen[0].1;
            let need = (step * 7919 % 23) * MIB;
            let ask = Use { taken: used[who], done: used[who], need };
            limit[who] = book.renew(now, SessionId(who as u64 + 1), available, ask);
            if used[who] + need <= limit[who] {
                used[who] += need;
            } else {
                refused += 1;
            }
            let sum: u64 = used.iter().sum();
            assert!(sum <= FREE, "step {step}: {} MiB of {}", sum / MIB, FREE / MIB);
            seen.push_back((now, sum));
        }
        assert!(refused > 0);
        assert!(used.iter().sum::<u64>() > FREE / 10 * 9, "and nearly all of it is used");
    }

    #[test]
    fn a_forgotten_session_gives_its_share_back() {
        let mut book = Ledger::default();
        book.renew(at(0), A, 100 * MIB, taken(0, 0, 90 * MIB));
        book.forget(A);
        assert_eq!(book.renew(at(1), B, 100 * MIB, taken(0, 0, 90 * MIB)), 90 * MIB);
    }
}
