//! One data connection on its brick's thread.
//!
//! Two tasks: the reader parses, executes and answers without a hop; the writer sends what the
//! socket would not take at once. Back-pressure is not reading: with too many requests in
//! flight or too much unsent, the sender's socket fills up.

use std::cell::Cell;
use std::io;
use std::rc::Rc;

use bytes::Bytes;
use proto::frame::{BadFrame, Credential, Frame, FrameKind, Header, encode};
use proto::{PeerId, SessionId};
use tokio::sync::Notify;

use super::inbound::Inbound;
use super::io::{BrickIo, try_recv};
use super::outbox::Outbox;

/// Requests of one connection that wait for the disk, a lease or a lock. A session's window is
/// 1024 changes; a mount uses several connections.
const IN_FLIGHT_MAX: u32 = 512;
/// Frames handled before other connections get their turn.
const TURN_FRAMES: usize = 64;
/// Looks once more at the socket, after everybody else had a turn, before it sleeps: a client
/// with work in flight has often sent the next request by then. Sleeping and being woken costs
/// tens of microseconds.
const LOOKS_BEFORE_SLEEP: u32 = 2;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ConnId(pub u64);

/// What the brick knows of a connection; the socket itself belongs to its two tasks.
pub struct Conn {
    pub id: ConnId,
    pub session: SessionId,
    pub credential: Credential,
    pub outbox: Outbox,
    in_flight: Cell<u32>,
    fewer: Notify,
}

impl Conn {
    pub fn new(id: ConnId, session: SessionId, credential: Credential) -> Self {
        Self {
            id,
            session,
            credential,
            outbox: Outbox::default(),
            in_flight: Cell::new(0),
            fewer: Notify::new(),
        }
    }

    pub fn peer(&self) -> Option<PeerId> {
        match self.credential {
            Credential::Peer(peer) => Some(peer),
            Credential::Session { .. } => None,
        }
    }

    pub fn read_only(&self) -> bool {
        matches!(self.credential, Credential::Session { read_only: true })
    }

    /// A request whose reply comes later.
    pub fn begin(&self) {
        self.in_flight.set(self.in_flight.get() + 1);
    }

    /// Its reply is in the outbox.
    pub fn end(&self) {
        self.in_flight.set(self.in_flight.get().saturating_sub(1));
        self.fewer.notify_one();
        self.outbox.wake();
    }

    /// Queues a frame; `flush_now` or `wake` of the outbox sends it.
    pub fn push(&self, header: Header, message: &impl prost::Message, payload: Bytes) {
        let head = encode(header, message, &payload).freeze();
        self.outbox.push(head, payload);
    }

    pub fn close(&self) {
        self.outbox.close();
        self.fewer.notify_one();
    }

    async fn wait_for_room(&self) {
        while self.in_flight.get() >= IN_FLIGHT_MAX && !self.outbox.is_closed() {
            self.fewer.notified().await;
        }
        self.outbox.wait_drained().await;
    }

    fn has_room(&self) -> bool {
        self.in_flight.get() < IN_FLIGHT_MAX && !self.outbox.is_full()
    }
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub enum Ended {
    #[error("closed by the other side")]
    Closed,
    #[error("closed here")]
    ByUs,
    #[error("bad frame: {0}")]
    Bad(#[from] BadFrame),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Handles whole frames of a connection.
pub trait Serve {
    /// # Errors
    /// The frame is not what a correct sender sends: the connection ends.
    fn frame(&self, conn: &Rc<Conn>, frame: Frame) -> Result<(), BadFrame>;
}

/// Reads and serves until the connection ends.
pub async fn read_loop<I: BrickIo>(
    io: &I,
    socket: &I::Socket,
    conn: &Rc<Conn>,
    serve: &impl Serve,
) -> Ended {
    let mut inbound = Inbound::new();
    loop {
        match turn(conn, serve, &mut inbound) {
            Ok(Turn::Idle) => {}
            Ok(Turn::More) => {
                if let Err(error) = conn.outbox.flush_now(socket) {
                    return error.into();
                }
                if conn.has_room() {
                    tokio::task::yield_now().await;
                } else {
                    conn.wait_for_room().await;
                }
                continue;
            }
            Ok(Turn::Goodbye) => return Ended::Closed,
            Err(bad) => return bad.into(),
        }
        if let Err(error) = conn.outbox.flush_now(socket) {
            return error.into();
        }
        if conn.outbox.is_closed() {
            return Ended::ByUs;
        }
        match receive(io, socket, conn, &mut inbound).await {
            Ok(0) => return Ended::Closed,
            Ok(_) => {}
            Err(error) => return error.into(),
        }
    }
}

enum Turn {
    /// Everything received is handled.
    Idle,
    /// There may be more, but others come first, or there is no room for more.
    More,
    Goodbye,
}

fn turn(conn: &Rc<Conn>, serve: &impl Serve, inbound: &mut Inbound) -> Result<Turn, BadFrame> {
    for _ in 0..TURN_FRAMES {
        if !conn.has_room() {
            return Ok(Turn::More);
        }
        let Some(frame) = inbound.next()? else { return Ok(Turn::Idle) };
        if frame.header.kind == FrameKind::Goodbye {
            return Ok(Turn::Goodbye);
        }
        serve.frame(conn, frame)?;
    }
    Ok(Turn::More)
}

/// Waits for bytes of the connection, or for its end by us (as an error of that kind).
async fn receive<I: BrickIo>(
    io: &I,
    socket: &I::Socket,
    conn: &Conn,
    inbound: &mut Inbound,
) -> io::Result<usize> {
    for look in 0..=LOOKS_BEFORE_SLEEP {
        let (buf, room) = inbound.space();
        if let Some(n) = try_recv(socket, buf, room)? {
            return Ok(n);
        }
        if look < LOOKS_BEFORE_SLEEP {
            tokio::task::yield_now().await;
        }
        if conn.outbox.is_closed() {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
    }
    let (buf, room) = inbound.space();
    let taken = std::mem::take(buf);
    let (received, back) = io.recv(socket, taken, room).await;
    *inbound.space_back() = back;
    received
}
