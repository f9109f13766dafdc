//! Writing: into the buffer, under the exclusive lease.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use bytes::Bytes;
use proto::fop::{Call, FILE_BYTES_MAX, LeaseKey, Mode, Write};
use proto::{Attr, Errno};

use super::node::{Node, State};
use super::{File, Volume, answer};
use crate::cache::extents::{RUN_BYTES_MAX, Written};
use crate::sync::lock;

/// Buffered bytes of an inode from which on full requests go out while the writer writes on.
const STREAM_BYTES: u64 = 2 * RUN_BYTES_MAX as u64;
/// Bits that a write by somebody without the right to keep them takes away.
const PRIVILEGES: u32 = libc::S_ISUID | libc::S_ISGID;

/// A write's circumstances beyond place and bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct WriteHow {
    /// Dirty pages of a mapping: any lease will do that guarded them, even one on its way back.
    pub from_mapping: bool,
    /// Drop set-user-id and set-group-id bits.
    pub kill_privileges: bool,
    /// The descriptor appends now, whatever it did when it was opened.
    pub append: bool,
}

impl Volume {
    /// Writes; `offset` is ignored by an appending file, whose bytes go to the end of the file
    /// as it is under the exclusive lease. Answers the position after the last byte.
    ///
    /// # Errors
    /// EFBIG, ENOSPC before a byte is buffered, what a lease costs, and for synchronous files
    /// what the bricks answer.
    pub async fn write(
        &self,
        file: &File,
        offset: u64,
        data: Bytes,
        how: WriteHow,
    ) -> Result<u64, Errno> {
        if data.is_empty() {
            return Ok(offset);
        }
        let node = &file.node;
        node.demand_unbroken()?;
        let append = (file.how.append || how.append) && !how.from_mapping;
        let (end, mark, trouble) = loop {
            if let Some(put) = self.buffer(file, offset, data.clone(), how, append).await? {
                break put;
            }
            match self.write_at_lead(file, offset, data.clone(), how, append).await {
                // Not executed: this mount has got the lease meanwhile.
                Err(Errno::EAGAIN) => {}
                done => return done,
            }
        };
        let through = !self.config.write_behind || file.how.sync || file.how.direct;
        if (through && !how.from_mapping) || how.kill_privileges {
            self.flush_upto(node, mark).await;
            let now = node.lock().trouble;
            if now.count != trouble {
                file.take_trouble()?;
                return Err(now.errno.unwrap_or(Errno::EIO));
            }
            return Ok(end);
        }
        if !how.from_mapping {
            self.wait_for_room(node).await;
        }
        Ok(end)
    }

    /// The inode is contended: the lead executes the write, and it is on all members when this
    /// returns. Nothing of it is remembered here, where no lease guards it.
    async fn write_at_lead(
        &self,
        file: &File,
        offset: u64,
        data: Bytes,
        how: WriteHow,
        append: bool,
    ) -> Result<u64, Errno> {
        let node = &file.node;
        // What was buffered here went out with the lease, unless somebody has just got it again.
        self.flush_node(node).await;
        let len = data.len() as u64;
        let end = offset.checked_add(len).filter(|end| *end <= FILE_BYTES_MAX);
        let end = if append { len } else { end.ok_or(Errno::EFBIG)? };
        let write = Write {
            gfid: node.gfid,
            offset: if append { 0 } else { offset },
            len,
            inside: false,
            sync: file.how.sync,
            kill_privileges: how.kill_privileges,
            append,
        };
        let done = self.call(Call::new(write).with_payload(data), Vec::new()).await;
        self.drop_inode(&mut node.lock());
        let attr = answer!(done?, Attr)?;
        Ok(if append { attr.size } else { end })
    }

    /// Puts the bytes into the buffer. Answers their end, the write's number, and how many
    /// flushes had failed before; `None` when the lead shall execute the write.
    async fn buffer(
        &self,
        file: &File,
        offset: u64,
        data: Bytes,
        how: WriteHow,
        append: bool,
    ) -> Result<Option<(u64, u64, u64)>, Errno> {
        let node = &file.node;
        let set = self.below.set_of_inode(node.gfid);
        let key = LeaseKey::Inode(node.gfid);
        let needed = needed(node, (!append).then_some(offset), data.len() as u64);
        if !self.below.take_space(set, needed) {
            self.below.wait_for_space(set, needed).await?;
        }
        loop {
            // Also after a wait for the lease, in which the session may have been taken for dead.
            node.demand_unbroken()?;
            let guard = self.below.hold(set, key, Mode::Exclusive);
            if guard.is_none() && !(how.from_mapping && node.lock().recalling > 0) {
                // Only a recall that is writing mapped pages back takes bytes without.
                let held = self.below.acquire_to_change(set, key).await?;
                if held.is_none() {
                    return Ok(None);
                }
                continue;
            }
            let put = self.put_at(node, (!append).then_some(offset), &data, file.how.sync, how);
            drop(guard);
            match put? {
                Some(put) => {
                    self.note_dirty(node);
                    return Ok(Some(put));
                }
                None => self.fetch_attr(node).await.map(|_| ())?,
            }
        }
    }

    /// Puts bytes at `offset`, or at the end of the file; `None` when that is not known.
    fn put_at(
        &self,
        node: &Node,
        offset: Option<u64>,
        data: &Bytes,
        sync: bool,
        how: WriteHow,
    ) -> Result<Option<(u64, u64, u64)>, Errno> {
        let mut state = node.lock();
        let Some(at) = offset.or_else(|| state.shown().map(|a| a.size)) else { return Ok(None) };
        let end = at.checked_add(data.len() as u64).filter(|e| *e <= FILE_BYTES_MAX);
        let end = end.ok_or(Errno::EFBIG)?;
        let trouble = state.trouble.count;
        let mark = self.put(&mut state, at, data.clone(), sync, how.kill_privileges);
        Ok(Some((end, mark, trouble)))
    }

    fn put(&self, state: &mut State, at: u64, data: Bytes, sync: bool, kill: bool) -> u64 {
        self.drop_data(state);
        let stamp = self.below.stamp();
        let kill = kill && state.attr.is_none_or(|a: Attr| a.mode & PRIVILEGES != 0);
        let behind = state.behind();
        let before = behind.dirty.bytes();
        behind.seq += 1;
        behind.stamp = behind.stamp.max(stamp);
        behind.kill_privileges |= kill;
        let written = Written { seq: behind.seq, since: Instant::now(), stamp, sync };
        behind.dirty.insert(at, data, written);
        let added = behind.dirty.bytes() - before;
        self.dirty_bytes.fetch_add(added, Ordering::Relaxed);
        behind.seq
    }

    /// Lists the inode for flushing by age, and starts to flush full requests of a stream.
    fn note_dirty(&self, node: &Arc<Node>) {
        let start = {
            let mut state = node.lock();
            let behind = state.behind();
            let stream = behind.dirty.bytes() >= STREAM_BYTES;
            if stream && behind.flushing {
                node.more.notify_one();
            }
            stream && !behind.flushing
        };
        lock(&self.dirty).entry(node.gfid).or_insert_with(|| node.clone());
        if start {
            self.start_flusher(node);
        }
    }

    /// Holds a writer back while too much is buffered.
    async fn wait_for_room(&self, node: &Arc<Node>) {
        loop {
            let done = node.progress.notified();
            let mark = {
                let mut state = node.lock();
                let behind = state.behind();
                let total = self.dirty_bytes.load(Ordering::Relaxed);
                let own = behind.bytes();
                let over = own > self.config.dirty_inode_max
                    || (total > self.config.dirty_total_max && own > 0);
                if !over {
                    return;
                }
                behind.seq
            };
            self.want_flushed(node, mark);
            done.await;
        }
    }
}

/// Space that a write takes at most: none where the file has its blocks already.
fn needed(node: &Node, offset: Option<u64>, len: u64) -> u64 {
    let state = node.lock();
    let end = offset.and_then(|at| at.checked_add(len));
    let dense = |attr: &Attr, end: u64| end <= attr.size && attr.size.div_ceil(512) <= attr.blocks;
    match (state.attr, end) {
        (Some(attr), Some(end)) if dense(&attr, end) => 0,
        _ => len,
    }
}
