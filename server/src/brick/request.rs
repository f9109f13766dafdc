//! A request on its way through a brick, and its reply.

use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use prost::Message as _;
use proto::fop::{Call, Caller, Class, Fop, Grant, LeaseKey, Op, Return, Want};
use proto::frame::{BadFrame, Flags, Frame, FrameKind, Header, ReplyHead, RequestHead};
use proto::{Epoch, Errno, Failure, Gfid, Seq, SessionId, Stamp};
use proto_rules::Tick;
use proto_rules::lease::Lease;
use proto_rules::member::Head;

use super::connection::Conn;

/// Leases named in one request: a reclaim names the most.
const LEASES_MAX: usize = 4096;

/// The reply of an executed change, kept for re-sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    pub answer: Bytes,
    /// 0: it succeeded.
    pub errno: i32,
}

impl Stored {
    pub fn of(result: &Result<Return, Errno>) -> Self {
        match result {
            Ok(done) => Self { answer: encoded(done), errno: 0 },
            Err(errno) => Self { answer: Bytes::new(), errno: errno.0 },
        }
    }
}

fn encoded(done: &Return) -> Bytes {
    let mut answer = BytesMut::with_capacity(done.answer.encoded_len());
    done.answer.encode(&mut answer);
    answer.freeze()
}

/// A turn of the lead's on one key.
#[derive(Clone, Copy, Debug)]
pub struct Turn {
    pub key: LeaseKey,
    pub ask: u64,
}

pub struct Pending {
    pub conn: Rc<Conn>,
    /// Chosen by the sender; comes back with the reply.
    pub request: u64,
    pub op: Op,
    pub call: Call,
    pub head: Head,
    /// Leases asked for and not yet decided, the next one last.
    pub wants: Vec<Want>,
    /// Shared leases are wished for on whatever inodes the request finds.
    pub wishes_found: bool,
    pub grants: Vec<Grant>,
    /// Taken only for the time of this request.
    pub borrowed: Vec<Lease>,
    /// The lead executes it for its session, and fans it out; of a member: the lead does so.
    pub execute: bool,
    /// The epoch in which its session sent it first.
    pub first_epoch: Epoch,
    /// Of such a change: keys on which it needs turns yet, the next one last.
    pub turns_due: Option<Vec<LeaseKey>>,
    /// The turns that it has, until it is answered.
    pub turns: Vec<Turn>,
    /// It is being fanned out.
    pub fanned_out: bool,
    /// The lease that it waits for is to be one of those.
    pub borrowing: bool,
    /// What a lookup found when its lease was asked for, and how many changes had been executed
    /// by then. Gone when it has to wait.
    pub found: Option<(u64, Return)>,
    pub started: Tick,
    /// Its reply does not go out with the turn in which it was read.
    pub deferred: bool,
    /// The lead was asked about its session or leases already.
    pub vouched: bool,
}

impl Pending {
    /// # Errors
    /// The frame is not what a correct sender sends.
    pub fn decode(conn: &Rc<Conn>, frame: Frame, now: Tick) -> Result<Pending, BadFrame> {
        let Frame { header, message, payload } = frame;
        let session = SessionId(header.session);
        let op = Op::from_code(header.op).ok_or(BadFrame::Message)?;
        let execute = header.flags.has(Flags::EXECUTE) && op.class() == Class::Change;
        // A lead sends on what it executes for a session.
        let sent_on = execute && conn.peer().is_some();
        if header.kind != FrameKind::Request || (session != conn.session && !sent_on) {
            return Err(BadFrame::Kind(header.kind as u8));
        }
        let head = RequestHead::decode(message).map_err(|_| BadFrame::Message)?;
        let fop = Fop::decode(op, head.args).map_err(|_| BadFrame::Message)?;
        let named = head.wants.len() <= LEASES_MAX && head.under.len() <= LEASES_MAX;
        if !named || !payload_fits(&fop, payload.len()) {
            return Err(BadFrame::Message);
        }
        let mut wants = head.wants;
        // Several leases are taken in (gfid, part) order, by everybody, so that no two requests
        // wait for each other. The wish for whatever is found comes last of all.
        wants.sort_by_key(|want| std::cmp::Reverse(rank(want)));
        let gate = Head {
            session,
            epoch: Epoch(header.epoch),
            class: op.class(),
            seq: Seq(header.seq),
            mark: Seq(header.mark),
            under: head.under.iter().map(|u| (u.key.into(), u.number)).collect(),
            touches: if op.class() == Class::Change { fop.touches() } else { Vec::new() },
            reads: reads(&fop).into_iter().collect(),
            by_lead: execute,
        };
        let call = Call {
            fop,
            payload,
            caller: Caller { uid: head.uid, gid: head.gid, pid: head.pid },
            stamp: Stamp(header.stamp),
            seq: Seq(header.seq),
            resend: header.flags.has(Flags::RESEND),
        };
        Ok(Pending {
            conn: conn.clone(),
            request: header.request,
            op,
            call,
            head: gate,
            wishes_found: wants.iter().any(|w| w.key.gfid.is_nil() && !w.key.part),
            wants,
            grants: Vec::new(),
            borrowed: Vec::new(),
            execute,
            first_epoch: Epoch(head.first_epoch),
            turns_due: None,
            turns: Vec::new(),
            fanned_out: false,
            borrowing: false,
            found: None,
            started: now,
            deferred: false,
            vouched: false,
        })
    }

    /// From now on its reply comes later than the others of its turn.
    pub fn defer(&mut self) {
        self.found = None;
        if !self.deferred {
            self.deferred = true;
            self.conn.begin();
        }
    }

    /// Queues the reply.
    pub fn send(self, epoch: Epoch, outcome: Outcome) {
        let mut header = Header::new(FrameKind::Reply);
        header.op = self.op.code();
        header.request = self.request;
        header.session = self.head.session.0;
        header.seq = self.head.seq.0;
        header.epoch = epoch.0;
        let (mut head, payload) = match outcome {
            Outcome::Done(done) => {
                let mut grants = self.grants;
                grants.extend(done.grants.iter().copied());
                let head = ReplyHead { answer: encoded(&done), grants, ..ReplyHead::default() };
                (head, done.payload)
            }
            Outcome::Replay(stored) => {
                header.flags = Flags::REPLAY;
                let errno = stored.errno as u32;
                let grants = self.grants;
                (
                    ReplyHead { answer: stored.answer, errno, grants, ..ReplyHead::default() },
                    Bytes::new(),
                )
            }
            Outcome::Failed(failure) => {
                let head = ReplyHead { grants: self.grants, ..ReplyHead::failure(failure, 0) };
                (head, Bytes::new())
            }
        };
        head.epoch = epoch.0;
        self.conn.push(header, &head, payload);
        if self.deferred {
            self.conn.end();
        }
    }
}

#[allow(
    clippy::large_enum_variant,
    reason = "one lives for one request; a box would cost an allocation"
)]
pub enum Outcome {
    Done(Return),
    Replay(Stored),
    Failed(Failure),
}

impl From<Result<Return, Errno>> for Outcome {
    fn from(result: Result<Return, Errno>) -> Self {
        match result {
            Ok(done) => Outcome::Done(done),
            Err(errno) => Outcome::Failed(errno.into()),
        }
    }
}

fn rank(want: &Want) -> (bool, Gfid, bool) {
    (want.key.gfid.is_nil(), want.key.gfid, want.key.part)
}

/// Bulk data only where the operation has some, and as much as it says.
fn payload_fits(fop: &Fop, bytes: usize) -> bool {
    match fop {
        Fop::Write(a) => a.len == bytes as u64,
        Fop::InstallData(a) if !a.hole => a.len == bytes as u64,
        Fop::Install(a) => bytes == 0 || (a.finish && a.image.attr.size == bytes as u64),
        // A new file's data; the state that a joiner takes over.
        Fop::Create(_) | Fop::TakeOver(_) => true,
        _ => bytes == 0,
    }
}

/// The inode (or the directory whose names) a read looks at.
fn reads(fop: &Fop) -> Option<Gfid> {
    match fop {
        Fop::Lookup(a) => Some(a.parent),
        Fop::Getattr(a) => Some(a.gfid),
        Fop::Readlink(a) => Some(a.gfid),
        Fop::Readdir(a) => Some(a.gfid),
        Fop::Read(a) => Some(a.gfid),
        Fop::Getxattr(a) => Some(a.gfid),
        Fop::Listxattr(a) => Some(a.gfid),
        Fop::Seek(a) => Some(a.gfid),
        _ => None,
    }
}
