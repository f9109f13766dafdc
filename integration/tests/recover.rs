//! Peers that are lost for ever: the pool that goes on without its majority, and machines that
//! were installed anew and take their bricks back.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::cluster::{Cluster, Spec, json};
use integration::load::{Load, Plan};
use integration::need::Need;
use integration::run::judged;
use integration::sys::{Answer, Poll, wait_until};

const NEEDS: &[Need] = &[Need::Root, Need::Xfs, Need::Fuse];
const HEAL_MAX: Duration = Duration::from_secs(120);
const PAUSE_MAX: Duration = Duration::from_secs(3);
const SOON: Duration = Duration::from_secs(30);

fn at(cluster: &Cluster, k: usize, words: &[&str]) -> Result<String> {
    let answer = cluster.nodes[k].brick(words)?;
    ensure!(answer.ok(), "brick {}: {answer:?}", words.join(" "));
    Ok(answer.out)
}

fn demand_refused(answer: &Answer, word: &str) -> Result<()> {
    ensure!(answer.code == Some(1), "should have been refused: {answer:?}");
    ensure!(answer.err.contains(word), "expected {word:?}: {answer:?}");
    Ok(())
}

/// The pool that a node says it belongs to; empty: none.
fn pool_of(cluster: &Cluster, k: usize) -> Result<String> {
    let info = json(&cluster.nodes[k].brick(&["--json", "pool", "info"])?)?;
    Ok(info["pool_id"].as_str().unwrap_or_default().to_owned())
}

fn brick_of(cluster: &Cluster, asked: usize, k: usize) -> Result<serde_json::Value> {
    let status = json(&cluster.nodes[asked].brick(&["--json", "volume", "status", "gv0"])?)?;
    let bricks = status["volumes"][0]["bricks"].as_array().context("bricks")?;
    let host = cluster.nodes[k].host.as_str();
    bricks.iter().find(|b| b["host"] == host).cloned().context("no such brick")
}

/// Payload that this node's bricks have sent to anybody since its daemon started.
fn sent_bytes(cluster: &Cluster, k: usize) -> Result<u64> {
    let mut stream = TcpStream::connect((cluster.nodes[k].host.as_str(), 9612))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let lines = text.lines().filter(|l| l.starts_with("brick_sent_bytes_total{"));
    let sums = lines.filter_map(|l| l.rsplit_once(' ')?.1.parse::<f64>().ok());
    let sums: Vec<f64> = sums.collect();
    ensure!(!sums.is_empty(), "no count of sent bytes: {text}");
    Ok(sums.iter().sum::<f64>() as u64)
}

fn probe_again(cluster: &Cluster, asked: usize, k: usize) -> Result<()> {
    let host = cluster.nodes[k].host.clone();
    demand_refused(&cluster.nodes[asked].brick(&["peer", "probe", &host])?, "--reinstalled")?;
    // It is not done by the way: nobody is at a terminal here.
    let asks = cluster.nodes[asked].brick(&["peer", "probe", &host, "--reinstalled"])?;
    demand_refused(&asks, "--mode=script")?;
    at(cluster, asked, &["--mode=script", "peer", "probe", &host, "--reinstalled"]).map(drop)
}

fn fill(dir: &Path, large: usize) -> Result<u64> {
    let mut bytes = 0;
    for n in 0..200 {
        let folder = dir.join(format!("d{}", n % 10));
        fs::create_dir_all(&folder)?;
        fs::write(folder.join(format!("f{n}")), vec![n as u8; 1000])?;
        bytes += 1000;
    }
    for n in 0..large {
        // No block is like another.
        let content: Vec<u8> = (0..4 << 18_u32)
            .flat_map(|w: u32| (w.wrapping_mul(2_654_435_761) ^ (n as u32) << 24).to_le_bytes())
            .collect();
        fs::write(dir.join(format!("large{n}")), &content)?;
        bytes += content.len() as u64;
    }
    Ok(bytes)
}

#[test]
fn a_reinstalled_peer_takes_its_bricks_back_by_comparing_not_by_copying() {
    judged("a_reinstalled_peer", NEEDS, || {
        let mut cluster = Cluster::with_volume(Spec { disk_mib: 1024, ..Spec::new("again") })?;
        let mount = cluster.mount(0, "gv0", "")?;
        let bytes = fill(&mount.point().join("tree"), 16)?;
        cluster.wait_healed("gv0", HEAL_MAX)?;
        // Its state is lost, its bricks are there.
        cluster.nodes[1].kill();
        cluster.nodes[1].lose_state()?;
        cluster.wait_out("gv0", 1, SOON)?;
        fs::write(mount.point().join("tree/d0/f0"), "changed meanwhile")?;
        fs::remove_file(mount.point().join("tree/d1/f1"))?;
        fs::write(mount.point().join("tree/new"), vec![5; 100_000])?;
        cluster.nodes[1].start()?;
        let before = sent_bytes(&cluster, 0)? + sent_bytes(&cluster, 2)?;
        probe_again(&cluster, 0, 1)?;
        cluster.wait_healed("gv0", HEAL_MAX)?;
        let sent = sent_bytes(&cluster, 0)? + sent_bytes(&cluster, 2)? - before;
        println!("{sent} bytes were sent to heal a brick of {bytes}");
        ensure!(sent > 100_000, "only {sent} bytes: what changed meanwhile is not counted");
        ensure!(sent < bytes / 10, "{sent} bytes of {bytes} were copied, not compared");
        cluster.demand_equal_bricks("gv0")?;
        // And with the disk lost, too: everything is copied.
        cluster.nodes[2].kill();
        cluster.nodes[2].lose_state()?;
        fs::remove_dir_all(cluster.brick_dir(2, "gv0"))?;
        cluster.wait_out("gv0", 2, SOON)?;
        cluster.nodes[2].start()?;
        let load = Load::start(&mount.point().join("w"), Plan::default())?;
        load.wait_operations(50, SOON)?;
        probe_again(&cluster, 1, 2)?;
        cluster.wait_healed("gv0", HEAL_MAX)?;
        cluster.settle("gv0", load, HEAL_MAX, PAUSE_MAX)?;
        cluster.wait_connected()?;
        drop(mount);
        cluster.passed();
        Ok(())
    });
}

#[test]
fn a_pool_goes_on_without_a_majority_that_is_lost_for_ever() {
    judged("a_lost_majority", NEEDS, || {
        let mut cluster = Cluster::with_volume(Spec { disk_mib: 1024, ..Spec::new("lost") })?;
        let mount = cluster.mount(2, "gv0", "")?;
        fill(&mount.point().join("tree"), 4)?;
        let load = Load::start(&mount.point().join("w"), Plan::default())?;
        load.wait_operations(200, SOON)?;
        let (model, report) = load.finish()?;
        report.demand(PAUSE_MAX)?;
        let answer = cluster.nodes[2].brick(&["--mode=script", "pool", "recover"])?;
        demand_refused(&answer, "majority")?;
        // Both machines burn down, with their disks.
        for k in [0, 1] {
            cluster.nodes[k].kill();
            cluster.nodes[k].lose_state()?;
            fs::remove_dir_all(cluster.brick_dir(k, "gv0"))?;
        }
        demand_refused(&cluster.nodes[2].brick(&["pool", "recover"])?, "--mode=script")?;
        let said = at(&cluster, 2, &["--mode=script", "pool", "recover"])?;
        ensure!(
            said.contains(&cluster.nodes[0].host) && said.contains("never come back"),
            "{said}"
        );
        wait_until("the survivor to serve", SOON, || {
            let brick = brick_of(&cluster, 2, 2)?;
            Ok(Poll::of(brick["state"] == "in-sync" && brick["lead"] == true, || brick.to_string()))
        })?;
        model.verify().context("through the mount, by the survivor alone")?;
        // One copy of three is below min-in-sync, until somebody says otherwise.
        at(&cluster, 2, &["volume", "set", "gv0", "cluster.min-in-sync", "1"])?;
        let load = Load::start(&mount.point().join("after"), Plan::default())?;
        load.wait_operations(100, SOON)?;
        // Machines installed anew under the old names.
        for k in [0, 1] {
            cluster.nodes[k].start()?;
            probe_again(&cluster, 2, k)?;
            wait_until("its brick", HEAL_MAX, || {
                let brick = brick_of(&cluster, 2, k)?;
                Ok(Poll::of(brick["state"] == "in-sync", || brick.to_string()))
            })?;
        }
        at(&cluster, 2, &["volume", "set", "gv0", "cluster.min-in-sync", "auto"])?;
        cluster.wait_connected()?;
        cluster.wait_healed("gv0", HEAL_MAX)?;
        load.wait_operations(50, SOON)?;
        load.end(PAUSE_MAX)?;
        cluster.wait_healed("gv0", HEAL_MAX)?;
        model.verify().context("at the end")?;
        cluster.demand_equal_bricks("gv0")?;
        wait_until("three voters again", SOON, || {
            let list = cluster.brick_json(&["pool", "list"])?;
            let peers = list["peers"].as_array().context("peers")?;
            let voters = peers.iter().filter(|p| p["voter"] == true).count();
            Ok(Poll::of(peers.len() == 3 && voters == 3, || list.to_string()))
        })?;
        drop(mount);
        cluster.passed();
        Ok(())
    });
}

#[test]
fn lost_peers_that_come_back_with_their_old_state_form_no_second_truth() {
    judged("lost_peers_come_back", NEEDS, || {
        let mut cluster = Cluster::with_volume(Spec { disk_mib: 1024, ..Spec::new("undead") })?;
        let mount = cluster.mount(2, "gv0", "")?;
        fill(&mount.point().join("tree"), 2)?;
        cluster.wait_healed("gv0", HEAL_MAX)?;
        for k in [0, 1] {
            cluster.nodes[k].kill();
        }
        at(&cluster, 2, &["--mode=script", "pool", "recover"])?;
        at(&cluster, 2, &["volume", "set", "gv0", "cluster.min-in-sync", "1"])?;
        let load = Load::start(&mount.point().join("w"), Plan::default())?;
        load.wait_operations(100, SOON)?;
        let pool = pool_of(&cluster, 2)?;
        // They were a majority, and they meet again.
        for k in [0, 1] {
            cluster.nodes[k].spawn()?;
        }
        for k in [0, 1] {
            wait_until("a lost peer to stop", SOON, || {
                let answer = cluster.nodes[k].brick(&["--json", "pool", "info"])?;
                if !answer.ok() {
                    return Ok(Poll::of(false, || answer.err));
                }
                let pool = pool_of(&cluster, k)?;
                Ok(Poll::of(pool.is_empty(), || pool))
            })?;
        }
        load.wait_operations(50, SOON)?;
        load.take_report().demand(PAUSE_MAX).context("while they came back")?;
        ensure!(pool_of(&cluster, 2)? == pool, "the recovered pool is as it was");
        for k in [0, 1] {
            probe_again(&cluster, 2, k)?;
        }
        cluster.wait_healed("gv0", HEAL_MAX)?;
        cluster.settle("gv0", load, HEAL_MAX, PAUSE_MAX)?;
        cluster.wait_connected()?;
        drop(mount);
        cluster.passed();
        Ok(())
    });
}

#[test]
fn a_pool_whose_current_copies_are_lost_goes_on_with_an_older_one_only_when_told_to() {
    judged("accept_loss", NEEDS, || {
        let mut cluster = Cluster::with_volume(Spec { nodes: 2, ..Spec::new("older") })?;
        let mut mount = cluster.mount(0, "gv0", "")?;
        fs::write(mount.point().join("both"), "on both")?;
        cluster.nodes[1].kill();
        cluster.wait_out("gv0", 1, SOON)?;
        fs::write(mount.point().join("one"), "on the first alone")?;
        // The second one learns that it was left behind, and cannot heal before the first is lost.
        let (dir, away) = (cluster.brick_dir(1, "gv0"), cluster.nodes[1].disk().join("away"));
        fs::rename(&dir, &away)?;
        cluster.nodes[1].start()?;
        wait_until("it to know", SOON, || {
            let brick = brick_of(&cluster, 1, 1)?;
            Ok(Poll::of(brick["state"] == "out", || brick.to_string()))
        })?;
        mount.kill();
        cluster.nodes.iter_mut().for_each(|node| node.kill());
        fs::rename(&away, &dir)?;
        cluster.nodes[1].start()?;
        let answer = cluster.nodes[1].brick(&["--mode=script", "pool", "recover"])?;
        demand_refused(&answer, "--accept-loss")?;
        at(&cluster, 1, &["--mode=script", "pool", "recover", "--accept-loss"])?;
        wait_until("the older copy to serve", SOON, || {
            let brick = brick_of(&cluster, 1, 1)?;
            let serves = brick["state"] == "in-sync" && brick["online"] == true;
            Ok(Poll::of(serves, || brick.to_string()))
        })?;
        mount.again()?;
        ensure!(fs::read(mount.point().join("both"))? == b"on both");
        drop(mount);
        cluster.passed();
        Ok(())
    });
}
