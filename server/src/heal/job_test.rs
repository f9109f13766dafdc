//! The way back of one brick, over two real stores and a set that commits what is proposed.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use proto::fop::{Answer, Call, ChangedItem, Done, Fop, HandOver, InspectDir, MarkStale, Return};
use proto::map::{MemberMap, MemberState, SLOTS, SetMap, VolumeMap};
use proto::options::VolumeOptions;
use proto::{BrickId, Epoch, Errno, Failure, Gfid, Incarnation, PeerId, SetId, VolumeId};
use tokio::sync::watch;

use super::copier_test::{Local, Pair};
use super::job::{self, Resume, Surroundings};
use super::progress::Progress;
use super::round::{Item, Round};
use super::side::{self, Answered, HealError, Side, Waits};

/// What happens to a call on its way.
type Hook = Box<dyn Fn(&Call) -> Option<Failure> + Send + Sync>;

type Stale = Arc<Mutex<Vec<MarkStale>>>;

/// A store that answers a joiner's last questions, too.
struct Hooked {
    local: Arc<Local>,
    hook: Hook,
    /// The lead's marks of its own copies, for its lists.
    stale: Stale,
}

impl Side for Hooked {
    fn call(&self, call: Call) -> Answered<'_> {
        if let Some(failure) = (self.hook)(&call) {
            return Box::pin(std::future::ready(Err(failure)));
        }
        let answer = match &call.fop {
            Fop::PauseForJoin(_) => Answer::HandOver(HandOver::default()),
            Fop::TakeOver(_) => Answer::Done(Done {}),
            Fop::Changed(_) => {
                let stale = self.stale.lock().expect("fine").clone();
                let listed = self.local.call(call);
                return Box::pin(async move {
                    let mut listed = listed.await;
                    if let Ok(Return { answer: Answer::ChangedList(list), .. }) = &mut listed {
                        list.stale = stale;
                    }
                    listed
                });
            }
            _ => return self.local.call(call),
        };
        Box::pin(std::future::ready(Ok(answer.into())))
    }
}

struct World {
    lead: BrickId,
    brick: BrickId,
    maps: watch::Sender<Arc<VolumeMap>>,
    from: Arc<Hooked>,
    to: Arc<Hooked>,
    notes: Mutex<Vec<Resume>>,
    log: Mutex<Vec<ChangedItem>>,
    agrees: AtomicBool,
    withdrawn: AtomicUsize,
}

fn member(brick: BrickId, state: MemberState) -> MemberMap {
    MemberMap {
        brick,
        peer: PeerId::random(),
        path: "/b".into(),
        state,
        incarnation: Incarnation(7),
        reason: String::new(),
    }
}

fn hooked(local: &Arc<Local>, hook: Hook, stale: Stale) -> Arc<Hooked> {
    Arc::new(Hooked { local: local.clone(), hook, stale })
}

impl World {
    fn new(pair: &Pair, hook: Hook) -> World {
        World::with(pair, hook, Stale::default())
    }

    fn with(pair: &Pair, hook: Hook, stale: Stale) -> World {
        let (lead, brick) = (BrickId::random(), BrickId::random());
        let members = vec![member(lead, MemberState::InSync), member(brick, MemberState::Syncing)];
        let set = SetMap { id: SetId(0), epoch: Epoch(5), lead: Some(lead), members };
        let map = VolumeMap {
            volume: VolumeId::random(),
            name: "gv0".into(),
            version: 1,
            stripe: 1,
            stripe_block: 1 << 20,
            replica: 2,
            started: true,
            sets: vec![set],
            slots: vec![SetId(0); SLOTS.into()],
            peers: Vec::new(),
            options: VolumeOptions::default(),
        };
        World {
            lead,
            brick,
            maps: watch::channel(Arc::new(map)).0,
            from: hooked(&pair.a, hook, stale),
            to: hooked(&pair.b, Box::new(|_| None), Stale::default()),
            notes: Mutex::default(),
            log: Mutex::default(),
            agrees: AtomicBool::new(true),
            withdrawn: AtomicUsize::new(0),
        }
    }

    fn commit(&self, epoch: Epoch, change: impl FnOnce(&mut SetMap)) -> Result<(), HealError> {
        let mut map = VolumeMap::clone(&self.maps.borrow());
        if map.sets[0].epoch != epoch {
            return Err(HealError::Control("void".into()));
        }
        change(&mut map.sets[0]);
        map.sets[0].epoch = Epoch(epoch.0 + 1);
        map.version += 1;
        self.maps.send_replace(Arc::new(map));
        Ok(())
    }
}

impl Surroundings for World {
    fn me(&self) -> (SetId, BrickId, Incarnation) {
        (SetId(0), self.brick, Incarnation(7))
    }

    fn failed(&self) -> bool {
        false
    }

    fn base(&self) -> Option<Resume> {
        self.notes.lock().expect("fine").last().cloned()
    }

    fn note(&self, resume: Resume) -> Waits<'_, ()> {
        self.notes.lock().expect("fine").push(resume);
        Box::pin(std::future::ready(Ok(())))
    }

    fn side_of(&self, brick: BrickId) -> Arc<dyn Side> {
        assert_eq!(brick, self.lead);
        self.from.clone()
    }

    fn own_side(&self) -> Arc<dyn Side> {
        self.to.clone()
    }

    fn take_over_log(&self, items: Vec<ChangedItem>, since: Option<u64>) -> Waits<'_, ()> {
        let mut log = self.log.lock().expect("fine");
        log.extend(items);
        assert!(since.is_none() || !log.is_empty(), "the lead's log comes before its mark");
        Box::pin(std::future::ready(Ok(())))
    }

    fn keeps(&self, lead: BrickId, marks: BTreeSet<(BrickId, Gfid)>) -> Waits<'_, BTreeSet<Gfid>> {
        assert_eq!(lead, self.lead);
        let of_lead = marks.into_iter().filter(|(brick, _)| *brick == lead);
        Box::pin(std::future::ready(Ok(of_lead.map(|(_, gfid)| gfid).collect())))
    }

    fn offer(&self, epoch: Epoch) -> bool {
        self.maps.borrow().sets[0].epoch == epoch
    }

    fn agree(&self, _: BrickId, _: Epoch) -> Waits<'_, ()> {
        let agreed = match self.agrees.load(Ordering::Relaxed) {
            true => Ok(()),
            false => Err(HealError::Control("not now".into())),
        };
        Box::pin(std::future::ready(agreed))
    }

    fn propose(&self, epoch: Epoch) -> Waits<'_, ()> {
        let joined = self.commit(epoch, |set| set.members[1].state = MemberState::InSync);
        Box::pin(std::future::ready(joined))
    }

    fn withdraw(&self, epoch: Epoch) -> Waits<'_, ()> {
        self.withdrawn.fetch_add(1, Ordering::Relaxed);
        let bumped = self.commit(epoch, |_| {});
        Box::pin(std::future::ready(bumped))
    }

    fn foreground_us(&self, _: BrickId) -> u64 {
        0
    }
}

fn block_on<T>(f: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    runtime.expect("a runtime").block_on(f)
}

fn attempt(world: &World) -> Result<BrickId, HealError> {
    block_on(job::attempt(world, world.maps.subscribe(), &Arc::new(Progress::default())))
}

#[test]
fn a_new_brick_is_filled_and_joins() {
    let mut pair = Pair::new();
    let dir = pair.create(false, Gfid::ROOT, "d", 1, true);
    for id in 10..30 {
        let file = pair.create(false, dir, &format!("f{id}"), id, false);
        pair.write(false, file, 0, &vec![id; 1000]);
    }
    let world = World::new(&pair, Box::new(|_| None));
    assert_eq!(attempt(&world).expect("it joins"), world.lead);
    pair.assert_equal();
}

/// What changes while the first list is copied is in the next one, the rest in the pause's.
#[test]
fn what_changes_meanwhile_is_there_before_the_join() {
    let mut pair = Pair::new();
    let file = pair.create(true, Gfid::ROOT, "f", 1, false);
    pair.write(false, file, 0, &[1; 5000]);
    let (source, lists, pauses) =
        (pair.a.clone(), AtomicUsize::new(0), Arc::new(AtomicUsize::new(0)));
    let paused = pauses.clone();
    let hook = move |call: &Call| {
        match &call.fop {
            // Once, after the first list was made.
            Fop::Inspect(a) if a.gfid == file && lists.fetch_add(1, Ordering::Relaxed) == 0 => {
                source.change(proto::fop::Create {
                    parent: Gfid::ROOT,
                    name: "later".into(),
                    gfid: Gfid::new(proto::SlotId(3), [9; 14]),
                    mode: 0o100_644,
                    ..Default::default()
                });
            }
            Fop::PauseForJoin(p)
                if p.pause_ms > 0 && paused.fetch_add(1, Ordering::Relaxed) == 0 =>
            {
                source.change(proto::fop::Create {
                    parent: Gfid::ROOT,
                    name: "last".into(),
                    gfid: Gfid::new(proto::SlotId(3), [8; 14]),
                    mode: 0o100_644,
                    ..Default::default()
                });
            }
            _ => {}
        }
        None
    };
    let world = World::new(&pair, Box::new(hook));
    world.notes.lock().expect("fine").push(Resume { since: 7, pending: Vec::new() });
    attempt(&world).expect("it joins");
    assert_eq!(pauses.load(Ordering::Relaxed), 1);
    pair.assert_equal();
}

/// The lead's copy of an inode is stale, and this brick has the good one: it keeps it, and the
/// lead is told so in the pause. Once the lead's is good, it is compared after all.
#[test]
fn a_good_copy_is_kept_while_the_leads_is_stale() {
    let mut pair = Pair::new();
    let dir = pair.create(true, Gfid::ROOT, "d", 1, true);
    let file = pair.create(true, dir, "f", 2, false);
    pair.write(true, file, 0, b"the good one");
    pair.write(false, file, 0, b"another copy");
    pair.create(false, dir, "new", 3, false);
    let kept = Arc::new(Mutex::new(Vec::new()));
    let told = kept.clone();
    let hook = move |call: &Call| {
        if let Fop::PauseForJoin(pause) = &call.fop {
            told.lock().expect("fine").push(pause.keeps.clone());
        }
        None
    };
    let world = World::new(&pair, Box::new(hook));
    let brick = Gfid(*world.lead.as_bytes());
    *world.from.stale.lock().expect("fine") = vec![MarkStale { gfid: file, brick, clear: false }];
    attempt(&world).expect("it joins");
    assert_eq!(*kept.lock().expect("fine"), [vec![file]]);
    let good = block_on(side::read(&*world.to, file, 0, 20)).expect("it is there");
    assert_eq!(&good[..], b"the good one");
    assert_eq!(block_on(side::names(&*world.to, dir)).expect("a directory").len(), 2);
    assert_eq!(world.notes.lock().expect("fine").last().expect("noted").pending, [file]);
}

/// What was kept in one round and is good at the lead in the next stands in no list any more.
#[test]
fn a_copy_that_was_kept_is_compared_once_the_leads_is_good() {
    let mut pair = Pair::new();
    let file = pair.create(true, Gfid::ROOT, "f", 2, false);
    pair.write(false, file, 0, b"the lead's");
    let stale = Stale::default();
    let healed = stale.clone();
    let hook = move |call: &Call| match &call.fop {
        // Healed at the lead, between two rounds.
        Fop::PauseForJoin(p) if p.keeps == [file] => {
            healed.lock().expect("fine").clear();
            Some(Failure::Refused(proto::Refusal::Busy))
        }
        _ => None,
    };
    let world = World::with(&pair, Box::new(hook), stale.clone());
    let brick = Gfid(*world.lead.as_bytes());
    stale.lock().expect("fine").push(MarkStale { gfid: file, brick, clear: false });
    let error = attempt(&world).expect_err("this attempt ends");
    assert!(error.to_string().contains("good at the lead again"), "{error}");
    attempt(&world).expect("the next one joins");
    pair.assert_equal();
}

/// Trap 52: whoever agreed needs this brick's promise until an epoch ends it.
#[test]
fn an_agreement_that_leads_nowhere_is_taken_back() {
    let mut pair = Pair::new();
    pair.create(false, Gfid::ROOT, "f", 1, false);
    let world = World::new(&pair, Box::new(|_| None));
    world.agrees.store(false, Ordering::Relaxed);
    assert!(attempt(&world).is_err());
    assert_eq!(world.withdrawn.load(Ordering::Relaxed), 1);
    assert_eq!(world.maps.borrow().sets[0].epoch, Epoch(6), "by a bare epoch");
    world.agrees.store(true, Ordering::Relaxed);
    attempt(&world).expect("the next one joins");
}

#[test]
fn a_lead_that_does_not_pause_is_asked_again() {
    let mut pair = Pair::new();
    pair.create(false, Gfid::ROOT, "f", 1, false);
    let refusals = AtomicUsize::new(2);
    let hook = move |call: &Call| match &call.fop {
        Fop::PauseForJoin(p) if p.pause_ms > 0 => refusals
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1))
            .ok()
            .map(|_| Failure::Refused(proto::Refusal::NotLead)),
        _ => None,
    };
    let world = World::new(&pair, Box::new(hook));
    attempt(&world).expect("it joins in the end");
    assert_eq!(world.withdrawn.load(Ordering::Relaxed), 0, "nobody had agreed");
}

/// A healer that is killed goes on where it was: what is done is not compared again.
#[test]
fn a_killed_healer_resumes_a_comparison_of_everything() {
    let mut pair = Pair::new();
    for id in 1..40 {
        let dir = pair.create(false, Gfid::ROOT, &format!("d{id}"), id, true);
        pair.create(false, dir, "f", 100 + id, false);
    }
    let (listed, limit) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(20)));
    let (count, most) = (listed.clone(), limit.clone());
    let hook = move |call: &Call| match &call.fop {
        Fop::InspectDir(InspectDir { .. }) => {
            let n = count.fetch_add(1, Ordering::Relaxed);
            (n >= most.load(Ordering::Relaxed)).then_some(Failure::Errno(Errno::ENOTCONN))
        }
        _ => None,
    };
    let world = World::new(&pair, Box::new(hook));
    let round = || {
        let progress = Arc::new(Progress::default());
        Round::new(world.from.clone(), world.to.clone(), progress)
            .noting_every(std::time::Duration::ZERO)
    };
    let note = |pending| world.note(Resume { since: 7, pending });
    let first = block_on(round().run_noting(vec![Item::whole(Gfid::ROOT)], &note));
    assert!(first.is_err(), "killed in the middle");
    let resume = world.base().expect("it was noted");
    assert!(!resume.pending.is_empty() && !resume.pending.contains(&Gfid::ROOT));
    listed.store(0, Ordering::Relaxed);
    limit.store(usize::MAX, Ordering::Relaxed);
    let rest = resume.pending.into_iter().map(Item::whole).collect();
    block_on(round().run(rest)).expect("to the end");
    let again = listed.load(Ordering::Relaxed);
    assert!(again < 39, "only what was left is listed again, not {again} directories");
    pair.assert_equal();
}
