//! `pool list | info`, `peer probe | accept | detach | status | can-stop`.

use proto_grpc::control::{
    Nothing, Peer, PeerAcceptRequest, PeerCanStopRequest, PeerDetachRequest, PeerProbeRequest,
    PeersReply,
};

use crate::arguments::PoolCommand;
use crate::connection::Control;
use crate::output::{Failure, Output};
use crate::recover;

pub async fn pool(
    control: &mut Control,
    output: Output,
    command: PoolCommand,
) -> Result<(), Failure> {
    match command {
        PoolCommand::List => {
            let reply = peers(control, "pool list").await?;
            output.reply(&reply, |r| list(&r.peers));
        }
        PoolCommand::Info => {
            let reply = control.whoami(Nothing {}).await;
            let reply = reply.map_err(|e| Failure::of("pool info", &e))?.into_inner();
            output.reply(&reply, |r| {
                let or_none = |text: &str| if text.is_empty() { "none".into() } else { text.to_owned() };
                format!(
                    "Pool ID: {}\nPool fingerprint: {}\nUuid: {}\nHostname: {}\nFingerprint: {}\nVersion: {}",
                    or_none(&r.pool_id),
                    or_none(&r.pool_fingerprint),
                    r.uuid,
                    or_none(&r.host),
                    r.fingerprint,
                    r.version
                )
            });
        }
        PoolCommand::Recover { accept_loss } => {
            return recover::run(control, output, accept_loss).await;
        }
    }
    Ok(())
}

async fn peers(control: &mut Control, command: &str) -> Result<PeersReply, Failure> {
    let reply = control.peers(Nothing {}).await;
    Ok(reply.map_err(|e| Failure::of(command, &e))?.into_inner())
}

fn connected(peer: &Peer) -> &'static str {
    if peer.connected { "Connected" } else { "Disconnected" }
}

fn list(peers: &[Peer]) -> String {
    let name = |p: &Peer| if p.local { "localhost".to_owned() } else { p.hostname.clone() };
    let width = peers.iter().map(|p| name(p).len()).max().unwrap_or(0).max(8);
    let mut lines = vec![format!("{:36}\t{:width$}\t{:12}\tRole", "UUID", "Hostname", "State")];
    lines.extend(
        peers.iter().map(|p| {
            format!("{:36}\t{:width$}\t{:12}\t{}", p.uuid, name(p), connected(p), role(p))
        }),
    );
    lines.join("\n")
}

/// What the peer is in the pool, besides a place for bricks.
fn role(peer: &Peer) -> String {
    let lost = peer.state == "Peer lost";
    let roles = [
        (lost, "lost"),
        (peer.witness, "witness"),
        (peer.leader, "leader"),
        (peer.voter && !peer.leader, "voter"),
    ];
    let roles: Vec<&str> = roles.into_iter().filter(|(is, _)| *is).map(|(_, name)| name).collect();
    if roles.is_empty() { "-".into() } else { roles.join(",") }
}

pub async fn status(control: &mut Control, output: Output) -> Result<(), Failure> {
    let reply = peers(control, "peer status").await?;
    output.reply(&reply, |r| {
        let others: Vec<_> = r.peers.iter().filter(|p| !p.local).collect();
        let mut text = format!("Number of Peers: {}", others.len());
        for peer in others {
            text += &format!(
                "\n\nHostname: {}\nUuid: {}\nState: {} ({})",
                peer.hostname,
                peer.uuid,
                peer.state,
                connected(peer)
            );
        }
        text
    });
    Ok(())
}

pub async fn probe(
    control: &mut Control,
    output: Output,
    request: PeerProbeRequest,
) -> Result<(), Failure> {
    if request.reinstalled {
        let question = format!(
            "The old state of {} must be gone for ever: that peer can never come back. Its bricks \
             become the new one's and are compared with the other copies. Do you want to continue?",
            request.host
        );
        output.insists("peer probe", &question)?;
    }
    let reply = control.peer_probe(request).await;
    let reply = reply.map_err(|e| Failure::of("peer probe", &e))?.into_inner();
    output.reply(&reply, |r| match r.message.as_str() {
        "success" => "peer probe: success".into(),
        other => format!("peer probe: success. {other}"),
    });
    Ok(())
}

pub async fn accept(
    control: &mut Control,
    output: Output,
    fingerprint: String,
) -> Result<(), Failure> {
    let reply = control.peer_accept(PeerAcceptRequest { fingerprint }).await;
    let reply = reply.map_err(|e| Failure::of("peer accept", &e))?.into_inner();
    output.reply(&reply, |r| format!("peer accept: {}", r.message));
    Ok(())
}

pub async fn detach(
    control: &mut Control,
    output: Output,
    host: String,
    force: bool,
) -> Result<(), Failure> {
    let reply = control.peer_detach(PeerDetachRequest { host, force }).await;
    let reply = reply.map_err(|e| Failure::of("peer detach", &e))?.into_inner();
    output.reply(&reply, |r| format!("peer detach: {}", r.message));
    Ok(())
}

/// Exit code 1 when it cannot stop, so that scripts need not read the answer.
pub async fn can_stop(control: &mut Control, output: Output, host: String) -> Result<(), Failure> {
    let reply = control.peer_can_stop(PeerCanStopRequest { host }).await;
    let reply = reply.map_err(|e| Failure::of("peer can-stop", &e))?.into_inner();
    if !reply.can_stop && !output.json {
        return Err(Failure::plain(format!("no: {}", reply.reasons.join("; "))));
    }
    output.reply(&reply, |_| "yes".into());
    if reply.can_stop { Ok(()) } else { Err(Failure::said()) }
}
