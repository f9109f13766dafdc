//! Test harness: real daemons, real mounts, real faults.
//!
//! What the pieces are for:
//! - [`scratch`], [`xfs`], [`netns`]: a place for one run, that disappears with it;
//! - [`node`], [`cluster`], [`mount`]: the three programs, started, killed, stopped, mounted;
//! - [`load`], [`tree`], [`manifest`]: what was written, and whether every copy has it;
//! - [`pair`]: one pool with two mounts, shared by the tests of a program;
//! - [`model`], [`model_run`]: random operations, and what they must answer;
//! - [`fixture`]: a pool of an earlier version, kept on disk;
//! - [`watchdog`]: whether this machine was able to keep time while a test measured pauses;
//! - [`need`], [`run`]: what the machine must offer, the loud skip when it does not, the test itself.
//!
//! Assumes root for everything that mounts; promises that a run leaves nothing behind, also
//! after a panic (and that the next run removes what a killed one left).

pub mod cluster;
pub mod fixture;
pub mod load;
pub mod manifest;
pub mod material;
pub mod model;
pub mod model_run;
pub mod mount;
pub mod need;
pub mod netns;
pub mod node;
pub mod pair;
pub mod run;
pub mod scratch;
pub mod sys;
pub mod tidy;
pub mod tidy_tests;
pub mod tree;
pub mod volume;
pub mod watchdog;
pub mod xfs;
