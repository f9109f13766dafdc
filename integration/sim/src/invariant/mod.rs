//! What must hold, one file each.
//!
//! `serving` and `holders` are watched while a run goes on; `linear`, `acked`, `fsynced` judge
//! the recorded history at its end, `equal`, `heal_ends` and `hang` the state after the quiet
//! phase.

pub mod acked;
pub mod equal;
pub mod fsynced;
pub mod hang;
pub mod heal_ends;
pub mod history;
pub mod holders;
pub mod linear;
pub mod names;
pub mod registers;
pub mod serving;

use proto::Epoch;

use crate::model::clock::Nanos;
use crate::model::net::Proc;
use history::{History, Res};

/// A broken invariant: its name and what was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    pub invariant: &'static str,
    pub what: String,
}

impl Broken {
    pub fn new(invariant: &'static str, what: String) -> Self {
        Self { invariant, what }
    }
}

/// Sees everything; no process may ask it for anything that a real one could not know.
#[derive(Debug, Default)]
pub struct Oracle {
    pub clients: usize,
    pub history: History,
    pub broken: Option<Broken>,
    serving: serving::Serving,
    /// All in-sync copies lost their memory: applications may notice from the moment at which
    /// the next epoch is served.
    pub memory_lost: bool,
    /// Peers whose store answers the next change wrongly, once.
    misanswers: std::collections::BTreeSet<Proc>,
    /// Threads that have an answer and may go on: (client, thread).
    pub ready: Vec<(Proc, usize)>,
}

impl Oracle {
    pub fn new(clients: usize) -> Self {
        Self { clients, ..Self::default() }
    }

    pub fn break_with(&mut self, broken: Broken) {
        self.broken.get_or_insert(broken);
    }

    /// A member passed a request through its gate.
    pub fn served(&mut self, now: Nanos, proc: Proc, epoch: Epoch) {
        match self.serving.served(now, proc, epoch) {
            Ok(true) if std::mem::take(&mut self.memory_lost) => self.history.cuts.push(now),
            Ok(_) => {}
            Err(broken) => self.break_with(broken),
        }
    }

    pub fn finished(
        &mut self,
        client: Proc,
        now: Nanos,
        hist: usize,
        thread: usize,
        res: Option<Res>,
    ) {
        self.history.finish(hist, now, res);
        self.ready.push((client, thread));
    }

    pub fn plan_misanswer(&mut self, proc: Proc) {
        self.misanswers.insert(proc);
    }

    pub fn take_misanswer(&mut self, proc: Proc) -> bool {
        self.misanswers.remove(&proc)
    }

    pub fn forget_misanswers(&mut self) {
        self.misanswers.clear();
    }
}
