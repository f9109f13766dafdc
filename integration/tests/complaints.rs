//! What an administrator is told when something is not as it should be: one line, the cause, and
//! what to do next.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::cluster::{CLIENT_TOKEN, Cluster, Spec};
use integration::mount::Mount;
use integration::need::Need;
use integration::node::program;
use integration::run::test;
use integration::sys::{self, Answer};

const NEEDS: &[Need] = &[Need::Root, Need::Xfs];
const MOUNT_NEEDS: &[Need] = &[Need::Root, Need::Xfs, Need::Fuse];
const HEAL_MAX: Duration = Duration::from_secs(60);

/// A brickd that should not start, with these arguments.
fn brickd(words: &[&str]) -> Result<Answer> {
    let mut command = Command::new(program("brickd")?);
    // No configuration file of this machine is of interest.
    command.arg("--config").arg("/dev/null").args(words);
    sys::answer(&mut command, Duration::from_secs(20))
}

fn one_line(answer: &Answer, words: &[&str]) -> Result<()> {
    ensure!(answer.code.is_some_and(|code| code != 0), "it should have failed: {answer:?}");
    let said: Vec<&str> = answer.err.lines().filter(|l| l.starts_with("brickd: ")).collect();
    ensure!(said.len() == 1 && answer.err.ends_with(&format!("{}\n", said[0])), "{answer:?}");
    for word in words {
        ensure!(said[0].contains(word), "expected {word:?}: {answer:?}");
    }
    Ok(())
}

#[test]
fn a_daemon_that_cannot_start_says_why_in_one_line() {
    test("a_daemon_that_cannot_start", NEEDS, || {
        let mut cluster = Cluster::with_volume(Spec { nodes: 2, ..Spec::new("complain") })?;
        let (state, host) = (cluster.nodes[0].state(), cluster.nodes[0].host.clone());
        let pid = cluster.nodes[0].pid().context("it runs")?.to_string();
        let twice = brickd(&["--state-dir", &state.to_string_lossy(), "--listen", &host])?;
        one_line(&twice, &["in use by another brickd", &pid, "--state-dir"])?;
        let other = cluster.path().join("other");
        let port = brickd(&["--state-dir", &other.to_string_lossy(), "--listen", &host])?;
        one_line(&port, &["port", "is another brickd running?", "--listen"])?;
        let config = cluster.path().join("bad.toml");
        fs::write(&config, "lisen = 1\n")?;
        let mut bad = Command::new(program("brickd")?);
        let bad = sys::answer(bad.arg("--config").arg(&config), Duration::from_secs(20))?;
        one_line(&bad, &["bad.toml", "lisen"])?;
        // A peer with bricks does not become a witness by a word in a file.
        cluster.nodes[1].stop()?;
        let (state, host) = (cluster.nodes[1].state(), cluster.nodes[1].host.clone());
        let state = state.to_string_lossy().into_owned();
        let witness = brickd(&["--state-dir", &state, "--listen", &host, "--witness"])?;
        one_line(&witness, &["holds bricks", "witness"])?;
        cluster.nodes[1].start()?;
        cluster.wait_healed("gv0", HEAL_MAX)?;
        cluster.passed();
        Ok(())
    });
}

#[test]
fn commands_name_what_is_wrong_and_not_something_near_it() {
    test("commands_name_what_is_wrong", MOUNT_NEEDS, || {
        let mut cluster = Cluster::with_volume(Spec { nodes: 2, ..Spec::new("near") })?;
        let refused = |words: &[&str], word: &str| cluster.brick_refuses(words, word);
        refused(&["peer", "probe", "no-such-host.invalid"], "cannot be resolved")?;
        let parent = cluster.nodes[0].disk().join("not-there");
        let brick = format!("{}:{}", cluster.nodes[0].host, parent.join("brick").display());
        let why = refused(&["volume", "create", "no", &brick], "not-there")?;
        ensure!(why.contains(&format!("no folder {};", parent.display())), "{why}");
        // A secret that everybody can read is none.
        let request = cluster.mount_request(0, "gv0", "")?;
        let token = cluster.path().join(CLIENT_TOKEN);
        fs::set_permissions(&token, fs::Permissions::from_mode(0o644))?;
        let error = match Mount::new(request.clone()) {
            Ok(_) => anyhow::bail!("mounted with a token that others can read"),
            Err(error) => format!("{error:#}"),
        };
        ensure!(error.contains("chmod 600"), "{error}");
        fs::set_permissions(&token, fs::Permissions::from_mode(0o600))?;
        drop(Mount::new(request)?);
        cluster.passed();
        Ok(())
    });
}

#[test]
fn status_detail_shows_the_file_systems_under_the_bricks() {
    test("status_detail", NEEDS, || {
        let mut cluster = Cluster::with_volume(Spec { nodes: 2, ..Spec::new("detail") })?;
        let text = cluster.brick(&["volume", "status", "gv0", "detail"])?;
        for (name, value) in [("File System", "xfs"), ("Inode Size", "512"), ("Online", "Y")] {
            let rows = text.lines().filter_map(|l| l.split_once(':'));
            let found = rows.filter(|(n, v)| n.trim() == name && v.trim() == value).count();
            ensure!(found == 2, "{name} {value} of both bricks: {text}");
        }
        let status = cluster.brick_json(&["volume", "status", "gv0", "detail"])?;
        for (k, brick) in (0..2).zip(status["volumes"][0]["bricks"].as_array().context("bricks")?) {
            let detail = &brick["detail"];
            let space = rustix::fs::statvfs(cluster.brick_dir(k, "gv0"))?;
            ensure!(detail["size_total"] == space.f_blocks * space.f_frsize, "{detail}");
            ensure!(detail["total_inodes"] == space.f_files, "{detail}");
            let options = detail["mount_options"].as_str().unwrap_or_default();
            ensure!(options.contains("noatime"), "{detail}");
            ensure!(detail["device"].as_str().is_some_and(|d| d.starts_with("/dev/loop")));
        }
        // A peer that is away is shown without it, and soon.
        cluster.nodes[1].kill();
        let text = cluster.brick(&["volume", "status", "gv0", "detail"])?;
        ensure!(text.matches("Inode Size           : 512").count() == 1, "{text}");
        ensure!(text.matches("Inode Size           : N/A").count() == 1, "{text}");
        cluster.passed();
        Ok(())
    });
}

#[test]
fn a_peer_with_another_port_is_found_there_after_its_restart() {
    test("a_peer_with_another_port", NEEDS, || {
        let mut cluster = Cluster::with_volume(Spec::new("ports"))?;
        cluster.nodes[2].stop()?;
        let folder = cluster.nodes[2].state();
        let config = folder.parent().context("a node has a folder")?.join("brickd.toml");
        fs::write(config, "data-port = 9711\npromise-port = 9713\n")?;
        cluster.nodes[2].start()?;
        cluster.wait_healed("gv0", HEAL_MAX)?;
        let ports: Vec<_> =
            cluster.brick_states("gv0")?.iter().map(|b| b["port"].clone()).collect();
        ensure!(ports == [9611, 9611, 9711], "{ports:?}");
        cluster.passed();
        Ok(())
    });
}
