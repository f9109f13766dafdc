//! What waits to be sent on one connection.
//!
//! Replies of one wake-up leave in one vectored send; payloads are never copied. Whoever reads
//! the connection tries to send at once; what the socket does not take then is left to the
//! connection's writer task.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;

use bytes::{Buf, Bytes};
use tokio::sync::Notify;

use super::io::{BrickIo, SEND_SLICES_MAX, try_send};

/// More than this unsent: the connection is not read until it drains. Two full frames.
const UNSENT_BYTES_MAX: usize = 8 << 20;

#[derive(Default)]
pub struct Outbox {
    queue: RefCell<VecDeque<Bytes>>,
    bytes: Cell<usize>,
    /// The writer task has slices in the kernel: nobody else may send.
    writing: Cell<bool>,
    closed: Cell<bool>,
    /// Closed once everything queued is sent.
    finishing: Cell<bool>,
    work: Notify,
    drained: Notify,
}

impl Outbox {
    /// Queues the parts of one frame. Dropped silently on a closed connection.
    pub fn push(&self, head: Bytes, payload: Bytes) {
        if self.closed.get() {
            return;
        }
        let mut queue = self.queue.borrow_mut();
        for part in [head, payload] {
            if !part.is_empty() {
                self.bytes.set(self.bytes.get() + part.len());
                queue.push_back(part);
            }
        }
    }

    /// For frames queued outside the connection's own read loop.
    pub fn wake(&self) {
        self.work.notify_one();
    }

    /// Sends what is queued, then closes.
    pub fn finish(&self) {
        self.finishing.set(true);
        self.work.notify_one();
    }

    /// Ends both tasks of the connection; unsent frames are dropped.
    pub fn close(&self) {
        self.closed.set(true);
        self.queue.borrow_mut().clear();
        self.bytes.set(0);
        self.work.notify_one();
        self.drained.notify_one();
    }

    pub fn is_closed(&self) -> bool {
        self.closed.get()
    }

    pub fn is_full(&self) -> bool {
        self.bytes.get() > UNSENT_BYTES_MAX
    }

    /// Waits until the writer has sent most of it, or the connection has ended.
    pub async fn wait_drained(&self) {
        while self.is_full() && !self.is_closed() {
            self.work.notify_one();
            self.drained.notified().await;
        }
    }

    /// Sends what the socket takes without waiting; wakes the writer for the rest.
    ///
    /// # Errors
    /// The connection is broken.
    pub fn flush_now(&self, socket: impl AsFd) -> io::Result<()> {
        if self.writing.get() {
            return Ok(());
        }
        let socket = socket.as_fd();
        while self.bytes.get() > 0 {
            let sent = try_send(socket, self.queue.borrow().iter())?;
            match sent {
                Some(n) => self.sent(n),
                None => {
                    self.work.notify_one();
                    break;
                }
            }
        }
        Ok(())
    }

    fn sent(&self, mut n: usize) {
        self.bytes.set(self.bytes.get().saturating_sub(n));
        let mut queue = self.queue.borrow_mut();
        while n > 0 {
            let Some(front) = queue.front_mut() else { break };
            if n < front.len() {
                front.advance(n);
                break;
            }
            n -= front.len();
            queue.pop_front();
        }
    }

    /// The writer task of a connection: runs until it is closed or broken.
    ///
    /// # Errors
    /// The connection is broken.
    pub async fn write_loop<I: BrickIo>(&self, io: &I, socket: &I::Socket) -> io::Result<()> {
        loop {
            self.flush_now(socket)?;
            if self.is_closed() {
                return Ok(());
            }
            if self.bytes.get() == 0 && self.finishing.get() {
                return Ok(());
            }
            if self.bytes.get() == 0 {
                self.work.notified().await;
                continue;
            }
            let slices: Vec<Bytes> =
                self.queue.borrow().iter().take(SEND_SLICES_MAX).cloned().collect();
            self.writing.set(true);
            let (sent, _) = io.send(socket, slices).await;
            self.writing.set(false);
            self.sent(sent?);
            if !self.is_full() {
                self.drained.notify_one();
            }
        }
    }
}
