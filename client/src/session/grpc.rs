//! The pool over gRPC, with fail-over from server to server.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream::FuturesUnordered;
use proto::map::VolumeMap;
use proto::ports;
use proto_grpc::connect::{self, WithPass};
use proto_grpc::control::volume_client::VolumeClient;
use proto_grpc::control::{GetTicketRequest, MapUpdate, WatchMapRequest};
use proto_grpc::credential::{Credential, Pass};
use tokio::time::timeout;
use tokio_stream::StreamExt;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::control::{ControlError, ControlPlane, MapStream, Ticket};
use crate::sync::lock;

/// A server that is up opens a stream in a few milliseconds.
const STAGGER: Duration = Duration::from_millis(30);
/// A server that has not answered by then is passed over for the next one.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// What opens the control plane.
#[derive(Clone, Debug)]
pub enum Access {
    /// A token that `brick client add` made, or the daemon's own one for local root.
    Token(Credential),
    /// The daemon's root-only socket on this machine.
    Socket(PathBuf),
}

/// What to ask for, and of whom.
///
/// The first ticket is got by what the user has: a token and the servers that were named, or
/// the local socket. From then on the ticket itself opens every peer: the servers named and
/// those of the volume's map, so that a mount depends on none of them.
#[derive(Clone, Debug)]
pub struct GrpcControl {
    servers: Vec<(String, u16)>,
    access: Access,
    volume: String,
    subdir: String,
    read_only: bool,
    known: Arc<Mutex<Known>>,
    /// The door that answered last; asked first next time.
    current: Arc<AtomicUsize>,
}

/// What was learnt on the way.
#[derive(Debug, Default)]
struct Known {
    ticket: Option<Pass>,
    /// Control ports of the volume's peers.
    peers: Vec<(String, u16)>,
}

/// One way to the pool.
#[derive(Clone, Debug)]
enum Door {
    Socket(PathBuf, Option<Pass>),
    Server(String, u16, Pass),
}

type Client = VolumeClient<InterceptedService<Channel, WithPass>>;

impl Door {
    async fn open(&self) -> Result<Client, ControlError> {
        let (channel, pass) = match self {
            Door::Socket(path, pass) => {
                let opened = connect::unix(path).await;
                let channel = opened.map_err(|e| ControlError::Unreachable(e.to_string()))?;
                (channel, pass.clone())
            }
            Door::Server(host, port, pass) => {
                (connect::with_pass(host, *port, pass, None), Some(pass.clone()))
            }
        };
        Ok(VolumeClient::with_interceptor(channel, WithPass(pass)))
    }

    async fn ask<T, F>(&self, ask: &impl Fn(Client) -> F) -> Result<T, ControlError>
    where
        F: Future<Output = Result<T, Status>> + Send,
    {
        let asked = async { ask(self.open().await?).await.map_err(|s| told(&s)) };
        let late = || ControlError::Unreachable("no answer".into());
        timeout(ANSWER_TIMEOUT, asked).await.unwrap_or_else(|_| Err(late()))
    }
}

impl GrpcControl {
    /// `servers`: `host` or `host:port`, in order of preference.
    pub fn new(servers: &[String], access: Access, volume: &str) -> GrpcControl {
        GrpcControl {
            servers: servers.iter().map(|s| host_port(s)).collect(),
            access,
            volume: volume.to_owned(),
            subdir: String::new(),
            read_only: false,
            known: Arc::default(),
            current: Arc::default(),
        }
    }

    pub fn with_subdir(mut self, subdir: &str) -> GrpcControl {
        self.subdir = subdir.to_owned();
        self
    }

    pub fn with_read_only(mut self, read_only: bool) -> GrpcControl {
        self.read_only = read_only;
        self
    }

    /// All ways to the pool, always in the same order; the map's peers come last.
    fn doors(&self) -> Vec<Door> {
        let known = lock(&self.known);
        let (mut doors, pass) = match (&self.access, &known.ticket) {
            (Access::Socket(path), ticket) => {
                (vec![Door::Socket(path.clone(), ticket.clone())], ticket.clone())
            }
            (Access::Token(_), Some(ticket)) => (Vec::new(), Some(ticket.clone())),
            (Access::Token(token), None) => (Vec::new(), Some(token.pass())),
        };
        let Some(pass) = pass else { return doors };
        let others = known.peers.iter().filter(|peer| !self.servers.contains(peer));
        let servers = self.servers.iter().chain(others);
        doors.extend(servers.map(|(host, port)| Door::Server(host.clone(), *port, pass.clone())));
        doors
    }

    /// Asks at all doors, each a moment after the one before, beginning after the one that
    /// answered last; the first answer counts. For what cannot wait for a peer that is cut off.
    async fn any<T, F>(&self, ask: impl Fn(Client) -> F) -> Result<T, ControlError>
    where
        F: Future<Output = Result<T, Status>> + Send,
    {
        let doors = self.doors();
        let (count, ask) = (doors.len(), &ask);
        let start = self.current.load(Relaxed) + 1;
        let mut asked: FuturesUnordered<_> = (0..count)
            .map(|i| {
                let at = (start + i) % count;
                let door = &doors[at];
                async move {
                    tokio::time::sleep(STAGGER * i as u32).await;
                    (at, door.ask(ask).await)
                }
            })
            .collect();
        let mut last = nobody();
        while let Some((at, answer)) = asked.next().await {
            match answer {
                Ok(answer) => {
                    self.current.store(at, Relaxed);
                    return Ok(answer);
                }
                Err(refused @ ControlError::Refused(_)) => return Err(refused),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Asks at one door after the other, beginning with the one that answered last.
    async fn first<T, F>(&self, ask: impl Fn(Client) -> F) -> Result<T, ControlError>
    where
        F: Future<Output = Result<T, Status>> + Send,
    {
        let doors = self.doors();
        let count = doors.len();
        let start = self.current.load(Relaxed);
        let mut last = nobody();
        for at in (0..count).map(|i| (start + i) % count) {
            match doors[at].ask(&ask).await {
                Ok(answer) => {
                    self.current.store(at, Relaxed);
                    return Ok(answer);
                }
                Err(refused @ ControlError::Refused(_)) => return Err(refused),
                Err(error) => last = error,
            }
        }
        // The next try begins with another one.
        self.current.store(start + 1, Relaxed);
        Err(last)
    }

    /// Peers to ask later, from a map.
    fn learn(known: &Mutex<Known>, map: &VolumeMap) {
        let peers = map.peers.iter().map(|peer| (peer.host.clone(), peer.control_port));
        lock(known).peers = peers.collect();
    }
}

fn nobody() -> ControlError {
    ControlError::Unreachable("no servers are named".into())
}

#[async_trait]
impl ControlPlane for GrpcControl {
    async fn ticket(&self) -> Result<Ticket, ControlError> {
        let request = GetTicketRequest {
            volume: self.volume.clone(),
            subdir: self.subdir.clone(),
            read_only: self.read_only,
        };
        let reply = self
            .first(|mut client| {
                let request = request.clone();
                async move { client.get_ticket(request).await }
            })
            .await?
            .into_inner();
        if let Ok(ca) = <[u8; 32]>::try_from(reply.ca.as_slice()) {
            lock(&self.known).ticket = Some(Pass::ticket(&reply.ticket, ca));
        }
        Ok(Ticket {
            bytes: reply.ticket.into(),
            session: proto::SessionId(reply.session),
            valid: Duration::from_secs(reply.valid_s),
            read_only: reply.read_only,
        })
    }

    async fn watch_map(&self, known: u64) -> Result<MapStream, ControlError> {
        let request = WatchMapRequest { volume: self.volume.clone(), known_version: known };
        let watch = |mut client: Client| {
            let request = request.clone();
            async move { client.watch_map(request).await }
        };
        let stream = match self.any(watch).await {
            // A ticket that ran out while the machine slept: what the user has may still do.
            Err(ControlError::Refused(_)) if lock(&self.known).ticket.take().is_some() => {
                self.any(watch).await
            }
            answer => answer,
        };
        let stream = stream?.into_inner();
        let known = self.known.clone();
        Ok(Box::pin(stream.map(move |update| {
            let map = parse(update.map_err(|s| told(&s))?)?;
            map.iter().for_each(|map| GrpcControl::learn(&known, map));
            Ok(map)
        })))
    }
}

fn parse(update: MapUpdate) -> Result<Option<VolumeMap>, ControlError> {
    if update.map.is_empty() {
        return Ok(None);
    }
    // A map this build cannot read is no reason to lose the one held.
    let map = serde_json::from_slice(&update.map);
    map.map(Some).map_err(|e| ControlError::Unreachable(format!("unreadable volume map: {e}")))
}

/// Which answers end the search for another server.
fn told(status: &Status) -> ControlError {
    match status.code() {
        Code::NotFound
        | Code::PermissionDenied
        | Code::Unauthenticated
        | Code::InvalidArgument
        | Code::FailedPrecondition => ControlError::Refused(status.message().to_owned()),
        _ => ControlError::Unreachable(status.message().to_owned()),
    }
}

/// `host`, `host:port`, `[v6]:port`; an address of version 6 without brackets has no port.
fn host_port(server: &str) -> (String, u16) {
    let plain = |s: &str| s.trim_matches(['[', ']']).to_owned();
    match server.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => match port.parse() {
            Ok(port) => (plain(host), port),
            Err(_) => (plain(server), ports::CONTROL),
        },
        _ => (plain(server), ports::CONTROL),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_may_name_a_port() {
        let port = ports::CONTROL;
        for (text, host, port) in [
            ("n1", "n1", port),
            ("n1:7", "n1", 7),
            ("10.0.0.1:7", "10.0.0.1", 7),
            ("[fd00::1]:7", "fd00::1", 7),
            ("[fd00::1]", "fd00::1", port),
            ("fd00::1", "fd00::1", port),
        ] {
            assert_eq!(host_port(text), (host.to_owned(), port), "{text}");
        }
    }
}
