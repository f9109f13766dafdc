//! Advisory locks.

use proto::fop::{Lock, Locked};

#[derive(Debug, Default)]
pub(super) struct Locks {
    held: Vec<(u64, Lock)>,
}

impl Locks {
    fn conflict(&self, session: u64, ask: &Lock) -> Option<Lock> {
        let clash = |(s, l): &&(u64, Lock)| {
            l.gfid == ask.gfid
                && l.flock == ask.flock
                && (*s != session || l.owner != ask.owner)
                && l.start < ask.end
                && ask.start < l.end
                && (l.kind == 2 || ask.kind == 2)
        };
        self.held.iter().find(clash).map(|(_, l)| *l)
    }

    pub fn test(&self, session: u64, ask: &Lock) -> Locked {
        Locked { conflict: self.conflict(session, ask) }
    }

    pub fn set(&mut self, session: u64, ask: &Lock) -> Locked {
        if ask.kind != 0
            && let Some(conflict) = self.conflict(session, ask)
        {
            return Locked { conflict: Some(conflict) };
        }
        let mut rest = Vec::new();
        for (s, l) in std::mem::take(&mut self.held) {
            let own = s == session && l.owner == ask.owner && l.gfid == ask.gfid;
            if !own || l.flock != ask.flock || l.end <= ask.start || ask.end <= l.start {
                rest.push((s, l));
                continue;
            }
            if l.start < ask.start {
                rest.push((s, Lock { end: ask.start, ..l }));
            }
            if ask.end < l.end {
                rest.push((s, Lock { start: ask.end, ..l }));
            }
        }
        if ask.kind != 0 {
            rest.push((session, *ask));
        }
        self.held = rest;
        Locked { conflict: None }
    }
}
