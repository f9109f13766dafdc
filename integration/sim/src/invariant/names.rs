//! The names of directories are linearizable: create, rename, unlink, lookup. Names that a
//! rename connects are checked together.

use std::collections::{BTreeMap, BTreeSet};

use proto::{Errno, Gfid};

use super::Broken;
use super::history::{Entry, History, Kind, Res};
use super::linear::{Spec, Timed, Verdict, check};
use super::registers::{never_sent, show};
use crate::model::change::Name;

type Key = (Gfid, Name);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum There {
    /// After the loss of all memory.
    Unknown,
    Nothing,
    Inode(Gfid),
}

struct Names {
    keys: Vec<Key>,
}

impl Names {
    fn at(&self, key: Key) -> usize {
        self.keys.iter().position(|k| *k == key).unwrap_or(0)
    }

    fn create(&self, state: &mut [There], key: Key, gfid: Gfid, res: Option<Res>) -> bool {
        let there = &mut state[self.at(key)];
        match (*there, res) {
            (There::Nothing | There::Unknown, Some(Res::Done)) => *there = There::Inode(gfid),
            (There::Inode(_) | There::Unknown, Some(Res::Err(Errno::EEXIST))) => {}
            (_, Some(Res::Done | Res::Err(Errno::EEXIST))) => return false,
            (There::Nothing | There::Unknown, _) => *there = There::Inode(gfid),
            _ => {}
        }
        true
    }

    fn unlink(&self, state: &mut [There], key: Key, res: Option<Res>) -> bool {
        let there = &mut state[self.at(key)];
        match (*there, res) {
            (There::Nothing, Some(Res::Done)) => return false,
            (There::Inode(_), Some(Res::Err(Errno::ENOENT))) => return false,
            _ => *there = There::Nothing,
        }
        true
    }

    fn rename(&self, state: &mut [There], from: Key, to: Key, res: Option<Res>) -> bool {
        let source = state[self.at(from)];
        match (source, res) {
            (There::Nothing, Some(Res::Done)) => return false,
            (There::Inode(_), Some(Res::Err(Errno::ENOENT))) => return false,
            (There::Unknown, Some(Res::Err(Errno::ENOENT))) => {
                state[self.at(from)] = There::Nothing
            }
            (There::Nothing, _) => {}
            _ => {
                state[self.at(to)] = source;
                state[self.at(from)] = There::Nothing;
            }
        }
        true
    }

    fn lookup(&self, state: &mut [There], key: Key, res: Option<Res>) -> bool {
        let Some(Res::Name(seen)) = res else { return true };
        let seen = seen.map_or(There::Nothing, There::Inode);
        let there = &mut state[self.at(key)];
        let fits = *there == There::Unknown || *there == seen;
        *there = seen;
        fits
    }
}

impl Spec for Names {
    type Op = Entry;
    type State = Vec<There>;

    fn apply(&self, state: &Vec<There>, op: &Entry) -> Option<Vec<There>> {
        let mut next = state.clone();
        let fits = match op.kind {
            Kind::Create { dir, name, gfid } => self.create(&mut next, (dir, name), gfid, op.res),
            Kind::Unlink { dir, name } => self.unlink(&mut next, (dir, name), op.res),
            Kind::Rename { from, to } => self.rename(&mut next, from, to, op.res),
            Kind::Lookup { dir, name } => self.lookup(&mut next, (dir, name), op.res),
            _ => true,
        };
        fits.then_some(next)
    }
}

pub fn keys_of(kind: &Kind) -> Vec<Key> {
    match *kind {
        Kind::Create { dir, name, .. }
        | Kind::Unlink { dir, name }
        | Kind::Lookup { dir, name } => {
            vec![(dir, name)]
        }
        Kind::Rename { from, to } => vec![from, to],
        _ => Vec::new(),
    }
}

/// Groups of names that renames connect.
fn groups(ops: &[Entry]) -> Vec<BTreeSet<Key>> {
    let mut group_of: BTreeMap<Key, usize> = BTreeMap::new();
    let mut groups: Vec<BTreeSet<Key>> = Vec::new();
    for entry in ops {
        let keys = keys_of(&entry.kind);
        let mut merged: BTreeSet<Key> = keys.iter().copied().collect();
        for key in &keys {
            if let Some(at) = group_of.get(key) {
                merged.append(&mut groups[*at]);
            }
        }
        for key in &merged {
            group_of.insert(*key, groups.len());
        }
        groups.push(merged);
    }
    groups.retain(|g| !g.is_empty());
    groups
}

fn timed(entry: &Entry) -> Option<Timed<Entry>> {
    let certain = matches!(
        entry.res,
        Some(Res::Done | Res::Name(_) | Res::Err(Errno::ENOENT | Errno::EEXIST))
    );
    let lookup = matches!(entry.kind, Kind::Lookup { .. });
    if never_sent(entry) || (lookup && !certain) {
        return None;
    }
    let op = if certain { *entry } else { Entry { res: None, ..*entry } };
    Some(Timed { from: entry.from, to: if certain { entry.to } else { u64::MAX }, op })
}

pub fn check_all(history: &History) -> Result<u32, Broken> {
    let mut undecided = 0;
    for n in 0..=history.cuts.len() {
        let segment = history.segment(n);
        for group in groups(&segment) {
            let mine = segment
                .iter()
                .filter(|e| keys_of(&e.kind).first().is_some_and(|k| group.contains(k)));
            let ops: Vec<Timed<Entry>> = mine.clone().filter_map(timed).collect();
            let spec = Names { keys: group.iter().copied().collect() };
            let first = if n == 0 { There::Nothing } else { There::Unknown };
            match check(&spec, &ops, vec![first; group.len()]) {
                Verdict::Linearizable => {}
                Verdict::Undecided => undecided += 1,
                Verdict::Not => {
                    let ops: Vec<String> = mine.map(show).collect();
                    let what = format!("{group:?} after cut {n}:\n  {}", ops.join("\n  "));
                    return Err(Broken::new("names are linearizable", what));
                }
            }
        }
    }
    Ok(undecided)
}
