//! Three bricks of one set: what the lead makes equal, and who leads next.

use std::time::{Duration, Instant};

use proto::fop::{
    Acquire, Answer, Changed, InspectDir, LeaseKey, Lock, MarkStale, Mode, PauseForJoin, PeerRead,
    Read, Renew, Want, Write as WriteFop,
};
use proto::map::MemberState;
use proto::{Epoch, Failure, Gfid, LeaseNumber, PeerId, Refusal};

use super::create;
use super::rig::{Ask, Client, Got, Rig, gfid, under, want};
use crate::brick::BrickCommand;
use crate::brick::handover::{self, Shipped};
use crate::brick::io::Backend;

/// A session's connections to all members.
fn everywhere(rig: &Rig, session: u64) -> Vec<Client> {
    (0..rig.seats.len()).map(|at| rig.client_of(at, session)).collect()
}

/// The same change at the members `at`, numbered `seq`, after all before it are settled.
fn change(
    clients: &mut [Client],
    at: &[usize],
    seq: u64,
    fop: impl Into<proto::fop::Fop>,
    payload: &'static [u8],
    lease: (LeaseKey, LeaseNumber),
) {
    change_above(seq - 1, clients, (at, seq), fop, payload, lease);
}

/// As `change`, while everything above `mark` is unsettled.
fn change_above(
    mark: u64,
    clients: &mut [Client],
    (at, seq): (&[usize], u64),
    fop: impl Into<proto::fop::Fop>,
    payload: &'static [u8],
    lease: (LeaseKey, LeaseNumber),
) {
    let mut ask = Ask::new(fop);
    ask.payload = payload.into();
    ask.under = under(lease.0, lease.1);
    (ask.seq, ask.mark) = (seq, mark);
    for member in at {
        clients[*member].ask_patiently(&ask).answer();
    }
}

fn bytes_at(rig: &Rig, at: usize, gfid: Gfid) -> Vec<u8> {
    let mut peer = rig.peer_client(at, PeerId::random());
    peer.epoch = rig.map.sets[0].epoch;
    peer.plain(PeerRead { gfid, offset: 0, len: 100 }).payload.to_vec()
}

fn names_at(rig: &Rig, at: usize) -> Vec<String> {
    let mut peer = rig.peer_client(at, PeerId::random());
    peer.epoch = rig.map.sets[0].epoch;
    let ask = InspectDir { gfid: Gfid::ROOT, limit: 100, ..InspectDir::default() };
    let Answer::Entries(list) = peer.plain(ask).answer() else { panic!() };
    list.entries.iter().map(|e| String::from_utf8_lossy(&e.name).into_owned()).collect()
}

fn write(gfid: Gfid, bytes: &[u8]) -> WriteFop {
    WriteFop { gfid, offset: 0, len: bytes.len() as u64, ..WriteFop::default() }
}

/// Traps 4 and 48: what one member has of a dead session's last changes is settled before
/// anybody is granted.
#[test]
fn a_dead_sessions_unfinished_changes_are_made_equal_before_the_next_grant() {
    let Some(rig) = Rig::new(Backend::Auto, 3) else { return };
    let (file, only) = (gfid(1), gfid(2));
    let mut dead = everywhere(&rig, 1);
    let part = LeaseKey::Part(Gfid::ROOT);
    let number = dead[0].lease(part, Mode::Exclusive);
    change(&mut dead, &[0, 1, 2], 1, create("file", file), b"", (part, number));
    let key = LeaseKey::Inode(file);
    change(&mut dead, &[0, 1, 2], 2, write(file, b"first"), b"first", (key, number));
    // The last two reach one member each, and not the lead.
    change_above(2, &mut dead, (&[1], 3), write(file, b"SECOND"), b"SECOND", (key, number));
    change_above(2, &mut dead, (&[2], 4), create("only", only), b"", (part, number));
    assert_eq!(bytes_at(&rig, 1, file), b"SECOND");
    drop(dead);
    let mut next = rig.client(2);
    std::thread::scope(|scope| {
        let renewing = scope.spawn(|| renew_for(&rig, 2, Duration::from_secs(4)));
        next.lease(key, Mode::Exclusive);
        next.lease(part, Mode::Exclusive);
        renewing.join().unwrap();
    });
    for at in 0..3 {
        assert_eq!(bytes_at(&rig, at, file), b"first", "member {at}");
        assert_eq!(names_at(&rig, at), ["file"], "member {at}");
    }
}

fn renew_for(rig: &Rig, session: u64, time: Duration) {
    let (began, mut client) = (Instant::now(), rig.client(session));
    while began.elapsed() < time {
        client.plain(Renew::default()).answer();
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn a_new_lead_settles_from_its_own_copy_and_takes_reclaims() {
    let Some(mut rig) = Rig::new(Backend::Auto, 3) else { return };
    let file = gfid(1);
    let mut session = everywhere(&rig, 1);
    let part = LeaseKey::Part(Gfid::ROOT);
    let number = session[0].lease(part, Mode::Exclusive);
    change(&mut session, &[0, 1, 2], 1, create("file", file), b"", (part, number));
    let key = LeaseKey::Inode(file);
    // The last change reached the old lead and the next one, not the third.
    change(&mut session, &[0, 1], 2, write(file, b"half"), b"half", (key, number));
    let next_lead = rig.map.sets[0].members[1].brick;
    rig.commit(|map| {
        let set = &mut map.sets[0];
        set.members[0].state = MemberState::Out;
        set.lead = Some(next_lead);
        set.epoch = Epoch(6);
    });
    session.iter_mut().for_each(|client| client.epoch = Epoch(6));
    let reclaim = Want {
        reclaim: Some(number),
        last_renewed_epoch: 5,
        open: true,
        ..want(key, Mode::Exclusive)
    };
    let mut ask = Ask::new(Acquire {});
    ask.wants = vec![reclaim];
    let got = session[1].ask_patiently(&ask);
    let again = got.grant(key).unwrap_or_else(|| panic!("{:?}", got.head)).number;
    assert!(again > number);
    assert_eq!(bytes_at(&rig, 2, file), b"half", "settled before the reclaim was answered");
    change(&mut session, &[1, 2], 3, write(file, b"more"), b"more", (key, again));
    let mut old = Ask::new(write(file, b"late"));
    old.payload = b"late".as_slice().into();
    old.under = under(key, number);
    (old.seq, old.mark) = (4, 3);
    for at in [1, 2] {
        assert_eq!(session[at].ask(&old).failure(), Failure::Refused(Refusal::StaleLease));
    }
    let out = session[0].receive();
    assert!(out.is_err(), "the member that is out has ended its client connections");
}

#[test]
fn a_lock_waits_for_its_holder_and_is_freed_by_its_death() {
    let Some(rig) = Rig::new(Backend::Auto, 1) else { return };
    let (mut holder, mut waiter) = (rig.client(1), rig.client(2));
    let lock = |kind, wait| Lock {
        gfid: Gfid::ROOT,
        owner: 1,
        start: 0,
        end: u64::MAX,
        kind,
        wait,
        ..Lock::default()
    };
    holder.ask_patiently(&Ask::new(lock(2, false))).answer();
    let refused = waiter.plain(lock(1, false)).failure();
    assert_eq!(refused, Failure::Errno(proto::Errno::EAGAIN));
    let id = waiter.send(&Ask::new(lock(1, true)));
    holder.plain(lock(0, false)).answer();
    assert_eq!(waiter.receive().unwrap().header.request, id);
    let id = holder.send(&Ask::new(lock(2, true)));
    drop(waiter);
    // Session 2 says nothing more; session 1 goes on renewing while it waits.
    std::thread::scope(|scope| {
        scope.spawn(|| renew_for(&rig, 1, Duration::from_secs(4)));
        assert_eq!(holder.receive().unwrap().header.request, id);
    });
}

/// A new lead holds what is claimed in its grace, before anybody else can have it; afterwards
/// nothing is claimed any more.
#[test]
fn locks_are_claimed_from_a_new_lead_in_its_grace_only() {
    let Some(mut rig) = Rig::new(Backend::Auto, 2) else { return };
    let lock = |kind, reclaim| Lock {
        gfid: Gfid::ROOT,
        owner: 1,
        end: 9,
        kind,
        reclaim,
        ..Lock::default()
    };
    let mut holder = everywhere(&rig, 1);
    let mut other = everywhere(&rig, 2);
    holder[0].ask_patiently(&Ask::new(lock(2, false))).answer();
    let late = Failure::Refused(Refusal::StaleLease);
    assert_eq!(holder[0].plain(lock(2, true)).failure(), late, "there is no grace");
    let next_lead = rig.map.sets[0].members[1].brick;
    rig.commit(|map| {
        let set = &mut map.sets[0];
        set.members[0].state = MemberState::Out;
        set.lead = Some(next_lead);
        set.epoch = Epoch(6);
    });
    let sessions = [&mut holder[1], &mut other[1]];
    sessions.into_iter().for_each(|client| client.epoch = Epoch(6));
    // Busy while it settles; `ask_patiently` would take the end of the grace for an answer, too.
    let claimed = holder[1].ask_patiently(&Ask::new(lock(2, true)));
    assert!(matches!(claimed.answer(), Answer::Locked(_)), "{:?}", claimed.head);
    let refused = other[1].ask_patiently(&Ask::new(lock(2, false))).failure();
    assert_eq!(refused, Failure::Errno(proto::Errno::EAGAIN), "after the grace, and held");
    assert_eq!(holder[1].plain(lock(2, true)).failure(), late);
    holder[1].plain(lock(0, false)).answer();
    other[1].plain(lock(2, false)).answer();
}

/// A joiner's pause holds changes back, is withdrawn when it takes too long, and what was held
/// is executed once when the joiner gives up.
#[test]
fn a_joiners_pause_holds_changes_and_ships_the_rules_state() {
    let Some(rig) = Rig::new(Backend::Auto, 1) else { return };
    let mut client = rig.client(1);
    let part = LeaseKey::Part(Gfid::ROOT);
    let number = client.lease(part, Mode::Exclusive);
    client.change(create("before", gfid(1)), b"", part, number).answer();
    let mut joiner = rig.peer_client(0, PeerId::random());
    let pause = |pause_ms| PauseForJoin { epoch: 5, pause_ms, ..PauseForJoin::default() };
    let Answer::HandOver(state) = joiner.plain(pause(100)).answer() else { panic!() };
    assert!(!state.rules.is_empty(), "it names the session, its window and its numbers");
    let mut ask = Ask::new(create("held", gfid(2)));
    ask.under = under(part, number);
    (ask.seq, ask.mark) = (2, 1);
    let id = client.send(&ask);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(names_at(&rig, 0), ["before"], "held back");
    assert_eq!(*rig.seats[0].told.0.lock().unwrap(), ["withdraw join"]);
    joiner.plain(pause(0)).answer();
    let got = client.receive().unwrap();
    assert_eq!(got.header.request, id);
    got.answer();
    let mut names = names_at(&rig, 0);
    names.sort();
    assert_eq!(names, ["before", "held"]);
}

/// A copy that answered otherwise is made equal at once, by the lead, and is read again.
#[test]
fn a_stale_copy_is_healed_at_once_and_its_mark_cleared() {
    let Some(rig) = Rig::new(Backend::Auto, 3) else { return };
    let file = gfid(1);
    let mut session = everywhere(&rig, 1);
    let part = LeaseKey::Part(Gfid::ROOT);
    let number = session[0].lease(part, Mode::Exclusive);
    change(&mut session, &[0, 1, 2], 1, create("file", file), b"", (part, number));
    let key = LeaseKey::Inode(file);
    change(&mut session, &[0, 1, 2], 2, write(file, b"first"), b"first", (key, number));
    // Member 1 has neither of these, and the client takes them for done.
    change(&mut session, &[0, 2], 3, write(file, b"SECOND"), b"SECOND", (key, number));
    change(&mut session, &[0, 2], 4, create("only", gfid(2)), b"", (part, number));
    session.iter_mut().for_each(|c| drop(c.plain(Renew { mark: 4, ..Renew::default() })));
    let brick = Gfid(*rig.map.sets[0].members[1].brick.as_bytes());
    for gfid in [file, Gfid::ROOT] {
        session[0].ask_patiently(&Ask::new(MarkStale { gfid, brick, clear: false })).answer();
    }
    assert_eq!(bytes_at(&rig, 1, file), b"first");
    drop(session);
    // Its leases run out, and are the lead's then.
    let began = Instant::now();
    while bytes_at(&rig, 1, file) != b"SECOND" || names_at(&rig, 1) != names_at(&rig, 0) {
        assert!(began.elapsed() < Duration::from_secs(15), "{:?}", names_at(&rig, 1));
        std::thread::sleep(Duration::from_millis(50));
    }
    let mut reader = rig.client(2);
    let number = reader.lease(key, Mode::Shared);
    let mut at_member = rig.client_of(1, 2);
    let mut read = Ask::new(Read { gfid: file, offset: 0, len: 10 });
    read.under = under(key, number);
    let mut got = at_member.ask_patiently(&read);
    while matches!(got.head.status(), proto::frame::Status::Failed(_)) {
        assert_eq!(got.failure(), Failure::Refused(Refusal::StaleCopy), "until the mark is gone");
        assert!(began.elapsed() < Duration::from_secs(20));
        reader.plain(Renew::default()).answer();
        std::thread::sleep(Duration::from_millis(20));
        got = at_member.ask_patiently(&read);
    }
    assert_eq!(&got.payload[..], b"SECOND");
}

/// Seed 9354 of the simulation: nobody but a brick that is away has a good copy. It comes in all
/// the same, and keeps that; whoever takes the stale one has it marked first.
#[test]
fn a_lead_with_the_only_copy_and_that_stale_lets_a_joiner_in() {
    let Some(mut rig) = Rig::new(Backend::Auto, 2) else { return };
    let file = gfid(1);
    let mut session = everywhere(&rig, 1);
    let part = LeaseKey::Part(Gfid::ROOT);
    let number = session[0].lease(part, Mode::Exclusive);
    change(&mut session, &[0, 1], 1, create("file", file), b"", (part, number));
    let members = &rig.map.sets[0].members;
    let (lead, other, peer) = (members[0].brick, members[1].brick, members[1].peer);
    // The creator's lease keeps the lead from healing it before the other is gone.
    let mark = MarkStale { gfid: file, brick: Gfid(*lead.as_bytes()), clear: false };
    session[0].ask_patiently(&Ask::new(mark)).answer();
    rig.commit(|map| {
        map.sets[0].members[1].state = MemberState::Syncing;
        map.sets[0].epoch = Epoch(6);
    });
    let mut joiner = rig.peer_client(0, peer);
    let mut listed = || {
        let ask = Ask::new(Changed { since: u64::MAX, limit: 10, ..Changed::default() });
        let Answer::ChangedList(list) = joiner.ask_patiently(&ask).answer() else { panic!() };
        list.stale
    };
    assert_eq!(listed(), [mark]);
    let mut joiner = rig.peer_client(0, peer);
    let mut pause = |pause_ms, keeps: Vec<Gfid>| {
        let joiner_id = Some(Gfid(*other.as_bytes()));
        let ask =
            Ask::new(PauseForJoin { epoch: 6, pause_ms, slow_us: 0, joiner: joiner_id, keeps });
        joiner.ask(&ask)
    };
    let refused = |got: Got| assert_eq!(got.failure(), Failure::Refused(Refusal::Busy));
    refused(pause(100, vec![gfid(9)]));
    assert!(matches!(pause(100, vec![file]).answer(), Answer::HandOver(_)), "it keeps its own");
    pause(0, Vec::new()).answer();
    // It takes the lead's: that is marked, and then it may.
    refused(pause(100, Vec::new()));
    let began = Instant::now();
    let taken = MarkStale { gfid: file, brick: Gfid(*other.as_bytes()), clear: false };
    while !listed().contains(&taken) {
        assert!(began.elapsed() < Duration::from_secs(10));
        std::thread::sleep(Duration::from_millis(10));
    }
    let got = pause(100, Vec::new());
    let Answer::HandOver(state) = got.answer() else { panic!() };
    let Shipped { state, .. } = handover::decode(&state.rules).expect("of this version");
    let mut marks = state.stale;
    marks.sort();
    let mut both = vec![(lead, file), (other, file)];
    both.sort();
    assert_eq!(marks, both);
}

/// The disk with the last good copy is lost for ever: by an administrator's word the stale one is
/// the good one, and is read again.
#[test]
fn the_last_stale_copy_is_trusted_by_command_and_read_again() {
    let Some(mut rig) = Rig::new(Backend::Auto, 2) else { return };
    let file = gfid(1);
    let mut session = everywhere(&rig, 1);
    let part = LeaseKey::Part(Gfid::ROOT);
    let number = session[0].lease(part, Mode::Exclusive);
    change(&mut session, &[0, 1], 1, create("file", file), b"", (part, number));
    let members = &rig.map.sets[0].members;
    let (lead, other) = (members[0].brick, members[1].brick);
    let mark = MarkStale { gfid: file, brick: Gfid(*lead.as_bytes()), clear: false };
    session[0].ask_patiently(&Ask::new(mark)).answer();
    let trust = |rig: &Rig, source| {
        let (answer, trusted) = tokio::sync::oneshot::channel();
        let command = BrickCommand::TrustCopies { source, answer };
        assert!(rig.seats[0].handle.inbox.blocking_send(command).is_ok());
        trusted.blocking_recv().unwrap()
    };
    assert_eq!(trust(&rig, lead), Ok(0), "there is a good one");
    rig.commit(|map| {
        map.sets[0].members[1].state = MemberState::Out;
        map.sets[0].epoch = Epoch(6);
    });
    let epoch_began = Instant::now();
    let patiently = |rig: &Rig, source| loop {
        match trust(rig, source) {
            Err(why) if why.contains("try again") => {
                assert!(epoch_began.elapsed() < Duration::from_secs(10), "{why}");
                std::thread::sleep(Duration::from_millis(20));
            }
            said => return said,
        }
    };
    assert!(patiently(&rig, other).unwrap_err().contains("not in-sync"));
    let mut reader = rig.client(2);
    let read = Ask::new(Read { gfid: file, offset: 0, len: 10 });
    assert_eq!(reader.ask_patiently(&read).failure(), Failure::Refused(Refusal::StaleCopy));
    assert_eq!(patiently(&rig, lead), Ok(1));
    // The first reader waited for the creator's lease to run out, and its own did meanwhile.
    rig.client(3).ask_patiently(&read).answer();
    assert_eq!(patiently(&rig, lead), Ok(0), "once");
}
