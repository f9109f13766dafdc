//! The channel to a brickd: its root-only socket, or TLS with a token.

use proto_grpc::Credential;
use proto_grpc::connect::{self, WithPass};
use proto_grpc::control::control_client::ControlClient;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;

use crate::arguments::Arguments;
use crate::output::Failure;

pub type Control = ControlClient<InterceptedService<Channel, WithPass>>;

/// # Errors
/// Nobody listens, no permission, or no usable token.
pub async fn open(arguments: &Arguments) -> Result<Control, Failure> {
    let target = &arguments.target;
    let (channel, token) = match &target.host {
        None => {
            // A connection refused and a missing socket mean the same; no permission does not.
            if let Err(e) = std::fs::metadata(&target.socket)
                && e.kind() == std::io::ErrorKind::PermissionDenied
            {
                return Err(Failure::plain("only root may talk to the local brickd; use sudo"));
            }
            let channel = connect::unix(&target.socket).await;
            (channel.map_err(|_| Failure::not_running())?, None)
        }
        Some(host) => {
            let file = target.token_file.as_ref();
            let file = file.ok_or_else(|| Failure::plain("--host needs --token-file FILE: a copy of local.token in that peer's state folder"))?;
            let token = Credential::read(file).map_err(|e| Failure::plain(e.to_string()))?;
            let (host, port) = host_and_port(host);
            (connect::with_pass(host, port, &token.pass(), None), Some(token.pass()))
        }
    };
    Ok(ControlClient::with_interceptor(channel, WithPass(token)))
}

fn host_and_port(text: &str) -> (&str, u16) {
    let port = |p: &str| p.parse().ok();
    match text.rsplit_once(':').and_then(|(h, p)| Some((h, port(p)?))) {
        Some((host, port)) if !host.contains(':') || host.starts_with('[') => {
            (host.trim_start_matches('[').trim_end_matches(']'), port)
        }
        _ => (text.trim_start_matches('[').trim_end_matches(']'), proto::ports::CONTROL),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_with_and_without_port() {
        let port = proto::ports::CONTROL;
        assert_eq!(host_and_port("n1"), ("n1", port));
        assert_eq!(host_and_port("n1:77"), ("n1", 77));
        assert_eq!(host_and_port("fd00::1"), ("fd00::1", port));
        assert_eq!(host_and_port("[fd00::1]:77"), ("fd00::1", 77));
    }
}
