//! The number of the 10-second interval into which changes are logged: the rules' clock, and
//! when it may be put on for a joiner.
//!
//! The lead counts; everybody follows the highest number heard in pings, a new lead that is
//! behind too. It never goes back, also not over a restart: the store remembers the last one
//! with each checkpoint.

use proto_rules::Tick;
use proto_rules::heal::log::{Interval, IntervalClock as Rules};
use proto_rules::time::MS;

/// An interval closed early for a joiner lasted at least this long: about a ping, so that a
/// member that serves is only a few numbers behind (joiners ask for that many more).
const SHORTEST: u64 = 250 * MS;

#[derive(Debug)]
pub struct IntervalClock {
    rules: Rules,
    began: Tick,
}

impl IntervalClock {
    /// `last`: the newest number that this brick may have used before.
    pub fn after(last: u64, now: Tick) -> Self {
        Self { rules: Rules::new(now, Interval(last)), began: now }
    }

    pub fn current(&self) -> u64 {
        self.rules.current().0
    }

    /// Time passes. `heard`: the highest number of any member.
    pub fn tick(&mut self, now: Tick, leads: bool, heard: u64) {
        self.at_least(heard, now);
        let before = self.current();
        if leads && self.rules.lead_tick(now).0 > before {
            self.began = now;
        }
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
            self.began = now;
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
    fn a_joiner_does_not_make_it_run() {
        let mut lead = IntervalClock::after(1, Tick(0));
        assert!(!lead.may_close(Tick(SHORTEST - 1)) && lead.may_close(Tick(SHORTEST)));
        lead.at_least(3, Tick(SHORTEST));
        assert!(!lead.may_close(Tick(SHORTEST + 1)));
        lead.tick(Tick(SHORTEST + INTERVAL_NS), true, 0);
        assert!(!lead.may_close(Tick(SHORTEST + INTERVAL_NS)));
    }
}
