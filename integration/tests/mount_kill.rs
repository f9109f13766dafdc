//! kill -9 of the mount during writes: the replicas are equal after the heal, and what was closed
//! is there. And the other way round: a mount ends though nobody is left to hear it.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use integration::cluster::{Cluster, Spec};
use integration::load::{Load, Plan};
use integration::need::Need;
use integration::run::{rounds, test};

fn body() -> Result<()> {
    let mut cluster = Cluster::with_volume(Spec { disk_mib: 1024, ..Spec::new("mkill") })?;
    let mut mount = cluster.mount(0, "gv0", "")?;
    // A second mount lives through it all: what one mount leaves behind must not hold it up.
    let other = cluster.mount(1, "gv0", "")?;
    for seed in 0..rounds(2) {
        let dir = mount.point().join(format!("w{seed}"));
        let plan = Plan { seed, threads: 4, errors_expected: true, ..Plan::default() };
        let load = Load::start(&dir, plan)?;
        load.wait_operations(150 + 37 * seed % 200, Duration::from_secs(30))?;
        mount.kill();
        let (model, report) = load.finish()?;
        ensure!(!report.errors.is_empty(), "the writer did not notice the death of its mount");
        // The session is dead after its leases; then what it left unfinished is settled.
        cluster.wait_healed("gv0", Duration::from_secs(60))?;
        mount.again().context("mount again")?;
        let checked = model.verify_settled().context("through a new mount")?;
        ensure!(checked > 0, "no file was settled when the mount died");
        let seen = other.point().join(format!("w{seed}"));
        let names = std::fs::read_dir(&seen).context("the other mount")?.count();
        ensure!(names > 0, "the other mount sees nothing of it");
        integration::sys::shell(&seen, "find . -type f -exec cat {} + >/dev/null", LIMIT)?;
        cluster.wait_healed("gv0", Duration::from_secs(60))?;
        let entries = cluster.demand_equal_bricks("gv0").with_context(|| format!("seed {seed}"))?;
        println!(
            "seed {seed}: {} operations, {checked} settled files found, {entries} entries equal",
            report.operations
        );
    }
    mount.unmount()?;
    drop(other);
    cluster.passed();
    Ok(())
}

const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn a_mount_killed_during_writes_leaves_equal_bricks() {
    test("a_mount_killed", &[Need::Root, Need::Xfs, Need::Fuse], body);
}

/// A mount that has nothing to write back waits for nobody: it says goodbye for a second at most.
const UMOUNT_MAX: Duration = Duration::from_secs(5);

fn all_daemons_gone() -> Result<()> {
    let mut cluster = Cluster::with_volume(Spec::new("gone"))?;
    let mut mount = cluster.mount(0, "gv0", "")?;
    let dir = mount.point().join("d");
    fs::create_dir(&dir)?;
    fs::write(dir.join("f"), vec![7; 100_000])?;
    ensure!(fs::read(dir.join("f"))?.len() == 100_000 && fs::read_dir(&dir)?.count() == 1);
    for node in &mut cluster.nodes {
        node.kill();
    }
    // Its leases run out, its connections have ended, new ones are refused.
    std::thread::sleep(Duration::from_secs(3));
    let began = Instant::now();
    mount.unmount()?;
    let took = began.elapsed();
    ensure!(took < UMOUNT_MAX, "umount and the end of the mount took {took:?}");
    cluster.passed();
    Ok(())
}

#[test]
fn an_idle_mount_ends_at_once_when_all_daemons_are_gone() {
    test("all_daemons_gone", &[Need::Root, Need::Xfs, Need::Fuse], all_daemons_gone);
}
