use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use proto::fop::{Call, Getattr, LeaseKey, Op, Read, Recall, Write};
use proto::{BrickId, Epoch, Errno, Failure, Gfid, LeaseNumber, Refusal, SessionId, SlotId};

use super::*;
use crate::scripted_brick::{Act, ScriptedBrick};
use crate::sync::lock;

#[derive(Default)]
struct Recorder(Mutex<Vec<Recall>>);

impl Pushes for Recorder {
    fn recall(&self, _: BrickId, recall: Recall) {
        lock(&self.0).push(recall);
    }

    fn welcome(&self, _: BrickId, _: Epoch, _: u64) {}
}

struct Bench {
    brick: ScriptedBrick,
    client: Arc<BrickClient>,
    pushes: Arc<Recorder>,
    counters: Arc<Counters>,
}

async fn bench() -> Bench {
    bench_at(|brick| brick.target()).await
}

async fn bench_at(target: impl FnOnce(&ScriptedBrick) -> Target) -> Bench {
    let brick = ScriptedBrick::start(BrickId::random()).await;
    let pushes = Arc::new(Recorder::default());
    let counters = Arc::new(Counters::default());
    let proof = Proof::Ticket(Bytes::from_static(b"ticket"));
    let identity = Identity { session: SessionId(9), proof, host: "test".into() };
    let connector = Connector::new(identity, pushes.clone(), counters.clone());
    let client = BrickClient::new(target(&brick), connector);
    Bench { brick, client, pushes, counters }
}

fn gfid() -> Gfid {
    Gfid::new(SlotId(1), [7; 14])
}

fn getattr() -> Call {
    Call::new(Getattr { gfid: gfid() })
}

fn write(data: Bytes) -> Call {
    let len = data.len() as u64;
    Call::new(Write { gfid: gfid(), offset: 0, len, ..Write::default() }).with_payload(data)
}

impl Bench {
    async fn call(&self, call: &Call) -> Result<proto::fop::Outcome, CallError> {
        self.client.call(call, Epoch(1), vec![], vec![]).await
    }
}

#[tokio::test]
async fn hello_names_brick_and_session_and_shows_the_ticket() {
    let bench = bench().await;
    bench.call(&getattr()).await.unwrap().unwrap();
    let hello = &bench.brick.hellos()[0];
    assert_eq!(hello.brick.as_ref(), bench.client.brick().as_bytes());
    assert_eq!((hello.session, hello.ticket.as_ref()), (9, &b"ticket"[..]));
    assert_eq!(bench.brick.hellos().len(), 1);
}

#[tokio::test]
async fn a_large_payload_arrives_whole_both_ways() {
    let bench = bench().await;
    let data: Vec<u8> = (0..4 << 20).map(|i: u32| (i * 7 + i / 251) as u8).collect();
    bench.call(&write(data.clone().into())).await.unwrap().unwrap();
    assert_eq!(bench.brick.file(gfid()), data);
    let read = Call::new(Read { gfid: gfid(), offset: 0, len: 4 << 20 });
    let back = bench.call(&read).await.unwrap().unwrap();
    assert_eq!(back.payload, data);
}

#[tokio::test]
async fn many_large_requests_share_a_connection_without_mixing() {
    let bench = bench().await;
    let calls = (0..40_u8).map(|i| {
        let call = Call::new(Write {
            gfid: Gfid::new(SlotId(u16::from(i)), [i; 14]),
            offset: 0,
            len: 1 << 20,
            ..Write::default()
        });
        let call = call.with_payload(vec![i; 1 << 20].into());
        let client = bench.client.clone();
        async move { client.call(&call, Epoch(1), vec![], vec![]).await.unwrap().unwrap() }
    });
    futures_util::future::join_all(calls).await;
    for i in 0..40_u8 {
        let file = bench.brick.file(Gfid::new(SlotId(u16::from(i)), [i; 14]));
        assert!(file.len() == 1 << 20 && file.iter().all(|b| *b == i), "file {i}");
    }
    assert_eq!(bench.brick.hellos().len(), 1);
}

#[tokio::test]
async fn errno_and_refusal_stay_apart() {
    let bench = bench().await;
    bench.brick.will(Op::Getattr, [Act::Fail(Errno::ENOENT), Act::Refuse(Refusal::Busy)]);
    let first = bench.call(&getattr()).await.unwrap();
    assert_eq!(first.unwrap_err(), Failure::Errno(Errno::ENOENT));
    let second = bench.call(&getattr()).await.unwrap();
    assert_eq!(second.unwrap_err(), Failure::Refused(Refusal::Busy));
}

#[tokio::test]
async fn a_broken_connection_fails_all_in_flight_and_the_next_call_reconnects() {
    let bench = bench().await;
    bench.brick.will(Op::Getattr, [Act::Hold]);
    let waiting = {
        let client = bench.client.clone();
        tokio::spawn(async move { client.call(&getattr(), Epoch(1), vec![], vec![]).await })
    };
    bench.brick.arrived(Op::Getattr, 1).await;
    bench.brick.will(Op::Write, [Act::Cut { executed: false }]);
    assert!(matches!(bench.call(&write("x".into())).await, Err(CallError::Lost)));
    assert!(matches!(waiting.await.unwrap(), Err(CallError::Lost)));
    bench.brick.release();
    bench.call(&getattr()).await.unwrap().unwrap();
    assert_eq!(bench.brick.hellos().len(), 2);
}

#[tokio::test]
async fn a_second_reply_to_one_request_is_ignored() {
    let bench = bench().await;
    bench.brick.will(Op::Write, [Act::Twice]);
    bench.call(&write("x".into())).await.unwrap().unwrap();
    bench.call(&getattr()).await.unwrap().unwrap();
    assert_eq!(bench.counters.unexpected_replies.load(Relaxed), 1);
}

#[tokio::test]
async fn a_refused_hello_says_why() {
    let bench = bench().await;
    bench.brick.refuse_hello(Some("ticket expired"));
    let error = bench.call(&getattr()).await.unwrap_err();
    assert!(error.to_string().contains("ticket expired"), "{error}");
}

/// A port that nobody listens on.
async fn closed_port() -> u16 {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap().port()
}

#[tokio::test]
async fn a_brick_that_is_not_reached_straight_is_reached_through_another_peer() {
    let closed = closed_port().await;
    let host = || "127.0.0.1".to_owned();
    let bench = bench_at(|brick| Target {
        port: closed,
        relays: vec![(host(), closed), (host(), brick.port())],
        ..brick.target()
    })
    .await;
    bench.call(&getattr()).await.unwrap().unwrap();
    assert!(bench.client.is_relayed() && !bench.client.is_local());
    assert_eq!(bench.counters.relayed.load(Relaxed), 1);
    // Late on that way: all connections end, and the next request looks again.
    assert!(bench.client.look_for_another_way().await);
    bench.call(&getattr()).await.unwrap().unwrap();
    assert_eq!(bench.brick.hellos().len(), 2);
}

#[tokio::test]
async fn connections_of_a_way_that_has_closed_end_when_another_way_is_found() {
    let bench = bench().await;
    bench.call(&getattr()).await.unwrap().unwrap();
    bench.brick.will(Op::Getattr, [Act::Hold]);
    let waiting = {
        let client = bench.client.clone();
        tokio::spawn(async move { client.call(&getattr(), Epoch(1), vec![], vec![]).await })
    };
    bench.brick.arrived(Op::Getattr, 2).await;
    // The way closes: the next connection, of heartbeats, goes through another peer.
    let relays = vec![("127.0.0.1".to_owned(), bench.brick.port())];
    let port = closed_port().await;
    bench.client.set_target(Target { port, relays, ..bench.brick.target() });
    let request = Request::new(&write("x".into()), Epoch(1));
    bench.client.exchange_in_background(&request).await.unwrap();
    assert!(matches!(waiting.await.unwrap(), Err(CallError::Lost)));
    assert!(bench.client.is_relayed());
}

/// Two names of one machine, as two peers that pass connections on.
#[tokio::test]
async fn all_lanes_go_through_the_same_peer() {
    let closed = closed_port().await;
    let bench = bench_at(|brick| Target {
        port: closed,
        relays: vec![("localhost".into(), brick.port())],
        ..brick.target()
    })
    .await;
    let beat = Request::new(&write("x".into()), Epoch(1));
    let via = |hosts: &[&str]| {
        let relays = hosts.iter().map(|host| ((*host).to_owned(), bench.brick.port())).collect();
        bench.client.set_target(Target { port: closed, relays, ..bench.brick.target() });
    };
    bench.call(&getattr()).await.unwrap().unwrap();
    via(&["127.0.0.1", "localhost"]);
    bench.client.exchange_in_background(&beat).await.unwrap();
    bench.call(&getattr()).await.unwrap().unwrap();
    assert_eq!(bench.brick.hellos().len(), 2, "the second took the first one's way");
    // That one is not there any more: what heartbeats go through now, all do.
    bench.client.look_for_another_way().await;
    bench.call(&getattr()).await.unwrap().unwrap();
    bench.brick.will(Op::Getattr, [Act::Hold]);
    let waiting = {
        let client = bench.client.clone();
        tokio::spawn(async move { client.call(&getattr(), Epoch(1), vec![], vec![]).await })
    };
    bench.brick.arrived(Op::Getattr, 4).await;
    via(&["localhost"]);
    bench.client.exchange_in_background(&beat).await.unwrap();
    assert!(matches!(waiting.await.unwrap(), Err(CallError::Lost)));
}

#[tokio::test]
async fn a_brick_that_is_merely_late_keeps_its_connection() {
    let relays = vec![("127.0.0.1".to_owned(), closed_port().await)];
    let bench = bench_at(|brick| Target { relays, ..brick.target() }).await;
    bench.call(&getattr()).await.unwrap().unwrap();
    assert!(!bench.client.look_for_another_way().await);
    bench.call(&getattr()).await.unwrap().unwrap();
    assert!(!bench.client.is_relayed());
    assert_eq!(bench.brick.hellos().len(), 1);
}

#[tokio::test]
async fn pushes_reach_the_handler() {
    let bench = bench().await;
    bench.call(&getattr()).await.unwrap().unwrap();
    let number = LeaseNumber { base: 1, counter: 2 };
    let recall = Recall { key: LeaseKey::Inode(gfid()).into(), number, keep: 1 };
    bench.brick.push(recall);
    while lock(&bench.pushes.0).is_empty() {
        tokio::task::yield_now().await;
    }
    assert_eq!(*lock(&bench.pushes.0), [recall]);
}

#[tokio::test]
async fn an_unknown_session_says_hello_again() {
    let bench = bench().await;
    bench.call(&getattr()).await.unwrap().unwrap();
    bench.brick.forget_session();
    let refused = bench.call(&getattr()).await.unwrap();
    assert_eq!(refused.unwrap_err(), Failure::Refused(Refusal::UnknownSession));
    bench.call(&getattr()).await.unwrap().unwrap();
    assert_eq!(bench.brick.hellos().len(), 2);
}
