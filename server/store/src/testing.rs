//! For tests of this crate and of those above: a brick's file system to try things on.

use std::path::{Path, PathBuf};
use std::process::Command;

/// An XFS image, loop-mounted in a temporary directory; unmounted and removed when dropped.
pub struct Xfs {
    dir: PathBuf,
    mount_point: PathBuf,
}

impl Xfs {
    /// Makes and mounts an image of `mib` MiB (XFS needs at least 300).
    ///
    /// `None`, with a line on stderr that says so, where this cannot be done: without root,
    /// without `mkfs.xfs`, or without loop devices.
    pub fn new(mib: u64) -> Option<Xfs> {
        match Self::make(mib.max(300)) {
            Ok(xfs) => Some(xfs),
            Err(why) => {
                eprintln!("SKIPPED: no XFS to test on: {why}");
                None
            }
        }
    }

    fn make(mib: u64) -> Result<Xfs, String> {
        let id = uuid::Uuid::new_v4().simple();
        let dir = std::env::temp_dir().join(format!("brick-xfs-{id}"));
        std::fs::create_dir_all(dir.join("mnt")).map_err(|e| e.to_string())?;
        let xfs = Xfs { mount_point: dir.join("mnt"), dir };
        let file = std::fs::File::create(xfs.image()).map_err(|e| e.to_string())?;
        file.set_len(mib << 20).map_err(|e| e.to_string())?;
        run(Command::new("mkfs.xfs").args(["-q", "-i", "size=512"]).arg(xfs.image()))?;
        xfs.mount()?;
        Ok(xfs)
    }

    /// Mounts the image (again).
    ///
    /// # Errors
    /// What `mount` said.
    pub fn mount(&self) -> Result<(), String> {
        run(Command::new("mount").args(["-o", "loop"]).arg(self.image()).arg(self.path()))
    }

    /// # Errors
    /// What `umount` said.
    pub fn unmount(&self) -> Result<(), String> {
        run(Command::new("umount").arg(self.path()))
    }

    pub fn image(&self) -> PathBuf {
        self.dir.join("image")
    }

    /// The mount point, as given to `Store::create`.
    pub fn path(&self) -> &Path {
        &self.mount_point
    }
}

impl Drop for Xfs {
    fn drop(&mut self) {
        if self.unmount().is_err() {
            // Something still holds it: detach now, the kernel finishes later.
            drop(run(Command::new("umount").arg("-l").arg(self.path())));
        }
        drop(std::fs::remove_dir_all(&self.dir));
    }
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|e| format!("{command:?}: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}
