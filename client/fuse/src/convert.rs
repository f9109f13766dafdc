//! Attributes between the kernel's form and the volume's.

use std::time::Duration;

use client::volume::{Found, SetAttributes, SetTime, Space};
use client_fuse_dev::{Entry, FileAttr, SetAttr, StatFs, Timestamp};
use proto::Attr;
use proto::attr::Time;

/// Unit in which space is told.
const BLOCK_BYTES: u64 = 4096;

pub fn file_attr(attr: &Attr) -> FileAttr {
    FileAttr {
        ino: attr.gfid.ino(),
        size: attr.size,
        blocks: attr.blocks,
        atime: timestamp(attr.atime),
        mtime: timestamp(attr.mtime),
        ctime: timestamp(attr.ctime),
        mode: attr.mode,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: rdev_to_kernel(attr.rdev),
        // What one request carries: cp and its like then write in such pieces.
        blksize: 1 << 20,
    }
}

pub fn entry(nodeid: u64, found: &Found, entry_ttl: Duration) -> Entry {
    Entry {
        nodeid,
        generation: 0,
        attr: file_attr(&found.attr),
        entry_ttl,
        attr_ttl: found.attr_ttl,
    }
}

fn timestamp(time: Time) -> Timestamp {
    Timestamp { secs: time.sec, nanos: time.nsec }
}

fn set_time(time: client_fuse_dev::SetTime) -> SetTime {
    match time {
        client_fuse_dev::SetTime::Now => SetTime::Now,
        client_fuse_dev::SetTime::At(at) => SetTime::At(Time { sec: at.secs, nsec: at.nanos }),
    }
}

pub fn set_attributes(set: &SetAttr) -> SetAttributes {
    SetAttributes {
        mode: set.mode,
        uid: set.uid,
        gid: set.gid,
        size: set.size,
        atime: set.atime.map(set_time),
        mtime: set.mtime.map(set_time),
        kill_privileges: set.kill_suidgid,
    }
}

pub fn stat_fs(space: &Space) -> StatFs {
    StatFs {
        blocks: space.total_bytes / BLOCK_BYTES,
        bfree: space.free_bytes / BLOCK_BYTES,
        bavail: space.available_bytes / BLOCK_BYTES,
        files: space.total_inodes,
        ffree: space.free_inodes,
        bsize: BLOCK_BYTES as u32,
        namelen: proto::fop::NAME_BYTES_MAX as u32,
        frsize: BLOCK_BYTES as u32,
    }
}

/// The kernel's 32-bit form has 12 bits of major and 20 of minor number, interleaved.
pub fn rdev_from_kernel(rdev: u32) -> u64 {
    let (major, minor) = ((rdev >> 8) & 0xfff, (rdev & 0xff) | ((rdev >> 12) & 0xf_ff00));
    libc::makedev(major, minor)
}

fn rdev_to_kernel(rdev: u64) -> u32 {
    let (major, minor) = (libc::major(rdev), libc::minor(rdev));
    (minor & 0xff) | (major & 0xfff) << 8 | (minor & 0xf_ff00) << 12
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_numbers_survive_both_ways() {
        for rdev in [libc::makedev(1, 3), libc::makedev(4095, 0xf_ffff), libc::makedev(8, 300)] {
            assert_eq!(rdev_from_kernel(rdev_to_kernel(rdev)), rdev);
        }
    }
}
