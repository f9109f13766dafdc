use std::sync::Mutex;

use super::*;
use crate::attr::Timestamp;
use crate::dir::DirEntry;

/// Keeps what was answered.
#[derive(Debug, Default)]
struct Recorder {
    answers: Mutex<Vec<(u64, i32, Vec<u8>)>>,
    refuse_with: Option<i32>,
}

impl ReplyPort for Recorder {
    fn answer(&self, unique: u64, error: i32, body: &[&[u8]]) -> io::Result<()> {
        self.answers.lock().unwrap().push((unique, error, body.concat()));
        self.refuse_with.map_or(Ok(()), |errno| Err(io::Error::from_raw_os_error(errno)))
    }
}

fn answered(opcode: u32, act: impl FnOnce(Reply)) -> Vec<(u64, i32, Vec<u8>)> {
    let port = Arc::new(Recorder::default());
    act(Reply::new(port.clone(), 6, opcode));
    port.answers.lock().unwrap().clone()
}

/// The one answer, which must be a success.
fn body(opcode: u32, act: impl FnOnce(Reply)) -> Vec<u8> {
    let mut answers = answered(opcode, act);
    assert_eq!(answers.len(), 1);
    let (unique, error, body) = answers.remove(0);
    assert_eq!((unique, error), (6, 0));
    body
}

#[test]
fn dropped_request_is_answered_with_eio_once() {
    assert_eq!(answered(opcode::READ, drop), [(6, -libc::EIO, vec![])]);
    assert_eq!(
        answered(opcode::READ, |reply| reply.err(libc::ENOENT)),
        [(6, -libc::ENOENT, vec![])]
    );
    assert_eq!(answered(opcode::FORGET, drop), []);
    assert_eq!(answered(opcode::INTERRUPT, Reply::none), []);
}

#[test]
fn refused_answer_is_reported_as_lost() {
    let port = Arc::new(Recorder { refuse_with: Some(libc::ENOENT), ..Recorder::default() });
    let reply = Reply::new(port.clone(), 6, opcode::LOOKUP);
    assert_eq!(reply.entry(&Entry::default()), Delivery::Lost);
    assert_eq!(port.answers.lock().unwrap().len(), 1);
}

/// Lengths of the kernel's structures; a wrong one is refused by the kernel as a whole.
#[test]
fn structures_have_the_kernels_lengths() {
    let attr = FileAttr::default();
    let entry = Entry::default();
    let ttl = Duration::from_millis(1500);
    let lock = FileLock { start: 1, end: 2, kind: crate::op::LockKind::Write, pid: 3 };
    assert_eq!(body(opcode::LOOKUP, |reply| _ = reply.entry(&entry)).len(), 128);
    assert_eq!(body(opcode::GETATTR, |reply| reply.attr(&attr, ttl)).len(), 104);
    assert_eq!(body(opcode::STATX, |reply| reply.statx(&Statx::default(), ttl)).len(), 288);
    assert_eq!(body(opcode::OPEN, |reply| _ = reply.open(1, OpenFlags::EMPTY)).len(), 16);
    let created = body(opcode::CREATE, |reply| _ = reply.create(&entry, 9, OpenFlags::NOFLUSH));
    assert_eq!(created.len(), 144);
    assert_eq!(created[128..136], 9u64.to_ne_bytes());
    assert_eq!(body(opcode::STATFS, |reply| reply.statfs(&StatFs::default())).len(), 80);
    assert_eq!(body(opcode::GETLK, |reply| reply.lock(&lock)).len(), 24);
    assert_eq!(body(opcode::WRITE, |reply| reply.write(7))[..4], 7u32.to_ne_bytes());
    assert_eq!(body(opcode::COPY_FILE_RANGE, |reply| reply.copied(7)).len(), 8);
}

#[test]
fn attributes_stand_where_the_kernel_reads_them() {
    let time = |secs, nanos| Timestamp { secs, nanos };
    let attr = FileAttr {
        ino: 1,
        size: 2,
        blocks: 3,
        atime: time(-4, 5),
        mtime: time(6, 7),
        ctime: time(8, 9),
        mode: 10,
        nlink: 11,
        uid: 12,
        gid: 13,
        rdev: 14,
        blksize: 15,
    };
    let bytes = body(opcode::GETATTR, |reply| reply.attr(&attr, Duration::new(16, 17)));
    let long = |at: usize| u64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap());
    let word = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap());
    assert_eq!((long(0), word(8)), (16, 17));
    assert_eq!([long(16), long(24), long(32)], [1, 2, 3]);
    assert_eq!(
        [long(40).cast_signed(), 6, 8],
        [-4, long(48).cast_signed(), long(56).cast_signed()]
    );
    assert_eq!([word(64), word(68), word(72)], [5, 7, 9]);
    assert_eq!(
        [word(76), word(80), word(84), word(88), word(92), word(96)],
        [10, 11, 12, 13, 14, 15]
    );
}

#[test]
fn xattr_answers_follow_the_offered_size() {
    let ask = |size| answered(opcode::GETXATTR, |reply| reply.xattr(size, b"value")).remove(0);
    assert_eq!(ask(0).2, [5u32.to_ne_bytes(), [0; 4]].concat());
    assert_eq!(ask(5), (6, 0, b"value".to_vec()));
    assert_eq!(ask(4), (6, -libc::ERANGE, vec![]));
}

#[test]
fn directory_never_exceeds_the_asked_size() {
    let mut entries = DirBuffer::new(100);
    let entry = DirEntry { ino: 1, next_offset: 2, mode: libc::S_IFDIR, name: b"abcdefghi" };
    assert!(entries.add(&entry) && entries.add(&entry));
    assert!(!entries.add(&entry));
    assert_eq!(entries.bytes().len(), 2 * 40);
    assert_eq!(entries.bytes()[20], 4);
    let mut plus = DirBuffer::new(200);
    assert!(plus.add_plus(None, &entry) && !plus.add_plus(None, &entry));
    assert_eq!(plus.bytes().len(), 168);
}
