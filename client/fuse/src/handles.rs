//! Open files and directories, by the numbers that the kernel was given.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use client::volume::{DirScan, File};
use proto::Errno;

/// An open directory and the position that its next entry has for the kernel.
pub struct OpenDir {
    pub scan: DirScan,
    pub at: u64,
}

#[derive(Clone)]
enum Handle {
    File(Arc<File>),
    Dir(Arc<tokio::sync::Mutex<OpenDir>>),
}

#[derive(Default)]
pub struct Handles {
    next: AtomicU64,
    open: Mutex<HashMap<u64, Handle>>,
}

impl Handles {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Handle>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, handle: Handle) -> u64 {
        let fh = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        self.lock().insert(fh, handle);
        fh
    }

    pub fn add_file(&self, file: Arc<File>) -> u64 {
        self.add(Handle::File(file))
    }

    pub fn add_dir(&self, scan: DirScan) -> u64 {
        let dir = OpenDir { scan, at: 0 };
        self.add(Handle::Dir(Arc::new(tokio::sync::Mutex::new(dir))))
    }

    /// # Errors
    /// EBADF when there is no such open file.
    pub fn file(&self, fh: u64) -> Result<Arc<File>, Errno> {
        match self.lock().get(&fh) {
            Some(Handle::File(file)) => Ok(file.clone()),
            _ => Err(Errno::EBADF),
        }
    }

    /// # Errors
    /// EBADF when there is no such open directory.
    pub fn dir(&self, fh: u64) -> Result<Arc<tokio::sync::Mutex<OpenDir>>, Errno> {
        match self.lock().get(&fh) {
            Some(Handle::Dir(dir)) => Ok(dir.clone()),
            _ => Err(Errno::EBADF),
        }
    }

    /// Takes an open file (or directory) out; the file, if it was one.
    pub fn remove(&self, fh: u64) -> Option<Arc<File>> {
        match self.lock().remove(&fh)? {
            Handle::File(file) => Some(file),
            Handle::Dir(_) => None,
        }
    }

    /// All files that are still open: at the end of the mount.
    pub fn drain(&self) -> Vec<Arc<File>> {
        let all = std::mem::take(&mut *self.lock());
        let files = all.into_values().filter_map(|handle| match handle {
            Handle::File(file) => Some(file),
            Handle::Dir(_) => None,
        });
        files.collect()
    }
}
