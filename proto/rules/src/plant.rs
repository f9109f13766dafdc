//! Planted faults: each switches one rule off, so that the simulation can show that it notices.
//!
//! They are compiled in with the feature `plants` only, which the product never turns on
//! (`brickd` does not compile with it); without it `planted` is a constant `false`. See
//! `docs/decisions/0005-plants-are-compiled-into-a-copy.md`.

/// A rule that can be switched off, one at a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Plant {
    #[default]
    None,
    /// The gate of a member ignores the promises.
    NoFencing,
    /// Members execute changes whatever their lease number.
    NoLeaseNumbers,
    /// A lead copies nothing of what its members hold unsettled.
    NoSettle,
    /// A joiner asks from the interval of its last checkpoint on, not from one earlier.
    NoLogOverlap,
    /// A joiner joins without having synced what it was healed to.
    NoJoinerCheckpoint,
    /// A change that is sent again is taken for a new one.
    NoReplay,
}

/// All of them, by the names that people type.
pub const ALL: [(&str, Plant); 6] = [
    ("no-fencing", Plant::NoFencing),
    ("no-lease-numbers", Plant::NoLeaseNumbers),
    ("no-settle", Plant::NoSettle),
    ("no-log-overlap", Plant::NoLogOverlap),
    ("no-joiner-checkpoint", Plant::NoJoinerCheckpoint),
    ("no-replay", Plant::NoReplay),
];

/// Whether this build can break its own rules.
pub const COMPILED_IN: bool = cfg!(feature = "plants");

impl Plant {
    pub fn named(name: &str) -> Option<Plant> {
        ALL.iter().find(|(n, _)| *n == name).map(|(_, plant)| *plant)
    }
}

#[cfg(feature = "plants")]
mod switch {
    use std::cell::Cell;

    use super::Plant;

    thread_local! {
        static PLANTED: Cell<Plant> = const { Cell::new(Plant::None) };
    }

    /// Plants a fault into all rules that run on this thread from now on.
    pub fn plant(plant: Plant) {
        PLANTED.set(plant);
    }

    pub(crate) fn planted(plant: Plant) -> bool {
        PLANTED.get() == plant
    }
}

#[cfg(feature = "plants")]
pub use switch::plant;
#[cfg(feature = "plants")]
pub(crate) use switch::planted;

/// Whether a rule is switched off.
#[cfg(not(feature = "plants"))]
pub(crate) const fn planted(_: Plant) -> bool {
    false
}
