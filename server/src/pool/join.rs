//! How a peer comes into a pool: both sides of the handshake, and the proofs.
//!
//! Neither side trusts the other's certificate yet. Both prove that they know the join key by an HMAC over
//! both nonces and both certificates of this very TLS connection, so that a proof is of no use on
//! another connection. Without a common key, `brick peer accept` on the newcomer names the
//! pool's CA, and the pool takes the newcomer as it finds it, or by the fingerprint given to
//! `peer probe`. A pool that has a join key never falls back to the latter silently.

mod newcomer;
mod prober;

pub use newcomer::Handshakes;
pub use prober::Probed;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, bail, ensure};
use hmac::{Hmac, Mac};
use sha2::Sha256;

use super::files;

/// What both sides sign.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transcript {
    pub pool_nonce: Vec<u8>,
    pub peer_nonce: Vec<u8>,
    pub pool_certificate: [u8; 32],
    pub peer_certificate: [u8; 32],
}

/// Who proves; part of what is signed, so that no side can send the other's proof back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Pool,
    Peer,
}

pub type JoinKey = [u8; 32];

impl Transcript {
    fn mac(&self, side: Side, key: &JoinKey) -> Hmac<Sha256> {
        let mut mac = <Hmac<Sha256> as Mac>::new_from_slice(key).expect("any key length is fine");
        mac.update(match side {
            Side::Pool => b"brickwork join 1: pool",
            Side::Peer => b"brickwork join 1: peer",
        });
        // Nonces are checked to be 32 bytes, so that the parts cannot be shifted.
        mac.update(&self.pool_nonce);
        mac.update(&self.peer_nonce);
        mac.update(&self.pool_certificate);
        mac.update(&self.peer_certificate);
        mac
    }

    pub fn prove(&self, side: Side, key: &JoinKey) -> Vec<u8> {
        self.mac(side, key).finalize().into_bytes().to_vec()
    }

    /// Takes the same time for every wrong proof.
    pub fn verify(&self, side: Side, key: &JoinKey, proof: &[u8]) -> bool {
        self.mac(side, key).verify_slice(proof).is_ok()
    }
}

/// Writes a new join key, 64 hexadecimal digits.
///
/// # Errors
/// It exists and `force` is not given, or it cannot be written.
pub fn make_key(path: &Path, force: bool) -> anyhow::Result<()> {
    ensure!(
        force || !path.exists(),
        "{} exists; copy it to the other nodes, or replace it with --force",
        path.display()
    );
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    }
    files::write_private(path, format!("{}\n", hex(&files::random::<32>()?)).as_bytes())
}

/// The join key of this node; `None` when there is none.
///
/// # Errors
/// The file is damaged, or others than its owner can read it.
pub fn read_key(path: &Path) -> anyhow::Result<Option<JoinKey>> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => bail!("{}: {e}", path.display()),
    };
    let mode = std::fs::metadata(path)?.permissions().mode();
    if mode & 0o077 != 0 {
        bail!("{} can be read by others than root; chmod 600 it", path.display());
    }
    let key = unhex(text.trim())
        .with_context(|| format!("{} is not a join key (64 hexadecimal digits)", path.display()))?;
    Ok(Some(key))
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// 64 hexadecimal digits; colons between them are allowed, as other tools print them.
pub fn unhex(text: &str) -> Option<[u8; 32]> {
    let digits: Vec<u8> = text.bytes().filter(|b| *b != b':').collect();
    if digits.len() != 64 {
        return None;
    }
    let mut out = [0; 32];
    for (byte, pair) in out.iter_mut().zip(digits.chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transcript() -> Transcript {
        Transcript {
            pool_nonce: vec![1; 32],
            peer_nonce: vec![2; 32],
            pool_certificate: [3; 32],
            peer_certificate: [4; 32],
        }
    }

    #[test]
    fn a_proof_is_good_for_one_side_key_and_connection() {
        let proof = transcript().prove(Side::Pool, &[9; 32]);
        assert!(transcript().verify(Side::Pool, &[9; 32], &proof));
        assert!(!transcript().verify(Side::Peer, &[9; 32], &proof), "sent back");
        assert!(!transcript().verify(Side::Pool, &[8; 32], &proof), "another key");
        let relayed = Transcript { peer_certificate: [5; 32], ..transcript() };
        assert!(!relayed.verify(Side::Pool, &[9; 32], &proof), "another connection");
        let replayed = Transcript { peer_nonce: vec![7; 32], ..transcript() };
        assert!(!replayed.verify(Side::Pool, &[9; 32], &proof), "another time");
        assert!(!transcript().verify(Side::Pool, &[9; 32], &[]));
    }

    #[test]
    fn a_key_file_is_private_and_not_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("join.key");
        assert_eq!(read_key(&path).unwrap(), None);
        make_key(&path, false).unwrap();
        let key = read_key(&path).unwrap().unwrap();
        assert!(make_key(&path, false).is_err());
        make_key(&path, true).unwrap();
        assert_ne!(read_key(&path).unwrap().unwrap(), key);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(read_key(&path).is_err());
    }

    #[test]
    fn fingerprints_are_read_with_and_without_colons() {
        let text = hex(&[0xab; 32]);
        assert_eq!(unhex(&text), Some([0xab; 32]));
        assert_eq!(unhex(&vec!["AB"; 32].join(":")), Some([0xab; 32]));
        assert_eq!(unhex("ab"), None);
    }
}
