//! A pool on this machine: what it says, what it refuses, and what a stranger can do to it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::cluster::{Cluster, Spec};
use integration::mount::Mount;
use integration::need::Need;
use integration::node::Node;
use integration::run::{judged, test};
use integration::sys::{Poll, wait_until};

const NEEDS: &[Need] = &[Need::Root, Need::Xfs];
const MOUNT_NEEDS: &[Need] = &[Need::Root, Need::Xfs, Need::Fuse];

#[test]
fn three_peers_form_a_pool_and_say_so() {
    test("three_peers_form_a_pool", NEEDS, || {
        let cluster = Cluster::start(Spec::new("pool"))?;
        cluster.form_pool()?;
        let status = cluster.brick(&["peer", "status"])?;
        let connected = status.matches("State: Peer in Cluster (Connected)").count();
        ensure!(connected == 2, "two other peers are connected: {status}");
        for word in ["Hostname: ", "Uuid: "] {
            ensure!(status.matches(word).count() == 2, "{word}: {status}");
        }
        // The pool makes voters by itself, soon after the probes.
        wait_until("three voters of three peers", Duration::from_secs(20), || {
            let list = cluster.brick_json(&["pool", "list"])?;
            let peers = list["peers"].as_array().context("peers")?;
            let voters = peers.iter().filter(|p| p["voter"] == true).count();
            Ok(Poll::of(peers.len() == 3 && voters == 3, || list.to_string()))
        })?;
        cluster.passed();
        Ok(())
    });
}

#[test]
fn a_pool_survives_the_restart_of_all_its_daemons() {
    test("a_pool_survives_the_restart", NEEDS, || {
        let mut cluster = Cluster::with_volume(Spec::new("restart"))?;
        for node in &mut cluster.nodes {
            node.kill();
        }
        for node in &mut cluster.nodes {
            node.spawn()?;
        }
        cluster.wait_connected()?;
        let info = cluster.brick(&["volume", "info", "gv0"])?;
        ensure!(info.contains("Status: Started"), "{info}");
        cluster.wait_healed("gv0", Duration::from_secs(90))?;
        cluster.passed();
        Ok(())
    });
}

#[test]
fn a_probe_that_cannot_succeed_says_why() {
    test("a_probe_that_cannot_succeed", NEEDS, || {
        let cluster = Cluster::start(Spec { nodes: 4, ..Spec::new("probe") })?;
        let host = |k: usize| cluster.nodes[k].host.as_str();
        cluster.brick(&["peer", "probe", host(1)])?;
        let answer = cluster.nodes[2].brick(&["peer", "probe", host(3)])?;
        ensure!(answer.ok(), "the second pool: {answer:?}");
        // Nobody listens there.
        let nowhere = host(3).replace(".14", ".200");
        cluster.brick_refuses(&["peer", "probe", &nowhere], &nowhere)?;
        cluster.brick_refuses(&["peer", "probe", "no-such-host.invalid"], "no-such-host")?;
        // A peer of another pool is not taken away from it.
        cluster.brick_refuses(&["peer", "probe", host(2)], "pool")?;
        // A peer of this pool is there already: said so, and no error, as a script wants it.
        let again = cluster.nodes[0].brick(&["peer", "probe", host(1)])?;
        ensure!(format!("{}{}", again.out, again.err).contains("already"), "{again:?}");
        let list = cluster.brick_json(&["pool", "list"])?;
        ensure!(list["peers"].as_array().map(Vec::len) == Some(2), "nothing changed: {list}");
        cluster.passed();
        Ok(())
    });
}

#[test]
fn a_peer_with_another_join_key_stays_out_until_accepted() {
    test("a_peer_with_another_join_key", NEEDS, || {
        let mut cluster = Cluster::start(Spec { nodes: 2, ..Spec::new("key") })?;
        let (host, dir) = (cluster.nodes[1].host.clone(), cluster.path().join("stranger"));
        cluster.nodes.remove(1);
        let key = cluster.path().join("other.key");
        Node::make_join_key(&key)?;
        let mut stranger = Node::new(&host, &dir, None, &key)?;
        stranger.start()?;
        cluster.brick_refuses(&["peer", "probe", &host], "key")?;
        let list = cluster.brick_json(&["pool", "list"])?;
        ensure!(list["peers"].as_array().map(Vec::len) == Some(1), "{list}");
        cluster.nodes.push(stranger);
        cluster.passed();
        Ok(())
    });
}

#[test]
fn a_volume_that_cannot_be_created_changes_nothing() {
    test("a_volume_that_cannot_be_created", NEEDS, || {
        let cluster = Cluster::with_volume(Spec::new("create"))?;
        for k in 0..3 {
            fs::create_dir_all(cluster.brick_dir(k, "gv1"))?;
        }
        let names: Vec<String> = (0..3).map(|k| cluster.brick_name(k, "gv1")).collect();
        let create = |name: &str, replica: &str, bricks: &[&str], word: &str| {
            let mut words = vec!["volume", "create", name, "replica", replica];
            words.extend(bricks);
            cluster.brick_refuses(&words, word)
        };
        let [a, b, c] = [names[0].as_str(), names[1].as_str(), names[2].as_str()];
        create("gv0", "3", &[a, b, c], "exists")?;
        create("gv1", "2", &[a, b, c], "multiple")?;
        // As with GlusterFS the last folder may be made; the disk below it must be there.
        let missing = a.replace("/gv1", "/not-there/gv1");
        create("gv1", "3", &[&missing, b, c], "not-there")?;
        let used = a.replace("/gv1", "/gv0");
        create("gv1", "3", &[&used, b, c], "gv0")?;
        create("gv1", "3", &[a, a, c], "twice")?;
        let unknown = format!("192.0.2.1:{}", cluster.brick_dir(0, "gv1").display());
        create("gv1", "3", &[&unknown, b, c], "192.0.2.1")?;
        create("bad/name", "3", &[a, b, c], "name")?;
        cluster.brick_refuses(&["volume", "start", "gv0"], "started")?;
        cluster.brick_refuses(&["volume", "start", "gv1"], "gv1")?;
        cluster.brick_refuses(&["volume", "delete", "gv0", "--mode=script"], "stop")?;
        let list = cluster.brick(&["volume", "list"])?;
        ensure!(list.trim() == "gv0", "nothing was created: {list}");
        // What was refused left no mark on the folders: the right command still works.
        cluster.make_volume("gv1")?;
        cluster.passed();
        Ok(())
    });
}

/// The seven types, from the command line to `volume info`.
#[test]
fn every_type_of_volume_is_created_and_named_as_glusterfs_names_it() {
    test("every_type_of_volume", NEEDS, || {
        let cluster = Cluster::start(Spec::new("types"))?;
        cluster.form_pool()?;
        let types: [(&str, &[&str], usize, &str, &str); 8] = [
            ("d", &[], 3, "Distribute", "3"),
            ("d1", &["replica", "1"], 2, "Distribute", "2"),
            ("s", &["stripe", "2"], 2, "Stripe", "1 x 2 = 2"),
            ("r", &["replica", "3", "transport", "tcp"], 3, "Replicate", "1 x 3 = 3"),
            ("ds", &["stripe", "2"], 4, "Distributed-Stripe", "2 x 2 = 4"),
            ("dr", &["replica", "2"], 6, "Distributed-Replicate", "3 x 2 = 6"),
            ("sr", &["stripe", "2", "replica", "2"], 4, "Striped-Replicate", "1 x 2 x 2 = 4"),
            (
                "dsr",
                &["stripe", "2", "replica", "2"],
                8,
                "Distributed-Striped-Replicate",
                "2 x 2 x 2 = 8",
            ),
        ];
        for (name, words, bricks, type_name, count) in types {
            let mut command = vec!["volume".to_owned(), "create".into(), name.into()];
            command.extend(words.iter().map(|w| (*w).to_owned()));
            for n in 0..bricks {
                let folder = format!("{name}-{n}");
                fs::create_dir_all(cluster.brick_dir(n % 3, &folder))?;
                command.push(cluster.brick_name(n % 3, &folder));
            }
            let named = command[command.len() - bricks..].to_vec();
            cluster.brick(&command.iter().map(String::as_str).collect::<Vec<_>>())?;
            let info = cluster.brick(&["volume", "info", name])?;
            ensure!(info.contains(&format!("\nType: {type_name}\n")), "{info}");
            ensure!(info.contains(&format!("\nNumber of Bricks: {count}\n")), "{info}");
            let in_order =
                named.iter().zip(1..).all(|(b, n)| info.contains(&format!("Brick{n}: {b}")));
            ensure!(in_order, "{named:?} in {info}");
        }
        cluster.brick_refuses(&["volume", "start", "dsr"], "striped")?;
        cluster.brick(&["volume", "start", "dr"])?;
        // Two copies on one peer: refused, or made with a warning.
        let twice: Vec<String> =
            (0..2).map(|n| cluster.brick_name(0, &format!("twice-{n}"))).collect();
        for n in 0..2 {
            fs::create_dir_all(cluster.brick_dir(0, &format!("twice-{n}")))?;
        }
        let mut create = vec!["volume", "create", "twice", "replica", "2", &twice[0], &twice[1]];
        cluster.brick_refuses(&create, "lost together")?;
        create.push("force");
        let said = cluster.brick(&create)?;
        ensure!(said.contains("success") && said.contains("warning:"), "{said}");
        let rdma = ["volume", "create", "x", "transport", "rdma", &twice[0]];
        cluster.brick_refuses(&rdma, "rdma is not supported; use tcp")?;
        cluster.passed();
        Ok(())
    });
}

#[test]
fn a_mount_without_a_volume_or_a_credential_is_refused() {
    test("a_mount_without_a_volume", MOUNT_NEEDS, || {
        let mut cluster = Cluster::with_volume(Spec::new("refuse"))?;
        let refused = |request, word: &str| -> Result<()> {
            let error = match Mount::new(request) {
                Ok(_) => anyhow::bail!("mounted; expected a refusal with {word:?}"),
                Err(error) => format!("{error:#}"),
            };
            ensure!(error.to_lowercase().contains(word), "expected {word:?} in: {error}");
            Ok(())
        };
        refused(cluster.mount_request(0, "no-such-volume", "")?, "no-such-volume")?;
        let mut bare = cluster.mount_request(0, "gv0", "")?;
        bare.token = Some(cluster.path().join("no.token"));
        refused(bare, "token")?;
        let mut forged = cluster.mount_request(0, "gv0", "")?;
        let text = fs::read_to_string(forged.token.as_ref().context("a token")?)?;
        let file = cluster.path().join("forged.token");
        fs::write(&file, with_other_secret(&text))?;
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600))?;
        forged.token = Some(file);
        refused(forged, "")?;
        cluster.brick(&["--mode=script", "volume", "stop", "gv0"])?;
        refused(cluster.mount_request(0, "gv0", "")?, "start")?;
        cluster.passed();
        Ok(())
    });
}

/// A token with the right form, name and certificate, and a wrong secret.
fn with_other_secret(token: &str) -> String {
    let mut fields: Vec<String> = token.trim().split(':').map(str::to_owned).collect();
    fields[3] = fields[3].chars().rev().collect();
    fields.join(":")
}

#[test]
fn a_full_brick_says_so_and_loses_nothing() {
    test("a_full_brick_says_so", MOUNT_NEEDS, || {
        let mut cluster = Cluster::with_volume(Spec::new("full"))?;
        let mount = cluster.mount(0, "gv0", "")?;
        let content = vec![7_u8; 1 << 20];
        fs::write(mount.point().join("before"), &content)?;
        let filler = cluster.disks[1].fill_but(8)?;
        // Not Brickwork filled the disk: the lead hears of it with a ping, mounts by a renewal.
        std::thread::sleep(Duration::from_secs(2));
        let error = (0..64)
            .find_map(|n| fs::write(mount.point().join(format!("f{n}")), &content).err())
            .context("64 MiB fitted on a brick with 8 MiB free")?;
        ensure!(error.kind() == std::io::ErrorKind::StorageFull, "ENOSPC expected: {error}");
        ensure!(fs::read(mount.point().join("before"))? == content);
        fs::remove_file(filler)?;
        // Room again: the volume goes on by itself, and the bricks are equal.
        wait_until("room", Duration::from_secs(30), || {
            fs::write(mount.point().join("after"), &content)?;
            Ok(Poll::Done)
        })?;
        cluster.wait_healed("gv0", Duration::from_secs(60))?;
        cluster.demand_equal_bricks("gv0")?;
        cluster.passed();
        Ok(())
    });
}

#[test]
fn trap_63_a_volume_that_fills_up_refuses_before_any_brick_leaves() {
    test("a_volume_fills_up", MOUNT_NEEDS, || {
        let mut cluster = Cluster::with_volume(Spec::new("fills"))?;
        let mounts = [cluster.mount(0, "gv0", "")?, cluster.mount(1, "gv0", "")?];
        let _fillers = [cluster.disks[0].fill_but(96)?, cluster.disks[1].fill_but(64)?];
        std::thread::sleep(Duration::from_secs(2));
        let written = std::thread::scope(|scope| {
            let fill = |at: usize| {
                let dir = mounts[at].point().join(format!("w{at}"));
                move || fill_until_refused(&dir)
            };
            let writers = [scope.spawn(fill(0)), scope.spawn(fill(1))];
            writers.map(|w| w.join().map_err(|_| anyhow::anyhow!("a writer panicked")))
        });
        let mut bytes = 0;
        for files in written {
            for (path, content) in files?? {
                bytes += content.len();
                ensure!(fs::read(&path)? == content, "{} differs", path.display());
            }
        }
        // 64 MiB less the reserve, a twentieth of the small disk, and what was lent last.
        ensure!(bytes > 16 << 20, "only {bytes} bytes fitted");
        for brick in cluster.brick_states("gv0")? {
            ensure!(brick["state"] == "in-sync", "a brick left: {brick}");
        }
        cluster.demand_equal_bricks("gv0")?;
        cluster.passed();
        Ok(())
    });
}

/// Writes files until there is no space; those that were closed without an error.
fn fill_until_refused(dir: &Path) -> Result<Vec<(PathBuf, Vec<u8>)>> {
    fs::create_dir(dir)?;
    let mut files = Vec::new();
    for n in 0..400_u32 {
        let (path, content) = (dir.join(format!("f{n}")), vec![n as u8; 700_000]);
        match fs::write(&path, &content) {
            Ok(()) => files.push((path, content)),
            Err(e) if e.kind() == std::io::ErrorKind::StorageFull => return Ok(files),
            Err(e) => return Err(e.into()),
        }
    }
    anyhow::bail!("280 MB fitted on a brick with 64 MiB free")
}

#[test]
fn a_mount_by_the_local_socket_outlives_the_daemon_that_let_it_in() {
    judged("a_mount_by_the_local_socket", MOUNT_NEEDS, || {
        let mut cluster = Cluster::with_volume(Spec::new("socket"))?;
        let socket = cluster.nodes[0].state().join("control.sock");
        let mut request =
            cluster.mount_request(0, "gv0", &format!("socket={}", socket.display()))?;
        // One server is named, and no token.
        request.source = format!("{}:/gv0", cluster.nodes[0].host);
        request.token = None;
        let mount = Mount::new(request)?;
        let load = integration::load::Load::start(&mount.point().join("w"), Default::default())?;
        load.wait_operations(50, Duration::from_secs(20))?;
        cluster.nodes[0].stop()?;
        load.wait_operations(50, Duration::from_secs(20))?;
        // A change of the set's epoch that only the other peers can tell.
        cluster.nodes[0].start()?;
        cluster.wait_healed("gv0", Duration::from_secs(60))?;
        cluster.nodes[0].stop()?;
        load.wait_operations(50, Duration::from_secs(20))?;
        cluster.nodes[0].start()?;
        cluster.wait_healed("gv0", Duration::from_secs(60))?;
        load.end(Duration::from_secs(3))?;
        cluster.demand_equal_bricks("gv0")?;
        cluster.passed();
        Ok(())
    });
}

#[test]
fn a_rolling_restart_is_not_noticed() {
    judged("a_rolling_restart", MOUNT_NEEDS, || {
        let mut cluster = Cluster::with_volume(Spec::new("rolling"))?;
        let mount = cluster.mount(0, "gv0", "")?;
        let load = integration::load::Load::start(&mount.point().join("w"), Default::default())?;
        for k in 0..3 {
            load.wait_operations(50, Duration::from_secs(20))?;
            cluster.nodes[k].stop()?;
            cluster.nodes[k].start()?;
            cluster.wait_healed("gv0", Duration::from_secs(60))?;
            load.take_report().demand(Duration::from_secs(3))?;
        }
        load.end(Duration::from_secs(3))?;
        cluster.demand_equal_bricks("gv0")?;
        cluster.passed();
        Ok(())
    });
}
