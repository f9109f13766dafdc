use bytes::{Bytes, BytesMut};

use super::*;
use crate::ids::{Gfid, SlotId};

fn gfid() -> Gfid {
    Gfid::new(SlotId(4711), *b"fourteen bytes")
}

#[test]
fn codes_round_trip_and_are_unique() {
    let mut seen = std::collections::BTreeSet::new();
    for op in Op::ALL {
        assert_eq!(Op::from_code(op.code()), Some(*op));
        assert!(seen.insert(op.code()));
    }
    assert_eq!(Op::from_code(9999), None);
}

#[test]
fn a_create_round_trips() {
    let fop = Fop::from(Create {
        parent: Gfid::ROOT,
        name: Bytes::from_static(b"caf\xc3\xa9"),
        gfid: gfid(),
        mode: 0o100_644,
        uid: 1000,
        gid: 100,
        xattrs: vec![XattrMsg { name: "user.a".into(), value: "b".into() }],
        ..Create::default()
    });
    let mut out = BytesMut::new();
    fop.encode(&mut out);
    assert_eq!(out.len(), fop.encoded_len());
    assert_eq!(Fop::decode(Op::Create, out.freeze()), Ok(fop));
}

#[test]
fn impossible_arguments_are_refused() {
    let bad: Vec<Fop> = vec![
        Lookup { parent: Gfid::NIL, name: "a".into(), data_bytes_max: 0 }.into(),
        Lookup { parent: gfid(), name: "a/b".into(), data_bytes_max: 0 }.into(),
        Lookup { parent: gfid(), name: "..".into(), data_bytes_max: 0 }.into(),
        Lookup { parent: gfid(), name: vec![b'x'; 256].into(), data_bytes_max: 0 }.into(),
        Read { gfid: gfid(), offset: u64::MAX, len: 1 }.into(),
        Fop::Read(Read { gfid: gfid(), offset: 0, len: u32::MAX }),
        Write { gfid: gfid(), offset: 0, len: 1 << 40, ..Write::default() }.into(),
        Readdir { gfid: gfid(), limit: 0, ..Readdir::default() }.into(),
        Fallocate { gfid: gfid(), mode: 8, offset: 0, len: 1 }.into(),
    ];
    for fop in bad {
        let mut out = BytesMut::new();
        fop.encode(&mut out);
        assert!(Fop::decode(fop.op(), out.freeze()).is_err(), "{fop:?}");
    }
}

#[test]
fn overlapping_writes_conflict_and_others_do_not() {
    let at = |offset, inside| {
        Fop::from(Write { gfid: gfid(), offset, len: 10, inside, ..Write::default() }).touches()
    };
    let conflict = |a: &[Touch], b: &[Touch]| a.iter().any(|x| b.iter().any(|y| x.conflicts(y)));
    assert!(conflict(&at(0, true), &at(9, true)));
    assert!(!conflict(&at(0, true), &at(10, true)));
    assert!(conflict(&at(0, false), &at(10, false)), "both may move the end");
}
