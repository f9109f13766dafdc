//! The ways to a brick: straight to its peer, or through another peer of the volume.
//!
//! The data port of every peer passes a session's connection on to a brick of another peer. So a
//! mount whose own link to one peer is down goes on, and evicts nobody by it. The straight way
//! is always tried; the others only when it does not open.

use std::io;
use std::sync::Weak;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::FuturesUnordered;
use prost::Message;
use proto::frame::{self, Features, Frame, FrameKind, Header, Hello, VERSION, Welcome};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::connection::Connection;
use super::connector::{Identity, Proof};
use super::shard::Shard;
use super::{ConnectError, FrameReader, Target};

/// A brick that has not said WELCOME after this time counts as away. Shorter than the pause
/// that a lost peer may cause, so that a retry still fits into it.
const HELLO_TIMEOUT: Duration = Duration::from_secs(2);
/// The kernel of a peer that is there answers in a round trip, however busy its daemon is.
const OPEN_TIMEOUT: Duration = Duration::from_millis(300);
/// From one peer that may pass it on to the next.
const STAGGER: Duration = Duration::from_millis(30);
/// Peers tried besides the brick's own.
const RELAYS_MAX: usize = 4;
/// How often a connection through another peer looks whether the straight way is open again.
const STRAIGHTEN_EVERY: Duration = Duration::from_secs(5);

/// How a brick is reached: straight, or through the peer of this name.
pub(super) type Through = Option<String>;

/// A connection whose HELLO was answered.
pub(super) struct Greeted {
    pub(super) stream: TcpStream,
    pub(super) reader: FrameReader,
    pub(super) welcome: Welcome,
    pub(super) through: Through,
}

/// What is known of the ways before.
#[derive(Default)]
pub(super) struct Known {
    /// The straight one was found closed a moment ago.
    pub(super) closed: bool,
    /// Another lane goes through this peer: all go the same way, for only one says when it ends.
    pub(super) through: Through,
}

/// Straight, unless that does not open in time: then whichever way answers first.
pub(super) async fn find(
    target: &Target,
    shard: Shard,
    identity: &Identity,
    known: &Known,
) -> Result<Greeted, ConnectError> {
    let mut opening = Box::pin(open(&target.host, target.port));
    let head_start = match target.relays.is_empty() {
        true => HELLO_TIMEOUT,
        false if known.closed => Duration::ZERO,
        false => OPEN_TIMEOUT,
    };
    let opened = timeout(head_start, &mut opening).await;
    let late = opened.is_err();
    let failed = match opened {
        Ok(Ok(stream)) => return greet(stream, target, shard, identity, None).await,
        Ok(Err(error)) => error.to_string(),
        Err(_) => "no answer".into(),
    };
    let same = |host: &String| known.through.as_ref() == Some(host);
    let (first, others): (Vec<_>, Vec<_>) = target.relays.iter().partition(|(host, _)| same(host));
    let head_start = if first.is_empty() { Duration::ZERO } else { OPEN_TIMEOUT };
    let waits = (0..).map(|turn| STAGGER * turn);
    let first = first.into_iter().map(|relay| (relay, Duration::ZERO));
    let others = others.into_iter().zip(waits).map(|(relay, wait)| (relay, head_start + wait));
    let mut ways: FuturesUnordered<BoxFuture<'_, Result<Greeted, ConnectError>>> = first
        .chain(others)
        .take(RELAYS_MAX)
        .map(|((host, port), wait)| {
            async move {
                sleep(wait).await;
                let stream = open(host, *port).await.map_err(|e| unreachable(target, &e))?;
                greet(stream, target, shard, identity, Some(host.clone())).await
            }
            .boxed()
        })
        .collect();
    if late {
        let straight = async {
            let stream = opening.await.map_err(|e| unreachable(target, &e))?;
            greet(stream, target, shard, identity, None).await
        };
        ways.push(straight.boxed());
    }
    let answered = timeout(HELLO_TIMEOUT, async {
        while let Some(result) = ways.next().await {
            match result {
                Ok(greeted) => return Some(greeted),
                Err(error) => tracing::debug!("{error}"),
            }
        }
        None
    });
    answered.await.ok().flatten().ok_or_else(|| unreachable(target, &failed))
}

fn unreachable(target: &Target, reason: &impl ToString) -> ConnectError {
    let reason = reason.to_string();
    ConnectError::Unreachable { host: target.host.clone(), port: target.port, reason }
}

/// TCP with the kernel's own buffer sizes: an explicit size would be capped by
/// net.core.{w,r}mem_max (208 KiB by default) and switch off the autotuning that goes to 4 MiB
/// and above.
async fn open(host: &str, port: u16) -> io::Result<TcpStream> {
    let stream = TcpStream::connect((host, port)).await?;
    proto_grpc::socket::prepare(&stream)?;
    Ok(stream)
}

/// Whether the brick's peer can be reached straight.
pub(super) async fn is_open(target: &Target) -> bool {
    matches!(timeout(OPEN_TIMEOUT, open(&target.host, target.port)).await, Ok(Ok(_)))
}

/// Ends a connection through another peer when the straight way is open again: the next one is
/// straight, and what is in flight is sent again on it.
pub(super) async fn straighten(connection: Weak<Connection>, target: Target) {
    loop {
        sleep(STRAIGHTEN_EVERY).await;
        if connection.upgrade().is_none_or(|c| c.is_closed()) {
            return;
        }
        if is_open(&target).await {
            if let Some(connection) = connection.upgrade() {
                tracing::info!(brick = %target.brick, "reached straight again");
                connection.close();
            }
            return;
        }
    }
}

async fn greet(
    stream: TcpStream,
    target: &Target,
    shard: Shard,
    identity: &Identity,
    through: Through,
) -> Result<Greeted, ConnectError> {
    let said = async {
        write_all(&stream, &hello(target, shard, identity)).await?;
        let mut reader = FrameReader::default();
        let welcome = decode_welcome(reader.next(&stream).await?)?;
        io::Result::Ok((reader, welcome))
    };
    let (reader, welcome) = match timeout(HELLO_TIMEOUT, said).await {
        Ok(Ok(said)) => said,
        Ok(Err(error)) => return Err(unreachable(target, &error)),
        Err(_) => return Err(unreachable(target, &"no answer")),
    };
    if !welcome.error.is_empty() {
        let (host, port) = (target.host.clone(), target.port);
        return Err(ConnectError::Refused { host, port, reason: welcome.error });
    }
    Ok(Greeted { stream, reader, welcome, through })
}

fn hello(target: &Target, shard: Shard, identity: &Identity) -> Bytes {
    let (ticket, peer_proof) = match &identity.proof {
        Proof::Ticket(ticket) => (ticket.clone(), Bytes::new()),
        Proof::Peer(proof) => (Bytes::new(), proof.clone()),
    };
    let hello = Hello {
        version: VERSION.into(),
        features: Features::OURS.0,
        brick: Bytes::copy_from_slice(target.brick.as_bytes()),
        session: identity.session.0,
        ticket,
        peer_proof,
        connection: shard.0 as u32,
        host: identity.host.clone(),
        relay_proof: Bytes::new(),
    };
    let mut header = Header::new(FrameKind::Hello);
    header.session = identity.session.0;
    frame::encode(header, &hello, b"").freeze()
}

fn decode_welcome(frame: Frame) -> io::Result<Welcome> {
    let bad = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    if frame.header.kind != FrameKind::Welcome {
        return Err(bad("the first frame is not WELCOME"));
    }
    let welcome = Welcome::decode(frame.message).map_err(|_| bad("WELCOME cannot be decoded"))?;
    if welcome.error.is_empty() && welcome.version != u32::from(VERSION) {
        return Err(bad("the brick speaks no frame format of ours"));
    }
    Ok(welcome)
}

async fn write_all(stream: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        stream.writable().await?;
        match stream.try_write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => bytes = &bytes[n..],
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}
