//! How often each event was reached. What is never reached is not tested: a zero over a whole
//! run fails it.

use std::collections::BTreeMap;

/// Everything that a run of enough seeds has to reach.
pub const EVENTS: &[&str] = &[
    "op: read",
    "op: read from cache",
    "op: write",
    "op: setattr",
    "op: getattr",
    "op: fsync",
    "op: create",
    "op: unlink",
    "op: rename",
    "op: lookup",
    "op: unknown outcome",
    "op: retried under a new lease",
    "set: eviction",
    "set: eviction of a peer",
    "set: lead change",
    "set: join",
    "set: bump",
    "set: leave",
    "set: brick up",
    "set: restart of all",
    "set: void entry",
    "pool: leader change",
    "promise: refused as stopped",
    "promise: fresh",
    "gate: not serving",
    "gate: other epoch",
    "gate: stale lease",
    "gate: grace",
    "gate: busy",
    "gate: stale copy",
    "gate: replay",
    "gate: session asked",
    "gate: paused",
    "gate: too few in-sync",
    "lease: recall",
    "lease: recall overtook a return",
    "lease: contended",
    "lease: revoke",
    "lease: session dead",
    "lease: reclaim",
    "lease: reclaim refused",
    "lease: lost",
    "lead: executed",
    "lead: declined",
    "settle: new lead",
    "settle: one lease",
    "settle: one session",
    "settle: piece copied",
    "settle: reply taken over",
    "stale: mark",
    "stale: healed",
    "heal: by log",
    "heal: everything",
    "heal: rounds",
    "heal: joiner's pause",
    "heal: join withdrawn",
    "fault: power loss",
    "fault: power loss of all",
    "fault: crash",
    "fault: crash of all",
    "fault: pause",
    "fault: cut",
    "fault: one-way cut",
    "fault: isolation",
    "fault: connection drop",
    "fault: slow link",
    "fault: wall jump",
    "fault: EIO",
    "fault: full disk",
    "fault: disk lost",
    "fault: wedged client",
    "fault: aimed",
    "fault: misanswer",
    "fault: change cut off by death",
    "fault: change cut off by a stop",
    "fault: change cut off by a wedge",
    "fault: client crash",
    "fault: client pause",
];

/// Counted, and never demanded: fewer than one seed in a thousand reaches them.
pub const RARE: &[&str] = &["settle: marks united"];

#[derive(Clone, Debug, Default)]
pub struct Coverage(BTreeMap<&'static str, u64>);

impl Coverage {
    pub fn hit(&mut self, event: &'static str) {
        debug_assert!(
            EVENTS.contains(&event) || RARE.contains(&event),
            "{event} is not in the table"
        );
        *self.0.entry(event).or_default() += 1;
    }

    pub fn add(&mut self, other: &Coverage) {
        for (event, count) in &other.0 {
            *self.0.entry(event).or_default() += count;
        }
    }

    pub fn count(&self, event: &str) -> u64 {
        self.0.get(event).copied().unwrap_or(0)
    }

    pub fn missing(&self) -> Vec<&'static str> {
        EVENTS.iter().copied().filter(|e| self.count(e) == 0).collect()
    }

    pub fn table(&self) -> String {
        EVENTS.iter().chain(RARE).map(|e| format!("{:>9}  {e}\n", self.count(e))).collect()
    }
}
