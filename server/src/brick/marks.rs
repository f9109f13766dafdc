//! Stale marks on this brick, and the lead's rounds in which all in-sync members note them.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use proto::fop::{MarkStale, PauseForJoin};
use proto::{BrickId, Epoch, Errno, Gfid, Refusal};
use tokio::sync::oneshot;

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

    /// The lead, by an administrator's word: `source`'s copies are good from now on where no
    /// in-sync member has a good one. The others are healed from them at once (`lead::stale`).
    pub fn trust_copies(
        &mut self,
        source: BrickId,
        answer: oneshot::Sender<Result<usize, String>>,
    ) {
        let in_sync: Vec<BrickId> =
            self.member.map().iter().flat_map(|m| m.in_sync()).map(|m| m.brick).collect();
        let serving = self.lead.as_ref().is_some_and(|lead| lead.table.serving());
        let refused = match () {
            () if !serving => Some("its set's lead does not serve yet; try again in a moment"),
            () if !in_sync.contains(&source) => Some("it is not in-sync"),
            () => None,
        };
        if let Some(why) = refused {
            let _ = answer.send(Err(why.to_owned()));
            return;
        }
        let gfids = self.member.stale.hopeless(source, &in_sync);
        if gfids.is_empty() {
            let _ = answer.send(Ok(0));
            return;
        }
        if !self.member.begin_marking(&[]) {
            let _ = answer.send(Err("a brick is joining; try again in a moment".into()));
            return;
        }
        let epoch = self.epoch();
        self.spawn(move |here| async move {
            let trusted = here.trust_all(epoch, source, &gfids).await;
            here.core.borrow_mut().end_marking(epoch);
            let _ = answer.send(trusted.map(|()| gfids.len()));
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
    /// Clears these marks of `source` on all members, its own first: should the lead die in
    /// between, the next one unites the marks, and each inode is trusted on all of them or none.
    async fn trust_all(
        self: &Rc<Self>,
        epoch: Epoch,
        source: BrickId,
        gfids: &[Gfid],
    ) -> Result<(), String> {
        let own = self.core.borrow().setup.identity.brick;
        let broken_off = || "a member does not answer; say it again when it is back".to_owned();
        for gfid in gfids {
            let mark = mark_of(source, *gfid, true);
            tracing::warn!(%gfid, brick = %source, "by an administrator's word this copy is the good one");
            if source != own && !self.tell_member(epoch, source, mark).await {
                return Err(broken_off());
            }
            let noted = self.core.borrow_mut().mark_stale_here(&mark);
            noted.map_err(|errno| format!("its lead's database: {errno}"))?;
            if !self.tell_members(epoch, mark).await {
                return Err(broken_off());
            }
        }
        Ok(())
    }

    async fn tell_member(&self, epoch: Epoch, brick: BrickId, mark: MarkStale) -> bool {
        let members = self.core.borrow().members.in_sync();
        match members.iter().find(|member| member.brick == brick) {
            Some(member) => member.call(epoch, mark.into()).await.is_ok(),
            None => false,
        }
    }

    /// Every in-sync member notes these marks durably, which `begin_marking` has allowed. False:
    /// the epoch ended before, or a member does not answer.
    ///
    /// # Errors
    /// This brick cannot note them.
    pub async fn mark_all(
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
