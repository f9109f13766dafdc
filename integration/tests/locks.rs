//! flock and fcntl locks across mounts, over the loss of the lead that keeps them, and of their
//! holder.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use integration::cluster::{Cluster, Spec};
use integration::need::Need;
use integration::run::{judged, rounds};
use integration::sys::{self, Poll};
use rustix::fs::{FlockOperation, fcntl_lock, flock};
use rustix::io::Errno;

const NEEDS: &[Need] = &[Need::Root, Need::Xfs, Need::Fuse];
const HEAL_MAX: Duration = Duration::from_secs(60);
/// Longest wait for what must come.
const WAIT_MAX: Duration = Duration::from_secs(20);
const TRY_EXCLUSIVE: FlockOperation = FlockOperation::NonBlockingLockExclusive;

/// The same two files, open at one mount: the first for flock, the second for fcntl.
struct Pair {
    whole: File,
    ranged: File,
}

impl Pair {
    fn open(dir: &Path) -> Result<Self> {
        let mut how = OpenOptions::new();
        let how = how.read(true).write(true).create(true);
        Ok(Self { whole: how.open(dir.join("whole"))?, ranged: how.open(dir.join("ranged"))? })
    }

    fn lock(&self, how: FlockOperation) -> [Result<(), Errno>; 2] {
        [flock(&self.whole, how), fcntl_lock(&self.ranged, how)]
    }

    fn write(&self, text: &[u8]) -> Result<()> {
        for file in [&self.whole, &self.ranged] {
            file.write_all_at(text, 0)?;
            file.sync_data()?;
        }
        Ok(())
    }
}

#[test]
fn locks_outlive_their_lead() {
    judged("locks_outlive_their_lead", NEEDS, || {
        let mut cluster = Cluster::with_volume(Spec::new("locks"))?;
        let (one, two) = (cluster.mount(0, "gv0", "")?, cluster.mount(1, "gv0", "")?);
        for round in 0..rounds(1) {
            let (holder, other) = (Pair::open(one.point())?, Pair::open(two.point())?);
            ensure!(holder.lock(TRY_EXCLUSIVE) == [Ok(()); 2], "nobody else has them");
            // Asked of the old lead, answered by the next one.
            let waiting = two.point().join("whole");
            let (granted, grant) = mpsc::channel();
            thread::spawn(move || {
                let locked = File::open(&waiting).map(|file| {
                    let locked = flock(&file, FlockOperation::LockExclusive);
                    (file, locked)
                });
                let _ = granted.send(locked);
            });
            let lead = cluster.lead("gv0")?;
            cluster.nodes[lead].kill();
            // The next lead has everything to say by the time of this change.
            holder.write(format!("round {round}").as_bytes())?;
            for _ in 0..40 {
                let tried = other.lock(TRY_EXCLUSIVE);
                ensure!(tried == [Err(Errno::AGAIN); 2], "another's, and got: {tried:?}");
                thread::sleep(Duration::from_millis(50));
            }
            ensure!(grant.try_recv().is_err(), "held by another, and granted");
            ensure!(holder.lock(FlockOperation::Unlock) == [Ok(()); 2]);
            let (file, locked) = grant.recv_timeout(WAIT_MAX).context("the next holder")??;
            ensure!(locked == Ok(()), "{locked:?}");
            drop(file);
            sys::wait_until("the other's turn", WAIT_MAX, || {
                let tried = other.lock(TRY_EXCLUSIVE);
                Ok(Poll::of(tried == [Ok(()); 2], || format!("{tried:?}")))
            })?;
            other.write(format!("after {round}").as_bytes())?;
            drop((holder, other));
            cluster.nodes[lead].start()?;
            cluster.wait_healed("gv0", HEAL_MAX)?;
            cluster.demand_equal_bricks("gv0")?;
        }
        drop((one, two));
        cluster.passed();
        Ok(())
    });
}

/// Its locks go to others; that it goes on as if it still had them is an error.
#[test]
fn a_holder_that_was_taken_for_dead_has_lost_its_locks_and_is_told() {
    judged("a_holder_that_was_taken_for_dead", NEEDS, || {
        let mut cluster = Cluster::with_volume(Spec::new("locklost"))?;
        let (one, two) = (cluster.mount(0, "gv0", "")?, cluster.mount(1, "gv0", "")?);
        let (holder, other) = (Pair::open(one.point())?, Pair::open(two.point())?);
        ensure!(holder.lock(TRY_EXCLUSIVE) == [Ok(()); 2], "nobody else has them");
        holder.write(b"first")?;
        let paused = one.pause()?;
        sys::wait_until("the locks of a holder that is silent", WAIT_MAX, || {
            let tried = other.lock(TRY_EXCLUSIVE);
            Ok(Poll::of(tried.iter().all(Result::is_ok), || format!("{tried:?}")))
        })?;
        other.write(b"other")?;
        drop(paused);
        for file in [&holder.whole, &holder.ranged] {
            let Err(error) = file.write_all_at(b"harm!", 0).and_then(|()| file.sync_all()) else {
                bail!("written without the lock that it believes in");
            };
            ensure!(error.raw_os_error() == Some(libc::EIO), "{error}");
        }
        drop(holder);
        for name in ["whole", "ranged"] {
            ensure!(fs::read(one.point().join(name))? == b"other");
        }
        drop(other);
        let again = Pair::open(one.point())?;
        ensure!(again.lock(TRY_EXCLUSIVE) == [Ok(()); 2], "free again");
        again.write(b"again")?;
        drop(again);
        cluster.demand_equal_bricks("gv0")?;
        drop((one, two));
        cluster.passed();
        Ok(())
    });
}
