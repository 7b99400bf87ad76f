//! How a blob is put together: which stretches of it are compressed streams, and with what each of
//! them comes out again bit by bit.
//!
//! Compression hides what two versions have in common, so a delta works on the *unpacked form* of a
//! blob: its parts in order, streams decompressed. For the blob of the old bundle a layout says
//! how to unpack it. For the blob to be made it says how to pack it again, too.

use serde::{Deserialize, Serialize};

/// Parts of a blob; one more and it is taken as it is.
pub(super) const MAX_PARTS: usize = 10_000;

/// A stream that unpacks to more than this many times its size is left alone, here as in an update.
const MAX_EXPANSION: u64 = 256;

/// Any blob may unpack to that much more, so that small ones are not judged by their ratio.
const EXPANSION_ALLOWANCE: u64 = 64 * 1024 * 1024;

/// One stretch of a blob.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Part {
    /// What it is.
    pub(super) coding: Coding,
    /// Its length in the blob.
    pub(super) packed: u64,
    /// Its length in the unpacked form.
    pub(super) unpacked: u64,
}

/// What a stretch is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) enum Coding {
    /// Bytes as they are.
    Raw,
    /// A bare deflate stream. In a blob to be made, each run of plain text comes with corrections:
    /// what the stream does differently from what is expected of its compressor. They lie behind
    /// the plain text of the whole part, and count as unpacked.
    Deflate {
        /// Lengths of plain text and corrections; empty where nothing has to be packed.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        chunks: Vec<(u64, u64)>,
    },
    /// An xz stream.
    Xz {
        /// What makes it; absent where nothing has to be packed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        encoder: Option<XzEncoder>,
    },
}

/// The settings of liblzma that a stream was made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct XzEncoder {
    /// Preset, 0 to 9, perhaps with the bit for "extreme".
    pub(super) preset: u32,
    /// Number of the check in the stream's header.
    pub(super) check: u8,
    /// Bytes in a block, as the multi-threaded encoder makes them; absent for one block of any
    /// length.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) block_bytes: Option<u64>,
}

impl Part {
    /// Bytes as they are.
    pub(super) fn raw(bytes: u64) -> Self {
        Self { coding: Coding::Raw, packed: bytes, unpacked: bytes }
    }

    /// Whether it is bytes as they are.
    pub(super) fn is_raw(&self) -> bool {
        self.coding == Coding::Raw
    }

    /// The same part, without what only packing needs.
    pub(super) fn bare(&self) -> Self {
        let (coding, over) = match &self.coding {
            Coding::Raw => (Coding::Raw, 0),
            Coding::Deflate { chunks } => (
                Coding::Deflate { chunks: Vec::new() },
                chunks.iter().map(|(_, corrections)| corrections).sum(),
            ),
            Coding::Xz { .. } => (Coding::Xz { encoder: None }, 0),
        };
        Self { coding, packed: self.packed, unpacked: self.unpacked.saturating_sub(over) }
    }
}

/// Whether so many unpacked bytes are still believable.
pub(super) fn is_sane_expansion(packed: u64, unpacked: u64) -> bool {
    unpacked <= packed.saturating_mul(MAX_EXPANSION).saturating_add(EXPANSION_ALLOWANCE)
}

/// Length of the unpacked form, if the layout describes a blob of `size` bytes and is within the
/// bounds.
pub(super) fn unpacked_bytes(layout: &[Part], size: u64) -> Option<u64> {
    let (mut packed, mut unpacked) = (0_u64, 0_u64);
    for part in layout {
        packed = packed.checked_add(part.packed)?;
        unpacked = unpacked.checked_add(part.unpacked)?;
        let same = matches!(part.coding, Coding::Raw).then_some(part.packed == part.unpacked);
        if same == Some(false) {
            return None;
        }
    }
    let good = packed == size && layout.len() <= MAX_PARTS && is_sane_expansion(packed, unpacked);
    good.then_some(unpacked)
}

/// Brings neighbouring stretches of plain bytes together.
pub(super) fn push(layout: &mut Vec<Part>, part: Part) {
    match layout.last_mut() {
        Some(last) if last.coding == Coding::Raw && part.coding == Coding::Raw => {
            last.packed += part.packed;
            last.unpacked += part.unpacked;
        }
        _ if part.packed == 0 && part.unpacked == 0 => {}
        _ => layout.push(part),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layout_that_does_not_describe_the_blob_has_no_length() {
        let stream =
            |packed, unpacked| Part { coding: Coding::Xz { encoder: None }, packed, unpacked };
        assert_eq!(unpacked_bytes(&[Part::raw(10), stream(5, 50)], 15), Some(60));
        let bomb = 4 * EXPANSION_ALLOWANCE;
        let mut odd = Part::raw(15);
        odd.unpacked = 16;
        let refused: &[(&[Part], u64)] = &[
            (&[Part::raw(10)], 11),
            (&[odd], 15),
            (&[stream(5, bomb)], 5),
            (&[stream(u64::MAX, 1), stream(2, 1)], 1),
            (&[stream(1, u64::MAX), stream(1, 2)], 2),
        ];
        for (layout, size) in refused {
            assert_eq!(unpacked_bytes(layout, *size), None, "{layout:?}");
        }
        assert_eq!(unpacked_bytes(&vec![Part::raw(1); MAX_PARTS + 1], MAX_PARTS as u64 + 1), None);
    }

    #[test]
    fn what_only_packing_needs_can_be_left_out() {
        let coding = Coding::Deflate { chunks: vec![(100, 3), (50, 2)] };
        let part = Part { coding, packed: 60, unpacked: 155 };
        assert_eq!(part.bare().unpacked, 150);
        assert_eq!(part.bare().bare(), part.bare());
    }
}
