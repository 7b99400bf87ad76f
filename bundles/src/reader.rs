//! One blob of an open bundle as a stream: for whoever wants to read on, seek, and stop early.

use std::io::{self, Read, Seek, SeekFrom};

use crate::{index::Digest, open::BundleFile};

/// Reads a blob. Every piece is proved before a byte of it is handed out; a piece that does not fit
/// the signed index is an error of the kind `InvalidData`, with the `VerifyError` inside.
#[derive(Debug)]
pub struct BlobReader<'b> {
    bundle: &'b BundleFile,
    ordinal: usize,
    size: u64,
    at: u64,
    /// The piece in `buffer`, if any.
    piece: Option<usize>,
    buffer: Vec<u8>,
}

impl<'b> BlobReader<'b> {
    /// A reader at the start of that blob; `None` if the bundle has no such blob.
    #[must_use]
    pub fn new(bundle: &'b BundleFile, digest: &Digest) -> Option<Self> {
        let ordinal = bundle.index().ordinal(digest)?;
        let size = bundle.index().blobs[ordinal].size;
        Some(Self { bundle, ordinal, size, at: 0, piece: None, buffer: Vec::new() })
    }
}

impl Read for BlobReader<'_> {
    fn read(&mut self, output: &mut [u8]) -> io::Result<usize> {
        if self.at >= self.size || output.is_empty() {
            return Ok(0);
        }
        let piece_size = self.bundle.index().piece_size;
        let piece = (self.at / piece_size) as usize;
        if self.piece != Some(piece) {
            self.piece = None;
            self.bundle
                .read_piece_into(self.ordinal, piece, &mut self.buffer)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            self.piece = Some(piece);
        }
        let rest = &self.buffer[(self.at % piece_size) as usize..];
        let length = rest.len().min(output.len());
        output[..length].copy_from_slice(&rest[..length]);
        self.at += length as u64;
        Ok(length)
    }
}

impl Seek for BlobReader<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.size.checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = at.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}
