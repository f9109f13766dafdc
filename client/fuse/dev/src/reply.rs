//! The one answer to a request.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::abi::{self, ERRNO_LIMIT, opcode};
use crate::attr::{Entry, FileAttr, StatFs, Statx};
use crate::dir::DirBuffer;
use crate::flags::OpenFlags;
use crate::op::FileLock;
use crate::transport::ReplyPort;
use crate::wire::Out;

/// What became of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// The kernel has it.
    Delivered,
    /// Nobody waits any more (connection aborted, or the answer was refused as malformed). An
    /// entry in it was not counted as a lookup, an open file in it will not be released.
    Lost,
}

/// The right and duty to answer one request. May be sent to another thread. Dropped without an
/// answer it says EIO, so that no application hangs on a bug of ours.
#[derive(Debug)]
#[must_use = "a request must be answered"]
pub struct Reply {
    port: Arc<dyn ReplyPort>,
    unique: u64,
    opcode: u32,
    due: bool,
}

impl Reply {
    pub(crate) fn new(port: Arc<dyn ReplyPort>, unique: u64, opcode: u32) -> Self {
        Self { port, unique, opcode, due: !abi::expects_no_reply(opcode) }
    }

    /// The kernel's number of the request.
    pub fn unique(&self) -> u64 {
        self.unique
    }

    fn send(mut self, error: i32, body: &[&[u8]]) -> Delivery {
        self.deliver(error, body)
    }

    fn deliver(&mut self, error: i32, body: &[&[u8]]) -> Delivery {
        if !std::mem::replace(&mut self.due, false) {
            return Delivery::Delivered;
        }
        match self.port.answer(self.unique, error, body) {
            Ok(()) => Delivery::Delivered,
            Err(failure) => self.lost(&failure),
        }
    }

    fn lost(&self, failure: &io::Error) -> Delivery {
        // ENOENT: aborted meanwhile. ENODEV: unmounted. Both are the world's, not ours.
        if !matches!(failure.raw_os_error(), Some(libc::ENOENT | libc::ENODEV)) {
            let (unique, opcode) = (self.unique, self.opcode);
            tracing::error!(unique, opcode, error = %failure, "the kernel refused an answer");
        }
        Delivery::Lost
    }

    /// The operation failed. `errno` is positive; what is no errno becomes EIO.
    pub fn err(self, errno: i32) {
        debug_assert!((1..ERRNO_LIMIT).contains(&errno), "{errno} is no errno");
        let errno = if (1..ERRNO_LIMIT).contains(&errno) { errno } else { libc::EIO };
        self.send(-errno, &[]);
    }

    /// Done, nothing to say.
    pub fn ok(self) {
        self.send(0, &[]);
    }

    /// For requests without an answer (forget, interrupt): states that this is known.
    pub fn none(mut self) {
        debug_assert!(!self.due, "opcode {} must be answered", self.opcode);
        if self.due {
            self.deliver(-libc::EIO, &[]);
        }
    }

    /// The name's inode.
    pub fn entry(self, entry: &Entry) -> Delivery {
        self.send(0, &[entry.encode().bytes()])
    }

    /// There is no such name, and the kernel may trust that for `ttl`.
    pub fn negative_entry(self, ttl: Duration) {
        self.send(0, &[Entry { entry_ttl: ttl, ..Entry::default() }.encode().bytes()]);
    }

    /// Attributes, which the kernel may trust for `ttl`.
    pub fn attr(self, attr: &FileAttr, ttl: Duration) {
        self.send(0, &[attr.encode(ttl).bytes()]);
    }

    /// Attributes for STATX.
    pub fn statx(self, statx: &Statx, ttl: Duration) {
        self.send(0, &[statx.encode(ttl).bytes()]);
    }

    /// The file is open as `fh`.
    pub fn open(self, fh: u64, flags: OpenFlags) -> Delivery {
        self.send(0, &[open_out(fh, flags).bytes()])
    }

    /// Created and open.
    pub fn create(self, entry: &Entry, fh: u64, flags: OpenFlags) -> Delivery {
        self.send(0, &[entry.encode().bytes(), open_out(fh, flags).bytes()])
    }

    /// Data, or a link's target, gathered from `parts` without a copy. Less than asked means
    /// the end of the file.
    pub fn data(self, parts: &[&[u8]]) {
        self.send(0, parts);
    }

    /// `len` bytes were written.
    pub fn write(self, len: u32) {
        self.send(0, &[Out::<8>::new().u32(len).bytes()]);
    }

    /// `len` bytes were copied by COPY_FILE_RANGE.
    pub fn copied(self, len: u64) {
        if self.opcode == opcode::COPY_FILE_RANGE_64 {
            self.send(0, &[&len.to_ne_bytes()]);
        } else {
            // The older form counts in 32 bits; a short copy is continued by the caller.
            self.write(u32::try_from(len).unwrap_or(u32::MAX));
        }
    }

    /// Usage of the file system.
    pub fn statfs(self, statfs: &StatFs) {
        self.send(0, &[statfs.encode().bytes()]);
    }

    /// An extended attribute's value or the list of names, for a caller that offers `size`
    /// bytes: the length alone for 0, ERANGE when they do not suffice.
    pub fn xattr(self, size: u32, value: &[u8]) {
        match u32::try_from(value.len()) {
            Ok(len) if size == 0 => self.xattr_size(len),
            Ok(len) if len <= size => self.data(&[value]),
            _ => self.err(libc::ERANGE),
        }
    }

    /// The length of an extended attribute or of the list of names.
    pub fn xattr_size(self, len: u32) {
        self.send(0, &[Out::<8>::new().u32(len).bytes()]);
    }

    /// The position that was sought.
    pub fn lseek(self, offset: u64) {
        self.send(0, &[&offset.to_ne_bytes()]);
    }

    /// The lock that would conflict, or kind `Unlock` for none.
    pub fn lock(self, lock: &FileLock) {
        let out =
            Out::<24>::new().u64(lock.start).u64(lock.end).u32(lock.kind.to_raw()).u32(lock.pid);
        self.send(0, &[out.bytes()]);
    }

    /// Directory entries; an empty buffer is the end of the directory.
    pub fn dir(self, entries: &DirBuffer) -> Delivery {
        self.send(0, &[entries.bytes()])
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if self.due {
            let (unique, opcode) = (self.unique, self.opcode);
            tracing::error!(unique, opcode, "a request was dropped without an answer: EIO");
            self.deliver(-libc::EIO, &[]);
        }
    }
}

fn open_out(fh: u64, flags: OpenFlags) -> Out<16> {
    Out::new().u64(fh).u32(flags.bits())
}

#[cfg(test)]
#[path = "reply_test.rs"]
mod tests;
