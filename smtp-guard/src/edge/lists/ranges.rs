//! Sets of addresses as sorted ranges.

/// Ranges from the first to the last address, both included.
#[derive(Debug, Default)]
pub(super) struct Ranges(Vec<(u128, u128)>);

impl Ranges {
    /// Adds a range. To be followed by [`Self::merge`].
    pub(super) fn add(&mut self, first: u128, last: u128) {
        self.0.push((first, last));
    }

    /// Sorts the ranges, and joins those that overlap or touch.
    pub(super) fn merge(&mut self) {
        self.0.sort_unstable();
        self.0.dedup_by(|next, kept| {
            let joins = next.0 <= kept.1.saturating_add(1);
            if joins {
                kept.1 = kept.1.max(next.1);
            }
            joins
        });
    }

    /// Removes the addresses from `first` to `last`. `true` where there were any. The ranges must be merged.
    pub(super) fn cut(&mut self, first: u128, last: u128) -> bool {
        let begin = self.0.partition_point(|range| range.1 < first);
        let end = self.0.partition_point(|range| range.0 <= last);
        if begin >= end {
            return false;
        }
        let (left, right) = (self.0[begin].0, self.0[end - 1].1);
        let before = (left < first).then(|| (left, first - 1));
        let behind = (right > last).then(|| (last + 1, right));
        self.0.splice(begin..end, before.into_iter().chain(behind));
        true
    }

    /// The ranges, in their order.
    pub(super) fn as_slice(&self) -> &[(u128, u128)] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 5000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn as_sets_of_addresses(
            add in prop::collection::vec((0u128..60, 0u128..9), 0..9), cut in prop::collection::vec((0u128..60, 0u128..20), 0..4),
            top in any::<bool>(),
        ) {
            // At the upper end of all addresses as well.
            let base = if top { u128::MAX - 78 } else { 0 };
            let (mut ranges, mut set) = (Ranges::default(), BTreeSet::new());
            for (first, more) in add {
                ranges.add(base + first, base + first + more);
                set.extend(first..=first + more);
            }
            ranges.merge();
            for (first, more) in cut {
                let before = set.len();
                set.retain(|n| !(first..=first + more).contains(n));
                prop_assert_eq!(ranges.cut(base + first, base + first + more), set.len() < before);
            }
            let found: BTreeSet<u128> = ranges.as_slice().iter().flat_map(|(a, b)| a - base..=b - base).collect();
            prop_assert_eq!(found, set);
            prop_assert!(ranges.as_slice().windows(2).all(|pair| pair[0].1 + 1 < pair[1].0), "apart");
        }
    }

    #[test]
    fn the_whole_of_all_addresses() {
        let mut ranges = Ranges::default();
        ranges.add(0, u128::MAX);
        ranges.add(7, 9);
        ranges.merge();
        assert_eq!(ranges.as_slice(), [(0, u128::MAX)]);
        assert!(ranges.cut(u128::MAX, u128::MAX) && ranges.cut(0, 4));
        assert_eq!(ranges.as_slice(), [(5, u128::MAX - 1)]);
    }
}
