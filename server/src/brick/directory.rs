//! A directory's attributes and its names are two leases that exclude each other.
//!
//! Whoever changes names in a directory, under the exclusive lease of its part, moves the
//! directory's times with every change. So nobody else keeps its attributes meanwhile: the part
//! is granted exclusively only once the others have given back the inode's lease, and the
//! inode's lease is not granted beside another session's exclusive part. Those who look at the
//! directory then get its attributes for the moment, from the lead, which has every acknowledged
//! change; the one who changes names is not disturbed by that.
//!
//! A rename takes the part of what it replaces without knowing that it is a plain file, which
//! has no names: there the leases have nothing to do with each other.

use proto::Gfid;
use proto::fop::{Answer, Call, Class, Getattr, LeaseKey, Mode};
use proto_rules::lease::Lease;
use proto_rules::lease::table::LeaseTable;

use super::core::Core;
use super::request::Pending;

/// What comes before asking for a lease.
#[derive(Debug, PartialEq, Eq)]
pub enum First {
    Nothing,
    /// It was wished for only if free, and is not.
    Without,
    /// A read goes on with the lease for its own time only.
    Borrow,
    /// Others' exclusive lease of the part has to be given back, down to a shared one.
    BorrowPart,
    /// Others' leases of the inode have to be given back.
    ClearInode,
}

impl Core {
    pub fn first_of_directory(
        &mut self,
        pending: &Pending,
        key: LeaseKey,
        mode: Mode,
        only_if_free: bool,
    ) -> First {
        let session = pending.head.session;
        let Some(table) = self.lead.as_ref().map(|lead| &lead.table) else { return First::Nothing };
        let part = LeaseKey::Part(key.gfid());
        let first = match key {
            LeaseKey::Part(gfid) if needs_clear(table, pending, gfid, mode) => First::ClearInode,
            // It holds it: then nobody else has the part.
            LeaseKey::Inode(_) if table.held(session, key).is_some() => First::Nothing,
            LeaseKey::Inode(_) => match (pending.op.class(), only_if_free) {
                (_, true) if table.another_would_change(session, part) => First::Without,
                (Class::Read, _) if table.another_would_change(session, part) => First::Borrow,
                // It takes the part itself before it is answered, in the common order.
                (_, false) if wants_part(pending, key.gfid()) => First::Nothing,
                (_, false) if table.another_changes(session, part) => First::BorrowPart,
                _ => First::Nothing,
            },
            LeaseKey::Part(_) => First::Nothing,
        };
        match first {
            First::Nothing => First::Nothing,
            _ if !self.is_directory(key.gfid()) => First::Nothing,
            First::ClearInode if only_if_free => First::Without,
            first => first,
        }
    }

    /// Whether an exclusive part was granted after a wait in which somebody got the inode.
    pub fn granted_too_early(&mut self, pending: &Pending, lease: Lease) -> bool {
        let LeaseKey::Part(gfid) = lease.key else { return false };
        let session = pending.head.session;
        let others = |table: &LeaseTable| table.others_hold(session, LeaseKey::Inode(gfid));
        lease.mode == Mode::Exclusive
            && self.lead.as_ref().is_some_and(|lead| others(&lead.table))
            && self.is_directory(gfid)
    }

    /// Whether a lasting lease of an inode must not be granted to the session.
    pub fn names_change_elsewhere(&mut self, pending: &Pending, gfid: Gfid) -> bool {
        let (session, part) = (pending.head.session, LeaseKey::Part(gfid));
        let changes = |table: &LeaseTable| table.another_would_change(session, part);
        self.lead.as_ref().is_some_and(|lead| changes(&lead.table)) && self.is_directory(gfid)
    }

    /// What cannot be told counts as one: that costs a recall, never a stale answer.
    fn is_directory(&mut self, gfid: Gfid) -> bool {
        let call = Call::new(Getattr { gfid });
        match self.store.execute(&call, &self.context()).map(|done| done.answer) {
            Ok(Answer::Attr(attr)) => attr.is_dir(),
            _ => true,
        }
    }
}

fn wants_part(pending: &Pending, gfid: Gfid) -> bool {
    let exclusive = Mode::Exclusive as i32;
    pending.wants.iter().any(|w| w.key.part && w.key.gfid == gfid && w.mode == exclusive)
}

/// A part that is to be changed, while others hold the inode.
fn needs_clear(table: &LeaseTable, pending: &Pending, gfid: Gfid, mode: Mode) -> bool {
    mode == Mode::Exclusive && table.others_hold(pending.head.session, LeaseKey::Inode(gfid))
}
