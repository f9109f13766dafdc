//! Members of a set are replaced, added, taken out and reset under a writer, with daemons killed
//! in the middle: no error, no pause over 3 s, equal bricks.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use integration::cluster::{Cluster, Spec};
use integration::load::{Load, Plan};
use integration::mount::Mount;
use integration::need::Need;
use integration::run::judged;
use integration::sys::{Poll, wait_until};
use integration::tree::{self, Xattrs};

const PAUSE_MAX: Duration = Duration::from_secs(3);
const CHANGE_MAX: Duration = Duration::from_secs(90);
const NEEDS: &[Need] = &[Need::Root, Need::Xfs, Need::Fuse];
/// Enough that a new brick's heal takes a moment, in which daemons can be killed.
const OLD_FILES: usize = 3000;

/// Four nodes; a volume on the first `replica` of them, with files in it and a writer.
struct Scene {
    cluster: Cluster,
    mount: Option<Mount>,
    load: Option<Load>,
}

impl Scene {
    fn new(label: &'static str, replica: usize) -> Result<Self> {
        let mut cluster = Cluster::start(Spec { nodes: 4, disk_mib: 1024, ..Spec::new(label) })?;
        cluster.form_pool()?;
        let count = replica.to_string();
        let mut words = vec!["volume", "create", "gv0"];
        if replica > 1 {
            words.extend(["replica", &count]);
        }
        let bricks: Vec<String> = (0..replica).map(|k| cluster.brick_name(k, "gv0")).collect();
        words.extend(bricks.iter().map(String::as_str));
        cluster.brick(&words)?;
        cluster.brick(&["volume", "start", "gv0"])?;
        cluster.wait_in_sync("gv0", Duration::from_secs(30))?;
        let mount = cluster.mount(3, "gv0", "")?;
        let old = mount.point().join("old");
        for n in 0..OLD_FILES {
            let dir = old.join(format!("d{}", n % 30));
            std::fs::create_dir_all(&dir)?;
            std::fs::write(dir.join(format!("f{n}")), vec![n as u8; 100 + n * 11 % 9000])?;
        }
        let load = Load::start(&mount.point().join("w"), Plan::default())?;
        load.wait_operations(100, Duration::from_secs(30))?;
        load.take_report().demand(PAUSE_MAX).context("before the change")?;
        Ok(Self { cluster, mount: Some(mount), load: Some(load) })
    }

    fn brick(&self, words: &[&str]) -> Result<String> {
        let mut all = vec!["--mode=script", "volume"];
        all.extend(words);
        self.cluster.brick(&all)
    }

    fn name(&self, k: usize) -> String {
        self.cluster.brick_name(k, "gv0")
    }

    /// A brick with another path on a node.
    fn other(&self, k: usize) -> String {
        self.cluster.brick_name(k, "gv0b")
    }

    fn replace(&self, old: &str, new: &str) -> Result<String> {
        self.brick(&["replace-brick", "gv0", old, new, "commit", "force"])
    }

    /// Waits until a new brick has been given something, and is not in-sync yet.
    fn wait_healing(&self, brick: &str) -> Result<()> {
        wait_until("the heal of the new brick", CHANGE_MAX, || {
            let info = self.cluster.brick_json(&["volume", "heal", "gv0", "info"])?;
            let bricks = info["bricks"].as_array().context("no bricks")?;
            let named = |b: &&serde_json::Value| {
                brick
                    == format!(
                        "{}:{}",
                        b["host"].as_str().unwrap_or(""),
                        b["path"].as_str().unwrap_or("")
                    )
            };
            let found = bricks.iter().find(named);
            let begun = found.is_some_and(|b| {
                b["state"] == "in-sync" || b["done_bytes"].as_u64().unwrap_or(0) > 0
            });
            Ok(Poll::of(begun, || info.to_string()))
        })
        .map(drop)
    }

    /// Waits until nothing is being changed or healed, and says what the writer saw.
    fn wait_changed(&self, what: &str) -> Result<()> {
        let took = self.cluster.wait_healed("gv0", CHANGE_MAX).context(what.to_owned())?;
        let load = self.load.as_ref().context("no load")?;
        let report = load.take_report();
        println!(
            "{what}: {} ms, longest pause {} ms ({})",
            took.as_millis(),
            report.longest.as_millis(),
            report.longest_was
        );
        report.demand(PAUSE_MAX).context(what.to_owned())?;
        // What waited for the last step has its answer before the next change begins.
        load.wait_operations(50, Duration::from_secs(10)).context(what.to_owned())
    }

    /// The folders of the volume's bricks, as `volume info` has them.
    fn folders(&self) -> Result<Vec<PathBuf>> {
        let info = self.cluster.brick_json(&["volume", "info", "gv0"])?;
        let bricks = info["volumes"][0]["bricks"].as_array().cloned().context("no bricks")?;
        if let Some(changing) = bricks.iter().find(|b| b["change"] != "") {
            bail!("still being changed: {changing}");
        }
        Ok(bricks.iter().filter_map(|b| b["path"].as_str()).map(PathBuf::from).collect())
    }

    /// Ends the writer; all bricks are equal, and as many as expected, on these nodes.
    fn end(mut self, bricks: &[String]) -> Result<()> {
        let load = self.load.take().context("no load")?;
        load.end(PAUSE_MAX)?;
        self.cluster.wait_healed("gv0", CHANGE_MAX)?;
        let info = self.brick(&["info", "gv0"])?;
        for brick in bricks {
            ensure!(info.contains(brick.as_str()), "{brick} is not in {info}");
        }
        let folders = self.folders()?;
        ensure!(folders.len() == bricks.len(), "{folders:?}");
        let mount = self.mount.take().context("no mount")?;
        let entries = match &folders[..] {
            [only] => tree::same(mount.point(), only, Xattrs::Visible)?,
            several => tree::all_same(several)?,
        };
        ensure!(entries > OLD_FILES, "only {entries} entries");
        drop(mount);
        self.cluster.passed();
        Ok(())
    }
}

/// A brick that was taken out: readable, marked, and not used by mistake.
fn demand_dropped(scene: &Scene, k: usize) -> Result<()> {
    let folder = scene.cluster.brick_dir(k, "gv0");
    let mark = folder.join(".brickwork/dropped");
    wait_until("the mark of a dropped brick", Duration::from_secs(10), || {
        Ok(Poll::of(mark.exists(), || format!("no {}", mark.display())))
    })?;
    let text = std::fs::read(folder.join("old/d1/f1")).context("its files are readable")?;
    ensure!(text == vec![1; 111], "its files are as they were");
    Ok(())
}

#[test]
fn a_living_brick_is_replaced_on_another_peer_and_on_its_own() {
    judged("a_living_brick_is_replaced", NEEDS, || {
        let scene = Scene::new("repl", 3)?;
        let lead = scene.cluster.lead("gv0")?;
        // The one that leads, by one on a peer that had none.
        let said = scene.replace(&scene.name(lead), &scene.name(3))?;
        ensure!(said.contains("replace-brick commit force operation successful"), "{said}");
        scene.wait_changed("the lead's brick replaced")?;
        demand_dropped(&scene, lead)?;
        // Another one, by one on the same peer.
        let other = (lead + 1) % 3;
        scene.replace(&scene.name(other), &scene.other(other))?;
        scene.wait_changed("a brick replaced on its own peer")?;
        // The first one's folder is not taken by mistake.
        let third = (lead + 2) % 3;
        let words = ["volume", "add-brick", "gv0", "replica", "4", &scene.name(lead)];
        scene.cluster.brick_refuses(&words, "was a brick of volume")?;
        let bricks = [scene.name(3), scene.other(other), scene.name(third)];
        scene.end(&bricks)
    });
}

#[test]
fn a_dead_brick_is_replaced_and_never_serves_again() {
    judged("a_dead_brick_is_replaced", NEEDS, || {
        let mut scene = Scene::new("dead", 3)?;
        let dead = (scene.cluster.lead("gv0")? + 1) % 3;
        let old = scene.name(dead);
        scene.cluster.nodes[dead].kill();
        std::fs::remove_dir_all(scene.cluster.brick_dir(dead, "gv0"))?;
        scene.cluster.wait_out("gv0", dead, Duration::from_secs(20))?;
        scene.replace(&old, &scene.name(3))?;
        scene.wait_healing(&scene.name(3))?;
        scene.cluster.nodes[3].kill();
        scene.cluster.nodes[3].start()?;
        scene.wait_changed("a dead brick replaced, and the new one's daemon killed")?;
        scene.cluster.nodes[dead].start()?;
        let left = [scene.name((dead + 1) % 3), scene.name((dead + 2) % 3), scene.name(3)];
        scene.wait_changed("the dead brick's daemon is back")?;
        scene.end(&left)
    });
}

#[test]
fn daemons_killed_in_the_middle_of_a_replacement_delay_it_and_no_more() {
    judged("a_replacement_with_kills", NEEDS, || {
        let mut scene = Scene::new("rkill", 3)?;
        let mut at = [0, 1, 2];
        let mut free = 3;
        // Who is killed when the new brick is being healed: the old one's daemon, the new one's,
        // another member's.
        for (round, who) in ["old", "new", "other"].into_iter().enumerate() {
            let old = at[round];
            let names = (scene.cluster.brick_name(old, "gv0"), scene.other_or_first(free, round));
            scene.replace(&names.0, &names.1)?;
            scene.wait_healing(&names.1)?;
            let k = match who {
                "old" => old,
                "new" => free,
                _ => at[(round + 1) % 3],
            };
            scene.cluster.nodes[k].kill();
            std::thread::sleep(Duration::from_secs(2));
            scene.cluster.nodes[k].start()?;
            scene.wait_changed(&format!("a replacement with the {who} brick's daemon killed"))?;
            at[round] = free;
            free = old;
        }
        let folders = scene.folders()?;
        ensure!(folders.len() == 3, "{folders:?}");
        let info = scene.cluster.brick_json(&["volume", "info", "gv0"])?;
        let bricks = info["volumes"][0]["bricks"].as_array().context("no bricks")?.clone();
        let word = |b: &serde_json::Value, key: &str| b[key].as_str().unwrap_or("").to_owned();
        let names: Vec<String> =
            bricks.iter().map(|b| format!("{}:{}", word(b, "host"), word(b, "path"))).collect();
        scene.end(&names)
    });
}

impl Scene {
    /// A place on a node where there was no brick yet.
    fn other_or_first(&self, k: usize, round: usize) -> String {
        if round == 0 { self.name(k) } else { self.cluster.brick_name(k, &format!("gv0r{round}")) }
    }
}

#[test]
fn copies_are_added_and_taken_out_again() {
    judged("copies_added_and_taken_out", NEEDS, || {
        let mut scene = Scene::new("count", 2)?;
        scene.brick(&["add-brick", "gv0", "replica", "3", &scene.name(2)])?;
        scene.wait_healing(&scene.name(2))?;
        scene.cluster.nodes[2].kill();
        scene.cluster.nodes[2].start()?;
        scene.wait_changed("2 to 3 copies, and the new one's daemon killed")?;
        let info = scene.brick(&["info", "gv0"])?;
        ensure!(info.contains("Number of Bricks: 1 x 3 = 3"), "{info}");
        let lead = scene.cluster.lead("gv0")?;
        let leaver = scene.name(lead);
        // Its daemon dies in the middle of it.
        let (asked, rest) = scene.cluster.nodes.split_at_mut(3);
        let words =
            ["--mode=script", "volume", "remove-brick", "gv0", "replica", "2", &leaver, "force"];
        let answer = std::thread::scope(|scope| {
            let said = scope.spawn(|| rest[0].brick(&words));
            std::thread::sleep(Duration::from_millis(400));
            asked[lead].kill();
            said.join().map_err(|_| anyhow::anyhow!("the CLI's thread panicked"))?
        })?;
        ensure!(answer.ok(), "{answer:?}");
        scene.cluster.nodes[lead].start()?;
        scene.wait_changed("3 to 2 copies, and the leaving one's daemon killed")?;
        let info = scene.brick(&["info", "gv0"])?;
        ensure!(info.contains("Number of Bricks: 1 x 2 = 2"), "{info}");
        scene.cluster.brick_refuses(
            &["--mode=script", "volume", "remove-brick", "gv0", "replica", "1", &leaver, "force"],
            "Incorrect brick",
        )?;
        let left: Vec<String> = (0..3).filter(|k| *k != lead).map(|k| scene.name(k)).collect();
        scene.end(&left)
    });
}

#[test]
fn a_brick_is_reset_with_an_emptied_disk() {
    judged("a_brick_is_reset", NEEDS, || {
        let mut scene = Scene::new("reset", 3)?;
        let k = scene.cluster.lead("gv0")?;
        let name = scene.name(k);
        let commit = ["volume", "reset-brick", "gv0", &name, &name, "commit", "force"];
        scene.cluster.brick_refuses(&commit, "must be stopped")?;
        scene.brick(&["reset-brick", "gv0", &name, "start"])?;
        let status = scene.brick(&["status", "gv0"])?;
        ensure!(status.contains("out of service until the reset is committed"), "{status}");
        // The daemon's restart does not bring it back.
        scene.cluster.nodes[k].kill();
        scene.cluster.nodes[k].start()?;
        let folder = scene.cluster.brick_dir(k, "gv0");
        std::fs::remove_dir_all(&folder)?;
        std::fs::create_dir(&folder)?;
        scene.brick(&["reset-brick", "gv0", &name, &name, "commit"])?;
        scene.wait_healing(&name)?;
        scene.cluster.nodes[k].kill();
        scene.cluster.nodes[k].start()?;
        scene.wait_changed("a brick reset, and its daemon killed")?;
        let all: Vec<String> = (0..3).map(|k| scene.name(k)).collect();
        scene.end(&all)
    });
}

/// A volume of one copy: the old brick is the new one's source, and a lost one is nobody's.
#[test]
fn the_only_copy_is_moved_while_it_lives() {
    judged("the_only_copy_is_moved", NEEDS, || {
        let mut scene = Scene::new("sole", 1)?;
        let (old, new) = (scene.name(0), scene.name(1));
        let words = ["volume", "remove-brick", "gv0", "replica", "1", &old, "force"];
        scene.cluster.brick_refuses(
            &["--mode=script"].iter().chain(&words).copied().collect::<Vec<_>>(),
            "must be less",
        )?;
        scene.replace(&old, &new)?;
        scene.wait_changed("the only copy moved")?;
        demand_dropped(&scene, 0)?;
        scene.cluster.nodes[0].kill();
        scene.wait_changed("the old one's daemon is dead")?;
        scene.cluster.nodes[0].start()?;
        scene.end(&[new])
    });
}
