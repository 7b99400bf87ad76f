//! Numbers without the holes between them: which records of a journal are here, and which are not.

use serde::{Deserialize, Serialize};

/// A set of numbers as runs `(first, last)`, both of them in it; in order, never touching.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(from = "Vec<(u64, u64)>", into = "Vec<(u64, u64)>")]
pub struct Ranges(Vec<(u64, u64)>);

impl From<Vec<(u64, u64)>> for Ranges {
    /// Whatever their order; a run that ends before it begins is nothing.
    fn from(runs: Vec<(u64, u64)>) -> Self {
        let mut all = Self::default();
        runs.into_iter().for_each(|(first, last)| all.insert(first, last));
        all
    }
}

impl From<Ranges> for Vec<(u64, u64)> {
    fn from(ranges: Ranges) -> Self {
        ranges.0
    }
}

impl Ranges {
    /// The runs.
    #[must_use]
    pub fn runs(&self) -> &[(u64, u64)] {
        &self.0
    }

    /// There is no number in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The number is in it.
    #[must_use]
    pub fn holds(&self, number: u64) -> bool {
        let place = self.0.partition_point(|(_, last)| *last < number);
        self.0.get(place).is_some_and(|(first, _)| *first <= number)
    }

    /// All numbers from the first to the last are in it.
    #[must_use]
    pub fn holds_all(&self, first: u64, last: u64) -> bool {
        let place = self.0.partition_point(|(_, end)| *end < first);
        first > last || self.0.get(place).is_some_and(|run| run.0 <= first && last <= run.1)
    }

    /// These too.
    pub fn insert(&mut self, first: u64, last: u64) {
        if first > last {
            return;
        }
        let begin = self.0.partition_point(|(_, end)| end.saturating_add(1) < first);
        let end = self.0.partition_point(|(start, _)| *start <= last.saturating_add(1));
        let mut run = (first, last);
        if let Some(touched) = self.0.get(begin..end).filter(|touched| !touched.is_empty()) {
            run.0 = run.0.min(touched[0].0);
            run.1 = touched.iter().map(|one| one.1).max().unwrap_or(last).max(run.1);
        }
        self.0.splice(begin..end.max(begin), [run]);
    }

    /// All of the others' too.
    pub fn merge(&mut self, others: &Self) {
        others.0.iter().for_each(|(first, last)| self.insert(*first, *last));
    }

    /// Those that are not in the others.
    #[must_use]
    pub fn without(&self, others: &Self) -> Self {
        let mut left = Vec::new();
        for (first, last) in &self.0 {
            let mut next = Some(*first);
            for (begin, end) in others.0.iter().filter(|(begin, end)| end >= first && begin <= last)
            {
                let Some(from) = next else { break };
                if *begin > from {
                    left.push((from, begin - 1));
                }
                next = end.checked_add(1).map(|after| after.max(from));
            }
            if let Some(from) = next.filter(|from| from <= last) {
                left.push((from, *last));
            }
        }
        Self(left)
    }

    /// Numbers between the first run and the last that are in none; and before the first, from 1 on.
    #[must_use]
    pub fn holes(&self) -> Self {
        match self.0.last() {
            Some((_, last)) => Self(vec![(1, *last)]).without(self),
            None => Self::default(),
        }
    }

    /// How many numbers.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0
            .iter()
            .fold(0, |sum: u64, (first, last)| sum.saturating_add((last - first).saturating_add(1)))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn runs() -> impl Strategy<Value = Vec<(u64, u64)>> {
        prop::collection::vec(
            (1_u64..60, 0_u64..8).prop_map(|(first, more)| (first, first + more)),
            0..12,
        )
    }

    fn numbers(runs: &[(u64, u64)]) -> BTreeSet<u64> {
        runs.iter().flat_map(|(first, last)| *first..=*last).collect()
    }

    proptest! {
        /// Against sets of single numbers.
        #[test]
        fn runs_are_the_set_of_their_numbers(left in runs(), right in runs()) {
            let (one, two) = (Ranges::from(left.clone()), Ranges::from(right.clone()));
            let (these, those) = (numbers(&left), numbers(&right));
            prop_assert_eq!(numbers(one.runs()), these.clone());
            prop_assert!(one.runs().windows(2).all(|pair| pair[0].1 + 1 < pair[1].0), "{:?}", one);
            prop_assert_eq!(one.count(), these.len() as u64);
            prop_assert_eq!(numbers(one.without(&two).runs()), these.difference(&those).copied().collect());
            let mut both = one.clone();
            both.merge(&two);
            prop_assert_eq!(numbers(both.runs()), these.union(&those).copied().collect());
            for number in 0..70 {
                prop_assert_eq!(one.holds(number), these.contains(&number));
                prop_assert_eq!(one.holds_all(number, number + 3), (number..=number + 3).all(|n| these.contains(&n)));
            }
            let last = these.last().copied().unwrap_or(0);
            let holes: BTreeSet<u64> = (1..=last).filter(|number| !these.contains(number)).collect();
            prop_assert_eq!(numbers(one.holes().runs()), holes);
        }
    }

    #[test]
    fn the_greatest_number_is_one_as_any_other() {
        let mut all = Ranges::from(vec![(0, u64::MAX)]);
        assert!(all.holds(u64::MAX) && all.holds_all(5, u64::MAX));
        all.insert(3, 9);
        assert_eq!(all.runs(), [(0, u64::MAX)]);
        assert_eq!(all.without(&Ranges::from(vec![(2, u64::MAX)])).runs(), [(0, 1)]);
        assert_eq!(all.count(), u64::MAX);
        assert!(Ranges::default().holes().is_empty());
        assert_eq!(Ranges::from(vec![(9, 3)]), Ranges::default());
    }
}
