//! XFS file systems on loop-mounted images: what a brick lies on.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::scratch;
use crate::sys;

/// One mounted image; unmounted and deleted when dropped.
#[derive(Debug)]
pub struct Xfs {
    image: PathBuf,
    point: PathBuf,
}

impl Xfs {
    /// Makes a sparse image of `mib` MiB (XFS wants 300 at least) and mounts it at `point`.
    ///
    /// # Errors
    /// mkfs or mount failed.
    pub fn make(image: &Path, point: &Path, mib: u64) -> Result<Self> {
        let file =
            File::create(image).with_context(|| format!("cannot make {}", image.display()))?;
        file.set_len(mib << 20)?;
        drop(file);
        // 512-byte inodes hold the metadata record inline.
        sys::must("mkfs.xfs", &["-q", "-f", "-i", "size=512", &image.to_string_lossy()])?;
        fs::create_dir_all(point)?;
        let made = Self { image: image.to_owned(), point: point.to_owned() };
        made.mount()?;
        Ok(made)
    }

    /// Mounts an image that is there.
    ///
    /// # Errors
    /// mount failed.
    pub fn existing(image: &Path, point: &Path) -> Result<Self> {
        fs::create_dir_all(point)?;
        let found = Self { image: image.to_owned(), point: point.to_owned() };
        found.mount()?;
        Ok(found)
    }

    /// Unmounts and keeps the image.
    ///
    /// # Errors
    /// Something is still open there.
    pub fn release(self) -> Result<()> {
        let this = std::mem::ManuallyDrop::new(self);
        sys::must("umount", &[&this.point]).map(drop)
    }

    pub fn point(&self) -> &Path {
        &self.point
    }

    /// # Errors
    /// mount failed.
    pub fn mount(&self) -> Result<()> {
        let words =
            ["-o", "loop,noatime", &self.image.to_string_lossy(), &self.point.to_string_lossy()];
        sys::must("mount", &words)?;
        Ok(())
    }

    /// Ends the file system as a loss of power does: what is not on the disk yet is gone.
    ///
    /// # Errors
    /// xfs_io failed.
    pub fn lose_power(&self) -> Result<()> {
        sys::must("xfs_io", &["-x", "-c", "shutdown", &self.point.to_string_lossy()])?;
        Ok(())
    }

    /// # Errors
    /// umount failed.
    pub fn unmount(&self) -> Result<()> {
        sys::must("umount", &[self.point.as_os_str()])?;
        Ok(())
    }

    /// Leaves at most `mib` MiB free by one large file beside the brick; returns that file.
    ///
    /// # Errors
    /// The file cannot be allocated.
    pub fn fill_but(&self, mib: u64) -> Result<PathBuf> {
        let stat = rustix::fs::statvfs(&self.point)?;
        let free = stat.f_bavail * stat.f_frsize;
        let filler = self.point.join("filler");
        let file = File::create(&filler)?;
        let bytes = free.saturating_sub(mib << 20);
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, bytes)?;
        Ok(filler)
    }
}

impl Drop for Xfs {
    fn drop(&mut self) {
        if std::env::var_os("BRICK_KEEP").is_some() {
            return;
        }
        for mount in scratch::mounts_below(&self.point) {
            scratch::unmount(&mount);
        }
        let _ = fs::remove_file(&self.image);
    }
}
