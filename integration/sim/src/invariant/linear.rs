//! Linearizability (Wing and Gong's search with a memory of states seen): is there an order of
//! the operations that respects real time and explains every answer?

use std::collections::HashSet;
use std::hash::Hash;

/// A sequential object.
pub trait Spec {
    type Op;
    type State: Clone + Eq + Hash;

    /// The state after the operation with the answer that it got; `None`: it cannot have been
    /// answered so. An unanswered one may do what it does.
    fn apply(&self, state: &Self::State, op: &Self::Op) -> Option<Self::State>;
}

pub struct Timed<O> {
    pub from: u64,
    /// `u64::MAX`: unanswered, it may have happened or not.
    pub to: u64,
    pub op: O,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Linearizable,
    Not,
    /// The search exceeded its bound; nothing is said.
    Undecided,
}

/// States visited at most; only histories with many unanswered operations come near it.
const VISITS_MAX: usize = 400_000;

pub fn check<S: Spec>(spec: &S, ops: &[Timed<S::Op>], start: S::State) -> Verdict {
    let words = ops.len().div_ceil(64);
    let mut seen: HashSet<(Vec<u64>, S::State)> = HashSet::new();
    let mut stack = vec![(vec![0u64; words], start)];
    while let Some((done, state)) = stack.pop() {
        let is_done = |i: usize| done[i / 64] >> (i % 64) & 1 == 1;
        let left = || (0..ops.len()).filter(|i| !is_done(*i));
        let bound = left().map(|i| ops[i].to).min().unwrap_or(u64::MAX);
        if bound == u64::MAX {
            return Verdict::Linearizable;
        }
        for i in left().filter(|i| ops[*i].from <= bound) {
            if let Some(next) = spec.apply(&state, &ops[i].op) {
                let mut after = done.clone();
                after[i / 64] |= 1 << (i % 64);
                if seen.insert((after.clone(), next.clone())) {
                    stack.push((after, next));
                }
            }
        }
        if seen.len() > VISITS_MAX {
            return Verdict::Undecided;
        }
    }
    Verdict::Not
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Register;

    /// (is it a write, value)
    impl Spec for Register {
        type Op = (bool, u64);
        type State = u64;
        fn apply(&self, state: &u64, (write, value): &(bool, u64)) -> Option<u64> {
            if *write { Some(*value) } else { (state == value).then_some(*state) }
        }
    }

    fn verdict(ops: &[(u64, u64, bool, u64)]) -> Verdict {
        let ops: Vec<_> =
            ops.iter().map(|o| Timed { from: o.0, to: o.1, op: (o.2, o.3) }).collect();
        check(&Register, &ops, 0)
    }

    #[test]
    fn a_read_after_a_finished_write_must_see_it() {
        assert_eq!(verdict(&[(0, 1, true, 7), (2, 3, false, 7)]), Verdict::Linearizable);
        assert_eq!(verdict(&[(0, 1, true, 7), (2, 3, false, 0)]), Verdict::Not);
    }

    #[test]
    fn a_concurrent_write_may_be_seen_or_not_but_not_taken_back() {
        let write = (0, 10, true, 7);
        assert_eq!(verdict(&[write, (1, 2, false, 0), (3, 4, false, 7)]), Verdict::Linearizable);
        assert_eq!(verdict(&[write, (1, 2, false, 7), (3, 4, false, 0)]), Verdict::Not);
    }

    #[test]
    fn an_unanswered_write_may_happen_late_or_never() {
        let write = (0, u64::MAX, true, 7);
        assert_eq!(verdict(&[write, (1, 2, false, 0), (8, 9, false, 7)]), Verdict::Linearizable);
        assert_eq!(verdict(&[write, (8, 9, false, 0)]), Verdict::Linearizable);
        assert_eq!(verdict(&[write, (1, 2, false, 7), (8, 9, false, 0)]), Verdict::Not);
    }
}
