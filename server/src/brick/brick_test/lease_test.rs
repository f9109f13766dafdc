//! Which leases come with what is looked at, and which wait for whom.

use std::time::{Duration, Instant};

use bytes::Bytes;
use prost::Message as _;
use proto::attr::Time;
use proto::fop::{
    Acquire, Answer, Create, DirEntry, Getattr, Grant, LeaseKey, Lookup, Mode, NAME_BYTES_MAX,
    READDIR_ENTRIES_MAX, Readdir, Recall, Release, ReturnMsg, Want,
};
use proto::frame::MESSAGE_BYTES_MAX;
use proto::map::MemberState;
use proto::{Attr, Epoch, Gfid, LeaseNumber};

use super::rig::{Ask, Client, Rig, gfid, want};
use super::{create, make, on_each_backend};
use crate::brick::io::Backend;

/// Gives back what a recall names.
fn give_back(client: &mut Client, recall: &Recall) {
    let back = ReturnMsg { key: recall.key, number: recall.number, keep: recall.keep, open: false };
    client.plain(Release { returns: vec![back], unpin: Vec::new() }).answer();
}

fn create_dir(client: &mut Client, name: &str, gfid: Gfid) {
    let part = LeaseKey::Part(Gfid::ROOT);
    let number = client.lease(part, Mode::Exclusive);
    let dir = Create { mode: 0o040_755, buckets: 64, ..create(name, gfid) };
    client.change(dir, b"", part, number).answer();
}

/// Takes the inode lease that the creator of `gfid` has away from it.
fn drop_lease(client: &mut Client, key: LeaseKey) {
    let mut ask = Ask::new(Acquire {});
    ask.wants = vec![want(key, Mode::Shared)];
    let number = client.ask_patiently(&ask).grant(key).expect("held").number;
    let back = ReturnMsg { key: key.into(), number, keep: Mode::None as i32, open: false };
    client.plain(Release { returns: vec![back], unpin: Vec::new() }).answer();
}

/// Whoever changes names in a directory moves its times: nobody else keeps them meanwhile.
#[test]
fn a_directorys_attributes_are_kept_by_nobody_while_another_changes_its_names() {
    on_each_backend(1, |rig| {
        let (mut maker, mut looker) = (rig.client(1), rig.client(2));
        let dir = gfid(1);
        create_dir(&mut maker, "d", dir);
        let (inode, part) = (LeaseKey::Inode(dir), LeaseKey::Part(dir));
        drop_lease(&mut maker, inode);
        let mut look = Ask::new(Getattr { gfid: dir });
        look.wants = vec![want(inode, Mode::Shared)];
        assert!(looker.ask(&look).grant(inode).is_some(), "nobody changes names yet");
        let mut take = Ask::new(Acquire {});
        take.wants = vec![want(part, Mode::Exclusive)];
        let id = maker.send(&take);
        let recall = looker.recall();
        assert_eq!((LeaseKey::from(recall.key), recall.keep), (inode, Mode::None as i32));
        give_back(&mut looker, &recall);
        let got = maker.receive().unwrap();
        assert_eq!(got.header.request, id);
        assert_eq!(got.head.grants.len(), 1, "the part, and nothing of the inode");
        let number = got.grant(part).expect("granted after the return").number;
        let file = Create { parent: dir, ..create("f", gfid(2)) };
        maker.change(file, b"", part, number).answer();
        // It is told the truth of the moment, disturbs nobody, and keeps nothing.
        let got = looker.ask(&look);
        let Answer::Attr(after) = got.answer() else { panic!() };
        assert!(got.head.grants.is_empty(), "{:?}", got.head.grants);
        let lookup = Lookup { parent: Gfid::ROOT, name: "d".into(), data_bytes_max: 0 };
        let mut lookup = Ask::new(lookup);
        lookup.wants = vec![want(LeaseKey::Inode(Gfid::NIL), Mode::Shared)];
        let got = looker.ask(&lookup);
        let Answer::Entry(found) = got.answer() else { panic!() };
        assert_eq!(found.attr.mtime, after.mtime);
        assert!(got.grant(inode).is_none());
        let file = Create { parent: dir, ..create("g", gfid(3)) };
        maker.change(file, b"", part, number).answer();
        assert!(maker.recalls.is_empty(), "{:?}", maker.recalls);
        // A change of the directory's own attributes takes the part down to a shared one.
        let mut take = Ask::new(Acquire {});
        take.wants = vec![want(inode, Mode::Exclusive)];
        let id = looker.send(&take);
        let recall = maker.recall();
        assert_eq!((LeaseKey::from(recall.key), recall.keep), (part, Mode::Shared as i32));
        give_back(&mut maker, &recall);
        let got = looker.receive().unwrap();
        assert_eq!(got.header.request, id);
        assert!(got.grant(inode).is_some() && got.head.grants.len() == 1);
    });
}

/// A rename takes the part of what it replaces, whatever it is.
#[test]
fn a_plain_files_part_and_its_inode_are_granted_side_by_side() {
    on_each_backend(1, |rig| {
        let (mut one, mut other) = (rig.client(1), rig.client(2));
        let file = gfid(1);
        make(&mut one, "f", file);
        let (inode, part) = (LeaseKey::Inode(file), LeaseKey::Part(file));
        one.lease(inode, Mode::Shared);
        other.lease(part, Mode::Exclusive);
        assert!(one.recalls.is_empty());
        drop_lease(&mut one, inode);
        one.lease(inode, Mode::Shared);
        one.lease(inode, Mode::Exclusive);
    });
}

/// Trap 45, and the wish for each inode shown.
#[test]
fn a_listing_with_attributes_brings_the_leases_that_are_free_and_hides_what_is_not() {
    on_each_backend(1, |rig| {
        let (mut writer, mut reader) = (rig.client(1), rig.client(2));
        make(&mut writer, "held", gfid(1));
        make(&mut writer, "free", gfid(2));
        drop_lease(&mut writer, LeaseKey::Inode(gfid(2)));
        create_dir(&mut writer, "busy", gfid(3));
        drop_lease(&mut writer, LeaseKey::Inode(gfid(3)));
        writer.lease(LeaseKey::Part(gfid(3)), Mode::Exclusive);
        let list = Readdir { gfid: Gfid::ROOT, limit: 10, plus: true, ..Readdir::default() };
        let mut ask = Ask::new(list.clone());
        let nil = LeaseKey::Inode(Gfid::NIL);
        ask.wants = vec![Want { only_if_free: true, ..want(nil, Mode::Shared) }];
        let got = reader.ask(&ask);
        let Answer::Entries(page) = got.answer() else { panic!() };
        let shown = |gfid| page.entries.iter().find(|e| e.gfid == gfid).unwrap().attr.is_some();
        assert_eq!([1, 2, 3].map(|n| shown(gfid(n))), [false, true, true]);
        let granted: Vec<LeaseKey> =
            got.head.grants.iter().map(|g| LeaseKey::from(g.key)).collect();
        assert_eq!(granted, [LeaseKey::Inode(gfid(2))]);
        // Without the wish nothing is kept, and nobody is asked to give anything back.
        let got = reader.plain(list);
        assert!(got.head.grants.is_empty());
        assert!(writer.recalls.is_empty());
        assert_eq!(page.entries.len(), 3);
    });
}

/// The biggest page there is, with all its leases, is a message.
#[test]
fn a_full_page_with_leases_fits_into_a_message() {
    let key = LeaseKey::Part(Gfid([0xff; 16]));
    let number = LeaseNumber { base: u64::MAX, counter: u64::MAX };
    let grant = Grant { key: key.into(), mode: 2, number, term_ms: u32::MAX, pinned: true };
    let time = Time { sec: i64::MIN, ..Time::default() };
    let attr = Attr {
        gfid: Gfid([0xff; 16]),
        size: u64::MAX,
        blocks: u64::MAX,
        stamp: u64::MAX,
        atime: time,
        mtime: time,
        ctime: time,
        ..Attr::default()
    };
    let entry = DirEntry {
        name: Bytes::from(vec![b'x'; NAME_BYTES_MAX]),
        hash: u64::MAX,
        gfid: Gfid([0xff; 16]),
        kind: 1,
        attr: Some(attr),
    };
    let one = entry.encoded_len() + grant.encoded_len() + 200;
    assert!(one * READDIR_ENTRIES_MAX as usize + (64 << 10) < MESSAGE_BYTES_MAX);
}

/// An earlier lead that left or restarted has leased until then (an eviction waits it out).
#[test]
fn a_new_lead_grants_nothing_while_leases_of_an_earlier_one_may_run() {
    let Some(mut rig) = Rig::new(Backend::Auto, 3) else { return };
    let key = LeaseKey::Part(Gfid::ROOT);
    rig.client(1).lease(key, Mode::Exclusive);
    let began = Instant::now();
    let until = crate::brick::now().after(proto_rules::time::given(proto_rules::time::LEASE_TERM));
    rig.seats[1].handle.gate.set_leased_until(until);
    let next_lead = rig.map.sets[0].members[1].brick;
    rig.commit(|map| {
        let set = &mut map.sets[0];
        set.members[0].state = MemberState::Out;
        (set.lead, set.epoch) = (Some(next_lead), Epoch(6));
    });
    let mut other = rig.client_of(1, 2);
    other.epoch = Epoch(6);
    other.lease(key, Mode::Exclusive);
    assert!(began.elapsed() >= Duration::from_millis(1570), "{:?}", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
}

/// A removal takes the directory's inode and its part; a create in it takes the part only, and
/// waits for somebody else meanwhile. Neither may wait for what the other one's request holds.
#[test]
fn a_removal_and_a_create_in_the_same_directory_do_not_wait_for_each_other() {
    let Some(rig) = Rig::new(Backend::Auto, 1) else { return };
    let (mut reader, mut maker, mut remover) = (rig.client(1), rig.client(2), rig.client(3));
    let dir = gfid(1);
    create_dir(&mut reader, "d", dir);
    let (inode, part) = (LeaseKey::Inode(dir), LeaseKey::Part(dir));
    drop_lease(&mut reader, inode);
    reader.lease(part, Mode::Shared);
    let began = Instant::now();
    let mut make = Ask::new(Acquire {});
    make.wants = vec![want(part, Mode::Exclusive)];
    maker.send(&make);
    let recall = reader.recall();
    let mut remove = Ask::new(Acquire {});
    remove.wants = vec![want(inode, Mode::Exclusive), want(part, Mode::Exclusive)];
    remover.send(&remove);
    // Both wait: the remover holds the inode and is behind the maker.
    std::thread::sleep(Duration::from_millis(100));
    give_back(&mut reader, &recall);
    let got = remover.receive().unwrap();
    assert!(got.grant(inode).is_some() && got.grant(part).is_some());
    for _ in 0..2 {
        let recall = remover.recall();
        give_back(&mut remover, &recall);
    }
    assert!(maker.receive().unwrap().grant(part).is_some());
    assert!(began.elapsed() < Duration::from_millis(1000), "{:?}", began.elapsed());
}

/// Trap 26: two mounts create in one directory, which both have read. Each asks for its part and
/// has to wait until the other has given back the inode; neither may be left meanwhile with a
/// part of which it has not heard, and which the other one waits for.
#[test]
fn trap_26_nobody_waits_for_a_part_whose_holder_has_not_heard_of_it() {
    let Some(rig) = Rig::new(Backend::Auto, 1) else { return };
    let (mut one, mut other) = (rig.client(1), rig.client(2));
    let dir = gfid(1);
    create_dir(&mut one, "d", dir);
    let (inode, part) = (LeaseKey::Inode(dir), LeaseKey::Part(dir));
    drop_lease(&mut one, inode);
    drop_lease(&mut one, part);
    let known = one.lease(part, Mode::Shared);
    other.lease(part, Mode::Shared);
    let began = Instant::now();
    let mut make = Ask::new(Acquire {});
    make.wants = vec![want(part, Mode::Exclusive)];
    one.send(&make);
    let recall = other.recall();
    other.lease(inode, Mode::Shared);
    give_back(&mut other, &recall);
    // Granted to the first, and too early: the inode has to be cleared.
    let cleared = other.recall();
    assert_eq!(LeaseKey::from(cleared.key), inode);
    other.send(&make);
    let recall = one.recall();
    assert_eq!((LeaseKey::from(recall.key), recall.number), (part, known), "what it knows of");
    give_back(&mut other, &cleared);
    give_back(&mut one, &recall);
    assert!(other.receive().unwrap().grant(part).is_some());
    let recall = other.recall();
    give_back(&mut other, &recall);
    assert!(one.receive().unwrap().grant(part).is_some());
    assert!(began.elapsed() < Duration::from_millis(1000), "{:?}", began.elapsed());
}
