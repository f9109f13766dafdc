//! The fault budget, and the schedule drawn from it.
//!
//! What has to be survived, all of it mixed, for the 15–35 s of a seed's fault phase:
//! any number of lost or late messages; any link or direction cut, any peer isolated, for up
//! to 8 s; any process killed, stopped for up to 6 s, or started anew within 8 s, all peers at
//! once included; power lost at any peer, all at once included, with everything unsynced lost,
//! kept or torn, and now and then the change log's database with it; a disk error at a brick
//! while another in-sync member is alive; one wrong answer of a store; clocks whose rates
//! differ by 5 %; wall clocks that jump by a day.
//!
//! Outside of the budget: a member of the last epoch that stays away for more than 30 s when
//! all are down (an operator's decision); errors of all disks; silent corruption at rest.
//!
//! What may be lost: changes that were acknowledged and not fsynced, when every in-sync member
//! lost its memory or its disk. Nothing else.

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
        81..86 => {
            plan.extend([(at, Fault::Eio(brick)), (end, Fault::Crash(brick))]);
            plan.push((end + 500 * MS, Fault::Start(brick)));
        }
        86..91 => plan.push((at, Fault::Misanswer(brick))),
        91..96 => {
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
