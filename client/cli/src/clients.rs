//! `client add | list | remove`.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use proto_grpc::control::{ClientRequest, Nothing};

use crate::arguments::ClientCommand;
use crate::connection::Control;
use crate::output::{Failure, Output};

pub async fn run(
    control: &mut Control,
    output: Output,
    command: ClientCommand,
) -> Result<(), Failure> {
    match command {
        ClientCommand::Add { name, out } => {
            let reply = control.client_add(ClientRequest { name: name.clone() }).await;
            let reply = reply.map_err(|e| Failure::of("client add", &e))?.into_inner();
            let Some(out) = out else {
                output.reply(&reply, |r| r.token.clone());
                return Ok(());
            };
            write(&out, &reply.token)?;
            let done = serde_json::json!({ "name": name, "file": out });
            output.reply(&done, |_| format!("client add: success: token in {}", out.display()));
        }
        ClientCommand::List => {
            let reply = control.client_list(Nothing {}).await;
            let reply = reply.map_err(|e| Failure::of("client list", &e))?.into_inner();
            output.reply(&reply, |r| {
                let names: Vec<_> = r.clients.iter().map(|c| c.name.as_str()).collect();
                if names.is_empty() { "No clients".into() } else { names.join("\n") }
            });
        }
        ClientCommand::Remove { name } => {
            let reply = control.client_remove(ClientRequest { name }).await;
            let reply = reply.map_err(|e| Failure::of("client remove", &e))?.into_inner();
            output.reply(&reply, |r| format!("client remove: success: {}", r.message));
        }
    }
    Ok(())
}

fn write(path: &Path, token: &str) -> Result<(), Failure> {
    let mut options = std::fs::OpenOptions::new();
    let file = options.write(true).create_new(true).mode(0o600).open(path);
    file.and_then(|mut file| writeln!(file, "{token}"))
        .map_err(|e| Failure::plain(format!("{}: {e}; the token is: {token}", path.display())))
}
