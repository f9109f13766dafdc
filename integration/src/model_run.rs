//! Random operations on real directories, one after the other, each answer compared with the
//! model's. The directories are one: several mounts of a volume, or a local one by itself.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{
    FileExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, symlink,
};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, XattrFlags};

use crate::load::Random;
use crate::model::{Answer, Model, Op, SLOTS, show_bytes, target_of};

/// Few paths below one directory, so that operations meet.
const PATHS: &[&str] = &["a", "b", "d", "d/a", "d/b", "d/e", "d/e/a", "x", "x/a"];
const XATTR: &str = "user.model";
/// Offsets and lengths stay below.
const BYTES_MAX: u64 = 20_000;
const SHOWN: usize = 25;
/// A failure is made shorter for so long.
const SHRINK_MAX: Duration = Duration::from_secs(20);

/// An operation, and the mount that it runs on.
#[derive(Clone, Debug)]
pub struct Step {
    on: usize,
    op: Op,
}

/// The operations of a seed, spread over `trees` directories that do not touch each other.
pub fn steps(seed: u64, count: usize, trees: u64, mounts: u64) -> Vec<Step> {
    let mut random = Random::new(seed);
    let mut steps: Vec<Step> = (0..trees)
        .map(|t| Step { on: (t % mounts) as usize, op: Op::Mkdir(format!("t{t}")) })
        .collect();
    steps.extend((0..count).map(|_| step(&mut random, trees, mounts)));
    steps
}

fn step(random: &mut Random, trees: u64, mounts: u64) -> Step {
    let tree = random.below(trees);
    let path = |random: &mut Random| {
        format!("t{tree}/{}", PATHS[random.below(PATHS.len() as u64) as usize])
    };
    let one = path(random);
    let (at, len) = (random.below(BYTES_MAX), 1 + random.below(BYTES_MAX) as usize);
    let (byte, slot) = (random.below(256) as u8, random.below(SLOTS as u64) as usize);
    let op = match random.below(36) {
        0..2 => Op::Create(one),
        2..5 => Op::Mkdir(one),
        5 => Op::Symlink(one),
        6..8 => Op::Link(one, path(random)),
        8..10 => Op::Unlink(one),
        10 => Op::Rmdir(one),
        11..14 => Op::Rename(one, path(random)),
        14..17 => Op::Write(one, at, len, byte),
        17 => Op::Append(one, len, byte),
        18 => Op::Truncate(one, at),
        19 => Op::Chmod(one, 0o600 | random.below(0o200) as u32),
        20 => Op::Utimens(one, 1_000_000_000 + at as i64, len as u32 * 1000),
        21 => Op::SetXattr(one, byte),
        22 => Op::RemoveXattr(one),
        23 => Op::Open(one, slot),
        24..26 => Op::WriteOpen(slot, at, len, byte),
        26..28 => Op::ReadOpen(slot),
        28 => match byte % 4 {
            0 => Op::TruncateOpen(slot, at),
            1 => Op::Fsync(slot),
            _ => Op::Close(slot),
        },
        29..31 => Op::Stat(one),
        31..33 => Op::Read(one),
        33 => Op::List(if byte < 128 { format!("t{tree}") } else { one }),
        34 => Op::Readlink(one),
        _ => Op::GetXattr(one),
    };
    Step { on: random.below(mounts) as usize, op }
}

/// Directories that show the same, and what is open through them.
struct Real<'a> {
    roots: &'a [PathBuf],
    slots: [Option<File>; SLOTS],
}

impl Real<'_> {
    fn run(&mut self, step: &Step) -> Answer {
        self.io(&self.roots[step.on].clone(), &step.op).map_err(|e| e.raw_os_error().unwrap_or(-1))
    }

    fn io(&mut self, root: &Path, op: &Op) -> io::Result<String> {
        match op {
            Op::Create(path) => drop(open(OpenOptions::new().create_new(true), root, path)?),
            Op::Mkdir(path) => {
                let at = root.join(path);
                std::os::unix::fs::DirBuilderExt::mode(&mut fs::DirBuilder::new(), 0o700)
                    .create(at)?;
            }
            Op::Symlink(path) => symlink(target_of(path), root.join(path))?,
            Op::Link(from, to) => fs::hard_link(root.join(from), root.join(to))?,
            Op::Unlink(path) => fs::remove_file(root.join(path))?,
            Op::Rmdir(path) => fs::remove_dir(root.join(path))?,
            Op::Rename(from, to) => fs::rename(root.join(from), root.join(to))?,
            Op::Write(path, at, len, byte) => {
                let file = open(OpenOptions::new().create(true).truncate(false), root, path)?;
                file.write_all_at(&vec![*byte; *len], *at)?;
                crate::sys::close(file)?;
            }
            Op::Append(path, len, byte) => {
                let mut how = OpenOptions::new();
                let mut file = open(how.create(true).append(true), root, path)?;
                file.write_all(&vec![*byte; *len])?;
                crate::sys::close(file)?;
            }
            Op::Truncate(path, len) => {
                let at =
                    std::ffi::CString::new(root.join(path).into_os_string().into_encoded_bytes())?;
                // SAFETY: a string that ends with a zero and lives through the call.
                if unsafe { libc::truncate(at.as_ptr(), *len as libc::off_t) } != 0 {
                    return Err(io::Error::last_os_error());
                }
            }
            Op::Chmod(path, mode) => {
                fs::set_permissions(root.join(path), fs::Permissions::from_mode(*mode))?;
            }
            Op::Utimens(path, s, ns) => {
                let time = Timespec { tv_sec: *s, tv_nsec: i64::from(*ns) };
                let times = Timestamps { last_access: time, last_modification: time };
                rustix::fs::utimensat(CWD, root.join(path), &times, AtFlags::SYMLINK_NOFOLLOW)?;
            }
            Op::SetXattr(path, value) => {
                let value = value.to_string();
                let flags = XattrFlags::empty();
                rustix::fs::setxattr(root.join(path), XATTR, value.as_bytes(), flags)?;
            }
            Op::RemoveXattr(path) => rustix::fs::removexattr(root.join(path), XATTR)?,
            _ => return self.look_or_use(root, op),
        }
        Ok(String::new())
    }

    fn look_or_use(&mut self, root: &Path, op: &Op) -> io::Result<String> {
        let slot = |n: &usize| self.slots[*n].as_ref();
        match op {
            Op::Open(path, n) => {
                self.slots[*n] = None;
                self.slots[*n] = Some(open(OpenOptions::new().read(true), root, path)?);
            }
            Op::Close(n) => {
                return self.slots[*n]
                    .take()
                    .map_or(Ok(()), crate::sys::close)
                    .map(|()| String::new());
            }
            Op::WriteOpen(n, at, len, byte) => {
                slot(n).map_or(Ok(()), |f| f.write_all_at(&vec![*byte; *len], *at))?;
            }
            Op::TruncateOpen(n, len) => slot(n).map_or(Ok(()), |f| f.set_len(*len))?,
            Op::Fsync(n) => slot(n).map_or(Ok(()), File::sync_all)?,
            Op::ReadOpen(n) => return slot(n).map_or(Ok(String::new()), read),
            Op::Stat(path) => return fs::symlink_metadata(root.join(path)).map(|m| show(&m)),
            Op::Read(path) => {
                let mut how = OpenOptions::new();
                let file = how.read(true).custom_flags(libc::O_NOFOLLOW).open(root.join(path))?;
                return read(&file);
            }
            Op::List(path) => {
                let name =
                    |e: io::Result<fs::DirEntry>| Ok(e?.file_name().to_string_lossy().into());
                let names = fs::read_dir(root.join(path))?.map(name);
                let mut names: Vec<String> = names.collect::<io::Result<_>>()?;
                names.sort();
                return Ok(names.join(" "));
            }
            Op::Readlink(path) => {
                return Ok(fs::read_link(root.join(path))?.to_string_lossy().into());
            }
            Op::GetXattr(path) => {
                let mut buffer = [0; 16];
                let len = rustix::fs::getxattr(root.join(path), XATTR, &mut buffer)?;
                return Ok(String::from_utf8_lossy(&buffer[..len]).into());
            }
            _ => {}
        }
        Ok(String::new())
    }
}

fn open(how: &mut OpenOptions, root: &Path, path: &str) -> io::Result<File> {
    how.write(true).mode(0o600).custom_flags(libc::O_NOFOLLOW).open(root.join(path))
}

fn read(mut file: &File) -> io::Result<String> {
    let mut bytes = Vec::new();
    io::Seek::seek(&mut file, io::SeekFrom::Start(0))?;
    io::Read::read_to_end(&mut file, &mut bytes)?;
    Ok(show_bytes(&bytes))
}

/// As the model shows it, with the mtime always there.
fn show(meta: &fs::Metadata) -> String {
    let time = format!(" mtime {}.{:09}", meta.mtime(), meta.mtime_nsec());
    match meta.file_type() {
        t if t.is_dir() => format!("dir {:o}{time}", meta.mode() & 0o7777),
        t if t.is_symlink() => format!("link {} links{time}", meta.nlink()),
        _ => format!(
            "file {:o} {} links {} bytes{time}",
            meta.mode() & 0o7777,
            meta.nlink(),
            meta.len()
        ),
    }
}

/// The paths whose state an operation may have changed, and whether their content may have.
fn touched(model: &Model, op: &Op) -> (Vec<String>, bool) {
    let paths = match op {
        Op::Link(a, b) | Op::Rename(a, b) => vec![a.clone(), b.clone()],
        Op::Write(a, ..) | Op::Append(a, ..) | Op::Truncate(a, _) => {
            return (vec![a.clone()], true);
        }
        Op::WriteOpen(slot, ..) | Op::TruncateOpen(slot, _) => {
            return (model.names_of_open(*slot), true);
        }
        Op::Create(a) | Op::Mkdir(a) | Op::Symlink(a) | Op::Unlink(a) | Op::Rmdir(a) => {
            vec![a.clone()]
        }
        Op::Chmod(a, _) | Op::Utimens(a, ..) | Op::Stat(a) => vec![a.clone()],
        _ => Vec::new(),
    };
    (paths, false)
}

/// Runs the operations; at the first difference, its place and what it is.
///
/// After each operation the other directories are asked what became of its paths.
fn first_difference(roots: &[PathBuf], steps: &[Step]) -> Option<(usize, String)> {
    let (mut model, mut real) = (Model::default(), Real { roots, slots: Default::default() });
    for (n, step) in steps.iter().enumerate() {
        let (want, got) = (model.run(&step.op), real.run(step));
        let same = match &step.op {
            Op::Stat(path) if !model.knows_mtime(path) => want == got.clone().map(without_mtime),
            _ => want == got,
        };
        if !same {
            return Some((n, format!("answered {got:?}, the model says {want:?}")));
        }
        let (paths, content) = touched(&model, &step.op);
        for path in paths {
            if let Some(what) = disagree(&mut model, &mut real, step.on, &path, content) {
                return Some((n, what));
            }
        }
    }
    None
}

/// What some mount shows of a path otherwise than the model, or than the mount that changed it.
fn disagree(
    model: &mut Model,
    real: &mut Real<'_>,
    changed_on: usize,
    path: &str,
    content: bool,
) -> Option<String> {
    let (stat, read) = (Op::Stat(path.to_owned()), Op::Read(path.to_owned()));
    let (want, knows) = (model.run(&stat), model.knows_mtime(path));
    let first = real.run(&Step { on: changed_on, op: stat.clone() });
    for on in 0..real.roots.len() {
        let got = real.run(&Step { on, op: stat.clone() });
        let shown = if knows { got.clone() } else { got.clone().map(without_mtime) };
        if shown != want || got != first {
            let text = format!("{path} on mount {on}: {got:?}, on the changing one {first:?}");
            return Some(format!("{text}; the model says {want:?}"));
        }
        if content {
            let (want, got) = (model.run(&read), real.run(&Step { on, op: read.clone() }));
            if want != got {
                return Some(format!("{path} on mount {on} reads {got:?}, the model {want:?}"));
            }
        }
    }
    None
}

fn without_mtime(text: String) -> String {
    text.split(" mtime ").next().unwrap_or_default().to_owned()
}

/// Runs the operations of a seed in a new folder below the roots.
///
/// # Errors
/// An answer differs: the seed, the last operations, and a shorter sequence that fails as well.
pub fn compare(roots: &[PathBuf], seed: u64, steps: &[Step]) -> Result<()> {
    let mut run = 0;
    let mut fresh = |steps: &[Step]| -> Result<Option<(usize, String)>> {
        run += 1;
        let roots: Vec<PathBuf> = roots.iter().map(|r| r.join(format!("{seed}-{run}"))).collect();
        fs::create_dir(&roots[0]).context("a folder for the run")?;
        Ok(first_difference(&roots, steps))
    };
    let Some((at, what)) = fresh(steps)? else { return Ok(()) };
    let mut short = steps[..=at].to_vec();
    let began = Instant::now();
    let mut part = short.len() / 2;
    while part > 0 && began.elapsed() < SHRINK_MAX {
        let mut from = 0;
        while from < short.len() && began.elapsed() < SHRINK_MAX {
            let mut fewer = short.clone();
            fewer.drain(from..(from + part).min(short.len()));
            match fresh(&fewer)? {
                Some((end, _)) => short = fewer[..=end].to_vec(),
                None => from += part,
            }
        }
        part /= 2;
    }
    let list = |steps: &[Step]| -> String {
        let last = &steps[steps.len().saturating_sub(SHOWN)..];
        last.iter().map(|s| format!("\n  mount {}: {:?}", s.on, s.op)).collect()
    };
    bail!(
        "seed {seed}, operation {at}: {what}\nthe last operations:{}\n{} operations that fail, too:{}",
        list(&steps[..=at]),
        short.len(),
        list(&short)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    #[test]
    fn a_local_file_system_behaves_like_the_model() {
        let scratch = Scratch::new("model").unwrap();
        for seed in 0..20 {
            let roots = [scratch.images().to_owned()];
            compare(&roots, seed, &steps(seed, 2000, 2, 1)).unwrap();
        }
    }

    #[test]
    fn a_difference_is_found_and_its_operations_are_few() {
        let scratch = Scratch::new("differ").unwrap();
        // Two folders that are not the same one: what one has, the other has not.
        let roots = ["one", "two"].map(|name| scratch.path().join(name));
        roots.iter().for_each(|root| fs::create_dir(root).unwrap());
        let error = compare(&roots, 7, &steps(7, 200, 1, 2)).unwrap_err().to_string();
        assert!(
            error.contains("1 operations that fail")
                && error.contains("ENOENT") | error.contains("Err(2)")
        );
    }
}
