//! One daemon for one state folder.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, bail};
use rustix::fs::{FlockOperation, flock};

/// Held by the daemon that uses the folder; the kernel ends it with the process.
#[derive(Debug)]
pub struct Claim(#[expect(dead_code, reason = "holds the lock while it is open")] File);

impl Claim {
    /// Claims `state_dir` for this process.
    ///
    /// # Errors
    /// Another daemon has it, or the lock file cannot be made.
    pub fn take(state_dir: &Path) -> anyhow::Result<Self> {
        let path = state_dir.join("brickd.pid");
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut file = options.open(&path).with_context(|| path.display().to_string())?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            let mut pid = String::new();
            let _ = file.read_to_string(&mut pid);
            bail!(
                "{} is in use by another brickd (pid {}); stop that one, or give this one a state \
                 folder of its own (--state-dir)",
                state_dir.display(),
                pid.trim()
            );
        }
        let write = |file: &mut File| -> std::io::Result<()> {
            file.set_len(0)?;
            file.rewind()?;
            writeln!(file, "{}", std::process::id())
        };
        write(&mut file).with_context(|| path.display().to_string())?;
        Ok(Self(file))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_folder_in_use_is_named_with_its_user_and_free_again_afterwards() {
        let dir = tempfile::tempdir().unwrap();
        let held = Claim::take(dir.path()).unwrap();
        let why = Claim::take(dir.path()).unwrap_err().to_string();
        let pid = std::process::id().to_string();
        assert!(why.contains(&pid) && why.contains("--state-dir"), "{why}");
        drop(held);
        Claim::take(dir.path()).unwrap();
    }
}
