//! A directory's home: which buckets may have names, and who may change them.
//!
//! Kept by the lead of the home's set, beside its lease table; what is recorded, and whether that
//! is complete, is on disk (`trusted.brick.home`).
//!
//! Promises: whoever asks where names of the directory can be gets every slot that has any
//! (traps 36, 49); attributes are shared only while no part can have newer times (trap 64).
//!
//! Deliberately does not: name sets. A slot that moves changes nothing here.

use std::collections::{BTreeMap, BTreeSet};

use proto::placement::slot_of_bucket;
use proto::{Gfid, SessionId, SetId, SlotId};

use super::ChangeId;
use crate::plant::{Plant, planted};

/// What is to be done, in this order, each when the one before it is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HomeCommand {
    /// On stable storage of the home's members.
    Record(BTreeSet<u16>),
    /// Shared leases of the directory's attributes are recalled.
    RecallShared,
    /// The asker may take the exclusive leases of those parts.
    Answer,
}

/// Why nothing can be said yet; ask again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotYet {
    /// The creator holds the home's lease, and the list: it is recalled.
    Creator(SessionId),
    /// The creator ended without its list: every set is asked for names (`on_names`).
    Unknown,
    /// The directory is being removed.
    Removing(ChangeId),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    Complete,
    Deferred(SessionId),
    Unknown,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holder {
    Session(SessionId),
    /// Perhaps somebody: an earlier lead knew, or a session that has ended.
    Unknown,
}

#[derive(Clone, Debug)]
pub struct Home {
    dir: Gfid,
    recorded: BTreeSet<u16>,
    known: Known,
    missing: BTreeSet<SetId>,
    parts: BTreeMap<u16, Holder>,
    stamp: u64,
    removing: Option<ChangeId>,
}

impl Home {
    /// A new directory, whose creator holds the home's exclusive lease.
    pub fn created(dir: Gfid, creator: SessionId, stamp: u64) -> Self {
        Self { known: Known::Deferred(creator), ..Self::found(dir, BTreeSet::new(), true, stamp) }
    }

    /// From disk, at a new lead: who holds which part is not known.
    pub fn found(dir: Gfid, recorded: BTreeSet<u16>, complete: bool, stamp: u64) -> Self {
        let parts = recorded.iter().map(|b| (*b, Holder::Unknown)).collect();
        let known = if complete { Known::Complete } else { Known::Unknown };
        let missing = BTreeSet::new();
        Self { dir, recorded, known, missing, parts, stamp, removing: None }
    }

    fn ready(&self) -> Result<(), NotYet> {
        match (self.known, self.removing) {
            (Known::Deferred(creator), _) => Err(NotYet::Creator(creator)),
            (Known::Unknown, _) => Err(NotYet::Unknown),
            (Known::Complete, Some(id)) => Err(NotYet::Removing(id)),
            (Known::Complete, None) => Ok(()),
        }
    }

    /// Before its first change of names in `buckets` under a part's lease, a session has them
    /// recorded, and itself registered. `shared`: somebody holds the attributes shared.
    ///
    /// # Errors
    /// Ask again when that is over.
    pub fn record(
        &mut self,
        session: SessionId,
        buckets: &BTreeSet<u16>,
        shared: bool,
    ) -> Result<Vec<HomeCommand>, NotYet> {
        self.ready()?;
        let mut commands = Vec::new();
        if !planted(Plant::NoRecording) && !buckets.is_subset(&self.recorded) {
            self.recorded.extend(buckets);
            commands.push(HomeCommand::Record(self.recorded.clone()));
        }
        if !planted(Plant::NoRegistration) {
            self.parts.extend(buckets.iter().map(|b| (*b, Holder::Session(session))));
            if shared {
                commands.push(HomeCommand::RecallShared);
            }
        }
        commands.push(HomeCommand::Answer);
        Ok(commands)
    }

    /// The creator returns the home's lease, with the buckets that it has used, which are then
    /// recorded; and keeps the leases of those parts, or not.
    pub fn creator_returned(
        &mut self,
        creator: SessionId,
        buckets: &BTreeSet<u16>,
        stamp: u64,
    ) -> Vec<HomeCommand> {
        if self.known != Known::Deferred(creator) {
            return Vec::new();
        }
        self.known = Known::Complete;
        self.stamp = self.stamp.max(stamp);
        self.recorded.extend(buckets);
        self.parts.extend(buckets.iter().map(|b| (*b, Holder::Session(creator))));
        vec![HomeCommand::Record(self.recorded.clone())]
    }

    /// A session ended: the parts that it held are asked for their times. If it was the creator,
    /// all `sets` are asked for names of the directory.
    pub fn session_ended(&mut self, session: SessionId, sets: &BTreeSet<SetId>) {
        if self.known == Known::Deferred(session) {
            self.known = Known::Unknown;
            self.missing.clone_from(sets);
        }
        for holder in self.parts.values_mut() {
            if *holder == Holder::Session(session) {
                *holder = Holder::Unknown;
            }
        }
    }

    /// Sets that have not yet said which buckets of the directory have names there.
    pub fn to_ask(&self) -> &BTreeSet<SetId> {
        &self.missing
    }

    /// A set's answer; with the last one the map is complete.
    pub fn on_names(&mut self, set: SetId, buckets: &BTreeSet<u16>) -> Vec<HomeCommand> {
        if self.known != Known::Unknown || !self.missing.remove(&set) {
            return Vec::new();
        }
        self.recorded.extend(buckets);
        self.parts.extend(buckets.iter().map(|b| (*b, Holder::Unknown)));
        if !self.missing.is_empty() {
            return Vec::new();
        }
        self.known = Known::Complete;
        vec![HomeCommand::Record(self.recorded.clone())]
    }

    /// Where names can be, for readdir and rmdir.
    ///
    /// # Errors
    /// Ask again when that is over. A directory that is being removed can still be read.
    pub fn places(&self) -> Result<BTreeSet<SlotId>, NotYet> {
        match self.ready() {
            Ok(()) | Err(NotYet::Removing(_)) => Ok(self.slots(self.recorded.iter())),
            Err(why) => Err(why),
        }
    }

    fn slots<'a>(&self, buckets: impl Iterator<Item = &'a u16>) -> BTreeSet<SlotId> {
        buckets.map(|b| slot_of_bucket(self.dir, *b)).collect()
    }

    /// Whether anybody may have the attributes under a shared lease.
    pub fn may_share(&self) -> bool {
        self.known == Known::Complete && self.parts.is_empty()
    }

    /// For `stat`: the time known here, and the slots whose leads know whether there is a later
    /// one. The greatest counts.
    pub fn stat(&self) -> (u64, BTreeSet<SlotId>) {
        (self.stamp, self.slots(self.parts.keys()))
    }

    /// A session has returned the lease of a part to its lead, and tells its time here.
    pub fn returned(&mut self, session: SessionId, bucket: u16, stamp: u64) {
        self.stamp = self.stamp.max(stamp);
        if self.parts.get(&bucket) == Some(&Holder::Session(session)) {
            self.parts.remove(&bucket);
        }
    }

    /// The lead of a bucket's slot, asked because the holder is not known: the part's time, and
    /// who holds it now.
    pub fn on_stamp(&mut self, bucket: u16, stamp: u64, holder: Option<SessionId>) {
        self.stamp = self.stamp.max(stamp);
        if self.parts.get(&bucket) == Some(&Holder::Unknown) {
            match holder {
                Some(session) => self.parts.insert(bucket, Holder::Session(session)),
                None => self.parts.remove(&bucket),
            };
        }
    }

    /// An rmdir has its intent noted: the buckets to seal.
    ///
    /// # Errors
    /// Ask again when that is over.
    pub fn remove(&mut self, id: ChangeId) -> Result<BTreeSet<u16>, NotYet> {
        self.ready()?;
        self.removing = Some(id);
        Ok(self.recorded.clone())
    }

    /// It was not empty.
    pub fn kept(&mut self, id: ChangeId) {
        self.removing.take_if(|removing| *removing == id);
    }

    /// Whether a seal of that change still means anything.
    pub fn is_removing(&self, id: ChangeId) -> bool {
        self.removing == Some(id)
    }
}

#[cfg(test)]
#[path = "home_test.rs"]
mod tests;
