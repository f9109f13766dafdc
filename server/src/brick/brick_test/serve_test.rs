//! What a sole brick serves, and what it refuses.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use bytes::Bytes;
use proto::fop::{
    Acquire, Answer, Fsync, Getattr, LeaseKey, Lookup, Mode, Read as ReadFop, Readdir, Release,
    Renew, ReturnMsg, Write as WriteFop,
};
use proto::frame::Flags;
use proto::{Errno, Failure, Gfid, PeerId, Refusal, SessionId};

use super::rig::{Ask, Client, KEY, Rig, gfid, under, want};
use super::{create, make, on_each_backend};
use crate::listener::proof::{self, Purpose};

fn write(gfid: Gfid, offset: u64, len: usize) -> WriteFop {
    WriteFop { gfid, offset, len: len as u64, ..WriteFop::default() }
}

#[test]
fn create_write_read_readdir_and_fsync() {
    on_each_backend(1, |rig| {
        let mut client = rig.client(1);
        assert_eq!(client.welcome.error, "");
        let file = gfid(1);
        let key = LeaseKey::Inode(file);
        let number = make(&mut client, "hello", file);
        let data: Vec<u8> = (0..300_000_u32).map(|i| i as u8).collect();
        client.change(write(file, 0, 5), b"12345", key, number).answer();
        client.change(write(file, 5, data.len()), &data, key, number).answer();
        client.change(Fsync { gfid: file, data_only: false }, b"", key, number).answer();
        let mut read = Ask::new(ReadFop { gfid: file, offset: 3, len: 200_000 });
        read.under = under(key, number);
        let got = client.ask(&read);
        assert_eq!(got.payload[..2], *b"45");
        assert_eq!(got.payload[2..], data[..199_998]);
        let Answer::Attr(attr) = client.plain(Getattr { gfid: file }).answer() else { panic!() };
        assert_eq!((attr.size, attr.nlink), (300_005, 1));
        let ask = Readdir { gfid: Gfid::ROOT, limit: 10, plus: true, ..Readdir::default() };
        let Answer::Entries(list) = client.plain(ask).answer() else { panic!() };
        assert_eq!(list.entries.len(), 1);
        assert_eq!(list.entries[0].name, "hello");
        assert_eq!(list.entries[0].attr.map(|a| a.size), Some(300_005));
        let miss = Lookup { parent: Gfid::ROOT, name: "no".into(), data_bytes_max: 0 };
        assert_eq!(client.plain(miss).failure(), Failure::Errno(Errno::ENOENT));
        assert!(rig.stop(0), "a clean stop");
    });
}

#[test]
fn a_frame_of_maximal_length_works_and_a_longer_one_ends_the_connection() {
    on_each_backend(1, |rig| {
        let mut client = rig.client(1);
        let file = gfid(1);
        let number = make(&mut client, "big", file);
        let data = vec![7; proto::fop::PAYLOAD_BYTES_MAX];
        client.change(write(file, 0, data.len()), &data, LeaseKey::Inode(file), number).answer();
        let read = ReadFop { gfid: file, offset: 0, len: data.len() as u32 };
        assert_eq!(client.plain(read).payload, data);
        let mut bytes = client.bytes(&Ask::new(Getattr { gfid: file }), 99);
        bytes[12..16].copy_from_slice(&(data.len() as u32 + 1).to_le_bytes());
        client.stream.write_all(&bytes).unwrap();
        assert!(client.receive().is_err(), "the connection must end");
        let mut other = rig.client(1);
        other.plain(Getattr { gfid: file }).answer();
    });
}

#[test]
fn garbage_costs_its_own_connection_only() {
    on_each_backend(1, |rig| {
        let mut good = rig.client(1);
        let address = rig.seats[0].address;
        let stranger = |bytes: &[u8]| {
            let mut stream = std::net::TcpStream::connect(address).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            let _ = stream.write_all(bytes);
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer);
            String::from_utf8_lossy(&answer).into_owned()
        };
        let answer = stranger(b"GET / HTTP/1.1\r\nHost: brick\r\nAccept: */*\r\nUser-Agent: none at all\r\n\r\nbody, body, body");
        assert!(answer.contains("not a HELLO"), "{answer:?}");
        stranger(&[0xff; 4096]);
        // A request instead of a HELLO, a bit that is wrong, a ticket that is none.
        let request = good.bytes(&Ask::new(Getattr { gfid: Gfid::ROOT }), 1);
        assert!(stranger(&request).contains("must be a HELLO"));
        let mut header = proto::frame::Header::new(proto::frame::FrameKind::Hello);
        header.session = 7;
        let hello = proto::frame::Hello { ticket: Bytes::from(vec![3; 80]), ..rig.hello(0, 7) };
        let mut forged = proto::frame::encode(header, &hello, b"").to_vec();
        assert!(stranger(&forged).contains("no valid credential"));
        forged[90] ^= 4;
        stranger(&forged);
        // Garbage behind a good HELLO.
        let mut bad = rig.client(2);
        bad.stream.write_all(&[0x55; 1000]).unwrap();
        assert!(bad.receive().is_err());
        good.ask_patiently(&Ask::new(Getattr { gfid: Gfid::ROOT })).answer();
    });
}

#[test]
fn a_peer_passes_a_session_on_to_another_peers_brick() {
    on_each_backend(2, |rig| {
        let data = vec![7; 300_000];
        let mut through = rig.client_through(1, 0, 1);
        assert_eq!(through.welcome.error, "");
        let (file, key) = (gfid(1), LeaseKey::Inode(gfid(1)));
        let number = make(&mut through, "passed on", file);
        through.change(write(file, 0, data.len()), &data, key, number).answer();
        // Its leases are the session's, whichever way it comes.
        let mut read = Ask::new(ReadFop { gfid: file, offset: 0, len: data.len() as u32 });
        read.under = under(key, number);
        assert_eq!(through.ask(&read).payload, data);
        assert_eq!(rig.client(1).ask(&read).payload, data);
    });
}

#[test]
fn nobody_is_passed_on_without_a_ticket_twice_or_in_another_peers_name() {
    let Some(rig) = Rig::new(crate::brick::io::Backend::Plain, 2) else { return };
    let (here, other) = (rig.seats[0].address, rig.seats[1].address);
    let refused = |address, hello: &proto::frame::Hello| {
        Client::connect(address, hello.session, rig.map.sets[0].epoch, hello).welcome.error
    };
    assert!(refused(other, &rig.hello(0, 7)).contains("no valid credential"));
    let brick = rig.seats[0].handle.identity.brick;
    let proof = |purpose| {
        let me = rig.seats[1].handle.identity.peer;
        let made = proof::make(&proof::peer_secret(&KEY), purpose, me, brick, SessionId(7));
        Bytes::from(made.unwrap())
    };
    let relayed = |relay_proof| proto::frame::Hello { relay_proof, ..rig.with_ticket(0, 7) };
    assert_eq!(refused(here, &relayed(proof(Purpose::Relay))), "");
    assert!(refused(here, &relayed(proof(Purpose::Peer))).contains("no valid credential"));
    assert!(refused(other, &relayed(proof(Purpose::Relay))).contains("does not run here"));
    // A proof for relaying does not open what peers may do.
    let peer_proof = proof(Purpose::Relay);
    let as_peer = proto::frame::Hello { peer_proof, ..rig.hello(0, 7) };
    assert!(refused(here, &as_peer).contains("no valid credential"));
}

#[test]
fn somebody_who_says_nothing_is_sent_away_and_keeps_nobody_out() {
    let Some(rig) = Rig::new(crate::brick::io::Backend::Plain, 1) else { return };
    let began = Instant::now();
    let mut silent = std::net::TcpStream::connect(rig.seats[0].address).unwrap();
    rig.client(1).plain(Getattr { gfid: Gfid::ROOT });
    assert!(began.elapsed() < Duration::from_secs(2));
    let mut answer = Vec::new();
    silent.read_to_end(&mut answer).unwrap();
    assert!(String::from_utf8_lossy(&answer).contains("no HELLO within 5 s"));
    assert!(began.elapsed() < Duration::from_secs(8));
}

#[test]
fn a_change_that_is_sent_again_is_executed_once() {
    on_each_backend(1, |rig| {
        let mut client = rig.client(1);
        let part = LeaseKey::Part(Gfid::ROOT);
        let number = client.lease(part, Mode::Exclusive);
        let mut ask = Ask::new(create("once", gfid(1)));
        ask.under = under(part, number);
        ask.seq = 1;
        let first = client.ask(&ask);
        first.answer();
        ask.flags = Flags::RESEND;
        let again = client.ask(&ask);
        assert!(again.header.flags.has(Flags::REPLAY));
        assert_eq!(again.head.answer, first.head.answer);
        ask.mark = 1;
        let dead = client.ask(&ask);
        assert_eq!(dead.failure(), Failure::Refused(Refusal::StaleSeq));
    });
}

#[test]
fn requests_of_another_epoch_and_changes_without_a_lease_are_refused() {
    on_each_backend(1, |rig| {
        let mut client = rig.client(1);
        client.lease(LeaseKey::Part(Gfid::ROOT), Mode::Shared);
        let mut ask = Ask::new(create("x", gfid(1)));
        ask.seq = 1;
        assert_eq!(client.ask(&ask).failure(), Failure::Refused(Refusal::LeaseNeeded));
        client.epoch.0 += 1;
        let refused = client.plain(Getattr { gfid: Gfid::ROOT }).failure();
        assert_eq!(refused, Failure::Refused(Refusal::Epoch { current: 5 }));
        client.epoch.0 -= 1;
        rig.seats[0].handle.gate.set_serve_until(proto_rules::Tick::ZERO);
        let refused = client.plain(Getattr { gfid: Gfid::ROOT }).failure();
        assert_eq!(refused, Failure::Refused(Refusal::NotServing));
    });
}

#[test]
fn a_lease_is_recalled_from_its_holder_and_then_granted() {
    on_each_backend(1, |rig| {
        let (mut holder, mut asker) = (rig.client(1), rig.client(2));
        let file = gfid(1);
        let number = make(&mut holder, "f", file);
        let key = LeaseKey::Inode(file);
        let mut ask = Ask::new(Getattr { gfid: file });
        ask.wants = vec![want(key, Mode::Shared)];
        let id = asker.send(&ask);
        let recall = holder.recall();
        assert_eq!((LeaseKey::from(recall.key), recall.number), (key, number));
        assert_eq!(recall.keep, Mode::Shared as i32);
        // What the holder had buffered comes before its return.
        holder.change(write(file, 0, 4), b"late", key, number).answer();
        let back = ReturnMsg { key: key.into(), number, keep: Mode::Shared as i32, open: true };
        holder.plain(Release { returns: vec![back], unpin: Vec::new() }).answer();
        let got = asker.receive().unwrap();
        assert_eq!(got.header.request, id);
        let grant = got.grant(key).expect("granted after the return");
        assert!(grant.pinned, "the other session has it open");
        assert!((1..=1500).contains(&grant.term_ms));
        let Answer::Attr(attr) = got.answer() else { panic!() };
        assert_eq!(attr.size, 4);
        let late = holder.change(write(file, 0, 4), b"dead", key, number);
        assert_eq!(late.failure(), Failure::Refused(Refusal::StaleLease));
    });
}

#[test]
fn a_lease_of_a_session_that_is_not_renewed_runs_out() {
    on_each_backend(1, |rig| {
        let (mut dead, mut asker) = (rig.client(1), rig.client(2));
        let file = gfid(1);
        let number = make(&mut dead, "f", file);
        let key = LeaseKey::Inode(file);
        let began = Instant::now();
        let mut ask = Ask::new(Acquire {});
        ask.wants = vec![want(key, Mode::Exclusive)];
        asker.send(&ask);
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            // The asker goes on renewing, on another connection of its session.
            scope.spawn(|| {
                let mut renewer = rig.client(2);
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    renewer.plain(Renew::default()).answer();
                    std::thread::sleep(Duration::from_millis(300));
                }
            });
            let got = asker.receive();
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
            assert!(got.unwrap().grant(key).is_some());
        });
        let waited = began.elapsed();
        assert!(waited > Duration::from_millis(1200), "only after its term: {waited:?}");
        assert!(waited < Duration::from_secs(4), "{waited:?}");
        let late = dead.change(write(file, 0, 4), b"dead", key, number);
        assert_eq!(late.failure(), Failure::Refused(Refusal::UnknownSession));
    });
}

#[test]
fn peer_operations_are_for_peers_only() {
    on_each_backend(1, |rig| {
        let mut client = rig.client(1);
        client.lease(LeaseKey::Part(Gfid::ROOT), Mode::Shared);
        let inspect = proto::fop::Inspect { gfid: Gfid::ROOT, data_max: 0 };
        assert_eq!(client.plain(inspect).failure(), Failure::Errno(Errno::EPERM));
        let mut peer = rig.peer_client(0, PeerId::random());
        let Answer::Inspected(image) = peer.plain(inspect).answer() else { panic!() };
        assert!(image.found);
        let create = Ask { seq: 1, ..Ask::new(create("x", gfid(1))) };
        assert_eq!(peer.ask(&create).failure(), Failure::Errno(Errno::EPERM));
    });
}
