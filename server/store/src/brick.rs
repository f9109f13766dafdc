//! The brick directory: may it be used, what is in `.brickwork/`, whose is it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use proto::error::Errno;
use proto::ids::{BrickId, SetId, Stamp, VolumeId};

use crate::disk::{At, Disk, Open};
use crate::record::PROBE_XATTR;

/// Where Brickwork keeps its own things in a brick; never a name of the volume.
pub const INNER: &[u8] = b".brickwork";
const FORMAT_FILE: &[u8] = b"format";
const FORMAT_VERSION: u32 = 1;
/// There since the brick is no member of its volume any more; says so in words.
const DROPPED_FILE: &[u8] = b"dropped";
/// A `.brickwork` being made; one left by a crash is used again.
const FRESH: &[u8] = b".brickwork.new";
/// What every new file system holds; not the user's.
const HARMLESS: &[u8] = b"lost+found";

/// What a new brick is told about itself.
#[derive(Clone, Copy, Debug)]
pub struct NewBrick {
    pub brick: BrickId,
    pub volume: VolumeId,
    pub set: SetId,
    /// Buckets of the root directory.
    pub dir_buckets: u16,
    /// Time of the root's creation: the same on all bricks of a set, so that they are equal.
    pub stamp: Stamp,
}

/// What stands in `.brickwork/format`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Identity {
    pub version: u32,
    pub brick: BrickId,
    pub volume: VolumeId,
    pub set: SetId,
}

/// Why a directory cannot be used as this brick, with the next step.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    #[error("{0:?} is not an absolute path; give the whole path of the brick directory")]
    NotAbsolute(PathBuf),
    #[error("{0:?} does not exist; mount its file system or make it with 'mkdir -p'")]
    Missing(PathBuf),
    #[error("{0:?} is not a directory; give a directory on an XFS file system")]
    NotADirectory(PathBuf),
    #[error(
        "{0:?}: its file system has no trusted extended attributes ({1}); use XFS, and run \
         brickd as root"
    )]
    NoXattrs(PathBuf, Errno),
    #[error("{0:?}: its file system has no file handles ({1}); use XFS")]
    NoHandles(PathBuf, Errno),
    #[error(
        "{path:?} belongs to another volume ({volume}); give another directory, or 'force' to \
         set its content aside"
    )]
    OtherVolume { path: PathBuf, volume: VolumeId },
    #[error("{0:?} is a brick of this volume already; give another directory")]
    InUse(PathBuf),
    #[error(
        "{path:?} was a brick of volume {volume} and was taken out of it; its files are kept: give \
         another directory, or 'force' to set its content aside"
    )]
    Dropped { path: PathBuf, volume: VolumeId },
    #[error(
        "{path:?} holds metadata of other software ({what}); give an empty directory, or \
         'force' to set its content aside"
    )]
    Foreign { path: PathBuf, what: String },
    #[error(
        "{path:?} is not empty (it holds {example:?}); give an empty directory, or 'force' to \
         set its content aside"
    )]
    NotEmpty { path: PathBuf, example: String },
    #[error(
        "{0:?} holds no brick; mount its file system, or replace the brick with 'brick volume \
         replace-brick'"
    )]
    NoBrick(PathBuf),
    #[error("{path:?} is brick {found}, not {want}; check which disk is mounted there")]
    WrongBrick { path: PathBuf, found: BrickId, want: BrickId },
    #[error("{0:?} has format version {1}, newer than this brickd knows (1); update brickd")]
    TooNew(PathBuf, u32),
    #[error("{path:?}: its format file cannot be read ({why}); restore it or replace the brick")]
    BadFormat { path: PathBuf, why: String },
    #[error("{0:?} is in use by another process; stop the other brickd first")]
    Locked(PathBuf),
    #[error("{path:?}: {what} failed: {errno}; check the disk and the kernel's log")]
    Disk { path: PathBuf, what: &'static str, errno: Errno },
    #[error("{path:?}: its database cannot be opened ({why}); check the disk and its free space")]
    Database { path: PathBuf, why: String },
}

/// Open directories of a brick, each reached by one component from the one before.
#[derive(Debug)]
pub struct Tree {
    pub path: PathBuf,
    pub root: Arc<OwnedFd>,
    pub inner: OwnedFd,
    /// Inodes without a name that are still open somewhere.
    pub orphans: OwnedFd,
    /// Inodes whose name a heal removed, until adopted by gfid or swept.
    pub parked: OwnedFd,
    /// Things found in the brick that are no part of the volume, set aside.
    pub lost: OwnedFd,
    /// `.brickwork/format`, locked while the brick is open.
    _format: OwnedFd,
}

/// May this directory become a brick of `volume`? Changes nothing but a probe xattr, which it
/// removes again.
///
/// # Errors
/// The first reason against it.
pub fn check(
    disk: &dyn Disk,
    path: &Path,
    volume: Option<VolumeId>,
    force: bool,
) -> Result<(), Refused> {
    let root = open_root(disk, path)?;
    probe(disk, path, root.as_fd())?;
    if let Some(identity) = read_identity(disk, path, root.as_fd())? {
        let dropped = is_dropped(disk, path, root.as_fd())?;
        if dropped && !force {
            return Err(Refused::Dropped { path: path.into(), volume: identity.volume });
        }
        if !dropped && volume == Some(identity.volume) {
            return Err(Refused::InUse(path.into()));
        }
        if !force {
            return Err(Refused::OtherVolume { path: path.into(), volume: identity.volume });
        }
    }
    if force { Ok(()) } else { check_empty(disk, path, root.as_fd()) }
}

fn is_dropped(disk: &dyn Disk, path: &Path, root: BorrowedFd<'_>) -> Result<bool, Refused> {
    let inner = disk.open_at(root, INNER, Open::Directory);
    match inner.and_then(|inner| disk.open_at(inner.as_fd(), DROPPED_FILE, Open::File)) {
        Ok(_) => Ok(true),
        Err(Errno::ENOENT) => Ok(false),
        Err(errno) => Err(failed(path, "opening .brickwork")(errno)),
    }
}

/// Which brick a directory is, if it is one.
///
/// # Errors
/// The directory or its `.brickwork` cannot be read.
pub fn identity_of(disk: &dyn Disk, path: &Path) -> Result<Option<Identity>, Refused> {
    let root = open_root(disk, path)?;
    read_identity(disk, path, root.as_fd())
}

/// Notes in the directory that its brick is no member of `volume` any more.
///
/// # Errors
/// It is another brick, in use, or cannot be written.
pub fn note_dropped(
    disk: &dyn Disk,
    path: &Path,
    brick: BrickId,
    volume: &str,
) -> Result<(), Refused> {
    let (tree, _) = find(disk, path, brick)?;
    let wrote = || -> Result<(), Errno> {
        let inner = tree.inner.as_fd();
        let file = match disk.open_at(inner, DROPPED_FILE, Open::New { mode: 0o600 }) {
            Err(Errno::EEXIST) => return Ok(()),
            opened => opened?,
        };
        let text = format!("no member of volume {volume} any more; its files are as they were\n");
        disk.pwrite(file.as_fd(), text.as_bytes(), 0)?;
        disk.fsync(file.as_fd(), false)?;
        disk.fsync(inner, false)
    };
    wrote().map_err(failed(path, "noting that the brick was taken out"))
}

fn failed<'a>(path: &'a Path, what: &'static str) -> impl Fn(Errno) -> Refused + 'a {
    move |errno| Refused::Disk { path: path.into(), what, errno }
}

fn open_root(disk: &dyn Disk, path: &Path) -> Result<OwnedFd, Refused> {
    if !path.is_absolute() {
        return Err(Refused::NotAbsolute(path.into()));
    }
    disk.open_root(path).map_err(|errno| match errno {
        Errno::ENOENT => Refused::Missing(path.into()),
        Errno::ENOTDIR => Refused::NotADirectory(path.into()),
        errno => Refused::Disk { path: path.into(), what: "opening the brick", errno },
    })
}

fn probe(disk: &dyn Disk, path: &Path, root: BorrowedFd<'_>) -> Result<(), Refused> {
    let no_xattrs = |errno| Refused::NoXattrs(path.into(), errno);
    disk.set_xattr(At::Fd(root), PROBE_XATTR, b"1", 0).map_err(no_xattrs)?;
    disk.remove_xattr(At::Fd(root), PROBE_XATTR).map_err(no_xattrs)?;
    let handle = disk.handle_of(At::Fd(root));
    handle.map(drop).map_err(|errno| Refused::NoHandles(path.into(), errno))
}

fn check_empty(disk: &dyn Disk, path: &Path, root: BorrowedFd<'_>) -> Result<(), Refused> {
    let xattrs = disk.list_xattr(At::Fd(root)).map_err(failed(path, "listing xattrs"))?;
    for name in xattrs.split(|b| *b == 0) {
        if name.starts_with(b"trusted.glusterfs.") || name == b"trusted.gfid" {
            let what = String::from_utf8_lossy(name).into_owned();
            return Err(Refused::Foreign { path: path.into(), what });
        }
    }
    let entries = disk.read_dir(root).map_err(failed(path, "reading the directory"))?;
    match entries.iter().find(|e| e.name != HARMLESS && e.name != FRESH) {
        None => Ok(()),
        Some(e) if e.name == b".glusterfs" || e.name == INNER => {
            let what = String::from_utf8_lossy(&e.name).into_owned();
            Err(Refused::Foreign { path: path.into(), what })
        }
        Some(e) => {
            let example = String::from_utf8_lossy(&e.name).into_owned();
            Err(Refused::NotEmpty { path: path.into(), example })
        }
    }
}

/// `None` when there is no `.brickwork/format`.
fn read_identity(
    disk: &dyn Disk,
    path: &Path,
    root: BorrowedFd<'_>,
) -> Result<Option<Identity>, Refused> {
    let file = match disk.open_at(root, INNER, Open::Directory) {
        Ok(inner) => disk.open_at(inner.as_fd(), FORMAT_FILE, Open::File),
        Err(errno) => Err(errno),
    };
    let file = match file {
        Ok(file) => file,
        Err(Errno::ENOENT) => return Ok(None),
        Err(errno) => return Err(failed(path, "opening .brickwork/format")(errno)),
    };
    let mut text = [0; 1024];
    let n = disk.pread(file.as_fd(), &mut text, 0).map_err(failed(path, "reading .brickwork"))?;
    parse_identity(path, &text[..n]).map(Some)
}

fn parse_identity(path: &Path, text: &[u8]) -> Result<Identity, Refused> {
    let bad = |why: &str| Refused::BadFormat { path: path.into(), why: why.to_owned() };
    let text = std::str::from_utf8(text).map_err(|_| bad("not text"))?;
    let value = |key: &str| {
        let line = text.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(' '));
        line.ok_or_else(|| bad(&format!("no '{key}' line")))
    };
    let version: u32 = value("version")?.parse().map_err(|_| bad("bad version"))?;
    if version > FORMAT_VERSION {
        return Err(Refused::TooNew(path.into(), version));
    }
    Ok(Identity {
        version,
        brick: value("brick")?.parse().map_err(|_| bad("bad brick id"))?,
        volume: value("volume")?.parse().map_err(|_| bad("bad volume id"))?,
        set: SetId(value("set")?.parse().map_err(|_| bad("bad set"))?),
    })
}

fn format_text(identity: &Identity) -> String {
    format!(
        "version {}\nbrick {}\nvolume {}\nset {}\n",
        identity.version, identity.brick, identity.volume, identity.set
    )
}

/// Makes `.brickwork/`; with `force`, sets aside what is there. Its own name comes last: a
/// half-made brick is none.
pub fn make(
    disk: &dyn Disk,
    path: &Path,
    new: &NewBrick,
    force: bool,
) -> Result<(Tree, Identity), Refused> {
    check(disk, path, Some(new.volume), force)?;
    let root = open_root(disk, path)?;
    let aside: Vec<Vec<u8>> = disk
        .read_dir(root.as_fd())
        .map_err(failed(path, "reading the directory"))?
        .into_iter()
        .map(|e| e.name)
        .filter(|n| n != HARMLESS)
        .collect();
    if !aside.iter().any(|n| n == FRESH) {
        disk.mkdir_at(root.as_fd(), FRESH, 0o700).map_err(failed(path, "making .brickwork"))?;
    }
    let inner = disk
        .open_at(root.as_fd(), FRESH, Open::Directory)
        .map_err(failed(path, "opening .brickwork"))?;
    for sub in [&b"orphans"[..], b"parked", b"lost", b"detached"] {
        match disk.mkdir_at(inner.as_fd(), sub, 0o700) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(errno) => return Err(failed(path, "making .brickwork")(errno)),
        }
    }
    let lost = disk
        .open_at(inner.as_fd(), b"lost", Open::Directory)
        .map_err(failed(path, "opening .brickwork/lost"))?;
    for name in aside.iter().filter(|n| *n != FRESH) {
        disk.rename_at(root.as_fd(), name, lost.as_fd(), name, 1)
            .map_err(failed(path, "setting old content aside"))?;
    }
    let identity =
        Identity { version: FORMAT_VERSION, brick: new.brick, volume: new.volume, set: new.set };
    write_format(disk, inner.as_fd(), &identity).map_err(failed(path, "writing the format"))?;
    disk.rename_at(root.as_fd(), FRESH, root.as_fd(), INNER, 1)
        .and_then(|()| disk.fsync(root.as_fd(), false))
        .map_err(failed(path, "naming .brickwork"))?;
    Ok((Tree::open_parts(disk, path, root)?, identity))
}

/// Opens an existing brick.
pub fn find(disk: &dyn Disk, path: &Path, brick: BrickId) -> Result<(Tree, Identity), Refused> {
    let root = open_root(disk, path)?;
    let identity =
        read_identity(disk, path, root.as_fd())?.ok_or_else(|| Refused::NoBrick(path.into()))?;
    if identity.brick != brick {
        let path = path.into();
        return Err(Refused::WrongBrick { path, found: identity.brick, want: brick });
    }
    probe(disk, path, root.as_fd())?;
    Ok((Tree::open_parts(disk, path, root)?, identity))
}

impl Tree {
    fn open_parts(disk: &dyn Disk, path: &Path, root: OwnedFd) -> Result<Tree, Refused> {
        let inner = disk
            .open_at(root.as_fd(), INNER, Open::Directory)
            .map_err(failed(path, "opening .brickwork"))?;
        let part = |name: &[u8]| {
            match disk.open_at(inner.as_fd(), name, Open::Directory) {
                Err(Errno::ENOENT) => disk
                    .mkdir_at(inner.as_fd(), name, 0o700)
                    .and_then(|()| disk.open_at(inner.as_fd(), name, Open::Directory)),
                done => done,
            }
            .map_err(failed(path, "opening a part of .brickwork"))
        };
        let (orphans, parked, lost) = (part(b"orphans")?, part(b"parked")?, part(b"lost")?);
        let format = disk
            .open_at(inner.as_fd(), FORMAT_FILE, Open::File)
            .map_err(failed(path, "opening .brickwork/format"))?;
        disk.lock(format.as_fd()).map_err(|errno| match errno {
            Errno::EAGAIN => Refused::Locked(path.into()),
            errno => failed(path, "locking .brickwork/format")(errno),
        })?;
        Ok(Tree {
            path: path.into(),
            root: Arc::new(root),
            inner,
            orphans,
            parked,
            lost,
            _format: format,
        })
    }

    /// Where RocksDB lives; it opens its files by path itself.
    pub fn db_path(&self) -> PathBuf {
        self.path.join(".brickwork/db")
    }
}

fn write_format(disk: &dyn Disk, inner: BorrowedFd<'_>, identity: &Identity) -> Result<(), Errno> {
    match disk.unlink_at(inner, FORMAT_FILE) {
        Ok(()) | Err(Errno::ENOENT) => {}
        Err(errno) => return Err(errno),
    }
    let file = disk.open_at(inner, FORMAT_FILE, Open::New { mode: 0o600 })?;
    disk.pwrite(file.as_fd(), format_text(identity).as_bytes(), 0)?;
    disk.fsync(file.as_fd(), false)?;
    disk.fsync(inner, false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_file_round_trips_and_bad_ones_say_why() {
        let path = Path::new("/b");
        let identity = Identity {
            version: 1,
            brick: BrickId::random(),
            volume: VolumeId::random(),
            set: SetId(3),
        };
        let text = format_text(&identity);
        assert_eq!(parse_identity(path, text.as_bytes()).unwrap(), identity);
        let newer = text.replace("version 1", "version 2");
        assert!(matches!(parse_identity(path, newer.as_bytes()), Err(Refused::TooNew(_, 2))));
        let torn = &text.as_bytes()[..30];
        assert!(matches!(parse_identity(path, torn), Err(Refused::BadFormat { .. })));
    }
}
