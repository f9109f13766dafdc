//! Carries out the rules' settle: collects, copies and clears at the members.
//!
//! `proto_rules::settle` says what; each of its commands is tried again here until it is done or
//! the epoch has ended. `copy.rs` makes copies equal.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use proto::fop::{
    Answer, Call, ClearWindows, LeaseKey, MarkStale, SettledSeq, SweepParked, Touch, TouchMsg,
    Under, Unsettled, UnsettledEntry, UnsettledList,
};
use proto::{BrickId, Epoch, Errno, Failure, Gfid, LeaseNumber, Seq, SessionId};
use proto_rules::settle::{MemberList, Scope, Settle, SettleCommand};
use proto_rules::window;
use tokio::sync::OwnedMutexGuard;

use super::copy::Copier;
use crate::brick::{Brick, mark_of};

/// Before a member that did not answer is asked again. It is either about to learn the epoch,
/// or about to be evicted.
pub const ASK_AGAIN: Duration = Duration::from_millis(50);
/// How often a settle that waits looks whether its epoch has ended.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Commands under way at once.
const AT_ONCE: usize = 16;

/// What a settle has found out.
#[derive(Debug)]
pub struct Settled {
    /// All that any member has heard of.
    pub sessions: BTreeSet<SessionId>,
    /// The newest epoch that any member noted as graced.
    pub graced: Epoch,
}

enum Event {
    Listed(BrickId, MemberList, Epoch),
    Marked(BrickId),
    Copied(Gfid),
    Cleared(BrickId),
}

/// Settles `scope`. `None`: another lead, or a new take-over, does it.
pub async fn settle(
    brick: &Rc<Brick>,
    epoch: Epoch,
    scope: Scope,
    raise: Vec<(LeaseKey, LeaseNumber)>,
) -> Option<Settled> {
    let copier = Copier::new(brick, epoch);
    let mut run = Run { copier, scope, graced: Cell::default(), by_lead: RefCell::default() };
    let (mut rules, mut commands) =
        Settle::start(scope, run.copier.here(), run.copier.members(), raise);
    loop {
        if let Some(sessions) = run.obey(&mut rules, commands).await {
            return Some(Settled { sessions, graced: run.graced.get() });
        }
        let epoch = {
            let core = brick.core.borrow();
            // With its table a lead leads on: it settles with the members of the new epoch.
            let leads_on = core.lead.is_some() && core.leads_in(core.epoch());
            if scope == Scope::All || !leads_on {
                return None;
            }
            core.epoch()
        };
        run.copier = Copier::new(brick, epoch);
        commands = rules.on_members(run.copier.members());
    }
}

struct Run {
    copier: Copier,
    scope: Scope,
    graced: Cell<Epoch>,
    /// What leads executed, as each member has it.
    by_lead: RefCell<BTreeMap<(BrickId, SessionId, Seq), UnsettledEntry>>,
}

impl Run {
    /// To the end of the settle. `None`: the epoch ended.
    async fn obey(
        &self,
        rules: &mut Settle,
        commands: Vec<SettleCommand>,
    ) -> Option<BTreeSet<SessionId>> {
        let mut todo = VecDeque::from(commands);
        let mut turn: Option<OwnedMutexGuard<()>> = None;
        let mut at_work = FuturesUnordered::new();
        loop {
            while at_work.len() < AT_ONCE
                && let Some(command) = todo.pop_front()
            {
                match command {
                    SettleCommand::Done { sessions } => return Some(sessions),
                    SettleCommand::Copy { .. } if turn.is_none() => {
                        turn = Some(self.copier.turn().await);
                        todo.push_front(command);
                    }
                    command => at_work.push(self.until_done(command, turn.is_some())),
                }
            }
            let event = tokio::select! {
                biased;
                event = at_work.next() => event??,
                // A member that is cut off answers nothing for seconds; the epoch ends before.
                () = tokio::time::sleep(LOOK_EVERY) => {
                    if self.copier.leads() {
                        continue;
                    }
                    return None;
                }
            };
            let core = self.copier.brick.core.borrow();
            todo.extend(match event {
                Event::Listed(member, list, noted) => {
                    self.graced.set(self.graced.get().max(noted));
                    rules.on_list(member, list, &core.member.stale)
                }
                Event::Marked(member) => rules.on_marked(member, &core.member.stale),
                Event::Copied(gfid) => rules.on_copied(gfid, &core.member.stale),
                Event::Cleared(member) => rules.on_cleared(member),
            });
        }
    }

    /// Tries a command again until it is done. `None`: the epoch ended.
    async fn until_done(&self, command: SettleCommand, copied: bool) -> Option<Event> {
        loop {
            match self.once(&command, copied).await {
                Ok(event) => return Some(event),
                Err(failure) => tracing::debug!(?failure, ?command, "settling goes on"),
            }
            if !self.copier.leads() {
                return None;
            }
            tokio::time::sleep(ASK_AGAIN).await;
        }
    }

    async fn once(&self, command: &SettleCommand, copied: bool) -> Result<Event, Failure> {
        match command {
            SettleCommand::Collect { from, raise } => {
                let list = self.collect(*from, raise).await?;
                let graced = Epoch(list.graced);
                for entry in list.entries.iter().filter(|e| e.by_lead) {
                    let key = (*from, SessionId(entry.session), Seq(entry.seq));
                    self.by_lead.borrow_mut().insert(key, entry.clone());
                }
                Ok(Event::Listed(*from, list_of(list), graced))
            }
            SettleCommand::Mark { at, set, clear } => {
                let set = set.iter().map(|(brick, gfid)| mark_of(*brick, *gfid, false));
                let clear = clear.iter().map(|(brick, gfid)| mark_of(*brick, *gfid, true));
                for mark in set.chain(clear) {
                    self.mark(*at, mark).await?;
                }
                Ok(Event::Marked(*at))
            }
            SettleCommand::Copy { gfid, what, source, targets } => {
                self.copier.copy(*gfid, what, *source, targets).await?;
                Ok(Event::Copied(*gfid))
            }
            SettleCommand::Clear { at, entries, take_over } => {
                if copied && *at != self.copier.here() {
                    let keep = self.copier.orphans();
                    self.copier.call(*at, Call::new(SweepParked { keep })).await?;
                }
                self.clear(*at, entries, take_over).await?;
                Ok(Event::Cleared(*at))
            }
            SettleCommand::Done { .. } => Err(Errno::EINVAL.into()),
        }
    }

    async fn collect(
        &self,
        from: BrickId,
        raise: &[(LeaseKey, LeaseNumber)],
    ) -> Result<UnsettledList, Failure> {
        let (session, gfid) = self.scope.filter();
        let raise = raise.iter().map(|(key, number)| Under { key: (*key).into(), number: *number });
        let ask = Unsettled {
            session: session.map_or(0, |s| s.0),
            gfid: gfid.unwrap_or(Gfid::NIL),
            raise: raise.collect(),
        };
        if from == self.copier.here() {
            return self.copier.brick.core.borrow_mut().unsettled(&ask);
        }
        match self.copier.call(from, Call::new(ask)).await?.answer {
            Answer::UnsettledList(list) => Ok(list),
            _ => Err(Errno::EPROTO.into()),
        }
    }

    async fn mark(&self, at: BrickId, mark: MarkStale) -> Result<(), Failure> {
        if at == self.copier.here() {
            return Ok(self.copier.brick.core.borrow_mut().mark_stale_here(&mark)?);
        }
        self.copier.call(at, Call::new(mark)).await.map(|_| ())
    }

    async fn clear(
        &self,
        at: BrickId,
        entries: &[(SessionId, Seq)],
        take_over: &[(BrickId, SessionId, Seq)],
    ) -> Result<(), Failure> {
        let take_over: Vec<UnsettledEntry> = {
            let known = self.by_lead.borrow();
            take_over.iter().filter_map(|key| known.get(key).cloned()).collect()
        };
        let settled = entries.iter().map(|(s, seq)| SettledSeq { session: s.0, seq: seq.0 });
        let note =
            ClearWindows { settled: settled.collect(), take_over, ..ClearWindows::default() };
        if at == self.copier.here() {
            return Ok(self.copier.brick.core.borrow_mut().clear_windows(&note)?);
        }
        self.copier.call(at, Call::new(note)).await.map(|_| ())
    }
}

fn list_of(list: UnsettledList) -> MemberList {
    // Success or the errno: what members may differ in. Sizes and times of answers depend on
    // the order of changes that were under way together.
    let reply = |entry: &UnsettledEntry| {
        Some(((SessionId(entry.session), Seq(entry.seq)), entry.answered? as u64))
    };
    let replies = list.entries.iter().filter_map(reply).collect();
    let mark = |mark: &MarkStale| (BrickId::from_bytes(mark.brick.0), mark.gfid);
    let entry = |entry: UnsettledEntry| window::Unsettled {
        session: SessionId(entry.session),
        seq: Seq(entry.seq),
        touches: entry.touches.iter().filter_map(touch_of).collect(),
        by_lead: entry.by_lead,
    };
    MemberList {
        entries: list.entries.into_iter().map(entry).collect(),
        marks: list.marks.iter().map(|m| (SessionId(m.session), Seq(m.seq))).collect(),
        sessions: list.sessions.into_iter().map(SessionId).collect(),
        replies,
        stale: list.stale.iter().map(mark).collect(),
    }
}

pub fn touch_to(touch: &Touch) -> TouchMsg {
    let (what, start, end) = match *touch {
        Touch::Attrs(_) => (0, 0, 0),
        Touch::Range { start, end, .. } => (1, start, end),
        Touch::Name { hash, .. } => (2, hash, 0),
    };
    TouchMsg { gfid: touch.gfid(), what, start, end }
}

/// `None` for a kind of touch that a newer version made.
pub fn touch_of(msg: &TouchMsg) -> Option<Touch> {
    let gfid = msg.gfid;
    match msg.what {
        0 => Some(Touch::Attrs(gfid)),
        1 => Some(Touch::Range { gfid, start: msg.start, end: msg.end }),
        2 => Some(Touch::Name { dir: gfid, hash: msg.start }),
        _ => None,
    }
}
