//! Bytes written and not yet flushed: extents that do not overlap, newest bytes win.
//!
//! Small writes are copied into growing extents, so that a file written in small pieces goes out
//! in few requests. Large ones are kept as they came.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use proto::Stamp;

/// From this size on a write's own buffer is kept instead of copied: below it the copy costs
/// less than a buffer of a whole request kept from its pool.
pub const KEEP_BYTES_MIN: usize = 64 << 10;
/// Most bytes of one request to the bricks.
pub const RUN_BYTES_MAX: usize = 1 << 20;

/// What is known about when and how bytes were written.
#[derive(Clone, Copy, Debug)]
pub struct Written {
    /// Counts the writes of an inode; of an extent that of its oldest bytes.
    pub seq: u64,
    /// When the oldest bytes came.
    pub since: Instant,
    /// Time stamp of the newest bytes.
    pub stamp: Stamp,
    /// To be on stable storage when flushed.
    pub sync: bool,
}

impl Written {
    fn join(&mut self, other: &Written) {
        self.seq = self.seq.min(other.seq);
        self.since = self.since.min(other.since);
        self.stamp = self.stamp.max(other.stamp);
        self.sync |= other.sync;
    }
}

#[derive(Debug)]
enum Piece {
    Fixed(Bytes),
    Growing(BytesMut),
}

impl Piece {
    fn len(&self) -> usize {
        match self {
            Piece::Fixed(bytes) => bytes.len(),
            Piece::Growing(bytes) => bytes.len(),
        }
    }

    fn freeze(self) -> Bytes {
        match self {
            Piece::Fixed(bytes) => bytes,
            Piece::Growing(bytes) => bytes.freeze(),
        }
    }

    fn slice(&self, range: Range<usize>) -> Bytes {
        match self {
            Piece::Fixed(bytes) => bytes.slice(range),
            Piece::Growing(bytes) => Bytes::copy_from_slice(&bytes[range]),
        }
    }
}

#[derive(Debug)]
struct Extent {
    piece: Piece,
    written: Written,
}

/// A contiguous piece taken out to be sent in one request.
#[derive(Clone, Debug)]
pub struct Run {
    pub offset: u64,
    pub data: Bytes,
    pub written: Written,
}

impl Run {
    pub fn end(&self) -> u64 {
        self.offset + self.data.len() as u64
    }
}

/// The unflushed bytes of one inode.
#[derive(Debug, Default)]
pub struct Extents {
    map: BTreeMap<u64, Extent>,
    bytes: u64,
}

impl Extents {
    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Position after the last byte; 0 when empty.
    pub fn end(&self) -> u64 {
        self.map.last_key_value().map_or(0, |(start, e)| start + e.piece.len() as u64)
    }

    /// The smallest write number of any byte here.
    pub fn oldest_seq(&self) -> Option<u64> {
        self.map.values().map(|e| e.written.seq).min()
    }

    pub fn oldest_since(&self) -> Option<Instant> {
        self.map.values().map(|e| e.written.since).min()
    }

    /// Puts bytes in, over what was there.
    pub fn insert(&mut self, mut offset: u64, mut data: Bytes, written: Written) {
        while data.len() > RUN_BYTES_MAX {
            self.insert_run(offset, data.split_to(RUN_BYTES_MAX), written);
            offset += RUN_BYTES_MAX as u64;
        }
        if !data.is_empty() {
            self.insert_run(offset, data, written);
        }
    }

    fn insert_run(&mut self, offset: u64, data: Bytes, written: Written) {
        if self.overwrite_in_place(offset, &data, &written) {
            return;
        }
        self.carve(offset, offset + data.len() as u64);
        if self.append(offset, &data, &written) {
            return;
        }
        self.bytes += data.len() as u64;
        let piece = if data.len() >= KEEP_BYTES_MIN {
            Piece::Fixed(data)
        } else {
            Piece::Growing(BytesMut::from(&data[..]))
        };
        self.map.insert(offset, Extent { piece, written });
    }

    /// A page of a growing extent written once more costs no split.
    fn overwrite_in_place(&mut self, offset: u64, data: &Bytes, written: &Written) -> bool {
        let Some((start, extent)) = self.map.range_mut(..=offset).next_back() else { return false };
        let Piece::Growing(bytes) = &mut extent.piece else { return false };
        let at = (offset - start) as usize;
        let Some(place) = bytes.get_mut(at..).and_then(|rest| rest.get_mut(..data.len())) else {
            return false;
        };
        place.copy_from_slice(data);
        extent.written.join(written);
        true
    }

    fn append(&mut self, offset: u64, data: &Bytes, written: &Written) -> bool {
        if data.len() >= KEEP_BYTES_MIN {
            return false;
        }
        let Some((start, extent)) = self.map.range_mut(..offset).next_back() else { return false };
        let Piece::Growing(bytes) = &mut extent.piece else { return false };
        if start + bytes.len() as u64 != offset || bytes.len() + data.len() > RUN_BYTES_MAX {
            return false;
        }
        bytes.extend_from_slice(data);
        extent.written.join(written);
        self.bytes += data.len() as u64;
        true
    }

    /// Removes what lies in `start..end`, splitting extents that reach over its borders.
    fn carve(&mut self, start: u64, end: u64) {
        if let Some((&at, extent)) = self.map.range(..start).next_back()
            && at + extent.piece.len() as u64 > start
        {
            let (rest, written) = self.cut(at);
            let left = (start - at) as usize;
            self.put(at, rest.slice(..left), written);
            // What reaches over the start is carved with the rest below.
            self.put(start, rest.slice(left..), written);
        }
        while let Some((&at, _)) = self.map.range(start..end).next() {
            let (rest, written) = self.cut(at);
            if at + rest.len() as u64 > end {
                self.put(end, rest.slice((end - at) as usize..), written);
            }
        }
    }

    fn cut(&mut self, at: u64) -> (Bytes, Written) {
        let extent = self.map.remove(&at).expect("the caller has just found it");
        self.bytes -= extent.piece.len() as u64;
        (extent.piece.freeze(), extent.written)
    }

    fn put(&mut self, at: u64, bytes: Bytes, written: Written) {
        self.bytes += bytes.len() as u64;
        self.map.insert(at, Extent { piece: Piece::Fixed(bytes), written });
    }

    /// The pieces that lie in `range`, in order, cut to it.
    pub fn overlay(&self, range: Range<u64>) -> Vec<(u64, Bytes)> {
        let first = match self.map.range(..range.start).next_back() {
            Some((s, e)) if s + e.piece.len() as u64 > range.start => *s,
            _ => range.start,
        };
        self.map
            .range(first..range.end)
            .map(|(&at, extent)| {
                let from = range.start.max(at);
                let to = range.end.min(at + extent.piece.len() as u64);
                (from, extent.piece.slice((from - at) as usize..(to - at) as usize))
            })
            .collect()
    }

    /// Starts of contiguous runs with their lengths (each at most `RUN_BYTES_MAX`) and oldest
    /// write numbers, ascending.
    pub fn runs(&self) -> Vec<RunShape> {
        let mut runs: Vec<RunShape> = Vec::new();
        for (&at, extent) in &self.map {
            let len = extent.piece.len();
            match runs.last_mut() {
                Some(run)
                    if run.offset + run.len as u64 == at && run.len + len <= RUN_BYTES_MAX =>
                {
                    run.len += len;
                    run.seq = run.seq.min(extent.written.seq);
                    // What follows directly shows that this run will not grow any more.
                }
                last => {
                    if let Some(run) = last
                        && run.offset + run.len as u64 == at
                    {
                        run.full = true;
                    }
                    let full = len >= RUN_BYTES_MAX;
                    runs.push(RunShape { offset: at, len, seq: extent.written.seq, full });
                }
            }
        }
        for run in &mut runs {
            run.full |= run.len >= RUN_BYTES_MAX;
        }
        runs
    }

    /// Takes a run out, as `runs` showed it.
    pub fn take(&mut self, shape: &RunShape) -> Option<Run> {
        let end = shape.offset + shape.len as u64;
        let first = self.map.remove(&shape.offset)?;
        self.bytes -= first.piece.len() as u64;
        let mut written = first.written;
        if first.piece.len() == shape.len {
            return Some(Run { offset: shape.offset, data: first.piece.freeze(), written });
        }
        let mut data = BytesMut::with_capacity(shape.len);
        data.extend_from_slice(&first.piece.freeze());
        let mut at = shape.offset + data.len() as u64;
        while at < end {
            let Some(extent) = self.map.remove(&at) else { break };
            self.bytes -= extent.piece.len() as u64;
            written.join(&extent.written);
            data.extend_from_slice(&extent.piece.freeze());
            at = shape.offset + data.len() as u64;
        }
        Some(Run { offset: shape.offset, data: data.freeze(), written })
    }

    /// Forgets everything; answers how many bytes.
    pub fn clear(&mut self) -> u64 {
        self.map.clear();
        std::mem::take(&mut self.bytes)
    }
}

/// A run that could be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunShape {
    pub offset: u64,
    pub len: usize,
    pub seq: u64,
    /// More bytes would go into another request.
    pub full: bool,
}

#[cfg(test)]
#[path = "extents_test.rs"]
mod tests;
