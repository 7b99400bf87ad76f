//! A bundle in parts: files that fit a FAT32 stick, of which some may be lost.
//!
//! | Word | Meaning |
//! |---|---|
//! | **set** | the parts of one bundle that were made by one split; its id is the digest of what they have in common |
//! | **data part** | a range of the bundle's bytes that begins and ends between pieces |
//! | **parity part** | Reed-Solomon parity over the data parts: any one of them stands in for any one lost data part |
//! | **slice, stripe** | a stretch of one part's payload, and the slices of all parts at the same place: the step in which parity is computed |
//! | **copy** | one file that claims to be a certain part; the same part may be on two sticks |
//! | **stray** | a file that looks like a part but is of another set, or can't say of which |
//!
//! Every part begins with its head and with copies of the signed index and the signature. So one part
//! alone says which bundle it belongs to and can prove that, and a data part can prove every byte of
//! its payload. A parity part can't (whoever splits needs no secret key): its own digests find damage,
//! and what it rebuilds is proved by the signed index like everything else.

use std::{
    fmt, io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

mod check;
#[cfg(feature = "create")]
mod copy;
mod geometry;
mod head;
mod look;
#[cfg(feature = "create")]
mod parity;
#[cfg(feature = "create")]
mod repair;
#[cfg(feature = "create")]
mod write;

pub(crate) use self::head::MAGIC;
pub use self::{
    check::{Checked, CopyReport, PartReport, check},
    geometry::{Geometry, Split, SplitError, parity_parts, slice_digest},
    head::{HEAD_BYTES, HeadError, MAX_PARTS, PART_VERSION, PartHead, PartKind, SetHead},
};
#[cfg(feature = "create")]
pub use self::{
    copy::{Phase, join, split},
    repair::{RepairError, Repaired, repair},
    write::{PartsError, PartsWriter, Written},
};

/// One file that claims to be a part.
#[derive(Debug)]
pub struct PartFile {
    path: PathBuf,
    file: std::fs::File,
    length: u64,
    head: PartHead,
}

impl PartFile {
    /// A part whose head was read.
    ///
    /// # Errors
    /// When the file can't be opened.
    pub(crate) fn open(path: &Path, head: PartHead) -> io::Result<Self> {
        let file = fs_err::File::open(path)?;
        let length = file.metadata()?.len();
        Ok(Self { path: path.to_owned(), file: file.into_file(), length, head })
    }

    /// Its file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it says of itself.
    #[must_use]
    pub fn head(&self) -> &PartHead {
        &self.head
    }

    /// Length of the file.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Reads anywhere in the file; errors name the path.
    pub(crate) fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buffer, offset).map_err(|error| {
            io::Error::new(error.kind(), format!("`{}`: {error}", self.path.display()))
        })
    }

    /// Fills `buffer` from byte `offset` of the payload.
    pub(crate) fn read_payload(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let start = self.head.set.payload_start();
        crate::medium::fill_at(buffer, start + offset, |buffer, at| self.read_at(buffer, at))
    }
}

/// A file that looks like a part and is none of this set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stray {
    /// The file.
    pub path: PathBuf,
    /// What it is instead.
    pub what: String,
    /// It is a good part of something else, and not a damaged one of who knows what.
    pub foreign: bool,
}

/// Parts of one set, as far as they are there.
#[derive(Debug)]
pub struct PartSet {
    head: SetHead,
    /// Of each part, by number: its copies, in the order of their paths.
    copies: Vec<Vec<PartFile>>,
    strays: Vec<Stray>,
}

impl PartSet {
    /// The set with that head; all of `files` are of it.
    pub(crate) fn new(head: SetHead, files: Vec<PartFile>, mut strays: Vec<Stray>) -> Self {
        let mut copies: Vec<_> = (0..head.total()).map(|_| Vec::new()).collect();
        for file in files {
            copies[file.head.number as usize - 1].push(file);
        }
        for copies in &mut copies {
            copies.sort_by(|left: &PartFile, right| left.path.cmp(&right.path));
        }
        strays.sort_by(|left, right| left.path.cmp(&right.path));
        Self { head, copies, strays }
    }

    /// What its parts have in common.
    #[must_use]
    pub fn head(&self) -> &SetHead {
        &self.head
    }

    /// The bundle's name and version, as the parts say.
    #[must_use]
    pub fn label(&self) -> String {
        format!("{} {}", self.head.name, self.head.bundle_version)
    }

    /// The copies of part `number` (from 1).
    #[must_use]
    pub fn copies(&self, number: u32) -> &[PartFile] {
        self.copies.get(number as usize - 1).map_or(&[], Vec::as_slice)
    }

    /// Files that look like parts and are none of this set.
    #[must_use]
    pub fn strays(&self) -> &[Stray] {
        &self.strays
    }

    /// The first part that is there.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.copies.iter().flatten().next().map_or(Path::new(""), PartFile::path)
    }

    /// What a part of that number carries.
    #[must_use]
    pub fn kind(&self, number: u32) -> PartKind {
        if number <= self.head.data_parts { PartKind::Data } else { PartKind::Parity }
    }

    /// The numbers of that kind that have no copy.
    #[must_use]
    pub fn missing(&self, kind: PartKind) -> Vec<u32> {
        let none = |number: &u32| self.kind(*number) == kind && self.copies(*number).is_empty();
        (1..=self.head.total()).filter(none).collect()
    }

    /// How many parts of that kind are there.
    #[must_use]
    pub fn present(&self, kind: PartKind) -> u32 {
        let there = |number: &u32| self.kind(*number) == kind && !self.copies(*number).is_empty();
        (1..=self.head.total()).filter(there).count() as u32
    }

    /// Keeps, of each part, the copies for which `good` says so.
    pub fn retain(&mut self, good: impl Fn(&PartFile) -> bool) {
        for copies in &mut self.copies {
            copies.retain(&good);
        }
    }

    /// Reads the bundle's bytes from the first copy of each data part.
    pub(crate) fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        if offset >= self.head.bundle_bytes {
            return Ok(0);
        }
        let start = |copies: &[PartFile]| copies.first().and_then(|copy| copy.head.start);
        let data = &self.copies[..self.head.data_parts as usize];
        let number = data.partition_point(|copies| start(copies).is_some_and(|at| at <= offset));
        let part = number.checked_sub(1).and_then(|number| data[number].first());
        let within = |part: &&PartFile| offset - part.head.start.unwrap_or(0) < part.head.bytes;
        let Some(part) = part.filter(within) else {
            let message = format!("no part has byte {offset} of {}", self.label());
            return Err(io::Error::new(io::ErrorKind::NotFound, message));
        };
        let at = offset - part.head.start.unwrap_or(0);
        let most = (part.head.bytes - at).min(buffer.len() as u64) as usize;
        let length = part.read_at(&mut buffer[..most], self.head.payload_start() + at)?;
        if length == 0 {
            let message = format!("`{}` is cut", part.path.display());
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, message));
        }
        Ok(length)
    }
}

/// What is wrong with a part of a set, in a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartSummary {
    /// Its number.
    pub number: u32,
    /// What it carries.
    pub kind: PartKind,
    /// What is wrong.
    pub what: String,
}

impl fmt::Display for PartSummary {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            PartKind::Data => "part",
            PartKind::Parity => "parity part",
        };
        write!(formatter, "{kind} {} {}", self.number, self.what)
    }
}

/// `part 3`, or `parts 3, 5, 7`, shortened after ten.
pub(crate) fn numbers_text(word: &str, numbers: &[u32]) -> String {
    let shown: Vec<_> = numbers.iter().take(10).map(ToString::to_string).collect();
    let more = numbers.len().saturating_sub(10);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let plural = if numbers.len() == 1 { "" } else { "s" };
    format!("{word}{plural} {}{more}", shown.join(", "))
}
