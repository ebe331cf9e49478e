//! The filter in front: says at once of nearly every address that it is in no list.
//!
//! A Bloom filter of keys. It never says "no" wrongly; once in a thousand looks it says "perhaps"
//! of an address that is not there, and the index is asked. What is removed stays in it until it is made anew.

use arc_swap::ArcSwap;
use fastbloom::AtomicBloomFilter;

use crate::secret::Key;

/// Share of strangers that get past.
const FALSE_POSITIVES: f64 = 0.001;
/// Smallest number of keys it is made for.
const SMALLEST: usize = 1 << 16;

pub(crate) struct Filter(ArcSwap<AtomicBloomFilter>);

impl Filter {
    pub(crate) fn new(keys: usize) -> Self {
        Self(ArcSwap::from_pointee(bloom(keys)))
    }

    /// False: it is not there. True: ask.
    pub(crate) fn may_contain(&self, key: Key) -> bool {
        self.0.load().contains_hash(key.number())
    }

    pub(crate) fn insert(&self, keys: impl Iterator<Item = Key>) {
        let bloom = self.0.load();
        keys.for_each(|key| {
            bloom.insert_hash(key.number());
        });
    }

    /// Those of the keys that may be there.
    pub(crate) fn candidates(&self, keys: impl Iterator<Item = Key>) -> Vec<Key> {
        let bloom = self.0.load();
        keys.filter(|key| bloom.contains_hash(key.number())).collect()
    }

    /// Exchanges it for a larger one with these keys. Nobody may insert meanwhile. When they cannot all be
    /// told, the old one stays: it knows them all.
    pub(crate) fn remake<E>(
        &self,
        keys: usize,
        fill: impl FnOnce(&mut dyn FnMut(Key)) -> Result<(), E>,
    ) -> Result<(), E> {
        let larger = bloom(keys);
        fill(&mut |key| {
            larger.insert_hash(key.number());
        })?;
        self.0.store(larger.into());
        Ok(())
    }

    /// Octets in memory.
    pub(crate) fn size(&self) -> u64 {
        self.0.load().num_bits() as u64 / 8
    }
}

/// How many keys a filter for `keys` now is made for: it doubles before it fills.
pub(crate) fn capacity_for(keys: usize) -> usize {
    (keys + keys / 2).max(SMALLEST).next_power_of_two()
}

fn bloom(keys: usize) -> AtomicBloomFilter {
    // The seed does not matter: what goes in are keyed sums already.
    AtomicBloomFilter::with_false_pos(FALSE_POSITIVES).seed(&0).expected_items(keys)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;

    #[test]
    fn nothing_is_missed_and_one_stranger_in_a_thousand_gets_past() {
        let secret = Secret::new([1; 32]);
        let key = |number: u32| secret.key(&format!("user{number}@example.org").parse().unwrap());
        let filter = Filter::new(SMALLEST);
        filter.insert((0..50_000).map(key));
        assert!((0..50_000).all(|number| filter.may_contain(key(number))));
        let past = (1_000_000..1_050_000).filter(|number| filter.may_contain(key(*number))).count();
        assert!(past < 150, "{past} of 50,000");
        let failed = filter.remake(SMALLEST, |insert| {
            insert(key(1));
            Err("the disk says no")
        });
        assert!(failed.is_err() && (0..50_000).all(|number| filter.may_contain(key(number))), "the old one stays");
        let made = filter.remake(SMALLEST, |insert| {
            (0..10).for_each(|number| insert(key(number)));
            Ok::<(), ()>(())
        });
        assert!(made.is_ok());
        assert!(filter.may_contain(key(3)) && !(100..200).all(|number| filter.may_contain(key(number))));
    }
}
