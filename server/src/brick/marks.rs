//! Stale marks on this brick, and the lead's rounds in which all in-sync members note them.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use proto::fop::{MarkStale, PauseForJoin};
use proto::{BrickId, Epoch, Errno, Gfid, Refusal};

use super::core::{Brick, Core};
use super::peer_ops::done;
use super::request::Pending;

/// How long a lead tries to have a stale copy noted by everybody before the client asks again.
const MARKING_TRIES: u32 = 60;
/// Inodes of which a joiner may keep its own copy; one that would keep more takes the lead's.
pub const KEPT_MAX: usize = 16_384;
const MARKING_PAUSE: Duration = Duration::from_millis(50);

impl Core {
    pub fn mark_stale_here(&mut self, mark: &MarkStale) -> Result<(), Errno> {
        let brick = BrickId::from_bytes(mark.brick.0);
        self.store.mark_stale(mark.gfid, brick, mark.clear)?;
        if mark.clear {
            self.member.stale.clear(brick, mark.gfid);
        } else if !self.member.stale.mark(brick, mark.gfid) && brick == self.setup.identity.brick {
            self.leave("too many of its copies are stale");
        }
        Ok(())
    }

    /// The lead: every in-sync member notes the mark durably, then the client may go on.
    pub fn mark_stale_everywhere(&mut self, mut pending: Pending, mark: MarkStale) {
        if let Some(refusal) = self.not_leading(&pending) {
            return self.refuse(pending, refusal);
        }
        let brick = BrickId::from_bytes(mark.brick.0);
        let known = self.member.map().is_some_and(|map| map.member(brick).is_some());
        // Only a heal clears marks.
        if !known || mark.clear {
            return self.fail(pending, Errno::EINVAL);
        }
        if !self.member.begin_marking(&[(brick, mark.gfid)]) {
            // In a joiner's pause, or what is marked now is healed first.
            return self.refuse(pending, Refusal::Busy);
        }
        tracing::warn!(gfid = %mark.gfid, %brick, "a copy differs and is marked stale");
        pending.defer();
        let epoch = self.epoch();
        self.spawn(|here| async move {
            let marked = here.mark_all(epoch, vec![(brick, mark.gfid)]).await;
            let mut core = here.core.borrow_mut();
            match marked {
                Ok(true) => core.answer(pending, done()),
                Ok(false) => core.refuse(pending, Refusal::Busy),
                Err(_) => core.own_error(pending, "a stale mark cannot be written"),
            }
        });
    }

    /// A round of marking is over. A new epoch has ended it already.
    pub fn end_marking(&mut self, epoch: Epoch) {
        if self.epoch() == epoch {
            self.member.end_marking();
        }
    }

    /// Whether all marks are set that a joiner's pause needs: what it takes from a stale copy is
    /// stale, too. If not, they are set now, and the joiner asks again.
    pub fn marked_for(&mut self, pause: &PauseForJoin) -> bool {
        let own = self.setup.identity.brick;
        let kept: BTreeSet<Gfid> = pause.keeps.iter().copied().collect();
        if kept.len() > KEPT_MAX || kept.iter().any(|gfid| !self.member.stale.is_stale(own, *gfid))
        {
            // Healed here meanwhile: the joiner's is the older one now.
            return false;
        }
        let Some(joiner) = pause.joiner.map(|brick| BrickId::from_bytes(brick.0)) else {
            return self.member.stale.iter().all(|(brick, _)| brick != own);
        };
        let marks = self.member.marks_for(joiner, &kept);
        if marks.is_empty() {
            return true;
        }
        let epoch = self.epoch();
        if epoch == Epoch(pause.epoch) && self.member.is_lead() && self.member.begin_marking(&[]) {
            tracing::warn!(%joiner, count = marks.len(), "a joiner takes over stale copies");
            self.spawn(move |here| async move {
                if here.mark_all(epoch, marks).await.is_err() {
                    here.core.borrow_mut().leave("a stale mark cannot be written");
                }
            });
        }
        false
    }
}

impl Brick {
    /// Every in-sync member notes these marks durably, which `begin_marking` has allowed. False:
    /// the epoch ended before, or a member does not answer.
    ///
    /// # Errors
    /// This brick cannot note them.
    async fn mark_all(
        self: &Rc<Self>,
        epoch: Epoch,
        marks: Vec<(BrickId, Gfid)>,
    ) -> Result<bool, Errno> {
        let noted = self.mark_all_in(epoch, &marks).await;
        self.core.borrow_mut().end_marking(epoch);
        if noted == Ok(false) {
            self.drop_unfinished(&marks).await;
        }
        noted
    }

    async fn mark_all_in(
        self: &Rc<Self>,
        epoch: Epoch,
        marks: &[(BrickId, Gfid)],
    ) -> Result<bool, Errno> {
        for (brick, gfid) in marks {
            let mark = mark_of(*brick, *gfid, false);
            self.core.borrow_mut().mark_stale_here(&mark)?;
            if !self.tell_members(epoch, mark).await {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// A new epoch cut a round of marking off; nobody was told of its marks. Where they would
    /// leave no good copy they are dropped again. Who leads by then gives all the same marks.
    async fn drop_unfinished(self: &Rc<Self>, marks: &[(BrickId, Gfid)]) {
        let (epoch, clear) = {
            let core = self.core.borrow();
            if !core.member.is_lead() {
                return;
            }
            (core.epoch(), core.member.unfinished(marks))
        };
        for (brick, gfid) in clear {
            let mark = mark_of(brick, gfid, true);
            if self.core.borrow_mut().mark_stale_here(&mark).is_err() {
                return self.core.borrow_mut().leave("a stale mark cannot be cleared");
            }
            if !self.tell_members(epoch, mark).await {
                return;
            }
        }
    }

    /// The other in-sync members note a mark. False: one does not answer in time, or the epoch
    /// has ended.
    async fn tell_members(&self, epoch: Epoch, mark: MarkStale) -> bool {
        let members = self.core.borrow().members.in_sync();
        for member in &members {
            let mut tries = 0;
            while member.call(epoch, mark.into()).await.is_err() {
                tries += 1;
                if tries > MARKING_TRIES || !self.core.borrow().leads_in(epoch) {
                    return false;
                }
                tokio::time::sleep(MARKING_PAUSE).await;
            }
        }
        true
    }
}

/// A stale mark as it is told to a member.
pub fn mark_of(brick: BrickId, gfid: Gfid, clear: bool) -> MarkStale {
    MarkStale { gfid, brick: Gfid(*brick.as_bytes()), clear }
}
