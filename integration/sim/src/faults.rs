//! The fault budget, and the schedule drawn from it.
//!
//! What has to be survived, all of it mixed, for the 15–35 s of a seed's fault phase:
//! any number of lost or late messages; any link or direction cut, any peer isolated, for up
//! to 8 s; any process killed, stopped for up to 6 s, or started anew within 8 s, all peers at
//! once included; power lost at any peer, all at once included, with everything unsynced lost,
//! kept or torn, and now and then the change log's database with it; a disk error at a brick
//! while another in-sync member is alive, or a disk that is lost with all that is on it and
//! replaced by an empty one; a disk that is full; one wrong answer of a store; a mount that does
//! not answer recalls while it renews its leases; clocks whose rates
//! differ by 5 %; wall clocks that jump by a day.
//!
//! Some faults are aimed: shortly after a join, a change of the lead, a settle or a stale mark
//! the world may lose a member, cut it off, or lose power at all of them.
//!
//! A mount's change may be cut off on its way: the frame to one member waits in its connection
//! (and arrives up to seconds late, or never), while the mount dies, is stopped, or takes no
//! recall, so that its lease ends and others get it.
//!
//! Outside of the budget: a member of the last epoch that stays away for more than 30 s when
//! all are down (an operator's decision); errors of all disks; silent corruption at rest; a disk
//! lost while copies are marked stale (the last good copy may be on it).
//!
//! What may be lost: changes that were acknowledged and not fsynced, when every in-sync member
//! lost its memory or its disk, or had a copy marked stale (it counts as lost memory). Nothing
//! else.

use crate::model::clock::{MS, Nanos};
use crate::model::net::Proc;
use crate::rng::Rng;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    Crash(Proc),
    PowerLoss(Proc),
    CrashAll,
    PowerLossAll,
    Start(Proc),
    Pause(Proc),
    Resume(Proc),
    Cut(Proc, Proc),
    OneWayCut(Proc, Proc),
    Isolate(Proc),
    Mend(Proc, Proc),
    MendAll(Proc),
    Drop(Proc, Proc),
    Slow(Proc, Proc),
    WallJump(Proc),
    Eio(Proc),
    Misanswer(Proc),
    ClientCrash(Proc),
    ClientStart(Proc),
    ClientPause(Proc),
    /// It takes no recall until `Unwedge`.
    Wedge(Proc),
    Unwedge(Proc),
    Full(Proc),
    DiskLost(Proc),
}

/// Who there is to hurt.
#[derive(Clone, Copy, Debug)]
pub struct Cast {
    pub peers: usize,
    pub bricks: usize,
    pub clients: usize,
}

/// At least five faults in `length`, each with its end.
pub fn schedule(rng: &mut Rng, cast: Cast, length: Nanos) -> Vec<(Nanos, Fault)> {
    let mut plan = Vec::new();
    let count = rng.range(5, 14);
    for _ in 0..count {
        let at = rng.range(1500 * MS, length);
        let span = match rng.below(3) {
            0 => rng.range(50 * MS, 1000 * MS),
            1 => rng.range(1000 * MS, 3000 * MS),
            _ => rng.range(3000 * MS, 8000 * MS),
        };
        draw(rng, cast, at, span, &mut plan);
    }
    plan.sort_by_key(|(at, _)| *at);
    plan
}

fn draw(rng: &mut Rng, cast: Cast, at: Nanos, span: Nanos, plan: &mut Vec<(Nanos, Fault)>) {
    let peer = rng.index(cast.peers);
    let brick = rng.index(cast.bricks);
    let client = cast.peers + rng.index(cast.clients);
    let all = cast.peers + cast.clients;
    let other = (brick + 1 + rng.index(all - 1)) % all;
    let end = at + span;
    match rng.below(100) {
        0..16 => plan.extend([(at, Fault::Crash(peer)), (end, Fault::Start(peer))]),
        16..28 => plan.extend([(at, Fault::PowerLoss(peer)), (end, Fault::Start(peer))]),
        28..31 => down_all(rng, cast, (at, Fault::CrashAll), span, plan),
        31..36 => down_all(rng, cast, (at, Fault::PowerLossAll), span, plan),
        36..46 => {
            let span = span.min(6000 * MS);
            plan.extend([(at, Fault::Pause(peer)), (at + span, Fault::Resume(peer))]);
        }
        46..54 => plan.extend([(at, Fault::Cut(brick, other)), (end, Fault::Mend(brick, other))]),
        54..62 => {
            plan.extend([(at, Fault::OneWayCut(brick, other)), (end, Fault::Mend(brick, other))]);
        }
        62..70 => plan.extend([(at, Fault::Isolate(peer)), (end, Fault::MendAll(peer))]),
        70..75 => plan.push((at, Fault::Drop(brick, other))),
        75..78 => plan.push((at, Fault::Slow(brick, other))),
        78..81 => plan.push((at, Fault::WallJump(peer))),
        81..84 => {
            plan.extend([(at, Fault::Eio(brick)), (end, Fault::Crash(brick))]);
            plan.push((end + 500 * MS, Fault::Start(brick)));
        }
        84..86 => {
            plan.extend([(at, Fault::Full(brick)), (end, Fault::Crash(brick))]);
            plan.push((end + 500 * MS, Fault::Start(brick)));
        }
        86..88 => plan.extend([(at, Fault::DiskLost(brick)), (end, Fault::Start(brick))]),
        88..91 => plan.push((at, Fault::Misanswer(brick))),
        91..94 => plan.extend([(at, Fault::Wedge(client)), (end, Fault::Unwedge(client))]),
        94..97 => {
            plan.extend([(at, Fault::ClientCrash(client)), (end, Fault::ClientStart(client))])
        }
        _ => plan.extend([(at, Fault::ClientPause(client)), (end, Fault::Resume(client))]),
    }
}

fn down_all(
    rng: &mut Rng,
    cast: Cast,
    first: (Nanos, Fault),
    span: Nanos,
    plan: &mut Vec<(Nanos, Fault)>,
) {
    plan.push(first);
    for peer in 0..cast.peers {
        plan.push((first.0 + rng.range(100 * MS, span.max(200 * MS)), Fault::Start(peer)));
    }
}

/// What happened just now, near which other faults hurt most.
#[derive(Clone, Copy, Debug)]
pub enum Moment {
    /// That brick joined.
    Join(Proc),
    /// The set has another lead, or the same brick leads under another incarnation.
    Lead(Proc),
    /// The lead makes members equal, or has marks noted.
    Rounds(Proc),
}

/// Faults within a second and a half after a moment, with their ends.
pub fn aimed(rng: &mut Rng, cast: Cast, now: Nanos, moment: Moment) -> Vec<(Nanos, Fault)> {
    let mut plan = Vec::new();
    let at = now + rng.below(1500 * MS);
    let end = at + rng.range(300 * MS, 4000 * MS);
    let (Moment::Join(one) | Moment::Lead(one) | Moment::Rounds(one)) = moment;
    let other = (one + 1 + rng.index(cast.bricks - 1)) % cast.bricks;
    let client = cast.peers + rng.index(cast.clients);
    match (moment, rng.below(6)) {
        // The others' disks do not come back: what was healed must be on the joiner's.
        (Moment::Join(_), 0..3) => {
            let others = (0..cast.bricks).filter(|b| *b != one);
            plan.extend(others.clone().map(|b| (at, Fault::DiskLost(b))));
            plan.push((at, Fault::PowerLossAll));
            let starts = (0..cast.peers).map(|p| (end + rng.below(500 * MS), Fault::Start(p)));
            plan.extend(starts);
        }
        (_, 0) => down_all(rng, cast, (at, Fault::PowerLossAll), end - at, &mut plan),
        (_, 1) => plan.extend([(at, Fault::Crash(one)), (end, Fault::Start(one))]),
        (_, 2) => plan.extend([(at, Fault::PowerLoss(other)), (end, Fault::Start(other))]),
        (_, 3) => plan.extend([(at, Fault::Isolate(one)), (end, Fault::MendAll(one))]),
        (_, 4) => plan.extend([(at, Fault::Cut(one, client)), (end, Fault::Mend(one, client))]),
        _ => plan.extend([(at, Fault::Pause(other)), (end, Fault::Resume(other))]),
    }
    plan
}

/// A change that is cut off on its way.
pub struct CutOff {
    /// Before the frames are sent.
    pub first: Fault,
    pub plan: Vec<(Nanos, Fault)>,
    /// What is counted.
    pub event: &'static str,
}

/// A change's frame to one member is held back from now on, and its mount is in trouble at once.
pub fn cut_off(rng: &mut Rng, cast: Cast, now: Nanos, client: Proc) -> CutOff {
    let member = rng.index(cast.bricks);
    let trouble = now + rng.range(2 * MS, 30 * MS);
    // Its lease ends in a term and a half; then somebody else needs a moment with the key.
    let end = now + rng.range(1500 * MS, 5000 * MS);
    let late = end + rng.below(600 * MS);
    let (event, mut plan) = match rng.below(3) {
        0 => (
            "fault: change cut off by death",
            vec![(trouble, Fault::ClientCrash(client)), (end, Fault::ClientStart(client))],
        ),
        1 => (
            "fault: change cut off by a stop",
            vec![(trouble, Fault::ClientPause(client)), (end, Fault::Resume(client))],
        ),
        _ => (
            "fault: change cut off by a wedge",
            vec![(now, Fault::Wedge(client)), (late + MS, Fault::Unwedge(client))],
        ),
    };
    plan.push((late, Fault::Mend(client, member)));
    CutOff { first: Fault::OneWayCut(client, member), plan, event }
}
