use proptest::prelude::*;

use super::super::stripe_change::{GroupCommand, GroupEnd, Truncate, TruncateCommand};
use super::*;
use crate::plant::{Plant, without};
use proto::{LeaseNumber, SlotId};

fn geometry() -> Geometry {
    Geometry { first: 1, width: 3, block: 4 }
}

#[test]
fn blocks_go_round_from_the_inodes_own_set() {
    let piece = |position, offset, dense, len| Piece { position, offset, dense, len };
    let expected = [piece(1, 2, 2, 2), piece(2, 4, 0, 4), piece(0, 8, 0, 4), piece(1, 12, 4, 1)];
    assert_eq!(geometry().pieces(2, 11), expected);
    assert!(geometry().pieces(5, 0).is_empty());
    assert_eq!(geometry().end_of(1, 5), 13);
    assert_eq!(geometry().end_of(0, 0), 0);
    assert_eq!([0, 1, 2].map(|p| geometry().dense_max(p, 13)), [4, 5, 4]);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Every byte has one place, places are dense, and lengths say the size.
    #[test]
    fn places_are_dense_and_sizes_come_back(
        first in 0u16..16, width in 1u16..17, block in 1u32..9, size in 0u64..500,
    ) {
        let geometry = Geometry { first: first % width, width, block };
        let pieces = geometry.pieces(0, size);
        prop_assert_eq!(pieces.iter().map(|p| p.len).sum::<u64>(), size);
        let mut used = vec![0; usize::from(width)];
        for piece in &pieces {
            // Written in file order, each data file grows without a gap.
            prop_assert_eq!(used[usize::from(piece.position)], piece.dense);
            used[usize::from(piece.position)] += piece.len;
            let end = geometry.end_of(piece.position, piece.dense + piece.len);
            prop_assert_eq!(end, piece.offset + piece.len);
        }
        for (position, dense) in (0..).zip(&used) {
            prop_assert_eq!(geometry.dense_max(position, size), *dense);
        }
        let ends = used.iter().enumerate().map(|(p, dense)| geometry.end_of(p as u16, *dense));
        prop_assert_eq!(ends.max(), Some(size));
    }
}

/// A striped file: a set for each position, and the meta.
#[derive(Clone, Debug)]
struct File {
    meta: StripedSize,
    data: Vec<(u64, Vec<u8>)>,
}

impl File {
    /// `size` bytes of ones.
    fn of(size: u64) -> Self {
        let file = |position| (1, vec![1; geometry().dense_max(position, size) as usize]);
        Self { meta: StripedSize { generation: 1, size }, data: (0..3).map(file).collect() }
    }

    fn ends(&self) -> Vec<DataEnd> {
        let end = |(position, (generation, bytes)): (u16, &(u64, Vec<u8>))| DataEnd {
            position,
            generation: *generation,
            dense: bytes.len() as u64,
        };
        (0..).zip(&self.data).map(end).collect()
    }

    fn cut(&mut self, position: u16, generation: u64, dense: u64) {
        let (own, bytes) = &mut self.data[usize::from(position)];
        *own = generation;
        bytes.truncate(dense as usize);
    }

    /// The holder's write beyond the end: data files first, the size at a flush that never comes.
    fn append(&mut self, offset: u64, len: u64) {
        for piece in geometry().pieces(offset, len) {
            let (generation, bytes) = &mut self.data[usize::from(piece.position)];
            *generation = self.meta.generation;
            bytes.resize(bytes.len().max((piece.dense + piece.len) as usize), 2);
        }
    }

    fn recount(&mut self) {
        let recounted = recount(&geometry(), self.meta, &self.ends());
        self.meta.size = recounted.size;
        for (position, dense) in recounted.cut {
            self.cut(position, self.meta.generation, dense);
        }
    }

    fn read(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for piece in geometry().pieces(0, self.meta.size) {
            let (_, data) = &self.data[usize::from(piece.position)];
            let at = |n| data.get((piece.dense + n) as usize).copied().unwrap_or(0);
            bytes.extend((0..piece.len).map(at));
        }
        bytes
    }
}

/// Truncations up and down, cut off after each step; then the next holder's view.
fn truncations() -> Result<(), String> {
    for (from, to) in [(40, 13), (13, 40), (40, 0), (12, 12), (5, 4)] {
        for steps in 0..=5 {
            let mut file = File::of(from);
            let (mut truncate, mut todo) = Truncate::start(geometry(), file.meta, to);
            for _ in 0..steps {
                if todo.is_empty() {
                    break;
                }
                let more = match todo.remove(0) {
                    TruncateCommand::Write(meta) => {
                        file.meta = meta;
                        truncate.on_meta()
                    }
                    TruncateCommand::Cut { position, generation, dense } => {
                        file.cut(position, generation, dense);
                        truncate.on_cut(position)
                    }
                    TruncateCommand::Done(_) => Vec::new(),
                };
                todo.extend(more);
            }
            file.recount();
            let mut cut = vec![1; from.min(to) as usize];
            cut.resize(to as usize, 0);
            let (old, now) = (vec![1; from as usize], file.read());
            if now != cut && !(now == old && steps == 0) {
                return Err(format!("{from} to {to}, {steps} steps: {now:?}"));
            }
        }
    }
    Ok(())
}

/// Trap 42: it reaches set 1, the client dies, the recount finds set 2's old length.
#[test]
fn trap_42_a_truncation_that_is_cut_off_has_happened_or_not() {
    truncations().unwrap();
    without(Plant::CutFirst, truncations).expect_err("old size with zeroes");
    without(Plant::NoGenerations, truncations).expect_err("old ends count");
}

#[test]
fn a_recount_finds_what_was_appended_after_a_truncation() {
    let mut file = File::of(40);
    file.meta = StripedSize { generation: 2, size: 9 };
    // One set has cut, one has not, one has died before: the recount cuts them all.
    file.cut(1, 2, geometry().dense_max(1, 9));
    file.recount();
    assert_eq!((file.meta.size, file.read()), (9, vec![1; 9]));
    file.data.iter_mut().for_each(|(generation, _)| *generation = 2);
    // Ten bytes are appended; their holder dies before it writes the size.
    file.append(9, 10);
    file.recount();
    assert_eq!((file.meta.size, file.read()), (19, [vec![1; 9], vec![2; 10]].concat()));
}

/// Trap 41: W's frame to another set of the group is on its way when the inode's lead ends its
/// lease; the next holder writes there.
fn late_frame() -> Result<(), String> {
    let slots = [SlotId(0), SlotId(1), SlotId(2)];
    let number = LeaseNumber { base: 1, counter: 2 };
    let mut raised = [LeaseNumber::NONE; 3];
    let meta = StripedSize { generation: 1, size: 12 };
    let (mut end, mut todo) = GroupEnd::start(geometry(), meta, &slots, number);
    let mut granted = false;
    while !todo.is_empty() {
        let more = match todo.remove(0) {
            GroupCommand::Settle { slot, number } => {
                raised[usize::from(slot.0)] = number;
                end.on_settled(DataEnd { position: slot.0, generation: 1, dense: 4 })
            }
            GroupCommand::Write(_) => end.on_written(),
            GroupCommand::Cut { position, .. } => end.on_cut(position),
            GroupCommand::Done(size) => {
                granted = size == meta;
                Vec::new()
            }
        };
        todo.extend(more);
        if granted && end.is_open() {
            return Err("granted while it is open".into());
        }
    }
    // The next holder's byte is at position 2, then W's old frame arrives there.
    let old = LeaseNumber { base: 1, counter: 1 };
    assert!(granted);
    (old < raised[2]).then_some(()).ok_or_else(|| "the old frame is executed".into())
}

#[test]
fn trap_41_a_revoke_reaches_every_set_of_the_group() {
    late_frame().unwrap();
    without(Plant::NoGroupRevoke, late_frame).expect_err("only the inode's own set");
}
