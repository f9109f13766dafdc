//! What a heal tells: counts, bytes, rate, time left, the oldest pending item. O(1) to ask.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use proto::Gfid;
use proto::fop::BLOCK_BYTES;

use super::inode::Data;
use super::round::Item;

/// Seconds over which the rate is taken: long enough to be steady, short enough to show a stall.
const RATE_WINDOW: Duration = Duration::from_secs(5);
/// One inode costs about as much as this many bytes, as in the rules' own estimate.
const INODE_BYTES: u64 = 16 << 10;

/// A snapshot for `volume heal info`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    /// Inodes listed and not yet equal.
    pub pending: u64,
    /// Most bytes that they may have to be compared or copied, as far as is known.
    pub pending_bytes: u64,
    pub healed: u64,
    /// Copied so far.
    pub bytes: u64,
    /// Bytes per second over the last seconds.
    pub rate: f64,
    /// Seconds left at the present pace; `None` while nothing is known.
    pub eta_s: Option<u64>,
    /// The item at work for the longest time, with why it is pending.
    pub oldest: Option<String>,
    pub phase: &'static str,
    pub round: u32,
}

#[derive(Debug, Default)]
pub struct Progress(Mutex<State>);

#[derive(Debug)]
struct State {
    shown: Snapshot,
    /// Of everything, when a comparison of everything began: what the source holds more.
    expected_bytes: u64,
    everything: bool,
    /// Start of the rate window and what had been done by then.
    mark: (Instant, u64, u64),
    /// Weight of what is done, per second.
    pace: f64,
    weight_done: u64,
    /// By order of their start, so that the oldest is the first.
    at_work: BTreeMap<(Instant, Gfid), &'static str>,
    started: std::collections::HashMap<Gfid, Instant>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            shown: Snapshot::default(),
            expected_bytes: 0,
            everything: false,
            mark: (Instant::now(), 0, 0),
            pace: 0.0,
            weight_done: 0,
            at_work: BTreeMap::new(),
            started: std::collections::HashMap::new(),
        }
    }
}

fn bytes_of(item: &Item) -> u64 {
    match &item.data {
        Data::Extents(extents) => extents.len() as u64 * BLOCK_BYTES,
        // Unknown before its turn.
        Data::None | Data::All | Data::New => 0,
    }
}

fn reason(item: &Item) -> &'static str {
    match (item.deep, item.names, &item.data) {
        (true, _, _) => "everything is compared",
        (_, true, _) => "names changed while the brick was away",
        (_, _, Data::None) => "attributes changed while the brick was away",
        _ => "data changed while the brick was away",
    }
}

impl Progress {
    fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    pub fn phase(&self, phase: &'static str, round: u32) {
        self.with(|s| (s.shown.phase, s.shown.round) = (phase, round));
    }

    /// How many bytes a comparison of everything has to copy, by the space that both sides use.
    pub fn expect_bytes(&self, bytes: u64) {
        self.with(|s| s.expected_bytes = bytes);
    }

    /// A new list: these are pending now, and nothing else.
    pub fn listed(&self, items: &[Item], everything: bool) {
        self.with(|s| {
            s.everything = everything;
            s.shown.pending = items.len() as u64;
            s.shown.pending_bytes = items.iter().map(bytes_of).sum();
        });
    }

    /// More are pending: a comparison went one level down.
    pub fn found(&self, items: &[Item]) {
        self.with(|s| s.shown.pending += items.len() as u64);
    }

    /// Names that a directory lacks, each with an inode to be copied.
    pub fn more(&self, names: usize) {
        self.with(|s| s.shown.pending += names as u64);
    }

    /// One of them is there.
    pub fn one_less(&self) {
        self.with(|s| {
            s.shown.pending = s.shown.pending.saturating_sub(1);
            s.shown.healed += 1;
            s.weight_done += INODE_BYTES;
            s.update_rate();
        });
    }

    pub fn started(&self, item: &Item) {
        self.with(|s| {
            let now = Instant::now();
            s.at_work.insert((now, item.gfid), reason(item));
            s.started.insert(item.gfid, now);
        });
    }

    pub fn finished(&self, item: &Item) {
        self.with(|s| {
            if let Some(began) = s.started.remove(&item.gfid) {
                s.at_work.remove(&(began, item.gfid));
            }
            s.shown.pending = s.shown.pending.saturating_sub(1);
            s.shown.pending_bytes = s.shown.pending_bytes.saturating_sub(bytes_of(item));
            s.shown.healed += 1;
            s.weight_done += INODE_BYTES + bytes_of(item);
            s.update_rate();
        });
    }

    pub fn copied(&self, bytes: u64) {
        self.with(|s| {
            s.shown.bytes += bytes;
            s.update_rate();
        });
    }

    pub fn snapshot(&self) -> Snapshot {
        self.with(|s| {
            let mut shown = s.shown.clone();
            shown.oldest = s.at_work.first_key_value().map(|((since, gfid), reason)| {
                format!("{gfid}: {reason}; at work for {} s", since.elapsed().as_secs())
            });
            if s.everything {
                shown.pending_bytes = s.expected_bytes.saturating_sub(shown.bytes);
            }
            shown.eta_s = s.eta_s(&shown);
            shown
        })
    }
}

impl State {
    fn eta_s(&self, shown: &Snapshot) -> Option<u64> {
        if shown.pending == 0 {
            return None;
        }
        // Of everything the bytes are known better than the inodes.
        let by_bytes = self.everything && shown.pending_bytes > 0;
        let (left, pace) = match by_bytes {
            true => (shown.pending_bytes as f64, shown.rate),
            false => ((shown.pending * INODE_BYTES + shown.pending_bytes) as f64, self.pace),
        };
        (pace > 0.0).then(|| (left / pace).ceil() as u64)
    }

    fn update_rate(&mut self) {
        let (start, bytes, weight) = self.mark;
        let elapsed = start.elapsed();
        let seconds = elapsed.as_secs_f64().max(0.001);
        self.shown.rate = (self.shown.bytes - bytes) as f64 / seconds;
        self.pace = (self.weight_done - weight) as f64 / seconds;
        if elapsed > RATE_WINDOW {
            self.mark = (Instant::now(), self.shown.bytes, self.weight_done);
        }
    }
}

#[cfg(test)]
mod tests {
    use proto::SlotId;

    use super::*;

    fn item(id: u8, data: Data) -> Item {
        Item { gfid: Gfid::new(SlotId(0), [id; 14]), names: false, data, deep: false }
    }

    #[test]
    fn pending_goes_down_and_the_oldest_item_is_named_with_its_reason() {
        let progress = Progress::default();
        let (first, second) = (item(1, Data::Extents(vec![0, 7])), item(2, Data::None));
        progress.listed(&[first.clone(), second.clone()], false);
        progress.started(&first);
        progress.started(&second);
        progress.copied(1000);
        let shown = progress.snapshot();
        assert_eq!((shown.pending, shown.pending_bytes, shown.bytes), (2, 2 * BLOCK_BYTES, 1000));
        let oldest = shown.oldest.expect("two are at work");
        assert!(oldest.starts_with(&first.gfid.to_string()) && oldest.contains("data changed"));
        progress.finished(&first);
        let shown = progress.snapshot();
        assert_eq!((shown.pending, shown.pending_bytes, shown.healed), (1, 0, 1));
        assert!(shown.eta_s.is_some());
        assert!(shown.oldest.is_some_and(|o| o.contains("attributes changed")));
        progress.finished(&second);
        assert_eq!(progress.snapshot().eta_s, None, "nothing is left");
    }

    #[test]
    fn a_full_heal_counts_the_bytes_that_the_source_holds_more() {
        let progress = Progress::default();
        progress.expect_bytes(10_000);
        progress.listed(&[Item::whole(Gfid::ROOT)], true);
        progress.copied(4_000);
        let shown = progress.snapshot();
        assert_eq!((shown.pending_bytes, shown.bytes), (6_000, 4_000));
        assert!(shown.eta_s.is_some());
    }
}
