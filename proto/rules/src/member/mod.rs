//! The gate at a member of a set: every request passes it before it touches the store.
//!
//! Assumes: one `Member` per brick, owned by the brick's thread; `set_serve_until` is fed from
//! the promises; the lead passes its lease table along.
//!
//! Promises: nothing is served unless the map names this incarnation as in-sync, the request's
//! epoch is the set's, and every other member's promise runs; a change is executed once, under
//! current lease numbers, with enough members in-sync; a stale copy is never read; a brick
//! with an I/O error of its own answers nobody until the pool has another epoch without it.
//!
//! Deliberately does not: keep held requests. `Verdict::Hold` says why; the driver keeps them
//! (it owns the connections) and admits them again at `MemberCommand::Readmit`.

pub mod handover;
pub mod stale;

use std::collections::BTreeSet;

use proto::fop::{Class, Touch};
use proto::map::{MemberState, SetMap};
use proto::{BrickId, Epoch, Errno, Gfid, Incarnation, LeaseNumber, Refusal, Seq, SessionId};

use crate::lease::LeaseKey;
use crate::lease::numbers::{NumberVerdict, Numbers};
use crate::lease::table::LeaseTable;
use crate::plant::{Plant, planted};
use crate::time::{JOIN_PAUSE, Nanos, Tick};
use crate::window::{Arrival, Unsettled, Windows};

use stale::StaleMarks;

/// Changes queued during a join's pause; more are told to come again.
const HELD_MAX: usize = 4096;
/// Sessions named by the lead.
const SESSIONS_MAX: usize = 65_536;
/// Inodes that answer EIO after a sole member's failed fsync.
const POISONED_MAX: usize = 65_536;

/// What the gate looks at, of any request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    pub session: SessionId,
    pub epoch: Epoch,
    pub class: Class,
    /// Of a change; `Seq(0)` otherwise.
    pub seq: Seq,
    pub mark: Seq,
    /// Leases under which it is made; for a read: under which its answer may be cached.
    pub under: Vec<(LeaseKey, LeaseNumber)>,
    /// What a change touches.
    pub touches: Vec<Touch>,
    /// Inodes that a read looks at.
    pub reads: Vec<Gfid>,
    /// The lead executes it for the session, and fans it out.
    pub by_lead: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict<R> {
    /// Execute and answer.
    Serve,
    /// A change, noted in the window: execute, then `finish` with the reply (or `cancel`).
    Execute,
    /// Executed before. Log its touches again in the current interval (trap 51), then send.
    Replay(R),
    Refuse(Refusal),
    /// Executed, as far as the client is concerned: this is its result.
    Fail(Errno),
    Hold(Hold),
}

/// Why a request waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hold {
    /// The first sending of the same change is being executed; drop this one.
    Running,
    /// A joiner's final pause: keep it until `Readmit`.
    Paused,
    /// Ask the lead whether it knows the session, `session_named`, then admit again.
    AskSession,
    /// Ask the lead whether this lease is held (`LeaseTable::permits`), `number_confirmed` or
    /// refuse, then admit again.
    AskNumber { key: LeaseKey, number: LeaseNumber },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MemberCommand {
    /// Log these again in the current change-log interval (trap 51).
    Relog(Vec<Unsettled>),
    /// This brick leads from now on, without its predecessor's memory: settle everything,
    /// then grace, before anybody is served.
    BecomeLead {
        epoch: Epoch,
    },
    /// It led and leads on: the lease table takes the new epoch.
    LeadOn {
        epoch: Epoch,
    },
    LoseLead,
    /// No longer in-sync under this incarnation: end client connections, start healing.
    Out,
    /// Admit all held requests again (most will be refused by their epoch).
    Readmit,
    /// The joiner's pause is too long: have the join withdrawn by the joiner's word, or by a
    /// bare bump (trap 53: never by un-pausing on a guess).
    WithdrawJoin,
}

/// What a brick's own I/O error leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OwnError {
    /// Answer nobody; propose `SetEntry::Leave`. Clients re-send in the next epoch.
    Leave,
    /// The only copy: the operation fails with EIO, and so does the inode from now on.
    Sole,
}

#[derive(Debug)]
pub struct Member<R> {
    brick: BrickId,
    incarnation: Incarnation,
    map: Option<SetMap>,
    /// `min-in-sync` of the volume.
    needed: u16,
    serve_until: Tick,
    sessions: BTreeSet<SessionId>,
    pub windows: Windows<R>,
    pub numbers: Numbers,
    pub stale: StaleMarks,
    pause: Option<Tick>,
    held: usize,
    /// Rounds in which the lead has marks set or cleared, in this epoch.
    marking: usize,
    failed: bool,
    poisoned: BTreeSet<Gfid>,
    graced: Epoch,
    /// The epoch from which on its windows lack nothing, and that in which they were handed over.
    remembers_since: Epoch,
    handed_over: Option<Epoch>,
}

impl<R: Clone> Member<R> {
    pub fn new(brick: BrickId, incarnation: Incarnation) -> Self {
        Self {
            brick,
            incarnation,
            map: None,
            needed: 1,
            serve_until: Tick::ZERO,
            sessions: BTreeSet::new(),
            windows: Windows::default(),
            numbers: Numbers::default(),
            stale: StaleMarks::default(),
            pause: None,
            held: 0,
            marking: 0,
            failed: false,
            poisoned: BTreeSet::new(),
            graced: Epoch::NONE,
            remembers_since: Epoch::NONE,
            handed_over: None,
        }
    }

    /// A committed map of the set, with the volume's `min-in-sync`. Older ones are ignored.
    pub fn on_map(&mut self, map: &SetMap, needed: u16) -> Vec<MemberCommand> {
        let old = match &self.map {
            Some(old) if old.epoch > map.epoch => return Vec::new(),
            old => old.clone(),
        };
        let was_in_sync = self.in_sync();
        let old_epoch = self.epoch();
        let old_lead = old.as_ref().and_then(lead_of);
        let was_lead = was_in_sync && old_lead.is_some_and(|(b, _)| b == self.brick);
        self.map = Some(map.clone());
        self.needed = needed;
        if old.is_some_and(|old| old.epoch == map.epoch) {
            return Vec::new();
        }
        self.marking = 0;
        if self.in_sync() && !was_in_sync && self.handed_over != Some(old_epoch) {
            // After a restart, without anybody's memory.
            self.remembers_since = map.epoch;
        }
        let same_lead = old_lead.is_some() && old_lead == lead_of(map);
        let mut commands = Vec::new();
        if !same_lead {
            // Sessions are served as named by the lead of this epoch (trap 15), and leases of
            // an earlier lead are dead until reclaimed.
            self.sessions.clear();
            self.numbers.new_lead(map.epoch);
        }
        if self.in_sync() {
            let unsettled = self.windows.unsettled(None, None);
            if !unsettled.is_empty() {
                commands.push(MemberCommand::Relog(unsettled));
            }
        } else if was_in_sync {
            commands.push(MemberCommand::Out);
        }
        let leads = self.in_sync() && map.lead == Some(self.brick);
        match (was_lead, leads) {
            (true, true) if same_lead => {
                commands.push(MemberCommand::LeadOn { epoch: map.epoch });
            }
            (_, true) => commands.push(MemberCommand::BecomeLead { epoch: map.epoch }),
            (true, false) => commands.push(MemberCommand::LoseLead),
            (false, false) => {}
        }
        if self.pause.take().is_some() || self.held > 0 {
            self.held = 0;
            commands.push(MemberCommand::Readmit);
        }
        commands
    }

    /// From the promises: until when this brick may serve.
    pub fn set_serve_until(&mut self, until: Tick) {
        self.serve_until = until;
    }

    pub fn serve_until(&self) -> Tick {
        self.serve_until
    }

    pub fn epoch(&self) -> Epoch {
        self.map.as_ref().map_or(Epoch::NONE, |m| m.epoch)
    }

    pub fn map(&self) -> Option<&SetMap> {
        self.map.as_ref()
    }

    pub fn is_lead(&self) -> bool {
        self.in_sync() && self.map.as_ref().is_some_and(|m| m.lead == Some(self.brick))
    }

    /// In-sync by the map, under this very incarnation (traps 17, 54).
    pub fn in_sync(&self) -> bool {
        let me = self.map.as_ref().and_then(|m| m.member(self.brick));
        me.is_some_and(|m| m.state == MemberState::InSync && m.incarnation == self.incarnation)
    }

    /// The only in-sync member: with `lone-sync` every change is made durable first.
    pub fn lone(&self) -> bool {
        self.in_sync() && self.map.as_ref().is_some_and(|m| m.in_sync().count() == 1)
    }

    /// The gate. `lead`: the lease table, when this brick leads.
    pub fn admit(&mut self, now: Tick, head: &Head, lead: Option<&LeaseTable>) -> Verdict<R> {
        if let Some(refusal) = self.fenced(now, head.epoch) {
            return Verdict::Refuse(refusal);
        }
        match head.class {
            Class::Peer => return Verdict::Serve,
            Class::Lead if !self.is_lead() => return Verdict::Refuse(Refusal::NotLead),
            // Hello, renewals and reclaims come to the table, which judges by itself.
            Class::Lead => return Verdict::Serve,
            Class::Read | Class::Change => {}
        }
        if let Some(verdict) = self.unknown_session(head.session, lead) {
            return verdict;
        }
        self.windows.set_mark(head.session, head.mark);
        match head.class {
            Class::Change => self.admit_change(head, lead),
            _ => self.admit_read(head, lead),
        }
    }

    fn fenced(&self, now: Tick, epoch: Epoch) -> Option<Refusal> {
        if self.failed {
            return Some(Refusal::Failed);
        }
        if !self.in_sync() {
            return Some(Refusal::NotServing);
        }
        if epoch != self.epoch() {
            return Some(Refusal::Epoch { current: self.epoch().0 });
        }
        let lapsed = now >= self.serve_until && !planted(Plant::NoFencing);
        lapsed.then_some(Refusal::NotServing)
    }

    fn unknown_session(&self, session: SessionId, lead: Option<&LeaseTable>) -> Option<Verdict<R>> {
        match lead {
            Some(table) if table.knows(session) => None,
            Some(_) => Some(Verdict::Refuse(Refusal::UnknownSession)),
            None if self.sessions.contains(&session) => None,
            None => Some(Verdict::Hold(Hold::AskSession)),
        }
    }

    fn admit_read(&self, head: &Head, lead: Option<&LeaseTable>) -> Verdict<R> {
        if head.reads.iter().any(|g| self.stale.is_stale(self.brick, *g)) {
            return Verdict::Refuse(Refusal::StaleCopy);
        }
        if head.reads.iter().any(|g| self.poisoned.contains(g)) {
            return Verdict::Fail(Errno::EIO);
        }
        if head.under.is_empty() {
            match lead {
                None => return Verdict::Refuse(Refusal::NotLead),
                // Without a lease: not before every holder could reclaim (trap 24).
                Some(table) if !table.serving() => return Verdict::Refuse(Refusal::Grace),
                Some(_) => {}
            }
        }
        Verdict::Serve
    }

    fn admit_change(&mut self, head: &Head, lead: Option<&LeaseTable>) -> Verdict<R> {
        match self.windows.look(head.session, head.seq) {
            Arrival::Replay(reply) => return Verdict::Replay(reply),
            Arrival::Running => return Verdict::Hold(Hold::Running),
            Arrival::Stale => return Verdict::Refuse(Refusal::StaleSeq),
            Arrival::Full => return Verdict::Refuse(Refusal::Busy),
            Arrival::New => {}
        }
        if let Some(verdict) = self.unleased(head, lead) {
            return verdict;
        }
        if self.too_few(&head.touches) {
            return Verdict::Refuse(Refusal::TooFewInSync);
        }
        if head.touches.iter().any(|t| self.poisoned.contains(&t.gfid())) {
            return Verdict::Fail(Errno::EIO);
        }
        if self.pause.is_some() {
            if self.held >= HELD_MAX {
                return Verdict::Refuse(Refusal::Busy);
            }
            self.held += 1;
            return Verdict::Hold(Hold::Paused);
        }
        for (key, number) in &head.under {
            self.numbers.raise(*key, *number);
        }
        let number = head.under.iter().map(|(_, n)| *n).max().unwrap_or(LeaseNumber::NONE);
        self.windows.begin(head.session, head.seq, head.touches.clone(), number);
        if head.by_lead {
            self.windows.note_by_lead(head.session, head.seq);
        }
        Verdict::Execute
    }

    /// Every lease named must be the newest known here, and held by the session at the lead.
    fn unleased(&self, head: &Head, lead: Option<&LeaseTable>) -> Option<Verdict<R>> {
        if head.touches.is_empty() {
            // What touches nothing (fsync) needs no lease: a file open for reading is synced, too.
            // Nor does the end of one stop it: no settling would ever clear what it left.
            return None;
        }
        if head.under.is_empty() {
            return Some(Verdict::Refuse(Refusal::LeaseNeeded));
        }
        if planted(Plant::NoLeaseNumbers) {
            return None;
        }
        for (key, number) in &head.under {
            let verdict = match lead {
                Some(table) if table.permits(head.session, *key, *number) => continue,
                // It may still be reclaimed.
                Some(table) if !table.serving() => {
                    return Some(Verdict::Refuse(Refusal::Grace));
                }
                Some(_) => return Some(Verdict::Refuse(Refusal::StaleLease)),
                None => self.numbers.check(*key, *number),
            };
            match verdict {
                NumberVerdict::Current => {}
                NumberVerdict::Old => return Some(Verdict::Refuse(Refusal::StaleLease)),
                NumberVerdict::AskLead => {
                    return Some(Verdict::Hold(Hold::AskNumber { key: *key, number: *number }));
                }
            }
        }
        None
    }

    /// Members in-sync whose copies of everything touched are good, against `min-in-sync`.
    fn too_few(&self, touches: &[Touch]) -> bool {
        let Some(map) = &self.map else { return true };
        let good = |brick| !touches.iter().any(|t| self.stale.is_stale(brick, t.gfid()));
        let count = map.in_sync().filter(|m| good(m.brick)).count();
        count < usize::from(self.needed)
    }

    /// A change that `admit` let through was executed: its reply, for re-sends.
    pub fn finish(&mut self, session: SessionId, seq: Seq, reply: R) {
        self.windows.finish(session, seq, reply);
    }

    /// The lead does not execute this change for its session, which makes it anew under another
    /// number: `reply` says so to every copy of the frame, also to one that is late.
    pub fn decline(&mut self, session: SessionId, seq: Seq, reply: R) {
        if matches!(self.windows.look(session, seq), Arrival::New) {
            self.windows.begin(session, seq, Vec::new(), LeaseNumber::NONE);
            self.windows.finish(session, seq, reply);
        }
    }

    /// Whether its windows would have a change that was sent first in epoch `first`, had it been
    /// executed. If not, one that comes again is no new one for sure: others may have changed
    /// the same since, and no lease says that they have not.
    pub fn remembers(&self, first: Epoch) -> bool {
        first >= self.remembers_since
    }

    /// The lead named a session, by itself or when asked.
    pub fn session_named(&mut self, session: SessionId) {
        if self.sessions.len() < SESSIONS_MAX {
            self.sessions.insert(session);
        }
    }

    /// The lead says that a session is dead or forgotten. Its window goes only with
    /// `forgotten`: what it left is settled first.
    pub fn session_ended(&mut self, session: SessionId, forgotten: bool) {
        self.sessions.remove(&session);
        if forgotten {
            self.windows.forget(session);
        }
    }

    /// The lead confirmed a number that this member had forgotten (trap 57).
    pub fn number_confirmed(&mut self, key: LeaseKey, number: LeaseNumber) {
        self.numbers.raise(key, number);
    }

    /// Every grant before this epoch's was reclaimed or is dead; kept durably by the driver.
    pub fn note_graced(&mut self, epoch: Epoch) {
        self.graced = self.graced.max(epoch);
    }

    pub fn graced(&self) -> Epoch {
        self.graced
    }

    /// The lead pauses changes for a joiner. No change is done without the lead's answer, so
    /// what it holds back is acknowledged to nobody. False if not the lead in that epoch, while
    /// marks are being set or cleared (the hand-over would name the old ones for ever), and
    /// while a stale copy of its own can be healed: what the joiner takes from it must be good.
    pub fn pause(&mut self, now: Tick, epoch: Epoch, length: Nanos) -> bool {
        let leads = self.is_lead() && epoch == self.epoch() && !self.failed;
        let ok = leads && self.marking == 0 && !self.heals_itself();
        if ok {
            self.pause = Some(now.after(length.min(JOIN_PAUSE)));
        }
        ok
    }

    /// A copy of this brick's own is stale, and another in-sync member has a good one.
    fn heals_itself(&self) -> bool {
        let Some(map) = &self.map else { return false };
        let good = |gfid| map.in_sync().any(|m| !self.stale.is_stale(m.brick, gfid));
        self.stale.iter().any(|(brick, gfid)| brick == self.brick && good(gfid))
    }

    /// The lead is about to have these marks set on all members, or others cleared. False in a
    /// joiner's pause (the joiner has its list of marks already), and when no good copy would be
    /// left: what is marked now is healed first. Asked again afterwards.
    pub fn begin_marking(&mut self, marks: &[(BrickId, Gfid)]) -> bool {
        let members: Vec<BrickId> =
            self.map.iter().flat_map(|m| m.in_sync()).map(|m| m.brick).collect();
        let mut after = self.stale.clone();
        let left = marks.iter().all(|(brick, gfid)| {
            let left = !after.would_leave_none(*brick, *gfid, &members);
            after.mark(*brick, *gfid);
            left
        });
        let ok = self.pause.is_none() && left;
        self.marking += usize::from(ok);
        ok
    }

    /// Lead's side: the marks of all inodes whose copy is stale here, with each list for a joiner.
    pub fn marks_of_own(&self) -> BTreeSet<(BrickId, Gfid)> {
        let own = |gfid: &Gfid| self.stale.is_stale(self.brick, *gfid);
        self.stale.iter().filter(|(_, gfid)| own(gfid)).collect()
    }

    /// Joiner's side: of the inodes whose copy is stale at `lead`, by the marks that came with its
    /// list, those of which it keeps its own copy. It was in-sync, with a good one, when one of
    /// those marks was made; the others followed from that one (`marks_for`). Not if it is among
    /// them itself: then it took its copy from a stale one already.
    pub fn keeps(&self, lead: BrickId, marks: &BTreeSet<(BrickId, Gfid)>) -> BTreeSet<Gfid> {
        let knows = |g: &Gfid| marks.iter().any(|(b, m)| m == g && self.stale.is_stale(*b, *g));
        let own = |g: &Gfid| (self.brick, *g);
        let good = |g: &Gfid| !self.stale.is_stale(self.brick, *g) && !marks.contains(&own(g));
        let stale = marks.iter().filter(|(brick, _)| *brick == lead).map(|(_, gfid)| *gfid);
        stale.filter(|g| knows(g) && good(g)).collect()
    }

    /// Lead's side: marks that all members note before it pauses for `joiner`, which keeps its
    /// own copies of `kept` and no others: what it took from a stale copy is stale, too.
    pub fn marks_for(&self, joiner: BrickId, kept: &BTreeSet<Gfid>) -> Vec<(BrickId, Gfid)> {
        let mine = self.stale.iter().filter(|(brick, _)| *brick == self.brick);
        let gfids = mine.map(|(_, gfid)| gfid);
        let missing = |g: &Gfid| !kept.contains(g) && !self.stale.is_stale(joiner, *g);
        gfids.filter(missing).map(|gfid| (joiner, gfid)).collect()
    }

    /// Marks of a round that a new epoch of the same lead cut off: which of them are dropped
    /// again, on all members. Nobody was told of them, and no good copy would be left.
    pub fn unfinished(&self, marks: &[(BrickId, Gfid)]) -> Vec<(BrickId, Gfid)> {
        let members: Vec<BrickId> =
            self.map.iter().flat_map(|m| m.in_sync()).map(|m| m.brick).collect();
        let none =
            |(brick, gfid): &&(BrickId, Gfid)| self.stale.would_leave_none(*brick, *gfid, &members);
        marks.iter().filter(none).copied().collect()
    }

    /// All members have noted what `begin_marking` was about. (A new epoch ends all rounds.)
    pub fn end_marking(&mut self) {
        self.marking = self.marking.saturating_sub(1);
    }

    /// Whether the lead may end leases by time now (`LeaseTable::tick`). Not while it lacks a
    /// promise: it renews nobody then, and would take everybody for dead. Not in a joiner's
    /// pause: the joiner has its sessions and numbers already, and would go on serving what
    /// the others have ended and settled without it.
    pub fn may_revoke(&self, now: Tick) -> bool {
        self.is_lead() && !self.failed && now < self.serve_until && self.pause.is_none()
    }

    /// Paused, and nothing is being executed: the rest can be shipped.
    pub fn quiet(&self) -> bool {
        self.pause.is_some() && !self.windows.running(None, None)
    }

    /// The join was withdrawn by the joiner's word. (A new epoch ends the pause by itself.)
    pub fn resume(&mut self) -> Vec<MemberCommand> {
        self.held = 0;
        match self.pause.take() {
            Some(_) => vec![MemberCommand::Readmit],
            None => Vec::new(),
        }
    }

    /// Time passes: a pause over its length is to be withdrawn. Said at each call until then.
    pub fn tick(&self, now: Tick) -> Option<MemberCommand> {
        self.pause.filter(|until| now >= *until).map(|_| MemberCommand::WithdrawJoin)
    }

    /// An I/O, fsync or metadata error of this brick's own disk. Success elsewhere is never
    /// overruled by it (trap 6): the request is not answered, and nothing is from now on.
    pub fn own_error(&mut self, gfid: Option<Gfid>) -> OwnError {
        if self.lone() {
            if let Some(gfid) = gfid
                && self.poisoned.len() < POISONED_MAX
            {
                self.poisoned.insert(gfid);
            }
            return OwnError::Sole;
        }
        self.failed = true;
        OwnError::Leave
    }

    /// Rewritten or healed: the inode answers again.
    pub fn cured(&mut self, gfid: Gfid) {
        self.poisoned.remove(&gfid);
    }

    pub fn failed(&self) -> bool {
        self.failed
    }
}

fn lead_of(map: &SetMap) -> Option<(BrickId, Incarnation)> {
    map.member(map.lead?).map(|m| (m.brick, m.incarnation))
}

#[cfg(test)]
#[path = "../member_test.rs"]
mod tests;
