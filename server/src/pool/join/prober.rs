//! The pool's side: finds out who is there, proves itself, adds the peer, welcomes it.

use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::task::{Context as Cx, Poll};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use hyper_util::rt::TokioIo;
use proto::PeerId;
use proto_grpc::connect::fingerprint;
use proto_grpc::peer::join_client::JoinClient;
use proto_grpc::peer::{HelloReply, HelloRequest, PingRequest, ProveRequest, WelcomeRequest};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tonic::codegen::Service;
use tonic::codegen::http::Uri;
use tonic::transport::{Channel, Endpoint};

use super::{Side, Transcript, hex, read_key};
use crate::pool::command::{Command, NewPeer};
use crate::pool::state::PeerState;
use crate::pool::{Pool, files, identity};

/// A new peer follows the log within a few round trips.
const FOLLOW_TIMEOUT: Duration = Duration::from_secs(5);
const STEP_TIMEOUT: Duration = Duration::from_secs(10);

/// How a probe ended well.
#[derive(Debug)]
pub enum Probed {
    Added {
        peer: PeerState,
        fingerprint: [u8; 32],
    },
    /// It is in this pool already.
    Known(PeerState),
    /// The probed host is this peer.
    Myself,
}

/// One TLS connection to whoever listens there.
struct Stranger {
    client: JoinClient<Channel>,
    certificate: [u8; 32],
    /// Our address as seen on this connection.
    local: IpAddr,
}

impl Pool {
    /// Takes `host` into the pool, which is made if this peer has none.
    ///
    /// # Errors
    /// One line with the next step.
    pub async fn probe(
        &self,
        host: &str,
        expected: Option<[u8; 32]>,
        reinstalled: bool,
    ) -> anyhow::Result<Probed> {
        let mut there = self.reach(host).await?;
        let hello = self.hello(&mut there).await?.0;
        if let Some(settled) = self.settled(host, &hello)? {
            return Ok(settled);
        }
        if self.membership().is_none() {
            let own =
                self.config().advertise.clone().or(self.config().bind().map(|ip| ip.to_string()));
            let own = own.unwrap_or_else(|| there.local.to_string());
            self.ensure_pooled(&own).await?;
            // Again with a certificate of the pool.
            there = self.reach(host).await?;
        }
        let (hello, nonce) = self.hello(&mut there).await?;
        let csr = self.prove(&mut there, &hello, nonce, expected).await?;
        let peer = self.add(host, &hello, reinstalled).await?;
        let welcome = self.welcome(&mut there, host, &peer, &csr).await;
        if let Err(error) = welcome {
            // The log must not name a peer that never came in; one that holds bricks stays, and
            // is probed again.
            let _ = self.propose(Command::RemovePeer { peer: peer.id }).await;
            return Err(error);
        }
        self.wait_following(&peer).await?;
        Ok(Probed::Added { peer, fingerprint: there.certificate })
    }

    async fn reach(&self, host: &str) -> anyhow::Result<Stranger> {
        let port = self.config().control_port;
        if let Err(error) = tokio::net::lookup_host((host, port)).await {
            bail!("{host} cannot be resolved ({error}); check the name, or give an address");
        }
        let stream = self.tls().dial_stranger(host, port).connect().await;
        let stream = stream.map_err(|error| {
            anyhow::anyhow!(
                "{host} port {port} does not answer ({error}); is brickd running there and the port open?"
            )
        })?;
        let (tcp, tls) = stream.get_ref();
        let local = tcp.local_addr()?.ip();
        let leaf = tls.peer_certificates().and_then(|c| c.first());
        let certificate = fingerprint(leaf.context("no certificate")?);
        let channel = Endpoint::from_static("http://brickd.invalid")
            .timeout(STEP_TIMEOUT)
            .connect_with_connector(Given(Some(stream)))
            .await?;
        Ok(Stranger { client: JoinClient::new(channel), certificate, local })
    }

    async fn hello(&self, there: &mut Stranger) -> anyhow::Result<(HelloReply, [u8; 32])> {
        let nonce = files::random::<32>()?;
        let request = HelloRequest {
            nonce: nonce.to_vec().into(),
            pool_id: self
                .membership()
                .map(|m| m.pool_id.as_bytes().to_vec())
                .unwrap_or_default()
                .into(),
            ca_fingerprint: Vec::new().into(),
        };
        let reply = there.client.hello(request).await.map_err(plain)?.into_inner();
        ensure!(reply.nonce.len() == 32, "the probed peer speaks another version");
        Ok((reply, nonce))
    }

    /// Whether there is nothing to do, or nothing that can be done.
    fn settled(&self, host: &str, hello: &HelloReply) -> anyhow::Result<Option<Probed>> {
        let id = PeerId::from_slice(&hello.peer_id).context("the probed peer has no id")?;
        if id == self.id() {
            return Ok(Some(Probed::Myself));
        }
        if hello.pool_id.is_empty() {
            return Ok(None);
        }
        let ours = self.membership().is_some_and(|m| m.pool_id.as_bytes()[..] == hello.pool_id[..]);
        match self.state().peers.get(&id) {
            Some(known) if ours && known.lost => bail!(
                "{host} was lost when the pool was recovered and still has its old state; start \
                 brickd there and give it some seconds to notice, or empty its state folder"
            ),
            Some(known) if ours => Ok(Some(Probed::Known(known.clone()))),
            _ => bail!(
                "{host} is either already part of another pool or was detached while it was away; \
                 type 'brick peer detach {host}' in that pool first"
            ),
        }
    }

    /// Proves this pool to the newcomer and checks its proof; its signing request.
    async fn prove(
        &self,
        there: &mut Stranger,
        hello: &HelloReply,
        nonce: [u8; 32],
        expected: Option<[u8; 32]>,
    ) -> anyhow::Result<Vec<u8>> {
        if let Some(expected) = expected {
            ensure!(
                expected == there.certificate,
                "its fingerprint is {}, not the expected one",
                hex(&there.certificate)
            );
        }
        let key = read_key(&self.config().join_key)?;
        let transcript = Transcript {
            pool_nonce: nonce.to_vec(),
            peer_nonce: hello.nonce.to_vec(),
            pool_certificate: self.tls().fingerprint(),
            peer_certificate: there.certificate,
        };
        let member = self.membership().context("this peer was just detached")?;
        let request = ProveRequest {
            proof: key.map(|k| transcript.prove(Side::Pool, &k)).unwrap_or_default().into(),
            ca_certificate: identity::certificate_of(&member.ca_pem)?.to_vec().into(),
        };
        let reply = there.client.prove(request).await.map_err(plain)?.into_inner();
        match key {
            Some(key) if transcript.verify(Side::Peer, &key, &reply.proof) => {}
            Some(_) if expected.is_none() => bail!(
                "it does not know this pool's join key; if it is the right node, probe it with --fingerprint {}",
                hex(&there.certificate)
            ),
            Some(_) | None => {}
        }
        Ok(reply.csr.to_vec())
    }

    async fn add(
        &self,
        host: &str,
        hello: &HelloReply,
        reinstalled: bool,
    ) -> anyhow::Result<PeerState> {
        let id = PeerId::from_slice(&hello.peer_id).context("the probed peer has no id")?;
        let port = |p: u32| u16::try_from(p).context("the probed peer named a bad port");
        let new = NewPeer {
            id,
            host: host.to_owned(),
            control_port: port(hello.control_port)?,
            data_port: port(hello.data_port)?,
            promise_port: port(hello.promise_port)?,
            witness: hello.witness,
        };
        let state = self.state();
        let same = |p: &&PeerState| {
            p.id == id || (p.host.eq_ignore_ascii_case(host) && p.control_port == new.control_port)
        };
        let command = match state.peers.values().find(same) {
            None => Command::AddPeer(new),
            Some(old) if reinstalled => {
                ensure!(!self.answers(old).await, "{host} answers under its old name still");
                Command::ReplacePeer { old: old.id, new }
            }
            Some(old) if old.id != id || old.lost || state.holds_bricks(id) => bail!(
                "{host} is in the pool as {}, and whoever answers there has another state; if that \
                 machine was installed anew, or its state folder is lost for ever, \
                 'brick peer probe {host} --reinstalled' gives it its bricks back",
                old.id
            ),
            // It is listed and un-pooled: a join that was cut short, or it lost its state.
            Some(_) => {
                let reply = self.propose(Command::RemovePeer { peer: id }).await?;
                reply.done().map_err(anyhow::Error::msg)?;
                Command::AddPeer(new)
            }
        };
        self.propose(command).await?.done().map_err(anyhow::Error::msg)?;
        self.state().peers.get(&id).cloned().context("the pool's log is behind; probe again")
    }

    async fn welcome(
        &self,
        there: &mut Stranger,
        host: &str,
        peer: &PeerState,
        csr: &[u8],
    ) -> anyhow::Result<()> {
        let state = self.state();
        let secrets = state.secrets.as_ref().context("the pool's state is not here yet")?;
        let ca = (secrets.ca_pem.as_str(), secrets.ca_key_pem.as_str());
        let request = WelcomeRequest {
            pool_id: secrets.pool_id.as_bytes().to_vec().into(),
            ca_pem: secrets.ca_pem.clone(),
            certificate_pem: identity::sign(ca, csr, peer.id, peer.node)?,
            node: peer.node,
            host: host.to_owned(),
            peers: Vec::new().into(),
        };
        there.client.welcome(request).await.map_err(plain)?;
        Ok(())
    }

    /// Until the new peer has applied the entry that added it: then it can be asked anything.
    async fn wait_following(&self, peer: &PeerState) -> anyhow::Result<()> {
        let follows = async {
            loop {
                let mut client = self.peer_client(peer)?;
                let mut ping = tonic::Request::new(PingRequest {});
                ping.set_timeout(Duration::from_secs(1));
                if client.ping(ping).await.is_ok_and(|r| r.get_ref().applied >= peer.node) {
                    return Ok(());
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        match tokio::time::timeout(FOLLOW_TIMEOUT, follows).await {
            Ok(result) => result,
            Err(_) => bail!(
                "{} was added but does not follow the pool's log yet; check 'brick peer status'",
                peer.host
            ),
        }
    }
}

fn plain(status: tonic::Status) -> anyhow::Error {
    anyhow::Error::msg(status.message().to_owned())
}

/// A connector for one connection that is open already.
struct Given(Option<TlsStream<TcpStream>>);

impl Service<Uri> for Given {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Cx<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let stream = self.0.take();
        Box::pin(async move { stream.map(TokioIo::new).ok_or(io::ErrorKind::NotConnected.into()) })
    }
}
