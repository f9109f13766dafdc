//! Advisory locks across mounts: flock and fcntl.

use std::future::Future;
use std::time::Duration;

use proto::fop::{Lock, TestLock};
use proto::{Errno, Gfid};

use super::{Volume, answer};

/// First and longest pause between two tries for a lock that the lead does not queue for us.
const RETRY_MIN: Duration = Duration::from_millis(5);
const RETRY_MAX: Duration = Duration::from_millis(200);
/// Kind of an unlock.
const UNLOCK: u32 = 0;

/// Who takes a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LockOwner {
    pub owner: u64,
    pub pid: u32,
}

/// A range of a file; `end` is exclusive, `u64::MAX` for "to the end".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    pub start: u64,
    pub end: u64,
}

impl Span {
    pub const ALL: Span = Span { start: 0, end: u64::MAX };
}

/// A lock that is asked for.
#[derive(Clone, Copy, Debug)]
pub struct LockAsk {
    pub gfid: Gfid,
    pub by: LockOwner,
    pub span: Span,
    /// 0 unlock, 1 read, 2 write.
    pub kind: u32,
    pub flock: bool,
}

impl LockAsk {
    fn message(&self, wait: bool) -> Lock {
        Lock {
            gfid: self.gfid,
            owner: self.by.owner,
            pid: self.by.pid,
            start: self.span.start,
            end: self.span.end,
            kind: self.kind,
            flock: self.flock,
            wait,
            reclaim: false,
        }
    }
}

impl Volume {
    /// The lock that stands in the way, if any.
    ///
    /// # Errors
    /// What the lead answers.
    pub async fn test_lock(&self, ask: LockAsk) -> Result<Option<Lock>, Errno> {
        let done = self.ask(TestLock { lock: ask.message(false) }, Vec::new()).await?;
        Ok(answer!(done, Locked)?.conflict)
    }

    /// Locks or unlocks without waiting.
    ///
    /// # Errors
    /// EAGAIN when another holds it, and what the lead answers.
    pub async fn set_lock(&self, ask: LockAsk) -> Result<(), Errno> {
        if ask.kind != UNLOCK {
            self.node(ask.gfid).lock().locks = true;
        }
        self.try_lock(ask, false).await
    }

    async fn try_lock(&self, ask: LockAsk, wait: bool) -> Result<(), Errno> {
        let done = self.ask(ask.message(wait), Vec::new()).await?;
        match answer!(done, Locked)?.conflict {
            Some(_) => Err(Errno::EAGAIN),
            None => Ok(()),
        }
    }

    /// Locks, waiting for it; gives up when `interrupted` ends.
    ///
    /// # Errors
    /// EINTR when given up, EDEADLK, and what the lead answers.
    pub async fn wait_lock(
        &self,
        ask: LockAsk,
        interrupted: impl Future<Output = ()> + Send,
    ) -> Result<(), Errno> {
        self.node(ask.gfid).lock().locks = true;
        let volume = self.me();
        // The question goes on when this caller gives up: its answer may be a lock, which then
        // must be given back.
        let (give_up, mut given_up) = tokio::sync::oneshot::channel::<()>();
        let mut asking = tokio::spawn(async move {
            let got = volume.keep_asking(ask, &mut given_up).await;
            if got.is_ok() && given_up.try_recv().is_ok() {
                volume.unlock(LockAsk { kind: UNLOCK, ..ask }).await;
            }
            got
        });
        tokio::select! {
            got = &mut asking => got.unwrap_or(Err(Errno::EIO)),
            () = interrupted => {
                // Fails only if the answer came in this very moment: then it counts.
                match give_up.send(()) {
                    Ok(()) => Err(Errno::EINTR),
                    Err(()) => asking.await.unwrap_or(Err(Errno::EIO)),
                }
            }
        }
    }

    async fn keep_asking(
        &self,
        ask: LockAsk,
        given_up: &mut tokio::sync::oneshot::Receiver<()>,
    ) -> Result<(), Errno> {
        let mut pause = RETRY_MIN;
        loop {
            match self.try_lock(ask, true).await {
                // Held by another and not queued, or queued for longer than an operation may
                // take: both mean "ask again".
                Err(Errno::EAGAIN | Errno::ETIMEDOUT) => {}
                other => return other,
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                _ = &mut *given_up => return Err(Errno::EINTR),
            }
            pause = (pause * 2).min(RETRY_MAX);
        }
    }

    async fn unlock(&self, ask: LockAsk) {
        if let Err(errno) = self.try_lock(ask, false).await {
            tracing::warn!(gfid = %ask.gfid, %errno, "an unlock failed");
        }
    }

    /// A descriptor was closed: POSIX drops the process's locks of the file.
    pub async fn drop_locks(&self, gfid: Gfid, owner: u64, flock: bool) {
        if !self.node(gfid).lock().locks {
            return;
        }
        let by = LockOwner { owner, pid: 0 };
        self.unlock(LockAsk { gfid, by, span: Span::ALL, kind: UNLOCK, flock }).await;
    }
}
