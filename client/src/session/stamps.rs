//! The clock of changes: a lead's wall clock, carried on by this machine's monotonic one.

use std::sync::Mutex;

use proto::Stamp;
use proto_rules::Tick;
use tokio::sync::Notify;

use crate::sync::lock;

#[derive(Default)]
pub(super) struct Stamps {
    state: Mutex<State>,
    first: Notify,
}

#[derive(Default)]
struct State {
    base_ns: u64,
    at: Tick,
    last: u64,
}

impl Stamps {
    /// A lead told its time in an answer that arrived at `at`. The clock may be set back, the
    /// stamps never go back.
    pub(super) fn set(&self, time_ns: u64, at: Tick) {
        if time_ns == 0 {
            return;
        }
        let mut state = lock(&self.state);
        (state.base_ns, state.at) = (time_ns, at);
        drop(state);
        self.first.notify_waiters();
    }

    /// Returns when a brick has told its time. Before that there are no stamps: this machine's
    /// own wall clock may be arbitrarily wrong.
    pub(super) async fn known(&self) {
        loop {
            let first = self.first.notified();
            if self.is_set() {
                return;
            }
            first.await;
        }
    }

    pub(super) fn is_set(&self) -> bool {
        lock(&self.state).base_ns != 0
    }

    /// Greater than every stamp before.
    pub(super) fn next(&self, now: Tick) -> Stamp {
        let mut state = lock(&self.state);
        let time = state.base_ns.saturating_add(now.since(state.at));
        state.last = time.max(state.last + 1);
        Stamp(state.last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_follow_the_leads_clock_and_never_go_back() {
        let stamps = Stamps::default();
        stamps.set(1000, Tick(50));
        assert_eq!(stamps.next(Tick(60)), Stamp(1010));
        assert_eq!(stamps.next(Tick(60)), Stamp(1011));
        stamps.set(500, Tick(70));
        assert_eq!(stamps.next(Tick(80)), Stamp(1012));
        stamps.set(5000, Tick(90));
        assert_eq!(stamps.next(Tick(91)), Stamp(5001));
    }
}
