//! Planted faults: each switches one rule off, so that the simulation can show that it notices.
//!
//! They are compiled in with the feature `plants` only, which the product never turns on
//! (`brickd` does not compile with it), and into this crate's own unit tests; otherwise `planted`
//! is a constant `false`. See `docs/decisions/0005-plants-are-compiled-into-a-copy.md`.

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
    /// What a lead that died had executed for others is forgotten with the settling.
    NoTakenReplies,
    /// Leases bounce for as long as they are fought for.
    NoContention,

    // Of volumes of many sets (`volume`): shown by the unit tests beside the rules.
    /// A change over several sets notes no intent.
    NoIntent,
    /// A name goes before its successor is there, and counts follow names.
    NamesBeforeCounts,
    /// Each set settles its part of a change over several sets by itself.
    SettleAlone,
    /// A change over several sets is settled without its leases.
    SettleUnleased,
    /// The rename lease is granted while its last holder's change may still be made.
    NoRenameSettle,
    /// A set takes names of buckets that the directory's home has not recorded.
    NoRecording,
    /// A sealed part takes new names.
    NoSeals,
    /// An rmdir notes no intent.
    NoRmdirIntent,
    /// Leases of parts are not registered at the home.
    NoRegistration,
    /// A slot flips without the old set's release.
    NoRelease,
    /// Locks and pins of a slot are handed over after the flip.
    FlipBeforeHandOver,
    /// A revoke reaches the inode's own set only.
    NoGroupRevoke,
    /// A truncation cuts first and writes the size afterwards.
    CutFirst,
    /// A recount believes ends of any generation.
    NoGenerations,
}

/// Those that the simulation shows, by the names that people type.
pub const ALL: [(&str, Plant); 8] = [
    ("no-fencing", Plant::NoFencing),
    ("no-lease-numbers", Plant::NoLeaseNumbers),
    ("no-settle", Plant::NoSettle),
    ("no-log-overlap", Plant::NoLogOverlap),
    ("no-joiner-checkpoint", Plant::NoJoinerCheckpoint),
    ("no-replay", Plant::NoReplay),
    ("no-taken-replies", Plant::NoTakenReplies),
    ("no-contention", Plant::NoContention),
];

/// Whether this build can break its own rules.
pub const COMPILED_IN: bool = cfg!(feature = "plants");

impl Plant {
    pub fn named(name: &str) -> Option<Plant> {
        ALL.iter().find(|(n, _)| *n == name).map(|(_, plant)| *plant)
    }
}

#[cfg(any(test, feature = "plants"))]
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

#[cfg(any(test, feature = "plants"))]
pub use switch::plant;
#[cfg(any(test, feature = "plants"))]
pub(crate) use switch::planted;

/// Runs `test` with one rule switched off.
#[cfg(test)]
pub(crate) fn without<T>(rule: Plant, test: impl FnOnce() -> T) -> T {
    struct Replant;
    impl Drop for Replant {
        fn drop(&mut self) {
            plant(Plant::None);
        }
    }
    let _replant = Replant;
    plant(rule);
    test()
}

/// Whether a rule is switched off.
#[cfg(not(any(test, feature = "plants")))]
pub(crate) const fn planted(_: Plant) -> bool {
    false
}
