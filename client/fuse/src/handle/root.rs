//! The attributes of the mount's root while no brick answers.
//!
//! umount(8) may stat the directory that it is to unmount (util-linux 2.38 does), to see whether
//! it is one, and goes on whatever comes back. Everybody else waits for the bricks as long as the
//! volume's operation timeout says; an unmount must not, for nothing of it depends on them.

use std::pin::pin;
use std::time::Duration;

use client::volume::Found;
use proto::{Errno, Gfid};

use super::Context;

/// How long umount(8) waits for bricks that do not answer.
const UMOUNT_PATIENCE: Duration = Duration::from_secs(1);
/// As the kernel names the process.
const UMOUNT: &str = "umount";

pub async fn getattr(context: &Context, root: Gfid) -> Result<Found, Errno> {
    let mut asked = pin!(context.served.volume.getattr(root));
    match tokio::time::timeout(UMOUNT_PATIENCE, &mut asked).await {
        Ok(found) => found,
        Err(_) if is_umount(context.header.pid) => Err(Errno::ETIMEDOUT),
        Err(_) => asked.await,
    }
}

/// A process of another pid namespace has no number here, and waits like everybody.
fn is_umount(pid: u32) -> bool {
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm"));
    pid != 0 && name.is_ok_and(|name| name.trim_end() == UMOUNT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_process_called_umount_is_one() {
        assert!(!is_umount(std::process::id()));
        assert!(!is_umount(0) && !is_umount(u32::MAX));
    }
}
