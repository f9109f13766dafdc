//! A descriptor of `/dev/fuse`: read a request, write a reply, clone.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};
use rustix::ioctl::{Setter, opcode};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::abi::OUT_HEADER_LEN;

/// `FUSE_DEV_IOC_CLONE`: makes a freshly opened device a second channel of a connection.
const IOC_CLONE: rustix::ioctl::Opcode = opcode::read::<u32>(229, 0);

/// Slices of one reply that go out without an allocation: header, structure and a few payloads.
const SLICES_INLINE: usize = 8;
/// Linux takes at most 1024 slices a call (`IOV_MAX`), one of them is the header.
const SLICES_MAX: usize = 1000;

/// One descriptor of the connection. Each has its own queue of requests being worked on, so a
/// reply must go to the descriptor from which its request was read.
#[derive(Debug)]
pub(crate) struct Device {
    fd: OwnedFd,
}

impl Device {
    /// Opens the device node; not yet part of a mount.
    pub(crate) fn open() -> io::Result<Self> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        Ok(Self { fd: rustix::fs::open("/dev/fuse", flags, Mode::empty())? })
    }

    /// Takes a descriptor that a mount helper opened.
    pub(crate) fn from_fd(fd: OwnedFd) -> Self {
        Self { fd }
    }

    /// A second, non-blocking channel of the same connection.
    pub(crate) fn clone_channel(&self) -> io::Result<Self> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let fd = rustix::fs::open("/dev/fuse", flags, Mode::empty())?;
        let parent = u32::try_from(self.fd.as_raw_fd()).expect("an open descriptor is positive");
        // SAFETY: this call reads one u32, the parent's descriptor, from the pointer it gets.
        unsafe { rustix::ioctl::ioctl(&fd, Setter::<IOC_CLONE, u32>::new(parent))? };
        Ok(Self { fd })
    }

    /// Reads one request, whole: the kernel never splits or joins them.
    pub(crate) fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::io::read(&self.fd, buffer)?)
    }

    /// Writes one message: reply header, then `body` without copying it.
    ///
    /// `error` is 0, a negative errno, or for `unique` 0 a notification code.
    pub(crate) fn write(&self, unique: u64, error: i32, body: &[&[u8]]) -> io::Result<()> {
        let body_len: usize = body.iter().map(|part| part.len()).sum();
        let len = u32::try_from(OUT_HEADER_LEN + body_len)
            .map_err(|_| io::Error::from_raw_os_error(libc::EMSGSIZE))?;
        let mut header = [0u8; OUT_HEADER_LEN];
        header[..4].copy_from_slice(&len.to_ne_bytes());
        header[4..8].copy_from_slice(&error.to_ne_bytes());
        header[8..].copy_from_slice(&unique.to_ne_bytes());
        self.write_parts(&header, body)
    }

    fn write_parts(&self, header: &[u8], body: &[&[u8]]) -> io::Result<()> {
        if body.len() < SLICES_INLINE {
            let mut slices = [IoSlice::new(&[]); SLICES_INLINE];
            slices[0] = IoSlice::new(header);
            for (slice, part) in slices[1..].iter_mut().zip(body) {
                *slice = IoSlice::new(part);
            }
            rustix::io::writev(&self.fd, &slices[..=body.len()])?;
        } else if body.len() <= SLICES_MAX {
            let slices: Vec<_> =
                std::iter::once(&header).chain(body).map(|part| IoSlice::new(part)).collect();
            rustix::io::writev(&self.fd, &slices)?;
        } else {
            // More pieces than one call takes; only a badly fragmented answer gets here.
            let joined = body.concat();
            rustix::io::writev(&self.fd, &[IoSlice::new(header), IoSlice::new(&joined)])?;
        }
        Ok(())
    }
}

/// What a channel waits for: a disconnected device reports an error condition and nothing else.
pub(crate) const WATCHED: Interest = Interest::READABLE.add(Interest::ERROR);

/// Registers the device with the reactor of the current tokio runtime.
pub(crate) fn watch(device: Arc<Device>) -> io::Result<AsyncFd<Arc<Device>>> {
    // SAFETY: the descriptor is owned by the device, which never replaces it and outlives the
    // registration, because the registration holds a reference to the device.
    let registered = unsafe { AsyncFd::register_with_interest(device, WATCHED) };
    registered.map_err(|error| error.into_parts().1)
}

impl AsRawFd for Device {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl AsFd for Device {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
