//! Compares directory trees byte for byte and xattr for xattr.
//!
//! A replica set promises that its bricks are equal trees. Compared are: names, types, contents,
//! modes, owners, mtimes, device numbers, link targets, every xattr (also `trusted.*`, the
//! metadata records), and which names are hard links of one inode. Not compared: atime and ctime,
//! which the kernel sets by itself, and `.brickwork/`, which holds what may differ.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::hash::Hasher as _;
use std::io::Read as _;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

/// The brick's private directory.
const PRIVATE: &str = ".brickwork";
/// A mount shows none of these. XFS shows root each ACL a second time, as `trusted.SGI_ACL_*`.
const BRICK_ONLY: [&[u8]; 2] = [b"trusted.brick.", b"trusted.SGI_ACL_"];
const DIFFERENCES_SHOWN_MAX: usize = 20;
const XATTR_BYTES_MAX: usize = 64 << 10;

/// Which xattrs are looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Xattrs {
    /// Brick against brick: everything.
    All,
    /// Mount against brick: without what only a brick shows.
    Visible,
}

/// Everything comparable of one name.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub kind: &'static str,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// 0 for directories, whose size is the file system's own business.
    pub size: u64,
    pub mtime_ns: i128,
    pub rdev: u64,
    pub target: Option<PathBuf>,
    /// xxh3 of the content of a file.
    pub sum: u64,
    /// Name → hash of the value.
    pub xattrs: BTreeMap<OsString, u64>,
    /// First name, in order, of the same inode.
    pub first_name: PathBuf,
}

/// A whole tree, by path below its root; the root itself is the empty path.
pub type Tree = BTreeMap<PathBuf, Entry>;

/// Reads a tree.
///
/// # Errors
/// Anything in it cannot be read.
pub fn read(root: &Path, xattrs: Xattrs) -> Result<Tree> {
    let mut tree = Tree::new();
    let mut names_of = HashMap::new();
    let mut todo = vec![PathBuf::new()];
    while let Some(below) = todo.pop() {
        let path = if below.as_os_str().is_empty() { root.to_owned() } else { root.join(&below) };
        let entry = entry(&path, &below, xattrs)
            .with_context(|| format!("cannot compare {}", path.display()))?;
        if entry.kind == "directory" {
            for child in fs::read_dir(&path)? {
                let name = child?.file_name();
                if !(below.as_os_str().is_empty() && name == PRIVATE) {
                    todo.push(below.join(name));
                }
            }
        } else {
            let meta = fs::symlink_metadata(&path)?;
            let names: &mut Vec<PathBuf> = names_of.entry((meta.dev(), meta.ino())).or_default();
            names.push(below.clone());
        }
        tree.insert(below, entry);
    }
    for mut names in names_of.into_values() {
        names.sort();
        for name in &names {
            if let Some(entry) = tree.get_mut(name) {
                entry.first_name.clone_from(&names[0]);
            }
        }
    }
    Ok(tree)
}

fn entry(path: &Path, below: &Path, xattrs: Xattrs) -> Result<Entry> {
    let meta = fs::symlink_metadata(path)?;
    let kind = kind(meta.file_type());
    Ok(Entry {
        kind,
        mode: meta.mode() & 0o7777,
        uid: meta.uid(),
        gid: meta.gid(),
        size: if kind == "directory" { 0 } else { meta.size() },
        mtime_ns: i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec()),
        rdev: meta.rdev(),
        target: if kind == "symlink" { Some(fs::read_link(path)?) } else { None },
        sum: if kind == "file" { file_sum(path)? } else { 0 },
        xattrs: xattr_sums(path, xattrs)?,
        first_name: below.to_owned(),
    })
}

fn kind(file_type: fs::FileType) -> &'static str {
    match file_type {
        t if t.is_dir() => "directory",
        t if t.is_file() => "file",
        t if t.is_symlink() => "symlink",
        t if t.is_fifo() => "fifo",
        t if t.is_socket() => "socket",
        t if t.is_block_device() => "block device",
        t if t.is_char_device() => "character device",
        _ => "unknown",
    }
}

/// xxh3 of a file's bytes.
///
/// # Errors
/// It cannot be read.
pub fn file_sum(path: &Path) -> Result<u64> {
    let mut file = File::open(path)?;
    let mut hasher = Xxh3::new();
    let mut buffer = vec![0; 256 << 10];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.finish()),
            n => hasher.update(&buffer[..n]),
        }
    }
}

fn xattr_sums(path: &Path, which: Xattrs) -> Result<BTreeMap<OsString, u64>> {
    let mut buffer = vec![0_u8; XATTR_BYTES_MAX];
    let length = rustix::fs::llistxattr(path, &mut buffer[..])?;
    let names: Vec<Vec<u8>> =
        buffer[..length].split(|b| *b == 0).filter(|n| !n.is_empty()).map(<[u8]>::to_vec).collect();
    let mut sums = BTreeMap::new();
    for name in names {
        if which == Xattrs::Visible && BRICK_ONLY.iter().any(|p| name.starts_with(p)) {
            continue;
        }
        let length = rustix::fs::lgetxattr(path, &name[..], &mut buffer[..])?;
        sums.insert(OsString::from_vec(name), xxh3_64(&buffer[..length]));
    }
    Ok(sums)
}

/// Every difference, one line each, at most `DIFFERENCES_SHOWN_MAX` and a count.
pub fn differences(a: &Tree, b: &Tree) -> Vec<String> {
    let mut lines = Vec::new();
    for (path, left) in a {
        match b.get(path) {
            None => lines.push(format!("{}: only on the left ({})", path.display(), left.kind)),
            Some(right) if left != right => {
                lines.push(format!("{}: {}", path.display(), explain(left, right)));
            }
            Some(_) => {}
        }
    }
    for (path, right) in b {
        if !a.contains_key(path) {
            lines.push(format!("{}: only on the right ({})", path.display(), right.kind));
        }
    }
    if lines.len() > DIFFERENCES_SHOWN_MAX {
        let more = lines.len() - DIFFERENCES_SHOWN_MAX;
        lines.truncate(DIFFERENCES_SHOWN_MAX);
        lines.push(format!("... and {more} more"));
    }
    lines
}

fn explain(left: &Entry, right: &Entry) -> String {
    let mut out = String::new();
    let mut say = |what: &str, l: String, r: String| {
        if l != r {
            let _ = write!(out, "{what} {l} <> {r}; ");
        }
    };
    say("type", left.kind.into(), right.kind.into());
    say("mode", format!("{:o}", left.mode), format!("{:o}", right.mode));
    say("owner", format!("{}:{}", left.uid, left.gid), format!("{}:{}", right.uid, right.gid));
    say("size", left.size.to_string(), right.size.to_string());
    say("mtime_ns", left.mtime_ns.to_string(), right.mtime_ns.to_string());
    say("device", left.rdev.to_string(), right.rdev.to_string());
    say("target", format!("{:?}", left.target), format!("{:?}", right.target));
    say("content", format!("{:016x}", left.sum), format!("{:016x}", right.sum));
    say("links", left.first_name.display().to_string(), right.first_name.display().to_string());
    for name in left.xattrs.keys().chain(right.xattrs.keys()) {
        let show = |e: &Entry| e.xattrs.get(name).map_or("absent".into(), |s| format!("{s:016x}"));
        say(&name.to_string_lossy(), show(left), show(right));
    }
    out.trim_end_matches("; ").to_owned()
}

/// Demands that two trees are the same.
///
/// # Errors
/// They differ (the differences are in the message), or one cannot be read.
pub fn same(a: &Path, b: &Path, xattrs: Xattrs) -> Result<usize> {
    let (left, right) = (read(a, xattrs)?, read(b, xattrs)?);
    let lines = differences(&left, &right);
    if !lines.is_empty() {
        bail!("{} and {} differ:\n  {}", a.display(), b.display(), lines.join("\n  "));
    }
    Ok(left.len())
}

/// Demands that all of a replica set's bricks are the same; returns the number of entries.
///
/// # Errors
/// Two differ.
pub fn all_same(bricks: &[PathBuf]) -> Result<usize> {
    let mut entries = 0;
    for pair in bricks.windows(2) {
        entries = same(&pair[0], &pair[1], Xattrs::All)?;
    }
    Ok(entries)
}

#[cfg(test)]
#[path = "tree_test.rs"]
mod tests;
