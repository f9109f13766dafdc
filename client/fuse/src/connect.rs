//! From the servers' names to a volume.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use client::layer::Below;
use client::session::control::ControlError;
use client::session::grpc::Access;
use client::session::{self, Session, SessionError};
use client::volume::{Config, Volume};
use proto::{Errno, Gfid};
use proto_grpc::credential::Credential;

use crate::options::Options;

/// Where the daemon of this machine lets local root in.
const LOCAL_SOCKET: &str = "/var/lib/brickd/control.sock";
/// Names another such place, as for the `brick` command.
const SOCKET_VARIABLE: &str = "BRICK_SOCKET";

/// A volume that is connected.
pub struct Connected {
    pub session: Arc<Session>,
    pub volume: Arc<Volume>,
    /// What will be the root of the mount.
    pub root: Gfid,
}

/// # Errors
/// For people: which server, volume or credential, and what to do.
pub async fn connect(options: &Options) -> Result<Connected> {
    let source = &options.source;
    let session = Session::connect(session::Options {
        servers: source.servers.clone(),
        volume: source.volume.clone(),
        subdir: if source.subdir.is_empty() {
            String::new()
        } else {
            format!("/{}", source.subdir)
        },
        read_only: options.mount.read_only,
        access: access(options)?,
        host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
    })
    .await
    .map_err(|error| unreachable_named(error, options))?;
    let map = session.map();
    let name = &source.volume;
    ensure!(map.started, "volume {name} is not started; 'brick volume start {name}' starts it");
    let config = Config { write_behind: map.options.write_behind, ..Config::default() };
    let volume = Volume::start(session.clone(), config)
        .await
        .with_context(|| format!("volume {name} does not answer"))?;
    let root = match volume.resolve(&source.subdir).await {
        Ok(root) => root,
        Err(Errno::ENOENT) => bail!("volume {name} has no directory /{}", source.subdir),
        Err(errno) => bail!("volume {name}, directory /{}: {errno}", source.subdir),
    };
    let attr = volume.getattr(root).await?.attr;
    ensure!(attr.is_dir(), "/{} of volume {name} is no directory", source.subdir);
    Ok(Connected { session, volume, root })
}

/// Says whom nobody answered for; the pool's own words stay as they are.
fn unreachable_named(error: SessionError, options: &Options) -> anyhow::Error {
    let SessionError::Control { source: ControlError::Unreachable(why), .. } = &error else {
        return error.into();
    };
    let asked = match access(options) {
        Ok(Access::Socket(socket)) => format!("the brickd at {}", socket.display()),
        _ => options.source.servers.join(", "),
    };
    anyhow!("no answer from {asked} ({why}); is brickd running, and its control port open?")
}

fn access(options: &Options) -> Result<Access> {
    if let Some(file) = &options.credential {
        return Ok(Access::Token(Credential::read(file)?));
    }
    let named = options.socket.clone();
    let named = named.or_else(|| std::env::var_os(SOCKET_VARIABLE).map(PathBuf::from));
    if let Some(socket) = named {
        return Ok(Access::Socket(socket));
    }
    if Path::new(LOCAL_SOCKET).exists() {
        return Ok(Access::Socket(LOCAL_SOCKET.into()));
    }
    bail!(
        "no credential: no brickd runs on this machine, so -o credential=FILE is needed \
         ('brick client add NAME' on a peer makes one)"
    )
}
