//! Replica 2 without split-brain: pools of two peers, with a witness and without, and which part
//! may fail. Each test is some rows of the table in docs/operations.md.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use integration::cluster::{Cluster, Spec};
use integration::load::{Load, Plan};
use integration::mount::Mount;
use integration::need::Need;
use integration::run::judged;
use integration::sys::{Poll, wait_until};

const NEEDS: &[Need] = &[Need::Root, Need::Xfs, Need::Fuse];
const NET_NEEDS: &[Need] = &[Need::Root, Need::Xfs, Need::Fuse, Need::Netns];
/// DESIGN promise 3.
const PAUSE_MAX: Duration = Duration::from_secs(3);
const HEAL_MAX: Duration = Duration::from_secs(90);
/// I/O that waits for a peer ends with its return.
const WAIT_MAX: Duration = Duration::from_secs(30);
const SOON: Duration = Duration::from_secs(20);

fn two(label: &'static str) -> Spec {
    Spec { nodes: 2, ..Spec::new(label) }
}

fn with_witness(label: &'static str) -> Spec {
    Spec { nodes: 3, witnesses: 1, ..Spec::new(label) }
}

/// What `volume status` warns of, asked at one node.
fn alarms(cluster: &Cluster, k: usize) -> Result<String> {
    let status = cluster.nodes[k].brick(&["--json", "volume", "status", "gv0"])?;
    let status = integration::cluster::json(&status)?;
    Ok(status["volumes"][0]["alarms"].to_string())
}

fn wait_alarm(cluster: &Cluster, k: usize, word: &str) -> Result<()> {
    wait_until(&format!("an alarm with {word:?}"), SOON, || {
        let alarms = alarms(cluster, k)?;
        Ok(Poll::of(alarms.contains(word), || alarms))
    })
    .map(drop)
}

/// Whoever is asked, the witness too, says that the brick of node `gone` is not known.
fn demand_unknown(cluster: &Cluster, gone: usize) -> Result<()> {
    for node in cluster.nodes.iter().filter(|n| n.is_awake()) {
        let info = node.brick(&["--json", "volume", "heal", "gv0", "info"])?;
        let info = integration::cluster::json(&info)?;
        ensure!(info["complete"] == false, "asked at {}: {info}", node.host);
        let bricks = info["bricks"].as_array().context("bricks")?;
        let brick = bricks.iter().find(|b| b["host"] == cluster.nodes[gone].host.as_str());
        let brick = brick.context("the brick of the lost node")?;
        let why = brick["oldest"].as_str().unwrap_or_default();
        ensure!(brick["known"] == false && why.contains("does not answer"), "{info}");
    }
    Ok(())
}

fn wait_voters(cluster: &Cluster, count: usize) -> Result<()> {
    wait_until("the voters", SOON, || {
        let list = cluster.brick_json(&["pool", "list"])?;
        let peers = list["peers"].as_array().context("peers")?;
        let voters = peers.iter().filter(|p| p["voter"] == true).count();
        Ok(Poll::of(voters == count, || list.to_string()))
    })
    .map(drop)
}

fn begun(mount: &Mount, name: &str) -> Result<Load> {
    let load = Load::start(&mount.point().join(name), Plan::default())?;
    load.wait_operations(100, WAIT_MAX)?;
    Ok(load)
}

/// Everything heals under the writer, ends, and both bricks are the same.
fn settle(cluster: &Cluster, load: Load, pause_max: Duration) -> Result<()> {
    cluster.wait_healed("gv0", HEAL_MAX)?;
    load.wait_operations(30, WAIT_MAX)?;
    cluster.settle("gv0", load, HEAL_MAX, pause_max)
}

/// Writes numbers into a few files, each synced before the next, in a process of its own: while
/// its call waits, this process can start others. (One that has files of the mount open
/// cannot: the child's copies are flushed when it executes.)
struct Writer {
    child: Child,
    dir: PathBuf,
    log: PathBuf,
    stop: PathBuf,
}

const FILES: u64 = 8;

impl Writer {
    fn start(cluster: &Cluster, mount: &Mount, name: &str) -> Result<Self> {
        let dir = mount.point().join(name);
        fs::create_dir(&dir)?;
        let (log, stop) = (cluster.path().join("numbers"), cluster.path().join("stop"));
        let script = format!(
            "n=0; while [ ! -e \"$1\" ]; do n=$((n+1)); \
             echo $n | dd of=\"$0/f$((n%{FILES}))\" conv=fsync status=none || exit 1; echo $n; done"
        );
        let out = fs::File::create(&log)?;
        let mut command = Command::new("sh");
        command.arg("-c").arg(script).arg(&dir).arg(&stop).stdin(Stdio::null());
        let child = command.stdout(out.try_clone()?).stderr(out).spawn()?;
        let writer = Self { child, dir, log, stop };
        writer.wait_more(20)?;
        Ok(writer)
    }

    /// The last number that was written and synced. Any error is one too many.
    fn last(&self) -> Result<u64> {
        let text = fs::read_to_string(&self.log)?;
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let Some(line) = whole.lines().last() else { return Ok(0) };
        line.parse().with_context(|| format!("the writer saw an error: {line}"))
    }

    fn wait_more(&self, count: u64) -> Result<()> {
        let from = self.last()?;
        wait_until("the writer to go on", WAIT_MAX, || {
            let last = self.last()?;
            Ok(Poll::of(last >= from + count, || format!("{last}, from {from} on")))
        })
        .map(drop)
    }

    /// Nothing is written for some seconds, once what was under way has ended.
    fn demand_waiting(&self) -> Result<()> {
        thread::sleep(PAUSE_MAX);
        let before = self.last()?;
        thread::sleep(Duration::from_secs(2));
        let written = self.last()? - before;
        ensure!(written == 0, "{written} writes by a peer that cannot know whether it is alone");
        Ok(())
    }

    /// Ends it and compares what it wrote; the bricks heal and are the same.
    fn settle(mut self, cluster: &Cluster) -> Result<()> {
        cluster.wait_healed("gv0", HEAL_MAX)?;
        self.wait_more(20)?;
        fs::write(&self.stop, "")?;
        wait_until("the writer's end", WAIT_MAX, || {
            Ok(Poll::of(self.child.try_wait()?.is_some(), || "it still writes".into()))
        })?;
        let last = self.last()?;
        for number in last.saturating_sub(FILES - 1)..=last {
            let read = fs::read_to_string(self.dir.join(format!("f{}", number % FILES)))?;
            ensure!(read.trim() == number.to_string(), "{read:?} where {number} was synced");
        }
        cluster.wait_healed("gv0", HEAL_MAX)?;
        cluster.demand_equal_bricks("gv0").map(drop)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn with_a_witness_either_peer_may_die_and_the_other_goes_on() {
    judged("with_a_witness", NEEDS, || {
        let mut cluster = Cluster::with_volume(with_witness("witness"))?;
        wait_voters(&cluster, 3)?;
        let list = cluster.brick(&["pool", "list"])?;
        ensure!(list.contains("witness"), "{list}");
        let brick = format!("{}:{}", cluster.nodes[2].host, cluster.brick_dir(2, "no").display());
        cluster.brick_refuses(&["volume", "create", "no", &brick], "witness")?;
        let mount = cluster.mount(0, "gv0", "")?;
        let load = begun(&mount, "w")?;
        let lead = cluster.lead("gv0")?;
        for k in [lead, 1 - lead] {
            cluster.nodes[k].kill();
            cluster.wait_out("gv0", k, SOON)?;
            wait_alarm(&cluster, 1 - k, "one copy is left")?;
            load.wait_operations(30, WAIT_MAX)?;
            demand_unknown(&cluster, k)?;
            let stop =
                cluster.nodes[1 - k].brick(&["peer", "can-stop", &cluster.nodes[1 - k].host])?;
            ensure!(stop.code == Some(1) && stop.err.contains("only in-sync copy"), "{stop:?}");
            cluster.nodes[k].start()?;
            cluster.wait_healed("gv0", HEAL_MAX)?;
            load.take_report().demand(PAUSE_MAX).with_context(|| format!("node {k} died"))?;
        }
        settle(&cluster, load, PAUSE_MAX)?;
        drop(mount);
        cluster.passed();
        Ok(())
    });
}

#[test]
fn without_the_witness_a_pool_goes_on_and_says_what_it_cannot_survive() {
    judged("without_the_witness", NEEDS, || {
        let mut cluster = Cluster::with_volume(with_witness("nowitness"))?;
        wait_voters(&cluster, 3)?;
        let mount = cluster.mount(0, "gv0", "")?;
        let load = begun(&mount, "w")?;
        cluster.nodes[2].kill();
        load.wait_operations(50, WAIT_MAX)?;
        load.end(PAUSE_MAX).context("the witness died")?;
        let seen = alarms(&cluster, 0)?;
        ensure!(seen == "[]", "two of three voters are a majority: {seen}");
        let stop = cluster.nodes[0].brick(&["peer", "can-stop", &cluster.nodes[1].host])?;
        ensure!(stop.code == Some(1) && stop.err.contains("no majority"), "{stop:?}");
        // And one of the two: nobody may be left behind.
        let writer = Writer::start(&cluster, &mount, "n")?;
        cluster.nodes[1].kill();
        wait_alarm(&cluster, 0, "1 of 3 voters")?;
        writer.demand_waiting()?;
        demand_unknown(&cluster, 1)?;
        // The witness alone is enough.
        cluster.nodes[2].start()?;
        writer.wait_more(20)?;
        wait_alarm(&cluster, 0, "one copy is left")?;
        cluster.nodes[1].start()?;
        writer.settle(&cluster)?;
        drop(mount);
        cluster.passed();
        Ok(())
    });
}

#[test]
fn of_two_peers_the_one_that_does_not_vote_may_die() {
    judged("of_two_the_other_dies", NEEDS, || {
        let mut cluster = Cluster::with_volume(two("twoother"))?;
        wait_voters(&cluster, 1)?;
        let mount = cluster.mount(0, "gv0", "")?;
        let load = begun(&mount, "w")?;
        cluster.nodes[1].kill();
        cluster.wait_out("gv0", 1, SOON)?;
        wait_alarm(&cluster, 0, "one copy is left")?;
        load.wait_operations(50, WAIT_MAX)?;
        load.take_report().demand(PAUSE_MAX)?;
        cluster.nodes[1].start()?;
        settle(&cluster, load, PAUSE_MAX)?;
        drop(mount);
        cluster.passed();
        Ok(())
    });
}

#[test]
fn of_two_peers_without_the_voter_everything_waits_and_goes_on_with_it() {
    judged("of_two_the_voter_dies", NEEDS, || {
        let mut cluster = Cluster::with_volume(two("twovoter"))?;
        wait_voters(&cluster, 1)?;
        let mount = cluster.mount(0, "gv0", "")?;
        let writer = Writer::start(&cluster, &mount, "n")?;
        cluster.nodes[0].kill();
        writer.demand_waiting()?;
        wait_alarm(&cluster, 1, "0 of 1 voters")?;
        cluster.nodes[0].start()?;
        writer.settle(&cluster).context("the voter is back")?;

        // What waits too long ends with a clear error, and nothing hangs.
        cluster.brick(&["volume", "set", "gv0", "client.op-timeout", "4"])?;
        fs::write(mount.point().join("before"), "x")?;
        cluster.nodes[0].kill();
        thread::sleep(PAUSE_MAX);
        let began = Instant::now();
        let error = refused(&mount.point().join("during"))?;
        ensure!(error.kind() == ErrorKind::TimedOut, "ETIMEDOUT expected: {error:?}");
        ensure!(began.elapsed() < Duration::from_secs(15), "after {:?}", began.elapsed());
        let set = cluster.nodes[1].brick(&["volume", "set", "gv0", "client.op-timeout", "30"])?;
        ensure!(matches!(set.code, Some(1 | 3)), "no majority is there: {set:?}");
        ensure!(set.err.contains("no majority"), "{set:?}");
        cluster.nodes[0].start()?;
        wait_until("the mount goes on", WAIT_MAX, || {
            let wrote = fs::write(mount.point().join("after"), "x");
            Ok(Poll::of(wrote.is_ok(), || format!("{wrote:?}")))
        })?;
        ensure!(fs::read(mount.point().join("before"))? == b"x");
        cluster.wait_healed("gv0", HEAL_MAX)?;
        cluster.demand_equal_bricks("gv0")?;
        drop(mount);
        cluster.passed();
        Ok(())
    });
}

fn refused(path: &Path) -> Result<std::io::Error> {
    fs::write(path, "x").err().context("a write was taken where nobody can tell who is current")
}

#[test]
fn of_two_peers_a_voter_that_is_stopped_in_order_leaves_the_other_serving() {
    judged("of_two_the_voter_stops", NEEDS, || {
        let mut cluster = Cluster::with_volume(two("twostop"))?;
        wait_voters(&cluster, 1)?;
        let mount = cluster.mount(0, "gv0", "")?;
        let load = begun(&mount, "w")?;
        let stop = cluster.nodes[1].brick(&["peer", "can-stop", &cluster.nodes[0].host])?;
        ensure!(stop.code == Some(1) && stop.err.contains("no majority"), "{stop:?}");
        cluster.nodes[0].stop()?;
        load.wait_operations(50, WAIT_MAX)?;
        load.take_report().demand(PAUSE_MAX)?;
        wait_alarm(&cluster, 1, "0 of 1 voters")?;
        wait_alarm(&cluster, 1, "one copy is left")?;
        cluster.nodes[0].start()?;
        settle(&cluster, load, PAUSE_MAX)?;
        drop(mount);
        cluster.passed();
        Ok(())
    });
}

#[test]
fn of_two_peers_that_lose_each_other_only_the_voters_side_goes_on() {
    judged("of_two_a_cut_link", NET_NEEDS, || {
        let mut cluster = Cluster::with_volume(Spec { namespaces: true, ..two("twocut") })?;
        wait_voters(&cluster, 1)?;
        cluster.brick(&["volume", "set", "gv0", "client.op-timeout", "4"])?;
        let mount = cluster.mount(0, "gv0", "")?;
        // On the other peer's own machine: it reaches that one alone.
        let mut there = cluster.mount_request(1, "gv0", "")?;
        there.space = cluster.nodes[1].space().map(str::to_owned);
        let there = Mount::new(there)?;
        fs::write(there.point().join("seen"), "before")?;
        let load = begun(&mount, "w")?;
        let network = cluster.network.as_ref().context("no network")?;
        network.cut(0, 1)?;
        cluster.wait_out("gv0", 1, SOON)?;
        load.wait_operations(50, WAIT_MAX)?;
        load.take_report().demand(PAUSE_MAX).context("on the voter's side")?;
        let error = refused(&there.point().join("alone"))?;
        ensure!(error.kind() == ErrorKind::TimedOut, "ETIMEDOUT expected: {error:?}");
        fs::write(mount.point().join("seen"), "after")?;
        let old = fs::read(there.point().join("seen"));
        ensure!(old.is_err(), "an old truth was read on the side that is cut off: {old:?}");
        network.join_all()?;
        settle(&cluster, load, PAUSE_MAX)?;
        wait_until("the other side sees the change", WAIT_MAX, || {
            let read = fs::read(there.point().join("seen"));
            let now = read.as_ref().is_ok_and(|bytes| bytes == b"after");
            Ok(Poll::of(now, || format!("{read:?}")))
        })?;
        drop((mount, there));
        cluster.passed();
        Ok(())
    });
}

#[test]
fn trap_47_with_one_copy_left_lone_sync_keeps_what_was_answered_over_a_loss_of_power() {
    judged("lone_sync", NEEDS, || {
        let spec = Spec { disk_mib: 1024, ..with_witness("lonesync") };
        let mut cluster = Cluster::with_volume(spec)?;
        cluster.brick(&["volume", "set", "gv0", "cluster.lone-sync", "on"])?;
        let mut mount = cluster.mount(0, "gv0", "")?;
        fs::create_dir(mount.point().join("d"))?;
        cluster.nodes[1].kill();
        cluster.wait_out("gv0", 1, SOON)?;
        wait_alarm(&cluster, 0, "cluster.lone-sync")?;
        // Closed, not synced: by itself a checkpoint comes each 5 s.
        let names: Vec<_> =
            (0..40).map(|n| mount.point().join("d").join(format!("f{n}"))).collect();
        for (n, name) in names.iter().enumerate() {
            fs::write(name, vec![n as u8; 5000])?;
        }
        cluster.disks[0].lose_power()?;
        cluster.nodes[0].kill();
        mount.kill();
        cluster.disks[0].unmount()?;
        cluster.disks[0].mount()?;
        cluster.nodes[0].start()?;
        mount.again()?;
        for (n, name) in names.iter().enumerate() {
            let read =
                fs::read(name).with_context(|| format!("{} was answered", name.display()))?;
            ensure!(read == vec![n as u8; 5000], "{} differs", name.display());
        }
        cluster.nodes[1].start()?;
        cluster.wait_healed("gv0", HEAL_MAX)?;
        cluster.demand_equal_bricks("gv0")?;
        drop(mount);
        cluster.passed();
        Ok(())
    });
}

#[test]
fn replica_3_without_two_of_three_peers_waits_and_is_told_that_nothing_is_decided() {
    judged("two_of_three_die", NEEDS, || {
        let mut cluster = Cluster::with_volume(Spec::new("twoofthree"))?;
        wait_voters(&cluster, 3)?;
        // What waits is not to end before the two are back, on a busy machine either.
        cluster.brick(&["volume", "set", "gv0", "client.op-timeout", "90"])?;
        let mount = cluster.mount(0, "gv0", "")?;
        let writer = Writer::start(&cluster, &mount, "n")?;
        let list = cluster.brick_json(&["pool", "list"])?;
        let peers = list["peers"].as_array().context("peers")?;
        let leader = peers.iter().find(|p| p["leader"] == true).context("no leader")?;
        let host = leader["hostname"].as_str().unwrap_or_default();
        let k = cluster.nodes.iter().position(|n| n.host == host).context("the leader")?;
        let others = [(k + 1) % 3, (k + 2) % 3];
        others.iter().for_each(|n| cluster.nodes[*n].kill());
        // The leader takes it into its log and cannot commit it.
        let set = cluster.nodes[k].brick(&["volume", "set", "gv0", "client.op-timeout", "31"])?;
        ensure!(set.code == Some(3), "not decided is no failure and no success: {set:?}");
        ensure!(set.err.contains("not decided") && set.err.contains("may still take"), "{set:?}");
        wait_alarm(&cluster, k, "1 of 3 voters")?;
        writer.demand_waiting()?;
        for n in others {
            cluster.nodes[n].spawn()?;
        }
        writer.settle(&cluster)?;
        drop(mount);
        cluster.passed();
        Ok(())
    });
}
