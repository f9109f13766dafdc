//! Slots to sets.

use std::collections::BTreeSet;

use proto::fop::Fop;
use proto::map::VolumeMap;
use proto::placement::{slot_of_bucket, slot_of_name};
use proto::{Errno, Gfid, SetId, SlotId};

use super::BucketMemory;

/// Where an operation goes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Place {
    One(SetId),
    /// To each of these, one after the other or all at once; their answers are merged.
    Each(Vec<SetId>),
    /// The directory's bucket count has to be asked for first.
    Unknown(Gfid),
    /// Not possible across sets (yet).
    Refused(Errno),
}

/// Routes by one map.
pub(crate) struct Router<'a> {
    pub(crate) map: &'a VolumeMap,
    pub(crate) buckets: &'a BucketMemory,
}

impl Router<'_> {
    pub(crate) fn slot(&self, slot: SlotId) -> SetId {
        // A map always has all slots; set 0 for a broken one is refused there as Moved.
        self.map.slots.get(usize::from(slot.0)).copied().unwrap_or_default()
    }

    pub(crate) fn inode(&self, gfid: Gfid) -> SetId {
        self.slot(gfid.slot())
    }

    pub(crate) fn name(&self, dir: Gfid, buckets: u32, name: &[u8]) -> SetId {
        self.slot(slot_of_name(dir, clamp(buckets), name))
    }

    /// All sets on which names of a directory with that many buckets can be.
    pub(crate) fn parts(&self, dir: Gfid, buckets: u16) -> Vec<SetId> {
        let slots = (0..buckets.max(1)).map(|b| slot_of_bucket(dir, b));
        slots.map(|slot| self.slot(slot)).collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// The place of an operation.
    pub(crate) fn place(&self, fop: &Fop) -> Place {
        if let [set] = &self.map.sets[..] {
            return Place::One(set.id);
        }
        match self.place_among(fop) {
            Ok(place) | Err(place) => place,
        }
    }

    fn known_name(&self, dir: Gfid, name: &[u8]) -> Result<SetId, Place> {
        let buckets = self.buckets.get(dir).ok_or(Place::Unknown(dir))?;
        Ok(self.name(dir, buckets.into(), name))
    }

    fn place_among(&self, fop: &Fop) -> Result<Place, Place> {
        let set = match fop {
            Fop::Lookup(a) => self.known_name(a.parent, &a.name)?,
            Fop::Unlink(a) => self.known_name(a.parent, &a.name)?,
            Fop::Rmdir(a) => self.known_name(a.parent, &a.name)?,
            // The creator chose the gfid in the name's slot.
            Fop::Create(a) => self.inode(a.gfid),
            Fop::Rename(a) => {
                let from = self.known_name(a.from_parent, &a.from_name)?;
                let to = self.known_name(a.to_parent, &a.to_name)?;
                self.together(from, to, self.inode(a.expect_from))?
            }
            Fop::Link(a) => {
                let name = self.known_name(a.parent, &a.name)?;
                self.together(name, name, self.inode(a.gfid))?
            }
            Fop::Readdir(a) => {
                let buckets = self.buckets.get(a.gfid).ok_or(Place::Unknown(a.gfid))?;
                return Ok(Place::Each(self.parts(a.gfid, buckets)));
            }
            Fop::Statfs(_) => return Ok(Place::Each(self.map.sets.iter().map(|s| s.id).collect())),
            other => self.inode(inode_of(other).ok_or(Place::Refused(Errno::EINVAL))?),
        };
        Ok(Place::One(set))
    }

    fn together(&self, from: SetId, to: SetId, inode: SetId) -> Result<SetId, Place> {
        if from == to && to == inode { Ok(from) } else { Err(Place::Refused(Errno::EXDEV)) }
    }
}

pub(crate) fn clamp(buckets: u32) -> u16 {
    u16::try_from(buckets).unwrap_or(u16::MAX)
}

/// The inode that an operation is about, where it is about one.
fn inode_of(fop: &Fop) -> Option<Gfid> {
    Some(match fop {
        Fop::Getattr(a) => a.gfid,
        Fop::Readlink(a) => a.gfid,
        Fop::Read(a) => a.gfid,
        Fop::Getxattr(a) => a.gfid,
        Fop::Listxattr(a) => a.gfid,
        Fop::Seek(a) => a.gfid,
        Fop::Write(a) => a.gfid,
        Fop::Setattr(a) => a.gfid,
        Fop::Setxattr(a) => a.gfid,
        Fop::Removexattr(a) => a.gfid,
        Fop::Fallocate(a) => a.gfid,
        Fop::Fsync(a) => a.gfid,
        Fop::Forget(a) => a.gfid,
        Fop::Lock(a) => a.gfid,
        Fop::TestLock(a) => a.lock.gfid,
        _ => return None,
    })
}

#[cfg(test)]
#[path = "route_test.rs"]
mod route_test;
