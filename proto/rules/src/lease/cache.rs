//! The client's side of leases of one set: what is held, until when, what must go back.
//!
//! Assumes: terms are counted from the *sending* of the request or renewal that brought them;
//! an ask for a key is not sent while its return is unanswered (`may_ask`); replies and pushes
//! may overtake each other (each thread has a connection of its own).
//!
//! Promises: `valid` is true only while the lead cannot have given the key to anybody else; a
//! renewal extends everything held but the leases it names; under a new lead nothing is valid
//! before it is reclaimed.
//!
//! Deliberately does not: flush or invalidate. It says what to do and is told when it is done.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use proto::{BrickId, Epoch, Gfid, Incarnation, LeaseNumber};

use super::table::{Reclaimed, ReclaimedLease};
use super::{Lease, LeaseKey, Mode};
use crate::time::{Nanos, Tick};

/// Recalls remembered that came before their grant.
const EARLY_MAX: usize = 1024;
/// Returned leases remembered: far more than can have a grant on its way.
const ENDED_MAX: usize = 4096;

/// What the holder does about a recall.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecallAction {
    /// Write back, invalidate, then `returning` and send the return. On a thread that serves
    /// nothing that waits for the lead (traps 26, 27).
    GiveBack { lease: Lease, keep: Mode },
    /// Being given back already, or its grant has not arrived yet.
    Wait,
    /// Not held (any more): answer with a return, nothing to write back.
    NotHeld { lease: Lease },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Held,
    /// To be given back down to this mode.
    Recalled(Mode),
    Returning(Mode),
    /// Held under an earlier lead; only `on_reclaimed` makes it valid again.
    Unreclaimed,
}

#[derive(Clone, Copy, Debug)]
struct Held {
    lease: Lease,
    until: Tick,
    state: State,
    last_renewed_epoch: Epoch,
}

/// The leases that one session holds of one set.
#[derive(Clone, Debug, Default)]
pub struct LeaseCache {
    epoch: Epoch,
    lead: Option<(BrickId, Incarnation)>,
    held: BTreeMap<LeaseKey, Held>,
    early: BTreeMap<LeaseKey, (Lease, Mode)>,
    open: BTreeSet<Gfid>,
    /// Grants below are of an earlier lead.
    dead_below: LeaseNumber,
    /// Grants to asks sent earlier are of a session that the lead has forgotten.
    since: Tick,
    /// Leases given back: a grant of the same number (asked for again while it was held, or
    /// revoked before it arrived) may still be on the way.
    ended: BTreeMap<LeaseKey, LeaseNumber>,
    ended_order: VecDeque<(LeaseKey, LeaseNumber)>,
    /// Leases that had ended when a later one was granted, of which only the recall arrived.
    lapsed: Vec<LeaseKey>,
}

impl LeaseCache {
    /// A new map of the set. Under another lead (or a restarted one) exclusive leases wait to
    /// be reclaimed and shared ones lapse: the latter are returned, to be invalidated.
    pub fn on_map(&mut self, epoch: Epoch, lead: (BrickId, Incarnation)) -> Vec<LeaseKey> {
        if epoch < self.epoch {
            return Vec::new();
        }
        self.epoch = epoch;
        if self.lead.replace(lead).is_none_or(|old| old == lead) {
            return Vec::new();
        }
        self.early.clear();
        self.ended.clear();
        self.ended_order.clear();
        self.dead_below = LeaseNumber { base: epoch.0, counter: 0 };
        let gone =
            |h: &Held| h.lease.mode != Mode::Exclusive || matches!(h.state, State::Returning(_));
        let lapsed: Vec<LeaseKey> =
            self.held.iter().filter(|(_, h)| gone(h)).map(|(k, _)| *k).collect();
        self.held.retain(|_, h| !gone(h));
        for held in self.held.values_mut() {
            held.state = State::Unreclaimed;
            held.until = Tick::ZERO;
        }
        lapsed
    }

    /// A grant came with the answer to a request sent at `sent`. If its recall overtook it,
    /// says what to do about that.
    pub fn on_granted(&mut self, sent: Tick, term: Nanos, lease: Lease) -> Option<RecallAction> {
        let ended = self.ended.get(&lease.key).is_some_and(|n| lease.number <= *n);
        if ended || lease.number < self.dead_below || sent < self.since {
            return Some(RecallAction::NotHeld { lease });
        }
        let until = sent.after(term);
        let last_renewed_epoch = self.epoch;
        let new = Held { lease, until, state: State::Held, last_renewed_epoch };
        match self.held.get_mut(&lease.key) {
            Some(held) if held.lease.number == lease.number => held.until = held.until.max(until),
            Some(held) if held.lease.number > lease.number => return None,
            _ => {
                self.held.insert(lease.key, new);
            }
        }
        let (recalled, keep) = self.early.remove(&lease.key)?;
        (recalled.number == lease.number).then(|| self.on_recall(recalled, keep))
    }

    /// The number to change or cache under, while the lease is surely ours. A recalled lease
    /// stays usable for writing back until it is given back.
    pub fn valid(&self, now: Tick, key: LeaseKey, mode: Mode) -> Option<LeaseNumber> {
        let held = self.held.get(&key)?;
        let usable = matches!(held.state, State::Held | State::Recalled(_));
        (usable && held.lease.mode >= mode && now < held.until).then_some(held.lease.number)
    }

    /// The lease on this key as last granted, even if it cannot be used now (run out, being
    /// returned, unreclaimed): what is buffered under it is not lost yet.
    pub fn lease(&self, key: LeaseKey) -> Option<Lease> {
        self.held.get(&key).map(|h| h.lease)
    }

    /// Everything held, for a clean end of the session.
    pub fn leases(&self) -> impl Iterator<Item = Lease> {
        self.held.values().map(|h| h.lease)
    }

    /// As `valid`, but false once the lease is recalled: nothing new is begun under it.
    pub fn may_begin(&self, now: Tick, key: LeaseKey, mode: Mode) -> Option<LeaseNumber> {
        let held = self.held.get(&key)?;
        (held.state == State::Held).then(|| self.valid(now, key, mode)).flatten()
    }

    /// What the kernel may be told to cache for (trap 25: never more than the lease's rest).
    pub fn rest(&self, now: Tick, key: LeaseKey) -> Nanos {
        let begun = self.may_begin(now, key, Mode::Shared);
        begun.and_then(|_| self.held.get(&key)).map_or(0, |h| h.until.since(now))
    }

    /// Whether an ask for this key may be sent: not while its return is under way, nor before
    /// it is reclaimed.
    pub fn may_ask(&self, key: LeaseKey) -> bool {
        let state = self.held.get(&key).map(|h| h.state);
        !matches!(state, Some(State::Returning(_) | State::Unreclaimed))
    }

    /// The answer to a renewal sent at `sent`. Everything held is extended but the `overdue`
    /// leases; those that nobody recalled yet (the push was lost) are returned with what to do.
    /// The lead names a revoked lease until its return arrives.
    pub fn on_renewed(
        &mut self,
        sent: Tick,
        term: Nanos,
        overdue: &[LeaseKey],
    ) -> Vec<RecallAction> {
        let named: BTreeSet<LeaseKey> = overdue.iter().copied().collect();
        let mut actions = Vec::new();
        for (key, held) in &mut self.held {
            if named.contains(key) {
                if held.state == State::Held {
                    held.state = State::Recalled(Mode::None);
                    actions.push(RecallAction::GiveBack { lease: held.lease, keep: Mode::None });
                }
            } else if held.state != State::Unreclaimed {
                held.until = held.until.max(sent.after(term));
                held.last_renewed_epoch = self.epoch;
            }
        }
        actions
    }

    /// A recall was pushed.
    pub fn on_recall(&mut self, lease: Lease, keep: Mode) -> RecallAction {
        match self.held.get_mut(&lease.key) {
            Some(held) if held.lease.number == lease.number => match held.state {
                State::Held => {
                    held.state = State::Recalled(keep);
                    RecallAction::GiveBack { lease: held.lease, keep }
                }
                // What was kept is called back, too, and overtook the answer to the return.
                State::Returning(kept) if keep < kept => self.recalled_early(lease, keep),
                _ => RecallAction::Wait,
            },
            // Its grant is still on the way: recalled as soon as it arrives.
            Some(held) if held.lease.number < lease.number => self.recalled_early(lease, keep),
            None => self.recalled_early(lease, keep),
            Some(_) => RecallAction::NotHeld { lease },
        }
    }

    fn recalled_early(&mut self, lease: Lease, keep: Mode) -> RecallAction {
        if self.early.len() >= EARLY_MAX {
            return self.not_held(lease);
        }
        self.early.insert(lease.key, (lease, keep));
        RecallAction::Wait
    }

    /// No ask for the key is under way any more: a recall kept for its grant is answered.
    /// What that means for an older lease of the key is in `take_lapsed`.
    pub fn no_grant_coming(&mut self, key: LeaseKey) -> Option<RecallAction> {
        let (lease, _) = self.early.get(&key)?;
        if self.held.get(&key).is_some_and(|h| h.lease.number == lease.number) {
            // What it waits for is the answer to a return (`on_returned`).
            return None;
        }
        let (lease, _) = self.early.remove(&key)?;
        Some(self.not_held(lease))
    }

    /// Given back unseen. An older lease of the key had ended when this one was granted: the
    /// lead will name neither in renewals once it has this return, so it must not live on here.
    fn not_held(&mut self, lease: Lease) -> RecallAction {
        if self.held.get(&lease.key).is_some_and(|h| h.lease.number < lease.number) {
            self.held.remove(&lease.key);
            self.lapsed.push(lease.key);
        }
        self.end(lease.key, lease.number);
        RecallAction::NotHeld { lease }
    }

    /// Keys whose lease turned out to have ended unnoticed, since the last call: what is cached
    /// under them is invalid, what is buffered is lost. After every call that takes a recall.
    pub fn take_lapsed(&mut self) -> Vec<LeaseKey> {
        std::mem::take(&mut self.lapsed)
    }

    /// Everything under the lease is written back, settled and invalidated: the return is
    /// sent now. Says what to send, with whether the inode is open here.
    pub fn returning(&mut self, key: LeaseKey, keep: Mode) -> Option<(Lease, Mode, bool)> {
        let open = self.open.contains(&key.gfid());
        let held = self.held.get_mut(&key)?;
        if held.state == State::Unreclaimed {
            // Recalled by an earlier lead. The new one knows nothing of it, and would leave what
            // is kept to be renewed for ever.
            return None;
        }
        held.state = State::Returning(keep);
        Some((held.lease, keep, open))
    }

    /// The lead has taken the return. If what was kept has been recalled since, says what to do
    /// about that.
    pub fn on_returned(&mut self, returned: Lease) -> Option<RecallAction> {
        let held = self.held.get_mut(&returned.key)?;
        let State::Returning(keep) = held.state else { return None };
        if held.lease.number != returned.number {
            return None;
        }
        if keep == Mode::None {
            self.held.remove(&returned.key);
            self.end(returned.key, returned.number);
            return None;
        }
        held.lease.mode = keep;
        held.state = State::Held;
        let (recalled, keep) = *self.early.get(&returned.key)?;
        if recalled.number != returned.number {
            // Of a later lease, whose grant is still on the way.
            return None;
        }
        self.early.remove(&returned.key);
        Some(self.on_recall(recalled, keep))
    }

    /// What to claim from a new lead (traps 16, 59), and the inodes open here.
    pub fn reclaims(&self) -> (Vec<ReclaimedLease>, Vec<Gfid>) {
        let unreclaimed = self.held.values().filter(|h| h.state == State::Unreclaimed);
        let leases = unreclaimed.map(|h| ReclaimedLease {
            key: h.lease.key,
            number: h.lease.number,
            last_renewed_epoch: h.last_renewed_epoch,
        });
        (leases.collect(), self.open.iter().copied().collect())
    }

    /// The new lead's answer to a reclaim sent at `sent`. Returns the keys that are lost.
    pub fn on_reclaimed(&mut self, sent: Tick, term: Nanos, answer: &Reclaimed) -> Vec<LeaseKey> {
        for lease in &answer.granted {
            if let Some(held) = self.held.get_mut(&lease.key) {
                let until = sent.after(term);
                let last_renewed_epoch = self.epoch;
                *held = Held { lease: *lease, until, state: State::Held, last_renewed_epoch };
            }
        }
        answer.refused.iter().copied().filter(|k| self.held.remove(k).is_some()).collect()
    }

    /// The grace is over, or the lead says that the session is unknown: whatever is not
    /// valid under this lead is lost. Returns the keys.
    pub fn lose_unreclaimed(&mut self) -> Vec<LeaseKey> {
        self.lose(|h| h.state == State::Unreclaimed)
    }

    /// The lead does not know the session any more: everything is lost, also what was asked
    /// for before now and is still on the way. Call it before saying HELLO again.
    pub fn lose_all_at(&mut self, now: Tick) -> Vec<LeaseKey> {
        self.since = now;
        self.lose_all()
    }

    /// As `lose_all_at` when no ask is under way (the connections to the lead are gone).
    pub fn lose_all(&mut self) -> Vec<LeaseKey> {
        self.early.clear();
        self.lose(|_| true)
    }

    fn end(&mut self, key: LeaseKey, number: LeaseNumber) {
        self.ended.insert(key, number);
        self.ended_order.push_back((key, number));
        if self.ended_order.len() > ENDED_MAX
            && let Some((key, number)) = self.ended_order.pop_front()
            && self.ended.get(&key) == Some(&number)
        {
            self.ended.remove(&key);
        }
    }

    fn lose(&mut self, lost: impl Fn(&Held) -> bool) -> Vec<LeaseKey> {
        let keys: Vec<LeaseKey> =
            self.held.iter().filter(|(_, h)| lost(h)).map(|(k, _)| *k).collect();
        self.held.retain(|_, h| !lost(h));
        keys
    }

    /// A member refused the lease's number: it ended without us. If true, send its return all
    /// the same, so that the lead stops naming it.
    pub fn lost(&mut self, key: LeaseKey, number: LeaseNumber) -> bool {
        let ours = self.held.get(&key).is_some_and(|h| h.lease.number == number);
        if ours {
            self.held.remove(&key);
            self.end(key, number);
        }
        ours
    }

    pub fn opened(&mut self, gfid: Gfid) {
        self.open.insert(gfid);
    }

    pub fn closed(&mut self, gfid: Gfid) {
        self.open.remove(&gfid);
    }
}

#[cfg(test)]
#[path = "cache_test.rs"]
mod tests;
