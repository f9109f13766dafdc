//! Requests that passed the gate, against the store.

use proto::fop::{Answer, Call, Fop, LeaseKey, Return};
use proto::{Errno, Gfid};
use server_store::{Ctx, ReadPlan};

use super::core::Core;
use super::io::blocking;
use super::request::Pending;

impl Core {
    pub fn context(&self) -> Ctx {
        Ctx { interval: self.interval.current(), defer_sync: true }
    }

    /// A read, or anything else that changes nothing.
    pub fn read(&mut self, pending: Pending) {
        match &pending.call.fop {
            Fop::Read(a) => {
                let plan = self.store.plan_read(a.gfid, a.offset, a.len);
                self.run_read(pending, plan);
            }
            Fop::Readdir(_) => {
                let mut pending = pending;
                let result = self.store.execute(&pending.call, &self.context());
                let result = result.map(|done| self.attributes_of_others(&mut pending, done));
                self.done(pending, result);
            }
            _ => {
                let mut pending = pending;
                let result = match self.found(&mut pending) {
                    Some(found) => Ok(found),
                    None => self.store.execute(&pending.call, &self.context()),
                };
                self.done(pending, result);
            }
        }
    }

    /// What was found while its lease was asked for, if nothing was executed since.
    fn found(&self, pending: &mut Pending) -> Option<Return> {
        let (executed, found) = pending.found.take()?;
        (executed == self.executed).then_some(found)
    }

    /// Answers a request that changed nothing, unless the brick itself has failed.
    pub fn done(&mut self, pending: Pending, result: Result<Return, Errno>) {
        if let Err(errno) = &result
            && let Some(reason) = self.own(*errno)
        {
            return self.own_error(pending, &reason);
        }
        self.answer(pending, result.into());
    }

    pub fn run_read(&mut self, mut pending: Pending, plan: Result<ReadPlan, Errno>) {
        let read = match plan {
            Ok(ReadPlan::Done(done)) => return self.done(pending, Ok(done)),
            Err(errno) => return self.done(pending, Err(errno)),
            Ok(ReadPlan::Pending(read)) => read,
        };
        pending.defer();
        let id = self.disk_asked();
        self.spawn(|brick| async move {
            let result = brick.disk.read(read).await;
            let mut core = brick.core.borrow_mut();
            core.disk_answered(id);
            if let Err(errno) = result {
                core.store.io_failed("read", errno);
            }
            core.done(pending, result);
        });
    }

    /// A change that the window has noted.
    pub fn change(&mut self, pending: Pending) {
        self.setup.metrics.bytes_in.add(pending.call.payload.len() as u64);
        if let Fop::Fsync(a) = &pending.call.fop {
            let (gfid, data_only) = (a.gfid, a.data_only);
            return self.sync_then_finish(pending, gfid, data_only, None);
        }
        self.executed += 1;
        let result = self.store.execute(&pending.call, &self.context());
        let result = match result {
            Ok(done) => done,
            Err(errno) => {
                if let Some(reason) = self.own(errno) {
                    return self.own_error(pending, &reason);
                }
                return self.finish_change(pending, Err(errno));
            }
        };
        let result = self.after_change(&pending, result);
        match &pending.call.fop {
            Fop::Write(a) if a.sync => {
                let gfid = a.gfid;
                self.sync_then_finish(pending, gfid, true, Some(result));
            }
            _ if self.lone_sync() => self.checkpoint_then_finish(pending, result),
            _ => self.finish_change(pending, Ok(result)),
        }
    }

    /// What an executed change means for leases, numbers and orphans.
    fn after_change(&mut self, pending: &Pending, mut result: Return) -> Return {
        match (&pending.call.fop, &result.answer) {
            (Fop::Create(a), _) => {
                let part = LeaseKey::Part(a.parent);
                let number = pending.head.under.iter().find(|(key, _)| *key == part);
                if let Some((_, number)) = number {
                    let key = LeaseKey::Inode(a.gfid);
                    self.member.numbers.raise(key, *number);
                    let grant = self.grant_created(pending.head.session, a.gfid, *number);
                    result.grants.extend(grant);
                }
            }
            (Fop::Unlink(a), Answer::Unlinked(done)) if a.keep && done.nlink == 0 => {
                self.orphans.insert(a.expect);
            }
            (Fop::Rename(a), Answer::Renamed(done))
                if a.keep && done.replaced.is_some_and(|attr| attr.nlink == 0) =>
            {
                self.orphans.insert(a.expect_to);
            }
            (Fop::Forget(a), _) => {
                self.orphans.remove(&a.gfid);
            }
            _ => {}
        }
        result
    }

    /// Why an errno is this brick's own failure, not the operation's result.
    fn own(&self, errno: Errno) -> Option<String> {
        if let Some(reason) = self.store.failed() {
            return Some(reason);
        }
        // Others have room where this brick has none: it may not overrule their success.
        let full_alone = errno == Errno::ENOSPC
            && !self.member.lone()
            && self.setup.gate.others_free() / 2 > self.setup.gate.facts().free_bytes;
        (errno == Errno::EIO || full_alone).then(|| format!("{errno:?} from its own disk"))
    }

    /// Puts an inode on stable storage, then answers with `result` (or with the fsync's own).
    fn sync_then_finish(
        &mut self,
        mut pending: Pending,
        gfid: Gfid,
        data_only: bool,
        result: Option<Return>,
    ) {
        let plan = match self.store.plan_fsync(gfid, data_only) {
            Ok(plan) => plan,
            Err(errno) => return self.finish_change(pending, Err(errno)),
        };
        pending.defer();
        let id = self.disk_asked();
        self.spawn(|brick| async move {
            let synced = brick.disk.fsync(plan).await;
            let mut core = brick.core.borrow_mut();
            core.disk_answered(id);
            match core.store.finish_fsync(synced) {
                Ok(done) => core.finish_change(pending, Ok(result.unwrap_or(done))),
                Err(_) => core.own_error(pending, "fsync failed"),
            }
        });
    }

    /// With one copy left and `lone-sync`, a change is durable before it is acknowledged.
    fn lone_sync(&self) -> bool {
        self.map.as_ref().is_some_and(|m| m.options.lone_sync && m.replica > 1)
            && self.member.lone()
    }

    fn checkpoint_then_finish(&mut self, mut pending: Pending, result: Return) {
        pending.defer();
        let (id, handle) = (self.disk_asked(), self.store.checkpoint_handle());
        let interval = self.interval.current();
        self.spawn(|brick| async move {
            let synced = blocking(move || handle.run(interval)).await;
            let mut core = brick.core.borrow_mut();
            core.disk_answered(id);
            match synced {
                Ok(()) => core.finish_change(pending, Ok(result)),
                Err(_) => core.own_error(pending, "checkpoint failed"),
            }
        });
    }

    /// Attributes of entries whose inode another session may be changing are left out; with a
    /// wish for whatever is found, shared leases come along for the others. A page of
    /// `READDIR_ENTRIES_MAX` with all of this is some 500 KiB, half a message.
    fn attributes_of_others(&mut self, pending: &mut Pending, mut done: Return) -> Return {
        let Answer::Entries(list) = &mut done.answer else { return done };
        for entry in list.entries.iter_mut().filter(|e| e.attr.is_some()) {
            let wished = pending.wishes_found && !self.names_change_elsewhere(pending, entry.gfid);
            let key = LeaseKey::Inode(entry.gfid);
            match self.grant_if_free(pending.head.session, key, wished) {
                Some(grant) => pending.grants.extend(grant),
                None => entry.attr = None,
            }
        }
        done
    }

    /// A peer's word that nobody has an orphan open any more.
    pub fn forget_orphan(&mut self, pending: Pending) {
        if pending.head.epoch != self.epoch() || !self.member.in_sync() {
            return self.refuse(pending, proto::Refusal::Epoch { current: self.epoch().0 });
        }
        let result = self.store.execute(&pending.call, &self.context());
        if let Fop::Forget(a) = &pending.call.fop {
            self.orphans.remove(&a.gfid);
        }
        self.done(pending, result);
    }

    /// As `forget_orphan`, by this brick itself.
    pub fn forget_here(&mut self, gfid: Gfid) {
        self.orphans.remove(&gfid);
        let call = Call::new(proto::fop::Forget { gfid });
        if let Err(errno) = self.store.execute(&call, &self.context())
            && errno != Errno::ESTALE
        {
            tracing::warn!(%gfid, ?errno, "an orphan cannot be removed");
        }
    }
}
