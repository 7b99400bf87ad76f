//! A file of frames: each is whole, or is not there.
//!
//! ```text
//! head   8 bytes that say what kind of file it is
//! frame  length of the payload (u32, little-endian) | first 16 bytes of the SHA-256 of length and payload | payload
//! frame  …
//! ```
//!
//! A frame counts when its checksum holds. What follows the last good frame is a torn tail when a power cut explains it:
//! nothing good comes after it. The writer cuts it off, readers stop there.

use std::{io, path::Path};

use sha2::{Digest as _, Sha256};

/// Bytes of a file's head.
pub(super) const HEAD: usize = 8;
/// Bytes of a frame before its payload.
const FRAME_HEAD: usize = 4 + 16;
/// Largest payload: a day's records of some ten thousand pods stay below.
const LARGEST: usize = 16 * 1024 * 1024;
/// Largest file that is read.
pub(super) const LARGEST_FILE: u64 = 64 * 1024 * 1024;

/// A frame's bytes, for a payload.
pub(super) fn seal(payload: &[u8]) -> io::Result<Vec<u8>> {
    let length = u32::try_from(payload.len()).ok().filter(|_| payload.len() <= LARGEST);
    let length =
        length.ok_or_else(|| io::Error::other("a frame would be too large"))?.to_le_bytes();
    Ok([&length[..], &sum(length, payload), payload].concat())
}

fn sum(length: [u8; 4], payload: &[u8]) -> [u8; 16] {
    let digest = Sha256::new().chain_update(length).chain_update(payload).finalize();
    let mut sum = [0; 16];
    sum.copy_from_slice(&digest[..16]);
    sum
}

/// The good frames of a file's bytes.
#[derive(Debug, Clone)]
pub(super) struct Frames<'a> {
    bytes: &'a [u8],
    at: usize,
}

/// How a file's frames end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// With its last frame.
    Whole,
    /// With bytes that are no frame, and nothing good after them.
    Torn,
    /// In the middle: a good frame stands behind bytes that are none.
    Damaged,
}

impl<'a> Frames<'a> {
    /// Of a file with this head; nothing where it has another.
    pub(super) fn of(bytes: &'a [u8], head: &[u8; HEAD]) -> Option<Self> {
        bytes.starts_with(head).then_some(Self { bytes, at: HEAD })
    }

    /// Where the last good frame ends.
    pub(super) fn good(&self) -> usize {
        self.at
    }

    /// How the file ends, once every frame was taken.
    pub(super) fn end(&self) -> End {
        if self.at == self.bytes.len() {
            return End::Whole;
        }
        // A frame's place is not known any more; that it is one is told by its checksum alone. Only the first few places
        // that could be one are tried, so that nonsense costs little.
        let rest = self.at + 1..self.bytes.len();
        let could = rest.filter(|at| self.length_at(*at).is_some()).take(4096);
        let good = could.into_iter().any(|at| self.frame_at(at).is_some());
        if good { End::Damaged } else { End::Torn }
    }

    fn length_at(&self, at: usize) -> Option<usize> {
        let length = u32::from_le_bytes(self.bytes.get(at..at + 4)?.try_into().ok()?);
        let length = usize::try_from(length).ok().filter(|length| *length <= LARGEST)?;
        (length > 0 && at + FRAME_HEAD + length <= self.bytes.len()).then_some(length)
    }

    fn frame_at(&self, at: usize) -> Option<&'a [u8]> {
        let length = self.length_at(at)?;
        let payload = self.bytes.get(at + FRAME_HEAD..at + FRAME_HEAD + length)?;
        let found = self.bytes.get(at + 4..at + FRAME_HEAD)?;
        let head = self.bytes.get(at..at + 4)?.try_into().ok()?;
        (found == sum(head, payload)).then_some(payload)
    }
}

impl<'a> Iterator for Frames<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let payload = self.frame_at(self.at)?;
        self.at += FRAME_HEAD + payload.len();
        Some(payload)
    }
}

/// A file's bytes, up to a bound.
pub(super) fn read(path: &Path) -> io::Result<Vec<u8>> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    fs_err::File::open(path)?.take(LARGEST_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LARGEST_FILE {
        return Err(io::Error::other(format!("it is larger than {LARGEST_FILE} bytes")));
    }
    Ok(bytes)
}

/// Smaller, for the disk.
pub(super) fn pack(bytes: &[u8]) -> io::Result<Vec<u8>> {
    use std::io::Write as _;
    let room = Vec::with_capacity(bytes.len() / 2);
    let mut packer = flate2::write::DeflateEncoder::new(room, flate2::Compression::default());
    packer.write_all(bytes)?;
    packer.finish()
}

/// As it was; nothing beyond the bound is unpacked.
pub(super) fn unpack(bytes: &[u8]) -> io::Result<Vec<u8>> {
    use std::io::Read as _;
    let most = 8 * LARGEST as u64;
    let mut unpacked = Vec::new();
    flate2::read::DeflateDecoder::new(bytes).take(most + 1).read_to_end(&mut unpacked)?;
    if unpacked.len() as u64 > most {
        return Err(io::Error::other("it unpacks to more than it may"));
    }
    Ok(unpacked)
}

/// Make the names in a folder survive a power cut.
pub(super) fn sync_folder(folder: &Path) -> io::Result<()> {
    fs_err::File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIND: &[u8; HEAD] = b"kdc-test";

    fn file(payloads: &[&[u8]]) -> Vec<u8> {
        let mut bytes = KIND.to_vec();
        payloads.iter().for_each(|payload| bytes.extend(seal(payload).unwrap()));
        bytes
    }

    fn count(bytes: &[u8]) -> Option<(usize, End)> {
        let mut frames = Frames::of(bytes, KIND)?;
        Some((frames.by_ref().count(), frames.end()))
    }

    #[test]
    fn every_cut_leaves_the_whole_frames_before_it() {
        let bytes = file(&[b"one", b"twotwo", &[5; 100]]);
        let ends = [HEAD, HEAD + 23, HEAD + 49, bytes.len()];
        for cut in HEAD..=bytes.len() {
            let whole = ends.iter().filter(|end| **end <= cut).count() - 1;
            let end = if ends.contains(&cut) { End::Whole } else { End::Torn };
            assert_eq!(count(&bytes[..cut]), Some((whole, end)), "{cut}");
            // A file system may leave zeros where the bytes never came.
            let mut zeros = bytes[..cut].to_vec();
            zeros.resize(bytes.len() + 50, 0);
            assert_eq!(count(&zeros).unwrap().0, whole, "zeros from {cut}");
        }
        assert_eq!(count(&bytes[..HEAD - 1]), None);
    }

    #[test]
    fn every_flipped_bit_is_noticed_and_damage_inside_is_told_apart_from_a_torn_end() {
        let bytes = file(&[b"one", b"twotwo"]);
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let found = count(&flipped);
            assert_ne!(found, Some((2, End::Whole)), "bit {bit}");
            if (HEAD + 4..HEAD + 23).contains(&(bit / 8)) {
                assert_eq!(found, Some((0, End::Damaged)), "bit {bit}");
            }
        }
    }

    #[test]
    fn what_is_packed_comes_back_and_a_bomb_does_not() {
        let bytes = vec![7; 100_000];
        let packed = pack(&bytes).unwrap();
        assert!(packed.len() < 1000);
        assert_eq!(unpack(&packed).unwrap(), bytes);
        assert!(unpack(&packed[..packed.len() / 2]).is_err());
        let bomb = pack(&vec![0; 8 * LARGEST + 1]).unwrap();
        assert!(unpack(&bomb).unwrap_err().to_string().contains("more than it may"));
    }
}
