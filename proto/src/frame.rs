//! Frames of the data plane: a fixed header, a prost message, the raw payload.
//!
//! ```text
//! offset  size  field
//!      0     2  magic "BW"
//!      2     1  version of the frame format (1)
//!      3     1  kind: 1 hello, 2 welcome, 3 request, 4 reply, 5 push, 6 goodbye
//!      4     2  operation code (0 where none)
//!      6     2  flags: 1 re-send, 2 reply is a replay
//!      8     4  bytes of the message that follows the header
//!     12     4  bytes of the payload after it
//!     16     8  request id, chosen by the sender of the request
//!     24     8  session
//!     32     8  epoch of the set in the sender's map
//!     40     8  change number (seq), 0 for none
//!     48     8  settled mark of the session on this set
//!     56     8  time stamp of the change, ns since 1970
//!     64     8  xxh3 of the payload, 0 when it is empty
//!     72     8  xxh3 of bytes 0..72 and the message
//! ```
//! All integers little-endian. One connection serves one (session, brick) pair; HELLO names
//! both. The message of a request is `RequestHead`, of a reply `ReplyHead`.

mod head;
mod header;
mod hello;
mod version;

pub use head::{ReplyHead, RequestHead, Status};
pub use header::{Flags, FrameKind, HEADER_BYTES, Header, MESSAGE_BYTES_MAX};
pub use hello::{Credential, Hello, Welcome};
pub use version::{Features, VERSION};

use bytes::{BufMut, Bytes, BytesMut};
use xxhash_rust::xxh3::Xxh3;

/// One frame in memory. The payload is never copied into the message.
#[derive(Clone, Debug, PartialEq)]
pub struct Frame {
    pub header: Header,
    pub message: Bytes,
    pub payload: Bytes,
}

/// Bytes from the wire that are no frame. The connection that sent them ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BadFrame {
    #[error("not a Brickwork frame")]
    Magic,
    #[error("frame format {0} is not spoken here (this side speaks {VERSION})")]
    Version(u8),
    #[error("unknown frame kind {0}")]
    Kind(u8),
    #[error("a length in the frame header exceeds its bound")]
    Length,
    #[error("checksum of header and message differs")]
    MessageSum,
    #[error("checksum of the payload differs")]
    PayloadSum,
    #[error("the frame's message cannot be decoded")]
    Message,
}

/// Header (with its lengths and checksums filled in) and message, ready to be sent; the
/// payload follows as it is.
pub fn encode(header: Header, message: &impl prost::Message, payload: &[u8]) -> BytesMut {
    encode_summed(header, message, payload.len(), payload_sum(payload))
}

/// As `encode`, for a payload whose length and checksum are known already: one payload goes to
/// all members of a set and is summed once.
pub fn encode_summed(
    mut header: Header,
    message: &impl prost::Message,
    payload_bytes: usize,
    payload_sum: u64,
) -> BytesMut {
    let len = message.encoded_len();
    header.message_bytes = len as u32;
    header.payload_bytes = payload_bytes as u32;
    header.payload_sum = payload_sum;
    let mut out = BytesMut::with_capacity(HEADER_BYTES + len);
    out.put_bytes(0, HEADER_BYTES);
    message.encode(&mut out).expect("BytesMut grows");
    header.write(&mut out[..HEADER_BYTES]);
    let sum = message_sum(&out[..HEADER_BYTES], &out[HEADER_BYTES..]);
    out[HEADER_BYTES - 8..HEADER_BYTES].copy_from_slice(&sum.to_le_bytes());
    out
}

/// xxh3 of a payload; 0 for an empty one, so that small frames cost nothing.
pub fn payload_sum(payload: &[u8]) -> u64 {
    if payload.is_empty() { 0 } else { xxhash_rust::xxh3::xxh3_64(payload) }
}

/// Checksum over the first 72 header bytes and the message.
pub fn message_sum(header: &[u8], message: &[u8]) -> u64 {
    let mut hasher = Xxh3::new();
    hasher.update(&header[..HEADER_BYTES - 8]);
    hasher.update(message);
    hasher.digest()
}

/// Checks a received frame's sums against its parts.
///
/// # Errors
/// `MessageSum` or `PayloadSum`.
pub fn verify(raw_header: &[u8], message: &[u8], payload: &[u8]) -> Result<(), BadFrame> {
    let header = Header::parse(raw_header)?;
    if header.message_sum != message_sum(raw_header, message) {
        return Err(BadFrame::MessageSum);
    }
    if header.payload_sum != payload_sum(payload) {
        return Err(BadFrame::PayloadSum);
    }
    Ok(())
}

#[cfg(test)]
#[path = "frame/frame_test.rs"]
mod frame_test;
#[cfg(test)]
#[path = "frame/golden_test.rs"]
mod golden_test;
