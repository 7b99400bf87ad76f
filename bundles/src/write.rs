//! Writing a bundle (feature `create`): index, signature and blobs to one file.
//!
//! The index comes first in the file, so whoever builds a bundle hashes every blob once
//! ([`hash_blob`]), signs, and then streams the blobs. What is streamed is hashed again and compared:
//! a source that changed in between is an error, not a broken bundle.

use std::{
    io::{self, BufWriter, Read, Write},
    path::Path,
};

use sha2::{Digest as _, Sha256};

use crate::{
    index::{Blob, Digest, Index, IndexError, MAX_INDEX_BYTES},
    keys::KeyId,
    layout,
    member::{self, BLOCK},
    parts::{PartsError, PartsWriter, Split, SplitError, Written},
    signature::signers,
    signing::Signer,
    sparse::SparseFile,
};

/// Why a bundle can't be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The index breaks a rule.
    #[error("the bundle's index would not be accepted")]
    Index {
        /// The rule.
        #[source]
        source: IndexError,
    },
    /// The content of a blob can't be read.
    #[error("the content of {digest} can't be read")]
    Read {
        /// The blob.
        digest: Digest,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The content of a blob changed between hashing and writing.
    #[error("the content of {digest} changed while the bundle was written")]
    Changed {
        /// The blob.
        digest: Digest,
    },
    /// The bundle can't be split so.
    #[error("the bundle can't be split")]
    Split {
        /// Why.
        #[source]
        source: SplitError,
    },
    /// The bundle can't be written.
    #[error("the bundle can't be written")]
    Write {
        /// What the system says.
        #[source]
        source: io::Error,
    },
}

/// Hashes content once: size, digest and digests of the pieces.
///
/// # Errors
/// When reading fails.
pub fn hash_blob(
    mut content: impl Read,
    piece_size: u64,
    bytes: &mut dyn FnMut(u64),
) -> io::Result<Blob> {
    let mut buffer = vec![0; piece_size as usize];
    let (mut whole, mut size, mut pieces) = (Sha256::new(), 0, Vec::new());
    loop {
        let length = fill(&mut content, &mut buffer)?;
        if length == 0 {
            break;
        }
        let piece = &buffer[..length];
        // Two digests of the same bytes: on two cores they cost the time of one.
        let digest = std::thread::scope(|scope| {
            let digest = scope.spawn(|| Digest::of(piece));
            whole.update(piece);
            digest.join()
        });
        pieces.push(digest.map_err(|_| io::Error::other("hashing a piece failed"))?);
        size += length as u64;
        bytes(length as u64);
    }
    Ok(Blob { digest: Digest::from_bytes(&whole.finalize().into()), size, pieces })
}

/// Reads until the buffer is full or the content ends.
fn fill(content: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut length = 0;
    while length < buffer.len() {
        match content.read(&mut buffer[length..]) {
            Ok(0) => break,
            Ok(more) => length += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(length)
}

/// Writes a bundle to `path`: whole and durable, or not at all. `open` gives the content of each
/// blob; `bytes` is told of content written. Gives the file's length.
///
/// # Errors
/// When the index breaks a rule, a blob is not what the index says, or the system fails.
pub fn write_file<R: Read>(
    path: &Path,
    index: &Index,
    key: &dyn Signer,
    open: impl FnMut(&Digest) -> io::Result<R>,
    bytes: &mut dyn FnMut(u64),
) -> Result<u64, WriteError> {
    let failed = |source| WriteError::Write { source };
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut builder = tempfile::Builder::new();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    let file = builder.prefix(".kdc-bundle-").permissions(mode).tempfile_in(folder);
    let file = file.map_err(failed)?;
    let mut sparse = SparseFile::new(file.as_file());
    write(&mut sparse, index, key, open, bytes)?;
    let length = sparse.finish().map_err(failed)?;
    file.persist(path).map_err(|error| failed(error.error))?;
    fs_err::File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)?;
    Ok(length)
}

/// As [`write_file`], but in parts named after `path` ([`crate::parts`]).
///
/// # Errors
/// As [`write_file`], and when the bundle can't be split so.
pub fn write_parts<R: Read>(
    path: &Path,
    index: &Index,
    key: &dyn Signer,
    split: Split,
    open: impl FnMut(&Digest) -> io::Result<R>,
    bytes: &mut dyn FnMut(u64),
) -> Result<Written, WriteError> {
    index.check().map_err(|source| WriteError::Index { source })?;
    let mut parts = PartsWriter::new(path, index, &index.to_bytes(), &key.sign(index), split)
        .map_err(|source| WriteError::Split { source })?;
    write(&mut parts, index, key, open, bytes)?;
    parts.finish(&mut |_| {}).map_err(|error| match error {
        PartsError::Write { path, source } => {
            let text = format!("`{}`: {source}", path.display());
            WriteError::Write { source: io::Error::new(source.kind(), text) }
        }
        PartsError::Split { source } => WriteError::Split { source },
        PartsError::InTheWay { .. } => {
            WriteError::Write { source: io::ErrorKind::AlreadyExists.into() }
        }
        PartsError::Bundle(error) => WriteError::Write { source: io::Error::other(error) },
    })
}

/// As [`write_file`], with signatures that were made before: how a bundle is put together again
/// elsewhere, byte for byte. Whether they are good is for the caller to know.
///
/// # Errors
/// As [`write_file`].
pub fn write_signed_file<R: Read>(
    path: &Path,
    index: &Index,
    signatures: &str,
    open: impl FnMut(&Digest) -> io::Result<R>,
    bytes: &mut dyn FnMut(u64),
) -> Result<u64, WriteError> {
    write_file(path, index, &Signed(signatures), open, bytes)
}

/// Signatures that were made before, by whoever made them.
struct Signed<'t>(&'t str);

impl Signer for Signed<'_> {
    fn sign(&self, _: &Index) -> String {
        self.0.to_owned()
    }

    /// Nobody, where the text is none of signatures.
    fn ids(&self) -> Vec<KeyId> {
        signers(self.0).unwrap_or_default()
    }
}

/// Writes a bundle to `output`. Gives the number of bytes.
///
/// # Errors
/// As [`write_file`]; then what was written is no bundle.
pub fn write<R: Read>(
    output: impl Write,
    index: &Index,
    key: &dyn Signer,
    mut open: impl FnMut(&Digest) -> io::Result<R>,
    bytes: &mut dyn FnMut(u64),
) -> Result<u64, WriteError> {
    let failed = |source| WriteError::Write { source };
    index.check().map_err(|source| WriteError::Index { source })?;
    let index_bytes = index.to_bytes();
    let found = index_bytes.len() as u64;
    if found > MAX_INDEX_BYTES {
        return Err(WriteError::Index { source: IndexError::TooLarge { found } });
    }
    let mut output = Output { inner: BufWriter::new(output), length: 0 };
    output.put(&layout::head(index, &index_bytes, &key.sign(index))).map_err(failed)?;
    let mut buffer = vec![0; index.piece_size as usize];
    for blob in &index.blobs {
        let read = |source| WriteError::Read { digest: blob.digest.clone(), source };
        let mut content = open(&blob.digest).map_err(read)?;
        output.put(&member::header(&member::blob_name(&blob.digest), blob.size)).map_err(failed)?;
        for expected in &blob.pieces {
            let length = fill(&mut content, &mut buffer).map_err(read)?;
            if Digest::of(&buffer[..length]) != *expected {
                return Err(WriteError::Changed { digest: blob.digest.clone() });
            }
            output.put(&buffer[..length]).map_err(failed)?;
            bytes(length as u64);
        }
        if fill(&mut content, &mut buffer[..1]).map_err(read)? != 0 {
            return Err(WriteError::Changed { digest: blob.digest.clone() });
        }
        output.pad(blob.size).map_err(failed)?;
    }
    output.put(&[0; member::END_BYTES]).map_err(failed)?;
    output.inner.flush().map_err(failed)?;
    Ok(output.length)
}

/// A writer that counts.
struct Output<W: Write> {
    inner: BufWriter<W>,
    length: u64,
}

impl<W: Write> Output<W> {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.length += bytes.len() as u64;
        self.inner.write_all(bytes)
    }

    fn pad(&mut self, size: u64) -> io::Result<()> {
        self.put(&[0; BLOCK][..member::padding(size)])
    }
}
