//! The TLS side of every connection of the control and promise ports.
//!
//! One listener serves peers (a certificate of the pool's CA), clients (no certificate, a
//! token), and pools that want to let this peer in (a certificate of theirs). So any
//! certificate passes the handshake, which only proves that its key is held; whose it is, is
//! worked out once per connection and stands in [`Connection`], on which the services decide.

use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, RwLock};
use std::task::{Context as Cx, Poll};
use std::time::Duration;

use anyhow::Context;
use proto::PeerId;
use proto_grpc::connect::{TlsDial, fingerprint, provider, stranger};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig,
    SignatureScheme,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use super::identity::{self, Identity, PoolIdentity};

/// A handshake takes one or two trips; a client that needs longer only occupies us.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Handshakes at a time; more wait in the kernel's queue.
const HANDSHAKES_MAX: usize = 64;
/// Accepted connections that wait for the server's loop.
const ACCEPTED_MAX: usize = 64;

/// Who is at the other end, as far as the connection itself proves it.
#[derive(Clone, Debug, Default)]
pub struct Connection {
    /// Root of this machine, over the unix socket.
    pub local: bool,
    /// A certificate of our pool: peer and node number.
    pub peer: Option<(PeerId, u64)>,
    /// The certificate shown, whoever signed it, and the CA's that came with it.
    pub certificates: Vec<Vec<u8>>,
    /// Fingerprint of the certificate that we showed.
    pub own: [u8; 32],
    pub remote: Option<IpAddr>,
}

/// The current TLS set-up; changes when the peer joins or leaves a pool.
#[derive(Debug)]
pub struct Tls {
    current: RwLock<Arc<Setup>>,
    bind: Option<IpAddr>,
}

#[derive(Debug)]
struct Setup {
    server: Arc<ServerConfig>,
    /// To peers of our pool; `None` while un-pooled.
    to_peers: Option<Arc<ClientConfig>>,
    /// To a peer that belongs to no pool yet; shows our certificate.
    to_strangers: Arc<ClientConfig>,
    clients: Option<Arc<dyn ClientCertVerifier>>,
    own: [u8; 32],
}

impl Tls {
    /// # Errors
    /// Damaged keys or certificates.
    pub fn new(
        identity: &Identity,
        pool: Option<&PoolIdentity>,
        bind: Option<IpAddr>,
    ) -> anyhow::Result<Self> {
        Ok(Self { current: RwLock::new(Arc::new(Setup::new(identity, pool)?)), bind })
    }

    /// Switches to another pool membership; running connections stay as they are.
    ///
    /// # Errors
    /// Damaged keys or certificates.
    pub fn switch(&self, identity: &Identity, pool: Option<&PoolIdentity>) -> anyhow::Result<()> {
        let fresh = Arc::new(Setup::new(identity, pool)?);
        *self.current.write().expect("no panic under this lock") = fresh;
        Ok(())
    }

    fn setup(&self) -> Arc<Setup> {
        self.current.read().expect("no panic under this lock").clone()
    }

    /// Fingerprint of the certificate that this peer shows now.
    pub fn fingerprint(&self) -> [u8; 32] {
        self.setup().own
    }

    /// How to reach a peer of our pool; `None` while un-pooled.
    pub fn dial_peer(&self, id: PeerId, host: &str, port: u16) -> Option<TlsDial> {
        let config = self.setup().to_peers.clone()?;
        let (host, name) = (host.to_owned(), identity::server_name(id));
        Some(TlsDial { host, port, config, name, bind: self.bind })
    }

    /// How to reach whoever listens there.
    pub fn dial_stranger(&self, host: &str, port: u16) -> TlsDial {
        let config = self.setup().to_strangers.clone();
        let name = ServerName::try_from(proto_grpc::connect::PEER_NAME).expect("a constant name");
        TlsDial { host: host.to_owned(), port, config, name, bind: self.bind }
    }
}

impl Setup {
    fn new(identity: &Identity, pool: Option<&PoolIdentity>) -> anyhow::Result<Self> {
        let chain = match pool {
            Some(pool) => vec![
                identity::certificate_of(&pool.certificate_pem)?,
                identity::certificate_of(&pool.ca_pem)?,
            ],
            None => vec![identity.certificate()?],
        };
        let key = PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes())
            .map_err(|e| anyhow::anyhow!("private key: {e}"))?;
        let roots = pool.map(|_| roots(&chain[1])).transpose()?;
        let own = fingerprint(&chain[0]);
        Ok(Self {
            server: server_config(chain.clone(), key.clone_key())?,
            to_strangers: Arc::new(h2(
                stranger().with_client_auth_cert(chain.clone(), key.clone_key())?
            )),
            clients: roots.clone().map(client_verifier).transpose()?,
            to_peers: roots.map(|roots| to_peers(roots, chain, key)).transpose()?,
            own,
        })
    }

    fn connection(&self, stream: &TlsStream<TcpStream>) -> Connection {
        let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let peer = certificates.split_first().and_then(|(leaf, rest)| {
            let verifier = self.clients.as_ref()?;
            verifier.verify_client_cert(leaf, rest, UnixTime::now()).ok()?;
            identity::names_of(leaf)
        });
        Connection {
            local: false,
            peer,
            certificates: certificates.iter().take(2).map(|c| c.to_vec()).collect(),
            own: self.own,
            remote: stream.get_ref().0.peer_addr().ok().map(|a| a.ip()),
        }
    }
}

fn roots(ca: &CertificateDer<'static>) -> anyhow::Result<Arc<RootCertStore>> {
    let mut roots = RootCertStore::empty();
    roots.add(ca.clone()).context("the pool's CA certificate")?;
    Ok(Arc::new(roots))
}

fn client_verifier(roots: Arc<RootCertStore>) -> anyhow::Result<Arc<dyn ClientCertVerifier>> {
    Ok(WebPkiClientVerifier::builder_with_provider(roots, provider()).build()?)
}

fn server_config(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> anyhow::Result<Arc<ServerConfig>> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(Arc::new(AnyClient))
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}

fn to_peers(
    roots: Arc<RootCertStore>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> anyhow::Result<Arc<ClientConfig>> {
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)?;
    Ok(Arc::new(h2(config)))
}

fn h2(mut config: ClientConfig) -> ClientConfig {
    config.alpn_protocols = vec![b"h2".to_vec()];
    config
}

/// Accepts any certificate whose key the client holds, and none.
#[derive(Debug)]
struct AnyClient;

impl ClientCertVerifier for AnyClient {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _leaf: &CertificateDer<'_>,
        _rest: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = provider().signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

/// An accepted connection for tonic, which finds the [`Connection`] in the request.
#[derive(Debug)]
pub enum ServerIo {
    Tls(Box<TlsStream<TcpStream>>, Connection),
    Unix(UnixStream),
}

impl Connected for ServerIo {
    type ConnectInfo = Connection;

    fn connect_info(&self) -> Connection {
        match self {
            ServerIo::Tls(_, connection) => connection.clone(),
            ServerIo::Unix(_) => Connection { local: true, ..Connection::default() },
        }
    }
}

impl AsyncRead for ServerIo {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Cx<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            ServerIo::Tls(stream, _) => Pin::new(stream).poll_read(cx, buffer),
            ServerIo::Unix(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for ServerIo {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Cx<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            ServerIo::Tls(stream, _) => Pin::new(stream).poll_write(cx, data),
            ServerIo::Unix(stream) => Pin::new(stream).poll_write(cx, data),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Cx<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            ServerIo::Tls(stream, _) => Pin::new(stream).poll_flush(cx),
            ServerIo::Unix(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Cx<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            ServerIo::Tls(stream, _) => Pin::new(stream).poll_shutdown(cx),
            ServerIo::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// The stream that tonic serves.
pub type Incoming = tokio_stream::wrappers::ReceiverStream<io::Result<ServerIo>>;

/// Accepts TLS connections until the receiving end is gone.
pub fn listen_tls(listener: TcpListener, tls: Arc<Tls>) -> Incoming {
    let (sender, receiver) = mpsc::channel(ACCEPTED_MAX);
    tokio::spawn(async move {
        let permits = Arc::new(Semaphore::new(HANDSHAKES_MAX));
        while let Ok(permit) = permits.clone().acquire_owned().await {
            let tcp = tokio::select! {
                () = sender.closed() => break,
                accepted = listener.accept() => match accepted {
                    Ok((tcp, _)) => tcp,
                    Err(error) => {
                        // Out of file descriptors: accepting again at once would only spin.
                        tracing::warn!(%error, "accept");
                        tokio::time::sleep(Duration::from_millis(50)).await;
                        continue;
                    }
                },
            };
            let (setup, sender) = (tls.setup(), sender.clone());
            tokio::spawn(async move {
                match handshake(&setup, tcp).await {
                    Ok(io) => drop(sender.send(Ok(io)).await),
                    Err(error) => tracing::debug!(%error, "TLS handshake"),
                }
                drop(permit);
            });
        }
    });
    Incoming::new(receiver)
}

async fn handshake(setup: &Setup, tcp: TcpStream) -> io::Result<ServerIo> {
    proto_grpc::socket::prepare(&tcp)?;
    let accept = TlsAcceptor::from(setup.server.clone()).accept(tcp);
    let stream = tokio::time::timeout(HANDSHAKE_TIMEOUT, accept).await??;
    let connection = setup.connection(&stream);
    Ok(ServerIo::Tls(Box::new(stream), connection))
}

/// Accepts connections on the root-only unix socket.
pub fn listen_unix(listener: UnixListener) -> Incoming {
    let (sender, receiver) = mpsc::channel(ACCEPTED_MAX);
    tokio::spawn(async move {
        loop {
            let accepted = tokio::select! {
                () = sender.closed() => break,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => drop(sender.send(Ok(ServerIo::Unix(stream))).await),
                Err(error) => {
                    tracing::warn!(%error, "accept on the control socket");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    });
    Incoming::new(receiver)
}
