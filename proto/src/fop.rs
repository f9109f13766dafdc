//! File operations: the words that client and bricks exchange, and that client layers pass on.
//!
//! One table (`fops!` below) names every operation, its wire code, its arguments, its answer
//! and its class. Arguments and answers are prost messages; bulk data never stands in them: it
//! is the frame's payload (`Call::payload`, `Return::payload`).

mod answer;
mod args;
mod lease;
mod peer;
mod touch;
mod wire;

pub use answer::*;
pub use args::*;
pub use lease::*;
pub use peer::*;
pub use touch::Touch;

use bytes::Bytes;

use crate::error::{Errno, Failure};
use crate::ids::{Seq, Stamp};

/// What a member must check before it executes an operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    /// Changes nothing. Under a lease from any in-sync member, else from the lead.
    Read,
    /// Goes to every in-sync member under an exclusive lease, with a change number.
    Change,
    /// Goes to the lead: leases, pins, locks.
    Lead,
    /// Between peers only: heal, settle, hand-over.
    Peer,
}

macro_rules! fops {
    ($($(#[$doc:meta])* $code:literal $name:ident($args:ty) -> $answer:ident, $class:ident;)*) => {
        /// Operation codes, stable for ever.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
        #[repr(u16)]
        pub enum Op { $($name = $code,)* }

        impl Op {
            pub const ALL: &'static [Op] = &[$(Op::$name,)*];

            pub fn from_code(code: u16) -> Option<Op> {
                match code { $($code => Some(Op::$name),)* _ => None }
            }

            pub fn code(self) -> u16 {
                self as u16
            }

            pub fn name(self) -> &'static str {
                match self { $(Op::$name => stringify!($name),)* }
            }

            pub fn class(self) -> Class {
                match self { $(Op::$name => Class::$class,)* }
            }
        }

        /// One operation with its arguments.
        #[derive(Clone, PartialEq, Debug)]
        pub enum Fop { $($(#[$doc])* $name($args),)* }

        impl Fop {
            pub fn op(&self) -> Op {
                match self { $(Fop::$name(_) => Op::$name,)* }
            }

            /// Length of the encoded arguments in bytes.
            pub fn encoded_len(&self) -> usize {
                match self { $(Fop::$name(args) => prost::Message::encoded_len(args),)* }
            }

            pub fn encode(&self, out: &mut impl bytes::BufMut) {
                let done = match self { $(Fop::$name(args) => prost::Message::encode(args, out),)* };
                done.expect("the caller's buffer grows");
            }

            /// # Errors
            /// The bytes are no valid arguments of `op`, or break a bound (see `check`).
            pub fn decode(op: Op, bytes: Bytes) -> Result<Fop, BadFop> {
                let fop = match op {
                    $(Op::$name => Fop::$name(
                        <$args as prost::Message>::decode(bytes).map_err(|_| BadFop("not decodable"))?,
                    ),)*
                };
                fop.check()?;
                Ok(fop)
            }
        }

        impl Answer {
            /// # Errors
            /// The bytes are no valid answer to `op`.
            pub fn decode(op: Op, bytes: Bytes) -> Result<Answer, BadFop> {
                Ok(match op {
                    $(Op::$name => Answer::$answer(
                        prost::Message::decode(bytes).map_err(|_| BadFop("answer not decodable"))?,
                    ),)*
                })
            }
        }

        $(impl From<$args> for Fop {
            fn from(args: $args) -> Fop {
                Fop::$name(args)
            }
        })*
    };
}

fops! {
    /// Entry and attributes of a name; may bring a small file's data along.
    1 Lookup(Lookup) -> Entry, Read;
    2 Getattr(Getattr) -> Attr, Read;
    3 Readlink(Readlink) -> Value, Read;
    /// Names of this set's part of a directory in name-hash order, with attributes if asked.
    4 Readdir(Readdir) -> Entries, Read;
    /// Payload: the bytes read; shorter than asked only at the end of the file.
    5 Read(Read) -> Read, Read;
    6 Getxattr(Getxattr) -> Value, Read;
    7 Listxattr(Listxattr) -> Names, Read;
    8 Statfs(Statfs) -> Statfs, Read;
    9 Seek(Seek) -> Seek, Read;

    /// Any kind of inode with its first name; may bring data (payload, written at offset 0).
    32 Create(Create) -> Entry, Change;
    33 Unlink(Unlink) -> Unlinked, Change;
    34 Rmdir(Rmdir) -> Done, Change;
    35 Rename(Rename) -> Renamed, Change;
    36 Link(Link) -> Entry, Change;
    /// Payload: the bytes to write.
    37 Write(Write) -> Attr, Change;
    38 Setattr(Setattr) -> Attr, Change;
    39 Setxattr(Setxattr) -> Done, Change;
    40 Removexattr(Removexattr) -> Done, Change;
    41 Fallocate(Fallocate) -> Attr, Change;
    /// Data (and attributes) of one inode to stable storage.
    42 Fsync(Fsync) -> Done, Change;
    /// The last close of an inode that has no name: its space is freed.
    43 Forget(Forget) -> Done, Change;

    64 Acquire(Acquire) -> Done, Lead;
    65 Release(Release) -> Done, Lead;
    /// Heartbeat of a session: renews its leases, tells its settled marks.
    66 Renew(Renew) -> Renewed, Lead;
    67 Lock(Lock) -> Locked, Lead;
    68 TestLock(TestLock) -> Locked, Lead;

    96 Changed(Changed) -> ChangedList, Peer;
    97 Inspect(Inspect) -> Inspected, Peer;
    98 InspectDir(InspectDir) -> Entries, Peer;
    99 BlockSums(BlockSums) -> BlockSumList, Peer;
    /// Payload: none, or a small file's whole content.
    100 Install(Install) -> Done, Peer;
    /// Payload: the bytes to install at an offset, times untouched.
    101 InstallData(InstallData) -> Done, Peer;
    102 InstallName(InstallName) -> Done, Peer;
    103 RemoveName(RemoveName) -> Done, Peer;
    104 SweepParked(SweepParked) -> Done, Peer;
    105 Checkpoint(Checkpoint) -> Done, Peer;
    /// What a member holds above the settled marks.
    106 Unsettled(Unsettled) -> UnsettledList, Peer;
    107 ClearWindows(ClearWindows) -> Done, Peer;
    108 MarkStale(MarkStale) -> Done, Peer;
    /// The lead holds changes back for a joiner, for a bounded time.
    109 PauseForJoin(PauseForJoin) -> HandOver, Peer;
    110 TakeOver(TakeOver) -> Done, Peer;
    111 PeerRead(PeerRead) -> Read, Peer;
    /// A member asks the lead about a session and leases that it does not remember.
    112 Vouch(Vouch) -> Done, Peer;
}

/// An operation on its way down the layers (and, on a brick, into the store).
#[derive(Clone, Debug)]
pub struct Call {
    pub fop: Fop,
    /// Bulk data of `Write`, `Create`, `Install` and `InstallData`; empty otherwise.
    pub payload: Bytes,
    /// Who asks, for rules that depend on it (ownership of new inodes stands in the fop).
    pub caller: Caller,
    /// Time of the change; `Stamp(0)` for reads.
    pub stamp: Stamp,
    /// Change number, and whether this is a re-send of it; set by the replicate layer.
    pub seq: Seq,
    pub resend: bool,
}

impl Call {
    pub fn new(fop: impl Into<Fop>) -> Call {
        Call {
            fop: fop.into(),
            payload: Bytes::new(),
            caller: Caller::default(),
            stamp: Stamp(0),
            seq: Seq(0),
            resend: false,
        }
    }

    pub fn with_payload(mut self, payload: Bytes) -> Call {
        self.payload = payload;
        self
    }
}

/// Credentials of the process behind a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Caller {
    pub uid: u32,
    pub gid: u32,
    pub pid: u32,
}

/// The answer to a call and its bulk data.
#[derive(Clone, Debug, PartialEq)]
pub struct Return {
    pub answer: Answer,
    pub payload: Bytes,
    /// Leases granted along with the answer, as asked for in the request.
    pub grants: Vec<Grant>,
}

impl From<Answer> for Return {
    fn from(answer: Answer) -> Return {
        Return { answer, payload: Bytes::new(), grants: Vec::new() }
    }
}

/// What a layer's `call` gives back.
pub type Outcome = Result<Return, Failure>;

/// Arguments from the wire that cannot be what a correct sender sends.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("malformed operation: {0}")]
pub struct BadFop(pub &'static str);

/// Longest name in bytes, as Linux has it.
pub const NAME_BYTES_MAX: usize = 255;
/// Longest symlink target in bytes (PATH_MAX without the NUL).
pub const TARGET_BYTES_MAX: usize = 4095;
/// Longest xattr value, and longest list of xattr names, in bytes.
pub const XATTR_BYTES_MAX: usize = 65536;
/// Most bytes of bulk data in one frame.
pub const PAYLOAD_BYTES_MAX: usize = 4 << 20;
/// Most entries in one answer to Readdir.
pub const READDIR_ENTRIES_MAX: u32 = 1000;
/// Largest file: what XFS holds (2^63 - 1).
pub const FILE_BYTES_MAX: u64 = i64::MAX as u64;

/// Whether `name` may stand in a directory: not empty, not `.` or `..`, no `/` or NUL.
///
/// # Errors
/// ENAMETOOLONG above 255 bytes, EINVAL for the rest.
pub fn check_name(name: &[u8]) -> Result<(), Errno> {
    match name {
        b"" | b"." | b".." => Err(Errno::EINVAL),
        _ if name.len() > NAME_BYTES_MAX => Err(Errno::ENAMETOOLONG),
        _ if name.iter().any(|b| matches!(b, 0 | b'/')) => Err(Errno::EINVAL),
        _ => Ok(()),
    }
}

#[cfg(test)]
#[path = "fop/fop_test.rs"]
mod fop_test;
