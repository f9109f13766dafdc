//! The plain backend: tokio's poller for sockets, tokio's blocking threads for the disk.
//!
//! For hosts where io_uring is disabled, and for comparison.

use std::io;
use std::net::TcpStream;

use bytes::{Bytes, BytesMut};
use proto::Errno;
use proto::fop::Return;
use server_store::{FsyncPlan, PendingRead};
use tokio::io::Interest;

use super::{BrickIo, blocking, try_recv, try_send};

#[derive(Clone, Copy, Debug, Default)]
pub struct PlainIo;

impl BrickIo for PlainIo {
    type Socket = tokio::net::TcpStream;

    fn adopt(&self, stream: TcpStream) -> io::Result<Self::Socket> {
        stream.set_nonblocking(true)?;
        tokio::net::TcpStream::from_std(stream)
    }

    async fn recv(
        &self,
        socket: &Self::Socket,
        mut buf: BytesMut,
        room: usize,
    ) -> (io::Result<usize>, BytesMut) {
        let received = socket
            .async_io(Interest::READABLE, || {
                try_recv(socket, &mut buf, room)?.ok_or(io::ErrorKind::WouldBlock.into())
            })
            .await;
        (received, buf)
    }

    async fn send(
        &self,
        socket: &Self::Socket,
        slices: Vec<Bytes>,
    ) -> (io::Result<usize>, Vec<Bytes>) {
        let sent = socket
            .async_io(Interest::WRITABLE, || {
                try_send(socket, slices.iter())?.ok_or(io::ErrorKind::WouldBlock.into())
            })
            .await;
        (sent, slices)
    }

    async fn read(&self, pending: PendingRead) -> Result<Return, Errno> {
        blocking(move || pending.run()).await
    }

    async fn fsync(&self, plan: FsyncPlan) -> Result<(), Errno> {
        blocking(move || {
            plan.fds
                .iter()
                .try_for_each(|fd| match plan.data_only {
                    true => rustix::fs::fdatasync(fd),
                    false => rustix::fs::fsync(fd),
                })
                .map_err(|e| Errno(e.raw_os_error()))
        })
        .await
    }
}
