//! The lead's lease table: who holds what, who waits, whom to recall.
//!
//! Assumes: one table per set, at its lead; `settled` and `graced` are called when every
//! in-sync member has answered; each ask's id is unique within its session.
//!
//! Promises: one exclusive holder or many shared ones; askers are served in order; a lease
//! that ends by anything but its holder's return is settled before the key is granted again;
//! whatever is granted is numbered higher than anything granted of that key before.
//!
//! Deliberately does not: renew beyond what it is told (`term`), or decide which leases an
//! operation needs (the driver asks key by key, in (gfid, set) order).

mod contended;
mod grace;
mod pins;
mod terms;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use proto::{Epoch, Gfid, LeaseNumber, Refusal, SessionId, SlotId};

use super::{Lease, LeaseKey, Mode};
use crate::time::{CONTENDED_HOLD, CONTENDED_WITHIN, LEASE_TERM, Nanos, Tick, given};

pub use grace::{Reclaim, Reclaimed, ReclaimedLease};
pub use terms::{RenewAnswer, term};

/// Askers waiting for one key; more are told to come again.
const QUEUE_MAX: usize = 1024;
/// Sessions known to one lead.
const SESSIONS_MAX: usize = 65_536;

/// A wish for a lease, along with a request or by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    pub session: SessionId,
    /// Names the request that waits for the answer.
    pub id: u64,
    pub key: LeaseKey,
    /// `None`: nothing is granted; the answer comes when nobody else holds the key.
    pub mode: Mode,
    pub how: How,
}

/// What an ask does when others stand in its way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum How {
    /// Recalls them, and waits.
    #[default]
    Waits,
    /// At once or not at all; never recalls anybody.
    IfFree,
    /// As `Waits`; of a contended key it would rather have its change executed by the lead.
    Yields,
    /// The lead's own, to execute one change of the session: see `ask_turn`.
    Turn,
    /// As `Turn`, and never beside the session's own exclusive lease: see `ask_turn_alone`.
    TurnAlone,
}

/// A lease that ended without its holder's return, and what must be settled before it is
/// granted again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SettleScope {
    pub session: SessionId,
    /// One revoked lease; `None`: everything of a dead session.
    pub key: Option<LeaseKey>,
}

/// What the lead's driver does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaseCommand {
    /// Answer the ask. `pinned`: other sessions have the inode open. `fresh`: the session did
    /// not hold this very lease before.
    Grant {
        session: SessionId,
        ask: u64,
        lease: Lease,
        pinned: bool,
        fresh: bool,
    },
    Refuse {
        session: SessionId,
        ask: u64,
        refusal: Refusal,
    },
    /// The lead may execute the change that asked, under this number; then `end_turn`.
    Turn {
        session: SessionId,
        ask: u64,
        lease: Lease,
    },
    /// Push to the holder: give it back, or down to `keep`.
    Recall {
        session: SessionId,
        lease: Lease,
        keep: Mode,
    },
    /// Tell these numbers to every in-sync member, settle what they hold unsettled of the
    /// scope, then call `settled(scope)`.
    Settle {
        scope: SettleScope,
        raise: Vec<(LeaseKey, LeaseNumber)>,
    },
    /// Have every in-sync member note durably that this epoch's grace has ended, then call
    /// `graced(epoch)`. Nothing is granted before.
    NoteGraced {
        epoch: Epoch,
    },
    /// The session is gone for good: members drop its window, these orphans may go.
    Forget {
        session: SessionId,
        unpinned: Vec<Gfid>,
    },
}

#[derive(Clone, Copy, Debug)]
struct Recalled {
    at: Tick,
    /// Set when a renewal leaves this lease out: when its last renewal runs out.
    frozen_until: Option<Tick>,
    /// The holder reports that it is writing back.
    progress: bool,
}

#[derive(Clone, Copy, Debug)]
struct Holder {
    mode: Mode,
    number: LeaseNumber,
    granted_at: Tick,
    recalled: Option<Recalled>,
    /// The shared lease, with the time of its grant, of which this one is the upgrade.
    shared: Option<(LeaseNumber, Tick)>,
}

#[derive(Clone, Debug, Default)]
struct Key {
    holders: BTreeMap<SessionId, Holder>,
    queue: VecDeque<Ask>,
    /// Settles under way; the key is granted to nobody meanwhile.
    settling: u32,
    last_recall: Option<Tick>,
    /// A change is being executed by the lead: the key is granted to nobody meanwhile.
    turn: Option<contended::Turn>,
}

#[derive(Clone, Debug, Default)]
struct Session {
    renewed_until: Tick,
    heard: Tick,
    keys: BTreeSet<LeaseKey>,
    /// Revoked and not yet returned, with the highest such number: named in every renewal, so
    /// that a grant which arrives late, or a lapsed lease, is not revived by one.
    revoked: BTreeMap<LeaseKey, LeaseNumber>,
    state: SessionState,
    /// Keys whose settling waits for this session's death to be settled.
    dying: Vec<LeaseKey>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum SessionState {
    #[default]
    Alive,
    Dying,
    /// Its leases are gone; its pins stay until it is forgotten.
    Dead,
}

#[derive(Clone, Debug)]
enum Phase {
    /// The unsettled changes of all sessions are being settled.
    Settling {
        awaiting: BTreeSet<SessionId>,
    },
    Grace {
        until: Tick,
        /// It ends no earlier, whoever has reclaimed.
        at_least: Tick,
        awaiting: BTreeSet<SessionId>,
    },
    /// Members are noting that the grace has ended.
    Noting,
    Serving,
}

/// The lead's memory of leases and open-file pins of one set.
#[derive(Clone, Debug)]
pub struct LeaseTable {
    epoch: Epoch,
    counter: u64,
    flips: BTreeMap<SlotId, u64>,
    phase: Phase,
    last_graced: Epoch,
    /// Until when leases of earlier leads may run.
    earlier_until: Tick,
    keys: BTreeMap<LeaseKey, Key>,
    sessions: BTreeMap<SessionId, Session>,
    pins: BTreeMap<Gfid, BTreeSet<SessionId>>,
    recalled: BTreeSet<(LeaseKey, SessionId)>,
    deferred: BTreeMap<LeaseKey, Tick>,
    waiting: BTreeMap<(SessionId, u64), LeaseKey>,
    /// Keys with a recall within `CONTENDED_WITHIN`, oldest first.
    recent: VecDeque<(Tick, LeaseKey)>,
    contended: BTreeMap<LeaseKey, contended::Contention>,
    /// The last `tick`.
    looked: Option<Tick>,
}

impl LeaseTable {
    /// A new epoch under the same lead: everything stays, new numbers start from it. The
    /// driver has every member note it as graced before the next grant may matter.
    pub fn on_epoch(&mut self, epoch: Epoch) {
        if epoch > self.epoch {
            self.epoch = epoch;
        }
    }

    /// A slot came to this set at that log index: its keys' numbers start there (trap 58).
    pub fn slot_flipped(&mut self, slot: SlotId, index: u64) {
        self.flips.insert(slot, index);
    }

    /// A session said hello (again) with a valid ticket.
    ///
    /// # Errors
    /// `Busy` while its death is being settled, or with too many sessions.
    pub fn hello(&mut self, now: Tick, session: SessionId) -> Result<(), Refusal> {
        let full = self.sessions.len() >= SESSIONS_MAX;
        match self.sessions.get_mut(&session) {
            Some(known) if known.state == SessionState::Dying => return Err(Refusal::Busy),
            Some(known) if known.state == SessionState::Dead => {
                known.state = SessionState::Alive;
                known.revoked.clear();
            }
            Some(_) => {}
            None if full => return Err(Refusal::Busy),
            None => {
                self.sessions.insert(session, Session::default());
            }
        }
        self.heard(now, session, LEASE_TERM);
        Ok(())
    }

    /// Whether members may serve this session (trap 15: only those named by the lead).
    pub fn knows(&self, session: SessionId) -> bool {
        self.sessions.get(&session).is_some_and(|s| s.state == SessionState::Alive)
    }

    pub fn serving(&self) -> bool {
        matches!(self.phase, Phase::Serving)
    }

    /// A lease or a session has ended, and the members are being made equal: no joiner may take
    /// over the lead's state before that is done everywhere.
    pub fn settling(&self) -> bool {
        let dying = |s: &Session| s.state == SessionState::Dying;
        self.keys.values().any(|k| k.settling > 0) || self.sessions.values().any(dying)
    }

    /// Asks for a lease. The answer may come with a later event.
    pub fn ask(&mut self, now: Tick, ask: Ask) -> Vec<LeaseCommand> {
        let refuse =
            |refusal| vec![LeaseCommand::Refuse { session: ask.session, ask: ask.id, refusal }];
        if !self.serving() {
            return refuse(Refusal::Grace);
        }
        let Some(session) = self.sessions.get(&ask.session) else {
            return refuse(Refusal::UnknownSession);
        };
        if session.state != SessionState::Alive {
            return refuse(Refusal::UnknownSession);
        }
        self.foreign(now, &ask);
        if self.yields(now, &ask) {
            return refuse(Refusal::Contended);
        }
        if self.own_in_the_way(&ask) {
            return refuse(Refusal::LeaseNeeded);
        }
        let key = self.keys.entry(ask.key).or_default();
        if key.queue.len() >= QUEUE_MAX || (ask.how == How::IfFree && !key.at_once(&ask)) {
            self.tidy(ask.key);
            return refuse(Refusal::Busy);
        }
        key.queue.push_back(ask);
        self.waiting.insert((ask.session, ask.id), ask.key);
        let mut commands = Vec::new();
        self.pump(now, ask.key, &mut commands);
        commands
    }

    /// The asker gave up (timeout, connection gone). A grant already sent stays.
    pub fn cancel(&mut self, now: Tick, session: SessionId, id: u64) -> Vec<LeaseCommand> {
        let mut commands = Vec::new();
        self.unqueue(session, id).into_iter().for_each(|key| self.pump(now, key, &mut commands));
        commands
    }

    fn unqueue(&mut self, session: SessionId, id: u64) -> Option<LeaseKey> {
        let key = self.waiting.remove(&(session, id))?;
        let entry = self.keys.get_mut(&key)?;
        entry.queue.retain(|a| (a.session, a.id) != (session, id));
        Some(key)
    }

    /// The holder gave a lease back, or down to `Shared`. `open`: it has the inode open.
    pub fn on_return(
        &mut self,
        now: Tick,
        session: SessionId,
        returned: Lease,
        keep: Mode,
        open: bool,
    ) -> Vec<LeaseCommand> {
        let mut commands = Vec::new();
        if let Some(known) = self.sessions.get_mut(&session) {
            // Nothing of a revoked lease can be kept: it is named until it is given back whole.
            // An older return, still on its way, does not say that it knows of this one.
            let number = known.revoked.get(&returned.key);
            if keep == Mode::None && number.is_some_and(|n| *n <= returned.number) {
                known.revoked.remove(&returned.key);
            }
        }
        if open && self.sessions.contains_key(&session) {
            self.pin(session, returned.key.gfid());
        }
        let Some(key) = self.keys.get_mut(&returned.key) else { return commands };
        // A return overtaken by a later grant names an older number.
        let Some(holder) = key.holders.get_mut(&session) else { return commands };
        if holder.number != returned.number {
            return commands;
        }
        if keep == Mode::Shared && holder.mode == Mode::Exclusive {
            holder.mode = Mode::Shared;
            holder.recalled = None;
        } else if keep == Mode::None {
            key.holders.remove(&session);
            self.drop_key_of(session, returned.key);
        } else {
            return commands;
        }
        self.recalled.remove(&(returned.key, session));
        self.pump(now, returned.key, &mut commands);
        commands
    }

    /// A fresh grant is not delivered after all: the session is left with what it knows of, a
    /// shared lease or nothing. Only for leases that no answer has named yet: kept while its
    /// request waits for something else, one could not be given back by its holder, who has
    /// not heard of it (trap 26).
    pub fn take_back(&mut self, now: Tick, session: SessionId, lease: Lease) -> Vec<LeaseCommand> {
        let mut commands = Vec::new();
        let Some(key) = self.keys.get_mut(&lease.key) else { return commands };
        let Some(holder) = key.holders.get_mut(&session) else { return commands };
        if holder.number != lease.number {
            return commands;
        }
        if let Some((number, granted_at)) = holder.shared.take() {
            *holder =
                Holder { mode: Mode::Shared, number, granted_at, recalled: None, shared: None };
        } else {
            key.holders.remove(&session);
            self.drop_key_of(session, lease.key);
        }
        self.recalled.remove(&(lease.key, session));
        self.pump(now, lease.key, &mut commands);
        commands
    }

    /// A change under the part's lease created an inode: its creator holds it exclusively
    /// under the part's number.
    pub fn created(&mut self, now: Tick, session: SessionId, gfid: Gfid, number: LeaseNumber) {
        let lease = Lease { key: LeaseKey::Inode(gfid), mode: Mode::Exclusive, number };
        if self.keys.get(&lease.key).is_none_or(|k| k.holders.is_empty()) {
            self.hold(now, session, lease);
        }
    }

    /// Whether the session holds this exclusive lease: asked at the lead for each change, and
    /// by members that forgot a number.
    pub fn permits(&self, session: SessionId, key: LeaseKey, number: LeaseNumber) -> bool {
        let held = self.holder(session, key);
        held.is_some_and(|h| h.mode == Mode::Exclusive && h.number == number)
            || self.turn_of(session, key, number)
    }

    /// The lease that a session holds of a key, for replies to re-sent requests.
    pub fn held(&self, session: SessionId, key: LeaseKey) -> Option<Lease> {
        self.holder(session, key).map(|h| Lease { key, mode: h.mode, number: h.number })
    }

    /// Whether another session holds the key in any mode, or will.
    pub fn others_hold(&self, session: SessionId, key: LeaseKey) -> bool {
        self.keys.get(&key).is_some_and(|k| {
            let wait = k.queue.iter().filter(|a| a.mode != Mode::None).map(|a| a.session);
            let mut sessions = k.holders.keys().copied().chain(wait);
            let turn = k.turn.is_some_and(|t| t.session != session);
            k.settling > 0 || turn || sessions.any(|s| s != session)
        })
    }

    /// Whether another session may change what the key stands for.
    pub fn another_changes(&self, session: SessionId, key: LeaseKey) -> bool {
        let exclusive = |(s, h): (&SessionId, &Holder)| *s != session && h.mode == Mode::Exclusive;
        self.keys.get(&key).is_some_and(|k| k.holders.iter().any(exclusive))
    }

    /// As `another_changes`, or waits to.
    pub fn another_would_change(&self, session: SessionId, key: LeaseKey) -> bool {
        let waits = |ask: &Ask| ask.session != session && ask.mode == Mode::Exclusive;
        self.another_changes(session, key)
            || self.keys.get(&key).is_some_and(|k| k.queue.iter().any(waits))
    }

    /// Everything that needed settling in this scope is equal on all members.
    pub fn settled(&mut self, now: Tick, scope: SettleScope) -> Vec<LeaseCommand> {
        let mut commands = Vec::new();
        let keys = match scope.key {
            Some(key) => vec![key],
            None => {
                let Some(session) = self.sessions.get_mut(&scope.session) else {
                    return commands;
                };
                if session.state == SessionState::Dying {
                    session.state = SessionState::Dead;
                }
                std::mem::take(&mut session.dying)
            }
        };
        for key in keys {
            if let Some(entry) = self.keys.get_mut(&key) {
                entry.settling = entry.settling.saturating_sub(1);
            }
            self.pump(now, key, &mut commands);
        }
        commands
    }

    fn holder(&self, session: SessionId, key: LeaseKey) -> Option<&Holder> {
        self.keys.get(&key)?.holders.get(&session)
    }

    /// Grants to the askers at the head of the queue, or recalls who stands in their way.
    fn pump(&mut self, now: Tick, key: LeaseKey, commands: &mut Vec<LeaseCommand>) {
        while let Some(entry) = self.keys.get(&key)
            && let Some(ask) = entry.queue.front().copied()
        {
            let own_recalled =
                entry.holders.get(&ask.session).is_some_and(|h| h.recalled.is_some());
            // A holder that is giving its lease back is asked again only afterwards, so that
            // its return cannot end the new grant.
            if entry.settling > 0 || own_recalled {
                break;
            }
            if entry.free_for(&ask) {
                match ask.how {
                    How::Turn | How::TurnAlone => self.begin_turn(ask, commands),
                    _ => self.grant(now, ask, commands),
                }
            } else {
                self.recall_for(now, ask, commands);
                break;
            }
        }
        self.tidy(key);
    }

    fn grant(&mut self, now: Tick, ask: Ask, commands: &mut Vec<LeaseCommand>) {
        if let Some(entry) = self.keys.get_mut(&ask.key) {
            entry.queue.pop_front();
        }
        self.waiting.remove(&(ask.session, ask.id));
        let (lease, fresh) = match self.held(ask.session, ask.key) {
            _ if ask.mode == Mode::None => {
                (Lease { key: ask.key, mode: Mode::None, number: LeaseNumber::NONE }, false)
            }
            Some(held) if held.mode >= ask.mode => {
                // The client counts a new term from this ask: so does the table.
                self.hold(now, ask.session, held);
                (held, false)
            }
            _ => {
                let number = self.next_number(ask.key);
                let lease = Lease { key: ask.key, mode: ask.mode, number };
                self.hold(now, ask.session, lease);
                (lease, true)
            }
        };
        let pinned = self.pinned(ask.key.gfid(), Some(ask.session));
        let (session, ask) = (ask.session, ask.id);
        commands.push(LeaseCommand::Grant { session, ask, lease, pinned, fresh });
    }

    fn hold(&mut self, now: Tick, session: SessionId, lease: Lease) {
        let Lease { key, mode, number } = lease;
        let holders = &mut self.keys.entry(key).or_default().holders;
        let shared = holders.get(&session).and_then(|old| match old.mode {
            _ if old.number == number => old.shared,
            Mode::Shared => Some((old.number, old.granted_at)),
            _ => None,
        });
        holders.insert(session, Holder { mode, number, granted_at: now, recalled: None, shared });
        self.sessions.entry(session).or_default().keys.insert(key);
    }

    fn recall_for(&mut self, now: Tick, ask: Ask, commands: &mut Vec<LeaseCommand>) {
        let contended = self.contended(now, ask.key);
        let Some(entry) = self.keys.get_mut(&ask.key) else { return };
        let keep = if ask.mode == Mode::Shared { Mode::Shared } else { Mode::None };
        let hold_until = if contended { entry.hold_until(&ask) } else { Tick::ZERO };
        if now < hold_until {
            self.deferred.insert(ask.key, hold_until);
            return;
        }
        let mut exclusive = false;
        for (session, holder) in &mut entry.holders {
            let stands = stands_in_way(*session, holder, &ask);
            if !stands || holder.recalled.is_some() {
                continue;
            }
            holder.recalled = Some(Recalled { at: now, frozen_until: None, progress: false });
            exclusive |= holder.mode == Mode::Exclusive;
            let lease = Lease { key: ask.key, mode: holder.mode, number: holder.number };
            commands.push(LeaseCommand::Recall { session: *session, lease, keep });
            self.recalled.insert((ask.key, *session));
        }
        if exclusive {
            let bounces = entry.last_recall.is_some_and(|last| now.since(last) < CONTENDED_WITHIN);
            entry.last_recall = Some(now);
            self.recent.push_back((now, ask.key));
            if bounces {
                self.fought_for(now, &ask);
            }
        }
    }

    fn next_number(&mut self, key: LeaseKey) -> LeaseNumber {
        self.counter += 1;
        let flip = self.flips.get(&key.gfid().slot()).copied().unwrap_or(0);
        LeaseNumber { base: self.epoch.0.max(flip), counter: self.counter }
    }

    fn drop_key_of(&mut self, session: SessionId, key: LeaseKey) {
        if let Some(session) = self.sessions.get_mut(&session) {
            session.keys.remove(&key);
        }
    }

    /// Recalls longer ago than `CONTENDED_WITHIN` are forgotten.
    fn forget_recalls(&mut self, now: Tick) {
        while let Some((at, key)) = self.recent.front().copied()
            && now.since(at) >= CONTENDED_WITHIN
        {
            self.recent.pop_front();
            if let Some(entry) = self.keys.get_mut(&key)
                && entry.last_recall == Some(at)
            {
                entry.last_recall = None;
            }
            self.tidy(key);
        }
    }

    /// Forgets a key about which there is nothing to remember.
    fn tidy(&mut self, key: LeaseKey) {
        let idle = |k: &Key| {
            // A recently recalled key is remembered, to see that it is contended.
            let used = !k.holders.is_empty() || !k.queue.is_empty() || k.turn.is_some();
            !used && k.settling == 0 && k.last_recall.is_none()
        };
        if self.keys.get(&key).is_some_and(idle) {
            self.keys.remove(&key);
        }
    }

    fn heard(&mut self, now: Tick, session: SessionId, term: Nanos) {
        if let Some(session) = self.sessions.get_mut(&session) {
            session.heard = now;
            session.renewed_until = session.renewed_until.max(now.after(given(term)));
        }
    }
}

impl Key {
    fn free_for(&self, ask: &Ask) -> bool {
        self.settling == 0
            && self.turn.is_none()
            && !self.holders.iter().any(|(session, h)| stands_in_way(*session, h, ask))
    }

    /// Granted without waiting for anybody.
    fn at_once(&self, ask: &Ask) -> bool {
        let own_recalled = self.holders.get(&ask.session).is_some_and(|h| h.recalled.is_some());
        self.queue.is_empty() && !own_recalled && self.free_for(ask)
    }

    /// A contended key stays for a moment with whoever got it last.
    fn hold_until(&self, ask: &Ask) -> Tick {
        let holders = self.holders.iter().filter(|(s, h)| stands_in_way(**s, h, ask));
        holders.map(|(_, h)| h.granted_at.after(CONTENDED_HOLD)).max().unwrap_or(Tick::ZERO)
    }
}

fn stands_in_way(session: SessionId, holder: &Holder, ask: &Ask) -> bool {
    if matches!(ask.how, How::Turn | How::TurnAlone) {
        // Beside the asker's own right to change it a turn changes nothing of which it must hear.
        return session != ask.session || holder.mode != Mode::Exclusive;
    }
    session != ask.session && (ask.mode != Mode::Shared || holder.mode == Mode::Exclusive)
}

#[cfg(test)]
#[path = "../table_test.rs"]
mod tests;
