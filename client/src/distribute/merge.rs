//! Answers of several sets as one.

use proto::fop::{DirEntry, Entries, StatfsAnswer};

/// The next page of a directory: names in (hash, name) order, at most `limit`. A set's page
/// that is not its last hides what would follow, so nothing beyond its end is shown.
pub(crate) fn merge_entries(pages: Vec<Entries>, limit: usize) -> Entries {
    let key = |e: &DirEntry| (e.hash, e.name.clone());
    let cut = pages.iter().filter(|p| !p.end).filter_map(|p| p.entries.last().map(key)).min();
    let all_ended = pages.iter().all(|p| p.end);
    let mut entries: Vec<DirEntry> = pages.into_iter().flat_map(|p| p.entries).collect();
    entries.sort_by(|a, b| (a.hash, &a.name).cmp(&(b.hash, &b.name)));
    if let Some(cut) = cut {
        entries.retain(|e| (e.hash, &e.name) <= (cut.0, &cut.1));
    }
    let end = all_ended && entries.len() <= limit;
    entries.truncate(limit);
    Entries { entries, end }
}

/// The whole volume's space: each set has its own.
pub(crate) fn sum_statfs(parts: &[StatfsAnswer]) -> StatfsAnswer {
    let sum =
        |field: fn(&StatfsAnswer) -> u64| parts.iter().map(field).fold(0, u64::saturating_add);
    StatfsAnswer {
        total_bytes: sum(|p| p.total_bytes),
        free_bytes: sum(|p| p.free_bytes),
        available_bytes: sum(|p| p.available_bytes),
        total_inodes: sum(|p| p.total_inodes),
        free_inodes: sum(|p| p.free_inodes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(hashes: &[u64], end: bool) -> Entries {
        let entry = |h: &u64| DirEntry { hash: *h, name: vec![b'a'].into(), ..DirEntry::default() };
        Entries { entries: hashes.iter().map(entry).collect(), end }
    }

    fn hashes(entries: &Entries) -> Vec<u64> {
        entries.entries.iter().map(|e| e.hash).collect()
    }

    #[test]
    fn pages_merge_in_hash_order_and_hide_what_may_follow_them() {
        let merged = merge_entries(vec![page(&[1, 5], false), page(&[2, 7, 9], true)], 10);
        assert_eq!((hashes(&merged), merged.end), (vec![1, 2, 5], false));
    }

    #[test]
    fn the_end_is_told_only_when_everything_was_shown() {
        let merged = merge_entries(vec![page(&[1, 3], true), page(&[2], true)], 2);
        assert_eq!((hashes(&merged), merged.end), (vec![1, 2], false));
        let merged = merge_entries(vec![page(&[3], true), page(&[], true)], 2);
        assert_eq!((hashes(&merged), merged.end), (vec![3], true));
    }

    #[test]
    fn a_volume_has_the_space_of_all_its_sets() {
        let part = StatfsAnswer { total_bytes: 5, free_bytes: 3, ..StatfsAnswer::default() };
        let sum = sum_statfs(&[part, part]);
        assert_eq!((sum.total_bytes, sum.free_bytes), (10, 6));
    }
}
