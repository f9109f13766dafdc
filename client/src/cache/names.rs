//! Names of one directory: which inode a name stands for, or that there is no such name.
//!
//! Kept apart by the set whose lead orders the name, because leases are. A part is *complete*
//! when every name of it is here; a name that is not here then does not exist.

use std::collections::{HashMap, HashSet};
use std::time::Instant;

use proto::{Gfid, SetId};

/// Names changed here while answers are under way, before all of these answers count as late.
const TOUCHED_MAX: usize = 4096;

/// What is known about a name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Look {
    Is(Gfid),
    Absent,
    Unknown,
}

#[derive(Debug)]
struct Name {
    /// `None`: known not to exist.
    gfid: Option<Gfid>,
    /// Until when the kernel was told that it may believe this.
    told: Option<Instant>,
}

#[derive(Debug, Default)]
struct Part {
    names: HashMap<Box<[u8]>, Name>,
    complete: bool,
}

#[derive(Debug, Default)]
pub struct Names {
    parts: HashMap<SetId, Part>,
    /// Answers about this directory that are under way.
    fetches: u32,
    /// Names that changed while they were: what such an answer says about them is old.
    touched: HashSet<Box<[u8]>>,
    /// Grows when answers under way must not be remembered at all.
    generation: u64,
    /// Other mounts change this directory too: the kernel is told nothing until then.
    pub contended_until: Option<Instant>,
}

/// A running question about a directory; end it with `end_fetch`.
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct Fetch {
    generation: u64,
}

impl Names {
    /// Names held, known absent ones too.
    pub fn len(&self) -> usize {
        self.parts.values().map(|p| p.names.len()).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn look(&self, set: SetId, name: &[u8]) -> Look {
        let Some(part) = self.parts.get(&set) else { return Look::Unknown };
        match part.names.get(name) {
            Some(Name { gfid: Some(gfid), .. }) => Look::Is(*gfid),
            Some(_) => Look::Absent,
            None if part.complete => Look::Absent,
            None => Look::Unknown,
        }
    }

    /// Notes that the kernel may believe the name until `until`. A name only known absent by
    /// completeness is written down for that.
    pub fn tell(&mut self, set: SetId, name: &[u8], until: Instant) {
        let Some(part) = self.parts.get_mut(&set) else { return };
        let entry = match part.names.get_mut(name) {
            Some(entry) => entry,
            None => part.names.entry(name.into()).or_insert(Name { gfid: None, told: None }),
        };
        entry.told = Some(entry.told.map_or(until, |t| t.max(until)));
    }

    pub fn begin_fetch(&mut self) -> Fetch {
        self.fetches += 1;
        Fetch { generation: self.generation }
    }

    /// Ends a fetch after its answer was put in (or thrown away).
    pub fn end_fetch(&mut self, _fetch: Fetch) {
        self.fetches = self.fetches.saturating_sub(1);
        if self.fetches == 0 {
            self.touched.clear();
        }
    }

    /// Remembers what an answer says, unless a change made here since is newer.
    pub fn learn(&mut self, fetch: Fetch, set: SetId, name: &[u8], gfid: Option<Gfid>) -> bool {
        if fetch.generation != self.generation || self.touched.contains(name) {
            return false;
        }
        self.put(set, name, gfid);
        true
    }

    /// Whether no name changed here since the fetch began: what it did not show is not there.
    pub fn learn_complete(&mut self, fetch: Fetch, set: SetId) {
        if fetch.generation == self.generation {
            self.parts.entry(set).or_default().complete = true;
        }
    }

    /// A change made by this mount is done: the name now stands for `gfid`, or is gone.
    pub fn changed(&mut self, set: SetId, name: &[u8], gfid: Option<Gfid>) {
        self.outdate(name);
        self.put(set, name, gfid);
    }

    /// The outcome of a change is not known or may not be remembered.
    pub fn forget_name(&mut self, set: SetId, name: &[u8]) {
        self.outdate(name);
        if let Some(part) = self.parts.get_mut(&set) {
            part.names.remove(name);
            part.complete = false;
        }
    }

    fn outdate(&mut self, name: &[u8]) {
        if self.fetches == 0 {
            return;
        }
        if self.touched.len() >= TOUCHED_MAX {
            self.generation += 1;
            self.touched.clear();
        }
        self.touched.insert(name.into());
    }

    fn put(&mut self, set: SetId, name: &[u8], gfid: Option<Gfid>) {
        let part = self.parts.entry(set).or_default();
        match part.names.get_mut(name) {
            Some(entry) => entry.gfid = gfid,
            None => {
                part.names.insert(name.into(), Name { gfid, told: None });
            }
        }
    }

    /// A directory made here has no names but those made here.
    pub fn set_complete(&mut self, set: SetId) {
        self.parts.entry(set).or_default().complete = true;
    }

    pub fn is_complete(&self, set: SetId) -> bool {
        self.parts.get(&set).is_some_and(|p| p.complete)
    }

    /// Names that exist, of a complete part.
    pub fn existing(&self, set: SetId) -> impl Iterator<Item = (&[u8], Gfid)> {
        let part = self.parts.get(&set);
        part.into_iter()
            .flat_map(|p| p.names.iter().filter_map(|(n, e)| e.gfid.map(|g| (&n[..], g))))
    }

    /// Drops everything about a set's part. Answers the names that the kernel may still
    /// believe, and until when at most.
    pub fn drop_part(&mut self, set: SetId, now: Instant) -> (Vec<Box<[u8]>>, Option<Instant>) {
        self.generation += 1;
        let Some(part) = self.parts.remove(&set) else { return (Vec::new(), None) };
        let told = part.names.into_iter().filter_map(|(n, e)| e.told.map(|t| (n, t)));
        let mut latest = None;
        let mut names = Vec::new();
        for (name, until) in told.filter(|(_, until)| *until > now) {
            latest = latest.max(Some(until));
            names.push(name);
        }
        (names, latest)
    }

    /// Gives memory back: drops all names but those that the kernel may still believe.
    pub fn shrink(&mut self, now: Instant) {
        for part in self.parts.values_mut() {
            part.names.retain(|_, e| e.told.is_some_and(|t| t > now));
            part.names.shrink_to_fit();
            part.complete = false;
        }
    }

    pub fn told_until(&self) -> Option<Instant> {
        self.parts.values().flat_map(|p| p.names.values()).filter_map(|n| n.told).max()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proto::SlotId;

    use super::*;

    const SET: SetId = SetId(0);

    fn gfid(i: u8) -> Gfid {
        Gfid::new(SlotId(0), [i; 14])
    }

    #[test]
    fn complete_part_knows_what_is_not_there() {
        let mut names = Names::default();
        assert_eq!(names.look(SET, b"a"), Look::Unknown);
        names.set_complete(SET);
        assert_eq!(names.look(SET, b"a"), Look::Absent);
        names.changed(SET, b"a", Some(gfid(1)));
        assert_eq!(names.look(SET, b"a"), Look::Is(gfid(1)));
        names.forget_name(SET, b"a");
        assert_eq!(names.look(SET, b"a"), Look::Unknown);
    }

    #[test]
    fn late_answer_does_not_undo_a_change_made_here() {
        let mut names = Names::default();
        let fetch = names.begin_fetch();
        names.changed(SET, b"a", None);
        assert!(!names.learn(fetch, SET, b"a", Some(gfid(1))));
        assert!(names.learn(fetch, SET, b"b", Some(gfid(2))));
        names.end_fetch(fetch);
        assert_eq!(names.look(SET, b"a"), Look::Absent);
        assert_eq!(names.look(SET, b"b"), Look::Is(gfid(2)));
    }

    #[test]
    fn answer_from_before_a_recall_is_not_remembered() {
        let mut names = Names::default();
        let fetch = names.begin_fetch();
        let _ = names.drop_part(SET, Instant::now());
        assert!(!names.learn(fetch, SET, b"a", Some(gfid(1))));
        names.learn_complete(fetch, SET);
        assert_eq!(names.look(SET, b"zz"), Look::Unknown);
    }

    #[test]
    fn recall_names_what_the_kernel_may_still_believe() {
        let mut names = Names::default();
        let now = Instant::now();
        let soon = now + Duration::from_secs(1);
        names.set_complete(SET);
        names.changed(SET, b"told", Some(gfid(1)));
        names.changed(SET, b"quiet", Some(gfid(2)));
        names.tell(SET, b"told", soon);
        names.tell(SET, b"absent", soon);
        names.shrink(now);
        assert_eq!(names.len(), 2);
        let (mut told, until) = names.drop_part(SET, now);
        told.sort();
        assert_eq!(told, [b"absent"[..].into(), Box::from(&b"told"[..])]);
        assert_eq!(until, Some(soon));
    }
}
