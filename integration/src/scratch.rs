//! A directory and a name for one run, removed with everything mounted or running in it.
//!
//! The name carries the process id, so that two runs never collide, and so that the next run can
//! tell what a killed one left behind.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::Signal;

use crate::netns;
use crate::sys;

const PREFIX: &str = "brick-it-";
/// A data disk in memory takes the noise of this machine's disk away; it needs this much room.
const MEMORY_FREE_MIN: u64 = 6 << 30;

static COUNTER: AtomicU32 = AtomicU32::new(0);
static SWEPT: std::sync::Once = std::sync::Once::new();

/// Removes itself, and whatever is mounted below it, when dropped.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    images: PathBuf,
    tag: String,
}

impl Scratch {
    /// A fresh place. The first call of a process removes what dead runs left.
    ///
    /// # Errors
    /// The directories cannot be made.
    pub fn new(label: &str) -> Result<Self> {
        SWEPT.call_once(sweep);
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let tag = format!("{}-{number}", std::process::id());
        let name = format!("{PREFIX}{tag}-{label}");
        let path = base().join(&name);
        let images = image_base().join(&name);
        for dir in [&path, &images] {
            fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        }
        Ok(Self { path, images, tag })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where disk images belong: memory where there is plenty.
    pub fn images(&self) -> &Path {
        &self.images
    }

    /// Unique on this machine: process id and a count.
    pub fn tag(&self) -> &str {
        &self.tag
    }

    /// A number unique among the living runs of this machine, 0..=65535.
    pub fn number(&self) -> u16 {
        let (pid, count) = self.tag.split_once('-').unwrap_or((&self.tag, "0"));
        let pid: u32 = pid.parse().unwrap_or(0);
        let count: u32 = count.parse().unwrap_or(0);
        // 211 is coprime to 65536 and larger than the scratches of any test binary.
        (pid.wrapping_mul(211).wrapping_add(count) & 0xffff) as u16
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if std::env::var_os("BRICK_KEEP").is_some() {
            eprintln!("BRICK_KEEP is set: left in place: {}", self.path.display());
            return;
        }
        for dir in [&self.path, &self.images] {
            remove(dir);
        }
    }
}

fn base() -> PathBuf {
    std::env::var_os("BRICK_SCRATCH").map_or_else(|| PathBuf::from("/tmp"), PathBuf::from)
}

fn image_base() -> PathBuf {
    if std::env::var_os("BRICK_SCRATCH").is_some() {
        return base();
    }
    let memory = PathBuf::from("/dev/shm");
    let room =
        rustix::fs::statvfs(&memory).is_ok_and(|s| s.f_bavail * s.f_frsize > MEMORY_FREE_MIN);
    if room { memory } else { base() }
}

/// Removes what runs left whose process is gone.
fn sweep() {
    for dir in [base(), image_base()] {
        let Ok(entries) = fs::read_dir(&dir) else { continue };
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let Some(rest) = name.strip_prefix(PREFIX) else { continue };
            let Some(Ok(pid)) = rest.split('-').next().map(str::parse::<u32>) else { continue };
            if !Path::new(&format!("/proc/{pid}")).exists() {
                eprintln!("removing what a dead run left: {}", entry.path().display());
                kill_left_daemons(&entry.path());
                remove(&entry.path());
            }
        }
    }
    netns::sweep();
}

/// Ends our own programs, and only those, whose pid files lie in the directory.
pub(crate) fn kill_left_daemons(dir: &Path) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let file = entry.path().join("pid");
        let Ok(text) = fs::read_to_string(&file) else { continue };
        let Ok(pid) = text.trim().parse::<u32>() else { continue };
        let command = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        // The pid may be someone else's by now: ours names the scratch directory.
        if command.contains(&dir.display().to_string()) {
            sys::signal(pid, Signal::KILL);
            sys::signal(pid, Signal::CONT);
        }
    }
}

/// Unmounts everything below a directory, deepest first, and deletes it.
pub(crate) fn remove(dir: &Path) {
    for mount in mounts_below(dir) {
        unmount(&mount);
    }
    if !mounts_below(dir).is_empty() {
        eprintln!("still mounted below {}: not removed", dir.display());
        return;
    }
    if let Err(error) = fs::remove_dir_all(dir)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        eprintln!("cannot remove {}: {error}", dir.display());
    }
}

/// Unmounts, by force and then lazily when something still holds the mount.
pub fn unmount(point: &Path) {
    let limit = Duration::from_secs(20);
    for option in [&[][..], &["-f"], &["-l"]] {
        let mut command = std::process::Command::new("umount");
        command.args(option).arg(point);
        if sys::answer(&mut command, limit).is_ok_and(|a| a.ok()) {
            return;
        }
    }
    eprintln!("cannot unmount {}", point.display());
}

/// Mount points at or below a directory, deepest and latest first.
pub fn mounts_below(dir: &Path) -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut found: Vec<PathBuf> = table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|point| PathBuf::from(point.replace("\\040", " ")))
        .filter(|point| point.starts_with(dir))
        .collect();
    found.reverse();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scratch_disappears_after_a_panic_too() {
        let seen = std::sync::Mutex::new(PathBuf::new());
        let result = std::panic::catch_unwind(|| {
            let scratch = Scratch::new("panic").unwrap();
            fs::write(scratch.path().join("x"), "x").unwrap();
            *seen.lock().unwrap() = scratch.path().to_owned();
            panic!("on purpose");
        });
        assert!(result.is_err());
        let path = seen.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        assert!(path.file_name().is_some() && !path.exists());
    }

    #[test]
    fn two_scratches_differ_in_everything() {
        let (a, b) = (Scratch::new("a").unwrap(), Scratch::new("a").unwrap());
        assert_ne!(a.path(), b.path());
        assert_ne!(a.tag(), b.tag());
        assert_ne!(a.number(), b.number());
    }
}
