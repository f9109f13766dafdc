//! What a mount remembers, as plain values without locks, clocks or I/O.
//!
//! ```text
//! extents   bytes written and not yet flushed, by position
//! names     names of one directory, known to be there or known not to be
//! recalls   which leases were called back lately, so that late answers are not remembered
//! table     bounded table with second-chance replacement
//! ```
//!
//! Assumes: the owner (`volume/`) checks leases before it believes anything here.
//!
//! Promises: every structure is bounded or says how much it holds.

pub mod extents;
pub mod names;
pub mod recalls;
pub mod table;
