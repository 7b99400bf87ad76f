//! Piece headers on a bulk channel (`kdc-agent receive`): three big-endian `u32`, then the bytes.

/// Bytes of a header.
pub const PIECE_HEADER_BYTES: usize = 12;

/// Largest piece a bulk channel carries; an index with larger pieces is refused.
pub const MAX_PIECE_BYTES: u64 = 16 * 1024 * 1024;

/// Which piece follows, and how long it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PieceHeader {
    /// Ordinal of the blob in [`kdc_bundles::index::Index::blobs`].
    pub blob: u32,
    /// Ordinal of the piece in the blob.
    pub piece: u32,
    /// Bytes that follow.
    pub length: u32,
}

impl PieceHeader {
    /// Ends the stream; no bytes follow.
    pub const END: Self = Self { blob: u32::MAX, piece: u32::MAX, length: u32::MAX };

    /// As on the channel.
    #[must_use]
    pub fn to_bytes(self) -> [u8; PIECE_HEADER_BYTES] {
        let mut bytes = [0; PIECE_HEADER_BYTES];
        for (slot, value) in bytes.chunks_exact_mut(4).zip([self.blob, self.piece, self.length]) {
            slot.copy_from_slice(&value.to_be_bytes());
        }
        bytes
    }

    /// From the channel.
    #[must_use]
    pub fn from_bytes(bytes: [u8; PIECE_HEADER_BYTES]) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l] = bytes;
        Self {
            blob: u32::from_be_bytes([a, b, c, d]),
            piece: u32::from_be_bytes([e, f, g, h]),
            length: u32::from_be_bytes([i, j, k, l]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_survives_the_channel_and_the_end_is_all_ones() {
        let header = PieceHeader { blob: 1, piece: 0x0203_0405, length: 1_048_576 };
        assert_eq!(PieceHeader::from_bytes(header.to_bytes()), header);
        assert_eq!(header.to_bytes()[..8], [0, 0, 0, 1, 2, 3, 4, 5]);
        assert_eq!(PieceHeader::END.to_bytes(), [0xff; PIECE_HEADER_BYTES]);
    }
}
