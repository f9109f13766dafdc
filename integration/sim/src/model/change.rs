//! What clients do to inodes: a handful of operations that stand for all of them. A file is four
//! registers of one block each, a directory is a map of names.

use proto::fop::Touch;
use proto::{Errno, Gfid};

pub type Name = u8;

pub const BLOCKS: u8 = 4;
/// Bytes of a register: one page.
pub const BLOCK_BYTES: u64 = 4096;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Write { gfid: Gfid, block: u8, value: u64 },
    Setattr { gfid: Gfid, value: u64 },
    Create { dir: Gfid, name: Name, gfid: Gfid },
    Unlink { dir: Gfid, name: Name, expect: Gfid },
    Rename { from: (Gfid, Name), to: (Gfid, Name), expect: Gfid, over: Gfid },
}

pub type Outcome = Result<(), Errno>;

fn name(dir: Gfid, name: Name) -> Touch {
    Touch::Name { dir, hash: u64::from(name) }
}

pub fn block_touch(gfid: Gfid, block: u8) -> Touch {
    let start = u64::from(block) * BLOCK_BYTES;
    Touch::Range { gfid, start, end: start + BLOCK_BYTES }
}

impl Change {
    /// As `Fop::touches` has it for the operations that these stand for.
    pub fn touches(&self) -> Vec<Touch> {
        match *self {
            Change::Write { gfid, block, .. } => vec![block_touch(gfid, block)],
            Change::Setattr { gfid, .. } => vec![Touch::Attrs(gfid)],
            Change::Create { dir, name: n, gfid } => vec![name(dir, n), Touch::Attrs(gfid)],
            Change::Unlink { dir, name: n, expect } => vec![name(dir, n), Touch::Attrs(expect)],
            Change::Rename { from, to, expect, over } => {
                let mut touches =
                    vec![name(from.0, from.1), name(to.0, to.1), Touch::Attrs(expect)];
                if !over.is_nil() {
                    touches.push(Touch::Attrs(over));
                }
                touches
            }
        }
    }
}
