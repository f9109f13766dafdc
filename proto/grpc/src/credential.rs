//! The token file: a name, a secret, and the one certificate that its holder trusts.
//!
//! One line of text, `brick-token-1:KIND:NAME:SECRET:PIN`, with the secret and the pin (SHA-256 of a
//! certificate in DER form) in unpadded URL-safe base64. A local token pins the daemon's own
//! certificate, a client token the pool's CA, so that it is good for every peer.

use std::fmt;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
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
    #[error("{path} can be read by others than its owner; 'chmod 600 {path}', or make a new token")]
    Open { path: String },
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
    /// The file cannot be read, is no token, or others can read it: whoever did has its secret.
    pub fn read(path: &Path) -> Result<Self, CredentialError> {
        let shown = || path.display().to_string();
        let failed = |source| CredentialError::Read { path: shown(), source };
        let mut file = std::fs::File::open(path).map_err(failed)?;
        let about = file.metadata().map_err(failed)?;
        // A pipe (`/dev/stdin`) has no readers but us.
        if about.is_file() && about.permissions().mode() & 0o077 != 0 {
            return Err(CredentialError::Open { path: shown() });
        }
        let mut text = String::new();
        file.read_to_string(&mut text).map_err(failed)?;
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

    /// What it opens peers with.
    pub fn pass(&self) -> Pass {
        let kind = match self.kind {
            Kind::Local => "local",
            Kind::Client => "client",
        };
        let secret = URL_SAFE_NO_PAD.encode(self.secret);
        Pass { header: format!("Bearer {kind}:{}:{secret}", self.name), pin: self.pin }
    }
}

/// Opens the control port of whoever shows the pinned certificate, or one issued by it.
#[derive(Clone)]
pub struct Pass {
    header: String,
    pub pin: [u8; 32],
}

impl fmt::Debug for Pass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pass")
    }
}

impl Pass {
    /// Of a mount: its ticket, good for every peer of the pool whose CA is pinned.
    pub fn ticket(ticket: &[u8], pin: [u8; 32]) -> Pass {
        Pass { header: format!("Bearer ticket:{}", URL_SAFE_NO_PAD.encode(ticket)), pin }
    }

    /// The metadata value that proves it to a server.
    pub fn header(&self) -> &str {
        &self.header
    }
}

/// What a server finds in the metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shown {
    Token { kind: Kind, name: String, secret: [u8; 32] },
    Ticket(Vec<u8>),
}

impl Shown {
    /// `None`: not a value that a [`Pass`] makes.
    pub fn parse(value: &str) -> Option<Shown> {
        let fields: Vec<&str> = value.strip_prefix("Bearer ")?.split(':').collect();
        let (kind, name, secret) = match fields[..] {
            ["ticket", ticket] => return Some(Shown::Ticket(URL_SAFE_NO_PAD.decode(ticket).ok()?)),
            ["local", name, secret] => (Kind::Local, name, secret),
            ["client", name, secret] => (Kind::Client, name, secret),
            _ => return None,
        };
        Some(Shown::Token { kind, name: name.to_owned(), secret: bytes32(secret)? })
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
        let shown = Shown::parse(token.pass().header()).unwrap();
        let expected = Shown::Token { kind: Kind::Client, name: "web1".into(), secret: [7; 32] };
        assert_eq!(shown, expected);
        let ticket = Pass::ticket(b"bytes", [1; 32]);
        assert_eq!(Shown::parse(ticket.header()), Some(Shown::Ticket(b"bytes".to_vec())));
    }

    #[test]
    fn a_token_that_others_can_read_is_refused_with_the_way_out() {
        let path = std::env::temp_dir().join(format!("brick-token-{}", std::process::id()));
        std::fs::write(&path, sample().to_text()).unwrap();
        let with_mode = |mode: u32| {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            Credential::read(&path)
        };
        for mode in [0o644, 0o640, 0o604] {
            let why = with_mode(mode).unwrap_err().to_string();
            assert!(why.contains("chmod 600"), "{mode:o}: {why}");
        }
        assert_eq!(with_mode(0o600).unwrap(), sample());
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn garbage_is_no_token() {
        for text in ["", "brick-token-1", "brick-token-1:root:x:y:z", "brick-token-1:local:x:AA:AA"]
        {
            assert!(Credential::parse(text).is_err(), "{text}");
        }
        assert_eq!(Shown::parse("Bearer client:x:AA"), None);
        assert_eq!(Shown::parse("Bearer ticket:!"), None);
    }

    #[test]
    fn a_secret_is_not_printed() {
        assert!(!format!("{:?}", sample()).contains('7'));
    }
}
