//! The local token: root of this machine mounts and administers over TCP with it.

use proto_grpc::Credential;
use proto_grpc::credential::Kind;

use super::{Pool, files};

impl Pool {
    /// Writes `local.token` for the certificate that is shown now. The secret is kept over
    /// restarts, so that a mount that reconnects needs not read it again.
    pub(super) fn write_local_token(&self) -> anyhow::Result<()> {
        let path = self.config().local_token();
        let secret = match Credential::read(&path) {
            Ok(known) => known.secret,
            Err(_) => files::random()?,
        };
        let token = Credential {
            kind: Kind::Local,
            name: "root".into(),
            secret,
            pin: self.tls().fingerprint(),
        };
        *self.0.local_secret.lock().expect("no panic under this lock") = Some(secret);
        files::write_private(&path, format!("{}\n", token.to_text()).as_bytes())
    }

    /// Whether this is the local token's secret.
    pub fn is_local_secret(&self, secret: &[u8; 32]) -> bool {
        let known = *self.0.local_secret.lock().expect("no panic under this lock");
        known.is_some_and(|known| equal(&known, secret))
    }
}

/// Compares in the same time wherever the difference is.
pub fn equal(a: &[u8; 32], b: &[u8; 32]) -> bool {
    a.iter().zip(b).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
}
