//! What the applications do: registers that they fight for, and a few names in two directories.

use proto::Gfid;

use crate::invariant::history::Kind;
use crate::model::change::{BLOCKS, Name};
use crate::model::store::{Image, Inode};
use crate::rng::Rng;

pub const FILES: u8 = 8;
pub const DIRS: u8 = 2;
pub const NAMES: Name = 4;

pub fn file(n: u8) -> Gfid {
    gfid(1, u64::from(n) + 2)
}

pub fn dir(n: u8) -> Gfid {
    gfid(2, u64::from(n) + 2)
}

/// Neither created nor removed by anybody.
pub fn is_fixed(gfid: Gfid) -> bool {
    gfid.0[7] != CREATED
}

/// Kind of the inodes that applications create.
const CREATED: u8 = 3;

fn gfid(kind: u8, n: u64) -> Gfid {
    let mut bytes = [0; 16];
    bytes[7] = kind;
    bytes[8..].copy_from_slice(&n.to_be_bytes());
    Gfid(bytes)
}

/// What every brick holds at the first start.
pub fn image() -> Image {
    let fixed = |_| Inode { links: 1, ..Inode::default() };
    (0..FILES).map(file).chain((0..DIRS).map(dir)).map(|g| (g, fixed(g))).collect()
}

/// Draws operations; every value and every new inode is unique.
pub struct Workload {
    rng: Rng,
    next: u64,
    /// Few files and blocks make conflicts, many make long independent histories.
    files: u8,
    blocks: u8,
}

impl Workload {
    pub fn new(mut rng: Rng) -> Self {
        let (files, blocks) = (rng.range(1, u64::from(FILES)) as u8, rng.range(1, 4) as u8);
        Self { rng, next: 0, files, blocks: blocks.min(BLOCKS) }
    }

    pub fn next(&mut self) -> Kind {
        self.next += 1;
        let value = self.next;
        let rng = &mut self.rng;
        let target = file(rng.below(u64::from(self.files)) as u8);
        let block = rng.below(u64::from(self.blocks)) as u8;
        let d = dir(rng.below(u64::from(DIRS)) as u8);
        let name = rng.below(u64::from(NAMES)) as Name;
        match rng.below(100) {
            0..24 => Kind::Write { gfid: target, block, value },
            24..48 => Kind::Read { gfid: target, block },
            48..54 => Kind::Setattr { gfid: target, value },
            54..60 => Kind::Getattr { gfid: target },
            60..66 => Kind::Fsync { gfid: target },
            66..77 => Kind::Create { dir: d, name, gfid: gfid(CREATED, value + 2) },
            77..84 => Kind::Unlink { dir: d, name },
            84..90 => {
                let other = dir(rng.below(u64::from(DIRS)) as u8);
                let to = (other, (name + 1 + rng.below(2) as Name) % NAMES);
                Kind::Rename { from: (d, name), to }
            }
            _ => Kind::Lookup { dir: d, name },
        }
    }

    /// Looks at everything, for the end.
    pub fn everything() -> Vec<Kind> {
        let blocks = (0..FILES).flat_map(|f| (0..BLOCKS).map(move |b| (file(f), b)));
        let reads = blocks.map(|(gfid, block)| Kind::Read { gfid, block });
        let attrs = (0..FILES).map(|f| Kind::Getattr { gfid: file(f) });
        let names = (0..DIRS).flat_map(|d| (0..NAMES).map(move |n| (dir(d), n)));
        let lookups = names.map(|(dir, name)| Kind::Lookup { dir, name });
        reads.chain(attrs).chain(lookups).collect()
    }
}
