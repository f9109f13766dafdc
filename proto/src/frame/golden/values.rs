//! Parts that several samples share. Every field is set, each to a value of its own.

use bytes::Bytes;

use crate::attr::{Attr, Meta, Time};
use crate::fop::{Grant, KeyMsg, Lock, Mode, Recall, Under, Want, XattrMsg};
use crate::frame::{Hello, Welcome};
use crate::ids::{Gfid, LeaseNumber, SlotId};

pub fn gfid() -> Gfid {
    Gfid::new(SlotId(4711), *b"fourteen bytes")
}

pub fn parent() -> Gfid {
    Gfid::new(SlotId(8191), *b"its directory.")
}

pub fn other() -> Gfid {
    Gfid::new(SlotId(1), *b"something else")
}

/// No UTF-8, on purpose: names are bytes.
pub fn name() -> Bytes {
    Bytes::from_static(b"caf\xe9 1")
}

pub fn number() -> LeaseNumber {
    LeaseNumber { base: 76, counter: 900 }
}

pub fn key() -> KeyMsg {
    KeyMsg { gfid: gfid(), part: true }
}

pub fn inode_key() -> KeyMsg {
    KeyMsg { gfid: gfid(), part: false }
}

/// Before 1970: seconds are signed.
pub fn old_time() -> Time {
    Time { sec: -86_400, nsec: 999_999_999 }
}

pub fn attr() -> Attr {
    Attr {
        gfid: gfid(),
        mode: 0o104_751,
        uid: 1000,
        gid: 100,
        nlink: 2,
        size: 5 << 40,
        blocks: 8,
        rdev: 0x0801,
        atime: old_time(),
        mtime: Time { sec: 1_750_000_001, nsec: 1 },
        ctime: Time { sec: 1_750_000_002, nsec: 2 },
        stamp: 1_750_000_002_000_000_002,
        buckets: 0,
    }
}

pub fn parent_attr() -> Attr {
    Attr { gfid: parent(), mode: 0o041_777, nlink: 1, size: 4096, rdev: 0, buckets: 64, ..attr() }
}

pub fn meta() -> Meta {
    Meta {
        mode: Some(0o4751),
        uid: Some(0),
        gid: Some(100),
        size: Some(5 << 40),
        atime: Some(old_time()),
        mtime: Some(Time { sec: 1_750_000_001, nsec: 1 }),
    }
}

pub fn xattr() -> XattrMsg {
    XattrMsg { name: "user.colour".into(), value: Bytes::from_static(b"\0\xff") }
}

pub fn lock() -> Lock {
    Lock {
        gfid: gfid(),
        owner: 0xabcd_ef01_2345_6789,
        pid: 4242,
        start: 10,
        end: u64::MAX,
        kind: 2,
        flock: true,
        wait: true,
        reclaim: false,
    }
}

pub fn under() -> Vec<Under> {
    vec![
        Under { key: inode_key(), number: number() },
        Under { key: key(), number: LeaseNumber { base: 77, counter: 1 } },
    ]
}

pub fn yielding() -> Vec<Want> {
    vec![Want { key: key(), mode: Mode::Exclusive as i32, yields: true, ..Want::default() }]
}

pub fn wants() -> Vec<Want> {
    vec![
        Want {
            key: inode_key(),
            mode: Mode::Shared as i32,
            reclaim: None,
            last_renewed_epoch: 0,
            open: true,
            only_if_free: true,
            yields: false,
        },
        Want {
            key: key(),
            mode: Mode::Exclusive as i32,
            reclaim: Some(number()),
            last_renewed_epoch: 76,
            open: false,
            only_if_free: false,
            yields: false,
        },
    ]
}

pub fn grants() -> Vec<Grant> {
    let number = number();
    vec![
        Grant { key: key(), mode: Mode::Exclusive as i32, number, term_ms: 1500, pinned: true },
        Grant {
            key: inode_key(),
            mode: Mode::Shared as i32,
            number: LeaseNumber { base: 77, counter: 2 },
            term_ms: 1499,
            pinned: false,
        },
    ]
}

pub fn recall() -> Recall {
    Recall { key: key(), number: number(), keep: Mode::Shared as i32 }
}

pub fn hello(ticket: Bytes, peer_proof: Bytes) -> Hello {
    Hello {
        version: 1,
        features: 0x8000_0000_0000_0001,
        brick: Bytes::from_static(b"sixteen bytes id"),
        session: 0x1112_1314_1516_1718,
        ticket,
        peer_proof,
        connection: 3,
        host: "client7".into(),
        relay_proof: Bytes::new(),
    }
}

pub fn welcome(error: &str) -> Welcome {
    Welcome {
        version: 1,
        features: 0x8000_0000_0000_0001,
        incarnation: 0x2122_2324_2526_2728,
        epoch: 77,
        error: error.into(),
        time_ns: 1_750_000_000_123_456_789,
    }
}
