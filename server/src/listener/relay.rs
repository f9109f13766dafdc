//! Passes a session's connection on to the peer that serves its brick.
//!
//! Bytes both ways as they come: the frames, their checksums and numbers are between the session
//! and the brick. Only the HELLO is written anew, with this peer's proof beside the session's
//! ticket, because the brick's peer sees this peer's address and not the session's.

use std::sync::Arc;
use std::time::Duration;

use proto::frame::{FrameKind, Header, Hello, encode};
use proto::{BrickId, SessionId};
use tokio::io::{AsyncWriteExt, copy_bidirectional_with_sizes};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::proof::{self, Purpose};
use super::{Doorman, Refused, Route};

/// Connections passed on at a time: a hundred mounts with their threads.
pub const RELAYS_MAX: usize = 1024;
/// The other peer has not answered by then: there is no way from here either.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Held for each direction.
const BUFFER_BYTES: usize = 64 << 10;

/// The way to the brick's peer, its HELLO on it.
pub struct Onward {
    stream: TcpStream,
    permit: OwnedSemaphorePermit,
}

/// A connection that is passed on.
pub struct Relay {
    session: TcpStream,
    onward: Onward,
}

/// Connects to the brick's peer and says HELLO there in the session's name.
pub async fn open(
    mut hello: Hello,
    route: &Route,
    doorman: &dyn Doorman,
    relays: &Arc<Semaphore>,
) -> Result<Onward, Refused> {
    let permit = relays.clone().try_acquire_owned().map_err(|_| Refused::Relays)?;
    let brick = BrickId::from_slice(&hello.brick).ok_or(Refused::NotHello)?;
    let key = doorman.ticket_key().ok_or(Refused::Credential)?;
    let (secret, session) = (proof::peer_secret(&key), SessionId(hello.session));
    let proof = proof::make(&secret, Purpose::Relay, doorman.me(), brick, session);
    hello.relay_proof = proof.map_err(|_| Refused::NoWay)?.into();
    let mut header = Header::new(FrameKind::Hello);
    header.session = hello.session;
    let said = async {
        let mut stream = TcpStream::connect((route.host.as_str(), route.port)).await?;
        proto_grpc::socket::prepare(&stream)?;
        stream.write_all(&encode(header, &hello, b"")).await?;
        std::io::Result::Ok(stream)
    };
    match timeout(CONNECT_TIMEOUT, said).await {
        Ok(Ok(stream)) => Ok(Onward { stream, permit }),
        Ok(Err(_)) | Err(_) => Err(Refused::NoWay),
    }
}

impl Onward {
    pub fn of(self, session: TcpStream) -> Relay {
        Relay { session, onward: self }
    }
}

impl Relay {
    /// Until either side ends.
    pub async fn run(mut self) {
        // What broke it is known to both sides as the end of their connection.
        if proto_grpc::socket::prepare(&self.session).is_ok() {
            let (session, brick) = (&mut self.session, &mut self.onward.stream);
            let _ = copy_bidirectional_with_sizes(session, brick, BUFFER_BYTES, BUFFER_BYTES).await;
        }
        drop(self.onward.permit);
    }
}
