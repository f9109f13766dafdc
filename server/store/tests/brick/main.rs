//! One brick on a real XFS: skipped, loudly, where none can be made.

#![allow(clippy::unwrap_used, reason = "helpers too: a failed unwrap is the test's failure")]

mod common;
mod converge;
mod data;
mod faults;
mod heal;
mod names;
mod opening;
