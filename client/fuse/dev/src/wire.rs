//! Checked reading of request arguments and building of reply structures.
//!
//! Promises: no input makes a reader panic; every read names the request malformed instead.

use crate::abi::{NAME_LEN_MAX, PATH_LEN_MAX};
use crate::op::Name;

/// What is wrong with a request. The kernel is trusted to be sane, not assumed to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// It ends before its arguments do.
    #[error("the request is too short")]
    Short,
    /// Its length field and the bytes received disagree.
    #[error("the length field does not match the message")]
    Length,
    /// An empty or overlong name, or one that holds '/' or NUL.
    #[error("a name is empty, too long or holds a forbidden byte")]
    Name,
    /// A count or size field does not match what follows.
    #[error("a count does not match the message")]
    Count,
    /// A field holds a value that has no meaning.
    #[error("a field is out of range")]
    Value,
}

impl Malformed {
    /// The errno that the caller of the system call sees.
    pub fn errno(self) -> i32 {
        match self {
            Self::Name | Self::Value => libc::EINVAL,
            Self::Short | Self::Length | Self::Count => libc::EIO,
        }
    }
}

/// The arguments of one request: a fixed structure, then names and data.
///
/// The classic device sends both in one piece, an io_uring queue in two; the parser sees no
/// difference.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Args<'a> {
    fixed: &'a [u8],
    rest: &'a [u8],
}

impl<'a> Args<'a> {
    /// Arguments that arrived in one piece, of which the first `fixed_len` are the structure.
    pub(crate) fn contiguous(body: &'a [u8], fixed_len: usize) -> Result<Self, Malformed> {
        let (fixed, rest) = body.split_at_checked(fixed_len).ok_or(Malformed::Short)?;
        Ok(Self { fixed, rest })
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (head, tail) = self.fixed.split_first_chunk().ok_or(Malformed::Short)?;
        self.fixed = tail;
        Ok(*head)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_ne_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_ne_bytes)
    }

    /// Steps over padding.
    pub(crate) fn skip(&mut self, len: usize) -> Result<(), Malformed> {
        self.fixed = self.fixed.get(len..).ok_or(Malformed::Short)?;
        Ok(())
    }

    /// The bytes up to the next NUL, which is consumed.
    fn until_nul(&mut self) -> Result<&'a [u8], Malformed> {
        let end = self.rest.iter().position(|byte| *byte == 0).ok_or(Malformed::Short)?;
        let found = &self.rest[..end];
        self.rest = &self.rest[end + 1..];
        Ok(found)
    }

    /// A directory entry's name. `.` and `..` pass: exported mounts look them up.
    pub(crate) fn name(&mut self) -> Result<Name, Malformed> {
        let name = self.until_nul()?;
        if name.is_empty() || name.len() > NAME_LEN_MAX || name.contains(&b'/') {
            return Err(Malformed::Name);
        }
        Ok(Name::from_checked(name))
    }

    /// An extended attribute's name; unlike an entry's it may hold a '/'.
    pub(crate) fn xattr_name(&mut self) -> Result<Name, Malformed> {
        let name = self.until_nul()?;
        if name.is_empty() || name.len() > NAME_LEN_MAX {
            return Err(Malformed::Name);
        }
        Ok(Name::from_checked(name))
    }

    /// A symbolic link's target.
    pub(crate) fn target(&mut self) -> Result<Vec<u8>, Malformed> {
        let target = self.until_nul()?;
        if target.is_empty() || target.len() >= PATH_LEN_MAX {
            return Err(Malformed::Name);
        }
        Ok(target.to_vec())
    }

    /// Everything after the fixed structure that no name has consumed.
    pub(crate) fn rest(self) -> &'a [u8] {
        self.rest
    }
}

/// A reply structure under construction, on the stack.
#[derive(Debug)]
pub(crate) struct Out<const N: usize> {
    bytes: [u8; N],
    len: usize,
}

impl<const N: usize> Out<N> {
    pub(crate) fn new() -> Self {
        Self { bytes: [0; N], len: 0 }
    }

    fn put(mut self, value: &[u8]) -> Self {
        // Sizes are fixed per structure, so an overflow is our own bug and tested once.
        self.bytes[self.len..self.len + value.len()].copy_from_slice(value);
        self.len += value.len();
        self
    }

    pub(crate) fn u16(self, value: u16) -> Self {
        self.put(&value.to_ne_bytes())
    }

    pub(crate) fn u32(self, value: u32) -> Self {
        self.put(&value.to_ne_bytes())
    }

    pub(crate) fn u64(self, value: u64) -> Self {
        self.put(&value.to_ne_bytes())
    }

    /// The finished structure; what was not written is zero, as padding must be.
    pub(crate) fn bytes(&self) -> &[u8; N] {
        &self.bytes
    }
}
