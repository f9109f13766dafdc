//! `client add | list | remove`.

use std::fs::File;
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
            // A token is shown once: the file is made before the pool makes the token.
            let file = out.as_deref().map(make).transpose()?;
            let reply = control.client_add(ClientRequest { name: name.clone() }).await;
            let reply = reply.map_err(|e| {
                out.as_deref().map(std::fs::remove_file);
                Failure::of("client add", &e)
            });
            let reply = reply?.into_inner();
            let (Some(out), Some(mut file)) = (out, file) else {
                output.reply(&reply, |r| r.token.clone());
                return Ok(());
            };
            writeln!(file, "{}", reply.token).map_err(|e| no_file(&out, &e))?;
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

/// A file that nobody had before, readable by its owner alone.
fn make(path: &Path) -> Result<File, Failure> {
    let mut options = File::options();
    let file = options.write(true).create_new(true).mode(0o600).open(path);
    file.map_err(|e| no_file(path, &e))
}

fn no_file(path: &Path, error: &std::io::Error) -> Failure {
    Failure::plain(format!(
        "client add: cannot write {}: {error}; name another file",
        path.display()
    ))
}
