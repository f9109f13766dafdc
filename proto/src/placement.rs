//! Elastic hashing: which slot a name lives in.
//!
//! `bucket = xxh3(folded name) mod k`, `slot = xxh3(dir gfid, bucket) mod 8192`. Frozen: a
//! change of `bucket`, `slot_of_bucket`, `folded` or `name_hash` is a new volume format. Which
//! set holds a slot is in the map; `table` plans how that changes.

mod choose;
pub mod space;
pub mod table;

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::ids::{Gfid, SlotId};
use crate::map::SLOTS;

/// Seed of the name hash, so that it shares nothing with payload checksums.
const NAME_SEED: u64 = 0x6272_6963_6b5f_6e31;

/// Position of a name in its directory: entries are ordered by this, then by the name's bytes,
/// so that a position means the same on every replica. Of the name itself, not folded.
pub fn name_hash(name: &[u8]) -> u64 {
    xxh3_64_with_seed(name, NAME_SEED)
}

/// The bucket of `name` in a directory of `k` buckets (`k` at least 1).
pub fn bucket(name: &[u8], k: u16) -> u16 {
    let hash = xxh3_64_with_seed(folded(name), NAME_SEED);
    (hash % u64::from(k.max(1))) as u16
}

/// The slot in which a bucket of a directory lives.
pub fn slot_of_bucket(dir: Gfid, bucket: u16) -> SlotId {
    let mut key = [0; 18];
    key[..16].copy_from_slice(&dir.0);
    key[16..].copy_from_slice(&bucket.to_le_bytes());
    SlotId((xxh3_64(&key) % u64::from(SLOTS)) as u16)
}

/// The slot in which `name` in `dir` (with `k` buckets) lives.
pub fn slot_of_name(dir: Gfid, k: u16, name: &[u8]) -> SlotId {
    slot_of_bucket(dir, bucket(name, k))
}

/// A temporary name as the final name it will be renamed to, so that the rename stays on one
/// set: `.foo.Xa12B3` (rsync), `foo.tmp`, `foo~` all fold to `foo`.
pub fn folded(name: &[u8]) -> &[u8] {
    if let Some(inner) = rsync_name(name) {
        return inner;
    }
    for suffix in [&b".tmp"[..], b"~"] {
        if let Some(stem) = name.strip_suffix(suffix)
            && !stem.is_empty()
        {
            return stem;
        }
    }
    name
}

/// `foo` of `.foo.XXXXXX`: a dot, the name, a dot, six alphanumerics.
fn rsync_name(name: &[u8]) -> Option<&[u8]> {
    let inner = name.strip_prefix(b".")?;
    let (stem, random) = inner.split_at_checked(inner.len().checked_sub(7)?)?;
    let (dot, random) = random.split_first()?;
    let ok = !stem.is_empty() && *dot == b'.' && random.iter().all(u8::is_ascii_alphanumeric);
    ok.then_some(stem)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn temporary_names_live_with_their_final_name() {
        for temporary in [&b".foo.Xa12B3"[..], b"foo.tmp", b"foo~", b"foo"] {
            assert_eq!(folded(temporary), b"foo", "{:?}", temporary);
        }
        for kept in [&b"~"[..], b".tmp", b".a", b".foo.Xa12B", b"..Xa12B3"] {
            assert_eq!(folded(kept), kept);
        }
    }

    /// Golden values: a different answer would lose every file of an existing volume.
    #[test]
    fn placement_is_frozen() {
        assert_eq!(name_hash(b"hello"), 12_218_003_740_486_641_062);
        assert_eq!(slot_of_name(Gfid::ROOT, 64, b"hello"), SlotId(4084));
    }

    #[test]
    fn names_spread_evenly_over_buckets() {
        let mut counts = [0_u32; 64];
        for i in 0..64_000 {
            counts[usize::from(bucket(format!("file-{i}").as_bytes(), 64))] += 1;
        }
        let (min, max) = (counts.iter().min(), counts.iter().max());
        assert!(min > Some(&850) && max < Some(&1150), "{min:?} {max:?}");
    }
}

#[cfg(test)]
#[path = "placement/table_test.rs"]
mod table_test;
