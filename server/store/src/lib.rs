//! One brick on its disk: a directory tree of plain files, one packed xattr per inode, and
//! RocksDB for what can be rebuilt, the change log and the stale marks.
//!
//! A `Store` is owned by its brick's thread and called inline; calls that may block long have
//! a plan (`plan_read`, `plan_fsync`, `plan_block_sums`, `CheckpointHandle`) that the owner
//! runs elsewhere or on its ring.
//!
//! Assumes of the layer below (`Disk`): Linux system calls on XFS, as root; nobody else
//! changes the brick's tree. Promises above: the same changes, in any order in which a correct
//! sender may have them in flight, leave the same tree and the same records on every brick;
//! after the first disk error nothing is executed any more. Deliberately does not know leases,
//! sessions, epochs or other bricks. The layout is documented in docs/on-disk.md.

mod brick;
mod buffer;
mod changelog;
mod checkpoint;
mod crawl;
mod db;
mod dir;
mod disk;
mod facts;
mod lru;
mod node;
mod ops;
mod plan;
mod record;
mod store;
pub mod testing;

pub use brick::{Identity, NewBrick, Refused};
pub use buffer::Buffer;
pub use checkpoint::{CheckpointHandle, CheckpointMark};
pub use disk::{Disk, FaultDisk, Faults, Health, RealDisk};
pub use plan::{FsyncPlan, PendingRead, ReadPlan, SumJob};
pub use record::{META_XATTR, RECORD_BYTES, Record};
pub use store::{Config, Ctx, Opened, Store, check, identity_of, note_dropped};
