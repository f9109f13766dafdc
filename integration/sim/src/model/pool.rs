//! The pool's replicated log, modelled: totally ordered, committed with a delay while the leader
//! reaches a majority of the voters, leaderless for at most a second. What a lost leader had
//! proposed is committed by its successor or lost: nobody can tell before.

use proto::map::SetMap;
use proto_rules::set::{SetEntry, SetOutcome, apply};

use super::clock::{MS, Nanos};
use super::net::Proc;
use crate::rng::Rng;

#[derive(Clone, Debug)]
struct Proposal {
    entry: SetEntry,
    due: Nanos,
    term: u64,
}

#[derive(Debug)]
pub struct Pool {
    pub voters: Vec<Proc>,
    pub leader: Option<Proc>,
    /// Counts elections: a leader's memory lives for one term.
    pub term: u64,
    elect_at: Option<Nanos>,
    proposals: Vec<Proposal>,
    /// Proposed by a leader that lost its majority before the commit.
    limbo: Vec<SetEntry>,
    index: u64,
    /// Counts changes of `map`.
    pub version: u64,
    pub map: SetMap,
    pub history: Vec<(SetEntry, SetOutcome)>,
}

impl Pool {
    pub fn new(voters: Vec<Proc>, map: SetMap) -> Self {
        Self {
            voters,
            leader: None,
            term: 0,
            elect_at: None,
            proposals: Vec::new(),
            limbo: Vec::new(),
            index: 10,
            version: 1,
            map,
            history: Vec::new(),
        }
    }

    pub fn propose(
        &mut self,
        now: Nanos,
        rng: &mut Rng,
        term: u64,
        entry: SetEntry,
    ) -> Option<Nanos> {
        if term != self.term || self.proposals.iter().any(|p| p.entry == entry) {
            return None;
        }
        let last = self.proposals.last().map_or(0, |p| p.due);
        let due = (now + rng.range(3 * MS, 40 * MS)).max(last + 1);
        self.proposals.push(Proposal { entry, due, term });
        Some(due)
    }

    /// Commits what is due. `reach(p)`: p is up and reaches a majority of the voters.
    pub fn commit(
        &mut self,
        now: Nanos,
        reach: impl Fn(Proc) -> bool,
    ) -> Vec<(SetEntry, SetOutcome)> {
        let mut done = Vec::new();
        while let Some(first) = self.proposals.first()
            && first.due <= now
        {
            let Proposal { entry, term, .. } = self.proposals.remove(0);
            if term == self.term && self.leader.is_some_and(&reach) {
                done.push(self.append(entry));
            } else {
                self.limbo.push(entry);
            }
        }
        done
    }

    fn append(&mut self, entry: SetEntry) -> (SetEntry, SetOutcome) {
        self.index += 1;
        let outcome = apply(&mut self.map, self.index, &entry);
        if !matches!(outcome, SetOutcome::Void(_)) {
            self.version += 1;
        }
        self.history.push((entry.clone(), outcome));
        (entry, outcome)
    }

    /// Keeps or changes the leader. Returns entries committed by the way.
    pub fn tick(
        &mut self,
        now: Nanos,
        rng: &mut Rng,
        reach: impl Fn(Proc) -> bool,
    ) -> Vec<(SetEntry, SetOutcome)> {
        if self.leader.is_some_and(&reach) {
            self.elect_at = None;
            // The same leader goes on: what waited for a majority has one now.
            return std::mem::take(&mut self.limbo).into_iter().map(|e| self.append(e)).collect();
        }
        let at = *self.elect_at.get_or_insert_with(|| now + rng.range(300 * MS, 1000 * MS));
        if now < at {
            return Vec::new();
        }
        let able: Vec<Proc> = self.voters.iter().copied().filter(|p| reach(*p)).collect();
        if able.is_empty() {
            return Vec::new();
        }
        self.leader = Some(*rng.pick(&able));
        self.term += 1;
        self.elect_at = None;
        let mut open = std::mem::take(&mut self.limbo);
        open.extend(std::mem::take(&mut self.proposals).into_iter().map(|p| p.entry));
        // The new leader has a prefix of what the old one had proposed.
        let kept = rng.index(open.len() + 1);
        open.into_iter().take(kept).map(|e| self.append(e)).collect()
    }
}
