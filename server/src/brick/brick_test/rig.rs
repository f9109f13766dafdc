//! A brick on a scratch XFS behind a real data port, and a client that speaks the raw codec.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use prost::Message as _;
use proto::fop::{Answer, Fop, Grant, KeyMsg, LeaseKey, Mode, Recall, Under, Want};
use proto::frame::{
    Flags, FrameKind, HEADER_BYTES, Header, Hello, ReplyHead, RequestHead, Status, VERSION,
    Welcome, encode, verify,
};
use proto::map::{MemberMap, MemberState, PeerAddress, SetMap, VolumeMap};
use proto::options::VolumeOptions;
use proto::{
    BrickId, Epoch, Failure, Gfid, Incarnation, LeaseNumber, PeerId, SessionId, SetId, SlotId,
    Stamp, VolumeId,
};
use proto_rules::{SetKey, Tick};
use server_store::testing::Xfs;
use server_store::{Config, NewBrick, Store};
use tokio::sync::oneshot;

use crate::brick::io::Backend;
use crate::brick::{BrickCommand, BrickHandle, BrickIdentity, Gate, Owner, Setup, spawn};
use crate::lead::PeerCredential;
use crate::listener::proof::{self, Purpose};
use crate::listener::{self, Door, Doorman, Guard, Route};
use crate::metrics::BrickMetrics;
use crate::pool::ticket::{Holder, Ticket};

pub const KEY: [u8; 32] = [9; 32];

/// What a brick told its owner.
#[derive(Default)]
pub struct Told(pub Mutex<Vec<String>>);

impl Owner for Told {
    fn failed(&self, _: BrickIdentity, _: Epoch, reason: &str) {
        self.0.lock().unwrap().push(format!("failed: {reason}"));
    }

    fn withdraw_join(&self, _: BrickIdentity, _: Epoch) {
        self.0.lock().unwrap().push("withdraw join".into());
    }
}

/// All peers of the rig share one key.
pub struct Proofs(pub PeerId);

impl PeerCredential for Proofs {
    fn proof(&self, brick: BrickId, session: SessionId) -> Option<Vec<u8>> {
        proof::make(&proof::peer_secret(&KEY), Purpose::Peer, self.0, brick, session).ok()
    }
}

struct Seated {
    map: VolumeMap,
    me: PeerId,
    brick: BrickId,
    door: Door,
}

fn guard(map: &VolumeMap) -> Guard {
    Guard { volume: map.volume, allow: String::new(), reject: String::new() }
}

impl Doorman for Seated {
    fn ticket_key(&self) -> Option<[u8; 32]> {
        Some(KEY)
    }

    fn is_peer(&self, _: PeerId) -> bool {
        true
    }

    fn me(&self) -> PeerId {
        self.me
    }

    fn brick(&self, brick: BrickId) -> Option<Door> {
        (brick == self.brick).then(|| self.door.clone())
    }

    fn elsewhere(&self, brick: BrickId) -> Option<Route> {
        let (_, member) = self.map.member(brick)?;
        let peer = self.map.peer(member.peer)?;
        Some(Route { guard: guard(&self.map), host: peer.host.clone(), port: peer.data_port })
    }
}

/// One member of the set.
pub struct Seat {
    pub handle: BrickHandle,
    pub address: SocketAddr,
    pub told: Arc<Told>,
}

/// A set of bricks in one process.
pub struct Rig {
    pub seats: Vec<Seat>,
    pub map: VolumeMap,
    pub backend: Backend,
    runtime: tokio::runtime::Runtime,
    _xfs: Vec<Xfs>,
}

fn gate() -> Arc<Gate> {
    let gate = Arc::new(Gate::default());
    gate.set_serve_until(Tick::NEVER);
    gate.set_heard(0, u64::MAX);
    gate
}

impl Rig {
    /// `None` where no file system can be mounted.
    pub fn new(backend: Backend, members: usize) -> Option<Rig> {
        let xfs: Vec<Xfs> = (0..members).map(|_| Xfs::new(320)).collect::<Option<_>>()?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let listeners: Vec<TcpListener> =
            (0..members).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let map = volume_map(&listeners);
        let mut rig = Rig { seats: Vec::new(), map, backend, runtime, _xfs: xfs };
        for (at, listener) in listeners.into_iter().enumerate() {
            let seat = rig.start(at, backend, listener);
            rig.seats.push(seat);
        }
        Some(rig)
    }

    fn start(&self, at: usize, backend: Backend, listener: TcpListener) -> Seat {
        let set = SetKey { volume: self.map.volume, set: SetId(0) };
        let member = &self.map.sets[0].members[at];
        let identity = BrickIdentity {
            peer: member.peer,
            brick: member.brick,
            set,
            incarnation: member.incarnation,
        };
        let told = Arc::new(Told::default());
        let setup = Setup {
            identity,
            backend,
            gate: gate(),
            metrics: Arc::new(BrickMetrics::new("gv0", member.brick)),
            owner: told.clone(),
            credential: Arc::new(Proofs(member.peer)),
            map: Some(Arc::new(self.map.clone())),
        };
        let path = self._xfs[at].path().join("brick");
        std::fs::create_dir(&path).unwrap();
        let new = NewBrick {
            brick: member.brick,
            volume: self.map.volume,
            set: SetId(0),
            dir_buckets: 64,
            stamp: Stamp(1),
        };
        let open =
            move || Store::create(&path, &new, true, Config::default()).map_err(|e| e.to_string());
        let handle = self.runtime.block_on(spawn(setup, open)).unwrap();
        let door = Door { guard: guard(&self.map), inbox: handle.inbox.clone(), read_only: false };
        let doorman = Seated { map: self.map.clone(), me: member.peer, brick: member.brick, door };
        let address = listener.local_addr().unwrap();
        listener::spawn(listener, Arc::new(doorman)).unwrap();
        Seat { handle, address, told }
    }

    /// A client of a session on the first brick (the lead).
    pub fn client(&self, session: u64) -> Client {
        self.client_of(0, session)
    }

    pub fn client_of(&self, at: usize, session: u64) -> Client {
        self.client_through(at, at, session)
    }

    /// A client of a session on the brick of seat `at` that comes in at the port of seat `through`.
    pub fn client_through(&self, through: usize, at: usize, session: u64) -> Client {
        let hello = self.with_ticket(at, session);
        Client::connect(self.seats[through].address, session, self.map.sets[0].epoch, &hello)
    }

    pub fn with_ticket(&self, at: usize, session: u64) -> Hello {
        let ticket = Ticket {
            volume: self.map.volume,
            session: SessionId(session),
            holder: Holder::Client("rig".into()),
            read_only: false,
            expires_s: u64::MAX,
            subdir: String::new(),
        };
        Hello { ticket: ticket.encode(&KEY).into(), ..self.hello(at, session) }
    }

    pub fn peer_client(&self, at: usize, peer: PeerId) -> Client {
        let brick = self.seats[at].handle.identity.brick;
        let proof = Proofs(peer).proof(brick, SessionId(0)).unwrap();
        let hello = Hello { peer_proof: proof.into(), ..self.hello(at, 0) };
        Client::connect(self.seats[at].address, 0, self.map.sets[0].epoch, &hello)
    }

    pub fn hello(&self, at: usize, session: u64) -> Hello {
        let brick = self.seats[at].handle.identity.brick;
        Hello {
            version: VERSION.into(),
            brick: Bytes::copy_from_slice(brick.as_bytes()),
            session,
            ..Hello::default()
        }
    }

    /// Commits a map: all bricks get it.
    pub fn commit(&mut self, change: impl FnOnce(&mut VolumeMap)) {
        change(&mut self.map);
        self.map.version += 1;
        let map = Arc::new(self.map.clone());
        for seat in &self.seats {
            seat.handle.inbox.blocking_send(BrickCommand::Map(map.clone())).unwrap();
        }
    }

    /// Stops a brick; true when it closed cleanly.
    pub fn stop(&self, at: usize) -> bool {
        let (answer, stopped) = oneshot::channel();
        self.seats[at].handle.inbox.blocking_send(BrickCommand::Stop(answer)).unwrap();
        stopped.blocking_recv().unwrap_or(false)
    }
}

impl Drop for Rig {
    /// The file systems can be unmounted only when the stores are closed.
    fn drop(&mut self) {
        for at in 0..self.seats.len() {
            let (answer, stopped) = oneshot::channel();
            let stop = BrickCommand::Stop(answer);
            if self.seats[at].handle.inbox.blocking_send(stop).is_ok() {
                let _ = stopped.blocking_recv();
            }
        }
    }
}

fn volume_map(listeners: &[TcpListener]) -> VolumeMap {
    let peers: Vec<PeerAddress> = listeners
        .iter()
        .map(|listener| PeerAddress {
            peer: PeerId::random(),
            host: "127.0.0.1".into(),
            control_port: 1,
            data_port: listener.local_addr().unwrap().port(),
            promise_port: 1,
        })
        .collect();
    let members: Vec<MemberMap> = peers
        .iter()
        .enumerate()
        .map(|(at, peer)| MemberMap {
            brick: BrickId::random(),
            peer: peer.peer,
            path: format!("/brick{at}"),
            state: MemberState::InSync,
            incarnation: Incarnation(at as u64 + 1),
            reason: String::new(),
        })
        .collect();
    let set = SetMap { id: SetId(0), epoch: Epoch(5), lead: Some(members[0].brick), members };
    VolumeMap {
        version: 5,
        volume: VolumeId::random(),
        name: "gv0".into(),
        started: true,
        replica: listeners.len() as u16,
        stripe: 1,
        stripe_block: 1 << 20,
        sets: vec![set],
        slots: vec![SetId(0); proto::map::SLOTS.into()],
        peers,
        options: VolumeOptions::default(),
    }
}

pub fn gfid(n: u8) -> Gfid {
    Gfid::new(SlotId(n.into()), [n; 14])
}

pub fn want(key: LeaseKey, mode: Mode) -> Want {
    Want { key: key.into(), mode: mode as i32, ..Want::default() }
}

pub fn under(key: LeaseKey, number: LeaseNumber) -> Vec<Under> {
    vec![Under { key: KeyMsg::from(key), number }]
}

/// A reply as it came.
#[derive(Debug)]
pub struct Got {
    pub header: Header,
    pub head: ReplyHead,
    pub payload: Bytes,
}

impl Got {
    pub fn answer(&self) -> Answer {
        assert_eq!(self.head.status(), Status::Ok, "{:?}", self.head);
        let op = proto::fop::Op::from_code(self.header.op).unwrap();
        Answer::decode(op, self.head.answer.clone()).unwrap()
    }

    pub fn failure(&self) -> Failure {
        match self.head.status() {
            Status::Failed(failure) => failure,
            Status::Ok => panic!("it succeeded: {:?}", self.head),
        }
    }

    pub fn grant(&self, key: LeaseKey) -> Option<Grant> {
        self.head.grants.iter().find(|g| LeaseKey::from(g.key) == key).copied()
    }
}

/// A request in the making.
#[derive(Clone)]
pub struct Ask {
    pub fop: Fop,
    pub payload: Bytes,
    pub wants: Vec<Want>,
    pub under: Vec<Under>,
    pub seq: u64,
    pub mark: u64,
    pub flags: Flags,
}

impl Ask {
    pub fn new(fop: impl Into<Fop>) -> Ask {
        Ask {
            fop: fop.into(),
            payload: Bytes::new(),
            wants: Vec::new(),
            under: Vec::new(),
            seq: 0,
            mark: 0,
            flags: Flags::default(),
        }
    }
}

pub struct Client {
    pub stream: TcpStream,
    pub session: u64,
    pub epoch: Epoch,
    pub welcome: Welcome,
    next: u64,
    pub seq: u64,
    pub recalls: Vec<Recall>,
}

impl Client {
    pub fn connect(address: SocketAddr, session: u64, epoch: Epoch, hello: &Hello) -> Client {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut header = Header::new(FrameKind::Hello);
        header.session = session;
        stream.write_all(&encode(header, hello, b"")).unwrap();
        let (header, message, _) = frame(&mut stream).unwrap();
        assert_eq!(header.kind, FrameKind::Welcome);
        let welcome = Welcome::decode(message).unwrap();
        let (next, seq, recalls) = (0, 0, Vec::new());
        Client { stream, session, epoch, welcome, next, seq, recalls }
    }

    pub fn send(&mut self, ask: &Ask) -> u64 {
        self.next += 1;
        let bytes = self.bytes(ask, self.next);
        self.stream.write_all(&bytes).unwrap();
        self.next
    }

    pub fn bytes(&self, ask: &Ask, request: u64) -> Vec<u8> {
        let mut args = BytesMut::new();
        ask.fop.encode(&mut args);
        let head = RequestHead {
            args: args.freeze(),
            wants: ask.wants.clone(),
            under: ask.under.clone(),
            ..RequestHead::default()
        };
        let mut header = Header::new(FrameKind::Request);
        header.op = ask.fop.op().code();
        header.flags = ask.flags;
        header.request = request;
        header.session = self.session;
        header.epoch = self.epoch.0;
        header.seq = ask.seq;
        header.mark = ask.mark;
        header.stamp = 1_700_000_000_000_000_000 + request;
        let mut bytes = encode(header, &head, &ask.payload).to_vec();
        bytes.extend_from_slice(&ask.payload);
        bytes
    }

    /// The next reply; recalls on the way are put aside.
    pub fn receive(&mut self) -> std::io::Result<Got> {
        loop {
            let (header, message, payload) = frame(&mut self.stream)?;
            match header.kind {
                FrameKind::Reply => {
                    let head = ReplyHead::decode(message).unwrap();
                    return Ok(Got { header, head, payload });
                }
                FrameKind::Push => self.recalls.push(Recall::decode(message).unwrap()),
                FrameKind::Goodbye => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                kind => panic!("a {kind:?} is not for clients"),
            }
        }
    }

    pub fn ask(&mut self, ask: &Ask) -> Got {
        let id = self.send(ask);
        let got = self.receive().unwrap();
        assert_eq!(got.header.request, id);
        got
    }

    /// Asks again while the brick says that it is not the time yet.
    pub fn ask_patiently(&mut self, ask: &Ask) -> Got {
        use proto::Refusal::{self, Busy, Grace, NotServing};
        for _ in 0..400 {
            let got = self.ask(ask);
            match got.head.status() {
                Status::Failed(Failure::Refused(Grace | Busy | NotServing)) => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                // The map is on its way to the brick.
                Status::Failed(Failure::Refused(Refusal::Epoch { current }))
                    if current < self.epoch.0 =>
                {
                    std::thread::sleep(Duration::from_millis(20));
                }
                _ => return got,
            }
        }
        panic!("{} is refused for ever", ask.fop.op().name());
    }

    /// An operation without leases or numbers.
    pub fn plain(&mut self, fop: impl Into<Fop>) -> Got {
        self.ask(&Ask::new(fop))
    }

    /// Gets a lease.
    pub fn lease(&mut self, key: LeaseKey, mode: Mode) -> LeaseNumber {
        let mut ask = Ask::new(proto::fop::Acquire {});
        ask.wants = vec![want(key, mode)];
        let got = self.ask_patiently(&ask);
        got.grant(key).unwrap_or_else(|| panic!("no grant: {:?}", got.head)).number
    }

    /// A change under one lease, with the session's next number.
    pub fn change(
        &mut self,
        fop: impl Into<Fop>,
        payload: &[u8],
        key: LeaseKey,
        number: LeaseNumber,
    ) -> Got {
        self.seq += 1;
        let mut ask = Ask::new(fop);
        ask.payload = Bytes::copy_from_slice(payload);
        ask.under = under(key, number);
        ask.seq = self.seq;
        ask.mark = self.seq - 1;
        self.ask(&ask)
    }

    /// A push that is there or comes soon.
    pub fn recall(&mut self) -> Recall {
        if let Some(recall) = self.recalls.pop() {
            return recall;
        }
        let (header, message, _) = frame(&mut self.stream).unwrap();
        assert_eq!(header.kind, FrameKind::Push);
        Recall::decode(message).unwrap()
    }
}

pub fn frame(stream: &mut TcpStream) -> std::io::Result<(Header, Bytes, Bytes)> {
    let mut raw = [0; HEADER_BYTES];
    stream.read_exact(&mut raw)?;
    let header = Header::parse(&raw).unwrap();
    let mut message = BytesMut::zeroed(header.message_bytes as usize);
    stream.read_exact(&mut message)?;
    let mut payload = BytesMut::zeroed(header.payload_bytes as usize);
    stream.read_exact(&mut payload)?;
    verify(&raw, &message, &payload).unwrap();
    Ok((header, message.freeze(), payload.freeze()))
}
