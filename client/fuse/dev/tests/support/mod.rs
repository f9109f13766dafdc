//! A small file system in memory, served by real worker threads on a real mount.

mod memfs;
mod rarer;
mod serve;

use std::path::Path;

use client_fuse_dev::{InitConfig, MountOptions, Session, mount};

pub use memfs::MemFs;
pub use serve::Workers;

/// A mount of a [`MemFs`] in a temporary directory.
pub struct Mount {
    // Field order is drop order: unmount, then join the workers, then remove the directory.
    pub session: Session,
    pub workers: Workers,
    pub fs: std::sync::Arc<MemFs>,
    pub dir: tempfile::TempDir,
}

impl Mount {
    /// Mounts with `threads` workers; `None`, loudly, where this machine cannot mount.
    pub fn new(threads: usize) -> Option<Self> {
        Self::with(threads, &MountOptions::new("n1:/VOL", "brick"))
    }

    pub fn with(threads: usize, options: &MountOptions) -> Option<Self> {
        if !Path::new("/dev/fuse").exists() || !rustix::process::geteuid().is_root() {
            eprintln!("SKIPPED: needs root and /dev/fuse");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let mut session = mount(options, dir.path()).unwrap();
        session.init(&InitConfig::default()).unwrap();
        let fs = std::sync::Arc::new(MemFs::new());
        let workers = Workers::start(&session, &fs, threads);
        Some(Self { session, workers, fs, dir })
    }

    pub fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }
}
