//! The promise replication stands on: the same changes leave the same brick, in every order
//! in which a correct sender may have them in flight.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use proto::attr::{Meta, Time};
use proto::error::Errno;
use proto::fop::{Answer, Fop, Inspect, Setattr, Touch, Unlink, Write};
use proto::ids::Gfid;

use crate::common::*;

/// Everything that must be equal on two bricks: by path, the record's bytes, owner, mode,
/// size, target, xattrs, the plain file's own modification time, and the data. (A plain
/// access time also moves when somebody reads the brick's tree; the record's does not.)
pub fn snapshot(b: &mut Brick) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    let mut todo = vec![(Gfid::ROOT, String::new())];
    for orphan in b.store().orphans().unwrap() {
        todo.push((orphan, format!("orphan {orphan}")));
    }
    while let Some((gfid, path)) = todo.pop() {
        let image = match b.call(Inspect { gfid, data_max: 0 }).unwrap().answer {
            Answer::Inspected(i) => i,
            other => panic!("{other:?}"),
        };
        let mut attr = image.attr;
        attr.blocks = 0;
        let data = if attr.kind() == proto::Kind::File { b.read(gfid) } else { Vec::new() };
        let plain = plain_times(b, &path, gfid);
        let line = format!(
            "{attr:?} {:?} {:?} {:?} {plain} {data:?}",
            image.meta, image.xattrs, image.target
        );
        all.insert(path.clone(), line);
        if attr.is_dir() {
            for e in b.names(gfid) {
                todo.push((e.gfid, format!("{path}/{}", String::from_utf8_lossy(&e.name))));
            }
        }
    }
    all
}

fn plain_times(b: &Brick, path: &str, gfid: Gfid) -> String {
    use std::os::unix::fs::MetadataExt;
    let path = match path.strip_prefix("orphan ") {
        Some(_) => b.path.join(format!(".brickwork/orphans/{gfid}")),
        None => b.path.join(path.trim_start_matches('/')),
    };
    let m = std::fs::symlink_metadata(path).unwrap();
    format!("{}.{}", m.mtime(), m.mtime_nsec())
}

/// One change with its stamp.
#[derive(Clone, Debug)]
struct Change {
    fop: Fop,
    data: Vec<u8>,
    stamp: u64,
}

/// Changes a sender may make on four files in two directories.
fn any_change() -> impl Strategy<Value = (Fop, Vec<u8>)> {
    let file = 10_u64..14;
    let dir = prop_oneof![Just(Gfid::ROOT), Just(gfid(1))];
    prop_oneof![
        4 => (file.clone(), 0_u64..20, 1_usize..6, any::<u8>()).prop_map(|(n, at, len, byte)| {
            // Inside the first 100 bytes, which every file has from its creation.
            let len64 = len as u64;
            let fop = Write { gfid: gfid(n), offset: at * 5, len: len64, inside: true, ..Write::default() };
            (Fop::from(fop), vec![byte; len])
        }),
        1 => (file.clone(), 0_u32..4).prop_map(|(n, bits)| {
            let set = Meta { mode: Some(0o600 + bits), ..Meta::default() };
            (Setattr { gfid: gfid(n), set, kill_privileges: false }.into(), Vec::new())
        }),
        1 => (prop_oneof![file.clone(), Just(1)], -5_i64..5).prop_map(|(n, sec)| {
            let mtime = Some(Time { sec, nsec: 3 });
            let set = Meta { mtime, atime: mtime, ..Meta::default() };
            (Setattr { gfid: gfid(n), set, kill_privileges: false }.into(), Vec::new())
        }),
        2 => (dir.clone(), 100_u64..130).prop_map(|(parent, n)| {
            (create(parent, &format!("n{n}"), n, FILE).into(), Vec::new())
        }),
        1 => (dir, 100_u64..130).prop_map(|(parent, n)| {
            let name = bytes(&format!("n{n}"));
            (Unlink { parent, name, expect: Gfid::NIL, keep: n % 2 == 0 }.into(), Vec::new())
        }),
    ]
}

fn conflict(a: &Fop, b: &Fop) -> bool {
    let gfids = |fop: &Fop| fop.touches().iter().map(Touch::gfid).collect::<Vec<_>>();
    let (x, y) = (a.touches(), b.touches());
    // An unlink without an expectation touches an inode its list does not name.
    let removes = |f: &Fop| matches!(f, Fop::Unlink(_));
    x.iter().any(|t| y.iter().any(|u| t.conflicts(u)))
        || ((removes(a) || removes(b)) && gfids(a)[0] == gfids(b)[0])
}

/// Another order in which the same changes may arrive: neighbours that do not conflict are
/// swapped by chance.
fn shuffled(changes: &[Change], swaps: &[bool]) -> Vec<Change> {
    let mut out = changes.to_vec();
    let mut swaps = swaps.iter().cycle();
    for _ in 0..4 {
        for i in 1..out.len() {
            let may = !conflict(&out[i - 1].fop, &out[i].fop);
            if may && swaps.next() == Some(&true) {
                out.swap(i - 1, i);
            }
        }
    }
    out
}

fn prepare(b: &mut Brick, parent: Gfid) {
    b.stamp = 2_000_000_000;
    for n in 10..14 {
        let fop = create(parent, &format!("f{n}"), n, FILE);
        b.stamp += 1000;
        b.full(fop, &[0; 105], b.stamp, false).unwrap();
    }
}

fn apply(b: &mut Brick, changes: &[Change]) -> Vec<(u64, Option<Errno>)> {
    let run = |c: &Change| (c.stamp, b.full(c.fop.clone(), &c.data, c.stamp, false).err());
    let mut outcomes: Vec<_> = changes.iter().map(run).collect();
    outcomes.sort_by_key(|(stamp, _)| *stamp);
    outcomes
}

/// Empties the volume for the next case: making a file system per case would take minutes.
fn clear(b: &mut Brick) {
    for dir in [gfid(1), Gfid::ROOT] {
        let Ok(_) = b.store().getattr(dir) else { continue };
        for e in b.names(dir) {
            if e.gfid == gfid(1) {
                let fop = proto::fop::Rmdir { parent: dir, name: e.name, expect: e.gfid };
                b.call(fop).unwrap();
            } else {
                let fop = Unlink { parent: dir, name: e.name, expect: e.gfid, keep: false };
                b.call(fop).unwrap();
            }
        }
    }
    for gfid in b.store().orphans().unwrap() {
        b.call(proto::fop::Forget { gfid }).unwrap();
    }
}

#[test]
fn commuting_changes_in_any_order_leave_equal_bricks() {
    let (Some(mut a), Some(mut b)) = (Brick::new(), Brick::new()) else { return };
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|c| c.parse().ok()).unwrap_or(60);
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    let changes = proptest::collection::vec(any_change(), 1..40);
    let swaps = proptest::collection::vec(any::<bool>(), 64);
    let mut base = 3_000_000_000;
    let bricks = std::cell::RefCell::new((&mut a, &mut b, &mut base));
    let run = TestRunner::new(config).run(&(changes, swaps), |(changes, swaps)| {
        let mut bricks = bricks.borrow_mut();
        let (a, b, base) = &mut *bricks;
        **base += 1_000_000_000;
        let stamped = (1..).zip(changes).map(|(i, (mut fop, data))| {
            // A gfid is never used twice.
            if let Fop::Create(create) = &mut fop {
                create.gfid = gfid(1000 + i);
            }
            Change { fop, data, stamp: **base + i * 7 }
        });
        let first: Vec<Change> = stamped.collect();
        let second = shuffled(&first, &swaps);
        for brick in [&mut **a, &mut **b] {
            clear(brick);
            brick.stamp = **base - 500_000_000;
            let stamp = brick.stamp;
            brick.full(create(Gfid::ROOT, "d", 1, DIR), b"", stamp, false).unwrap();
            prepare(brick, gfid(1));
        }
        prop_assert_eq!(apply(a, &first), apply(b, &second), "outcomes");
        let (left, right) = (snapshot(a), snapshot(b));
        let differs = |path: &&String| left.get(*path) != right.get(*path);
        let first = left.keys().chain(right.keys()).find(differs);
        let both = first.map(|path| (path, left.get(path), right.get(path)));
        prop_assert_eq!(both, None);
        Ok(())
    });
    run.unwrap();
}
