//! CPU per operation of one store on XFS, without network: `cargo run --release -p
//! server-store --example store_bench` as root.
//!
//! Prints wall and CPU microseconds per operation, and beside the main ones what the same
//! system calls cost when made directly on the same file system.

use std::time::Instant;

use bytes::Bytes;
use proto::fop::{Call, Create, Fop, Getattr, Lookup, Read, Readdir, Rename, Unlink, Write};
use proto::ids::{BrickId, Gfid, SetId, SlotId, Stamp, VolumeId};
use server_store::testing::Xfs;
use server_store::{Config, Ctx, NewBrick, Store};

const FILES: u64 = 20_000;

fn gfid(n: u64) -> Gfid {
    let mut random = [0; 14];
    random[6..].copy_from_slice(&(n + 1000).to_be_bytes());
    Gfid::new(SlotId((n % 8192) as u16), random)
}

fn name(n: u64) -> Bytes {
    format!("file-{n:08}").into()
}

struct Bench {
    store: Store,
    stamp: u64,
}

impl Bench {
    fn call(&mut self, fop: impl Into<Fop>, payload: Bytes) {
        self.stamp += 1000;
        let mut call = Call::new(fop).with_payload(payload);
        call.stamp = Stamp(self.stamp);
        let ctx = Ctx { interval: 1, defer_sync: false };
        self.store.execute(&call, &ctx).expect("executes");
    }

    fn run<F: Into<Fop>>(&mut self, what: &str, n: u64, each: impl Fn(u64) -> (F, Bytes)) {
        timed(what, n, |i| {
            let (fop, payload) = each(i);
            self.call(fop, payload);
        });
    }
}

/// User and system time of this thread, in microseconds.
fn cpu_us() -> f64 {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    t.tv_sec as f64 * 1e6 + t.tv_nsec as f64 / 1e3
}

fn timed(what: &str, n: u64, mut each: impl FnMut(u64)) {
    let (wall, cpu) = (Instant::now(), cpu_us());
    (0..n).for_each(&mut each);
    let wall = wall.elapsed().as_secs_f64() * 1e6 / n as f64;
    println!("{what:<40} {wall:8.2} us wall {:8.2} us cpu", (cpu_us() - cpu) / n as f64);
}

fn create(n: u64) -> Create {
    Create {
        parent: Gfid::ROOT,
        name: name(n),
        gfid: gfid(n),
        mode: 0o100_644,
        ..Create::default()
    }
}

fn main() {
    let Some(xfs) = Xfs::new(2048) else { return };
    direct(&xfs);
    let path = xfs.path().join("b");
    std::fs::create_dir(&path).expect("a fresh file system");
    let new = NewBrick {
        brick: BrickId::random(),
        volume: VolumeId::random(),
        set: SetId(0),
        dir_buckets: 64,
        stamp: Stamp(1),
    };
    let config = Config { fds_max: 512, ..Config::default() };
    let store = Store::create(&path, &new, false, config).expect("a new brick");
    let mut b = Bench { store, stamp: 1_000_000_000 };
    let none = Bytes::new;
    let block = Bytes::from(vec![7; 4096]);

    b.run("create (file, record, handle, log)", FILES, |n| (create(n), none()));
    let write =
        |n, offset| Write { gfid: gfid(n), offset, len: 4096, inside: true, ..Write::default() };
    b.run("write 4 KiB, new files, cold", FILES, |n| (write(n, 0), block.clone()));
    b.run("write 4 KiB, one hot file", FILES, |n| (write(1, n % 64 * 4096), block.clone()));
    b.run("read 4 KiB, one hot file", FILES, |n| {
        (Read { gfid: gfid(1), offset: n % 64 * 4096, len: 4096 }, none())
    });
    b.run("getattr, cached", FILES, |n| (Getattr { gfid: gfid(n % 256) }, none()));
    b.run("getattr, by handle", FILES, |n| (Getattr { gfid: gfid(n) }, none()));
    let lookup = |n| Lookup { parent: Gfid::ROOT, name: name(n), data_bytes_max: 0 };
    b.run("lookup", FILES, |n| (lookup(n), none()));
    let list = |limit, plus| Readdir { gfid: Gfid::ROOT, limit, plus, ..Readdir::default() };
    b.run("first listing of the directory (all names)", 1, |_| (list(1, false), none()));
    b.run("readdir 1000 names", 100, |_| (list(1000, false), none()));
    b.run("readdirplus 1000 names", 100, |_| (list(1000, true), none()));
    let moved = |n: u64| Bytes::from(format!("moved-{n:08}"));
    b.run("rename", FILES / 2, |n| {
        let rename = Rename {
            from_parent: Gfid::ROOT,
            from_name: name(n),
            to_parent: Gfid::ROOT,
            to_name: moved(n),
            expect_from: gfid(n),
            ..Rename::default()
        };
        (rename, none())
    });
    b.run("unlink", FILES / 2, |n| {
        let unlink = Unlink { parent: Gfid::ROOT, name: moved(n), expect: gfid(n), keep: false };
        (unlink, none())
    });
    b.store.close().expect("closes");
}

/// What the bare system calls cost here, as a scale for the above.
fn direct(xfs: &Xfs) {
    use std::os::unix::fs::FileExt;
    let dir = xfs.path().join("direct");
    std::fs::create_dir(&dir).expect("a fresh file system");
    let path = |n: u64| dir.join(format!("file-{n:08}"));
    timed("bare: create and close", FILES, |n| {
        drop(std::fs::File::create(path(n)).expect("creates"));
    });
    let file = std::fs::File::create(path(1)).expect("creates");
    let block = [7; 4096];
    timed("bare: pwrite 4 KiB, one hot file", FILES, |n| {
        file.write_all_at(&block, n % 64 * 4096).expect("writes");
    });
    timed("bare: unlink", FILES, |n| std::fs::remove_file(path(n)).expect("removes"));
}
