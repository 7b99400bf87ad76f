//! Which old bytes the new ones come from, though single ones differ all along.
//!
//! A program that was compiled again is the old one with other addresses in it: hardly thirty bytes in a row
//! are equal, yet nine of ten are. So new bytes are laid beside old ones at a *shift* (old place minus
//! new place) for as long as most of them agree, and the shift changes where an equal run of
//! [`SEED`] bytes fits clearly better than what lies there. In a second pass neighbouring stretches
//! settle where the one ends and the other begins; what belongs to neither is fresh.

/// Equal bytes that give a new shift.
const SEED: usize = 16;

/// One seed in that many bytes of the old content is looked for.
const STRIDE: usize = 4;

/// Seeds with the same number that are tried on either side of the place where one is expected.
const NEAR: usize = 8;

/// Equal bytes beyond which one seed is as good as another.
const MOST_COMPARED: usize = 512;

/// So many bytes more have to agree at another shift than do at this one.
const CLEARLY: usize = 8;

/// Takes `kept` old bytes from `from` on, changed here and there, then `fresh` new ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) from: usize,
    pub(super) kept: usize,
    pub(super) fresh: usize,
}

/// Steps that make as many bytes as `new` has.
pub(super) fn align(old: &[u8], new: &[u8]) -> Vec<Step> {
    let stretches = find_stretches(old, new);
    let mut steps = Vec::with_capacity(stretches.len());
    let mut start = 0;
    for (number, stretch) in stretches.iter().enumerate() {
        let next = stretches.get(number + 1);
        let limit = next.map_or(new.len(), |next| next.at);
        let start_of_this = start;
        let mut end = stretch.at + agree(forward(old, new, stretch.shift, stretch.at, limit));
        start = limit;
        if let Some(next) = next {
            let most = limit - start_of_this;
            start = limit - agree(backward(old, new, next.shift, limit, most));
            if start < end {
                end = boundary(old, new, (stretch.shift, next.shift), (start, end));
                start = end;
            }
        }
        steps.push(Step {
            from: place(start_of_this, stretch.shift),
            kept: end - start_of_this,
            fresh: start - end,
        });
    }
    steps
}

/// From `at` on (and perhaps from a little before) new bytes lie beside old ones at `shift`.
#[derive(Debug, Clone, Copy)]
struct Stretch {
    at: usize,
    shift: isize,
}

fn place(at: usize, shift: isize) -> usize {
    at.saturating_add_signed(shift)
}

/// The old bytes beside those of the new content from `at` on.
fn beside(old: &[u8], at: usize, shift: isize) -> &[u8] {
    at.checked_add_signed(shift).and_then(|start| old.get(start..)).unwrap_or_default()
}

fn find_stretches(old: &[u8], new: &[u8]) -> Vec<Stretch> {
    let seeds = Seeds::of(old);
    let (mut stretches, mut at) = (vec![Stretch { at: 0, shift: 0 }], 0);
    let mut shift = 0;
    while at + SEED <= new.len() {
        let equal = common(beside(old, at, shift), &new[at..]);
        if equal >= SEED {
            at += equal;
            continue;
        }
        if let Some((found, length)) = seeds.find(new, at, place(at, shift)) {
            let here = beside(old, at, shift).iter().zip(&new[at..at + length]);
            let here = here.filter(|(old, new)| old == new).count();
            if length > here + CLEARLY {
                shift = found as isize - at as isize;
                stretches.push(Stretch { at, shift });
                at += length;
                continue;
            }
        }
        at += 1;
    }
    stretches
}

/// Length of the equal start.
fn common(left: &[u8], right: &[u8]) -> usize {
    let mut length = 0;
    let chunks = left.chunks_exact(16).zip(right.chunks_exact(16));
    length += 16 * chunks.take_while(|(left, right)| left == right).count();
    let rest = left[length..].iter().zip(&right[length..]);
    length + rest.take_while(|(left, right)| left == right).count()
}

/// Whether the bytes agree, from `at` up to `limit`.
fn forward<'b>(
    old: &'b [u8],
    new: &'b [u8],
    shift: isize,
    at: usize,
    limit: usize,
) -> impl Iterator<Item = bool> + 'b {
    beside(old, at, shift).iter().zip(&new[at..limit]).map(|(old, new)| old == new)
}

/// Whether the bytes agree, from `limit` down, `most` of them.
fn backward<'b>(
    old: &'b [u8],
    new: &'b [u8],
    shift: isize,
    limit: usize,
    most: usize,
) -> impl Iterator<Item = bool> + 'b {
    let old = &old[..place(limit, shift).min(old.len())];
    let new = &new[limit - most..limit];
    old.iter().rev().zip(new.iter().rev()).map(|(old, new)| old == new)
}

/// Up to where most of the bytes agree.
fn agree(bytes: impl Iterator<Item = bool>) -> usize {
    let (mut score, mut best, mut length) = (0_i64, 0_i64, 0);
    for (number, equal) in bytes.enumerate() {
        score += if equal { 1 } else { -1 };
        if score > best {
            (best, length) = (score, number + 1);
        }
    }
    length
}

/// Where between `start` and `end` the second shift becomes better than the first.
fn boundary(
    old: &[u8],
    new: &[u8],
    (first, second): (isize, isize),
    (start, end): (usize, usize),
) -> usize {
    let (mut score, mut best, mut at) = (0_i64, 0_i64, start);
    let agrees = |at: usize, shift| beside(old, at, shift).first() == Some(&new[at]);
    for position in start..end {
        score += i64::from(agrees(position, first)) - i64::from(agrees(position, second));
        if score > best {
            (best, at) = (score, position + 1);
        }
    }
    at
}

/// The old content's seeds by number, those with the same number in order.
struct Seeds<'o> {
    old: &'o [u8],
    starts: Vec<u32>,
    places: Vec<u32>,
    bits: u32,
}

impl<'o> Seeds<'o> {
    fn of(old: &'o [u8]) -> Self {
        let bits = (old.len() / STRIDE).max(2).ilog2().clamp(8, 20);
        let all = || {
            let last = old.len().saturating_sub(SEED - 1);
            (0..last).step_by(STRIDE).map(|at| (at as u32, number(&old[at..at + SEED], bits)))
        };
        let mut starts = vec![0_u32; (1 << bits) + 1];
        for (_, number) in all() {
            starts[number + 1] += 1;
        }
        for number in 1..starts.len() {
            starts[number] += starts[number - 1];
        }
        let mut places = vec![0; starts[starts.len() - 1] as usize];
        // Each start moves on to the next one while its seeds are filled in, …
        for (at, number) in all() {
            places[starts[number] as usize] = at;
            starts[number] += 1;
        }
        // … and goes back to where it was.
        starts.rotate_right(1);
        starts[0] = 0;
        Self { old, starts, places, bits }
    }

    /// The longest equal run from `at` on, and of several the nearest to where it is expected.
    fn find(&self, new: &[u8], at: usize, expected: usize) -> Option<(usize, usize)> {
        let number = number(&new[at..at + SEED], self.bits);
        let same = &self.places[self.starts[number] as usize..self.starts[number + 1] as usize];
        let middle = same.partition_point(|place| (*place as usize) < expected);
        let near = &same[middle.saturating_sub(NEAR)..same.len().min(middle + NEAR)];
        let new = &new[at..new.len().min(at + MOST_COMPARED)];
        let lengths = near.iter().map(|place| {
            let place = *place as usize;
            let length = common(&self.old[place..], new);
            (length, std::cmp::Reverse(place.abs_diff(expected)), place)
        });
        let (length, _, place) = lengths.max()?;
        (length >= SEED).then_some((place, length))
    }
}

/// A number for a seed, of so many bits.
fn number(seed: &[u8], bits: u32) -> usize {
    let half =
        |bytes: &[u8]| bytes.iter().rev().fold(0_u64, |all, byte| all << 8 | u64::from(*byte));
    let mixed = half(&seed[..8]).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ half(&seed[8..SEED]);
    (mixed.wrapping_mul(0xbf58_476d_1ce4_e5b9) >> (64 - bits)) as usize
}

#[cfg(test)]
mod tests {
    use super::{super::tests::noise, *};

    /// Steps cover the new content; gives how many bytes differ where it is said to be kept.
    fn changed(old: &[u8], new: &[u8], steps: &[Step]) -> usize {
        let (mut at, mut changed) = (0, 0);
        for step in steps {
            let kept = &old[step.from..step.from + step.kept];
            changed += kept.iter().zip(&new[at..]).filter(|(old, new)| old != new).count();
            at += step.kept + step.fresh;
        }
        assert_eq!(at, new.len());
        changed
    }

    #[test]
    fn addresses_that_differ_all_along_leave_the_stretch_whole() {
        let old = noise(1, 100_000);
        let mut new = old.clone();
        for at in (0..new.len()).step_by(23) {
            new[at] = new[at].wrapping_add(64);
        }
        assert_eq!(align(&old, &new), [Step { from: 0, kept: new.len(), fresh: 0 }]);
    }

    #[test]
    fn what_was_inserted_is_fresh_and_what_was_removed_is_passed_over() {
        let old = noise(1, 100_000);
        let mut new = old.clone();
        new.splice(30_000..30_000, noise(2, 500));
        new.drain(60_500..60_700);
        let steps = align(&old, &new);
        assert_eq!(changed(&old, &new, &steps), 0);
        let fresh: usize = steps.iter().map(|step| step.fresh).sum();
        assert!((495..=500).contains(&fresh), "{steps:?}");
        assert_eq!(steps.len(), 3);
    }

    #[test]
    fn what_has_nothing_in_common_is_all_fresh() {
        let new = noise(2, 50_000);
        for old in [noise(1, 50_000), vec![], vec![7; 3]] {
            let steps = align(&old, &new);
            changed(&old, &new, &steps);
            let kept: usize = steps.iter().map(|step| step.kept).sum();
            assert!(kept < 100, "{steps:?}");
        }
    }

    #[test]
    fn content_that_repeats_itself_is_aligned_all_the_same() {
        let old = [vec![0; 50_000], noise(1, 10_000), vec![0; 50_000]].concat();
        let new = [vec![0; 60_000], noise(1, 10_000), vec![0; 100_000]].concat();
        let steps = align(&old, &new);
        let kept: usize = steps.iter().map(|step| step.kept).sum();
        changed(&old, &new, &steps);
        assert!(kept > 100_000, "{steps:?}");
        assert_eq!(align(&old, &[]), [Step { from: 0, kept: 0, fresh: 0 }]);
    }
}
