//! The door between a brick's thread and everything in the kernel that may wait.
//!
//! Purpose: one small trait with two implementations, io_uring (`uring`) and plain system
//! calls (`plain`), chosen once at start.
//!
//! Assumes: one current-thread runtime per brick; every future of this module is polled there.
//!
//! Promises: what is ready is taken inline without a hop (`try_recv`, `try_send`); only what
//! has to wait goes through the ring or the poller. A dropped future never frees a buffer that
//! the kernel still uses.
//!
//! Deliberately does not: touch metadata or xattrs. Cached they cost 1–3 µs inline and 20–160
//! through a ring, so the store calls them on the brick's thread.

mod plain;
mod runtime;
mod sys;
mod uring;

use std::future::Future;
use std::io;
use std::net::TcpStream;
use std::os::fd::AsFd;

use bytes::{Bytes, BytesMut};
use futures_util::future::LocalBoxFuture;
use proto::Errno;
use proto::fop::Return;
use server_store::{FsyncPlan, PendingRead};

pub use plain::PlainIo;
pub use runtime::{Backend, Runner, run};
pub use sys::{aligned, try_recv, try_send};
pub use uring::UringIo;

/// Most buffers handed to one vectored send: a third of the kernel's IOV_MAX, far more than
/// one wake-up produces.
pub const SEND_SLICES_MAX: usize = 256;

/// What may wait: socket readiness, uncached reads, stable storage.
pub trait BrickIo: Clone + 'static {
    type Socket: AsFd + 'static;

    /// Takes over an accepted connection.
    ///
    /// # Errors
    /// The descriptor cannot be registered with this backend.
    fn adopt(&self, stream: TcpStream) -> io::Result<Self::Socket>;

    /// Waits for bytes and appends at most `room` of them within `buf`'s capacity; 0 is the end
    /// of the stream.
    fn recv(
        &self,
        socket: &Self::Socket,
        buf: BytesMut,
        room: usize,
    ) -> impl Future<Output = (io::Result<usize>, BytesMut)>;

    /// Waits until the socket takes some of `slices`; gives them back with the count taken.
    fn send(
        &self,
        socket: &Self::Socket,
        slices: Vec<Bytes>,
    ) -> impl Future<Output = (io::Result<usize>, Vec<Bytes>)>;

    /// Completes a read that the page cache could not answer.
    fn read(&self, pending: PendingRead) -> impl Future<Output = Result<Return, Errno>>;

    /// All files of the plan to stable storage.
    fn fsync(&self, plan: FsyncPlan) -> impl Future<Output = Result<(), Errno>>;
}

/// The disk's part of `BrickIo` as an object, for code that does not care which it is.
pub trait DiskIo {
    fn read(&self, pending: PendingRead) -> LocalBoxFuture<'_, Result<Return, Errno>>;
    fn fsync(&self, plan: FsyncPlan) -> LocalBoxFuture<'_, Result<(), Errno>>;
}

impl<I: BrickIo> DiskIo for I {
    fn read(&self, pending: PendingRead) -> LocalBoxFuture<'_, Result<Return, Errno>> {
        Box::pin(BrickIo::read(self, pending))
    }

    fn fsync(&self, plan: FsyncPlan) -> LocalBoxFuture<'_, Result<(), Errno>> {
        Box::pin(BrickIo::fsync(self, plan))
    }
}

/// Runs work that blocks for long on a helper thread.
///
/// # Errors
/// The work's own; EIO when it panicked.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Errno> + Send + 'static,
) -> Result<T, Errno> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => {
            tracing::error!(%error, "a helper thread's work ended early");
            Err(Errno::EIO)
        }
    }
}
