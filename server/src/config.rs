//! What a brickd is told: the configuration file, overridden by the command line.
//!
//! Everything is read once, at start, and becomes one validated value.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use clap::Parser;
use proto::ports;
use serde::Deserialize;

pub const DEFAULT_CONFIG: &str = "/etc/brickwork/brickd.toml";
pub const DEFAULT_STATE: &str = "/var/lib/brickd";
pub const DEFAULT_JOIN_KEY: &str = "/etc/brickwork/join.key";

/// The storage daemon of a Brickwork peer.
#[derive(Debug, Parser)]
#[command(name = "brickd", version)]
pub struct Arguments {
    /// Configuration file; absent means defaults.
    #[arg(long, default_value = DEFAULT_CONFIG)]
    pub config: PathBuf,
    /// Folder for keys, pool state and the control socket.
    #[arg(long)]
    pub state_dir: Option<PathBuf>,
    /// Address to listen on and to call other peers from; 0.0.0.0 or :: is every address.
    #[arg(long)]
    pub listen: Option<IpAddr>,
    /// Name or address under which other peers reach this one, when it listens on every address.
    #[arg(long)]
    pub advertise: Option<String>,
    #[arg(long)]
    pub control_port: Option<u16>,
    #[arg(long)]
    pub data_port: Option<u16>,
    #[arg(long)]
    pub promise_port: Option<u16>,
    #[arg(long)]
    pub metrics_port: Option<u16>,
    /// The key that peers of one pool-to-be share.
    #[arg(long)]
    pub join_key: Option<PathBuf>,
    /// Vote in the pool, hold no bricks.
    #[arg(long)]
    pub witness: bool,
    /// Lowest level logged: error, warn, info, debug or trace, or a filter.
    #[arg(long)]
    pub log_level: Option<String>,
    #[command(subcommand)]
    pub command: Option<Subcommand>,
}

#[derive(Debug, clap::Subcommand)]
pub enum Subcommand {
    /// Write a new join key, to be copied to every node that shall join.
    MakeJoinKey {
        /// Replace a key that exists.
        #[arg(long)]
        force: bool,
    },
}

/// The file: the same names, all optional.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
struct File {
    state_dir: Option<PathBuf>,
    listen: Option<IpAddr>,
    advertise: Option<String>,
    control_port: Option<u16>,
    data_port: Option<u16>,
    promise_port: Option<u16>,
    metrics_port: Option<u16>,
    join_key: Option<PathBuf>,
    witness: bool,
    log_level: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    pub state_dir: PathBuf,
    pub listen: IpAddr,
    pub advertise: Option<String>,
    pub control_port: u16,
    pub data_port: u16,
    pub promise_port: u16,
    pub metrics_port: u16,
    pub join_key: PathBuf,
    pub witness: bool,
    pub log_level: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            state_dir: DEFAULT_STATE.into(),
            listen: IpAddr::from([0, 0, 0, 0]),
            advertise: None,
            control_port: ports::CONTROL,
            data_port: ports::DATA,
            promise_port: ports::PROMISE,
            metrics_port: ports::METRICS,
            join_key: DEFAULT_JOIN_KEY.into(),
            witness: false,
            // The raft engine repeats what a peer that is away cannot answer.
            log_level: "info,openraft=off".into(),
        }
    }
}

impl Config {
    /// Reads the file and lays the command line over it.
    ///
    /// # Errors
    /// A file that cannot be read or has an unknown key, or values that do not fit together.
    pub fn load(arguments: &Arguments) -> anyhow::Result<Self> {
        let file = read(&arguments.config)?;
        let d = Self::default();
        let config = Self {
            state_dir: pick(&arguments.state_dir, file.state_dir, d.state_dir),
            listen: pick(&arguments.listen, file.listen, d.listen),
            advertise: arguments.advertise.clone().or(file.advertise),
            control_port: pick(&arguments.control_port, file.control_port, d.control_port),
            data_port: pick(&arguments.data_port, file.data_port, d.data_port),
            promise_port: pick(&arguments.promise_port, file.promise_port, d.promise_port),
            metrics_port: pick(&arguments.metrics_port, file.metrics_port, d.metrics_port),
            join_key: pick(&arguments.join_key, file.join_key, d.join_key),
            witness: arguments.witness || file.witness,
            log_level: pick(&arguments.log_level, file.log_level, d.log_level),
        };
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> anyhow::Result<()> {
        let ports = [self.control_port, self.data_port, self.promise_port, self.metrics_port];
        let distinct: std::collections::BTreeSet<u16> = ports.into_iter().collect();
        ensure!(distinct.len() == ports.len(), "the four ports must differ: {ports:?}");
        ensure!(!distinct.contains(&0), "ports must not be 0");
        ensure!(self.state_dir.is_absolute(), "state-dir must be an absolute path");
        Ok(())
    }

    /// The local address for outgoing connections, so that peers of one machine differ.
    pub fn bind(&self) -> Option<IpAddr> {
        (!self.listen.is_unspecified()).then_some(self.listen)
    }

    /// The root-only socket of the local CLI.
    pub fn control_socket(&self) -> PathBuf {
        self.state_dir.join("control.sock")
    }

    /// The token that lets root of this machine mount and administer over TCP.
    pub fn local_token(&self) -> PathBuf {
        self.state_dir.join("local.token")
    }
}

fn pick<T: Clone>(argument: &Option<T>, file: Option<T>, default: T) -> T {
    argument.clone().or(file).unwrap_or(default)
}

fn read(path: &Path) -> anyhow::Result<File> {
    match std::fs::read_to_string(path) {
        Ok(text) => toml::from_str(&text).with_context(|| path.display().to_string()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound && path == Path::new(DEFAULT_CONFIG) => {
            Ok(File::default())
        }
        Err(e) => Err(e).with_context(|| path.display().to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(file: &str, line: &[&str]) -> anyhow::Result<Config> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("brickd.toml");
        std::fs::write(&path, file).unwrap();
        let mut all = vec!["brickd", "--config", path.to_str().unwrap()];
        all.extend(line);
        Config::load(&Arguments::parse_from(all))
    }

    #[test]
    fn the_command_line_wins_over_the_file_and_the_file_over_defaults() {
        let config =
            load("listen = \"127.0.0.11\"\ndata-port = 7\n", &["--data-port", "8"]).unwrap();
        assert_eq!(config.listen, IpAddr::from([127, 0, 0, 11]));
        assert_eq!((config.data_port, config.control_port), (8, ports::CONTROL));
        assert_eq!(config.bind(), Some(config.listen));
    }

    #[test]
    fn unknown_keys_and_clashing_ports_are_refused() {
        assert!(load("lisen = \"::\"\n", &[]).is_err());
        assert!(load("", &["--data-port", "9610"]).is_err());
        assert!(load("", &["--state-dir", "relative"]).is_err());
    }
}
