//! The leases of one set: the rules' `LeaseCache` behind a short lock, with who uses what.
//!
//! Three things are kept beside the cache: how many operations use each lease right now (a
//! lease is given back only when none does), which keys are being asked for (a recall that
//! overtakes its grant waits for it), and what the session's task has to do next (`Todo`).

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use proto::fop::{Grant, LeaseKey, Mode, Recall, Under, Want};
use proto::{BrickId, Epoch, Gfid, Incarnation, LeaseNumber};
use proto_rules::Tick;
use proto_rules::lease::Lease;
use proto_rules::lease::cache::{LeaseCache, RecallAction};
use proto_rules::lease::table::Reclaimed;
use proto_rules::locks::Locks;
use proto_rules::time::{CONTENDED_ASK, MS, Nanos};
use tokio::sync::Notify;

use crate::layer::Held;
use crate::replicate::{Footing, Ground};
use crate::sync::lock;
use crate::{clock, transport::Counters};

/// Contended keys remembered before those that are over are forgotten.
const CONTENDED_MAX: usize = 1024;

/// What the session's task has to do, in order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Todo {
    GiveBack {
        lease: Lease,
        keep: Mode,
    },
    /// Tell the lead that nothing is held.
    Acknowledge {
        lease: Lease,
    },
    Lost(LeaseKey),
    Unpin(Gfid),
    /// There is a new lead.
    Reclaim,
    /// A lock of this inode is not held any more.
    LockLost(Gfid),
}

/// Operations that use a lease, and whether it has been lost under them.
#[derive(Default)]
struct Users {
    count: usize,
    lost: Arc<AtomicBool>,
}

#[derive(Default)]
pub(super) struct Inner {
    cache: LeaseCache,
    lead: Option<(BrickId, Incarnation)>,
    /// When `lead` became known: what it said before that, in an earlier life, counts no more.
    pub(super) lead_since: Tick,
    users: HashMap<LeaseKey, Users>,
    /// Nothing new begins, not even a write-back: the return waits for the last user.
    closing: HashSet<LeaseKey>,
    asking: HashMap<LeaseKey, usize>,
    /// Requests under way that may bring grants of inodes not known yet (what a lookup finds,
    /// what a create makes).
    asking_any: usize,
    /// Recalled, and not held: the grant may be on the way.
    early: HashSet<LeaseKey>,
    /// Other sessions have the inode open.
    pinned: HashSet<LeaseKey>,
    /// Open here.
    open: HashSet<Gfid>,
    /// The lead keeps a pin of ours.
    pinned_for_us: HashSet<Gfid>,
    /// Advisory locks that the lead has granted.
    pub(super) locks: Locks,
    pub(super) todo: Vec<Todo>,
    /// Keys whose changes the lead executes, and until when they are sent without a wish.
    contended: HashMap<LeaseKey, Tick>,
}

pub(super) struct Leases {
    inner: Mutex<Inner>,
    /// Something changed for those who wait for a lease or for its users.
    changed: Notify,
    /// There is something to do.
    work: Notify,
    counters: Arc<Counters>,
}

/// What stands between a wish and its lease.
pub(super) enum Gap {
    None,
    /// Ask the lead for these.
    Ask(Vec<Want>),
    /// A return, a recall or a reclaim is under way.
    Wait,
}

impl Leases {
    pub(super) fn new(counters: Arc<Counters>) -> Arc<Leases> {
        let (changed, work) = (Notify::new(), Notify::new());
        Arc::new(Leases { inner: Mutex::default(), changed, work, counters })
    }

    pub(super) fn with<T>(&self, change: impl FnOnce(&mut Inner, Tick) -> T) -> T {
        let mut inner = lock(&self.inner);
        let result = change(&mut inner, clock::now());
        let lapsed = inner.cache.take_lapsed();
        if !lapsed.is_empty() {
            self.lose(&mut inner, lapsed);
        }
        let work = !inner.todo.is_empty();
        drop(inner);
        self.changed.notify_waiters();
        if work {
            self.work.notify_one();
        }
        result
    }

    /// Runs until something changes that a waiter may care about. Created before the check.
    pub(super) fn changed(&self) -> tokio::sync::futures::Notified<'_> {
        self.changed.notified()
    }

    /// The next things to do; waits for some.
    pub(super) async fn work(&self) -> Vec<Todo> {
        loop {
            let todo = std::mem::take(&mut lock(&self.inner).todo);
            if !todo.is_empty() {
                return todo;
            }
            self.work.notified().await;
        }
    }

    /// A new map, before anybody sends anything by it.
    pub(super) fn on_map(&self, epoch: Epoch, lead: (BrickId, Incarnation)) {
        self.with(|inner, now| {
            let lapsed = inner.cache.on_map(epoch, lead);
            let before = inner.lead.replace(lead);
            if before.is_some_and(|before| before != lead) {
                inner.lead_since = now;
                inner.todo.push(Todo::Reclaim);
            }
            self.lose(inner, lapsed);
        });
    }

    fn lose(&self, inner: &mut Inner, keys: Vec<LeaseKey>) {
        for key in keys {
            Counters::add(&self.counters.leases_lost);
            inner.pinned.remove(&key);
            inner.closing.remove(&key);
            if let Some(users) = inner.users.remove(&key) {
                users.lost.store(true, Relaxed);
            }
            inner.todo.push(Todo::Lost(key));
        }
    }

    /// Grants that came with an answer of `from` to a request sent at `sent`.
    pub(super) fn granted(&self, from: BrickId, sent: Tick, grants: &[Grant]) {
        if grants.is_empty() {
            return;
        }
        self.with(|inner, _| {
            if !inner.is_lead(from) || sent < inner.lead_since {
                return;
            }
            for grant in grants {
                self.grant(inner, sent, grant);
            }
        });
    }

    fn grant(&self, inner: &mut Inner, sent: Tick, grant: &Grant) {
        let key = LeaseKey::from(grant.key);
        let mode = Mode::try_from(grant.mode).unwrap_or(Mode::None);
        if mode == Mode::None {
            return;
        }
        let lease = Lease { key, mode, number: grant.number };
        tracing::trace!(?lease, old = ?inner.cache.lease(key), "granted");
        if let Some(old) = inner.cache.lease(key) {
            let newer = old.number < lease.number;
            if newer && old.mode == Mode::Exclusive && !inner.closing.contains(&key) {
                // The lead ended the old one without our knowing.
                inner.cache.lost(key, old.number);
                self.lose(inner, vec![key]);
            }
            if newer {
                inner.closing.remove(&key);
            }
        }
        let action = inner.cache.on_granted(sent, term(grant.term_ms), lease);
        if grant.pinned {
            inner.pinned.insert(key);
        } else {
            inner.pinned.remove(&key);
        }
        inner.todo.extend(action.and_then(todo));
    }

    /// A recall was pushed by `from`.
    pub(super) fn recalled(&self, from: BrickId, recall: Recall) {
        let key = LeaseKey::from(recall.key);
        let keep = Mode::try_from(recall.keep).unwrap_or(Mode::None);
        // Its mode does not matter: the number names it.
        let lease = Lease { key, mode: Mode::Shared, number: recall.number };
        self.with(|inner, _| {
            if !inner.is_lead(from) {
                return;
            }
            let action = inner.cache.on_recall(lease, keep);
            tracing::debug!(?key, number = ?recall.number, ?keep, ?action, "recalled");
            inner.todo.extend(todo(action));
            if action == RecallAction::Wait {
                inner.early.insert(key);
                inner.answer_early();
            }
        });
    }

    /// The answer to a renewal sent at `sent`.
    pub(super) fn renewed(&self, from: BrickId, sent: Tick, term_ms: u32, overdue: &[LeaseKey]) {
        self.with(|inner, _| {
            if !inner.is_lead(from) || sent < inner.lead_since {
                return;
            }
            if !overdue.is_empty() {
                tracing::debug!(?overdue, "overdue");
            }
            for action in inner.cache.on_renewed(sent, term(term_ms), overdue) {
                inner.todo.extend(todo(action));
            }
        });
    }

    /// The lead does not know the session: everything is gone. False if it is not the lead.
    pub(super) fn unknown_at(&self, brick: BrickId) -> bool {
        self.with(|inner, now| {
            if !inner.is_lead(brick) {
                return false;
            }
            inner.lead_since = now;
            let keys = inner.cache.lose_all();
            self.lose(inner, keys);
            inner.pinned_for_us.clear();
            inner.lose_locks();
            true
        })
    }

    /// The lead would rather execute changes of these than lease the keys.
    pub(super) fn note_contended(&self, keys: &[LeaseKey]) {
        let mut inner = lock(&self.inner);
        let now = clock::now();
        if inner.contended.len() + keys.len() > CONTENDED_MAX {
            inner.contended.retain(|_, until| *until > now);
            if inner.contended.len() + keys.len() > CONTENDED_MAX {
                // They are wished for again: a trip more each time.
                return;
            }
        }
        let until = now.after(CONTENDED_ASK);
        inner.contended.extend(keys.iter().map(|key| (*key, until)));
    }

    /// The lead says that this mount holds one of them, or gives it back just now.
    pub(super) fn forget_contended(&self, keys: &[LeaseKey]) {
        let mut inner = lock(&self.inner);
        keys.iter().for_each(|key| {
            inner.contended.remove(key);
        });
    }

    /// Whether a change of these goes to the lead, to be executed there: one of them is contended
    /// and not held.
    pub(super) fn are_contended(&self, keys: &[LeaseKey]) -> bool {
        let inner = lock(&self.inner);
        let now = clock::now();
        let exclusive = |key: &LeaseKey| inner.cache.may_begin(now, *key, Mode::Exclusive);
        let fought = |key: &LeaseKey| inner.contended.get(key).is_some_and(|until| now < *until);
        keys.iter().any(|key| fought(key) && exclusive(key).is_none())
    }

    pub(super) fn held(&self, key: LeaseKey) -> Option<Held> {
        let inner = lock(&self.inner);
        let now = clock::now();
        let exclusive = inner.cache.may_begin(now, key, Mode::Exclusive);
        exclusive.or_else(|| inner.cache.may_begin(now, key, Mode::Shared))?;
        let mode = if exclusive.is_some() { Mode::Exclusive } else { Mode::Shared };
        let until = clock::instant(now.after(inner.cache.rest(now, key)), now);
        Some(Held { mode, until, pinned: inner.pinned.contains(&key) })
    }

    /// Uses a lease if nothing stands in the way.
    pub(super) fn hold(self: &Arc<Self>, key: LeaseKey, mode: Mode) -> Option<Hold> {
        self.take(&[key], mode, false).ok()
    }

    /// All of them or none. `buffered`: for writing back, which a recalled lease still allows.
    pub(super) fn take(
        self: &Arc<Self>,
        keys: &[LeaseKey],
        mode: Mode,
        buffered: bool,
    ) -> Result<Hold, Gap> {
        let mut inner = lock(&self.inner);
        let now = clock::now();
        match inner.gap(now, keys, mode, buffered) {
            Gap::None => {}
            gap => return Err(gap),
        }
        let mut used = Vec::with_capacity(keys.len());
        for key in keys {
            let number = inner.cache.lease(*key).map_or(LeaseNumber::NONE, |l| l.number);
            let users = inner.users.entry(*key).or_default();
            users.count += 1;
            used.push(Used { key: *key, number, lost: users.lost.clone() });
        }
        Ok(Hold { leases: self.clone(), used })
    }

    /// Marks keys as being asked for, until the guard drops. `finds`: the answer may also
    /// grant leases of inodes that only it names.
    pub(super) fn ask(self: &Arc<Self>, wants: &[Want], finds: bool) -> Asking {
        let keys: Vec<LeaseKey> = wants.iter().map(|w| w.key.into()).collect();
        let any = finds || keys.iter().any(|key| key.gfid().is_nil());
        let mut inner = lock(&self.inner);
        for key in &keys {
            *inner.asking.entry(*key).or_default() += 1;
        }
        inner.asking_any += usize::from(any);
        drop(inner);
        Asking { leases: self.clone(), keys, any }
    }

    /// Wishes of a request that need a word with the lead: not those held already, nor those
    /// that must not be asked for now.
    pub(super) fn worth_asking(&self, wants: &mut Vec<Want>) {
        let inner = lock(&self.inner);
        let now = clock::now();
        wants.retain(|want| {
            let key = LeaseKey::from(want.key);
            let mode = Mode::try_from(want.mode).unwrap_or(Mode::None);
            inner.cache.may_ask(key) && inner.cache.may_begin(now, key, mode).is_none()
        });
    }

    /// Wishes for all of these that may be asked for, held or not.
    pub(super) fn wants(&self, keys: &[LeaseKey]) -> Vec<Want> {
        let inner = lock(&self.inner);
        let keys = keys.iter().filter(|key| inner.cache.may_ask(**key));
        keys.map(|key| inner.want(*key, Mode::Exclusive)).collect()
    }

    /// Whether buffered data under these is not lost (though it may have to wait).
    pub(super) fn still_ours(&self, keys: &[LeaseKey]) -> bool {
        let inner = lock(&self.inner);
        keys.iter().all(|k| inner.cache.lease(*k).is_some_and(|l| l.mode == Mode::Exclusive))
    }

    pub(super) fn is_pinned(&self, key: LeaseKey) -> bool {
        lock(&self.inner).pinned.contains(&key)
    }

    pub(super) fn is_open(&self, gfid: Gfid) -> bool {
        lock(&self.inner).open.contains(&gfid)
    }

    pub(super) fn set_open(&self, gfid: Gfid, open: bool) {
        self.with(|inner, _| {
            if open {
                inner.open.insert(gfid);
                inner.cache.opened(gfid);
            } else {
                inner.open.remove(&gfid);
                inner.cache.closed(gfid);
                if inner.pinned_for_us.remove(&gfid) {
                    inner.todo.push(Todo::Unpin(gfid));
                }
            }
        });
    }

    /// No new user, not even for writing back.
    pub(super) fn close(&self, key: LeaseKey) {
        self.with(|inner, _| inner.closing.insert(key));
    }

    /// Once nobody uses the lease: what to return. `Err`: somebody does, `changed` tells when
    /// to ask again. `Ok(None)`: it is gone.
    pub(super) fn returning(&self, lease: Lease, keep: Mode) -> Result<Option<bool>, ()> {
        let mut inner = lock(&self.inner);
        let key = lease.key;
        if inner.cache.lease(key).is_none_or(|l| l.number != lease.number) {
            inner.closing.remove(&key);
            return Ok(None);
        }
        if inner.users.get(&key).is_some_and(|u| u.count > 0) {
            return Err(());
        }
        let returned = inner.cache.returning(key, keep);
        let open = returned.is_some_and(|(_, _, open)| open);
        if open {
            inner.pinned_for_us.insert(key.gfid());
        }
        Ok(returned.map(|_| open))
    }

    pub(super) fn returned(&self, lease: Lease) {
        self.with(|inner, _| {
            let action = inner.cache.on_returned(lease);
            inner.closing.remove(&lease.key);
            inner.todo.extend(action.and_then(todo));
        });
    }

    /// Claims for a new lead, and since when it is that.
    pub(super) fn claims(&self) -> (Tick, Vec<Want>) {
        let inner = lock(&self.inner);
        let (leases, pins) = inner.cache.reclaims();
        let leases = leases.iter().map(|l| Want {
            reclaim: Some(l.number),
            last_renewed_epoch: l.last_renewed_epoch.0,
            ..inner.want(l.key, Mode::Exclusive)
        });
        // A pin is no lease: it asks for none.
        let pins = pins.iter().map(|gfid| inner.want(LeaseKey::Inode(*gfid), Mode::None));
        (inner.lead_since, leases.chain(pins).collect())
    }

    /// The new lead's answer to `claims` sent at `sent`.
    pub(super) fn reclaimed(&self, from: BrickId, sent: Tick, claims: &[Want], grants: &[Grant]) {
        self.with(|inner, _| {
            if !inner.is_lead(from) || sent < inner.lead_since {
                return;
            }
            let granted: Vec<Lease> = grants
                .iter()
                .map(|g| Lease { key: g.key.into(), mode: Mode::Exclusive, number: g.number })
                .collect();
            let refused = claims
                .iter()
                .filter(|c| c.mode == Mode::Exclusive as i32)
                .map(|c| LeaseKey::from(c.key))
                .filter(|key| granted.iter().all(|g| g.key != *key))
                .collect();
            let term_ms = grants.iter().map(|g| g.term_ms).min().unwrap_or(0);
            let lost =
                inner.cache.on_reclaimed(sent, term(term_ms), &Reclaimed { granted, refused });
            for claim in claims.iter().filter(|c| c.open) {
                inner.pinned_for_us.insert(claim.key.gfid);
            }
            self.lose(inner, lost);
        });
    }

    /// Nothing more is claimed from the lead of that time: what it did not grant is lost.
    pub(super) fn not_reclaimed(&self, lead_since: Tick) {
        self.with(|inner, _| {
            if inner.lead_since != lead_since {
                return;
            }
            let lost = inner.cache.lose_unreclaimed();
            self.lose(inner, lost);
        });
    }

    /// The session ends: everything that is held, to be given back.
    pub(super) fn give_up(&self) -> Vec<Lease> {
        self.with(|inner, _| {
            let held: Vec<Lease> = inner.cache.leases().collect();
            inner.cache.lose_all();
            held
        })
    }
}

impl Inner {
    fn is_lead(&self, brick: BrickId) -> bool {
        self.lead.is_some_and(|(lead, _)| lead == brick)
    }

    /// Recalls whose grant cannot be on the way any more are answered: nothing is held.
    fn answer_early(&mut self) {
        if self.asking_any > 0 {
            return;
        }
        let Inner { early, asking, cache, todo: list, .. } = self;
        early.retain(|key| {
            if asking.contains_key(key) {
                return true;
            }
            list.extend(cache.no_grant_coming(*key).and_then(todo));
            false
        });
    }

    fn want(&self, key: LeaseKey, mode: Mode) -> Want {
        let open = self.open.contains(&key.gfid());
        Want { key: key.into(), mode: mode as i32, open, ..Want::default() }
    }

    fn gap(&self, now: Tick, keys: &[LeaseKey], mode: Mode, buffered: bool) -> Gap {
        let mut wants = Vec::new();
        for key in keys {
            let usable = match buffered {
                true => self.cache.valid(now, *key, mode),
                false => self.cache.may_begin(now, *key, mode),
            };
            let closing = self.closing.contains(key);
            if usable.is_some() && !closing {
                continue;
            }
            // Held, not run out, and yet not to be begun under: it is being recalled.
            let recalled = self.cache.valid(now, *key, mode).is_some();
            if closing || recalled || !self.cache.may_ask(*key) {
                return Gap::Wait;
            }
            wants.push(self.want(*key, mode));
        }
        if wants.is_empty() { Gap::None } else { Gap::Ask(wants) }
    }
}

fn term(term_ms: u32) -> Nanos {
    u64::from(term_ms) * MS
}

fn todo(action: RecallAction) -> Option<Todo> {
    match action {
        RecallAction::GiveBack { lease, keep } => Some(Todo::GiveBack { lease, keep }),
        RecallAction::NotHeld { lease } => Some(Todo::Acknowledge { lease }),
        RecallAction::Wait => None,
    }
}

struct Used {
    key: LeaseKey,
    number: LeaseNumber,
    lost: Arc<AtomicBool>,
}

/// What the lead executes is made under no lease of the session's: it is sent to whoever leads.
pub(super) struct NoLease;

impl Footing for NoLease {
    fn ground(&self) -> Ground {
        Ground::Firm(Vec::new())
    }
}

/// Leases in use: not given back while this lives.
pub(super) struct Hold {
    leases: Arc<Leases>,
    used: Vec<Used>,
}

impl Hold {
    pub(super) fn under(&self) -> Vec<Under> {
        self.used.iter().map(|u| Under { key: u.key.into(), number: u.number }).collect()
    }
}

impl Footing for Hold {
    fn ground(&self) -> Ground {
        let inner = lock(&self.leases.inner);
        let mut under = Vec::with_capacity(self.used.len());
        for used in &self.used {
            let lease = inner.cache.lease(used.key);
            let Some(lease) = lease.filter(|_| !used.lost.load(Relaxed)) else {
                return Ground::Gone;
            };
            if !inner.cache.may_ask(used.key) {
                return Ground::Waiting;
            }
            under.push(Under { key: used.key.into(), number: lease.number });
        }
        Ground::Firm(under)
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut inner = lock(&self.leases.inner);
        for used in &self.used {
            let Some(users) = inner.users.get_mut(&used.key) else { continue };
            // Lost and taken anew meanwhile: those are other users.
            if !Arc::ptr_eq(&users.lost, &used.lost) {
                continue;
            }
            users.count -= 1;
            if users.count == 0 {
                inner.users.remove(&used.key);
            }
        }
        drop(inner);
        self.leases.changed.notify_waiters();
    }
}

/// Keys being asked for.
pub(super) struct Asking {
    leases: Arc<Leases>,
    keys: Vec<LeaseKey>,
    any: bool,
}

impl Drop for Asking {
    fn drop(&mut self) {
        if self.keys.is_empty() && !self.any {
            return;
        }
        self.leases.with(|inner, _| {
            inner.asking_any -= usize::from(self.any);
            for key in &self.keys {
                let Some(count) = inner.asking.get_mut(key) else { continue };
                *count -= 1;
                if *count == 0 {
                    inner.asking.remove(key);
                }
            }
            inner.answer_early();
        });
    }
}
