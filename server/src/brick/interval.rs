//! The number of the 10-second interval into which changes are logged: the rules' clock, and
//! when it may be put on for a joiner.
//!
//! The lead counts; everybody follows the highest number heard in pings, a new lead that is
//! behind too. It never goes back, also not over a restart: the store remembers the last one
//! with each checkpoint.

use std::collections::VecDeque;

use proto_rules::Tick;
use proto_rules::heal::log::{Interval, IntervalClock as Rules};
use proto_rules::time::MS;

use crate::heal::job::INTERVALS_BACK;

/// An interval closed early for a joiner lasted at least this long: about a ping, so that a
/// member that serves is only a few numbers behind (joiners ask for that many more).
const SHORTEST: u64 = 250 * MS;

/// After this time no member that serves logs under an earlier number than was used here: it holds
/// our promise (1.5 s), so it has heard a number of ours (half a second old) since, and it takes
/// that on with its next event (at once). The rest is slack.
const HEARD_BY_ALL: u64 = 5000 * MS;

#[derive(Debug)]
pub struct IntervalClock {
    rules: Rules,
    began: Tick,
    /// The numbers used within [`HEARD_BY_ALL`] and the one before, each since when.
    used: VecDeque<(Tick, u64)>,
}

impl IntervalClock {
    /// `last`: the newest number that this brick may have used before.
    pub fn after(last: u64, now: Tick) -> Self {
        // The last one before a restart may have been used by nobody else.
        let used = VecDeque::from([(now, last.saturating_sub(INTERVALS_BACK)), (now, last + 1)]);
        Self { rules: Rules::new(now, Interval(last)), began: now, used }
    }

    pub fn current(&self) -> u64 {
        self.rules.current().0
    }

    /// Time passes. `heard`: the highest number of any member.
    pub fn tick(&mut self, now: Tick, leads: bool, heard: u64) {
        self.at_least(heard, now);
        let before = self.current();
        if leads && self.rules.lead_tick(now).0 > before {
            self.began(now);
        }
        let passed = |since: &Tick| now.since(*since) >= HEARD_BY_ALL;
        while self.used.get(1).is_some_and(|(since, _)| passed(since)) {
            self.used.pop_front();
        }
    }

    /// Every member that serves logs under this number or a later one. At least 1.
    pub fn heard_by_all(&self) -> u64 {
        self.used.front().map_or(1, |(_, number)| *number).max(1)
    }

    fn began(&mut self, now: Tick) {
        self.began = now;
        self.used.push_back((now, self.current()));
    }

    /// Whether the lead may close the interval for a joiner, so that its next list holds only
    /// what changed since this one.
    pub fn may_close(&self, now: Tick) -> bool {
        now.since(self.began) >= SHORTEST
    }

    /// Of a hand-over, or of a ping.
    pub fn at_least(&mut self, number: u64, now: Tick) {
        if number > self.current() {
            self.rules.heard(now, Interval(number));
            self.began(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use proto_rules::heal::log::INTERVAL_NS;

    use super::*;

    #[test]
    fn the_lead_counts_and_a_member_follows_but_never_back() {
        let mut lead = IntervalClock::after(41, Tick(0));
        lead.tick(Tick(INTERVAL_NS - 1), true, 42);
        assert_eq!(lead.current(), 42);
        lead.tick(Tick(INTERVAL_NS), true, 0);
        assert_eq!(lead.current(), 43);
        let mut member = IntervalClock::after(41, Tick(0));
        member.tick(Tick(50 * INTERVAL_NS), false, 0);
        assert_eq!(member.current(), 42);
        member.tick(Tick(50 * INTERVAL_NS), false, 45);
        member.tick(Tick(50 * INTERVAL_NS), false, 44);
        assert_eq!(member.current(), 45);
        member.tick(Tick(51 * INTERVAL_NS), true, 0);
        assert_eq!(member.current(), 46, "a new lead goes on from what it knows");
        member.tick(Tick(51 * INTERVAL_NS), true, 60);
        assert_eq!(member.current(), 60, "and catches up with a member that is ahead");
    }

    #[test]
    fn a_number_is_known_to_all_some_time_after_it_was_first_used() {
        let mut clock = IntervalClock::after(41, Tick(0));
        assert_eq!(clock.heard_by_all(), 41 - INTERVALS_BACK);
        clock.tick(Tick(HEARD_BY_ALL), false, 50);
        assert_eq!((clock.current(), clock.heard_by_all()), (50, 42));
        clock.tick(Tick(HEARD_BY_ALL + 1), false, 51);
        clock.tick(Tick(2 * HEARD_BY_ALL - 1), false, 52);
        assert_eq!(clock.heard_by_all(), 42);
        clock.tick(Tick(2 * HEARD_BY_ALL), false, 52);
        assert_eq!(clock.heard_by_all(), 50);
        clock.tick(Tick(9 * HEARD_BY_ALL), false, 52);
        assert_eq!((clock.heard_by_all(), clock.used.len()), (52, 1));
    }

    #[test]
    fn a_joiner_does_not_make_it_run() {
        let mut lead = IntervalClock::after(1, Tick(0));
        assert!(!lead.may_close(Tick(SHORTEST - 1)) && lead.may_close(Tick(SHORTEST)));
        lead.at_least(3, Tick(SHORTEST));
        assert!(!lead.may_close(Tick(SHORTEST + 1)));
        lead.tick(Tick(SHORTEST + INTERVAL_NS), true, 0);
        assert!(!lead.may_close(Tick(SHORTEST + INTERVAL_NS)));
    }
}
