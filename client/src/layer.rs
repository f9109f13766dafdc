//! The seam between the caching volume above and the replicated sets below.
//!
//! `Below` is what `volume/` (names, attributes, data, write-behind) sees of everything under it:
//! operations that end on all in-sync members, and the leases that say what may be cached.
//! Real: `session/` over the network. In tests: one brick in memory.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use proto::fop::{Call, LeaseKey, Mode, Outcome, Want};
use proto::map::VolumeMap;
use proto::{Errno, Gfid, SetId, Stamp};

/// A boxed future, because layers are trait objects: one allocation an operation.
pub type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A lease as the session holds it now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    pub mode: Mode,
    /// Valid until then if nothing renews it; the most a kernel cache may be told.
    pub until: Instant,
    /// Other sessions have the inode open: an unlink must keep it.
    pub pinned: bool,
}

/// Keeps a lease from being given back while something is done under it. Recalls wait for all
/// guards of their key to drop; so a guard must never be held across a wait for the lead.
pub struct InUse(#[allow(dead_code, reason = "held for its Drop")] pub Box<dyn Send + Sync>);

pub trait Below: Send + Sync + 'static {
    /// Executes `call` on the set where it belongs, with `wants` as leases to ask for along
    /// with it. Changes take the leases they need by themselves, get their stamp and number
    /// here, and return when every in-sync member has answered the same.
    ///
    /// # Errors
    /// Only `Failure::Errno`: refusals are handled below. EIO when a lease under which
    /// buffered data was written is gone; EROFS, ETIMEDOUT after `client.op-timeout`.
    fn call(&self, call: Call, wants: Vec<Want>) -> Boxed<'_, Outcome>;

    /// The set whose lead orders names of `dir` that hash like `name` (`buckets` of the directory).
    fn set_of_name(&self, dir: Gfid, buckets: u32, name: &[u8]) -> SetId;

    /// The set that holds an inode (its gfid's slot).
    fn set_of_inode(&self, gfid: Gfid) -> SetId;

    /// A new inode's id in the slot of its first name.
    fn new_gfid(&self, dir: Gfid, buckets: u32, name: &[u8]) -> Gfid;

    /// The lease held on `key` at `set` right now, if it is valid and not being recalled.
    fn held(&self, set: SetId, key: LeaseKey) -> Option<Held>;

    /// As `held`, and keeps it until the guard drops. `None` when not held in at least `mode`.
    fn hold(&self, set: SetId, key: LeaseKey, mode: Mode) -> Option<InUse>;

    /// Gets a lease in at least `mode`, waiting for other holders to give theirs back.
    fn acquire(&self, set: SetId, key: LeaseKey, mode: Mode) -> Boxed<'_, Result<Held, Errno>>;

    /// As `acquire`, exclusively, for a change that the lead may execute as well. `None`: it
    /// would rather do that, for the key is contended; the change is then given to `call` at once.
    fn acquire_to_change(
        &self,
        set: SetId,
        key: LeaseKey,
    ) -> Boxed<'_, Result<Option<Held>, Errno>>;

    /// The first open and the last close of an inode here (pins ride on lease returns).
    fn set_open(&self, gfid: Gfid, open: bool);

    /// Takes space for bytes that will be buffered, if the set's lead has lent so much.
    fn take_space(&self, set: SetId, bytes: u64) -> bool;

    /// As `take_space`, and asks the lead for more. Waits for it: never with a lease in use.
    /// ENOSPC when there is no more.
    fn wait_for_space(&self, set: SetId, bytes: u64) -> Boxed<'_, Result<(), Errno>>;

    /// A stamp for buffered changes: the same clock as the one `call` uses.
    fn stamp(&self) -> Stamp;

    fn map(&self) -> Arc<VolumeMap>;

    /// Who is told of recalls; set once, before the first operation.
    fn set_keeper(&self, keeper: Arc<dyn Keeper>);
}

/// Keeps caches under leases, and lets go of them when told.
pub trait Keeper: Send + Sync {
    /// Another session wants `key`. Write back what is dirty under it, then drop what `keep`
    /// no longer covers (also from the kernel); when this returns the lease is given back.
    /// Answers whether the inode is open here. Runs on a task of its own, never on one that
    /// serves a kernel request.
    fn recall(&self, set: SetId, key: LeaseKey, keep: Mode) -> Boxed<'_, bool>;

    /// The lease is gone without a recall (revoked, run out, not reclaimed). Dirty data under
    /// it is lost: the next fsync and close of its open files answer EIO.
    fn lost(&self, set: SetId, key: LeaseKey);

    /// A lock of this inode is not held any more: its lead died, and the next one could not be
    /// told in time, or the session was taken for dead. Its open files answer EIO.
    fn lock_lost(&self, gfid: Gfid);

    /// Bytes held back for a set: taken, and not on its members yet.
    fn buffered(&self, set: SetId) -> u64;
}
