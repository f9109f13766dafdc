//! Healing of single stale copies: the lead takes the inode's leases as a session of its own,
//! copies from a good member, and clears the mark everywhere.

use proto::fop::{LeaseKey, Mode};
use proto::{BrickId, Gfid, SessionId};
use proto_rules::lease::Lease;
use proto_rules::lease::table::{Ask, How};
use proto_rules::time::LEASE_TERM;

use super::peer::{Peer, Why};
use crate::cx::{Cx, proc_of};
use crate::model::net::Proc;
use crate::msg::{Call, Done};

/// The lead's own session.
pub const STALE_HEALER: SessionId = SessionId(u64::MAX);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Leases,
    Copy,
    Install,
    /// Healed; the marks are cleared as soon as no joiner has its list of them already.
    Installed,
    /// The healed member drops its mark first: should the others stop here, it is known again
    /// there, and not for ever at the one that is good.
    ClearFirst,
    Clear(usize),
}

pub struct StaleJob {
    brick: BrickId,
    gfid: Gfid,
    leases: Vec<Lease>,
    stage: Stage,
}

impl Peer {
    pub fn tick_stale(&mut self, cx: &mut Cx<'_>) {
        self.clear_healed(cx);
        let Some(table) = self.table.as_mut().filter(|t| t.serving()) else { return };
        let in_sync = |b: &BrickId| self.lasting.map.set.in_sync().any(|m| m.brick == *b);
        let marked = self.member.stale.iter().find(|(b, _)| in_sync(b));
        if marked.is_none() && self.stale_job.is_none() {
            return;
        }
        if table.hello(cx.tick, STALE_HEALER).is_err()
            || table.renew(cx.tick, STALE_HEALER, LEASE_TERM, &[]).is_err()
        {
            return;
        }
        let Some((brick, gfid)) = marked.filter(|_| self.stale_job.is_none()) else { return };
        self.stale_job = Some(StaleJob { brick, gfid, leases: Vec::new(), stage: Stage::Leases });
        let mut commands = Vec::new();
        for key in [LeaseKey::Inode(gfid), LeaseKey::Part(gfid)] {
            self.next_call += 1;
            let ask = Ask {
                session: STALE_HEALER,
                id: self.next_call,
                key,
                mode: Mode::Exclusive,
                how: How::Waits,
            };
            commands.extend(table.ask(cx.tick, ask));
        }
        self.run_lease(cx, commands);
    }

    pub fn stale_lease(&mut self, cx: &mut Cx<'_>, lease: Lease) {
        let Some(job) = self.stale_job.as_mut() else { return self.stale_return(cx, vec![lease]) };
        job.leases.push(lease);
        if job.leases.len() < 2 || job.stage != Stage::Leases {
            return;
        }
        job.stage = Stage::Copy;
        let gfid = job.gfid;
        let members: Vec<BrickId> = self.map().in_sync().map(|m| m.brick).collect();
        let source = self.member.stale.source(gfid, self.brick, &members);
        match source {
            Some(source) => {
                self.call(cx, proc_of(source), Call::Inspect(vec![gfid]), Why::StaleHeal);
            }
            None => self.stale_abort(cx),
        }
    }

    pub fn stale_done(&mut self, cx: &mut Cx<'_>, done: Done) {
        let members = self.in_sync_procs();
        let Some(job) = self.stale_job.as_mut() else { return };
        let (brick, gfid) = (job.brick, job.gfid);
        match (job.stage, done) {
            (Stage::Copy, Done::Inodes(mut inodes)) => {
                job.stage = Stage::Install;
                let inode = inodes.pop().and_then(|(_, inode)| inode);
                self.call(cx, proc_of(brick), Call::Install { gfid, inode }, Why::StaleHeal);
            }
            (Stage::Install, Done::Ok) => {
                job.stage = Stage::Installed;
                self.clear_healed(cx);
            }
            (Stage::ClearFirst, Done::Marked) => {
                let others: Vec<Proc> =
                    members.into_iter().filter(|p| *p != proc_of(brick)).collect();
                if others.is_empty() {
                    self.member.end_marking();
                    return self.stale_abort(cx);
                }
                job.stage = Stage::Clear(others.len());
                self.clear_marks(cx, others, (brick, gfid));
            }
            (Stage::Clear(left), Done::Marked) => {
                job.stage = Stage::Clear(left - 1);
                if left == 1 {
                    self.member.end_marking();
                    cx.hit("stale: healed");
                    self.stale_abort(cx);
                }
            }
            _ => {}
        }
    }

    fn clear_healed(&mut self, cx: &mut Cx<'_>) {
        let Some(job) = self.stale_job.as_mut().filter(|j| j.stage == Stage::Installed) else {
            return;
        };
        if !self.member.begin_marking(&[]) {
            return;
        }
        job.stage = Stage::ClearFirst;
        let mark = (job.brick, job.gfid);
        self.clear_marks(cx, vec![proc_of(mark.0)], mark);
    }

    fn clear_marks(&mut self, cx: &mut Cx<'_>, at: Vec<Proc>, mark: (BrickId, Gfid)) {
        for to in at {
            let call = Call::Mark { set: Vec::new(), clear: vec![mark] };
            self.call(cx, to, call, Why::StaleHeal);
        }
    }

    /// Ends the job, done or not; what is still marked is begun again.
    pub fn stale_abort(&mut self, cx: &mut Cx<'_>) {
        if let Some(job) = self.stale_job.take() {
            self.stale_return(cx, job.leases);
        }
    }

    fn stale_return(&mut self, cx: &mut Cx<'_>, leases: Vec<Lease>) {
        for lease in leases {
            let Some(table) = self.table.as_mut() else { return };
            let commands = table.on_return(cx.tick, STALE_HEALER, lease, Mode::None, false);
            self.run_lease(cx, commands);
        }
    }
}
