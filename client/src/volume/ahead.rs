//! Reading ahead for those who read in sequence and have no kernel that does it for them.
//!
//! What was read ahead is used only if the lease was held all the time since it was asked for,
//! and nobody wrote to the inode here.

use std::collections::VecDeque;

use bytes::Bytes;
use proto::Errno;
use proto::fop::LeaseKey;
use tokio::task::JoinHandle;

use super::node::Node;
use super::read::cut;
use super::remember::Before;
use super::{File, Volume};

const WINDOW_BYTES_MIN: u64 = 256 << 10;
const WINDOW_BYTES_MAX: u64 = 4 << 20;
const CHUNK_BYTES_MAX: u64 = 1 << 20;

/// State of one open file's reading ahead.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    /// Where a sequential reader reads next.
    expect: u64,
    window: u64,
    chunks: VecDeque<Chunk>,
    /// End of what was asked for.
    end: u64,
}

#[derive(Debug)]
struct Chunk {
    offset: u64,
    len: u64,
    before: Before,
    /// Writes of this mount before it was asked for.
    seq: u64,
    data: Data,
}

#[derive(Debug)]
enum Data {
    Coming(JoinHandle<Result<Bytes, Errno>>),
    Here(Bytes),
}

impl Drop for Chunk {
    fn drop(&mut self) {
        if let Data::Coming(task) = &self.data {
            task.abort();
        }
    }
}

impl Ahead {
    /// Notes a read; answers the chunk that has its first byte.
    fn take(&mut self, offset: u64, len: u64) -> Option<Chunk> {
        if offset == self.expect && offset > 0 {
            self.window = (self.window * 2).clamp(WINDOW_BYTES_MIN, WINDOW_BYTES_MAX);
        } else {
            (self.window, self.end) = (0, 0);
            self.chunks.clear();
        }
        self.expect = offset + len;
        while let Some(chunk) = self.chunks.pop_front() {
            if (chunk.offset..chunk.offset + chunk.len).contains(&offset) {
                return Some(chunk);
            }
        }
        None
    }

    /// The ranges to ask for now.
    fn missing(&mut self) -> Vec<(u64, u64)> {
        let mut missing = Vec::new();
        let target = self.expect + self.window;
        self.end = self.end.max(self.expect);
        // Half a window at least, so that a small reader does not cause small requests.
        while self.window > 0 && self.end + self.window / 2 <= target {
            let len = (self.window / 2).min(CHUNK_BYTES_MAX);
            missing.push((self.end, len));
            self.end += len;
        }
        missing
    }
}

impl Volume {
    pub(super) async fn read_ahead(
        &self,
        file: &File,
        offset: u64,
        len: u32,
    ) -> Result<Vec<Bytes>, Errno> {
        let node = &file.node;
        let wanted = u64::from(len);
        let (chunk, missing) = {
            let mut ahead = file.ahead();
            let chunk = ahead.take(offset, wanted);
            (chunk, ahead.missing())
        };
        let asked: Vec<Chunk> = missing.into_iter().map(|m| self.ask_ahead(file, m)).collect();
        file.ahead().chunks.extend(asked);
        let mut parts = Vec::new();
        let mut at = offset;
        let mut chunk = chunk;
        while let Some(mut used) = chunk.take() {
            let Some(bytes) = self.arrived(node, &mut used).await? else { break };
            let part = cut(&bytes, used.offset, at..offset + wanted);
            let short = (bytes.len() as u64) < used.len;
            at += part.len() as u64;
            parts.push(part);
            if at == offset + wanted {
                if at < used.offset + used.len {
                    used.data = Data::Here(bytes);
                    file.ahead().chunks.push_front(used);
                }
                return Ok(parts);
            }
            if short {
                return Ok(parts);
            }
            let mut ahead = file.ahead();
            chunk = match ahead.chunks.front() {
                Some(next) if next.offset == at => ahead.chunks.pop_front(),
                _ => None,
            };
        }
        let rest = (offset + wanted - at) as u32;
        parts.push(self.read_bricks(node, at, rest).await?);
        Ok(parts)
    }

    fn ask_ahead(&self, file: &File, (offset, len): (u64, u64)) -> Chunk {
        let node = file.node.clone();
        let before = self.before(self.below.set_of_inode(node.gfid), LeaseKey::Inode(node.gfid));
        let seq = write_seq(&node);
        let volume = self.me();
        let task = tokio::spawn(async move { volume.read_bricks(&node, offset, len as u32).await });
        Chunk { offset, len, before, seq, data: Data::Coming(task) }
    }

    /// The bytes of a chunk if they are still right.
    async fn arrived(&self, node: &Node, chunk: &mut Chunk) -> Result<Option<Bytes>, Errno> {
        let bytes = match &mut chunk.data {
            Data::Here(bytes) => bytes.clone(),
            Data::Coming(task) => match task.await {
                Ok(Ok(bytes)) => bytes,
                // The reader asks again itself, and hears the error if it is still there.
                _ => return Ok(None),
            },
        };
        let set = self.below.set_of_inode(node.gfid);
        let right = self.may_keep(set, chunk.before, &[]) && write_seq(node) == chunk.seq;
        Ok(right.then_some(bytes))
    }
}

fn write_seq(node: &Node) -> u64 {
    node.lock().behind.as_ref().map_or(0, |b| b.seq)
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn window_opens_for_a_sequence_and_closes_at_a_jump() {
        let mut ahead = Ahead::default();
        assert!(ahead.take(0, 4096).is_none());
        assert!(ahead.missing().is_empty(), "one read is no sequence");
        let mut asked = 0;
        for i in 1..200 {
            ahead.take(i * 4096, 4096);
            asked += ahead.missing().iter().map(|(_, len)| len).sum::<u64>();
        }
        let read = 200 * 4096;
        assert!((read..=read + WINDOW_BYTES_MAX).contains(&asked), "{asked}");
        ahead.take(1 << 30, 4096);
        assert!(ahead.missing().is_empty());
    }
}
