//! The store: the bundle's content on this node, by digest, proved before it can be seen.
//!
//! A blob arrives as pieces, in any order, from several processes at once. Each piece is hashed and
//! compared with the signed index before its byte in the *have-map* is set; when the map is full
//! the file is fsynced and renamed to where readers look. So:
//!
//! * a file under `blobs/sha256/` was wholly proved, and was on the disk before it got its name;
//! * a kill leaves a partial whose have-map tells the truth, since both live in the page cache;
//! * a power cut may leave a have-map that is ahead of its data: a map that another boot wrote is
//!   proved again piece by piece before it counts;
//! * a reader ([`ProvedBlob`]) proves every piece once more before it hands out a byte of it.
//!
//! ```no_run
//! # fn main() -> Result<(), kdc_agent::store::StoreError> {
//! use kdc_agent::store::Store;
//! # let index: kdc_bundles::index::Digest = unimplemented!();
//! # let kubelet: kdc_bundles::index::Digest = unimplemented!();
//! let shelf = Store::system().shelf(&index)?;
//! let mut bytes = shelf.open(&kubelet)?;
//! std::io::copy(&mut bytes, &mut std::io::sink())?;
//! # Ok(()) }
//! ```

mod error;
mod partial;
pub mod peer;
mod prune;
mod receive;
mod source;

use std::{
    collections::BTreeSet,
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use kdc_bundles::{
    index::{Artifact, ArtifactKind, Blob, Digest, Index},
    keys::TrustedKeys,
    signature::{SignatureError, verify_index},
};

pub use self::{
    error::StoreError,
    prune::{Keep, Surplus},
    receive::receive,
    source::ProvedBlob,
};
use self::{error::write_failed, partial::Partial};
use crate::{
    step::change::{self, BlobError},
    wire::{Failure, MissingPieces},
};

/// Where the store of a real node is.
pub const STORE_PATH: &str = "/var/lib/kdc/store";

/// The store of a node. Making one touches nothing.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
    boot: String,
}

impl Store {
    /// The store of this node.
    #[must_use]
    pub fn system() -> Self {
        Self::at(Path::new(STORE_PATH))
    }

    /// A store elsewhere.
    #[must_use]
    pub fn at(root: &Path) -> Self {
        // Without a boot id nothing a former process wrote is believed: all of it is proved again.
        let boot = fs_err::read_to_string("/proc/sys/kernel/random/boot_id")
            .unwrap_or_else(|_| format!("unknown-{}", std::process::id()));
        Self::at_boot(root, boot.trim())
    }

    fn at_boot(root: &Path, boot: &str) -> Self {
        Self { root: root.to_owned(), boot: boot.to_owned() }
    }

    /// Verify a signed index against the operator's keys and keep it, with signature and keys.
    /// Nothing is written unless it verifies.
    ///
    /// # Errors
    /// When it is not signed by one of the keys, makes no sense, or can't be written.
    pub fn keep_index(
        &self,
        index: &str,
        signature: &str,
        keys: &[String],
    ) -> Result<Shelf, StoreError> {
        let parsed = prove_index(index, signature, keys)?;
        self.lay_out(index, parsed, signature, keys)
    }

    fn lay_out(
        &self,
        index: &str,
        parsed: Index,
        signature: &str,
        keys: &[String],
    ) -> Result<Shelf, StoreError> {
        let digest = Digest::of(index.as_bytes());
        for directory in ["", "index", "partial", "blobs", "blobs/sha256"] {
            self.create_directory(directory)?;
        }
        let keys = serde_json::to_vec(keys).map_err(std::io::Error::from)?;
        self.write_whole(&format!("index/{}.keys", digest.hex()), &keys)?;
        self.write_whole(&format!("index/{}.minisig", digest.hex()), signature.as_bytes())?;
        self.write_whole(&format!("index/{}.json", digest.hex()), index.as_bytes())?;
        let shelf = Shelf { store: self.clone(), index: Arc::new(parsed), digest };
        for blob in shelf.index.blobs.iter().filter(|blob| blob.size == 0) {
            self.write_whole(&format!("blobs/sha256/{}", blob.digest.hex()), b"")?;
        }
        Ok(shelf)
    }

    /// The content of a kept index. The signature is checked again.
    ///
    /// # Errors
    /// When that index was never kept, or no longer verifies.
    pub fn shelf(&self, digest: &Digest) -> Result<Shelf, StoreError> {
        let path = |ending: &str| self.root.join(format!("index/{}.{ending}", digest.hex()));
        let read = |ending: &str| {
            fs_err::read_to_string(path(ending)).map_err(|cause| match cause.kind() {
                std::io::ErrorKind::NotFound => StoreError::UnknownIndex { index: digest.clone() },
                _ => StoreError::Io(cause),
            })
        };
        let (index, signature, keys) = (read("json")?, read("minisig")?, read("keys")?);
        let keys: Vec<String> = serde_json::from_str(&keys).map_err(std::io::Error::from)?;
        let parsed = prove_index(&index, &signature, &keys)?;
        if Digest::of(index.as_bytes()) != *digest {
            return Err(StoreError::UnknownIndex { index: digest.clone() });
        }
        Ok(Shelf { store: self.clone(), index: Arc::new(parsed), digest: digest.clone() })
    }

    fn blob_path(&self, blob: &Digest) -> PathBuf {
        self.root.join("blobs/sha256").join(blob.hex())
    }

    fn has(&self, blob: &Blob) -> bool {
        fs_err::metadata(self.blob_path(&blob.digest)).is_ok_and(|meta| meta.len() == blob.size)
    }

    fn create_directory(&self, relative: &str) -> Result<(), StoreError> {
        let path = self.root.join(relative);
        if !path.is_dir() {
            let failed = |cause| write_failed(cause, &path, &Digest::of(b""), 0);
            fs_err::create_dir_all(&path).map_err(failed)?;
            fs_err::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
        }
        Ok(())
    }

    /// Write a small file so that it is there whole or not at all.
    fn write_whole(&self, relative: &str, content: &[u8]) -> Result<(), StoreError> {
        let path = self.root.join(relative);
        let directory = path.parent().unwrap_or(&self.root);
        let failed = |cause| write_failed(cause, &path, &Digest::of(content), content.len() as u64);
        let mut file = tempfile::NamedTempFile::new_in(directory).map_err(failed)?;
        file.write_all(content).map_err(failed)?;
        file.as_file().set_permissions(std::fs::Permissions::from_mode(0o644))?;
        file.as_file().sync_all().map_err(failed)?;
        file.persist(&path).map_err(|cause| failed(cause.error))?;
        sync_directory(directory)
    }
}

/// The content that one verified index names.
#[derive(Debug, Clone)]
pub struct Shelf {
    store: Store,
    index: Arc<Index>,
    digest: Digest,
}

impl Shelf {
    /// The verified index.
    #[must_use]
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// Digest of the index document.
    #[must_use]
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// The same content, but of its images only those for this platform and those for every one.
    #[must_use]
    pub fn with_images_of(mut self, platform: &str) -> Self {
        let fits = |artifact: &Artifact| {
            artifact.kind != ArtifactKind::Image
                || artifact.platform.as_deref().is_none_or(|of| of == platform)
        };
        Arc::make_mut(&mut self.index).artifacts.retain(fits);
        self
    }

    /// A reader over a complete blob that proves each piece before it hands out a byte of it.
    ///
    /// # Errors
    /// When the index does not name the blob or the store does not have it.
    pub fn open(&self, blob: &Digest) -> Result<ProvedBlob, StoreError> {
        self.blob(blob)?;
        ProvedBlob::open(&self.store.blob_path(blob), &self.index, blob)
    }

    /// Whether all of this blob is here.
    #[must_use]
    pub fn has(&self, blob: &Blob) -> bool {
        blob.size == 0 || self.store.has(blob)
    }

    /// Reads and proves a piece of a complete blob into `buffer`, whose old content is lost.
    ///
    /// # Errors
    /// When the index has no such piece, the blob is not complete here, or the bytes on the disk are
    /// not what the index says; then `buffer` is empty.
    pub fn read_piece(
        &self,
        ordinal: usize,
        piece: usize,
        buffer: &mut Vec<u8>,
    ) -> Result<(), StoreError> {
        buffer.clear();
        let blob = self.index.blobs.get(ordinal).filter(|blob| piece < blob.pieces.len());
        let blob = blob.ok_or(StoreError::NoPiece { ordinal, piece })?;
        let absent = || StoreError::Absent { blob: blob.digest.clone() };
        if !self.has(blob) {
            return Err(absent());
        }
        let path = self.store.blob_path(&blob.digest);
        let file = fs_err::File::open(&path).map_err(|cause| match cause.kind() {
            std::io::ErrorKind::NotFound => absent(),
            _ => StoreError::Io(cause),
        })?;
        let number = u32::try_from(piece).map_err(std::io::Error::other)?;
        let size = self.index.piece_size;
        Ok(source::read_piece((&file, &path), blob, size, number, buffer)?)
    }

    /// For each blob that is not complete: the ranges of pieces that are to be sent.
    ///
    /// # Errors
    /// When the index does not name a blob, or the store can't be read.
    pub fn missing(&self, blobs: &[Digest]) -> Result<Vec<MissingPieces>, StoreError> {
        let mut answer = Vec::new();
        for digest in blobs.iter().collect::<BTreeSet<_>>() {
            let blob = self.blob(digest)?;
            if blob.size == 0 || self.store.has(blob) {
                continue;
            }
            let ranges = self.missing_of(blob)?;
            if !ranges.is_empty() {
                answer.push(MissingPieces { blob: digest.clone(), ranges });
            }
        }
        Ok(answer)
    }

    fn missing_of(&self, blob: &Blob) -> Result<Vec<(u32, u32)>, StoreError> {
        if !Partial::exists(&self.store, blob) {
            return Ok(vec![(0, piece_count(blob))]);
        }
        let Some(partial) = Partial::open(&self.store, blob, self.index.piece_size)? else {
            return Ok(Vec::new());
        };
        let have = partial.have()?;
        let ranges = gaps(&have);
        if ranges.is_empty() {
            partial.complete(&self.store)?;
        }
        Ok(ranges)
    }

    fn blob(&self, digest: &Digest) -> Result<&Blob, StoreError> {
        self.index.blob(digest).ok_or_else(|| StoreError::UnknownBlob { blob: digest.clone() })
    }
}

/// The runs of zeroes in a have-map.
fn gaps(have: &[u8]) -> Vec<(u32, u32)> {
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for (piece, _) in (0_u32..).zip(have).filter(|(_, have)| **have == 0) {
        match ranges.last_mut() {
            Some((_, end)) if *end == piece => *end += 1,
            _ => ranges.push((piece, piece + 1)),
        }
    }
    ranges
}

fn piece_count(blob: &Blob) -> u32 {
    u32::try_from(blob.pieces.len()).unwrap_or(u32::MAX)
}

/// Bytes in one piece; only the last one of a blob is shorter.
fn piece_length(blob: &Blob, piece_size: u64, piece: u32) -> u64 {
    piece_size.min(blob.size.saturating_sub(u64::from(piece) * piece_size))
}

fn sync_directory(path: &Path) -> Result<(), StoreError> {
    Ok(fs_err::File::open(path)?.sync_all()?)
}

/// Signature first, over the exact bytes; only then is anything parsed.
fn prove_index(index: &str, signature: &str, keys: &[String]) -> Result<Index, StoreError> {
    let refused = |error: &dyn std::error::Error| StoreError::NotTrusted {
        reason: Failure::from_error("", error, None).message,
    };
    let keys =
        TrustedKeys::parse(keys.iter().map(String::as_str)).map_err(|error| refused(&error))?;
    match verify_index(index.as_bytes(), signature, &keys) {
        Ok(index) => Ok(index),
        Err(SignatureError::Index { source }) => {
            let reason = Failure::from_error("", &source, None).message;
            Err(StoreError::BadIndex { reason })
        }
        Err(error) => Err(refused(&error)),
    }
}

impl change::BlobSource for Shelf {
    fn open(&self, digest: &Digest) -> Result<Box<dyn std::io::Read + Send>, BlobError> {
        match Self::open(self, digest) {
            Ok(blob) => Ok(Box::new(blob)),
            Err(error) => Err(blob_error(digest, error)),
        }
    }

    fn size(&self, digest: &Digest) -> Result<u64, BlobError> {
        let blob = self.blob(digest).map_err(|error| blob_error(digest, error))?;
        Ok(blob.size)
    }
}

fn blob_error(digest: &Digest, error: StoreError) -> BlobError {
    let digest = digest.clone();
    match error {
        StoreError::Absent { .. } | StoreError::UnknownBlob { .. } => BlobError::Missing { digest },
        StoreError::Io(source) => BlobError::Read { digest, source },
        other => BlobError::Read { digest, source: std::io::Error::other(other) },
    }
}

/// Of a node that holds no index: every blob is missing. For surveys and undo, which read what is
/// on the host and want no content.
#[derive(Debug, Clone, Copy)]
pub struct EmptyShelf;

impl change::BlobSource for EmptyShelf {
    fn open(&self, digest: &Digest) -> Result<Box<dyn std::io::Read + Send>, BlobError> {
        Err(BlobError::Missing { digest: digest.clone() })
    }

    fn size(&self, digest: &Digest) -> Result<u64, BlobError> {
        Err(BlobError::Missing { digest: digest.clone() })
    }
}

#[cfg(test)]
pub(crate) mod tests;
