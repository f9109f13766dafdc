//! A source tree made from what is on this machine, for tests that want thousands of real files.
//!
//! Regular files are taken from the usual folders until both the wanted number and the wanted
//! bytes are there; links, modes, owners and times, which installed files hardly vary, are added.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Result, ensure};

use crate::load::Random;

const FOLDERS: &[&str] = &["/usr/include", "/usr/share", "/usr/lib", "/usr/src", "/opt", "/root"];
/// One huge library would be most of a small tree.
const FILE_BYTES_MAX: u64 = 4 << 20;
const WHOLE: (usize, u64) = (10_000, 300 << 20);
const SMALL: (usize, u64) = (1_200, 30 << 20);

/// How much was made.
#[derive(Clone, Copy, Debug)]
pub struct Made {
    pub files: usize,
    pub bytes: u64,
}

/// True for the full run (`BRICK_FULL=1`): 10 000 files and 300 MB at least; else a tenth.
pub fn is_full() -> bool {
    std::env::var("BRICK_FULL").is_ok_and(|v| v == "1")
}

/// Fills a new folder.
///
/// # Errors
/// A file cannot be copied, or this machine has too few.
pub fn make(dir: &Path) -> Result<Made> {
    let (files_min, bytes_min) = if is_full() { WHOLE } else { SMALL };
    fs::create_dir_all(dir)?;
    let mut made = Made { files: 0, bytes: 0 };
    let mut random = Random::new(7);
    for folder in FOLDERS {
        let mut todo = vec![PathBuf::from(folder)];
        while let Some(at) = todo.pop() {
            let Ok(entries) = fs::read_dir(&at) else { continue };
            let mut paths: Vec<PathBuf> = entries.flatten().map(|e| e.path()).collect();
            paths.sort();
            for from in paths {
                let Ok(meta) = fs::symlink_metadata(&from) else { continue };
                if meta.is_dir() && !hidden(&from) {
                    todo.push(from);
                } else if meta.is_file() && wanted(meta.len(), made, files_min, bytes_min) {
                    let to = dir.join(from.strip_prefix("/").unwrap_or(&from));
                    copy(&from, &to, made.files, &mut random)?;
                    made.files += 1;
                    made.bytes += meta.len();
                }
            }
            if made.files >= files_min && made.bytes >= bytes_min {
                links(dir)?;
                return Ok(made);
            }
        }
    }
    ensure!(made.files >= files_min, "this machine has only {} files to copy", made.files);
    ensure!(made.bytes >= bytes_min, "this machine has only {} bytes to copy", made.bytes);
    links(dir)?;
    Ok(made)
}

/// Credentials and caches lie in hidden folders.
fn hidden(path: &Path) -> bool {
    path.file_name().is_some_and(|n| n.to_string_lossy().starts_with('.'))
}

/// Files of any size until there are enough of them, then large ones until the bytes are there.
fn wanted(len: u64, made: Made, files_min: usize, bytes_min: u64) -> bool {
    let share = bytes_min / files_min as u64;
    if made.files >= files_min {
        return len > share && len <= FILE_BYTES_MAX;
    }
    let ahead = made.bytes > made.files as u64 * share;
    len <= if ahead { share } else { FILE_BYTES_MAX }
}

fn copy(from: &Path, to: &Path, number: usize, random: &mut Random) -> Result<()> {
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(to, fs::read(from)?)?;
    let mode = [0o644, 0o755, 0o600, 0o444, 0o640][number % 5];
    fs::set_permissions(to, fs::Permissions::from_mode(mode))?;
    if number.is_multiple_of(7) {
        chown(to, Some(1000 + (number % 3) as u32), Some(2000))?;
    }
    let time =
        Duration::new(1_000_000_000 + random.below(700_000_000), random.below(1 << 29) as u32);
    fs::File::open(to)?.set_modified(SystemTime::UNIX_EPOCH + time)?;
    Ok(())
}

/// Hard links within and across folders, symlinks good and dangling, setgid and sticky folders.
fn links(dir: &Path) -> Result<()> {
    let special = dir.join("special");
    fs::create_dir_all(special.join("sub"))?;
    for n in 0..40 {
        let file = special.join(format!("file{n}"));
        fs::write(&file, format!("content {n}"))?;
        fs::hard_link(&file, special.join(format!("sub/link{n}")))?;
        if n % 4 == 0 {
            fs::hard_link(&file, special.join(format!("again{n}")))?;
        }
        symlink(format!("../file{n}"), special.join(format!("sub/soft{n}")))?;
    }
    symlink("/nowhere/at/all", special.join("dangling"))?;
    for (name, mode) in [("setgid", 0o2775), ("sticky", 0o1777), ("closed", 0o700)] {
        fs::create_dir(special.join(name))?;
        fs::set_permissions(special.join(name), fs::Permissions::from_mode(mode))?;
    }
    let links = fs::metadata(special.join("file0"))?.nlink();
    ensure!(links == 3, "this file system lost a hard link: {links} of 3");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    #[test]
    fn the_small_tree_has_what_it_promises() {
        if !rustix::process::geteuid().is_root() {
            crate::need::skip("the_small_tree", "owners need root");
            return;
        }
        let scratch = Scratch::new("material").unwrap();
        let made = make(scratch.path()).unwrap();
        assert!(made.files >= SMALL.0 && made.bytes >= SMALL.1, "{made:?}");
        assert!(made.bytes < 4 * SMALL.1.max(WHOLE.1), "{made:?}");
    }
}
