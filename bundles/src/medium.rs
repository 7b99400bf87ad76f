//! Where a bundle lies: in one file, or in the parts of one set, found on any number of sticks.
//!
//! Whoever reads a bundle reads a [`Medium`] and can't tell the difference: [`Medium::read_at`] and
//! [`Medium::reader`] give the same bytes. Which files those are is found by [`Medium::find`] from a
//! file, any one part, or folders; nothing of that is proved, it only says where to look.

use std::{
    io::{self, Read},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use crate::{
    error::VerifyError,
    index::Digest,
    parts::{PartKind, PartSet},
};

mod error;
mod find;

pub use self::error::{FoundBundle, MediumError};

/// A bundle's bytes, wherever they lie.
#[derive(Debug)]
pub enum Medium {
    /// One file.
    File(BundlePath),
    /// Parts of one set; some may be missing.
    Parts(PartSet),
}

/// A bundle in one file.
#[derive(Debug)]
pub struct BundlePath {
    path: PathBuf,
    file: std::fs::File,
    length: u64,
}

impl Medium {
    /// Finds the one bundle that `paths` speak of: each a bundle, a part (then its folder has the
    /// others), or a folder to search, four levels deep.
    ///
    /// # Errors
    /// When there is none, or more than one, or the system fails.
    pub fn find<P: AsRef<Path>>(paths: &[P]) -> Result<Self, VerifyError> {
        find::find(paths)
    }

    /// That very file, whatever it holds.
    ///
    /// # Errors
    /// When it can't be opened.
    pub fn file(path: &Path) -> Result<Self, VerifyError> {
        let open = |source| VerifyError::Open { source };
        let file = fs_err::File::open(path).map_err(open)?;
        let length = file.metadata().map_err(open)?.len();
        Ok(Self::File(BundlePath { path: path.to_owned(), file: file.into_file(), length }))
    }

    /// Length of the bundle.
    #[must_use]
    pub fn length(&self) -> u64 {
        match self {
            Self::File(one) => one.length,
            Self::Parts(set) => set.head().bundle_bytes,
        }
    }

    /// A path that stands for it: the file, or the first part that is there.
    #[must_use]
    pub fn path(&self) -> &Path {
        match self {
            Self::File(one) => &one.path,
            Self::Parts(set) => set.path(),
        }
    }

    /// Refuses a set that lacks a part of the bundle.
    ///
    /// # Errors
    /// Naming the parts that are missing.
    pub fn complete(&self) -> Result<(), VerifyError> {
        let Self::Parts(set) = self else { return Ok(()) };
        let missing = set.missing(PartKind::Data);
        if missing.is_empty() {
            return Ok(());
        }
        Err(MediumError::Missing {
            bundle: set.label(),
            numbers: missing,
            parts: set.head().total(),
            parity: set.present(PartKind::Parity),
        }
        .into())
    }

    /// Reads at `offset` as much as there is in one go; 0 only at the end.
    ///
    /// # Errors
    /// When the system fails, or a part is missing.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        match self {
            Self::File(one) => one.file.read_at(buffer, offset),
            Self::Parts(set) => set.read_at(buffer, offset),
        }
    }

    /// Fills `buffer` from `offset`.
    ///
    /// # Errors
    /// As [`Medium::read_at`]; `UnexpectedEof` at the end.
    pub fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        fill_at(buffer, offset, |buffer, offset| self.read_at(buffer, offset))
    }

    /// Reads it from its start.
    #[must_use]
    pub fn reader(&self) -> MediumReader<'_> {
        MediumReader { medium: self, offset: 0 }
    }
}

/// Reads until `buffer` is full; `UnexpectedEof` where there is less.
pub(crate) fn fill_at(
    mut buffer: &mut [u8],
    mut offset: u64,
    read: impl Fn(&mut [u8], u64) -> io::Result<usize>,
) -> io::Result<()> {
    while !buffer.is_empty() {
        match read(buffer, offset) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(length) => {
                buffer = &mut buffer[length..];
                offset += length as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// A medium as a stream.
#[derive(Debug)]
pub struct MediumReader<'m> {
    medium: &'m Medium,
    offset: u64,
}

impl Read for MediumReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.medium.read_at(buffer, self.offset)?;
        self.offset += length as u64;
        Ok(length)
    }
}

/// What a bundle says it is, for telling it from others; nothing is proved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) index: Digest,
}
