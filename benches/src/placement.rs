//! What growth costs and how even a volume is, by the placement code itself, without machines.
//!
//! A made-up tree (directories, file names, sizes from a long-tailed distribution) is placed as
//! a volume places it; then one set is added. Sizes and names come from a seed.

use std::time::Instant;

use proto::map::{MemberMap, MemberState, SetMap, VolumeMap};
use proto::options::VolumeOptions;
use proto::placement::table::{self, SlotMove, Weight};
use proto::placement::{slot_of_bucket, slot_of_name};
use proto::{BrickId, Epoch, Gfid, Incarnation, PeerId, SetId, SlotId, VolumeId};
use serde::Serialize;

use crate::rng::Rng;

const BUCKETS: u16 = 64;
const FILES_PER_DIR: u64 = 100;

/// One row: `sets` and then one more.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    pub sets: u32,
    /// Slots and bytes moved by the addition, in parts of all, with bytes per slot known.
    pub slots_moved: f64,
    pub bytes_moved: f64,
    /// What 1/(n+1) is.
    pub optimum: f64,
    /// Most loaded set against the mean, after it.
    pub slots_max_mean: f64,
    pub bytes_max_mean: f64,
    /// The same when nothing is known of the slots' bytes.
    pub blind_bytes_max_mean: f64,
    /// Planning the growth, in milliseconds.
    pub plan_ms: f64,
    /// Name to set, in nanoseconds.
    pub lookup_ns: f64,
    /// The slot table in memory, and the whole map (three members a set) as it is sent.
    pub table_bytes: usize,
    pub map_bytes: usize,
}

/// A tree: its files' slots and sizes, and names to look up.
pub struct Tree {
    bytes: Vec<u64>,
    names: Vec<(Gfid, String)>,
}

impl Tree {
    pub fn new(files: u64, seed: u64) -> Tree {
        let mut rng = Rng::new(seed);
        let mut bytes = vec![0_u64; usize::from(proto::map::SLOTS)];
        let mut names = Vec::new();
        let mut dir = Gfid::ROOT;
        for file in 0..files {
            if file % FILES_PER_DIR == 0 {
                let mut random = [0; 14];
                rng.fill(&mut random);
                dir = Gfid::new(slot_of_bucket(dir, (file % u64::from(BUCKETS)) as u16), random);
            }
            let name = format!("file-{:08x}.dat", rng.next_u64() as u32);
            let slot = slot_of_name(dir, BUCKETS, name.as_bytes());
            if let Some(sum) = bytes.get_mut(usize::from(slot.0)) {
                *sum += size(&mut rng);
            }
            if names.len() < 4096 {
                names.push((dir, name));
            }
        }
        Tree { bytes, names }
    }

    pub fn total_bytes(&self) -> u64 {
        self.bytes.iter().sum()
    }
}

/// Powers of four from 1 KiB to 16 MiB, each four times rarer than the one before: small files
/// are many, and files of each size hold as many bytes.
fn size(rng: &mut Rng) -> u64 {
    let steps = u64::from(rng.next_u64().trailing_zeros() / 2).min(7);
    let base = 1024 << (2 * steps);
    base + rng.below(base)
}

pub fn row(tree: &Tree, sets: u32) -> Result<Row, table::CannotPlan> {
    let slots = table::initial(&equal(sets))?;
    let start = Instant::now();
    let moves = table::grow(&slots, &equal(sets + 1), &tree.bytes)?;
    let plan_ms = start.elapsed().as_secs_f64() * 1e3;
    let blind = table::grow(&slots, &equal(sets + 1), &[])?;
    let grown = table::after(&slots, &moves);
    let all = f64::from(proto::map::SLOTS);
    let count = table::counts(&grown)?;
    let most = count.values().max().copied().unwrap_or(0);
    let moved = |moves: &[SlotMove]| -> u64 { moves.iter().map(|m| bytes_in(tree, m.slot)).sum() };
    Ok(Row {
        sets,
        slots_moved: moves.len() as f64 / all,
        bytes_moved: moved(&moves) as f64 / tree.total_bytes() as f64,
        optimum: 1.0 / f64::from(sets + 1),
        slots_max_mean: f64::from(most) * f64::from(sets + 1) / all,
        bytes_max_mean: max_mean(tree, &grown, sets + 1),
        blind_bytes_max_mean: max_mean(tree, &table::after(&slots, &blind), sets + 1),
        plan_ms,
        lookup_ns: lookup_ns(tree, &grown),
        table_bytes: std::mem::size_of_val(&grown[..]),
        map_bytes: serde_json::to_vec(&map(sets + 1, grown)).map_or(0, |bytes| bytes.len()),
    })
}

fn equal(sets: u32) -> Vec<Weight> {
    (0..sets).map(|set| Weight { set: SetId(set), weight: 1 }).collect()
}

fn bytes_in(tree: &Tree, slot: SlotId) -> u64 {
    tree.bytes.get(usize::from(slot.0)).copied().unwrap_or(0)
}

fn max_mean(tree: &Tree, slots: &[SetId], sets: u32) -> f64 {
    let mut sums = vec![0_u64; sets as usize];
    for (set, bytes) in slots.iter().zip(&tree.bytes) {
        sums[set.0 as usize] += bytes;
    }
    let most = sums.iter().max().copied().unwrap_or(0);
    most as f64 * f64::from(sets) / tree.total_bytes() as f64
}

/// Every known name, several times over.
fn lookup_ns(tree: &Tree, slots: &[SetId]) -> f64 {
    const ROUNDS: usize = 100;
    let mut sum = 0_u64;
    let start = Instant::now();
    for _ in 0..ROUNDS {
        for (dir, name) in &tree.names {
            let slot = slot_of_name(*dir, BUCKETS, name.as_bytes());
            sum = sum.wrapping_add(slots.get(usize::from(slot.0)).map_or(0, |set| set.0.into()));
        }
    }
    let nanos = start.elapsed().as_nanos() as f64;
    std::hint::black_box(sum);
    nanos / (ROUNDS * tree.names.len().max(1)) as f64
}

/// A map as a client gets it: three members a set.
fn map(sets: u32, slots: Vec<SetId>) -> VolumeMap {
    let member = |n: u32| MemberMap {
        brick: BrickId::random(),
        peer: PeerId::random(),
        path: format!("/bricks/b{n}"),
        state: MemberState::InSync,
        incarnation: Incarnation(u64::MAX / 3),
        reason: String::new(),
    };
    let set = |id| {
        let members: Vec<MemberMap> = (0..3).map(member).collect();
        let lead = members.first().map(|m| m.brick);
        SetMap { id: SetId(id), epoch: Epoch(1000), lead, members }
    };
    VolumeMap {
        version: 1000,
        volume: VolumeId::random(),
        name: "volume".into(),
        started: true,
        replica: 3,
        stripe: 1,
        stripe_block: 1 << 20,
        sets: (0..sets).map(set).collect(),
        slots,
        peers: Vec::new(),
        options: VolumeOptions::default(),
    }
}

/// A table for people.
pub fn text(rows: &[Row]) -> String {
    let mut out = format!(
        "{:>6}{:>9}{:>9}{:>9}{:>11}{:>11}{:>11}{:>9}{:>11}{:>9}{:>10}\n",
        "sets",
        "slots",
        "bytes",
        "1/(n+1)",
        "slots m/m",
        "bytes m/m",
        "blind m/m",
        "plan ms",
        "lookup ns",
        "table",
        "map"
    );
    for r in rows {
        out += &format!(
            "{:>6}{:>8.2}%{:>8.2}%{:>8.2}%{:>11.3}{:>11.3}{:>11.3}{:>9.1}{:>11.1}{:>9}{:>10}\n",
            r.sets,
            r.slots_moved * 100.0,
            r.bytes_moved * 100.0,
            r.optimum * 100.0,
            r.slots_max_mean,
            r.bytes_max_mean,
            r.blind_bytes_max_mean,
            r.plan_ms,
            r.lookup_ns,
            r.table_bytes,
            r.map_bytes
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_of_a_made_up_tree_moves_the_optimum_and_leaves_it_even() {
        let tree = Tree::new(100_000, 1);
        for sets in [3, 4, 8] {
            let row = row(&tree, sets).unwrap();
            assert!(row.slots_moved <= row.optimum, "{row:?}");
            assert!(row.bytes_moved <= 1.1 * row.optimum, "{row:?}");
            assert!(row.slots_max_mean < 1.02, "{row:?}");
            assert!(row.bytes_max_mean <= row.blind_bytes_max_mean * 1.01, "{row:?}");
        }
    }
}
