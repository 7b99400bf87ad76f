//! Files in which long runs of zeros stay holes (feature `create`), so that images of disks, and
//! bundles of them, take no more room than what is in them.

use std::{
    fs::File,
    io::{self, Write},
    os::unix::fs::FileExt,
};

/// Runs of zeros at least this long are not written.
const RUN: usize = 64 * 1024;

static ZEROS: [u8; RUN] = [0; RUN];

/// Writes a new, empty file from its start. [`SparseFile::finish`] gives it its length.
#[derive(Debug)]
pub(crate) struct SparseFile<'f> {
    file: &'f File,
    length: u64,
}

impl<'f> SparseFile<'f> {
    pub(crate) fn new(file: &'f File) -> Self {
        Self { file, length: 0 }
    }

    /// Goes on writing after `length` bytes.
    pub(crate) fn resume(file: &'f File, length: u64) -> Self {
        Self { file, length }
    }

    /// Bytes so far.
    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    /// Makes the file as long as what was written, and durable.
    pub(crate) fn finish(self) -> io::Result<u64> {
        self.file.set_len(self.length)?;
        self.file.sync_all()?;
        Ok(self.length)
    }
}

impl Write for SparseFile<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for chunk in bytes.chunks(RUN) {
            if chunk.len() < RUN || chunk != ZEROS {
                self.file.write_all_at(chunk, self.length)?;
            }
            self.length += chunk.len() as u64;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn zeros_read_back_and_take_no_room() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut sparse = SparseFile::new(file.as_file());
        let mut expected = Vec::new();
        for (byte, length) in [(1, 700), (0, 3 << 20), (2, 5), (0, 100_000), (3, 1), (0, 200_000)] {
            let bytes = vec![byte; length];
            sparse.write_all(&bytes).unwrap();
            expected.extend(bytes);
        }
        assert_eq!(sparse.finish().unwrap(), expected.len() as u64);
        assert!(fs_err::read(file.path()).unwrap() == expected);
        assert!(file.as_file().metadata().unwrap().blocks() * 512 < 300_000);
    }
}
