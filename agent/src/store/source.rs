//! Reading a blob: every piece is proved against the signed index before a byte of it is used.

use std::{
    io::{self, Read},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use kdc_bundles::index::{Blob, Digest, Index};

use super::{StoreError, error::of, piece_length};

/// The bytes of one blob, proved as they are read. Holds one piece in memory.
#[derive(Debug)]
pub struct ProvedBlob {
    file: fs_err::File,
    path: PathBuf,
    index: Arc<Index>,
    blob: Digest,
    size: u64,
    next_piece: u32,
    buffer: Vec<u8>,
    taken: usize,
}

impl ProvedBlob {
    pub(super) fn open(
        path: &Path,
        index: &Arc<Index>,
        digest: &Digest,
    ) -> Result<Self, StoreError> {
        let absent = || StoreError::Absent { blob: digest.clone() };
        let blob = index.blob(digest).ok_or_else(absent)?;
        let file = fs_err::File::open(path).map_err(|cause| match cause.kind() {
            io::ErrorKind::NotFound => absent(),
            _ => StoreError::Io(cause),
        })?;
        if file.metadata()?.len() != blob.size {
            return Err(absent());
        }
        Ok(Self {
            file,
            path: path.to_owned(),
            index: Arc::clone(index),
            blob: digest.clone(),
            size: blob.size,
            next_piece: 0,
            buffer: Vec::new(),
            taken: 0,
        })
    }

    /// Length of the blob.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Digest of the blob.
    #[must_use]
    pub fn digest(&self) -> &Digest {
        &self.blob
    }

    fn entry(&self) -> io::Result<&Blob> {
        self.index.blob(&self.blob).ok_or_else(|| io::Error::other("the index lost a blob"))
    }

    fn load_next(&mut self) -> io::Result<()> {
        self.taken = 0;
        let (index, blob) = (Arc::clone(&self.index), self.blob.clone());
        let entry = index.blob(&blob).ok_or_else(|| io::Error::other("the index lost a blob"))?;
        let file = (&self.file, self.path.as_path());
        read_piece(file, entry, index.piece_size, self.next_piece, &mut self.buffer)?;
        self.next_piece += 1;
        Ok(())
    }
}

/// Reads and proves one piece of a complete blob; `buffer` is empty when that fails.
pub(super) fn read_piece(
    (file, path): (&fs_err::File, &Path),
    blob: &Blob,
    piece_size: u64,
    piece: u32,
    buffer: &mut Vec<u8>,
) -> io::Result<()> {
    let length = piece_length(blob, piece_size, piece);
    buffer.resize(usize::try_from(length).unwrap_or(usize::MAX), 0);
    let read = file.file().read_exact_at(buffer, u64::from(piece) * piece_size);
    if let Err(cause) = read {
        buffer.clear();
        return Err(of(path)(cause));
    }
    if Digest::of(buffer) == blob.pieces[piece as usize] {
        return Ok(());
    }
    buffer.clear();
    // Out of sight, so that the next `Missing` asks for it again.
    fs_err::remove_file(path)?;
    let blob = blob.digest.clone();
    let place = "on this node's disk; the file was removed";
    Err(io::Error::new(io::ErrorKind::InvalidData, StoreError::Mismatch { blob, piece, place }))
}

impl Read for ProvedBlob {
    fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
        if self.taken == self.buffer.len() {
            if self.next_piece as usize >= self.entry()?.pieces.len() {
                return Ok(0);
            }
            self.load_next()?;
        }
        let count = target.len().min(self.buffer.len() - self.taken);
        target[..count].copy_from_slice(&self.buffer[self.taken..self.taken + count]);
        self.taken += count;
        Ok(count)
    }
}
