//! What lies under a brick, for `volume status VOL detail`.
//!
//! Asked of the system on a thread of its own and for a bounded time: a disk that hangs answers
//! nothing, and the rest of the status is shown without it.

use std::collections::BTreeMap;
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::time::Duration;

use proto::{BrickId, VolumeId};
use proto_grpc::peer::{BrickDisk, BrickRun};

use super::Pool;
use super::brick_driver::own_specs;

/// A healthy disk answers these from memory.
const LIMIT: Duration = Duration::from_millis(1500);

/// Adds to each run what its disk says, as far as it says it in time.
pub async fn describe(pool: &Pool, volume: VolumeId, runs: &mut [BrickRun]) {
    let own = own_specs(pool.id(), &pool.state()).into_iter();
    let paths: BTreeMap<BrickId, String> =
        own.filter(|s| s.volume == volume).map(|s| (s.brick, s.path)).collect();
    let asked = runs.iter_mut().filter(|run| run.online).map(|run| async {
        let path = BrickId::from_slice(&run.brick_id).and_then(|id| paths.get(&id)).cloned();
        let Some(path) = path else { return };
        let look = tokio::task::spawn_blocking(move || look(Path::new(&path)));
        run.disk = tokio::time::timeout(LIMIT, look).await.ok().and_then(Result::ok).flatten();
    });
    futures_util::future::join_all(asked).await;
}

fn look(path: &Path) -> Option<BrickDisk> {
    let space = rustix::fs::statvfs(path).ok()?;
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let (device, fs_name, mount_options) = mount_of(&mounts, path).unwrap_or_default();
    let inode_size = if fs_name == "xfs" { xfs_inode_size(path).unwrap_or(0) } else { 0 };
    Some(BrickDisk {
        device,
        fs_name,
        mount_options,
        inode_size,
        free_bytes: space.f_bavail * space.f_frsize,
        total_bytes: space.f_blocks * space.f_frsize,
        free_inodes: space.f_favail,
        total_inodes: space.f_files,
    })
}

/// Device, type and options of the mount on which `path` lies: proc(5), /proc/pid/mountinfo.
fn mount_of(mounts: &str, path: &Path) -> Option<(String, String, String)> {
    let mut best: Option<(usize, (String, String, String))> = None;
    for line in mounts.lines() {
        let Some((front, back)) = line.split_once(" - ") else { continue };
        let front: Vec<&str> = front.split(' ').collect();
        let back: Vec<&str> = back.split(' ').collect();
        let ([_, _, _, _, point, options, ..], [kind, device, of_fs, ..]) = (&front[..], &back[..])
        else {
            continue;
        };
        let point = point.replace("\\040", " ");
        // Of two mounts on one place the later one is seen.
        if path.starts_with(&point) && best.as_ref().is_none_or(|(n, _)| point.len() >= *n) {
            let own: Vec<&str> = options.split(',').collect();
            let rest = of_fs.split(',').filter(|o| !own.contains(o));
            let all: Vec<&str> = own.iter().copied().chain(rest).collect();
            let found = ((*device).to_owned(), (*kind).to_owned(), all.join(","));
            best = Some((point.len(), found));
        }
    }
    best.map(|(_, found)| found)
}

/// `struct xfs_fsop_geom_v1` of xfs_fs.h; only the inode size is of interest.
#[repr(C)]
struct Geometry {
    before: [u32; 6],
    inode_size: u32,
    rest: [u32; 21],
}

/// `_IOR('X', 100, struct xfs_fsop_geom_v1)`.
const XFS_IOC_FSGEOMETRY_V1: libc::c_ulong = 0x8070_5864;

fn xfs_inode_size(path: &Path) -> Option<u32> {
    const { assert!(size_of::<Geometry>() == 0x70) };
    let folder = std::fs::File::open(path).ok()?;
    let mut geometry = Geometry { before: [0; 6], inode_size: 0, rest: [0; 21] };
    // SAFETY: the request writes 112 bytes, as its number says, into a value of that size.
    let done = unsafe { libc::ioctl(folder.as_raw_fd(), XFS_IOC_FSGEOMETRY_V1, &mut geometry) };
    (done == 0).then_some(geometry.inode_size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_nearest_to_the_brick_counts() {
        let mounts = "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n\
                      30 22 7:0 / /bricks rw,noatime shared:2 - xfs /dev/loop0 rw,attr2,inode64\n\
                      31 22 7:1 / /bricksandmore rw - xfs /dev/loop1 rw\n";
        let found = mount_of(mounts, Path::new("/bricks/b1")).unwrap();
        let expected = ("/dev/loop0", "xfs", "rw,noatime,attr2,inode64");
        assert_eq!((found.0.as_str(), found.1.as_str(), found.2.as_str()), expected);
        assert_eq!(mount_of(mounts, Path::new("/brick")).unwrap().0, "/dev/sda1");
        assert_eq!(mount_of("", Path::new("/brick")), None);
    }
}
