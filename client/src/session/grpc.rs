//! The pool over gRPC, with fail-over from server to server.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream::FuturesUnordered;
use proto::ports;
use proto_grpc::connect::{self, WithToken};
use proto_grpc::control::volume_client::VolumeClient;
use proto_grpc::control::{GetTicketRequest, MapUpdate, WatchMapRequest};
use proto_grpc::credential::Credential;
use tokio::time::timeout;
use tokio_stream::StreamExt;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::control::{ControlError, ControlPlane, MapStream, Ticket};

/// A server that is up opens a stream in a few milliseconds.
const STAGGER: Duration = Duration::from_millis(30);
/// A server that has not answered by then is passed over for the next one.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// What opens the control plane.
#[derive(Clone, Debug)]
pub enum Access {
    /// A token that `brick client add` made, or the daemon's own one for local root.
    Token(Credential),
    /// The daemon's root-only socket on this machine; the servers are not used.
    Socket(PathBuf),
}

/// What to ask for, and of whom.
#[derive(Clone, Debug)]
pub struct GrpcControl {
    servers: Vec<(String, u16)>,
    access: Access,
    volume: String,
    subdir: String,
    read_only: bool,
    /// The server that answered last; asked first next time.
    current: std::sync::Arc<AtomicUsize>,
}

type Client = VolumeClient<InterceptedService<Channel, WithToken>>;

impl GrpcControl {
    /// `servers`: `host` or `host:port`, in order of preference.
    pub fn new(servers: &[String], access: Access, volume: &str) -> GrpcControl {
        GrpcControl {
            servers: servers.iter().map(|s| host_port(s)).collect(),
            access,
            volume: volume.to_owned(),
            subdir: String::new(),
            read_only: false,
            current: std::sync::Arc::default(),
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

    async fn client(&self, at: usize) -> Result<Client, ControlError> {
        let unreachable = |e: &dyn std::fmt::Display| ControlError::Unreachable(e.to_string());
        let (channel, token) = match &self.access {
            Access::Socket(path) => (connect::unix(path).await.map_err(|e| unreachable(&e))?, None),
            Access::Token(token) => {
                let (host, port) =
                    self.servers.get(at).ok_or_else(|| unreachable(&"no servers are named"))?;
                (connect::with_token(host, *port, token, None), Some(token.clone()))
            }
        };
        Ok(VolumeClient::with_interceptor(channel, WithToken(token)))
    }

    /// Asks all servers, each a moment after the one before, beginning after the one that
    /// answered last; the first answer counts. For what cannot wait for a peer that is cut off.
    async fn any<T, F>(&self, ask: impl Fn(Client) -> F) -> Result<T, ControlError>
    where
        F: Future<Output = Result<T, Status>> + Send,
    {
        let count = self.servers.len().max(1);
        let start = self.current.load(Relaxed) + 1;
        let ask = &ask;
        let mut asked: FuturesUnordered<_> = (0..count)
            .map(|i| async move {
                tokio::time::sleep(STAGGER * i as u32).await;
                let at = (start + i) % count;
                let answer = async { ask(self.client(at).await?).await.map_err(|s| told(&s)) };
                (at, timeout(ANSWER_TIMEOUT, answer).await)
            })
            .collect();
        let mut last = ControlError::Unreachable("no servers are named".into());
        while let Some((at, answer)) = asked.next().await {
            match answer {
                Ok(Ok(answer)) => {
                    self.current.store(at, Relaxed);
                    return Ok(answer);
                }
                Ok(Err(refused @ ControlError::Refused(_))) => return Err(refused),
                Ok(Err(error)) => last = error,
                Err(_) => last = ControlError::Unreachable("no answer".into()),
            }
        }
        Err(last)
    }

    /// Asks servers, beginning with the one that answered last, until one answers.
    async fn first<T, F>(&self, ask: impl Fn(Client) -> F) -> Result<T, ControlError>
    where
        F: Future<Output = Result<T, Status>> + Send,
    {
        let count = self.servers.len().max(1);
        let start = self.current.load(Relaxed);
        let mut last = ControlError::Unreachable("no servers are named".into());
        for at in (0..count).map(|i| (start + i) % count) {
            let asked = async { ask(self.client(at).await?).await.map_err(|s| told(&s)) };
            match timeout(ANSWER_TIMEOUT, asked).await {
                Ok(Ok(answer)) => {
                    self.current.store(at, Relaxed);
                    return Ok(answer);
                }
                Ok(Err(refused @ ControlError::Refused(_))) => return Err(refused),
                Ok(Err(error)) => last = error,
                Err(_) => last = ControlError::Unreachable("no answer".into()),
            }
        }
        // The next try begins with another one.
        self.current.store((start + 1) % count, Relaxed);
        Err(last)
    }
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
        Ok(Ticket {
            bytes: reply.ticket.into(),
            session: proto::SessionId(reply.session),
            valid: Duration::from_secs(reply.valid_s),
            read_only: reply.read_only,
        })
    }

    async fn watch_map(&self, known: u64) -> Result<MapStream, ControlError> {
        let request = WatchMapRequest { volume: self.volume.clone(), known_version: known };
        let stream = self
            .any(|mut client| {
                let request = request.clone();
                async move { client.watch_map(request).await }
            })
            .await?
            .into_inner();
        Ok(Box::pin(stream.map(|update| parse(update.map_err(|s| told(&s))?))))
    }
}

fn parse(update: MapUpdate) -> Result<Option<proto::map::VolumeMap>, ControlError> {
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
