//! Directory entries packed as the kernel wants them, never more than it asked for.

use crate::attr::{ENTRY_LEN, Entry};
use crate::wire::Out;

/// `struct fuse_dirent` without its name.
const DIRENT_LEN: usize = 24;

/// One directory entry.
#[derive(Clone, Copy, Debug)]
pub struct DirEntry<'a> {
    /// Inode number shown to users.
    pub ino: u64,
    /// Cookie with which reading continues after this entry; not 0.
    pub next_offset: u64,
    /// Type and permission bits; only the type is used.
    pub mode: u32,
    /// Name.
    pub name: &'a [u8],
}

/// The answer to READDIR or READDIRPLUS under construction.
#[derive(Debug)]
pub struct DirBuffer {
    bytes: Vec<u8>,
    size_max: usize,
}

impl DirBuffer {
    /// A buffer for the `size` of the request.
    pub fn new(size: u32) -> Self {
        // A size above the largest request is no reason for a large allocation up front.
        let size_max = usize::try_from(size).unwrap_or(usize::MAX);
        Self { bytes: Vec::with_capacity(size_max.min(1 << 16)), size_max }
    }

    /// Adds an entry for READDIR; false when it does not fit, which ends this answer.
    #[must_use]
    pub fn add(&mut self, entry: &DirEntry<'_>) -> bool {
        self.push(None, entry)
    }

    /// Adds an entry for READDIRPLUS; false when it does not fit, which ends this answer.
    ///
    /// With `Some` the entry counts as a lookup (except `.` and `..`, which the kernel leaves
    /// uncounted); with `None` the kernel takes only the name.
    #[must_use]
    pub fn add_plus(&mut self, inode: Option<&Entry>, entry: &DirEntry<'_>) -> bool {
        let encoded = inode.map_or_else(Out::<ENTRY_LEN>::new, Entry::encode);
        self.push(Some(encoded.bytes()), entry)
    }

    fn push(&mut self, head: Option<&[u8; ENTRY_LEN]>, entry: &DirEntry<'_>) -> bool {
        let Ok(name_len) = u32::try_from(entry.name.len()) else { return false };
        let head_len = if head.is_some() { ENTRY_LEN } else { 0 };
        let len = (head_len + DIRENT_LEN + entry.name.len()).next_multiple_of(8);
        if self.bytes.len() + len > self.size_max {
            return false;
        }
        let end = self.bytes.len() + len;
        if let Some(head) = head {
            self.bytes.extend_from_slice(head);
        }
        let kind = (entry.mode & libc::S_IFMT) >> 12;
        let fixed =
            Out::<DIRENT_LEN>::new().u64(entry.ino).u64(entry.next_offset).u32(name_len).u32(kind);
        self.bytes.extend_from_slice(fixed.bytes());
        self.bytes.extend_from_slice(entry.name);
        self.bytes.resize(end, 0);
        true
    }

    /// Whether nothing was added.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}
