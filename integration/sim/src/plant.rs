//! Faults planted into the drivers: each switches off one rule, and the simulation has to notice.
//! This is the test that the simulation can fail.

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Plant {
    #[default]
    None,
    /// The gate of a member ignores the promises.
    NoFencing,
    /// A lead calls everything settled without looking.
    NoSettle,
    /// Members execute changes whatever their lease number.
    NoLeaseNumbers,
    /// A joiner asks for what changed after its last checkpoint's interval, without overlap.
    NoLogOverlap,
    /// A joiner joins without a checkpoint.
    NoJoinerCheckpoint,
    /// A re-sent change is executed again instead of answered from the window.
    NoReplay,
}

pub const ALL: [(&str, Plant); 6] = [
    ("no-fencing", Plant::NoFencing),
    ("no-settle", Plant::NoSettle),
    ("no-lease-numbers", Plant::NoLeaseNumbers),
    ("no-log-overlap", Plant::NoLogOverlap),
    ("no-joiner-checkpoint", Plant::NoJoinerCheckpoint),
    ("no-replay", Plant::NoReplay),
];

impl Plant {
    pub fn named(name: &str) -> Option<Plant> {
        ALL.iter().find(|(n, _)| *n == name).map(|(_, p)| *p)
    }
}
