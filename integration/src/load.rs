//! A writer that knows what it wrote.
//!
//! Each of its threads owns some files and creates, overwrites, appends to, truncates, renames
//! and deletes them at random, keeping their contents in memory as the model. It records every
//! error and the longest time that any one call took: the pause an application would have seen.
//! At the end every file is read back and compared with the model.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use xxhash_rust::xxh3::xxh3_64;

/// Errors kept; the rest is counted.
const ERRORS_KEPT_MAX: usize = 20;

/// What to do.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub seed: u64,
    pub threads: usize,
    pub files_per_thread: usize,
    pub file_bytes_max: usize,
    /// Errors end a thread quietly: for tests that kill the mount under the writer.
    pub errors_expected: bool,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            seed: 1,
            threads: 3,
            files_per_thread: 12,
            file_bytes_max: 256 << 10,
            errors_expected: false,
        }
    }
}

/// What was seen while it ran.
#[derive(Clone, Debug, Default)]
pub struct Report {
    pub operations: u64,
    pub longest: Duration,
    /// The call that took longest.
    pub longest_was: String,
    pub errors: Vec<String>,
}

/// One file as the writer knows it.
#[derive(Clone, Debug, Default)]
struct Known {
    bytes: Vec<u8>,
    /// What was there at the last fsync or close that returned 0; `None` when never.
    settled: Option<u64>,
}

/// The writer's knowledge at its end.
#[derive(Debug, Default)]
pub struct Model {
    files: BTreeMap<PathBuf, Known>,
    /// Names under which a file may exist or not, since a call on them failed.
    doubtful: Vec<PathBuf>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    operations: AtomicU64,
    report: Mutex<Report>,
}

/// The running writer.
#[derive(Debug)]
pub struct Load {
    dir: PathBuf,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<Model>>,
}

impl Load {
    /// Starts writing into a directory of its own.
    ///
    /// # Errors
    /// The directory cannot be made.
    pub fn start(dir: &Path, plan: Plan) -> Result<Self> {
        fs::create_dir_all(dir)?;
        let shared = Arc::new(Shared::default());
        let threads = (0..plan.threads)
            .map(|number| {
                let dir = dir.join(format!("t{number}"));
                let writer = Writer::new(dir, plan, number as u64, shared.clone());
                thread::spawn(move || writer.run())
            })
            .collect();
        Ok(Self { dir: dir.to_owned(), shared, threads })
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What was seen so far, and from here on anew.
    pub fn take_report(&self) -> Report {
        let mut report = self.shared.report.lock().unwrap_or_else(PoisonError::into_inner);
        let mut taken = std::mem::take(&mut *report);
        taken.operations = self.shared.operations.swap(0, Ordering::Relaxed);
        taken
    }

    /// Waits until the writer has done some operations since the last report: a fault is worth
    /// nothing to a writer that has not begun.
    ///
    /// # Errors
    /// It has not after `limit`.
    pub fn wait_operations(&self, count: u64, limit: Duration) -> Result<()> {
        crate::sys::wait_until("operations of the writer", limit, || {
            let done = self.shared.operations.load(Ordering::Relaxed);
            Ok(crate::sys::Poll::of(done >= count, || format!("{done} of {count}")))
        })
        .map(drop)
    }

    /// Ends the writer and returns what it knows.
    ///
    /// # Errors
    /// A thread panicked.
    pub fn finish(mut self) -> Result<(Model, Report)> {
        self.shared.stop.store(true, Ordering::Relaxed);
        let mut model = Model::default();
        for thread in self.threads.drain(..) {
            let Ok(part) = thread.join() else { bail!("a thread of the writer panicked") };
            model.files.extend(part.files);
            model.doubtful.extend(part.doubtful);
        }
        Ok((model, self.take_report()))
    }
}

impl Load {
    /// Ends the writer and demands that all went well: no error, no longer pause since the last
    /// report, and every file through the mount as it was written.
    ///
    /// # Errors
    /// Something did not.
    pub fn end(self, pause_max: Duration) -> Result<()> {
        let (model, report) = self.finish()?;
        report.demand(pause_max)?;
        model.verify().context("through the mount")
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Report {
    /// Demands no error and no call longer than `pause_max`.
    ///
    /// # Errors
    /// There was one.
    pub fn demand(&self, pause_max: Duration) -> Result<()> {
        if !self.errors.is_empty() {
            bail!("the writer saw errors:\n  {}", self.errors.join("\n  "));
        }
        if self.longest > pause_max {
            bail!(
                "the writer paused for {} ms (at most {} ms are promised) in {}",
                self.longest.as_millis(),
                pause_max.as_millis(),
                self.longest_was
            );
        }
        Ok(())
    }
}

impl Model {
    pub fn files(&self) -> usize {
        self.files.len()
    }

    /// Reads every file and compares it with what was written.
    ///
    /// # Errors
    /// Something differs, is missing, or is too many.
    pub fn verify(&self) -> Result<()> {
        let mut wrong = Vec::new();
        for (path, known) in &self.files {
            match fs::read(path) {
                Ok(bytes) if bytes == known.bytes => {}
                Ok(bytes) => wrong.push(format!(
                    "{}: {}",
                    path.display(),
                    first_difference(&known.bytes, &bytes)
                )),
                Err(error) => wrong.push(format!("{}: {error}", path.display())),
            }
        }
        let dirs: std::collections::BTreeSet<&Path> =
            self.files.keys().filter_map(|p| p.parent()).collect();
        for dir in dirs {
            for entry in fs::read_dir(dir)? {
                let path = entry?.path();
                if !self.files.contains_key(&path) {
                    wrong.push(format!("{}: was deleted or renamed, and is there", path.display()));
                }
            }
        }
        report_wrong(&wrong)
    }

    /// After a crash of the mount: what was settled and not touched since must be there; what was
    /// not may be old, new, or missing.
    ///
    /// # Errors
    /// A settled content is lost.
    pub fn verify_settled(&self) -> Result<usize> {
        let (mut wrong, mut checked) = (Vec::new(), 0);
        for (path, known) in &self.files {
            let unchanged = known.settled == Some(xxh3_64(&known.bytes));
            if !unchanged || self.doubtful.contains(path) {
                continue;
            }
            checked += 1;
            match fs::read(path) {
                Ok(bytes) if bytes == known.bytes => {}
                Ok(bytes) => wrong.push(format!(
                    "{}: settled content lost: {}",
                    path.display(),
                    first_difference(&known.bytes, &bytes)
                )),
                Err(error) => wrong.push(format!("{}: settled, but {error}", path.display())),
            }
        }
        report_wrong(&wrong)?;
        Ok(checked)
    }
}

fn report_wrong(wrong: &[String]) -> Result<()> {
    if wrong.is_empty() {
        return Ok(());
    }
    let shown = &wrong[..wrong.len().min(ERRORS_KEPT_MAX)];
    bail!("{} files are wrong:\n  {}", wrong.len(), shown.join("\n  "))
}

fn first_difference(want: &[u8], got: &[u8]) -> String {
    let at = want.iter().zip(got).position(|(a, b)| a != b);
    let wrong = want.iter().zip(got).filter(|(a, b)| a != b).count();
    format!(
        "{} bytes instead of {}, first difference at {}, {wrong} bytes differ",
        got.len(),
        want.len(),
        at.map_or_else(|| "the end".to_owned(), |n| n.to_string())
    )
}

/// One thread of the writer.
struct Writer {
    dir: PathBuf,
    plan: Plan,
    random: Random,
    shared: Arc<Shared>,
    model: Model,
    made: u64,
}

/// The calls that a writer mixes, with their weights of 100.
#[derive(Clone, Copy, Debug)]
enum Action {
    Create,
    Overwrite,
    Append,
    Truncate,
    Rename,
    Delete,
    ReadBack,
}

const WEIGHTS: &[(u64, Action)] = &[
    (15, Action::Create),
    (35, Action::Overwrite),
    (15, Action::Append),
    (8, Action::Truncate),
    (9, Action::Rename),
    (6, Action::Delete),
    (12, Action::ReadBack),
];

impl Writer {
    fn new(dir: PathBuf, plan: Plan, number: u64, shared: Arc<Shared>) -> Self {
        let random = Random::new(plan.seed.wrapping_mul(1_000_003) + number);
        Self { dir, plan, random, shared, model: Model::default(), made: 0 }
    }

    fn run(mut self) -> Model {
        let dir = self.dir.clone();
        if self.timed("mkdir", &dir, || fs::create_dir_all(&dir)).is_err() {
            return self.model;
        }
        while !self.shared.stop.load(Ordering::Relaxed) {
            let (path, result) = self.step();
            if result.is_err() {
                self.model.doubtful.push(path);
                if self.plan.errors_expected {
                    break;
                }
                // A failing mount must not be asked millions of times a second.
                thread::sleep(Duration::from_millis(100));
            }
        }
        self.model
    }

    fn step(&mut self) -> (PathBuf, io::Result<()>) {
        let action = if self.model.files.is_empty() { Action::Create } else { self.choose() };
        let full = self.model.files.len() >= self.plan.files_per_thread;
        let path = match action {
            Action::Create if !full => self.fresh(),
            _ => self.some_file(),
        };
        let result = match action {
            Action::Create | Action::Overwrite if !self.model.files.contains_key(&path) => {
                self.create(&path)
            }
            Action::Create | Action::Overwrite => self.write_some(&path, false),
            Action::Append => self.write_some(&path, true),
            Action::Truncate => self.truncate(&path),
            Action::Rename => self.rename(&path),
            Action::Delete => self.delete(&path),
            Action::ReadBack => self.read_back(&path),
        };
        (path, result)
    }

    fn choose(&mut self) -> Action {
        let mut at = self.random.below(100);
        for (weight, action) in WEIGHTS {
            if at < *weight {
                return *action;
            }
            at -= weight;
        }
        Action::Overwrite
    }

    fn fresh(&mut self) -> PathBuf {
        self.made += 1;
        self.dir.join(format!("f{:06}", self.made))
    }

    fn some_file(&mut self) -> PathBuf {
        let at = self.random.below(self.model.files.len() as u64) as usize;
        self.model.files.keys().nth(at).cloned().unwrap_or_else(|| self.dir.join("f"))
    }

    fn create(&mut self, path: &Path) -> io::Result<()> {
        let size = self.random.below(self.plan.file_bytes_max as u64) as usize;
        let bytes = self.random.bytes(size);
        self.model.files.insert(path.to_owned(), Known { bytes: bytes.clone(), settled: None });
        let file = self.timed("create", path, || File::create_new(path))?;
        self.timed("write", path, || file.write_all_at(&bytes, 0))?;
        self.close(file, path)
    }

    /// A few writes at random places (or at the end) of one open file.
    fn write_some(&mut self, path: &Path, append: bool) -> io::Result<()> {
        let file = self.timed("open", path, || OpenOptions::new().write(true).open(path))?;
        for _ in 0..=self.random.below(4) {
            let size = 1 + self.random.below(16 << 10) as usize;
            let bytes = self.random.bytes(size);
            let len = self.known(path).bytes.len();
            let at = if append { len } else { self.random.below(len as u64 + 1) as usize };
            let known = self.known(path);
            known.settled = None;
            known.bytes.resize(known.bytes.len().max(at + size), 0);
            known.bytes[at..at + size].copy_from_slice(&bytes);
            self.timed("write", path, || file.write_all_at(&bytes, at as u64))?;
        }
        if self.known(path).bytes.len() > 2 * self.plan.file_bytes_max {
            self.set_len(&file, path, 1000)?;
        }
        self.close(file, path)
    }

    fn truncate(&mut self, path: &Path) -> io::Result<()> {
        let file = self.timed("open", path, || OpenOptions::new().write(true).open(path))?;
        let len = self.known(path).bytes.len() as u64;
        let size = self.random.below(len + 5000);
        self.set_len(&file, path, size as usize)?;
        self.close(file, path)
    }

    fn set_len(&mut self, file: &File, path: &Path, size: usize) -> io::Result<()> {
        let known = self.known(path);
        known.settled = None;
        known.bytes.resize(size, 0);
        self.timed("truncate", path, || file.set_len(size as u64))
    }

    fn rename(&mut self, path: &Path) -> io::Result<()> {
        // One in three goes over an existing name.
        let to = if self.random.below(3) == 0 { self.some_file() } else { self.fresh() };
        if to == path {
            return Ok(());
        }
        if let Err(error) = self.timed("rename", path, || fs::rename(path, &to)) {
            self.model.doubtful.push(to);
            return Err(error);
        }
        if let Some(known) = self.model.files.remove(path) {
            self.model.files.insert(to, known);
        }
        Ok(())
    }

    fn delete(&mut self, path: &Path) -> io::Result<()> {
        self.timed("unlink", path, || fs::remove_file(path))?;
        self.model.files.remove(path);
        Ok(())
    }

    fn read_back(&mut self, path: &Path) -> io::Result<()> {
        let bytes = self.timed("read", path, || fs::read(path))?;
        let want = &self.known(path).bytes;
        if bytes != *want {
            let text = first_difference(want, &bytes);
            self.error(format!("read of {} returned other bytes: {text}", path.display()));
        }
        Ok(())
    }

    /// One in two is synced first; close reports what write-behind could not write.
    fn close(&mut self, file: File, path: &Path) -> io::Result<()> {
        if self.random.below(2) == 0 {
            self.timed("fsync", path, || file.sync_all())?;
        }
        self.timed("close", path, || crate::sys::close(file))?;
        let known = self.known(path);
        known.settled = Some(xxh3_64(&known.bytes));
        Ok(())
    }

    fn known(&mut self, path: &Path) -> &mut Known {
        self.model.files.entry(path.to_owned()).or_default()
    }

    fn timed<T>(
        &self,
        what: &str,
        path: &Path,
        call: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        let start = Instant::now();
        let result = call();
        let took = start.elapsed();
        self.shared.operations.fetch_add(1, Ordering::Relaxed);
        let mut report = self.shared.report.lock().unwrap_or_else(PoisonError::into_inner);
        if took > report.longest {
            report.longest = took;
            report.longest_was = format!("{what} {}", path.display());
        }
        drop(report);
        if let Err(error) = &result {
            let ms = took.as_millis();
            self.error(format!("{what} {}: {error} (after {ms} ms)", path.display()));
        }
        result
    }

    fn error(&self, text: String) {
        let mut report = self.shared.report.lock().unwrap_or_else(PoisonError::into_inner);
        if report.errors.len() < ERRORS_KEPT_MAX {
            report.errors.push(text);
        }
    }
}

/// splitmix64: the same numbers from the same seed on every machine.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next_number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// 0..bound, 0 for a bound of 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next_number().checked_rem(bound).unwrap_or(0)
    }

    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes: Vec<u8> =
            (0..count.div_ceil(8)).flat_map(|_| self.next_number().to_le_bytes()).collect();
        bytes.truncate(count);
        bytes
    }
}

#[cfg(test)]
#[path = "load_test.rs"]
mod tests;
