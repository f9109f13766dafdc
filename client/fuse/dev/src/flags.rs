//! Flag sets of the kernel interface, as newtypes so that they cannot be mixed up.

use std::ops::{BitOr, BitOrAssign};

macro_rules! flag_set {
    ($name:ident, $repr:ty) => {
        impl $name {
            /// No flag at all.
            pub const EMPTY: Self = Self(0);

            /// Whether every flag of `other` is in this set.
            pub const fn contains(self, other: Self) -> bool {
                self.0 & other.0 == other.0
            }

            /// The flags that are in both sets.
            pub const fn intersection(self, other: Self) -> Self {
                Self(self.0 & other.0)
            }

            /// The flags that are in either set.
            pub const fn union(self, other: Self) -> Self {
                Self(self.0 | other.0)
            }

            /// This set without the flags of `other`.
            pub const fn without(self, other: Self) -> Self {
                Self(self.0 & !other.0)
            }

            /// The bits as the kernel numbers them.
            pub const fn bits(self) -> $repr {
                self.0
            }
        }

        impl BitOr for $name {
            type Output = Self;
            fn bitor(self, other: Self) -> Self {
                self.union(other)
            }
        }

        impl BitOrAssign for $name {
            fn bitor_assign(&mut self, other: Self) {
                self.0 |= other.0;
            }
        }
    };
}

/// What kernel and mount agree on at INIT. Bits 32 to 63 travel in the second flag word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InitFlags(pub(crate) u64);
flag_set!(InitFlags, u64);

impl InitFlags {
    /// Several reads of one file may be under way at once.
    pub const ASYNC_READ: Self = Self(1);
    /// `fcntl` locks come to us.
    pub const POSIX_LOCKS: Self = Self(1 << 1);
    /// `O_TRUNC` comes with OPEN instead of as a SETATTR before it.
    pub const ATOMIC_O_TRUNC: Self = Self(1 << 3);
    /// Lookups of `.` and `..` are answered, so that NFS can export the mount.
    pub const EXPORT_SUPPORT: Self = Self(1 << 4);
    /// Writes of more than a page.
    pub const BIG_WRITES: Self = Self(1 << 5);
    /// The umask is ours to apply (a default ACL replaces it, so it must be).
    pub const DONT_MASK: Self = Self(1 << 6);
    /// `flock` locks come to us.
    pub const FLOCK_LOCKS: Self = Self(1 << 10);
    /// Pages are dropped when a getattr shows another mtime or size.
    pub const AUTO_INVAL_DATA: Self = Self(1 << 12);
    /// READDIRPLUS is used.
    pub const DO_READDIRPLUS: Self = Self(1 << 13);
    /// The kernel chooses between READDIR and READDIRPLUS by what the reader does.
    pub const READDIRPLUS_AUTO: Self = Self(1 << 14);
    /// Direct I/O of one call goes out in parallel.
    pub const ASYNC_DIO: Self = Self(1 << 15);
    /// Dirty pages stay in the kernel. Not compatible with cluster coherence; not used.
    pub const WRITEBACK_CACHE: Self = Self(1 << 16);
    /// Lookups and readdirs in one directory run in parallel.
    pub const PARALLEL_DIROPS: Self = Self(1 << 18);
    /// The kernel checks and keeps POSIX ACLs through the xattr calls.
    pub const POSIX_ACL: Self = Self(1 << 20);
    /// Reads after an abort by the administrator say so instead of ENODEV.
    pub const ABORT_ERROR: Self = Self(1 << 21);
    /// Requests of up to `max_pages` pages.
    pub const MAX_PAGES: Self = Self(1 << 22);
    /// Symbolic link targets are kept in the page cache.
    pub const CACHE_SYMLINKS: Self = Self(1 << 23);
    /// Pages are dropped only when we ask.
    pub const EXPLICIT_INVAL_DATA: Self = Self(1 << 25);
    /// We clear suid and sgid bits where the kernel says so.
    pub const HANDLE_KILLPRIV_V2: Self = Self(1 << 28);
    /// SETXATTR carries its own flags.
    pub const SETXATTR_EXT: Self = Self(1 << 29);
    /// The second flag word is valid.
    pub const INIT_EXT: Self = Self(1 << 30);
    /// Creations carry the caller's group that matches the parent directory.
    pub const CREATE_SUPP_GROUP: Self = Self(1 << 34);
    /// The kernel understands expire-only entry invalidation (offered, never asked for).
    pub const HAS_EXPIRE_ONLY: Self = Self(1 << 35);
    /// Shared mappings of files opened with `DIRECT_IO`.
    pub const DIRECT_IO_ALLOW_MMAP: Self = Self(1 << 36);

    /// All that a Brickwork mount wants. What the kernel does not offer is left out.
    pub const WANTED: Self = Self(
        Self::ASYNC_READ.0
            | Self::POSIX_LOCKS.0
            | Self::ATOMIC_O_TRUNC.0
            | Self::EXPORT_SUPPORT.0
            | Self::BIG_WRITES.0
            | Self::DONT_MASK.0
            | Self::FLOCK_LOCKS.0
            | Self::AUTO_INVAL_DATA.0
            | Self::DO_READDIRPLUS.0
            | Self::READDIRPLUS_AUTO.0
            | Self::ASYNC_DIO.0
            | Self::PARALLEL_DIROPS.0
            | Self::POSIX_ACL.0
            | Self::ABORT_ERROR.0
            | Self::CACHE_SYMLINKS.0
            | Self::HANDLE_KILLPRIV_V2.0
            | Self::CREATE_SUPP_GROUP.0
            | Self::DIRECT_IO_ALLOW_MMAP.0,
    );

    /// What this crate needs for its own framing, whatever the caller wants.
    pub(crate) const FRAMING: Self =
        Self(Self::MAX_PAGES.0 | Self::SETXATTR_EXT.0 | Self::INIT_EXT.0);
}

/// How the kernel treats one open file; part of the answer to OPEN, OPENDIR and CREATE.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpenFlags(pub(crate) u32);
flag_set!(OpenFlags, u32);

impl OpenFlags {
    /// Reads and writes bypass the page cache.
    pub const DIRECT_IO: Self = Self(1);
    /// Pages cached by an earlier open stay valid.
    pub const KEEP_CACHE: Self = Self(1 << 1);
    /// No seeking.
    pub const NONSEEKABLE: Self = Self(1 << 2);
    /// The directory's entries may be cached.
    pub const CACHE_DIR: Self = Self(1 << 3);
    /// No file position at all.
    pub const STREAM: Self = Self(1 << 4);
    /// No FLUSH on close.
    pub const NOFLUSH: Self = Self(1 << 5);
    /// Direct writes of one file may run in parallel.
    pub const PARALLEL_DIRECT_WRITES: Self = Self(1 << 6);
}
