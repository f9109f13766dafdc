//! Makes copies of the set's members equal while the set serves: exactly the ranges, attributes
//! and names that a settle names, or one whole inode whose copy is stale.
//!
//! Assumes: nobody holds a lease on what is copied. Promises: bricks are reached in the epoch
//! that it was made for only, so that what comes late is refused.

use std::collections::BTreeSet;
use std::rc::Rc;

use bytes::Bytes;
use proto::fop::{
    Answer, BLOCK_BYTES, BlockSumList, BlockSums, Call, DirEntry, Done, Fop, Inspect, InspectDir,
    Inspected, Install, InstallData, InstallName, PeerRead, RemoveName, Return,
};
use proto::{BrickId, Epoch, Errno, Failure, Gfid, Kind};
use proto_rules::settle::CopyWhat;
use tokio::sync::OwnedMutexGuard;

use super::Member;
use crate::brick::{Brick, blocking};

/// Bytes copied in one message.
const PIECE_BYTES: u64 = 1 << 20;
/// Blocks summed by one question: 128 MiB, well within an answer's time.
const SUMS_AT_ONCE: u64 = 1024;
/// A file of this size is copied ahead: below it, comparing takes no longer than a lease's end.
const AHEAD_BYTES: u64 = 64 << 20;

/// The lead's hand at all members of one epoch.
pub struct Copier {
    pub brick: Rc<Brick>,
    epoch: Epoch,
    here: BrickId,
    others: Vec<Member>,
}

impl Copier {
    pub fn new(brick: &Rc<Brick>, epoch: Epoch) -> Copier {
        let core = brick.core.borrow();
        let here = core.setup.identity.brick;
        let others = core.members.in_sync();
        drop(core);
        Copier { brick: brick.clone(), epoch, here, others }
    }

    pub fn here(&self) -> BrickId {
        self.here
    }

    /// All in-sync members, this one first.
    pub fn members(&self) -> Vec<BrickId> {
        std::iter::once(self.here).chain(self.others.iter().map(|m| m.brick)).collect()
    }

    /// Whether this brick still leads in the epoch.
    pub fn leads(&self) -> bool {
        self.brick.core.borrow().leads_in(self.epoch)
    }

    /// Copying is one at a time: a sweep of one would take what another has parked.
    pub async fn turn(&self) -> OwnedMutexGuard<()> {
        let turn = self.brick.core.borrow().members.turn.clone();
        turn.lock_owned().await
    }

    /// Inodes without a name that are open somewhere.
    pub fn orphans(&self) -> Vec<Gfid> {
        self.brick.core.borrow().orphans.iter().copied().collect()
    }

    /// # Errors
    /// The member's own; EAGAIN when it is none of this epoch.
    pub async fn call(&self, at: BrickId, call: Call) -> Result<Return, Failure> {
        if at == self.here {
            // What reads much waits for the disk elsewhere, not on the brick's thread.
            match &call.fop {
                Fop::BlockSums(ask) => {
                    let job = self.brick.core.borrow_mut().store.plan_block_sums(ask)?;
                    return Ok(blocking(move || job.run()).await?);
                }
                Fop::Checkpoint(_) => {
                    let (handle, interval) = {
                        let core = self.brick.core.borrow();
                        (core.store.checkpoint_handle(), core.interval.current())
                    };
                    return Ok(blocking(move || handle.run(interval))
                        .await
                        .map(|()| Answer::Done(Done {}).into())?);
                }
                _ => {}
            }
            let mut core = self.brick.core.borrow_mut();
            if !core.leads_in(self.epoch) {
                return Err(Errno::EAGAIN.into());
            }
            let context = core.context();
            core.executed += 1;
            return Ok(core.store.execute(&call, &context)?);
        }
        let member = self.others.iter().find(|m| m.brick == at).ok_or(Errno::EAGAIN)?;
        member.send(self.epoch, call).await
    }

    /// Makes the targets equal to the source in `what` of `gfid`.
    ///
    /// # Errors
    /// A member did not answer or could not; nothing is lost by doing it again.
    pub async fn copy(
        &self,
        gfid: Gfid,
        what: &CopyWhat,
        source: BrickId,
        targets: &[BrickId],
    ) -> Result<(), Failure> {
        let image = self.inspect(source, gfid).await?;
        for target in targets {
            for hash in &what.names {
                let right = self.list(source, gfid, *hash).await?;
                let there = self.list(*target, gfid, *hash).await?;
                self.names((source, *target), gfid, &right, &there).await?;
            }
            // After the names: each moved the directory's times.
            self.inode((source, *target), gfid, &image, &what.ranges).await?;
        }
        Ok(())
    }

    async fn inode(
        &self,
        (source, target): (BrickId, BrickId),
        gfid: Gfid,
        image: &Inspected,
        ranges: &[(u64, u64)],
    ) -> Result<(), Failure> {
        let there = self.inspect(target, gfid).await?;
        match (image.found, there.found) {
            (true, false) => return self.whole(source, target, gfid).await,
            (true, true) => {
                for (start, end) in ranges {
                    let end = (*end).min(image.attr.size);
                    self.range((source, target), gfid, *start, end).await?;
                }
                self.install(target, image.clone(), true).await?;
            }
            // Nameless there and gone at the source: an image that is not found drops it.
            (false, true) if there.orphan => {
                let mut gone = image.clone();
                gone.attr.gfid = gfid;
                self.install(target, gone, true).await?;
            }
            // Its name goes with its directory's.
            (false, _) => {}
        }
        Ok(())
    }

    /// Everything of one inode, a directory's names too: its copy at `target` is stale.
    ///
    /// # Errors
    /// As `copy`.
    pub async fn all_of(
        &self,
        gfid: Gfid,
        source: BrickId,
        target: BrickId,
    ) -> Result<(), Failure> {
        let image = self.inspect(source, gfid).await?;
        if image.found && image.attr.is_dir() {
            let right = self.names_of(source, gfid).await?;
            let there = self.names_of(target, gfid).await?;
            self.names((source, target), gfid, &right, &there).await?;
        }
        let there = self.inspect(target, gfid).await?;
        if image.found && there.found && image.attr.kind() == Kind::File {
            self.equal_data((source, target), gfid, image.attr.size.max(there.attr.size)).await?;
        }
        self.inode((source, target), gfid, &image, &[]).await
    }

    /// Copies most of a file's data ahead, so that little is left once its leases are held.
    /// What is written meanwhile may be undone at the target, which nobody reads.
    ///
    /// # Errors
    /// As `copy`.
    pub async fn data_before(
        &self,
        gfid: Gfid,
        source: BrickId,
        target: BrickId,
    ) -> Result<(), Failure> {
        let (image, there) = (self.inspect(source, gfid).await?, self.inspect(target, gfid).await?);
        let files = [&image, &there].iter().all(|i| i.found && i.attr.kind() == Kind::File);
        if !files || image.attr.size < AHEAD_BYTES {
            return Ok(());
        }
        self.equal_data((source, target), gfid, image.attr.size).await
    }

    async fn equal_data(
        &self,
        (source, target): (BrickId, BrickId),
        gfid: Gfid,
        size: u64,
    ) -> Result<(), Failure> {
        let mut first = 0;
        while first * BLOCK_BYTES < size {
            let theirs = self.sums(source, gfid, first).await?;
            let ours = self.sums(target, gfid, first).await?;
            for (n, sum) in theirs.sums.iter().enumerate() {
                if ours.sums.get(n) != Some(sum) {
                    let start = (first + n as u64) * BLOCK_BYTES;
                    let end = (start + BLOCK_BYTES).min(theirs.size);
                    self.range((source, target), gfid, start, end).await?;
                }
            }
            first += SUMS_AT_ONCE;
        }
        Ok(())
    }

    async fn sums(&self, at: BrickId, gfid: Gfid, first: u64) -> Result<BlockSumList, Failure> {
        let ask = BlockSums { gfid, first, count: SUMS_AT_ONCE as u32 };
        match self.call(at, Call::new(ask)).await?.answer {
            Answer::BlockSumList(list) => Ok(list),
            _ => Err(Errno::EPROTO.into()),
        }
    }

    async fn inspect(&self, at: BrickId, gfid: Gfid) -> Result<Inspected, Failure> {
        match self.call(at, Call::new(Inspect { gfid, data_max: 0 })).await?.answer {
            Answer::Inspected(image) => Ok(image),
            _ => Err(Errno::EPROTO.into()),
        }
    }

    async fn install(&self, at: BrickId, image: Inspected, finish: bool) -> Result<(), Failure> {
        self.call(at, Call::new(Install { image, finish })).await.map(|_| ())
    }

    async fn page(&self, at: BrickId, ask: InspectDir) -> Result<(Vec<DirEntry>, bool), Failure> {
        match self.call(at, Call::new(ask)).await {
            Ok(Return { answer: Answer::Entries(list), .. }) => Ok((list.entries, list.end)),
            Ok(_) => Err(Errno::EPROTO.into()),
            // The directory itself is gone there.
            Err(Failure::Errno(Errno::ESTALE | Errno::ENOENT)) => Ok((Vec::new(), true)),
            Err(failure) => Err(failure),
        }
    }

    /// Names of `dir` with one hash: one, in practice.
    async fn list(&self, at: BrickId, dir: Gfid, hash: u64) -> Result<Vec<DirEntry>, Failure> {
        let (after_hash, after_name) = match hash.checked_sub(1) {
            // After every name of the hash before.
            Some(before) => (before, Bytes::from(vec![0xff; proto::fop::NAME_BYTES_MAX])),
            None => (0, Bytes::new()),
        };
        let ask = InspectDir { gfid: dir, after_hash, after_name, limit: 64, tidy: false };
        let (entries, _) = self.page(at, ask).await?;
        Ok(entries.into_iter().filter(|e| e.hash == hash).collect())
    }

    async fn names_of(&self, at: BrickId, dir: Gfid) -> Result<Vec<DirEntry>, Failure> {
        let mut all: Vec<DirEntry> = Vec::new();
        loop {
            let (after_hash, after_name) =
                all.last().map_or((0, Bytes::new()), |e| (e.hash, e.name.clone()));
            let limit = proto::fop::READDIR_ENTRIES_MAX;
            let ask = InspectDir { gfid: dir, after_hash, after_name, limit, tidy: false };
            let (entries, end) = self.page(at, ask).await?;
            let got = entries.len();
            all.extend(entries);
            if end || got == 0 {
                return Ok(all);
            }
        }
    }

    /// Wrong names go first, parked, so that a rename seen half-way moves no data.
    async fn names(
        &self,
        (source, target): (BrickId, BrickId),
        dir: Gfid,
        right: &[DirEntry],
        there: &[DirEntry],
    ) -> Result<(), Failure> {
        let named = |e: &DirEntry| (e.name.clone(), e.gfid);
        let (wanted, known): (BTreeSet<_>, BTreeSet<_>) =
            (right.iter().map(named).collect(), there.iter().map(named).collect());
        for (name, _) in known.difference(&wanted) {
            let remove = RemoveName { parent: dir, name: name.clone() };
            self.call(target, Call::new(remove)).await?;
        }
        for (name, gfid) in wanted.difference(&known) {
            if !self.inspect(target, *gfid).await?.found {
                self.whole(source, target, *gfid).await?;
            }
            let install = InstallName { parent: dir, name: name.clone(), gfid: *gfid };
            self.call(target, Call::new(install)).await?;
        }
        Ok(())
    }

    /// An inode that a target does not have at all: made, but never seen there.
    async fn whole(&self, source: BrickId, target: BrickId, gfid: Gfid) -> Result<(), Failure> {
        let image = self.inspect(source, gfid).await?;
        if !image.found {
            // Removed at the source since: with its name.
            return Ok(());
        }
        self.install(target, image.clone(), false).await?;
        if image.attr.kind() == Kind::File {
            self.range((source, target), gfid, 0, image.attr.size).await?;
        }
        self.install(target, image, true).await
    }

    async fn range(
        &self,
        (source, target): (BrickId, BrickId),
        gfid: Gfid,
        start: u64,
        end: u64,
    ) -> Result<(), Failure> {
        let mut offset = start;
        while offset < end {
            let len = (end - offset).min(PIECE_BYTES);
            let read = PeerRead { gfid, offset, len: len as u32 };
            let piece = self.call(source, Call::new(read)).await?.payload;
            if piece.is_empty() {
                break;
            }
            let len = piece.len() as u64;
            let install = InstallData { gfid, offset, len, hole: false };
            self.call(target, Call::new(install).with_payload(piece)).await?;
            offset += len;
        }
        Ok(())
    }
}
