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
        let piece = self.next_piece;
        let entry = self.entry()?;
        let wanted = entry.pieces[piece as usize].clone();
        let length = piece_length(entry, self.index.piece_size, piece);
        self.taken = 0;
        self.buffer.resize(usize::try_from(length).unwrap_or(usize::MAX), 0);
        let read = self
            .file
            .file()
            .read_exact_at(&mut self.buffer, u64::from(piece) * self.index.piece_size);
        if let Err(cause) = read {
            self.buffer.clear();
            return Err(of(&self.path)(cause));
        }
        if Digest::of(&self.buffer) != wanted {
            self.buffer.clear();
            // Out of sight, so that the next `Missing` asks for it again.
            fs_err::remove_file(&self.path)?;
            let blob = self.blob.clone();
            let place = "on this node's disk; the file was removed";
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                StoreError::Mismatch { blob, piece, place },
            ));
        }
        self.next_piece += 1;
        Ok(())
    }
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
