//! Attributes, entries and usage figures, and their layout in replies.

use std::time::Duration;

use crate::wire::Out;

/// Layout size of `struct fuse_attr`.
const ATTR_LEN: usize = 88;
/// Layout size of `struct fuse_entry_out`.
pub(crate) const ENTRY_LEN: usize = 40 + ATTR_LEN;
/// Layout size of `struct fuse_attr_out`.
pub(crate) const ATTR_OUT_LEN: usize = 16 + ATTR_LEN;
/// Layout size of `struct fuse_statx_out`.
const STATX_OUT_LEN: usize = 32 + 256;

/// A point in time: seconds since 1970, negative before, and nanoseconds after that second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp {
    /// Seconds since 1970-01-01 UTC.
    pub secs: i64,
    /// Nanoseconds, below 1 000 000 000.
    pub nanos: u32,
}

/// What `stat` shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileAttr {
    /// Inode number shown to users; need not be the node id.
    pub ino: u64,
    /// Length in bytes.
    pub size: u64,
    /// Allocated units of 512 bytes.
    pub blocks: u64,
    /// Last access.
    pub atime: Timestamp,
    /// Last change of data.
    pub mtime: Timestamp,
    /// Last change of the inode.
    pub ctime: Timestamp,
    /// Type and permission bits.
    pub mode: u32,
    /// Number of names.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of a special file, in the kernel's 32-bit form.
    pub rdev: u32,
    /// Preferred I/O size.
    pub blksize: u32,
}

impl FileAttr {
    fn put<const N: usize>(&self, out: Out<N>) -> Out<N> {
        out.u64(self.ino)
            .u64(self.size)
            .u64(self.blocks)
            .u64(self.atime.secs.cast_unsigned())
            .u64(self.mtime.secs.cast_unsigned())
            .u64(self.ctime.secs.cast_unsigned())
            .u32(self.atime.nanos)
            .u32(self.mtime.nanos)
            .u32(self.ctime.nanos)
            .u32(self.mode)
            .u32(self.nlink)
            .u32(self.uid)
            .u32(self.gid)
            .u32(self.rdev)
            .u32(self.blksize)
            .u32(0)
    }

    pub(crate) fn encode(&self, ttl: Duration) -> Out<ATTR_OUT_LEN> {
        self.put(Out::new().u64(ttl.as_secs()).u32(ttl.subsec_nanos()).u32(0))
    }
}

/// A name's inode, as LOOKUP and the creations answer it. Sending one counts as a lookup, to be
/// taken back by FORGET.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// The kernel's handle of the inode; 1 is the root, 0 means "no such name" (see
    /// [`Reply::negative_entry`](crate::Reply::negative_entry)).
    pub nodeid: u64,
    /// Tells reuses of a `nodeid` apart.
    pub generation: u64,
    /// Attributes.
    pub attr: FileAttr,
    /// How long the kernel may trust the name.
    pub entry_ttl: Duration,
    /// How long the kernel may trust the attributes.
    pub attr_ttl: Duration,
}

impl Entry {
    pub(crate) fn encode(&self) -> Out<ENTRY_LEN> {
        let head = Out::new()
            .u64(self.nodeid)
            .u64(self.generation)
            .u64(self.entry_ttl.as_secs())
            .u64(self.attr_ttl.as_secs())
            .u32(self.entry_ttl.subsec_nanos())
            .u32(self.attr_ttl.subsec_nanos());
        self.attr.put(head)
    }
}

/// What `statfs` shows. Sizes in units of `frsize`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StatFs {
    /// All.
    pub blocks: u64,
    /// Free.
    pub bfree: u64,
    /// Free to ordinary users.
    pub bavail: u64,
    /// Inodes.
    pub files: u64,
    /// Free inodes.
    pub ffree: u64,
    /// Preferred I/O size.
    pub bsize: u32,
    /// Longest name.
    pub namelen: u32,
    /// Unit of the sizes.
    pub frsize: u32,
}

impl StatFs {
    pub(crate) fn encode(&self) -> Out<80> {
        Out::new()
            .u64(self.blocks)
            .u64(self.bfree)
            .u64(self.bavail)
            .u64(self.files)
            .u64(self.ffree)
            .u32(self.bsize)
            .u32(self.namelen)
            .u32(self.frsize)
    }
}

/// What `statx` shows beyond [`FileAttr`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Statx {
    /// The common attributes.
    pub attr: FileAttr,
    /// Which fields are given, `STATX_*`.
    pub mask: u32,
    /// Creation.
    pub btime: Timestamp,
    /// `STATX_ATTR_*` that are set.
    pub attributes: u64,
    /// `STATX_ATTR_*` that are known.
    pub attributes_mask: u64,
}

impl Statx {
    pub(crate) fn encode(&self, ttl: Duration) -> Out<STATX_OUT_LEN> {
        let attr = &self.attr;
        let mut out = Out::new()
            .u64(ttl.as_secs())
            .u32(ttl.subsec_nanos())
            .u32(0)
            .u64(0)
            .u64(0)
            .u32(self.mask)
            .u32(attr.blksize)
            .u64(self.attributes)
            .u32(attr.nlink)
            .u32(attr.uid)
            .u32(attr.gid)
            // Type and permissions are the low 16 bits by definition of `st_mode`.
            .u16((attr.mode & 0xffff) as u16)
            .u16(0)
            .u64(attr.ino)
            .u64(attr.size)
            .u64(attr.blocks)
            .u64(self.attributes_mask);
        for time in [attr.atime, self.btime, attr.ctime, attr.mtime] {
            out = out.u64(time.secs.cast_unsigned()).u32(time.nanos).u32(0);
        }
        let (major, minor) = split_rdev(attr.rdev);
        out.u32(major).u32(minor)
    }
}

/// Major and minor number of the kernel's 32-bit device form: 12 and 20 bits, interleaved.
fn split_rdev(rdev: u32) -> (u32, u32) {
    ((rdev >> 8) & 0xfff, (rdev & 0xff) | ((rdev >> 12) & 0xf_ff00))
}
