//! The applied state, published: one watch channel for all of it, one per volume map.
//!
//! Written by the raft state machine as it applies, read by everybody else. A reader holds an
//! `Arc` and never a lock; a map changes hands within the time of one task wake-up.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use proto::VolumeId;
use proto::map::VolumeMap;
use tokio::sync::watch;

use super::state::PoolState;

#[derive(Debug)]
pub struct Published {
    state: watch::Sender<Arc<PoolState>>,
    maps: Mutex<Maps>,
}

#[derive(Debug, Default)]
struct Maps {
    /// Counts up with every membership begun or ended: raft's worker of one that is over may
    /// still apply an entry, which must not show.
    term: u64,
    open: HashMap<VolumeId, watch::Sender<Arc<VolumeMap>>>,
}

impl Default for Published {
    fn default() -> Self {
        Self { state: watch::Sender::new(Arc::default()), maps: Mutex::default() }
    }
}

impl Published {
    pub fn state(&self) -> Arc<PoolState> {
        self.state.borrow().clone()
    }

    pub fn watch_state(&self) -> watch::Receiver<Arc<PoolState>> {
        self.state.subscribe()
    }

    /// `None` when there is no such volume. The sender goes away with the volume.
    pub fn watch_map(&self, volume: VolumeId) -> Option<watch::Receiver<Arc<VolumeMap>>> {
        let maps = self.maps.lock().expect("no panic under this lock");
        maps.open.get(&volume).map(watch::Sender::subscribe)
    }

    /// Begins a membership; what earlier ones still publish is dropped from now on.
    pub fn begin(&self) -> u64 {
        let mut maps = self.maps.lock().expect("no panic under this lock");
        maps.term += 1;
        maps.term
    }

    /// Ends the membership: nothing is known any more.
    pub fn end(&self) {
        let term = self.begin();
        self.publish(term, &PoolState::default());
    }

    /// Makes `state` the current one: maps first, so that whoever sees a state finds its maps.
    pub fn publish(&self, term: u64, state: &PoolState) {
        let mut maps = self.maps.lock().expect("no panic under this lock");
        if maps.term == term {
            publish_maps(&mut maps.open, state);
            self.state.send_replace(Arc::new(state.clone()));
        }
    }
}

fn publish_maps(open: &mut HashMap<VolumeId, watch::Sender<Arc<VolumeMap>>>, state: &PoolState) {
    open.retain(|id, _| state.volumes.contains_key(id));
    for (id, volume) in &state.volumes {
        match open.get(id) {
            Some(sender) if sender.borrow().version == volume.version => {}
            Some(sender) => {
                sender.send_replace(Arc::new(state.map_of(volume)));
            }
            None => {
                open.insert(*id, watch::Sender::new(Arc::new(state.map_of(volume))));
            }
        }
    }
}
