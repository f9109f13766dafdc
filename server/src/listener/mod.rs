//! The data port of a peer: who may come in, and to which brick.
//!
//! Purpose: read each connection's HELLO with a deadline and bounds, check its credential, and
//! hand the socket to the thread of the brick that it names; or, for a brick of another peer, pass
//! the connection on to that peer (`relay`): a client whose own link there is down goes on.
//!
//! Assumes: `Doorman` answers from memory; it is asked once per connection.
//!
//! Promises: a connection without a valid credential learns one line and nothing else; garbage
//! costs that connection only; the number of strangers at the door is bounded, so that they
//! cannot keep others out for longer than the deadline.
//!
//! Deliberately does not: read a second frame. The brick's thread greets and serves.
//! A connection that was passed on once is not passed on again.

mod address;
mod limit;
pub mod proof;
mod relay;

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use prost::Message as _;
use proto::frame::{
    BadFrame, Credential, FrameKind, HEADER_BYTES, Header, Hello, VERSION, Welcome, encode, verify,
};
use proto::{BrickId, PeerId, SessionId, VolumeId};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc};

use crate::brick::{BrickCommand, Newcomer};
use crate::pool::ticket::Ticket;
use address::allowed;
use limit::LogLimit;
use proof::Purpose;

/// A HELLO holds two ids, a ticket (at most a path and 66 bytes) and a host name.
const HELLO_BYTES_MAX: usize = 16 << 10;
/// From accept to a complete HELLO.
const HELLO_DEADLINE: Duration = Duration::from_secs(5);
/// Connections that have not said HELLO yet; one more waits in the accept queue.
const STRANGERS_MAX: usize = 256;
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What the data port asks of the rest of the daemon.
pub trait Doorman: Send + Sync + 'static {
    /// HMAC key of tickets and peer proofs; `None` while this peer is in no pool.
    fn ticket_key(&self) -> Option<[u8; 32]>;
    /// Whether the peer belongs to the pool.
    fn is_peer(&self, peer: PeerId) -> bool;
    /// This peer.
    fn me(&self) -> PeerId;
    /// A brick that runs on this peer.
    fn brick(&self, brick: BrickId) -> Option<Door>;
    /// Where a brick of another peer is served.
    fn elsewhere(&self, brick: BrickId) -> Option<Route>;
}

/// A running brick as the data port sees it.
#[derive(Clone)]
pub struct Door {
    pub guard: Guard,
    pub inbox: mpsc::Sender<BrickCommand>,
    pub read_only: bool,
}

/// A brick of another peer.
#[derive(Clone, Debug)]
pub struct Route {
    pub guard: Guard,
    pub host: String,
    pub port: u16,
}

/// Who may reach a volume's bricks.
#[derive(Clone, Debug)]
pub struct Guard {
    pub volume: VolumeId,
    /// The volume's `auth.allow` and `auth.reject`.
    pub allow: String,
    pub reject: String,
}

/// Why a connection is sent away. The text is sent to whoever connects, so it names nothing
/// that a stranger should not know.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("no HELLO within {} s", HELLO_DEADLINE.as_secs())]
    Deadline,
    #[error("not a HELLO: {0}")]
    Bad(#[from] BadFrame),
    #[error("the first frame must be a HELLO of at most {HELLO_BYTES_MAX} bytes")]
    NotHello,
    #[error("frame format {0} is too old; this side speaks {VERSION}")]
    Version(u32),
    #[error("no valid credential: get a ticket from the pool and mount again")]
    Credential,
    #[error("this address may not mount the volume (auth.allow, auth.reject)")]
    Address,
    #[error("the brick does not run here; get the newest volume map")]
    NoBrick,
    #[error("the brick has too many connections waiting; try again")]
    Busy,
    #[error("this peer passes on as many connections as it may; try another")]
    Relays,
    #[error("the brick's peer cannot be reached from here")]
    NoWay,
    /// Somebody looked whether the port is open.
    #[error("closed without a word")]
    Silent,
    #[error("{0}")]
    Io(#[from] std::io::Error),
}

/// Runs the data port on a thread of its own, for as long as the process lives.
///
/// # Errors
/// The thread or its runtime cannot be made.
pub fn spawn(listener: TcpListener, doorman: Arc<dyn Doorman>) -> std::io::Result<()> {
    listener.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let thread = std::thread::Builder::new().name("data-port".into());
    thread.spawn(move || runtime.block_on(accept_loop(listener, doorman)))?;
    Ok(())
}

async fn accept_loop(listener: TcpListener, doorman: Arc<dyn Doorman>) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, "data port: cannot listen");
            return;
        }
    };
    let strangers = Arc::new(Semaphore::new(STRANGERS_MAX));
    let relays = Arc::new(Semaphore::new(relay::RELAYS_MAX));
    let log = Arc::new(LogLimit::default());
    loop {
        let Ok(permit) = strangers.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, from)) => {
                let (doorman, relays, log) = (doorman.clone(), relays.clone(), log.clone());
                tokio::spawn(async move {
                    let relay = receive(stream, from, &*doorman, &relays, &log).await;
                    drop(permit);
                    if let Some(relay) = relay {
                        relay.run().await;
                    }
                });
            }
            Err(error) => {
                log.warn(|more| tracing::warn!(%error, more, "data port: accept failed"));
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// What is to be passed on from now on, if the newcomer is for another peer.
async fn receive(
    mut stream: TcpStream,
    from: SocketAddr,
    doorman: &dyn Doorman,
    relays: &Arc<Semaphore>,
    log: &LogLimit,
) -> Option<relay::Relay> {
    let admitted = match tokio::time::timeout(HELLO_DEADLINE, read_hello(&mut stream)).await {
        Ok(Ok(hello)) => admit(&hello, from, doorman).map(|admitted| (hello, admitted)),
        Ok(Err(refused)) => Err(refused),
        Err(_) => Err(Refused::Deadline),
    };
    let refused = match admitted {
        Ok((hello, Admitted::Here { door, credential })) => {
            match hand_over(stream, from, hello, door, credential) {
                Ok(()) => return None,
                Err((stream, refused)) => stream.map(|stream| (stream, refused)),
            }
        }
        Ok((hello, Admitted::Elsewhere(route))) => {
            match relay::open(hello, &route, doorman, relays).await {
                Ok(onward) => {
                    tracing::info!(%from, to = route.host, "data port: passes a connection on");
                    return Some(onward.of(stream));
                }
                Err(refused) => Some((stream, refused)),
            }
        }
        Err(Refused::Silent) => None,
        Err(refused) => Some((stream, refused)),
    };
    if let Some((stream, reason)) = refused {
        log.warn(|more| tracing::warn!(%from, %reason, more, "data port: connection refused"));
        send_away(stream, &reason).await;
    }
    None
}

async fn read_hello(stream: &mut TcpStream) -> Result<Hello, Refused> {
    let mut raw = [0; HEADER_BYTES];
    if stream.peek(&mut raw[..1]).await? == 0 {
        return Err(Refused::Silent);
    }
    stream.read_exact(&mut raw).await?;
    let header = Header::parse(&raw)?;
    let message_bytes = header.message_bytes as usize;
    let fits = message_bytes <= HELLO_BYTES_MAX && header.payload_bytes == 0;
    if header.kind != FrameKind::Hello || !fits {
        return Err(Refused::NotHello);
    }
    let mut message = BytesMut::zeroed(message_bytes);
    stream.read_exact(&mut message).await?;
    verify(&raw, &message, &[])?;
    let hello = Hello::decode(message.freeze()).map_err(|_| BadFrame::Message)?;
    // Version 1 is the oldest: a newer sender speaks it too, and HELLO says so.
    if hello.version < u32::from(VERSION) {
        return Err(Refused::Version(hello.version));
    }
    Ok(hello)
}

/// A HELLO that passed.
enum Admitted {
    Here { door: Door, credential: Credential },
    Elsewhere(Route),
}

fn admit(hello: &Hello, from: SocketAddr, doorman: &dyn Doorman) -> Result<Admitted, Refused> {
    let brick = BrickId::from_slice(&hello.brick).ok_or(Refused::NotHello)?;
    let key = doorman.ticket_key().ok_or(Refused::Credential)?;
    // The credential comes first: a stranger does not learn which bricks are here.
    if !hello.peer_proof.is_empty() {
        let secret = proof::peer_secret(&key);
        let session = SessionId(hello.session);
        let peer = proof::check(&hello.peer_proof, &secret, Purpose::Peer, brick, session)
            .filter(|peer| doorman.is_peer(*peer))
            .ok_or(Refused::Credential)?;
        let door = doorman.brick(brick).ok_or(Refused::NoBrick)?;
        return Ok(Admitted::Here { door, credential: Credential::Peer(peer) });
    }
    let now_s = crate::brick::wall_ns() / 1_000_000_000;
    let ticket = Ticket::verify(&hello.ticket, &key, now_s).map_err(|_| Refused::Credential)?;
    if ticket.session.0 == 0 || ticket.session.0 != hello.session {
        return Err(Refused::Credential);
    }
    // A peer that relays has looked at the session's address; here it would see its own.
    let relayed = !hello.relay_proof.is_empty();
    if relayed {
        let secret = proof::peer_secret(&key);
        proof::check(&hello.relay_proof, &secret, Purpose::Relay, brick, ticket.session)
            .filter(|peer| doorman.is_peer(*peer))
            .ok_or(Refused::Credential)?;
    }
    let pass = |guard: &Guard| match () {
        () if guard.volume != ticket.volume => Err(Refused::Credential),
        () if !relayed && !allowed(from.ip(), &guard.allow, &guard.reject) => Err(Refused::Address),
        () => Ok(()),
    };
    if let Some(door) = doorman.brick(brick) {
        pass(&door.guard)?;
        let read_only = ticket.read_only || door.read_only;
        return Ok(Admitted::Here { door, credential: Credential::Session { read_only } });
    }
    let route = doorman.elsewhere(brick).filter(|_| !relayed).ok_or(Refused::NoBrick)?;
    pass(&route.guard)?;
    Ok(Admitted::Elsewhere(route))
}

/// Passes the socket to the brick's thread. The refused stream comes back where there is one.
fn hand_over(
    stream: TcpStream,
    from: SocketAddr,
    hello: Hello,
    door: Door,
    credential: Credential,
) -> Result<(), (Option<TcpStream>, Refused)> {
    let permit = match door.inbox.try_reserve() {
        Ok(permit) => permit,
        Err(mpsc::error::TrySendError::Full(())) => return Err((Some(stream), Refused::Busy)),
        Err(mpsc::error::TrySendError::Closed(())) => {
            return Err((Some(stream), Refused::NoBrick));
        }
    };
    let stream = match prepared(stream) {
        Ok(stream) => stream,
        Err(error) => return Err((None, error.into())),
    };
    permit.send(BrickCommand::Connect(Newcomer {
        stream,
        from,
        session: SessionId(hello.session),
        credential,
        number: hello.connection,
        host: hello.host.chars().take(255).collect(),
    }));
    Ok(())
}

/// Replies are batched by us, so the kernel need not wait for more; a client's machine that
/// vanished is noticed by keep-alive.
fn prepared(stream: TcpStream) -> std::io::Result<std::net::TcpStream> {
    proto_grpc::socket::prepare(&stream)?;
    let stream = stream.into_std()?;
    let keep_alive = socket2::TcpKeepalive::new()
        .with_time(Duration::from_secs(10))
        .with_interval(Duration::from_secs(5));
    socket2::SockRef::from(&stream).set_tcp_keepalive(&keep_alive)?;
    Ok(stream)
}

/// The last word to a refused connection: a WELCOME that says why.
async fn send_away(mut stream: TcpStream, reason: &Refused) {
    let welcome =
        Welcome { version: VERSION.into(), error: reason.to_string(), ..Welcome::default() };
    let out = encode(Header::new(FrameKind::Welcome), &welcome, &Bytes::new());
    // It may be gone already, or never read: neither is our concern.
    let send = async {
        stream.write_all(&out).await?;
        stream.shutdown().await
    };
    let _ = tokio::time::timeout(Duration::from_secs(1), send).await;
}

/// The address as `auth.allow` sees it: an IPv4 client on an IPv6 socket counts as IPv4.
fn plain(ip: IpAddr) -> IpAddr {
    ip.to_canonical()
}
