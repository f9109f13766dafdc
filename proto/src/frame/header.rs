//! The fixed 80-byte header.

use super::{BadFrame, VERSION};
use crate::fop::PAYLOAD_BYTES_MAX;

pub const HEADER_BYTES: usize = 80;

/// Longest message: a page of 1000 directory entries with 255-byte names and attributes, or a
/// 64 KiB xattr list, fits well within.
pub const MESSAGE_BYTES_MAX: usize = 1 << 20;

const MAGIC: [u8; 2] = *b"BW";

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum FrameKind {
    Hello = 1,
    Welcome = 2,
    Request = 3,
    Reply = 4,
    /// From a brick without a request: recalls, map news.
    Push = 5,
    /// Either side ends the connection in order.
    Goodbye = 6,
}

impl FrameKind {
    fn from_code(code: u8) -> Option<FrameKind> {
        Some(match code {
            1 => FrameKind::Hello,
            2 => FrameKind::Welcome,
            3 => FrameKind::Request,
            4 => FrameKind::Reply,
            5 => FrameKind::Push,
            6 => FrameKind::Goodbye,
            _ => return None,
        })
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Flags(pub u16);

impl Flags {
    pub const RESEND: Flags = Flags(1);
    pub const REPLAY: Flags = Flags(2);
    /// Of a change: the lead shall execute it for the session and fan it out. From the lead to a
    /// member: it does so, and the session named is not the connection's.
    pub const EXECUTE: Flags = Flags(4);

    pub fn has(self, flag: Flags) -> bool {
        self.0 & flag.0 != 0
    }
}

/// See the table in the parent module for widths and meaning.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    pub kind: FrameKind,
    pub op: u16,
    pub flags: Flags,
    pub message_bytes: u32,
    pub payload_bytes: u32,
    pub request: u64,
    pub session: u64,
    pub epoch: u64,
    pub seq: u64,
    pub mark: u64,
    pub stamp: u64,
    pub payload_sum: u64,
    pub message_sum: u64,
}

impl Header {
    pub fn new(kind: FrameKind) -> Header {
        Header {
            kind,
            op: 0,
            flags: Flags::default(),
            message_bytes: 0,
            payload_bytes: 0,
            request: 0,
            session: 0,
            epoch: 0,
            seq: 0,
            mark: 0,
            stamp: 0,
            payload_sum: 0,
            message_sum: 0,
        }
    }

    /// # Errors
    /// Everything that keeps `raw` from being the start of a frame this side can read. Lengths
    /// are bounded here, before anybody allocates for them.
    pub fn parse(raw: &[u8]) -> Result<Header, BadFrame> {
        if raw.len() < HEADER_BYTES || raw[..2] != MAGIC {
            return Err(BadFrame::Magic);
        }
        if raw[2] != VERSION {
            return Err(BadFrame::Version(raw[2]));
        }
        let word = |at: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&raw[at..at + 8]);
            u64::from_le_bytes(bytes)
        };
        let header = Header {
            kind: FrameKind::from_code(raw[3]).ok_or(BadFrame::Kind(raw[3]))?,
            op: u16::from_le_bytes([raw[4], raw[5]]),
            flags: Flags(u16::from_le_bytes([raw[6], raw[7]])),
            message_bytes: u32::from_le_bytes([raw[8], raw[9], raw[10], raw[11]]),
            payload_bytes: u32::from_le_bytes([raw[12], raw[13], raw[14], raw[15]]),
            request: word(16),
            session: word(24),
            epoch: word(32),
            seq: word(40),
            mark: word(48),
            stamp: word(56),
            payload_sum: word(64),
            message_sum: word(72),
        };
        let fits = header.message_bytes as usize <= MESSAGE_BYTES_MAX
            && header.payload_bytes as usize <= PAYLOAD_BYTES_MAX;
        fits.then_some(header).ok_or(BadFrame::Length)
    }

    /// Writes all fields into `out`, which must be `HEADER_BYTES` long.
    pub fn write(&self, out: &mut [u8]) {
        out[..2].copy_from_slice(&MAGIC);
        out[2] = VERSION;
        out[3] = self.kind as u8;
        out[4..6].copy_from_slice(&self.op.to_le_bytes());
        out[6..8].copy_from_slice(&self.flags.0.to_le_bytes());
        out[8..12].copy_from_slice(&self.message_bytes.to_le_bytes());
        out[12..16].copy_from_slice(&self.payload_bytes.to_le_bytes());
        let words = [
            self.request,
            self.session,
            self.epoch,
            self.seq,
            self.mark,
            self.stamp,
            self.payload_sum,
            self.message_sum,
        ];
        for (at, word) in (16..).step_by(8).zip(words) {
            out[at..at + 8].copy_from_slice(&word.to_le_bytes());
        }
    }
}
