//! Which set an operation belongs to, and how answers of several sets become one.
//!
//! Pure but for a small memory of directories' bucket counts: a name's slot depends on its
//! directory's number of buckets, which stands in the directory's attributes and never changes.
//!
//! Assumes: the caller has the newest map. Promises: the same answer on every client.
//! Deliberately does not: build pointers yet. A rename or hard link whose new name belongs to
//! another set than its inode answers EXDEV, as between two file systems; callers copy then.

mod buckets;
mod merge;
mod route;

pub(crate) use buckets::BucketMemory;
pub(crate) use merge::{merge_entries, sum_statfs};
pub(crate) use route::{Place, Router, clamp};
