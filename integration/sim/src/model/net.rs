//! Links and connections. A connection delivers in order; connections of one pair overtake each
//! other. Each direction of a link can be cut by itself. What is sent over a cut link waits, as
//! in TCP: when the link is whole again it arrives late, or the connection has broken meanwhile
//! and all of it is lost.

use std::collections::{BTreeMap, BTreeSet};

use super::clock::{MS, Nanos};
use crate::rng::Rng;

/// A process: peers first, then clients.
pub type Proc = usize;
/// One of the connections of a pair of processes.
pub type Chan = u8;

pub const PROMISES: Chan = 0;
pub const CONTROL: Chan = 1;
pub const PEER_DATA: Chan = 2;
/// Data connections of a client with a brick: one for each of its threads.
pub const DATA: [Chan; 2] = [3, 4];

type ConnKey = (Proc, Proc, Chan);

#[derive(Debug)]
struct Conn<M> {
    /// Counts how often the connection broke: what was in flight before is gone.
    generation: u64,
    /// Earliest next delivery, per direction, so that order holds.
    next: [Nanos; 2],
    stalled: Vec<(Proc, Proc, M)>,
}

#[derive(Debug)]
pub struct Net<M> {
    conns: BTreeMap<ConnKey, Conn<M>>,
    cuts: BTreeSet<(Proc, Proc)>,
    /// Slow links: extra delay in ns.
    slow: BTreeMap<(Proc, Proc), Nanos>,
}

pub struct Flight<M> {
    pub at: Nanos,
    pub from: Proc,
    pub to: Proc,
    pub chan: Chan,
    pub generation: u64,
    pub msg: M,
}

fn conn_key(from: Proc, to: Proc, chan: Chan) -> (ConnKey, usize) {
    if from < to { ((from, to, chan), 0) } else { ((to, from, chan), 1) }
}

impl<M> Net<M> {
    pub fn new() -> Self {
        Self { conns: BTreeMap::new(), cuts: BTreeSet::new(), slow: BTreeMap::new() }
    }

    pub fn send(
        &mut self,
        now: Nanos,
        rng: &mut Rng,
        (from, to, chan): (Proc, Proc, Chan),
        msg: M,
    ) -> Option<Flight<M>> {
        let (key, direction) = conn_key(from, to, chan);
        let slow = self.slow.get(&(from, to)).copied().unwrap_or(0);
        let cut = self.cuts.contains(&(from, to));
        let conn = self.conns.entry(key).or_insert_with(|| Conn {
            generation: 0,
            next: [0; 2],
            stalled: Vec::new(),
        });
        let waits = conn.stalled.iter().any(|(f, ..)| *f == from);
        if cut || waits {
            conn.stalled.push((from, to, msg));
            return None;
        }
        let delay = match rng.below(20) {
            0 => rng.range(MS, 40 * MS),
            _ => rng.range(MS / 20, MS),
        };
        let at = (now + delay + rng.below(slow + 1)).max(conn.next[direction] + 1);
        conn.next[direction] = at;
        Some(Flight { at, from, to, chan, generation: conn.generation, msg })
    }

    /// Whether a message of that connection's `generation` still arrives.
    pub fn arrives(&self, from: Proc, to: Proc, chan: Chan, generation: u64) -> bool {
        let (key, _) = conn_key(from, to, chan);
        self.conns.get(&key).is_some_and(|c| c.generation == generation)
    }

    pub fn linked(&self, from: Proc, to: Proc) -> bool {
        !self.cuts.contains(&(from, to))
    }

    pub fn cut(&mut self, from: Proc, to: Proc) {
        self.cuts.insert((from, to));
    }

    pub fn slow_down(&mut self, from: Proc, to: Proc, by: Nanos) {
        self.slow.insert((from, to), by);
    }

    pub fn speed_up(&mut self) {
        self.slow.clear();
    }

    /// The direction is whole again. Returns what arrives late, and the connections that broke.
    pub fn mend(
        &mut self,
        now: Nanos,
        rng: &mut Rng,
        from: Proc,
        to: Proc,
    ) -> (Vec<Flight<M>>, Vec<Chan>) {
        if !self.cuts.remove(&(from, to)) {
            return (Vec::new(), Vec::new());
        }
        let (mut late, mut broken) = (Vec::new(), Vec::new());
        let chans: Vec<Chan> = self.chans(from, to);
        for chan in chans {
            let (key, _) = conn_key(from, to, chan);
            let Some(conn) = self.conns.get_mut(&key) else { continue };
            let stalled = std::mem::take(&mut conn.stalled);
            let (mine, other): (Vec<_>, Vec<_>) =
                stalled.into_iter().partition(|(f, ..)| *f == from);
            conn.stalled = other;
            if mine.is_empty() {
                continue;
            }
            if rng.percent(50) {
                self.break_conn(from, to, chan);
                broken.push(chan);
                continue;
            }
            for (from, to, msg) in mine {
                late.extend(self.send(now, rng, (from, to, chan), msg));
            }
        }
        (late, broken)
    }

    pub fn break_conn(&mut self, a: Proc, b: Proc, chan: Chan) {
        let (key, _) = conn_key(a, b, chan);
        if let Some(conn) = self.conns.get_mut(&key) {
            conn.generation += 1;
            conn.stalled.clear();
        }
    }

    /// Connections that exist between two processes.
    pub fn chans(&self, a: Proc, b: Proc) -> Vec<Chan> {
        let (low, high) = (a.min(b), a.max(b));
        self.conns.keys().filter(|(x, y, _)| (*x, *y) == (low, high)).map(|k| k.2).collect()
    }

    pub fn cuts(&self) -> Vec<(Proc, Proc)> {
        self.cuts.iter().copied().collect()
    }
}
