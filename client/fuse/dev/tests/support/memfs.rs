//! Nodes, names and locks of the file system in memory.

use std::collections::{BTreeMap, HashMap};
use std::sync::Mutex;
use std::time::Duration;

use client_fuse_dev::{
    DirBuffer, DirEntry, Entry, FileAttr, FileLock, InterruptTable, Lock, LockKind, Op, OpenFlags,
    ROOT_NODE, Read, Reply, Request, SetAttr, StatFs, Write,
};
use tokio::sync::Notify;

const NO_TTL: Duration = Duration::ZERO;

/// What the kernel asked, for the tests to look at.
#[derive(Debug, Default)]
pub struct Seen {
    pub write_lens: Vec<usize>,
    pub write_misaligned: usize,
    pub read_sizes: Vec<u32>,
    pub flocks: usize,
    pub posix_locks: usize,
    pub interrupts: usize,
    pub plus_entries: usize,
    pub truncating_opens: usize,
    pub uids: Vec<u32>,
    pub supp_groups: Vec<u32>,
    pub statx: usize,
    pub tmpfiles: usize,
    pub fallocates: Vec<(u64, u64, u32)>,
    pub copies: Vec<(u64, u64, u64)>,
}

#[derive(Debug, Default)]
pub(super) struct Node {
    mode: u32,
    uid: u32,
    gid: u32,
    pub(super) data: Vec<u8>,
    names: BTreeMap<Vec<u8>, u64>,
    nlink: u32,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

#[derive(Debug)]
pub(super) struct State {
    nodes: HashMap<u64, Node>,
    next: u64,
    /// (node, is flock) to owner: whole-file exclusive locks are enough here.
    locks: HashMap<(u64, bool), u64>,
    pub(super) open_flags: OpenFlags,
}

#[derive(Debug)]
pub struct MemFs {
    state: Mutex<State>,
    pub seen: Mutex<Seen>,
    unlocked: Notify,
}

/// A lock request that waits.
pub struct Waiting {
    node: u64,
    lock: Lock,
    reply: Reply,
}

type Answer = Result<(), i32>;

impl MemFs {
    pub fn new() -> Self {
        let root = Node { mode: libc::S_IFDIR | 0o755, nlink: 2, ..Node::default() };
        let state = State {
            nodes: HashMap::from([(ROOT_NODE, root)]),
            next: 2,
            locks: HashMap::new(),
            open_flags: OpenFlags::EMPTY,
        };
        Self { state: Mutex::new(state), seen: Mutex::default(), unlocked: Notify::new() }
    }

    /// Flags with which files are opened from now on.
    pub fn set_open_flags(&self, flags: OpenFlags) {
        self.state.lock().unwrap().open_flags = flags;
    }

    /// Changes a file behind the kernel's back; returns its node.
    pub fn overwrite(&self, name: &str, data: &[u8]) -> u64 {
        let mut state = self.state.lock().unwrap();
        let node = state.nodes[&ROOT_NODE].names[name.as_bytes()];
        state.nodes.get_mut(&node).unwrap().data = data.to_vec();
        node
    }

    /// Answers, or gives back a lock request that must wait.
    pub fn handle(&self, interrupts: &InterruptTable, request: Request) -> Option<Waiting> {
        let Request { header, op, reply } = request;
        let node = header.nodeid;
        {
            let mut seen = self.seen.lock().unwrap();
            seen.uids.push(header.uid);
            seen.supp_groups.extend(&header.supp_groups);
        }
        let mut state = self.state.lock().unwrap();
        match op {
            Op::SetLkW(lock) => {
                self.count_lock(&lock);
                if state.lock(node, &lock) {
                    self.unlocked.notify_waiters();
                    reply.ok();
                    return None;
                }
                return Some(Waiting { node, lock, reply });
            }
            Op::SetLk(lock) => {
                self.count_lock(&lock);
                let done = state.lock(node, &lock);
                self.unlocked.notify_waiters();
                if done { reply.ok() } else { reply.err(libc::EAGAIN) }
            }
            Op::Interrupt { unique } => {
                self.seen.lock().unwrap().interrupts += 1;
                interrupts.interrupt(unique);
                reply.none();
            }
            Op::Forget { .. } | Op::BatchForget(_) => reply.none(),
            other => self.answer(&mut state, node, header.uid, other, reply),
        }
        None
    }

    pub async fn wait_for_lock(&self, interrupts: &InterruptTable, waiting: Waiting) {
        let Waiting { node, lock, reply } = waiting;
        let interruptible = interrupts.register(reply.unique());
        loop {
            let unlocked = self.unlocked.notified();
            if self.state.lock().unwrap().lock(node, &lock) {
                return reply.ok();
            }
            tokio::select! {
                () = interruptible.interrupted() => return reply.err(libc::EINTR),
                () = unlocked => {}
            }
        }
    }

    fn count_lock(&self, lock: &Lock) {
        let mut seen = self.seen.lock().unwrap();
        if lock.flock {
            seen.flocks += 1;
        } else {
            seen.posix_locks += 1;
        }
    }

    fn answer(&self, state: &mut State, node: u64, uid: u32, op: Op, reply: Reply) {
        match op {
            Op::Read(read) => self.read(state, node, &read, reply),
            Op::Write(write) => self.write(state, node, &write, reply),
            Op::ReadDir(read) => self.readdir(state, node, &read, false, reply),
            Op::ReadDirPlus(read) => self.readdir(state, node, &read, true, reply),
            Op::Open { flags, .. } => {
                if flags & libc::O_TRUNC.cast_unsigned() != 0 {
                    self.seen.lock().unwrap().truncating_opens += 1;
                    state.node(node).data.clear();
                }
                reply.open(node, state.open_flags);
            }
            Op::OpenDir { .. } => _ = reply.open(0, OpenFlags::EMPTY),
            Op::GetAttr { .. } => reply.attr(&state.attr(node), NO_TTL),
            Op::SetAttr(set) => reply.attr(&state.setattr(node, &set), NO_TTL),
            Op::StatFs => {
                let (bsize, frsize) = (4096, 4096);
                let sizes = StatFs { blocks: 1000, bfree: 600, bavail: 500, ..StatFs::default() };
                reply.statfs(&StatFs { bsize, frsize, namelen: 255, ..sizes });
            }
            Op::Release(release) => {
                state
                    .locks
                    .retain(|key, owner| *key != (node, true) || *owner != release.lock_owner);
                self.unlocked.notify_waiters();
                reply.ok();
            }
            Op::Flush { lock_owner, .. } => {
                state.locks.retain(|key, owner| *key != (node, false) || *owner != lock_owner);
                self.unlocked.notify_waiters();
                reply.ok();
            }
            Op::ReleaseDir(_) | Op::Fsync { .. } | Op::FsyncDir { .. } | Op::Destroy => reply.ok(),
            Op::Statx { .. } | Op::TmpFile(_) | Op::Fallocate { .. } | Op::CopyFileRange(_) => {
                self.rarer(state, node, uid, op, reply);
            }
            other => names(state, node, uid, other, reply),
        }
    }

    fn read(&self, state: &mut State, node: u64, read: &Read, reply: Reply) {
        self.seen.lock().unwrap().read_sizes.push(read.size);
        let data = &state.node(node).data;
        let start = usize::try_from(read.offset).unwrap().min(data.len());
        let end = (start + read.size as usize).min(data.len());
        // In two pieces, to see that they arrive as one.
        let (first, second) = data[start..end].split_at((end - start) / 3);
        reply.data(&[first, second]);
    }

    fn write(&self, state: &mut State, node: u64, write: &Write, reply: Reply) {
        let mut seen = self.seen.lock().unwrap();
        seen.write_lens.push(write.data.len());
        if write.data.len() >= 4096 && !write.data.as_ptr().addr().is_multiple_of(4096) {
            seen.write_misaligned += 1;
        }
        let data = &mut state.node(node).data;
        let start = usize::try_from(write.offset).unwrap();
        let end = start + write.data.len();
        if data.len() < end {
            data.resize(end, 0);
        }
        data[start..end].copy_from_slice(&write.data);
        reply.write(u32::try_from(write.data.len()).unwrap());
    }

    fn readdir(&self, state: &State, node: u64, read: &Read, plus: bool, reply: Reply) {
        let mut buffer = DirBuffer::new(read.size);
        let from = usize::try_from(read.offset).unwrap();
        for (index, (name, child)) in state.nodes[&node].names.iter().enumerate().skip(from) {
            let (ino, mode) = (*child, state.nodes[child].mode);
            let entry = DirEntry { ino, next_offset: index as u64 + 1, mode, name };
            let fits = if plus {
                // Trusted for long, so that the stats of `ls -l` need no further request.
                let ttl = Duration::from_secs(60);
                let inode = Entry { entry_ttl: ttl, attr_ttl: ttl, ..state.entry(*child) };
                buffer.add_plus(Some(&inode), &entry)
            } else {
                buffer.add(&entry)
            };
            self.seen.lock().unwrap().plus_entries += usize::from(plus && fits);
            if !fits {
                break;
            }
        }
        reply.dir(&buffer);
    }
}

/// Operations on names and attributes of names.
fn names(state: &mut State, node: u64, uid: u32, op: Op, reply: Reply) {
    match op {
        Op::Lookup { name } => match state.find(node, &name) {
            Ok(child) => _ = reply.entry(&state.entry(child)),
            Err(errno) => reply.err(errno),
        },
        Op::Create(create) => {
            let mode = libc::S_IFREG | (create.mode & !create.umask & 0o7777);
            let child = state.add(node, uid, create.name.into_bytes(), mode);
            reply.create(&state.entry(child), child, state.open_flags);
        }
        Op::MkDir { name, mode, umask } => {
            let mode = libc::S_IFDIR | (mode & !umask & 0o7777);
            let child = state.add(node, uid, name.into_bytes(), mode);
            reply.entry(&state.entry(child));
        }
        Op::Symlink { name, target } => {
            let child = state.add(node, uid, name.into_bytes(), libc::S_IFLNK | 0o777);
            state.node(child).data = target;
            reply.entry(&state.entry(child));
        }
        Op::ReadLink => reply.data(&[&state.node(node).data]),
        Op::Unlink { name } | Op::RmDir { name } => done(state.remove(node, &name), reply),
        Op::Rename { name, new_parent, new_name, flags } => {
            done(state.rename((node, &name), (new_parent, &new_name), flags), reply);
        }
        Op::Link { inode, new_name } => {
            state.node(node).names.insert(new_name.into_bytes(), inode);
            state.node(inode).nlink += 1;
            reply.entry(&state.entry(inode));
        }
        Op::SetXattr(set) => {
            state.node(node).xattrs.insert(set.name.into_bytes(), set.value);
            reply.ok();
        }
        Op::GetXattr { name, size } => match state.node(node).xattrs.get(&name[..]) {
            Some(value) => reply.xattr(size, value),
            None => reply.err(libc::ENODATA),
        },
        Op::ListXattr { size } => {
            let with_nul = |name: &Vec<u8>| [&name[..], b"\0"].concat();
            let list: Vec<u8> = state.node(node).xattrs.keys().flat_map(with_nul).collect();
            reply.xattr(size, &list);
        }
        Op::GetLk(lock) => {
            let held = state.locks.get(&(node, lock.flock)).is_some_and(|by| *by != lock.owner);
            let kind = if held { LockKind::Write } else { LockKind::Unlock };
            reply.lock(&FileLock { kind, pid: 1, ..lock.lock });
        }
        Op::Lseek { offset, .. } => reply.lseek(offset + 7),
        _ => reply.err(libc::ENOSYS),
    }
}

fn done(answer: Answer, reply: Reply) {
    match answer {
        Ok(()) => reply.ok(),
        Err(errno) => reply.err(errno),
    }
}

impl State {
    pub(super) fn node(&mut self, node: u64) -> &mut Node {
        self.nodes.get_mut(&node).expect("the kernel names only nodes it was given")
    }

    fn find(&self, parent: u64, name: &[u8]) -> Result<u64, i32> {
        self.nodes[&parent].names.get(name).copied().ok_or(libc::ENOENT)
    }

    pub(super) fn attr(&self, node: u64) -> FileAttr {
        let Node { mode, uid, gid, ref data, nlink, .. } = self.nodes[&node];
        let size = data.len() as u64;
        FileAttr { ino: node, size, mode, uid, gid, nlink, blksize: 4096, ..FileAttr::default() }
    }

    pub(super) fn entry(&self, node: u64) -> Entry {
        Entry { nodeid: node, attr: self.attr(node), ..Entry::default() }
    }

    /// A node without a name.
    pub(super) fn add_unnamed(&mut self, uid: u32, mode: u32) -> u64 {
        let node = self.next;
        self.next += 1;
        self.nodes.insert(node, Node { mode, uid, ..Node::default() });
        node
    }

    fn add(&mut self, parent: u64, uid: u32, name: Vec<u8>, mode: u32) -> u64 {
        let node = self.add_unnamed(uid, mode);
        self.node(node).nlink = 1;
        self.node(parent).names.insert(name, node);
        node
    }

    fn setattr(&mut self, node: u64, set: &SetAttr) -> FileAttr {
        let target = self.node(node);
        if let Some(size) = set.size {
            target.data.resize(usize::try_from(size).unwrap(), 0);
        }
        if let Some(mode) = set.mode {
            target.mode = (target.mode & libc::S_IFMT) | (mode & 0o7777);
        }
        target.uid = set.uid.unwrap_or(target.uid);
        target.gid = set.gid.unwrap_or(target.gid);
        self.attr(node)
    }

    fn remove(&mut self, parent: u64, name: &[u8]) -> Answer {
        let node = self.node(parent).names.remove(name).ok_or(libc::ENOENT)?;
        self.node(node).nlink -= 1;
        Ok(())
    }

    fn rename(&mut self, from: (u64, &[u8]), to: (u64, &[u8]), flags: u32) -> Answer {
        let node = self.find(from.0, from.1)?;
        if flags == libc::RENAME_NOREPLACE && self.find(to.0, to.1).is_ok() {
            return Err(libc::EEXIST);
        }
        self.node(from.0).names.remove(from.1);
        self.node(to.0).names.insert(to.1.to_vec(), node);
        Ok(())
    }

    /// Takes or gives up a lock; false when another owner holds it.
    fn lock(&mut self, node: u64, lock: &Lock) -> bool {
        let key = (node, lock.flock);
        let free = self.locks.get(&key).is_none_or(|owner| *owner == lock.owner);
        match lock.lock.kind {
            LockKind::Unlock if free => drop(self.locks.remove(&key)),
            LockKind::Read | LockKind::Write if free => drop(self.locks.insert(key, lock.owner)),
            LockKind::Unlock => {}
            LockKind::Read | LockKind::Write => return false,
        }
        true
    }
}
