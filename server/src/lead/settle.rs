//! Makes the members equal in what a session left unfinished: exactly those ranges, names and
//! attributes, from the lead's copy (or, where that is marked stale, from one that is not).

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use bytes::Bytes;
use proto::fop::{
    Answer, Call, DirEntry, Inspect, InspectDir, Inspected, Install, InstallData, InstallName,
    PeerRead, RemoveName, Return, SettledSeq, SweepParked, Touch, TouchMsg, UnsettledList,
};
use proto::{BrickId, Epoch, Errno, Failure, Gfid, SessionId};

use super::Member;
use crate::brick::Brick;

/// Bytes copied in one message.
const PIECE_BYTES: u64 = 1 << 20;

/// Everything that the members hold unsettled, merged.
#[derive(Default, Debug)]
pub struct Collected {
    pub settled: Vec<SettledSeq>,
    touches: BTreeSet<Touch>,
    pub sessions: BTreeSet<SessionId>,
    pub graced: Epoch,
}

impl Collected {
    pub fn add(&mut self, list: UnsettledList) {
        for entry in list.entries {
            let seq = SettledSeq { session: entry.session, seq: entry.seq };
            if !self.settled.contains(&seq) {
                self.settled.push(seq);
            }
            self.touches.extend(entry.touches.iter().filter_map(touch_of));
        }
        self.sessions.extend(list.sessions.into_iter().map(SessionId));
        self.graced = self.graced.max(Epoch(list.graced));
    }
}

pub fn touch_to(touch: &Touch) -> TouchMsg {
    let (what, start, end) = match *touch {
        Touch::Attrs(_) => (0, 0, 0),
        Touch::Range { start, end, .. } => (1, start, end),
        Touch::Name { hash, .. } => (2, hash, 0),
    };
    TouchMsg { gfid: touch.gfid(), what, start, end }
}

/// `None` for a kind of touch that a newer version made.
pub fn touch_of(msg: &TouchMsg) -> Option<Touch> {
    let gfid = msg.gfid;
    match msg.what {
        0 => Some(Touch::Attrs(gfid)),
        1 => Some(Touch::Range { gfid, start: msg.start, end: msg.end }),
        2 => Some(Touch::Name { dir: gfid, hash: msg.start }),
        _ => None,
    }
}

/// A copy of the set's inodes: this brick's own, or another member's.
enum Place<'a> {
    Here(BrickId),
    There(&'a Member),
}

impl Place<'_> {
    fn brick(&self) -> BrickId {
        match self {
            Place::Here(brick) => *brick,
            Place::There(member) => member.brick,
        }
    }

    async fn call(&self, brick: &Rc<Brick>, epoch: Epoch, call: Call) -> Result<Return, Failure> {
        match self {
            Place::Here(_) => {
                let mut core = brick.core.borrow_mut();
                let context = core.context();
                Ok(core.store.execute(&call, &context)?)
            }
            Place::There(member) => member.send(epoch, call).await,
        }
    }
}

/// One settle's copying.
struct Copying<'a> {
    brick: &'a Rc<Brick>,
    epoch: Epoch,
    places: Vec<Place<'a>>,
}

/// Copies what `collected` names from one good copy to all others.
///
/// # Errors
/// A member did not answer or could not; nothing is lost by doing it all again.
pub async fn settle(
    brick: &Rc<Brick>,
    epoch: Epoch,
    collected: &Collected,
    members: &[Member],
) -> Result<(), Failure> {
    if members.is_empty() || collected.touches.is_empty() {
        return Ok(());
    }
    let here = Place::Here(brick.core.borrow().setup.identity.brick);
    let places = std::iter::once(here).chain(members.iter().map(Place::There)).collect();
    Copying { brick, epoch, places }.run(&collected.touches).await
}

impl Copying<'_> {
    async fn run(&self, touches: &BTreeSet<Touch>) -> Result<(), Failure> {
        let mut dirs: BTreeMap<Gfid, BTreeSet<u64>> = BTreeMap::new();
        let mut inodes: BTreeMap<Gfid, Vec<(u64, u64)>> = BTreeMap::new();
        for touch in touches {
            match *touch {
                Touch::Name { dir, hash } => {
                    dirs.entry(dir).or_default().insert(hash);
                }
                Touch::Range { gfid, start, end } => {
                    inodes.entry(gfid).or_default().push((start, end));
                }
                Touch::Attrs(gfid) => {
                    inodes.entry(gfid).or_default();
                }
            }
        }
        for (dir, hashes) in &dirs {
            self.names(*dir, hashes).await?;
        }
        for (gfid, ranges) in &inodes {
            self.inode(*gfid, ranges).await?;
        }
        // Last, for every change of a name moved a directory's times.
        for dir in dirs.keys() {
            self.inode(*dir, &[]).await?;
        }
        Ok(())
    }

    async fn call(&self, place: &Place<'_>, call: Call) -> Result<Return, Failure> {
        place.call(self.brick, self.epoch, call).await
    }

    /// The copy to trust, and those to make equal. `None`: no copy is good; heal says so.
    fn source(&self, gfid: Gfid) -> Option<(&Place<'_>, Vec<&Place<'_>>)> {
        let core = self.brick.core.borrow();
        let good: Vec<&Place<'_>> =
            self.places.iter().filter(|p| !core.member.stale.is_stale(p.brick(), gfid)).collect();
        let (source, targets) = good.split_first()?;
        Some((source, targets.to_vec()))
    }

    async fn inspect(&self, place: &Place<'_>, gfid: Gfid) -> Result<Inspected, Failure> {
        match self.call(place, Call::new(Inspect { gfid })).await?.answer {
            Answer::Inspected(image) => Ok(image),
            _ => Err(Errno::EPROTO.into()),
        }
    }

    /// Names of `dir` with one hash: one, in practice.
    async fn list(
        &self,
        place: &Place<'_>,
        dir: Gfid,
        hash: u64,
    ) -> Result<Vec<DirEntry>, Failure> {
        let (after_hash, after_name) = match hash.checked_sub(1) {
            // After every name of the hash before.
            Some(before) => (before, Bytes::from(vec![0xff; proto::fop::NAME_BYTES_MAX])),
            None => (0, Bytes::new()),
        };
        let ask = InspectDir { gfid: dir, after_hash, after_name, limit: 64 };
        match self.call(place, Call::new(ask)).await {
            Ok(Return { answer: Answer::Entries(list), .. }) => {
                Ok(list.entries.into_iter().filter(|e| e.hash == hash).collect())
            }
            Ok(_) => Err(Errno::EPROTO.into()),
            // The directory itself is gone there.
            Err(Failure::Errno(Errno::ESTALE | Errno::ENOENT)) => Ok(Vec::new()),
            Err(failure) => Err(failure),
        }
    }

    async fn names(&self, dir: Gfid, hashes: &BTreeSet<u64>) -> Result<(), Failure> {
        let Some((source, targets)) = self.source(dir) else { return Ok(()) };
        for hash in hashes {
            let right = self.list(source, dir, *hash).await?;
            for target in &targets {
                let there = self.list(target, dir, *hash).await?;
                self.names_at(source, target, dir, &right, &there).await?;
            }
        }
        Ok(())
    }

    async fn names_at(
        &self,
        source: &Place<'_>,
        target: &Place<'_>,
        dir: Gfid,
        right: &[DirEntry],
        there: &[DirEntry],
    ) -> Result<(), Failure> {
        let same = |a: &DirEntry, b: &DirEntry| a.name == b.name && a.gfid == b.gfid;
        let mut removed = false;
        for wrong in there.iter().filter(|t| !right.iter().any(|r| same(r, t))) {
            let remove = RemoveName { parent: dir, name: wrong.name.clone() };
            self.call(target, Call::new(remove)).await?;
            removed = true;
        }
        for missing in right.iter().filter(|r| !there.iter().any(|t| same(r, t))) {
            if !self.inspect(target, missing.gfid).await?.found {
                self.whole(source, target, missing.gfid).await?;
            }
            let (name, gfid) = (missing.name.clone(), missing.gfid);
            self.call(target, Call::new(InstallName { parent: dir, name, gfid })).await?;
        }
        if removed {
            let keep = self.brick.core.borrow().orphans.iter().copied().collect();
            self.call(target, Call::new(SweepParked { keep })).await?;
        }
        Ok(())
    }

    /// An inode that a target does not have at all: made, but never seen there.
    async fn whole(
        &self,
        source: &Place<'_>,
        target: &Place<'_>,
        gfid: Gfid,
    ) -> Result<(), Failure> {
        let image = self.inspect(source, gfid).await?;
        let size = if image.attr.is_dir() { 0 } else { image.attr.size };
        self.call(target, Call::new(Install { image: image.clone(), finish: false })).await?;
        if image.attr.kind() == proto::Kind::File {
            self.range(source, target, gfid, 0, size).await?;
        }
        self.call(target, Call::new(Install { image, finish: true })).await?;
        Ok(())
    }

    async fn inode(&self, gfid: Gfid, ranges: &[(u64, u64)]) -> Result<(), Failure> {
        let Some((source, targets)) = self.source(gfid) else { return Ok(()) };
        let image = self.inspect(source, gfid).await?;
        if !image.found {
            return Ok(());
        }
        for target in targets {
            if !self.inspect(target, gfid).await?.found {
                if image.orphan {
                    self.whole(source, target, gfid).await?;
                }
                continue;
            }
            for (start, end) in ranges {
                self.range(source, target, gfid, *start, (*end).min(image.attr.size)).await?;
            }
            self.call(target, Call::new(Install { image: image.clone(), finish: true })).await?;
        }
        Ok(())
    }

    async fn range(
        &self,
        source: &Place<'_>,
        target: &Place<'_>,
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
