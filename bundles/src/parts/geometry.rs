//! Which bytes are in which part.
//!
//! A data part carries as many bytes of the bundle as `cutBytes` allows, but never the beginning of a
//! piece whose end would be in the next: so each part can be proved by itself. A parity part carries,
//! for every stripe of the data parts (a slice of each, at the same place), one slice of
//! Reed-Solomon parity and its digest. A data part that is shorter than the longest counts as if
//! zeros followed.

use std::ops::Range;

use sha2::{Digest as _, Sha256};

use crate::{
    index::{Digest, Index},
    layout::{Content, Layout},
    parts::head::{MAX_PARTS, SetHead},
};

/// Bytes after each parity slice: its digest.
pub(crate) const SLICE_DIGEST_BYTES: u64 = 32;

const MAX_SLICE: u64 = 1024 * 1024;

/// Slices of one stripe together stay under this, and so does the memory of who computes parity.
const MAX_STRIPE: u64 = 32 * 1024 * 1024;

/// A slice's length is a multiple of this.
const SLICE_STEP: u64 = 64;

/// Bytes of a slice in a set of that many parts: a power of two, at most 1 MiB.
#[must_use]
pub(crate) fn slice_bytes(parts: u32) -> u64 {
    let parts = u64::from(parts.clamp(1, MAX_PARTS)).next_power_of_two();
    (MAX_STRIPE / parts).min(MAX_SLICE)
}

/// How a bundle is to be split.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Split {
    /// Every part is smaller than this.
    pub size: u64,
    /// Any that many of 100 parts may be lost; 0 for no parity.
    pub parity_percent: u8,
}

/// Why a bundle can't be split so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SplitError {
    /// A part could not even hold the index and one piece.
    #[error("parts smaller than {size} bytes can't be: index and one piece need {least}")]
    TooSmall {
        /// What was asked for.
        size: u64,
        /// The smallest size that works.
        least: u64,
    },
    /// More parts than a set may have.
    #[error("that makes more than {MAX_PARTS} parts, parity included")]
    TooMany,
}

impl SplitError {
    /// The one next thing to try.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        Some("give a larger `--split`".to_owned())
    }
}

/// Parity parts for that many data parts: the fewest that are `percent` of them, and that let any
/// `percent` of all parts, themselves included, be lost.
#[must_use]
pub fn parity_parts(data_parts: u32, percent: u8) -> u32 {
    if percent == 0 {
        return 0;
    }
    let hundredths = |parts: u32| u64::from(parts) * u64::from(percent);
    let enough = |parity: &u32| {
        let share = u64::from(*parity);
        share * 100 >= hundredths(data_parts) && share >= hundredths(data_parts + *parity) / 100
    };
    (1..data_parts).find(enough).unwrap_or(data_parts)
}

/// The parts of a set and their payloads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Geometry {
    ranges: Vec<Range<u64>>,
    parity_parts: u32,
    slice_bytes: u64,
}

impl Geometry {
    /// The parts that follow from the signed index and a set's head.
    ///
    /// # Errors
    /// In words, when the head is not one that fits this index.
    pub fn of(set: &SetHead, index: &Index, layout: &Layout) -> Result<Self, String> {
        if set.bundle_bytes != layout.length() {
            return Err("it states another length of the bundle".to_owned());
        }
        let ranges = cut(index, layout, set.cut_bytes).ok_or("it states parts that can't be")?;
        if ranges.len() != set.data_parts as usize {
            return Err("it states another number of parts".to_owned());
        }
        let (parity_parts, slice_bytes) = (set.parity_parts, set.slice_bytes);
        Ok(Self { ranges, parity_parts, slice_bytes })
    }

    /// Decides how to split, and completes the set's head.
    ///
    /// # Errors
    /// When the parts would be too small or too many.
    pub fn plan(
        set: &mut SetHead,
        index: &Index,
        layout: &Layout,
        split: Split,
    ) -> Result<Self, SplitError> {
        let room = |size: u64| size.saturating_sub(set.payload_start() + parity_overhead(size) + 1);
        let (cut_bytes, least) = (room(split.size), index.piece_size);
        if cut_bytes < least {
            let least = least + set.payload_start();
            let least = least + parity_overhead(2 * least) + 1;
            return Err(SplitError::TooSmall { size: split.size, least });
        }
        // More than the bundle has makes no difference, and a head states no such number.
        let cut_bytes = cut_bytes.min(layout.length());
        let ranges = cut(index, layout, cut_bytes).ok_or(SplitError::TooMany)?;
        let data_parts = ranges.len() as u32;
        let parity_parts = parity_parts(data_parts, split.parity_percent);
        if data_parts + parity_parts > MAX_PARTS {
            return Err(SplitError::TooMany);
        }
        let slice_bytes = slice_bytes(data_parts + parity_parts);
        (set.bundle_bytes, set.cut_bytes) = (layout.length(), cut_bytes);
        (set.data_parts, set.parity_parts, set.slice_bytes) =
            (data_parts, parity_parts, slice_bytes);
        Ok(Self { ranges, parity_parts, slice_bytes })
    }

    /// The bundle's bytes in each data part, in order.
    #[must_use]
    pub fn ranges(&self) -> &[Range<u64>] {
        &self.ranges
    }

    /// Number of data parts.
    #[must_use]
    pub fn data_parts(&self) -> usize {
        self.ranges.len()
    }

    /// Number of parity parts.
    #[must_use]
    pub fn parity_parts(&self) -> usize {
        self.parity_parts as usize
    }

    /// Bytes of a full slice.
    #[must_use]
    pub fn slice_bytes(&self) -> u64 {
        self.slice_bytes
    }

    fn longest(&self) -> u64 {
        self.ranges.iter().map(|range| range.end - range.start).max().unwrap_or(0)
    }

    /// Number of stripes.
    #[must_use]
    pub fn stripes(&self) -> u64 {
        self.longest().div_ceil(self.slice_bytes)
    }

    /// Bytes of a slice of that stripe: less than a full one only in the last.
    #[must_use]
    pub fn slice_length(&self, stripe: u64) -> u64 {
        let left = self.longest().saturating_sub(stripe * self.slice_bytes);
        left.next_multiple_of(SLICE_STEP).min(self.slice_bytes)
    }

    /// Where the parity slice of that stripe lies in a parity part's payload; its digest follows it.
    #[must_use]
    pub fn parity_start(&self, stripe: u64) -> u64 {
        stripe * (self.slice_bytes + SLICE_DIGEST_BYTES)
    }

    /// Bytes of the payload of part `number` (from 1).
    #[must_use]
    pub fn payload_bytes(&self, number: u32) -> u64 {
        match self.ranges.get(number as usize - 1) {
            Some(range) => range.end - range.start,
            None => {
                let slices = self.longest().next_multiple_of(SLICE_STEP);
                slices + self.stripes() * SLICE_DIGEST_BYTES
            }
        }
    }

    /// The first byte of the bundle in part `number`, if it is a data part.
    #[must_use]
    pub fn start(&self, number: u32) -> Option<u64> {
        self.ranges.get(number as usize - 1).map(|range| range.start)
    }
}

/// Digest of a parity slice, which also says whose it is: a slice at another place is not good.
#[must_use]
pub fn slice_digest(set: &Digest, number: u32, stripe: u64, slice: &[u8]) -> Digest {
    let mut digest = Sha256::new();
    digest.update(slice_label(set, number, stripe));
    digest.update(slice);
    Digest::from_bytes(&digest.finalize().into())
}

/// What is hashed before a slice.
pub(crate) fn slice_label(set: &Digest, number: u32, stripe: u64) -> Vec<u8> {
    let numbers = [u64::from(number).to_be_bytes(), stripe.to_be_bytes()].concat();
    [set.as_str().as_bytes(), &numbers].concat()
}

/// Most bytes that digests and rounding add to a parity part that is smaller than `size`.
fn parity_overhead(size: u64) -> u64 {
    let slices = size / (MAX_STRIPE / u64::from(MAX_PARTS)) + 1;
    slices * SLICE_DIGEST_BYTES + SLICE_STEP
}

/// The ranges of the data parts; `None` when they would be too many or could not get on.
fn cut(index: &Index, layout: &Layout, most: u64) -> Option<Vec<Range<u64>>> {
    let (mut ranges, mut start) = (Vec::new(), 0);
    while start < layout.length() {
        if ranges.len() == MAX_PARTS as usize {
            return None;
        }
        let mut end = start.saturating_add(most).min(layout.length());
        if let Some(stretch) = layout.at(index, end)
            && matches!(stretch.content, Content::Piece { .. })
        {
            end = stretch.start;
        }
        if end <= start {
            return None;
        }
        ranges.push(start..end);
        start = end;
    }
    Some(ranges)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parity_outlives_the_loss_of_its_share_of_all_parts() {
        for data in 1..=MAX_PARTS {
            for percent in [1, 10, 25, 50, 100] {
                let parity = parity_parts(data, percent);
                let lost = u64::from(data + parity) * u64::from(percent) / 100;
                assert!(u64::from(parity) >= lost.min(u64::from(data)), "{data} {percent}");
                assert!(parity * 100 >= data * u32::from(percent), "{data} {percent}");
                assert!(parity >= 1 && parity <= data, "{data} {percent}: {parity}");
            }
            assert_eq!(parity_parts(data, 0), 0);
        }
        let cases = [(1, 1), (6, 1), (10, 1), (11, 2), (20, 2), (100, 11)];
        for (data, parity) in cases {
            assert_eq!(parity_parts(data, 10), parity, "{data}");
        }
    }

    #[test]
    fn a_stripe_stays_small_whatever_the_number_of_parts() {
        for parts in 1..=MAX_PARTS {
            let slice = slice_bytes(parts);
            assert!(slice.is_power_of_two() && slice >= 64 * 1024, "{parts}: {slice}");
            assert!(slice * u64::from(parts) <= MAX_STRIPE, "{parts}: {slice}");
        }
    }
}
