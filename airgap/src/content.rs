//! Content: where the bytes of a blob lie on this machine.

use std::{
    io::{self, Read, Seek, SeekFrom, Take},
    path::PathBuf,
};

/// A file, or a stretch of one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Content {
    pub(crate) path: PathBuf,
    pub(crate) start: u64,
    pub(crate) size: u64,
}

impl Content {
    /// A whole file, as long as it is now.
    pub(crate) fn file(path: PathBuf) -> Result<Self, String> {
        let metadata = fs_err::metadata(&path).map_err(|error| error.to_string())?;
        if !metadata.is_file() {
            return Err(format!("`{}` is not a file", path.display()));
        }
        Ok(Self { path, start: 0, size: metadata.len() })
    }

    /// Opens it. One byte more than its size is readable where the file has more, so that a file
    /// that grew is noticed and not cut; a stretch of a tar ends where it ends.
    pub(crate) fn open(&self, whole_file: bool) -> io::Result<Take<fs_err::File>> {
        let mut file = fs_err::File::open(&self.path)?;
        file.seek(SeekFrom::Start(self.start))?;
        Ok(file.take(self.size + u64::from(whole_file)))
    }

    /// All of it, if it is small.
    pub(crate) fn read_small(&self, most: u64) -> Result<Vec<u8>, String> {
        if self.size > most {
            let path = self.path.display();
            return Err(format!("{} bytes in `{path}` are too many for metadata", self.size));
        }
        let mut bytes = Vec::new();
        let mut content = self.open(false).map_err(|error| error.to_string())?;
        content.read_to_end(&mut bytes).map_err(|error| error.to_string())?;
        Ok(bytes)
    }
}
