//! Leases: a session's right to cache (shared) or to change (exclusive) one inode, or the
//! names of one directory on one set.
//!
//! `table` is the lead's side, `cache` the client's, `numbers` every member's memory of the
//! highest number per key, by which an old holder's late frames die.

pub mod cache;
pub mod numbers;
pub mod table;

pub use proto::fop::{LeaseKey, Mode};

use proto::LeaseNumber;

/// A lease as given by the lead. Every grant has a number of its own, shared ones too, so that
/// a return that was overtaken by a later grant is recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    pub key: LeaseKey,
    pub mode: Mode,
    pub number: LeaseNumber,
}
