//! flock and fcntl locks of one set's inodes: the lead's table, and a session's own of what it holds.
//!
//! Purpose: who holds which range, who waits, who stands in the way. Pure: events in, granted
//! waiters out.
//!
//! Assumes: an owner is (session, owner number); flock and fcntl locks do not see each other,
//! as on a local Linux file system.
//!
//! Promises: fcntl semantics: an owner's new lock replaces its old ones where they overlap, and
//! neighbours of one kind merge; waiters are served in order of arrival, except that one whose
//! conflict is gone never waits for another that conflicts with neither; a session's death
//! frees everything that it held or waited for. A new lead begins with an empty table, into which
//! sessions reclaim what they hold during its grace, before any new lock is granted: `reclaim`.
//!
//! Deliberately does not: detect deadlocks between files (EDEADLK); the kernel of one mount
//! does not for flock either, and a blocked `fcntl` can be interrupted.

use std::collections::BTreeMap;

use proto::fop::Lock;
use proto::{Errno, Gfid, SessionId};

/// Locks held and waited for on one inode; a process that takes more gets ENOLCK.
const PER_INODE_MAX: usize = 4096;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LockKind {
    Read,
    Write,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Owner {
    session: SessionId,
    owner: u64,
    flock: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Held {
    owner: Owner,
    pid: u32,
    kind: LockKind,
    start: u64,
    /// Exclusive; `u64::MAX` is the end of the file wherever it is.
    end: u64,
}

/// Names a request that waits, chosen by the driver.
pub type Waiter = u64;

#[derive(Default, Debug)]
struct Inode {
    held: Vec<Held>,
    waiting: Vec<(Waiter, Held)>,
}

/// What became of a lock request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LockOutcome {
    Done,
    /// The waiter's turn comes with a later event.
    Waits,
    Failed(Errno),
}

#[derive(Default, Debug)]
pub struct Locks {
    inodes: BTreeMap<Gfid, Inode>,
}

impl Held {
    fn from(session: SessionId, lock: &Lock, kind: LockKind) -> Held {
        let owner = Owner { session, owner: lock.owner, flock: lock.flock };
        let (start, end) = if lock.flock { (0, u64::MAX) } else { (lock.start, lock.end) };
        Held { owner, pid: lock.pid, kind, start, end }
    }

    fn told(&self, gfid: Gfid) -> Lock {
        Lock {
            gfid,
            owner: self.owner.owner,
            pid: self.pid,
            start: self.start,
            end: self.end,
            kind: match self.kind {
                LockKind::Read => 1,
                LockKind::Write => 2,
            },
            flock: self.owner.flock,
            wait: false,
            reclaim: false,
        }
    }

    fn overlaps(&self, other: &Held) -> bool {
        self.start < other.end && other.start < self.end
    }

    fn conflicts(&self, other: &Held) -> bool {
        self.owner != other.owner
            && self.owner.flock == other.owner.flock
            && (self.kind == LockKind::Write || other.kind == LockKind::Write)
            && self.overlaps(other)
    }
}

fn kind_of(lock: &Lock) -> Option<LockKind> {
    match lock.kind {
        1 => Some(LockKind::Read),
        2 => Some(LockKind::Write),
        _ => None,
    }
}

impl Locks {
    /// A `Lock` request: take, change or free. Returns its outcome, the waiters whose turn has
    /// come by it, and the waiters that it interrupts: an owner that frees a range waits for
    /// none of it any more (that is how a mount takes an interrupted wait back).
    pub fn lock(
        &mut self,
        session: SessionId,
        lock: &Lock,
        waiter: Waiter,
    ) -> (LockOutcome, Vec<Waiter>, Vec<Waiter>) {
        let failed = |errno| (LockOutcome::Failed(errno), Vec::new(), Vec::new());
        if lock.start >= lock.end && !lock.flock || lock.kind > 2 {
            return failed(Errno::EINVAL);
        }
        let inode = self.inodes.entry(lock.gfid).or_default();
        let Some(kind) = kind_of(lock) else {
            let range = Held::from(session, lock, LockKind::Read);
            inode.free(&range);
            let interrupted = inode.interrupt(&range);
            return (LockOutcome::Done, self.next(lock.gfid), interrupted);
        };
        let new = Held::from(session, lock, kind);
        if inode.held.iter().any(|h| h.conflicts(&new)) {
            if !lock.wait {
                return failed(Errno::EAGAIN);
            }
            if inode.waiting.len() >= PER_INODE_MAX {
                return failed(Errno::ENOLCK);
            }
            inode.waiting.push((waiter, new));
            return (LockOutcome::Waits, Vec::new(), Vec::new());
        }
        if inode.held.len() >= PER_INODE_MAX {
            return failed(Errno::ENOLCK);
        }
        inode.take(new);
        // A lock turned from write to read, or a smaller one, may let others on.
        (LockOutcome::Done, self.next(lock.gfid), Vec::new())
    }

    /// Who stands in the way of this lock.
    pub fn test(&self, session: SessionId, lock: &Lock) -> Option<Lock> {
        let new = Held::from(session, lock, kind_of(lock)?);
        let held = self.inodes.get(&lock.gfid)?.held.iter().find(|h| h.conflicts(&new))?;
        Some(held.told(lock.gfid))
    }

    /// A new lead, in its grace: the session held this under the lead before. False if it cannot
    /// be held again: another's stands in the way, or there are too many.
    pub fn reclaim(&mut self, session: SessionId, lock: &Lock) -> bool {
        let Some(kind) = kind_of(lock).filter(|_| lock.start < lock.end || lock.flock) else {
            return false;
        };
        let new = Held::from(session, lock, kind);
        let inode = self.inodes.entry(lock.gfid).or_default();
        let free =
            inode.held.len() < PER_INODE_MAX && !inode.held.iter().any(|h| h.conflicts(&new));
        if free {
            inode.take(new);
        }
        free
    }

    /// Everything that a session holds, as it is reclaimed from a new lead.
    pub fn held(&self, session: SessionId) -> Vec<Lock> {
        let all = self.inodes.iter().flat_map(|(gfid, inode)| {
            inode.held.iter().filter(|h| h.owner.session == session).map(|h| h.told(*gfid))
        });
        all.map(|lock| Lock { reclaim: true, ..lock }).collect()
    }

    /// The waiting request was given up. No effect on one that has its lock already.
    pub fn cancel(&mut self, waiter: Waiter) {
        for inode in self.inodes.values_mut() {
            inode.waiting.retain(|(w, _)| *w != waiter);
        }
    }

    /// A session is dead: returns the others' waiters whose turn has come.
    pub fn session_dead(&mut self, session: SessionId) -> Vec<Waiter> {
        let touched: Vec<Gfid> = self
            .inodes
            .iter_mut()
            .filter_map(|(gfid, inode)| {
                let before = inode.held.len();
                inode.held.retain(|h| h.owner.session != session);
                inode.waiting.retain(|(_, h)| h.owner.session != session);
                (before != inode.held.len()).then_some(*gfid)
            })
            .collect();
        touched.into_iter().flat_map(|gfid| self.next(gfid)).collect()
    }

    /// Gives the inode's waiters what they can have now, in order.
    fn next(&mut self, gfid: Gfid) -> Vec<Waiter> {
        let Some(inode) = self.inodes.get_mut(&gfid) else { return Vec::new() };
        let mut granted = Vec::new();
        let mut still: Vec<(Waiter, Held)> = Vec::new();
        for (waiter, wanted) in std::mem::take(&mut inode.waiting) {
            let blocked = inode.held.iter().any(|h| h.conflicts(&wanted))
                || still.iter().any(|(_, earlier)| earlier.conflicts(&wanted));
            if blocked {
                still.push((waiter, wanted));
            } else {
                inode.take(wanted);
                granted.push(waiter);
            }
        }
        inode.waiting = still;
        if inode.held.is_empty() && inode.waiting.is_empty() {
            self.inodes.remove(&gfid);
        }
        granted
    }
}

impl Inode {
    /// Sets a range for its owner, replacing what it had there and merging equal neighbours.
    fn take(&mut self, mut new: Held) {
        self.free(&new);
        let mut merged = Vec::new();
        for (at, held) in self.held.iter().enumerate() {
            let touching = held.start <= new.end && new.start <= held.end;
            if held.owner == new.owner && held.kind == new.kind && touching {
                new.start = new.start.min(held.start);
                new.end = new.end.max(held.end);
                merged.push(at);
            }
        }
        for at in merged.into_iter().rev() {
            self.held.swap_remove(at);
        }
        self.held.push(new);
    }

    fn interrupt(&mut self, range: &Held) -> Vec<Waiter> {
        let ends = |h: &Held| h.owner == range.owner && h.overlaps(range);
        let gone = self.waiting.iter().filter(|(_, h)| ends(h)).map(|(w, _)| *w).collect();
        self.waiting.retain(|(_, h)| !ends(h));
        gone
    }

    /// Cuts a range out of what its owner holds.
    fn free(&mut self, range: &Held) {
        let mut rest = Vec::new();
        self.held.retain(|held| {
            if held.owner != range.owner || !held.overlaps(range) {
                return true;
            }
            if held.start < range.start {
                rest.push(Held { end: range.start, ..*held });
            }
            if held.end > range.end {
                rest.push(Held { start: range.end, ..*held });
            }
            false
        });
        self.held.extend(rest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: SessionId = SessionId(1);
    const B: SessionId = SessionId(2);

    fn lock(owner: u64, start: u64, end: u64, kind: u32) -> Lock {
        Lock { gfid: Gfid::ROOT, owner, pid: 7, start, end, kind, ..Lock::default() }
    }

    fn waiting(lock: Lock) -> Lock {
        Lock { wait: true, ..lock }
    }

    #[test]
    fn readers_share_and_writers_do_not() {
        let mut locks = Locks::default();
        assert_eq!(locks.lock(A, &lock(1, 0, 10, 1), 0).0, LockOutcome::Done);
        assert_eq!(locks.lock(B, &lock(1, 5, 15, 1), 0).0, LockOutcome::Done);
        let blocked = locks.lock(B, &lock(1, 0, 6, 2), 0).0;
        assert_eq!(blocked, LockOutcome::Failed(Errno::EAGAIN));
        let conflict = locks.test(B, &lock(1, 0, 6, 2)).expect("A reads there");
        assert_eq!((conflict.start, conflict.end, conflict.kind), (0, 10, 1));
    }

    #[test]
    fn freeing_the_middle_leaves_both_ends() {
        let mut locks = Locks::default();
        locks.lock(A, &lock(1, 0, 100, 2), 0);
        locks.lock(A, &lock(1, 40, 60, 0), 0);
        assert_eq!(locks.lock(B, &lock(9, 40, 60, 2), 0).0, LockOutcome::Done);
        for range in [(39, 40), (60, 61)] {
            let try_it = lock(9, range.0, range.1, 1);
            assert_eq!(locks.lock(B, &try_it, 0).0, LockOutcome::Failed(Errno::EAGAIN));
        }
    }

    #[test]
    fn equal_neighbours_merge_and_a_new_kind_replaces_the_old() {
        let mut locks = Locks::default();
        locks.lock(A, &lock(1, 0, 10, 2), 0);
        locks.lock(A, &lock(1, 10, 20, 2), 0);
        assert_eq!(locks.inodes[&Gfid::ROOT].held.len(), 1);
        locks.lock(A, &lock(1, 0, 20, 1), 0);
        assert_eq!(locks.lock(B, &lock(1, 0, 20, 1), 0).0, LockOutcome::Done);
    }

    #[test]
    fn waiters_get_their_turn_in_order_when_the_holder_frees_or_dies() {
        let mut locks = Locks::default();
        locks.lock(A, &lock(1, 0, 10, 2), 0);
        assert_eq!(locks.lock(B, &waiting(lock(1, 0, 10, 1)), 11).0, LockOutcome::Waits);
        assert_eq!(locks.lock(B, &waiting(lock(2, 0, 10, 2)), 12).0, LockOutcome::Waits);
        assert_eq!(locks.lock(B, &waiting(lock(3, 0, 10, 1)), 13).0, LockOutcome::Waits);
        let (_, granted, _) = locks.lock(A, &lock(1, 0, 10, 0), 0);
        assert_eq!(granted, [11], "13 came after the writer 12");
        assert_eq!(locks.lock(B, &lock(1, 0, 10, 0), 0).1, [12]);
        assert_eq!(locks.session_dead(B), Vec::<Waiter>::new());
        assert!(locks.inodes.is_empty());
    }

    /// A lead dies: its successor's table is what the sessions say that they hold.
    #[test]
    fn a_new_lead_holds_what_sessions_reclaim_and_nothing_that_conflicts() {
        let mut before = Locks::default();
        before.lock(A, &lock(1, 0, 10, 2), 0);
        before.lock(A, &lock(1, 4, 6, 0), 0);
        before.lock(A, &Lock { flock: true, ..lock(3, 0, 0, 2) }, 0);
        before.lock(B, &lock(2, 4, 6, 1), 0);
        let mut after = Locks::default();
        for session in [B, A] {
            assert!(before.held(session).iter().all(|lock| after.reclaim(session, lock)));
        }
        for session in [A, B] {
            assert_eq!(after.held(session), before.held(session));
        }
        let late = Lock { reclaim: true, ..lock(9, 0, 5, 2) };
        assert!(!after.reclaim(B, &late), "A has that");
        assert_eq!(after.lock(B, &lock(9, 0, 4, 1), 0).0, LockOutcome::Failed(Errno::EAGAIN));
        assert!(!after.reclaim(B, &lock(9, 20, 30, 0)), "nothing to hold");
    }

    #[test]
    fn flock_and_fcntl_do_not_see_each_other_and_a_given_up_wait_is_forgotten() {
        let mut locks = Locks::default();
        let flock = Lock { flock: true, ..lock(1, 0, 0, 2) };
        assert_eq!(locks.lock(A, &flock, 0).0, LockOutcome::Done);
        assert_eq!(locks.lock(B, &lock(1, 0, u64::MAX, 2), 0).0, LockOutcome::Done);
        assert_eq!(locks.lock(B, &waiting(flock), 21).0, LockOutcome::Waits);
        locks.cancel(21);
        assert_eq!(locks.lock(B, &waiting(flock), 22).0, LockOutcome::Waits);
        assert_eq!(locks.lock(B, &Lock { kind: 0, ..flock }, 0).2, [22], "interrupted");
        assert_eq!(locks.lock(A, &Lock { kind: 0, ..flock }, 0).1, Vec::<Waiter>::new());
        assert_eq!(locks.test(A, &flock), None);
    }
}
