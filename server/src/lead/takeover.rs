//! Becoming the lead, going on as the lead in a new epoch, and no longer being it.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use proto::fop::{Answer, Call, ClearWindows, Forget, LeaseKey, Unsettled};
use proto::{Epoch, Gfid, LeaseNumber, Refusal, SessionId};
use proto_rules::lease::table::{LeaseTable, SettleScope};

use super::settle::{Collected, settle};
use super::{Lead, Member};
use crate::brick::{Brick, Core, now};

/// Before a member that did not answer is asked again. It is either about to learn the epoch,
/// or about to be evicted.
pub const ASK_AGAIN: Duration = Duration::from_millis(50);

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
                if lead.table.serving() || lead.noting {
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
            self.locks_granted(next);
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

/// Collects what all members hold, makes them equal, then opens the grace.
async fn take_over(brick: Rc<Brick>, epoch: Epoch) {
    let everything = Unsettled { session: 0, gfid: Gfid::NIL, raise: Vec::new() };
    let Some(collected) = settled(&brick, epoch, &everything).await else { return };
    let mut core = brick.core.borrow_mut();
    if !core.leads_in(epoch) {
        return;
    }
    let here: BTreeSet<SessionId> = core.client_sessions().collect();
    let sessions = collected.sessions.into_iter().chain(here);
    let mut table = LeaseTable::new_lead(epoch, collected.graced, sessions);
    // A set in which no grace has ended yet has never granted anything.
    if collected.graced != Epoch::NONE || core.store.opened().suspect() {
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
    let raise = raise.into_iter();
    let ask = Unsettled {
        session: scope.session.0,
        gfid: scope.key.map_or(Gfid::NIL, LeaseKey::gfid),
        raise: raise.map(|(key, number)| proto::fop::Under { key: key.into(), number }).collect(),
    };
    // A lead that leads on has the same table in the next epoch: it goes on there.
    let mut epoch = epoch;
    while settled(&brick, epoch, &ask).await.is_none() {
        let core = brick.core.borrow();
        if core.lead.is_none() || !core.leads_in(core.epoch()) {
            return;
        }
        epoch = core.epoch();
    }
    let mut core = brick.core.borrow_mut();
    let Some(lead) = &mut core.lead else { return };
    let commands = lead.table.settled(now(), scope);
    core.lease_commands(commands);
}

/// Collects, copies and clears, again and again until it is done. `None`: the epoch ended.
async fn settled(brick: &Rc<Brick>, epoch: Epoch, ask: &Unsettled) -> Option<Collected> {
    loop {
        let members = {
            let core = brick.core.borrow();
            if !core.leads_in(epoch) {
                return None;
            }
            core.members.in_sync()
        };
        match settle_once(brick, epoch, ask, &members).await {
            Ok(collected) => return Some(collected),
            Err(failure) => {
                tracing::debug!(?failure, session = ask.session, "settling goes on");
                tokio::time::sleep(ASK_AGAIN).await;
            }
        }
    }
}

async fn settle_once(
    brick: &Rc<Brick>,
    epoch: Epoch,
    ask: &Unsettled,
    members: &[Member],
) -> Result<Collected, proto::Failure> {
    let own = brick.core.borrow_mut().unsettled(ask)?;
    let mut collected = Collected::default();
    collected.add(own);
    let asked = members.iter().map(|member| member.call(epoch, ask.clone().into()));
    for answer in futures_util::future::join_all(asked).await {
        match answer?.answer {
            Answer::UnsettledList(list) => collected.add(list),
            _ => return Err(proto::Errno::EPROTO.into()),
        }
    }
    settle(brick, epoch, &collected, members).await?;
    if !collected.settled.is_empty() {
        let note = ClearWindows { settled: collected.settled.clone(), ..ClearWindows::default() };
        if !tell_all(brick, epoch, &note).await {
            return Err(Refusal::Epoch { current: 0 }.into());
        }
    }
    Ok(collected)
}
