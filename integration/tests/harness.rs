//! The harness itself: its disks, its network, its cuts. No product program runs here.

use std::fs;
use std::net::UdpSocket;
use std::time::Duration;

use anyhow::Result;
use integration::need::{self, Need};
use integration::netns::{self, Network};
use integration::scratch::{self, Scratch};
use integration::xfs::Xfs;

/// True when a datagram sent in one namespace arrives in another.
fn arrives(network: &Network, from: usize, to: usize) -> Result<bool> {
    let target = network.space(to).address.clone();
    let listener = netns::inside(network.space(to), || -> Result<UdpSocket> {
        let socket = UdpSocket::bind((target.as_str(), 9))?;
        socket.set_read_timeout(Some(Duration::from_millis(300)))?;
        Ok(socket)
    })??;
    netns::inside(network.space(from), || -> Result<()> {
        let sender = UdpSocket::bind("0.0.0.0:0")?;
        // Twice: the first one may be lost to address resolution.
        for _ in 0..2 {
            let _ = sender.send_to(b"x", (target.as_str(), 9));
        }
        Ok(())
    })??;
    Ok(listener.recv(&mut [0; 8]).is_ok())
}

#[test]
fn links_are_cut_one_way_both_ways_and_joined_again() {
    if !need::all("links_are_cut", &[Need::Root, Need::Netns]) {
        return;
    }
    let scratch = Scratch::new("net").unwrap();
    let network = Network::new(scratch.tag(), 3).unwrap();
    assert!(
        arrives(&network, 0, 1).unwrap()
            && arrives(&network, 1, 0).unwrap()
            && arrives(&network, 2, 0).unwrap()
    );
    network.cut_one_way(0, 1).unwrap();
    assert!(!arrives(&network, 0, 1).unwrap(), "a cut link still carries");
    assert!(arrives(&network, 1, 0).unwrap(), "the other way must stay open");
    network.join_all().unwrap();
    assert!(arrives(&network, 0, 1).unwrap());
    network.isolate(2).unwrap();
    assert!(
        !arrives(&network, 2, 0).unwrap()
            && !arrives(&network, 1, 2).unwrap()
            && arrives(&network, 0, 1).unwrap()
    );
}

#[test]
fn a_disk_is_mounted_filled_and_gone() {
    if !need::all("a_disk_is_mounted", &[Need::Root, Need::Xfs]) {
        return;
    }
    let scratch = Scratch::new("xfs").unwrap();
    let point = scratch.path().join("disk");
    let disk = Xfs::make(&scratch.images().join("i.img"), &point, 320).unwrap();
    fs::write(point.join("f"), "x").unwrap();
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(point.join("f"), "trusted.test", b"v", flags).unwrap();
    disk.fill_but(4).unwrap();
    let error = fs::write(point.join("big"), vec![1; 16 << 20]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
    drop(disk);
    assert!(scratch::mounts_below(scratch.path()).is_empty());
    assert!(!scratch.images().join("i.img").exists());
}
