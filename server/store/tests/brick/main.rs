//! One brick on a real XFS: skipped, loudly, where none can be made.

mod common;
mod converge;
mod data;
mod faults;
mod heal;
mod names;
mod opening;
