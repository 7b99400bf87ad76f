//! Content-defined chunks: cut where the content says so, so that what two versions have in common
//! is cut alike in both, wherever it lies.
//!
//! Sites and builders of different releases have to cut alike: the constants here are part of the
//! format of inventories.

use std::{
    collections::HashMap,
    io::{self, BufRead},
};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// The start of a chunk's sha256: enough to tell chunks apart where nobody means harm. Somebody who
/// means it gets an update that makes nothing: what is made is proved by its whole digest.
pub(super) type ChunkDigest = u64;

/// How fine to cut: one place in two to the power of this ends a chunk, none before a fourth and none
/// after sixteen times of that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub(super) struct Fineness(u32);

impl Fineness {
    /// Chunks of 20 KiB on average.
    pub(super) const COARSE: Self = Self(14);

    /// Chunks of 640 bytes on average: finer, and a list of them is no longer small beside the content.
    pub(super) const FINEST: Self = Self(9);

    /// As fine as possible, with so few chunks that `bytes` have no more than about a million.
    pub(super) fn for_content(bytes: u64) -> Self {
        let chunk = (bytes >> 20).max(1).next_power_of_two().ilog2();
        Self(chunk.clamp(Self::FINEST.0, Self::COARSE.0))
    }

    fn least(self) -> usize {
        1 << (self.0 - 2)
    }

    fn most(self) -> usize {
        1 << (self.0 + 4)
    }

    fn mask(self) -> u64 {
        ((1 << self.0) - 1) << 40
    }
}

impl TryFrom<u32> for Fineness {
    type Error = String;

    fn try_from(bits: u32) -> Result<Self, String> {
        let known = (Self::FINEST.0..=Self::COARSE.0).contains(&bits);
        known.then_some(Self(bits)).ok_or_else(|| format!("chunks as fine as {bits} are not known"))
    }
}

impl From<Fineness> for u32 {
    fn from(fineness: Fineness) -> Self {
        fineness.0
    }
}

/// One chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Chunk {
    pub(super) start: u64,
    pub(super) length: u32,
    pub(super) digest: ChunkDigest,
}

/// A number for each byte (splitmix64).
const GEAR: [u64; 256] = {
    let (mut table, mut state, mut at) = ([0; 256], 0_u64, 0);
    while at < 256 {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        table[at] = mixed ^ (mixed >> 31);
        at += 1;
    }
    table
};

/// Cuts a stream that begins at `start`, and hands each chunk on.
pub(super) fn cut(
    content: &mut impl BufRead,
    mut start: u64,
    fineness: Fineness,
    mut take: impl FnMut(Chunk),
) -> io::Result<()> {
    let (least, most, mask) = (fineness.least(), fineness.most(), fineness.mask());
    let (mut pending, mut hash) = (Vec::with_capacity(most), 0_u64);
    loop {
        let input = content.fill_buf()?;
        if input.is_empty() {
            break;
        }
        let mut used = 0;
        for byte in input {
            used += 1;
            hash = (hash << 1).wrapping_add(GEAR[usize::from(*byte)]);
            let length = pending.len() + used;
            if (length >= least && hash & mask == 0) || length >= most {
                break;
            }
        }
        pending.extend_from_slice(&input[..used]);
        content.consume(used);
        let full = pending.len() >= most;
        if full || (pending.len() >= least && hash & mask == 0) {
            take(chunk(start, &pending));
            start += pending.len() as u64;
            pending.clear();
            hash = 0;
        }
    }
    if !pending.is_empty() {
        take(chunk(start, &pending));
    }
    Ok(())
}

fn chunk(start: u64, bytes: &[u8]) -> Chunk {
    let mut digest = [0; 8];
    digest.copy_from_slice(&Sha256::digest(bytes)[..8]);
    Chunk { start, length: bytes.len() as u32, digest: u64::from_le_bytes(digest) }
}

/// The chunks of several bases, to be found by digest.
#[derive(Debug, Default)]
pub(super) struct Known {
    chunks: Vec<(u32, Chunk)>,
    by_digest: HashMap<ChunkDigest, u32>,
}

impl Known {
    /// Adds chunks of base number `base`, in order.
    pub(super) fn add(&mut self, base: usize, chunk: Chunk) {
        self.by_digest.entry(chunk.digest).or_insert(self.chunks.len() as u32);
        self.chunks.push((base as u32, chunk));
    }

    /// The place of an equal chunk; of several the one that follows `previous`.
    pub(super) fn find(&self, chunk: &Chunk, previous: Option<usize>) -> Option<usize> {
        let same = |place: &usize| {
            let (_, known) = &self.chunks[*place];
            known.digest == chunk.digest && known.length == chunk.length
        };
        let next = previous.map(|place| place + 1).filter(|place| *place < self.chunks.len());
        next.filter(same)
            .or_else(|| self.by_digest.get(&chunk.digest).map(|place| *place as usize).filter(same))
    }

    /// Base and chunk at a place.
    pub(super) fn at(&self, place: usize) -> (usize, Chunk) {
        let (base, chunk) = self.chunks[place];
        (base as usize, chunk)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(seed: u64, length: usize) -> Vec<u8> {
        let mut state = seed;
        let next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) as u8
        };
        std::iter::repeat_with(next).take(length).collect()
    }

    fn chunks(content: &[u8], buffer: usize) -> Vec<Chunk> {
        let mut found = Vec::new();
        let mut reader = io::BufReader::with_capacity(buffer, content);
        cut(&mut reader, 0, Fineness::COARSE, |chunk| found.push(chunk)).unwrap();
        found
    }

    #[test]
    fn chunks_cover_the_content_and_do_not_depend_on_how_it_is_read() {
        let content = noise(1, 1_000_000);
        let all = chunks(&content, 1 << 16);
        let mut at = 0;
        for chunk in &all {
            assert_eq!(chunk.start, at);
            at += u64::from(chunk.length);
        }
        assert_eq!(at, 1_000_000);
        assert!((25..100).contains(&all.len()), "{}", all.len());
        assert_eq!(all, chunks(&content, 17));
        assert_eq!(chunks(&[0; 1_000_000], 4096).len(), 4, "no cut in what is all alike");
    }

    #[test]
    fn after_an_insertion_the_same_chunks_are_found_again() {
        let content = noise(2, 1_000_000);
        let mut changed = content.clone();
        changed.splice(500_000..500_000, *b"inserted");
        let mut known = Known::default();
        for chunk in chunks(&content, 1 << 16) {
            known.add(0, chunk);
        }
        let again = chunks(&changed, 1 << 16);
        let new = again.iter().filter(|chunk| known.find(chunk, None).is_none()).count();
        assert!(new <= 2, "{new} of {}", again.len());
    }

    /// Sites of other releases cut with these constants.
    #[test]
    fn chunks_are_cut_where_they_always_were() {
        let lengths: Vec<_> = chunks(&noise(3, 100_000), 4096).iter().map(|c| c.length).collect();
        assert_eq!(lengths, LENGTHS);
    }

    const LENGTHS: &[u32] = &[42364, 11173, 46463];
}
