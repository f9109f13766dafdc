//! The checksum-recording load: writes that remember what they wrote, and a check that finds
//! lost, stale and torn data, errors, and the longest pause.
//!
//! Each client owns a folder and a model of it in memory (per file: size, and a checksum per
//! block). An operation that returned success changes the model; an operation that failed is
//! an error of the run (a file store that promises availability returns none).

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use xxhash_rust::xxh3::xxh3_64;

use crate::record::Record;
use crate::rng::Rng;

/// Unit of writing and of checksums. Smaller than a page's multiple on purpose, so that blocks
/// straddle pages and extents.
const BLOCK_BYTES: usize = 6000;
/// Blocks of the largest file.
const BLOCKS_MAX: u64 = 64;
/// Files a client keeps at most; above it, it deletes before it creates.
const FILES_MAX: usize = 200;

/// One client's folder and what must be in it.
#[derive(Debug)]
pub struct Verifier {
    dir: PathBuf,
    rng: Rng,
    next_name: u64,
    /// File name → checksum of each block; 0 for one never written (reads as zeroes).
    files: BTreeMap<String, Vec<u64>>,
    pub record: Record,
}

impl Verifier {
    /// # Errors
    /// The folder cannot be made.
    pub fn new(dir: &Path, seed: u64) -> io::Result<Verifier> {
        fs::create_dir_all(dir)?;
        Ok(Verifier {
            dir: dir.to_owned(),
            rng: Rng::new(seed),
            next_name: 0,
            files: BTreeMap::new(),
            record: Record::default(),
        })
    }

    /// Random operations until `stop` is set or `operations` are done.
    pub fn run(&mut self, stop: &AtomicBool, operations: u64) {
        for _ in 0..operations {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            self.step();
        }
    }

    /// One random operation. Its error is in `record`.
    pub fn step(&mut self) {
        let dice = self.rng.below(100);
        if self.files.is_empty() || (dice < 30 && self.files.len() < FILES_MAX) {
            self.create();
        } else if dice < 70 {
            self.overwrite();
        } else if dice < 80 {
            self.rename();
        } else if dice < 95 {
            self.read_back();
        } else {
            self.delete();
        }
    }

    fn pick(&mut self) -> String {
        let n = self.rng.below(self.files.len() as u64) as usize;
        self.files.keys().nth(n).cloned().expect("n is below the count")
    }

    fn fresh_name(&mut self) -> String {
        self.next_name += 1;
        format!("f{:06}", self.next_name)
    }

    fn new_block(&mut self) -> (Vec<u8>, u64) {
        let mut bytes = vec![0; BLOCK_BYTES];
        self.rng.fill(&mut bytes);
        let sum = xxh3_64(&bytes);
        (bytes, sum)
    }

    fn create(&mut self) {
        let name = self.fresh_name();
        let (bytes, sum) = self.new_block();
        let path = self.dir.join(&name);
        if self.record.time(bytes.len() as u64, || fs::write(&path, &bytes)).is_ok() {
            self.files.insert(name, vec![sum]);
        }
    }

    fn overwrite(&mut self) {
        let name = self.pick();
        let (bytes, sum) = self.new_block();
        let at = self.rng.below(BLOCKS_MAX);
        let synced = self.rng.below(4) == 0;
        let path = self.dir.join(&name);
        let done = self.record.time(bytes.len() as u64, || {
            let file = OpenOptions::new().write(true).open(&path)?;
            file.write_all_at(&bytes, at * BLOCK_BYTES as u64)?;
            if synced { file.sync_data() } else { Ok(()) }
        });
        if done.is_ok() {
            let sums = self.files.get_mut(&name).expect("picked from the map");
            let needed = usize::try_from(at).expect("BLOCKS_MAX is small") + 1;
            sums.resize(sums.len().max(needed), 0);
            sums[needed - 1] = sum;
        }
    }

    fn rename(&mut self) {
        let from = self.pick();
        // Every second rename goes over an existing file.
        let over = self.rng.below(2) == 0 && self.files.len() > 1;
        let to = if over { self.pick() } else { self.fresh_name() };
        if from == to {
            return;
        }
        let (a, b) = (self.dir.join(&from), self.dir.join(&to));
        if self.record.time(0, || fs::rename(&a, &b)).is_ok() {
            let sums = self.files.remove(&from).expect("picked from the map");
            self.files.insert(to, sums);
        }
    }

    fn delete(&mut self) {
        let name = self.pick();
        let path = self.dir.join(&name);
        if self.record.time(0, || fs::remove_file(&path)).is_ok() {
            self.files.remove(&name);
        }
    }

    fn read_back(&mut self) {
        let name = self.pick();
        if let Err(what) = self.check_file(&self.dir.clone(), &name) {
            self.record.fail(what);
        }
    }

    /// Compares one file under `root` with the model.
    ///
    /// # Errors
    /// What differs, in one line.
    fn check_file(&mut self, root: &Path, name: &str) -> Result<(), String> {
        let path = root.join(name);
        let sums = self.files.get(name).cloned().unwrap_or_default();
        let data = self
            .record
            .time(0, || fs::read(&path))
            .map_err(|e| format!("{}: {e}", path.display()))?;
        let expected_bytes = sums.len() * BLOCK_BYTES;
        if data.len() != expected_bytes {
            let found = data.len();
            return Err(format!("{}: {found} bytes, expected {expected_bytes}", path.display()));
        }
        for (n, (block, sum)) in data.chunks(BLOCK_BYTES).zip(&sums).enumerate() {
            let same = match sum {
                0 => block.iter().all(|b| *b == 0),
                sum => xxh3_64(block) == *sum,
            };
            if !same {
                return Err(format!("{}: block {n} is not what was written", path.display()));
            }
        }
        Ok(())
    }

    /// Compares the whole folder with the model: through the mount, or in a copy of it elsewhere
    /// (a brick's own tree, another mount).
    pub fn check_all(&mut self, root: &Path) -> Vec<String> {
        let mut wrong = Vec::new();
        let names: Vec<String> = self.files.keys().cloned().collect();
        for name in &names {
            if let Err(what) = self.check_file(root, name) {
                wrong.push(what);
            }
        }
        match fs::read_dir(root) {
            Err(e) => wrong.push(format!("{}: {e}", root.display())),
            Ok(entries) => {
                for entry in entries.flatten() {
                    let name = entry.file_name().to_string_lossy().into_owned();
                    if !self.files.contains_key(&name) {
                        wrong.push(format!("{}/{name}: should not exist", root.display()));
                    }
                }
            }
        }
        wrong
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loaded(dir: &Path) -> Verifier {
        let mut v = Verifier::new(dir, 7).expect("folder");
        v.run(&AtomicBool::new(false), 500);
        v
    }

    #[test]
    fn a_local_folder_passes() {
        let dir = tempfile::tempdir().expect("temp folder");
        let mut v = loaded(dir.path());
        assert_eq!((v.record.failed, v.check_all(dir.path())), (0, vec![]));
    }

    #[test]
    fn a_flipped_byte_a_lost_file_and_a_stray_file_are_found() {
        let dir = tempfile::tempdir().expect("temp folder");
        let mut v = loaded(dir.path());
        let names: Vec<String> = v.files.keys().take(2).cloned().collect();
        let file = OpenOptions::new().write(true).open(dir.path().join(&names[0])).expect("open");
        let last = file.metadata().expect("stat").len() - 1;
        file.write_all_at(b"\0", last).expect("write");
        file.write_all_at(b"\x01", last).expect("write");
        fs::remove_file(dir.path().join(&names[1])).expect("remove");
        fs::write(dir.path().join("stray"), b"x").expect("write");
        let wrong = v.check_all(dir.path());
        assert_eq!(wrong.len(), 3, "{wrong:?}");
    }
}
