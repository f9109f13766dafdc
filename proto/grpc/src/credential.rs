//! The token file: a name, a secret, and the one certificate that its holder trusts.
//!
//! One line of text, `brick-token-1:KIND:NAME:SECRET:PIN`, with the secret and the pin (SHA-256 of a
//! certificate in DER form) in unpadded URL-safe base64. A local token pins the daemon's own
//! certificate, a client token the pool's CA, so that it is good for every peer.

use std::fmt;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

const PREFIX: &str = "brick-token-1";

/// Metadata key under which a credential travels, inside TLS only.
pub const AUTHORIZATION: &str = "authorization";

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Root of the peer's own machine.
    Local,
    /// A client that `brick client add` named.
    Client,
}

#[derive(Clone, PartialEq, Eq)]
pub struct Credential {
    pub kind: Kind,
    pub name: String,
    pub secret: [u8; 32],
    pub pin: [u8; 32],
}

#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    #[error("{path}: {source}")]
    Read { path: String, source: std::io::Error },
    #[error("not a Brickwork token (expected one line that starts with '{PREFIX}:')")]
    Format,
}

/// Secrets never reach a log.
impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential").field("kind", &self.kind).field("name", &self.name).finish()
    }
}

impl Credential {
    /// # Errors
    /// The file cannot be read, or is no token.
    pub fn read(path: &Path) -> Result<Self, CredentialError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| CredentialError::Read { path: path.display().to_string(), source })?;
        Self::parse(&text)
    }

    /// # Errors
    /// The text is no token.
    pub fn parse(text: &str) -> Result<Self, CredentialError> {
        let fields: Vec<&str> = text.trim().split(':').collect();
        let [PREFIX, kind, name, secret, pin] = fields[..] else {
            return Err(CredentialError::Format);
        };
        let kind = match kind {
            "local" => Kind::Local,
            "client" => Kind::Client,
            _ => return Err(CredentialError::Format),
        };
        Ok(Self {
            kind,
            name: name.to_owned(),
            secret: bytes32(secret).ok_or(CredentialError::Format)?,
            pin: bytes32(pin).ok_or(CredentialError::Format)?,
        })
    }

    /// The token file's content.
    pub fn to_text(&self) -> String {
        let kind = match self.kind {
            Kind::Local => "local",
            Kind::Client => "client",
        };
        let (secret, pin) = (URL_SAFE_NO_PAD.encode(self.secret), URL_SAFE_NO_PAD.encode(self.pin));
        format!("{PREFIX}:{kind}:{}:{secret}:{pin}", self.name)
    }

    /// The metadata value that proves this credential to a server.
    pub fn bearer(&self) -> String {
        let kind = match self.kind {
            Kind::Local => "local",
            Kind::Client => "client",
        };
        format!("Bearer {kind}:{}:{}", self.name, URL_SAFE_NO_PAD.encode(self.secret))
    }

    /// Kind, name and secret out of a metadata value.
    pub fn from_bearer(value: &str) -> Option<(Kind, String, [u8; 32])> {
        let fields: Vec<&str> = value.strip_prefix("Bearer ")?.split(':').collect();
        let [kind, name, secret] = fields[..] else { return None };
        let kind = match kind {
            "local" => Kind::Local,
            "client" => Kind::Client,
            _ => return None,
        };
        Some((kind, name.to_owned(), bytes32(secret)?))
    }
}

fn bytes32(text: &str) -> Option<[u8; 32]> {
    URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Credential {
        Credential { kind: Kind::Client, name: "web1".into(), secret: [7; 32], pin: [9; 32] }
    }

    #[test]
    fn a_token_survives_its_file_and_its_header() {
        let token = sample();
        assert_eq!(Credential::parse(&format!("{}\n", token.to_text())).unwrap(), token);
        let (kind, name, secret) = Credential::from_bearer(&token.bearer()).unwrap();
        assert_eq!((kind, name.as_str(), secret), (Kind::Client, "web1", [7; 32]));
    }

    #[test]
    fn garbage_is_no_token() {
        for text in ["", "brick-token-1", "brick-token-1:root:x:y:z", "brick-token-1:local:x:AA:AA"]
        {
            assert!(Credential::parse(text).is_err(), "{text}");
        }
        assert!(Credential::from_bearer("Bearer client:x:AA").is_none());
    }

    #[test]
    fn a_secret_is_not_printed() {
        assert!(!format!("{:?}", sample()).contains('7'));
    }
}
