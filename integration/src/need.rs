//! What a test needs of the machine; a loud, counted skip where it is missing.
//!
//! libtest knows no skipping while a test runs: a skipped test would count as passed. So each
//! skip is written to the file that `BRICK_SKIPS` names, and the summary of `make test` takes it
//! out of the passed ones.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;

/// One thing a machine may lack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    Root,
    /// `/dev/fuse`.
    Fuse,
    /// mkfs.xfs, a loop device, and an XFS of the kernel's.
    Xfs,
    /// Network namespaces and nftables.
    Netns,
    /// A program by its name.
    Program(&'static str),
}

impl Need {
    fn met(self) -> bool {
        match self {
            Self::Root => rustix::process::geteuid().is_root(),
            Self::Fuse => Path::new("/dev/fuse").exists(),
            Self::Xfs => {
                has_program("mkfs.xfs")
                    && Path::new("/dev/loop-control").exists()
                    && std::fs::read_to_string("/proc/filesystems")
                        .is_ok_and(|t| t.lines().any(|l| l.trim() == "xfs"))
                    || kernel_loads_xfs()
            }
            Self::Netns => {
                has_program("ip") && has_program("nft") && Path::new("/proc/self/ns/net").exists()
            }
            Self::Program(name) => has_program(name),
        }
    }

    fn words(self) -> String {
        match self {
            Self::Root => "root".into(),
            Self::Fuse => "/dev/fuse".into(),
            Self::Xfs => "XFS on loop devices".into(),
            Self::Netns => "network namespaces with nftables".into(),
            Self::Program(name) => format!("the program {name}"),
        }
    }
}

/// True when everything is there; else says so and counts one skip.
pub fn all(test: &str, needs: &[Need]) -> bool {
    let missing: Vec<String> = needs.iter().filter(|n| !n.met()).map(|n| n.words()).collect();
    if missing.is_empty() {
        return true;
    }
    skip(test, &format!("this machine has no {}", missing.join(", no ")));
    false
}

/// Counts one skip with its reason.
pub fn skip(test: &str, reason: &str) {
    eprintln!("SKIPPED {test}: {reason}");
    note("BRICK_SKIPS", &format!("{test}: {reason}"));
}

/// Appends a line to the file named by an environment variable, when it is set.
pub(crate) fn note(variable: &str, line: &str) {
    let Some(path) = std::env::var_os(variable) else { return };
    let file = OpenOptions::new().create(true).append(true).open(&path);
    if let Err(error) = file.and_then(|mut f| writeln!(f, "{line}")) {
        eprintln!("cannot write {}: {error}", path.to_string_lossy());
    }
}

fn has_program(name: &str) -> bool {
    let path = std::env::var("PATH").unwrap_or_default();
    format!("{path}:/usr/sbin:/sbin").split(':').any(|d| Path::new(d).join(name).is_file())
}

/// XFS may be a module that the first mount loads.
fn kernel_loads_xfs() -> bool {
    Command::new("modprobe").args(["-n", "-q", "xfs"]).status().is_ok_and(|s| s.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_program_is_missed_and_a_present_one_is_not() {
        assert!(Need::Program("sh").met());
        assert!(!Need::Program("no-such-program-here").met());
    }
}
