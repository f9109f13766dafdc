//! One brick's side of the promises of its set: what it gave, what it holds.

use std::collections::{BTreeMap, BTreeSet};

use proto::map::{MemberMap, MemberState, SetMap};
use proto::{BrickId, Epoch, Incarnation};

use super::words::{Claim, JoinRefused, Promise, PromiseEvent, Word};
use crate::time::{LEASE_TERM, PROMISE_GIVEN, SUSPECT_AFTER, Tick, given};

#[derive(Debug)]
pub(super) struct Seat {
    pub incarnation: Incarnation,
    pub map: Option<SetMap>,
    /// When this peer learnt of the map's epoch: nobody can have promised in it before.
    epoch_at: Tick,
    /// Joiner's side: it gave up; this incarnation never serves.
    pub never: bool,
    /// Member's side: the join to which it agreed in this epoch.
    pub joiner: Option<(BrickId, Incarnation)>,
    /// Bricks that answered this incarnation: they dropped its predecessor's promises.
    pub hello_acked: BTreeSet<BrickId>,
    /// The end of what a predecessor may have promised before it died.
    fresh_until: Tick,
    /// Joiner's side: the epoch whose members have its promise.
    offered: Option<Epoch>,
    /// Never promised again in this epoch.
    stopped: BTreeSet<BrickId>,
    held: BTreeMap<BrickId, (Incarnation, Tick)>,
    given: BTreeMap<BrickId, (Incarnation, Tick)>,
    /// Until when leases of leads other than this brick may run. A lead leases for no longer
    /// than it holds promises, so this is the last one given to a lead; a hello or a bye of it
    /// ends what it may serve, never what it has leased.
    leased_until: Tick,
}

impl Seat {
    pub fn new(now: Tick, incarnation: Incarnation, clean: bool) -> Self {
        let fresh_until = if clean { Tick::ZERO } else { now.after(PROMISE_GIVEN) };
        Self {
            incarnation,
            map: None,
            epoch_at: now,
            never: false,
            joiner: None,
            hello_acked: BTreeSet::new(),
            fresh_until,
            offered: None,
            stopped: BTreeSet::new(),
            held: BTreeMap::new(),
            given: BTreeMap::new(),
            // Whatever was leased without a promise of this incarnation.
            leased_until: now.after(given(LEASE_TERM)),
        }
    }

    /// Takes a map; returns incarnations that it no longer names.
    pub fn on_map(&mut self, now: Tick, me: BrickId, map: &SetMap) -> Vec<(BrickId, Incarnation)> {
        let mut replaced = Vec::new();
        let was_member = self.in_sync_as(me, self.incarnation);
        if self.map.as_ref().is_none_or(|old| map.epoch > old.epoch) {
            self.epoch_at = now;
        }
        if let Some(old) = &self.map {
            if map.epoch < old.epoch {
                return replaced;
            }
            if map.epoch > old.epoch {
                // Whatever was said about the old epoch is over. What was *given* runs on.
                self.stopped.clear();
                self.joiner = None;
                self.offered = None;
                self.held.clear();
            }
            for member in &old.members {
                let new = map.member(member.brick).map(|m| m.incarnation);
                if new != Some(member.incarnation) {
                    replaced.push((member.brick, member.incarnation));
                }
            }
        }
        self.map = Some(map.clone());
        if !was_member && self.in_sync_as(me, self.incarnation) {
            // The lead leased without this brick's promise until now.
            self.full_term(now);
        }
        replaced
    }

    pub fn behind(&self, epoch: Epoch) -> bool {
        self.map.as_ref().is_some_and(|m| m.epoch < epoch)
    }

    fn named(&self, brick: BrickId, state: MemberState) -> Option<&MemberMap> {
        self.map.as_ref()?.member(brick).filter(|m| m.state == state)
    }

    fn in_sync_as(&self, brick: BrickId, incarnation: Incarnation) -> bool {
        self.named(brick, MemberState::InSync).is_some_and(|m| m.incarnation == incarnation)
    }

    /// What this brick (`me`) says to a claim now, and notes what it gave.
    pub fn answer(&mut self, now: Tick, me: BrickId, claim: &Claim) -> Word {
        let word = match self.verdict(me, claim) {
            Word::Stay if self.fresh(now, me) => Word::Fresh,
            word => word,
        };
        if word == Word::Stay {
            if self.map.as_ref().is_some_and(|m| m.lead == Some(claim.brick)) {
                self.leased_until = self.leased_until.max(now.after(PROMISE_GIVEN));
            }
            self.given.insert(claim.brick, (claim.incarnation, now.after(PROMISE_GIVEN)));
        }
        word
    }

    /// A lead may have leased until now whatever this brick promised.
    pub fn full_term(&mut self, now: Tick) {
        self.leased_until = self.leased_until.max(now.after(given(LEASE_TERM)));
    }

    pub fn leased_until(&self) -> Tick {
        self.leased_until
    }

    pub fn verdict(&self, me: BrickId, claim: &Claim) -> Word {
        let Some(map) = &self.map else { return Word::NotNamed };
        if self.never {
            return Word::NeverServes;
        }
        if claim.epoch != map.epoch {
            return Word::OtherEpoch(map.epoch);
        }
        let member = self.in_sync_as(me, self.incarnation);
        let joiner = self.offered == Some(map.epoch);
        if !(member || joiner) || !self.in_sync_as(claim.brick, claim.incarnation) {
            return Word::NotNamed;
        }
        if self.stopped.contains(&claim.brick) {
            return Word::Stopped;
        }
        Word::Stay
    }

    /// Its predecessor may have promised somebody something that still runs.
    fn fresh(&self, now: Tick, me: BrickId) -> bool {
        let Some(map) = &self.map else { return true };
        let unheard = |m: &MemberMap| m.brick != me && !self.hello_acked.contains(&m.brick);
        now < self.fresh_until && map.members.iter().any(unheard)
    }

    /// Takes a giver's word that is valid until `until` by this holder's count.
    pub fn take(&mut self, promise: &Promise, until: Tick, events: &mut Vec<PromiseEvent>) {
        let giver = (promise.giver, promise.giver_incarnation);
        match promise.word {
            Word::Stay => {
                let epoch = self.map.as_ref().map(|m| m.epoch);
                let counts = self.in_sync_as(giver.0, giver.1) || self.joiner == Some(giver);
                if epoch == Some(promise.epoch) && counts {
                    let held = self.held.entry(giver.0).or_insert((giver.1, until));
                    if held.0 != giver.1 || held.1 < until {
                        *held = (giver.1, until);
                    }
                }
            }
            Word::NeverServes if self.joiner == Some(giver) => {
                self.joiner = None;
                self.held.remove(&giver.0);
                events.push(PromiseEvent::JoinEnded {
                    set: promise.set,
                    brick: promise.holder,
                    joiner: giver.0,
                });
            }
            Word::OtherEpoch(epoch) if self.behind(epoch) => {
                events.push(PromiseEvent::NewerEpoch { set: promise.set, epoch });
            }
            _ => {}
        }
    }

    /// The bricks whose promise `me` needs, with their incarnations.
    fn needed(&self, me: BrickId) -> impl Iterator<Item = (BrickId, Incarnation)> {
        let members = self.map.iter().flat_map(|m| m.in_sync());
        members
            .map(|m| (m.brick, m.incarnation))
            .chain(self.joiner)
            .filter(move |(brick, _)| *brick != me)
    }

    fn promise_of(
        &self,
        giver: (BrickId, Incarnation),
        local: impl Fn(BrickId) -> Option<Tick>,
    ) -> Tick {
        local(giver.0).unwrap_or_else(|| {
            self.held.get(&giver.0).filter(|h| h.0 == giver.1).map_or(Tick::ZERO, |h| h.1)
        })
    }

    pub fn serve_until(&self, me: BrickId, local: impl Fn(BrickId) -> Option<Tick>) -> Tick {
        if self.never || !self.in_sync_as(me, self.incarnation) {
            return Tick::ZERO;
        }
        let running = self.needed(me).map(|giver| self.promise_of(giver, &local));
        running.min().unwrap_or(Tick::NEVER)
    }

    /// In-sync under this incarnation, and able to serve.
    pub fn active(&self, me: BrickId) -> bool {
        !self.never && self.in_sync_as(me, self.incarnation)
    }

    /// The epoch is so young that missing promises only are not here yet.
    pub fn young(&self, now: Tick) -> bool {
        now.since(self.epoch_at) < SUSPECT_AFTER
    }

    /// Members whose promise runs out before `rest`.
    pub fn lacks(
        &self,
        me: BrickId,
        rest: Tick,
        local: impl Fn(BrickId) -> Option<Tick>,
    ) -> impl Iterator<Item = BrickId> {
        let active = self.active(me);
        let members = self.map.iter().flat_map(|m| m.in_sync());
        members
            .map(|m| (m.brick, m.incarnation))
            .filter(move |(brick, _)| active && *brick != me)
            .filter(move |giver| self.promise_of(*giver, &local) < rest)
            .map(|(brick, _)| brick)
    }

    pub fn stop(&mut self, me: BrickId, epoch: Epoch, victim: BrickId) -> Option<Tick> {
        let both = [me, victim].iter().all(|b| self.named(*b, MemberState::InSync).is_some());
        let mine = self.in_sync_as(me, self.incarnation);
        if self.map.as_ref()?.epoch != epoch || !both || !mine || me == victim {
            return None;
        }
        self.stopped.insert(victim);
        Some(self.given_until(victim))
    }

    pub fn given_until(&self, victim: BrickId) -> Tick {
        let given = self.given.get(&victim).map_or(Tick::ZERO, |g| g.1);
        // What a predecessor gave is unknown: the full time, unless the victim dropped it.
        let fresh = match self.hello_acked.contains(&victim) {
            true => Tick::ZERO,
            false => self.fresh_until,
        };
        given.max(fresh)
    }

    pub fn agree_join(
        &mut self,
        me: BrickId,
        epoch: Epoch,
        joiner: (BrickId, Incarnation),
    ) -> Result<(), JoinRefused> {
        let current = self.map.as_ref().map_or(Epoch::NONE, |m| m.epoch);
        if current != epoch {
            return Err(JoinRefused::Epoch(current));
        }
        if !self.in_sync_as(me, self.incarnation) {
            return Err(JoinRefused::NotInSync);
        }
        let named = self.named(joiner.0, MemberState::Syncing);
        if named.is_none_or(|m| m.incarnation != joiner.1) {
            return Err(JoinRefused::Joiner);
        }
        match self.joiner {
            Some(other) if other != joiner => Err(JoinRefused::Another),
            _ => {
                self.joiner = Some(joiner);
                Ok(())
            }
        }
    }

    pub fn offer_join(&mut self, me: BrickId, epoch: Epoch) -> bool {
        let syncing =
            self.named(me, MemberState::Syncing).is_some_and(|m| m.incarnation == self.incarnation);
        let current = self.map.as_ref().is_some_and(|m| m.epoch == epoch);
        let ok = syncing && current && !self.never;
        if ok {
            self.offered = Some(epoch);
        }
        ok
    }

    /// Another incarnation of `brick` speaks: returns the one that is gone by that.
    pub fn saw(&self, brick: BrickId, incarnation: Incarnation) -> Option<Incarnation> {
        let named = self.map.as_ref()?.member(brick)?.incarnation;
        (named != incarnation && named != Incarnation::default()).then_some(named)
    }

    pub fn gone(&mut self, brick: BrickId, incarnation: Incarnation) {
        self.held.retain(|b, h| !(*b == brick && h.0 == incarnation));
        self.given.retain(|b, g| !(*b == brick && g.0 == incarnation));
        if self.joiner == Some((brick, incarnation)) {
            self.joiner = None;
        }
    }
}
