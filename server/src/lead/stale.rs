//! Heals single stale copies of in-sync members, at once, from a good copy.
//!
//! The lead takes the inode's leases as a session of its own, so that nobody reads or changes
//! it; what a large file needs is copied before that, without leases, and only compared again
//! under them. The mark is cleared on all members once the copy is on stable storage.

use std::rc::Rc;
use std::time::Duration;

use proto::fop::{Call, Checkpoint, LeaseKey, MarkStale, Mode, SweepParked};
use proto::{BrickId, Epoch, Errno, Failure, Gfid, SessionId};
use proto_rules::Tick;
use proto_rules::lease::Lease;
use proto_rules::lease::table::{Ask, How};
use proto_rules::time::{LEASE_TERM, MS};
use tokio::sync::oneshot;

use super::copy::Copier;
use super::settle::ASK_AGAIN;
use crate::brick::{Brick, Core, mark_of, now};

/// The lead's own session.
pub const HEALER: SessionId = SessionId(u64::MAX);
/// Before a copy that could not be healed is tried again.
const AGAIN: u64 = 1000 * MS;

/// What the lead is healing.
#[derive(Debug, Default)]
pub struct StaleHeal {
    /// Under way, with the leases that it holds or waits for.
    busy: Option<Gfid>,
    again: Tick,
}

impl Core {
    /// Time passes: starts on the next stale copy of a member that serves.
    pub fn heal_stale(&mut self, now: Tick) {
        let in_sync: Vec<BrickId> = match self.member.map() {
            Some(map) => map.in_sync().map(|m| m.brick).collect(),
            None => return,
        };
        let marked = self.member.stale.iter().find(|(brick, _)| in_sync.contains(brick));
        let epoch = self.epoch();
        let Some(lead) = self.lead.as_mut().filter(|lead| lead.table.serving()) else { return };
        if let Some(gfid) = lead.stale.busy {
            // Alive for as long as it copies; a recalled lease runs out in the end all the same.
            let keys = [LeaseKey::Inode(gfid), LeaseKey::Part(gfid)];
            let _ = lead.table.renew(now, HEALER, LEASE_TERM, &keys);
            return;
        }
        let Some((brick, gfid)) = marked else { return };
        if now < lead.stale.again || lead.table.hello(now, HEALER).is_err() {
            return;
        }
        lead.stale.busy = Some(gfid);
        self.spawn(|here| async move {
            let healed = heal(&here, epoch, brick, gfid).await;
            let mut core = here.core.borrow_mut();
            match healed {
                Ok(()) => tracing::info!(%gfid, %brick, "a stale copy is healed"),
                Err(failure) => tracing::warn!(%gfid, %brick, ?failure, "a copy stays stale"),
            }
            if let Some(lead) = &mut core.lead {
                lead.stale.busy = None;
                lead.stale.again = if healed.is_ok() { Tick::ZERO } else { later() };
            }
        });
    }

    /// Asks for an exclusive lease for the lead's own healing.
    fn ask_for_heal(&mut self, key: LeaseKey) -> Option<oneshot::Receiver<Lease>> {
        let id = self.fresh_id();
        let lead = self.lead.as_mut()?;
        let (granted, lease) = oneshot::channel();
        lead.asks.insert(id, granted);
        let ask = Ask { session: HEALER, id, key, mode: Mode::Exclusive, how: How::Waits };
        let commands = lead.table.ask(now(), ask);
        self.lease_commands(commands);
        Some(lease)
    }

    /// A lease was granted to an ask of the lead's own. False: it is somebody else's.
    pub fn granted_to_heal(&mut self, ask: u64, lease: Lease) -> bool {
        let waits = self.lead.as_mut().and_then(|lead| lead.asks.remove(&ask));
        let Some(waits) = waits else { return false };
        if waits.send(lease).is_err() {
            self.give_back(HEALER, lease);
        }
        true
    }
}

fn later() -> Tick {
    now().after(AGAIN)
}

/// The leases of one inode, given back when dropped.
struct Held {
    brick: Rc<Brick>,
    leases: Vec<Lease>,
}

impl Held {
    async fn take(brick: &Rc<Brick>, gfid: Gfid) -> Result<Held, Failure> {
        let mut held = Held { brick: brick.clone(), leases: Vec::new() };
        for key in [LeaseKey::Inode(gfid), LeaseKey::Part(gfid)] {
            let asked = brick.core.borrow_mut().ask_for_heal(key);
            let lease = asked.ok_or(Errno::EAGAIN)?.await.map_err(|_| Errno::EAGAIN)?;
            held.leases.push(lease);
        }
        Ok(held)
    }

    /// Whether nobody else can have been granted them since.
    fn still(&self) -> bool {
        let core = self.brick.core.borrow();
        let Some(lead) = &core.lead else { return false };
        self.leases.iter().all(|l| lead.table.permits(HEALER, l.key, l.number))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut core = self.brick.core.borrow_mut();
        self.leases.drain(..).for_each(|lease| core.give_back(HEALER, lease));
    }
}

async fn heal(brick: &Rc<Brick>, epoch: Epoch, stale: BrickId, gfid: Gfid) -> Result<(), Failure> {
    let copier = Copier::new(brick, epoch);
    let source = {
        let core = brick.core.borrow();
        core.member.stale.source(gfid, copier.here(), &copier.members()).ok_or(Errno::EIO)?
    };
    copier.data_before(gfid, source, stale).await?;
    let held = Held::take(brick, gfid).await?;
    {
        let _turn = copier.turn().await;
        copier.all_of(gfid, source, stale).await?;
        let keep = copier.orphans();
        copier.call(stale, Call::new(SweepParked { keep })).await?;
    }
    copier.call(stale, Call::new(Checkpoint {})).await?;
    if !held.still() {
        return Err(Errno::EAGAIN.into());
    }
    // Not in a joiner's pause: it has its list of marks already.
    while !brick.core.borrow_mut().member.begin_marking(&[]) {
        if !copier.leads() || !held.still() {
            return Err(Errno::EAGAIN.into());
        }
        tokio::time::sleep(ASK_AGAIN).await;
    }
    let cleared = clear_everywhere(&copier, mark_of(stale, gfid, true)).await;
    brick.core.borrow_mut().end_marking(epoch);
    cleared
}

/// The healed member first: should the lead die in between, the next one unites the marks that
/// are left, and a good copy must not be taken for stale for ever.
async fn clear_everywhere(copier: &Copier, mark: MarkStale) -> Result<(), Failure> {
    let mut members = copier.members();
    members.sort_by_key(|member| member.as_bytes() != &mark.brick.0);
    for member in members {
        while clear(copier, member, mark).await.is_err() {
            if !copier.leads() {
                return Err(Errno::EAGAIN.into());
            }
            tokio::time::sleep(ASK_AGAIN).await;
        }
    }
    Ok(())
}

async fn clear(copier: &Copier, member: BrickId, mark: MarkStale) -> Result<(), Failure> {
    if member == copier.here() {
        return Ok(copier.brick.core.borrow_mut().mark_stale_here(&mark)?);
    }
    tokio::time::timeout(Duration::from_secs(5), copier.call(member, Call::new(mark)))
        .await
        .map_err(|_| Errno::ETIMEDOUT)?
        .map(|_| ())
}
