//! How a peer shows another peer's data port that it belongs to the pool.
//!
//! The proof is 64 bytes: peer id, 16 random bytes, and an HMAC-SHA256 over a label (what it is
//! good for), brick, session, peer and the random bytes. Its key is derived from a secret of the replicated pool
//! state, which only peers hold. Sound against everybody who does not hold the key; like a
//! ticket it says nothing about the bytes that follow, which only TLS on the data port can.

use hmac::{Hmac, Mac};
use proto::{BrickId, PeerId, SessionId};
use sha2::Sha256;

const LABEL: &[u8] = b"brickwork data port, peer proof 1";
const RELAY_LABEL: &[u8] = b"brickwork data port, relay proof 1";
const NONCE_BYTES: usize = 16;
const PROOF_BYTES: usize = 16 + NONCE_BYTES + 32;

/// What a proof opens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// The operations between peers.
    Peer,
    /// A session's connection that comes from the peer's address instead of the session's.
    Relay,
}

impl Purpose {
    fn label(self) -> &'static [u8] {
        match self {
            Purpose::Peer => LABEL,
            Purpose::Relay => RELAY_LABEL,
        }
    }
}

/// Key of peer proofs: independent of the tickets' key for whoever holds only one of them.
pub struct PeerSecret([u8; 32]);

/// Derives the secret from the pool's ticket key.
pub fn peer_secret(ticket_key: &[u8; 32]) -> PeerSecret {
    let tag = mac(ticket_key, &[LABEL, b"key"]).finalize().into_bytes();
    PeerSecret(tag.into())
}

fn mac(key: &[u8; 32], parts: &[&[u8]]) -> Hmac<Sha256> {
    let mut mac = <Hmac<Sha256> as Mac>::new_from_slice(key).expect("HMAC takes any key length");
    parts.iter().for_each(|part| mac.update(part));
    mac
}

/// A proof of being `peer`, for one brick and session.
///
/// # Errors
/// The kernel gives no random bytes.
pub fn make(
    secret: &PeerSecret,
    purpose: Purpose,
    peer: PeerId,
    brick: BrickId,
    session: SessionId,
) -> Result<Vec<u8>, getrandom::Error> {
    let mut nonce = [0; NONCE_BYTES];
    getrandom::fill(&mut nonce)?;
    let session = session.0.to_le_bytes();
    let parts: [&[u8]; 5] = [purpose.label(), brick.as_bytes(), &session, peer.as_bytes(), &nonce];
    let tag = mac(&secret.0, &parts).finalize().into_bytes();
    Ok([&peer.as_bytes()[..], &nonce, &tag].concat())
}

/// The peer that a proof names, if it is one.
pub fn check(
    proof: &[u8],
    secret: &PeerSecret,
    purpose: Purpose,
    brick: BrickId,
    session: SessionId,
) -> Option<PeerId> {
    if proof.len() != PROOF_BYTES {
        return None;
    }
    let (peer, rest) = proof.split_at(16);
    let (nonce, tag) = rest.split_at(NONCE_BYTES);
    let session = session.0.to_le_bytes();
    let parts: [&[u8]; 5] = [purpose.label(), brick.as_bytes(), &session, peer, nonce];
    mac(&secret.0, &parts).verify_slice(tag).ok()?;
    PeerId::from_slice(peer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_holds_for_its_purpose_peer_brick_and_session_only() {
        const PEER: Purpose = Purpose::Peer;
        let secret = peer_secret(&[7; 32]);
        let (peer, brick) = (PeerId::random(), BrickId::random());
        let proof = make(&secret, PEER, peer, brick, SessionId(3)).unwrap();
        assert_eq!(check(&proof, &secret, PEER, brick, SessionId(3)), Some(peer));
        assert_eq!(check(&proof, &secret, Purpose::Relay, brick, SessionId(3)), None);
        assert_eq!(check(&proof, &secret, PEER, brick, SessionId(4)), None);
        assert_eq!(check(&proof, &secret, PEER, BrickId::random(), SessionId(3)), None);
        assert_eq!(check(&proof, &peer_secret(&[8; 32]), PEER, brick, SessionId(3)), None);
        for at in 0..proof.len() {
            let mut forged = proof.clone();
            forged[at] ^= 1;
            assert_eq!(check(&forged, &secret, PEER, brick, SessionId(3)), None, "byte {at}");
        }
    }
}
