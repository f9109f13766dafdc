//! Paths, for those who use a volume without a kernel: loaders, gateways, tests.
//!
//! A path is names between slashes, from the root of the volume; symbolic links are not
//! followed.

use std::sync::Arc;

use bytes::Bytes;
use proto::{Attr, Errno, Gfid};

use super::{DirItem, File, NewInode, OpenHow, Volume, WriteHow};

/// Attributes as `stat` shows them.
pub type Stat = Attr;

impl Volume {
    /// The inode at a path.
    ///
    /// # Errors
    /// ENOENT, ENOTDIR, and what the bricks answer.
    pub async fn resolve(&self, path: &str) -> Result<Gfid, Errno> {
        let mut at = Gfid::ROOT;
        let mut names = names(path).peekable();
        while let Some(name) = names.next() {
            let name = name.as_bytes();
            at = if names.peek().is_some() {
                // On the way only the inode matters, not its attributes.
                let (dir, set) = self.dir_for(at, name).await?;
                self.gfid_of(&dir, set, name).await?.ok_or(Errno::ENOENT)?
            } else {
                self.lookup(at, name).await?.found()?.attr.gfid
            };
        }
        Ok(at)
    }

    /// The directory that holds the path's last name, and that name.
    ///
    /// # Errors
    /// EINVAL for the root, and as `resolve`.
    pub async fn resolve_parent<'a>(&self, path: &'a str) -> Result<(Gfid, &'a str), Errno> {
        let path = path.trim_end_matches('/');
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        if name.is_empty() {
            return Err(Errno::EINVAL);
        }
        Ok((self.resolve(dir).await?, name))
    }

    /// # Errors
    /// As `resolve`.
    pub async fn stat_path(&self, path: &str) -> Result<Stat, Errno> {
        let gfid = self.resolve(path).await?;
        Ok(self.getattr(gfid).await?.attr)
    }

    /// Makes a directory and those above it that are missing.
    ///
    /// # Errors
    /// ENOTDIR, and what the bricks answer.
    pub async fn mkdir_all(&self, path: &str) -> Result<Gfid, Errno> {
        let mut at = Gfid::ROOT;
        for name in names(path) {
            at = match self.lookup(at, name.as_bytes()).await?.found() {
                Ok(found) => found.attr.gfid,
                Err(_) => match self.create(at, name.as_bytes(), NewInode::dir(0o755)).await {
                    Ok((found, _)) => found.attr.gfid,
                    Err(Errno::EEXIST) => {
                        self.lookup(at, name.as_bytes()).await?.found()?.attr.gfid
                    }
                    Err(errno) => return Err(errno),
                },
            };
        }
        Ok(at)
    }

    /// Opens the file at a path; with `create` it is made if it is missing.
    ///
    /// # Errors
    /// As `resolve`, and EISDIR.
    pub async fn open_path(
        &self,
        path: &str,
        how: OpenHow,
        create: bool,
    ) -> Result<Arc<File>, Errno> {
        if !create {
            let gfid = self.resolve(path).await?;
            return self.open(gfid, how).await;
        }
        let (dir, name) = self.resolve_parent(path).await?;
        let new = NewInode::file(0o644);
        // Looked up first: a create of what exists would cost the bricks more.
        match self.lookup(dir, name.as_bytes()).await?.found() {
            Ok(found) => self.open(found.attr.gfid, how).await,
            Err(_) => {
                let made = self.create_open(dir, name.as_bytes(), new, how, false).await?;
                Ok(made.2)
            }
        }
    }

    /// Flushes and closes.
    ///
    /// # Errors
    /// As `flush`: after Ok every in-sync replica has the bytes.
    pub async fn close(&self, file: Arc<File>) -> Result<(), Errno> {
        let flushed = self.flush(&file).await;
        self.release(&file).await;
        flushed
    }

    /// Makes (or replaces) a file with this content.
    ///
    /// # Errors
    /// As `open_path` and `close`.
    pub async fn write_file(&self, path: &str, data: impl Into<Bytes>) -> Result<(), Errno> {
        let how = OpenHow { truncate: true, ..OpenHow::writing() };
        let file = self.open_path(path, how, true).await?;
        let written = self.write(&file, 0, data.into(), WriteHow::default()).await;
        let closed = self.close(file).await;
        written?;
        closed
    }

    /// The whole content of a file.
    ///
    /// # Errors
    /// As `open_path` and `read`.
    pub async fn read_file(&self, path: &str) -> Result<Vec<u8>, Errno> {
        let file = self.open_path(path, OpenHow::reading(), false).await?;
        let mut content = Vec::new();
        let read = loop {
            match self.read(&file, content.len() as u64, 1 << 20).await {
                Ok(parts) if parts.iter().all(Bytes::is_empty) => break Ok(()),
                Ok(parts) => parts.iter().for_each(|part| content.extend_from_slice(part)),
                Err(errno) => break Err(errno),
            }
        };
        self.release(&file).await;
        read.map(|()| content)
    }

    /// Removes a file, or an empty directory.
    ///
    /// # Errors
    /// As `resolve`, `unlink`, and `rmdir`.
    pub async fn remove_path(&self, path: &str) -> Result<(), Errno> {
        let (dir, name) = self.resolve_parent(path).await?;
        let found = self.lookup(dir, name.as_bytes()).await?.found()?;
        match found.attr.is_dir() {
            true => self.rmdir(dir, name.as_bytes()).await,
            false => self.unlink(dir, name.as_bytes()).await,
        }
    }

    /// # Errors
    /// As `resolve` and `rename`.
    pub async fn rename_path(&self, from: &str, to: &str) -> Result<(), Errno> {
        let from = self.resolve_parent(from).await?;
        let to = self.resolve_parent(to).await?;
        self.rename((from.0, from.1.as_bytes()), (to.0, to.1.as_bytes()), 0).await
    }

    /// All entries of a directory in order, with attributes where no other mount is writing.
    ///
    /// # Errors
    /// As `resolve` and `fill`.
    pub async fn list(&self, path: &str) -> Result<Vec<DirItem>, Errno> {
        let gfid = self.resolve(path).await?;
        let mut scan = self.opendir(gfid).await?;
        let mut items = Vec::new();
        loop {
            self.fill(&mut scan, true).await?;
            match scan.take() {
                Some(item) => items.push(item),
                None => return Ok(items),
            }
        }
    }
}

fn names(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter(|name| !name.is_empty() && *name != ".")
}
