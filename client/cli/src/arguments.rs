//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Administer a Brickwork pool.
#[derive(Debug, Parser)]
#[command(name = "brick", version, propagate_version = true)]
pub struct Arguments {
    #[command(flatten)]
    pub target: Target,
    /// Print one JSON object instead of text.
    #[arg(long, global = true)]
    pub json: bool,
    /// script: never ask for confirmation.
    #[arg(long, global = true, value_enum, default_value = "interactive")]
    pub mode: Mode,
    #[command(subcommand)]
    pub command: Command,
}

/// Which daemon to talk to.
#[derive(Debug, Args)]
pub struct Target {
    /// Control socket of the local brickd.
    #[arg(
        long,
        global = true,
        env = "BRICK_SOCKET",
        default_value = "/var/lib/brickd/control.sock"
    )]
    pub socket: PathBuf,
    /// Talk to the brickd at HOST[:PORT] over TLS; needs --token-file.
    // An id of its own: commands have an argument `host`, and clap would take one for the other.
    #[arg(id = "daemon_host", long = "host", global = true, value_name = "HOST")]
    pub host: Option<String>,
    /// The credential for --host: that machine's local.token.
    #[arg(long, global = true, env = "BRICK_TOKEN_FILE", value_name = "FILE")]
    pub token_file: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    Interactive,
    Script,
}

/// The literal word `force`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Force {
    Force,
}

/// The literal word `detail`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Detail {
    Detail,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// The pool as a whole.
    #[command(subcommand)]
    Pool(PoolCommand),
    /// Peers of the pool.
    #[command(subcommand)]
    Peer(PeerCommand),
    /// Volumes.
    #[command(subcommand)]
    Volume(VolumeCommand),
    /// Tokens with which other machines mount.
    #[command(subcommand)]
    Client(ClientCommand),
    /// Mount a volume: the same as mount.brick.
    Mount {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        words: Vec<String>,
    },
    /// Print the completion script of a shell.
    Completion { shell: clap_complete::Shell },
}

#[derive(Debug, Subcommand)]
pub enum PoolCommand {
    /// All peers, this one included.
    List,
    /// Identifiers and fingerprints of the pool and of this peer.
    Info,
    /// Go on with this peer and those that answer, when the voter majority is lost for ever.
    Recover {
        /// Go on with older copies where all current ones are lost; what they lack is gone.
        #[arg(long)]
        accept_loss: bool,
    },
}

#[derive(Debug, Subcommand)]
pub enum PeerCommand {
    /// Take HOST into the pool.
    Probe {
        host: String,
        /// Refuse it unless its certificate has this SHA-256.
        #[arg(long)]
        fingerprint: Option<String>,
        /// HOST was installed anew: its old state is gone for ever, its bricks become the new one's.
        #[arg(long)]
        reinstalled: bool,
    },
    /// Let the pool whose CA certificate has this SHA-256 probe this peer.
    Accept { fingerprint: String },
    /// Remove HOST from the pool.
    Detach {
        host: String,
        #[arg(value_enum)]
        force: Option<Force>,
    },
    /// The other peers and whether they are connected.
    Status,
    /// Whether HOST can be stopped without interrupting a volume, and why not.
    CanStop { host: String },
}

#[derive(Debug, Subcommand)]
pub enum VolumeCommand {
    /// Create a volume: NAME [stripe S] [replica R] [transport tcp] HOST:/PATH... [force]
    Create {
        name: String,
        #[arg(required = true, value_name = "WORD")]
        words: Vec<String>,
    },
    /// Start a volume.
    Start {
        name: String,
        #[arg(value_enum)]
        force: Option<Force>,
    },
    /// Stop a volume: its data cannot be reached until it is started again.
    Stop {
        name: String,
        #[arg(value_enum)]
        force: Option<Force>,
    },
    /// Forget a stopped volume. Its bricks keep their files.
    Delete { name: String },
    /// What volumes are made of.
    Info { name: Option<String> },
    /// How volumes are: bricks, processes, replicas.
    Status {
        name: Option<String>,
        /// The file systems under the bricks, too.
        #[arg(value_enum)]
        detail: Option<Detail>,
    },
    /// Names of all volumes.
    List,
    /// Set options: NAME OPTION VALUE [OPTION VALUE...]; `set help` lists them.
    Set {
        name: String,
        #[arg(value_name = "WORD")]
        words: Vec<String>,
    },
    /// Show an option, or all.
    Get {
        name: String,
        #[arg(default_value = "all")]
        option: String,
    },
    /// Set an option, or all, back to the default.
    Reset {
        name: String,
        option: Option<String>,
        #[arg(value_enum)]
        force: Option<Force>,
    },
    /// Replace a brick by a new one: NAME SOURCE-BRICK NEW-BRICK commit force
    ReplaceBrick {
        name: String,
        #[arg(required = true, value_name = "WORD")]
        words: Vec<String>,
    },
    /// Give a brick an empty disk: NAME BRICK start, then NAME BRICK BRICK commit [force]
    ResetBrick {
        name: String,
        #[arg(required = true, value_name = "WORD")]
        words: Vec<String>,
    },
    /// Add a copy to each replica set: NAME replica COUNT NEW-BRICK... [force]
    AddBrick {
        name: String,
        #[arg(required = true, value_name = "WORD")]
        words: Vec<String>,
    },
    /// Take a copy out of each replica set: NAME replica COUNT BRICK... force
    RemoveBrick {
        name: String,
        #[arg(required = true, value_name = "WORD")]
        words: Vec<String>,
    },
    /// Healing: how much is pending, how fast, how long: NAME [info | watch]
    ///
    /// NAME split-brain source-brick HOST:/PATH force: the last resort, when the disk with the last
    /// good copy of something is lost: that brick's copies are taken for good where there is no other.
    Heal {
        name: String,
        #[arg(value_name = "WORD")]
        words: Vec<String>,
    },
}

#[derive(Debug, Subcommand)]
pub enum ClientCommand {
    /// Make a token for NAME and print it, once.
    Add {
        name: String,
        /// Write it there, readable by its owner alone, instead of printing it.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    List,
    /// Take NAME's token back.
    Remove {
        name: String,
    },
}

impl Arguments {
    pub fn script(&self) -> bool {
        self.mode == Mode::Script
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn the_host_of_a_command_is_not_the_daemons() {
        let arguments = Arguments::parse_from(["brick", "peer", "probe", "n2"]);
        assert_eq!(arguments.target.host, None);
        let arguments = Arguments::parse_from(["brick", "peer", "probe", "n2", "--host", "n1"]);
        assert_eq!(arguments.target.host.as_deref(), Some("n1"));
        let Command::Peer(PeerCommand::Probe { host, .. }) = arguments.command else {
            panic!("not probe");
        };
        assert_eq!(host, "n2");
    }

    #[test]
    fn global_flags_stand_anywhere() {
        for line in [
            "brick --mode=script volume stop gv0 force --json",
            "brick --json volume --mode=script stop gv0 force",
        ] {
            let arguments = Arguments::parse_from(line.split(' '));
            assert!(arguments.json && arguments.script(), "{line}");
        }
        let create = "brick volume create gv0 replica 2 a:/x b:/x force --json";
        let arguments = Arguments::parse_from(create.split(' '));
        assert!(arguments.json);
        let Command::Volume(VolumeCommand::Create { words, .. }) = arguments.command else {
            panic!("not create");
        };
        assert_eq!(words, ["replica", "2", "a:/x", "b:/x", "force"]);
    }
}
