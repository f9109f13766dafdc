//! Time as the rules see it, and every duration they use, with its reason.

use serde::{Deserialize, Serialize};

/// Nanoseconds of a clock that runs through suspend; comparable within one process only.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Tick(pub u64);

/// A length of time in nanoseconds.
pub type Nanos = u64;

pub const MS: Nanos = 1_000_000;

/// A promise or lease as its holder counts it, from the sending of the request.
pub const PROMISE: Nanos = 1500 * MS;
/// The same promise as its giver counts it, from answering: 5 % more for clock rates.
pub const PROMISE_GIVEN: Nanos = given(PROMISE);
/// One ping per peer pair; five may be lost before a promise runs out.
pub const PING_EVERY: Nanos = 300 * MS;
/// Three pings and some slack without a word: the peer is taken for dead. Earlier than a
/// promise's end, so that asking the other members overlaps the wait for it.
pub const SUSPECT_AFTER: Nanos = 1000 * MS;

/// A lease between two renewals, as the client counts it.
pub const LEASE_TERM: Nanos = 1500 * MS;
/// One renewal per session and peer.
pub const RENEW_EVERY: Nanos = 300 * MS;
/// A recall older than this is named in the renewal's answer and its lease not renewed.
pub const RECALL_OVERDUE: Nanos = 500 * MS;
/// A holder that reports write-back progress may keep its lease this long after the recall.
pub const RECALL_PROGRESS: Nanos = 5000 * MS;
/// A session unheard of for this long is forgotten with its open-file pins.
pub const SESSION_FORGET: Nanos = 30_000 * MS;
/// Two recalls of one key within this time make it contended.
pub const CONTENDED_WITHIN: Nanos = 1000 * MS;
/// So long after the last ask of a session other than the one before a key stays contended: long
/// enough that two that work in turns do not fall back to leases between two pieces of work.
pub const CONTENDED_FOR: Nanos = 2000 * MS;
/// So long a client has its changes executed after it was told that a key is contended; then it
/// wishes for the lease again, which costs one trip a second while the fight goes on.
pub const CONTENDED_ASK: Nanos = 1000 * MS;
/// A contended key stays at least this long with a new holder, so that work gets done.
pub const CONTENDED_HOLD: Nanos = 10 * MS;
/// A new lead accepts reclaims for this long, unless all known sessions answered earlier.
pub const GRACE: Nanos = 500 * MS;
/// Changes queued for a join longer than this are released and the join withdrawn.
pub const JOIN_PAUSE: Nanos = 500 * MS;
/// All members down: how long the other members of the last epoch are waited for.
pub const RESTART_WAIT: Nanos = 30_000 * MS;
/// A client's pause before it asks a member again that could not serve yet.
pub const RETRY_AFTER: Nanos = 20 * MS;

/// What the giver must wait for a term of `holder` nanoseconds counted by its holder.
pub const fn given(holder: Nanos) -> Nanos {
    holder + holder / 20
}

impl Tick {
    pub const ZERO: Tick = Tick(0);
    /// Later than any time: what needs nobody's promise.
    pub const NEVER: Tick = Tick(u64::MAX);

    pub fn after(self, nanos: Nanos) -> Tick {
        Tick(self.0.saturating_add(nanos))
    }

    /// Nanoseconds from `earlier` to `self`; 0 if that is not in the past.
    pub fn since(self, earlier: Tick) -> Nanos {
        self.0.saturating_sub(earlier.0)
    }
}
