//! Becoming the lead, going on as the lead in a new epoch, and no longer being it.

use std::rc::Rc;

use proto::fop::{Call, ClearWindows, Forget, LeaseKey};
use proto::{Epoch, Gfid, LeaseNumber, Refusal, SessionId};
use proto_rules::lease::table::{LeaseTable, SettleScope};
use proto_rules::settle::Scope;

use super::Lead;
use super::settle::{ASK_AGAIN, settle};
use crate::brick::{Brick, Core, Pending, now};

impl Core {
    /// Leads from now on, without its predecessor's memory.
    pub fn become_lead(&mut self, epoch: Epoch) {
        self.lose_lead();
        tracing::info!(brick = %self.setup.identity.brick, %epoch, "leads its set");
        self.spawn(|brick| take_over(brick, epoch));
    }

    /// The table carries over; numbers start from the new epoch.
    pub fn lead_on(&mut self, epoch: Epoch) {
        match &mut self.lead {
            Some(lead) => {
                lead.table.on_epoch(epoch);
                // Only a grace that has just ended is noted. An epoch without one keeps the note
                // of the last: a holder that has not renewed in it yet may be about to reclaim
                // from the next lead, and leases that ended are known by their numbers.
                if lead.noting {
                    self.start_noting(epoch);
                }
            }
            // Still taking over when the epoch changed: from the start, in the new one.
            None => self.become_lead(epoch),
        }
    }

    pub fn lose_lead(&mut self) {
        let Some(lead) = self.lead.take() else { return };
        for pending in lead.into_waiting() {
            self.refuse(pending, Refusal::NotLead);
        }
    }

    /// Whether a task that was started for `epoch` still has something to do.
    pub fn leads_in(&self, epoch: Epoch) -> bool {
        self.member.is_lead() && self.epoch() == epoch && self.failed.is_none()
    }

    /// A lease ended badly: settles what its holder left, then lets the key go on.
    pub fn start_settle(&mut self, scope: SettleScope, raise: Vec<(LeaseKey, LeaseNumber)>) {
        if scope.key.is_none()
            && let Some(lead) = &mut self.lead
        {
            let next = lead.locks.session_dead(scope.session);
            // Its asks are gone from the table; turns that its requests have already must go, too.
            let dead = |pending: &mut Pending| pending.head.session == scope.session;
            let waiting: Vec<Pending> =
                lead.waiting.extract_if(.., |_, pending| dead(pending)).map(|(_, p)| p).collect();
            self.locks_granted(next);
            for pending in waiting {
                self.refuse(pending, Refusal::UnknownSession);
            }
        }
        let epoch = self.epoch();
        self.spawn(|brick| settle_scope(brick, epoch, scope, raise));
    }

    /// Has every member note that the grace of `epoch` has ended.
    pub fn start_noting(&mut self, epoch: Epoch) {
        if let Some(lead) = &mut self.lead {
            lead.noting = true;
        }
        self.spawn(|brick| async move {
            let note = ClearWindows { graced: epoch.0, ..ClearWindows::default() };
            if tell_all(&brick, epoch, &note).await
                && let Some(lead) = &mut brick.core.borrow_mut().lead
            {
                lead.table.graced(epoch);
                lead.noting &= !lead.table.serving();
            }
        });
    }

    /// A session is gone for good.
    pub fn forget_session(&mut self, session: SessionId, unpinned: Vec<Gfid>) {
        self.forget_orphans(unpinned);
        if let Some(lead) = &mut self.lead {
            lead.space.forget(session);
        }
        let epoch = self.epoch();
        self.spawn(|brick| async move {
            let note = ClearWindows { sessions: vec![session.0], ..ClearWindows::default() };
            tell_all(&brick, epoch, &note).await;
        });
    }

    /// Orphans that nobody has open any more go, on every member.
    pub fn forget_orphans(&mut self, unpinned: Vec<Gfid>) {
        let gone: Vec<Gfid> = unpinned.into_iter().filter(|g| self.orphans.contains(g)).collect();
        if gone.is_empty() {
            return;
        }
        gone.iter().for_each(|gfid| self.forget_here(*gfid));
        let (epoch, members) = (self.epoch(), self.members.in_sync());
        self.spawn(|_| async move {
            // A member that misses it keeps the orphan until its next heal or start: space,
            // never truth.
            for member in &members {
                for gfid in &gone {
                    let forget = Call::new(Forget { gfid: *gfid });
                    if let Err(failure) = member.send(epoch, forget).await {
                        tracing::debug!(%gfid, ?failure, "an orphan stays at a member");
                    }
                }
            }
        });
    }
}

/// Says something to this and every other in-sync member, until all have heard it. False when
/// the epoch ended before.
pub async fn tell_all(brick: &Rc<Brick>, epoch: Epoch, note: &ClearWindows) -> bool {
    let members = {
        let mut core = brick.core.borrow_mut();
        if !core.leads_in(epoch) || core.clear_windows(note).is_err() {
            return false;
        }
        core.members.in_sync()
    };
    let told = members.iter().map(|member| async {
        while member.call(epoch, note.clone().into()).await.is_err() {
            if !brick.core.borrow().leads_in(epoch) {
                return false;
            }
            tokio::time::sleep(ASK_AGAIN).await;
        }
        true
    });
    futures_util::future::join_all(told).await.into_iter().all(|told| told)
}

/// Makes equal what all members hold unsettled, then opens the grace.
async fn take_over(brick: Rc<Brick>, epoch: Epoch) {
    let Some(settled) = settle(&brick, epoch, Scope::All, Vec::new()).await else { return };
    let mut core = brick.core.borrow_mut();
    if !core.leads_in(epoch) {
        return;
    }
    // Those too that said hello here since the lists were collected.
    let sessions = settled.sessions.into_iter().chain(core.client_sessions()).collect::<Vec<_>>();
    let mut table = LeaseTable::new_lead(epoch, settled.graced, sessions);
    // A set in which no grace has ended yet has never granted anything.
    if settled.graced != Epoch::NONE || core.store.opened().suspect() {
        table.earlier_leases(core.setup.gate.leased_until());
    }
    let commands = table.lists_settled(now());
    core.lead = Some(Lead::new(table));
    core.lease_commands(commands);
}

async fn settle_scope(
    brick: Rc<Brick>,
    epoch: Epoch,
    scope: SettleScope,
    raise: Vec<(LeaseKey, LeaseNumber)>,
) {
    // What the lead executes for it ends first: no frame of it is late afterwards.
    while brick.core.borrow().executes_for(scope.session) {
        tokio::time::sleep(ASK_AGAIN / 10).await;
    }
    let epoch = epoch.max(brick.core.borrow().epoch());
    if settle(&brick, epoch, Scope::One(scope), raise).await.is_none() {
        return;
    }
    let mut core = brick.core.borrow_mut();
    let Some(lead) = &mut core.lead else { return };
    let commands = lead.table.settled(now(), scope);
    core.lease_commands(commands);
}
