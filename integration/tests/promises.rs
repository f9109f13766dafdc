//! What the contract (`docs/semantics.md`) says of one mount's changes on the bricks, and of
//! operations that cannot go on. Two mounts that look at each other are in `semantics`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _, symlink};
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use integration::cluster::{Cluster, Spec};
use integration::load::Random;
use integration::mount::Mount;
use integration::need::Need;
use integration::run::{judged, test};
use integration::tree::{self, Xattrs};
use integration::{pair, sys};
use rustix::io::Errno;

const NEEDS: &[Need] = &[Need::Root, Need::Xfs, Need::Fuse];
const NET_NEEDS: &[Need] = &[Need::Root, Need::Xfs, Need::Fuse, Need::Netns];
const OP_TIMEOUT: Duration = Duration::from_secs(3);
/// A busy machine is late; for ever is longer.
const LATE_MAX: Duration = Duration::from_secs(20);
const HEAL_MAX: Duration = Duration::from_secs(60);

#[test]
fn what_was_closed_or_synced_is_on_every_brick() {
    pair::test("closed", |_, place| {
        let mut random = Random::new(3);
        for n in 0..60_usize {
            let (name, content) = (format!("f{}", n % 20), random.bytes(1 + n * 3331 % 200_000));
            let mut file = File::create(place.seen[n % 2].join(&name))?;
            for chunk in content.chunks(7001) {
                file.write_all(chunk)?;
            }
            if n % 3 == 0 {
                file.sync_all()?;
                ensure!(place.on_bricks(|b| fs::read(b.join(&name)))? == content, "{name}: fsync");
            }
            sys::close(file)?;
            ensure!(place.on_bricks(|b| fs::read(b.join(&name)))? == content, "{name}: close");
        }
        Ok(())
    });
}

#[test]
fn a_synchronous_write_is_on_every_brick_when_it_returns() {
    pair::test("sync", |pair, place| {
        let flags = [libc::O_SYNC, libc::O_DSYNC];
        for (n, flag) in flags.into_iter().enumerate() {
            let name = format!("f{n}");
            let mut how = OpenOptions::new();
            let file = how.write(true).create(true).truncate(true).custom_flags(flag);
            write_through(place, &name, &file.open(place.seen[n].join(&name))?)?;
        }
        pair.cluster.brick(&["volume", "set", "gv0", "client.write-mode", "sync"])?;
        let mount = pair.cluster.mount(2, "gv0", "")?;
        let dir = mount.point().join("sync");
        write_through(place, "plain", &File::create(dir.join("plain"))?)?;
        pair.cluster.brick(&["volume", "reset", "gv0", "client.write-mode"])?;
        Ok(())
    });
}

fn write_through(place: &pair::Place, name: &str, file: &File) -> Result<()> {
    let mut want = Vec::new();
    for n in 0..40_u8 {
        let at = want.len() as u64;
        want.extend(vec![n; 1 + usize::from(n) * 97]);
        file.write_all_at(&want[at as usize..], at)?;
        let found = place.on_bricks(|brick| fs::read(brick.join(name)))?;
        ensure!(found == want, "{name}: {} bytes of {} are there", found.len(), want.len());
    }
    Ok(())
}

#[test]
fn changes_of_names_are_on_every_brick_when_they_return() {
    pair::test("names", |_, place| {
        for n in 0..40 {
            let dir = &place.seen[n / 4 % 2];
            let there =
                |name: &str| place.on_bricks(|b| Ok(fs::symlink_metadata(b.join(name)).is_ok()));
            drop(File::create_new(dir.join("f"))?);
            ensure!(there("f")?, "create");
            fs::create_dir(dir.join("d"))?;
            ensure!(there("d")?, "mkdir");
            symlink("f", dir.join("s"))?;
            ensure!(there("s")?, "symlink");
            fs::hard_link(dir.join("f"), dir.join("d/l"))?;
            ensure!(there("d/l")?, "link");
            fs::rename(dir.join("d"), dir.join("e"))?;
            ensure!(there("e/l")? && !there("d")?, "rename");
            for name in ["f", "s", "e/l"] {
                fs::remove_file(dir.join(name))?;
                ensure!(!there(name)?, "unlink");
            }
            fs::remove_dir(dir.join("e"))?;
            ensure!(!there("e")?, "rmdir");
        }
        Ok(())
    });
}

#[test]
fn times_are_the_same_on_every_brick_and_never_go_back() {
    pair::test("times", |_, place| {
        let mut last = (0, 0);
        fs::write(place.seen[0].join("f"), "x")?;
        for n in 0..48_usize {
            let file = place.seen[n / 3 % 2].join("f");
            match n % 3 {
                0 => OpenOptions::new().append(true).open(&file)?.write_all(b"x")?,
                1 => File::create(&file)?.write_all(b"y")?,
                _ => fs::set_permissions(
                    &file,
                    std::os::unix::fs::PermissionsExt::from_mode(0o600 + n as u32 % 8),
                )?,
            }
            let of = |meta: &fs::Metadata| {
                let ns = |s: i64, ns: i64| i128::from(s) * 1_000_000_000 + i128::from(ns);
                (ns(meta.mtime(), meta.mtime_nsec()), ns(meta.ctime(), meta.ctime_nsec()))
            };
            let seen = place.seen.each_ref().map(|s| fs::metadata(s.join("f")).map(|m| of(&m)));
            let [a, b] = seen;
            let (a, b) = (a?, b?);
            ensure!(a == b, "the mounts show {a:?} and {b:?}");
            ensure!(a.0 >= last.0 && a.1 > last.1, "{a:?} after {last:?}");
            last = a;
            // The record holds our ctime; the inode itself shows our mtime.
            let mtime = place.on_bricks(|brick| Ok(of(&fs::metadata(brick.join("f"))?).0))?;
            ensure!(mtime == a.0, "the bricks show {mtime}, the mounts {}", a.0);
            place.on_bricks(|brick| record(&brick.join("f")))?;
        }
        Ok(())
    });
}

/// The metadata record, as bytes.
fn record(path: &Path) -> io::Result<Vec<u8>> {
    let mut buffer = [0; 1024];
    let len = rustix::fs::getxattr(path, "trusted.brick.meta", &mut buffer)?;
    Ok(buffer[..len].to_vec())
}

#[test]
fn overlapping_writes_of_one_mount_leave_the_bricks_equal() {
    pair::test("overlap", |_, place| {
        for (n, flag) in [0, libc::O_SYNC, libc::O_DIRECT].into_iter().enumerate() {
            let name = format!("f{n}");
            let path = place.seen[n % 2].join(&name);
            File::create(&path)?;
            let write = |writer: usize| -> Result<()> {
                let file = OpenOptions::new().write(true).custom_flags(flag).open(&path)?;
                let mut random = Random::new(writer as u64);
                for k in 0..60 {
                    // Aligned, as O_DIRECT wants it.
                    let page = vec![(writer * 60 + k) as u8; 3 * 4096];
                    let from = page.as_ptr().align_offset(4096);
                    let len = 4096 * (1 + random.below(2));
                    let at = 4096 * random.below(6);
                    file.write_all_at(&page[from..][..len as usize], at)?;
                }
                sys::close(file).context("close")
            };
            thread::scope(|scope| -> Result<()> {
                let writers: Vec<_> = (0..4).map(|w| scope.spawn(move || write(w))).collect();
                for writer in writers {
                    writer.join().map_err(|_| anyhow::anyhow!("a writer panicked"))??;
                }
                Ok(())
            })?;
            let found = place.on_bricks(|brick| fs::read(brick.join(&name)))?;
            ensure!(found == fs::read(&path)?, "the mount shows other bytes than the bricks");
        }
        Ok(())
    });
}

#[test]
fn a_brick_is_a_plain_copy_of_the_volume() {
    pair::test("plain", |_, place| {
        let script =
            "mkdir -p a/b/c; seq 5000 >a/numbers; ln a/numbers a/b/again; ln -s ../numbers a/b/s
            mkfifo a/fifo; truncate -s 3M a/holes; chmod 751 a/b; chown 5:6 a/numbers
            touch -d '2001-02-03 04:05:06.789' a/b/c; setfattr -n user.x -v y a/numbers";
        sys::shell(&place.seen[0], script, sys::LIMIT)?;
        let seen = tree::read(&place.seen[1], Xattrs::Visible)?;
        ensure!(seen.len() == 9, "{} names", seen.len());
        for brick in &place.bricks {
            let there = tree::read(brick, Xattrs::Visible)?;
            ensure!(there == seen, "{} differs:\n{there:?}\n{seen:?}", brick.display());
        }
        // What reads the folder without Brickwork gets the same.
        let script = "cp -a \"$0/a\" copy && diff -r --no-dereference -x fifo \"$1/a\" copy/";
        let copy = pair_copy(place)?;
        let mut command = std::process::Command::new("sh");
        command.arg("-ec").arg(script).arg(&place.bricks[2]).arg(&place.seen[0]).current_dir(&copy);
        sys::must_within(&mut command, sys::LIMIT)?;
        Ok(())
    });
}

/// A folder beside the volume's mounts.
fn pair_copy(place: &pair::Place) -> Result<std::path::PathBuf> {
    let run = place.seen[0].ancestors().nth(2).context("the run's folder")?;
    let copy = run.join("copy");
    fs::create_dir_all(&copy)?;
    Ok(copy)
}

/// Runs something that may wait, on a thread of its own.
fn later<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> mpsc::Receiver<T> {
    let (done, wait) = mpsc::channel();
    thread::spawn(move || {
        // Nobody waits any more after the test has failed.
        let _ = done.send(work());
    });
    wait
}

#[test]
fn a_write_whose_lease_was_lost_is_told_by_fsync_and_close() {
    judged("a_write_whose_lease_was_lost", NEEDS, || {
        let mut cluster = Cluster::with_volume(Spec::new("lost"))?;
        let (mount, other) = (cluster.mount(0, "gv0", "")?, cluster.mount(1, "gv0", "")?);
        let open = |name: &str| File::create(mount.point().join(name));
        let mut files = [open("synced")?, open("closed")?];
        for file in &mut files {
            file.write_all(b"first")?;
            file.sync_all()?;
        }
        for file in &mut files {
            file.write_all(b" and lost")?;
        }
        // In its memory, and nowhere else; then another mount gets the leases.
        let stopped = mount.pause()?;
        for name in ["synced", "closed"] {
            let mut file = OpenOptions::new().append(true).open(other.point().join(name))?;
            file.write_all(b", second")?;
            sys::close(file)?;
        }
        drop(stopped);
        let [synced, closed] = files;
        for (what, result) in [("fsync", synced.sync_all()), ("close", sys::close(closed))] {
            let errno = result.map_err(|e| e.raw_os_error());
            ensure!(errno == Err(Some(libc::EIO)), "{what}: EIO expected, not {errno:?}");
        }
        drop(synced);
        for point in [mount.point(), other.point()] {
            for name in ["synced", "closed"] {
                let text = fs::read_to_string(point.join(name))?;
                ensure!(text == "first, second", "{name}: {text:?}");
            }
        }
        cluster.demand_equal_bricks("gv0")?;
        drop((mount, other));
        cluster.passed();
        Ok(())
    });
}

#[test]
fn a_stopped_mount_never_answers_from_old_caches() {
    test("a_stopped_mount", NEEDS, || {
        let mut cluster = Cluster::with_volume(Spec::new("stopped"))?;
        let (mount, other) = (cluster.mount(0, "gv0", "")?, cluster.mount(1, "gv0", "")?);
        fs::write(mount.point().join("f"), "old")?;
        for _ in 0..3 {
            fs::metadata(mount.point().join("f"))?;
            fs::read(mount.point().join("f"))?;
            let _ = fs::metadata(mount.point().join("new"));
        }
        let stopped = mount.pause()?;
        fs::write(other.point().join("f"), "newer")?;
        fs::write(other.point().join("new"), "x")?;
        let (file, name) = (mount.point().join("f"), mount.point().join("new"));
        let size = later(move || fs::metadata(&file).map(|m| (m.len(), fs::read(&file))));
        let found = later(move || fs::metadata(&name).map(|m| m.len()));
        // Who answers now answers without the mount's process.
        thread::sleep(Duration::from_millis(500));
        drop(stopped);
        let (size, bytes) = size.recv_timeout(LATE_MAX).context("a stat hangs")??;
        ensure!(size == 5 && bytes? == b"newer", "an old answer: {size} bytes");
        ensure!(found.recv_timeout(LATE_MAX).context("a lookup hangs")?? == 1);
        drop((mount, other));
        cluster.passed();
        Ok(())
    });
}

/// A volume whose operations give up soon.
fn impatient(label: &'static str, namespaces: bool) -> Result<Cluster> {
    let cluster = Cluster::with_volume(Spec { namespaces, ..Spec::new(label) })?;
    let seconds = OP_TIMEOUT.as_secs().to_string();
    cluster.brick(&["volume", "set", "gv0", "client.op-timeout", &seconds])?;
    Ok(cluster)
}

/// Demands that the operation ends with this errno, neither at once nor much too late.
fn demand_errno<T>(
    what: &str,
    want: Errno,
    operation: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<()> {
    let began = Instant::now();
    let done = later(move || operation().map(drop));
    let Ok(result) = done.recv_timeout(OP_TIMEOUT + LATE_MAX) else { bail!("{what} hangs") };
    let errno = result.map_err(|e| e.raw_os_error());
    ensure!(errno == Err(Some(want.raw_os_error())), "{what}: {want:?} expected, not {errno:?}");
    // A little less: the wait counts from when the request was made.
    ensure!(began.elapsed() > OP_TIMEOUT - Duration::from_millis(500), "{what}: gave up at once");
    Ok(())
}

#[test]
fn with_too_few_members_changes_end_in_erofs_and_reads_go_on() {
    test("too_few_members", NEEDS, || {
        let mut cluster = impatient("few", false)?;
        cluster.brick(&["volume", "set", "gv0", "cluster.min-in-sync", "3"])?;
        let (mount, other) = (cluster.mount(0, "gv0", "")?, cluster.mount(1, "gv0", "")?);
        for dir in ["read", "changed"] {
            fs::create_dir(mount.point().join(dir))?;
            fs::write(mount.point().join(dir).join("f"), "before")?;
        }
        cluster.nodes[2].kill();
        cluster.wait_out("gv0", 2, HEAL_MAX)?;
        let dir = mount.point().join("changed");
        let (new, made, file) = (dir.join("new"), dir.join("made"), dir.join("f"));
        demand_errno("create", Errno::ROFS, move || File::create_new(new))?;
        demand_errno("mkdir", Errno::ROFS, move || fs::create_dir(made))?;
        demand_errno("write and fsync", Errno::ROFS, move || {
            let file = OpenOptions::new().write(true).open(file)?;
            file.write_all_at(b"x", 0)?;
            file.sync_all()
        })?;
        for point in [mount.point(), other.point()] {
            let dir = point.join("read");
            ensure!(fs::read(dir.join("f")).context("read")? == b"before");
            ensure!(fs::read_dir(dir).context("readdir")?.count() == 1);
        }
        cluster.nodes[2].start()?;
        cluster.wait_healed("gv0", HEAL_MAX)?;
        fs::write(dir.join("f"), "after").context("with all members back")?;
        ensure!(fs::read(other.point().join("changed/f"))? == b"after");
        cluster.wait_healed("gv0", HEAL_MAX)?;
        cluster.demand_equal_bricks("gv0")?;
        drop((mount, other));
        cluster.passed();
        Ok(())
    });
}

#[test]
fn with_everything_cut_off_operations_end_in_etimedout() {
    test("everything_cut_off", NET_NEEDS, || {
        let mut cluster = impatient("cut-off", true)?;
        let mount = cluster.mount(0, "gv0", "")?;
        fs::write(mount.point().join("f"), "before")?;
        let client = cluster.nodes.len();
        cluster.network.as_ref().context("no network")?.isolate(client)?;
        // A lease that still runs is an answer; a new name is none.
        let path = |name: &str| mount.point().join(name);
        let (new, f, g) = (path("new"), path("f"), path("g"));
        demand_errno("create", Errno::TIMEDOUT, move || File::create_new(new))?;
        demand_errno("stat", Errno::TIMEDOUT, move || fs::metadata(f))?;
        demand_errno("mkdir", Errno::TIMEDOUT, move || fs::create_dir(g))?;
        cluster.network.as_ref().context("no network")?.join_all()?;
        sys::wait_until("the volume", LATE_MAX, || {
            ensure!(fs::read(mount.point().join("f"))? == b"before");
            Ok(sys::Poll::Done)
        })?;
        drop(mount);
        cluster.passed();
        Ok(())
    });
}

#[test]
fn a_mount_beside_a_cut_off_brick_says_etimedout_and_nothing_old() {
    test("a_mount_beside_a_cut_off_brick", NET_NEEDS, || {
        let mut cluster = impatient("beside", true)?;
        let k = cluster.lead("gv0")?;
        let mut request = cluster.mount_request(k, "gv0", "")?;
        // It reaches this brick alone, once the links are cut.
        request.space = cluster.nodes[k].space().map(str::to_owned);
        let beside = Mount::new(request)?;
        let other = cluster.mount((k + 1) % 3, "gv0", "")?;
        let file = beside.point().join("f");
        fs::write(&file, "old")?;
        ensure!(fs::read(&file)? == b"old" && fs::read(other.point().join("f"))? == b"old");
        cluster.network.as_ref().context("no network")?.isolate(k)?;
        // As soon as anybody may go on, nobody answers here.
        sys::wait_until("a change by the others", LATE_MAX, || {
            fs::write(other.point().join("f"), "new")?;
            Ok(sys::Poll::Done)
        })?;
        let (path, again) = (file.clone(), file.clone());
        demand_errno("stat", Errno::TIMEDOUT, move || fs::metadata(path))?;
        demand_errno("read", Errno::TIMEDOUT, move || fs::read(again))?;
        cluster.network.as_ref().context("no network")?.join_all()?;
        cluster.wait_healed("gv0", HEAL_MAX)?;
        sys::wait_until("the volume", LATE_MAX, || {
            let text = fs::read_to_string(&file)?;
            Ok(sys::Poll::of(text == "new", || text))
        })?;
        cluster.demand_equal_bricks("gv0")?;
        drop((beside, other));
        cluster.passed();
        Ok(())
    });
}

#[test]
fn with_lone_sync_what_the_last_member_answered_survives_its_loss_of_power() {
    test("lone_sync", NEEDS, || {
        let mut cluster = Cluster::start(Spec::new("lone"))?;
        cluster.form_pool()?;
        // The third peer only votes.
        let mut words = vec!["volume", "create", "gv0", "replica", "2"];
        let bricks = [cluster.brick_name(0, "gv0"), cluster.brick_name(1, "gv0")];
        (0..2).try_for_each(|k| fs::create_dir_all(cluster.brick_dir(k, "gv0")))?;
        words.extend(bricks.iter().map(String::as_str));
        cluster.brick(&words)?;
        cluster.brick(&["volume", "start", "gv0"])?;
        cluster.brick(&["volume", "set", "gv0", "cluster.lone-sync", "on"])?;
        cluster.wait_in_sync("gv0", HEAL_MAX)?;
        let mut mount = cluster.mount(0, "gv0", "")?;
        cluster.nodes[1].kill();
        cluster.wait_out("gv0", 1, HEAL_MAX)?;
        let content = |n: usize| vec![n as u8; 1 + n * 3331];
        for n in 0..20 {
            let dir = mount.point().join(format!("d{}", n / 4));
            fs::create_dir_all(&dir)?;
            let mut file = File::create(dir.join(format!("f{n}")))?;
            file.write_all(&content(n))?;
            // No fsync: the close is enough.
            sys::close(file)?;
        }
        cluster.disks[0].lose_power()?;
        cluster.nodes[0].kill();
        mount.kill();
        cluster.disks[0].unmount()?;
        cluster.disks[0].mount()?;
        cluster.nodes[0].start()?;
        mount.again()?;
        for n in 0..20 {
            let path = mount.point().join(format!("d{}/f{n}", n / 4));
            let found = fs::read(&path).with_context(|| path.display().to_string())?;
            ensure!(found == content(n), "{}: {} bytes", path.display(), found.len());
        }
        cluster.nodes[1].start()?;
        cluster.wait_healed("gv0", HEAL_MAX)?;
        tree::all_same(&[cluster.brick_dir(0, "gv0"), cluster.brick_dir(1, "gv0")])?;
        drop(mount);
        cluster.passed();
        Ok(())
    });
}
