//! Mounting through `fusermount3`, for those who are not root.
//!
//! The helper opens the device, mounts, and passes the descriptor back over a socket whose
//! number it finds in its environment. The socket is handed over as its standard input, so no
//! other child of this process can inherit it.

use std::io::{IoSliceMut, Read as _};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags, SocketType,
};

use super::options::MountOptions;
use crate::error::{Error, Result};
use crate::sys::Device;

const HELPER: &str = "fusermount3";
/// Name of the variable that the helper reads, part of its interface.
const SOCKET_VARIABLE: &str = "_FUSE_COMMFD";

pub(super) fn mount(options: &MountOptions, path: &Path) -> Result<Device> {
    let fail = |message: String| Error::Helper { path: path.to_path_buf(), message };
    let (ours, theirs) = rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )
    .map_err(|errno| fail(format!("cannot make a socket: {errno}")))?;
    let mut command = Command::new(HELPER);
    command.arg("-o").arg(options.helper_options()).arg("--").arg(path);
    command.env(SOCKET_VARIABLE, "0").stdin(Stdio::from(theirs));
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    let child = command.spawn().map_err(|error| fail(format!("cannot run it: {error}")))?;
    // The command still holds the helper's end; without this a helper that fails would leave
    // the receive below waiting for ever.
    drop(command);
    let received = receive_fd(&ours);
    let complaint = finish(child);
    match (received, complaint) {
        (Ok(Some(fd)), None) => Ok(Device::from_fd(fd)),
        (_, Some(complaint)) => Err(fail(complaint)),
        (Ok(None), None) => Err(fail("it sent no descriptor".into())),
        (Err(error), None) => Err(fail(format!("receiving the descriptor: {error}"))),
    }
}

pub(super) fn unmount(path: &Path, lazy: bool) -> Result<()> {
    let fail = |message: String| Error::Helper { path: path.to_path_buf(), message };
    let mut command = Command::new(HELPER);
    command.arg("-u").args(lazy.then_some("-z")).arg("--").arg(path);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let child = command.spawn().map_err(|error| fail(format!("cannot run it: {error}")))?;
    match finish(child) {
        None => Ok(()),
        Some(complaint) if complaint.contains("busy") => Err(Error::Busy(path.to_path_buf())),
        Some(complaint) => Err(fail(complaint)),
    }
}

fn receive_fd(socket: &OwnedFd) -> rustix::io::Result<Option<OwnedFd>> {
    let mut byte = [0u8; 1];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(&mut byte)];
    rustix::net::recvmsg(socket, &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    let fds = ancillary.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(fds) => Some(fds),
        _ => None,
    });
    Ok(fds.flatten().next())
}

/// Waits for the helper; its words if it failed.
fn finish(mut child: Child) -> Option<String> {
    let mut words = String::new();
    if let Some(mut stderr) = child.stderr.take() {
        // Words that are no UTF-8 or cannot be read only make the message poorer.
        drop(stderr.read_to_string(&mut words));
    }
    match child.wait() {
        Ok(status) if status.success() => None,
        Ok(status) if words.trim().is_empty() => Some(status.to_string()),
        Ok(_) => Some(words.trim().to_owned()),
        Err(error) => Some(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::init::{InitConfig, handshake};
    use crate::mount::mountinfo;

    /// The whole way through the helper, which root may use as well.
    #[test]
    fn helper_mounts_and_unmounts() {
        if !Path::new("/dev/fuse").exists() || Command::new(HELPER).arg("-V").output().is_err() {
            eprintln!("SKIPPED: needs /dev/fuse and {HELPER}");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().canonicalize().unwrap();
        let device = mount(&MountOptions::new("n1,n2:/VOL", "brick"), &path).unwrap();
        handshake(&device, &InitConfig::default()).unwrap();
        assert!(mountinfo::topmost(&mountinfo::read().unwrap(), &path).is_some());
        let table = std::fs::read_to_string("/proc/self/mounts").unwrap();
        assert!(table.contains("n1,n2:/VOL "), "{table}");
        unmount(&path, false).unwrap();
        assert_eq!(mountinfo::topmost(&mountinfo::read().unwrap(), &path), None);
    }

    #[test]
    fn helpers_complaint_is_passed_on() {
        let refused = mount(&MountOptions::new("n1:/VOL", "brick"), Path::new("/no/such/place"));
        match refused {
            // With the helper's own words, or without a helper, that it could not be run.
            Err(Error::Helper { message, .. }) => assert!(!message.is_empty()),
            other => panic!("{other:?}"),
        }
    }
}
