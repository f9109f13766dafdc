//! Received bytes of one connection, cut into frames.
//!
//! Many small frames come out of one read without a copy; a payload that would not fit beside
//! them is received straight into an aligned buffer of its own.

use bytes::{Bytes, BytesMut};
use proto::frame::{BadFrame, Frame, HEADER_BYTES, Header, message_sum, payload_sum};

use super::io::aligned;

/// One read takes at most this much: about 60 writes of 4 KiB, or 1000 of the small requests.
const READ_BYTES: usize = 256 << 10;
/// Payloads from here on get a buffer of their own.
const BIG_BYTES: usize = 64 << 10;

pub struct Inbound {
    buf: BytesMut,
    big: Option<Big>,
}

/// A frame whose payload is still coming in.
struct Big {
    header: Header,
    message: Bytes,
    payload: BytesMut,
}

impl Big {
    fn missing(&self) -> usize {
        self.header.payload_bytes as usize - self.payload.len()
    }
}

impl Inbound {
    pub fn new() -> Self {
        Self { buf: BytesMut::with_capacity(READ_BYTES), big: None }
    }

    /// The buffer to receive into next, and how much at most.
    pub fn space(&mut self) -> (&mut BytesMut, usize) {
        match &mut self.big {
            Some(big) => {
                let missing = big.missing();
                (&mut big.payload, missing)
            }
            None => {
                // Reclaims the consumed front when no frame of it lives any more.
                if self.buf.capacity() - self.buf.len() < READ_BYTES / 4 {
                    self.buf.reserve(READ_BYTES);
                }
                (&mut self.buf, READ_BYTES)
            }
        }
    }

    /// Where the buffer that `space` gave, and that was taken out to be filled, goes back.
    pub fn space_back(&mut self) -> &mut BytesMut {
        match &mut self.big {
            Some(big) => &mut big.payload,
            None => &mut self.buf,
        }
    }

    /// The next whole, verified frame; `None` until more bytes are received.
    ///
    /// # Errors
    /// The bytes are no frame: the connection must end.
    pub fn next(&mut self) -> Result<Option<Frame>, BadFrame> {
        if let Some(big) = &self.big {
            if big.missing() > 0 {
                return Ok(None);
            }
            let big = self.big.take().expect("just seen");
            return checked_payload(big.header, big.message, big.payload.freeze()).map(Some);
        }
        if self.buf.len() < HEADER_BYTES {
            return Ok(None);
        }
        let header = Header::parse(&self.buf)?;
        let (message, payload) = (header.message_bytes as usize, header.payload_bytes as usize);
        let head = HEADER_BYTES + message;
        if self.buf.len() >= head + payload {
            let message = self.take_message(&header, head)?;
            let payload = self.buf.split_to(payload).freeze();
            return checked_payload(header, message, payload).map(Some);
        }
        if self.buf.len() >= head && payload >= BIG_BYTES {
            let message = self.take_message(&header, head)?;
            let mut big = Big { header, message, payload: aligned(payload) };
            big.payload.extend_from_slice(&self.buf);
            self.buf.clear();
            self.big = Some(big);
        } else {
            self.buf.reserve(head + payload.min(BIG_BYTES) - self.buf.len());
        }
        Ok(None)
    }

    fn take_message(&mut self, header: &Header, head: usize) -> Result<Bytes, BadFrame> {
        let head = self.buf.split_to(head).freeze();
        if header.message_sum != message_sum(&head[..HEADER_BYTES], &head[HEADER_BYTES..]) {
            return Err(BadFrame::MessageSum);
        }
        Ok(head.slice(HEADER_BYTES..))
    }
}

fn checked_payload(header: Header, message: Bytes, payload: Bytes) -> Result<Frame, BadFrame> {
    if header.payload_sum != payload_sum(&payload) {
        return Err(BadFrame::PayloadSum);
    }
    Ok(Frame { header, message, payload })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::fop::PAYLOAD_BYTES_MAX;
    use proto::frame::{FrameKind, RequestHead, encode};

    fn frame(id: u64, payload: &[u8]) -> Vec<u8> {
        let mut header = Header::new(FrameKind::Request);
        header.request = id;
        let mut out = encode(header, &RequestHead::default(), payload).to_vec();
        out.extend_from_slice(payload);
        out
    }

    /// Feeds `bytes` in pieces of at most `piece` and returns the frames that came out.
    fn feed(bytes: &[u8], piece: usize) -> Result<Vec<Frame>, BadFrame> {
        let (mut inbound, mut frames, mut at) = (Inbound::new(), Vec::new(), 0);
        loop {
            while let Some(frame) = inbound.next()? {
                frames.push(frame);
            }
            if at == bytes.len() {
                return Ok(frames);
            }
            let (buf, room) = inbound.space();
            let n = piece.min(room).min(bytes.len() - at);
            buf.extend_from_slice(&bytes[at..at + n]);
            at += n;
        }
    }

    #[test]
    fn frames_of_all_sizes_come_out_whole_however_they_are_cut() {
        let sizes = [0, 1, 4096, BIG_BYTES - 1, BIG_BYTES, 300_000, PAYLOAD_BYTES_MAX];
        let mut bytes = Vec::new();
        for (id, size) in sizes.iter().enumerate() {
            bytes.extend(frame(id as u64, &vec![id as u8 + 1; *size]));
        }
        for piece in [997, 65_536, usize::MAX] {
            let frames = feed(&bytes, piece).expect("good frames");
            assert_eq!(frames.len(), sizes.len());
            for (id, (frame, size)) in frames.iter().zip(sizes).enumerate() {
                assert_eq!(frame.header.request, id as u64);
                assert_eq!(frame.payload, vec![id as u8 + 1; size]);
            }
        }
    }

    #[test]
    fn a_damaged_or_oversized_frame_ends_the_connection() {
        let mut bytes = frame(1, b"data");
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        assert_eq!(feed(&bytes, 100), Err(BadFrame::PayloadSum));
        let mut bytes = frame(1, b"");
        bytes[12..16].copy_from_slice(&(PAYLOAD_BYTES_MAX as u32 + 1).to_le_bytes());
        assert_eq!(feed(&bytes, 100), Err(BadFrame::Length));
        assert_eq!(feed(&[0x16; 200], 200), Err(BadFrame::Magic));
    }
}
