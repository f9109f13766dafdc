//! The contract (`docs/semantics.md`) on real daemons and real mounts: three replicas, two mounts,
//! all caches on. What fails and heals is in `kill`, `faults` and `scenarios`.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use integration::pair::{self, Place};
use integration::{model_run, sys};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, XattrFlags};

/// Directories of a test on two mounts. A directory that has just changed hands is believed by no
/// kernel for a while, so there are many, each visited a few times, and not soon again.
const DIRS: usize = 200;
/// Changes in each directory, on both mounts in turn.
const TURNS: usize = 3;

/// One change: made on one mount, looked for on the other.
struct Turn {
    /// The directory on the mount that changes, and on the one that looks.
    here: PathBuf,
    there: PathBuf,
    dir: usize,
    /// Counts the turns of this directory.
    n: usize,
    /// Another one each time.
    stamp: usize,
}

/// Changes something in every directory `TURNS` times; the caches of both mounts are warm before.
fn alternate(place: &Place, mut change: impl FnMut(&Turn) -> Result<()>) -> Result<()> {
    let sides = |dir: usize| place.seen.each_ref().map(|s| s.join(format!("d{dir}")));
    // One mount after the other: a directory that changes hands each time is slow.
    for maker in 0..2 {
        for dir in (maker..DIRS).step_by(2) {
            fs::create_dir(&sides(dir)[maker])?;
            fs::write(sides(dir)[maker].join("f"), "first")?;
        }
    }
    for n in 0..TURNS {
        for dir in 0..DIRS {
            let sides = sides(dir);
            sides.iter().for_each(|side| warm(side));
            let from = (dir + n) % 2;
            let [here, there] = [&sides[from], &sides[1 - from]].map(PathBuf::clone);
            change(&Turn { here, there, dir, n, stamp: n * DIRS + dir })
                .with_context(|| format!("directory {dir}, turn {n}, changed on mount {from}"))?;
        }
    }
    Ok(())
}

/// Everything a kernel remembers of a directory: attributes, names, data, and what is not there.
fn warm(dir: &Path) {
    for _ in 0..2 {
        let _ = fs::metadata(dir);
        let _ = fs::read_dir(dir).map(Iterator::count);
        for name in ["f", "g", "absent"] {
            let _ = fs::symlink_metadata(dir.join(name));
            let _ = fs::read(dir.join(name));
        }
    }
}

fn names(dir: &Path) -> io::Result<BTreeSet<String>> {
    let name = |entry: io::Result<fs::DirEntry>| Ok(entry?.file_name().to_string_lossy().into());
    fs::read_dir(dir)?.map(name).collect()
}

fn demand_absent(path: &Path) -> Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => anyhow::bail!("{} should not be there: {other:?}", path.display()),
    }
}

fn writing(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).open(path)
}

#[test]
fn two_mounts_agree_on_data() {
    pair::test("data", |_, place| {
        let mut unclosed = Vec::new();
        alternate(place, |turn| {
            let (file, seen) = (turn.here.join("f"), turn.there.join("f"));
            let open = File::open(&seen)?;
            let want = format!("{:05}", turn.stamp);
            let writer = writing(&file)?;
            writer.write_all_at(want.as_bytes(), 0)?;
            match turn.stamp % 3 {
                0 => sys::close(writer)?,
                1 => {
                    writer.sync_all()?;
                    unclosed.push(writer);
                }
                // Neither closed nor synced: it has returned, so it is seen.
                _ => unclosed.push(writer),
            }
            let mut bytes = [0; 5];
            open.read_exact_at(&mut bytes, 0)?;
            ensure!(bytes == want.as_bytes(), "{want}, but an open file has {bytes:?}");
            let text = fs::read_to_string(&seen)?;
            ensure!(text == want, "{want} was written, {text} is read");
            Ok(())
        })
    });
}

#[test]
fn two_mounts_agree_on_size() {
    pair::test("size", |_, place| {
        alternate(place, |turn| {
            let (file, seen) = (turn.here.join("f"), turn.there.join("f"));
            let want = (turn.stamp * 7919 % 40_000) as u64;
            match turn.stamp % 3 {
                0 => writing(&file)?.set_len(want)?,
                1 => {
                    File::create(&file)?.write_all(&vec![b'x'; want as usize])?;
                }
                _ => {
                    let before = fs::metadata(&seen)?.len();
                    OpenOptions::new().append(true).open(&file)?.write_all(b"appended")?;
                    let size = fs::metadata(&seen)?.len();
                    ensure!(size == before + 8, "{size} after an append to {before}");
                    return Ok(());
                }
            }
            let size = fs::metadata(&seen)?.len();
            ensure!(size == want, "{size} instead of {want}");
            ensure!(fs::read(&seen)?.len() as u64 == want, "other bytes than its size");
            Ok(())
        })
    });
}

#[test]
fn two_mounts_agree_on_attributes() {
    pair::test("attributes", |_, place| {
        alternate(place, |turn| {
            let name = if turn.dir % 2 == 0 { "f" } else { "" };
            let (file, seen) = (turn.here.join(name), turn.there.join(name));
            let n = turn.stamp as u32;
            match (turn.dir / 2 + turn.n) % 4 {
                0 => {
                    fs::set_permissions(&file, fs::Permissions::from_mode(0o700 | (n & 0o77)))?;
                    let mode = fs::metadata(&seen)?.mode() & 0o777;
                    ensure!(mode == 0o700 | (n & 0o77), "mode {mode:o}");
                }
                1 => {
                    std::os::unix::fs::chown(&file, Some(n), Some(n + 1))?;
                    let meta = fs::metadata(&seen)?;
                    ensure!((meta.uid(), meta.gid()) == (n, n + 1), "owner {}", meta.uid());
                }
                2 => {
                    let time = Timespec { tv_sec: 1_000_000 + i64::from(n), tv_nsec: 123_456_789 };
                    let times = Timestamps { last_access: time, last_modification: time };
                    rustix::fs::utimensat(CWD, &file, &times, AtFlags::empty())?;
                    let meta = fs::metadata(&seen)?;
                    ensure!((meta.mtime(), meta.mtime_nsec()) == (time.tv_sec, time.tv_nsec));
                }
                _ => xattr_is_seen(&file, &seen, &format!("value {n}"))?,
            }
            Ok(())
        })
    });
}

fn xattr_is_seen(file: &Path, seen: &Path, value: &str) -> Result<()> {
    let mut buffer = [0; 64];
    let before = rustix::fs::getxattr(seen, "user.turn", &mut buffer);
    if before.is_ok() {
        rustix::fs::removexattr(file, "user.turn")?;
        let gone = rustix::fs::getxattr(seen, "user.turn", &mut buffer);
        ensure!(gone == Err(rustix::io::Errno::NODATA), "removed, but {gone:?}");
    } else {
        rustix::fs::setxattr(file, "user.turn", value.as_bytes(), XattrFlags::empty())?;
        let len = rustix::fs::getxattr(seen, "user.turn", &mut buffer)?;
        ensure!(&buffer[..len] == value.as_bytes(), "{value:?} is {:?}", &buffer[..len]);
    }
    Ok(())
}

#[test]
fn two_mounts_agree_on_entries() {
    pair::test("entries", |_, place| {
        alternate(place, |turn| {
            let made = turn.here.join("made");
            let want: &[&str] = match turn.n {
                0 => {
                    match turn.dir / 2 % 4 {
                        0 => drop(File::create_new(&made)?),
                        1 => fs::create_dir(&made)?,
                        2 => symlink("f", &made)?,
                        _ => fs::hard_link(turn.here.join("f"), &made)?,
                    }
                    &["f", "made"]
                }
                1 => {
                    fs::rename(&made, turn.here.join("g"))?;
                    &["f", "g"]
                }
                _ => {
                    let is_dir = turn.dir / 2 % 4 == 1;
                    let remove = if is_dir { fs::remove_dir } else { fs::remove_file };
                    remove(turn.here.join("g"))?;
                    &["f"]
                }
            };
            let found = names(&turn.there)?;
            ensure!(found.iter().eq(want), "{want:?} are there, {found:?} are listed");
            for name in ["f", "made", "g"] {
                let (a, b) = (turn.here.join(name), turn.there.join(name));
                if want.contains(&name) {
                    let (a, b) = (fs::symlink_metadata(a)?, fs::symlink_metadata(b)?);
                    ensure!(a.ino() == b.ino() && a.mode() == b.mode(), "another inode: {name}");
                } else {
                    demand_absent(&b)?;
                }
            }
            Ok(())
        })
    });
}

#[test]
fn two_mounts_agree_on_what_is_not_there() {
    pair::test("absent", |_, place| {
        alternate(place, |turn| {
            let (absent, seen) = (turn.here.join("absent"), turn.there.join("absent"));
            if turn.n == 1 {
                // Both kernels have just been told that it is there.
                match turn.dir / 2 % 2 {
                    0 => fs::remove_file(&absent)?,
                    _ => fs::rename(&absent, turn.here.join("g"))?,
                }
                demand_absent(&seen)?;
                let open = File::open(&seen).map_err(|e| e.kind()).err();
                ensure!(open == Some(io::ErrorKind::NotFound), "opened what is gone: {open:?}");
                return Ok(());
            }
            // Both kernels have just been told that there is no such name.
            match turn.dir / 2 % 3 {
                0 => fs::write(&absent, "here")?,
                1 => fs::rename(turn.here.join("f"), &absent)?,
                _ => fs::hard_link(turn.here.join("f"), &absent)?,
            }
            fs::symlink_metadata(&seen).context("it is there now")?;
            let again = File::create_new(&seen).map_err(|e| e.kind()).err();
            ensure!(again == Some(io::ErrorKind::AlreadyExists), "O_EXCL: {again:?}");
            if !turn.here.join("f").exists() {
                fs::write(turn.here.join("f"), "again")?;
            }
            Ok(())
        })
    });
}

/// Directories that random operations do not carry anything between: one that changes hands with
/// every operation is slow.
const TREES: u64 = 24;

#[test]
fn random_operations_on_two_mounts_answer_like_one_file_system() {
    pair::test("random", |pair, place| {
        let number = |name: &str| std::env::var(name).ok().and_then(|v| v.parse::<u64>().ok());
        let seed = number("BRICK_SEED").unwrap_or(1);
        let count = number("BRICK_OPS").unwrap_or(5000) as usize;
        println!("BRICK_SEED={seed} BRICK_OPS={count}");
        let steps = model_run::steps(seed, count, TREES, 2);
        model_run::compare(&place.seen, seed, &steps)?;
        pair.cluster.demand_equal_bricks("gv0").map(drop)
    });
}
