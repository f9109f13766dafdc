//! A whole pool on disk, kept in an archive, brought back at the place where it was made.
//!
//! Brick paths and addresses stand in a pool's state, so a stored pool lives at a fixed path and
//! on fixed loopback addresses. One run at a time uses them.

use std::fs;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::cluster::{CLIENT_TOKEN, Cluster};
use crate::node::Node;
use crate::scratch::{self, Scratch};
use crate::sys::{self, Poll};
use crate::xfs::Xfs;

/// Another run of the same test ends within this time.
const TURN_MAX: Duration = Duration::from_secs(600);
/// Tens of MB to write, maybe on a slow disk.
const ARCHIVE_MAX: Duration = Duration::from_secs(300);
/// The smallest that mkfs.xfs makes: most of it stays a hole, in the archive too.
const DISK_MIB: u64 = 300;

/// Where a stored pool lives.
#[derive(Clone, Copy, Debug)]
pub struct Format {
    pub name: &'static str,
    pub base: &'static str,
    pub hosts: [&'static str; 3],
}

/// The first format on disk.
pub const FORMAT_1: Format = Format {
    name: "format-1",
    base: "/var/tmp/brickwork-format-1",
    hosts: ["127.0.0.61", "127.0.0.62", "127.0.0.63"],
};

/// The place, empty and this run's own; emptied again when dropped.
#[derive(Debug)]
pub struct Place {
    format: Format,
    /// An abstract socket is a lock that the kernel frees with the process and that leaves no file.
    _turn: UnixListener,
}

impl Place {
    /// Waits for the place's turn and removes what a killed run left there.
    ///
    /// # Errors
    /// Another run has it for too long.
    pub fn take(format: Format) -> Result<Self> {
        let address = SocketAddr::from_abstract_name(format!("brickwork-{}", format.name))?;
        let mut turn = None;
        sys::wait_until(&format!("turn at {}", format.base), TURN_MAX, || {
            turn = Some(UnixListener::bind_addr(&address)?);
            Ok(Poll::Done)
        })?;
        let place = Self { format, _turn: turn.context("bound above")? };
        place.clear();
        Ok(place)
    }

    fn base(&self) -> &Path {
        Path::new(self.format.base)
    }

    fn clear(&self) {
        scratch::kill_left_daemons(self.base());
        scratch::remove(self.base());
    }

    /// New disks and daemons with nothing on them.
    ///
    /// # Errors
    /// Any part cannot be made.
    pub fn fresh(&self, scratch: Scratch) -> Result<Cluster> {
        fs::create_dir_all(self.base())?;
        Node::make_join_key(&self.key())?;
        let (mut nodes, mut disks) = (Vec::new(), Vec::new());
        for k in 0..self.format.hosts.len() {
            let node = self.node(k)?;
            disks.push(Xfs::make(&self.image(k), &node.disk(), DISK_MIB)?);
            nodes.push(node);
        }
        Ok(Cluster::of_parts(scratch, nodes, disks))
    }

    /// The daemons and disks that lie in the archive.
    ///
    /// # Errors
    /// It cannot be unpacked, or a disk not mounted.
    pub fn unpack(&self, archive: &Path, scratch: Scratch) -> Result<Cluster> {
        let folder = self.base().parent().context("the place has a parent")?;
        let mut tar = Command::new("tar");
        tar.arg("-C").arg(folder).args(["--numeric-owner", "-xpJf"]).arg(archive);
        sys::must_within(&mut tar, ARCHIVE_MAX)?;
        // The mounts of the test use the client that the earlier version let in.
        fs::copy(self.base().join(CLIENT_TOKEN), scratch.path().join(CLIENT_TOKEN))?;
        let (mut nodes, mut disks) = (Vec::new(), Vec::new());
        for k in 0..self.format.hosts.len() {
            let node = self.node(k)?;
            disks.push(Xfs::existing(&self.image(k), &node.disk())?);
            nodes.push(node);
        }
        Ok(Cluster::of_parts(scratch, nodes, disks))
    }

    /// Puts a stopped pool into an archive. Holes stay holes; logs and sockets stay behind.
    ///
    /// # Errors
    /// A disk is still busy, or tar failed.
    pub fn pack(&self, cluster: Cluster, archive: &Path) -> Result<()> {
        fs::copy(cluster.path().join(CLIENT_TOKEN), self.base().join(CLIENT_TOKEN))?;
        for disk in cluster.into_disks() {
            // What was written and freed again would fill the archive.
            sys::must("fstrim", &[disk.point()])?;
            disk.release()?;
        }
        let folder = self.base().parent().context("the place has a parent")?;
        let mut tar = Command::new("tar");
        tar.env("XZ_OPT", "-9e").arg("-C").arg(folder);
        tar.args(["--sparse", "--numeric-owner", "--sort=name", "--exclude=*.sock"]);
        tar.args(["--exclude=*/node?/log", "--exclude=*/node?/pid", "--exclude=*/LOG*", "-cJf"]);
        tar.arg(archive).arg(self.base().file_name().context("the place has a name")?);
        sys::must_within(&mut tar, ARCHIVE_MAX).map(drop)
    }

    fn node(&self, k: usize) -> Result<Node> {
        Node::new(self.format.hosts[k], &self.dir(k), None, &self.key())
    }

    fn dir(&self, k: usize) -> PathBuf {
        self.base().join(format!("node{}", k + 1))
    }

    fn image(&self, k: usize) -> PathBuf {
        self.dir(k).join("disk.img")
    }

    fn key(&self) -> PathBuf {
        self.base().join("join.key")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if std::env::var_os("BRICK_KEEP").is_some() {
            eprintln!("BRICK_KEEP is set: left in place: {}", self.format.base);
            return;
        }
        self.clear();
    }
}
