//! The copier over two real stores in one process: whatever differs becomes equal.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use proto::fop::{Call, Create, Fop, InspectDir, Rename, Setattr, SweepParked, Unlink, Write};
use proto::{BrickId, Errno, Gfid, Kind, Meta, SetId, SlotId, Stamp, VolumeId};
use server_store::{Config, Ctx, NewBrick, Store};

use super::inode::Data;
use super::progress::Progress;
use super::round::{self, Item, Round};
use super::side::{self, Answered, Side};

/// A store as one side; runs everything inline.
pub struct Local {
    store: Mutex<Store>,
    interval: u64,
}

impl Side for Local {
    fn call(&self, call: Call) -> Answered<'_> {
        let ctx = Ctx { interval: self.interval, defer_sync: false };
        let result = self.store.lock().expect("no panic inside").execute(&call, &ctx);
        Box::pin(std::future::ready(result.map_err(Into::into)))
    }
}

/// A store that counts what it is asked.
struct Counted {
    local: Arc<Local>,
    calls: Mutex<BTreeMap<&'static str, usize>>,
}

impl Counted {
    fn new(local: &Arc<Local>) -> Arc<Counted> {
        Arc::new(Counted { local: local.clone(), calls: Mutex::default() })
    }

    fn calls(&self) -> Vec<(&'static str, usize)> {
        self.calls.lock().expect("fine").clone().into_iter().collect()
    }
}

impl Side for Counted {
    fn call(&self, call: Call) -> Answered<'_> {
        *self.calls.lock().expect("fine").entry(call.fop.op().name()).or_default() += 1;
        self.local.call(call)
    }
}

pub struct Pair {
    pub a: Arc<Local>,
    pub b: Arc<Local>,
    stamp: u64,
    dirs: [tempfile::TempDir; 2],
}

impl Local {
    /// A change of this side alone.
    pub fn change(&self, fop: impl Into<Fop>) {
        let mut call = Call::new(fop);
        call.stamp = Stamp(9_000_000_000);
        let ctx = Ctx { interval: self.interval, defer_sync: false };
        self.store.lock().expect("no panic inside").execute(&call, &ctx).expect("changed");
    }
}

fn store(dir: &Path, volume: VolumeId) -> Store {
    let new = NewBrick {
        brick: BrickId::random(),
        volume,
        set: SetId(0),
        dir_buckets: 64,
        stamp: Stamp(1_000),
    };
    Store::create(dir, &new, true, Config::default()).expect("a fresh folder")
}

impl Pair {
    pub fn new() -> Pair {
        let dirs = [(); 2].map(|()| tempfile::tempdir().expect("temp folder"));
        let volume = VolumeId::random();
        let local = |n: usize| {
            Arc::new(Local { store: Mutex::new(store(dirs[n].path(), volume)), interval: 7 })
        };
        Pair { a: local(0), b: local(1), stamp: 1_000_000, dirs }
    }

    /// Runs a change on A, and on B too when `both`.
    fn change(&mut self, both: bool, fop: impl Into<Fop>, payload: &[u8]) -> Result<(), Errno> {
        self.stamp += 1_000;
        let mut call = Call::new(fop).with_payload(Bytes::copy_from_slice(payload));
        call.stamp = Stamp(self.stamp);
        let ctx = Ctx { interval: 7, defer_sync: false };
        self.a.store.lock().expect("fine").execute(&call, &ctx)?;
        if both {
            self.b.store.lock().expect("fine").execute(&call, &ctx)?;
        }
        Ok(())
    }

    pub fn create(&mut self, both: bool, parent: Gfid, name: &str, id: u8, dir: bool) -> Gfid {
        let gfid = Gfid::new(SlotId(3), [id; 14]);
        let mode = if dir { 0o040_755 } else { 0o100_644 };
        let create = Create {
            parent,
            name: Bytes::copy_from_slice(name.as_bytes()),
            gfid,
            mode,
            buckets: if dir { 64 } else { 0 },
            ..Create::default()
        };
        self.change(both, create, b"").expect("created");
        gfid
    }

    pub fn write(&mut self, both: bool, gfid: Gfid, offset: u64, data: &[u8]) {
        let write = Write { gfid, offset, len: data.len() as u64, ..Write::default() };
        self.change(both, write, data).expect("written");
    }

    fn unlink(&mut self, both: bool, name: &'static str, expect: Gfid) {
        let unlink = Unlink { parent: Gfid::ROOT, name: name.into(), expect, keep: false };
        self.change(both, unlink, b"").expect("unlinked");
    }

    fn run(&self, items: Vec<Item>) -> Arc<Progress> {
        let progress = Arc::new(Progress::default());
        let round = Round::new(self.a.clone(), self.b.clone(), progress.clone());
        block_on(async {
            round.run(items).await.expect("both stores are healthy");
            side::done(&*self.b, Call::new(SweepParked { keep: vec![] })).await.expect("swept");
        });
        progress
    }

    pub fn assert_equal(&self) {
        let (a, b) = (tree(&*self.a), tree(&*self.b));
        assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>());
        assert_eq!(a, b);
    }
}

fn block_on<T>(f: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(f)
}

/// Path → everything about its inode and, for a file, its data.
fn tree(side: &dyn Side) -> BTreeMap<String, String> {
    let mut out = BTreeMap::new();
    block_on(walk(side, Gfid::ROOT, String::new(), &mut out));
    out
}

async fn walk(side: &dyn Side, gfid: Gfid, path: String, out: &mut BTreeMap<String, String>) {
    let mut image = side::inspect(side, gfid).await.expect("inspect");
    image.attr.blocks = 0;
    let mut text = format!("{:?} {:?} {:?}", image.attr, image.meta, image.xattrs);
    match image.attr.kind() {
        Kind::File => {
            let data = side::read(side, gfid, 0, 4 << 20).await.expect("read");
            text += &format!(" data {:x}", xxhash_rust::xxh3::xxh3_64(&data));
        }
        Kind::Directory => {
            for entry in side::names(side, gfid).await.expect("names") {
                let name = String::from_utf8_lossy(&entry.name).into_owned();
                Box::pin(walk(side, entry.gfid, format!("{path}/{name}"), out)).await;
            }
        }
        _ => {}
    }
    out.insert(path, text);
}

fn logged(pair: &Pair) -> Vec<Item> {
    let list = block_on(side::changed(&*pair.a, 7, false)).expect("log");
    assert!(!list.compare_all);
    round::items(&[&list])
}

#[test]
fn what_one_brick_missed_is_copied_from_the_log() {
    let mut pair = Pair::new();
    let kept = pair.create(true, Gfid::ROOT, "kept", 1, false);
    let gone = pair.create(true, Gfid::ROOT, "gone", 2, false);
    pair.write(true, kept, 0, &[1; 300_000]);
    pair.write(false, kept, 140_000, b"new bytes");
    pair.unlink(false, "gone", gone);
    let dir = pair.create(false, Gfid::ROOT, "dir", 3, true);
    let inner = pair.create(false, dir, "inner", 4, false);
    pair.write(false, inner, 5_000, b"behind a hole");
    let set = Meta { mode: Some(0o600), ..Meta::default() };
    pair.change(false, Setattr { gfid: inner, set, ..Setattr::default() }, b"").expect("chmod");
    let progress = pair.run(logged(&pair));
    pair.assert_equal();
    let copied = progress.snapshot().bytes;
    assert!(copied < 200_000, "only the block that differs is copied, not {copied} bytes");
}

/// Trap 29: the name goes first, the directory that has it now is healed later.
#[test]
fn trap_29_a_rename_seen_half_way_moves_no_data() {
    let mut pair = Pair::new();
    let dir = pair.create(true, Gfid::ROOT, "dir", 1, true);
    let file = pair.create(true, Gfid::ROOT, "file", 2, false);
    pair.write(true, file, 0, &[7; 500_000]);
    let rename = Rename {
        from_parent: Gfid::ROOT,
        from_name: "file".into(),
        to_parent: dir,
        to_name: "moved".into(),
        expect_from: file,
        ..Rename::default()
    };
    pair.change(false, rename, b"").expect("renamed");
    let progress = pair.run(logged(&pair));
    pair.assert_equal();
    assert_eq!(progress.snapshot().bytes, 0);
}

#[test]
fn an_empty_brick_is_filled_from_the_root() {
    let mut pair = Pair::new();
    let dir = pair.create(false, Gfid::ROOT, "d", 1, true);
    let deep = pair.create(false, dir, "e", 2, true);
    for id in 10..40 {
        let file = pair.create(false, deep, &format!("f{id}"), id, false);
        pair.write(false, file, 0, &vec![id; 3_000 * usize::from(id)]);
    }
    pair.run(vec![Item::whole(Gfid::ROOT)]);
    pair.assert_equal();
}

#[test]
fn a_full_comparison_finds_what_no_log_names() {
    let mut pair = Pair::new();
    let file = pair.create(true, Gfid::ROOT, "f", 1, false);
    pair.write(true, file, 0, &[1; 400_000]);
    pair.write(false, file, 200_000, b"silent");
    pair.run(vec![Item::whole(Gfid::ROOT)]);
    pair.assert_equal();
}

#[test]
fn an_inode_whose_data_is_said_to_be_equal_is_not_read() {
    let mut pair = Pair::new();
    let file = pair.create(true, Gfid::ROOT, "f", 1, false);
    pair.write(true, file, 0, &[1; 400_000]);
    let item = Item { gfid: file, names: false, data: Data::None, deep: false };
    let progress = pair.run(vec![item]);
    assert_eq!(progress.snapshot().bytes, 0);
    let page = InspectDir { gfid: Gfid::ROOT, limit: 10, ..InspectDir::default() };
    assert!(block_on(pair.b.call(Call::new(page))).is_ok());
}

/// A look at both sides, and everything in one piece.
#[test]
fn a_small_file_that_changed_costs_three_requests() {
    let mut pair = Pair::new();
    for id in 1..=10 {
        let file = pair.create(true, Gfid::ROOT, &format!("f{id}"), id, false);
        pair.write(true, file, 0, &[id; 9000]);
        pair.write(false, file, 0, &[id + 100; 8000]);
    }
    let mut items = logged(&pair);
    items.retain(|item| !item.names);
    assert_eq!(items.len(), 10);
    let (from, to) = (Counted::new(&pair.a), Counted::new(&pair.b));
    let round = Round::new(from.clone(), to.clone(), Arc::default());
    block_on(round.run(items)).expect("both stores are healthy");
    assert_eq!(from.calls(), [("Inspect", 10)]);
    assert_eq!(to.calls(), [("Inspect", 10), ("Install", 10)]);
    pair.assert_equal();
}

/// The same for one that the sink lacks, and its name.
#[test]
fn a_small_file_that_is_new_costs_four_requests() {
    let mut pair = Pair::new();
    for id in 1..=10 {
        let file = pair.create(false, Gfid::ROOT, &format!("f{id}"), id, false);
        pair.write(false, file, 0, &[id; 9000]);
    }
    let root = Item { gfid: Gfid::ROOT, names: true, data: Data::None, deep: false };
    let (from, to) = (Counted::new(&pair.a), Counted::new(&pair.b));
    let round = Round::new(from.clone(), to.clone(), Arc::default());
    block_on(round.run(vec![root])).expect("both stores are healthy");
    // Two looks at the directory itself: before its names and after them.
    assert_eq!(from.calls(), [("Inspect", 12), ("InspectDir", 1)]);
    let names = [("Inspect", 12), ("InspectDir", 1), ("Install", 11), ("InstallName", 10)];
    assert_eq!(to.calls(), names);
    pair.assert_equal();
}

/// Several extents at once, holes and what was cut off too.
#[test]
fn a_big_file_is_copied_where_it_changed() {
    let mut pair = Pair::new();
    let file = pair.create(true, Gfid::ROOT, "big", 1, false);
    pair.write(true, file, 0, &vec![1; 3 << 20]);
    for at in [0, 5 << 17, 19 << 17] {
        pair.write(false, file, at, b"changed");
    }
    pair.write(false, file, 40 << 20, b"far away");
    let progress = pair.run(logged(&pair));
    pair.assert_equal();
    let copied = progress.snapshot().bytes;
    assert!(copied <= 4 * proto::fop::BLOCK_BYTES, "four blocks, not {copied} bytes");
}

/// What a create left that a kill cut off has no record: no listing shows it, and the heal of
/// its directory takes it away all the same.
#[test]
fn a_leftover_on_the_sink_does_not_stay() {
    let mut pair = Pair::new();
    pair.create(false, Gfid::ROOT, "new", 1, false);
    let cut = pair.dirs[1].path().join("cut");
    std::fs::write(&cut, b"").expect("a file by hand");
    pair.run(logged(&pair));
    pair.assert_equal();
    assert!(!cut.exists());
}

/// Trap 30: an inode that is open and has no name is in no directory. It is on every list, and
/// one that the source has forgotten goes.
#[test]
fn open_unlinked_inodes_are_made_equal_by_every_list() {
    let mut pair = Pair::new();
    let (kept, gone) = (
        pair.create(true, Gfid::ROOT, "kept", 1, false),
        pair.create(true, Gfid::ROOT, "gone", 2, false),
    );
    pair.write(true, kept, 0, &[3; 10_000]);
    for (name, expect) in [("kept", kept), ("gone", gone)] {
        let unlink = Unlink { parent: Gfid::ROOT, name: name.into(), expect, keep: true };
        pair.change(true, unlink, b"").expect("unlinked");
    }
    pair.write(false, kept, 0, &[4; 10_000]);
    pair.change(false, proto::fop::Forget { gfid: gone }, b"").expect("forgotten");
    let lists =
        [&pair.a, &pair.b].map(|s| block_on(side::changed(&**s, u64::MAX, false)).expect("list"));
    let mut items = vec![Item::whole(Gfid::ROOT)];
    items.extend(round::nameless(&[&lists[0], &lists[1]]));
    pair.run(items);
    let bytes = block_on(side::read(&*pair.b, kept, 0, 20_000)).expect("it is there");
    assert_eq!(bytes, vec![4; 10_000]);
    let found = block_on(side::inspect(&*pair.b, gone)).expect("answer").found;
    assert!(!found, "nobody has it open any more");
}
