//! Pooled, page-aligned buffers for reads: filled by the kernel, sent as the payload, and back
//! in the pool when the last reference is gone. No copy and, when warm, no allocation.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use proto::fop::PAYLOAD_BYTES_MAX;

/// Alignment for direct I/O and for the ring's registered buffers.
const ALIGN: usize = 4096;
/// Sizes kept: small metadata-like reads, FUSE's usual read, its largest, and the frame's.
const SIZES: [usize; 4] = [16 << 10, 128 << 10, 1 << 20, PAYLOAD_BYTES_MAX];
/// Bytes kept per size when idle.
const IDLE_BYTES_MAX: usize = 16 << 20;

type Shelves = [Mutex<Vec<Vec<u8>>>; SIZES.len()];

#[derive(Clone, Default)]
pub struct Pool(Arc<Shelves>);

impl Pool {
    /// A buffer with room for `bytes` (at most a frame's payload).
    pub fn take(&self, bytes: usize) -> Buffer {
        let shelf = SIZES.iter().position(|s| bytes <= *s);
        let store = shelf
            .and_then(|i| lock(&self.0[i]).pop())
            .unwrap_or_else(|| vec![0; shelf.map_or(bytes, |i| SIZES[i]) + ALIGN]);
        let start = store.as_ptr().align_offset(ALIGN);
        let start = if start > ALIGN { 0 } else { start };
        Buffer { store, start, filled: 0, room: bytes, pool: self.clone(), shelf }
    }

    fn give_back(&self, shelf: usize, store: Vec<u8>) {
        let mut idle = lock(&self.0[shelf]);
        if idle.len() < (IDLE_BYTES_MAX / SIZES[shelf]).min(64) {
            idle.push(store);
        }
    }
}

fn lock(shelf: &Mutex<Vec<Vec<u8>>>) -> std::sync::MutexGuard<'_, Vec<Vec<u8>>> {
    shelf.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An aligned buffer: `filled` bytes, then room for more.
pub struct Buffer {
    store: Vec<u8>,
    start: usize,
    filled: usize,
    room: usize,
    pool: Pool,
    shelf: Option<usize>,
}

impl Buffer {
    /// The room behind what is filled. Its address does not change while the buffer lives.
    pub fn spare(&mut self) -> &mut [u8] {
        &mut self.store[self.start + self.filled..self.start + self.room]
    }

    /// `n` more bytes were written into `spare()`.
    pub fn advance(&mut self, n: usize) {
        assert!(n <= self.room - self.filled, "more bytes than there was room");
        self.filled += n;
    }

    pub fn filled(&self) -> &[u8] {
        &self.store[self.start..self.start + self.filled]
    }

    /// The filled part as a payload; the buffer returns to its pool with the last reference.
    pub fn freeze(self) -> Bytes {
        if self.filled == 0 { Bytes::new() } else { Bytes::from_owner(self) }
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self.filled()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(shelf) = self.shelf {
            self.pool.give_back(shelf, std::mem::take(&mut self.store));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_and_come_back() {
        let pool = Pool::default();
        let mut buffer = pool.take(5000);
        let address = buffer.spare().as_ptr() as usize;
        assert_eq!((address % ALIGN, buffer.spare().len()), (0, 5000));
        buffer.spare()[..3].copy_from_slice(b"abc");
        buffer.advance(3);
        let bytes = buffer.freeze();
        assert_eq!(&bytes[..], b"abc");
        drop(bytes);
        assert_eq!(pool.take(16_000).spare().as_ptr() as usize, address);
    }
}
