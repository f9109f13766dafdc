//! The volume: a file system by inodes, with everything cached that leases allow.
//!
//! ```text
//! find    names and attributes        make    new names        remove  names that go or move
//! open    open files, close, fsync    read, write, flush       data, write-behind
//! dir     listings                    xattr, acl, lock, space  the rest
//! keeper  recalls                     kernel                   what the kernel must forget
//! path    helpers for users without a kernel
//! ```
//!
//! Assumes of `Below`: a change is done on every in-sync member when `call` returns; leases are
//! given back only after [`Keeper::recall`](crate::layer::Keeper::recall) has returned, and
//! changes under a lease being recalled still go through. `Want` with an inode key of
//! `Gfid::NIL` means "the inode that the answer shows" (in Readdir: each that it shows).
//!
//! Promises: what an operation returned is visible to every later operation on any mount;
//! nothing is answered from memory without a running lease; buffered bytes are flushed at
//! close, fsync, recall and after a second, and a failed flush is told once to each open file.
//!
//! Deliberately does not: check permissions (the kernel does), know sets beyond asking which
//! one a name belongs to, retry refusals.

mod acl;
mod ahead;
mod dir;
mod file;
mod find;
mod flush;
mod keeper;
mod kernel;
mod lock;
mod make;
mod node;
mod open;
mod path;
mod read;
mod remember;
mod remove;
mod setattr;
mod space;
mod write;
mod xattr;

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use proto::fop::{Answer, Call, Fop, Mode, Return, Want};
use proto::{Attr, Errno, Failure, Gfid};

pub use dir::{DirItem, DirScan};
pub use file::{File, OpenHow};
pub use find::{Found, Looked};
pub use kernel::KernelCaches;
pub use lock::{LockAsk, LockOwner, Span};
pub use make::NewInode;
pub use path::Stat;
pub use setattr::{SetAttributes, SetTime};
pub use space::Space;
pub use write::WriteHow;

use crate::cache::recalls::Recalls;
use crate::cache::table::Table;
use crate::layer::{Below, Boxed, Keeper};
use node::Node;

/// Bounds and behaviour of one volume.
#[derive(Clone, Debug)]
pub struct Config {
    /// Small writes gather here; otherwise each write is on the bricks when it returns.
    pub write_behind: bool,
    /// Unflushed bytes of one inode from which on its writers wait.
    pub dirty_inode_max: u64,
    /// Unflushed bytes of the mount from which on all writers wait.
    pub dirty_total_max: u64,
    /// Age at which unflushed bytes go out by themselves.
    pub dirty_age_max: Duration,
    /// Inodes remembered beyond those in use.
    pub nodes_max: usize,
    /// Names remembered.
    pub names_max: usize,
    /// Clean data of small files remembered, in bytes.
    pub clean_bytes_max: i64,
    /// Largest file whose data comes along with its lookup.
    pub data_along_max: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            write_behind: true,
            dirty_inode_max: 8 << 20,
            dirty_total_max: 128 << 20,
            dirty_age_max: Duration::from_secs(1),
            nodes_max: 200_000,
            names_max: 200_000,
            clean_bytes_max: 256 << 20,
            data_along_max: 64 << 10,
        }
    }
}

/// A mounted volume, or that of a library user. Shared by all threads.
pub struct Volume {
    below: Arc<dyn Below>,
    config: Config,
    me: Weak<Volume>,
    nodes: Table<Node>,
    recalls: Recalls,
    kernel: OnceLock<Arc<dyn KernelCaches>>,
    /// Never evicted, so that the way to every path begins here.
    root: OnceLock<Arc<Node>>,
    /// Inodes with unflushed bytes.
    dirty: Mutex<HashMap<Gfid, Arc<Node>>>,
    dirty_bytes: AtomicU64,
    names: AtomicUsize,
    clean_bytes: AtomicI64,
    /// Lookups that bring data along although nobody used such data lately.
    data_bet: AtomicI64,
}

impl Volume {
    /// Starts the volume on `below`, within a tokio runtime that lives as long.
    ///
    /// # Errors
    /// What reading the root's attributes gives.
    pub async fn start(below: Arc<dyn Below>, config: Config) -> Result<Arc<Volume>, Errno> {
        let volume = Arc::new_cyclic(|me: &Weak<Volume>| Volume {
            nodes: Table::new(config.nodes_max),
            below,
            config,
            me: me.clone(),
            recalls: Recalls::default(),
            kernel: OnceLock::new(),
            root: OnceLock::new(),
            dirty: Mutex::default(),
            dirty_bytes: AtomicU64::new(0),
            names: AtomicUsize::new(0),
            clean_bytes: AtomicI64::new(0),
            data_bet: AtomicI64::new(find::DATA_BETS),
        });
        volume.below.set_keeper(Arc::new(Ear(Arc::downgrade(&volume))));
        volume.getattr(Gfid::ROOT).await?;
        let root = volume.node(Gfid::ROOT);
        volume.root.set(root).expect("set only here");
        tokio::spawn(flush::age(Arc::downgrade(&volume), volume.config.dirty_age_max));
        Ok(volume)
    }

    /// Tells the volume of a kernel that caches what it answers. At most once, before the
    /// kernel asks anything.
    pub fn attach_kernel(&self, kernel: Arc<dyn KernelCaches>) {
        assert!(self.kernel.set(kernel).is_ok(), "a volume has one kernel at most");
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    pub fn below(&self) -> &Arc<dyn Below> {
        &self.below
    }

    fn node(&self, gfid: Gfid) -> Arc<Node> {
        let (node, evicted) = self.nodes.get_or_insert(gfid, || Node::new(gfid));
        node.use_now();
        for gone in evicted {
            self.drop_data(&mut gone.lock());
        }
        node
    }

    fn me(&self) -> Arc<Volume> {
        self.me.upgrade().expect("a method runs on a volume that somebody holds")
    }

    async fn call(&self, call: Call, wants: Vec<Want>) -> Result<Return, Errno> {
        match self.below.call(call, wants).await {
            Ok(done) => Ok(done),
            Err(Failure::Errno(errno)) => Err(errno),
            Err(Failure::Refused(refusal)) => {
                tracing::error!(?refusal, "a refusal came up to the volume");
                Err(Errno::EIO)
            }
        }
    }

    async fn ask(&self, fop: impl Into<Fop>, wants: Vec<Want>) -> Result<Return, Errno> {
        self.call(Call::new(fop), wants).await
    }
}

/// The volume as `Below` knows it: without keeping it alive.
struct Ear(Weak<Volume>);

impl Keeper for Ear {
    fn recall(&self, set: proto::SetId, key: proto::fop::LeaseKey, keep: Mode) -> Boxed<'_, bool> {
        match self.0.upgrade() {
            Some(volume) => Box::pin(async move { volume.recalled(set, key, keep).await }),
            None => Box::pin(std::future::ready(false)),
        }
    }

    fn lost(&self, set: proto::SetId, key: proto::fop::LeaseKey) {
        if let Some(volume) = self.0.upgrade() {
            volume.lost(set, key);
        }
    }

    fn lock_lost(&self, gfid: Gfid) {
        if let Some(volume) = self.0.upgrade() {
            volume.lock_lost(gfid);
        }
    }

    fn buffered(&self, set: proto::SetId) -> u64 {
        self.0.upgrade().map_or(0, |volume| volume.buffered(set))
    }
}

/// The kernel counts its time from when it takes in the answer, in whole ticks of its timer
/// (up to 10 ms) and one more: it must not believe longer than we do.
const KERNEL_LATE: Duration = Duration::from_millis(30);

/// What the kernel is told so that it believes nothing after `until`.
fn kernel_time(until: Instant, now: Instant) -> Duration {
    until.saturating_duration_since(now).saturating_sub(KERNEL_LATE)
}

/// A wish for a lease.
fn want(key: proto::fop::LeaseKey, mode: Mode) -> Want {
    Want { key: key.into(), mode: mode as i32, ..Want::default() }
}

/// A wish that never makes anybody give something back.
fn want_if_free(key: proto::fop::LeaseKey, mode: Mode) -> Want {
    Want { only_if_free: true, ..want(key, mode) }
}

/// An answer of another kind than the operation's is a fault of the layers below.
macro_rules! answer {
    ($done:expr, $kind:ident) => {
        match $done.answer {
            proto::fop::Answer::$kind(answer) => Ok(answer),
            other => Err(crate::volume::wrong_answer(&other)),
        }
    };
}
use answer;

fn wrong_answer(answer: &Answer) -> Errno {
    tracing::error!(?answer, "an answer of another kind than asked for");
    Errno::EIO
}

fn bytes(name: &[u8]) -> Bytes {
    Bytes::copy_from_slice(name)
}

/// Whether `attr` describes a regular file.
fn is_file(attr: &Attr) -> bool {
    attr.kind() == proto::Kind::File
}

#[cfg(test)]
mod tests;
