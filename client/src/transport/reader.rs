//! Bytes from a socket to checked frames.
//!
//! Headers, messages and small payloads are read together into one buffer and handed up as
//! slices of it; a payload that is not there completely gets a buffer of its own, into which
//! the socket is read directly, so that at most `CHUNK_BYTES` of it are copied.

use std::io;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use proto::frame::{self, BadFrame, Frame, HEADER_BYTES, Header};
use tokio::net::TcpStream;

/// Read at a time when no payload is under way: some hundred small replies.
const CHUNK_BYTES: usize = 32 << 10;

/// A frame whose payload is still arriving.
#[derive(Debug)]
struct Partial {
    header: Header,
    raw: Bytes,
    message: Bytes,
    payload: BytesMut,
}

impl Partial {
    fn missing(&self) -> usize {
        self.header.payload_bytes as usize - self.payload.len()
    }
}

/// Reads frames; one for each connection.
#[derive(Debug, Default)]
pub struct FrameReader {
    buffer: BytesMut,
    partial: Option<Partial>,
}

impl FrameReader {
    /// The next frame that has arrived completely, or `None` when the socket has no more now.
    ///
    /// # Errors
    /// `UnexpectedEof` at the end of the stream; `InvalidData` around a `BadFrame`.
    pub fn try_next(&mut self, stream: &TcpStream) -> io::Result<Option<Frame>> {
        loop {
            if let Some(frame) = self.take()? {
                return Ok(Some(frame));
            }
            let read = match &mut self.partial {
                Some(partial) => {
                    let missing = partial.missing();
                    stream.try_read_buf(&mut (&mut partial.payload).limit(missing))
                }
                None => {
                    self.buffer.reserve(CHUNK_BYTES);
                    stream.try_read_buf(&mut self.buffer)
                }
            };
            match read {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(e) => return Err(e),
            }
        }
    }

    /// As `try_next`, but waits.
    ///
    /// # Errors
    /// As `try_next`.
    pub async fn next(&mut self, stream: &TcpStream) -> io::Result<Frame> {
        loop {
            if let Some(frame) = self.try_next(stream)? {
                return Ok(frame);
            }
            stream.readable().await?;
        }
    }

    /// A frame out of what has been read.
    fn take(&mut self) -> io::Result<Option<Frame>> {
        if self.partial.is_none() && !self.begin()? {
            return Ok(None);
        }
        match self.partial.take() {
            Some(partial) if partial.missing() == 0 => finish(partial).map(Some),
            waiting => {
                self.partial = waiting;
                Ok(None)
            }
        }
    }

    /// Header and message are complete: moves them to `partial`, with the payload's beginning.
    fn begin(&mut self) -> io::Result<bool> {
        if self.buffer.len() < HEADER_BYTES {
            return Ok(false);
        }
        let header = Header::parse(&self.buffer[..HEADER_BYTES]).map_err(bad)?;
        if self.buffer.len() < HEADER_BYTES + header.message_bytes as usize {
            return Ok(false);
        }
        let raw = self.buffer.split_to(HEADER_BYTES).freeze();
        let message = self.buffer.split_to(header.message_bytes as usize).freeze();
        let payload = self.payload(header.payload_bytes as usize);
        self.partial = Some(Partial { header, raw, message, payload });
        Ok(true)
    }

    fn payload(&mut self, len: usize) -> BytesMut {
        if self.buffer.len() >= len {
            return self.buffer.split_to(len);
        }
        let mut payload = BytesMut::with_capacity(len);
        payload.put_slice(&self.buffer);
        self.buffer.advance(self.buffer.len());
        payload
    }
}

fn finish(partial: Partial) -> io::Result<Frame> {
    let Partial { header, raw, message, payload } = partial;
    frame::verify(&raw, &message, &payload).map_err(bad)?;
    Ok(Frame { header, message, payload: payload.freeze() })
}

fn bad(error: BadFrame) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
