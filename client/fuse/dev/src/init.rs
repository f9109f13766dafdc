//! The handshake: what the kernel offers, what the mount wants, what both will use.

use crate::abi::{
    IN_HEADER_LEN, INIT_OUT_LEN, KERNEL_MAJOR, KERNEL_MINOR, KERNEL_MINOR_MIN, opcode,
};
use crate::error::{Error, Result};
use crate::flags::InitFlags;
use crate::sys::Device;
use crate::wire::{Args, Malformed, Out};

/// Where the kernel says how many pages one request may have (since Linux 6.13).
const PAGES_LIMIT_PATH: &str = "/proc/sys/fs/fuse/max_pages_limit";
/// The limit of kernels that do not say.
const PAGES_LIMIT_DEFAULT: usize = 256;
/// The INIT message is small; the kernel wants room for one smallest write all the same.
const INIT_BUFFER_LEN: usize = 16384;

/// What a mount asks for. The default is what Brickwork uses.
#[derive(Clone, Debug)]
pub struct InitConfig {
    /// Features to use where the kernel offers them.
    pub wanted: InitFlags,
    /// Largest data of one request in bytes; lowered to what the kernel allows.
    pub payload_max: usize,
    /// Bytes the kernel reads ahead of a sequential reader.
    pub readahead_max: u32,
    /// Requests that the kernel sends for nobody in particular (read-ahead, write-back) before
    /// it holds further ones back.
    pub background_max: u16,
}

impl Default for InitConfig {
    fn default() -> Self {
        Self {
            wanted: InitFlags::WANTED,
            payload_max: 1 << 20,
            // Two full requests: one being used while the next is on its way.
            readahead_max: 2 << 20,
            // The kernel's own 12 would cap read-ahead of a few readers.
            background_max: 64,
        }
    }
}

/// What kernel and mount agreed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Features {
    /// Minor protocol version in use.
    pub minor: u32,
    /// Features in use.
    pub flags: InitFlags,
    /// Everything the kernel offered.
    pub offered: InitFlags,
    /// Largest data of one request in bytes.
    pub payload_max: usize,
    /// Bytes of read-ahead that the kernel offered; the session may raise it further.
    pub readahead: u32,
}

impl Features {
    /// Whether `flag` is in use.
    pub fn has(&self, flag: InitFlags) -> bool {
        self.flags.contains(flag)
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Offer {
    unique: u64,
    major: u32,
    minor: u32,
    readahead: u32,
    flags: InitFlags,
}

/// Reads INIT and answers it.
pub(crate) fn handshake(device: &Device, config: &InitConfig) -> Result<Features> {
    let mut buffer = vec![0; INIT_BUFFER_LEN];
    // A kernel of a newer major version repeats INIT once, in the version of our first answer.
    for _ in 0..2 {
        let len = device.read(&mut buffer)?;
        let offer = parse(&buffer[..len])
            .map_err(|_| Error::Handshake("the first message is no valid INIT"))?;
        if offer.major > KERNEL_MAJOR {
            let own = Out::<INIT_OUT_LEN>::new().u32(KERNEL_MAJOR).u32(KERNEL_MINOR);
            device.write(offer.unique, 0, &[own.bytes()])?;
            continue;
        }
        if offer.major < KERNEL_MAJOR || offer.minor < KERNEL_MINOR_MIN {
            device.write(offer.unique, -libc::EPROTO, &[])?;
            return Err(Error::Version { major: offer.major, minor: offer.minor });
        }
        let features = agree(&offer, config, pages_limit(), rustix::param::page_size());
        device.write(offer.unique, 0, &[answer(&features, config).bytes()])?;
        return Ok(features);
    }
    Err(Error::Handshake("the kernel insists on another major version"))
}

fn parse(message: &[u8]) -> std::result::Result<Offer, Malformed> {
    let (header, body) = crate::parse::header(message)?;
    if header.opcode != opcode::INIT {
        return Err(Malformed::Value);
    }
    debug_assert!(message.len() >= IN_HEADER_LEN);
    let mut args = Args::contiguous(body, body.len())?;
    let (major, minor) = (args.u32()?, args.u32()?);
    let (readahead, low) = (args.u32()?, args.u32()?);
    let mut flags = InitFlags(u64::from(low));
    if flags.contains(InitFlags::INIT_EXT) {
        flags |= InitFlags(u64::from(args.u32()?) << 32);
    }
    Ok(Offer { unique: header.unique, major, minor, readahead, flags })
}

fn pages_limit() -> usize {
    let text = std::fs::read_to_string(PAGES_LIMIT_PATH);
    text.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(PAGES_LIMIT_DEFAULT)
}

fn agree(offer: &Offer, config: &InitConfig, pages_limit: usize, page_len: usize) -> Features {
    let flags = (config.wanted | InitFlags::FRAMING).intersection(offer.flags);
    // Without the page count in the answer the kernel stays at 32 pages.
    let pages_limit = if flags.contains(InitFlags::MAX_PAGES) { pages_limit } else { 32 };
    let pages = (config.payload_max / page_len).clamp(1, pages_limit.clamp(1, 0xffff));
    Features {
        minor: offer.minor.min(KERNEL_MINOR),
        flags,
        offered: offer.flags,
        payload_max: pages * page_len,
        readahead: config.readahead_max.min(offer.readahead),
    }
}

/// `struct fuse_init_out`.
fn answer(features: &Features, config: &InitConfig) -> Out<INIT_OUT_LEN> {
    let bits = features.flags.bits();
    let pages = features.payload_max / rustix::param::page_size();
    let payload_max = u32::try_from(features.payload_max).expect("at most 65535 pages of 4 KiB");
    Out::new()
        .u32(KERNEL_MAJOR)
        .u32(KERNEL_MINOR)
        .u32(features.readahead)
        .u32((bits & 0xffff_ffff) as u32)
        .u16(config.background_max)
        // The kernel's own ratio: congested at three quarters.
        .u16(config.background_max / 4 * 3)
        .u32(payload_max)
        // Nanoseconds: our times are exact.
        .u32(1)
        .u16(u16::try_from(pages).expect("clamped to 16 bits"))
        .u16(0)
        .u32((bits >> 32) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(major: u32, minor: u32, flags: u64) -> Vec<u8> {
        let mut body = Vec::new();
        for word in [major, minor, 131_072, flags as u32, (flags >> 32) as u32] {
            body.extend_from_slice(&word.to_ne_bytes());
        }
        body.resize(64, 0);
        let mut message = Vec::new();
        message.extend_from_slice(&(40 + 64u32).to_ne_bytes());
        message.extend_from_slice(&opcode::INIT.to_ne_bytes());
        message.extend_from_slice(&2u64.to_ne_bytes());
        message.resize(40, 0);
        message.extend_from_slice(&body);
        message
    }

    #[test]
    fn second_flag_word_counts_only_when_announced() {
        let high = InitFlags::DIRECT_IO_ALLOW_MMAP.bits();
        let without = parse(&message(7, 38, high)).unwrap();
        assert!(!without.flags.contains(InitFlags::DIRECT_IO_ALLOW_MMAP));
        let with = parse(&message(7, 38, high | InitFlags::INIT_EXT.bits())).unwrap();
        assert!(with.flags.contains(InitFlags::DIRECT_IO_ALLOW_MMAP));
    }

    #[test]
    fn only_offered_features_are_used() {
        let offered = InitFlags::MAX_PAGES | InitFlags::POSIX_LOCKS;
        let offer = parse(&message(7, 32, offered.bits())).unwrap();
        let features = agree(&offer, &InitConfig::default(), 256, 4096);
        assert_eq!(features.flags, offered);
        assert_eq!((features.minor, features.payload_max), (32, 1 << 20));
        let small = agree(&offer, &InitConfig::default(), 64, 4096);
        assert_eq!(small.payload_max, 64 * 4096);
    }

    #[test]
    fn another_message_is_no_handshake() {
        let mut other = message(7, 45, 0);
        other[4] = 3;
        assert_eq!(parse(&other), Err(Malformed::Value));
        assert_eq!(parse(&other[..20]), Err(Malformed::Short));
    }
}
