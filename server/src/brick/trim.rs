//! How far this brick's change log may be trimmed.
//!
//! A member that comes back asks for what changed since it was in-sync, as far as it has that on
//! disk; so the log keeps everything from the oldest such interval of *all* members on, those
//! that are away too. The bound of the log's size is the store's: beyond it the log says that it
//! is not complete, and the answer is "compare everything".

use proto::BrickId;
use proto::map::SetMap;
use proto_rules::heal::log::{Interval, LogBook};
use server_store::Store;

use crate::heal::job::INTERVALS_BACK;

const BOOK_KEY: &str = "log-book";
/// A trim costs a look at the whole log: not for less than this many intervals, a minute.
const STEP: u64 = 6;

/// The members' words, and what was made of them.
#[derive(Debug)]
pub struct Trim {
    pub book: LogBook,
    below: u64,
}

impl Trim {
    /// As it was left; a lost book only keeps more until all members were heard again.
    pub fn load(store: &Store) -> Trim {
        let bytes = store.meta_get(BOOK_KEY).ok().flatten();
        let book = bytes.and_then(|b| serde_json::from_slice(&b).ok());
        Trim { book: book.unwrap_or_else(LogBook::of_new_set), below: 0 }
    }

    /// What in-sync members have on disk of their time in-sync; 0 is no word. Returns below
    /// which interval entries may go now.
    pub fn heard(
        &mut self,
        map: &SetMap,
        words: impl IntoIterator<Item = (BrickId, u64)>,
        complete_since: u64,
    ) -> Option<u64> {
        for (brick, durable) in words {
            let in_sync = map.in_sync().any(|m| m.brick == brick);
            // It will ask from so many intervals earlier; the book keeps one of them by itself.
            let asks = durable.saturating_sub(INTERVALS_BACK - 1);
            if in_sync && asks > 0 {
                self.book.on_durable(brick, Interval(asks));
            }
        }
        // Not known yet: nothing is kept for anybody.
        let oldest = if complete_since == u64::MAX { 0 } else { complete_since };
        let Interval(below) = self.book.trim(map, Interval(oldest));
        if below < self.below + STEP || below <= oldest {
            return None;
        }
        self.below = below;
        Some(below)
    }

    /// Not synced: an older book keeps more.
    ///
    /// # Errors
    /// The database cannot be written.
    pub fn save(&self, store: &mut Store) -> Result<(), proto::Errno> {
        let bytes = serde_json::to_vec(&self.book).map_err(|_| proto::Errno::EINVAL)?;
        store.meta_put(BOOK_KEY, &bytes, false)
    }
}

#[cfg(test)]
mod tests {
    use proto::map::{MemberMap, MemberState};
    use proto::{Epoch, Incarnation, PeerId, SetId};

    use super::*;

    fn brick(n: u128) -> BrickId {
        BrickId(uuid::Uuid::from_u128(n))
    }

    fn map(away: u128) -> SetMap {
        let member = |n: u128| MemberMap {
            brick: brick(n),
            peer: PeerId(uuid::Uuid::from_u128(n)),
            path: "/b".into(),
            state: if n == away { MemberState::Out } else { MemberState::InSync },
            incarnation: Incarnation(1),
            reason: String::new(),
        };
        let members = vec![member(1), member(2), member(3)];
        SetMap { id: SetId(0), epoch: Epoch(5), lead: Some(brick(1)), members }
    }

    fn trim() -> Trim {
        Trim { book: LogBook::of_new_set(), below: 0 }
    }

    fn words(a: u64, b: u64, c: u64) -> [(BrickId, u64); 3] {
        [(brick(1), a), (brick(2), b), (brick(3), c)]
    }

    #[test]
    fn what_all_members_have_on_disk_goes() {
        let below = trim().heard(&map(0), words(100, 101, 102), 0).expect("much may go");
        assert_eq!(below, 100 - INTERVALS_BACK, "a member asks from so much earlier");
    }

    /// Trap 8.
    #[test]
    fn what_the_member_that_is_away_lacks_stays() {
        let mut trim = trim();
        trim.heard(&map(0), words(50, 50, 50), 0);
        let kept = trim.below;
        assert_eq!(trim.heard(&map(3), words(900, 900, 900), kept), None, "3 is not in-sync");
        let after = trim.heard(&map(0), words(900, 900, 900), kept);
        assert_eq!(after, Some(900 - INTERVALS_BACK), "once it is back");
    }

    #[test]
    fn a_member_that_was_never_heard_keeps_everything() {
        assert_eq!(trim().heard(&map(0), words(100, 100, 0), 0), None);
        assert_eq!(trim().heard(&map(3), words(100, 100, 70), 0), None, "not heard in-sync");
    }

    #[test]
    fn a_little_is_not_worth_a_look_at_the_whole_log() {
        let mut trim = trim();
        trim.heard(&map(0), words(100, 100, 100), 0);
        assert_eq!(trim.heard(&map(0), words(103, 103, 103), 92), None);
        assert!(trim.heard(&map(0), words(120, 120, 120), 92).is_some());
    }

    #[test]
    fn a_log_that_was_cut_for_its_size_is_not_cut_again() {
        assert_eq!(trim().heard(&map(0), words(100, 100, 100), 500), None);
        assert!(trim().heard(&map(0), words(100, 100, 100), u64::MAX).is_some());
    }
}
