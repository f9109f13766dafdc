//! Tickets: what a mount shows to a data port, signed by the pool.
//!
//! A ticket is 32 bytes of HMAC-SHA256 over the rest: one version byte, the volume, the
//! session, the rights, the expiry in seconds since 1970, the holder's kind, the length of its
//! name and the name, and the subdirectory. Pure; whoever holds the pool's key can make and
//! check them. The expiry only bounds how long a ticket opens *new* connections: wall clocks
//! may be wrong, so that a running session never depends on it. A ticket also opens the control
//! port of every peer to its own session, which gets its next ticket there.

use hmac::{Hmac, Mac};
use proto::{PeerId, SessionId, VolumeId};
use sha2::Sha256;

const VERSION: u8 = 2;
const MAC_BYTES: usize = 32;
const FIXED_BYTES: usize = MAC_BYTES + 1 + 16 + 8 + 1 + 8 + 2;
const NAME_BYTES_MAX: usize = u8::MAX as usize;
/// A path given to a system call is shorter than this.
const SUBDIR_BYTES_MAX: usize = 4096;
/// A mount fetches a new ticket long before; a stolen one is of no use after a day.
pub const VALID_S: u64 = 24 * 3600;

/// For whom a ticket was made; it is good for no new session or ticket once they are gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    /// Root of a peer's machine.
    Peer(PeerId),
    /// A client of that name.
    Client(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ticket {
    pub volume: VolumeId,
    pub session: SessionId,
    pub holder: Holder,
    pub read_only: bool,
    /// Wall time, seconds since 1970-01-01 UTC.
    pub expires_s: u64,
    /// Absolute path inside the volume; empty for all of it.
    pub subdir: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TicketError {
    #[error("not a ticket of this pool")]
    Forged,
    #[error("the ticket has expired; mount again")]
    Expired,
    #[error("the ticket has a format that this version does not know")]
    Format,
}

fn mac(key: &[u8; 32], body: &[u8]) -> Hmac<Sha256> {
    let mut mac = <Hmac<Sha256> as Mac>::new_from_slice(key).expect("HMAC takes any key length");
    mac.update(body);
    mac
}

impl Ticket {
    pub fn encode(&self, key: &[u8; 32]) -> Vec<u8> {
        let mut body = Vec::with_capacity(FIXED_BYTES + self.subdir.len());
        body.push(VERSION);
        body.extend_from_slice(self.volume.as_bytes());
        body.extend_from_slice(&self.session.0.to_le_bytes());
        body.push(u8::from(self.read_only));
        body.extend_from_slice(&self.expires_s.to_le_bytes());
        let (kind, name) = match &self.holder {
            Holder::Peer(peer) => (0, &peer.as_bytes()[..]),
            Holder::Client(name) => (1, name.as_bytes()),
        };
        // Names of clients are short; a longer one could not be checked again.
        let name = &name[..name.len().min(NAME_BYTES_MAX)];
        body.extend_from_slice(&[kind, name.len() as u8]);
        body.extend_from_slice(name);
        body.extend_from_slice(self.subdir.as_bytes());
        let mut out = mac(key, &body).finalize().into_bytes().to_vec();
        out.extend_from_slice(&body);
        out
    }

    /// Checks the signature before it looks at anything else.
    ///
    /// # Errors
    /// Forged, expired at wall time `now_s`, or of an unknown format.
    pub fn verify(bytes: &[u8], key: &[u8; 32], now_s: u64) -> Result<Self, TicketError> {
        if bytes.len() < FIXED_BYTES
            || bytes.len() > FIXED_BYTES + NAME_BYTES_MAX + SUBDIR_BYTES_MAX
        {
            return Err(TicketError::Forged);
        }
        let (tag, body) = bytes.split_at(MAC_BYTES);
        mac(key, body).verify_slice(tag).map_err(|_| TicketError::Forged)?;
        let ticket = Self::decode(body).ok_or(TicketError::Format)?;
        if ticket.expires_s <= now_s {
            return Err(TicketError::Expired);
        }
        Ok(ticket)
    }

    fn decode(body: &[u8]) -> Option<Self> {
        let (version, rest) = body.split_first()?;
        let (volume, rest) = rest.split_at_checked(16)?;
        let (session, rest) = rest.split_at_checked(8)?;
        let (rights, rest) = rest.split_first()?;
        let (expires, rest) = rest.split_at_checked(8)?;
        let (kind, rest) = rest.split_first()?;
        let (length, rest) = rest.split_first()?;
        let (name, subdir) = rest.split_at_checked(usize::from(*length))?;
        let holder = match kind {
            0 => Holder::Peer(PeerId::from_slice(name)?),
            1 => Holder::Client(String::from_utf8(name.to_vec()).ok()?),
            _ => return None,
        };
        if *version != VERSION || *rights > 1 {
            return None;
        }
        Some(Self {
            volume: VolumeId::from_slice(volume)?,
            session: SessionId(u64::from_le_bytes(session.try_into().ok()?)),
            holder,
            read_only: *rights == 1,
            expires_s: u64::from_le_bytes(expires.try_into().ok()?),
            subdir: String::from_utf8(subdir.to_vec()).ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Ticket {
        Ticket {
            volume: VolumeId::from_bytes([5; 16]),
            session: SessionId(77),
            holder: Holder::Client("web1".into()),
            read_only: true,
            expires_s: 1000,
            subdir: "/projects/a".into(),
        }
    }

    #[test]
    fn a_ticket_opens_until_it_expires() {
        let bytes = sample().encode(&[3; 32]);
        assert_eq!(Ticket::verify(&bytes, &[3; 32], 999), Ok(sample()));
        let local = Ticket { holder: Holder::Peer(PeerId::random()), ..sample() };
        assert_eq!(Ticket::verify(&local.encode(&[3; 32]), &[3; 32], 999), Ok(local));
        assert_eq!(Ticket::verify(&bytes, &[3; 32], 1000), Err(TicketError::Expired));
    }

    #[test]
    fn every_flipped_bit_and_every_other_key_is_refused() {
        let bytes = sample().encode(&[3; 32]);
        assert_eq!(Ticket::verify(&bytes, &[4; 32], 0), Err(TicketError::Forged));
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut forged = bytes.clone();
                forged[at] ^= 1 << bit;
                assert_eq!(Ticket::verify(&forged, &[3; 32], 0), Err(TicketError::Forged));
            }
        }
        for length in 0..FIXED_BYTES {
            assert!(Ticket::verify(&bytes[..length], &[3; 32], 0).is_err());
        }
    }
}
