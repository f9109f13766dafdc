//! `mount(2)` and `umount2(2)`, for root.

use std::ffi::CString;
use std::os::fd::AsRawFd;
use std::path::Path;

use rustix::io::Errno;
use rustix::mount::UnmountFlags;

use super::options::MountOptions;
use crate::error::{Error, Result};
use crate::sys::Device;

pub(super) fn mount(options: &MountOptions, path: &Path, root_mode: u32) -> Result<Device> {
    let device = Device::open().map_err(Error::Device)?;
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    let data = options.kernel_data(device.as_raw_fd(), root_mode, uid.as_raw(), gid.as_raw());
    let data = CString::new(data).map_err(|_| Error::Option(options.source.clone()))?;
    // The part behind the dot is the subtype, shown by mount(8) and df(1).
    let kind = format!("fuse.{}", options.subtype);
    let flags = options.kernel_flags();
    rustix::mount::mount(options.source.as_str(), path, kind.as_str(), flags, data.as_c_str())
        .map_err(|errno| Error::Mount { path: path.to_path_buf(), source: errno.into() })?;
    Ok(device)
}

pub(super) fn unmount(path: &Path, lazy: bool) -> std::result::Result<(), Errno> {
    let how = if lazy { UnmountFlags::DETACH } else { UnmountFlags::empty() };
    rustix::mount::unmount(path, how | UnmountFlags::NOFOLLOW)
}
