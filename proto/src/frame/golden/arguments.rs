//! One set of arguments for each operation, with the payload that goes along.
//!
//! Literals name every field: a new one does not compile until its sample is thought about.

use bytes::Bytes;

use super::values::{gfid, inode_key, key, lock, meta, name, number, other, parent, under, xattr};
use crate::fop::*;

const DATA: &[u8] = b"the payload";

pub fn of(op: Op) -> (Fop, Bytes) {
    let fop = match op.class() {
        Class::Read => reads(op),
        Class::Change => match op {
            Op::Create | Op::Unlink | Op::Rmdir | Op::Rename | Op::Link => names(op),
            _ => contents(op),
        },
        Class::Lead => leases(op),
        Class::Peer => match op {
            Op::Unsettled | Op::ClearWindows | Op::MarkStale => settles(op),
            Op::PauseForJoin | Op::TakeOver | Op::Vouch => settles(op),
            _ => heals(op),
        },
    };
    let payload = match op {
        Op::Create | Op::Write | Op::InstallData | Op::TakeOver => Bytes::from_static(DATA),
        _ => Bytes::new(),
    };
    (fop, payload)
}

fn missing(op: Op) -> ! {
    panic!("{op:?} has no sample yet: add one to proto/src/frame/golden/arguments.rs")
}

fn reads(op: Op) -> Fop {
    match op {
        Op::Lookup => Lookup { parent: parent(), name: name(), data_bytes_max: 1 << 16 }.into(),
        Op::Getattr => Getattr { gfid: gfid() }.into(),
        Op::Readlink => Readlink { gfid: gfid() }.into(),
        Op::Readdir => Readdir {
            gfid: parent(),
            after_hash: 0xfedc_ba98_7654_3210,
            after_name: name(),
            limit: READDIR_ENTRIES_MAX,
            plus: true,
        }
        .into(),
        Op::Read => Read { gfid: gfid(), offset: 1 << 40, len: 1 << 20 }.into(),
        Op::Getxattr => Getxattr { gfid: gfid(), name: "user.colour".into() }.into(),
        Op::Listxattr => Listxattr { gfid: gfid() }.into(),
        Op::Statfs => Statfs { gfid: parent() }.into(),
        Op::Seek => Seek { gfid: gfid(), offset: 4097, hole: true }.into(),
        _ => missing(op),
    }
}

fn names(op: Op) -> Fop {
    match op {
        Op::Create => Create {
            parent: parent(),
            name: name(),
            gfid: gfid(),
            mode: 0o100_640,
            uid: 1000,
            gid: 100,
            rdev: 0x0801,
            target: Bytes::from_static(b"../where it leads"),
            buckets: 64,
            xattrs: vec![xattr()],
        }
        .into(),
        Op::Unlink => Unlink { parent: parent(), name: name(), expect: gfid(), keep: true }.into(),
        Op::Rmdir => Rmdir { parent: parent(), name: name(), expect: gfid() }.into(),
        Op::Rename => Rename {
            from_parent: parent(),
            from_name: name(),
            to_parent: other(),
            to_name: "new name".into(),
            expect_from: gfid(),
            expect_to: other(),
            flags: 2,
            keep: true,
        }
        .into(),
        Op::Link => Link { gfid: gfid(), parent: parent(), name: name() }.into(),
        _ => missing(op),
    }
}

fn contents(op: Op) -> Fop {
    match op {
        Op::Write => Write {
            gfid: gfid(),
            offset: 1 << 40,
            len: DATA.len() as u64,
            inside: true,
            sync: true,
            kill_privileges: true,
            append: false,
        }
        .into(),
        Op::Setattr => Setattr { gfid: gfid(), set: meta(), kill_privileges: true }.into(),
        Op::Setxattr => {
            let XattrMsg { name, value } = xattr();
            Setxattr { gfid: gfid(), name, value, flags: 1, mode: Some(0o640) }.into()
        }
        Op::Removexattr => Removexattr { gfid: gfid(), name: "user.colour".into() }.into(),
        Op::Fallocate => Fallocate { gfid: gfid(), mode: 3, offset: 4096, len: 1 << 30 }.into(),
        Op::Fsync => Fsync { gfid: gfid(), data_only: true }.into(),
        Op::Forget => Forget { gfid: gfid() }.into(),
        _ => missing(op),
    }
}

fn leases(op: Op) -> Fop {
    match op {
        Op::Acquire => Acquire {}.into(),
        Op::Release => {
            let keep = Mode::Shared as i32;
            let part = ReturnMsg { key: key(), number: number(), keep: 0, open: false };
            let inode = ReturnMsg { key: inode_key(), number: number(), keep, open: true };
            Release { returns: vec![part, inode], unpin: vec![gfid(), other()] }.into()
        }
        Op::Renew => Renew { mark: 300, taken: 5 << 30, done: 4 << 30, need: 1 << 20 }.into(),
        Op::Lock => lock().into(),
        Op::TestLock => TestLock { lock: lock() }.into(),
        _ => missing(op),
    }
}

fn heals(op: Op) -> Fop {
    match op {
        Op::Changed => Changed {
            since: 175_000_000,
            after: gfid(),
            limit: 1000,
            advance: true,
            ..Changed::default()
        }
        .into(),
        Op::Inspect => Inspect { gfid: gfid(), data_max: 0 }.into(),
        Op::InspectDir => InspectDir {
            gfid: parent(),
            after_hash: 0xfedc_ba98_7654_3210,
            after_name: name(),
            limit: 1000,
            tidy: false,
        }
        .into(),
        Op::BlockSums => BlockSums { gfid: gfid(), first: 8192, count: 8191 }.into(),
        Op::Install => Install { image: super::answers::inspected(), finish: true }.into(),
        Op::InstallData => {
            let len = DATA.len() as u64;
            // A hole has no payload; both are given so that both fields have bytes.
            InstallData { gfid: gfid(), offset: 1 << 40, len, hole: true }.into()
        }
        Op::InstallName => InstallName { parent: parent(), name: name(), gfid: gfid() }.into(),
        Op::RemoveName => RemoveName { parent: parent(), name: name() }.into(),
        Op::SweepParked => SweepParked { keep: vec![gfid(), other()] }.into(),
        Op::Checkpoint => Checkpoint {}.into(),
        Op::PeerRead => PeerRead { gfid: gfid(), offset: 1 << 40, len: 1 << 20 }.into(),
        _ => missing(op),
    }
}

fn settles(op: Op) -> Fop {
    let session = 0x1112_1314_1516_1718;
    match op {
        Op::Unsettled => Unsettled { session, gfid: gfid(), raise: under() }.into(),
        Op::ClearWindows => ClearWindows {
            sessions: vec![session, 2],
            settled: vec![SettledSeq { session, seq: 301 }],
            graced: 76,
            take_over: vec![],
        }
        .into(),
        Op::MarkStale => MarkStale { gfid: gfid(), brick: other(), clear: true }.into(),
        Op::PauseForJoin => {
            PauseForJoin { epoch: 77, pause_ms: 500, ..PauseForJoin::default() }.into()
        }
        Op::TakeOver => TakeOver { state: super::answers::hand_over() }.into(),
        Op::Vouch => Vouch { session, under: under() }.into(),
        _ => missing(op),
    }
}
