//! Room for a blob's unpacked form: a file without a name, gone with the process that made it.

use std::{
    fs::File,
    io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write},
    os::unix::fs::FileExt,
    path::Path,
};

use kdc_bundles::index::Digest;
use sha2::{Digest as _, Sha256};

/// Bytes moved at once.
const BUFFER: usize = 1024 * 1024;

static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];

/// A nameless file, read at any place.
#[derive(Debug)]
pub(super) struct Spool {
    file: File,
    length: u64,
}

impl Spool {
    /// An empty one in `folder`, which has to be a folder on a disk.
    pub(super) fn new(folder: &Path) -> io::Result<Self> {
        Ok(Self { file: tempfile::tempfile_in(folder)?, length: 0 })
    }

    /// Bytes in it.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// Adds all of `from` at the end; more than `most` bytes are an error.
    pub(super) fn append(&mut self, from: &mut impl Read, most: u64) -> io::Result<u64> {
        let mut output = self.writer();
        let copied = io::copy(&mut from.take(most.saturating_add(1)), &mut output)?;
        output.flush()?;
        drop(output);
        if copied > most {
            return Err(invalid("a stream is longer than it was said to be"));
        }
        Ok(copied)
    }

    /// Adds bytes at the end; long runs of zeros take no room.
    pub(super) fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        for chunk in bytes.chunks(ZEROS.len()) {
            let at = self.length;
            self.length += chunk.len() as u64;
            if chunk == ZEROS {
                self.file.set_len(self.length)?;
            } else {
                self.file.write_all_at(chunk, at)?;
            }
        }
        Ok(())
    }

    /// A buffered writer at its end; flush it.
    pub(super) fn writer(&mut self) -> BufWriter<End<'_>> {
        BufWriter::with_capacity(BUFFER, End(self))
    }

    /// Forgets everything from `length` on.
    pub(super) fn cut(&mut self, length: u64) -> io::Result<()> {
        self.length = self.length.min(length);
        self.file.set_len(self.length)
    }

    /// Fills `buffer` from `at` on.
    pub(super) fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<()> {
        self.file.read_exact_at(buffer, at)
    }

    /// A stretch of it, to be read from its start.
    pub(super) fn range(&self, start: u64, length: u64) -> BufReader<Range<'_>> {
        self.buffered(start, length, BUFFER)
    }

    /// The same for a reader that leaps about: each leap fills the buffer again.
    pub(super) fn leaps(&self, start: u64, length: u64) -> BufReader<Range<'_>> {
        self.buffered(start, length, 4 * 1024)
    }

    fn buffered(&self, start: u64, length: u64, most: usize) -> BufReader<Range<'_>> {
        let end = start.saturating_add(length).min(self.length);
        let capacity = (end.saturating_sub(start) as usize).clamp(1, most);
        BufReader::with_capacity(
            capacity,
            Range { file: &self.file, start, at: start.min(end), end },
        )
    }
}

/// Writes at the end of a spool.
#[derive(Debug)]
pub(super) struct End<'s>(&'s mut Spool);

impl Write for End<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.put(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A stretch of a spool, with a position of its own.
#[derive(Debug)]
pub(super) struct Range<'s> {
    file: &'s File,
    start: u64,
    at: u64,
    end: u64,
}

impl Read for Range<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = ((self.end - self.at) as usize).min(buffer.len());
        let read = self.file.read_at(&mut buffer[..length], self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

impl Seek for Range<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => self.start.checked_add(at),
            SeekFrom::End(by) => self.end.checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        let at = at.filter(|at| *at >= self.start).ok_or(io::ErrorKind::InvalidInput)?;
        self.at = at.min(self.end);
        Ok(self.at - self.start)
    }
}

/// The digest of everything that is read.
pub(super) fn hash(content: &mut impl Read) -> io::Result<Digest> {
    let (mut whole, mut buffer) = (Sha256::new(), vec![0; BUFFER]);
    loop {
        match content.read(&mut buffer) {
            Ok(0) => return Ok(Digest::from_bytes(&whole.finalize().into())),
            Ok(read) => whole.update(&buffer[..read]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// An error about content, not about the machine.
pub(super) fn invalid(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}
