//! How leases end by time: renewals, overdue recalls, revokes, dead and forgotten sessions.

use proto::{Refusal, SessionId};

use super::{LeaseCommand, LeaseKey, LeaseTable, Mode, Session, SessionState, SettleScope};
use crate::time::{
    LEASE_TERM, MS, Nanos, RECALL_OVERDUE, RECALL_PROGRESS, RENEW_EVERY, SESSION_FORGET, Tick,
    given,
};

/// A longer time between two looks at the table is no silence of the sessions: nobody listened.
const LOOK_MAX: Nanos = RENEW_EVERY / 2;

/// What a session learns from its renewal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RenewAnswer {
    /// Counted by the client from sending the renewal.
    pub term: Nanos,
    /// Not renewed: recalled too long ago, or revoked already.
    pub overdue: Vec<LeaseKey>,
}

/// The term that a lead may give now: never beyond the promises that it holds, by the client's
/// clock, so that all its leases have run out when the next epoch can begin (trap 23).
pub fn term(now: Tick, serve_until: Tick) -> Nanos {
    let rest = serve_until.since(now);
    LEASE_TERM.min(rest - rest / 20)
}

impl LeaseTable {
    /// Renews everything that the session holds, except leases whose recall is overdue.
    /// `term` as of `term(now, serve_until)`; `progress`: recalled leases whose data the
    /// holder is writing back just now.
    ///
    /// # Errors
    /// `UnknownSession`: its leases are gone, it says HELLO again. `NotServing`: no term.
    pub fn renew(
        &mut self,
        now: Tick,
        session: SessionId,
        term: Nanos,
        progress: &[LeaseKey],
    ) -> Result<RenewAnswer, Refusal> {
        let known = self.sessions.get(&session).ok_or(Refusal::UnknownSession)?;
        if known.state != SessionState::Alive {
            return Err(Refusal::UnknownSession);
        }
        if term == 0 {
            return Err(Refusal::NotServing);
        }
        let last_until = known.renewed_until;
        let mut overdue: Vec<LeaseKey> = known.revoked.keys().copied().collect();
        let recalled: Vec<LeaseKey> =
            self.recalled.iter().filter(|(_, s)| *s == session).map(|(k, _)| *k).collect();
        for key in recalled {
            let Some(holder) = self.keys.get_mut(&key).and_then(|k| k.holders.get_mut(&session))
            else {
                continue;
            };
            let granted_until = holder.granted_at.after(given(LEASE_TERM));
            let Some(recalled) = &mut holder.recalled else { continue };
            recalled.progress = progress.contains(&key);
            if recalled.overdue(now) {
                recalled.frozen_until.get_or_insert(last_until.max(granted_until));
            }
            if recalled.frozen_until.is_some() {
                overdue.push(key);
            }
        }
        self.heard(now, session, term);
        Ok(RenewAnswer { term, overdue })
    }

    /// Time passes: revokes what ran out, declares sessions dead, forgets them, and lets
    /// deferred askers on. Called at least each 100 ms, but only while `Member::may_revoke`.
    pub fn tick(&mut self, now: Tick) -> Vec<LeaseCommand> {
        let mut commands = Vec::new();
        self.listen(now);
        self.forget_recalls(now);
        self.forget_contended(now);
        self.end_grace_if_due(now, &mut commands);
        let due: Vec<LeaseKey> =
            self.deferred.iter().filter(|(_, at)| **at <= now).map(|(k, _)| *k).collect();
        for key in due {
            self.deferred.remove(&key);
            self.pump(now, key, &mut commands);
        }
        if !self.serving() {
            return commands;
        }
        for (session, next) in self.ended_sessions(now) {
            match next {
                SessionState::Dying => self.die(now, session, &mut commands),
                _ => {
                    let unpinned = self.unpin_all(session);
                    self.sessions.remove(&session);
                    commands.push(LeaseCommand::Forget { session, unpinned });
                }
            }
        }
        let expired: Vec<(LeaseKey, SessionId)> =
            self.recalled.iter().copied().filter(|(k, s)| self.ran_out(now, *k, *s)).collect();
        for (key, session) in expired {
            self.revoke(now, session, key, &mut commands);
        }
        commands
    }

    /// Silence counts only while the lead could hear. After a time in which it could not (it
    /// was stopped, or lacked a promise and renewed nobody), living sessions get the time for
    /// two renewals before they are taken for dead.
    fn listen(&mut self, now: Tick) {
        let looked = self.looked.replace(now);
        if looked.is_none_or(|at| now.since(at) <= LOOK_MAX) {
            return;
        }
        let until = now.after(given(2 * RENEW_EVERY));
        for session in self.sessions.values_mut().filter(|s| s.state == SessionState::Alive) {
            session.renewed_until = session.renewed_until.max(until);
        }
    }

    /// When `tick` has something to do next, as far as is known now.
    pub fn next_wake(&self) -> Option<Tick> {
        let recalls = self.recalled.iter().filter_map(|(key, session)| {
            let holder = self.holder(*session, *key)?;
            let recalled = holder.recalled?;
            let until = recalled.frozen_until.unwrap_or_else(|| {
                let session = self.sessions.get(session).map_or(Tick::ZERO, |s| s.renewed_until);
                session.max(holder.granted_at.after(given(LEASE_TERM)))
            });
            Some(until.max(recalled.overdue_at()))
        });
        let sessions = self.sessions.iter().filter_map(|(id, s)| match s.state {
            SessionState::Alive => Some(self.leased_until(id, s)),
            SessionState::Dead => Some(s.heard.after(SESSION_FORGET)),
            SessionState::Dying => None,
        });
        let deferred = self.deferred.values().copied();
        let next = recalls.chain(sessions).chain(deferred).chain(self.grace_end());
        // Just after the end: a lease runs out when its time has passed.
        next.min().map(|at| at.after(MS))
    }

    fn ran_out(&self, now: Tick, key: LeaseKey, session: SessionId) -> bool {
        let Some(holder) = self.holder(session, key) else { return false };
        let Some(recalled) = holder.recalled else { return false };
        let renewed = self.sessions.get(&session).map_or(Tick::ZERO, |s| s.renewed_until);
        let until = recalled
            .frozen_until
            .unwrap_or_else(|| renewed.max(holder.granted_at.after(given(LEASE_TERM))));
        // Without a freeze its renewals still count: it is overdue and silent only when both
        // have passed (trap 22).
        recalled.overdue(now) && now > until
    }

    /// Ends one lease of a living session, never the session.
    fn revoke(
        &mut self,
        now: Tick,
        session: SessionId,
        key: LeaseKey,
        commands: &mut Vec<LeaseCommand>,
    ) {
        self.recalled.remove(&(key, session));
        self.drop_key_of(session, key);
        // It did not say whether it has the inode open: assume so until it does.
        if let LeaseKey::Inode(gfid) = key {
            self.pin(session, gfid);
        }
        let number = self.next_number(key);
        let Some(entry) = self.keys.get_mut(&key) else { return };
        let Some(holder) = entry.holders.remove(&session) else { return };
        if let Some(known) = self.sessions.get_mut(&session) {
            known.revoked.insert(key, holder.number);
        }
        if holder.mode == Mode::Exclusive {
            entry.settling += 1;
            let scope = SettleScope { session, key: Some(key) };
            commands.push(LeaseCommand::Settle { scope, raise: vec![(key, number)] });
        }
        self.pump(now, key, commands);
    }

    /// When everything has run out that the session may believe to hold: what was granted
    /// after the last renewal runs from its grant.
    fn leased_until(&self, id: &SessionId, session: &Session) -> Tick {
        let held = session.keys.iter().filter_map(|key| self.holder(*id, *key));
        let granted = held.map(|h| h.granted_at.after(given(LEASE_TERM)));
        granted.fold(session.renewed_until, Tick::max)
    }

    fn ended_sessions(&self, now: Tick) -> Vec<(SessionId, SessionState)> {
        let ended = |id: &SessionId, s: &Session| match s.state {
            SessionState::Alive if now > self.leased_until(id, s) => Some(SessionState::Dying),
            SessionState::Dead if now.since(s.heard) > SESSION_FORGET => Some(SessionState::Dead),
            _ => None,
        };
        self.sessions.iter().filter_map(|(id, s)| ended(id, s).map(|next| (*id, next))).collect()
    }

    /// The session missed all renewals of a term: its leases end and are settled as a whole.
    fn die(&mut self, now: Tick, session: SessionId, commands: &mut Vec<LeaseCommand>) {
        let Some(known) = self.sessions.get_mut(&session) else { return };
        known.state = SessionState::Dying;
        let keys = std::mem::take(&mut known.keys);
        let mut raise = Vec::new();
        let mut dying = Vec::new();
        // A lease of it that was revoked is being settled still: the settle of the session copies
        // the same changes, and must not go on after somebody else has the key.
        for key in known.revoked.keys() {
            if let Some(entry) = self.keys.get_mut(key).filter(|entry| entry.settling > 0) {
                entry.settling += 1;
                dying.push(*key);
            }
        }
        for key in keys {
            self.recalled.remove(&(key, session));
            let number = self.next_number(key);
            let Some(entry) = self.keys.get_mut(&key) else { continue };
            if let Some(holder) = entry.holders.remove(&session) {
                if holder.mode == Mode::Exclusive {
                    raise.push((key, number));
                }
                // Shared ones wait too: their askers go on with the same event.
                entry.settling += 1;
                dying.push(key);
            }
        }
        if let Some(known) = self.sessions.get_mut(&session) {
            known.dying = dying;
        }
        let scope = SettleScope { session, key: None };
        commands.push(LeaseCommand::Settle { scope, raise });
        let asks = self.waiting.range((session, 0)..=(session, u64::MAX)).map(|(a, _)| a.1);
        for id in asks.collect::<Vec<u64>>() {
            if let Some(key) = self.unqueue(session, id) {
                self.pump(now, key, commands);
            }
        }
    }
}

impl super::Recalled {
    fn overdue_at(&self) -> Tick {
        self.at.after(if self.progress { RECALL_PROGRESS } else { RECALL_OVERDUE })
    }

    fn overdue(&self, now: Tick) -> bool {
        now >= self.overdue_at()
    }
}
