//! Disks that fail or hang under a writer: the brick leaves its set, says why, and comes back
//! only by a heal.

use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use integration::cluster::{Cluster, Spec};
use integration::load::{Load, Plan};
use integration::need::Need;
use integration::run::{judged, test};
use integration::sys;
use integration::xfs::Xfs;

/// An error is seen by the next request, and the rest is an eviction.
const PAUSE_MAX: Duration = Duration::from_secs(3);
/// A hanging request is waited for 10 s before its disk is given up.
const HANG_MAX: Duration = Duration::from_secs(15);
const HEAL_MAX: Duration = Duration::from_secs(90);

/// The image behind a mounted disk.
fn image_of(disk: &Path) -> Result<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/mounts")?;
    let disk = disk.to_string_lossy();
    let mut lines = mounts.lines().map(|l| l.split_whitespace());
    let device = lines.find_map(|mut words| {
        let (device, point) = (words.next()?, words.next()?);
        (point == disk).then(|| device.to_owned())
    });
    let device = device.with_context(|| format!("{disk} is not mounted"))?;
    let image = sys::must("losetup", &["-n", "-O", "BACK-FILE", &device])?;
    Ok(PathBuf::from(image.trim()))
}

/// What `volume status` says of a node's brick: state and reason.
fn brick_state(cluster: &Cluster, k: usize) -> Result<(String, String)> {
    let host = &cluster.nodes[k].host;
    for brick in cluster.brick_states("gv0")? {
        if brick["host"] == host.as_str() {
            let word = |key: &str| brick[key].as_str().unwrap_or_default().to_owned();
            return Ok((word("state"), word("reason")));
        }
    }
    bail!("status names no brick of {host}")
}

/// Waits until status shows the brick out of service, for a reason with `word`.
fn wait_out_with(cluster: &Cluster, k: usize, word: &str) -> Result<()> {
    let limit = Duration::from_secs(20);
    sys::wait_until("the brick to be out", limit, || {
        let (state, reason) = brick_state(cluster, k)?;
        let out = state != "in-sync" && reason.contains("out of service") && reason.contains(word);
        Ok(sys::Poll::of(out, || format!("{state}: {reason}")))
    })
    .map(drop)
}

/// The file system is mounted anew, as after a new cable: what was not on the disk is gone.
fn mount_anew(cluster: &mut Cluster, k: usize) -> Result<()> {
    let disk = cluster.nodes[k].disk();
    let image = image_of(&disk)?;
    cluster.nodes[k].kill();
    let point = disk.to_string_lossy().into_owned();
    sys::must("umount", &[point.as_str()])?;
    let words = ["-o", "loop,noatime", &image.to_string_lossy(), &point];
    sys::must("mount", &words)?;
    cluster.nodes[k].start()
}

fn fail_one(cluster: &mut Cluster, mount: &Path, k: usize, seed: u64) -> Result<()> {
    let what = format!("disk of {} (seed {seed})", cluster.nodes[k].host);
    let load = Load::start(&mount.join(format!("w{seed}")), Plan { seed, ..Plan::default() })?;
    load.wait_operations(300, Duration::from_secs(30))?;
    let disk = cluster.nodes[k].disk();
    sys::must("xfs_io", &["-x", "-c", "shutdown", &disk.to_string_lossy()])?;
    wait_out_with(cluster, k, "").context(what.clone())?;
    load.wait_operations(50, Duration::from_secs(10)).context(what.clone())?;
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(3) {
        let (state, _) = brick_state(cluster, k)?;
        ensure!(state != "in-sync", "{what}: it came back by itself");
        std::thread::sleep(Duration::from_millis(200));
    }
    load.take_report().demand(PAUSE_MAX).with_context(|| format!("after {what}"))?;
    mount_anew(cluster, k).context(what.clone())?;
    cluster.wait_healed("gv0", HEAL_MAX).with_context(|| format!("after {what}"))?;
    load.wait_operations(50, Duration::from_secs(10))?;
    load.end(PAUSE_MAX).with_context(|| format!("during the heal of {what}"))?;
    cluster.wait_healed("gv0", HEAL_MAX)?;
    let entries = cluster.demand_equal_bricks("gv0").with_context(|| format!("after {what}"))?;
    println!("{what}: {entries} entries equal");
    Ok(())
}

#[test]
fn a_failing_disk_takes_its_brick_out_with_a_reason_and_it_returns_only_by_heal() {
    let needs = &[Need::Root, Need::Xfs, Need::Fuse, Need::Program("xfs_io")];
    test("a_failing_disk", needs, || {
        let mut cluster = Cluster::with_volume(Spec { disk_mib: 1024, ..Spec::new("disk") })?;
        let mount = cluster.mount(0, "gv0", "")?;
        let lead = cluster.lead("gv0")?;
        fail_one(&mut cluster, mount.point(), (lead + 1) % 3, 1)?;
        let lead = cluster.lead("gv0")?;
        fail_one(&mut cluster, mount.point(), lead, 2)?;
        drop(mount);
        cluster.passed();
        Ok(())
    });
}

/// Lets a frozen file system go on, whatever becomes of the test.
struct Frozen(PathBuf);

impl Frozen {
    fn freeze(disk: PathBuf) -> Result<Self> {
        sys::must("fsfreeze", &["-f", &disk.to_string_lossy()])?;
        Ok(Self(disk))
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let _ = std::process::Command::new("fsfreeze").arg("-u").arg(&self.0).status();
    }
}

#[test]
fn a_hanging_disk_is_given_up_and_the_writer_goes_on() {
    let needs = &[Need::Root, Need::Xfs, Need::Fuse, Need::Program("fsfreeze")];
    test("a_hanging_disk", needs, || {
        let mut cluster = Cluster::with_volume(Spec { disk_mib: 1024, ..Spec::new("hang") })?;
        let mount = cluster.mount(0, "gv0", "")?;
        let k = (cluster.lead("gv0")? + 1) % 3;
        let load = Load::start(&mount.point().join("w"), Plan::default())?;
        load.wait_operations(300, Duration::from_secs(30))?;
        let frozen = Frozen::freeze(cluster.nodes[k].disk())?;
        wait_out_with(&cluster, k, "held a request")?;
        load.wait_operations(50, Duration::from_secs(10)).context("after the hang")?;
        load.take_report().demand(HANG_MAX)?;
        drop(frozen);
        cluster.nodes[k].kill();
        cluster.nodes[k].start()?;
        cluster.wait_healed("gv0", HEAL_MAX)?;
        load.end(PAUSE_MAX).context("during the heal")?;
        cluster.wait_healed("gv0", HEAL_MAX)?;
        cluster.demand_equal_bricks("gv0")?;
        drop(mount);
        cluster.passed();
        Ok(())
    });
}

/// A volume `gv1` on disks of its own, on the same peers.
fn second_volume(cluster: &mut Cluster) -> Result<()> {
    let mut words: Vec<String> = ["volume", "create", "gv1", "replica", "3"].map(Into::into).into();
    for node in &cluster.nodes {
        let point = node.disk().with_file_name("second");
        let image = node.disk().with_file_name("second.img");
        // Among the cluster's disks: they go after the daemons.
        cluster.disks.push(Xfs::make(&image, &point, 512)?);
        std::fs::create_dir(point.join("gv1"))?;
        words.push(format!("{}:{}", node.host, point.join("gv1").display()));
    }
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    cluster.brick(&words)?;
    cluster.brick(&["volume", "start", "gv1"])?;
    cluster.wait_in_sync("gv1", Duration::from_secs(30))
}

/// Trap 65: what can block shares no thread with another brick, nor with the promises.
#[test]
fn trap_65_a_blocked_disk_stalls_neither_other_bricks_nor_the_pings() {
    let needs = &[Need::Root, Need::Xfs, Need::Fuse, Need::Program("fsfreeze")];
    judged("a_blocked_disk", needs, || {
        let mut cluster = Cluster::with_volume(Spec::new("block"))?;
        second_volume(&mut cluster)?;
        let (first, second) = (cluster.mount(0, "gv0", "")?, cluster.mount(0, "gv1", "")?);
        // Neither the lead nor the peer whose CLI is asked below.
        let k = if cluster.lead("gv0")? == 1 { 2 } else { 1 };
        let blocked = Load::start(&first.point().join("w"), Plan::default())?;
        let load = Load::start(&second.point().join("w"), Plan { seed: 2, ..Plan::default() })?;
        for load in [&blocked, &load] {
            load.wait_operations(100, Duration::from_secs(30))?;
        }
        let before = load.take_report();
        before.demand(PAUSE_MAX).context("before")?;
        let frozen = Frozen::freeze(cluster.nodes[k].disk())?;
        let began = Instant::now();
        // Silent pings would evict the peer's bricks within 3 s; the blocked one is given up later.
        while began.elapsed() < Duration::from_secs(7) {
            for brick in cluster.brick_states("gv1")? {
                ensure!(brick["state"] == "in-sync", "a brick of the other volume left: {brick}");
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        load.wait_operations(100, Duration::from_secs(5)).context("the other volume stands")?;
        load.take_report().demand(PAUSE_MAX).context("the other volume, meanwhile")?;
        drop(frozen);
        // It may have given its disk up, and is back by a restart then.
        cluster.nodes[k].kill();
        cluster.nodes[k].start()?;
        cluster.wait_healed("gv0", HEAL_MAX)?;
        load.end(PAUSE_MAX)?;
        blocked.end(HANG_MAX)?;
        for volume in ["gv0", "gv1"] {
            cluster.wait_healed(volume, HEAL_MAX)?;
        }
        cluster.demand_equal_bricks("gv0")?;
        drop((first, second));
        cluster.passed();
        Ok(())
    });
}

/// Trap 14: an overwrite in place is on one disk; its time and its log entry were lost with the
/// power. So nothing that a machine noted before counts, and all is compared.
#[test]
fn trap_14_an_overwrite_that_left_no_trace_on_one_disk_is_found_after_a_loss_of_power() {
    test("an_overwrite_without_a_trace", &[Need::Root, Need::Xfs, Need::Fuse], || {
        let mut cluster = Cluster::with_volume(Spec::new("trace"))?;
        let mut mount = cluster.mount(0, "gv0", "")?;
        for name in ["at-the-lead", "elsewhere"] {
            let file = std::fs::File::create(mount.point().join(name))?;
            file.write_all_at(&[b'a'; 300_000], 0)?;
            file.sync_all()?;
        }
        // A list reaches so far behind the last checkpoint, which only changes bring on.
        for n in 0..LISTED_INTERVALS + 2 {
            std::fs::write(mount.point().join("later"), n.to_string())?;
            std::thread::sleep(INTERVAL);
        }
        let lead = cluster.lead("gv0")?;
        for disk in &cluster.disks {
            disk.lose_power()?;
        }
        cluster.nodes.iter_mut().for_each(integration::node::Node::kill);
        mount.kill();
        for disk in &cluster.disks {
            disk.unmount()?;
            disk.mount()?;
        }
        for (name, k) in [("at-the-lead", lead), ("elsewhere", (lead + 1) % 3)] {
            overwrite_unseen(&cluster.brick_dir(k, "gv0").join(name))?;
        }
        cluster.start_all()?;
        cluster.wait_healed("gv0", HEAL_MAX)?;
        cluster.demand_equal_bricks("gv0")?;
        drop(mount);
        cluster.passed();
        Ok(())
    });
}

/// How far back a list reaches, and how long one of its intervals is.
const LISTED_INTERVALS: u32 = 3;
const INTERVAL: Duration = Duration::from_secs(10);

/// Changes bytes of a file and leaves its times as they are.
fn overwrite_unseen(path: &Path) -> Result<()> {
    let file = std::fs::OpenOptions::new().write(true).open(path)?;
    let before = file.metadata()?;
    file.write_all_at(b"overwritten", 150_000)?;
    let times = std::fs::FileTimes::new();
    file.set_times(times.set_accessed(before.accessed()?).set_modified(before.modified()?))?;
    file.sync_all().context("the overwrite")
}
