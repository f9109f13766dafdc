//! Socket calls that never wait, and aligned buffers. The only unsafe code of the data plane.

use std::io::{self, IoSlice};
use std::os::fd::AsFd;

use bytes::{Buf, Bytes, BytesMut};
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags};

/// Payloads that get a buffer of their own start on a page, so that a store may read or write
/// them with O_DIRECT.
const PAGE: usize = 4096;

/// Receives at most `room` bytes of what is there into the spare capacity of `buf`. `None`:
/// nothing yet; 0: the end of the stream.
///
/// # Errors
/// The connection is broken.
pub fn try_recv(socket: impl AsFd, buf: &mut BytesMut, room: usize) -> io::Result<Option<usize>> {
    let spare = buf.spare_capacity_mut();
    let room = room.min(spare.len());
    let spare = &mut spare[..room];
    match rustix::net::recv(socket, spare, RecvFlags::DONTWAIT) {
        Ok((_, n)) => {
            // SAFETY: the kernel has initialised the first `n` bytes of the spare capacity,
            // and `n` is at most its length (no MSG_TRUNC).
            unsafe { buf.set_len(buf.len() + n) };
            Ok(Some(n))
        }
        Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Sends what the socket takes at once. `None`: it takes nothing now.
///
/// # Errors
/// The connection is broken.
pub fn try_send<'a>(
    socket: impl AsFd,
    slices: impl Iterator<Item = &'a Bytes>,
) -> io::Result<Option<usize>> {
    let vectors: Vec<IoSlice<'_>> =
        slices.take(super::SEND_SLICES_MAX).map(|s| IoSlice::new(s)).collect();
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    match rustix::net::sendmsg(socket, &vectors, &mut SendAncillaryBuffer::default(), flags) {
        Ok(n) => Ok(Some(n)),
        Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// An empty buffer for `len` bytes that starts on a page.
pub fn aligned(len: usize) -> BytesMut {
    let mut buf = BytesMut::with_capacity(len + PAGE);
    let pad = buf.as_ptr().align_offset(PAGE);
    buf.resize(pad, 0);
    buf.advance(pad);
    buf
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_aligned_buffer_starts_on_a_page_and_has_room() {
        for len in [1, 4096, 100_000, 4 << 20] {
            let mut buf = aligned(len);
            assert!(buf.capacity() >= len);
            let start = buf.as_ptr();
            buf.resize(len, 1);
            assert_eq!(buf.as_ptr(), start, "it must not move while it fills");
            assert_eq!(start as usize % PAGE, 0);
        }
    }
}
