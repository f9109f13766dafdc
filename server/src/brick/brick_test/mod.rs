//! A brick over loopback, with a real store and the raw codec.

mod lease_test;
mod measure_test;
mod rig;
mod serve_test;
mod set_test;

use proto::fop::{Create, LeaseKey, Mode};
use proto::{Gfid, LeaseNumber};

use super::io::Backend;
use rig::{Client, Rig};

const BACKENDS: [Backend; 2] = [Backend::Uring, Backend::Plain];

/// Runs a test on each backend. Says so where no file system can be mounted.
fn on_each_backend(members: usize, test: impl Fn(&mut Rig)) {
    for backend in BACKENDS {
        if let Some(mut rig) = Rig::new(backend, members) {
            test(&mut rig);
        }
    }
}

fn create(name: &str, gfid: Gfid) -> Create {
    Create {
        parent: Gfid::ROOT,
        name: name.to_owned().into(),
        gfid,
        mode: 0o100_644,
        ..Create::default()
    }
}

/// Creates a file; the number of its lease.
fn make(client: &mut Client, name: &str, gfid: Gfid) -> LeaseNumber {
    let part = LeaseKey::Part(Gfid::ROOT);
    let number = client.lease(part, Mode::Exclusive);
    let got = client.change(create(name, gfid), b"", part, number);
    got.answer();
    got.grant(LeaseKey::Inode(gfid)).expect("the creator holds the inode").number
}
