//! One pool with two mounts, shared by the tests of a program that only look and change files.
//!
//! Starting a pool takes seconds, so it is started once; each test has a directory of its own in
//! the volume. What breaks daemons or mounts takes a pool of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, Once, PoisonError};

use anyhow::{Context, Result, ensure};

use crate::cluster::{Cluster, Spec};
use crate::mount::Mount;
use crate::need::{self, Need};

const NEEDS: &[Need] = &[Need::Root, Need::Xfs, Need::Fuse];

/// Fields are dropped in order: mounts before the daemons.
#[derive(Debug)]
pub struct Pair {
    pub mounts: [Mount; 2],
    pub cluster: Cluster,
    failed: bool,
}

/// One directory of the volume, as both mounts and each brick show it.
#[derive(Clone, Debug)]
pub struct Place {
    pub seen: [PathBuf; 2],
    pub bricks: Vec<PathBuf>,
}

static PAIR: Mutex<Option<Pair>> = Mutex::new(None);
static AT_EXIT: Once = Once::new();

/// Runs a test in a directory of its own. Tests that share the pair wait for each other.
///
/// # Panics
/// With the body's error: the test has failed.
pub fn test(name: &str, body: impl FnOnce(&mut Pair, &Place) -> Result<()>) {
    if !need::all(name, NEEDS) {
        return;
    }
    let mut slot = PAIR.lock().unwrap_or_else(PoisonError::into_inner);
    let run = || -> Result<()> {
        let pair = match slot.take() {
            Some(pair) => pair,
            None => Pair::start()?,
        };
        let pair = slot.insert(pair);
        let done = pair.place(name).and_then(|place| body(pair, &place));
        pair.failed |= done.is_err();
        done
    };
    run().unwrap_or_else(|error| panic!("{error:#}"));
}

impl Pair {
    fn start() -> Result<Self> {
        // A value in a static is never dropped: daemons and disks would be left behind.
        AT_EXIT.call_once(|| {
            // SAFETY: the function takes no argument, does not unwind, and stays in the program.
            unsafe { libc::atexit(end) };
        });
        let mut cluster = Cluster::with_volume(Spec { disk_mib: 1024, ..Spec::new("pair") })?;
        let mounts = [cluster.mount(0, "gv0", "")?, cluster.mount(1, "gv0", "")?];
        Ok(Self { mounts, cluster, failed: false })
    }

    fn place(&self, name: &str) -> Result<Place> {
        let below = |root: &Path| root.join(name);
        let place = Place {
            seen: [below(self.mounts[0].point()), below(self.mounts[1].point())],
            bricks: self.cluster.brick_dirs("gv0").iter().map(|b| below(b)).collect(),
        };
        fs::create_dir(&place.seen[0]).with_context(|| format!("directory of {name}"))?;
        Ok(place)
    }
}

impl Place {
    /// What `look` shows on each brick; they must agree.
    ///
    /// # Errors
    /// It cannot be seen on a brick, or differs.
    pub fn on_bricks<T: PartialEq + std::fmt::Debug>(
        &self,
        look: impl Fn(&Path) -> std::io::Result<T>,
    ) -> Result<T> {
        let mut all = Vec::new();
        for brick in &self.bricks {
            all.push(look(brick).with_context(|| format!("on the brick {}", brick.display()))?);
        }
        ensure!(all.windows(2).all(|w| w[0] == w[1]), "the bricks differ: {all:?}");
        all.pop().context("no brick")
    }
}

extern "C" fn end() {
    let pair = PAIR.lock().unwrap_or_else(PoisonError::into_inner).take();
    let Some(Pair { mounts, cluster, failed }) = pair else { return };
    drop(mounts);
    if !failed {
        cluster.passed();
    }
}
