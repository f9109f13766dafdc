//! `trusted.brick.meta`: the packed record of one inode, 80 bytes, little-endian.
//!
//! It holds what the file system cannot keep for us (gfid, stamps, our link count) and what
//! must be equal on all replicas to the nanosecond. The layout is pictured in
//! docs/on-disk.md; a golden record in the test beside this file keeps it for ever.
//!
//! Changes of one inode that are in flight together (writes inside a file, names of one
//! directory) may reach replicas in different orders. All replicas must end with the same
//! record, so every update here commutes: the change time is the greatest stamp, and the
//! modification time belongs to the change with the greatest stamp that set it. The sender
//! gives each change a stamp above the inode's last; "old + 1" here would not commute.

use proto::attr::{Attr, Kind, Time};
use proto::ids::{Gfid, Stamp};

use crate::disk::Stat;

/// Name of the xattr.
pub const META_XATTR: &[u8] = b"trusted.brick.meta";

/// Set and removed at once, to see whether the file system has extended attributes.
pub const PROBE_XATTR: &[u8] = b"trusted.brick.probe";
/// Bytes of a version 1 record.
pub const RECORD_BYTES: usize = 80;
/// Room for later versions, so that a newer record is read whole and then refused.
pub const RECORD_BYTES_MAX: usize = 160;
const VERSION: u8 = 1;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record {
    pub gfid: Gfid,
    /// Names of the inode; always 1 for a directory.
    pub nlink: u32,
    /// Buckets of a directory; 0 for everything else.
    pub buckets: u16,
    /// Reserved, 0.
    pub flags: u8,
    /// Greatest stamp of any change: the change time.
    pub stamp: u64,
    /// Stamp of the change that set `mtime`.
    pub mtime_stamp: u64,
    pub mtime: Time,
    pub atime: Time,
    /// Quota domain; 0 for none.
    pub domain: u64,
    /// Logical size of a striped file; 0 otherwise.
    pub striped_bytes: u64,
}

impl Record {
    /// The record of a new inode.
    pub fn new(gfid: Gfid, buckets: u16, stamp: Stamp) -> Record {
        let now = Time::from(stamp);
        Record {
            gfid,
            nlink: 1,
            buckets,
            flags: 0,
            stamp: stamp.0,
            mtime_stamp: stamp.0,
            mtime: now,
            atime: now,
            domain: 0,
            striped_bytes: 0,
        }
    }

    /// Attributes changed: the change time.
    pub fn changed(&mut self, stamp: Stamp) {
        self.stamp = self.stamp.max(stamp.0);
    }

    /// Data or names changed: modification and change time.
    pub fn modified(&mut self, stamp: Stamp) {
        self.set_mtime(Time::from(stamp), stamp);
    }

    /// The application set the modification time itself.
    pub fn set_mtime(&mut self, mtime: Time, stamp: Stamp) {
        if stamp.0 >= self.mtime_stamp {
            self.mtime = mtime;
            self.mtime_stamp = stamp.0;
        }
        self.changed(stamp);
    }

    pub fn encode(&self) -> [u8; RECORD_BYTES] {
        let mut out = [0; RECORD_BYTES];
        out[0] = VERSION;
        out[1] = self.flags;
        out[2..4].copy_from_slice(&self.buckets.to_le_bytes());
        out[4..8].copy_from_slice(&self.nlink.to_le_bytes());
        out[8..24].copy_from_slice(&self.gfid.0);
        out[24..32].copy_from_slice(&self.stamp.to_le_bytes());
        out[32..40].copy_from_slice(&self.mtime_stamp.to_le_bytes());
        out[40..48].copy_from_slice(&self.mtime.sec.to_le_bytes());
        out[48..56].copy_from_slice(&self.atime.sec.to_le_bytes());
        out[56..60].copy_from_slice(&self.mtime.nsec.to_le_bytes());
        out[60..64].copy_from_slice(&self.atime.nsec.to_le_bytes());
        out[64..72].copy_from_slice(&self.domain.to_le_bytes());
        out[72..80].copy_from_slice(&self.striped_bytes.to_le_bytes());
        out
    }

    /// `None` for anything that is not a valid version 1 record.
    pub fn decode(bytes: &[u8]) -> Option<Record> {
        let bytes: &[u8; RECORD_BYTES] = bytes.try_into().ok()?;
        if bytes[0] != VERSION {
            return None;
        }
        let u64_at = |at: usize| -> Option<u64> {
            Some(u64::from_le_bytes(bytes[at..at + 8].try_into().ok()?))
        };
        let u32_at = |at: usize| -> Option<u32> {
            Some(u32::from_le_bytes(bytes[at..at + 4].try_into().ok()?))
        };
        let time = |sec: usize, nsec: usize| -> Option<Time> {
            let nsec = u32_at(nsec)?;
            (nsec < 1_000_000_000).then_some(Time { sec: u64_at(sec)? as i64, nsec })
        };
        Some(Record {
            gfid: Gfid::from_slice(&bytes[8..24])?,
            nlink: u32_at(4)?,
            buckets: u16::from_le_bytes([bytes[2], bytes[3]]),
            flags: bytes[1],
            stamp: u64_at(24)?,
            mtime_stamp: u64_at(32)?,
            mtime: time(40, 56)?,
            atime: time(48, 60)?,
            domain: u64_at(64)?,
            striped_bytes: u64_at(72)?,
        })
    }

    /// What `stat` shows: owner, mode and size from the file system, the rest from here.
    pub fn attr(&self, stat: &Stat) -> Attr {
        let dir = stat.kind() == Kind::Directory;
        Attr {
            gfid: self.gfid,
            mode: stat.mode,
            uid: stat.uid,
            gid: stat.gid,
            nlink: if dir { 1 } else { self.nlink },
            size: if dir { 4096 } else { stat.size },
            blocks: stat.blocks,
            rdev: stat.rdev,
            atime: self.atime,
            mtime: self.mtime,
            ctime: Time::from(Stamp(self.stamp)),
            stamp: self.stamp,
            buckets: self.buckets.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first format, as it stands on disks. Never change it: add a version.
    const GOLDEN: &str = "01004000030000000123456789abcdef0011223344556677\
                          15cd5b0700000000b168de3a00000000fffffffffffffff\
                          f020000000000000015cd5b07000000002a000000000000000010000000000000";

    fn golden() -> Record {
        Record {
            gfid: Gfid([
                0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef, 0x00, 0x11, 0x22, 0x33, 0x44, 0x55,
                0x66, 0x77,
            ]),
            nlink: 3,
            buckets: 64,
            flags: 0,
            stamp: 123_456_789,
            mtime_stamp: 987_654_321,
            mtime: Time { sec: -1, nsec: 123_456_789 },
            atime: Time { sec: 2, nsec: 0 },
            domain: 42,
            striped_bytes: 4096,
        }
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    #[test]
    fn first_format_is_kept() {
        assert_eq!(hex(&golden().encode()), GOLDEN);
        assert_eq!(Record::decode(&golden().encode()), Some(golden()));
    }

    #[test]
    fn other_bytes_are_refused() {
        let good = golden().encode();
        assert_eq!(Record::decode(&good[..79]), None);
        let mut bad = good;
        bad[0] = 2;
        assert_eq!(Record::decode(&bad), None);
        let mut bad = good;
        bad[8..24].fill(0);
        assert_eq!(Record::decode(&bad), None);
        let mut bad = good;
        bad[56..60].copy_from_slice(&1_000_000_000_u32.to_le_bytes());
        assert_eq!(Record::decode(&bad), None);
    }

    #[test]
    fn updates_commute() {
        let updates: [fn(&mut Record); 4] = [
            |r| r.modified(Stamp(50)),
            |r| r.set_mtime(Time { sec: 7, nsec: 0 }, Stamp(60)),
            |r| r.changed(Stamp(70)),
            |r| r.modified(Stamp(55)),
        ];
        let run = |order: &[usize]| {
            let mut r = Record::new(Gfid::ROOT, 0, Stamp(1));
            order.iter().for_each(|i| updates[*i](&mut r));
            r
        };
        let want = run(&[0, 1, 2, 3]);
        assert_eq!((want.mtime.sec, want.stamp), (7, 70));
        for order in [[3, 2, 1, 0], [1, 0, 3, 2], [2, 3, 0, 1]] {
            assert_eq!(run(&order), want);
        }
    }
}
