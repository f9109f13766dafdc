//! One brick in memory behind `Below`, with leases, recalls, pins and locks among any number
//! of sessions: what the volume relies on, without a network.
//!
//! Deliberately does not: run out of lease time by itself (`revoke` does it at a chosen moment),
//! keep several sets, or know epochs.

mod leases;
mod locks;
mod tree;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use proto::fop::{
    Acquire, Answer, Call, Class, Done, Fop, Grant, LeaseKey, Mode, Op, Outcome, Return, Touch,
    Want,
};
use proto::map::{SLOTS, SetMap, VolumeMap};
use proto::options::VolumeOptions;
use proto::{Epoch, Errno, Gfid, LeaseNumber, SetId, Stamp, VolumeId, placement};
use tokio::sync::Notify;

use crate::layer::{Below, Boxed, Held, InUse, Keeper};
use crate::sync::lock;
use leases::{Conflict, Leases, Needed};
use locks::Locks;
use tree::Tree;

const SET: SetId = SetId(0);
/// What a lease's term would be: never counted down here.
const TERM: Duration = Duration::from_millis(1500);

/// The brick that all sessions share.
pub struct MemoryBrick {
    state: Mutex<State>,
    /// Told whenever a lease was given back or a change ended.
    moved: Notify,
    map: Arc<VolumeMap>,
    sessions: Mutex<Vec<Arc<Session>>>,
    delay_us: AtomicU64,
    /// Bytes that sessions may still take.
    free: AtomicU64,
}

struct State {
    tree: Tree,
    leases: Leases,
    locks: Locks,
    /// Inodes open in a session that gave their lease back.
    pins: HashSet<(Gfid, u64)>,
    faults: HashMap<Op, VecDeque<Errno>>,
    random: u64,
    stamp: u64,
}

struct Session {
    id: u64,
    keeper: OnceLock<Arc<dyn Keeper>>,
    opens: Mutex<HashSet<Gfid>>,
    trips: Mutex<HashMap<Op, u64>>,
    under_way: Mutex<Vec<Vec<Touch>>>,
}

/// One session's view of the brick.
pub struct MemoryBelow {
    brick: Arc<MemoryBrick>,
    session: Arc<Session>,
}

impl MemoryBrick {
    /// Bytes that sessions may take from now on.
    pub fn set_free(&self, bytes: u64) {
        self.free.store(bytes, Ordering::Relaxed);
    }

    pub fn new() -> Arc<MemoryBrick> {
        Self::with_options(VolumeOptions::default())
    }

    pub fn with_options(options: VolumeOptions) -> Arc<MemoryBrick> {
        let set = SetMap { id: SET, epoch: Epoch(1), lead: None, members: Vec::new() };
        let map = VolumeMap {
            version: 1,
            volume: VolumeId::random(),
            name: "memory".into(),
            started: true,
            replica: 1,
            stripe: 1,
            stripe_block: 1 << 20,
            sets: vec![set],
            slots: vec![SET; SLOTS.into()],
            peers: Vec::new(),
            options,
        };
        let state = State {
            tree: Tree::new(),
            leases: Leases::default(),
            locks: Locks::default(),
            pins: HashSet::new(),
            faults: HashMap::new(),
            random: 1,
            stamp: 0,
        };
        Arc::new(MemoryBrick {
            state: Mutex::new(state),
            moved: Notify::new(),
            map: Arc::new(map),
            sessions: Mutex::default(),
            delay_us: AtomicU64::new(0),
            free: AtomicU64::new(u64::MAX),
        })
    }

    pub fn session(self: &Arc<Self>) -> Arc<MemoryBelow> {
        let mut sessions = lock(&self.sessions);
        let session = Arc::new(Session {
            id: sessions.len() as u64 + 1,
            keeper: OnceLock::new(),
            opens: Mutex::default(),
            trips: Mutex::default(),
            under_way: Mutex::default(),
        });
        sessions.push(session.clone());
        Arc::new(MemoryBelow { brick: self.clone(), session })
    }

    /// Every later trip takes this long.
    pub fn set_delay(&self, delay: Duration) {
        self.delay_us.store(delay.as_micros() as u64, Ordering::Relaxed);
    }

    /// The next calls of `op` fail so, in order, without being executed.
    pub fn fail_next(&self, op: Op, errno: Errno) {
        lock(&self.state).faults.entry(op).or_default().push_back(errno);
    }

    /// Inodes there are, orphans included.
    pub fn inodes(&self) -> usize {
        lock(&self.state).tree.len()
    }

    /// What the brick has of a file.
    pub fn content(&self, gfid: Gfid) -> Option<Vec<u8>> {
        lock(&self.state).tree.content(gfid)
    }

    fn stamp(&self) -> Stamp {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos() as u64);
        let mut state = lock(&self.state);
        state.stamp = now.max(state.stamp + 1);
        Stamp(state.stamp)
    }

    /// Takes a lease back, waiting for its holder's guards, caches and changes.
    fn recall(self: &Arc<Self>, conflict: Conflict) {
        let brick = self.clone();
        tokio::spawn(async move {
            let Conflict { session, key, keep } = conflict;
            brick.wait_until(|s| s.leases.guards(session, key) == 0).await;
            let holder = lock(&brick.sessions)[session as usize - 1].clone();
            let open = match holder.keeper.get() {
                Some(keeper) => keeper.recall(SET, key, keep).await,
                None => false,
            };
            brick.wait_until(|s| s.leases.changes(session, key) == 0).await;
            {
                let mut state = lock(&brick.state);
                state.leases.give_back(session, key, keep);
                if open && let LeaseKey::Inode(gfid) = key {
                    state.pins.insert((gfid, session));
                }
            }
            brick.moved.notify_waiters();
        });
    }

    async fn wait_until(&self, holds: impl Fn(&State) -> bool) {
        loop {
            let moved = self.moved.notified();
            if holds(&lock(&self.state)) {
                return;
            }
            moved.await;
        }
    }
}

impl MemoryBelow {
    /// Trips to the brick since the last question, by operation.
    pub fn take_trips(&self) -> HashMap<Op, u64> {
        std::mem::take(&mut *lock(&self.session.trips))
    }

    /// As `take_trips`, all together.
    pub fn take_trip_count(&self) -> u64 {
        self.take_trips().values().sum()
    }

    /// The lease ends without a recall, as when this session was cut off.
    pub fn revoke(&self, key: LeaseKey) {
        lock(&self.brick.state).leases.give_back(self.session.id, key, Mode::None);
        if let Some(keeper) = self.session.keeper.get() {
            keeper.lost(SET, key);
        }
        self.brick.moved.notify_waiters();
    }

    /// Adds the touches of a change that begins, and checks what every sender promises: no two
    /// writes to the same bytes under way at once.
    fn begin(&self, call: &Call) {
        let touches = call.fop.touches();
        let mut under_way = lock(&self.session.under_way);
        for touch in touches.iter().filter(|t| matches!(t, Touch::Range { .. })) {
            let clash = under_way.iter().flatten().any(|other| touch.conflicts(other));
            assert!(!clash, "two changes of the same bytes are under way: {touch:?}");
        }
        under_way.push(touches);
    }

    fn end(&self, call: &Call) {
        let touches = call.fop.touches();
        let mut under_way = lock(&self.session.under_way);
        if let Some(at) = under_way.iter().position(|t| *t == touches) {
            under_way.swap_remove(at);
        }
    }

    async fn execute(&self, mut call: Call, wants: Vec<Want>) -> Outcome {
        let op = call.fop.op();
        *lock(&self.session.trips).entry(op).or_default() += 1;
        if let Some(errno) = lock(&self.brick.state).faults.get_mut(&op).and_then(|f| f.pop_front())
        {
            return Err(errno.into());
        }
        match self.brick.delay_us.load(Ordering::Relaxed) {
            0 => tokio::task::yield_now().await,
            us => tokio::time::sleep(Duration::from_micros(us)).await,
        }
        if op.class() == Class::Change && call.stamp == Stamp(0) {
            call.stamp = self.brick.stamp();
        }
        loop {
            let moved = self.brick.moved.notified();
            let conflicts = {
                let mut state = lock(&self.brick.state);
                let needed = needed(&state.tree, &call.fop, &wants);
                let conflicts = state.leases.conflicts(self.session.id, &needed);
                if conflicts.is_empty() {
                    return self.finish(&mut state, call, &needed, &wants);
                }
                state.leases.start_recalls(conflicts)
            };
            conflicts.into_iter().for_each(|c| self.brick.recall(c));
            moved.await;
        }
    }

    fn finish(
        &self,
        state: &mut State,
        mut call: Call,
        needed: &[Needed],
        wants: &[Want],
    ) -> Outcome {
        let id = self.session.id;
        for need in needed.iter().filter(|n| n.take) {
            state.leases.grant(id, need.key, need.mode);
        }
        let pinned = |pins: &HashSet<(Gfid, u64)>, gfid| pins.iter().any(|p| p.0 == gfid);
        match &mut call.fop {
            Fop::Unlink(a) => a.keep |= pinned(&state.pins, a.expect),
            Fop::Rename(a) => a.keep |= pinned(&state.pins, a.expect_to),
            Fop::Forget(a) if pinned(&state.pins, a.gfid) => {
                return Ok(Answer::Done(Done {}).into());
            }
            Fop::Lock(lock) => return Ok(Answer::Locked(state.locks.set(id, lock)).into()),
            Fop::TestLock(test) => {
                return Ok(Answer::Locked(state.locks.test(id, &test.lock)).into());
            }
            _ => {}
        }
        let (answer, payload) = state.tree.execute(&call)?;
        let shown = shown(&answer);
        let mut grants = Vec::new();
        for want in wants {
            let keys: Vec<LeaseKey> = match LeaseKey::from(want.key) {
                LeaseKey::Inode(Gfid::NIL) => shown.iter().map(|g| LeaseKey::Inode(*g)).collect(),
                key => vec![key],
            };
            let mode = Mode::try_from(want.mode).expect("a mode");
            for key in keys {
                if state.leases.conflicts(id, &[Needed { key, mode, take: true }]).is_empty()
                    && state.leases.may_share(id, key)
                {
                    state.leases.grant(id, key, mode);
                    let number = LeaseNumber { base: 1, counter: 1 };
                    let term_ms = TERM.as_millis() as u32;
                    let pinned = state.pins.iter().any(|p| p.0 == key.gfid() && p.1 != id);
                    grants.push(Grant {
                        key: key.into(),
                        mode: want.mode,
                        number,
                        term_ms,
                        pinned,
                    });
                }
            }
        }
        Ok(Return { answer, payload, grants })
    }
}

/// Inodes that an answer shows with attributes.
fn shown(answer: &Answer) -> Vec<Gfid> {
    match answer {
        Answer::Entry(entry) => vec![entry.attr.gfid],
        Answer::Attr(attr) => vec![attr.gfid],
        Answer::Entries(page) => {
            page.entries.iter().filter(|e| e.attr.is_some()).map(|e| e.gfid).collect()
        }
        _ => Vec::new(),
    }
}

/// The leases without which an operation must wait.
fn needed(tree: &Tree, fop: &Fop, wants: &[Want]) -> Vec<Needed> {
    use LeaseKey::{Inode, Part};
    let changed = |keys: Vec<LeaseKey>| {
        let need = |key| Needed { key, mode: Mode::Exclusive, take: true };
        keys.into_iter().filter(|k| !k.gfid().is_nil()).map(need).collect()
    };
    // What others have not written back must be seen: their exclusive leases go.
    let seen = |gfid| Needed { key: Inode(gfid), mode: Mode::Shared, take: false };
    let mut needed: Vec<Needed> = match fop {
        Fop::Create(a) => changed(vec![Part(a.parent)]),
        Fop::Unlink(a) => changed(vec![Part(a.parent), Inode(a.expect)]),
        Fop::Rmdir(a) => changed(vec![Part(a.parent), Inode(a.expect), Part(a.expect)]),
        Fop::Rename(a) => changed(vec![
            Part(a.from_parent),
            Part(a.to_parent),
            Inode(a.expect_from),
            Inode(a.expect_to),
            Part(a.expect_to),
        ]),
        Fop::Link(a) => changed(vec![Part(a.parent), Inode(a.gfid)]),
        Fop::Write(a) => changed(vec![Inode(a.gfid)]),
        Fop::Setattr(a) => changed(vec![Inode(a.gfid)]),
        Fop::Setxattr(a) => changed(vec![Inode(a.gfid)]),
        Fop::Removexattr(a) => changed(vec![Inode(a.gfid)]),
        Fop::Fallocate(a) => changed(vec![Inode(a.gfid)]),
        Fop::Getattr(a) => vec![seen(a.gfid)],
        Fop::Read(a) => vec![seen(a.gfid)],
        Fop::Seek(a) => vec![seen(a.gfid)],
        Fop::Getxattr(a) => vec![seen(a.gfid)],
        Fop::Listxattr(a) => vec![seen(a.gfid)],
        Fop::Lookup(a) => tree.find(a.parent, &a.name).map(seen).into_iter().collect(),
        _ => Vec::new(),
    };
    for want in wants.iter().filter(|w| !w.only_if_free) {
        let key = LeaseKey::from(want.key);
        let mode = Mode::try_from(want.mode).expect("a mode");
        if !key.gfid().is_nil() && !matches!(fop, Fop::Create(a) if a.gfid == key.gfid()) {
            needed.push(Needed { key, mode, take: false });
            if let (Fop::Acquire(_), Inode(gfid)) = (fop, key) {
                // A rename over a file takes the part that the file would have as a directory;
                // with another name left the file lives on, and so would that lease.
                needed.push(Needed { key: Part(gfid), mode: Mode::Shared, take: false });
            }
        }
    }
    needed
}

impl Below for MemoryBelow {
    fn call(&self, call: Call, wants: Vec<Want>) -> Boxed<'_, Outcome> {
        Box::pin(async move {
            call.fop.check().expect("a correct sender");
            let change = call.fop.op().class() == Class::Change;
            let copy = Call { payload: Default::default(), ..call.clone() };
            let keys: Vec<LeaseKey> =
                call.fop.touches().iter().map(|t| LeaseKey::Inode(t.gfid())).collect();
            if change {
                self.begin(&copy);
                let mut state = lock(&self.brick.state);
                keys.iter().for_each(|k| state.leases.begin_change(self.session.id, *k));
            }
            let done = self.execute(call, wants).await;
            if change {
                self.end(&copy);
                let mut state = lock(&self.brick.state);
                keys.iter().for_each(|k| state.leases.end_change(self.session.id, *k));
                drop(state);
                self.brick.moved.notify_waiters();
            }
            done
        })
    }

    fn set_of_name(&self, _dir: Gfid, _buckets: u32, _name: &[u8]) -> SetId {
        SET
    }

    fn set_of_inode(&self, _gfid: Gfid) -> SetId {
        SET
    }

    fn new_gfid(&self, dir: Gfid, buckets: u32, name: &[u8]) -> Gfid {
        let mut state = lock(&self.brick.state);
        state.random += 1;
        let mut random = [7; 14];
        // The last eight bytes are the inode number.
        random[6..].copy_from_slice(&state.random.to_be_bytes());
        Gfid::new(placement::slot_of_name(dir, buckets as u16, name), random)
    }

    fn held(&self, _set: SetId, key: LeaseKey) -> Option<Held> {
        let state = lock(&self.brick.state);
        let mode = state.leases.held(self.session.id, key)?;
        let pinned = state.pins.iter().any(|p| p.0 == key.gfid() && p.1 != self.session.id);
        Some(Held { mode, until: Instant::now() + TERM, pinned })
    }

    fn hold(&self, _set: SetId, key: LeaseKey, mode: Mode) -> Option<InUse> {
        let mut state = lock(&self.brick.state);
        if state.leases.held(self.session.id, key)? < mode {
            return None;
        }
        state.leases.begin_guard(self.session.id, key);
        let guard = Guard { brick: self.brick.clone(), session: self.session.id, key };
        Some(InUse(Box::new(guard)))
    }

    fn acquire(&self, set: SetId, key: LeaseKey, mode: Mode) -> Boxed<'_, Result<Held, Errno>> {
        Box::pin(async move {
            loop {
                let want = Want { key: key.into(), mode: mode as i32, ..Want::default() };
                self.execute(Call::new(Acquire {}), vec![want]).await.map_err(|_| Errno::EIO)?;
                match self.held(set, key) {
                    Some(held) if held.mode >= mode => return Ok(held),
                    _ => tokio::time::sleep(Duration::from_millis(1)).await,
                }
            }
        })
    }

    fn acquire_to_change(
        &self,
        set: SetId,
        key: LeaseKey,
    ) -> Boxed<'_, Result<Option<Held>, Errno>> {
        let held = self.acquire(set, key, Mode::Exclusive);
        Box::pin(async move { held.await.map(Some) })
    }

    fn set_open(&self, gfid: Gfid, open: bool) {
        let mut opens = lock(&self.session.opens);
        if open {
            opens.insert(gfid);
            return;
        }
        opens.remove(&gfid);
        drop(opens);
        let mut state = lock(&self.brick.state);
        state.pins.remove(&(gfid, self.session.id));
        if !state.pins.iter().any(|p| p.0 == gfid) {
            let elsewhere = lock(&self.brick.sessions)
                .iter()
                .any(|s| s.id != self.session.id && lock(&s.opens).contains(&gfid));
            if !elsewhere {
                state.tree.forget(gfid);
            }
        }
    }

    fn take_space(&self, _set: SetId, bytes: u64) -> bool {
        let rest = |free: u64| free.checked_sub(bytes);
        self.brick.free.fetch_update(Ordering::Relaxed, Ordering::Relaxed, rest).is_ok()
    }

    fn wait_for_space(&self, set: SetId, bytes: u64) -> Boxed<'_, Result<(), Errno>> {
        let taken = self.take_space(set, bytes);
        Box::pin(std::future::ready(if taken { Ok(()) } else { Err(Errno::ENOSPC) }))
    }

    fn stamp(&self) -> Stamp {
        self.brick.stamp()
    }

    fn map(&self) -> Arc<VolumeMap> {
        self.brick.map.clone()
    }

    fn set_keeper(&self, keeper: Arc<dyn Keeper>) {
        assert!(self.session.keeper.set(keeper).is_ok(), "a session has one keeper");
    }
}

struct Guard {
    brick: Arc<MemoryBrick>,
    session: u64,
    key: LeaseKey,
}

impl Drop for Guard {
    fn drop(&mut self) {
        lock(&self.brick.state).leases.end_guard(self.session, self.key);
        self.brick.moved.notify_waiters();
    }
}
