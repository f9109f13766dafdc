//! One operation: where it belongs, which leases it needs, and how its end is told.

use std::sync::Arc;
use std::time::Duration;

use proto::fop::{
    Acquire, Answer, Call, Class, Done, Entries, Fop, Getattr, LeaseKey, Locked, Mode, Op, Outcome,
    Readdir, Return, StatfsAnswer, Want,
};
use proto::frame::Status;
use proto::{Errno, Failure, Gfid, Refusal, SetId};
use proto_rules::Tick;

use super::leases::{Gap, Hold, NoLease};
use super::{Session, SetState, needs};
use crate::clock;
use crate::distribute::{Place, Router, merge_entries, sum_statfs};
use crate::replicate::{Ask, Change, End, Footing, RETRY_AFTER, Said, wake_at};
use crate::transport::Reply;

impl Session {
    pub(super) async fn perform(&self, call: Call, wants: Vec<Want>) -> Outcome {
        let deadline = self.deadline();
        let fop = call.fop.clone();
        let outcome = match self.place(&call.fop, deadline).await? {
            Place::One(set) => self.at(set, call, wants, deadline).await,
            Place::Each(sets) => self.at_each(&sets, &call, &wants, deadline).await,
            Place::Refused(errno) => Err(errno.into()),
            Place::Unknown(_) => Err(Errno::EIO.into()),
        };
        if let Ok(done) = &outcome {
            self.buckets.learn_answer(&fop, &done.answer);
        }
        outcome
    }

    pub(super) fn deadline(&self) -> Tick {
        let timeout = Duration::from_secs(self.members.map().options.op_timeout_s.into());
        clock::now().after(timeout.as_nanos() as u64)
    }

    pub(super) fn route<T>(&self, route: impl FnOnce(&Router<'_>) -> T) -> T {
        let map = self.members.map();
        route(&Router { map: &map, buckets: &self.buckets })
    }

    /// The place, after asking for bucket counts that it depends on.
    async fn place(&self, fop: &Fop, deadline: Tick) -> Result<Place, Errno> {
        loop {
            match self.route(|router| router.place(fop)) {
                Place::Unknown(dir) => self.learn_buckets(dir, deadline).await?,
                place => return Ok(place),
            }
        }
    }

    async fn learn_buckets(&self, dir: Gfid, deadline: Tick) -> Result<(), Errno> {
        let set = self.route(|router| router.inode(dir));
        let call = Call::new(Getattr { gfid: dir });
        let got = self.read(set, &call, Vec::new(), deadline).await.map_err(errno_of)?;
        match got.answer {
            Answer::Attr(attr) if attr.is_dir() => {
                self.buckets.learn(dir, attr.buckets.max(1));
                Ok(())
            }
            _ => Err(Errno::ENOTDIR),
        }
    }

    async fn at(&self, set: SetId, call: Call, wants: Vec<Want>, deadline: Tick) -> Outcome {
        match call.fop.op().class() {
            Class::Read => self.read(set, &call, wants, deadline).await,
            Class::Change => self.change(set, call, wants, deadline).await,
            Class::Lead => self.at_lead(set, &call, wants, deadline).await,
            Class::Peer => Err(Errno::EPERM.into()),
        }
    }

    /// A read of every set, all at once.
    async fn at_each(
        &self,
        sets: &[SetId],
        call: &Call,
        wants: &[Want],
        deadline: Tick,
    ) -> Outcome {
        let parts = sets.iter().map(|set| {
            let here = |want: &&Want| match LeaseKey::from(want.key) {
                // Whatever is found there.
                LeaseKey::Inode(gfid) if gfid.is_nil() => true,
                LeaseKey::Inode(gfid) => self.route(|router| router.inode(gfid)) == *set,
                LeaseKey::Part(_) => true,
            };
            let wants = wants.iter().filter(here).copied().collect();
            self.read(*set, call, wants, deadline)
        });
        let (mut pages, mut spaces, mut grants) = (Vec::new(), Vec::new(), Vec::new());
        for part in futures_util::future::join_all(parts).await {
            match part {
                Ok(mut done) => {
                    grants.append(&mut done.grants);
                    match done.answer {
                        Answer::Entries(page) => pages.push(page),
                        Answer::Statfs(space) => spaces.push(space),
                        _ => return Err(Errno::EIO.into()),
                    }
                }
                // A set that has no part of the directory yet has no names of it.
                Err(Failure::Errno(Errno::ENOENT)) if call.fop.op() == Op::Readdir => {
                    pages.push(Entries { entries: Vec::new(), end: true });
                }
                Err(failure) => return Err(failure),
            }
        }
        let mut done = Return::from(whole(&call.fop, pages, &spaces));
        done.grants = grants;
        Ok(done)
    }

    async fn read(&self, set: SetId, call: &Call, mut wants: Vec<Want>, deadline: Tick) -> Outcome {
        let state = self.set(set).ok_or(Errno::EIO)?;
        state.leases.worth_asking(&mut wants);
        let key = needs::of_read(&call.fop).filter(|_| wants.is_empty());
        let hold = key.and_then(|key| state.leases.hold(key, Mode::Shared));
        let under = hold.as_ref().and_then(|hold| hold.under().first().copied());
        let _asking = state.leases.ask(&wants, false);
        let ask = Ask { call, under, wants, background: false };
        let said = state.replica.ask(ask, deadline).await?;
        conclude(&state, said, call.fop.op())
    }

    /// Locks, and explicit wishes for leases.
    async fn at_lead(&self, set: SetId, call: &Call, wants: Vec<Want>, deadline: Tick) -> Outcome {
        let deadline = match &call.fop {
            // Whoever waits for a lock waits until a signal.
            Fop::Lock(lock) if lock.wait => Tick::NEVER,
            // The session's own business.
            Fop::Release(_) | Fop::Renew(_) => return Err(Errno::EINVAL.into()),
            _ => deadline,
        };
        let state = self.set(set).ok_or(Errno::EIO)?;
        loop {
            let lead_since = state.leases.lead_since();
            let _asking = state.leases.ask(&wants, false);
            let ask = Ask { call, under: None, wants: wants.clone(), background: false };
            let said = state.replica.ask(ask, deadline).await?;
            let done = conclude(&state, said, call.fop.op())?;
            match (&call.fop, &done.answer) {
                // By a lead that is gone: the next one has to hear of it, too.
                (Fop::Lock(lock), Answer::Locked(Locked { conflict: None }))
                    if !state.leases.locked(lead_since, lock) => {}
                _ => return Ok(done),
            }
        }
    }

    async fn change(
        &self,
        set: SetId,
        mut call: Call,
        mut wants: Vec<Want>,
        deadline: Tick,
    ) -> Outcome {
        if self.read_only || self.members.map().options.read_only {
            return match call.fop {
                // Nothing of ours is waiting to be made durable.
                Fop::Fsync(_) => Ok(Answer::Done(Done {}).into()),
                _ => Err(Errno::EROFS.into()),
            };
        }
        // Buffered data has its time already. It is only good under the lease under which it
        // was written, never under one asked for later.
        let buffered = call.stamp.0 != 0;
        if !buffered {
            call.stamp = self.stamps.next(clock::now());
        }
        let state = self.set(set).ok_or(Errno::EIO)?;
        self.take_space(set, super::space::needed(&call), deadline).await?;
        let _sealed = self.seal(&call.fop, set, deadline).await?;
        let keys = needs::of_change(&call.fop);
        state.leases.worth_asking(&mut wants);
        let yields = !buffered && needs::may_be_executed(&call.fop);
        loop {
            let footing =
                self.footing(&state, &call.fop, &keys, (buffered, yields), deadline).await?;
            let execute = footing.is_none();
            let footing: Box<dyn Footing> = match footing {
                Some(hold) => Box::new(hold),
                None => Box::new(NoLease),
            };
            keep_if_open(&state, &mut call.fop);
            let creates = matches!(call.fop, Fop::Create(_));
            let _asking = state.leases.ask(&wants, creates);
            let change = Change { call: call.clone(), wants: wants.clone(), footing, execute };
            match state.replica.change(change, deadline).await {
                End::Done { reply, .. } if execute && is_declined(&reply) => {
                    declined(&state, &call.fop, &keys).await?;
                }
                End::Done { reply, lead } => {
                    let mut done = reply.into_outcome(call.fop.op())?;
                    if let Some((brick, lead)) = lead {
                        state.leases.granted(brick, lead.sent, &lead.grants);
                        done.grants = lead.grants;
                    }
                    return Ok(done);
                }
                End::Failed(errno) => return Err(errno.into()),
                End::LeaseLost if buffered => return Err(Errno::EIO.into()),
                // Done again it would be another one.
                End::LeaseLost if execute && needs::is_append(&call.fop) => {
                    return Err(Errno::EIO.into());
                }
                // All members agree about what became of it; tried again, it is recognised
                // by state where it had happened.
                End::LeaseLost => {
                    call.resend = true;
                    confirm(&state, &keys, deadline).await?;
                }
            }
        }
    }

    /// The leases under which a change is made. `None`: the lead executes it.
    async fn footing(
        &self,
        state: &Arc<SetState>,
        fop: &Fop,
        keys: &[LeaseKey],
        (buffered, yields): (bool, bool),
        deadline: Tick,
    ) -> Result<Option<Hold>, Errno> {
        if needs::is_append(fop) || (yields && state.leases.are_contended(keys)) {
            return Ok(None);
        }
        let how = Obtain { mode: Mode::Exclusive, buffered, yields };
        obtain(state, keys, how, deadline).await
    }

    /// Before a directory with parts on several sets is removed: takes the other sets' parts,
    /// so that nobody makes a name there meanwhile, and looks whether they are empty.
    async fn seal(&self, fop: &Fop, set: SetId, deadline: Tick) -> Result<Vec<Hold>, Errno> {
        let Fop::Rmdir(rmdir) = fop else { return Ok(Vec::new()) };
        let dir = rmdir.expect;
        if self.members.map().sets.len() < 2 || dir.is_nil() {
            return Ok(Vec::new());
        }
        if self.buckets.get(dir).is_none() {
            self.learn_buckets(dir, deadline).await?;
        }
        let buckets = self.buckets.get(dir).unwrap_or(1);
        let mut holds = Vec::new();
        for other in self.route(|router| router.parts(dir, buckets)) {
            if other == set {
                continue;
            }
            let state = self.set(other).ok_or(Errno::EIO)?;
            let key = [LeaseKey::Part(dir)];
            holds.extend(obtain(&state, &key, Obtain::waiting(Mode::Exclusive), deadline).await?);
            let readdir = Call::new(Readdir { gfid: dir, limit: 1, ..Readdir::default() });
            match self.read(other, &readdir, Vec::new(), deadline).await {
                Err(Failure::Errno(Errno::ENOENT)) => {}
                Ok(Return { answer: Answer::Entries(page), .. }) if page.entries.is_empty() => {}
                Ok(_) => return Err(Errno::ENOTEMPTY),
                Err(failure) => return Err(errno_of(failure)),
            }
        }
        Ok(holds)
    }
}

/// Answers of several sets as one.
fn whole(fop: &Fop, pages: Vec<Entries>, spaces: &[StatfsAnswer]) -> Answer {
    match fop {
        Fop::Readdir(readdir) => Answer::Entries(merge_entries(pages, readdir.limit as usize)),
        _ => Answer::Statfs(sum_statfs(spaces)),
    }
}

/// Takes in what a reply grants, and gives its outcome.
fn conclude(state: &SetState, said: Said, op: Op) -> Outcome {
    state.leases.granted(said.brick, said.reply.sent, &said.reply.grants);
    said.reply.into_outcome(op).map_err(|failure| errno_of(failure).into())
}

/// Refusals end below; one that is left over is a fault of ours or of a member.
pub(super) fn errno_of(failure: Failure) -> Errno {
    match failure {
        Failure::Errno(errno) => errno,
        Failure::Refused(_) => Errno::EIO,
    }
}

/// Inodes that other sessions have open, or this one, live on without a name.
fn keep_if_open(state: &SetState, fop: &mut Fop) {
    let Some(gfid) = needs::may_lose_its_name(fop) else { return };
    if state.leases.is_pinned(LeaseKey::Inode(gfid)) || state.leases.is_open(gfid) {
        needs::keep(fop);
    }
}

/// The lead has not executed it and never will: this mount holds the lease, or is giving it back.
fn is_declined(reply: &Reply) -> bool {
    matches!(reply.status, Status::Failed(Failure::Errno(Errno::EAGAIN)))
}

/// Where an append goes is known to whoever has the lease: its caller begins anew.
async fn declined(state: &SetState, fop: &Fop, keys: &[LeaseKey]) -> Result<(), Errno> {
    state.leases.forget_contended(keys);
    tokio::time::sleep(RETRY_AFTER).await;
    if needs::is_append(fop) { Err(Errno::EAGAIN) } else { Ok(()) }
}

/// How leases are asked for.
#[derive(Clone, Copy)]
pub(super) struct Obtain {
    pub(super) mode: Mode,
    /// For writing back, which a recalled lease still allows.
    pub(super) buffered: bool,
    /// Of contended keys it would rather have the change executed by the lead.
    pub(super) yields: bool,
}

impl Obtain {
    /// Waits for the holders to give theirs back.
    pub(super) fn waiting(mode: Mode) -> Obtain {
        Obtain { mode, buffered: false, yields: false }
    }
}

/// Gets leases and uses them; `None`: a key is contended, and this yields. While waiting for one, those held already are not in use, so
/// that recalls of them are honoured (no two sessions wait for each other).
pub(super) async fn obtain(
    state: &Arc<SetState>,
    keys: &[LeaseKey],
    Obtain { mode, buffered, yields }: Obtain,
    deadline: Tick,
) -> Result<Option<Hold>, Errno> {
    let timed_out = || wake_at(deadline);
    loop {
        let changed = state.leases.changed();
        let gap = match state.leases.take(keys, mode, buffered) {
            Ok(hold) => return Ok(Some(hold)),
            Err(gap) => gap,
        };
        if buffered && !state.leases.still_ours(keys) {
            return Err(Errno::EIO);
        }
        match gap {
            Gap::Ask(mut wants) if !buffered => {
                wants.iter_mut().for_each(|want| want.yields = yields);
                let asked = tokio::select! {
                    asked = acquire(state, wants, deadline) => asked?,
                    () = timed_out() => return Err(Errno::ETIMEDOUT),
                };
                if asked == Asked::Contended {
                    state.leases.note_contended(keys);
                    return Ok(None);
                }
            }
            // Run out with data buffered under it: the lead may still renew it.
            _ => tokio::select! {
                () = changed => {}
                () = timed_out() => return Err(Errno::ETIMEDOUT),
            },
        }
    }
}

#[derive(PartialEq, Eq)]
enum Asked {
    Answered,
    /// Nothing is granted: the lead would rather execute the change.
    Contended,
}

/// One round trip to the lead for leases.
async fn acquire(state: &Arc<SetState>, wants: Vec<Want>, deadline: Tick) -> Result<Asked, Errno> {
    let _asking = state.leases.ask(&wants, false);
    let count = wants.len();
    let call = Call::new(Acquire {});
    let ask = Ask { call: &call, under: None, wants, background: false };
    let said = state.replica.ask(ask, deadline).await?;
    match said.reply.status {
        Status::Ok => {
            let granted = said.reply.grants.len();
            state.leases.granted(said.brick, said.reply.sent, &said.reply.grants);
            if granted < count {
                tokio::time::sleep(RETRY_AFTER).await;
            }
            Ok(Asked::Answered)
        }
        Status::Failed(Failure::Errno(errno)) => Err(errno),
        Status::Failed(Failure::Refused(Refusal::Contended)) => {
            state.leases.granted(said.brick, said.reply.sent, &said.reply.grants);
            Ok(Asked::Contended)
        }
        Status::Failed(Failure::Refused(refusal)) => {
            debug_assert_eq!(refusal, Refusal::StaleLease, "the others are waited out");
            tokio::time::sleep(RETRY_AFTER).await;
            Ok(Asked::Answered)
        }
    }
}

/// A member refused a lease's number: the lead says which leases are still ours.
async fn confirm(state: &Arc<SetState>, keys: &[LeaseKey], deadline: Tick) -> Result<(), Errno> {
    tokio::time::sleep(RETRY_AFTER).await;
    let wants = state.leases.wants(keys);
    if !wants.is_empty() {
        acquire(state, wants, deadline).await?;
    }
    Ok(())
}
