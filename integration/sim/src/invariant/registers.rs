//! Every block, and every inode's attribute, is a linearizable register.

use std::collections::BTreeSet;

use proto::{Errno, Gfid};

use super::Broken;
use super::history::{Entry, History, Kind, Res};
use super::linear::{Spec, Timed, Verdict, check};

/// A block, or the attribute of an inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Register {
    pub gfid: Gfid,
    pub block: Option<u8>,
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Write(u64),
    Read(u64),
}

struct Spec1;

impl Spec for Spec1 {
    type Op = Op;
    /// `None`: any value, after the loss of all memory.
    type State = Option<u64>;

    fn apply(&self, state: &Option<u64>, op: &Op) -> Option<Option<u64>> {
        match *op {
            Op::Write(value) => Some(Some(value)),
            Op::Read(value) => state.is_none_or(|s| s == value).then_some(Some(value)),
        }
    }
}

pub fn register_of(kind: &Kind) -> Option<Register> {
    match *kind {
        Kind::Read { gfid, block } | Kind::Write { gfid, block, .. } => {
            Some(Register { gfid, block: Some(block) })
        }
        Kind::Getattr { gfid } | Kind::Setattr { gfid, .. } => Some(Register { gfid, block: None }),
        _ => None,
    }
}

/// A write that certainly did not happen: it was never sent.
pub fn never_sent(entry: &Entry) -> bool {
    entry.res == Some(Res::Err(Errno::ETIMEDOUT))
}

fn timed(entry: &Entry) -> Option<Timed<Op>> {
    let (from, to) = (entry.from, entry.to);
    match (entry.kind, entry.res) {
        _ if never_sent(entry) => None,
        (Kind::Write { value, .. } | Kind::Setattr { value, .. }, res) => {
            let to = if res == Some(Res::Done) { to } else { u64::MAX };
            Some(Timed { from, to, op: Op::Write(value) })
        }
        (_, Some(Res::Value(value))) => Some(Timed { from, to, op: Op::Read(value) }),
        _ => None,
    }
}

pub fn check_all(history: &History) -> Result<u32, Broken> {
    let mut undecided = 0;
    let registers: BTreeSet<Register> =
        history.ops.iter().filter_map(|e| register_of(&e.kind)).collect();
    for n in 0..=history.cuts.len() {
        let segment = history.segment(n);
        for register in &registers {
            let mine = segment.iter().filter(|e| register_of(&e.kind) == Some(*register));
            let ops: Vec<Timed<Op>> = mine.clone().filter_map(timed).collect();
            let start = if n == 0 { Some(0) } else { None };
            match check(&Spec1, &ops, start) {
                Verdict::Linearizable => {}
                Verdict::Undecided => undecided += 1,
                Verdict::Not => {
                    let ops: Vec<String> = mine.map(show).collect();
                    let what = format!("{register:?} after cut {n}:\n  {}", ops.join("\n  "));
                    return Err(Broken::new("registers are linearizable", what));
                }
            }
        }
    }
    Ok(undecided)
}

pub fn show(entry: &Entry) -> String {
    let ms = |t: u64| if t == u64::MAX { "-".to_owned() } else { (t / 1_000).to_string() };
    let (from, to) = (ms(entry.from), ms(entry.to));
    format!("c{} {from}..{to} us {:?} = {:?}", entry.client, entry.kind, entry.res)
}
