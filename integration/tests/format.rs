//! Pools that earlier versions left on disk: today's programs start them, heal them, serve them.
//!
//! `fixtures/format-N/` holds a replica 3 pool as three disks and three state folders, stopped in
//! order, whose third member missed the last changes; and a manifest of what its mount showed.
//! A fixture is never made again: a later format gets a folder of its own beside it.

use std::fs::{self, File};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::cluster::Cluster;
use integration::fixture::{FORMAT_1, Format, Place};
use integration::manifest;
use integration::need::Need;
use integration::run;
use integration::scratch::Scratch;
use integration::sys;
use integration::tree::{self, Xattrs};

const HEAL_MAX: Duration = Duration::from_secs(120);
const ARCHIVE: &str = "pool.tar.xz";
const MANIFEST: &str = "manifest.txt";

fn test(name: &str, needs: &[Need], body: impl FnOnce() -> Result<()>) {
    let common = [Need::Root, Need::Xfs, Need::Fuse, Need::Program("tar"), Need::Program("xz")];
    run::test(name, &[&common, needs].concat(), body);
}

fn folder(format: Format) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(format.name)
}

#[test]
fn a_pool_of_the_first_format_starts_heals_and_serves() {
    test("a_pool_of_the_first_format", &[], || serve(FORMAT_1));
}

fn serve(format: Format) -> Result<()> {
    let expected = fs::read_to_string(folder(format).join(MANIFEST))?;
    let place = Place::take(format)?;
    let scratch = Scratch::new(format.name)?;
    let mut cluster = place.unpack(&folder(format).join(ARCHIVE), scratch)?;
    let bricks = cluster.brick_dirs("gv0");
    // Else the wait below would wait for nothing.
    ensure!(!bricks[2].join("later").exists(), "the third member missed nothing");
    cluster.start_all()?;
    cluster.wait_connected()?;
    cluster.wait_healed("gv0", HEAL_MAX)?;

    let mut mount = cluster.mount(0, "gv0", "")?;
    manifest::demand_same("the mount", &expected, &manifest::of_mount(mount.point())?)?;
    let plain = manifest::without_inodes(&expected);
    for brick in &bricks {
        let found = manifest::entries(&tree::read(brick, Xattrs::Visible)?);
        manifest::demand_same(&brick.display().to_string(), &plain, &found)?;
    }
    cluster.demand_equal_bricks("gv0")?;

    change(mount.point())?;
    cluster.wait_healed("gv0", HEAL_MAX)?;
    cluster.demand_equal_bricks("gv0")?;
    tree::same(mount.point(), &bricks[0], Xattrs::Visible)?;
    mount.unmount()?;
    for node in &mut cluster.nodes {
        node.stop()?;
    }
    cluster.passed();
    Ok(())
}

/// Changes of every kind to what an earlier version wrote.
fn change(root: &Path) -> Result<()> {
    let script = "echo new >new; echo more >>large; mv many renamed; rm deep/large-2 deep/fifo
        mkdir deep/another; ln small another-link; chmod 0755 setgid; rm -r later
        setfattr -n user.colour -v red small; truncate -s 5 random; sync -f .
        test \"$(cat new)\" = new; test \"$(tail -n 1 large)\" = more; test -e renamed/file-9.txt";
    sys::shell(root, script, sys::LIMIT).map(drop)
}

/// Inodes without a name, of each brick.
fn orphans(bricks: &[PathBuf]) -> Result<Vec<usize>> {
    let count = |brick: &PathBuf| Ok(fs::read_dir(brick.join(".brickwork/orphans"))?.count());
    bricks.iter().map(count).collect()
}

/// Run by hand, once for each format: see docs/testing.md.
#[test]
#[ignore = "makes the fixture of a new format"]
fn make_the_fixture_of_the_first_format() {
    let needs = [Need::Program("setfattr"), Need::Program("setfacl"), Need::Program("fstrim")];
    test("make_the_fixture", &needs, || make(FORMAT_1));
}

fn make(format: Format) -> Result<()> {
    let out = folder(format);
    ensure!(!out.join(ARCHIVE).exists(), "{} is there: fixtures are never made again", format.name);
    let place = Place::take(format)?;
    let mut cluster = place.fresh(Scratch::new(format.name)?)?;
    cluster.start_all()?;
    cluster.form_pool()?;
    cluster.make_volume("gv0")?;
    let mut mount = cluster.mount(0, "gv0", "")?;
    let script = |name: &str| {
        let mut command = Command::new("sh");
        sys::must_within(command.arg(out.join(name)).current_dir(mount.point()), sys::LIMIT)
    };
    script("contents.sh")?;
    drop(UnixListener::bind(mount.point().join("socket"))?);
    cluster.wait_healed("gv0", HEAL_MAX)?;
    cluster.demand_equal_bricks("gv0")?;

    cluster.nodes[2].stop()?;
    cluster.wait_out("gv0", 2, HEAL_MAX)?;
    script("later.sh")?;
    // Open without a name when the pool stops: an orphan on the bricks.
    let path = mount.point().join("orphan");
    fs::write(&path, "open, without a name")?;
    let held = File::open(&path)?;
    fs::remove_file(&path)?;
    let text = manifest::of_mount(mount.point())?;
    let bricks = cluster.brick_dirs("gv0");
    tree::same(mount.point(), &bricks[0], Xattrs::Visible)?;
    stop(&mut cluster)?;
    drop(held);
    mount.kill();

    tree::all_same(&bricks[..2])?;
    let differences = tree::same(&bricks[0], &bricks[2], Xattrs::All);
    ensure!(differences.is_err(), "the third member missed nothing");
    ensure!(orphans(&bricks)? == [1, 1, 0], "orphans: {:?}", orphans(&bricks)?);
    place.pack(cluster, &out.join(ARCHIVE))?;
    fs::write(out.join(MANIFEST), text).context("cannot write the manifest")
}

/// The second member first: the first one leads, and holds everything.
fn stop(cluster: &mut Cluster) -> Result<()> {
    cluster.nodes[1].stop()?;
    cluster.nodes[0].stop()
}
