//! A download on its way: a file that knows the digest of what is in it so far.

use std::{
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    path::PathBuf,
};

use kdc_bundles::index::Digest;
use sha2::{Digest as _, Sha256};

use crate::cache::{Cache, CacheError};

/// The file. It is locked: nobody else goes on with it meanwhile.
pub(super) struct Partial {
    path: PathBuf,
    file: fs_err::File,
    hash: Sha256,
    length: u64,
}

impl Partial {
    /// Opens the partial download of a digest, and takes over what is there. What another process
    /// is busy with is left to it, and this one begins its own.
    pub(super) fn open(cache: &Cache, digest: Option<&Digest>) -> Result<Self, CacheError> {
        let failed = |error| cache.failed(error);
        if let Some(digest) = digest {
            let path = cache.partials().join(digest.hex());
            let file = fs_err::OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(&path)
                .map_err(failed)?;
            if file.file().try_lock().is_ok() && is_still_there(&file, &path) {
                let mut partial = Self { path, file, hash: Sha256::new(), length: 0 };
                partial.take_over().map_err(failed)?;
                return Ok(partial);
            }
        }
        let named = tempfile::Builder::new()
            .prefix("fetch-")
            .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
            .tempfile_in(cache.partials())
            .map_err(failed)?;
        let (file, path) = named.keep().map_err(|error| failed(error.error))?;
        let file = fs_err::File::from_parts(file, &path);
        Ok(Self { path, file, hash: Sha256::new(), length: 0 })
    }

    fn take_over(&mut self) -> io::Result<()> {
        let mut buffer = vec![0; 256 * 1024];
        loop {
            match self.file.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(length) => {
                    self.hash.update(&buffer[..length]);
                    self.length += length as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// What is there.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    pub(super) fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.hash.update(bytes);
        self.length += bytes.len() as u64;
        Ok(())
    }

    /// Back to nothing.
    pub(super) fn restart(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.seek(SeekFrom::Start(0))?;
        self.hash = Sha256::new();
        self.length = 0;
        Ok(())
    }

    /// Digest of what is there.
    pub(super) fn digest(&self) -> Digest {
        Digest::from_bytes(&self.hash.clone().finalize().into())
    }

    /// Puts it into the cache under its digest.
    pub(super) fn finish(self, cache: &Cache) -> Result<(Digest, u64), CacheError> {
        let digest = self.digest();
        self.file.sync_data().map_err(|error| cache.failed(error))?;
        cache.adopt(&self.path, &digest)?;
        Ok((digest, self.length))
    }

    /// Removes it.
    pub(super) fn discard(self, cache: &Cache) -> Result<(), CacheError> {
        fs_err::remove_file(&self.path).map_err(|error| cache.failed(error))
    }
}

/// Between opening and locking, whoever held the file may have moved it into the cache.
fn is_still_there(file: &fs_err::File, path: &std::path::Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let place = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino());
    let (open, named) = (file.metadata().map(place), fs_err::metadata(path).map(place));
    matches!((open, named), (Ok(open), Ok(named)) if open == named)
}
