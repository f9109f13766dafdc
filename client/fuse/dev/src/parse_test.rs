use proptest::prelude::*;

use super::*;
use crate::abi::opcode as op_number;
use crate::op::Name;

/// A message as the kernel builds it.
fn message(opcode: u32, body: &[u8], extensions: &[u8]) -> Vec<u8> {
    let len = u32::try_from(IN_HEADER_LEN + body.len() + extensions.len()).unwrap();
    let mut message = Vec::new();
    message.extend_from_slice(&len.to_ne_bytes());
    message.extend_from_slice(&opcode.to_ne_bytes());
    message.extend_from_slice(&8u64.to_ne_bytes());
    message.extend_from_slice(&1u64.to_ne_bytes());
    for word in [1000u32, 100, 4242] {
        message.extend_from_slice(&word.to_ne_bytes());
    }
    message.extend_from_slice(&u16::try_from(extensions.len() / 8).unwrap().to_ne_bytes());
    message.extend_from_slice(&[0; 2]);
    message.extend_from_slice(body);
    message.extend_from_slice(extensions);
    message
}

fn words(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_ne_bytes()).collect()
}

fn longs(values: &[u64]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_ne_bytes()).collect()
}

fn parsed(opcode: u32, body: &[u8]) -> Parsed<Op> {
    op(opcode, body, true)
}

fn name(text: &str) -> Name {
    Name::from_checked(text.as_bytes())
}

#[test]
fn header_and_group_extension_are_read() {
    let extension = words(&[20, 32, 2, 55, 66, 0]);
    // Record of 20 bytes, padded by a second record that is stepped over.
    let extension = [&extension[..20], &words(&[12, 99, 0])].concat();
    let bytes = message(op_number::MKDIR, b"xyz", &extension);
    let (header, body) = header(&bytes).unwrap();
    assert_eq!(body, b"xyz");
    assert_eq!((header.unique, header.nodeid, header.opcode), (8, 1, op_number::MKDIR));
    assert_eq!((header.uid, header.gid, header.pid), (1000, 100, 4242));
    assert_eq!(header.supp_groups, [55, 66]);
}

#[test]
fn headers_that_lie_are_refused() {
    let good = message(op_number::LOOKUP, b"a\0", &[]);
    assert_eq!(header(&good[..39]).unwrap_err(), Malformed::Short);
    assert_eq!(header(&good[..41]).unwrap_err(), Malformed::Length);
    let mut extended = good.clone();
    extended[36..38].copy_from_slice(&1u16.to_ne_bytes());
    assert_eq!(header(&extended).unwrap_err(), Malformed::Short);
    for record in [words(&[4, 32]), words(&[16, 32]), words(&[0, 0])] {
        assert_eq!(header(&message(1, b"", &record)).unwrap_err(), Malformed::Count);
    }
    let too_many_groups = message(1, b"", &words(&[16, 32, u32::MAX, 7]));
    assert_eq!(header(&too_many_groups).unwrap_err(), Malformed::Short);
}

#[test]
fn names_are_checked() {
    assert_eq!(parsed(1, b"file\0"), Ok(Op::Lookup { name: name("file") }));
    assert_eq!(parsed(1, b"..\0"), Ok(Op::Lookup { name: name("..") }));
    assert_eq!(parsed(1, b"a/b\0"), Err(Malformed::Name));
    assert_eq!(parsed(1, b"\0"), Err(Malformed::Name));
    assert_eq!(parsed(1, b"no end"), Err(Malformed::Short));
    let long = [&[b'a'; 256][..], b"\0"].concat();
    assert_eq!(parsed(1, &long), Err(Malformed::Name));
    assert_eq!(parsed(1, &long[1..]), Ok(Op::Lookup { name: name(&"a".repeat(255)) }));
}

#[test]
fn both_forms_of_rename_are_one_operation() {
    let renamed = |flags| Op::Rename { name: name("a"), new_parent: 9, new_name: name("b"), flags };
    let plain = [&longs(&[9])[..], b"a\0b\0"].concat();
    assert_eq!(parsed(op_number::RENAME, &plain), Ok(renamed(0)));
    let second = [&longs(&[9])[..], &words(&[2, 0]), b"a\0b\0"].concat();
    assert_eq!(parsed(op_number::RENAME2, &second), Ok(renamed(2)));
}

#[test]
fn setattr_gives_only_what_is_valid() {
    let build = |valid: u32, nanos: u32| {
        [
            words(&[valid, 0]),
            longs(&[1, 2, 3]),
            longs(&[u64::MAX, 5, 6]),
            words(&[nanos, 8, 9, 0o644, 0, 11, 12, 0]),
        ]
        .concat()
    };
    let valid = fattr::MODE | fattr::ATIME | fattr::MTIME | fattr::MTIME_NOW | fattr::SIZE;
    let expected = SetAttr {
        mode: Some(0o644),
        size: Some(2),
        atime: Some(SetTime::At(Timestamp { secs: -1, nanos: 7 })),
        mtime: Some(SetTime::Now),
        ..SetAttr::default()
    };
    assert_eq!(parsed(op_number::SETATTR, &build(valid, 7)), Ok(Op::SetAttr(expected)));
    assert_eq!(parsed(op_number::SETATTR, &build(valid, 1_000_000_000)), Err(Malformed::Value));
    let ignored = parsed(op_number::SETATTR, &build(0, u32::MAX));
    assert_eq!(ignored, Ok(Op::SetAttr(SetAttr::default())));
}

#[test]
fn flock_and_fcntl_locks_differ() {
    let build = |kind: i32, flags: u32| {
        let kind = kind.cast_unsigned();
        [longs(&[3, 77, 0, 99]), words(&[kind, 42, flags, 0])].concat()
    };
    let lock = |flock, kind| Lock {
        fh: 3,
        owner: 77,
        lock: FileLock { start: 0, end: 99, kind, pid: 42 },
        flock,
    };
    let (set, wait) = (op_number::SETLK, op_number::SETLKW);
    assert_eq!(parsed(set, &build(libc::F_WRLCK, 0)), Ok(Op::SetLk(lock(false, LockKind::Write))));
    assert_eq!(parsed(wait, &build(libc::F_RDLCK, 1)), Ok(Op::SetLkW(lock(true, LockKind::Read))));
    assert_eq!(parsed(set, &build(17, 0)), Err(Malformed::Value));
}

#[test]
fn counts_must_match_what_follows() {
    let write = |size: u32, payload: &[u8]| {
        [&longs(&[1, 4096])[..], &words(&[size, 0]), &longs(&[0, 0]), payload].concat()
    };
    assert!(matches!(parsed(op_number::WRITE, &write(3, b"abc")), Ok(Op::Write(_))));
    assert_eq!(parsed(op_number::WRITE, &write(4, b"abc")), Err(Malformed::Count));
    assert_eq!(parsed(op_number::WRITE, &write(2, b"abc")), Err(Malformed::Count));
    let forget = |count: u32| [&words(&[count, 0])[..], &longs(&[5, 1, 6, 2])].concat();
    let forgets = vec![Forget { nodeid: 5, nlookup: 1 }, Forget { nodeid: 6, nlookup: 2 }];
    assert_eq!(parsed(op_number::BATCH_FORGET, &forget(2)), Ok(Op::BatchForget(forgets)));
    assert_eq!(parsed(op_number::BATCH_FORGET, &forget(3)), Err(Malformed::Count));
    assert_eq!(parsed(op_number::BATCH_FORGET, &forget(u32::MAX)), Err(Malformed::Count));
}

#[test]
fn setxattr_has_two_forms() {
    let long = [&words(&[2, 1, 1, 0])[..], b"user.a/b\0xy"].concat();
    let expected = |acl_kill_sgid| {
        let (name, value) = (name("user.a/b"), b"xy".to_vec());
        Ok(Op::SetXattr(SetXattr { name, value, flags: 1, acl_kill_sgid }))
    };
    assert_eq!(op(op_number::SETXATTR, &long, true), expected(true));
    let short = [&words(&[2, 1])[..], b"user.a/b\0xy"].concat();
    assert_eq!(op(op_number::SETXATTR, &short, false), expected(false));
}

#[test]
fn unknown_operations_are_named() {
    for opcode in [39, 40, 37, 41, 54, 4096, u32::MAX] {
        assert_eq!(parsed(opcode, b"anything"), Ok(Op::Unsupported { opcode }));
    }
}

/// Every decoded operation must reach a branch of its own: a length in the table without a
/// branch would make the kernel believe that the operation does not exist.
#[test]
fn every_operation_with_a_layout_is_decoded() {
    let mut body = vec![0; 96];
    body.extend_from_slice(b"a\0b\0");
    for opcode in 0..64 {
        let Some(fixed_len) = abi::fixed_len(opcode, true) else { continue };
        let mut body = body[96 - fixed_len..].to_vec();
        match opcode {
            op_number::WRITE => body[16] = 4,
            op_number::SETXATTR => body[0] = 2,
            op_number::BATCH_FORGET => body.truncate(fixed_len),
            _ => {}
        }
        let decoded = parsed(opcode, &body);
        assert!(!matches!(decoded, Ok(Op::Unsupported { .. }) | Err(_)), "{opcode}: {decoded:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    /// Whatever arrives, the parser answers; it never panics.
    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        if let Ok((header, body)) = header(&bytes) {
            drop(op(header.opcode, body, true));
        }
        unique_and_opcode(&bytes);
    }

    /// The same with a sane header, so that the arguments are reached.
    #[test]
    fn arbitrary_arguments_never_panic(
        opcode in 0u32..60,
        body in prop::collection::vec(prop_oneof![Just(0u8), Just(1), any::<u8>()], 0..200),
        ext in any::<bool>(),
        extensions in prop::collection::vec(any::<u64>(), 0..4),
    ) {
        let bytes = message(opcode, &body, &longs(&extensions));
        if let Ok((header, rest)) = header(&bytes) {
            prop_assert_eq!(rest, &body[..]);
            if let Ok(Op::Write(_)) = op(header.opcode, rest, ext) {
                prop_assert!(rest.len() >= 40);
            }
        }
    }

    /// Cutting a valid message anywhere is noticed or harmless, never a panic.
    #[test]
    fn cut_requests_never_panic(opcode in 0u32..60, cut in 0usize..100) {
        let body = [&[0u8; 88][..], b"a\0b\0"].concat();
        drop(op(opcode, &body[..cut.min(body.len())], true));
    }
}
