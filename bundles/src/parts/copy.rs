//! A bundle into parts, and parts into a bundle: copies, every byte of which is proved on the way
//! (feature `create`).

use std::{
    io::{self, Read, Write},
    path::Path,
};

use super::{
    Split,
    write::{PartsError, PartsWriter, Written, folder_of, new_file},
};
use crate::{
    error::VerifyError, keys::TrustedKeys, medium::Medium, open::BundleFile, sparse::SparseFile,
    verify,
};

/// Reads from one side and writes what was read to the other.
struct Tee<R, W> {
    reader: R,
    writer: W,
    /// Why writing failed: reading fails then too, but that isn't the reason.
    failed: Option<io::Error>,
}

impl<R: Read, W: Write> Read for Tee<R, W> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.reader.read(buffer)?;
        if let Err(error) = self.writer.write_all(&buffer[..length]) {
            self.failed = Some(error);
            return Err(io::Error::other("what was read can't be written"));
        }
        Ok(length)
    }
}

/// Proves `medium` while it is copied to `writer`.
fn copy_proved<W: Write>(
    medium: &Medium,
    keys: &TrustedKeys,
    writer: W,
    path: &Path,
    bytes: &mut dyn FnMut(u64),
) -> Result<(W, verify::VerifiedIndex), PartsError> {
    let mut tee = Tee { reader: medium.reader(), writer, failed: None };
    let result = verify::verify_with(&mut tee, keys, bytes);
    if let Some(source) = tee.failed {
        return Err(PartsError::Write { path: path.to_owned(), source });
    }
    Ok((tee.writer, result?))
}

/// Splits a bundle into parts named after `path`; every byte is proved on the way. `bytes` is told
/// how far it is, first of the copying, then of the parity.
///
/// # Errors
/// When the bundle is not what was signed, can't be split so, or the system fails.
pub fn split(
    medium: Medium,
    keys: &TrustedKeys,
    path: &Path,
    split: Split,
    bytes: &mut dyn FnMut(Phase, u64),
) -> Result<Written, PartsError> {
    let bundle = BundleFile::open_medium(medium, keys)?;
    let writer =
        PartsWriter::new(path, bundle.index(), bundle.index_bytes(), bundle.signature(), split)
            .map_err(|source| PartsError::Split { source })?;
    let copied = &mut |done| bytes(Phase::Copying, done);
    let (writer, proved) = copy_proved(bundle.medium(), keys, writer, path, copied)?;
    if proved.digest != *bundle.digest() {
        let found = "another bundle than a moment ago".to_owned();
        return Err(VerifyError::NotABundle { found }.into());
    }
    writer.finish(&mut |done| bytes(Phase::Parity, done))
}

/// Which part of a split is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The bundle is proved and its bytes are written.
    Copying,
    /// The parity is computed.
    Parity,
}

/// Joins parts into one file at `path`; every byte is proved on the way. Of parts that are there
/// twice the good ones are used. Gives the file's length.
///
/// # Errors
/// When the bundle is not what was signed or lacks parts, or the system fails.
pub fn join(
    mut medium: Medium,
    keys: &TrustedKeys,
    path: &Path,
    bytes: &mut dyn FnMut(u64),
) -> Result<u64, PartsError> {
    medium.complete()?;
    match join_once(&medium, keys, path, bytes) {
        Err(PartsError::Bundle(error)) => {
            let Medium::Parts(set) = &mut medium else { return Err(error.into()) };
            // Which part is it, and is there a better copy of it?
            BundleFile::choose_copies(set, keys, &mut |_| {})?;
            join_once(&medium, keys, path, bytes)
        }
        result => result,
    }
}

fn join_once(
    medium: &Medium,
    keys: &TrustedKeys,
    path: &Path,
    bytes: &mut dyn FnMut(u64),
) -> Result<u64, PartsError> {
    let failed = |source| PartsError::Write { path: path.to_owned(), source };
    let file = new_file(path).map_err(failed)?;
    let writer = SparseFile::new(file.as_file());
    let (writer, _) = copy_proved(medium, keys, writer, path, bytes)?;
    let length = writer.finish().map_err(failed)?;
    file.persist(path).map_err(|error| failed(error.error))?;
    fs_err::File::open(folder_of(path)).and_then(|folder| folder.sync_all()).map_err(failed)?;
    Ok(length)
}
