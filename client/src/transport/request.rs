//! A request as every member gets it, and what comes back.

use bytes::{Bytes, BytesMut};
use proto::fop::{Answer, Call, Caller, Class, Fop, Grant, Op, Return, Under, Want};
use proto::frame::{self, Flags, FrameKind, Header, ReplyHead, RequestHead, Status};
use proto::{Epoch, Failure, Seq, SessionId, Stamp};
use proto_rules::Tick;

/// One operation, encoded once for all members of a set. Cheap to clone: bulk is shared.
#[derive(Clone, Debug)]
pub struct Request {
    pub op: Op,
    /// Encoded arguments.
    pub args: Bytes,
    pub payload: Bytes,
    /// xxh3 of the payload, computed once.
    pub payload_sum: u64,
    pub caller: Caller,
    pub epoch: Epoch,
    pub seq: Seq,
    /// Settled mark of the session on the set.
    pub mark: u64,
    pub stamp: Stamp,
    pub resend: bool,
    /// The lead shall execute it, or does: see `on_behalf`.
    pub execute: bool,
    /// The epoch in which such a change was sent first.
    pub first_epoch: Epoch,
    /// From the lead to a member: of this session, not of the connection's.
    pub on_behalf: Option<SessionId>,
    pub wants: Vec<Want>,
    pub under: Vec<Under>,
    /// Bytes expected back, for the choice of a member to read from.
    pub reply_bytes: u64,
}

impl Request {
    pub fn new(call: &Call, epoch: Epoch) -> Request {
        let mut args = BytesMut::with_capacity(call.fop.encoded_len());
        call.fop.encode(&mut args);
        let reply_bytes = match &call.fop {
            Fop::Read(read) => u64::from(read.len),
            Fop::PeerRead(read) => u64::from(read.len),
            _ => 0,
        };
        Request {
            op: call.fop.op(),
            args: args.freeze(),
            payload: call.payload.clone(),
            payload_sum: frame::payload_sum(&call.payload),
            caller: call.caller,
            epoch,
            seq: call.seq,
            mark: 0,
            stamp: call.stamp,
            resend: call.resend,
            execute: false,
            first_epoch: Epoch::NONE,
            on_behalf: None,
            wants: Vec::new(),
            under: Vec::new(),
            reply_bytes,
        }
    }

    pub fn is_change(&self) -> bool {
        self.op.class() == Class::Change
    }

    fn flags(&self) -> Flags {
        let resend = if self.resend { Flags::RESEND.0 } else { 0 };
        let execute = if self.execute { Flags::EXECUTE.0 } else { 0 };
        Flags(resend | execute)
    }

    /// Header and message for one connection.
    pub(super) fn encode(&self, session: u64, id: u64) -> Bytes {
        let mut header = Header::new(FrameKind::Request);
        header.op = self.op.code();
        header.flags = self.flags();
        header.request = id;
        header.session = self.on_behalf.map_or(session, |s| s.0);
        header.epoch = self.epoch.0;
        header.seq = self.seq.0;
        header.mark = self.mark;
        header.stamp = self.stamp.0;
        let head = RequestHead {
            args: self.args.clone(),
            wants: self.wants.clone(),
            under: self.under.clone(),
            uid: self.caller.uid,
            gid: self.caller.gid,
            pid: self.caller.pid,
            first_epoch: self.first_epoch.0,
        };
        frame::encode_summed(header, &head, self.payload.len(), self.payload_sum).freeze()
    }
}

/// A member's reply.
#[derive(Clone, Debug)]
pub struct Reply {
    pub status: Status,
    /// Encoded answer when the status is Ok.
    pub answer: Bytes,
    pub payload: Bytes,
    pub grants: Vec<Grant>,
    /// The member's epoch.
    pub epoch: Epoch,
    /// The member had executed this change before and repeats its reply.
    pub replay: bool,
    /// When the request was sent: terms of grants count from here.
    pub sent: Tick,
}

impl Reply {
    pub(super) fn new(header: &Header, head: ReplyHead, payload: Bytes, sent: Tick) -> Reply {
        Reply {
            status: head.status(),
            epoch: Epoch(head.epoch),
            replay: header.flags.has(Flags::REPLAY),
            answer: head.answer,
            grants: head.grants,
            payload,
            sent,
        }
    }

    /// The answer, decoded.
    ///
    /// # Errors
    /// The member's failure; EIO for an answer that is none to `op`.
    pub fn into_outcome(self, op: Op) -> Result<Return, Failure> {
        match self.status {
            Status::Failed(failure) => Err(failure),
            Status::Ok => {
                let answer = Answer::decode(op, self.answer).map_err(|_| proto::Errno::EIO)?;
                Ok(Return { answer, payload: self.payload, grants: self.grants })
            }
        }
    }
}

/// Why there is no reply.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CallError {
    /// The connection broke with the request in flight: executed or not, nobody knows.
    #[error("the connection broke with the request in flight")]
    Lost,
    /// The request was not sent.
    #[error(transparent)]
    Connect(#[from] super::ConnectError),
}
