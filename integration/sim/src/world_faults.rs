//! How the world carries faults out, and how it ends them all.

use std::collections::BTreeSet;

use proto::{BrickId, Incarnation};

use crate::faults::Fault;
use crate::model::clock::{MS, Nanos};
use crate::model::net::{DATA, Proc};
use crate::model::store::Store;
use crate::world::{Event, World, new_client};

const DAY: i64 = 86_400_000_000_000;

impl World {
    pub fn fault(&mut self, fault: Fault) {
        self.note(|| format!("fault: {fault:?}"));
        match fault {
            Fault::Crash(proc) => {
                self.cover.hit("fault: crash");
                self.kill(proc);
            }
            Fault::PowerLoss(proc) => {
                self.cover.hit("fault: power loss");
                self.power_loss(proc);
            }
            Fault::CrashAll => {
                self.cover.hit("fault: crash of all");
                (0..self.cast.peers).for_each(|p| self.kill(p));
            }
            Fault::PowerLossAll => {
                self.cover.hit("fault: power loss of all");
                (0..self.cast.peers).for_each(|p| self.power_loss(p));
            }
            Fault::Start(proc) => self.start_peer(proc),
            Fault::Pause(proc) => self.pause(proc, "fault: pause"),
            Fault::ClientPause(proc) => self.pause(proc, "fault: client pause"),
            Fault::Resume(proc) => self.resume(proc),
            Fault::Cut(..)
            | Fault::OneWayCut(..)
            | Fault::Isolate(_)
            | Fault::Mend(..)
            | Fault::MendAll(_)
            | Fault::Drop(..)
            | Fault::Slow(..) => self.network_fault(fault),
            Fault::WallJump(proc) => {
                self.cover.hit("fault: wall jump");
                let sign = if self.rng.percent(50) { 1 } else { -1 };
                self.procs[proc].clock.wall_offset += sign * DAY;
            }
            Fault::Eio(proc) => self.fail_disk(proc),
            Fault::Misanswer(proc) => self.oracle.plan_misanswer(proc),
            Fault::Full(proc) => {
                self.cover.hit("fault: full disk");
                self.peers[proc].lasting.store.full = true;
            }
            Fault::DiskLost(proc) => self.lose_disk(proc),
            Fault::Wedge(proc) => {
                self.cover.hit("fault: wedged client");
                self.clients[proc - self.cast.peers].wedged = true;
            }
            Fault::Unwedge(proc) => self.clients[proc - self.cast.peers].wedged = false,
            Fault::ClientCrash(proc) => {
                self.cover.hit("fault: client crash");
                self.kill(proc);
            }
            Fault::ClientStart(proc) => self.restart_client(proc),
        }
    }

    fn network_fault(&mut self, fault: Fault) {
        match fault {
            Fault::Cut(a, b) => {
                self.cover.hit("fault: cut");
                self.net.cut(a, b);
                self.net.cut(b, a);
            }
            Fault::OneWayCut(a, b) => {
                self.cover.hit("fault: one-way cut");
                self.net.cut(a, b);
            }
            Fault::Isolate(proc) => {
                self.cover.hit("fault: isolation");
                for other in (0..self.procs.len()).filter(|o| *o != proc) {
                    self.net.cut(proc, other);
                    self.net.cut(other, proc);
                }
            }
            Fault::Mend(a, b) => {
                self.mend(a, b);
                self.mend(b, a);
            }
            Fault::MendAll(proc) => {
                for other in (0..self.procs.len()).filter(|o| *o != proc) {
                    self.mend(proc, other);
                    self.mend(other, proc);
                }
            }
            Fault::Drop(a, b) => {
                self.cover.hit("fault: connection drop");
                self.drop_connections(a, b);
            }
            Fault::Slow(a, b) => {
                self.cover.hit("fault: slow link");
                let by = self.rng.range(20 * MS, 400 * MS);
                self.net.slow_down(a, b, by);
            }
            _ => {}
        }
    }

    fn kill(&mut self, proc: Proc) {
        let now = self.now;
        let process = &mut self.procs[proc];
        if !process.up {
            return;
        }
        if process.paused
            && let Some(last) = process.stopped.last_mut()
        {
            last.1 = now;
        }
        (process.up, process.paused) = (false, false);
        process.inbox.clear();
        process.deaths.push(now);
        for other in (0..self.procs.len()).filter(|o| *o != proc) {
            self.drop_connections(proc, other);
        }
    }

    /// Everything in flight between two processes is gone; both ends learn of it.
    fn drop_connections(&mut self, a: Proc, b: Proc) {
        for chan in self.net.chans(a, b) {
            self.net.break_conn(a, b, chan);
            self.tell_broken(a, b, chan);
        }
    }

    fn tell_broken(&mut self, a: Proc, b: Proc, chan: u8) {
        for (proc, other) in [(a, b), (b, a)] {
            let life = self.procs[proc].life;
            let at = self.now + self.rng.range(MS / 10, 5 * MS);
            self.at(at, Event::Broken { proc, life, other, chan });
        }
    }

    fn mend(&mut self, from: Proc, to: Proc) {
        let (late, broken) = self.net.mend(self.now, &mut self.rng, from, to);
        for flight in late {
            self.at(flight.at, Event::Deliver(flight));
        }
        for chan in broken {
            if DATA.contains(&chan) {
                self.tell_broken(from, to, chan);
            }
        }
    }

    fn power_loss(&mut self, proc: Proc) {
        self.kill(proc);
        let peer = &mut self.peers[proc];
        peer.lasting.store.power_loss(&mut self.rng);
        peer.lasting.boot += 1;
        self.lose_memory(proc);
    }

    /// Notes that a copy is gone, and the moment at which all in-sync ones are.
    fn lose_memory(&mut self, proc: Proc) {
        let brick = crate::cx::brick_of(proc);
        let Some(named) = self.pool.map.member(brick).map(|m| m.incarnation) else { return };
        self.lost.insert((brick, named));
        // The one that ran may be named later, by an entry proposed before it was lost.
        self.lost.insert((brick, self.peers[proc].incarnation));
        // A copy of an inode that is marked stale is lost, too, until it is healed.
        let marks = self.peers.iter().flat_map(|p| p.lasting.store.facts.stale.iter());
        let stale: BTreeSet<BrickId> = marks.map(|(_, brick)| *brick).collect();
        let all = self
            .pool
            .map
            .in_sync()
            .all(|m| self.lost.contains(&(m.brick, m.incarnation)) || stale.contains(&m.brick));
        if all {
            self.oracle.memory_lost = true;
            self.note(|| "all memory is lost".to_owned());
        }
    }

    fn start_peer(&mut self, proc: Proc) {
        if self.procs[proc].up {
            return;
        }
        self.procs[proc].up = true;
        self.procs[proc].life += 1;
        self.peers[proc].lasting.store.failed = false;
        self.peers[proc].lasting.store.full = false;
        let incarnation = Incarnation(self.rng.next() | 1);
        self.note(|| format!("p{proc} starts as incarnation {incarnation}"));
        self.with_peer(proc, |peer, cx| peer.start(cx, incarnation));
    }

    fn restart_client(&mut self, proc: Proc) {
        if self.procs[proc].up {
            return;
        }
        self.procs[proc].up = true;
        self.procs[proc].life += 1;
        let (at, life) = (proc - self.cast.peers, self.procs[proc].life);
        let map = self.clients[at].map.clone();
        self.clients[at] = new_client(at, life, &map);
        self.start_client(proc);
    }

    fn pause(&mut self, proc: Proc, event: &'static str) {
        let now = self.now;
        let process = &mut self.procs[proc];
        if process.up && !process.paused {
            process.paused = true;
            process.stopped.push((now, Nanos::MAX));
            self.cover.hit(event);
        }
    }

    /// It goes on with everything that arrived meanwhile, in order.
    fn resume(&mut self, proc: Proc) {
        let now = self.now;
        let process = &mut self.procs[proc];
        if !process.paused {
            return;
        }
        process.paused = false;
        if let Some(last) = process.stopped.last_mut() {
            last.1 = now;
        }
        for event in std::mem::take(&mut process.inbox) {
            self.at(now, event);
        }
    }

    /// While another in-sync member is alive: errors of all disks are outside of the budget.
    fn fail_disk(&mut self, proc: Proc) {
        let others = self.pool.map.in_sync().filter(|m| {
            let p = crate::cx::proc_of(m.brick);
            p != proc && self.procs[p].up && !self.peers[p].lasting.store.failed
        });
        if others.count() > 0 && self.procs[proc].up {
            self.cover.hit("fault: EIO");
            self.peers[proc].lasting.store.failed = true;
            self.lose_memory(proc);
        }
    }

    /// The disk goes with all that is on it; an empty one is there at the next start. Another
    /// in-sync member keeps its own: the loss of all disks is outside of the budget.
    fn lose_disk(&mut self, proc: Proc) {
        let brick = crate::cx::brick_of(proc);
        let member = self.pool.map.in_sync().any(|m| m.brick == brick);
        let kept = self.pool.map.in_sync().any(|m| {
            let store = &self.peers[crate::cx::proc_of(m.brick)].lasting.store;
            let whole = !store.failed && !store.full;
            m.brick != brick && whole && store.facts.epoch != proto::Epoch::NONE
        });
        // Of an inode that is marked stale somewhere it may be the last good copy.
        let marked = self.peers.iter().any(|p| !p.lasting.store.facts.stale.is_empty());
        if marked || !kept && member {
            return;
        }
        self.cover.hit("fault: disk lost");
        self.kill(proc);
        self.peers[proc].lasting.store = Store::replaced();
        self.peers[proc].lasting.boot += 1;
        self.lose_memory(proc);
    }

    /// The quiet phase: everything runs, reaches everything, and no disk fails.
    pub fn end_faults(&mut self) {
        for (from, to) in self.net.cuts() {
            self.mend(from, to);
        }
        self.net.speed_up();
        self.oracle.forget_misanswers();
        for proc in 0..self.procs.len() {
            self.resume(proc);
            if proc >= self.cast.peers {
                self.clients[proc - self.cast.peers].wedged = false;
                self.restart_client(proc);
                continue;
            }
            if self.peers[proc].lasting.store.failed || self.peers[proc].lasting.store.full {
                self.kill(proc);
            }
            self.start_peer(proc);
        }
    }
}
