//! All state of a brick, and the small steps that the other files share.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::panic::AssertUnwindSafe;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use proto::fop::{Answer, Call, Changed, ChangedItem, Return};
use proto::map::VolumeMap;
use proto::{BrickId, Epoch, Errno, Failure, Gfid, Refusal, SessionId};
use proto_rules::Tick;
use proto_rules::member::{Member, MemberCommand, OwnError};
use proto_rules::time::MS;
use server_store::{Ctx, Store};
use tokio::sync::Notify;

use super::clock::now;
use super::connection::{Conn, ConnId};
use super::foreground::Foreground;
use super::gate::Facts;
use super::handover;
use super::inbox::Setup;
use super::interval::IntervalClock;
use super::io::DiskIo;
use super::request::{Outcome, Pending, Stored};
use super::trim::Trim;
use crate::heal::job::Resume;
use crate::lead::{Lead, Members};

/// A request that the disk has not answered for this long: the disk is dying. The brick leaves
/// before its clients' operations time out.
pub const OLDEST_DISK_REQUEST: u64 = 10_000 * MS;

const WITHDRAW_EVERY: u64 = 1000 * MS;

/// A brick as its tasks share it. Borrowed only between two waits, never across one.
pub struct Brick {
    pub core: RefCell<Core>,
    pub disk: Rc<dyn DiskIo>,
}

pub struct Core {
    pub setup: Setup,
    pub me: Weak<Brick>,
    pub store: Store,
    pub member: Member<Stored>,
    /// Present once this brick leads and has collected what it must know.
    pub lead: Option<Lead>,
    /// The other members of the set, reached as a peer.
    pub members: Members,
    pub map: Option<Arc<VolumeMap>>,
    pub interval: IntervalClock,
    pub conns: BTreeMap<ConnId, (Rc<Conn>, u32)>,
    pub sessions: BTreeMap<SessionId, BTreeSet<ConnId>>,
    /// Changes that wait for the end of a joiner's pause.
    pub held: Vec<Pending>,
    /// Inodes without a name that are kept because they are open somewhere.
    pub orphans: BTreeSet<Gfid>,
    /// When each request was given to the disk.
    at_disk: BTreeMap<u64, Tick>,
    next_id: u64,
    /// Changes executed: what was read before one may have changed.
    pub executed: u64,
    pub failed: Option<String>,
    pub checkpointing: bool,
    /// When the withdrawal of a join was last asked for.
    withdrawn: Tick,
    /// A heal does not get ahead of the writers: how much later they are answered, until when.
    pub slow: Option<(Duration, Tick)>,
    foreground: Foreground,
    pub trim: Trim,
    /// When `tick` is planned, and what makes it come sooner.
    pub next_tick: Tick,
    pub sooner: Rc<Notify>,
    /// The newest interval in-sync that is on stable storage.
    durable: u64,
}

impl Brick {
    /// Runs a task of this brick's thread. One that panics has met a bug and may have left half
    /// a change in memory: the brick leaves its set like one with a bad disk.
    pub fn guard(self: Rc<Self>, task: impl Future<Output = ()> + 'static) {
        tokio::task::spawn_local(async move {
            if AssertUnwindSafe(task).catch_unwind().await.is_err() {
                self.core.borrow_mut().leave("a bug in the brick's own code (see the log)");
            }
        });
    }
}

impl Core {
    /// # Errors
    /// The store's database cannot be read.
    pub fn new(setup: Setup, mut store: Store) -> Result<Self, Errno> {
        let identity = setup.identity;
        let mut member = Member::new(identity.brick, identity.incarnation);
        for (gfid, brick) in store.stale_marks() {
            member.stale.mark(brick, gfid);
        }
        member.note_graced(super::handover::graced(&store)?);
        for lease in super::raised::known(&store)? {
            member.numbers.raise(lease.key.into(), lease.number);
        }
        // The log may hold entries of a later interval than the last checkpoint's.
        let ask = Changed { since: u64::MAX, limit: 1, ..Changed::default() };
        let ctx = Ctx { interval: 0, defer_sync: false };
        let logged = match store.execute(&Call::new(ask), &ctx)?.answer {
            Answer::ChangedList(list) => list.current,
            _ => 0,
        };
        let last = store.last_checkpoint()?.map_or(0, |mark| mark.interval).max(logged);
        let orphans = store.orphans()?.into_iter().collect();
        // After a lost database or a power loss the log cannot tell what is missing.
        if store.opened().suspect() {
            // For good: a further start, before the heal is done, must not believe them either.
            handover::note_resume(&mut store, None)?;
            handover::note_in_sync(&mut store, 0, true)?;
        }
        let in_sync = handover::in_sync(&store)?;
        setup.gate.set_in_sync_interval(in_sync);
        setup.gate.set_resume(handover::resume(&store)?);
        let trim = Trim::load(&store);
        Ok(Self {
            interval: IntervalClock::after(last, now()),
            members: Members::new(identity, setup.credential.clone()),
            setup,
            me: Weak::new(),
            store,
            member,
            lead: None,
            map: None,
            conns: BTreeMap::new(),
            sessions: BTreeMap::new(),
            held: Vec::new(),
            orphans,
            at_disk: BTreeMap::new(),
            next_id: 0,
            executed: 0,
            failed: None,
            checkpointing: false,
            withdrawn: Tick::ZERO,
            slow: None,
            foreground: Foreground::default(),
            trim,
            next_tick: Tick::ZERO,
            sooner: Rc::default(),
            durable: in_sync,
        })
    }

    /// A number unlike any other of this thread.
    pub fn fresh_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    pub fn epoch(&self) -> Epoch {
        self.member.epoch()
    }

    /// Starts a task of this brick's thread.
    pub fn spawn<F: Future<Output = ()> + 'static>(&self, task: impl FnOnce(Rc<Brick>) -> F) {
        // Gone only while the thread ends; then nobody waits for the task either.
        if let Some(brick) = self.me.upgrade() {
            brick.clone().guard(task(brick));
        }
    }

    /// The last step of every request.
    pub fn answer(&mut self, mut pending: Pending, outcome: Outcome) {
        let metrics = &self.setup.metrics;
        let took = now().since(pending.started);
        metrics.answered(pending.op, took);
        if pending.conn.peer().is_none() && pending.grants.is_empty() {
            self.foreground.answered(took);
        }
        match &outcome {
            Outcome::Failed(Failure::Refused(_)) => metrics.refused.add(1),
            Outcome::Done(done) => metrics.bytes_out.add(done.payload.len() as u64),
            _ => {}
        }
        let held = self.held_by(&mut pending);
        pending.send(self.member.epoch(), outcome);
        self.free(held);
    }

    pub fn refuse(&mut self, pending: Pending, refusal: Refusal) {
        self.answer(pending, Outcome::Failed(refusal.into()));
    }

    pub fn fail(&mut self, pending: Pending, errno: Errno) {
        self.answer(pending, Outcome::Failed(errno.into()));
    }

    /// A change was executed: its reply is kept for re-sends.
    pub fn finish_change(&mut self, pending: Pending, result: Result<Return, Errno>) {
        self.member.finish(pending.head.session, pending.head.seq, Stored::of(&result));
        if pending.execute && pending.conn.peer().is_none() {
            return self.fan_out(pending, result);
        }
        match self.slow {
            Some((delay, until)) if now() < until && pending.conn.peer().is_none() => {
                let mut pending = pending;
                pending.defer();
                self.spawn(|brick| async move {
                    let asleep = now();
                    tokio::time::sleep(delay).await;
                    // What a heal asked for is not what clients wait because of it.
                    pending.started = pending.started.after(now().since(asleep));
                    brick.core.borrow_mut().answer(pending, result.into());
                });
            }
            _ => {
                self.slow = None;
                self.answer(pending, result.into());
            }
        }
    }

    /// An error of this brick's own disk met `pending`, or the brick had failed before.
    pub fn own_error(&mut self, pending: Pending, what: &str) {
        let gfid = pending.head.touches.first().map(proto::fop::Touch::gfid);
        match self.member.own_error(gfid.or(pending.head.reads.first().copied())) {
            OwnError::Sole => self.finish_change(pending, Err(Errno::EIO)),
            OwnError::Leave => {
                self.leave(what);
                self.member.windows.cancel(pending.head.session, pending.head.seq);
                self.refuse(pending, Refusal::Failed);
            }
        }
    }

    /// Takes the brick out of service. Said once.
    pub fn leave(&mut self, reason: &str) {
        if self.failed.is_some() {
            return;
        }
        tracing::error!(brick = %self.setup.identity.brick, reason, "the brick leaves its set");
        self.failed = Some(reason.to_owned());
        self.member.own_error(None);
        self.setup.gate.set_failed(reason);
        self.setup.owner.failed(self.setup.identity, self.epoch(), reason);
    }

    /// Notes that the disk has a request; `disk_answered` takes it back.
    pub fn disk_asked(&mut self) -> u64 {
        let id = self.fresh_id();
        self.at_disk.insert(id, now());
        id
    }

    pub fn disk_answered(&mut self, id: u64) {
        self.at_disk.remove(&id);
    }

    /// Time passes: called often, does what is due.
    pub fn tick(&mut self) {
        let now = now();
        let gate = self.setup.gate.clone();
        gate.set_beat(now);
        if gate.failed() && self.failed.is_none() {
            // Said by whoever watches this thread, while it hung.
            self.leave(&gate.why_failed());
        }
        self.member.set_serve_until(gate.serve_until());
        self.interval.tick(now, self.member.is_lead(), gate.heard_interval());
        let oldest = self.at_disk.values().min();
        if oldest.is_some_and(|asked| now.since(*asked) > OLDEST_DISK_REQUEST) {
            self.leave("the disk has not answered a request for 10 s");
        }
        if let Some(reason) = self.store.failed() {
            self.leave(&reason);
        }
        if let Some(command) = self.member.tick(now) {
            self.member_commands(vec![command]);
        }
        self.lead_tick(now);
        self.publish_metrics();
    }

    /// Remembers over a restart in which interval the brick was in-sync last.
    ///
    /// # Errors
    /// The database cannot be written.
    pub fn note_in_sync(&mut self) -> Result<(), Errno> {
        if !self.surely_in_sync() {
            return Ok(());
        }
        if self.setup.gate.resume().is_some() {
            self.note_resume(None)?;
        }
        let interval = self.interval.heard_by_all();
        self.setup.gate.set_in_sync_interval(interval);
        handover::note_in_sync(&mut self.store, interval, false)
    }

    /// What was noted as the newest interval in-sync is on stable storage; so is what the log
    /// need not keep for this brick any more.
    pub fn checkpointed(&mut self, in_sync: u64) {
        self.durable = in_sync;
        let own = (self.setup.identity.brick, in_sync);
        let Some(map) = self.member.map() else { return };
        let words = self.setup.gate.words().into_iter().chain([own]);
        let below = self.trim.heard(map, words, self.store.log_complete_since());
        let trimmed = match below {
            Some(below) => self.store.trim_log(below),
            None => Ok(()),
        };
        if trimmed.and_then(|()| self.trim.save(&mut self.store)).is_err() {
            self.leave("the change log cannot be trimmed");
        }
    }

    /// How far this brick's heal has come; `None`: it is in-sync.
    ///
    /// # Errors
    /// The database cannot be written.
    pub fn note_resume(&mut self, resume: Option<Resume>) -> Result<(), Errno> {
        handover::note_resume(&mut self.store, resume.as_ref())?;
        self.setup.gate.set_resume(resume);
        Ok(())
    }

    /// In-sync by the newest map here and by running promises. A brick that wakes after a pause
    /// hears the lead's new interval before it hears of its own eviction.
    fn surely_in_sync(&self) -> bool {
        self.member.in_sync() && now() < self.setup.gate.serve_until()
    }

    /// Part of the lead's log; from the last part on this brick's answers for what that did.
    pub fn take_over_log(&mut self, items: &[ChangedItem], complete_since: Option<u64>) -> bool {
        let interval = self.interval.current();
        let taken = self.store.take_over_log(items, interval, complete_since).is_ok();
        self.interval.at_least(self.store.interval(), now());
        taken
    }

    /// Free space and checkpoint for the pings; now and then, it costs a system call.
    pub fn refresh_facts(&mut self) {
        let checkpoint = self.store.last_checkpoint().ok().flatten().map_or(0, |m| m.interval);
        let space = self.store.statfs();
        let facts = Facts {
            interval: self.interval.current(),
            checkpoint,
            free_bytes: space.as_ref().map_or(0, |s| s.free_bytes),
            total_bytes: space.as_ref().map_or(0, |s| s.total_bytes),
            foreground_us: self.foreground.take(),
            durable: self.durable,
        };
        self.setup.gate.set_facts(facts);
        let own = self.setup.identity.brick;
        let in_sync: Vec<BrickId> =
            self.member.map().iter().flat_map(|m| m.in_sync()).map(|m| m.brick).collect();
        let stale = self.member.stale.iter().filter(|(brick, _)| *brick == own).count();
        let others = |brick: &BrickId| *brick != own && in_sync.contains(brick);
        let elsewhere = self.member.stale.iter().filter(|(brick, _)| others(brick)).count();
        self.setup.gate.set_stale_copies(stale as u64);
        self.setup.gate.set_stale_elsewhere(elsewhere as u64);
        if self.surely_in_sync() {
            self.setup.gate.set_in_sync_interval(self.interval.heard_by_all());
        }
        self.setup.metrics.free_bytes.set(facts.free_bytes);
        self.setup.metrics.total_bytes.set(facts.total_bytes);
    }

    fn publish_metrics(&self) {
        let metrics = &self.setup.metrics;
        let serving = self.member.in_sync() && now() < self.member.serve_until();
        metrics.serving.set(u64::from(serving && self.failed.is_none()));
        metrics.epoch.set(self.epoch().0);
        metrics.connections.set(self.conns.len() as u64);
        metrics.sessions.set(self.sessions.len() as u64);
    }

    /// A committed map.
    pub fn on_map(&mut self, map: Arc<VolumeMap>) {
        if self.map.as_ref().is_some_and(|old| old.version >= map.version) {
            return;
        }
        let Some(set) = map.set(self.setup.identity.set.set).cloned() else { return };
        self.store.set_reserve(map.options.reserve_bytes);
        let needed = map.options.min_in_sync_of(map.replica);
        self.members.on_map(&map, &set);
        self.map = Some(map);
        let before = self.epoch();
        let commands = self.member.on_map(&set, needed);
        if self.epoch() != before && self.member.in_sync() {
            self.note_epoch();
        }
        self.member_commands(commands);
        self.tick();
    }

    /// The epochs that a brick has on stable storage decide who leads when all were down.
    fn note_epoch(&mut self) {
        let noted = self.store.set_epoch(self.epoch());
        let named = self.store.add_incarnation(self.setup.identity.incarnation);
        match noted.and(named) {
            Ok(()) => self.setup.gate.set_noted(self.epoch()),
            Err(_) => self.leave("an epoch cannot be written to its database"),
        }
    }

    pub fn member_commands(&mut self, commands: Vec<MemberCommand>) {
        for command in commands {
            match command {
                MemberCommand::Relog(unsettled) => {
                    let touches: Vec<_> = unsettled.into_iter().flat_map(|u| u.touches).collect();
                    if self.store.log(self.interval.current(), &touches).is_err() {
                        self.leave("the change log cannot be written");
                    }
                }
                MemberCommand::BecomeLead { epoch } => self.become_lead(epoch),
                MemberCommand::LeadOn { epoch } => self.lead_on(epoch),
                MemberCommand::LoseLead => self.lose_lead(),
                MemberCommand::Out => self.close_clients(),
                MemberCommand::Readmit => {
                    for pending in std::mem::take(&mut self.held) {
                        self.advance(pending);
                    }
                }
                MemberCommand::WithdrawJoin => {
                    // Said at every look until the epoch ends; asked for once a second.
                    if now().since(self.withdrawn) > WITHDRAW_EVERY {
                        self.withdrawn = now();
                        self.setup.owner.withdraw_join(self.setup.identity, self.epoch());
                    }
                }
            }
        }
    }

    /// Ends all connections of clients: they find the members of the next epoch by the map.
    fn close_clients(&mut self) {
        self.lose_lead();
        for (conn, _) in self.conns.values().filter(|(conn, _)| conn.peer().is_none()) {
            conn.close();
        }
    }

    /// Sends a frame to a session, on its background connection if it has one.
    pub fn connection_of(&self, session: SessionId) -> Option<Rc<Conn>> {
        let ids = self.sessions.get(&session)?;
        let open = ids.iter().filter_map(|id| self.conns.get(id));
        let best = open.filter(|(conn, _)| !conn.outbox.is_closed()).min_by_key(|(_, n)| *n)?;
        Some(best.0.clone())
    }

    /// A connection has ended: whatever it waited for is nobody's any more.
    pub fn disconnected(&mut self, conn: &Conn) {
        self.conns.remove(&conn.id);
        if let Some(ids) = self.sessions.get_mut(&conn.session) {
            ids.remove(&conn.id);
            if ids.is_empty() {
                self.sessions.remove(&conn.session);
            }
        }
        let (gone, held) =
            std::mem::take(&mut self.held).into_iter().partition(|p| p.conn.id == conn.id);
        self.held = held;
        let gone: Vec<Pending> = gone;
        gone.into_iter().for_each(|pending| self.let_go(pending));
        self.cancel_waits(conn);
    }

    /// Bytes that sessions may still fill: the least free space of the in-sync members, as
    /// pings carry it, less the reserve.
    pub fn space_left(&self) -> u64 {
        let facts = self.setup.gate.facts();
        if facts.total_bytes == 0 {
            // Not looked at yet.
            return 0;
        }
        let set = self.map.as_ref().map_or(0, |m| m.options.reserve_bytes);
        let least = facts.free_bytes.min(self.setup.gate.others_free());
        least.saturating_sub(reserve(set, facts.total_bytes))
    }
}

/// Bytes kept free: as set, or 1 % and at least 1 GiB, but never above 5 % of a small brick.
fn reserve(set: u64, total: u64) -> u64 {
    const GIB: u64 = 1 << 30;
    match set {
        0 => (total / 100).max(GIB).min(total / 20),
        bytes => bytes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_brick_keeps_a_twentieth_and_a_big_one_a_hundredth() {
        const GIB: u64 = 1 << 30;
        assert_eq!(reserve(0, 10 * GIB), GIB / 2);
        assert_eq!(reserve(0, 50 * GIB), GIB);
        assert_eq!(reserve(0, 1000 * GIB), 10 * GIB);
        assert_eq!(reserve(7, 1000 * GIB), 7);
    }
}
