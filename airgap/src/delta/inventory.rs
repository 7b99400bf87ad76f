//! An inventory: what a site has, in a file that it can send to the builder.
//!
//! It names every blob by digest, says what it is for, and lists the content-defined chunks of its
//! unpacked form. A builder who still has the old contents needs the digests only; one who
//! hasn't finds equal chunks. The file carries its own digest, against damage on the way; it proves
//! nothing about who made it and need not: an update made from a false one is of no use, and no more.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    path::Path,
};

use base64::{Engine as _, prelude::BASE64_STANDARD_NO_PAD};
use kdc_bundles::index::Digest;
use serde::{Deserialize, Serialize};

use super::{
    chunks::{Chunk, ChunkDigest, Fineness},
    holdings::{Holdings, labels},
    layout::{Part, unpacked_bytes},
    members, number,
    problem::DeltaError,
    spool::Spool,
    unpack::{self, Purpose},
};
use crate::{Observer, Work, delta::folder_of};

/// The version of the format, and of the constants that chunks are cut with.
const VERSION: u32 = 2;

/// Largest inventory read. Chunks are so large that one for 100 GiB is smaller.
const MAX_BYTES: u64 = 256 * 1024 * 1024;

/// Blobs smaller than this have no chunks listed: one digest says it all.
const WORTH_BYTES: u64 = 64 * 1024;

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Document {
    kind: String,
    version: u32,
    /// Of `content` as it is written here.
    digest: Digest,
    content: Inventory,
}

/// What a site has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Inventory {
    /// Name and version of each bundle, for people.
    pub bundles: Vec<String>,
    /// How its chunks are cut.
    pub(super) fineness: Fineness,
    /// Every blob, sorted by digest.
    pub(super) blobs: Vec<HeldBlob>,
}

/// One blob at a site.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct HeldBlob {
    pub(super) digest: Digest,
    pub(super) size: u64,
    /// What it is for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) labels: Vec<String>,
    /// How it unpacks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) layout: Vec<Part>,
    /// Length (as in [`number`]) and the start of the sha256 of each chunk, in base64.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    chunks: String,
}

impl HeldBlob {
    /// A blob that is known by digest only.
    pub(super) fn plain(digest: Digest, size: u64, mut labels: Vec<String>) -> Self {
        labels.sort();
        labels.dedup();
        Self { digest, size, labels, layout: Vec::new(), chunks: String::new() }
    }

    /// Its chunks, if they are listed and cover its unpacked form.
    pub(super) fn chunks(&self) -> Option<Vec<Chunk>> {
        let bytes = BASE64_STANDARD_NO_PAD.decode(&self.chunks).ok()?;
        let (mut rest, mut all, mut start) = (bytes.as_slice(), Vec::new(), 0_u64);
        while !rest.is_empty() {
            let length = u32::try_from(number::take(&mut rest).ok()?).ok()?;
            let (digest, after) = rest.split_first_chunk()?;
            all.push(Chunk { start, length, digest: ChunkDigest::from_le_bytes(*digest) });
            (rest, start) = (after, start + u64::from(length));
        }
        let covered = unpacked_bytes(&self.layout, self.size) == Some(start);
        (covered && !all.is_empty()).then_some(all)
    }
}

impl Inventory {
    /// Looks through everything at hand: each blob is read whole, and proved.
    ///
    /// # Errors
    /// When a blob can't be read or is damaged, or there is no room for its unpacked form in
    /// `folder`.
    pub fn take(
        holdings: &Holdings,
        folder: &Path,
        observer: &mut dyn Observer,
    ) -> Result<Self, DeltaError> {
        let mut purposes: BTreeMap<Digest, Vec<String>> = BTreeMap::new();
        let mut bundles = Vec::new();
        for index in holdings.indexes() {
            bundles.push(format!("{} {}", index.name, index.bundle_version));
            for (digest, words) in labels(index) {
                purposes.entry(digest.clone()).or_default().extend(words);
            }
        }
        let all = holdings.blobs()?;
        let fineness = Fineness::for_content(all.values().sum());
        observer.started(Work::Hashing, all.values().sum());
        let mut blobs = Vec::with_capacity(all.len());
        for (digest, size) in all {
            let words = purposes.remove(&digest).unwrap_or_default();
            let mut blob = HeldBlob::plain(digest, size, words);
            look_into(&mut blob, holdings, fineness, folder)?;
            observer.bytes(size);
            blobs.push(blob);
        }
        observer.finished(Work::Hashing);
        Ok(Self { bundles, fineness, blobs })
    }

    /// Writes it to `path`, whole or not at all; gives its length.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn save(&self, path: &Path) -> Result<u64, DeltaError> {
        let failed = |source| DeltaError::File { path: path.to_owned(), source };
        let document = Document {
            kind: KIND.to_owned(),
            version: VERSION,
            digest: Digest::of(&to_bytes(self)),
            content: self.clone(),
        };
        let bytes = to_bytes(&document);
        let folder = folder_of(path);
        let mut builder = tempfile::Builder::new();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
        let file = builder.prefix(".kdc-inventory-").permissions(mode).tempfile_in(folder);
        let mut file = file.map_err(failed)?;
        file.write_all(&bytes).map_err(failed)?;
        file.as_file().sync_all().map_err(failed)?;
        file.persist(path).map_err(|error| failed(error.error))?;
        fs_err::File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)?;
        Ok(bytes.len() as u64)
    }

    /// Reads one and proves that it is whole.
    ///
    /// # Errors
    /// When the file can't be read, or is not exactly what [`Inventory::save`] wrote.
    pub fn load(path: &Path) -> Result<Self, DeltaError> {
        let failed = |source| DeltaError::File { path: path.to_owned(), source };
        let mut bytes = Vec::new();
        let file = fs_err::File::open(path).map_err(failed)?;
        file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
        Self::parse(&bytes).map_err(|what| DeltaError::Damaged {
            path: path.to_owned(),
            kind: "inventory",
            what,
        })
    }

    fn parse(bytes: &[u8]) -> Result<Self, String> {
        if bytes.len() as u64 > MAX_BYTES {
            return Err(format!("it has more than {MAX_BYTES} bytes"));
        }
        let document: Document =
            serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        if document.kind != KIND || document.version != VERSION {
            return Err(format!("it is not a {KIND} of version {VERSION}"));
        }
        let found = Digest::of(&to_bytes(&document.content));
        if found != document.digest {
            return Err(format!("its content has {found}, it says {}", document.digest));
        }
        let sorted = document.content.blobs.is_sorted_by(|left, right| left.digest < right.digest);
        if !sorted {
            return Err("its blobs are not sorted by digest, each once".to_owned());
        }
        Ok(document.content)
    }

    /// Number of blobs.
    #[must_use]
    pub fn blob_count(&self) -> usize {
        self.blobs.len()
    }
}

const KIND: &str = "BundleInventory";

fn to_bytes(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("strings, numbers and lists always have a JSON form")
}

/// Reads a blob whole, and notes layout and chunks.
fn look_into(
    blob: &mut HeldBlob,
    holdings: &Holdings,
    fineness: Fineness,
    folder: &Path,
) -> Result<(), DeltaError> {
    let read = |source| DeltaError::Read { digest: blob.digest.clone(), source };
    let mut content = holdings.open(&blob.digest).map_err(read)?;
    if blob.size < WORTH_BYTES {
        std::io::copy(&mut content, &mut std::io::sink()).map_err(read)?;
        return Ok(());
    }
    let mut spool = Spool::new(folder)
        .map_err(|source| DeltaError::File { path: folder.to_owned(), source })?;
    let layout = unpack::open_up(&mut content, blob.size, &mut spool, Purpose::Base);
    let mut bytes = Vec::new();
    let layout = layout.map_err(read)?;
    let units = members::divide(&spool, &layout).map_err(read)?;
    members::cut(&spool, &units, fineness, |chunk| {
        number::put(&mut bytes, chunk.length.into());
        bytes.extend_from_slice(&chunk.digest.to_le_bytes());
    })
    .map_err(read)?;
    blob.layout = layout;
    blob.chunks = BASE64_STANDARD_NO_PAD.encode(bytes);
    Ok(())
}
