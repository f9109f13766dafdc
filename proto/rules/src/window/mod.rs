//! Change windows: exactly-once execution of a session's changes, and the memory of what is
//! not settled yet. The member's side is here, the client's in `sequencer` and `conflict`.
//!
//! A session numbers its changes of one set from 1 on, the same on every member. Each request
//! carries the *settled mark*: every in-sync member has answered all changes up to it. What is
//! above the mark is remembered with what it touches and its stored reply.
//!
//! Assumes: a client has at most `WINDOW_MAX` changes above its mark, and never two that
//! conflict in flight.
//!
//! Promises: a change is executed at most once as long as the window lives; a number at or
//! below the mark is dead; the unsettled list is complete.
//!
//! Deliberately does not: survive a restart. A restarted member is syncing and takes windows
//! over with its join; until then re-sent changes are recognised by state in the store.

pub mod conflict;
pub mod sequencer;

use std::collections::BTreeMap;

use proto::fop::Touch;
use proto::{Gfid, LeaseNumber, Seq, SessionId};

use crate::plant::{Plant, planted};

/// Changes of one session above its settled mark on one set.
pub const WINDOW_MAX: usize = 1024;

/// What a member should do with a change that arrives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Arrival<R> {
    /// Execute it: `begin` has noted it.
    New,
    /// Executed before: this is its reply. Log its touches again in the current interval,
    /// then send the reply (trap 51).
    Replay(R),
    /// The same change is being executed; its reply will go to the session.
    Running,
    /// At or below the settled mark: a late duplicate, dead.
    Stale,
    /// The client exceeds its bound.
    Full,
}

/// One change above the settled mark.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry<R> {
    pub touches: Vec<Touch>,
    /// The greatest lease number under which it was made.
    pub number: LeaseNumber,
    /// `None` while it is being executed.
    pub reply: Option<R>,
    /// The lead executed it for the session: only it can be asked about it again, and the next
    /// one must know the answer, for done again it is not the same (trap 60).
    pub by_lead: bool,
}

/// An unsettled change, as told to the lead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsettled {
    pub session: SessionId,
    pub seq: Seq,
    pub touches: Vec<Touch>,
    pub by_lead: bool,
}

/// One session's window on its way to a joiner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionWindow<R> {
    pub session: SessionId,
    pub mark: Seq,
    pub entries: Vec<(Seq, Entry<R>)>,
}

/// One session's window at one member.
#[derive(Clone, Debug)]
pub struct Window<R> {
    mark: Seq,
    entries: BTreeMap<Seq, Entry<R>>,
}

/// All sessions' windows at one member of one set.
#[derive(Clone, Debug)]
pub struct Windows<R> {
    sessions: BTreeMap<SessionId, Window<R>>,
}

impl<R> Default for Windows<R> {
    fn default() -> Self {
        Self { sessions: BTreeMap::new() }
    }
}

impl<R> Default for Window<R> {
    fn default() -> Self {
        Self { mark: Seq(0), entries: BTreeMap::new() }
    }
}

impl<R: Clone> Windows<R> {
    /// A session's settled mark, from any request or heartbeat. Marks only rise.
    pub fn set_mark(&mut self, session: SessionId, mark: Seq) {
        self.sessions.entry(session).or_default().set_mark(mark);
    }

    pub fn mark(&self, session: SessionId) -> Seq {
        self.sessions.get(&session).map_or(Seq(0), |w| w.mark)
    }

    /// What to do with change `seq`; changes nothing.
    pub fn look(&self, session: SessionId, seq: Seq) -> Arrival<R> {
        self.sessions.get(&session).map_or(Arrival::New, |w| w.look(seq))
    }

    /// Notes a new change as being executed.
    pub fn begin(
        &mut self,
        session: SessionId,
        seq: Seq,
        touches: Vec<Touch>,
        number: LeaseNumber,
    ) {
        let window = self.sessions.entry(session).or_default();
        window.entries.insert(seq, Entry { touches, number, reply: None, by_lead: false });
    }

    /// The lead executes this change for the session.
    pub fn note_by_lead(&mut self, session: SessionId, seq: Seq) {
        let window = self.sessions.get_mut(&session);
        if let Some(entry) = window.and_then(|w| w.entries.get_mut(&seq)) {
            entry.by_lead = true;
        }
    }

    pub fn entry(&self, session: SessionId, seq: Seq) -> Option<&Entry<R>> {
        self.sessions.get(&session)?.entries.get(&seq)
    }

    /// Takes over a change with its reply from the member whose copy was settled on: a re-send
    /// is answered by it here, too.
    pub fn take_over(&mut self, session: SessionId, seq: Seq, entry: Entry<R>) {
        let window = self.sessions.entry(session).or_default();
        let running = window.entries.get(&seq).is_some_and(|e| e.reply.is_none());
        if seq > window.mark && !running {
            window.entries.insert(seq, entry);
        }
    }

    /// Stores the reply of a change that `begin` noted.
    pub fn finish(&mut self, session: SessionId, seq: Seq, reply: R) {
        let window = self.sessions.get_mut(&session);
        if let Some(entry) = window.and_then(|w| w.entries.get_mut(&seq)) {
            entry.reply = Some(reply);
        }
    }

    /// Forgets a change that was begun and not executed at all (refused by the store before
    /// anything changed, or the brick failed): its re-send is new.
    pub fn cancel(&mut self, session: SessionId, seq: Seq) {
        if let Some(window) = self.sessions.get_mut(&session)
            && window.entries.get(&seq).is_some_and(|e| e.reply.is_none())
        {
            window.entries.remove(&seq);
        }
    }

    pub fn touches(&self, session: SessionId, seq: Seq) -> &[Touch] {
        let entry = self.sessions.get(&session).and_then(|w| w.entries.get(&seq));
        entry.map_or(&[], |e| &e.touches)
    }

    /// Everything above the marks, of one session or all, of one inode or all.
    pub fn unsettled(&self, session: Option<SessionId>, gfid: Option<Gfid>) -> Vec<Unsettled> {
        let sessions = self.sessions.iter().filter(|(s, _)| session.is_none_or(|x| x == **s));
        sessions
            .flat_map(|(session, window)| {
                window.entries.iter().map(|(seq, entry)| Unsettled {
                    session: *session,
                    seq: *seq,
                    touches: entry.touches.clone(),
                    by_lead: entry.by_lead,
                })
            })
            .filter(|u| gfid.is_none_or(|g| u.touches.iter().any(|t| t.gfid() == g)))
            .collect()
    }

    /// What the replies above the marks mean, of one session or all, for `MemberList::replies`.
    pub fn replies(
        &self,
        session: Option<SessionId>,
        digest: impl Fn(&R) -> u64,
    ) -> Vec<((SessionId, Seq), u64)> {
        let sessions = self.sessions.iter().filter(|(s, _)| session.is_none_or(|x| x == **s));
        let entries = sessions.flat_map(|(s, w)| w.entries.iter().map(|(seq, e)| ((*s, *seq), e)));
        entries.filter_map(|(key, e)| e.reply.as_ref().map(|r| (key, digest(r)))).collect()
    }

    /// Every session's settled mark, for the lead that merges the lists.
    pub fn marks(&self) -> Vec<(SessionId, Seq)> {
        self.sessions.iter().map(|(s, w)| (*s, w.mark)).collect()
    }

    /// Drops entries that the lead has settled. Only finished ones: what is still being
    /// executed here must not be taken for settled.
    pub fn clear(&mut self, settled: &[(SessionId, Seq)]) {
        for (session, seq) in settled {
            if let Some(window) = self.sessions.get_mut(session)
                && window.entries.get(seq).is_some_and(|e| e.reply.is_some())
            {
                window.entries.remove(seq);
            }
        }
    }

    /// True while a change of the session (of that inode, if given) is being executed here;
    /// a list collected now would not be final.
    pub fn running(&self, session: Option<SessionId>, gfid: Option<Gfid>) -> bool {
        self.sessions.iter().filter(|(s, _)| session.is_none_or(|x| x == **s)).any(|(_, w)| {
            w.entries.values().any(|e| {
                let about = gfid.is_none_or(|g| e.touches.iter().any(|t| t.gfid() == g));
                e.reply.is_none() && about
            })
        })
    }

    /// True while this brick executes a change as the lead, or for it.
    pub fn runs_by_lead(&self, session: SessionId) -> bool {
        let window = self.sessions.get(&session);
        window.is_some_and(|w| w.entries.values().any(|e| e.by_lead && e.reply.is_none()))
    }

    /// A session is gone for good (settled and forgotten by the lead).
    pub fn forget(&mut self, session: SessionId) {
        self.sessions.remove(&session);
    }

    pub fn sessions(&self) -> impl Iterator<Item = SessionId> {
        self.sessions.keys().copied()
    }

    /// For a joiner's hand-over: all sessions with marks and finished entries.
    pub fn export(&self) -> Vec<SessionWindow<R>> {
        let window = |(session, w): (&SessionId, &Window<R>)| SessionWindow {
            session: *session,
            mark: w.mark,
            entries: w.entries.iter().map(|(s, e)| (*s, e.clone())).collect(),
        };
        self.sessions.iter().map(window).collect()
    }

    /// Joiner's side of `export`.
    pub fn import(&mut self, from: SessionWindow<R>) {
        let window = self.sessions.entry(from.session).or_default();
        window.entries.extend(from.entries);
        window.set_mark(from.mark);
    }
}

impl<R: Clone> Window<R> {
    fn set_mark(&mut self, mark: Seq) {
        if mark > self.mark {
            self.mark = mark;
            self.entries = self.entries.split_off(&Seq(mark.0.saturating_add(1)));
        }
    }

    fn look(&self, seq: Seq) -> Arrival<R> {
        if seq <= self.mark {
            return Arrival::Stale;
        }
        match self.entries.get(&seq) {
            Some(Entry { reply: Some(_), .. }) if planted(Plant::NoReplay) => Arrival::New,
            Some(Entry { reply: Some(reply), .. }) => Arrival::Replay(reply.clone()),
            Some(_) => Arrival::Running,
            None if seq.0 - self.mark.0 > WINDOW_MAX as u64 => Arrival::Full,
            None => Arrival::New,
        }
    }
}

#[cfg(test)]
#[path = "../window_test.rs"]
mod tests;
