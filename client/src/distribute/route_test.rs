use proto::fop::{Call, Create, Getattr, Link, Readdir, Rename, Statfs, Unlink};
use proto::placement::slot_of_name;
use proto::{Gfid, VolumeId};

use super::*;
use crate::test_map::volume_map;

fn two_sets() -> VolumeMap {
    volume_map(VolumeId::random(), 2, 1)
}

fn name_on(map: &VolumeMap, set: u32, not: &str) -> String {
    let on = |n: &String| {
        map.slots[usize::from(slot_of_name(Gfid::ROOT, 64, n.as_bytes()).0)] == SetId(set)
    };
    (0..).map(|i| format!("n{i}")).find(|n| on(n) && n != not).unwrap()
}

#[test]
fn a_name_goes_to_its_buckets_set_and_an_unknown_directory_is_asked_for() {
    let map = two_sets();
    let buckets = BucketMemory::default();
    let router = Router { map: &map, buckets: &buckets };
    let unlink = |name: &str| {
        let name = name.to_owned().into();
        Call::new(Unlink { parent: Gfid::ROOT, name, ..Unlink::default() }).fop
    };
    assert_eq!(router.place(&unlink("x")), Place::Unknown(Gfid::ROOT));
    buckets.learn(Gfid::ROOT, 64);
    for set in [0, 1] {
        let name = name_on(&map, set, "");
        assert_eq!(router.place(&unlink(&name)), Place::One(SetId(set)));
    }
}

#[test]
fn a_created_inode_lives_with_its_name() {
    let map = two_sets();
    let buckets = BucketMemory::default();
    buckets.learn(Gfid::ROOT, 64);
    let router = Router { map: &map, buckets: &buckets };
    let name = name_on(&map, 1, "");
    let gfid = Gfid::new(slot_of_name(Gfid::ROOT, 64, name.as_bytes()), [3; 14]);
    let create = Create {
        parent: Gfid::ROOT,
        name: name.into(),
        gfid,
        mode: 0o100_644,
        ..Create::default()
    };
    assert_eq!(router.place(&create.into()), Place::One(SetId(1)));
    assert_eq!(router.place(&Getattr { gfid }.into()), Place::One(SetId(1)));
}

#[test]
fn renames_and_links_across_sets_are_refused_like_across_file_systems() {
    let map = two_sets();
    let buckets = BucketMemory::default();
    buckets.learn(Gfid::ROOT, 64);
    let router = Router { map: &map, buckets: &buckets };
    let here = name_on(&map, 0, "");
    let also_here = name_on(&map, 0, &here);
    let there = name_on(&map, 1, "");
    let gfid = Gfid::new(slot_of_name(Gfid::ROOT, 64, here.as_bytes()), [3; 14]);
    let rename = |to: &str| {
        router.place(&Fop::from(Rename {
            from_parent: Gfid::ROOT,
            from_name: here.clone().into(),
            to_parent: Gfid::ROOT,
            to_name: to.to_owned().into(),
            expect_from: gfid,
            ..Rename::default()
        }))
    };
    assert_eq!(rename(&also_here), Place::One(SetId(0)));
    assert_eq!(rename(&there), Place::Refused(Errno::EXDEV));
    let link = Link { gfid, parent: Gfid::ROOT, name: there.into() };
    assert_eq!(router.place(&link.into()), Place::Refused(Errno::EXDEV));
}

#[test]
fn a_directory_of_many_buckets_is_read_from_all_its_sets() {
    let map = two_sets();
    let buckets = BucketMemory::default();
    buckets.learn(Gfid::ROOT, 64);
    let router = Router { map: &map, buckets: &buckets };
    let readdir = Readdir { gfid: Gfid::ROOT, limit: 10, ..Readdir::default() };
    assert_eq!(router.place(&readdir.into()), Place::Each(vec![SetId(0), SetId(1)]));
    assert_eq!(router.parts(Gfid::ROOT, 1).len(), 1);
    let statfs = Statfs { gfid: Gfid::ROOT };
    assert_eq!(router.place(&statfs.into()), Place::Each(vec![SetId(0), SetId(1)]));
}
