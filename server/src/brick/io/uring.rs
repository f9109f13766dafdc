//! The io_uring backend: socket waits, uncached reads and fsync through the thread's ring.
//!
//! The descriptors stay in blocking mode: the ring answers EAGAIN at once on non-blocking ones
//! instead of waiting. Calls that must not wait say MSG_DONTWAIT themselves.

use std::io;
use std::net::TcpStream;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;

use bytes::{Bytes, BytesMut};
use proto::Errno;
use proto::fop::Return;
use server_store::{FsyncPlan, PendingRead};
use tokio_uring::buf::{BoundedBuf, IoBuf, IoBufMut};

use super::BrickIo;

#[derive(Clone, Copy, Debug, Default)]
pub struct UringIo;

/// A connection whose waits go through the ring.
pub struct UringSocket {
    ring: tokio_uring::net::TcpStream,
}

impl AsFd for UringSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the stream owns the descriptor and outlives the borrow.
        unsafe { BorrowedFd::borrow_raw(self.ring.as_raw_fd()) }
    }
}

impl BrickIo for UringIo {
    type Socket = UringSocket;

    fn adopt(&self, stream: TcpStream) -> io::Result<UringSocket> {
        stream.set_nonblocking(false)?;
        Ok(UringSocket { ring: tokio_uring::net::TcpStream::from_std(stream) })
    }

    async fn recv(
        &self,
        socket: &UringSocket,
        buf: BytesMut,
        room: usize,
    ) -> (io::Result<usize>, BytesMut) {
        let (len, end) = (buf.len(), buf.capacity().min(buf.len() + room));
        let (received, slice) = socket.ring.read(buf.slice(len..end)).await;
        (received, slice.into_inner())
    }

    async fn send(
        &self,
        socket: &UringSocket,
        slices: Vec<Bytes>,
    ) -> (io::Result<usize>, Vec<Bytes>) {
        socket.ring.writev(slices).await
    }

    async fn read(&self, mut pending: PendingRead) -> Result<Return, Errno> {
        let ring = ring_file(&pending.fd)?;
        loop {
            let offset = pending.offset;
            let (read, target) = ring.read_at(ReadTarget::new(pending), offset).await;
            pending = target.0;
            match read {
                Ok(n) if pending.advance(n) => {}
                Ok(_) => return Ok(pending.finish()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    async fn fsync(&self, plan: FsyncPlan) -> Result<(), Errno> {
        for fd in &plan.fds {
            let ring = ring_file(fd)?;
            match plan.data_only {
                true => ring.sync_data().await?,
                false => ring.sync_all().await?,
            }
        }
        Ok(())
    }
}

/// A pending read whose spare buffer the ring fills. Owns it, so that it outlives the request
/// even when nobody waits any more.
struct ReadTarget(PendingRead, NonNull<u8>, usize);

impl ReadTarget {
    fn new(mut pending: PendingRead) -> Self {
        let spare = pending.buf.spare();
        let (start, len) = (NonNull::from(&mut *spare).cast(), spare.len());
        Self(pending, start, len)
    }
}

// SAFETY: the store's buffer is one heap block that moves neither with the struct nor while
// the ring fills it, because nobody else can reach it through the owned `PendingRead`.
unsafe impl IoBuf for ReadTarget {
    fn stable_ptr(&self) -> *const u8 {
        self.1.as_ptr()
    }

    fn bytes_init(&self) -> usize {
        0
    }

    fn bytes_total(&self) -> usize {
        self.2
    }
}

// SAFETY: as above; the spare space is writable and `bytes_total` long.
unsafe impl IoBufMut for ReadTarget {
    fn stable_mut_ptr(&mut self) -> *mut u8 {
        self.1.as_ptr()
    }

    /// The count comes back with the result and is passed to `PendingRead::advance`.
    unsafe fn set_init(&mut self, _: usize) {}
}

/// A descriptor that the ring may own: a duplicate, closed when the last request on it is done.
/// Under a microsecond, next to a disk's hundred.
fn ring_file(file: &OwnedFd) -> io::Result<tokio_uring::fs::File> {
    Ok(tokio_uring::fs::File::from_std(file.try_clone()?.into()))
}
