//! Messages of requests and replies.

use bytes::Bytes;

use crate::error::{Errno, Failure, Refusal};
use crate::fop::{Grant, Under, Want};

/// Message of a request frame. `args` are the operation's encoded arguments.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RequestHead {
    #[prost(bytes = "bytes", tag = "1")]
    pub args: Bytes,
    /// Leases asked for along with the operation (to the lead only).
    #[prost(message, repeated, tag = "2")]
    pub wants: Vec<Want>,
    /// Leases under which the operation is made.
    #[prost(message, repeated, tag = "3")]
    pub under: Vec<Under>,
    #[prost(uint32, tag = "4")]
    pub uid: u32,
    #[prost(uint32, tag = "5")]
    pub gid: u32,
    #[prost(uint32, tag = "6")]
    pub pid: u32,
    /// Of a change that the lead shall execute: the epoch in which it was sent first.
    #[prost(uint64, tag = "7")]
    pub first_epoch: u64,
}

/// Message of a reply frame. Exactly one of: refusal (not executed), errno (executed, failed),
/// or neither (executed, `answer` holds the encoded answer).
#[derive(Clone, PartialEq, prost::Message)]
pub struct ReplyHead {
    #[prost(bytes = "bytes", tag = "1")]
    pub answer: Bytes,
    #[prost(uint32, tag = "2")]
    pub errno: u32,
    #[prost(uint32, tag = "3")]
    pub refusal: u32,
    /// The member's epoch, with every reply.
    #[prost(uint64, tag = "4")]
    pub epoch: u64,
    #[prost(message, repeated, tag = "5")]
    pub grants: Vec<Grant>,
}

/// What a reply says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Status {
    Ok,
    Failed(Failure),
}

impl ReplyHead {
    pub fn failure(failure: Failure, epoch: u64) -> ReplyHead {
        let (errno, refusal) = match failure {
            Failure::Errno(errno) => (errno.0 as u32, 0),
            Failure::Refused(refusal) => (0, refusal.code()),
        };
        ReplyHead { errno, refusal, epoch, ..ReplyHead::default() }
    }

    pub fn status(&self) -> Status {
        match (self.refusal, self.errno) {
            (0, 0) => Status::Ok,
            (0, errno) => Status::Failed(Errno(errno as i32).into()),
            (code, _) => Status::Failed(Refusal::from_code(code, self.epoch).into()),
        }
    }
}
