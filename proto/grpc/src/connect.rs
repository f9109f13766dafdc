//! Channels: TLS over TCP with a pinned certificate, or the daemon's root-only unix socket.
//!
//! Names on certificates are not host names: a peer is reached under any address, and what
//! counts is whose certificate it shows. [`PEER_NAME`] stands on every peer's certificate.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use sha2::{Digest, Sha256};
use tokio::net::{TcpSocket, TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::codegen::Service;
use tonic::codegen::http::Uri;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};

use crate::credential::{AUTHORIZATION, Pass};

/// A name that every peer's certificate carries.
pub const PEER_NAME: &str = "peer.brickwork";
/// A connection that is not there after this time counts as failed: a switched-off machine
/// answers nothing at all.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// SHA-256 of a certificate in DER form.
pub fn fingerprint(certificate: &[u8]) -> [u8; 32] {
    Sha256::digest(certificate).into()
}

/// The ring provider, named explicitly: with two providers in the tree a default would panic.
pub fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Where and how to open TLS connections.
#[derive(Clone, Debug)]
pub struct TlsDial {
    pub host: String,
    pub port: u16,
    pub config: Arc<ClientConfig>,
    pub name: ServerName<'static>,
    /// Local address to call from, so that several daemons of one machine are told apart.
    pub bind: Option<IpAddr>,
}

impl TlsDial {
    /// Opens one connection.
    ///
    /// # Errors
    /// No address, no answer in [`CONNECT_TIMEOUT`], or not the expected certificate.
    pub async fn connect(&self) -> io::Result<TlsStream<TcpStream>> {
        let attempt = async {
            let tcp = self.tcp().await?;
            crate::socket::prepare(&tcp)?;
            TlsConnector::from(self.config.clone()).connect(self.name.clone(), tcp).await
        };
        match tokio::time::timeout(CONNECT_TIMEOUT, attempt).await {
            Ok(result) => result,
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "no answer")),
        }
    }

    async fn tcp(&self) -> io::Result<TcpStream> {
        let mut last = io::Error::new(io::ErrorKind::NotFound, "no such host");
        for address in tokio::net::lookup_host((self.host.as_str(), self.port)).await? {
            match self.tcp_to(address).await {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn tcp_to(&self, address: SocketAddr) -> io::Result<TcpStream> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        if let Some(ip) = self.bind.filter(|ip| ip.is_ipv4() == address.is_ipv4()) {
            socket.bind(SocketAddr::new(ip, 0))?;
        }
        socket.connect(address).await
    }

    /// A channel that connects when first used and again after a loss.
    pub fn channel(self) -> Channel {
        endpoint().connect_with_connector_lazy(self)
    }
}

fn endpoint() -> Endpoint {
    Endpoint::from_static("http://brickd.invalid").http2_keep_alive_interval(Duration::from_secs(5))
}

type Connecting<T> = Pin<Box<dyn Future<Output = io::Result<TokioIo<T>>> + Send>>;

impl Service<Uri> for TlsDial {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = io::Error;
    type Future = Connecting<TlsStream<TcpStream>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let dial = self.clone();
        Box::pin(async move { Ok(TokioIo::new(dial.connect().await?)) })
    }
}

#[derive(Clone)]
struct UnixDial(PathBuf);

impl Service<Uri> for UnixDial {
    type Response = TokioIo<UnixStream>;
    type Error = io::Error;
    type Future = Connecting<UnixStream>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let path = self.0.clone();
        Box::pin(async move { Ok(TokioIo::new(UnixStream::connect(path).await?)) })
    }
}

/// Connects to a daemon of this machine over its root-only socket.
///
/// # Errors
/// Nobody listens there, or it may not be opened.
pub async fn unix(path: &Path) -> Result<Channel, tonic::transport::Error> {
    endpoint().connect_with_connector(UnixDial(path.to_owned())).await
}

/// A channel to a peer's control port for the holder of a pass. Connects when first used.
pub fn with_pass(host: &str, port: u16, pass: &Pass, bind: Option<IpAddr>) -> Channel {
    TlsDial {
        host: host.to_owned(),
        port,
        config: pinned(pass.pin),
        name: ServerName::try_from(PEER_NAME).expect("a valid constant name"),
        bind,
    }
    .channel()
}

/// Puts the pass on a request. Only for channels made by [`with_pass`], which are TLS.
pub fn attach<T>(request: &mut tonic::Request<T>, pass: &Pass) {
    if let Ok(mut value) = MetadataValue::try_from(pass.header()) {
        value.set_sensitive(true);
        request.metadata_mut().insert(AUTHORIZATION, value);
    }
}

/// Adds the pass to every request of a generated client (`with_interceptor`).
#[derive(Clone, Debug)]
pub struct WithPass(pub Option<Pass>);

impl tonic::service::Interceptor for WithPass {
    fn call(
        &mut self,
        mut request: tonic::Request<()>,
    ) -> Result<tonic::Request<()>, tonic::Status> {
        if let Some(pass) = &self.0 {
            attach(&mut request, pass);
        }
        Ok(request)
    }
}

/// TLS that trusts exactly one certificate, the server's own or the CA that it presents.
pub fn pinned(pin: [u8; 32]) -> Arc<ClientConfig> {
    client_config(Pinned { pin: Some(pin) })
}

/// TLS that accepts any server: for the join handshake, which proves both ends by other means.
pub fn stranger() -> rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert> {
    builder().dangerous().with_custom_certificate_verifier(Arc::new(Pinned { pin: None }))
}

fn builder() -> rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier> {
    ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("ring supports the default versions")
}

fn client_config(verifier: Pinned) -> Arc<ClientConfig> {
    let mut config = builder()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(config)
}

#[derive(Debug)]
struct Pinned {
    /// `None` accepts whoever holds the key of the certificate shown.
    pin: Option<[u8; 32]>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(pin) = self.pin else { return Ok(ServerCertVerified::assertion()) };
        if fingerprint(leaf) == pin {
            return Ok(ServerCertVerified::assertion());
        }
        let unknown = rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
        let ca = chain.iter().find(|c| fingerprint(c) == pin).ok_or(unknown)?;
        let mut roots = RootCertStore::empty();
        roots.add(ca.clone().into_owned())?;
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider())
            .build()
            .map_err(|e| rustls::Error::General(e.to_string()))?
            .verify_server_cert(leaf, &[], name, ocsp, now)
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
