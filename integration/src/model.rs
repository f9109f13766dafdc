//! A file system of a few hundred lines, in memory: what random operations must answer.
//!
//! Paths are few, so that operations meet. The targets of symbolic links do not exist, so that
//! following one is always ENOENT. Operations run as root: permissions refuse nothing. What the
//! model does not know (times that nobody set, numbers of inodes, link counts of directories) the
//! answers leave out.

use std::collections::BTreeMap;

use libc::{EEXIST, EINVAL, EISDIR, ELOOP, ENODATA, ENOENT, ENOTDIR, ENOTEMPTY, EPERM};

/// One operation; files are opened without following links.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// With `O_CREAT | O_EXCL`.
    Create(String),
    Mkdir(String),
    Symlink(String),
    Link(String, String),
    Unlink(String),
    Rmdir(String),
    Rename(String, String),
    /// Opens (and creates), writes at an offset so many of these bytes, and closes.
    Write(String, u64, usize, u8),
    /// With `O_APPEND`.
    Append(String, usize, u8),
    Truncate(String, u64),
    Chmod(String, u32),
    /// Sets the mtime, of a link itself where it is one.
    Utimens(String, i64, u32),
    SetXattr(String, u8),
    RemoveXattr(String),
    /// Opens for reading and writing, into a slot that a later operation uses.
    Open(String, usize),
    WriteOpen(usize, u64, usize, u8),
    ReadOpen(usize),
    TruncateOpen(usize, u64),
    Fsync(usize),
    Close(usize),
    Stat(String),
    Read(String),
    List(String),
    Readlink(String),
    GetXattr(String),
}

/// What an operation answers: text that says everything known, or an errno.
pub type Answer = Result<String, i32>;

#[derive(Clone, Debug)]
enum Kind {
    File(Vec<u8>),
    Dir(BTreeMap<String, usize>),
    Symlink(String),
}

#[derive(Clone, Debug)]
struct Inode {
    kind: Kind,
    mode: u32,
    nlink: u32,
    /// What somebody set, as long as nothing has changed the content since.
    mtime: Option<(i64, u32)>,
    xattr: Option<u8>,
}

/// Open files of a run.
pub const SLOTS: usize = 4;
const FILE_MODE: u32 = 0o600;
const DIR_MODE: u32 = 0o700;

#[derive(Clone, Debug)]
pub struct Model {
    inodes: Vec<Inode>,
    slots: [Option<usize>; SLOTS],
}

impl Default for Model {
    fn default() -> Self {
        let mut model = Self { inodes: Vec::new(), slots: [None; SLOTS] };
        model.inode(Kind::Dir(BTreeMap::new()), DIR_MODE);
        model
    }
}

/// What a link made under this path points to; nothing is there.
pub fn target_of(path: &str) -> String {
    format!("nowhere-{}", path.replace('/', "-"))
}

/// A file's content in an answer.
pub fn show_bytes(bytes: &[u8]) -> String {
    format!("{} bytes {:016x}", bytes.len(), xxhash_rust::xxh3::xxh3_64(bytes))
}

impl Model {
    fn inode(&mut self, kind: Kind, mode: u32) -> usize {
        self.inodes.push(Inode { kind, mode, nlink: 1, mtime: None, xattr: None });
        self.inodes.len() - 1
    }

    fn names(&self, dir: usize) -> Result<&BTreeMap<String, usize>, i32> {
        match &self.inodes[dir].kind {
            Kind::Dir(names) => Ok(names),
            Kind::File(_) => Err(ENOTDIR),
            Kind::Symlink(_) => Err(ENOENT),
        }
    }

    /// The directory and the name in it; "" is the root itself.
    fn place<'a>(&self, path: &'a str) -> Result<(usize, &'a str), i32> {
        let (parents, name) = path.rsplit_once('/').unwrap_or(("", path));
        let mut dir = 0;
        for part in parents.split('/').filter(|p| !p.is_empty()) {
            dir = *self.names(dir)?.get(part).ok_or(ENOENT)?;
            self.names(dir)?;
        }
        Ok((dir, name))
    }

    /// What is under a path; links are not followed.
    fn at(&self, path: &str) -> Result<usize, i32> {
        let (dir, name) = self.place(path)?;
        self.names(dir)?.get(name).copied().ok_or(ENOENT)
    }

    /// Where a link is followed, which leads nowhere.
    fn followed(&self, path: &str) -> Result<usize, i32> {
        let ino = self.at(path)?;
        match self.inodes[ino].kind {
            Kind::Symlink(_) => Err(ENOENT),
            _ => Ok(ino),
        }
    }

    fn opened(&self, path: &str) -> Result<usize, i32> {
        let ino = self.at(path)?;
        match self.inodes[ino].kind {
            Kind::Symlink(_) => Err(ELOOP),
            Kind::Dir(_) => Err(EISDIR),
            Kind::File(_) => Ok(ino),
        }
    }

    fn add(&mut self, path: &str, ino: usize) -> Result<(), i32> {
        let (dir, name) = self.place(path)?;
        self.change_names(dir, |names| names.insert(name.to_owned(), ino));
        Ok(())
    }

    fn remove(&mut self, path: &str) -> Result<(), i32> {
        let (dir, name) = self.place(path)?;
        self.change_names(dir, |names| names.remove(name));
        Ok(())
    }

    fn change_names<T>(
        &mut self,
        dir: usize,
        change: impl FnOnce(&mut BTreeMap<String, usize>) -> T,
    ) {
        if let Kind::Dir(names) = &mut self.inodes[dir].kind {
            change(names);
        }
        self.inodes[dir].mtime = None;
    }

    fn make(&mut self, path: &str, kind: Kind, mode: u32) -> Result<usize, i32> {
        match self.at(path) {
            Ok(_) => Err(EEXIST),
            Err(_) => {
                self.place(path)?;
                let ino = self.inode(kind, mode);
                self.add(path, ino)?;
                Ok(ino)
            }
        }
    }

    fn write_at(&mut self, ino: usize, at: Option<u64>, len: usize, byte: u8) {
        if let Kind::File(bytes) = &mut self.inodes[ino].kind {
            let at = at.map_or(bytes.len(), |at| at as usize);
            let end = bytes.len().max(at + len);
            bytes.resize(end, 0);
            bytes[at..at + len].fill(byte);
        }
        self.inodes[ino].mtime = None;
    }

    fn resize(&mut self, ino: usize, len: u64) -> Answer {
        match &mut self.inodes[ino].kind {
            Kind::File(bytes) => bytes.resize(len as usize, 0),
            _ => return Err(EISDIR),
        }
        self.inodes[ino].mtime = None;
        Ok(String::new())
    }

    fn content(&self, ino: usize) -> Answer {
        match &self.inodes[ino].kind {
            Kind::File(bytes) => Ok(show_bytes(bytes)),
            _ => Err(EISDIR),
        }
    }

    /// What the operation answers; the model is then as after it.
    ///
    /// # Errors
    /// The errno.
    pub fn run(&mut self, op: &Op) -> Answer {
        let done = Ok(String::new());
        match op {
            Op::Create(path) => self.make(path, Kind::File(Vec::new()), FILE_MODE).map(drop)?,
            Op::Mkdir(path) => self.make(path, Kind::Dir(BTreeMap::new()), DIR_MODE).map(drop)?,
            Op::Symlink(path) => {
                self.make(path, Kind::Symlink(target_of(path)), 0o777).map(drop)?;
            }
            Op::Link(from, to) => self.link(from, to)?,
            Op::Unlink(path) => self.unlink(path)?,
            Op::Rmdir(path) => self.rmdir(path)?,
            Op::Rename(from, to) => self.rename(from, to)?,
            Op::Write(path, at, len, byte) => {
                let ino = self.opened_or_made(path)?;
                self.write_at(ino, Some(*at), *len, *byte);
            }
            Op::Append(path, len, byte) => {
                let ino = self.opened_or_made(path)?;
                self.write_at(ino, None, *len, *byte);
            }
            Op::Truncate(path, len) => {
                return self.followed(path).and_then(|i| self.resize(i, *len));
            }
            Op::Chmod(path, mode) => {
                let ino = self.followed(path)?;
                self.inodes[ino].mode = *mode;
            }
            Op::Utimens(path, s, ns) => {
                let ino = self.at(path)?;
                self.inodes[ino].mtime = Some((*s, *ns));
            }
            Op::SetXattr(path, value) => {
                let ino = self.followed(path)?;
                self.inodes[ino].xattr = Some(*value);
            }
            Op::RemoveXattr(path) => {
                let ino = self.followed(path)?;
                self.inodes[ino].xattr.take().ok_or(ENODATA)?;
            }
            _ => return self.look_or_use(op),
        }
        done
    }

    /// Operations on open files, and those that change nothing.
    fn look_or_use(&mut self, op: &Op) -> Answer {
        match op {
            Op::Open(path, slot) => {
                let opened = self.opened(path);
                self.slots[*slot] = opened.ok();
                opened.map(|_| String::new())
            }
            Op::Close(slot) => {
                self.slots[*slot] = None;
                Ok(String::new())
            }
            Op::WriteOpen(slot, at, len, byte) => {
                if let Some(ino) = self.slots[*slot] {
                    self.write_at(ino, Some(*at), *len, *byte);
                }
                Ok(String::new())
            }
            Op::TruncateOpen(slot, len) => {
                self.slots[*slot].map_or(Ok(String::new()), |ino| self.resize(ino, *len))
            }
            Op::ReadOpen(slot) => {
                self.slots[*slot].map_or(Ok(String::new()), |ino| self.content(ino))
            }
            Op::Stat(path) => self.at(path).map(|ino| self.stat(ino)),
            Op::Read(path) => self.opened(path).and_then(|ino| self.content(ino)),
            Op::List(path) => {
                let dir = if path.is_empty() { 0 } else { self.followed(path)? };
                Ok(self.names(dir)?.keys().cloned().collect::<Vec<_>>().join(" "))
            }
            Op::Readlink(path) => match &self.inodes[self.at(path)?].kind {
                Kind::Symlink(target) => Ok(target.clone()),
                _ => Err(EINVAL),
            },
            Op::GetXattr(path) => {
                let value = self.inodes[self.followed(path)?].xattr;
                value.map(|v| v.to_string()).ok_or(ENODATA)
            }
            _ => Ok(String::new()),
        }
    }

    fn opened_or_made(&mut self, path: &str) -> Result<usize, i32> {
        match self.opened(path) {
            Err(ENOENT) => self.make(path, Kind::File(Vec::new()), FILE_MODE),
            other => other,
        }
    }

    fn stat(&self, ino: usize) -> String {
        let inode = &self.inodes[ino];
        let time = inode.mtime.map_or_else(String::new, |(s, ns)| format!(" mtime {s}.{ns:09}"));
        match &inode.kind {
            Kind::File(bytes) => {
                format!("file {:o} {} links {} bytes{time}", inode.mode, inode.nlink, bytes.len())
            }
            Kind::Dir(_) => format!("dir {:o}{time}", inode.mode),
            Kind::Symlink(_) => format!("link {} links{time}", inode.nlink),
        }
    }

    /// The names of an open file, none when it has lost them all.
    pub fn names_of_open(&self, slot: usize) -> Vec<String> {
        let (mut found, mut todo) = (Vec::new(), vec![(0, String::new())]);
        while let Some((dir, path)) = todo.pop() {
            let Kind::Dir(names) = &self.inodes[dir].kind else { continue };
            for (name, ino) in names {
                let below = if path.is_empty() { name.clone() } else { format!("{path}/{name}") };
                if self.slots[slot] == Some(*ino) {
                    found.push(below.clone());
                }
                todo.push((*ino, below));
            }
        }
        found
    }

    /// Whether somebody set the mtime that `stat` shows.
    pub fn knows_mtime(&self, path: &str) -> bool {
        self.at(path).is_ok_and(|ino| self.inodes[ino].mtime.is_some())
    }

    fn link(&mut self, from: &str, to: &str) -> Result<(), i32> {
        let ino = self.at(from)?;
        match self.at(to) {
            Ok(_) => return Err(EEXIST),
            Err(_) => self.place(to).map(drop)?,
        }
        if matches!(self.inodes[ino].kind, Kind::Dir(_)) {
            return Err(EPERM);
        }
        self.inodes[ino].nlink += 1;
        self.add(to, ino)
    }

    fn unlink(&mut self, path: &str) -> Result<(), i32> {
        let ino = self.at(path)?;
        if matches!(self.inodes[ino].kind, Kind::Dir(_)) {
            return Err(EISDIR);
        }
        self.inodes[ino].nlink -= 1;
        self.remove(path)
    }

    fn rmdir(&mut self, path: &str) -> Result<(), i32> {
        match &self.inodes[self.at(path)?].kind {
            Kind::Dir(names) if names.is_empty() => self.remove(path),
            Kind::Dir(_) => Err(ENOTEMPTY),
            _ => Err(ENOTDIR),
        }
    }

    /// In the order in which Linux looks.
    fn rename(&mut self, from: &str, to: &str) -> Result<(), i32> {
        self.place(from)?;
        self.place(to)?;
        let ino = self.at(from)?;
        if to.starts_with(&format!("{from}/")) {
            return Err(EINVAL);
        }
        if from.starts_with(&format!("{to}/")) {
            return Err(ENOTEMPTY);
        }
        let is_dir = |ino: usize| matches!(self.inodes[ino].kind, Kind::Dir(_));
        if let Ok(old) = self.at(to) {
            match (is_dir(ino), is_dir(old)) {
                _ if old == ino => return Ok(()),
                (true, false) => return Err(ENOTDIR),
                (false, true) => return Err(EISDIR),
                (true, true) if !self.names(old)?.is_empty() => return Err(ENOTEMPTY),
                _ => self.inodes[old].nlink -= 1,
            }
        }
        self.remove(from)?;
        self.add(to, ino)
    }
}
