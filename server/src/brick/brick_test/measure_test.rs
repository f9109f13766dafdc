//! Round trips over loopback, for docs/performance.md. Run by hand:
//! `cargo test --release -p server measure -- --ignored --nocapture`.

use std::time::Instant;

use proto::fop::{Getattr, LeaseKey, Write};

use super::rig::{Ask, Rig, gfid, under};
use super::{make, on_each_backend};

const ROUNDS: u64 = 20_000;

/// User and system microseconds, voluntary and involuntary switches of the brick's thread.
fn thread_use() -> (u64, u64) {
    let task = std::fs::read_dir("/proc/self/task").unwrap().find_map(|entry| {
        let path = entry.ok()?.path();
        let name = std::fs::read_to_string(path.join("comm")).ok()?;
        name.starts_with("brick-").then_some(path)
    });
    let task = task.expect("the brick's thread");
    let schedstat = std::fs::read_to_string(task.join("schedstat")).unwrap();
    let cpu_ns: u64 = schedstat.split(' ').next().unwrap().parse().unwrap();
    let status = std::fs::read_to_string(task.join("status")).unwrap();
    let switches = status
        .lines()
        .filter(|line| line.contains("ctxt_switches"))
        .filter_map(|line| line.rsplit('\t').next()?.parse::<u64>().ok())
        .sum();
    (cpu_ns / 1000, switches)
}

fn measure(name: &str, mut round: impl FnMut(u64)) {
    (0..500).for_each(&mut round);
    let (cpu, switches) = thread_use();
    let began = Instant::now();
    (500..500 + ROUNDS).for_each(&mut round);
    let took = began.elapsed();
    let (cpu_after, switches_after) = thread_use();
    println!(
        "{name:28} {:6.1} us/op, brick thread {:5.1} CPU us/op, {:4.2} context switches/op",
        took.as_micros() as f64 / ROUNDS as f64,
        (cpu_after - cpu) as f64 / ROUNDS as f64,
        (switches_after - switches) as f64 / ROUNDS as f64,
    );
}

#[test]
#[ignore = "a measurement"]
fn measure_round_trips() {
    on_each_backend(1, |rig: &mut Rig| {
        let backend = rig.backend;
        let mut client = rig.client(1);
        let file = gfid(1);
        let key = LeaseKey::Inode(file);
        let number = make(&mut client, "f", file);
        let mut getattr = Ask::new(Getattr { gfid: file });
        getattr.under = under(key, number);
        measure(&format!("getattr ({backend:?})"), |i| {
            if i % 1000 == 0 {
                client.plain(proto::fop::Renew { mark: client.seq, ..Default::default() });
            }
            client.ask(&getattr).answer();
        });
        let data = vec![1; 4096];
        measure(&format!("write 4 KiB ({backend:?})"), |i| {
            if i % 1000 == 0 {
                client.plain(proto::fop::Renew { mark: client.seq, ..Default::default() });
            }
            let offset = (i % 1024) * 4096;
            let write = Write { gfid: file, offset, len: 4096, ..Write::default() };
            client.change(write, &data, key, number).answer();
        });
        // Sixteen in flight: what batching is worth.
        measure(&format!("getattr x16 ({backend:?})"), |i| {
            if i % 16 != 0 {
                return;
            }
            client.plain(proto::fop::Renew { mark: client.seq, ..Default::default() });
            for _ in 0..16 {
                client.send(&getattr);
            }
            for _ in 0..16 {
                client.receive().unwrap().answer();
            }
        });
    });
}
