//! Writing a bundle as parts (feature `create`).
//!
//! The data parts are written one after the other, as a stick likes it; then they are read again, a
//! stripe at a time, for the parity. Everything is written beside its place and moved there when all
//! of it is whole: after an error there is nothing.

use std::{
    io::{self, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use tempfile::NamedTempFile;

use super::{
    geometry::{Geometry, Split, SplitError, slice_digest},
    head::{self, PartHead, SetHead},
    parity::Parity,
};
use crate::{
    error::VerifyError, index::Index, layout::Layout, medium::fill_at, sparse::SparseFile,
};

/// Why a bundle can't be split or joined.
#[derive(Debug, thiserror::Error)]
pub enum PartsError {
    /// The bundle is not what was signed.
    #[error(transparent)]
    Bundle(#[from] VerifyError),
    /// It can't be split so.
    #[error("the bundle can't be split")]
    Split {
        /// Why.
        #[source]
        source: SplitError,
    },
    /// Another file has the name that a rebuilt part has to have.
    #[error("`{}` is in the way: it is no copy of the part that is to be rebuilt there", path.display())]
    InTheWay {
        /// The file.
        path: PathBuf,
    },
    /// A file can't be written.
    #[error("`{}` can't be written", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
}

impl PartsError {
    /// The one next thing to try.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Bundle(error) => error.hint(),
            Self::Split { source } => source.hint(),
            Self::InTheWay { .. } => Some("give another folder with `-o FOLDER`".to_owned()),
            Self::Write { .. } => None,
        }
    }
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// The files, in the order of their numbers.
    pub paths: Vec<PathBuf>,
    /// How many of them are data parts; the others are parity parts.
    pub data_parts: usize,
    /// Bytes of all of them.
    pub file_bytes: u64,
    /// Length of the bundle.
    pub bundle_bytes: u64,
}

/// The name of part `number`: `kdc.bundle.part-3-of-7`, `kdc.bundle.parity-7-of-7`.
#[must_use]
pub(super) fn part_name(stem: &str, set: &SetHead, number: u32) -> String {
    let kind = if number <= set.data_parts { "part" } else { "parity" };
    let total = set.total();
    let width = total.to_string().len();
    format!("{stem}.{kind}-{number:0width$}-of-{total}")
}

/// Takes the bytes of a bundle in order and writes the parts of a set.
#[derive(Debug)]
pub struct PartsWriter {
    set: SetHead,
    geometry: Geometry,
    /// Index and signature, as every part has them.
    preamble: Vec<u8>,
    folder: PathBuf,
    stem: String,
    parts: Vec<NewPart>,
    written: u64,
}

/// A part that is not in its place yet.
#[derive(Debug)]
pub(super) struct NewPart {
    pub(super) file: NamedTempFile,
    pub(super) path: PathBuf,
    length: u64,
}

impl NewPart {
    /// Begins a part: its head, index and signature.
    pub(super) fn begin(path: PathBuf, head: &PartHead, preamble: &[u8]) -> io::Result<Self> {
        let file = new_file(&path)?;
        let mut part = Self { file, path, length: 0 };
        part.put(&head.to_block())?;
        part.put(preamble)?;
        let zeros = head.set.payload_start() - part.length;
        part.put(&vec![0; zeros as usize])?;
        Ok(part)
    }

    pub(super) fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut sparse = SparseFile::resume(self.file.as_file(), self.length);
        sparse.write_all(bytes)?;
        self.length = sparse.length();
        Ok(())
    }

    pub(super) fn finish(&self) -> io::Result<u64> {
        SparseFile::resume(self.file.as_file(), self.length).finish()
    }
}

/// A file beside `path` that is gone again unless it is moved there.
pub(super) fn new_file(path: &Path) -> io::Result<NamedTempFile> {
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    let mut builder = tempfile::Builder::new();
    builder.prefix(".kdc-bundle-").permissions(mode).tempfile_in(folder_of(path))
}

pub(super) fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Moves files to their places. Where one can't be moved, those before it stay: each is whole.
pub(super) fn put_in_place(
    parts: Vec<NewPart>,
    placed: &mut Vec<PathBuf>,
) -> Result<(), PartsError> {
    for part in parts {
        let (path, folder) = (part.path.clone(), folder_of(&part.path).to_owned());
        let moved = part.file.persist(&path).map_err(|error| error.error);
        let synced = moved.and_then(|_| {
            placed.push(path.clone());
            fs_err::File::open(folder)?.sync_all()
        });
        synced.map_err(|source| PartsError::Write { path, source })?;
    }
    Ok(())
}

impl PartsWriter {
    /// Prepares parts named after `path` for the bundle with that index and signature.
    ///
    /// # Errors
    /// When it can't be split so.
    pub fn new(
        path: &Path,
        index: &Index,
        index_bytes: &[u8],
        signature: &str,
        split: Split,
    ) -> Result<Self, SplitError> {
        let mut set = head::describe(index, index_bytes, signature);
        let layout = Layout::of(index, set.index_bytes, set.signature_bytes);
        let geometry = Geometry::plan(&mut set, index, &layout, split)?;
        let name =
            path.file_name().map_or_else(|| "kdc.bundle".into(), |name| name.to_string_lossy());
        Ok(Self {
            set,
            geometry,
            preamble: [index_bytes, signature.as_bytes()].concat(),
            folder: folder_of(path).to_owned(),
            stem: name.into_owned(),
            parts: Vec::new(),
            written: 0,
        })
    }

    fn begin(&mut self, number: u32) -> io::Result<()> {
        let bytes = self.geometry.payload_bytes(number);
        let head = PartHead::new(&self.set, number, self.geometry.start(number), bytes);
        let path = self.folder.join(part_name(&self.stem, &self.set, number));
        self.parts.push(NewPart::begin(path, &head, &self.preamble)?);
        Ok(())
    }

    /// Computes the parity and moves every part to its place. `bytes` is told how many bytes of data
    /// parts were read for that.
    ///
    /// # Errors
    /// When not exactly the bundle was written, or the system fails.
    pub fn finish(mut self, bytes: &mut dyn FnMut(u64)) -> Result<Written, PartsError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| PartsError::Write { path, source }
        };
        let folder = self.folder.clone();
        if self.written != self.set.bundle_bytes {
            let source = io::Error::other("the bundle has another length than its index says");
            return Err(failed(&folder)(source));
        }
        let mut file_bytes = 0;
        // Zeros at the end of a part are in the file only now, and the parity reads them.
        for part in &self.parts {
            file_bytes += part.finish().map_err(failed(&part.path))?;
        }
        if self.geometry.parity_parts() > 0 {
            self.parity(bytes).map_err(failed(&folder))?;
        }
        for part in &self.parts[self.geometry.data_parts()..] {
            file_bytes += part.finish().map_err(failed(&part.path))?;
        }
        let (data_parts, bundle_bytes) = (self.geometry.data_parts(), self.written);
        let mut paths = Vec::new();
        if let Err(error) = put_in_place(self.parts, &mut paths) {
            for path in &paths {
                // A set that was never whole is of no use. The error that is told is the first one.
                let _ = fs_err::remove_file(path);
            }
            return Err(error);
        }
        Ok(Written { paths, data_parts, file_bytes, bundle_bytes })
    }

    fn parity(&mut self, bytes: &mut dyn FnMut(u64)) -> io::Result<()> {
        for number in self.set.data_parts + 1..=self.set.total() {
            self.begin(number)?;
        }
        let (data, parity) = self.parts.split_at_mut(self.geometry.data_parts());
        let (code, id) = (Parity::new(&self.geometry), self.set.id());
        let (geometry, start) = (&self.geometry, self.set.payload_start());
        let mut done = 0;
        for stripe in 0..geometry.stripes() {
            let read = |number: u32, slice: &mut [u8]| {
                let at = stripe * geometry.slice_bytes();
                let left = geometry.payload_bytes(number).saturating_sub(at);
                let length = left.min(slice.len() as u64) as usize;
                let slice = &mut slice[..length];
                done += slice.len() as u64;
                let file = data[number as usize - 1].file.as_file();
                fill_at(slice, start + at, |buffer, at| file.read_at(buffer, at))
            };
            let write = |number: u32, slice: &[u8]| {
                let digest = slice_digest(&id, number, stripe, slice);
                let part = &mut parity[number as usize - 1 - geometry.data_parts()];
                part.put(slice)?;
                part.put(&hex::decode(digest.hex()).expect("a digest is 64 hex digits"))
            };
            code.encode(geometry.slice_length(stripe), read, write)?;
            bytes(done);
        }
        Ok(())
    }
}

impl Write for PartsWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.is_empty() {
            return Ok(0);
        }
        let current = self.parts.len();
        let end = current.checked_sub(1).map_or(0, |last| self.geometry.ranges()[last].end);
        if self.written == end {
            if current == self.geometry.data_parts() {
                return Err(io::Error::other("there is more than the bundle"));
            }
            self.begin(current as u32 + 1)?;
            return self.write(bytes);
        }
        let most = (end - self.written).min(bytes.len() as u64) as usize;
        let part = self.parts.last_mut().ok_or(io::ErrorKind::NotFound)?;
        part.put(&bytes[..most])?;
        self.written += most as u64;
        Ok(most)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
