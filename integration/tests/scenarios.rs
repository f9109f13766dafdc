//! What goes wrong in a machine room, on real processes: flapping links, everything down at
//! once, power lost, clients that die with leases or fight for one file, heals that are
//! interrupted again and again.
//!
//! `BRICK_ROUNDS` says how often (1 here, 20 for the full run).

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use integration::cluster::{Cluster, Spec};
use integration::load::{Load, Plan};
use integration::need::Need;
use integration::run::{judged, rounds};
use integration::sys;

/// DESIGN promise 3.
const PAUSE_MAX: Duration = Duration::from_secs(3);
const HEAL_MAX: Duration = Duration::from_secs(90);
/// A mount looks each 5 s whether a member is reached straight again.
const STRAIGHT_MAX: Duration = Duration::from_secs(15);
const NEEDS: &[Need] = &[Need::Root, Need::Xfs, Need::Fuse];
const NET_NEEDS: &[Need] = &[Need::Root, Need::Xfs, Need::Fuse, Need::Netns];

#[test]
fn a_link_that_flaps_is_not_noticed() {
    judged("a_link_that_flaps", NET_NEEDS, || {
        let mut cluster = Cluster::with_volume(Spec { namespaces: true, ..Spec::new("flap") })?;
        let mount = cluster.mount(0, "gv0", "")?;
        for round in 0..rounds(1) {
            let lead = cluster.lead("gv0")?;
            for k in [(lead + 1) % 3, lead] {
                let dir = mount.point().join(format!("w{round}-{k}"));
                let load = begun(&dir, round, 100)?;
                let network = cluster.network.as_ref().context("no network")?;
                // Shorter and longer than a promise.
                for ms in [300, 900, 1800, 500, 1300] {
                    network.isolate(k)?;
                    thread::sleep(Duration::from_millis(ms));
                    network.join_all()?;
                    thread::sleep(Duration::from_millis(700));
                }
                let what = format!("flapping links of node {k}");
                settle(&cluster, load).context(what)?;
            }
        }
        drop(mount);
        cluster.passed();
        Ok(())
    });
}

#[test]
fn a_cut_between_two_members_only_is_not_noticed() {
    judged("a_cut_between_two", NET_NEEDS, || {
        let mut cluster = Cluster::with_volume(Spec { namespaces: true, ..Spec::new("pair") })?;
        let mount = cluster.mount(0, "gv0", "")?;
        for round in 0..rounds(1) {
            let lead = cluster.lead("gv0")?;
            for (a, b) in [(lead, (lead + 1) % 3), ((lead + 1) % 3, (lead + 2) % 3)] {
                let dir = mount.point().join(format!("w{round}-{a}{b}"));
                let load = begun(&dir, round, 100)?;
                let network = cluster.network.as_ref().context("no network")?;
                network.cut(a, b)?;
                thread::sleep(Duration::from_secs(5));
                load.wait_operations(20, Duration::from_secs(5))?;
                network.join_all()?;
                settle(&cluster, load).with_context(|| format!("nodes {a} and {b} cut"))?;
            }
        }
        drop(mount);
        cluster.passed();
        Ok(())
    });
}

/// Only the mount's own links: the members hear each other, so nobody is evicted, and the mount
/// goes through a member that it does reach.
#[test]
fn a_mount_cut_off_from_members_goes_through_another() {
    judged("a_mount_cut_off_from_members", NET_NEEDS, || {
        let mut cluster = Cluster::with_volume(Spec { namespaces: true, ..Spec::new("relay") })?;
        let mount = cluster.mount(0, "gv0", "")?;
        let client = cluster.nodes.len();
        for round in 0..rounds(1) {
            let lead = cluster.lead("gv0")?;
            let (second, third) = ((lead + 1) % 3, (lead + 2) % 3);
            for (step, cut) in [vec![second], vec![lead], vec![lead, third]].iter().enumerate() {
                let what = format!("the mount's links to {cut:?} cut, {lead} leads");
                let before = epochs(&cluster)?;
                let dir = mount.point().join(format!("w{round}-{step}"));
                let load = begun(&dir, round, 100)?;
                let network = cluster.network.as_ref().context("no network")?;
                cut.iter().try_for_each(|k| network.cut(client, *k))?;
                thread::sleep(Duration::from_secs(4));
                let during = load.take_report();
                during.demand(PAUSE_MAX).context(what.clone())?;
                load.wait_operations(50, Duration::from_secs(10)).context(what.clone())?;
                network.join_all()?;
                let host = &cluster.nodes[cut[0]].host;
                let space = &network.space(client).name;
                sys::wait_until("the straight way", STRAIGHT_MAX, || {
                    let to = format!("dst {host}:9611");
                    let words = ["-N", space, "-Htn", "state", "established", &to];
                    let found = sys::must("ss", &words)?;
                    Ok(sys::Poll::of(!found.is_empty(), || "no connection".into()))
                })
                .context(what.clone())?;
                load.end(PAUSE_MAX).context(what.clone())?;
                let after = epochs(&cluster)?;
                ensure!(after == before, "{what}: {before:?} became {after:?}");
                cluster.demand_equal_bricks("gv0").context(what.clone())?;
                println!("{what}: longest pause {} ms", during.longest.as_millis());
            }
        }
        drop(mount);
        cluster.passed();
        Ok(())
    });
}

/// State and epoch of each brick: they change when anybody is evicted.
fn epochs(cluster: &Cluster) -> Result<Vec<String>> {
    let bricks = cluster.brick_states("gv0")?;
    Ok(bricks.iter().map(|b| format!("{} {} {}", b["host"], b["state"], b["epoch"])).collect())
}

/// Heals under the writer, ends it, and compares everything.
fn settle(cluster: &Cluster, load: Load) -> Result<()> {
    cluster.wait_healed("gv0", HEAL_MAX)?;
    load.wait_operations(50, Duration::from_secs(10))?;
    let dir = load.dir().to_owned();
    cluster.settle("gv0", load, HEAL_MAX, PAUSE_MAX)?;
    fs::remove_dir_all(dir).context("remove what was written")
}

#[test]
fn all_daemons_killed_at_once_lose_nothing() {
    judged("all_daemons_killed", NEEDS, || {
        let mut cluster = Cluster::with_volume(Spec { disk_mib: 1024, ..Spec::new("all") })?;
        let mount = cluster.mount(0, "gv0", "")?;
        for seed in 0..rounds(1) {
            // The files of the load are open when they start.
            for node in &mut cluster.nodes {
                node.prepare()?;
            }
            let load = begun(&mount.point().join(format!("w{seed}")), seed, 200)?;
            cluster.nodes.iter_mut().for_each(|node| node.kill());
            thread::sleep(Duration::from_secs(1));
            // All of them first: one alone waits for the others.
            for node in &mut cluster.nodes {
                node.spawn()?;
            }
            load.wait_operations(50, Duration::from_secs(40)).context("after the restart")?;
            cluster.wait_healed("gv0", HEAL_MAX)?;
            // It waited, as long as nobody was there; but it saw no error.
            load.end(Duration::from_secs(30))?;
            cluster.wait_healed("gv0", HEAL_MAX)?;
            cluster.demand_equal_bricks("gv0")?;
        }
        drop(mount);
        cluster.passed();
        Ok(())
    });
}

/// A writer that has done so many operations: a fault is worth nothing before.
fn begun(dir: &Path, seed: u64, operations: u64) -> Result<Load> {
    let load = Load::start(dir, plan(seed))?;
    load.wait_operations(operations, Duration::from_secs(30))?;
    Ok(load)
}

fn plan(seed: u64) -> Plan {
    Plan { seed, ..Plan::default() }
}

#[test]
fn what_was_fsynced_survives_a_loss_of_power_of_all_machines() {
    judged("a_loss_of_power", NEEDS, || {
        let mut cluster = Cluster::with_volume(Spec { disk_mib: 1024, ..Spec::new("power") })?;
        let mut mount = cluster.mount(0, "gv0", "")?;
        for round in 0..rounds(1) {
            let dir = mount.point().join(format!("r{round}"));
            let stop = AtomicBool::new(false);
            let synced = thread::scope(|scope| -> Result<Vec<(PathBuf, Vec<u8>)>> {
                let writers: Vec<_> = (0..3_u64)
                    .map(|n| {
                        let (dir, stop) = (dir.join(format!("t{n}")), &stop);
                        scope.spawn(move || write_synced(&dir, round * 3 + n, stop))
                    })
                    .collect();
                thread::sleep(Duration::from_millis(2500 + 311 * (round % 7)));
                for disk in &cluster.disks {
                    disk.lose_power()?;
                }
                cluster.nodes.iter_mut().for_each(|node| node.kill());
                // The client's machine is one of them.
                stop.store(true, Ordering::Relaxed);
                mount.kill();
                let mut all = Vec::new();
                for writer in writers {
                    all.extend(writer.join().map_err(|_| anyhow::anyhow!("a writer panicked"))?);
                }
                Ok(all)
            })?;
            ensure!(synced.len() > 20, "only {} files were synced", synced.len());
            for (disk, node) in cluster.disks.iter().zip(&mut cluster.nodes) {
                disk.unmount()?;
                disk.mount()?;
                node.spawn()?;
            }
            mount.again().context("mount again")?;
            for (path, content) in &synced {
                let read = fs::read(path).with_context(|| format!("{}", path.display()))?;
                ensure!(&read == content, "{}: synced content lost", path.display());
            }
            cluster.wait_healed("gv0", HEAL_MAX)?;
            cluster.demand_equal_bricks("gv0")?;
            println!("round {round}: {} synced files are there", synced.len());
        }
        drop(mount);
        cluster.passed();
        Ok(())
    });
}

/// Makes files in new folders and syncs them, until an error; those whose fsync returned.
fn write_synced(dir: &Path, seed: u64, stop: &AtomicBool) -> Vec<(PathBuf, Vec<u8>)> {
    let mut synced = Vec::new();
    for n in 0..100_000_u64 {
        let folder = dir.join(format!("d{}", n / 8));
        let path = folder.join(format!("f{n}"));
        let content = vec![(n ^ seed) as u8; 100 + (n as usize * 977) % 20_000];
        let write = || -> std::io::Result<()> {
            fs::create_dir_all(&folder)?;
            let mut file = File::create(&path)?;
            file.write_all(&content)?;
            file.sync_all()
        };
        if write().is_err() || stop.load(Ordering::Relaxed) {
            break;
        }
        synced.push((path, content));
    }
    synced
}

#[test]
fn a_client_killed_with_its_leases_holds_nobody_up() {
    judged("a_client_killed", NEEDS, || {
        let mut cluster = Cluster::with_volume(Spec::new("leases"))?;
        let mut holder = cluster.mount(0, "gv0", "")?;
        let other = cluster.mount(1, "gv0", "")?;
        for round in 0..rounds(1) {
            let name = format!("f{round}");
            let mut file = File::create(holder.point().join(&name))?;
            file.write_all(b"synced")?;
            file.sync_all()?;
            // Buffered under the exclusive leases of file and directory, and lost with the mount.
            file.write_all(b" and not")?;
            fs::create_dir(holder.point().join(format!("d{round}")))?;
            holder.kill();
            let began = Instant::now();
            let mut file =
                OpenOptions::new().read(true).append(true).open(other.point().join(&name))?;
            file.write_all(b"!")?;
            file.sync_all()?;
            fs::write(other.point().join(format!("d{round}")).join("inside"), b"x")?;
            let waited = began.elapsed();
            ensure!(waited < PAUSE_MAX, "the other mount waited for {waited:?}");
            drop(file);
            let text = fs::read(other.point().join(&name))?;
            ensure!(
                text == b"synced!" || text == b"synced and not!",
                "{:?}",
                String::from_utf8_lossy(&text)
            );
            holder.again()?;
            cluster.wait_healed("gv0", HEAL_MAX)?;
            cluster.demand_equal_bricks("gv0")?;
        }
        drop((holder, other));
        cluster.passed();
        Ok(())
    });
}

/// Records of a fixed length, so that a torn or lost one shows.
const RECORD: usize = 32;

#[test]
fn two_clients_fight_over_one_file_and_one_directory() {
    judged("two_clients_fight", NEEDS, || {
        let mut cluster = Cluster::with_volume(Spec::new("fight"))?;
        let mounts = [cluster.mount(0, "gv0", "")?, cluster.mount(1, "gv0", "")?];
        let (records, names) = (150 * rounds(1).min(4), 60 * rounds(1).min(4));
        fs::create_dir(mounts[0].point().join("dir"))?;
        thread::scope(|scope| -> Result<()> {
            let fighters: Vec<_> = (0..2)
                .map(|at| {
                    let root = mounts[at].point().to_owned();
                    scope.spawn(move || fight(&root, at, records, names))
                })
                .collect();
            for fighter in fighters {
                fighter.join().map_err(|_| anyhow::anyhow!("a fighter panicked"))??;
            }
            Ok(())
        })?;
        for mount in &mounts {
            check_log(&mount.point().join("log"), records)?;
            let shared = fs::read_dir(mount.point().join("dir"))?.count() as u64;
            ensure!(shared == names * 2, "{shared} names of {}", names * 2);
        }
        cluster.wait_healed("gv0", HEAL_MAX)?;
        cluster.demand_equal_bricks("gv0")?;
        // Before the daemons: a mount without them is unmounted by a time-out only.
        drop(mounts);
        cluster.passed();
        Ok(())
    });
}

fn fight(root: &Path, at: usize, records: u64, names: u64) -> Result<()> {
    let mut log = OpenOptions::new().create(true).append(true).open(root.join("log"))?;
    for n in 0..records {
        let record = format!("{at} {n:<width$}\n", width = RECORD - 3);
        log.write_all(record.as_bytes())?;
        if n < names {
            let name = root.join("dir").join(format!("{at}-{n}"));
            fs::write(&name, b"x")?;
            fs::rename(&name, root.join("dir").join(format!("{at}-{n}-renamed")))?;
        }
    }
    log.sync_all()?;
    Ok(())
}

/// Every record of both is there once, each one's in their order.
fn check_log(path: &Path, records: u64) -> Result<()> {
    let mut text = String::new();
    File::open(path)?.read_to_string(&mut text)?;
    ensure!(text.len() as u64 == records * 2 * RECORD as u64, "{} bytes", text.len());
    let mut next = [0_u64; 2];
    for line in text.lines() {
        let Some((at, n)) = line.split_once(' ') else { bail!("a torn record: {line:?}") };
        let (at, n): (usize, u64) = (at.parse()?, n.trim().parse()?);
        ensure!(next[at] == n, "record {n} of {at} where {} was due", next[at]);
        next[at] += 1;
    }
    Ok(())
}

/// Trap 26: a recall that waits for an operation which waits for the lead ends by a revoke only.
#[test]
fn trap_26_two_mounts_create_in_one_directory_and_no_recall_waits_for_a_create() {
    judged("two_mounts_create", NEEDS, || {
        let mut cluster = Cluster::with_volume(Spec::new("create"))?;
        let mounts = [cluster.mount(0, "gv0", "")?, cluster.mount(1, "gv0", "")?];
        fs::create_dir(mounts[0].point().join("d"))?;
        thread::scope(|scope| -> Result<()> {
            let makers: Vec<_> = (0..4)
                .map(|at| {
                    let dir = mounts[at % 2].point().join("d");
                    scope.spawn(move || make_and_look(&dir, at))
                })
                .collect();
            for maker in makers {
                maker.join().map_err(|_| anyhow::anyhow!("a maker panicked"))??;
            }
            Ok(())
        })?;
        for mount in &mounts {
            let count = fs::read_dir(mount.point().join("d"))?.count();
            ensure!(count == 4 * MADE, "{count} names");
            let log = fs::read_to_string(mount.log())?;
            ensure!(!log.contains("lease lost"), "a lease was revoked:\n{log}");
        }
        cluster.demand_equal_bricks("gv0")?;
        drop(mounts);
        cluster.passed();
        Ok(())
    });
}

/// Files of one maker.
const MADE: usize = 60;

/// Makes files, and has the kernel remember names that others are about to make.
fn make_and_look(dir: &Path, at: usize) -> Result<()> {
    for n in 0..MADE {
        for other in 0..4 {
            let _ = fs::metadata(dir.join(format!("{other}-{}", n + 1)));
        }
        let began = Instant::now();
        drop(File::create_new(dir.join(format!("{at}-{n}")))?);
        let took = began.elapsed();
        ensure!(took < PAUSE_MAX, "a create took {took:?}");
    }
    Ok(())
}

/// Changes of each mount in each fight.
const BLOWS: usize = 150;
/// Until the lead notices a fight leases go to and fro, each time after the holder's moment.
const RECALLS_MAX: u64 = BLOWS as u64 / 3;

/// Trap 28: leases that bounce cost each change a recall. Once the lead executes the changes of both
/// mounts, nobody is recalled for them, both come to their end, and nothing is lost or torn.
#[test]
fn trap_28_two_mounts_fight_for_a_file_and_for_a_directory() {
    judged("two_mounts_fight", NEEDS, || {
        let mut cluster = Cluster::with_volume(Spec::new("fight"))?;
        let mounts = [cluster.mount(0, "gv0", "")?, cluster.mount(1, "gv0", "")?];
        let points = mounts.each_ref().map(|mount| mount.point().to_owned());
        fs::create_dir(points[0].join("d"))?;
        for name in ["block", "log"] {
            fs::write(points[0].join(name), "")?;
        }
        brawl(&cluster, &points, "writes of one block", |root, who, bell| {
            let file = OpenOptions::new().write(true).open(root.join("block"))?;
            let block = vec![b'a' + who as u8; 4096];
            for _ in 0..BLOWS {
                bell.wait(who);
                file.write_all_at(&block, 0)?;
            }
            Ok(file.sync_all()?)
        })?;
        let block = fs::read(points[0].join("block"))?;
        ensure!(block.len() == 4096 && block.iter().all(|b| *b == block[0]), "a torn block");
        brawl(&cluster, &points, "appends", |root, who, bell| {
            let mut file = OpenOptions::new().append(true).open(root.join("log"))?;
            for n in 0..BLOWS {
                bell.wait(who);
                file.write_all(record(who, n).as_bytes())?;
            }
            Ok(())
        })?;
        for root in &points {
            demand_records(&fs::read_to_string(root.join("log"))?)?;
        }
        brawl(&cluster, &points, "creates and unlinks", |root, who, bell| {
            for n in 0..BLOWS / 2 {
                let path = root.join("d").join(format!("{who}-{n}"));
                bell.wait(who);
                drop(File::create_new(&path)?);
                if n % 2 == 0 {
                    fs::remove_file(&path)?;
                }
            }
            Ok(())
        })?;
        for root in &points {
            let left = fs::read_dir(root.join("d"))?.count();
            ensure!(left == 2 * (BLOWS / 4), "{left} names are left");
        }
        cluster.demand_equal_bricks("gv0")?;
        drop(mounts);
        cluster.passed();
        Ok(())
    });
}

/// Both mounts at once; counts what the bricks did for it, not how long it took.
fn brawl(
    cluster: &Cluster,
    points: &[PathBuf; 2],
    what: &str,
    blows: impl Fn(&Path, usize, &Bell) -> Result<()> + Sync,
) -> Result<()> {
    let recalls = counted(cluster, "brick_recalls_total")?;
    let executed = counted(cluster, "brick_executed_total")?;
    let (blows, bell) = (&blows, &Bell::default());
    thread::scope(|scope| -> Result<()> {
        let sides = points.iter().enumerate();
        let sides: Vec<_> = sides
            .map(|(who, root)| scope.spawn(move || bell.of(|| blows(root, who, bell))))
            .collect();
        for side in sides {
            side.join().map_err(|_| anyhow::anyhow!("a fighter panicked"))??;
        }
        Ok(())
    })
    .context(what.to_owned())?;
    let recalls = counted(cluster, "brick_recalls_total")? - recalls;
    let executed = counted(cluster, "brick_executed_total")? - executed;
    println!("{what}: {} changes, {executed} executed by the lead, {recalls} recalls", 2 * BLOWS);
    ensure!(recalls <= RECALLS_MAX, "{what}: {recalls} recalls for {} changes", 2 * BLOWS);
    ensure!(executed > BLOWS as u64 / 2, "{what}: the lead executed {executed} only");
    Ok(())
}

/// Each blow begins on both sides at once, as long as both fight.
#[derive(Default)]
struct Bell {
    blows: [AtomicUsize; 2],
    over: AtomicBool,
}

impl Bell {
    fn wait(&self, who: usize) {
        let mine = self.blows[who].fetch_add(1, Ordering::SeqCst) + 1;
        let behind = || self.blows[1 - who].load(Ordering::SeqCst) < mine;
        while behind() && !self.over.load(Ordering::SeqCst) {
            thread::sleep(Duration::from_micros(50));
        }
    }

    fn of(&self, side: impl FnOnce() -> Result<()>) -> Result<()> {
        let done = side();
        self.over.store(true, Ordering::SeqCst);
        done
    }
}

fn record(who: usize, n: usize) -> String {
    format!("mount {who} record {n:06} {}\n", "x".repeat(200 + who * 31))
}

/// Every record of both, whole and once, each side's in order.
fn demand_records(log: &str) -> Result<()> {
    for who in 0..2 {
        let mine = format!("mount {who} ");
        let found: Vec<&str> = log.lines().filter(|line| line.starts_with(&mine)).collect();
        ensure!(found.len() == BLOWS, "{} records of mount {who}", found.len());
        for (n, line) in found.into_iter().enumerate() {
            ensure!(format!("{line}\n") == record(who, n), "record {n} of mount {who}: {line}");
        }
    }
    ensure!(log.lines().count() == 2 * BLOWS, "{} lines", log.lines().count());
    Ok(())
}

/// A counter of all bricks since their daemons started.
fn counted(cluster: &Cluster, name: &str) -> Result<u64> {
    let mut sum: f64 = 0.0;
    for node in &cluster.nodes {
        let mut stream = TcpStream::connect((node.host.as_str(), 9612))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        write!(stream, "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        let mine = format!("{name}{{");
        let lines = text.lines().filter(|line| line.starts_with(&mine));
        let values = lines.filter_map(|l| l.rsplit_once(' ')?.1.parse::<f64>().ok());
        sum += values.sum::<f64>();
    }
    Ok(sum as u64)
}

#[test]
fn a_heal_interrupted_again_and_again_ends() {
    judged("a_heal_interrupted", NEEDS, || {
        let mut cluster = Cluster::with_volume(Spec { disk_mib: 2048, ..Spec::new("again") })?;
        let mount = cluster.mount(0, "gv0", "")?;
        let away = (cluster.lead("gv0")? + 1) % 3;
        cluster.nodes[away].kill();
        let load = Load::start(&mount.point().join("w"), plan(7))?;
        fill(&mount.point().join("tree"), 1500, 20)?;
        for round in 0..rounds(1).max(4) {
            if !cluster.nodes[away].runs() {
                cluster.nodes[away].start()?;
            }
            thread::sleep(Duration::from_millis(150 + 170 * (round % 5)));
            // Now the joiner, now whom it copies from.
            match round % 4 {
                3 => {
                    let lead = cluster.lead("gv0")?;
                    cluster.nodes[lead].kill();
                    thread::sleep(Duration::from_secs(2));
                    cluster.nodes[lead].start()?;
                }
                _ => cluster.nodes[away].kill(),
            }
            // With two of three away changes wait for one to return, and do not fail.
            load.wait_operations(20, Duration::from_secs(30))?;
        }
        load.take_report().demand(Duration::from_secs(30))?;
        if !cluster.nodes[away].runs() {
            cluster.nodes[away].start()?;
        }
        settle(&cluster, load)?;
        drop(mount);
        cluster.passed();
        Ok(())
    });
}

/// Small files and some large ones.
fn fill(dir: &Path, small: usize, large: usize) -> Result<()> {
    for n in 0..small {
        let folder = dir.join(format!("d{}", n % 30));
        fs::create_dir_all(&folder)?;
        fs::write(folder.join(format!("f{n}")), vec![n as u8; 100 + n % 9000])?;
    }
    for n in 0..large {
        fs::write(dir.join(format!("large{n}")), vec![n as u8; 8 << 20])?;
    }
    Ok(())
}
