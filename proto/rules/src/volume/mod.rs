//! Volumes of many sets: what one set alone cannot decide.
//!
//! Purpose: the rules of DESIGN sections 7, 10 and 11 as pure state machines: changes over
//! several sets, directories over their sets, slots that move, striped files. Layouts, wire and
//! failure tables stand in `docs/placement.md`.
//!
//! Assumes: within a set everything is as the other modules of this crate promise: a step sent
//! to a slot is executed by all in-sync members of the set that holds it, or by none, and is
//! answered once; `Moved` is the driver's business (it sends again by the newest map).
//!
//! Promises: the same as the crate's; and that every machine can be begun again from what is on
//! disk after a crash at any point.
//!
//! Deliberately does not: name sets. Slots are asked; who holds them is looked up when sending.

pub mod gate;
pub mod home;
pub mod multi;
pub mod parts;
pub mod rename;
pub mod rmdir;
pub mod settler;
pub mod slot_move;
pub mod slot_release;
pub mod stripe;
pub mod stripe_change;

#[cfg(test)]
mod multi_world;

use proto::{Gfid, SessionId, SlotId};

/// A change over several sets, or an rmdir: who began it, and the number it gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChangeId {
    pub session: SessionId,
    pub number: u64,
}

/// A name with the slot of its bucket.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    pub dir: Gfid,
    pub slot: SlotId,
    pub name: Vec<u8>,
}
