//! Sessions against scripted bricks over real TCP, with a scripted control plane.

mod changes;
mod leasing;
mod maps;
mod reading;
mod space;

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use proto::fop::{Call, Create, LeaseKey, Mode, Outcome, Write};
use proto::map::{MemberState, VolumeMap};
use proto::{Epoch, Errno, Failure, Gfid, SessionId, SetId, SlotId, VolumeId};
use tokio::sync::watch;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::WatchStream;

use super::control::{ControlError, ControlPlane, MapStream, Ticket};
use super::*;
use crate::layer::{Below, Boxed};
use crate::scripted_brick::ScriptedBrick;
use crate::test_map::volume_map;

/// A pool whose map the test writes.
pub(super) struct Script {
    pub(super) maps: watch::Sender<VolumeMap>,
    /// Streams opened so far, and an order to break them all.
    pub(super) opened: AtomicUsize,
    pub(super) broken: watch::Sender<u64>,
}

#[async_trait]
impl ControlPlane for Script {
    async fn ticket(&self) -> Result<Ticket, ControlError> {
        Ok(Ticket {
            bytes: Bytes::from_static(b"ticket"),
            session: SessionId(7),
            valid: Duration::from_secs(60),
            read_only: false,
        })
    }

    async fn watch_map(&self, _: u64) -> Result<MapStream, ControlError> {
        self.opened.fetch_add(1, Relaxed);
        let mut broken = self.broken.subscribe();
        let maps = WatchStream::new(self.maps.subscribe()).map(|map| Ok(Some(map)));
        let end = futures_util::stream::once(async move {
            let _ = broken.changed().await;
            Err(ControlError::Unreachable("cut".into()))
        });
        // Ends with the error as soon as the break is ordered.
        let merged = futures_util::stream::select(maps, end);
        let mut over = false;
        Ok(Box::pin(merged.take_while(move |item| {
            let go_on = !over;
            over |= item.is_err();
            go_on
        })))
    }
}

pub(super) struct Pool {
    pub(super) bricks: Vec<ScriptedBrick>,
    pub(super) control: Arc<Script>,
    pub(super) session: Arc<Session>,
}

pub(super) const SET: SetId = SetId(0);

impl Pool {
    pub(super) async fn start(sets: u32, replica: u16) -> Pool {
        Pool::with(sets, replica, |_| {}).await
    }

    /// A pool whose first map is bent by the test.
    pub(super) async fn with(sets: u32, replica: u16, bend: impl Fn(&mut VolumeMap)) -> Pool {
        let mut map = volume_map(VolumeId::random(), sets, replica);
        bend(&mut map);
        let mut bricks = Vec::new();
        let members: Vec<_> = map.sets.iter().flat_map(|s| &s.members).cloned().collect();
        for member in &members {
            let brick = ScriptedBrick::start(member.brick).await;
            for peer in map.peers.iter_mut().filter(|p| p.peer == member.peer) {
                peer.data_port = brick.port();
            }
            bricks.push(brick);
        }
        let control = Arc::new(Script {
            maps: watch::Sender::new(map),
            opened: AtomicUsize::new(0),
            broken: watch::Sender::new(0),
        });
        let session = Session::over(control.clone(), "v", "test").await.unwrap();
        Pool { bricks, control, session }
    }

    /// The next map: another version, bent by the test.
    pub(super) fn remap(&self, bend: impl FnOnce(&mut VolumeMap)) {
        self.control.maps.send_modify(|map| {
            map.version += 1;
            bend(map);
        });
    }

    /// Member `at` of set 0 goes out; the set is in the next epoch, under the first member left.
    pub(super) fn evict(&self, at: usize) {
        self.remap(|map| {
            let set = &mut map.sets[0];
            set.epoch = Epoch(set.epoch.0 + 1);
            set.members[at].state = MemberState::Out;
            let in_sync = set.in_sync().map(|m| m.brick).collect::<Vec<_>>();
            if !set.lead.is_some_and(|lead| in_sync.contains(&lead)) {
                set.lead = Some(in_sync[0]);
            }
        });
        let epoch = self.control.maps.borrow().sets[0].epoch;
        for brick in &self.bricks {
            brick.set_epoch(epoch.0);
        }
    }

    pub(super) async fn call(&self, call: Call) -> Outcome {
        let called = self.session.call(call, Vec::new());
        tokio::time::timeout(Duration::from_secs(20), called).await.expect("operations end")
    }

    /// Starts an operation and lets it run.
    pub(super) fn begin(&self, call: Call) -> tokio::task::JoinHandle<Outcome> {
        let session = self.session.clone();
        tokio::spawn(async move { session.call(call, Vec::new()).await })
    }

    pub(super) async fn exclusive(&self, gfid: Gfid) {
        self.session.acquire(SET, LeaseKey::Inode(gfid), Mode::Exclusive).await.unwrap();
    }

    pub(super) fn is_held(&self, gfid: Gfid) -> bool {
        self.session.held(SET, LeaseKey::Inode(gfid)).is_some()
    }
}

pub(super) fn gfid(n: u8) -> Gfid {
    // Even slots are those of set 0, if there are two sets.
    Gfid::new(SlotId(2 * u16::from(n)), [n; 14])
}

pub(super) fn write_at(gfid: Gfid, offset: u64, data: &'static [u8]) -> Call {
    let len = data.len() as u64;
    Call::new(Write { gfid, offset, len, inside: true, ..Write::default() })
        .with_payload(Bytes::from_static(data))
}

pub(super) fn write(gfid: Gfid) -> Call {
    write_at(gfid, 0, b"data")
}

pub(super) fn create(n: u8) -> Call {
    let name = format!("n{n}").into();
    let mode = 0o100_644;
    Call::new(Create { parent: Gfid::ROOT, name, gfid: gfid(n), mode, ..Create::default() })
}

pub(super) fn errno(outcome: Outcome) -> Errno {
    match outcome {
        Err(Failure::Errno(errno)) => errno,
        other => panic!("an errno was expected: {other:?}"),
    }
}

/// Waits for something that another task brings about.
pub(super) async fn until(what: impl Fn() -> bool) {
    let wait = async {
        while !what() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), wait).await.expect("should have come true");
}

/// A moment in which anything that can happen does.
pub(super) async fn settle() {
    tokio::time::sleep(Duration::from_millis(60)).await;
}

/// A keeper that records, and recalls only when it is let.
#[derive(Default)]
pub(super) struct Records {
    pub(super) recalls: Mutex<Vec<(LeaseKey, Mode)>>,
    pub(super) lost: Mutex<Vec<LeaseKey>>,
    pub(super) locks_lost: Mutex<Vec<Gfid>>,
    /// What the keeper writes back in a recall.
    pub(super) write_back: Mutex<Option<(Arc<Session>, Call)>>,
    pub(super) written: Mutex<Vec<Outcome>>,
}

impl Keeper for Records {
    fn recall(&self, _: SetId, key: LeaseKey, keep: Mode) -> Boxed<'_, bool> {
        lock(&self.recalls).push((key, keep));
        Box::pin(async move {
            let write_back = lock(&self.write_back).take();
            if let Some((session, call)) = write_back {
                let outcome = session.call(call, Vec::new()).await;
                lock(&self.written).push(outcome);
            }
            false
        })
    }

    fn lost(&self, _: SetId, key: LeaseKey) {
        lock(&self.lost).push(key);
    }

    fn lock_lost(&self, gfid: Gfid) {
        lock(&self.locks_lost).push(gfid);
    }

    fn buffered(&self, _: SetId) -> u64 {
        0
    }
}

impl Pool {
    pub(super) fn keeper(&self) -> Arc<Records> {
        let records = Arc::new(Records::default());
        self.session.set_keeper(records.clone());
        records
    }
}
