//! One bit a piece: who has what.

/// A fixed number of bits; those beyond it are never set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bits {
    words: Vec<u64>,
    length: usize,
}

impl Bits {
    /// So many bits, none of them set.
    #[must_use]
    pub fn new(length: usize) -> Self {
        Self { words: vec![0; length.div_ceil(64)], length }
    }

    /// So many bits, all of them set.
    #[must_use]
    pub fn full(length: usize) -> Self {
        let mut words = vec![u64::MAX; length.div_ceil(64)];
        if let Some(last) = words.last_mut()
            && !length.is_multiple_of(64)
        {
            *last = (1 << (length % 64)) - 1;
        }
        Self { words, length }
    }

    /// Whether this one is set; never beyond the end.
    #[must_use]
    pub fn get(&self, at: usize) -> bool {
        self.words.get(at / 64).is_some_and(|word| word & (1 << (at % 64)) != 0)
    }

    /// Set or clear one; true where that changed it, never beyond the end.
    pub fn put(&mut self, at: usize, value: bool) -> bool {
        if at >= self.length {
            return false;
        }
        let Some(word) = self.words.get_mut(at / 64) else { return false };
        let (before, bit) = (*word, 1 << (at % 64));
        *word = if value { before | bit } else { before & !bit };
        *word != before
    }

    /// How many are set.
    #[must_use]
    pub fn count(&self) -> usize {
        self.words.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// None is set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }

    /// Those that are set, in order.
    pub fn ones(&self) -> impl Iterator<Item = usize> + '_ {
        ones(self.words.iter().copied())
    }

    /// Those that are set here and there, in order.
    pub fn ones_in_both<'b>(&'b self, other: &'b Self) -> impl Iterator<Item = usize> + 'b {
        ones(self.words.iter().zip(&other.words).map(|(here, there)| here & there))
    }

    /// Call `each` with those that are set here and there, in order: the innermost loop of a swarm.
    pub fn for_each_in_both(&self, other: &Self, mut each: impl FnMut(usize)) {
        for (at, (here, there)) in self.words.iter().zip(&other.words).enumerate() {
            let mut left = here & there;
            while left != 0 {
                each(at * 64 + left.trailing_zeros() as usize);
                left &= left - 1;
            }
        }
    }

    /// Those that are another way there, in order.
    pub fn differences<'b>(&'b self, other: &'b Self) -> impl Iterator<Item = usize> + 'b {
        ones(self.words.iter().zip(&other.words).map(|(here, there)| here ^ there))
    }
}

fn ones(words: impl Iterator<Item = u64>) -> impl Iterator<Item = usize> {
    words.enumerate().filter(|(_, word)| *word != 0).flat_map(|(at, word)| {
        let mut left = word;
        std::iter::from_fn(move || {
            let bit = (left != 0).then(|| left.trailing_zeros() as usize)?;
            left &= left - 1;
            Some(at * 64 + bit)
        })
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn bits_beyond_the_end_are_never_set() {
        for length in [0, 1, 63, 64, 65, 130] {
            let mut bits = Bits::full(length);
            assert_eq!((bits.count(), bits.ones().count()), (length, length));
            assert!(!bits.put(length, true) && !bits.get(length));
            assert_eq!(Bits::new(length).count(), 0);
        }
    }

    proptest! {
        #[test]
        fn bits_are_a_set_of_numbers(
            some in prop::collection::btree_set(0_usize..200, 0..60),
            others in prop::collection::btree_set(0_usize..200, 0..60),
        ) {
            let bits = |set: &BTreeSet<usize>| {
                let mut bits = Bits::new(200);
                for at in set {
                    assert!(bits.put(*at, true) && !bits.put(*at, true));
                }
                bits
            };
            let (here, there) = (bits(&some), bits(&others));
            prop_assert_eq!(here.ones().collect::<BTreeSet<_>>(), some.clone());
            let both: BTreeSet<usize> = here.ones_in_both(&there).collect();
            let mut again = BTreeSet::new();
            here.for_each_in_both(&there, |at| assert!(again.insert(at)));
            prop_assert_eq!(&both, &again);
            prop_assert_eq!(both, &some & &others);
            let differ: BTreeSet<usize> = here.differences(&there).collect();
            prop_assert_eq!(differ, &some ^ &others);
            prop_assert_eq!(here.is_empty(), some.is_empty());
        }
    }
}
