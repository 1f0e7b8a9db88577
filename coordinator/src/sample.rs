//! A fair sample of pairs that is the same on every machine.

use ip2p_pipeline::ids::PairId;
use std::collections::BTreeMap;

/// The entries with the smallest ids. Ids are hashes, so this is a uniform sample that does not depend on the order.
pub(crate) struct Sample<T> {
    most: usize,
    entries: BTreeMap<PairId, T>,
}

impl<T> Sample<T> {
    pub fn of(most: usize) -> Self {
        Sample { most, entries: BTreeMap::new() }
    }

    pub fn offer(&mut self, id: PairId, entry: impl FnOnce() -> T) {
        let full = self.entries.len() >= self.most;
        if full && self.entries.last_key_value().is_none_or(|(last, _)| *last < id) {
            return;
        }
        self.entries.insert(id, entry());
        if self.entries.len() > self.most {
            self.entries.pop_last();
        }
    }

    /// The entries, by id.
    pub fn into_entries(self) -> impl Iterator<Item = T> {
        self.entries.into_values()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ip2p_pipeline::ids::TripletId;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_sample_does_not_depend_on_the_order(mut numbers in prop::collection::vec(0u32..500, 0..60), most in 1usize..20) {
            let id = |n: u32| PairId::of(TripletId::of("", "", ""), n);
            let sample = |numbers: &[u32]| {
                let mut sample = Sample::of(most);
                numbers.iter().for_each(|&n| sample.offer(id(n), || n));
                sample.entries
            };
            let first = sample(&numbers);
            numbers.reverse();
            prop_assert_eq!(&first, &sample(&numbers));
            numbers.sort();
            numbers.dedup();
            prop_assert_eq!(first.len(), numbers.len().min(most));
        }
    }
}
