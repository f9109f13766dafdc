//! What to propose when a brick's daemon starts, and who leads when all members were down.
//!
//! Assumes: bricks report again each second until the map names their incarnation, so a new
//! leader of the pool learns everything by waiting; it starts with an empty `Restart`.
//!
//! Promises: while another in-sync member is alive, a restarted one becomes syncing; a sole
//! member is named by a bare bump; with all down the best memory wins (same incarnation, then
//! same kernel boot or clean stop, then latest durable epoch), after 30 s or as soon as all
//! in-sync members of the last epoch have reported. A choice that died before it could serve
//! is made again.
//!
//! Deliberately does not: compare time stamps of files. The chosen lead's copy wins whole.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use proto::map::{MemberMap, SetMap};
use proto::{BrickId, Epoch, Incarnation};
use serde::{Deserialize, Serialize};

use crate::set::{SetEntry, passed_over};
use crate::time::{MS, Nanos, RESTART_WAIT, SUSPECT_AFTER, Tick};

/// An older report is of a brick that has gone again: they come each second.
const REPORT_FRESH: Nanos = 3000 * MS;
/// A report that was not followed by another one: the brick has gone again.
const STARTED_NOW: Nanos = 1500 * MS;

/// What a brick says of itself at start, and again until the map names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    pub brick: BrickId,
    pub incarnation: Incarnation,
    /// The kernel has not booted since this brick was last in-sync, or it was stopped
    /// cleanly after a checkpoint: its page cache lost nothing.
    pub memory_intact: bool,
    /// The latest epoch that this brick has on stable storage as in-sync.
    pub durable: Epoch,
}

/// The leader's memory of one set's reports.
#[derive(Clone, Debug, Default)]
pub struct Restart {
    epoch: Epoch,
    since: Option<Tick>,
    reports: BTreeMap<BrickId, (Tick, Report)>,
}

/// What the pool's leader does next for this set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Everybody who reported is named already.
    Nothing,
    Propose(SetEntry),
    /// Ask again then, or at the next report.
    WaitUntil(Tick),
}

impl Restart {
    /// Takes a brick's report. Reports of an earlier epoch of the set are forgotten, for the
    /// choice is made among the in-sync members of the last one.
    pub fn on_report(&mut self, now: Tick, map: &SetMap, report: Report) {
        if self.epoch != map.epoch {
            self.reports.clear();
            self.since = None;
            self.epoch = map.epoch;
        }
        self.since.get_or_insert(now);
        self.reports.insert(report.brick, (now, report));
    }

    /// An in-sync member's daemon has started, a moment ago, and no entry names it yet. One that
    /// has gone again before that holds nobody up.
    pub fn unnamed_in_sync(&self, now: Tick, map: &SetMap) -> bool {
        let new = |m: &MemberMap| {
            self.reports.get(&m.brick).is_some_and(|(at, r)| {
                r.incarnation != m.incarnation && now.since(*at) < STARTED_NOW
            })
        };
        self.epoch == map.epoch && map.in_sync().any(new)
    }

    /// What to propose now. `alive(brick, incarnation)`: that incarnation answers pings.
    pub fn decide(
        &self,
        now: Tick,
        map: &SetMap,
        alive: impl Fn(BrickId, Incarnation) -> bool,
    ) -> Decision {
        if self.epoch != map.epoch {
            return Decision::Nothing;
        }
        let fresh = self.fresh(now, map, &alive);
        if let Some(entry) = unnamed_syncing(map, &fresh) {
            return Decision::Propose(entry);
        }
        let in_sync: Vec<_> = map.in_sync().collect();
        let living = in_sync.iter().any(|m| match self.reports.get(&m.brick) {
            Some((_, report)) if report.incarnation != m.incarnation => false,
            // It spoke for itself, just now.
            Some((at, _)) if now.since(*at) < SUSPECT_AFTER => true,
            _ => alive(m.brick, m.incarnation),
        });
        let new = in_sync
            .iter()
            .find_map(|m| fresh.get(&m.brick).filter(|r| r.incarnation != m.incarnation));
        let Some(new) = new else { return Decision::Nothing };
        if living {
            return Decision::Propose(brick_up(map, new));
        }
        // Nobody in-sync is heard any more; what such a one said before it fell silent is nothing.
        let mut said = fresh.clone();
        for member in &in_sync {
            said.retain(|brick, r| *brick != member.brick || r.incarnation != member.incarnation);
        }
        // If none of them ever learnt of the epoch, nobody has been served in it: those who were
        // passed over when it began may remember more than they do by now.
        let unserved = |m: &&MemberMap| said.get(&m.brick).is_some_and(|r| r.durable < map.epoch);
        let mut candidates = in_sync;
        if candidates.iter().all(unserved) {
            candidates.extend(map.members.iter().filter(|m| passed_over(m)));
        }
        match candidates.len() {
            1 => Decision::Propose(brick_up(map, new)),
            _ => self.choose(now, map, &said, &candidates),
        }
    }

    /// What was said lately, or by an incarnation that is named and alive.
    fn fresh(
        &self,
        now: Tick,
        map: &SetMap,
        alive: impl Fn(BrickId, Incarnation) -> bool,
    ) -> BTreeMap<BrickId, &Report> {
        let named = |r: &Report| {
            map.member(r.brick).is_some_and(|m| m.incarnation == r.incarnation)
                && alive(r.brick, r.incarnation)
        };
        let fresh = |(at, report): &&(Tick, Report)| now.since(*at) < REPORT_FRESH || named(report);
        self.reports.values().filter(fresh).map(|(_, report)| (report.brick, report)).collect()
    }

    fn choose(
        &self,
        now: Tick,
        map: &SetMap,
        reports: &BTreeMap<BrickId, &Report>,
        candidates: &[&MemberMap],
    ) -> Decision {
        let heard = candidates.iter().filter(|m| reports.contains_key(&m.brick)).count();
        let deadline = self.since.unwrap_or(now).after(RESTART_WAIT);
        if heard < candidates.len() && now < deadline {
            return Decision::WaitUntil(deadline);
        }
        match best(map, reports, candidates) {
            Some(report) => Decision::Propose(SetEntry::Restart {
                epoch: map.epoch,
                lead: report.brick,
                incarnation: report.incarnation,
            }),
            None => Decision::Nothing,
        }
    }
}

fn unnamed_syncing(map: &SetMap, reports: &BTreeMap<BrickId, &Report>) -> Option<SetEntry> {
    use proto::map::MemberState::{InSync, Out};
    map.members.iter().filter(|m| m.state != InSync).find_map(|m| {
        let report = reports.get(&m.brick)?;
        let named = report.incarnation == m.incarnation && m.state != Out;
        (!named).then(|| brick_up(map, report))
    })
}

fn brick_up(map: &SetMap, report: &Report) -> SetEntry {
    SetEntry::BrickUp { epoch: map.epoch, brick: report.brick, incarnation: report.incarnation }
}

/// The rule of DESIGN section 9 (whose first word, the same incarnation, is `living`); ties go
/// to the last lead, then to the set's order.
fn best<'a>(
    map: &SetMap,
    reports: &BTreeMap<BrickId, &'a Report>,
    candidates: &[&MemberMap],
) -> Option<&'a Report> {
    let order = |m: &MemberMap| map.members.iter().position(|o| o.brick == m.brick);
    let ranked = candidates.iter().filter_map(|member| {
        let report = *reports.get(&member.brick)?;
        let rank = (
            report.memory_intact,
            report.durable,
            map.lead == Some(member.brick),
            Reverse(order(member)),
        );
        Some((rank, report))
    });
    ranked.max_by_key(|(rank, _)| *rank).map(|(_, report)| report)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{brick, in_sync, inc, set_map};
    use proto::map::MemberState::{InSync, Out};

    fn report(n: u8, incarnation: u64, memory_intact: bool, durable: u64) -> Report {
        Report {
            brick: brick(n),
            incarnation: inc(incarnation),
            memory_intact,
            durable: Epoch(durable),
        }
    }

    fn decide(map: &SetMap, reports: &[Report], at: Tick, alive: &[u8]) -> Decision {
        let mut restart = Restart::default();
        for r in reports {
            restart.on_report(Tick(0), map, r.clone());
            // Bricks report again and again until they are named.
            restart.on_report(at, map, r.clone());
        }
        restart.decide(at, map, |b, _| alive.iter().any(|n| brick(*n) == b))
    }

    fn restarted(n: u8, incarnation: u64) -> Decision {
        Decision::Propose(SetEntry::Restart {
            epoch: Epoch(5),
            lead: brick(n),
            incarnation: inc(incarnation),
        })
    }

    fn up(n: u8, incarnation: u64) -> Decision {
        Decision::Propose(SetEntry::BrickUp {
            epoch: Epoch(5),
            brick: brick(n),
            incarnation: inc(incarnation),
        })
    }

    /// Trap 55: intact memory wins over the latest durable epoch and over the order.
    #[test]
    fn trap_55_the_member_with_its_page_cache_intact_leads_after_the_loss_of_all() {
        let map = in_sync(5, &[1, 2]);
        let lost = report(1, 11, false, 5);
        let kept = report(2, 21, true, 4);
        assert_eq!(decide(&map, &[lost.clone(), kept.clone()], Tick(0), &[]), restarted(2, 21));
        assert_eq!(decide(&map, &[kept, lost], Tick(0), &[]), restarted(2, 21));
        let later = [report(1, 11, false, 4), report(2, 21, false, 5)];
        assert_eq!(decide(&map, &later, Tick(0), &[]), restarted(2, 21));
        let tie = [report(2, 21, true, 5), report(1, 11, true, 5)];
        assert_eq!(decide(&map, &tie, Tick(0), &[]), restarted(1, 11));
    }

    #[test]
    fn the_other_members_are_waited_for_30_s_and_no_longer() {
        let map = in_sync(5, &[1, 2]);
        let one = [report(2, 21, false, 5)];
        let deadline = Tick(30_000 * MS);
        assert_eq!(decide(&map, &one, Tick(1), &[]), Decision::WaitUntil(deadline));
        assert_eq!(decide(&map, &one, deadline, &[]), restarted(2, 21));
    }

    /// Trap 55: a member that never went down makes the returning one syncing.
    #[test]
    fn trap_55_a_living_member_keeps_the_set_and_the_restarted_one_syncs() {
        let map = in_sync(5, &[1, 2]);
        assert_eq!(decide(&map, &[report(1, 11, true, 5)], Tick(1), &[2]), up(1, 11));
        // The same incarnation reports itself: it is alive, whoever hears it.
        let both = [report(1, 11, true, 5), report(2, 20, true, 5)];
        assert_eq!(decide(&map, &both, Tick(1), &[]), up(1, 11));
    }

    #[test]
    fn a_sole_member_and_a_member_that_is_out_need_no_wait() {
        let map = set_map(5, &[(1, InSync), (2, Out)]);
        assert_eq!(decide(&map, &[report(1, 11, false, 1)], Tick(1), &[]), up(1, 11));
        assert_eq!(decide(&map, &[report(2, 20, false, 1)], Tick(1), &[]), up(2, 20));
        assert_eq!(decide(&map, &[report(1, 10, true, 5)], Tick(1), &[]), Decision::Nothing);
    }

    #[test]
    fn reports_of_an_earlier_epoch_count_no_more() {
        let mut restart = Restart::default();
        let old = in_sync(4, &[1, 2]);
        restart.on_report(Tick(0), &old, report(1, 11, true, 4));
        let map = in_sync(5, &[1, 2]);
        assert_eq!(restart.decide(Tick(1), &map, |_, _| false), Decision::Nothing);
        restart.on_report(Tick(9), &map, report(2, 21, false, 5));
        let wait = Decision::WaitUntil(Tick(9 + 30_000 * MS));
        assert_eq!(restart.decide(Tick(9), &map, |_, _| false), wait);
    }

    /// The lead chosen after the loss of all lost power before it learnt of that: nobody has
    /// been served, and those passed over remember more by now.
    #[test]
    fn a_choice_that_never_served_is_made_again() {
        let mut map = in_sync(5, &[1, 2]);
        let choice = SetEntry::Restart { epoch: Epoch(5), lead: brick(1), incarnation: inc(11) };
        crate::set::apply(&mut map, 6, &choice);
        let lost = report(1, 12, false, 5);
        let kept = report(2, 21, true, 5);
        let again = SetEntry::Restart { epoch: Epoch(6), lead: brick(2), incarnation: inc(21) };
        let up = |n, i| {
            let incarnation = inc(i);
            Decision::Propose(SetEntry::BrickUp { epoch: Epoch(6), brick: brick(n), incarnation })
        };
        assert_eq!(
            decide(&map, std::slice::from_ref(&kept), Tick(0), &[]),
            up(2, 21),
            "named first"
        );
        let named = SetEntry::BrickUp { epoch: Epoch(6), brick: brick(2), incarnation: inc(21) };
        crate::set::apply(&mut map, 7, &named);
        let both = [lost, kept.clone()];
        assert_eq!(decide(&map, &both, Tick(0), &[2]), Decision::Propose(again.clone()));
        // Had it noted the epoch, it may have served in it.
        let served = [report(1, 12, false, 6), kept];
        assert_eq!(decide(&map, &served, Tick(0), &[2]), up(1, 12));
        crate::set::apply(&mut map, 8, &again);
        assert_eq!(map.in_sync().map(|m| m.brick).collect::<Vec<_>>(), [brick(2)]);
    }

    /// A member that was demoted when its daemon restarted is taken back, if the one that was
    /// left died before it learnt that it was alone.
    #[test]
    fn a_demoted_member_is_chosen_when_the_rest_never_served() {
        let mut map = in_sync(5, &[1, 2]);
        let demoted = SetEntry::BrickUp { epoch: Epoch(5), brick: brick(2), incarnation: inc(21) };
        crate::set::apply(&mut map, 6, &demoted);
        let reports = [report(1, 11, false, 5), report(2, 21, true, 5)];
        let back = SetEntry::Restart { epoch: Epoch(6), lead: brick(2), incarnation: inc(21) };
        assert_eq!(decide(&map, &reports, Tick(0), &[2]), Decision::Propose(back));
    }

    /// An eviction that was proposed commits after the one that is left lost power: the evicted
    /// member alone remembers. (Seeds 22374 and 29684, where it said of itself what it had found at
    /// its start, long before it was in-sync.)
    #[test]
    fn an_evicted_member_is_chosen_when_the_rest_lost_memory_and_never_served() {
        let mut map = in_sync(5, &[1, 2]);
        let evict = SetEntry::Evict { epoch: Epoch(5), brick: brick(2), reason: "silent".into() };
        crate::set::apply(&mut map, 6, &evict);
        let named = SetEntry::BrickUp { epoch: Epoch(6), brick: brick(2), incarnation: inc(20) };
        crate::set::apply(&mut map, 7, &named);
        let reports = [report(1, 11, false, 5), report(2, 20, true, 5)];
        let back = SetEntry::Restart { epoch: Epoch(6), lead: brick(2), incarnation: inc(20) };
        assert_eq!(decide(&map, &reports, Tick(0), &[2]), Decision::Propose(back));
    }

    /// A was heard, and lost power. Its word of then neither keeps the set nor wins the choice.
    #[test]
    fn what_a_silent_member_said_counts_no_more() {
        let map = in_sync(5, &[1, 2]);
        let mut restart = Restart::default();
        restart.on_report(Tick(0), &map, report(1, 10, true, 5));
        let now = Tick(1200 * MS);
        restart.on_report(now, &map, report(2, 21, true, 5));
        let wait = Decision::WaitUntil(Tick(30_000 * MS));
        assert_eq!(restart.decide(now, &map, |_, _| false), wait);
    }
}
