//! The bytes of every operation, of every other frame, and of every refusal.
//!
//! `golden/v1.txt` holds one line for each sample: its name and its whole frame in hex. **A line
//! that is there is never edited**: it is what daemons and mounts of that version send and
//! expect, wherever they still run. When bytes must change:
//!
//! 1. count `VERSION` up and say in its table (`version.rs`) what changed;
//! 2. `cargo test -p proto -- --ignored golden_frames_of_a_new_version` writes `golden/vN.txt`;
//!    add it to `FILES` below;
//! 3. keep what reads the version before: a peer of version N also serves N-1, and this test
//!    goes on reading every file.
//!
//! A new field that old readers may miss takes a tag that nobody used. The old samples leave it empty,
//! so that their lines stay; `golden/additions.rs` gets a sample with the field set, and the newest
//! file a line for it at its end.
//!
//! A new operation takes a code that nobody used, a line of its own at the end of the newest
//! file, and a feature bit (an old member ends the connection of who sends it).

#[path = "golden/additions.rs"]
mod additions;
#[path = "golden/answers.rs"]
mod answers;
#[path = "golden/arguments.rs"]
mod arguments;
#[path = "golden/values.rs"]
mod values;

use std::collections::BTreeMap;
use std::fmt::Debug;

use super::*;
use crate::error::{Errno, Failure, Refusal};
use crate::fop::{Answer, Fop, Getattr, Op};
use crate::ids::Gfid;

/// Newest last.
const FILES: &[(u8, &str)] = &[(1, include_str!("golden/v1.txt"))];

/// What is sent, and what a reader must find in it.
struct Sample {
    name: String,
    header: Header,
    bytes: Vec<u8>,
    payload: Bytes,
    read: Box<dyn Fn(&Bytes)>,
}

impl Sample {
    fn new<M>(name: &str, header: Header, message: M, payload: &Bytes) -> Sample
    where
        M: prost::Message + Default + PartialEq + Debug + 'static,
    {
        let mut bytes = encode(header, &message, payload).to_vec();
        bytes.extend_from_slice(payload);
        let shown = name.to_owned();
        let read = move |raw: &Bytes| {
            let read = M::decode(raw.clone()).expect("an own message");
            assert_eq!(read, message, "{shown}");
        };
        let name = name.to_owned();
        Sample { name, header, bytes, payload: payload.clone(), read: Box::new(read) }
    }

    fn hex(&self) -> String {
        self.bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    /// Reads bytes of a file as whoever receives them does.
    fn demand_read(&self, bytes: &[u8]) {
        let (raw, rest) = bytes.split_at(HEADER_BYTES);
        let header = Header::parse(raw).unwrap_or_else(|e| panic!("{}: {e}", self.name));
        let (message, payload) = rest.split_at(header.message_bytes as usize);
        assert_eq!(verify(raw, message, payload), Ok(()), "{}", self.name);
        assert_eq!(payload, self.payload, "{}", self.name);
        let sizes_and_sums = Header {
            message_bytes: header.message_bytes,
            payload_bytes: payload.len() as u32,
            payload_sum: header.payload_sum,
            message_sum: header.message_sum,
            ..self.header
        };
        assert_eq!(header, sizes_and_sums, "{}", self.name);
        (self.read)(&Bytes::copy_from_slice(message));
    }
}

/// Every field differs from zero and from every other one.
fn header(kind: FrameKind) -> Header {
    Header {
        kind,
        op: 0,
        flags: Flags::default(),
        message_bytes: 0,
        payload_bytes: 0,
        request: 0x0102_0304_0506_0708,
        session: 0x1112_1314_1516_1718,
        epoch: 77,
        seq: 3,
        mark: 2,
        stamp: 1_750_000_000_123_456_789,
        payload_sum: 0,
        message_sum: 0,
    }
}

fn request(name: &str, (fop, payload): (Fop, Bytes)) -> Sample {
    let op = fop.op();
    let mut args = BytesMut::new();
    fop.encode(&mut args);
    let args = args.freeze();
    assert_eq!(Fop::decode(op, args.clone()), Ok(fop), "{name}");
    let head = RequestHead { args, uid: 1000, gid: 100, pid: 4242, ..RequestHead::default() };
    let header = Header { op: op.code(), ..header(FrameKind::Request) };
    Sample::new(&format!("request.{name}"), header, head, &payload)
}

fn reply(name: &str, op: Op, (answer, payload): (Answer, Bytes)) -> Sample {
    let mut bytes = BytesMut::new();
    answer.encode(&mut bytes);
    let bytes = bytes.freeze();
    assert_eq!(Answer::decode(op, bytes.clone()), Ok(answer), "{name}");
    let head = ReplyHead { answer: bytes, errno: 0, refusal: 0, epoch: 77, grants: vec![] };
    let header = Header { op: op.code(), ..header(FrameKind::Reply) };
    Sample::new(&format!("reply.{name}"), header, head, &payload)
}

fn operation(op: Op) -> [Sample; 2] {
    let arguments = arguments::of(op);
    assert_eq!(arguments.0.op(), op, "the sample of {op:?} is another operation's");
    [request(op.name(), arguments), reply(op.name(), op, answers::of(op))]
}

/// Fields that came after the first lines were fixed.
fn added() -> Vec<Sample> {
    let none = Bytes::new();
    let mut all: Vec<Sample> = additions::arguments()
        .into_iter()
        .map(|(name, fop)| request(name, (fop, none.clone())))
        .collect();
    let answers = additions::answers().into_iter();
    all.extend(answers.map(|(name, op, answer)| reply(name, op, (answer, none.clone()))));
    all
}

fn failures() -> Vec<Sample> {
    let reply = |name: &str, failure: Failure| {
        let header = Header { op: Op::Getattr.code(), ..header(FrameKind::Reply) };
        let head = ReplyHead::failure(failure, 78);
        assert_eq!(head.status(), Status::Failed(failure), "{name}");
        Sample::new(name, header, head, &Bytes::new())
    };
    let mut out = vec![reply("reply.errno", Errno::ENOSPC.into())];
    // Codes are dense; one that nobody knows is read as Busy, which has another code.
    for code in 1.. {
        let refusal = Refusal::from_code(code, 78);
        if refusal.code() != code {
            break;
        }
        let debug = format!("{refusal:?}");
        let name = debug.split(' ').next().unwrap_or_default();
        out.push(reply(&format!("refusal.{name}"), refusal.into()));
    }
    out
}

fn handshake() -> Vec<Sample> {
    let none = Bytes::new();
    let hello = |name: &str, ticket: &'static [u8], peer_proof: &'static [u8]| {
        let hello = values::hello(Bytes::from_static(ticket), Bytes::from_static(peer_proof));
        Sample::new(name, header(FrameKind::Hello), hello, &none)
    };
    let relayed = Hello {
        relay_proof: Bytes::from_static(b"a proof of passing it on"),
        ..values::hello(Bytes::from_static(b"a ticket signed by the pool"), none.clone())
    };
    let welcome = |name: &str, error: &str| {
        Sample::new(name, header(FrameKind::Welcome), values::welcome(error), &none)
    };
    vec![
        hello("hello.ticket", b"a ticket signed by the pool", b""),
        hello("hello.peer", b"", b"a proof of being a peer"),
        Sample::new("hello.relayed", header(FrameKind::Hello), relayed, &none),
        welcome("welcome", ""),
        welcome("welcome.refused", "this brick belongs to another volume"),
        Sample::new("goodbye", header(FrameKind::Goodbye), (), &none),
        Sample::new("push.Recall", header(FrameKind::Push), values::recall(), &none),
    ]
}

/// Requests and replies with everything that may go along with an operation.
fn companions() -> Vec<Sample> {
    let none = Bytes::new();
    let mut args = BytesMut::new();
    Fop::from(Getattr { gfid: Gfid::ROOT }).encode(&mut args);
    let args = args.freeze();
    let op = Op::Getattr.code();
    let with_leases = RequestHead {
        args: args.clone(),
        wants: values::wants(),
        under: values::under(),
        uid: 1000,
        gid: 100,
        pid: 4242,
        first_epoch: 0,
    };
    let resent = Header { op, flags: Flags::RESEND, ..header(FrameKind::Request) };
    let granted = ReplyHead {
        answer: none.clone(),
        errno: 0,
        refusal: 0,
        epoch: 77,
        grants: values::grants(),
    };
    let acquired = Header { op: Op::Acquire.code(), ..header(FrameKind::Reply) };
    let replayed = Header { flags: Flags::REPLAY, ..acquired };
    // The very first frame that was fixed, before there was a table.
    let first = Header { op, session: 9, stamp: 1_000, ..header(FrameKind::Request) };
    let first_head = RequestHead { args, uid: 5, ..RequestHead::default() };
    let yielding = RequestHead { wants: values::yielding(), ..first_head.clone() };
    let execute = Header { op, flags: Flags::EXECUTE, ..header(FrameKind::Request) };
    vec![
        Sample::new("request.yielding", execute, yielding, &none),
        Sample::new("request.with-leases", resent, with_leases, &none),
        Sample::new("reply.with-grants", acquired, granted.clone(), &none),
        Sample::new("reply.replayed", replayed, granted, &none),
        Sample::new("request.first", first, first_head, &Bytes::from_static(b"payload")),
    ]
}

fn samples() -> Vec<Sample> {
    let mut all = handshake();
    all.extend(companions());
    all.extend(failures());
    all.extend(Op::ALL.iter().copied().flat_map(operation));
    all.extend(added());
    all
}

/// Name → frame; comments and empty lines are for people.
fn lines(text: &'static str) -> BTreeMap<&'static str, &'static str> {
    let mut all = BTreeMap::new();
    for line in text.lines().filter(|l| !l.is_empty() && !l.starts_with('#')) {
        let (name, hex) = line.split_once(' ').expect("a name, a blank, hex");
        assert!(all.insert(name, hex).is_none(), "{name} stands there twice");
    }
    all
}

fn unhex(hex: &str) -> Vec<u8> {
    let digit = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex digits");
    (0..hex.len()).step_by(2).map(digit).collect()
}

const WHAT_TO_DO: &str = "bytes on the wire changed. Never edit a line that is there: undo the \
     change, or make it a new version as the head of proto/src/frame/golden_test.rs says";

#[test]
fn every_frame_has_the_bytes_that_its_version_fixed() {
    let (version, text) = FILES.last().expect("a file");
    assert_eq!(*version, VERSION, "the newest version has no golden/v{VERSION}.txt yet");
    let mut fixed = lines(text);
    let mut lacks = String::new();
    for sample in samples() {
        let Some(hex) = fixed.remove(sample.name.as_str()) else {
            lacks += &format!("{} {}\n", sample.name, sample.hex());
            continue;
        };
        assert_eq!(sample.hex(), hex, "{}: {WHAT_TO_DO}", sample.name);
    }
    assert!(lacks.is_empty(), "golden/v{version}.txt lacks these lines:\n{lacks}");
    let left: Vec<_> = fixed.keys().collect();
    assert!(left.is_empty(), "no sample for {left:?}: {WHAT_TO_DO}");
}

#[test]
fn frames_of_every_version_are_read() {
    let samples = samples();
    for (version, text) in FILES {
        for (name, hex) in lines(text) {
            let sample = samples.iter().find(|s| s.name == name);
            let sample = sample.unwrap_or_else(|| panic!("{name} of v{version} has no sample"));
            sample.demand_read(&unhex(hex));
        }
    }
}

/// A field that no sample sets would be fixed by no line: zeroes are not sent.
#[test]
fn samples_differ_from_empty_messages() {
    let may_be_empty = ["Acquire", "Checkpoint"];
    for op in Op::ALL.iter().filter(|op| !may_be_empty.contains(&op.name())) {
        assert!(arguments::of(*op).0.encoded_len() > 0, "the sample of {op:?} is empty");
    }
}

#[test]
#[ignore = "writes the file of a new version; see the head of this file"]
fn golden_frames_of_a_new_version() {
    let path = format!("{}/src/frame/golden/v{VERSION}.txt", env!("CARGO_MANIFEST_DIR"));
    assert!(!std::path::Path::new(&path).exists(), "{path} is there: {WHAT_TO_DO}");
    let mut text = format!("# Frames of version {VERSION}: name, whole frame. Never edited.\n");
    for sample in samples() {
        text += &format!("{} {}\n", sample.name, sample.hex());
    }
    std::fs::write(&path, text).expect("the source folder is there");
}
