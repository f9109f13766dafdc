//! Buffers for requests, whose WRITE payload is handed on without a copy.
//!
//! A request is read so that what follows the header of a WRITE starts on a page boundary: the
//! kernel then copies whole pages, and the payload can go to a socket or a disk as it is. The
//! payload keeps its buffer; the channel goes on with another of the pool.
//!
//! Promises: a channel can always read, because its own buffer never leaves without a
//! replacement; where the pool's bound is reached the payload is copied instead. So memory is
//! bounded by the pool plus what the handlers hold in exact size, and reading never waits for a
//! handler (a write that waits for a lease recall must not keep the recall's own write out).

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use crossbeam::queue::ArrayQueue;

use crate::abi::{READ_BUFFER_MIN, WRITE_HEAD_LEN};
use crate::sys::Pages;

/// A payload below this is copied: it would keep a megabyte away from the pool, and copying a
/// page costs about as much as exchanging buffers.
const KEEP_LEN_MIN: usize = 4096;
/// Unused buffers that are kept with their pages resident.
const IDLE_MAX: usize = 16;
/// Buffers in the hands of handlers. With 1 MiB requests this is 128 MiB, reached only with as
/// many application threads in `write` at once.
const LENT_MAX: usize = 128;

/// The buffers of one mount, shared by its channels.
#[derive(Clone, Debug)]
pub struct BufferPool {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    idle: ArrayQueue<Pages>,
    lent: AtomicUsize,
    page_len: usize,
    buffer_len: usize,
}

impl BufferPool {
    /// A pool of buffers that hold requests with up to `payload_max` bytes of payload.
    pub fn new(payload_max: usize) -> Self {
        let page_len = rustix::param::page_size();
        let payload_len = payload_max.max(READ_BUFFER_MIN).next_multiple_of(page_len);
        let buffer_len = page_len + payload_len;
        let idle = ArrayQueue::new(IDLE_MAX);
        let shared = Shared { idle, lent: AtomicUsize::new(0), page_len, buffer_len };
        Self { shared: Arc::new(shared) }
    }

    /// Buffers that payloads keep at the moment.
    pub fn lent(&self) -> usize {
        self.shared.lent.load(Ordering::Relaxed)
    }

    /// A buffer for a channel to read into.
    pub(crate) fn reader(&self) -> io::Result<ReadBuffer> {
        Ok(ReadBuffer { pages: self.pages()?, pool: self.clone() })
    }

    fn pages(&self) -> io::Result<Pages> {
        match self.shared.idle.pop() {
            Some(pages) => Ok(pages),
            None => Pages::new(self.shared.buffer_len),
        }
    }
}

/// The buffer into which one channel reads.
#[derive(Debug)]
pub(crate) struct ReadBuffer {
    pages: Pages,
    pool: BufferPool,
}

impl ReadBuffer {
    fn start(&self) -> usize {
        self.pool.shared.page_len - WRITE_HEAD_LEN
    }

    /// Where the next request goes.
    pub(crate) fn space(&mut self) -> &mut [u8] {
        let start = self.start();
        &mut self.pages[start..]
    }

    /// The request of `len` bytes that was read.
    pub(crate) fn message(&self, len: usize) -> &[u8] {
        &self.pages[self.start()..][..len]
    }

    /// Takes the payload of the WRITE that was read, `len` bytes.
    pub(crate) fn take_payload(&mut self, len: usize) -> Bytes {
        let start = self.pool.shared.page_len;
        if len < KEEP_LEN_MIN || self.pool.lent() >= LENT_MAX {
            return Bytes::copy_from_slice(&self.pages[start..start + len]);
        }
        let Ok(fresh) = self.pool.pages() else {
            // Out of address space: the copy may still succeed.
            return Bytes::copy_from_slice(&self.pages[start..start + len]);
        };
        let pages = std::mem::replace(&mut self.pages, fresh);
        self.pool.shared.lent.fetch_add(1, Ordering::Relaxed);
        let shared = self.pool.shared.clone();
        Bytes::from_owner(Lent { pages: Some(pages), start, len, shared })
    }
}

/// A payload in its pages; goes back to the pool when the last reference is dropped.
#[derive(Debug)]
struct Lent {
    pages: Option<Pages>,
    start: usize,
    len: usize,
    shared: Arc<Shared>,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        self.pages.as_deref().map_or(&[], |pages| &pages[self.start..self.start + self.len])
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.shared.lent.fetch_sub(1, Ordering::Relaxed);
        if let Some(pages) = self.pages.take() {
            // A full queue means enough idle buffers: this one is unmapped.
            drop(self.shared.idle.push(pages));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payload_is_page_aligned_and_not_copied() {
        let pool = BufferPool::new(1 << 20);
        let mut reader = pool.reader().unwrap();
        reader.space()[WRITE_HEAD_LEN..][..5000].fill(7);
        let before = reader.space()[WRITE_HEAD_LEN..].as_ptr();
        let payload = reader.take_payload(5000);
        assert_eq!(payload.as_ptr(), before);
        assert_eq!(payload.as_ptr().addr() % rustix::param::page_size(), 0);
        assert_eq!(payload, vec![7; 5000]);
        assert_ne!(reader.space()[WRITE_HEAD_LEN..].as_ptr(), before);
    }

    #[test]
    fn buffer_returns_when_the_last_reference_is_dropped() {
        let pool = BufferPool::new(1 << 20);
        let mut reader = pool.reader().unwrap();
        let payload = reader.take_payload(8192);
        let part = payload.slice(100..200);
        drop(payload);
        assert_eq!((pool.lent(), pool.shared.idle.len()), (1, 0));
        drop(part);
        assert_eq!((pool.lent(), pool.shared.idle.len()), (0, 1));
    }

    #[test]
    fn reading_goes_on_when_all_buffers_are_lent() {
        let pool = BufferPool::new(1 << 20);
        let mut reader = pool.reader().unwrap();
        let held: Vec<_> = (0..LENT_MAX + 3).map(|_| reader.take_payload(4096)).collect();
        assert_eq!(pool.lent(), LENT_MAX);
        assert!(held.iter().all(|payload| payload.len() == 4096));
    }
}
