//! One number for every piece of an index, and which of them somebody has.
//!
//! Pieces are numbered through: those of the first blob of the index from 0, then those of the
//! second, and so on. A [`Bitmap`] has a bit for each, lowest bit first. Every node has the same
//! signed index and so the same numbers.

use kdc_bundles::index::Index;

/// Maps numbers to places and back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Numbering {
    /// Number of each blob's first piece, and at the end how many there are.
    first: Vec<u32>,
}

impl Numbering {
    /// The numbers of that index's pieces. An index that was read has far fewer than `u32::MAX`.
    #[must_use]
    pub fn of(index: &Index) -> Self {
        let mut first = Vec::with_capacity(index.blobs.len() + 1);
        let mut next = 0_u32;
        first.push(next);
        for blob in &index.blobs {
            next = next.saturating_add(u32::try_from(blob.pieces.len()).unwrap_or(u32::MAX));
            first.push(next);
        }
        Self { first }
    }

    /// How many pieces there are.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.first.last().copied().unwrap_or_default()
    }

    /// Numbers of the blob with this ordinal, first to one past the last.
    #[must_use]
    pub fn of_blob(&self, ordinal: usize) -> std::ops::Range<u32> {
        match self.first.get(ordinal..=ordinal.saturating_add(1)) {
            Some([start, end]) => *start..*end,
            _ => 0..0,
        }
    }

    /// Number of a blob's piece.
    #[must_use]
    pub fn number(&self, ordinal: usize, piece: u32) -> Option<u32> {
        let range = self.of_blob(ordinal);
        range.start.checked_add(piece).filter(|number| *number < range.end)
    }

    /// Blob's ordinal and the piece in it.
    #[must_use]
    pub fn place(&self, number: u32) -> Option<(usize, u32)> {
        if number >= self.count() {
            return None;
        }
        // Blobs without pieces share their first number with the next one: the last of them has it.
        let ordinal = self.first.partition_point(|first| *first <= number).checked_sub(1)?;
        Some((ordinal, number - self.first[ordinal]))
    }
}

/// A set of pieces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bitmap {
    bits: Vec<u8>,
    count: u32,
}

impl Bitmap {
    /// None of `count` pieces.
    #[must_use]
    pub fn empty(count: u32) -> Self {
        Self { bits: vec![0; Self::bytes_for(count)], count }
    }

    /// Bytes of a bitmap of that many pieces.
    #[must_use]
    pub fn bytes_for(count: u32) -> usize {
        count.div_ceil(8) as usize
    }

    /// What somebody else sent; `None` when it has the wrong length or names pieces there are not.
    #[must_use]
    pub fn from_bytes(bytes: &[u8], count: u32) -> Option<Self> {
        let beyond = |last: u8| !count.is_multiple_of(8) && last >> (count % 8) != 0;
        if bytes.len() != Self::bytes_for(count) || bytes.last().is_some_and(|last| beyond(*last)) {
            return None;
        }
        Some(Self { bits: bytes.to_vec(), count })
    }

    /// As it is sent.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bits
    }

    /// Whether that piece is among them.
    #[must_use]
    pub fn has(&self, number: u32) -> bool {
        let byte = self.bits.get(number as usize / 8).copied().unwrap_or_default();
        byte >> (number % 8) & 1 != 0
    }

    /// Add or remove a piece. Returns true when that changed something.
    pub fn set(&mut self, number: u32, have: bool) -> bool {
        if number >= self.count || self.has(number) == have {
            return false;
        }
        self.bits[number as usize / 8] ^= 1 << (number % 8);
        true
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.bits.iter().map(|byte| byte.count_ones()).sum()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bits.iter().all(|byte| *byte == 0)
    }
}

#[cfg(test)]
mod tests {
    use kdc_bundles::index::{Blob, Digest, INDEX_VERSION};

    use super::*;

    fn index(pieces: &[usize]) -> Index {
        let blob = |count: &usize| Blob {
            digest: Digest::of(b""),
            size: *count as u64,
            pieces: vec![Digest::of(b"x"); *count],
        };
        Index {
            version: INDEX_VERSION,
            name: "lab".into(),
            bundle_version: "1".into(),
            piece_size: 1,
            parameters: std::collections::BTreeMap::default(),
            artifacts: Vec::new(),
            blobs: pieces.iter().map(blob).collect(),
        }
    }

    #[test]
    fn every_piece_has_one_number_and_empty_blobs_have_none() {
        let numbering = Numbering::of(&index(&[0, 3, 0, 0, 2, 0]));
        assert_eq!(numbering.count(), 5);
        let places: Vec<_> = (0..6).map(|number| numbering.place(number)).collect();
        let blob_one = (0..3).map(|piece| Some((1, piece)));
        let wanted: Vec<_> = blob_one.chain([Some((4, 0)), Some((4, 1)), None]).collect();
        assert_eq!(places, wanted);
        for number in 0..5 {
            let (ordinal, piece) = numbering.place(number).unwrap();
            assert_eq!(numbering.number(ordinal, piece), Some(number));
        }
        assert_eq!(numbering.of_blob(1), 0..3);
        for (ordinal, piece) in [(0, 0), (1, 3), (4, 2), (6, 0), (usize::MAX, 0), (4, u32::MAX)] {
            assert_eq!(numbering.number(ordinal, piece), None, "{ordinal} {piece}");
        }
    }

    #[test]
    fn a_bitmap_of_another_length_or_with_pieces_there_are_not_is_refused() {
        let mut bitmap = Bitmap::empty(11);
        assert!(bitmap.set(10, true) && bitmap.set(0, true));
        assert!(!bitmap.set(10, true) && !bitmap.set(11, true));
        assert_eq!((bitmap.as_bytes(), bitmap.len()), (&[1, 4][..], 2));
        assert_eq!(Bitmap::from_bytes(&[1, 4], 11), Some(bitmap.clone()));
        assert!(bitmap.set(10, false) && !bitmap.has(10) && bitmap.has(0));
        for wrong in [&[1][..], &[1, 4, 0], &[0, 8], &[0, 0x80], &[]] {
            assert_eq!(Bitmap::from_bytes(wrong, 11), None, "{wrong:?}");
        }
        assert_eq!(Bitmap::from_bytes(&[0xff], 8).map(|all| all.len()), Some(8));
        assert!(Bitmap::from_bytes(&[], 0).is_some_and(|none| none.is_empty()));
    }
}
