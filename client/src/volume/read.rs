//! Reading: buffered bytes first, then what is remembered, then the bricks.

use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use proto::Errno;
use proto::fop::{LeaseKey, Mode, PAYLOAD_BYTES_MAX, Read};

use super::node::{Node, State};
use super::{File, Volume, answer, want_if_free};

/// Buffered bytes of a range as they were at one moment.
struct Overlay {
    /// Older pieces first: later ones lie on top.
    pieces: Vec<(u64, Bytes)>,
    /// End of the file, when known.
    size: Option<u64>,
}

impl Volume {
    /// Reads up to `len` bytes; fewer only at the end of the file. The pieces stand for the
    /// bytes in order.
    ///
    /// # Errors
    /// What the bricks answer.
    pub async fn read(&self, file: &File, offset: u64, len: u32) -> Result<Vec<Bytes>, Errno> {
        let node = &file.node;
        node.demand_unbroken()?;
        let len = len.min(PAYLOAD_BYTES_MAX as u32);
        if let Some(data) = self.cached_data(node) {
            return Ok(vec![cut(&data, 0, offset..offset.saturating_add(len.into()))]);
        }
        let overlay = {
            let state = node.lock();
            overlay(&state, offset..offset.saturating_add(len.into()))
        };
        if let Some(overlay) = overlay {
            return self.read_under(node, overlay, offset, len).await;
        }
        let writers = node.lock().writers > 0;
        if writers && !self.exclusive(node.gfid) && node.lock().recalling == 0 {
            // Pages of a mapping that may be written to are read under the lease that lets
            // them be written back.
            let set = self.below.set_of_inode(node.gfid);
            self.below.acquire(set, LeaseKey::Inode(node.gfid), Mode::Exclusive).await?;
        }
        if file.how.readahead && !writers {
            return self.read_ahead(file, offset, len).await;
        }
        Ok(vec![self.read_bricks(node, offset, len).await?])
    }

    /// Reads through buffered bytes.
    async fn read_under(
        &self,
        node: &Arc<Node>,
        overlay: Overlay,
        offset: u64,
        len: u32,
    ) -> Result<Vec<Bytes>, Errno> {
        let size = match overlay.size {
            Some(size) => size,
            None => self.attr_of(node).await?.size,
        };
        let end = offset.saturating_add(len.into()).min(size);
        if offset >= end {
            return Ok(Vec::new());
        }
        if let [(at, bytes)] = &overlay.pieces[..]
            && *at == offset
            && offset + bytes.len() as u64 >= end
        {
            return Ok(vec![bytes.slice(..(end - offset) as usize)]);
        }
        let mut image = BytesMut::zeroed((end - offset) as usize);
        if let Some(gap) = gap(&overlay.pieces, offset..end) {
            // What is under way lies in the pieces on top, whatever the brick says of it.
            let below = self.read_bricks(node, gap.start, (gap.end - gap.start) as u32).await?;
            let at = (gap.start - offset) as usize;
            image[at..at + below.len()].copy_from_slice(&below);
        }
        for (at, bytes) in &overlay.pieces {
            let piece = cut(bytes, *at, offset..end);
            let at = at.saturating_sub(offset) as usize;
            image[at..at + piece.len()].copy_from_slice(&piece);
        }
        Ok(vec![image.freeze()])
    }

    /// Reads from the bricks. The lease is asked for only if it is free: a page being read is
    /// locked in the kernel, and a recall of ours may wait for it.
    pub(super) async fn read_bricks(
        &self,
        node: &Node,
        offset: u64,
        len: u32,
    ) -> Result<Bytes, Errno> {
        let key = LeaseKey::Inode(node.gfid);
        let read = Read { gfid: node.gfid, offset, len };
        let done = self.ask(read, vec![want_if_free(key, Mode::Shared)]).await?;
        let data = done.payload.clone();
        answer!(done, Read)?;
        if data.len() > len as usize {
            tracing::error!(gfid = %node.gfid, "a brick sent more than asked for");
            return Err(Errno::EIO);
        }
        Ok(data)
    }

    /// Notes that the kernel may keep pages of the inode; true when those that it has from an
    /// earlier open are still right.
    pub fn note_pages(&self, file: &File) -> bool {
        let held = self.inode_held(file.gfid()).is_some();
        let mut state = file.node.lock();
        std::mem::replace(&mut state.pages, held) && held
    }
}

fn overlay(state: &State, range: Range<u64>) -> Option<Overlay> {
    let behind = state.behind.as_ref().filter(|b| !b.is_empty())?;
    let mut pieces: Vec<(u64, Bytes)> = Vec::new();
    for run in &behind.flight {
        let piece = cut(&run.data, run.offset, range.clone());
        if !piece.is_empty() {
            pieces.push((run.offset.max(range.start), piece));
        }
    }
    pieces.extend(behind.dirty.overlay(range));
    Some(Overlay { pieces, size: state.shown().map(|a| a.size) })
}

/// The part of `bytes`, which stand at `at`, that lies in `range`.
pub(super) fn cut(bytes: &Bytes, at: u64, range: Range<u64>) -> Bytes {
    let len = bytes.len() as u64;
    let from = range.start.saturating_sub(at).min(len);
    let to = range.end.saturating_sub(at).min(len);
    bytes.slice(from as usize..to.max(from) as usize)
}

/// The smallest range that holds all bytes of `range` which no piece covers.
fn gap(pieces: &[(u64, Bytes)], range: Range<u64>) -> Option<Range<u64>> {
    let mut covered: Vec<(u64, u64)> =
        pieces.iter().map(|(at, bytes)| (*at, at + bytes.len() as u64)).collect();
    covered.sort_unstable();
    let (mut at, mut gap) = (range.start, None::<Range<u64>>);
    let mut open = |from: u64, to: u64| {
        if from < to {
            let start = gap.as_ref().map_or(from, |g| g.start);
            gap = Some(start..to);
        }
    };
    for (from, to) in covered {
        open(at, from.min(range.end));
        at = at.max(to);
    }
    open(at, range.end);
    gap
}

#[cfg(test)]
mod unit {
    use super::*;

    fn piece(at: u64, len: usize) -> (u64, Bytes) {
        (at, Bytes::from(vec![1; len]))
    }

    #[test]
    fn gap_is_the_hull_of_what_is_not_covered() {
        assert_eq!(gap(&[], 5..10), Some(5..10));
        assert_eq!(gap(&[piece(5, 5)], 5..10), None);
        assert_eq!(gap(&[piece(6, 1), piece(8, 1)], 5..10), Some(5..10));
        assert_eq!(gap(&[piece(5, 2), piece(7, 1)], 5..10), Some(8..10));
        assert_eq!(gap(&[piece(7, 3), piece(6, 2)], 5..10), Some(5..6));
    }

    #[test]
    fn cut_keeps_to_both_ranges() {
        let bytes = Bytes::from_static(b"abcdef");
        assert_eq!(cut(&bytes, 10, 12..14), "cd");
        assert_eq!(cut(&bytes, 10, 0..12), "ab");
        assert_eq!(cut(&bytes, 10, 15..99), "f");
        assert_eq!(cut(&bytes, 10, 20..99), "");
    }
}
