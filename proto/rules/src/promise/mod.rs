//! Promises between members: "I stay in epoch E". Fencing without a leader.
//!
//! A member serves in E only while it holds a running promise of every other in-sync member
//! of E, and of a newcomer to whose join it agreed. A promise is the answer to a ping; its
//! holder counts from *sending* the ping, its giver from answering and 5 % longer.
//!
//! Assumes: one table per process (peer); maps of a set arrive in the order of their versions;
//! the time between `on_ping` and the sending of its answer only shortens what the holder has.
//!
//! Promises: to evict X, a member that called `stop` never promises X in E again, and
//! `may_agree_at` is after the last promise that X can hold from it. A promise names both
//! incarnations: a restarted member neither holds nor gives what its predecessor did, and
//! promises nothing in its first promise time unless all others dropped its predecessor.
//!
//! Deliberately does not: decide evictions (the pool's leader, `set::choose_eviction`), or
//! send anything.

mod seat;
mod words;

use std::collections::{BTreeMap, VecDeque};

use proto::map::SetMap;
use proto::{BrickId, Epoch, Incarnation, PeerId};

use crate::SetKey;
use crate::time::{PROMISE, SUSPECT_AFTER, Tick};

use seat::Seat;
pub use words::{Answer, Claim, JoinRefused, Ping, Promise, PromiseEvent, Word};

/// Gone incarnations remembered per brick, so that a late ping of one revives nothing.
const PAST_MAX: usize = 16;

/// All promises that the bricks of one peer give and hold.
#[derive(Debug)]
pub struct Promises {
    me: PeerId,
    seats: BTreeMap<(SetKey, BrickId), Seat>,
    heard: BTreeMap<PeerId, Tick>,
    past: BTreeMap<BrickId, VecDeque<Incarnation>>,
    byes: VecDeque<(BrickId, Incarnation)>,
}

impl Promises {
    pub fn new(me: PeerId) -> Self {
        let (seats, heard, past) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self { me, seats, heard, past, byes: VecDeque::new() }
    }

    /// A brick of this peer starts. `clean`: its predecessor left cleanly (said bye to all),
    /// so no promise of it can be running.
    pub fn brick_up(
        &mut self,
        now: Tick,
        set: SetKey,
        brick: BrickId,
        incarnation: Incarnation,
        clean: bool,
    ) {
        self.seats.insert((set, brick), Seat::new(now, incarnation, clean));
    }

    /// A brick of this peer stops for good: its pings say bye from now on.
    pub fn brick_down(&mut self, set: SetKey, brick: BrickId) {
        if let Some(seat) = self.seats.remove(&(set, brick)) {
            self.byes.push_back((brick, seat.incarnation));
            while self.byes.len() > PAST_MAX {
                self.byes.pop_front();
            }
        }
    }

    /// A committed map of a set. Older epochs than the one held are ignored.
    pub fn on_map(&mut self, now: Tick, set: SetKey, map: &SetMap) {
        for member in &map.members {
            if member.peer != self.me {
                self.heard.entry(member.peer).or_insert(now);
            }
        }
        let keys: Vec<_> = self.seats_of(set).collect();
        for key in keys {
            let local_lead = self.local_lead(&key, map);
            let Some(seat) = self.seats.get_mut(&key) else { continue };
            if local_lead {
                seat.full_term(now);
            }
            let replaced = seat.on_map(now, key.1, map);
            for (brick, incarnation) in replaced {
                self.gone(brick, incarnation);
            }
        }
    }

    /// Whether the lead that `map` replaces is another brick of this process: no ping carries
    /// the promises that it has from here.
    fn local_lead(&self, (set, brick): &(SetKey, BrickId), map: &SetMap) -> bool {
        let old = self.seats.get(&(*set, *brick)).and_then(|seat| seat.map.as_ref());
        let lead = old.and_then(|old| old.member(old.lead?));
        lead.is_some_and(|lead| {
            lead.peer == self.me && lead.brick != *brick && map.lead != Some(lead.brick)
        })
    }

    /// The peers to ping: all that share a set with a brick of this peer.
    pub fn peers(&self) -> Vec<PeerId> {
        let mut peers: Vec<PeerId> = self
            .seats
            .values()
            .filter_map(|s| s.map.as_ref())
            .flat_map(|m| m.members.iter().map(|m| m.peer))
            .filter(|p| *p != self.me)
            .collect();
        peers.sort_unstable();
        peers.dedup();
        peers
    }

    /// The ping to send to `to` now.
    pub fn ping(&self, now: Tick, to: PeerId) -> Ping {
        let claims = self
            .seats
            .iter()
            .filter_map(|((set, brick), seat)| {
                let map = seat.map.as_ref()?;
                map.members.iter().any(|m| m.peer == to).then_some(Claim {
                    set: *set,
                    brick: *brick,
                    incarnation: seat.incarnation,
                    epoch: map.epoch,
                })
            })
            .collect();
        let byes = self.byes.iter().copied().collect();
        Ping { from: self.me, sent: now, claims, byes }
    }

    /// Answers a peer's ping; what it promises runs from now.
    pub fn on_ping(&mut self, now: Tick, ping: &Ping) -> (Answer, Vec<PromiseEvent>) {
        self.heard.insert(ping.from, now);
        let mut events = Vec::new();
        for (brick, incarnation) in &ping.byes {
            self.gone(*brick, *incarnation);
        }
        let mut promises = Vec::new();
        for claim in &ping.claims {
            let is_past = self.saw(claim.brick, claim.incarnation);
            let keys: Vec<_> = self.seats_of(claim.set).collect();
            for key in keys {
                let Some(seat) = self.seats.get_mut(&key) else { continue };
                if key.1 == claim.brick {
                    continue;
                }
                if seat.behind(claim.epoch) {
                    events.push(PromiseEvent::NewerEpoch { set: claim.set, epoch: claim.epoch });
                }
                let word = match is_past {
                    true => Word::NotNamed,
                    false => seat.answer(now, key.1, claim),
                };
                promises.push(Promise {
                    set: claim.set,
                    giver: key.1,
                    giver_incarnation: seat.incarnation,
                    holder: claim.brick,
                    holder_incarnation: claim.incarnation,
                    epoch: claim.epoch,
                    word,
                });
            }
        }
        (Answer { from: self.me, sent: ping.sent, promises }, events)
    }

    /// Takes a peer's answer to the ping that was sent at `answer.sent`.
    pub fn on_answer(&mut self, now: Tick, answer: &Answer) -> Vec<PromiseEvent> {
        if answer.sent > now {
            return Vec::new();
        }
        self.heard.insert(answer.from, now);
        let mut events = Vec::new();
        for promise in &answer.promises {
            let is_past = self.saw(promise.giver, promise.giver_incarnation);
            let Some(seat) = self.seats.get_mut(&(promise.set, promise.holder)) else {
                continue;
            };
            if promise.holder_incarnation != seat.incarnation {
                continue;
            }
            seat.hello_acked.insert(promise.giver);
            if !is_past {
                // Counted from the sending (trap 19): a paused process finds it run out.
                seat.take(promise, answer.sent.after(PROMISE), &mut events);
            }
        }
        events
    }

    /// Until when the brick may serve clients; `Tick::ZERO` when it may not.
    pub fn serve_until(&self, set: SetKey, brick: BrickId) -> Tick {
        let Some(seat) = self.seats.get(&(set, brick)) else { return Tick::ZERO };
        seat.serve_until(brick, |other| self.local_promise(set, other, brick, seat))
    }

    /// A brick of the same process promises by being there: both end together.
    fn local_promise(
        &self,
        set: SetKey,
        giver: BrickId,
        holder: BrickId,
        holder_seat: &Seat,
    ) -> Option<Tick> {
        let seat = self.seats.get(&(set, giver))?;
        let epoch = holder_seat.map.as_ref()?.epoch;
        let claim = Claim { set, brick: holder, incarnation: holder_seat.incarnation, epoch };
        Some(match seat.verdict(giver, &claim) {
            Word::Stay => Tick::NEVER,
            _ => Tick::ZERO,
        })
    }

    /// Until when leases of earlier leads of the set may run, whichever way those leads ended:
    /// if `brick` leads now, it grants nothing before.
    pub fn leased_until(&self, set: SetKey, brick: BrickId) -> Tick {
        self.seats.get(&(set, brick)).map_or(Tick::NEVER, Seat::leased_until)
    }

    /// Stops promising `victim` in `epoch`, for ever. Returns when this brick may agree to the
    /// eviction; `None` when its set is in another epoch, or either is not in-sync there.
    pub fn stop(
        &mut self,
        set: SetKey,
        brick: BrickId,
        epoch: Epoch,
        victim: BrickId,
    ) -> Option<Tick> {
        self.seats.get_mut(&(set, brick))?.stop(brick, epoch, victim)
    }

    /// When the last promise that `victim` can hold from `brick` has run out.
    pub fn wait_before_evict(&self, set: SetKey, brick: BrickId, victim: BrickId) -> Tick {
        self.seats.get(&(set, brick)).map_or(Tick::NEVER, |s| s.given_until(victim))
    }

    /// Agrees that the joiner's `Join` may be committed in `epoch`. From now on the brick
    /// serves only while it holds the joiner's promise too.
    ///
    /// # Errors
    /// Why it does not agree; nothing has changed then.
    pub fn agree_join(
        &mut self,
        set: SetKey,
        brick: BrickId,
        epoch: Epoch,
        joiner: (BrickId, Incarnation),
    ) -> Result<(), JoinRefused> {
        if self.is_past(joiner.0, joiner.1) {
            return Err(JoinRefused::Joiner);
        }
        let seat = self.seats.get_mut(&(set, brick)).ok_or(JoinRefused::NotInSync)?;
        seat.agree_join(brick, epoch, joiner)
    }

    /// Joiner's side: from now on it promises the members of `epoch` to stay with it there.
    pub fn offer_join(&mut self, set: SetKey, brick: BrickId, epoch: Epoch) -> bool {
        self.seats.get_mut(&(set, brick)).is_some_and(|s| s.offer_join(brick, epoch))
    }

    /// Joiner's side: "this incarnation never serves", which ends every agreement to its join
    /// once heard, whether its Join is committed or not. It needs a new incarnation to return.
    pub fn never_serve(&mut self, set: SetKey, brick: BrickId) {
        if let Some(seat) = self.seats.get_mut(&(set, brick)) {
            seat.never = true;
        }
    }

    /// The join to which this brick agreed in the present epoch, if it did.
    pub fn agreed_join(&self, set: SetKey, brick: BrickId) -> Option<(BrickId, Incarnation)> {
        self.seats.get(&(set, brick))?.joiner
    }

    /// Peers unheard for so long that they are taken for dead.
    pub fn silent(&self, now: Tick) -> Vec<PeerId> {
        self.peers().into_iter().filter(|peer| !self.hears(now, *peer)).collect()
    }

    /// Whether a peer is heard, or was a moment ago.
    pub fn hears(&self, now: Tick, peer: PeerId) -> bool {
        self.heard.get(&peer).is_some_and(|heard| now.since(*heard) < SUSPECT_AFTER)
    }

    /// Promises that in-sync bricks of this peer miss: (set, holder, giver). Reported to the
    /// pool's leader, early enough that its questions overlap the promise's rest.
    pub fn lacks(&self, now: Tick) -> Vec<(SetKey, BrickId, BrickId)> {
        let rest = now.after(PROMISE - SUSPECT_AFTER);
        let mut lacks = Vec::new();
        for ((set, brick), seat) in self.seats.iter().filter(|(_, seat)| !seat.young(now)) {
            let local = |giver| self.local_promise(*set, giver, *brick, seat);
            lacks.extend(seat.lacks(*brick, rest, local).map(|giver| (*set, *brick, giver)));
        }
        lacks
    }

    /// A brick of this peer waits for the first promises of a new epoch: ping again soon.
    pub fn impatient(&self, now: Tick) -> bool {
        let waits = |(key, seat): (&(SetKey, BrickId), &Seat)| {
            seat.young(now) && seat.active(key.1) && self.serve_until(key.0, key.1) <= now
        };
        self.seats.iter().any(waits)
    }

    fn seats_of(&self, set: SetKey) -> impl Iterator<Item = (SetKey, BrickId)> {
        self.seats.keys().copied().filter(move |(s, _)| *s == set)
    }

    fn is_past(&self, brick: BrickId, incarnation: Incarnation) -> bool {
        self.past.get(&brick).is_some_and(|p| p.contains(&incarnation))
    }

    /// Notes that this incarnation of a brick lives: the one that the map names, if another,
    /// is gone, with its promises (its successor's hello). True if it is itself known as gone.
    fn saw(&mut self, brick: BrickId, incarnation: Incarnation) -> bool {
        if self.is_past(brick, incarnation) {
            return true;
        }
        let mut replaced: Vec<Incarnation> =
            self.seats.values_mut().filter_map(|s| s.saw(brick, incarnation)).collect();
        replaced.dedup();
        for old in replaced {
            self.gone(brick, old);
        }
        false
    }

    fn gone(&mut self, brick: BrickId, incarnation: Incarnation) {
        if incarnation == Incarnation::default() || self.is_past(brick, incarnation) {
            return;
        }
        let past = self.past.entry(brick).or_default();
        past.push_back(incarnation);
        if past.len() > PAST_MAX {
            past.pop_front();
        }
        for seat in self.seats.values_mut() {
            seat.gone(brick, incarnation);
        }
    }
}

#[cfg(test)]
#[path = "../promise_test.rs"]
mod tests;
