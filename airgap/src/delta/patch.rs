//! From what a site has and an update to the new bundle, byte for byte.

use std::{
    io::{self, Read},
    path::Path,
};

use kdc_bundles::{
    index::{Blob, Digest},
    keys::TrustedKeys,
    verify,
    write::{WriteError, write_signed_file},
};

use super::{
    folder_of,
    holdings::{Content, Holdings},
    layout::unpacked_bytes,
    ops,
    problem::DeltaError,
    spool::{Spool, hash, invalid},
    unpack,
    update::{OldBlob, Patch, UpdateFile},
};
use crate::{Observer, Work};

/// Missing blobs that are named.
const MAX_NAMED: usize = 3;

/// What was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Patched {
    /// The bundle's name.
    pub name: String,
    /// The bundle's version.
    pub version: String,
    /// Digest of the index: the bundle's identity.
    pub digest: Digest,
    /// Who signed it.
    pub signer: String,
    /// Length of the update.
    pub update_bytes: u64,
    /// Length of the bundle.
    pub file_bytes: u64,
}

/// Makes the bundle that `update` carries, at `output`: the builder's own, signature included. It is
/// proved whole before it gets its name; whatever goes wrong, nothing is left.
///
/// # Errors
/// When the update is damaged or not signed by one of `keys`, when what it starts from is not in
/// `old`, when what comes out is not what was signed, or when the system fails.
pub fn patch(
    old: &Holdings,
    update: &Path,
    keys: &TrustedKeys,
    output: &Path,
    observer: &mut dyn Observer,
) -> Result<Patched, DeltaError> {
    let failed = |source| DeltaError::File { path: output.to_owned(), source };
    let opened = UpdateFile::open(update, keys)?;
    check_holdings(old, update, &opened)?;
    let folder = folder_of(output);
    let scratch = tempfile::Builder::new().prefix(".kdc-patch-").tempdir_in(folder);
    let scratch = scratch.map_err(failed)?;
    let made = scratch.path().join("bundle");
    let maker = Maker { old, update: &opened, folder };
    observer.started(Work::Writing, opened.index.content_bytes());
    let file_bytes = write_signed_file(
        &made,
        &opened.index,
        &opened.signature,
        |digest| maker.content(digest),
        &mut |done| observer.bytes(done),
    )
    .map_err(write_failed)?;
    observer.finished(Work::Writing);
    observer.started(Work::Verifying, file_bytes);
    let file = fs_err::File::open(&made).map_err(failed)?;
    let mut before = 0;
    let proved = verify::verify_with(file, keys, &mut |read| {
        observer.bytes(read - before);
        before = read;
    })
    .map_err(|source| DeltaError::Refused { source })?;
    observer.finished(Work::Verifying);
    fs_err::rename(&made, output).map_err(failed)?;
    fs_err::File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)?;
    Ok(Patched {
        name: proved.index.name,
        version: proved.index.bundle_version,
        digest: proved.digest,
        signer: proved.signer.to_string(),
        update_bytes: opened.length,
        file_bytes: proved.file_bytes,
    })
}

/// An error of the content is about the blob, one of the system about the file.
fn write_failed(error: WriteError) -> DeltaError {
    match error {
        WriteError::Read { digest, source } if source.kind() == io::ErrorKind::InvalidData => {
            DeltaError::Blob { digest, source }
        }
        WriteError::Read { digest, source } => DeltaError::Read { digest, source },
        source => DeltaError::Write { source },
    }
}

/// Everything that an update starts from has to be here before anything is written.
fn check_holdings(old: &Holdings, path: &Path, update: &UpdateFile) -> Result<(), DeltaError> {
    let is_made = |digest: &Digest| {
        update.manifest.patches.binary_search_by(|patch| patch.blob.cmp(digest)).is_ok()
    };
    let kept = update.index.blobs.iter().map(|blob| &blob.digest).filter(|digest| !is_made(digest));
    let bases = update.manifest.bases.iter().map(|base| &base.digest);
    let missing: Vec<&Digest> = kept.chain(bases).filter(|digest| !old.has(digest)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(DeltaError::Foreign {
        path: path.to_owned(),
        count: missing.len(),
        missing: missing.into_iter().take(MAX_NAMED).cloned().collect(),
    })
}

struct Maker<'m> {
    old: &'m Holdings,
    update: &'m UpdateFile,
    folder: &'m Path,
}

impl<'m> Maker<'m> {
    fn content(&self, digest: &Digest) -> io::Result<Made<'m>> {
        let manifest = &self.update.manifest;
        let number = manifest.patches.binary_search_by(|patch| patch.blob.cmp(digest));
        let Ok(number) = number else { return Ok(Made::Kept(self.old.open(digest)?)) };
        let blob = self.update.index.blob(digest).ok_or(io::ErrorKind::NotFound)?;
        self.make(number, &manifest.patches[number], blob).map(|spool| Made::New { spool, at: 0 })
    }

    /// Carries out a patch; what comes out is the blob, or an error.
    fn make(&self, number: usize, patch: &Patch, blob: &Blob) -> io::Result<Spool> {
        let bases = &self.update.manifest.bases;
        let bases = patch.bases.iter().map(|base| self.unpack(&bases[*base]));
        let bases = bases.collect::<io::Result<Vec<_>>>()?;
        let length = unpacked_bytes(&patch.layout, blob.size);
        let length = length.ok_or_else(|| invalid("its layout does not fit it"))?;
        let mut unpacked = Spool::new(self.folder)?;
        let mut operations = self.update.operations(number);
        ops::carry_out(&mut operations, &bases, &mut unpacked, length).map_err(cut_short)?;
        drop(bases);
        let mut packed = Spool::new(self.folder)?;
        if patch.layout.iter().all(|part| part.packed == part.unpacked && part.is_raw()) {
            packed = unpacked;
        } else {
            unpack::pack(&unpacked, &patch.layout, &mut packed.writer()).map_err(cut_short)?;
        }
        let found = hash(&mut packed.range(0, packed.length()))?;
        if found == blob.digest {
            Ok(packed)
        } else {
            Err(invalid(format!("it came out as {found}")))
        }
    }

    fn unpack(&self, base: &OldBlob) -> io::Result<Spool> {
        let mut content = self.old.open(&base.digest)?;
        let mut spool = Spool::new(self.folder)?;
        unpack::unpack_as(&mut content, &base.layout, &mut spool)?;
        Ok(spool)
    }
}

/// Operations that end too early, or refer beyond an end, are content that is wrong.
fn cut_short(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => invalid("its operations end too early"),
        _ => error,
    }
}

/// The content of a blob of the new bundle.
enum Made<'m> {
    Kept(Content<'m>),
    New { spool: Spool, at: u64 },
}

impl Read for Made<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Kept(content) => content.read(buffer),
            Self::New { spool, at } => {
                let length = ((spool.length() - *at) as usize).min(buffer.len());
                spool.read_at(&mut buffer[..length], *at)?;
                *at += length as u64;
                Ok(length)
            }
        }
    }
}
