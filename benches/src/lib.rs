//! `brick-bench`: the load generator that users get, and that our own tests use.
//!
//! A *workload* is a named list of operations on a directory (a mount, or any other file
//! system to compare with). Each operation is timed into a histogram; a failed operation is
//! counted and its first errors are kept, never hidden. Assumes nothing of the directory but
//! POSIX; makes one folder in it and removes that at the end.

pub mod placement;
pub mod record;
pub mod report;
pub mod rng;
pub mod run;
pub mod verify;
pub mod workload;
