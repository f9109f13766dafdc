//! Settling: making what a holder left unfinished equal on all members, and nothing else.
//!
//! Run by the lead for a new lead (everything), a dead session, or one revoked lease. It tells
//! the new numbers to every member and gets their unsettled lists in answer; whatever some
//! member lacks is copied, range by range, from one good copy; then the entries are cleared.
//!
//! Assumes: members answer only when no change in scope is being executed any more
//! (`Windows::running`) and refuse older numbers from then on; a member that dies in between
//! shows as `on_members` of the next epoch.
//!
//! Promises: `Done` only when every member has the same bytes, attributes and names of
//! everything in the lists (traps 4, 48); only the ranges listed are copied (trap 5); a change
//! that every member has executed is neither copied nor forgotten.
//!
//! Deliberately does not: decide what the outcome of a change *should* have been. The source's
//! copy, with or without it, wins; nobody was told yet.

use std::collections::{BTreeMap, BTreeSet};

use proto::fop::Touch;
use proto::{BrickId, Gfid, LeaseNumber, Seq, SessionId};

use crate::lease::LeaseKey;
use crate::lease::table::SettleScope;
use crate::member::stale::StaleMarks;
use crate::plant::{Plant, planted};
use crate::window::Unsettled;

/// What is settled: everything (a new lead), or one scope of the lease table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    All,
    One(SettleScope),
}

impl Scope {
    /// The filter for `Windows::unsettled` and `Windows::running`.
    pub fn filter(&self) -> (Option<SessionId>, Option<Gfid>) {
        match self {
            Scope::All => (None, None),
            Scope::One(scope) => (Some(scope.session), scope.key.map(LeaseKey::gfid)),
        }
    }
}

/// One member's answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemberList {
    pub entries: Vec<Unsettled>,
    /// Settled marks of the sessions in scope: what is at or below any of them needs nothing.
    pub marks: Vec<(SessionId, Seq)>,
    /// Sessions that it has heard of.
    pub sessions: Vec<SessionId>,
    /// What the replies to the entries mean, where the driver can tell: the same number for the
    /// same meaning. Executed everywhere with different results is not settled.
    pub replies: Vec<((SessionId, Seq), u64)>,
    /// For a new lead: the stale marks that it holds.
    pub stale: Vec<(BrickId, Gfid)>,
}

/// What of one inode (or directory) is copied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CopyWhat {
    /// Disjoint, ascending, `start..end`.
    pub ranges: Vec<(u64, u64)>,
    pub attrs: bool,
    /// Hashes of names, ascending: as the source has them, or removed if it has not.
    pub names: Vec<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SettleCommand {
    /// Tell a member the new numbers, which it notes durably until a later epoch's grace has
    /// ended (when all have restarted, nothing else tells a revoked lease from one to be
    /// reclaimed); it answers with its list.
    Collect { from: BrickId, raise: Vec<(LeaseKey, LeaseNumber)> },
    /// Make the targets equal to the source in this; then `on_copied(gfid)`.
    Copy { gfid: Gfid, what: CopyWhat, source: BrickId, targets: Vec<BrickId> },
    /// A member notes stale marks durably, and drops others: an earlier lead died before all
    /// members had the same. Then `on_marked`.
    Mark { at: BrickId, set: Vec<(BrickId, Gfid)>, clear: Vec<(BrickId, Gfid)> },
    /// A member drops these entries of its windows, and takes over others with their replies, as
    /// the members named have them; then `on_cleared`.
    Clear { at: BrickId, entries: Vec<(SessionId, Seq)>, take_over: Vec<(BrickId, SessionId, Seq)> },
    /// Settled. `sessions`: all that any member has heard of.
    Done { sessions: BTreeSet<SessionId> },
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Phase {
    Collecting,
    /// All members get the same stale marks, before one of them is taken for a source.
    Marking {
        awaiting: BTreeSet<BrickId>,
    },
    /// Inodes first, so that names have something to point to; then names.
    Copying {
        names_left: BTreeMap<Gfid, CopyWhat>,
    },
    Clearing {
        awaiting: BTreeSet<BrickId>,
    },
    Done,
}

/// One settle under way at the lead.
#[derive(Clone, Debug)]
pub struct Settle {
    scope: Scope,
    lead: BrickId,
    members: Vec<BrickId>,
    raise: Vec<(LeaseKey, LeaseNumber)>,
    lists: BTreeMap<BrickId, MemberList>,
    /// For a new lead: what it and the members know as stale, together.
    marks: Option<StaleMarks>,
    copying: BTreeSet<Gfid>,
    touched: BTreeSet<Gfid>,
    clear: Vec<(SessionId, Seq)>,
    /// Changes that a lead executed: not cleared where the source of the copy has them.
    by_lead: BTreeMap<(SessionId, Seq), BTreeSet<Gfid>>,
    take_over: Vec<(BrickId, SessionId, Seq)>,
    phase: Phase,
}

impl Settle {
    /// Starts: collect from every in-sync member, the lead itself included.
    pub fn start(
        scope: Scope,
        lead: BrickId,
        members: Vec<BrickId>,
        raise: Vec<(LeaseKey, LeaseNumber)>,
    ) -> (Self, Vec<SettleCommand>) {
        let mut settle = Self {
            scope,
            lead,
            members: Vec::new(),
            raise,
            lists: BTreeMap::new(),
            marks: None,
            copying: BTreeSet::new(),
            touched: BTreeSet::new(),
            clear: Vec::new(),
            by_lead: BTreeMap::new(),
            take_over: Vec::new(),
            phase: Phase::Done,
        };
        let commands = settle.on_members(members);
        (settle, commands)
    }

    /// The epoch changed under the same lead: from the beginning, with those left. (Under
    /// another lead, that one settles everything.)
    pub fn on_members(&mut self, members: Vec<BrickId>) -> Vec<SettleCommand> {
        self.members = members;
        self.lists.clear();
        self.marks = None;
        self.copying.clear();
        self.touched.clear();
        self.clear.clear();
        self.by_lead.clear();
        self.take_over.clear();
        self.phase = Phase::Collecting;
        let collect =
            |from: &BrickId| SettleCommand::Collect { from: *from, raise: self.raise.clone() };
        self.members.iter().map(collect).collect()
    }

    pub fn scope(&self) -> Scope {
        self.scope
    }

    pub fn is_done(&self) -> bool {
        self.phase == Phase::Done
    }

    /// Whether anything may not touch this inode yet.
    pub fn blocks(&self, gfid: Gfid) -> bool {
        match self.phase {
            Phase::Done => false,
            Phase::Collecting => self.scope.filter().1.is_none_or(|g| g == gfid),
            _ => self.touched.contains(&gfid),
        }
    }

    /// A member's list. With the last one the copying begins.
    pub fn on_list(
        &mut self,
        member: BrickId,
        list: MemberList,
        stale: &StaleMarks,
    ) -> Vec<SettleCommand> {
        if self.phase != Phase::Collecting || !self.members.contains(&member) {
            return Vec::new();
        }
        self.lists.insert(member, list);
        if self.lists.len() < self.members.len() {
            return Vec::new();
        }
        if self.scope == Scope::All {
            let commands = self.unite_marks(stale);
            if !commands.is_empty() {
                return commands;
            }
        }
        self.begin(stale)
    }

    /// A member has noted its marks.
    pub fn on_marked(&mut self, member: BrickId, stale: &StaleMarks) -> Vec<SettleCommand> {
        let Phase::Marking { awaiting } = &mut self.phase else { return Vec::new() };
        awaiting.remove(&member);
        if awaiting.is_empty() { self.begin(stale) } else { Vec::new() }
    }

    fn begin(&mut self, stale: &StaleMarks) -> Vec<SettleCommand> {
        let items = self.merge();
        self.touched = items.keys().copied().collect();
        self.decide_replies(stale);
        self.begin_copying(items, stale)
    }

    /// A mark that one member holds is given to all, for somebody may have been told that it
    /// is noted. One that not all hold, and that would leave no good copy, was told to nobody:
    /// the lead of its time waits for all. It is dropped.
    fn unite_marks(&mut self, mine: &StaleMarks) -> Vec<SettleCommand> {
        let mut held: BTreeMap<BrickId, BTreeSet<(BrickId, Gfid)>> =
            self.lists.iter().map(|(m, l)| (*m, l.stale.iter().copied().collect())).collect();
        held.entry(self.lead).or_default().extend(mine.iter());
        let all: BTreeSet<(BrickId, Gfid)> = held.values().flatten().copied().collect();
        let everywhere = |mark: &(BrickId, Gfid)| held.values().all(|h| h.contains(mark));
        let mut marks = StaleMarks::default();
        for (brick, gfid) in all.iter().copied().filter(everywhere) {
            marks.mark(brick, gfid);
        }
        for (brick, gfid) in all.iter().copied().filter(|mark| !everywhere(mark)) {
            if !marks.would_leave_none(brick, gfid, &self.members) {
                marks.mark(brick, gfid);
            }
        }
        let right: BTreeSet<(BrickId, Gfid)> = marks.iter().collect();
        self.marks = Some(marks);
        let mut commands = Vec::new();
        for (at, held) in &held {
            let set: Vec<_> = right.difference(held).copied().collect();
            let clear: Vec<_> = held.difference(&right).copied().collect();
            if !(set.is_empty() && clear.is_empty()) {
                commands.push(SettleCommand::Mark { at: *at, set, clear });
            }
        }
        let at = |c: &SettleCommand| match c {
            SettleCommand::Mark { at, .. } => Some(*at),
            _ => None,
        };
        if !commands.is_empty() {
            self.phase = Phase::Marking { awaiting: commands.iter().filter_map(at).collect() };
        }
        commands
    }

    /// All targets have the inode's part of the present wave.
    pub fn on_copied(&mut self, gfid: Gfid, stale: &StaleMarks) -> Vec<SettleCommand> {
        let Phase::Copying { names_left } = &mut self.phase else { return Vec::new() };
        self.copying.remove(&gfid);
        if !self.copying.is_empty() {
            return Vec::new();
        }
        let names = std::mem::take(names_left);
        match names.is_empty() {
            true => self.begin_clearing(),
            false => self.copy_wave(names, stale),
        }
    }

    pub fn on_cleared(&mut self, member: BrickId) -> Vec<SettleCommand> {
        let Phase::Clearing { awaiting } = &mut self.phase else { return Vec::new() };
        awaiting.remove(&member);
        if awaiting.is_empty() { self.done() } else { Vec::new() }
    }

    /// What some member lacks, by inode; notes the entries to clear.
    fn merge(&mut self) -> BTreeMap<Gfid, CopyWhat> {
        if planted(Plant::NoSettle) {
            return BTreeMap::new();
        }
        let mut marks: BTreeMap<SessionId, Seq> = BTreeMap::new();
        let mut entries: BTreeMap<(SessionId, Seq), (&[Touch], usize)> = BTreeMap::new();
        let mut by_lead = BTreeSet::new();
        for list in self.lists.values() {
            for (session, mark) in &list.marks {
                let known = marks.entry(*session).or_insert(*mark);
                *known = (*known).max(*mark);
            }
            for entry in &list.entries {
                let key = (entry.session, entry.seq);
                entries.entry(key).or_insert((&entry.touches, 0)).1 += 1;
                if entry.by_lead {
                    by_lead.insert(key);
                }
            }
        }
        let differing = self.differing();
        let mut items: BTreeMap<Gfid, CopyWhat> = BTreeMap::new();
        for ((session, seq), (touches, members)) in entries {
            // A mark that reached one member says that all had answered.
            let settled = marks.get(&session).is_some_and(|mark| seq <= *mark);
            let same = members == self.members.len() && !differing.contains(&(session, seq));
            if settled || same {
                continue;
            }
            self.clear.push((session, seq));
            if by_lead.contains(&(session, seq)) {
                let gfids = touches.iter().map(Touch::gfid).filter(|g| !g.is_nil());
                self.by_lead.insert((session, seq), gfids.collect());
            }
            touches.iter().for_each(|touch| add(&mut items, touch));
        }
        for what in items.values_mut() {
            normalise(what);
        }
        items
    }

    /// What a lead executed and the source of the copy has, all members have from now on, with
    /// its reply: the session sends it again, and done again it is not the same (trap 60). What
    /// the source lacks nobody has from now on.
    fn decide_replies(&mut self, stale: &StaleMarks) {
        if planted(Plant::NoTakenReplies) {
            return;
        }
        let stale = self.marks.as_ref().unwrap_or(stale);
        let source_of =
            |gfid: &Gfid| stale.source(*gfid, self.lead, &self.members).unwrap_or(self.lead);
        for (key, gfids) in &self.by_lead {
            let sources: BTreeSet<BrickId> = gfids.iter().map(source_of).collect();
            let mut sources = sources.into_iter();
            let (Some(source), None) = (sources.next(), sources.next()) else { continue };
            let list = self.lists.get(&source);
            if list.is_some_and(|l| l.replies.iter().any(|(k, _)| k == key)) {
                self.take_over.push((source, key.0, key.1));
            }
        }
        let kept: BTreeSet<_> = self.take_over.iter().map(|(_, s, seq)| (*s, *seq)).collect();
        self.clear.retain(|key| !kept.contains(key));
    }

    /// Changes that were answered differently.
    fn differing(&self) -> BTreeSet<(SessionId, Seq)> {
        let mut first: BTreeMap<(SessionId, Seq), u64> = BTreeMap::new();
        let replies = self.lists.values().flat_map(|l| l.replies.iter());
        let differs = |(key, reply): &&((SessionId, Seq), u64)| {
            *first.entry(*key).or_insert(*reply) != *reply
        };
        replies.filter(differs).map(|(key, _)| *key).collect()
    }

    fn begin_copying(
        &mut self,
        items: BTreeMap<Gfid, CopyWhat>,
        stale: &StaleMarks,
    ) -> Vec<SettleCommand> {
        let mut inodes = BTreeMap::new();
        let mut names_left = BTreeMap::new();
        for (gfid, mut what) in items {
            let names = std::mem::take(&mut what.names);
            if !names.is_empty() {
                names_left.insert(gfid, CopyWhat { names, ..CopyWhat::default() });
            }
            if what != CopyWhat::default() {
                inodes.insert(gfid, what);
            }
        }
        if inodes.is_empty() && names_left.is_empty() {
            return self.begin_clearing();
        }
        self.phase = Phase::Copying { names_left };
        if inodes.is_empty() {
            return self.on_copied(Gfid::NIL, stale);
        }
        self.copy_wave(inodes, stale)
    }

    fn copy_wave(
        &mut self,
        items: BTreeMap<Gfid, CopyWhat>,
        stale: &StaleMarks,
    ) -> Vec<SettleCommand> {
        self.copying = items.keys().copied().collect();
        let stale = self.marks.as_ref().unwrap_or(stale);
        let copy = |(gfid, what)| {
            // The lead's copy, unless it is marked stale (then it is a target itself).
            let source = stale.source(gfid, self.lead, &self.members).unwrap_or(self.lead);
            let targets = self.members.iter().copied().filter(|m| *m != source).collect();
            SettleCommand::Copy { gfid, what, source, targets }
        };
        items.into_iter().map(copy).collect()
    }

    fn begin_clearing(&mut self) -> Vec<SettleCommand> {
        if self.clear.is_empty() && self.take_over.is_empty() {
            return self.done();
        }
        self.phase = Phase::Clearing { awaiting: self.members.iter().copied().collect() };
        let clear = |at: &BrickId| SettleCommand::Clear {
            at: *at,
            entries: self.clear.clone(),
            take_over: self.take_over.iter().filter(|(from, ..)| from != at).copied().collect(),
        };
        self.members.iter().map(clear).collect()
    }

    fn done(&mut self) -> Vec<SettleCommand> {
        self.phase = Phase::Done;
        let sessions = self
            .lists
            .values()
            .flat_map(|l| l.sessions.iter().copied().chain(l.entries.iter().map(|e| e.session)));
        vec![SettleCommand::Done { sessions: sessions.collect() }]
    }
}

fn add(items: &mut BTreeMap<Gfid, CopyWhat>, touch: &Touch) {
    if touch.gfid().is_nil() {
        return;
    }
    let what = items.entry(touch.gfid()).or_default();
    match *touch {
        Touch::Range { start, end, .. } => what.ranges.push((start, end)),
        Touch::Attrs(_) => what.attrs = true,
        Touch::Name { hash, .. } => what.names.push(hash),
    }
}

/// Ranges become disjoint and ascending, names unique.
fn normalise(what: &mut CopyWhat) {
    what.names.sort_unstable();
    what.names.dedup();
    what.ranges.sort_unstable();
    let mut merged: Vec<(u64, u64)> = Vec::new();
    for (start, end) in what.ranges.drain(..).filter(|(start, end)| start < end) {
        match merged.last_mut() {
            Some(last) if start <= last.1 => last.1 = last.1.max(end),
            _ => merged.push((start, end)),
        }
    }
    what.ranges = merged;
}

#[cfg(test)]
#[path = "settle_test.rs"]
mod tests;
