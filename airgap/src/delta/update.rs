//! The update file: a tar like a bundle, with everything in it proved before any of it is used.
//!
//! | Member | Content |
//! |---|---|
//! | `kdc-update.sha256` | digest of the next member, as `sha256sum` writes it |
//! | `kdc-update.json` | the [`Manifest`]: what the patches start from, and how blobs are packed |
//! | `kdc-index.json`, `kdc-index.json.minisig` | the new bundle's, signed by its builder |
//! | `patches/<hex>` | operations that make that blob, sorted |
//!
//! The digests are against damage. Against malice stands the signed index: whatever an update does,
//! only what the builder signed becomes a bundle.

use std::{
    fs::File,
    io::{self, BufReader, Read, Write},
    os::unix::fs::FileExt,
    path::Path,
};

use kdc_bundles::{
    index::{Digest, Index, MAX_INDEX_BYTES},
    keys::TrustedKeys,
    member::{self, BLOCK, END_BYTES, INDEX_NAME, SIGNATURE_NAME},
    signature::{MAX_SIGNATURE_BYTES, verify_index},
};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{
    folder_of,
    layout::{Part, unpacked_bytes},
    problem::DeltaError,
    spool::Spool,
};

const DIGEST_NAME: &str = "kdc-update.sha256";
const MANIFEST_NAME: &str = "kdc-update.json";
const VERSION: u32 = 2;

/// Largest manifest read.
const MAX_MANIFEST_BYTES: u64 = 64 * 1024 * 1024;

/// Old blobs that one patch may start from.
pub(super) const MAX_BASES: usize = 16;

/// What an update does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Manifest {
    pub(super) version: u32,
    /// Digest of the new index.
    pub(super) index: Digest,
    /// Blobs that patches start from, and how they unpack.
    pub(super) bases: Vec<OldBlob>,
    /// Blobs that are made, sorted by digest. All others have to be at the site.
    pub(super) patches: Vec<Patch>,
}

/// A blob that a patch starts from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct OldBlob {
    pub(super) digest: Digest,
    pub(super) size: u64,
    pub(super) layout: Vec<Part>,
}

/// How a blob is made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Patch {
    /// The blob.
    pub(super) blob: Digest,
    /// How it is packed from what the operations make.
    pub(super) layout: Vec<Part>,
    /// What the operations refer to: numbers in the manifest's list.
    pub(super) bases: Vec<usize>,
    /// Length of the member with the operations.
    pub(super) size: u64,
    /// Its digest.
    pub(super) digest: Digest,
}

impl Manifest {
    pub(super) fn new(index: Digest) -> Self {
        Self { version: VERSION, index, bases: Vec::new(), patches: Vec::new() }
    }

    /// The first thing in it that can't be.
    fn check(&self, index: &Index) -> Result<(), String> {
        if self.version != VERSION {
            return Err(format!("it has version {}, not {VERSION}", self.version));
        }
        for base in &self.bases {
            if unpacked_bytes(&base.layout, base.size).is_none() {
                return Err(format!("the layout of {} does not fit it", base.digest));
            }
        }
        if !self.patches.is_sorted_by(|left, right| left.blob < right.blob) {
            return Err("its patches are not sorted by blob, each once".to_owned());
        }
        for patch in &self.patches {
            let blob = &patch.blob;
            let Some(known) = index.blob(blob) else {
                return Err(format!("it patches {blob}, which the new bundle does not have"));
            };
            if unpacked_bytes(&patch.layout, known.size).is_none() {
                return Err(format!("the layout of {blob} does not fit it"));
            }
            let known = |number: &usize| *number < self.bases.len();
            if patch.bases.len() > MAX_BASES || !patch.bases.iter().all(known) {
                return Err(format!("the bases of {blob} are not in its list, or too many"));
            }
        }
        Ok(())
    }
}

/// Writes an update to `path`, whole or not at all. `patches` holds the operations of all patches
/// one after the other. Gives the file's length.
pub(super) fn write(
    path: &Path,
    manifest: &Manifest,
    (index, signature): (&[u8], &str),
    patches: &Spool,
) -> io::Result<u64> {
    let bytes = serde_json::to_vec(manifest).map_err(io::Error::other)?;
    if bytes.len() as u64 > MAX_MANIFEST_BYTES {
        return Err(io::Error::other("the update's manifest would be too large"));
    }
    let sum = format!("{}  {MANIFEST_NAME}\n", Digest::of(&bytes).hex());
    let mut builder = tempfile::Builder::new();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    let mut file = builder.prefix(".kdc-update-").permissions(mode).tempfile_in(folder_of(path))?;
    let mut output = io::BufWriter::new(file.as_file_mut());
    for (name, content) in [
        (DIGEST_NAME, sum.as_bytes()),
        (MANIFEST_NAME, &bytes),
        (INDEX_NAME, index),
        (SIGNATURE_NAME, signature.as_bytes()),
    ] {
        put(&mut output, name, &mut &*content, content.len() as u64)?;
    }
    let mut at = 0;
    for patch in &manifest.patches {
        put(&mut output, &patch_name(&patch.blob), &mut patches.range(at, patch.size), patch.size)?;
        at += patch.size;
    }
    output.write_all(&[0; END_BYTES])?;
    output.flush()?;
    drop(output);
    file.as_file().sync_all()?;
    let length = file.as_file().metadata()?.len();
    file.persist(path).map_err(|error| error.error)?;
    fs_err::File::open(folder_of(path))?.sync_all()?;
    Ok(length)
}

fn patch_name(blob: &Digest) -> String {
    format!("patches/{}", blob.hex())
}

fn put(output: &mut impl Write, name: &str, content: &mut impl Read, size: u64) -> io::Result<()> {
    output.write_all(&member::header(name, size))?;
    io::copy(content, output)?;
    output.write_all(&[0; BLOCK][..member::padding(size)])
}

/// An update of which every byte was proved.
#[derive(Debug)]
pub(super) struct UpdateFile {
    file: File,
    pub(super) manifest: Manifest,
    pub(super) index: Index,
    pub(super) signature: String,
    /// Where each patch begins.
    starts: Vec<u64>,
    pub(super) length: u64,
}

impl UpdateFile {
    /// Reads all of an update and proves it: the index against `keys`, everything else against the
    /// digests.
    pub(super) fn open(path: &Path, keys: &TrustedKeys) -> Result<Self, DeltaError> {
        let failed = |source| DeltaError::File { path: path.to_owned(), source };
        let damaged = |what| DeltaError::Damaged { path: path.to_owned(), kind: "update", what };
        let file = fs_err::File::open(path).map_err(failed)?;
        let length = file.metadata().map_err(failed)?.len();
        let file = file.into_file();
        let mut members = Members { input: BufReader::new(&file), at: 0 };
        let sum = members.small(DIGEST_NAME, 1024).map_err(damaged)?;
        let bytes = members.small(MANIFEST_NAME, MAX_MANIFEST_BYTES).map_err(damaged)?;
        let digest = Digest::of(&bytes);
        if sum != format!("{}  {MANIFEST_NAME}\n", digest.hex()).as_bytes() {
            return Err(damaged(format!(
                "`{MANIFEST_NAME}` has {digest}, which is not its digest"
            )));
        }
        let manifest: Manifest = serde_json::from_slice(&bytes)
            .map_err(|error| damaged(format!("`{MANIFEST_NAME}` can't be read: {error}")))?;
        let index_bytes = members.small(INDEX_NAME, MAX_INDEX_BYTES).map_err(damaged)?;
        let signature = members.small(SIGNATURE_NAME, MAX_SIGNATURE_BYTES).map_err(damaged)?;
        let signature = String::from_utf8(signature)
            .map_err(|_| damaged(format!("`{SIGNATURE_NAME}` is not text")))?;
        let index = verify_index(&index_bytes, &signature, keys)
            .map_err(|source| DeltaError::Untrusted { path: path.to_owned(), source })?;
        if Digest::of(&index_bytes) != manifest.index {
            return Err(damaged("it was made for another index than it carries".to_owned()));
        }
        manifest.check(&index).map_err(damaged)?;
        let starts = members.patches(&manifest).map_err(damaged)?;
        drop(members);
        Ok(Self { file, manifest, index, signature, starts, length })
    }

    /// The operations of patch number `number`.
    pub(super) fn operations(&self, number: usize) -> impl Read {
        let (start, size) = (self.starts[number], self.manifest.patches[number].size);
        BufReader::with_capacity(
            256 * 1024,
            Stretch { file: &self.file, at: start, end: start + size },
        )
    }
}

struct Stretch<'u> {
    file: &'u File,
    at: u64,
    end: u64,
}

impl Read for Stretch<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = ((self.end - self.at) as usize).min(buffer.len());
        let read = self.file.read_at(&mut buffer[..length], self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

/// Reads members that have to come in one order. Errors say which, and where.
struct Members<R> {
    input: R,
    at: u64,
}

impl<R: Read> Members<R> {
    fn fill(&mut self, buffer: &mut [u8], name: &str) -> Result<(), String> {
        self.input.read_exact(buffer).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => {
                format!(
                    "it is truncated: it ends in {name}, which was being read at byte {}",
                    self.at
                )
            }
            _ => format!("{name} can't be read at byte {}: {error}", self.at),
        })?;
        self.at += buffer.len() as u64;
        Ok(())
    }

    fn small(&mut self, name: &str, most: u64) -> Result<Vec<u8>, String> {
        let mut block = [0; BLOCK];
        let at = self.at;
        self.fill(&mut block, &format!("`{name}`"))?;
        let size = member::stated_size(&block, name).filter(|size| *size <= most);
        let Some(size) = size else {
            let found = member::shown_name(&block);
            return Err(format!("expected `{name}` at byte {at}, found {found}"));
        };
        let mut bytes = vec![0; size as usize];
        self.fill(&mut bytes, &format!("`{name}`"))?;
        self.padding(name, size)?;
        Ok(bytes)
    }

    fn padding(&mut self, name: &str, size: u64) -> Result<(), String> {
        let mut zeros = [0; BLOCK];
        let zeros = &mut zeros[..member::padding(size)];
        self.fill(zeros, &format!("`{name}`"))?;
        if zeros.iter().any(|byte| *byte != 0) {
            return Err(format!("the padding before byte {} is not zero", self.at));
        }
        Ok(())
    }

    /// Hashes every patch, and makes sure that nothing follows.
    fn patches(&mut self, manifest: &Manifest) -> Result<Vec<u64>, String> {
        let mut starts = Vec::with_capacity(manifest.patches.len());
        let mut buffer = vec![0; 256 * 1024];
        for patch in &manifest.patches {
            let name = patch_name(&patch.blob);
            let (mut block, at) = ([0; BLOCK], self.at);
            self.fill(&mut block, &format!("`{name}`"))?;
            if block != member::header(&name, patch.size) {
                let found = member::shown_name(&block);
                return Err(format!("expected `{name}` at byte {at}, found {found}"));
            }
            starts.push(self.at);
            let (mut left, mut digest) = (patch.size, Sha256::new());
            while left > 0 {
                let length = left.min(buffer.len() as u64) as usize;
                self.fill(&mut buffer[..length], &format!("`{name}`"))?;
                digest.update(&buffer[..length]);
                left -= length as u64;
            }
            let found = Digest::from_bytes(&digest.finalize().into());
            if found != patch.digest {
                return Err(format!("`{name}` has {found}, expected {}", patch.digest));
            }
            self.padding(&name, patch.size)?;
        }
        let mut end = [0; END_BYTES];
        self.fill(&mut end, "the end of the archive")?;
        let more = self.input.read(&mut [0]).map_err(|error| error.to_string())?;
        if end.iter().any(|byte| *byte != 0) || more != 0 {
            return Err(format!(
                "there is more than the manifest lists, before byte {}",
                self.at + 1
            ));
        }
        Ok(starts)
    }
}
