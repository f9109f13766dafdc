//! What processes say to each other, and what they tell themselves with timers.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use proto::fop::{LeaseKey, Mode, Touch};
use proto::map::SetMap;
use proto::{BrickId, Epoch, Failure, Gfid, Incarnation, LeaseNumber, Seq, SessionId};
use proto_rules::heal::log::{Interval, LogBook};
use proto_rules::lease::Lease;
use proto_rules::lease::table::{Reclaim, Reclaimed};
use proto_rules::member::handover::HandOver;
use proto_rules::promise::{Answer, Ping};
use proto_rules::restart::Report;
use proto_rules::set::SetEntry;
use proto_rules::settle::MemberList;
use proto_rules::time::Nanos;
use proto_rules::window::Entry;

use crate::model::change::{Change, Name, Outcome};
use crate::model::store::{ChangeLog, Inode, Piece};

/// The set's map with the number of its version.
#[derive(Clone, Debug)]
pub struct Map {
    pub version: u64,
    pub set: Rc<SetMap>,
}

#[derive(Clone, Debug)]
pub enum Msg {
    Ping {
        ping: Ping,
        map: Map,
        interval: Interval,
    },
    Answer {
        answer: Answer,
        map: Map,
        interval: Interval,
    },
    Map(Map),
    /// To the pool's leader, whoever the sender believes that is.
    Word(Word),
    /// The leader asks a member to stop promising the victim.
    Stop {
        epoch: Epoch,
        victim: BrickId,
    },
    Call {
        id: u64,
        epoch: Epoch,
        call: Rc<Call>,
    },
    Done {
        id: u64,
        done: Done,
    },
    Request(Rc<Request>),
    Reply(Reply),
    Recall {
        lease: Lease,
        keep: Mode,
    },
    MapAsk,
}

/// What peers tell the pool's leader.
#[derive(Clone, Debug)]
pub enum Word {
    Report { report: Report, lacks: Vec<(BrickId, BrickId)> },
    StopReady { epoch: Epoch, victim: BrickId },
    Propose(SetEntry),
}

/// Between the peers of a set.
#[derive(Clone, Debug)]
pub enum Call {
    Unsettled {
        session: Option<SessionId>,
        gfid: Option<Gfid>,
        raise: Vec<(LeaseKey, LeaseNumber)>,
    },
    /// What of an inode a settle copies: asked of the source, installed at the targets.
    Fetch(Vec<Touch>),
    Pieces(Vec<Piece>),
    Clear {
        settled: Vec<(SessionId, Seq)>,
        /// What a lead executed, with its reply.
        taken: Vec<(SessionId, Seq, Entry<Outcome>)>,
        ended: Vec<(SessionId, bool)>,
        graced: Option<Epoch>,
    },
    Vouch {
        session: SessionId,
        lease: Option<(LeaseKey, LeaseNumber)>,
    },
    Mark {
        set: Vec<(BrickId, Gfid)>,
        clear: Vec<(BrickId, Gfid)>,
    },
    Changed {
        since: Option<Interval>,
    },
    Inspect(Vec<Gfid>),
    AgreeJoin {
        brick: BrickId,
        incarnation: Incarnation,
    },
    /// Joiner to lead: hold changes back and ship the rest since that interval.
    Pause {
        since: Option<Interval>,
        /// What the joiner keeps its own copy of.
        keeps: BTreeSet<Gfid>,
    },
    /// The joiner gives the pause up before anybody agreed.
    EndPause,
    /// One inode as a good copy has it, for a member whose copy is marked stale.
    Install {
        gfid: Gfid,
        inode: Option<Inode>,
    },
    Withdraw {
        incarnation: Incarnation,
    },
}

#[derive(Clone, Debug)]
pub enum Done {
    Unsettled {
        list: MemberList,
        graced: Epoch,
        by_lead: Vec<(SessionId, Seq, Entry<Outcome>)>,
    },
    Pieces(Vec<Piece>),
    Ok,
    Marked,
    /// Not now: the call is made again.
    Busy,
    Refused,
    Vouched(bool),
    /// `all`: the log does not reach back so far; these are all inodes there are.
    Changed {
        gfids: BTreeSet<Gfid>,
        all: bool,
        current: Interval,
        /// All marks of the inodes whose copy here is stale.
        stale: BTreeSet<(BrickId, Gfid)>,
        /// What the asker did since then may be lost here.
        fallback: Option<Interval>,
    },
    Inodes(Vec<(Gfid, Option<Inode>)>),
    Rest(Rc<Rest>),
}

/// What a lead ships in the final pause.
#[derive(Clone, Debug)]
pub struct Rest {
    pub inodes: Vec<(Gfid, Option<Inode>)>,
    pub log: ChangeLog,
    pub book: LogBook,
    pub rules: HandOver<Outcome>,
    pub keep: BTreeSet<Gfid>,
    pub fallback: Option<u64>,
    pub raised: BTreeMap<LeaseKey, LeaseNumber>,
    pub interval: Interval,
}

#[derive(Clone, Debug)]
pub struct Request {
    pub session: SessionId,
    pub id: u64,
    pub epoch: Epoch,
    pub seq: Seq,
    pub mark: Seq,
    pub resend: bool,
    pub stamp: u64,
    /// The lead shall execute it ...
    pub execute: bool,
    /// The epoch in which such a change was sent first.
    pub first_epoch: Epoch,
    /// ... or does, and sends it on.
    pub by_lead: bool,
    pub under: Vec<(LeaseKey, LeaseNumber)>,
    pub body: Body,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Body {
    Hello,
    Renew { progress: Vec<LeaseKey> },
    Reclaim(Reclaim),
    Ask { key: LeaseKey, mode: Mode, yields: bool },
    Return { lease: Lease, keep: Mode, open: bool },
    Read { gfid: Gfid, block: u8 },
    Getattr { gfid: Gfid },
    Lookup { dir: Gfid, name: Name },
    Change(Change),
    Fsync { gfid: Gfid },
    Diverged { gfids: Vec<Gfid>, stale: Vec<BrickId> },
}

#[derive(Clone, Debug)]
pub struct Reply {
    pub id: u64,
    pub map: Option<Map>,
    pub result: Result<Ans, Failure>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Ans {
    Done,
    /// By the lead: a new inode's lease comes along.
    Created {
        lease: Lease,
        term: Nanos,
    },
    /// Wall time of the lead, for stamps.
    Renewed {
        term: Nanos,
        overdue: Vec<LeaseKey>,
        wall: u64,
    },
    Reclaimed {
        answer: Reclaimed,
        term: Nanos,
        wall: u64,
    },
    Granted {
        lease: Lease,
        term: Nanos,
    },
    Value(u64),
    Attr(u64, u64),
    Name(Option<Gfid>),
}
