//! What a driver sees of the world while it handles one event, and what it asks of it.

use proto::map::SetMap;
use proto::{BrickId, PeerId, SetId, VolumeId};
use proto_rules::set::SetEntry;
use proto_rules::{SetKey, Tick};

use crate::coverage::Coverage;
use crate::invariant::Oracle;
use crate::model::clock::Nanos;
use crate::model::net::{Chan, Proc};
use crate::msg::Msg;
use crate::rng::Rng;

pub enum Out {
    Send {
        to: Proc,
        chan: Chan,
        msg: Msg,
    },
    /// Comes back to the process after that much true time.
    After {
        wait: Nanos,
        what: Later,
    },
    Propose {
        term: u64,
        entry: SetEntry,
    },
}

/// What a process does later, of its own.
#[derive(Clone, Debug)]
pub enum Later {
    Tick,
    /// A request that has passed the gate is executed.
    Execute {
        from: Proc,
        chan: Chan,
        request: std::rc::Rc<crate::msg::Request>,
    },
}

pub struct Cx<'a> {
    pub me: Proc,
    pub now: Nanos,
    pub tick: Tick,
    pub wall: u64,
    pub peers: usize,
    pub rng: &'a mut Rng,
    pub cover: &'a mut Coverage,
    pub oracle: &'a mut Oracle,
    /// Which term of the pool this process leads, if it (still) believes so.
    pub leads_term: Option<u64>,
    /// Where this process believes the pool's leader to be.
    pub leader: Option<Proc>,
    pub out: Vec<Out>,
    /// A settle or a marking has begun: a moment to aim a fault at.
    pub rounds: bool,
    /// A mount sends a change, for the first time.
    pub changes: bool,
    pub notes: Option<&'a mut Vec<String>>,
}

impl Cx<'_> {
    pub fn send(&mut self, to: Proc, chan: Chan, msg: Msg) {
        self.out.push(Out::Send { to, chan, msg });
    }

    pub fn after(&mut self, wait: Nanos, what: Later) {
        self.out.push(Out::After { wait, what });
    }

    pub fn hit(&mut self, event: &'static str) {
        self.cover.hit(event);
    }

    /// Adds to the trace; the text is made only when somebody reads it.
    pub fn note(&mut self, text: impl FnOnce(Proc) -> String) {
        if let Some(notes) = self.notes.as_deref_mut() {
            notes.push(text(self.me));
        }
    }
}

pub fn set_key() -> SetKey {
    SetKey { volume: VolumeId::from_bytes([9; 16]), set: SetId(0) }
}

pub fn brick_of(proc: Proc) -> BrickId {
    BrickId::from_bytes([proc as u8 + 1; 16])
}

pub fn peer_of(proc: Proc) -> PeerId {
    PeerId::from_bytes([proc as u8 + 1; 16])
}

pub fn proc_of(brick: BrickId) -> Proc {
    Proc::from(brick.as_bytes()[0]) - 1
}

pub fn proc_of_peer(peer: PeerId) -> Proc {
    Proc::from(peer.as_bytes()[0]) - 1
}

/// The lead with the process it runs on.
pub fn lead_proc(map: &SetMap) -> Option<Proc> {
    map.lead.map(proc_of)
}
