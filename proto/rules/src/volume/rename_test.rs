use std::collections::BTreeMap;

use super::*;
use crate::plant::without;
use crate::testing::gfid;

/// `mv /a /b/x` on one mount and `mv /b /a/y` on the other.
#[derive(Clone)]
struct Mount {
    dir: Gfid,
    to: Gfid,
    doing: Doing,
}

#[derive(Clone)]
enum Doing {
    Nothing,
    Walking(LeaseNumber, LoopCheck, Gfid),
    /// Its `begin` is on its way; members execute it under a number that was not raised.
    Sent(LeaseNumber),
    Done,
    Refused,
}

#[derive(Clone)]
struct World {
    parents: BTreeMap<Gfid, Gfid>,
    lease: RenameLease,
    holder: Option<usize>,
    /// Each mount takes the lease without regard to the other.
    for_itself: bool,
    numbers: u64,
    /// Of the moved directories: numbers below these are dead.
    raised: BTreeMap<Gfid, LeaseNumber>,
    mounts: [Mount; 2],
}

fn world() -> World {
    let (a, b) = (gfid(10), gfid(11));
    World {
        parents: [(a, Gfid::ROOT), (b, Gfid::ROOT)].into(),
        lease: RenameLease::default(),
        holder: None,
        for_itself: false,
        numbers: 0,
        raised: BTreeMap::new(),
        mounts: [
            Mount { dir: a, to: b, doing: Doing::Nothing },
            Mount { dir: b, to: a, doing: Doing::Nothing },
        ],
    }
}

impl World {
    /// One step of a mount; false if it cannot go on.
    fn step(&mut self, who: usize) -> bool {
        let Mount { dir, to, doing } = self.mounts[who].clone();
        let next = match doing {
            Doing::Nothing if self.for_itself || self.holder.is_none() && self.lease.free() => {
                self.numbers += 1;
                let number = LeaseNumber { base: 1, counter: self.numbers };
                self.holder = Some(who);
                self.lease.name(number, dir);
                let (check, walk) = LoopCheck::start(dir, to);
                self.walked(who, number, check, walk)
            }
            Doing::Walking(number, mut check, at) => {
                let walk = check.on_parent(self.parents[&at]);
                self.walked(who, number, check, walk)
            }
            Doing::Sent(number) => {
                let dead = self.raised.get(&dir).is_some_and(|raised| number < *raised);
                if !dead {
                    self.parents.insert(dir, to);
                }
                self.give_back(who, number, true);
                if dead { Doing::Refused } else { Doing::Done }
            }
            _ => return false,
        };
        self.mounts[who].doing = next;
        true
    }

    fn walked(&mut self, who: usize, number: LeaseNumber, check: LoopCheck, walk: Walk) -> Doing {
        match walk {
            Walk::Ask(at) => Doing::Walking(number, check, at),
            // It looks at its lease before it sends; what is sent may be late.
            Walk::Clear if self.for_itself || self.holder == Some(who) => Doing::Sent(number),
            _ => {
                self.give_back(who, number, true);
                Doing::Refused
            }
        }
    }

    fn give_back(&mut self, who: usize, number: LeaseNumber, returned: bool) {
        if self.holder == Some(who) {
            self.holder = None;
        }
        if let Some(dir) = self.lease.ended(number, returned) {
            // The directory's lead takes its lease: older numbers are dead; nothing has begun.
            self.numbers += 1;
            self.raised.insert(dir, LeaseNumber { base: 1, counter: self.numbers });
            self.lease.on_settled(dir);
        }
    }

    /// The lead of the rename lease hears no more of a mount that has sent its change.
    fn expire(&mut self, who: usize) -> bool {
        let Doing::Sent(number) = self.mounts[who].doing else { return false };
        if self.holder != Some(who) {
            return false;
        }
        self.give_back(who, number, false);
        true
    }

    fn has_loop(&self) -> bool {
        let ends = |dir: &Gfid| {
            let mut at = *dir;
            (0..4).any(|_| {
                at = self.parents[&at];
                at == Gfid::ROOT
            })
        };
        !self.parents.keys().all(ends)
    }

    /// All schedules from here on; whether one of them makes a loop.
    fn any_loop(&self) -> bool {
        let event = |n: usize| {
            let mut next = self.clone();
            let did = if n < 2 { next.step(n) } else { next.expire(n - 2) };
            did && next.any_loop()
        };
        self.has_loop() || (0..4).any(event)
    }
}

/// Trap 35: both loop checks pass.
#[test]
fn trap_35_two_moves_of_directories_make_no_loop_in_any_schedule() {
    assert!(!world().any_loop());
    assert!(World { for_itself: true, ..world() }.any_loop(), "without one lease for all");
    assert!(without(Plant::NoRenameSettle, || world().any_loop()), "a late frame of the holder");
}

#[test]
fn a_move_into_itself_is_refused() {
    let parents = BTreeMap::from([(gfid(3), gfid(2)), (gfid(2), gfid(1)), (gfid(1), Gfid::ROOT)]);
    let walk = |dir, to| {
        let (mut check, mut walk) = LoopCheck::start(dir, to);
        while let Walk::Ask(at) = walk {
            walk = check.on_parent(parents[&at]);
        }
        walk
    };
    assert_eq!(walk(gfid(1), gfid(3)), Walk::Loop);
    assert_eq!(walk(gfid(1), gfid(1)), Walk::Loop);
    assert_eq!(walk(gfid(3), gfid(1)), Walk::Clear);
    assert_eq!(walk(gfid(3), Gfid::ROOT), Walk::Clear);
}

#[test]
fn a_walk_without_an_end_is_given_up() {
    let (mut check, mut walk) = LoopCheck::start(gfid(1), gfid(2));
    for _ in 0..=DEPTH_MAX {
        walk = check.on_parent(gfid(3));
    }
    assert_eq!(walk, Walk::TooDeep);
}
