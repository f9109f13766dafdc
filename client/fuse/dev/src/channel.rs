//! One thread's connection to the kernel: fetch requests, each with its reply.
//!
//! Every worker thread owns a channel. Requests not yet fetched are common to all channels of a
//! mount; a fetched request belongs to the channel that fetched it, and its reply goes there.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::unix::AsyncFd;

use crate::abi::expects_no_reply;
use crate::buffer::{BufferPool, ReadBuffer};
use crate::op::Op;
use crate::parse::{self, Header};
use crate::reply::Reply;
use crate::sys::{Device, WATCHED, watch};
use crate::wire::Malformed;

/// A request of the kernel.
#[derive(Debug)]
pub struct Request {
    /// Who asks, about which inode.
    pub header: Header,
    /// What is asked.
    pub op: Op,
    /// The answer to be given.
    pub reply: Reply,
}

/// What a look at the device found.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "moved once; a box would cost an allocation a request"
)]
pub enum Fetched {
    /// A request.
    Request(Request),
    /// None waits at the moment.
    Empty,
    /// The mount has ended: unmounted here, from outside, or aborted by the administrator.
    Ended,
}

/// A channel that is not yet tied to a runtime; may be sent to the thread that will serve it.
#[derive(Debug)]
pub struct Channel {
    device: Arc<Device>,
    buffer: ReadBuffer,
    setxattr_ext: bool,
}

impl Channel {
    pub(crate) fn new(device: Device, pool: &BufferPool, setxattr_ext: bool) -> io::Result<Self> {
        Ok(Self { device: Arc::new(device), buffer: pool.reader()?, setxattr_ext })
    }

    /// Fetches a request without waiting.
    ///
    /// A malformed request is refused here, with a log entry, and the next one is fetched.
    pub fn try_fetch(&mut self) -> io::Result<Fetched> {
        loop {
            let len = match self.device.read(self.buffer.space()) {
                Ok(len) => len,
                Err(error) => match error.raw_os_error() {
                    Some(libc::EAGAIN) => return Ok(Fetched::Empty),
                    // ENOENT: the caller went away between queue and copy; EINTR: a signal;
                    // ENOMEM: the kernel could not copy, and has failed that request itself.
                    Some(libc::ENOENT | libc::EINTR | libc::ENOMEM) => continue,
                    // ENODEV: unmounted. ECONNABORTED: aborted. Anything else is a bug here.
                    Some(libc::ENODEV | libc::ECONNABORTED) => return Ok(Fetched::Ended),
                    _ => return Err(error),
                },
            };
            match self.decode(len) {
                Ok(request) => return Ok(Fetched::Request(request)),
                Err(reason) => self.refuse(len, reason),
            }
        }
    }

    fn decode(&mut self, len: usize) -> Result<Request, Malformed> {
        let (header, body) = parse::header(self.buffer.message(len))?;
        let body_len = body.len();
        let mut op = parse::op(header.opcode, body, self.setxattr_ext)?;
        if let Op::Write(write) = &mut op {
            // What precedes the payload was checked by the parser; the rest is the payload.
            let payload_len = body_len.checked_sub(WRITE_IN_LEN).ok_or(Malformed::Short)?;
            write.data = self.buffer.take_payload(payload_len);
        }
        let reply = Reply::new(self.device.clone(), header.unique, header.opcode);
        Ok(Request { header, op, reply })
    }

    fn refuse(&self, len: usize, reason: Malformed) {
        let Some((unique, opcode)) = parse::unique_and_opcode(self.buffer.message(len)) else {
            tracing::error!(len, %reason, "a message without a header: cannot be answered");
            return;
        };
        tracing::error!(unique, opcode, %reason, "a malformed request is refused");
        if !expects_no_reply(opcode) {
            Reply::new(self.device.clone(), unique, opcode).err(reason.errno());
        }
    }

    /// Ties the channel to the reactor of the current tokio runtime.
    pub fn into_async(self) -> io::Result<AsyncChannel> {
        let ready = watch(self.device.clone())?;
        Ok(AsyncChannel { ready, channel: self })
    }
}

/// `struct fuse_write_in`.
const WRITE_IN_LEN: usize = crate::abi::WRITE_HEAD_LEN - crate::abi::IN_HEADER_LEN;

/// A channel served by the current thread's runtime.
#[derive(Debug)]
pub struct AsyncChannel {
    ready: AsyncFd<Arc<Device>>,
    channel: Channel,
}

impl AsyncChannel {
    /// Waits for the next request; `None` when the mount has ended.
    ///
    /// Takes part in tokio's cooperative scheduling, so a busy mount does not starve the
    /// other tasks of the thread. Cancel-safe.
    pub async fn fetch(&mut self) -> io::Result<Option<Request>> {
        loop {
            let mut guard = self.ready.ready(WATCHED).await?;
            match self.channel.try_fetch()? {
                Fetched::Request(request) => return Ok(Some(request)),
                Fetched::Ended => return Ok(None),
                Fetched::Empty => guard.clear_ready(),
            }
        }
    }

    /// Like [`fetch`](Self::fetch), but looks again and again for up to `spin` before it sleeps,
    /// letting the other tasks of the thread and its network run in between.
    ///
    /// Waking a sleeping thread on another processor costs tens of microseconds, more than
    /// answering; a caller that asks one thing after the other is served about four times as
    /// fast with 50 µs (measured by `examples/getattr_rate.rs`). The price is that much
    /// processor time each time requests stop coming. Zero never spins. Cancel-safe.
    pub async fn fetch_polling(&mut self, spin: Duration) -> io::Result<Option<Request>> {
        // Without this a queue that never empties would keep the thread's other tasks waiting.
        tokio::task::coop::consume_budget().await;
        if !spin.is_zero() {
            let started = Instant::now();
            while started.elapsed() < spin {
                match self.channel.try_fetch()? {
                    Fetched::Request(request) => return Ok(Some(request)),
                    Fetched::Ended => return Ok(None),
                    Fetched::Empty => tokio::task::yield_now().await,
                }
            }
        }
        self.fetch().await
    }

    /// Fetches without waiting, for a worker that polls a little before it sleeps.
    pub fn try_fetch(&mut self) -> io::Result<Fetched> {
        self.channel.try_fetch()
    }

    /// Waits until a request may be there or the mount has ended. Another channel may take it
    /// first.
    pub async fn readable(&self) -> io::Result<()> {
        loop {
            let mut guard = self.ready.ready(WATCHED).await?;
            if readable_now(self.ready.get_ref())? {
                guard.retain_ready();
                return Ok(());
            }
            guard.clear_ready();
        }
    }
}

/// Whether a read would find a request or the end, asked of the kernel.
fn readable_now(device: &Device) -> io::Result<bool> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut fds = [PollFd::new(device, PollFlags::IN)];
    Ok(poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))? > 0)
}
