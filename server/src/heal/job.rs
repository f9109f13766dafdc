//! Carries out what the rules' joiner says: rounds until little is left, a checkpoint, then a
//! short pause and the join.
//!
//! ```text
//! list ── rounds ──(little left)── checkpoint ── pause ── last list ── take over ── agree
//!   ▲                                              │                              │
//!   └── the lead changed, or anything failed ◄─────┴── over 0.5 s: withdrawn      └─► Join
//! ```
//!
//! Each listing closes the lead's change-log interval, so that the next list holds only what
//! changed since, however busy the writers are. While the lead pauses, every change waits for
//! its answer, so nothing can be acknowledged that the last list misses. What happens when, and
//! what after a failure, is `proto_rules::heal::joiner`'s; here is only how.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use proto::fop::{
    Answer, Call, ChangedItem, ChangedList, Checkpoint, HandOver, MarkStale, PauseForJoin,
};
use proto::map::{MemberState, SetMap, VolumeMap};
use proto::{BrickId, Epoch, Failure, Gfid, Incarnation, SetId};
use proto_rules::heal::joiner::{JoinCommand, Joiner};
use proto_rules::heal::log::Interval;
use proto_rules::time::JOIN_PAUSE;
use tokio::sync::watch;

use super::list::{self, Listing};
use super::pace::Pace;
use super::progress::Progress;
use super::rest::{self, Log, Rest};
use super::round::{Item, Round};
use super::side::{self, HealError, Side, Waits};
use crate::brick::{KEPT_MAX, now};

/// Longest time for which the lead is asked to hold changes back.
pub const PAUSE_MS_MAX: u32 = (JOIN_PAUSE / 1_000_000) as u32;
/// Intervals by which the number of one lead may be ahead of that of another member that serves: the
/// highest number is heard in pings, at most a promise's time (1.5 s) late, in which joiners close
/// at most one interval each 250 ms.
pub const INTERVALS_BACK: u64 = 8;
/// How often the rules see time pass.
const TICK: Duration = Duration::from_millis(25);

/// From where a heal goes on. Nothing of it is needed for the truth: an older one only makes
/// the heal compare more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resume {
    /// Everything but `pending` is equal to what a lead had in this interval.
    pub since: u64,
    /// Inodes that are still to be compared, with all below them.
    pub pending: Vec<Gfid>,
}

/// What the job needs of its surroundings. All of it is about one brick of this peer.
pub trait Surroundings: Send + Sync {
    fn me(&self) -> (SetId, BrickId, Incarnation);
    /// The brick took itself out of service.
    fn failed(&self) -> bool;
    /// By numbers of any lead. `None`: nothing is known, compare everything.
    fn base(&self) -> Option<Resume>;
    fn note(&self, resume: Resume) -> Waits<'_, ()>;
    fn side_of(&self, brick: BrickId) -> Arc<dyn Side>;
    fn own_side(&self) -> Arc<dyn Side>;
    /// Files `items` of the lead's log in ours; with `complete_since`, which comes with the last
    /// of them, ours answers for all that the lead's did.
    fn take_over_log(&self, items: Vec<ChangedItem>, complete_since: Option<u64>) -> Waits<'_, ()>;
    /// Promises the members of `epoch` to stay in it. False: it has ended.
    fn offer(&self, epoch: Epoch) -> bool;
    /// Of which inodes, by the marks that came with `lead`'s list, the brick keeps its own copy.
    fn keeps(&self, lead: BrickId, marks: BTreeSet<(BrickId, Gfid)>) -> Waits<'_, BTreeSet<Gfid>>;
    /// Asks one member to agree to the join.
    fn agree(&self, member: BrickId, epoch: Epoch) -> Waits<'_, ()>;
    fn propose(&self, epoch: Epoch) -> Waits<'_, ()>;
    /// Ends the agreement, by an epoch without us.
    fn withdraw(&self, epoch: Epoch) -> Waits<'_, ()>;
    /// How long the lead's clients wait for an answer, in µs; 0: it has none, or it is unknown.
    fn foreground_us(&self, lead: BrickId) -> u64;
}

pub type Maps = watch::Receiver<Arc<VolumeMap>>;

/// The set, if this incarnation of the brick is catching up in it.
pub fn syncing(world: &dyn Surroundings, map: &VolumeMap) -> Option<SetMap> {
    let (set, brick, incarnation) = world.me();
    let set = map.set(set).filter(|_| map.started && !world.failed())?;
    let member = set.member(brick)?;
    let syncing = member.state == MemberState::Syncing && member.incarnation == incarnation;
    syncing.then(|| set.clone())
}

/// One attempt, from the first list to the committed join.
///
/// # Errors
/// Whatever stopped it. Nothing copied is lost.
pub async fn attempt(
    world: &dyn Surroundings,
    mut maps: Maps,
    progress: &Arc<Progress>,
) -> Result<BrickId, HealError> {
    let map = syncing(world, &maps.borrow_and_update());
    let map = map.ok_or_else(|| control("it is not catching up"))?;
    let (_, brick, incarnation) = world.me();
    let resume = world.base();
    let last = resume.as_ref().map(|r| Interval(r.since));
    let (rules, commands) = Joiner::start(brick, incarnation, &map, last);
    let mut job = Job {
        world,
        progress: progress.clone(),
        pace: Arc::default(),
        rules,
        map,
        to: world.own_side(),
        from: None,
        pending: resume.map(|r| r.pending).unwrap_or_default(),
        listed: None,
        copied: None,
        asked: 0,
        items: Vec::new(),
        keeps: BTreeSet::new(),
        kept: BTreeSet::new(),
        log: None,
        rest: None,
        pausing: None,
        agreeing: None,
        rounds: 0,
        work: FuturesUnordered::new(),
    };
    let result = job.run(commands, &mut maps).await;
    if result.is_err() {
        job.give_up().await;
    }
    result
}

fn control(what: &str) -> HealError {
    HealError::Control(what.to_owned())
}

/// What a piece of work has brought.
enum Step {
    /// With what the brick keeps its own copy of.
    Listed(Listing, BTreeSet<Gfid>),
    Copied,
    /// What the lead's log, taken over, is complete since; `None` in a pause.
    Checkpointed(Option<u64>),
    Paused(Box<Rest>),
    PauseRefused,
    Rest,
    Agreed(BrickId, bool),
    Withdrawn,
    Nothing,
}

type Work<'w> = Waits<'w, Step>;

struct Job<'w> {
    world: &'w dyn Surroundings,
    progress: Arc<Progress>,
    pace: Arc<Pace>,
    rules: Joiner,
    map: SetMap,
    to: Arc<dyn Side>,
    from: Option<(BrickId, Arc<dyn Side>)>,
    /// Left over from an attempt that was cut off; compared with the first list.
    pending: Vec<Gfid>,
    /// Whose list the last one was, and the interval open there then.
    listed: Option<(BrickId, u64)>,
    /// The same of the last one that was copied.
    copied: Option<(BrickId, u64)>,
    /// From which interval it was asked.
    asked: u64,
    items: Vec<Item>,
    /// What this brick keeps its own copy of, by the last list: the lead's is stale.
    keeps: BTreeSet<Gfid>,
    /// What it kept in an earlier round of this attempt, and has not copied since.
    kept: BTreeSet<Gfid>,
    /// Whose log ours has taken over.
    log: Option<(BrickId, Log)>,
    /// Of the pause under way.
    rest: Option<Box<Rest>>,
    pausing: Option<Epoch>,
    agreeing: Option<Epoch>,
    rounds: u32,
    work: FuturesUnordered<Work<'w>>,
}

impl<'w> Job<'w> {
    async fn run(
        &mut self,
        mut commands: Vec<JoinCommand>,
        maps: &mut Maps,
    ) -> Result<BrickId, HealError> {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            for command in commands {
                if command == JoinCommand::Joined {
                    return self.map.lead.ok_or_else(|| control("joined a set without a lead"));
                }
                self.obey(command)?;
            }
            commands = tokio::select! {
                biased;
                Some(step) = self.work.next(), if !self.work.is_empty() => self.stepped(step?)?,
                changed = maps.changed() => {
                    changed.map_err(|_| control("the daemon ends"))?;
                    let map = maps.borrow_and_update().clone();
                    self.mapped(&map)?
                }
                _ = tick.tick() => {
                    if self.world.failed() {
                        return Err(control("the brick took itself out of service"));
                    }
                    self.feel();
                    self.rules.on_tick(now())
                }
            };
        }
    }

    /// A committed map.
    fn mapped(&mut self, map: &VolumeMap) -> Result<Vec<JoinCommand>, HealError> {
        let (set, brick, incarnation) = self.world.me();
        let Some(set) = map.set(set) else { return Err(control("the volume is gone")) };
        let joined = set
            .member(brick)
            .is_some_and(|m| m.state == MemberState::InSync && m.incarnation == incarnation);
        if !joined && syncing(self.world, map).is_none() {
            return Err(control("it is not catching up any more"));
        }
        if set.epoch > self.map.epoch {
            // What was agreed in another epoch is void, and so is its pause.
            (self.pausing, self.agreeing) = (None, None);
        }
        self.map = set.clone();
        let commands = self.rules.on_map(set);
        if !commands.is_empty() {
            self.work.clear();
        }
        Ok(commands)
    }

    /// The clients' waits bound how much is copied at once.
    fn feel(&self) {
        if let Some(lead) = self.map.lead {
            self.pace.hear(now(), self.world.foreground_us(lead));
        }
    }

    fn lead(&mut self) -> Result<(BrickId, Arc<dyn Side>), HealError> {
        let lead = self.map.lead.ok_or_else(|| control("there is no lead to copy from"))?;
        match &self.from {
            Some((known, side)) if *known == lead => Ok((lead, side.clone())),
            _ => {
                let side = self.world.side_of(lead);
                self.from = Some((lead, side.clone()));
                Ok((lead, side))
            }
        }
    }

    fn stepped(&mut self, step: Step) -> Result<Vec<JoinCommand>, HealError> {
        Ok(match step {
            Step::Listed(listing, keeps) => {
                if !self.kept.is_subset(&keeps) {
                    // What the lead's copy was given while this brick kept its own stands in no
                    // list any more: the next attempt compares them, as was noted.
                    return Err(control("a copy that it kept is good at the lead again"));
                }
                self.got_list(listing, keeps)
            }
            Step::Copied => {
                self.pending.clear();
                self.kept = self.keeps.clone();
                self.rules.on_copied(now())
            }
            Step::Checkpointed(log) => {
                if let Some(complete_since) = log {
                    let (lead, _) = self.lead()?;
                    self.log = Some((lead, Log { complete_since, later: Vec::new() }));
                }
                self.rules.on_checkpoint()
            }
            Step::Paused(rest) => {
                self.rest = Some(rest);
                self.rules.on_paused()
            }
            Step::PauseRefused => {
                self.pausing = None;
                self.rules.on_pause_refused()
            }
            Step::Rest => self.rules.on_rest(),
            Step::Agreed(member, true) => self.rules.on_agreed(member),
            Step::Agreed(_, false) => self.rules.on_disagreed(),
            Step::Withdrawn => return Err(control("the join took longer than its pause")),
            Step::Nothing => Vec::new(),
        })
    }

    fn got_list(&mut self, listing: Listing, keeps: BTreeSet<Gfid>) -> Vec<JoinCommand> {
        let lead = listing.lead;
        self.listed = Some((lead, listing.list.current));
        self.asked = listing.asked;
        let (mut items, left) = (listing.items(), listing.left());
        items.extend(self.pending.iter().copied().map(Item::whole));
        self.keeps = keeps;
        self.progress.listed(&items, listing.everything);
        if let Some((from, log)) = &mut self.log
            && *from == lead
        {
            let known = ChangedList { items: std::mem::take(&mut log.later), ..Default::default() };
            log.later = list::merged(&[&known, &listing.list]);
        }
        self.items = items;
        self.rules.on_list(now(), left, Interval(listing.list.current))
    }

    fn obey(&mut self, command: JoinCommand) -> Result<(), HealError> {
        let work = match command {
            JoinCommand::AskChanges { since } => self.ask(since)?,
            JoinCommand::CopyList => self.copy()?,
            JoinCommand::Checkpoint => self.checkpoint()?,
            JoinCommand::SlowWriters { delay } => self.slow_writers(delay)?,
            JoinCommand::Pause { epoch } => self.pause(epoch)?,
            JoinCommand::CopyRest => self.copy_rest()?,
            JoinCommand::AskAgreement { of, epoch } => {
                self.progress.phase("joining", self.rounds);
                self.agreeing = Some(epoch);
                for member in of {
                    let asked = self.world.agree(member, epoch);
                    self.work.push(Box::pin(async move {
                        let agreed = asked.await;
                        if let Err(error) = &agreed {
                            tracing::info!(%error, "a member does not agree to the join");
                        }
                        Ok(Step::Agreed(member, agreed.is_ok()))
                    }));
                }
                return Ok(());
            }
            JoinCommand::ProposeJoin { epoch, .. } => {
                let proposed = self.world.propose(epoch);
                Box::pin(async move {
                    // The map says what became of it; the rules do not wait for ever.
                    if let Err(error) = proposed.await {
                        tracing::info!(%error, "the join is not committed yet");
                    }
                    Ok(Step::Nothing)
                })
            }
            JoinCommand::EndPause { epoch } => {
                self.work.clear();
                self.pausing = None;
                self.end_pause(epoch)?
            }
            JoinCommand::NeverServe => {
                self.work.clear();
                // Not literally: a bare epoch ends the agreement too, and the incarnation may
                // try again. If the join was committed before, that entry is void.
                let withdrawn = self.world.withdraw(self.map.epoch);
                self.agreeing = None;
                Box::pin(async move { withdrawn.await.map(|()| Step::Withdrawn) })
            }
            JoinCommand::Joined => return Ok(()),
        };
        self.work.push(work);
        Ok(())
    }

    fn ask(&mut self, since: Option<Interval>) -> Result<Work<'w>, HealError> {
        let (lead, from) = self.lead()?;
        let to = self.to.clone();
        self.progress.phase("listing", self.rounds);
        // The lead's own number is exact. Another lead's is not: members' numbers differ a little;
        // and what this brick has done by itself, or taken from another lead, is compared too.
        // A base counts in that itself.
        let exact = self.copied.filter(|(l, n)| *l == lead && since == Some(Interval(*n)));
        let question = match (exact, since) {
            (Some((_, number)), _) => list::Question::Since(number),
            (None, Some(Interval(last))) => {
                let ahead = if self.copied.is_some() { INTERVALS_BACK } else { 0 };
                list::Question::Returning(last.saturating_sub(ahead))
            }
            (None, None) => list::Question::Everything,
        };
        let world = self.world;
        Ok(Box::pin(async move {
            let listing = list::ask(&*from, &*to, lead, question).await?;
            let brick = |mark: &MarkStale| BrickId::from_bytes(mark.brick.0);
            let marks: BTreeSet<_> =
                listing.list.stale.iter().map(|mark| (brick(mark), mark.gfid)).collect();
            let keeps = match marks.is_empty() {
                true => BTreeSet::new(),
                false => world.keeps(lead, marks).await?,
            };
            // One that would keep very many takes the lead's.
            let keeps = if keeps.len() > KEPT_MAX { BTreeSet::new() } else { keeps };
            Ok(Step::Listed(listing, keeps))
        }))
    }

    fn round(&mut self) -> Result<Round, HealError> {
        let (_, from) = self.lead()?;
        let round = Round::new(from, self.to.clone(), self.progress.clone());
        Ok(round.paced(self.pace.clone()).keeping(self.keeps.clone()))
    }

    fn copy(&mut self) -> Result<Work<'w>, HealError> {
        let round = self.round()?;
        let (items, world) = (std::mem::take(&mut self.items), self.world);
        let since = self.listed.map_or(0, |(_, current)| current);
        self.copied = self.listed;
        self.rounds += 1;
        self.progress.phase("copying", self.rounds);
        // A heal that goes on from here compares them: whether they are kept is asked anew.
        let kept: Vec<Gfid> = self.keeps.iter().copied().collect();
        Ok(Box::pin(async move {
            let keep = |pending: Vec<Gfid>| {
                let pending = pending.into_iter().chain(kept.iter().copied()).collect();
                world.note(Resume { since, pending })
            };
            round.run_noting(items, &keep).await?;
            keep(Vec::new()).await?;
            Ok(Step::Copied)
        }))
    }

    fn checkpoint(&mut self) -> Result<Work<'w>, HealError> {
        let (_, from) = self.lead()?;
        let (to, world, in_pause) = (self.to.clone(), self.world, self.pausing.is_some());
        self.progress.phase("checkpoint", self.rounds);
        Ok(Box::pin(async move {
            // In the pause it is there already, and changes wait.
            let log = match in_pause {
                true => None,
                false => Some(list::copy_log(&*from, world).await?),
            };
            side::done(&*to, Call::new(Checkpoint {})).await?;
            Ok(Step::Checkpointed(log))
        }))
    }

    fn slow_writers(&mut self, delay: u64) -> Result<Work<'w>, HealError> {
        let (_, from) = self.lead()?;
        let slow_us = (delay / 1000) as u32;
        self.pace.press();
        tracing::info!(slow_us, "a heal slows the writers, for it does not get ahead of them");
        let slow = PauseForJoin { epoch: self.map.epoch.0, slow_us, ..PauseForJoin::default() };
        Ok(Box::pin(async move {
            // They are only slower or faster for it.
            let _ = from.call(Call::new(slow)).await;
            Ok(Step::Nothing)
        }))
    }

    fn pause(&mut self, epoch: Epoch) -> Result<Work<'w>, HealError> {
        let (lead, from) = self.lead()?;
        self.progress.phase("joining", self.rounds);
        if self.log.as_ref().is_none_or(|(of, _)| *of != lead) {
            // Another lead's log is not this one's: first that.
            self.log = None;
            let log = self.checkpoint()?;
            return Ok(Box::pin(async move {
                let _ = log.await?;
                Ok(Step::PauseRefused)
            }));
        }
        if !self.world.offer(epoch) {
            return Ok(Box::pin(std::future::ready(Ok(Step::PauseRefused))));
        }
        self.pausing = Some(epoch);
        let asked = self.asked;
        let pause = PauseForJoin {
            epoch: epoch.0,
            pause_ms: PAUSE_MS_MAX,
            slow_us: 0,
            joiner: Some(Gfid(*self.world.me().1.as_bytes())),
            keeps: self.keeps.iter().copied().collect(),
        };
        Ok(Box::pin(async move {
            let shipped = match from.call(Call::new(pause)).await {
                Ok(shipped) => shipped,
                Err(Failure::Refused(refusal)) => {
                    tracing::debug!(?refusal, "the lead does not pause");
                    return Ok(Step::PauseRefused);
                }
                Err(failure) => return Err(control(&format!("pause failed: {failure:?}"))),
            };
            let Answer::HandOver(state) = shipped.answer else {
                return Err(control("the lead's pause has another shape"));
            };
            let list = side::changed(&*from, asked, false).await?;
            let state: HandOver = state;
            Ok(Step::Paused(Box::new(Rest { state, payload: shipped.payload, list })))
        }))
    }

    fn copy_rest(&mut self) -> Result<Work<'w>, HealError> {
        // At full speed: the clients wait for its end.
        let (_, from) = self.lead()?;
        let round = Round::new(from, self.to.clone(), self.progress.clone());
        let round = round.keeping(self.keeps.clone());
        let (rest, log) = (self.rest.take(), self.log.clone());
        let (Some(rest), Some((_, log))) = (rest, log) else {
            return Err(control("the pause brought no list"));
        };
        let world = self.world;
        Ok(Box::pin(async move {
            rest::copy(world, &round, *rest, log).await?;
            Ok(Step::Rest)
        }))
    }

    fn end_pause(&mut self, epoch: Epoch) -> Result<Work<'w>, HealError> {
        let (_, from) = self.lead()?;
        let off = PauseForJoin { epoch: epoch.0, ..PauseForJoin::default() };
        Ok(Box::pin(async move {
            // If this is lost, the lead ends the pause itself, by a new epoch.
            let _ = from.call(Call::new(off)).await;
            Ok(Step::Nothing)
        }))
    }

    /// The attempt failed: nobody is to wait for it.
    async fn give_up(&mut self) {
        self.work.clear();
        if let Some(epoch) = self.agreeing.take() {
            if let Err(error) = self.world.withdraw(epoch).await {
                tracing::warn!(%error, "a join is not withdrawn yet");
            }
        } else if let Some(epoch) = self.pausing.take()
            && let Ok(ended) = self.end_pause(epoch)
        {
            let _ = ended.await;
        }
    }
}
