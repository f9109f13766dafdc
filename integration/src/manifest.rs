//! A tree as text, one line a name: what a stored fixture is compared with.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use anyhow::{Result, ensure};

use crate::tree::{self, Entry, Tree, Xattrs};

const LINES_SHOWN_MAX: usize = 20;
/// Lines of inode numbers begin so; all others are entries.
const INODE: &str = "inode ";

/// Every entry of a tree, as a mount shows it.
pub fn entries(tree: &Tree) -> String {
    tree.iter().map(|(path, entry)| line(path, entry)).collect()
}

/// Entries, and the inode number and link count of each: these come from the metadata records, so only a
/// mount shows them.
///
/// # Errors
/// The tree cannot be read.
pub fn of_mount(root: &Path) -> Result<String> {
    let tree = tree::read(root, Xattrs::Visible)?;
    let mut text = entries(&tree);
    for path in tree.keys() {
        let full = if path.as_os_str().is_empty() { root.to_owned() } else { root.join(path) };
        let meta = fs::symlink_metadata(full)?;
        writeln!(text, "{INODE}\"{}\" {} nlink {}", bytes(path), meta.ino(), meta.nlink())?;
    }
    Ok(text)
}

/// The lines of a manifest that a brick's own tree must show too.
pub fn without_inodes(manifest: &str) -> String {
    manifest.lines().filter(|l| !l.starts_with(INODE)).map(|l| format!("{l}\n")).collect()
}

/// Demands that two manifests say the same.
///
/// # Errors
/// They do not; the differing lines are in the message.
pub fn demand_same(what: &str, expected: &str, found: &str) -> Result<()> {
    let lacks = |a: &str, b: &str| {
        let have: std::collections::HashSet<&str> = b.lines().collect();
        a.lines().filter(|l| !have.contains(l)).map(str::to_owned).collect::<Vec<_>>()
    };
    let mut lines: Vec<String> = Vec::new();
    lines.extend(lacks(expected, found).into_iter().map(|l| format!("- {l}")));
    lines.extend(lacks(found, expected).into_iter().map(|l| format!("+ {l}")));
    // A line that is there twice escapes a comparison of sets.
    ensure!(
        lines.is_empty() && expected.lines().count() == found.lines().count(),
        "{what} differs from its manifest in {} lines (- expected, + found):\n  {}",
        lines.len(),
        lines.iter().take(LINES_SHOWN_MAX).cloned().collect::<Vec<_>>().join("\n  ")
    );
    Ok(())
}

fn line(path: &Path, e: &Entry) -> String {
    let mut out = format!(
        "\"{}\" {} {:04o} {}:{} size {} mtime {}",
        bytes(path),
        e.kind,
        e.mode,
        e.uid,
        e.gid,
        e.size,
        e.mtime_ns
    );
    if e.kind == "file" {
        let _ = write!(out, " xxh3 {:016x}", e.sum);
    }
    if e.rdev != 0 {
        let _ = write!(out, " device {:x}", e.rdev);
    }
    if let Some(target) = &e.target {
        let _ = write!(out, " to \"{}\"", bytes(target));
    }
    if e.first_name != *path {
        let _ = write!(out, " link-of \"{}\"", bytes(&e.first_name));
    }
    for (name, sum) in &e.xattrs {
        let _ = write!(out, " {} {sum:016x}", name.as_bytes().escape_ascii());
    }
    out.push('\n');
    out
}

fn bytes(path: &Path) -> String {
    path.as_os_str().as_bytes().escape_ascii().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    #[test]
    fn a_manifest_notices_a_bit_a_mode_a_time_and_a_link() {
        let scratch = Scratch::new("manifest").unwrap();
        let dir = scratch.path().join("tree");
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("a"), "one").unwrap();
        fs::write(dir.join("b"), "two").unwrap();
        let before = of_mount(&dir).unwrap();
        demand_same("itself", &before, &of_mount(&dir).unwrap()).unwrap();
        let changes: [&dyn Fn(); 3] = [
            &|| fs::write(dir.join("a"), "onf").unwrap(),
            &|| fs::set_permissions(dir.join("b"), fs::Permissions::from_mode(0o600)).unwrap(),
            &|| fs::hard_link(dir.join("a"), dir.join("c")).unwrap(),
        ];
        use std::os::unix::fs::PermissionsExt as _;
        let mut last = before;
        for change in changes {
            change();
            let now = of_mount(&dir).unwrap();
            assert!(demand_same("a changed tree", &last, &now).is_err());
            assert!(demand_same("a changed tree", &now, &last).is_err());
            last = now;
        }
        assert!(without_inodes(&last).lines().count() == 4);
    }
}
