//! Numbers of leases that the lead has ended, kept on disk until no earlier lease can be
//! reclaimed any more.
//!
//! When all members have restarted, nothing else tells a revoked lease from one that its holder
//! may reclaim: what is in memory is gone, and no change under the new number need have come.

use prost::Message as _;
use proto::fop::Under;
use proto::{Epoch, Errno};
use server_store::Store;

const KEY: &str = "raised-numbers";

#[derive(Clone, PartialEq, prost::Message)]
struct Raised {
    #[prost(message, repeated, tag = "1")]
    leases: Vec<Under>,
}

/// What was noted.
///
/// # Errors
/// The database cannot be read.
pub fn known(store: &Store) -> Result<Vec<Under>, Errno> {
    let bytes = store.meta_get(KEY)?.unwrap_or_default();
    Raised::decode(&bytes[..]).map(|raised| raised.leases).map_err(|_| Errno::EIO)
}

/// Notes further ones.
///
/// # Errors
/// It cannot be made durable.
pub fn note(store: &mut Store, more: &[Under]) -> Result<(), Errno> {
    let mut leases = known(store)?;
    leases.retain(|old| more.iter().all(|new| new.key != old.key));
    leases.extend_from_slice(more);
    write(store, leases)
}

/// The grace of `epoch` has ended: leases of earlier ones are not reclaimed any more.
///
/// # Errors
/// As `note`.
pub fn forget_before(store: &mut Store, epoch: Epoch) -> Result<(), Errno> {
    let mut leases = known(store)?;
    let before = leases.len();
    leases.retain(|lease| lease.number.base >= epoch.0);
    if leases.len() == before { Ok(()) } else { write(store, leases) }
}

fn write(store: &mut Store, leases: Vec<Under>) -> Result<(), Errno> {
    store.meta_put(KEY, &Raised { leases }.encode_to_vec(), true)
}
