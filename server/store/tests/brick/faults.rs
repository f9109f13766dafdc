//! Broken disks: the first error ends the brick's service; a full disk does not.

use proto::error::Errno;
use proto::fop::{Fsync, Getattr, Write};
use proto::ids::Gfid;
use server_store::{Config, FaultDisk, Faults, RealDisk};

use crate::common::*;

fn faulty() -> Option<(Brick, Faults)> {
    let (disk, faults) = FaultDisk::new(Box::new(RealDisk));
    let brick = Brick::with(Config { disk: Box::new(disk), ..config() })?;
    Some((brick, faults))
}

#[test]
fn an_io_error_ends_service_at_whatever_call_it_strikes() {
    for skip in 0..12 {
        let Some((mut b, faults)) = faulty() else { return };
        let f = b.create(Gfid::ROOT, "f", 1, FILE);
        faults.arm("", skip, Errno::EIO);
        let mut outcomes = Vec::new();
        outcomes.push(b.call(create(Gfid::ROOT, "g", 2, FILE)).err());
        let write = Write { gfid: f, offset: 0, len: 1, ..Write::default() };
        outcomes.push(b.with_data(write, b"x").err());
        assert!(outcomes.contains(&Some(Errno::EIO)), "skip {skip}: {outcomes:?}");
        assert!(b.store().failed().is_some());
        assert_eq!(b.call(Getattr { gfid: f }), Err(Errno::EIO), "nothing after it");
        assert_eq!(b.store().checkpoint_handle().run(1), Err(Errno::EIO));
    }
}

#[test]
fn a_failed_sync_is_never_retried() {
    let Some((mut b, faults)) = faulty() else { return };
    let f = b.create(Gfid::ROOT, "f", 1, FILE);
    faults.arm("fsync", 0, Errno::ENOSPC);
    assert!(b.call(Fsync { gfid: f, data_only: false }).is_err());
    assert!(b.store().failed().unwrap().contains("fsync"));
    assert_eq!(b.call(Fsync { gfid: f, data_only: false }), Err(Errno::EIO));
}

#[test]
fn a_full_disk_refuses_and_leaves_no_half_made_name() {
    for call in ["open_at", "set_xattr", "pwrite", "set_times"] {
        let Some((mut b, faults)) = faulty() else { return };
        faults.arm(call, 0, Errno::ENOSPC);
        let made = b.with_data(create(Gfid::ROOT, "f", 1, FILE), b"data");
        assert_eq!(made, Err(Errno::ENOSPC), "{call}");
        assert_eq!(faults.armed(), 0);
        assert!(b.store().failed().is_none());
        assert_eq!(b.lookup(Gfid::ROOT, "f"), Err(Errno::ENOENT), "{call}");
        b.with_data(create(Gfid::ROOT, "f", 1, FILE), b"data").unwrap();
        assert_eq!(b.read(gfid(1)), b"data");
    }
}

#[test]
fn a_shut_down_file_system_ends_service() {
    let Some(mut b) = Brick::new() else { return };
    let f = b.create(Gfid::ROOT, "f", 1, FILE);
    let shut = std::process::Command::new("xfs_io")
        .args(["-x", "-c", "shutdown"])
        .arg(b.xfs.path())
        .status();
    if !shut.is_ok_and(|s| s.success()) {
        eprintln!("SKIPPED: xfs_io cannot shut a file system down here");
        return;
    }
    let write = Write { gfid: f, offset: 0, len: 1, ..Write::default() };
    assert_eq!(b.with_data(write, b"x"), Err(Errno::EIO));
    assert!(b.store().failed().is_some());
}
