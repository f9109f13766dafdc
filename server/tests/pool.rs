//! A pool of three over real sockets, TLS, raft and RocksDB: what the pool promises.

// Helpers of tests fail by panicking, as tests do.
#![allow(clippy::unwrap_used)]

mod common;

use std::time::{Duration, Instant};

use common::{Control, Daemon, address, config, daemons, wait};
use proto::map::MemberState;
use proto::{Epoch, SetId};
use proto_grpc::Credential;
use proto_grpc::connect;
use proto_grpc::control::volume_client::VolumeClient;
use proto_grpc::control::{
    BrickAddress, GetTicketRequest, Nothing, OptionValue, PeerAcceptRequest, PeerCanStopRequest,
    PeerDetachRequest, PeerProbeRequest, VolumeCreateRequest, VolumeForceRequest, VolumeSetRequest,
    VolumeStatusRequest, WatchMapRequest,
};
use proto_grpc::credential::{Kind, Pass};
use proto_rules::SetKey;
use server::pool::membership::{Lack, Report};
use server::pool::ticket::Ticket;

const SOON: Duration = Duration::from_secs(10);

fn probe(from: &Daemon, control: &mut Control, host: &str) -> Result<String, String> {
    let request = PeerProbeRequest { host: host.into(), ..PeerProbeRequest::default() };
    let reply = from.run(control.peer_probe(request));
    reply.map(|r| r.into_inner().message).map_err(|e| e.message().to_owned())
}

fn host(daemon: &Daemon) -> String {
    daemon.config.listen.to_string()
}

fn pooled(dir: &std::path::Path, test: u8, n: u8) -> Vec<Daemon> {
    let peers = daemons(dir, test, n);
    let mut control = peers[0].control();
    for peer in &peers[1..] {
        assert_eq!(probe(&peers[0], &mut control, &host(peer)), Ok("success".into()));
    }
    if n > 1 {
        let voters = if n < 3 { 1 } else { 3 };
        wait("voters", SOON, || peers[0].pool().voters().len() == voters);
    }
    peers
}

fn bricks(peers: &[Daemon], path: &str) -> Vec<BrickAddress> {
    peers.iter().map(|p| BrickAddress { host: host(p), path: path.into() }).collect()
}

fn create(peers: &[Daemon], name: &str, path: &str) -> Result<(), String> {
    let request = VolumeCreateRequest {
        name: name.into(),
        replica: u32::try_from(peers.len()).unwrap(),
        bricks: bricks(peers, path),
        ..VolumeCreateRequest::default()
    };
    let reply = peers[0].run(peers[0].control().volume_create(request));
    reply.map(drop).map_err(|e| e.message().to_owned())
}

fn start(peers: &[Daemon], name: &str) {
    let request = VolumeForceRequest { name: name.into(), force: false };
    let reply = peers[0].run(peers[0].control().volume_start(request)).unwrap();
    assert_eq!(reply.into_inner().message, "success");
}

fn epoch(peer: &Daemon) -> Epoch {
    peer.pool().state().volume_by_name("gv0").unwrap().sets[0].epoch
}

#[test]
fn a_new_leader_is_there_within_a_second_and_a_half_and_nothing_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let mut peers = pooled(dir.path(), 1, 3);
    create(&peers, "gv0", "/bricks/b1").unwrap();
    start(&peers, "gv0");
    let set = peers[0].pool().state().volume_by_name("gv0").unwrap().sets[0].clone();
    assert!(set.members.iter().all(|m| m.state == MemberState::InSync));
    assert_eq!(set.lead, Some(set.members[0].brick));

    let leader = peers.iter().position(|p| p.pool().is_leader()).expect("a leader");
    let old = peers[leader].pool().leader().unwrap().node;
    peers[leader].kill();
    let others: Vec<usize> = (0..3).filter(|n| *n != leader).collect();
    let took = wait("a new leader", SOON, || {
        others.iter().all(|n| peers[*n].pool().leader().is_some_and(|l| l.node != old))
    });
    println!("new leader after {took:?}");
    assert!(took < Duration::from_millis(1500), "{took:?}");

    let survivor = &peers[others[0]];
    let option = OptionValue { name: "client.op-timeout".into(), value: "7".into() };
    let request = VolumeSetRequest { name: "gv0".into(), options: vec![option] };
    survivor.run(survivor.control().volume_set(request)).unwrap();
    peers[leader].restart();
    wait("the killed peer follows", SOON, || {
        let state = peers[leader].pool().state();
        state.volume_by_name("gv0").is_some_and(|v| v.options.contains_key("client.op-timeout"))
    });

    let before = peers[0].pool().state().volumes.keys().copied().collect::<Vec<_>>();
    peers.iter_mut().for_each(Daemon::kill);
    peers.iter_mut().for_each(Daemon::restart);
    wait("a leader after the loss of all", SOON, || {
        peers.iter().all(|p| p.pool().leader().is_some())
    });
    for peer in &peers {
        let state = peer.pool().state();
        assert_eq!(state.volumes.keys().copied().collect::<Vec<_>>(), before);
        assert_eq!(state.volume_by_name("gv0").unwrap().parsed_options().op_timeout_s, 7);
    }
}

#[test]
fn a_probe_that_cannot_succeed_says_why_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let peers = pooled(dir.path(), 2, 2);
    let mut control = peers[0].control();
    let mut try_probe = |host: &str| probe(&peers[0], &mut control, host);
    let unreachable = address(2, 99).to_string();
    assert!(try_probe(&unreachable).unwrap_err().contains("does not answer"));
    assert!(try_probe("no such host").unwrap_err().contains("not a host name"));
    assert!(try_probe(&host(&peers[1])).unwrap().contains("already in peer list"));
    assert!(try_probe(&host(&peers[0])).unwrap().contains("not needed"));

    let other = tempfile::tempdir().unwrap();
    std::fs::copy(dir.path().join("join.key"), other.path().join("join.key")).unwrap();
    let alone = Daemon::start(config(other.path(), address(2, 50)));
    create(std::slice::from_ref(&alone), "other", "/bricks/x").unwrap();
    assert!(try_probe(&host(&alone)).unwrap_err().contains("another pool"));
    assert_eq!(peers[0].pool().state().peers.len(), 2);
}

#[test]
fn without_the_join_key_only_an_accepted_pool_comes_in() {
    let dir = tempfile::tempdir().unwrap();
    let peers = daemons(dir.path(), 3, 1);
    let stranger = tempfile::tempdir().unwrap();
    let newcomer = Daemon::start(config(stranger.path(), address(3, 2)));
    let mut control = peers[0].control();
    let refused = probe(&peers[0], &mut control, &host(&newcomer)).unwrap_err();
    assert!(refused.contains("join keys differ"), "{refused}");
    assert!(newcomer.pool().membership().is_none());

    let whoami = peers[0].run(control.whoami(Nothing {})).unwrap().into_inner();
    assert!(refused.contains(&whoami.pool_fingerprint), "{refused}");
    let accept = PeerAcceptRequest { fingerprint: whoami.pool_fingerprint };
    newcomer.run(newcomer.control().peer_accept(accept)).unwrap();
    // A pool with a join key does not take whoever claims to have accepted it.
    let unknown = probe(&peers[0], &mut control, &host(&newcomer)).unwrap_err();
    assert!(unknown.contains("--fingerprint"), "{unknown}");
    let own = newcomer.run(newcomer.control().whoami(Nothing {})).unwrap().into_inner();
    let request = |fingerprint: &str| PeerProbeRequest {
        host: host(&newcomer),
        fingerprint: fingerprint.into(),
        reinstalled: false,
    };
    let wrong = peers[0].run(control.peer_probe(request(&"0".repeat(64)))).unwrap_err();
    assert!(wrong.message().contains("not the expected one"));
    peers[0].run(control.peer_probe(request(&own.fingerprint))).unwrap();
    assert_eq!(newcomer.pool().state().peers.len(), 2);
}

#[test]
fn a_volume_exists_when_every_brick_is_prepared_and_else_no_brick_is() {
    let dir = tempfile::tempdir().unwrap();
    let peers = pooled(dir.path(), 4, 3);
    let why = "the parent folder /nowhere does not exist";
    peers[2].bricks.refuse.lock().unwrap().insert("/nowhere/b".into(), why.into());
    let error = create(&peers, "gv0", "/nowhere/b").unwrap_err();
    assert!(error.contains(why) && error.contains(&host(&peers[2])), "{error}");
    for peer in &peers {
        assert!(peer.bricks.prepared.lock().unwrap().is_empty());
        assert!(peer.pool().state().volumes.is_empty());
    }
    create(&peers, "gv0", "/bricks/b1").unwrap();
    assert!(peers.iter().all(|p| p.bricks.prepared.lock().unwrap().len() == 1));
    assert!(create(&peers, "gv0", "/bricks/b2").unwrap_err().contains("already exists"));
    assert!(create(&peers, "gv1", "/bricks/b1").unwrap_err().contains("already part of"));
    assert!(peers.iter().all(|p| p.bricks.prepared.lock().unwrap().len() == 1));
}

#[test]
fn a_detached_peer_is_un_pooled_and_one_with_bricks_stays() {
    let dir = tempfile::tempdir().unwrap();
    let peers = pooled(dir.path(), 5, 3);
    create(&peers[..2], "gv0", "/bricks/b1").unwrap();
    let mut control = peers[0].control();
    let mut detach = |peer: &Daemon| {
        let request = PeerDetachRequest { host: host(peer), force: false };
        peers[0].run(control.peer_detach(request)).map_err(|e| e.message().to_owned())
    };
    assert!(detach(&peers[1]).unwrap_err().contains("holds bricks"));
    assert!(detach(&peers[0]).unwrap_err().contains("localhost"));
    detach(&peers[2]).unwrap();
    assert!(peers[2].pool().membership().is_none());
    assert!(peers[2].pool().state().peers.is_empty());
    assert_eq!(peers[0].pool().voters().len(), 1);
    let again = probe(&peers[0], &mut control, &host(&peers[2]));
    assert_eq!(again, Ok("success".into()), "it may come back");
}

#[test]
fn tickets_need_a_credential_and_maps_arrive_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let peers = pooled(dir.path(), 6, 1);
    create(&peers, "gv0", "/bricks/b1").unwrap();
    start(&peers, "gv0");
    let name = proto_grpc::control::ClientRequest { name: "web".into() };
    let token = peers[0].run(peers[0].control().client_add(name.clone())).unwrap().into_inner();
    let token = Credential::parse(&token.token).unwrap();
    let local = Credential::read(&peers[0].config.local_token()).unwrap();
    let key = peers[0].pool().ticket_key().unwrap();
    let port = peers[0].config.control_port;

    let ask = |pin: &Pass, token: Option<&Pass>| {
        peers[0].run(async {
            let mut client =
                VolumeClient::new(connect::with_pass(&host(&peers[0]), port, pin, None));
            let wanted = GetTicketRequest { volume: "gv0".into(), ..Default::default() };
            let mut request = tonic::Request::new(wanted);
            if let Some(token) = token {
                connect::attach(&mut request, token);
            }
            client.get_ticket(request).await.map(tonic::Response::into_inner)
        })
    };
    let ticket = |token: Option<&Credential>| {
        ask(&token.unwrap_or(&local).pass(), token.map(Credential::pass).as_ref())
    };
    for good in [&token, &local] {
        let reply = ticket(Some(good)).unwrap();
        assert_eq!(Ticket::verify(&reply.ticket, &key, 0).unwrap().session.0, reply.session);
    }
    assert_eq!(ticket(None).unwrap_err().code(), tonic::Code::Unauthenticated);
    let guess = Credential { secret: [1; 32], ..token.clone() };
    assert_eq!(ticket(Some(&guess)).unwrap_err().code(), tonic::Code::Unauthenticated);
    let forged = Credential { kind: Kind::Local, ..guess };
    assert_eq!(ticket(Some(&forged)).unwrap_err().code(), tonic::Code::Unauthenticated);
    let elsewhere = Credential { pin: [9; 32], ..token.clone() };
    assert!(ticket(Some(&elsewhere)).is_err(), "a server of another pool is not trusted");
    // A mount goes on with its ticket, whoever made it: the same session, another day.
    for holder in [&token, &local] {
        let first = ticket(Some(holder)).unwrap();
        let pass = Pass::ticket(&first.ticket, first.ca.clone().try_into().unwrap());
        assert_eq!(ask(&pass, Some(&pass)).unwrap().session, first.session);
    }
    let last = ticket(Some(&token)).unwrap();
    let pass = Pass::ticket(&last.ticket, last.ca.clone().try_into().unwrap());
    peers[0].run(peers[0].control().client_remove(name)).unwrap();
    assert_eq!(ticket(Some(&token)).unwrap_err().code(), tonic::Code::Unauthenticated);
    let refused = ask(&pass, Some(&pass)).unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unauthenticated, "its holder is gone");

    let daemon = &peers[0];
    daemon.run(async {
        let channel = connect::unix(&daemon.config.control_socket()).await.unwrap();
        let request = WatchMapRequest { volume: "gv0".into(), known_version: 0 };
        let mut maps = VolumeClient::new(channel).watch_map(request).await.unwrap().into_inner();
        let first = maps.message().await.unwrap().unwrap();
        let map: proto::map::VolumeMap = serde_json::from_slice(&first.map).unwrap();
        let entry = proto_rules::set::SetEntry::Bump { epoch: map.sets[0].epoch };
        let set = SetKey { volume: map.volume, set: SetId(0) };
        daemon.pool().propose_one(set, entry).await.unwrap();
        let committed = Instant::now();
        let second = maps.message().await.unwrap().unwrap();
        println!("map after {:?}", committed.elapsed());
        assert!(committed.elapsed() < Duration::from_millis(50));
        assert!(second.version > first.version);
    });
}

#[test]
fn a_silent_member_is_evicted_after_another_stopped_promising_and_a_link_cut_never_costs_the_lead()
{
    let dir = tempfile::tempdir().unwrap();
    let mut peers = pooled(dir.path(), 7, 3);
    create(&peers, "gv0", "/bricks/b1").unwrap();
    start(&peers, "gv0");
    let volume = peers[0].pool().state().volume_by_name("gv0").unwrap().clone();
    let set = SetKey { volume: volume.id, set: SetId(0) };
    let brick = |n: usize| volume.sets[0].members[n].brick;
    let first = epoch(&peers[0]);

    // Only the link between A (the lead) and B is cut: C, and the pool's leader, hear both.
    let lack = |holder, giver| Lack { set, epoch: first, holder, giver };
    let lacks = vec![lack(brick(0), brick(1)), lack(brick(1), brick(0))];
    let from = peers[0].pool().id();
    peers[0].run(peers[0].pool().report(Report::Lacks { from, lacks }));
    wait("B goes", SOON, || epoch(&peers[0]) > first);
    let map = peers[0].pool().state().volume_by_name("gv0").unwrap().sets[0].clone();
    assert_eq!(map.member(brick(1)).unwrap().state, MemberState::Out);
    assert_eq!(map.lead, Some(brick(0)));
    let asked = |p: &Daemon| p.bricks.stopped.lock().unwrap().contains(&(set, first, brick(1)));
    assert!(asked(&peers[0]) || asked(&peers[2]));

    // C dies; only A is left to say so.
    let second = map.epoch;
    peers[2].kill();
    let lacks = vec![Lack { set, epoch: second, holder: brick(0), giver: brick(2) }];
    wait("C goes", SOON, || {
        let report = Report::Lacks { from, lacks: lacks.clone() };
        peers[0].run(peers[0].pool().report(report));
        std::thread::sleep(Duration::from_millis(100));
        epoch(&peers[0]) > second
    });
    let map = peers[0].pool().state().volume_by_name("gv0").unwrap().sets[0].clone();
    assert_eq!(map.in_sync().count(), 1);
    let stay = PeerCanStopRequest { host: host(&peers[0]) };
    let reply = peers[0].run(peers[0].control().peer_can_stop(stay)).unwrap().into_inner();
    assert!(!reply.can_stop && reply.reasons[0].contains("only in-sync copy"), "{reply:?}");

    // C's daemon comes back under a new incarnation: syncing, not in-sync.
    peers[2].restart();
    wait("C syncs", SOON, || {
        let map = peers[0].pool().state().volume_by_name("gv0").unwrap().sets[0].clone();
        map.member(brick(2)).unwrap().state == MemberState::Syncing
    });
    let request = VolumeStatusRequest { name: "gv0".into(), detail: false };
    let status = peers[0].run(peers[0].control().volume_status(request)).unwrap().into_inner();
    assert!(status.volumes[0].alarms.iter().any(|a| a.contains("changes need 2")));
}
