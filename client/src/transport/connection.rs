//! One TCP connection: sends inline, reads in a task.

use std::collections::{HashMap, VecDeque};
use std::io::{self, IoSlice};
use std::sync::{Arc, Mutex};

use bytes::{Buf, Bytes};
use prost::Message;
use proto::BrickId;
use proto::fop::Recall;
use proto::frame::{self, Frame, FrameKind, Header, ReplyHead};
use proto_rules::Tick;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::sync::{Notify, Semaphore, oneshot};

use super::connector::Pushes;
use super::way::Through;
use super::{CallError, Counters, FrameReader, Reply, Request};
use crate::clock;
use crate::sync::lock;

/// Requests in flight on one connection: as many as a member keeps changes of one session.
const REQUESTS_MAX: usize = 1024;
/// Bulk in flight to one brick from one thread, in KiB: sixteen of the largest frames.
const ROOM_KIB: usize = 64 << 10;
/// Frames handled before other tasks of the thread get a turn.
const FRAMES_A_TURN: usize = 64;

/// A frame on its way out.
struct Outgoing {
    head: Bytes,
    payload: Bytes,
}

struct Out {
    /// What the socket did not take at once, in order. Bounded by the permits of the requests.
    backlog: VecDeque<Outgoing>,
    closed: bool,
}

struct Waiter {
    reply: oneshot::Sender<Reply>,
    sent: Tick,
}

#[derive(Default)]
struct Waiting {
    next: u64,
    by_id: HashMap<u64, Waiter>,
    closed: bool,
}

/// See the module.
pub(super) struct Connection {
    stream: TcpStream,
    through: Through,
    session: proto::SessionId,
    out: Mutex<Out>,
    waiting: Mutex<Waiting>,
    /// Wakes the task: there is a backlog, or the end.
    wake: Notify,
    requests: Semaphore,
    room: Semaphore,
    counters: Arc<Counters>,
    pushes: Arc<dyn Pushes>,
}

impl Connection {
    pub(super) fn new(
        (stream, through): (TcpStream, Through),
        session: proto::SessionId,
        counters: Arc<Counters>,
        pushes: Arc<dyn Pushes>,
    ) -> Arc<Connection> {
        Arc::new(Connection {
            stream,
            through,
            session,
            out: Mutex::new(Out { backlog: VecDeque::new(), closed: false }),
            waiting: Mutex::default(),
            wake: Notify::new(),
            requests: Semaphore::new(REQUESTS_MAX),
            room: Semaphore::new(ROOM_KIB),
            counters,
            pushes,
        })
    }

    pub(super) fn through(&self) -> &Through {
        &self.through
    }

    /// Both ends have the same address: the brick is on this machine.
    pub(super) fn is_local(&self) -> bool {
        if self.through.is_some() {
            return false;
        }
        match (self.stream.peer_addr(), self.stream.local_addr()) {
            (Ok(peer), Ok(local)) => peer.ip() == local.ip(),
            _ => false,
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        lock(&self.waiting).closed
    }

    /// Sends `request` and waits for its reply.
    pub(super) async fn call(&self, request: &Request) -> Result<Reply, CallError> {
        let kib = (request.payload.len() + request.reply_bytes as usize).div_ceil(1024);
        let lost = |_| CallError::Lost;
        let _request = self.requests.acquire().await.map_err(lost)?;
        let _room = self.room.acquire_many(kib.min(ROOM_KIB) as u32).await.map_err(lost)?;
        let (reply, receive) = oneshot::channel();
        let id = self.expect(reply).ok_or(CallError::Lost)?;
        let _forget = Forget { connection: self, id };
        let head = request.encode(self.session.0, id);
        self.counters.frame(request.op, head.len() + request.payload.len());
        self.send(Outgoing { head, payload: request.payload.clone() });
        receive.await.map_err(|_| CallError::Lost)
    }

    /// Says goodbye and ends the connection; what is in flight is lost.
    pub(super) fn close(&self) {
        let bye = frame::encode(Header::new(FrameKind::Goodbye), &(), b"").freeze();
        self.send(Outgoing { head: bye, payload: Bytes::new() });
        self.fail();
    }

    fn expect(&self, reply: oneshot::Sender<Reply>) -> Option<u64> {
        let mut waiting = lock(&self.waiting);
        if waiting.closed {
            return None;
        }
        waiting.next += 1;
        let id = waiting.next;
        waiting.by_id.insert(id, Waiter { reply, sent: clock::now() });
        Some(id)
    }

    /// Writes at once what the socket takes; the task sends the rest.
    fn send(&self, mut frame: Outgoing) {
        let mut out = lock(&self.out);
        if out.closed {
            return;
        }
        // An error of the socket also reaches the task, which ends the connection.
        if out.backlog.is_empty() && matches!(write(&self.stream, &mut frame), Ok(true) | Err(_)) {
            return;
        }
        out.backlog.push_back(frame);
        drop(out);
        self.wake.notify_one();
    }

    /// Sends the backlog as far as the socket takes it. Whether something is left.
    fn flush(&self) -> io::Result<bool> {
        let mut out = lock(&self.out);
        while let Some(frame) = out.backlog.front_mut() {
            if !write(&self.stream, frame)? {
                return Ok(true);
            }
            out.backlog.pop_front();
        }
        Ok(false)
    }

    /// Everything in flight is lost, and nothing more is sent.
    fn fail(&self) {
        let waiters = {
            let mut waiting = lock(&self.waiting);
            waiting.closed = true;
            std::mem::take(&mut waiting.by_id)
        };
        drop(waiters);
        let mut out = lock(&self.out);
        out.closed = true;
        out.backlog.clear();
        drop(out);
        self.requests.close();
        self.room.close();
        self.wake.notify_one();
    }

    /// Reads until the connection ends.
    pub(super) async fn run(self: Arc<Self>, reader: FrameReader, brick: BrickId) {
        // Also when the runtime goes away and this future is dropped.
        let _fail = FailOnDrop(self.clone());
        let end = self.pump(reader, brick).await;
        if !self.is_closed() {
            Counters::add(&self.counters.connections_lost);
            match end {
                Err(e) => tracing::debug!(%brick, "data connection ended: {e}"),
                Ok(()) => tracing::debug!(%brick, "the brick said goodbye"),
            }
        }
    }

    async fn pump(&self, mut reader: FrameReader, brick: BrickId) -> io::Result<()> {
        loop {
            let interest = match self.flush()? {
                true => Interest::READABLE | Interest::WRITABLE,
                false => Interest::READABLE,
            };
            tokio::select! {
                ready = self.stream.ready(interest) => {
                    if ready?.is_readable() && !self.drain(&mut reader, brick)? {
                        return Ok(());
                    }
                }
                () = self.wake.notified() => {}
            }
            if self.is_closed() {
                return Ok(());
            }
        }
    }

    /// Handles what has arrived. False after the brick's goodbye.
    fn drain(&self, reader: &mut FrameReader, brick: BrickId) -> io::Result<bool> {
        for _ in 0..FRAMES_A_TURN {
            let Some(frame) = reader.try_next(&self.stream)? else { return Ok(true) };
            let bytes = frame.message.len() + frame.payload.len() + frame::HEADER_BYTES;
            self.counters
                .bytes_received
                .fetch_add(bytes as u64, std::sync::atomic::Ordering::Relaxed);
            match frame.header.kind {
                FrameKind::Reply => self.reply(frame)?,
                FrameKind::Push => self.push(frame, brick)?,
                FrameKind::Goodbye => return Ok(false),
                _ => return Err(bad("a frame of this kind is not for clients")),
            }
        }
        // The socket may hold more: it still counts as readable, the next turn goes on.
        Ok(true)
    }

    fn reply(&self, frame: Frame) -> io::Result<()> {
        let Some(waiter) = lock(&self.waiting).by_id.remove(&frame.header.request) else {
            Counters::add(&self.counters.unexpected_replies);
            return Ok(());
        };
        let head = ReplyHead::decode(frame.message).map_err(|_| bad("undecodable reply"))?;
        // The receiver may have given up meanwhile.
        let _ = waiter.reply.send(Reply::new(&frame.header, head, frame.payload, waiter.sent));
        Ok(())
    }

    fn push(&self, frame: Frame, brick: BrickId) -> io::Result<()> {
        let recall = Recall::decode(frame.message).map_err(|_| bad("undecodable push"))?;
        Counters::add(&self.counters.recalls);
        self.pushes.recall(brick, recall);
        Ok(())
    }
}

/// Writes what the socket takes; true when nothing of the frame is left.
fn write(stream: &TcpStream, frame: &mut Outgoing) -> io::Result<bool> {
    loop {
        let written = match (frame.head.is_empty(), frame.payload.is_empty()) {
            (true, true) => return Ok(true),
            (false, false) => stream
                .try_write_vectored(&[IoSlice::new(&frame.head), IoSlice::new(&frame.payload)]),
            (false, true) => stream.try_write(&frame.head),
            (true, false) => stream.try_write(&frame.payload),
        };
        match written {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => {
                let head = n.min(frame.head.len());
                frame.head.advance(head);
                frame.payload.advance(n - head);
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(e) => return Err(e),
        }
    }
}

fn bad(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// A request that is no longer waited for: its reply is dropped when it comes.
struct Forget<'a> {
    connection: &'a Connection,
    id: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        lock(&self.connection.waiting).by_id.remove(&self.id);
    }
}

struct FailOnDrop(Arc<Connection>);

impl Drop for FailOnDrop {
    fn drop(&mut self) {
        self.0.fail();
    }
}
