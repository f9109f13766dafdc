//! What a change touches: for conflict tracking in a session, the unsettled lists of members,
//! and the change log.

use super::{Fop, args::*};
use crate::ids::Gfid;
use crate::placement::name_hash;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Touch {
    /// Bytes `start..end` of a file.
    Range { gfid: Gfid, start: u64, end: u64 },
    /// Attributes, size, xattrs, link count.
    Attrs(Gfid),
    /// One name of a directory, by its hash.
    Name { dir: Gfid, hash: u64 },
}

impl Touch {
    pub fn gfid(&self) -> Gfid {
        match *self {
            Touch::Range { gfid, .. } | Touch::Attrs(gfid) => gfid,
            Touch::Name { dir, .. } => dir,
        }
    }

    fn name(dir: Gfid, name: &[u8]) -> Touch {
        Touch::Name { dir, hash: name_hash(name) }
    }

    /// Whether two changes of one session must not be in flight together.
    pub fn conflicts(&self, other: &Touch) -> bool {
        match (self, other) {
            (
                Touch::Range { gfid: a, start: s1, end: e1 },
                Touch::Range { gfid: b, start: s2, end: e2 },
            ) => a == b && s1 < e2 && s2 < e1,
            (a, b) => a == b,
        }
    }
}

impl Fop {
    /// Everything a change touches, names first; empty for operations that change nothing.
    pub fn touches(&self) -> Vec<Touch> {
        match self {
            Fop::Create(a) => vec![Touch::name(a.parent, &a.name), Touch::Attrs(a.gfid)],
            Fop::Unlink(a) => vec![Touch::name(a.parent, &a.name), Touch::Attrs(a.expect)],
            Fop::Rmdir(a) => vec![Touch::name(a.parent, &a.name), Touch::Attrs(a.expect)],
            Fop::Rename(a) => rename_touches(a),
            Fop::Link(a) => vec![Touch::name(a.parent, &a.name), Touch::Attrs(a.gfid)],
            Fop::Write(a) => write_touches(a),
            Fop::Setattr(a) => match a.set.size {
                // A truncation and a write behind the new end must not be in flight together.
                Some(start) => {
                    vec![Touch::Range { gfid: a.gfid, start, end: u64::MAX }, Touch::Attrs(a.gfid)]
                }
                None => vec![Touch::Attrs(a.gfid)],
            },
            Fop::Setxattr(a) => vec![Touch::Attrs(a.gfid)],
            Fop::Removexattr(a) => vec![Touch::Attrs(a.gfid)],
            Fop::Fallocate(a) => vec![
                Touch::Range { gfid: a.gfid, start: a.offset, end: a.offset.saturating_add(a.len) },
                Touch::Attrs(a.gfid),
            ],
            Fop::Forget(a) => vec![Touch::Attrs(a.gfid)],
            _ => Vec::new(),
        }
    }
}

/// A write inside the file (the sender says so) touches its range only, so that many such
/// writes can be in flight at once; one that may move the end touches the attributes too.
fn write_touches(a: &Write) -> Vec<Touch> {
    if a.append {
        // Where it goes is not known yet: beside no other write.
        let all = Touch::Range { gfid: a.gfid, start: 0, end: u64::MAX };
        return vec![all, Touch::Attrs(a.gfid)];
    }
    let range = Touch::Range { gfid: a.gfid, start: a.offset, end: a.offset.saturating_add(a.len) };
    // Dropping set-user-id bits changes the mode: not beside a chmod.
    if a.inside && !a.kill_privileges { vec![range] } else { vec![range, Touch::Attrs(a.gfid)] }
}

fn rename_touches(a: &Rename) -> Vec<Touch> {
    let mut touches = vec![
        Touch::name(a.from_parent, &a.from_name),
        Touch::name(a.to_parent, &a.to_name),
        Touch::Attrs(a.expect_from),
    ];
    if !a.expect_to.is_nil() {
        touches.push(Touch::Attrs(a.expect_to));
    }
    touches
}
