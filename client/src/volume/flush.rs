//! Write-behind: what is buffered goes to the bricks.
//!
//! One task at a time flushes an inode, with several runs under way at once that never overlap:
//! bytes written again while they are under way wait in the buffer. Runs inside the file go in
//! any order. Of those that make it longer one is under way at a time, because the end of a
//! file is one thing; the one that reaches furthest goes first, so that the others then lie
//! inside and need not queue.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use proto::fop::{Call, LeaseKey, Write};
use proto::{Attr, Errno, SetId};

use super::node::{Behind, Node, State};
use super::{Volume, answer};
use crate::cache::extents::{Run, RunShape};
use crate::sync::lock;

/// Runs of one inode under way at once: enough for a deep queue of small direct writes.
const FLIGHT_RUNS_MAX: usize = 32;
/// Bytes of one inode under way at once.
const FLIGHT_BYTES_MAX: u64 = 8 << 20;
/// How often buffered bytes are looked at for their age.
const AGE_TICK: Duration = Duration::from_millis(250);

impl Volume {
    /// Flushes everything written to the inode so far; errors are kept for its open files.
    pub(super) async fn flush_node(&self, node: &Arc<Node>) {
        let mark = node.lock().behind.as_ref().map_or(0, |b| b.seq);
        self.flush_upto(node, mark).await;
    }

    /// Returns when every write up to `mark` is on the bricks or has failed.
    pub(super) async fn flush_upto(&self, node: &Arc<Node>, mark: u64) {
        loop {
            let progress = node.progress.notified();
            if node.lock().behind.as_ref().is_none_or(|b| b.is_done(mark)) {
                return;
            }
            self.want_flushed(node, mark);
            progress.await;
        }
    }

    /// Flushes all there is, of all inodes.
    pub async fn flush_all(&self) {
        let nodes: Vec<Arc<Node>> = lock(&self.dirty).values().cloned().collect();
        for node in &nodes {
            let mark = node.lock().behind().seq;
            self.want_flushed(node, mark);
        }
        for node in &nodes {
            self.flush_node(node).await;
        }
    }

    /// Buffered bytes of a set's inodes, those under way included.
    pub(super) fn buffered(&self, set: SetId) -> u64 {
        let nodes: Vec<Arc<Node>> = lock(&self.dirty).values().cloned().collect();
        let here = nodes.iter().filter(|node| self.below.set_of_inode(node.gfid) == set);
        here.map(|node| node.lock().behind.as_ref().map_or(0, |b| b.bytes())).sum()
    }

    pub(super) fn want_flushed(&self, node: &Arc<Node>, mark: u64) {
        let start = {
            let mut state = node.lock();
            let behind = state.behind();
            behind.wanted = behind.wanted.max(mark);
            !behind.flushing
        };
        if start {
            self.start_flusher(node);
        } else {
            node.more.notify_one();
        }
    }

    pub(super) fn start_flusher(&self, node: &Arc<Node>) {
        let already = std::mem::replace(&mut node.lock().behind().flushing, true);
        if !already {
            tokio::spawn(flusher(self.me(), node.clone()));
        }
    }

    async fn send(&self, node: &Arc<Node>, run: Run, inside: bool, kill_privileges: bool) {
        let set = self.below.set_of_inode(node.gfid);
        let before = self.before(set, LeaseKey::Inode(node.gfid));
        let write = Write {
            gfid: node.gfid,
            offset: run.offset,
            len: run.data.len() as u64,
            inside,
            sync: run.written.sync,
            kill_privileges,
            append: false,
        };
        let mut call = Call::new(write).with_payload(run.data.clone());
        call.stamp = run.written.stamp;
        let done = match self.call(call, Vec::new()).await {
            Ok(done) => answer!(done, Attr),
            Err(errno) => Err(errno),
        };
        let mut state = node.lock();
        self.landed(&mut state, &run);
        match done {
            Ok(attr) => {
                // The lease is ours until a recall has returned, even while it is recalled.
                let ours = state.recalling > 0 || self.exclusive(node.gfid);
                // Without known attributes the answer's own size would count, and it may be of
                // before another write that was under way beside this one.
                if ours && state.attr.is_some() && self.recalls_none_since(&before) {
                    let attr = own_size(&state, attr, &run, inside);
                    self.note(&mut state, attr);
                    // Also when a later write was answered first, and its times are kept.
                    state.grow_to(attr.size);
                    self.keep_written(&mut state, &attr, &run);
                } else {
                    self.drop_inode(&mut state);
                }
            }
            Err(errno) => self.failed(node, &mut state, errno),
        }
        drop(state);
        node.progress.notify_waiters();
    }

    fn landed(&self, state: &mut State, run: &Run) {
        let behind = state.behind();
        behind.flight.retain(|r| r.offset != run.offset);
        behind.flight_bytes -= run.data.len() as u64;
        self.dirty_bytes.fetch_sub(run.data.len() as u64, Ordering::Relaxed);
    }

    fn failed(&self, node: &Node, state: &mut State, errno: Errno) {
        self.drop_inode(state);
        // Bytes of a file that nobody can open any more are no loss.
        let gone = matches!(errno, Errno::ENOENT | Errno::ESTALE);
        if gone && state.orphan && state.opens == 0 {
            return;
        }
        tracing::warn!(gfid = %node.gfid, %errno, "buffered bytes are lost");
        state.fail(errno);
    }

    /// A small file that went out in one run can be read back without a trip.
    fn keep_written(&self, state: &mut State, attr: &Attr, run: &Run) {
        let small = run.data.len() <= self.config.data_along_max as usize;
        let whole = run.offset == 0 && run.end() == attr.size;
        if small && whole && !state.is_dirty() && state.attr.is_some_and(|a| a.stamp == attr.stamp)
        {
            self.keep_data(state, run.data.clone());
        }
    }

    /// Takes an inode without buffered bytes from the list.
    fn unlist(&self, node: &Node) {
        let mut dirty = lock(&self.dirty);
        if !node.lock().is_dirty() {
            dirty.remove(&node.gfid);
        }
    }
}

/// Writes of one file are under way together, and members execute them in any order: an
/// answer's size may lack what another one adds. Under the exclusive lease this mount knows
/// the size: only a write that is not inside the file moves it, and never down.
fn own_size(state: &State, mut attr: Attr, run: &Run, inside: bool) -> Attr {
    if let Some(known) = state.attr {
        attr.size = if inside { known.size } else { known.size.max(run.end()) };
    }
    attr
}

/// What may be sent next.
struct Next {
    run: Run,
    inside: bool,
    kill_privileges: bool,
}

async fn flusher(volume: Arc<Volume>, node: Arc<Node>) {
    let mut guard = Unfinished { volume: volume.clone(), node: node.clone(), cut_off: true };
    let mut under_way = FuturesUnordered::new();
    loop {
        let next = {
            let mut state = node.lock();
            let size = state.attr.map_or(0, |a| a.size);
            let pressed =
                volume.dirty_bytes.load(Ordering::Relaxed) > volume.config.dirty_total_max;
            let behind = state.behind();
            let next = next_run(behind, size, pressed);
            if next.is_none() && under_way.is_empty() {
                behind.flushing = false;
                break;
            }
            next
        };
        if let Some(next) = next {
            let (volume, node) = (&volume, &node);
            under_way.push(async move {
                volume.send(node, next.run, next.inside, next.kill_privileges).await;
            });
            continue;
        }
        tokio::select! {
            _ = under_way.next() => {}
            () = node.more.notified() => {}
        }
    }
    guard.cut_off = false;
}

/// What holds at the end of a flusher, also when its runtime is shut down under it: nothing is
/// under way any more, and what was is lost and said to be.
struct Unfinished {
    volume: Arc<Volume>,
    node: Arc<Node>,
    cut_off: bool,
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        // Without a cut the next flusher may have begun already.
        if self.cut_off {
            let mut state = self.node.lock();
            let behind = state.behind();
            behind.flushing = false;
            let lost = std::mem::take(&mut behind.flight_bytes);
            if !std::mem::take(&mut behind.flight).is_empty() {
                self.volume.dirty_bytes.fetch_sub(lost, Ordering::Relaxed);
                tracing::error!(gfid = %self.node.gfid, lost, "a flush was cut off");
                state.fail(Errno::EIO);
            }
        }
        self.volume.unlist(&self.node);
        self.node.progress.notify_waiters();
    }
}

/// Takes the next run that may go now: wanted by somebody or a full request, apart from all that
/// is under way.
fn next_run(behind: &mut Behind, size: u64, pressed: bool) -> Option<Next> {
    if behind.flight.len() >= FLIGHT_RUNS_MAX || behind.flight_bytes >= FLIGHT_BYTES_MAX {
        return None;
    }
    let flight = &behind.flight;
    let apart = |s: &RunShape| {
        !flight.iter().any(|f| f.offset < s.offset + s.len as u64 && s.offset < f.end())
    };
    let wanted = behind.wanted;
    let mut runs = behind.dirty.runs();
    runs.retain(|s| (s.seq <= wanted || s.full || pressed) && apart(s));
    let inside = |s: &&RunShape| s.offset + s.len as u64 <= size;
    let growing = flight.iter().any(|f| f.end() > size);
    let shape = match runs.iter().find(inside) {
        Some(shape) => *shape,
        None if growing => return None,
        None => *runs.last()?,
    };
    let run = behind.dirty.take(&shape)?;
    behind.flight_bytes += run.data.len() as u64;
    behind.flight.push(run.clone());
    let kill_privileges = std::mem::take(&mut behind.kill_privileges);
    Some(Next { inside: run.end() <= size, run, kill_privileges })
}

/// Flushes what has been buffered for too long, and gives memory back, until the volume ends.
pub(super) async fn age(volume: Weak<Volume>, age_max: Duration) {
    loop {
        tokio::time::sleep(AGE_TICK).await;
        let Some(volume) = volume.upgrade() else { return };
        let nodes: Vec<Arc<Node>> = lock(&volume.dirty).values().cloned().collect();
        let now = Instant::now();
        for node in nodes {
            let old = {
                let mut state = node.lock();
                let behind = state.behind();
                let since = behind.dirty.oldest_since();
                since.is_some_and(|s| now.duration_since(s) >= age_max).then_some(behind.seq)
            };
            if let Some(mark) = old {
                volume.want_flushed(&node, mark);
            }
        }
        volume.tidy(now);
    }
}

impl Volume {
    /// Gives memory of names and clean data back when there is too much of it.
    fn tidy(&self, now: Instant) {
        let names = self.names.load(Ordering::Relaxed) > self.config.names_max;
        let data = self.clean_bytes.load(Ordering::Relaxed) > self.config.clean_bytes_max / 4 * 3;
        if !names && !data {
            return;
        }
        let mut left = 0;
        for node in self.nodes.all() {
            let mut state = node.lock();
            if data && state.opens == 0 {
                self.drop_data(&mut state);
            }
            if let Some(known) = state.names.as_mut() {
                if names {
                    known.shrink(now);
                }
                left += known.len();
            }
        }
        self.names.store(left, Ordering::Relaxed);
    }
}
