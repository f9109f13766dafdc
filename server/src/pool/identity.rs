//! Keys and certificates: this peer's own, and those that the pool's CA signs.
//!
//! A peer keeps one key pair for life. Un-pooled it shows a self-signed certificate, whose
//! SHA-256 is its fingerprint; in a pool one signed by the pool's CA, with the peer's UUID and
//! node number as names. Certificates have no useful validity times, since wall clocks may be
//! wrong: a detached peer's is void because the pool's state lists its node number.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use proto::PeerId;
use proto_grpc::connect::PEER_NAME;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer};
use serde::{Deserialize, Serialize};

use super::files;

/// What a peer is before and in any pool.
#[derive(Debug)]
pub struct Identity {
    pub id: PeerId,
    pub key_pem: String,
    /// Self-signed certificate, PEM.
    pub certificate_pem: String,
}

/// What a peer is in its pool; stored when it is let in, removed when it is detached.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PoolIdentity {
    pub pool_id: uuid::Uuid,
    pub node: u64,
    pub host: String,
    pub ca_pem: String,
    pub certificate_pem: String,
}

impl Identity {
    /// Reads the identity in `state_dir`, or makes one.
    ///
    /// # Errors
    /// Files that cannot be read, written or understood.
    pub fn load(state_dir: &Path) -> anyhow::Result<Self> {
        let (id, key, certificate) =
            (state_dir.join("peer-id"), state_dir.join("peer.key"), state_dir.join("peer.crt"));
        if !certificate.exists() {
            // The certificate is written last: without it the other two are leftovers.
            let fresh = Self::generate()?;
            files::write_private(&id, fresh.id.to_string().as_bytes())?;
            files::write_private(&key, fresh.key_pem.as_bytes())?;
            files::write_private(&certificate, fresh.certificate_pem.as_bytes())?;
            return Ok(fresh);
        }
        let read = |path: &PathBuf| {
            std::fs::read_to_string(path).with_context(|| path.display().to_string())
        };
        let text = read(&id)?;
        Ok(Self {
            id: text.trim().parse().with_context(|| format!("{}: no UUID", id.display()))?,
            key_pem: read(&key)?,
            certificate_pem: read(&certificate)?,
        })
    }

    fn generate() -> anyhow::Result<Self> {
        let (id, key) = (PeerId::random(), KeyPair::generate()?);
        let certificate = leaf_params(&[PEER_NAME.into(), peer_name(id)])?.self_signed(&key)?;
        Ok(Self { id, key_pem: key.serialize_pem(), certificate_pem: certificate.pem() })
    }

    /// # Errors
    /// The stored certificate is damaged.
    pub fn certificate(&self) -> anyhow::Result<CertificateDer<'static>> {
        certificate_of(&self.certificate_pem)
    }

    /// A request for a certificate of this peer's key, DER.
    ///
    /// # Errors
    /// The stored key is damaged.
    pub fn signing_request(&self) -> anyhow::Result<Vec<u8>> {
        let key = KeyPair::from_pem(&self.key_pem)?;
        let request = leaf_params(&[peer_name(self.id)])?.serialize_request(&key)?;
        Ok(request.der().to_vec())
    }
}

impl PoolIdentity {
    fn path(state_dir: &Path) -> PathBuf {
        state_dir.join("pool.json")
    }

    /// # Errors
    /// The file is there and cannot be read or understood.
    pub fn load(state_dir: &Path) -> anyhow::Result<Option<Self>> {
        let path = Self::path(state_dir);
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => bail!("{}: {e}", path.display()),
        };
        Ok(Some(serde_json::from_slice(&text).with_context(|| path.display().to_string())?))
    }

    /// # Errors
    /// It could not be made durable.
    pub fn store(&self, state_dir: &Path) -> anyhow::Result<()> {
        files::write_private(&Self::path(state_dir), &serde_json::to_vec(self)?)
    }

    /// Un-pooled from the next start on; the file stays, under another name.
    ///
    /// # Errors
    /// The system's.
    pub fn set_aside(state_dir: &Path) -> anyhow::Result<()> {
        let (path, aside) = (Self::path(state_dir), state_dir.join("dropped.json"));
        std::fs::rename(&path, &aside).with_context(|| aside.display().to_string())
    }

    /// # Errors
    /// It could not be removed durably.
    pub fn remove(state_dir: &Path) -> anyhow::Result<()> {
        files::remove(&Self::path(state_dir))
    }
}

fn peer_name(id: PeerId) -> String {
    format!("{id}.{PEER_NAME}")
}

fn node_name(node: u64) -> String {
    format!("n{node}.{PEER_NAME}")
}

/// The name by which TLS knows exactly this peer.
///
/// # Panics
/// Never: a UUID is a valid DNS label.
pub fn server_name(id: PeerId) -> rustls::pki_types::ServerName<'static> {
    peer_name(id).try_into().expect("a UUID is a valid DNS label")
}

fn leaf_params(names: &[String]) -> anyhow::Result<CertificateParams> {
    let mut params = CertificateParams::new(names.to_vec())?;
    params.distinguished_name.push(DnType::CommonName, "Brickwork peer");
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    Ok(params)
}

/// A new pool's CA: certificate and key, PEM.
///
/// # Errors
/// The random generator's.
pub fn new_ca() -> anyhow::Result<(String, String)> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name.push(DnType::CommonName, "Brickwork pool");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    Ok((params.self_signed(&key)?.pem(), key.serialize_pem()))
}

/// The certificate of node `node`, peer `id`, for the key in `request` (DER).
///
/// # Errors
/// The request is not a valid, self-signed request, or the CA is damaged.
pub fn sign(ca: (&str, &str), request: &[u8], id: PeerId, node: u64) -> anyhow::Result<String> {
    let request = CertificateSigningRequestDer::from(request.to_vec());
    let request = CertificateSigningRequestParams::from_der(&request)?;
    let issuer = Issuer::from_ca_cert_pem(ca.0, KeyPair::from_pem(ca.1)?)?;
    // Nothing of the request but its key: names are what the pool says.
    let params = leaf_params(&[PEER_NAME.into(), peer_name(id), node_name(node)])?;
    Ok(params.signed_by(&request.public_key, &issuer)?.pem())
}

/// # Errors
/// Not a PEM certificate.
pub fn certificate_of(pem: &str) -> anyhow::Result<CertificateDer<'static>> {
    CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|e| anyhow::anyhow!("certificate: {e}"))
}

/// Which peer and node a certificate of the pool's CA names.
pub fn names_of(certificate: &[u8]) -> Option<(PeerId, u64)> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let names = parsed.subject_alternative_name().ok()??;
    let suffix = format!(".{PEER_NAME}");
    let (mut id, mut node) = (None, None);
    for name in &names.value.general_names {
        let x509_parser::extensions::GeneralName::DNSName(name) = name else { continue };
        let Some(label) = name.strip_suffix(suffix.as_str()) else { continue };
        if let Ok(peer) = label.parse::<PeerId>() {
            id = Some(peer);
        } else if let Some(number) = label.strip_prefix('n').and_then(|n| n.parse().ok()) {
            node = Some(number);
        }
    }
    Some((id?, node?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_made_once_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let made = Identity::load(dir.path()).unwrap();
        let read = Identity::load(dir.path()).unwrap();
        assert_eq!((made.id, &made.certificate_pem), (read.id, &read.certificate_pem));
    }

    #[test]
    fn the_ca_signs_names_of_its_own_choice_for_the_requests_key() {
        let dir = tempfile::tempdir().unwrap();
        let identity = Identity::load(dir.path()).unwrap();
        let (ca, key) = new_ca().unwrap();
        let other = PeerId::random();
        let request = identity.signing_request().unwrap();
        let signed = sign((&ca, &key), &request, other, 7).unwrap();
        assert_eq!(names_of(&certificate_of(&signed).unwrap()), Some((other, 7)));
        assert!(sign((&ca, &key), &request[1..], other, 7).is_err());
        assert_eq!(names_of(&identity.certificate().unwrap()), None, "no node number");
    }
}
