//! The kernel side of the mount: the FUSE device, requests and replies.
//!
//! ```text
//! mount() ── Session ── init() ── Features
//!               ├── clone_channel() ── Channel ── into_async() ── AsyncChannel, one per thread
//!               │                                     └── fetch() ── Request { header, op, reply }
//!               └── notifier() ── Notifier, any thread
//! ```
//!
//! Each worker thread runs a current-thread runtime, fetches requests from its own channel and
//! answers there, so a cached answer costs no wake-up of another thread. A handler that must
//! wait takes the request along, payload included, and answers when it can.
//!
//! Assumes: Linux 5.10 or newer (protocol 7.32); newer features are negotiated.
//!
//! Promises: a request is answered exactly once, with EIO if its [`Reply`] is dropped; a WRITE
//! payload of 4 KiB or more is handed on in the page-aligned memory into which the kernel put
//! it; nothing the kernel sends makes this crate panic; `flock` and `fcntl` locks are told
//! apart; unmounting from outside ends every channel cleanly.
//!
//! Deliberately does not: count lookups, cache, translate errors, know what a volume is, or
//! decide which thread serves what.

#![cfg(target_os = "linux")]

mod abi;
mod attr;
mod buffer;
mod channel;
mod dir;
mod error;
mod flags;
mod init;
mod interrupt;
mod mount;
mod notify;
mod op;
mod parse;
mod reply;
mod session;
mod sys;
mod transport;
mod wire;

pub use attr::{Entry, FileAttr, StatFs, Statx, Timestamp};
pub use buffer::BufferPool;
pub use channel::{AsyncChannel, Channel, Fetched, Request};
pub use dir::{DirBuffer, DirEntry};
pub use error::{Error, Result};
pub use flags::{InitFlags, OpenFlags};
pub use init::{Features, InitConfig};
pub use interrupt::{InterruptTable, Interruptible};
pub use mount::MountOptions;
pub use notify::{Known, Notifier};
pub use op::{
    CopyFileRange, Create, FileLock, Forget, Lock, LockKind, Name, Op, Read, Release, SetAttr,
    SetTime, SetXattr, TmpFile, Write,
};
pub use parse::Header;
pub use reply::{Delivery, Reply};
pub use session::{Session, mount};
pub use wire::Malformed;

/// Node id of the root directory, fixed by the protocol.
pub const ROOT_NODE: u64 = 1;
