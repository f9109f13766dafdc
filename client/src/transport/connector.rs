//! Opens connections: TCP, HELLO, WELCOME.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use proto::fop::Recall;
use proto::frame::{self, Features, Frame, FrameKind, Header, Hello, VERSION, Welcome};
use proto::{BrickId, Epoch, SessionId};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::connection::Connection;
use super::shard::Shard;
use super::{Counters, FrameReader, Target};
use crate::sync::lock;

/// A brick that has not said WELCOME after this time counts as away. Shorter than the pause
/// that a lost peer may cause, so that a retry still fits into it.
const HELLO_TIMEOUT: Duration = Duration::from_secs(2);

/// What opens a connection.
#[derive(Clone)]
pub enum Proof {
    /// Signed by the pool for one session on one volume.
    Ticket(Bytes),
    /// Of being a peer of the pool.
    Peer(Bytes),
}

/// Who connects.
#[derive(Clone)]
pub struct Identity {
    pub session: SessionId,
    pub proof: Proof,
    /// For people.
    pub host: String,
}

/// Told of what a brick says by itself. Called on the thread that reads the connection, which
/// must not be held up: start a task for anything that waits.
pub trait Pushes: Send + Sync {
    fn recall(&self, brick: BrickId, recall: Recall);

    /// A connection came up; `time_ns` is the brick's wall clock.
    fn welcome(&self, brick: BrickId, epoch: Epoch, time_ns: u64);
}

#[derive(Clone, Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("{host}:{port}: {reason}")]
    Unreachable { host: String, port: u16, reason: String },
    /// The brick's own words: wrong ticket, unknown brick, not serving.
    #[error("{host}:{port} refused: {reason}")]
    Refused { host: String, port: u16, reason: String },
}

/// Opens connections for one session (or one peer).
pub struct Connector {
    identity: Mutex<Identity>,
    pushes: Arc<dyn Pushes>,
    pub(super) counters: Arc<Counters>,
}

impl Connector {
    pub fn new(
        identity: Identity,
        pushes: Arc<dyn Pushes>,
        counters: Arc<Counters>,
    ) -> Arc<Connector> {
        Arc::new(Connector { identity: Mutex::new(identity), pushes, counters })
    }

    /// A renewed ticket, for connections opened from now on.
    pub fn set_identity(&self, identity: Identity) {
        *lock(&self.identity) = identity;
    }

    pub fn session(&self) -> SessionId {
        lock(&self.identity).session
    }

    /// Opens a connection and starts its task on the current runtime.
    pub(super) async fn connect(
        &self,
        target: &Target,
        shard: Shard,
    ) -> Result<Arc<Connection>, ConnectError> {
        let unreachable = |reason: String| ConnectError::Unreachable {
            host: target.host.clone(),
            port: target.port,
            reason,
        };
        let identity = lock(&self.identity).clone();
        let session = identity.session;
        let greeted = timeout(HELLO_TIMEOUT, greet(target, shard, identity)).await;
        let (stream, reader, welcome) = match greeted {
            Err(_) => return Err(unreachable("no answer".into())),
            Ok(Err(e)) => return Err(unreachable(e.to_string())),
            Ok(Ok(greeted)) => greeted,
        };
        if !welcome.error.is_empty() {
            return Err(ConnectError::Refused {
                host: target.host.clone(),
                port: target.port,
                reason: welcome.error,
            });
        }
        Counters::add(&self.counters.connects);
        self.pushes.welcome(target.brick, Epoch(welcome.epoch), welcome.time_ns);
        let connection =
            Connection::new(stream, session, self.counters.clone(), self.pushes.clone());
        tokio::spawn(connection.clone().run(reader, target.brick));
        Ok(connection)
    }
}

/// TCP with the kernel's own buffer sizes: an explicit size would be capped by
/// net.core.{w,r}mem_max (208 KiB by default) and switch off the autotuning that goes to 4 MiB
/// and above.
async fn greet(
    target: &Target,
    shard: Shard,
    identity: Identity,
) -> io::Result<(TcpStream, FrameReader, Welcome)> {
    let stream = TcpStream::connect((target.host.as_str(), target.port)).await?;
    proto_grpc::socket::prepare(&stream)?;
    let (ticket, peer_proof) = match identity.proof {
        Proof::Ticket(ticket) => (ticket, Bytes::new()),
        Proof::Peer(proof) => (Bytes::new(), proof),
    };
    let hello = Hello {
        version: VERSION.into(),
        features: Features::OURS.0,
        brick: Bytes::copy_from_slice(target.brick.as_bytes()),
        session: identity.session.0,
        ticket,
        peer_proof,
        connection: shard.0 as u32,
        host: identity.host,
    };
    let mut header = Header::new(FrameKind::Hello);
    header.session = identity.session.0;
    write_all(&stream, &frame::encode(header, &hello, b"")).await?;
    let mut reader = FrameReader::default();
    let welcome = decode_welcome(reader.next(&stream).await?)?;
    Ok((stream, reader, welcome))
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
