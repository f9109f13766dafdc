//! Which leases an operation needs.

use proto::Gfid;
use proto::fop::{Fop, LeaseKey};

/// Exclusive leases of a change, in the order in which leases are taken. All on the set of the
/// operation.
///
/// The part of a directory that goes (rmdir, or rename over it) is among them: otherwise a
/// create in it by another session could reach one member before the removal and another one
/// after it. A rename does not know the kind of what it replaces, and an unused part's lease
/// costs nothing: all are asked for in one trip.
///
/// Fsync needs none: it changes nothing, and a file open for reading may be synced too.
pub(super) fn of_change(fop: &Fop) -> Vec<LeaseKey> {
    use LeaseKey::{Inode, Part};
    let mut keys = match fop {
        Fop::Create(a) => vec![Part(a.parent)],
        Fop::Unlink(a) => vec![Part(a.parent), Inode(a.expect)],
        Fop::Rmdir(a) => vec![Part(a.parent), Inode(a.expect), Part(a.expect)],
        Fop::Rename(a) => {
            let mut keys = vec![Part(a.from_parent), Part(a.to_parent), Inode(a.expect_from)];
            if !a.expect_to.is_nil() {
                keys.extend([Inode(a.expect_to), Part(a.expect_to)]);
            }
            keys
        }
        Fop::Link(a) => vec![Part(a.parent), Inode(a.gfid)],
        Fop::Write(a) => vec![Inode(a.gfid)],
        Fop::Setattr(a) => vec![Inode(a.gfid)],
        Fop::Setxattr(a) => vec![Inode(a.gfid)],
        Fop::Removexattr(a) => vec![Inode(a.gfid)],
        Fop::Fallocate(a) => vec![Inode(a.gfid)],
        Fop::Forget(a) => vec![Inode(a.gfid)],
        _ => Vec::new(),
    };
    keys.retain(|key| !key.gfid().is_nil());
    keys.sort_by_key(|key| (key.gfid(), *key));
    keys.dedup();
    keys
}

/// The lease under which any member may answer a read. Operations that also tell of other
/// inodes (lookup, readdir with attributes) are the lead's: only it knows who holds those.
pub(super) fn of_read(fop: &Fop) -> Option<LeaseKey> {
    Some(match fop {
        Fop::Getattr(a) => LeaseKey::Inode(a.gfid),
        Fop::Readlink(a) => LeaseKey::Inode(a.gfid),
        Fop::Read(a) => LeaseKey::Inode(a.gfid),
        Fop::Getxattr(a) => LeaseKey::Inode(a.gfid),
        Fop::Listxattr(a) => LeaseKey::Inode(a.gfid),
        Fop::Seek(a) => LeaseKey::Inode(a.gfid),
        Fop::Readdir(a) if !a.plus => LeaseKey::Part(a.gfid),
        _ => return None,
    })
}

/// The inode that a change may leave without a name, and that must be kept when it is open.
pub(super) fn may_lose_its_name(fop: &Fop) -> Option<Gfid> {
    match fop {
        Fop::Unlink(a) => Some(a.expect),
        Fop::Rename(a) if !a.expect_to.is_nil() => Some(a.expect_to),
        _ => None,
    }
}

/// Changes that a lead executes for a session: of one inode, or of one name.
pub(super) fn may_be_executed(fop: &Fop) -> bool {
    matches!(
        fop,
        Fop::Create(_)
            | Fop::Unlink(_)
            | Fop::Write(_)
            | Fop::Setattr(_)
            | Fop::Setxattr(_)
            | Fop::Removexattr(_)
            | Fop::Fallocate(_)
    )
}

/// Only the lead knows where it goes.
pub(super) fn is_append(fop: &Fop) -> bool {
    matches!(fop, Fop::Write(a) if a.append)
}

/// Keeps that inode.
pub(super) fn keep(fop: &mut Fop) {
    match fop {
        Fop::Unlink(a) => a.keep = true,
        Fop::Rename(a) => a.keep = true,
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::SlotId;
    use proto::fop::{Create, Rename, Rmdir};

    fn gfid(n: u8) -> Gfid {
        Gfid::new(SlotId(u16::from(n)), [n; 14])
    }

    #[test]
    fn a_rename_takes_both_parts_and_what_it_touches_in_gfid_order() {
        let rename = Rename {
            from_parent: gfid(3),
            to_parent: gfid(1),
            expect_from: gfid(2),
            expect_to: gfid(4),
            ..Rename::default()
        };
        use LeaseKey::{Inode, Part};
        let keys = of_change(&rename.into());
        let expected =
            [Part(gfid(1)), Inode(gfid(2)), Part(gfid(3)), Inode(gfid(4)), Part(gfid(4))];
        assert_eq!(keys, expected);
    }

    #[test]
    fn a_removed_directory_is_sealed_and_a_create_needs_its_part_only() {
        let rmdir = Rmdir { parent: gfid(1), expect: gfid(2), ..Rmdir::default() };
        assert!(of_change(&rmdir.into()).contains(&LeaseKey::Part(gfid(2))));
        let create = Create { parent: gfid(1), gfid: gfid(2), ..Create::default() };
        assert_eq!(of_change(&create.into()), [LeaseKey::Part(gfid(1))]);
    }
}
