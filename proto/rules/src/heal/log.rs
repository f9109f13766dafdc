//! Bookkeeping of a member's change log: intervals, completeness, trimming, questions.
//!
//! Promises: a change is logged in the interval of its application, never in a closed one
//! (trap 9); a log is trimmed only below what *all* members have on disk, those away too, or
//! else says since when it is complete (traps 8, 12); a question overlaps by one interval.
//!
//! Deliberately does not: hold entries; they are in the brick's store.

use std::collections::BTreeMap;

use proto::BrickId;
use proto::map::SetMap;
use serde::{Deserialize, Serialize};

use crate::plant::{Plant, planted};
use crate::time::{MS, Nanos, Tick};

/// Length of an interval.
pub const INTERVAL_NS: Nanos = 10_000 * MS;

/// Number of a change-log interval: the same on all members, give or take one.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Interval(pub u64);

impl Interval {
    fn before(self) -> Interval {
        Interval(self.0.saturating_sub(1))
    }
}

/// Which interval is open. The lead closes one every 10 s; its pings carry the number.
#[derive(Clone, Debug)]
pub struct IntervalClock {
    current: Interval,
    opened: Tick,
}

impl IntervalClock {
    /// `last`: the highest interval in this brick's log; the next start opens a new one, so
    /// that nothing is filed beside entries of before a crash.
    pub fn new(now: Tick, last: Interval) -> Self {
        Self { current: Interval(last.0 + 1), opened: now }
    }

    /// Where a change applied now is logged.
    pub fn current(&self) -> Interval {
        self.current
    }

    /// At the lead: opens the next interval when its time has come.
    pub fn lead_tick(&mut self, now: Tick) -> Interval {
        if now.since(self.opened) >= INTERVAL_NS {
            self.current.0 += 1;
            self.opened = now;
        }
        self.current
    }

    /// At the others: the lead's number, from its ping or request. It never goes back: a new
    /// lead that is behind catches up by the numbers in its members' answers.
    pub fn heard(&mut self, now: Tick, other: Interval) {
        if other > self.current {
            self.current = other;
            self.opened = now;
        }
    }
}

/// What a joiner should compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogAnswer {
    /// Entries of this interval and later.
    Since(Interval),
    /// The log does not reach back so far: compare everything.
    Everything,
}

/// What one member's log can answer, and how far it may be trimmed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogBook {
    complete_since: Interval,
    durable: BTreeMap<BrickId, Interval>,
}

impl LogBook {
    /// A new or rebuilt log: complete only from the interval *after* the one now open, for
    /// changes of the open one may have been lost with the old log (trap 12).
    pub fn new(current: Interval) -> Self {
        Self { complete_since: Interval(current.0 + 1), durable: BTreeMap::new() }
    }

    /// The first start of a set: nothing has been changed before.
    pub fn of_new_set() -> Self {
        Self { complete_since: Interval(0), durable: BTreeMap::new() }
    }

    pub fn complete_since(&self) -> Interval {
        self.complete_since
    }

    /// A member's last checkpoint: everything up to and including `interval` is on its disk.
    /// Only of in-sync members; one that is away keeps its last word.
    pub fn on_durable(&mut self, member: BrickId, interval: Interval) {
        let known = self.durable.entry(member).or_default();
        *known = (*known).max(interval);
    }

    /// Answers "what changed since the last interval that I have on disk?" One interval of
    /// overlap, because members' numbers differ by at most one.
    pub fn answer(&self, last_durable: Option<Interval>) -> LogAnswer {
        let from = if planted(Plant::NoLogOverlap) { |i| i } else { Interval::before };
        match last_durable.map(from) {
            Some(since) if since >= self.complete_since => LogAnswer::Since(since),
            _ => LogAnswer::Everything,
        }
    }

    /// What a joiner adds of its own log to the lead's list: all since its last checkpoint (trap
    /// 11: what nobody else lists may be among it), and since the lead's last checkpoint before
    /// that lost its memory, if it is earlier: what this member has of that time on disk the lead
    /// may lack, and not know of.
    pub fn own_list(&self, checkpoint: Interval, lead_fell_back: Option<Interval>) -> LogAnswer {
        self.answer(Some(lead_fell_back.map_or(checkpoint, |lead| lead.min(checkpoint))))
    }

    /// Below which interval entries may be deleted. `oldest_kept`: what the size bound of the
    /// log still allows; beyond it the log forgets, and says so.
    pub fn trim(&mut self, map: &SetMap, oldest_kept: Interval) -> Interval {
        let durable = |brick| self.durable.get(&brick).copied().unwrap_or_default();
        let all = map.members.iter().map(|m| durable(m.brick).before()).min();
        let limit = all.unwrap_or_default().max(oldest_kept);
        self.complete_since = self.complete_since.max(limit);
        self.complete_since
    }

    /// A joiner takes over the lead's log before it is in-sync (trap 10): complete since the
    /// later of both if its own has a gap, else since the lead's.
    pub fn take_over(&mut self, lead: &LogBook) {
        self.complete_since = lead.complete_since;
        for (member, interval) in &lead.durable {
            self.on_durable(*member, *interval);
        }
    }
}

/// Times of a checkpoint, for the list after a power loss of all (trap 13): the logged inodes
/// and all whose ctime is later than the last checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CtimeScan {
    /// Inodes changed at or after this wall time, ns since 1970.
    Since(u64),
    /// The wall clock stood before the checkpoint's time: compare everything (trap 56).
    Everything,
}

/// `checkpoint_wall`: wall time stored with the last durable checkpoint, if there is one.
/// `now_wall`: the wall clock at this start. The slack covers the kernel's coarse time stamps.
pub fn ctime_scan(checkpoint_wall: Option<u64>, now_wall: u64) -> CtimeScan {
    const SLACK_NS: u64 = 2_000 * MS;
    match checkpoint_wall {
        Some(at) if now_wall >= at => CtimeScan::Since(at.saturating_sub(SLACK_NS)),
        _ => CtimeScan::Everything,
    }
}
