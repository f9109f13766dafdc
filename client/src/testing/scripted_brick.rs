//! A brick that is a script: the real codec over real TCP, and the test decides what it says.
//!
//! By default it acknowledges everything plausibly, grants every lease asked for, renews, keeps
//! a change window (a re-sent change gets its reply again), and refuses other epochs than its
//! own. A test bends that per operation: `hold`, `fail`, `refuse`, `cut`, `differ`.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use prost::Message;
use proto::fop::{
    Answer, Done, Entries, Entry, Fop, Grant, KeyMsg, LeaseKey, Mode, Op, ReadAnswer, Recall,
    Renewed, StatfsAnswer, Unlinked, Value,
};
use proto::frame::{
    self, Flags, Frame, FrameKind, Header, Hello, ReplyHead, RequestHead, VERSION, Welcome,
};
use proto::{Attr, BrickId, Errno, Failure, Gfid, LeaseNumber, Refusal};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc, watch};

use crate::sync::lock;
use crate::transport::{FrameReader, Target};

/// The clock of all scripted bricks, ns since 1970.
pub const TIME_NS: u64 = 1_700_000_000_000_000_000;

/// What to do with a request instead of answering it well.
#[derive(Clone, Debug)]
pub enum Act {
    Fail(Errno),
    Refuse(Refusal),
    /// Close the connection instead of answering; executed first, or not at all.
    Cut {
        executed: bool,
    },
    /// Execute and answer twice.
    Twice,
    /// Answer as executed, with another link count.
    Differ,
    /// Wait for `release`, then act as usual.
    Hold,
}

/// A request that arrived.
#[derive(Clone, Debug)]
pub struct Seen {
    pub header: Header,
    pub head: RequestHead,
    pub fop: Fop,
    pub payload: Bytes,
}

#[derive(Default)]
struct State {
    epoch: u64,
    term_ms: u32,
    space_limit: u64,
    acts: HashMap<Op, VecDeque<Act>>,
    seen: Vec<Seen>,
    hellos: Vec<Hello>,
    window: BTreeMap<u64, ReplyHead>,
    counter: u64,
    granted: Vec<Grant>,
    overdue: Vec<KeyMsg>,
    files: HashMap<Gfid, Vec<u8>>,
    forget_session: bool,
    refuse_hello: Option<String>,
    /// Keys that are never granted.
    withheld: Vec<LeaseKey>,
    /// By number: the lowest one alive gets the pushes, as from a real brick.
    connections: BTreeMap<u32, mpsc::UnboundedSender<Bytes>>,
}

struct Shared {
    brick: BrickId,
    state: Mutex<State>,
    released: Notify,
    changed: Notify,
    /// False: does not listen and has cut all connections.
    alive: watch::Sender<bool>,
}

/// Handle of a running brick.
#[derive(Clone)]
pub struct ScriptedBrick {
    shared: Arc<Shared>,
    port: u16,
}

impl ScriptedBrick {
    pub async fn start(brick: BrickId) -> ScriptedBrick {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = State { epoch: 1, term_ms: 1500, space_limit: 1 << 40, ..State::default() };
        let shared = Arc::new(Shared {
            brick,
            state: Mutex::new(state),
            released: Notify::new(),
            changed: Notify::new(),
            alive: watch::Sender::new(true),
        });
        tokio::spawn(accept(shared.clone(), listener));
        ScriptedBrick { shared, port }
    }

    pub fn target(&self) -> Target {
        Target::straight(self.shared.brick, "127.0.0.1".into(), self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        lock(&self.shared.state)
    }

    /// The next requests of `op` are answered so, in order.
    pub fn will(&self, op: Op, acts: impl IntoIterator<Item = Act>) {
        self.state().acts.entry(op).or_default().extend(acts);
    }

    /// Held requests go on, and no later one is held.
    pub fn release(&self) {
        for acts in self.state().acts.values_mut() {
            acts.retain(|a| !matches!(a, Act::Hold));
        }
        self.shared.released.notify_waiters();
    }

    pub fn set_epoch(&self, epoch: u64) {
        self.state().epoch = epoch;
    }

    /// What renewals say; 0: cannot renew.
    pub fn set_term(&self, term_ms: u32) {
        self.state().term_ms = term_ms;
    }

    /// Up to where a session may take space, from the next renewal on.
    pub fn set_space_limit(&self, bytes: u64) {
        self.state().space_limit = bytes;
    }

    pub fn set_overdue(&self, keys: Vec<LeaseKey>) {
        self.state().overdue = keys.into_iter().map(KeyMsg::from).collect();
    }

    pub fn withhold(&self, key: LeaseKey) {
        self.state().withheld.push(key);
    }

    /// All requests are refused with UnknownSession until the next HELLO.
    pub fn forget_session(&self) {
        self.state().forget_session = true;
    }

    pub fn refuse_hello(&self, why: Option<&str>) {
        self.state().refuse_hello = why.map(str::to_owned);
    }

    /// No connection survives and none is accepted.
    pub fn kill(&self) {
        self.shared.alive.send_replace(false);
    }

    pub fn revive(&self) {
        self.shared.alive.send_replace(true);
    }

    pub fn push(&self, recall: Recall) {
        let bytes = frame::encode(Header::new(FrameKind::Push), &recall, b"").freeze();
        let sent = self.state().connections.values().any(|c| c.send(bytes.clone()).is_ok());
        assert!(sent, "nobody is connected");
    }

    /// Recalls the newest lease granted on `key`.
    pub fn recall(&self, key: LeaseKey, keep: Mode) {
        let number = self.number(key);
        let (key, keep) = (key.into(), keep as i32);
        self.push(Recall { key, number, keep });
    }

    /// Number of the newest lease granted on `key`.
    pub fn number(&self, key: LeaseKey) -> LeaseNumber {
        let state = self.state();
        let grant = state.granted.iter().rev().find(|g| LeaseKey::from(g.key) == key);
        grant.expect("was granted").number
    }

    pub fn hellos(&self) -> Vec<Hello> {
        self.state().hellos.clone()
    }

    pub fn seen(&self, op: Op) -> Vec<Seen> {
        self.state().seen.iter().filter(|s| s.fop.op() == op).cloned().collect()
    }

    /// Waits until `count` requests of `op` have arrived since the start.
    pub async fn arrived(&self, op: Op, count: usize) -> Vec<Seen> {
        let wait = async {
            loop {
                let changed = self.shared.changed.notified();
                let seen = self.seen(op);
                if seen.len() >= count {
                    return seen;
                }
                changed.await;
            }
        };
        let arrived = tokio::time::timeout(Duration::from_secs(10), wait).await;
        arrived.unwrap_or_else(|_| panic!("{count} x {op:?} should have come: {:?}", self.seen(op)))
    }

    pub fn file(&self, gfid: Gfid) -> Vec<u8> {
        self.state().files.get(&gfid).cloned().unwrap_or_default()
    }
}

async fn accept(shared: Arc<Shared>, listener: TcpListener) {
    while let Ok((stream, _)) = listener.accept().await {
        if *shared.alive.borrow() {
            tokio::spawn(serve(shared.clone(), Arc::new(stream)));
        }
    }
}

async fn serve(shared: Arc<Shared>, stream: Arc<TcpStream>) {
    let (send, replies) = mpsc::unbounded_channel();
    let mut alive = shared.alive.subscribe();
    tokio::select! {
        _ = read(&shared, &stream, send) => {}
        () = write(&stream, replies) => {}
        _ = alive.wait_for(|alive| !alive) => {}
    }
}

async fn write(stream: &TcpStream, mut replies: mpsc::UnboundedReceiver<Bytes>) {
    while let Some(bytes) = replies.recv().await {
        // An empty message is the order to cut the connection.
        if bytes.is_empty() {
            return;
        }
        let mut left = &bytes[..];
        while !left.is_empty() {
            if stream.writable().await.is_err() {
                return;
            }
            match stream.try_write(left) {
                Ok(n) => left = &left[n..],
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    }
}

async fn read(
    shared: &Arc<Shared>,
    stream: &TcpStream,
    send: mpsc::UnboundedSender<Bytes>,
) -> std::io::Result<()> {
    let mut reader = FrameReader::default();
    loop {
        let frame = reader.next(stream).await?;
        match frame.header.kind {
            FrameKind::Hello => hello(shared, &frame, &send),
            FrameKind::Request => {
                tokio::spawn(request(shared.clone(), frame, send.clone()));
            }
            _ => return Ok(()),
        }
    }
}

fn hello(shared: &Shared, frame: &Frame, send: &mpsc::UnboundedSender<Bytes>) {
    let hello = Hello::decode(frame.message.clone()).unwrap();
    let mut state = lock(&shared.state);
    state.connections.insert(hello.connection, send.clone());
    state.hellos.push(hello);
    state.forget_session = false;
    let welcome = Welcome {
        version: VERSION.into(),
        epoch: state.epoch,
        time_ns: TIME_NS,
        incarnation: 1,
        error: state.refuse_hello.clone().unwrap_or_default(),
        ..Welcome::default()
    };
    let bytes = frame::encode(Header::new(FrameKind::Welcome), &welcome, b"").freeze();
    let _ = send.send(bytes);
}

async fn request(shared: Arc<Shared>, frame: Frame, send: mpsc::UnboundedSender<Bytes>) {
    let head = RequestHead::decode(frame.message.clone()).unwrap();
    let op = Op::from_code(frame.header.op).unwrap();
    let fop = Fop::decode(op, head.args.clone()).unwrap();
    let seen = Seen { header: frame.header, head, fop, payload: frame.payload };
    let released = shared.released.notified();
    let act = {
        let mut state = lock(&shared.state);
        state.seen.push(seen.clone());
        let held = matches!(state.acts.get(&op).and_then(|a| a.front()), Some(Act::Hold));
        if held { Some(Act::Hold) } else { state.acts.get_mut(&op).and_then(VecDeque::pop_front) }
    };
    shared.changed.notify_waiters();
    if matches!(act, Some(Act::Hold)) {
        released.await;
    }
    act_on(&shared, &seen, act, &send);
}

fn act_on(shared: &Shared, seen: &Seen, act: Option<Act>, send: &mpsc::UnboundedSender<Bytes>) {
    let mut state = lock(&shared.state);
    let epoch = state.epoch;
    let refused = |refusal: Refusal| ReplyHead::failure(Failure::Refused(refusal), epoch);
    let reply = match act {
        _ if state.forget_session => refused(Refusal::UnknownSession),
        _ if seen.header.epoch != epoch && seen.fop.op() != Op::Renew => {
            refused(Refusal::Epoch { current: epoch })
        }
        Some(Act::Fail(errno)) => ReplyHead::failure(Failure::Errno(errno), epoch),
        Some(Act::Refuse(refusal)) => refused(refusal),
        Some(Act::Cut { executed }) => {
            if executed {
                state.execute(seen);
            }
            let _ = send.send(Bytes::new());
            return;
        }
        Some(Act::Differ) => ReplyHead { epoch, ..differing() },
        Some(Act::Twice) => {
            let reply = state.execute(seen);
            let _ = send.send(encode(seen, &reply, &state));
            reply
        }
        Some(Act::Hold) | None => state.execute(seen),
    };
    let _ = send.send(encode(seen, &reply, &state));
}

fn differing() -> ReplyHead {
    ReplyHead { errno: Errno::ENOENT.0 as u32, ..ReplyHead::default() }
}

fn encode(seen: &Seen, reply: &ReplyHead, state: &State) -> Bytes {
    let mut header = Header::new(FrameKind::Reply);
    header.op = seen.header.op;
    header.request = seen.header.request;
    header.flags = if seen.header.seq != 0 && reply.epoch != state.epoch {
        Flags::REPLAY
    } else {
        Flags::default()
    };
    let payload = match &seen.fop {
        Fop::Read(a) => state.read(a.gfid, a.offset as usize, a.len as usize),
        _ => Vec::new(),
    };
    let mut out = frame::encode(header, reply, &payload);
    out.extend_from_slice(&payload);
    out.freeze()
}

impl State {
    /// The reply of a willing brick; stored under the change number.
    fn execute(&mut self, seen: &Seen) -> ReplyHead {
        let (seq, mark) = (seen.header.seq, seen.header.mark);
        self.window = self.window.split_off(&(mark + 1));
        if seq != 0
            && let Some(reply) = self.window.get(&seq)
        {
            return reply.clone();
        }
        let answer = self.answer(&seen.fop, &seen.payload);
        let mut bytes = BytesMut::new();
        answer.encode(&mut bytes);
        let grants = self.grant(seen);
        let reply =
            ReplyHead { answer: bytes.freeze(), epoch: self.epoch, grants, ..ReplyHead::default() };
        if seq != 0 {
            self.window.insert(seq, reply.clone());
        }
        reply
    }

    fn grant(&mut self, seen: &Seen) -> Vec<Grant> {
        let mut grants = Vec::new();
        for want in &seen.head.wants {
            // A pin alone is noted, not granted.
            if self.withheld.contains(&want.key.into()) || want.mode == Mode::None as i32 {
                continue;
            }
            self.counter += 1;
            let number = LeaseNumber { base: self.epoch, counter: self.counter };
            let (key, mode, term_ms) = (want.key, want.mode, self.term_ms);
            grants.push(Grant { key, mode, number, term_ms, pinned: false });
        }
        self.granted.extend(&grants);
        grants
    }

    fn answer(&mut self, fop: &Fop, payload: &[u8]) -> Answer {
        match fop {
            Fop::Create(a) => Answer::Entry(Entry {
                attr: Attr { gfid: a.gfid, mode: a.mode, buckets: a.buckets, ..Attr::default() },
                parent: None,
                with_data: false,
            }),
            Fop::Lookup(a) => {
                let attr = Attr { gfid: a.parent, ..Attr::default() };
                Answer::Entry(Entry { attr, parent: None, with_data: false })
            }
            Fop::Write(a) => {
                let file = self.files.entry(a.gfid).or_default();
                let (start, end) = (a.offset as usize, (a.offset + a.len) as usize);
                file.resize(file.len().max(end), 0);
                file[start..end].copy_from_slice(payload);
                Answer::Attr(self.attr(a.gfid))
            }
            Fop::Getattr(a) => Answer::Attr(self.attr(a.gfid)),
            Fop::Setattr(a) => Answer::Attr(self.attr(a.gfid)),
            Fop::Read(a) => {
                let size = self.files.get(&a.gfid).map_or(0, Vec::len) as u64;
                Answer::Read(ReadAnswer { eof: a.offset + u64::from(a.len) >= size })
            }
            Fop::Unlink(_) => Answer::Unlinked(Unlinked { nlink: 0, parent: None, attr: None }),
            Fop::Readdir(_) => Answer::Entries(Entries { entries: Vec::new(), end: true }),
            Fop::Statfs(_) => Answer::Statfs(StatfsAnswer {
                total_bytes: 100,
                free_bytes: 50,
                ..StatfsAnswer::default()
            }),
            Fop::Readlink(_) => Answer::Value(Value { bytes: Bytes::new() }),
            Fop::Renew(_) => Answer::Renewed(Renewed {
                term_ms: self.term_ms,
                overdue: self.overdue.clone(),
                time_ns: TIME_NS,
                map_version: 0,
                space_limit: Some(self.space_limit),
            }),
            Fop::Lock(_) => Answer::Locked(proto::fop::Locked::default()),
            _ => Answer::Done(Done {}),
        }
    }

    fn attr(&self, gfid: Gfid) -> Attr {
        let size = self.files.get(&gfid).map_or(0, Vec::len) as u64;
        // Replicas differ in this one field.
        let blocks = std::ptr::from_ref(self) as u64;
        Attr { gfid, mode: 0o100_644, nlink: 1, size, blocks, ..Attr::default() }
    }

    fn read(&self, gfid: Gfid, offset: usize, len: usize) -> Vec<u8> {
        let file = self.files.get(&gfid).map_or(&[][..], Vec::as_slice);
        let start = offset.min(file.len());
        file[start..(offset + len).min(file.len()).max(start)].to_vec()
    }
}
