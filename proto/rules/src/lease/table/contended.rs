//! Contended keys: which they are, and the lead's turns on them.
//!
//! A lease that bounces costs each change a recall, a write-back and a grant. So a key that was
//! recalled twice within a second is granted exclusively to nobody who may yield; the lead
//! executes such changes itself, each in a *turn*: the exclusive right for one execution.

use proto::{LeaseNumber, SessionId};

use super::{Ask, How, Lease, LeaseCommand, LeaseKey, LeaseTable, Mode};
use crate::plant::{Plant, planted};
use crate::time::{CONTENDED_FOR, Tick};

/// A key that is fought for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Contention {
    until: Tick,
    /// Whoever asked last: it alone does not keep the key contended.
    asker: SessionId,
}

/// A change that the lead executes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Turn {
    pub(super) session: SessionId,
    ask: u64,
    number: LeaseNumber,
}

impl LeaseTable {
    /// Asks for a turn: the exclusive right to execute one change of `session`. All holders are
    /// recalled, the session's own shared lease too; beside its own exclusive lease the turn
    /// stands, under the same number. Nobody is granted the key until `end_turn`: a turn is
    /// neither recalled nor does it run out, for the lead ends it by itself, or with itself.
    ///
    /// Refused with `LeaseNeeded` while that own lease is being recalled: its return may wait for
    /// the very change that would wait here for the return (trap 26).
    pub fn ask_turn(
        &mut self,
        now: Tick,
        session: SessionId,
        id: u64,
        key: LeaseKey,
    ) -> Vec<LeaseCommand> {
        self.ask(now, Ask { session, id, key, mode: Mode::Exclusive, how: How::Turn })
    }

    /// As `ask_turn`, for a change of an inode's bytes or attributes. Refused with `LeaseNeeded`
    /// while the session holds the inode exclusively: it may have bytes buffered of which the lead
    /// knows nothing (an append executed here would go to the same place), so it makes the
    /// change itself.
    pub fn ask_turn_alone(
        &mut self,
        now: Tick,
        session: SessionId,
        id: u64,
        key: LeaseKey,
    ) -> Vec<LeaseCommand> {
        self.ask(now, Ask { session, id, key, mode: Mode::Exclusive, how: How::TurnAlone })
    }

    /// Every in-sync member has answered what was executed, or nothing was.
    pub fn end_turn(&mut self, now: Tick, key: LeaseKey, id: u64) -> Vec<LeaseCommand> {
        let mut commands = Vec::new();
        let Some(entry) = self.keys.get_mut(&key) else { return commands };
        if entry.turn.take_if(|turn| turn.ask == id).is_some() {
            self.pump(now, key, &mut commands);
        }
        commands
    }

    /// Whether a change of this key is being executed by the lead: it may not be everywhere yet.
    pub fn in_turn(&self, key: LeaseKey) -> bool {
        self.keys.get(&key).is_some_and(|k| k.turn.is_some())
    }

    /// Whether this key's exclusive lease is bouncing between sessions.
    pub fn contended(&self, now: Tick, key: LeaseKey) -> bool {
        self.contended.get(&key).is_some_and(|c| now < c.until) && !planted(Plant::NoContention)
    }

    pub(super) fn turn_of(&self, session: SessionId, key: LeaseKey, number: LeaseNumber) -> bool {
        let turn = self.keys.get(&key).and_then(|k| k.turn);
        turn.is_some_and(|t| t.session == session && t.number == number)
    }

    pub(super) fn begin_turn(&mut self, ask: Ask, commands: &mut Vec<LeaseCommand>) {
        // The members know its number as the newest; a newer one would end the lease for them.
        let own = self.held(ask.session, ask.key).filter(|l| l.mode == Mode::Exclusive);
        let number = own.map_or_else(|| self.next_number(ask.key), |lease| lease.number);
        self.waiting.remove(&(ask.session, ask.id));
        if let Some(entry) = self.keys.get_mut(&ask.key) {
            entry.queue.pop_front();
            entry.turn = Some(Turn { session: ask.session, ask: ask.id, number });
        }
        let lease = Lease { key: ask.key, mode: Mode::Exclusive, number };
        commands.push(LeaseCommand::Turn { session: ask.session, ask: ask.id, lease });
    }

    /// An exclusive wish that the lead answers by "let me execute it".
    pub(super) fn yields(&self, now: Tick, ask: &Ask) -> bool {
        let exclusive = |l: &Lease| l.mode == Mode::Exclusive;
        ask.how == How::Yields
            && ask.mode == Mode::Exclusive
            && self.contended(now, ask.key)
            && !self.held(ask.session, ask.key).as_ref().is_some_and(exclusive)
    }

    /// A turn that the asker's own exclusive lease forbids.
    pub(super) fn own_in_the_way(&self, ask: &Ask) -> bool {
        let own = self.holder(ask.session, ask.key).filter(|h| h.mode == Mode::Exclusive);
        own.is_some_and(|own| match ask.how {
            How::Turn => own.recalled.is_some(),
            How::TurnAlone => true,
            _ => false,
        })
    }

    /// Recalled again so soon.
    pub(super) fn fought_for(&mut self, now: Tick, ask: &Ask) {
        let contention = Contention { until: now.after(CONTENDED_FOR), asker: ask.session };
        self.contended.insert(ask.key, contention);
    }

    /// The fight goes on while asks of different sessions alternate.
    pub(super) fn foreign(&mut self, now: Tick, ask: &Ask) {
        if let Some(contention) = self.contended.get_mut(&ask.key)
            && now < contention.until
            && contention.asker != ask.session
        {
            *contention = Contention { until: now.after(CONTENDED_FOR), asker: ask.session };
        }
    }

    pub(super) fn forget_contended(&mut self, now: Tick) {
        self.contended.retain(|_, contention| now < contention.until);
    }
}
