//! The un-pooled side: answers hello, checks the pool's proof, takes the welcome.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use proto_grpc::connect::{fingerprint, provider};
use proto_grpc::peer::{HelloReply, HelloRequest, ProveReply, ProveRequest, WelcomeRequest};
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use tonic::Status;

use super::{Side, Transcript, read_key};
use crate::pool::identity::{self, PoolIdentity};
use crate::pool::tls::Connection;
use crate::pool::{Pool, files};

/// Handshakes under way; a stranger who opens more pushes out the oldest.
const HANDSHAKES_MAX: usize = 16;
/// From hello to welcome.
const HANDSHAKE_TIME: Duration = Duration::from_secs(60);
const NONCE_BYTES: usize = 32;

/// Handshakes by the certificate that the other side showed.
#[derive(Debug, Default)]
pub struct Handshakes(Mutex<BTreeMap<[u8; 32], Handshake>>);

#[derive(Clone, Debug)]
struct Handshake {
    transcript: Transcript,
    since: Instant,
    proven: bool,
}

impl Handshakes {
    /// # Errors
    /// The caller shows no certificate, or its nonce is not 32 bytes.
    pub fn hello(
        &self,
        pool: &Pool,
        connection: &Connection,
        request: &HelloRequest,
    ) -> Result<HelloReply, Status> {
        let caller = caller(connection)?;
        if request.nonce.len() != NONCE_BYTES {
            return Err(Status::invalid_argument("nonce"));
        }
        let nonce = files::random::<NONCE_BYTES>().map_err(|e| Status::internal(e.to_string()))?;
        let transcript = Transcript {
            pool_nonce: request.nonce.to_vec(),
            peer_nonce: nonce.to_vec(),
            pool_certificate: caller,
            peer_certificate: connection.own,
        };
        self.put(caller, Handshake { transcript, since: Instant::now(), proven: false });
        let config = pool.config();
        let member = pool.membership();
        Ok(HelloReply {
            nonce: nonce.to_vec().into(),
            peer_id: pool.id().as_bytes().to_vec().into(),
            pool_id: member.map(|m| m.pool_id.as_bytes().to_vec()).unwrap_or_default().into(),
            witness: config.witness,
            control_port: config.control_port.into(),
            data_port: config.data_port.into(),
            promise_port: config.promise_port.into(),
            version: env!("CARGO_PKG_VERSION").into(),
        })
    }

    fn put(&self, caller: [u8; 32], handshake: Handshake) {
        let mut all = self.0.lock().expect("no panic under this lock");
        all.retain(|_, h| h.since.elapsed() < HANDSHAKE_TIME);
        if all.len() >= HANDSHAKES_MAX {
            let oldest = all.iter().min_by_key(|(_, h)| h.since).map(|(caller, _)| *caller);
            oldest.and_then(|caller| all.remove(&caller));
        }
        all.insert(caller, handshake);
    }

    fn get(&self, caller: [u8; 32]) -> Result<Handshake, Status> {
        let all = self.0.lock().expect("no panic under this lock");
        let known = all.get(&caller).filter(|h| h.since.elapsed() < HANDSHAKE_TIME).cloned();
        known.ok_or_else(|| Status::failed_precondition("no handshake under way; probe again"))
    }

    /// # Errors
    /// This peer is pooled, or the pool neither knows the join key nor was accepted here.
    pub fn prove(
        &self,
        pool: &Pool,
        connection: &Connection,
        request: &ProveRequest,
    ) -> Result<ProveReply, Status> {
        let caller = caller(connection)?;
        let mut handshake = self.get(caller)?;
        if pool.membership().is_some() {
            return Err(Status::already_exists("this peer belongs to a pool"));
        }
        let key = read_key(&pool.config().join_key)
            .map_err(|e| Status::failed_precondition(format!("{e:#}")))?;
        let transcript = &handshake.transcript;
        let by_key = key.filter(|key| transcript.verify(Side::Pool, key, &request.proof));
        let proof = match by_key {
            Some(key) => transcript.prove(Side::Peer, &key),
            None if accepted(pool, connection, &request.ca_certificate) => Vec::new(),
            None => return Err(refused(&request.ca_certificate)),
        };
        handshake.proven = true;
        self.put(caller, handshake);
        let csr = pool.0.identity.signing_request();
        let csr = csr.map_err(|e| Status::internal(e.to_string()))?;
        Ok(ProveReply { proof: proof.into(), csr: csr.into() })
    }

    /// Joins the pool that proved itself.
    ///
    /// # Errors
    /// Not proven, or the certificates do not fit together.
    pub async fn welcome(
        &self,
        pool: &Pool,
        connection: &Connection,
        request: &WelcomeRequest,
    ) -> Result<(), Status> {
        if !self.get(caller(connection)?)?.proven {
            return Err(Status::permission_denied("prove first"));
        }
        let bad = |what: &str| Status::invalid_argument(format!("welcome: {what}"));
        let ca = identity::certificate_of(&request.ca_pem).map_err(|_| bad("CA"))?;
        if !signed_by(&ca, connection) {
            return Err(bad("the pool's own certificate is not of its CA"));
        }
        let own = identity::certificate_of(&request.certificate_pem).map_err(|_| bad("mine"))?;
        if identity::names_of(&own) != Some((pool.id(), request.node)) {
            return Err(bad("the certificate does not name this peer"));
        }
        let joined = PoolIdentity {
            pool_id: uuid::Uuid::from_slice(&request.pool_id).map_err(|_| bad("pool id"))?,
            node: request.node,
            host: request.host.clone(),
            ca_pem: request.ca_pem.clone(),
            certificate_pem: request.certificate_pem.clone(),
        };
        pool.enter(joined).await.map_err(|e| Status::internal(format!("{e:#}")))
    }
}

fn caller(connection: &Connection) -> Result<[u8; 32], Status> {
    let leaf = connection.certificates.first();
    leaf.map(|c| fingerprint(c)).ok_or_else(|| Status::unauthenticated("no certificate shown"))
}

/// Whether `brick peer accept` named this CA, and the caller's certificate is one of its.
fn accepted(pool: &Pool, connection: &Connection, ca: &[u8]) -> bool {
    let named = *pool.0.accepted.lock().expect("no panic under this lock");
    let ca = CertificateDer::from(ca.to_vec());
    named == Some(fingerprint(&ca)) && signed_by(&ca, connection)
}

fn signed_by(ca: &CertificateDer<'static>, connection: &Connection) -> bool {
    let Some(leaf) = connection.certificates.first() else { return false };
    let mut roots = RootCertStore::empty();
    if roots.add(ca.clone()).is_err() {
        return false;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider()).build();
    let leaf = CertificateDer::from(leaf.clone());
    verifier.is_ok_and(|v| v.verify_client_cert(&leaf, &[], UnixTime::now()).is_ok())
}

fn refused(ca: &[u8]) -> Status {
    Status::permission_denied(format!(
        "the join keys differ or one is missing; copy /etc/brickwork/join.key to both nodes, or type \
         'brick peer accept {}' there, then probe again",
        super::hex(&fingerprint(ca))
    ))
}

impl Pool {
    /// Lets the pool whose CA has this fingerprint probe this peer, until it did or restarts.
    ///
    /// # Errors
    /// This peer belongs to a pool.
    pub fn accept(&self, ca: [u8; 32]) -> Result<(), String> {
        if let Some(member) = self.membership() {
            return Err(format!("this peer already belongs to pool {}", member.pool_id));
        }
        *self.0.accepted.lock().expect("no panic under this lock") = Some(ca);
        Ok(())
    }

    /// Becomes a member of `joined`: durable first, then live.
    async fn enter(&self, joined: PoolIdentity) -> anyhow::Result<()> {
        let _one = self.0.transition.lock().await;
        if let Some(member) = self.membership() {
            anyhow::ensure!(member == joined, "this peer already belongs to a pool");
            return Ok(());
        }
        joined.store(&self.0.config.state_dir)?;
        if let Err(error) = self.run(joined).await {
            PoolIdentity::remove(&self.0.config.state_dir)?;
            self.0.tls.switch(&self.0.identity, None)?;
            return Err(error);
        }
        *self.0.accepted.lock().expect("no panic under this lock") = None;
        Ok(())
    }
}
