//! What applications asked and were told, with true times.

use proto::{Errno, Gfid};

use crate::model::change::Name;
use crate::model::clock::Nanos;
use crate::model::net::Proc;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Read { gfid: Gfid, block: u8 },
    Write { gfid: Gfid, block: u8, value: u64 },
    Getattr { gfid: Gfid },
    Setattr { gfid: Gfid, value: u64 },
    Fsync { gfid: Gfid },
    Create { dir: Gfid, name: Name, gfid: Gfid },
    Unlink { dir: Gfid, name: Name },
    Rename { from: (Gfid, Name), to: (Gfid, Name) },
    Lookup { dir: Gfid, name: Name },
}

impl Kind {
    pub fn event(&self) -> &'static str {
        match self {
            Kind::Read { .. } => "op: read",
            Kind::Write { .. } => "op: write",
            Kind::Getattr { .. } => "op: getattr",
            Kind::Setattr { .. } => "op: setattr",
            Kind::Fsync { .. } => "op: fsync",
            Kind::Create { .. } => "op: create",
            Kind::Unlink { .. } => "op: unlink",
            Kind::Rename { .. } => "op: rename",
            Kind::Lookup { .. } => "op: lookup",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Res {
    Value(u64),
    Name(Option<Gfid>),
    Done,
    Err(Errno),
}

#[derive(Clone, Copy, Debug)]
pub struct Entry {
    pub client: Proc,
    pub kind: Kind,
    pub from: Nanos,
    /// `u64::MAX` while unanswered, and for ever when the outcome stayed unknown.
    pub to: Nanos,
    pub res: Option<Res>,
    /// When the application was told anything at all, were it EIO.
    pub told: Option<Nanos>,
}

impl Entry {
    pub fn done(&self) -> bool {
        self.res == Some(Res::Done)
    }
}

#[derive(Debug, Default)]
pub struct History {
    pub ops: Vec<Entry>,
    /// Moments at which every in-sync copy had lost its memory: what was not synced may be
    /// gone from then on.
    pub cuts: Vec<Nanos>,
}

impl History {
    pub fn invoke(&mut self, client: Proc, now: Nanos, kind: Kind) -> usize {
        let entry = Entry { client, kind, from: now, to: u64::MAX, res: None, told: None };
        self.ops.push(entry);
        self.ops.len() - 1
    }

    pub fn finish(&mut self, at: usize, now: Nanos, res: Option<Res>) {
        let entry = &mut self.ops[at];
        entry.told.get_or_insert(now);
        if res.is_some() {
            (entry.to, entry.res) = (now, res);
        }
    }

    /// The operations that matter between cut `n` and the next, with what was unanswered at
    /// the next cut as unanswered.
    pub fn segment(&self, n: usize) -> Vec<Entry> {
        let start = n.checked_sub(1).and_then(|n| self.cuts.get(n)).copied().unwrap_or(0);
        let end = self.cuts.get(n).copied().unwrap_or(u64::MAX);
        let inside = self.ops.iter().filter(|e| e.from < end && e.to > start);
        inside
            .map(|e| if e.to > end { Entry { to: u64::MAX, res: None, ..*e } } else { *e })
            .collect()
    }
}
