//! The pool's leader: whom to evict, who is up, what to propose. Its memory lasts one term.

use std::collections::{BTreeMap, BTreeSet};

use proto::{BrickId, Epoch, Incarnation};
use proto_rules::Tick;
use proto_rules::restart::{Decision, Restart};
use proto_rules::set::{SetEntry, choose_eviction, may_leave};
use proto_rules::time::{MS, SUSPECT_AFTER};

use super::peer::Peer;
use crate::cx::{Cx, Out, peer_of, proc_of};
use crate::model::net::{CONTROL, Proc};
use crate::msg::{Msg, Word};

/// Why a member was evicted after its promises were waited for.
const SILENT: &str = "silent";
/// A report counts this long.
const REPORT_AGE: u64 = 700 * MS;
/// The leader asks again for what was not done.
const ASK_AGAIN: u64 = 500 * MS;

#[derive(Default)]
pub struct Leader {
    term: u64,
    since: Tick,
    restart: Restart,
    heard: BTreeMap<BrickId, (Tick, Incarnation)>,
    lacks: BTreeMap<BrickId, (Tick, Vec<BrickId>)>,
    asked: Option<(Epoch, BrickId, Tick)>,
}

impl Peer {
    /// Words for the leader; whoever is not (any more) drops them, they come again.
    pub fn leader_word(&mut self, cx: &mut Cx<'_>, from: Proc, word: Word) {
        let Some(term) = cx.leads_term else { return };
        self.enter_term(cx, term);
        match word {
            Word::Report { report, lacks } => {
                let seen = (cx.tick, report.incarnation);
                self.leader.heard.insert(report.brick, seen);
                let givers = lacks.into_iter().map(|(_, giver)| giver).collect();
                self.leader.lacks.insert(report.brick, (cx.tick, givers));
                let map = self.lasting.map.set.clone();
                self.leader.restart.on_report(cx.tick, &map, report);
                self.decide(cx);
                if from != cx.me {
                    self.tell_leader_of_map(cx, from);
                }
            }
            Word::StopReady { epoch, victim } => {
                let reason = SILENT.to_owned();
                let whole_peer = cx.rng.percent(50);
                let entry = if whole_peer {
                    SetEntry::EvictPeer { epoch, peer: peer_of(proc_of(victim)), reason }
                } else {
                    SetEntry::Evict { epoch, brick: victim, reason }
                };
                self.propose(cx, entry);
            }
            Word::Propose(SetEntry::Leave { brick, .. })
                if !may_leave(self.map(), brick, |b, i| self.hears(cx.tick, b, i)) => {}
            Word::Propose(entry) => self.propose(cx, entry),
        }
    }

    fn enter_term(&mut self, cx: &Cx<'_>, term: u64) {
        if self.leader.term != term {
            self.leader = Leader { term, since: cx.tick, ..Leader::default() };
        }
    }

    fn propose(&mut self, cx: &mut Cx<'_>, entry: SetEntry) {
        let void = entry.epoch().is_some_and(|e| e != self.map().epoch);
        if let Some(term) = cx.leads_term.filter(|_| !void) {
            cx.note(|me| format!("p{} proposes {entry:?}", me));
            cx.out.push(Out::Propose { term, entry });
        }
    }

    pub fn leader_tick(&mut self, cx: &mut Cx<'_>) {
        let Some(term) = cx.leads_term else { return };
        self.enter_term(cx, term);
        self.decide(cx);
        // A new leader listens first.
        if cx.tick.since(self.leader.since) < SUSPECT_AFTER {
            return;
        }
        let map = self.lasting.map.set.clone();
        let silent: BTreeSet<BrickId> = map
            .in_sync()
            .filter(|m| {
                self.leader
                    .heard
                    .get(&m.brick)
                    .is_none_or(|(at, _)| cx.tick.since(*at) >= SUSPECT_AFTER)
            })
            .map(|m| m.brick)
            .collect();
        let mut lacks = BTreeSet::new();
        for (holder, (at, givers)) in &self.leader.lacks {
            if cx.tick.since(*at) < REPORT_AGE {
                lacks.extend(givers.iter().map(|giver| (*holder, *giver)));
            }
        }
        if let Some(victim) = choose_eviction(&map, &silent, &lacks) {
            self.ask_stop(cx, victim, &silent);
        }
    }

    fn ask_stop(&mut self, cx: &mut Cx<'_>, victim: BrickId, silent: &BTreeSet<BrickId>) {
        let map = self.lasting.map.set.clone();
        let key = (map.epoch, victim);
        if let Some((epoch, asked, at)) = self.leader.asked
            && (epoch, asked) == key
            && cx.tick.since(at) < ASK_AGAIN
        {
            return;
        }
        self.leader.asked = Some((map.epoch, victim, cx.tick));
        let healthy =
            map.in_sync().map(|m| m.brick).filter(|b| *b != victim && !silent.contains(b));
        for brick in healthy {
            cx.send(proc_of(brick), CONTROL, Msg::Stop { epoch: map.epoch, victim });
        }
    }

    fn hears(&self, now: Tick, brick: BrickId, incarnation: Incarnation) -> bool {
        let heard = self.leader.heard.get(&brick);
        heard.is_some_and(|(at, i)| *i == incarnation && now.since(*at) < SUSPECT_AFTER)
    }

    fn decide(&mut self, cx: &mut Cx<'_>) {
        let map = self.lasting.map.set.clone();
        let now = cx.tick;
        let alive = |brick: BrickId, incarnation: Incarnation| self.hears(now, brick, incarnation);
        if let Decision::Propose(entry) = self.leader.restart.decide(now, &map, alive) {
            self.propose(cx, entry);
        }
    }
}
