//! What a joiner takes over from the lead in the final pause, so that it knows all that a
//! member must know before it serves: windows, unsettled lists, numbers and floors, sessions,
//! stale marks, the last graced epoch (traps 10, 11, 15, 57).

use proto::{BrickId, Epoch, Gfid, LeaseNumber, SessionId};

use super::Member;
use crate::lease::LeaseKey;
use crate::lease::numbers::Numbers;
use crate::window::SessionWindow;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HandOver<R> {
    pub epoch: Epoch,
    pub windows: Vec<SessionWindow<R>>,
    pub numbers: Vec<(LeaseKey, LeaseNumber)>,
    pub floor: LeaseNumber,
    pub dead_below: LeaseNumber,
    pub sessions: Vec<SessionId>,
    pub stale: Vec<(BrickId, Gfid)>,
    pub graced: Epoch,
    /// From which epoch on the windows lack nothing.
    pub remembers_since: Epoch,
}

impl<R: Clone> Member<R> {
    /// Lead's side, when `quiet`. `sessions`: those that its table knows.
    pub fn hand_over(&self, sessions: impl IntoIterator<Item = SessionId>) -> HandOver<R> {
        HandOver {
            epoch: self.epoch(),
            windows: self.windows.export(),
            numbers: self.numbers.export().collect(),
            floor: self.numbers.floor(),
            dead_below: self.numbers.dead_below(),
            sessions: sessions.into_iter().collect(),
            stale: self.stale.iter().collect(),
            graced: self.graced,
            remembers_since: self.remembers_since,
        }
    }

    /// Joiner's side. Whatever it had of its own is over: its windows were listed for the
    /// heal (trap 11), its stale copies are healed, but those taken from a stale copy.
    pub fn take_over(&mut self, state: HandOver<R>) {
        self.windows = crate::window::Windows::default();
        state.windows.into_iter().for_each(|w| self.windows.import(w));
        // The lead's memory replaces the joiner's: a first map seen late in the lead's reign
        // must not kill leases that the lead granted before (they are carried over).
        self.numbers = Numbers::default();
        self.numbers.import(state.floor, state.dead_below, state.numbers);
        self.sessions = state.sessions.into_iter().collect();
        self.stale = super::stale::StaleMarks::default();
        let lead = self.map.as_ref().and_then(|map| map.lead);
        let taken = |gfid| state.stale.iter().any(|(b, g)| Some(*b) == lead && *g == gfid);
        for (brick, gfid) in &state.stale {
            if *brick != self.brick || taken(*gfid) {
                self.stale.mark(*brick, *gfid);
            }
        }
        self.graced = self.graced.max(state.graced);
        (self.remembers_since, self.handed_over) = (state.remembers_since, Some(state.epoch));
    }
}
