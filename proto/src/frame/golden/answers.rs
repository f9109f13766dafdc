//! One answer for each operation, with the payload that goes along.

use bytes::Bytes;

use super::values::{attr, gfid, inode_key, key, lock, name, other, parent, parent_attr, xattr};
use crate::attr::Kind;
use crate::fop::*;

pub fn of(op: Op) -> (Answer, Bytes) {
    let answer = match op.class() {
        Class::Peer => to_peers(op),
        _ => to_sessions(op),
    };
    let payload = match op {
        Op::Read | Op::Lookup | Op::PeerRead | Op::PauseForJoin => b"the file's bytes".as_slice(),
        _ => b"",
    };
    (answer, Bytes::from_static(payload))
}

fn to_sessions(op: Op) -> Answer {
    match op {
        Op::Lookup | Op::Create | Op::Link => Answer::Entry(entry(op == Op::Lookup)),
        Op::Getattr | Op::Write | Op::Setattr | Op::Fallocate => Answer::Attr(attr()),
        Op::Readlink => Answer::Value(Value { bytes: Bytes::from_static(b"../where it leads") }),
        Op::Getxattr => Answer::Value(Value { bytes: xattr().value }),
        Op::Readdir => Answer::Entries(entries()),
        Op::Read => Answer::Read(ReadAnswer { eof: true }),
        Op::Listxattr => Answer::Names(Names { names: vec!["user.colour".into(), name()] }),
        Op::Statfs => Answer::Statfs(StatfsAnswer {
            total_bytes: 10 << 40,
            free_bytes: 5 << 40,
            available_bytes: 4 << 40,
            total_inodes: 1 << 30,
            free_inodes: 1 << 29,
        }),
        Op::Seek => Answer::Seek(SeekAnswer { offset: 1 << 40 }),
        Op::Unlink => {
            Answer::Unlinked(Unlinked { nlink: 1, parent: Some(parent_attr()), attr: Some(attr()) })
        }
        Op::Rename => Answer::Renamed(Renamed {
            from_parent: Some(parent_attr()),
            to_parent: Some(parent_attr()),
            attr: Some(attr()),
            replaced: Some(attr()),
        }),
        Op::Renew => Answer::Renewed(Renewed {
            term_ms: 1500,
            overdue: vec![key(), inode_key()],
            time_ns: 1_750_000_000_123_456_789,
            map_version: 81,
            space_limit: Some(6 << 30),
        }),
        Op::Lock | Op::TestLock => Answer::Locked(Locked { conflict: Some(lock()) }),
        Op::Rmdir | Op::Setxattr | Op::Removexattr | Op::Fsync | Op::Forget => done(),
        Op::Acquire | Op::Release => done(),
        _ => missing(op),
    }
}

fn to_peers(op: Op) -> Answer {
    match op {
        Op::Changed => Answer::ChangedList(ChangedList {
            items: vec![changed()],
            end: true,
            complete_since: 174_000_000,
            current: 175_000_001,
            compare_all: true,
            stale: Vec::new(),
        }),
        Op::Inspect => Answer::Inspected(inspected()),
        Op::InspectDir => Answer::Entries(entries()),
        Op::BlockSums => Answer::BlockSumList(BlockSumList {
            sums: vec![0x0123_4567_89ab_cdef, 0, u64::MAX],
            size: 300_000,
        }),
        Op::Unsettled => Answer::UnsettledList(UnsettledList {
            entries: vec![UnsettledEntry {
                session: 0x1112_1314_1516_1718,
                seq: 301,
                touches: vec![
                    TouchMsg { gfid: gfid(), what: 1, start: 4096, end: 8192 },
                    TouchMsg { gfid: parent(), what: 2, start: 0xfedc_ba98_7654_3210, end: 0 },
                ],
                ..UnsettledEntry::default()
            }],
            sessions: vec![0x1112_1314_1516_1718, 2],
            graced: 76,
            // Absent, as before they were added.
            stale: Vec::new(),
            marks: Vec::new(),
        }),
        Op::PauseForJoin => Answer::HandOver(hand_over()),
        Op::PeerRead => Answer::Read(ReadAnswer { eof: true }),
        Op::Install | Op::InstallData | Op::InstallName | Op::RemoveName => done(),
        Op::SweepParked | Op::Checkpoint | Op::ClearWindows | Op::MarkStale => done(),
        Op::TakeOver | Op::Vouch => done(),
        _ => missing(op),
    }
}

fn missing(op: Op) -> ! {
    panic!("{op:?} has no sample yet: add one to proto/src/frame/golden/answers.rs")
}

fn done() -> Answer {
    Answer::Done(Done {})
}

fn entry(with_data: bool) -> Entry {
    Entry { attr: attr(), parent: Some(parent_attr()), with_data }
}

fn entries() -> Entries {
    let plain = DirEntry {
        name: name(),
        hash: 0xfedc_ba98_7654_3210,
        gfid: other(),
        kind: Kind::Symlink as i32,
        attr: None,
    };
    let full = DirEntry {
        name: "plain".into(),
        hash: 0xffff_ffff_ffff_fffe,
        gfid: gfid(),
        kind: Kind::File as i32,
        attr: Some(attr()),
    };
    Entries { entries: vec![plain, full], end: true }
}

fn changed() -> ChangedItem {
    let extents = vec![0, 1, 300, 1 << 40];
    ChangedItem { gfid: gfid(), names: true, attrs: true, extents, all_data: true, interval: 0 }
}

pub fn inspected() -> Inspected {
    Inspected {
        found: true,
        attr: attr(),
        xattrs: vec![xattr()],
        target: Bytes::from_static(b"../where it leads"),
        meta: Bytes::from_static(b"\x01the record as it stands on disk"),
        parent: parent(),
        name: name(),
        orphan: true,
    }
}

pub fn hand_over() -> HandOver {
    HandOver { rules: Bytes::from_static(b"opaque here"), current_interval: 175_000_001 }
}
