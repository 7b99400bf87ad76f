//! What is at hand: bundles, and folders that hold blobs by digest (a store, a cache, an OCI layout).

use std::{
    collections::BTreeMap,
    io::{self, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use kdc_bundles::{
    index::{ArtifactKind, Digest, Index, MAX_INDEX_BYTES},
    keys::TrustedKeys,
    open::BundleFile,
    reader::BlobReader,
    signature::{MAX_SIGNATURE_BYTES, verify_index},
};

use super::{
    problem::DeltaError,
    spool::{hash, invalid},
};

/// Bundles and folders with blobs, asked in order.
#[derive(Debug, Default)]
pub struct Holdings {
    holders: Vec<Holder>,
}

#[derive(Debug)]
enum Holder {
    Bundle(Box<BundleFile>),
    Folder { blobs: PathBuf, indexes: Vec<Index> },
}

impl Holdings {
    /// Nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an open bundle.
    pub fn add_bundle(&mut self, bundle: BundleFile) {
        self.holders.push(Holder::Bundle(Box::new(bundle)));
    }

    /// Adds a folder with `blobs/sha256/<hex>`. Indexes that a store keeps beside them
    /// (`index/<hex>.json`) say what the blobs are; those that no trusted key signed are passed over.
    ///
    /// # Errors
    /// When the folder can't be read.
    pub fn add_folder(&mut self, folder: &Path, keys: &TrustedKeys) -> Result<(), DeltaError> {
        let blobs = folder.join("blobs/sha256");
        let failed = |source| DeltaError::File { path: blobs.clone(), source };
        fs_err::read_dir(&blobs).map_err(failed)?;
        let mut indexes = Vec::new();
        if let Ok(entries) = fs_err::read_dir(folder.join("index")) {
            for entry in entries {
                let path = entry.map_err(failed)?.path();
                if path.extension().is_some_and(|extension| extension == "json") {
                    indexes.extend(kept_index(&path, keys));
                }
            }
        }
        indexes.sort_by(|left, right| left.bundle_version.cmp(&right.bundle_version));
        self.holders.push(Holder::Folder { blobs, indexes });
        Ok(())
    }

    /// The indexes of all bundles, and those that folders keep.
    pub fn indexes(&self) -> impl Iterator<Item = &Index> {
        self.holders.iter().flat_map(|holder| match holder {
            Holder::Bundle(bundle) => std::slice::from_ref(bundle.index()),
            Holder::Folder { indexes, .. } => indexes,
        })
    }

    /// Every blob at hand with its size, sorted; of folders only what has a digest for a name.
    pub(super) fn blobs(&self) -> Result<BTreeMap<Digest, u64>, DeltaError> {
        let mut all = BTreeMap::new();
        for holder in &self.holders {
            match holder {
                Holder::Bundle(bundle) => {
                    let blobs = bundle.index().blobs.iter();
                    all.extend(blobs.map(|blob| (blob.digest.clone(), blob.size)));
                }
                Holder::Folder { blobs, .. } => list_folder(blobs, &mut all)
                    .map_err(|source| DeltaError::File { path: blobs.clone(), source })?,
            }
        }
        Ok(all)
    }

    /// Whether a blob is at hand.
    pub(super) fn has(&self, digest: &Digest) -> bool {
        self.holders.iter().any(|holder| match holder {
            Holder::Bundle(bundle) => bundle.index().blob(digest).is_some(),
            Holder::Folder { blobs, .. } => blobs.join(digest.hex()).is_file(),
        })
    }

    /// Opens a blob. What a folder holds is hashed first; what a bundle holds is proved as it is
    /// read.
    pub(super) fn open(&self, digest: &Digest) -> io::Result<Content<'_>> {
        for holder in &self.holders {
            match holder {
                Holder::Bundle(bundle) => {
                    if let Some(reader) = BlobReader::new(bundle, digest) {
                        return Ok(Content::Bundle(reader));
                    }
                }
                Holder::Folder { blobs, .. } => {
                    let path = blobs.join(digest.hex());
                    if path.is_file() {
                        return open_file(&path, digest).map(Content::File);
                    }
                }
            }
        }
        Err(io::ErrorKind::NotFound.into())
    }
}

/// An index as a store keeps it, if a trusted key signed it.
fn kept_index(path: &Path, keys: &TrustedKeys) -> Option<Index> {
    let read = |path: &Path, most: u64| {
        let mut bytes = Vec::new();
        fs_err::File::open(path).ok()?.take(most).read_to_end(&mut bytes).ok()?;
        Some(bytes)
    };
    let signature = read(&path.with_extension("minisig"), MAX_SIGNATURE_BYTES + 1)?;
    let index = read(path, MAX_INDEX_BYTES + 1)?;
    verify_index(&index, std::str::from_utf8(&signature).ok()?, keys).ok()
}

fn list_folder(folder: &Path, all: &mut BTreeMap<Digest, u64>) -> io::Result<()> {
    for entry in fs_err::read_dir(folder)? {
        let entry = entry?;
        let name = format!("sha256:{}", entry.file_name().to_string_lossy());
        let metadata = entry.metadata()?;
        if let (Ok(digest), true) = (Digest::try_from(name), metadata.is_file()) {
            all.insert(digest, metadata.len());
        }
    }
    Ok(())
}

fn open_file(path: &Path, digest: &Digest) -> io::Result<fs_err::File> {
    let mut file = fs_err::File::open(path)?;
    let found = hash(&mut file)?;
    if found != *digest {
        return Err(invalid(format!("`{}` is damaged: it has {found}", path.display())));
    }
    file.rewind()?;
    Ok(file)
}

/// A blob that is open.
#[derive(Debug)]
pub(super) enum Content<'h> {
    Bundle(BlobReader<'h>),
    File(fs_err::File),
}

impl Read for Content<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Bundle(reader) => reader.read(buffer),
            Self::File(file) => file.read(buffer),
        }
    }
}

impl Seek for Content<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        match self {
            Self::Bundle(reader) => reader.seek(to),
            Self::File(file) => file.seek(to),
        }
    }
}

/// What each blob of an index is for, in words that stay the same from release to release: kind,
/// name (of an image without its tag), platform, place in the artifact.
pub(super) fn labels(index: &Index) -> BTreeMap<&Digest, Vec<String>> {
    let mut all: BTreeMap<&Digest, Vec<String>> = BTreeMap::new();
    for artifact in &index.artifacts {
        let mut name = artifact.name.as_str();
        if artifact.kind == ArtifactKind::Image {
            name = name.split('@').next().unwrap_or(name);
            let tag = name.rfind(':').filter(|colon| !name[*colon..].contains('/'));
            name = tag.map_or(name, |colon| &name[..colon]);
        }
        let platform = artifact.platform.as_deref().unwrap_or("-");
        for (place, digest) in artifact.blobs.iter().enumerate() {
            let label = format!("{} {name} {platform} {place}", artifact.kind);
            all.entry(digest).or_default().push(label);
        }
    }
    all
}
