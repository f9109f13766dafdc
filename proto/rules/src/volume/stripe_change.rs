//! What concerns all sets of a striped file's group: truncation, and the end of its lease.
//!
//! Promises: whoever looks after a crash at any point of a truncation finds the old size with
//! all old bytes, or the new one (trap 42); after a lease has ended otherwise than by return,
//! no set of the group executes its holder's frames any more before the next one is granted
//! (trap 41).

use std::collections::BTreeSet;

use proto::{LeaseNumber, SlotId};

use super::stripe::{DataEnd, Geometry, Recounted, StripedSize, recount};
use crate::plant::{Plant, planted};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TruncateCommand {
    /// The inode's meta; then `on_meta`.
    Write(StripedSize),
    /// The data file at the position bears the generation, and is no longer than that; then
    /// `on_cut`.
    Cut {
        position: u16,
        generation: u64,
        dense: u64,
    },
    Done(StripedSize),
}

/// One truncation, up or down, by the holder of the exclusive lease.
#[derive(Clone, Debug)]
pub struct Truncate {
    geometry: Geometry,
    to: StripedSize,
    open: BTreeSet<u16>,
    written: bool,
}

impl Truncate {
    pub fn start(geometry: Geometry, from: StripedSize, size: u64) -> (Self, Vec<TruncateCommand>) {
        let to = StripedSize { generation: from.generation + 1, size };
        let open = (0..geometry.width).collect();
        let truncate = Self { geometry, to, open, written: false };
        let mut commands = vec![TruncateCommand::Write(to)];
        if planted(Plant::CutFirst) {
            commands.splice(0..0, truncate.cuts());
        }
        (truncate, commands)
    }

    fn cuts(&self) -> Vec<TruncateCommand> {
        let cut = |position: &u16| TruncateCommand::Cut {
            position: *position,
            generation: self.to.generation,
            dense: self.geometry.dense_max(*position, self.to.size),
        };
        self.open.iter().map(cut).collect()
    }

    pub fn on_meta(&mut self) -> Vec<TruncateCommand> {
        if std::mem::replace(&mut self.written, true) {
            return Vec::new();
        }
        if self.open.is_empty() {
            return vec![TruncateCommand::Done(self.to)];
        }
        self.cuts()
    }

    pub fn on_cut(&mut self, position: u16) -> Vec<TruncateCommand> {
        let last = self.open.remove(&position) && self.open.is_empty();
        if last && self.written { vec![TruncateCommand::Done(self.to)] } else { Vec::new() }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GroupCommand {
    /// The lead of that slot's set (one of the group) raises the inode's number on all its
    /// members, settles what the holder left there, and tells the data file's end: `on_settled`.
    Settle { slot: SlotId, number: LeaseNumber },
    /// The meta gets the size; then `on_written`.
    Write(StripedSize),
    /// A data file is cut; then `on_cut`.
    Cut { position: u16, generation: u64, dense: u64 },
    /// The next lease may be granted, with this size.
    Done(StripedSize),
}

/// The end of a striped inode's exclusive lease otherwise than by return, at the inode's lead.
#[derive(Clone, Debug)]
pub struct GroupEnd {
    geometry: Geometry,
    meta: StripedSize,
    /// Settled by position; the group's slots are told apart by their position.
    awaited: BTreeSet<u16>,
    ends: Vec<DataEnd>,
    cutting: BTreeSet<u16>,
    result: Option<Recounted>,
}

impl GroupEnd {
    /// `slots[p]` is any slot of the set at position `p`; `meta` as this lead settled it.
    pub fn start(
        geometry: Geometry,
        meta: StripedSize,
        slots: &[SlotId],
        number: LeaseNumber,
    ) -> (Self, Vec<GroupCommand>) {
        let all = |position: &u16| !planted(Plant::NoGroupRevoke) || *position == geometry.first;
        let awaited: BTreeSet<u16> = (0..geometry.width).filter(all).collect();
        let settle = |position: &u16| {
            let slot = *slots.get(usize::from(*position))?;
            Some(GroupCommand::Settle { slot, number })
        };
        let commands = awaited.iter().filter_map(settle).collect();
        let (ends, cutting) = (Vec::new(), BTreeSet::new());
        (Self { geometry, meta, awaited, ends, cutting, result: None }, commands)
    }

    /// A set of the group refuses the old number from now on, and is settled.
    pub fn on_settled(&mut self, end: DataEnd) -> Vec<GroupCommand> {
        if !self.awaited.remove(&end.position) {
            return Vec::new();
        }
        self.ends.push(end);
        if !self.awaited.is_empty() {
            return Vec::new();
        }
        let result = recount(&self.geometry, self.meta, &self.ends);
        self.meta.size = result.size;
        self.result = Some(result);
        vec![GroupCommand::Write(self.meta)]
    }

    pub fn on_written(&mut self) -> Vec<GroupCommand> {
        let Some(result) = self.result.take() else { return Vec::new() };
        if result.cut.is_empty() {
            return vec![GroupCommand::Done(self.meta)];
        }
        self.cutting = result.cut.iter().map(|(position, _)| *position).collect();
        let generation = self.meta.generation;
        let cut = |(position, dense)| GroupCommand::Cut { position, generation, dense };
        result.cut.into_iter().map(cut).collect()
    }

    pub fn on_cut(&mut self, position: u16) -> Vec<GroupCommand> {
        let last = self.cutting.remove(&position) && self.cutting.is_empty();
        if last { vec![GroupCommand::Done(self.meta)] } else { Vec::new() }
    }

    /// Whether frames and grants of the inode wait.
    pub fn is_open(&self) -> bool {
        !self.awaited.is_empty() || self.result.is_some() || !self.cutting.is_empty()
    }
}
