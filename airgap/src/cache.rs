//! The builder's cache: what was fetched once, by digest.
//!
//! ```text
//! ${XDG_CACHE_HOME:-~/.cache}/kdc/
//!   blobs/sha256/<hex>   whole blobs; the name is the digest
//!   partial/<key>        downloads that were cut; they go on where they stopped
//! ```
//!
//! Nothing gets a name in `blobs` before its bytes have been hashed here, and it gets it by one
//! rename: two processes that fetch the same blob put the same bytes in the same place. What lies
//! there can still rot or be written to, so readers hash again ([`Cache::open_blob`]).

use std::{
    io::{self, Read, Write},
    path::{Path, PathBuf},
    time::SystemTime,
};

use kdc_bundles::index::Digest;
use sha2::{Digest as _, Sha256};

/// Why the cache can't serve.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// There is no place for it.
    #[error("there is no folder for the cache: neither XDG_CACHE_HOME nor a home folder is known")]
    NoHome,
    /// The file system refuses.
    #[error("the cache in `{}` can't be used", folder.display())]
    Io {
        /// The cache.
        folder: PathBuf,
        /// What the system says; names the file.
        #[source]
        source: io::Error,
    },
    /// Content is not what it was said to be.
    #[error("content has {found}, not {expected} as stated")]
    Digest {
        /// As stated.
        expected: Digest,
        /// As computed.
        found: Digest,
    },
}

impl CacheError {
    /// The one next thing to try.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let text = match self {
            Self::NoHome => "set XDG_CACHE_HOME to a folder with room for the bundle's content",
            Self::Io { .. } => "look at the rights and the free space of that folder",
            Self::Digest { .. } => "remove the file it came from and fetch it again",
        };
        Some(text.to_owned())
    }
}

/// A blob in the cache, as a listing shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cached {
    /// Digest that its name states.
    pub digest: Digest,
    /// Length in bytes.
    pub size: u64,
    /// When it was put there.
    pub modified: SystemTime,
}

/// The cache of whoever builds bundles.
#[derive(Debug, Clone)]
pub struct Cache {
    folder: PathBuf,
}

impl Cache {
    /// The user's cache.
    ///
    /// # Errors
    /// When no home is known, or its folders can't be made.
    pub fn open_default() -> Result<Self, CacheError> {
        let stated = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
        // The specification says to ignore relative paths.
        let base = stated.filter(|path| path.is_absolute());
        let base = base.or_else(|| std::env::home_dir().map(|home| home.join(".cache")));
        Self::open(&base.ok_or(CacheError::NoHome)?.join("kdc"))
    }

    /// The cache in `folder`, made where there is none.
    ///
    /// # Errors
    /// When its folders can't be made.
    pub fn open(folder: &Path) -> Result<Self, CacheError> {
        let cache = Self { folder: folder.to_owned() };
        for folder in [cache.blobs(), cache.partials()] {
            fs_err::create_dir_all(folder).map_err(|error| cache.failed(error))?;
        }
        Ok(cache)
    }

    /// Where it is.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn blobs(&self) -> PathBuf {
        self.folder.join("blobs/sha256")
    }

    /// Where downloads wait until they are whole.
    pub(crate) fn partials(&self) -> PathBuf {
        self.folder.join("partial")
    }

    /// The error of this cache for what the file system says.
    pub(crate) fn failed(&self, source: io::Error) -> CacheError {
        CacheError::Io { folder: self.folder.clone(), source }
    }

    /// Where the blob lies, if it is there.
    #[must_use]
    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.blobs().join(digest.hex())
    }

    /// Whether a blob of that name and length is there; its bytes are for the reader to prove.
    #[must_use]
    pub fn has(&self, digest: &Digest, size: Option<u64>) -> bool {
        let found = fs_err::metadata(self.path(digest)).ok().filter(std::fs::Metadata::is_file);
        found.is_some_and(|metadata| size.is_none_or(|size| metadata.len() == size))
    }

    /// Puts content there under the digest it has.
    ///
    /// # Errors
    /// When reading or writing fails; then nothing is left.
    pub fn insert(&self, content: impl Read) -> Result<(Digest, u64), CacheError> {
        self.insert_if(content, |_| Ok(()))
    }

    /// Puts content there if it has that digest. Gives its length.
    ///
    /// # Errors
    /// When it has another one, or reading or writing fails; then nothing is left.
    pub fn insert_verified(
        &self,
        expected: &Digest,
        content: impl Read,
    ) -> Result<u64, CacheError> {
        let check = |found: &Digest| check(expected, found);
        self.insert_if(content, check).map(|(_, size)| size)
    }

    fn insert_if(
        &self,
        mut content: impl Read,
        check: impl FnOnce(&Digest) -> Result<(), CacheError>,
    ) -> Result<(Digest, u64), CacheError> {
        let failed = |error| self.failed(error);
        let mut file = tempfile::Builder::new()
            .prefix("insert-")
            .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
            .tempfile_in(self.partials())
            .map_err(failed)?;
        let (mut hash, mut size) = (Sha256::new(), 0);
        let mut buffer = vec![0; 256 * 1024];
        loop {
            let length = match content.read(&mut buffer) {
                Ok(0) => break,
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(failed(error)),
            };
            hash.update(&buffer[..length]);
            file.write_all(&buffer[..length]).map_err(failed)?;
            size += length as u64;
        }
        let found = Digest::from_bytes(&hash.finalize().into());
        check(&found)?;
        file.as_file().sync_data().map_err(failed)?;
        file.persist(self.path(&found)).map_err(|error| failed(error.error))?;
        Ok((found, size))
    }

    /// Gives a file that was hashed on its way to `partial` the name of its digest.
    pub(crate) fn adopt(&self, partial: &Path, digest: &Digest) -> Result<(), CacheError> {
        fs_err::rename(partial, self.path(digest)).map_err(|error| self.failed(error))
    }

    /// Opens a blob. Its end is only reached if all that was read has its digest.
    ///
    /// # Errors
    /// When it is not there.
    pub fn open_blob(&self, digest: &Digest) -> Result<Proving<fs_err::File>, CacheError> {
        let file = fs_err::File::open(self.path(digest)).map_err(|error| self.failed(error))?;
        Ok(Proving { inner: file, hash: Sha256::new(), expected: digest.clone() })
    }

    /// A small blob, whole and proved; `None` where it is not there, or is not itself any more and
    /// was thrown away.
    ///
    /// # Errors
    /// When reading fails, or it is longer than `most`.
    pub fn read_small(&self, digest: &Digest, most: u64) -> Result<Option<Vec<u8>>, CacheError> {
        if !self.has(digest, None) {
            return Ok(None);
        }
        let file = fs_err::File::open(self.path(digest)).map_err(|error| self.failed(error))?;
        let mut bytes = Vec::new();
        file.take(most + 1).read_to_end(&mut bytes).map_err(|error| self.failed(error))?;
        if bytes.len() as u64 > most {
            let what = format!("{digest} is longer than the {most} bytes expected of it");
            return Err(self.failed(io::Error::other(what)));
        }
        if Digest::of(&bytes) == *digest {
            return Ok(Some(bytes));
        }
        self.remove(digest)?;
        Ok(None)
    }

    /// Everything there, sorted by digest.
    ///
    /// # Errors
    /// When the folder can't be read.
    pub fn list(&self) -> Result<Vec<Cached>, CacheError> {
        let failed = |error| self.failed(error);
        let mut all = Vec::new();
        for entry in fs_err::read_dir(self.blobs()).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = format!("sha256:{}", entry.file_name().to_string_lossy());
            let Ok(digest) = name.parse() else { continue };
            let metadata = match entry.metadata() {
                Ok(metadata) => metadata,
                // Somebody else removed it meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(failed(error)),
            };
            let modified = metadata.modified().map_err(failed)?;
            all.push(Cached { digest, size: metadata.len(), modified });
        }
        all.sort_by(|left, right| left.digest.cmp(&right.digest));
        Ok(all)
    }

    /// Removes a blob; that it isn't there is fine.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn remove(&self, digest: &Digest) -> Result<(), CacheError> {
        match fs_err::remove_file(self.path(digest)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(self.failed(error)),
            _ => Ok(()),
        }
    }
}

/// Digest and length of content.
pub(crate) fn digest_of(mut content: impl Read) -> io::Result<(Digest, u64)> {
    let (mut hash, mut size) = (Sha256::new(), 0);
    let mut buffer = vec![0; 256 * 1024];
    loop {
        match content.read(&mut buffer) {
            Ok(0) => return Ok((Digest::from_bytes(&hash.finalize().into()), size)),
            Ok(length) => {
                hash.update(&buffer[..length]);
                size += length as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Refuses content that isn't what was stated.
pub(crate) fn check(expected: &Digest, found: &Digest) -> Result<(), CacheError> {
    if expected == found {
        return Ok(());
    }
    Err(CacheError::Digest { expected: expected.clone(), found: found.clone() })
}

/// A reader that fails at its end unless all that was read has the digest expected.
#[derive(Debug)]
pub struct Proving<R> {
    inner: R,
    hash: Sha256,
    expected: Digest,
}

impl<R: Read> Read for Proving<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        if length == 0 && !buffer.is_empty() {
            let found = Digest::from_bytes(&self.hash.clone().finalize().into());
            return match check(&self.expected, &found) {
                Ok(()) => Ok(0),
                Err(error) => Err(io::Error::new(io::ErrorKind::InvalidData, error)),
            };
        }
        self.hash.update(&buffer[..length]);
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache() -> (tempfile::TempDir, Cache) {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(&folder.path().join("kdc")).unwrap();
        (folder, cache)
    }

    fn left(cache: &Cache) -> usize {
        fs_err::read_dir(cache.partials()).unwrap().count()
    }

    #[test]
    fn what_goes_in_comes_out_under_its_digest() {
        let (_folder, cache) = cache();
        let digest = Digest::of(b"content");
        assert!(!cache.has(&digest, None));
        assert_eq!(cache.insert_verified(&digest, &b"content"[..]).unwrap(), 7);
        assert_eq!(cache.insert(&b"content"[..]).unwrap(), (digest.clone(), 7), "twice is fine");
        assert!(cache.has(&digest, Some(7)) && !cache.has(&digest, Some(8)));
        let mut read = String::new();
        cache.open_blob(&digest).unwrap().read_to_string(&mut read).unwrap();
        assert_eq!(read, "content");
        let listed: Vec<_> = cache.list().unwrap().into_iter().map(|one| one.digest).collect();
        assert!(matches!(listed.as_slice(), [only] if *only == digest));
        cache.remove(&digest).unwrap();
        cache.remove(&digest).unwrap();
        assert!(cache.list().unwrap().is_empty());
        assert_eq!(left(&cache), 0);
    }

    #[test]
    fn content_with_another_digest_leaves_nothing() {
        let (_folder, cache) = cache();
        let error = cache.insert_verified(&Digest::of(b"a"), &b"b"[..]).unwrap_err();
        assert!(matches!(error, CacheError::Digest { .. }), "{error}");
        assert!(cache.list().unwrap().is_empty());
        assert_eq!(left(&cache), 0);
    }

    #[test]
    fn a_blob_that_rotted_is_found_out_when_it_is_read() {
        let (_folder, cache) = cache();
        let (digest, _) = cache.insert(&b"content"[..]).unwrap();
        fs_err::write(cache.path(&digest), b"c0ntent").unwrap();
        let error = io::copy(&mut cache.open_blob(&digest).unwrap(), &mut io::sink()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
        assert_eq!(cache.read_small(&digest, 100).unwrap(), None);
        assert!(!cache.has(&digest, None), "a damaged blob is thrown away");
    }

    #[test]
    fn many_writers_of_one_blob_agree() {
        let (_folder, cache) = cache();
        let content = vec![7; 100_000];
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| cache.insert(content.as_slice()).unwrap());
            }
        });
        assert_eq!(cache.list().unwrap().len(), 1);
        assert_eq!(left(&cache), 0);
        io::copy(&mut cache.open_blob(&Digest::of(&content)).unwrap(), &mut io::sink()).unwrap();
    }
}
