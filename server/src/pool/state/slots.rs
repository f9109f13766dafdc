//! The slot table of a new volume: equal shares, weighted.

use proto::SetId;
use proto::map::SLOTS;

/// Gives every set its share of the 8192 slots in proportion to its weight, in runs, so that
/// tables compress; shares are within one slot of exact.
///
/// Weights must not all be 0; a set of weight 0 gets nothing.
pub fn shares(weights: &[u64]) -> Vec<SetId> {
    let total: u128 = weights.iter().map(|w| u128::from(*w)).sum();
    let mut table = Vec::with_capacity(usize::from(SLOTS));
    let mut sum: u128 = 0;
    for (set, weight) in weights.iter().enumerate() {
        sum += u128::from(*weight);
        let end = (sum * u128::from(SLOTS)).checked_div(total).unwrap_or(0);
        let set = SetId(u32::try_from(set).unwrap_or(u32::MAX));
        while (table.len() as u128) < end {
            table.push(set);
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(weights: &[u64]) -> Vec<usize> {
        let table = shares(weights);
        assert_eq!(table.len(), usize::from(SLOTS));
        (0..weights.len()).map(|s| table.iter().filter(|t| t.0 as usize == s).count()).collect()
    }

    #[test]
    fn equal_weights_differ_by_at_most_one_slot() {
        for n in 1..=100 {
            let counts = counts(&vec![1; n]);
            let (min, max) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
            assert!(max - min <= 1, "{n} sets: {min}..{max}");
        }
    }

    #[test]
    fn shares_follow_weights() {
        assert_eq!(counts(&[1, 3]), [2048, 6144]);
        assert_eq!(counts(&[0, 1]), [0, 8192]);
    }
}
