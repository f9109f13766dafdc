//! A store on its own XFS image, and short words for calls.

use bytes::Bytes;
use proto::attr::{Attr, Meta};
use proto::error::Errno;
use proto::fop::{
    Answer, Call, Create, DirEntry, Entries, Fop, Getattr, InspectDir, Lookup, Read, Rename,
    Return, Setattr, Unlink, Write,
};
use proto::ids::{BrickId, Gfid, SetId, SlotId, Stamp, VolumeId};
use server_store::testing::Xfs;
use server_store::{Config, Ctx, NewBrick, Store};
use std::path::PathBuf;

pub const FILE: u32 = 0o100_644;
pub const DIR: u32 = 0o040_755;

pub struct Brick {
    // Dropped before the file system is unmounted.
    pub store: Option<Store>,
    pub new: NewBrick,
    pub path: PathBuf,
    pub xfs: Xfs,
    pub stamp: u64,
    pub interval: u64,
}

pub fn gfid(n: u64) -> Gfid {
    let mut random = [0; 14];
    random[6..].copy_from_slice(&(n + 1000).to_be_bytes());
    Gfid::new(SlotId(n as u16), random)
}

pub fn config() -> Config {
    Config { fds_max: 128, ..Config::default() }
}

pub fn new_brick() -> NewBrick {
    NewBrick {
        brick: BrickId::random(),
        volume: VolumeId::random(),
        set: SetId(0),
        dir_buckets: 64,
        stamp: Stamp(1_000_000_000),
    }
}

impl Brick {
    pub fn new() -> Option<Brick> {
        Self::with(config())
    }

    pub fn with(config: Config) -> Option<Brick> {
        let xfs = Xfs::new(300)?;
        let path = xfs.path().join("b");
        std::fs::create_dir(&path).unwrap();
        let new = new_brick();
        let store = Store::create(&path, &new, false, config).unwrap();
        Some(Brick { store: Some(store), new, path, xfs, stamp: 2_000_000_000, interval: 1 })
    }

    pub fn store(&mut self) -> &mut Store {
        self.store.as_mut().unwrap()
    }

    pub fn reopen(&mut self) {
        self.store = None;
        self.store = Some(Store::open(&self.path, self.new.brick, config()).unwrap());
    }

    pub fn call(&mut self, fop: impl Into<Fop>) -> Result<Return, Errno> {
        self.stamp += 1000;
        self.full(fop, b"", self.stamp, false)
    }

    pub fn resend(&mut self, fop: impl Into<Fop>) -> Result<Return, Errno> {
        self.full(fop, b"", self.stamp, true)
    }

    pub fn with_data(&mut self, fop: impl Into<Fop>, data: &[u8]) -> Result<Return, Errno> {
        self.stamp += 1000;
        self.full(fop, data, self.stamp, false)
    }

    pub fn full(
        &mut self,
        fop: impl Into<Fop>,
        data: &[u8],
        stamp: u64,
        resend: bool,
    ) -> Result<Return, Errno> {
        let mut call = Call::new(fop).with_payload(Bytes::copy_from_slice(data));
        call.stamp = Stamp(stamp);
        call.resend = resend;
        let ctx = Ctx { interval: self.interval, defer_sync: false };
        self.store().execute(&call, &ctx)
    }

    pub fn create(&mut self, parent: Gfid, name: &str, n: u64, mode: u32) -> Gfid {
        self.call(create(parent, name, n, mode)).unwrap();
        gfid(n)
    }

    pub fn write(&mut self, gfid: Gfid, offset: u64, data: &[u8]) -> Attr {
        let len = data.len() as u64;
        let write = Write { gfid, offset, len, ..Write::default() };
        attr(self.with_data(write, data).unwrap())
    }

    pub fn read(&mut self, gfid: Gfid) -> Vec<u8> {
        self.call(Read { gfid, offset: 0, len: 4 << 20 }).unwrap().payload.to_vec()
    }

    pub fn lookup(&mut self, parent: Gfid, name: &str) -> Result<Attr, Errno> {
        let lookup = Lookup { parent, name: bytes(name), data_bytes_max: 0 };
        self.call(lookup).map(entry)
    }

    pub fn attr(&mut self, gfid: Gfid) -> Attr {
        attr(self.call(Getattr { gfid }).unwrap())
    }

    pub fn unlink(&mut self, name: &str, expect: Gfid, keep: bool) -> Unlink {
        let _ = &self.path;
        Unlink { parent: Gfid::ROOT, name: bytes(name), expect, keep }
    }

    pub fn chmod(&mut self, gfid: Gfid, mode: u32) -> Attr {
        let set = Meta { mode: Some(mode), ..Meta::default() };
        attr(self.call(Setattr { gfid, set, kill_privileges: false }).unwrap())
    }

    pub fn names(&mut self, gfid: Gfid) -> Vec<DirEntry> {
        let ask = InspectDir { gfid, limit: 4096, ..InspectDir::default() };
        entries(self.call(ask).unwrap()).entries
    }

    pub fn plain_names(&mut self, gfid: Gfid) -> Vec<String> {
        let name = |e: DirEntry| String::from_utf8(e.name.to_vec()).unwrap();
        let mut names: Vec<_> = self.names(gfid).into_iter().map(name).collect();
        names.sort();
        names
    }
}

pub fn create(parent: Gfid, name: &str, n: u64, mode: u32) -> Create {
    let buckets = if mode & 0o170_000 == 0o040_000 { 64 } else { 0 };
    Create { parent, name: bytes(name), gfid: gfid(n), mode, buckets, ..Create::default() }
}

pub fn rename(from: &str, to: &str, expect_from: Gfid, expect_to: Gfid) -> Rename {
    Rename {
        from_parent: Gfid::ROOT,
        from_name: bytes(from),
        to_parent: Gfid::ROOT,
        to_name: bytes(to),
        expect_from,
        expect_to,
        ..Rename::default()
    }
}

pub fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

pub fn entry(r: Return) -> Attr {
    match r.answer {
        Answer::Entry(e) => e.attr,
        other => panic!("{other:?}"),
    }
}

pub fn attr(r: Return) -> Attr {
    match r.answer {
        Answer::Attr(a) => a,
        other => panic!("{other:?}"),
    }
}

pub fn entries(r: Return) -> Entries {
    match r.answer {
        Answer::Entries(e) => e,
        other => panic!("{other:?}"),
    }
}

/// A brick, or the end of the test where none can be made.
#[macro_export]
macro_rules! brick {
    () => {
        match $crate::common::Brick::new() {
            Some(brick) => brick,
            None => return,
        }
    };
}
