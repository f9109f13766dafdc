//! A new lead: everything is settled first, then only reclaims are accepted for a while.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use proto::{Epoch, Gfid, LeaseNumber, Refusal, SessionId};

use super::{Lease, LeaseCommand, LeaseKey, LeaseTable, Mode, Phase, Session};
use crate::lease::numbers::Numbers;
use crate::time::{GRACE, LEASE_TERM, Tick, given};

/// A session's word to a new lead: what it held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reclaim {
    pub session: SessionId,
    pub leases: Vec<ReclaimedLease>,
    /// Inodes that it has open.
    pub pins: Vec<Gfid>,
    /// Nothing more will come: the grace need not wait for this session.
    pub last: bool,
}

/// An exclusive lease as last held. Shared ones lapse at a new lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReclaimedLease {
    pub key: LeaseKey,
    pub number: LeaseNumber,
    /// The last epoch in which it was granted, reclaimed or renewed.
    pub last_renewed_epoch: Epoch,
}

/// What a reclaim brought.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reclaimed {
    /// Held again, under a new number.
    pub granted: Vec<Lease>,
    /// Gone: what was not written back is lost, open files on it answer EIO.
    pub refused: Vec<LeaseKey>,
}

impl LeaseTable {
    /// The table of a lead that has just become it (or restarted). `last_graced`: the greatest
    /// epoch that any member noted as graced. `sessions`: all that any member heard of.
    pub fn new_lead(
        epoch: Epoch,
        last_graced: Epoch,
        sessions: impl IntoIterator<Item = SessionId>,
    ) -> Self {
        let awaiting: BTreeSet<SessionId> = sessions.into_iter().collect();
        Self {
            epoch,
            counter: 0,
            flips: BTreeMap::new(),
            sessions: awaiting.iter().map(|s| (*s, Session::default())).collect(),
            phase: Phase::Settling { awaiting },
            last_graced,
            earlier_until: Tick::ZERO,
            keys: BTreeMap::new(),
            pins: BTreeMap::new(),
            recalled: BTreeSet::new(),
            deferred: BTreeMap::new(),
            waiting: BTreeMap::new(),
            recent: VecDeque::new(),
            contended: BTreeMap::new(),
            looked: None,
        }
    }

    /// Leases of earlier leads may run until then: the grace lasts at least as long. Only an
    /// eviction waits them out before the new epoch begins; a lead that leaves or restarts
    /// does not. Said before `lists_settled`.
    pub fn earlier_leases(&mut self, until: Tick) {
        self.earlier_until = until;
    }

    /// The unsettled changes of all sessions are equal on all members: reclaims are accepted
    /// from now on. Not before, for a reclaimed holder sends changes at once, and a copy of
    /// older bytes under way could overwrite them on one member.
    pub fn lists_settled(&mut self, now: Tick) -> Vec<LeaseCommand> {
        let mut commands = Vec::new();
        if let Phase::Settling { awaiting } = &mut self.phase {
            let awaiting = std::mem::take(awaiting);
            let until = now.after(GRACE).max(self.earlier_until);
            // Nobody remembers a session, but leases were granted in this set: living holders
            // are given the time to come.
            let forgotten = awaiting.is_empty() && self.last_graced != Epoch::NONE;
            let at_least = if forgotten { until } else { self.earlier_until };
            // Nobody could renew meanwhile; the count of their silence starts here.
            for session in self.sessions.values_mut() {
                session.heard = now;
                session.renewed_until = until.after(given(LEASE_TERM));
            }
            self.phase = Phase::Grace { until, at_least, awaiting };
            self.end_grace_if_due(now, &mut commands);
        }
        commands
    }

    /// A session reclaims. Valid only in the grace, only for a lease renewed in the last epoch
    /// whose grace had ended or later (traps 16, 59), and only while nobody knows a newer
    /// number.
    ///
    /// # Errors
    /// `Busy` before the lists are settled; `StaleLease` after the grace.
    pub fn reclaim(
        &mut self,
        now: Tick,
        reclaim: &Reclaim,
        numbers: &Numbers,
    ) -> Result<(Reclaimed, Vec<LeaseCommand>), Refusal> {
        match self.phase {
            Phase::Settling { .. } => return Err(Refusal::Busy),
            Phase::Grace { until, .. } if now < until => {}
            _ => return Err(Refusal::StaleLease),
        }
        self.hello(now, reclaim.session)?;
        let mut result = Reclaimed::default();
        for lease in &reclaim.leases {
            if self.reclaimable(lease, numbers) {
                let number = self.next_number(lease.key);
                let lease = Lease { key: lease.key, mode: Mode::Exclusive, number };
                self.hold(now, reclaim.session, lease);
                result.granted.push(lease);
            } else {
                result.refused.push(lease.key);
            }
        }
        for gfid in &reclaim.pins {
            self.pin(reclaim.session, *gfid);
        }
        let mut commands = Vec::new();
        if reclaim.last
            && let Phase::Grace { awaiting, .. } = &mut self.phase
        {
            awaiting.remove(&reclaim.session);
            self.end_grace_if_due(now, &mut commands);
        }
        Ok((result, commands))
    }

    /// Whether the grace is on: what was held under the lead before can be claimed.
    pub fn reclaims(&self, now: Tick) -> bool {
        matches!(self.phase, Phase::Grace { until, .. } if now < until)
    }

    fn reclaimable(&self, lease: &ReclaimedLease, numbers: &Numbers) -> bool {
        let held = self.keys.get(&lease.key).is_some_and(|k| !k.holders.is_empty());
        lease.last_renewed_epoch >= self.last_graced
            && numbers.may_reclaim(lease.key, lease.number)
            && !held
    }

    /// Every member has noted that `epoch`'s grace has ended: grants begin.
    pub fn graced(&mut self, epoch: Epoch) {
        if matches!(self.phase, Phase::Noting) && epoch == self.epoch {
            self.phase = Phase::Serving;
        }
        self.last_graced = self.last_graced.max(epoch);
    }

    pub(super) fn end_grace_if_due(&mut self, now: Tick, commands: &mut Vec<LeaseCommand>) {
        if let Phase::Grace { until, at_least, awaiting } = &self.phase
            && (now >= *until || (awaiting.is_empty() && now >= *at_least))
        {
            self.phase = Phase::Noting;
            commands.push(LeaseCommand::NoteGraced { epoch: self.epoch });
        }
    }

    pub(super) fn grace_end(&self) -> Option<Tick> {
        match self.phase {
            Phase::Grace { at_least, ref awaiting, .. } if awaiting.is_empty() => Some(at_least),
            Phase::Grace { until, .. } => Some(until),
            _ => None,
        }
    }
}
