//! New bytes told as old ones with changes: four streams that each compress well by themselves.
//!
//! | Stream | Content |
//! |---|---|
//! | steps | for each [`Step`] how far its old bytes are from where the last ones ended, how many are kept, how many are fresh |
//! | gaps | equal bytes before each change, counted through all that is kept |
//! | words | what to add to the four bytes (little-endian, fewer at the end of a step) that begin there |
//! | fresh | bytes that are not like any |
//!
//! Addresses are words. Whatever lies behind code that grew by 64 bytes is 64 further on, so sums say
//! again and again the same where the bytes of two addresses would not.

use std::io;

use super::{
    align::{Step, align},
    number::{put, put_signed, take, take_from},
    spool::invalid,
};

/// Bytes that are changed together.
const WORD: usize = 4;

/// The streams.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Changes {
    pub(super) steps: Vec<u8>,
    pub(super) gaps: Vec<u8>,
    pub(super) words: Vec<u8>,
    pub(super) fresh: Vec<u8>,
}

impl Changes {
    /// What makes `new` out of `old`.
    pub(super) fn between(old: &[u8], new: &[u8]) -> Self {
        let mut all = Self::default();
        let (mut at, mut last, mut gap) = (0, 0, 0);
        for Step { from, kept, fresh } in align(old, new) {
            put_signed(&mut all.steps, from as i64 - last as i64);
            put(&mut all.steps, kept as u64);
            put(&mut all.steps, fresh as u64);
            last = from + kept;
            let (old, new_here) = (&old[from..last], &new[at..at + kept]);
            let mut place = 0;
            while place < kept {
                if old[place] == new_here[place] {
                    gap += 1;
                    place += 1;
                    continue;
                }
                put(&mut all.gaps, gap);
                gap = 0;
                let end = kept.min(place + WORD);
                let sum = word(&new_here[place..end]).wrapping_sub(word(&old[place..end]));
                all.words.extend_from_slice(&sum.to_le_bytes());
                place = end;
            }
            all.fresh.extend_from_slice(&new[at + kept..at + kept + fresh]);
            at += kept + fresh;
        }
        all
    }

    /// Bytes in all streams.
    pub(super) fn length(&self) -> u64 {
        [&self.steps, &self.gaps, &self.words, &self.fresh]
            .map(|stream| stream.len() as u64)
            .iter()
            .sum()
    }

    /// Makes exactly `length` bytes.
    pub(super) fn apply(&self, old: &[u8], length: usize) -> io::Result<Vec<u8>> {
        let mut new = Vec::with_capacity(length);
        let mut changer = Changer::new(&self.gaps, &self.words)?;
        let (mut steps, mut fresh, mut last) = (self.steps.as_slice(), self.fresh.as_slice(), 0);
        while !steps.is_empty() {
            let from = take_from(last as u64, &mut steps)? as usize;
            let (kept, added) = (take(&mut steps)? as usize, take(&mut steps)? as usize);
            let range = from.checked_add(kept).and_then(|end| old.get(from..end));
            let begin = new.len();
            let split = range.zip(fresh.split_at_checked(added));
            let Some((range, (added, rest))) =
                split.filter(|_| begin + kept <= length && added <= length - begin - kept)
            else {
                return Err(invalid("a step beyond the end of its old or new bytes"));
            };
            new.extend_from_slice(range);
            changer.change(&mut new[begin..])?;
            new.extend_from_slice(added);
            (fresh, last) = (rest, from + kept);
        }
        if new.len() != length || !fresh.is_empty() || !changer.is_done() {
            return Err(invalid("changes make another number of bytes than they say"));
        }
        Ok(new)
    }
}

/// Adds words where the gaps say.
struct Changer<'c> {
    gaps: &'c [u8],
    words: &'c [u8],
    /// Equal bytes before the next change; `None` after the last.
    gap: Option<u64>,
}

impl<'c> Changer<'c> {
    fn new(gaps: &'c [u8], words: &'c [u8]) -> io::Result<Self> {
        let mut changer = Self { gaps, words, gap: None };
        changer.advance()?;
        Ok(changer)
    }

    fn advance(&mut self) -> io::Result<()> {
        let more = !self.gaps.is_empty();
        self.gap = more.then(|| take(&mut self.gaps)).transpose()?;
        Ok(())
    }

    fn change(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        let mut rest = bytes;
        while let Some(gap) = self.gap {
            if gap >= rest.len() as u64 {
                self.gap = Some(gap - rest.len() as u64);
                break;
            }
            let (_, after) = rest.split_at_mut(gap as usize);
            let end = after.len().min(WORD);
            let (here, after) = after.split_at_mut(end);
            let next = self.words.split_first_chunk();
            let (bytes, words) = next.ok_or_else(|| invalid("more gaps than words"))?;
            let sum = word(here).wrapping_add(u32::from_le_bytes(*bytes));
            here.copy_from_slice(&sum.to_le_bytes()[..end]);
            (rest, self.words) = (after, words);
            self.advance()?;
        }
        Ok(())
    }

    fn is_done(&self) -> bool {
        self.gap.is_none() && self.words.is_empty()
    }
}

/// Up to four bytes as a number.
fn word(bytes: &[u8]) -> u32 {
    bytes.iter().rev().fold(0, |all, byte| all << 8 | u32::from(*byte))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn there_and_back(old: &[u8], new: &[u8]) -> Changes {
        let changes = Changes::between(old, new);
        assert!(changes.apply(old, new.len()).unwrap() == new, "the bytes differ");
        changes
    }

    #[test]
    fn addresses_that_moved_alike_are_the_same_word_again_and_again() {
        let old: Vec<u8> = (0..10_000_u32)
            .flat_map(|at| [at.wrapping_mul(977), at])
            .flat_map(u32::to_le_bytes)
            .collect();
        let mut new = old.clone();
        for at in (0..new.len()).step_by(8) {
            let moved = word(&old[at..at + 4]).wrapping_add(0x140);
            new[at..at + 4].copy_from_slice(&moved.to_le_bytes());
        }
        let changes = there_and_back(&old, &new);
        assert_eq!(changes.words.len(), 40_000);
        assert!(changes.words.chunks(4).all(|word| word == [0x40, 1, 0, 0]));
        assert!(changes.fresh.is_empty());
    }

    #[test]
    fn a_change_in_the_last_bytes_of_a_step_takes_no_more_than_is_there() {
        let old = [[1_u8; 100], [2; 100]].concat();
        for at in 90..100 {
            let mut new = old[..100].to_vec();
            new[at] = 9;
            there_and_back(&old, &new);
        }
        there_and_back(&old, &[]);
        there_and_back(&[], &old);
    }

    #[test]
    fn streams_that_do_not_fit_are_refused() {
        let (old, mut new) = (vec![5; 200], vec![5; 200]);
        new[77] = 6;
        new.extend([1, 2, 3]);
        let good = there_and_back(&old, &new);
        type Spoil = fn(&mut Changes);
        let spoils: [Spoil; 8] = [
            |changes| changes.steps.clear(),
            |changes| changes.steps.push(0),
            |changes| changes.steps[0] = 2,
            |changes| changes.gaps.push(3),
            |changes| changes.gaps = vec![0xff; 20],
            |changes| changes.words.push(0),
            |changes| changes.words.clear(),
            |changes| changes.fresh.truncate(2),
        ];
        for (number, spoil) in spoils.iter().enumerate() {
            let mut changes = good.clone();
            spoil(&mut changes);
            let error = changes.apply(&old, new.len()).unwrap_err();
            let kinds = [io::ErrorKind::InvalidData, io::ErrorKind::UnexpectedEof];
            assert!(kinds.contains(&error.kind()), "{number}: {error}");
        }
        assert!(good.apply(&old, new.len() - 1).is_err());
        assert!(good.apply(&old, new.len() + 1).is_err());
        assert!(good.apply(&old[..100], new.len()).is_err());
    }

    proptest! {
        #[test]
        fn any_pair_comes_out_again(
            mut bytes in prop::collection::vec(0..4_u8, 0..2000),
            edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..3_u8), 0..20),
        ) {
            let old = bytes.clone();
            for (at, byte, kind) in edits {
                let at = at.index(bytes.len() + 1);
                match kind {
                    0 => bytes.insert(at, byte),
                    1 if at < bytes.len() => _ = bytes.remove(at),
                    _ if at < bytes.len() => bytes[at] = byte,
                    _ => {}
                }
            }
            there_and_back(&old, &bytes);
        }

        #[test]
        fn any_streams_are_judged_without_a_panic(
            steps in prop::collection::vec(any::<u8>(), 0..40),
            gaps in prop::collection::vec(any::<u8>(), 0..40),
            words in prop::collection::vec(any::<u8>(), 0..40),
            fresh in prop::collection::vec(any::<u8>(), 0..40),
        ) {
            let changes = Changes { steps, gaps, words, fresh };
            if let Ok(new) = changes.apply(&[7; 100], 60) {
                prop_assert_eq!(new.len(), 60);
            }
        }
    }
}
