//! Giving room back: what may go from the cache.

use std::{
    collections::BTreeSet,
    io,
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use kdc_bundles::index::Digest;

use crate::cache::{Cache, CacheError};

/// A download that nobody has touched for that long is not coming back.
const ABANDONED: Duration = Duration::from_secs(24 * 3600);

/// What nothing names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Surplus {
    /// Whole blobs.
    pub blobs: Vec<Digest>,
    /// Downloads that were cut more than a day ago.
    pub partials: Vec<PathBuf>,
    /// What all of them take on the disk.
    pub bytes: u64,
}

impl Cache {
    /// What is in the cache and not in `keep`, and downloads that were given up.
    ///
    /// # Errors
    /// When the cache can't be read.
    pub fn surplus(&self, keep: &BTreeSet<Digest>) -> Result<Surplus, CacheError> {
        let failed = |error| self.failed(error);
        let mut surplus = Surplus::default();
        for blob in self.list()?.into_iter().filter(|blob| !keep.contains(&blob.digest)) {
            if let Some(bytes) = existing(taken(self.path(&blob.digest))).map_err(failed)? {
                surplus.bytes += bytes;
                surplus.blobs.push(blob.digest);
            }
        }
        for entry in fs_err::read_dir(self.partials()).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let Some(metadata) = existing(fs_err::metadata(&path)).map_err(failed)? else {
                continue;
            };
            let modified = metadata.modified().map_err(failed)?;
            // A clock that was set back makes none of them old.
            let age = SystemTime::now().duration_since(modified).unwrap_or_default();
            if metadata.is_file() && age > ABANDONED {
                surplus.bytes += metadata.blocks() * 512;
                surplus.partials.push(path);
            }
        }
        surplus.partials.sort();
        Ok(surplus)
    }

    /// Removes what [`Cache::surplus`] found. That some of it is gone already is fine.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn prune(&self, surplus: &Surplus) -> Result<(), CacheError> {
        for blob in &surplus.blobs {
            self.remove(blob)?;
        }
        for path in &surplus.partials {
            existing(fs_err::remove_file(path)).map_err(|error| self.failed(error))?;
        }
        Ok(())
    }
}

fn taken(path: PathBuf) -> io::Result<u64> {
    Ok(fs_err::metadata(path)?.blocks() * 512)
}

/// `None` where somebody else removed it meanwhile.
fn existing<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_named_stays_and_so_does_a_download_that_may_go_on() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path()).unwrap();
        let (named, _) = cache.insert(&[1; 10_000][..]).unwrap();
        let (other, _) = cache.insert(&[2; 10_000][..]).unwrap();
        let (young, old) = (cache.partials().join("young"), cache.partials().join("old"));
        for path in [&young, &old] {
            fs_err::write(path, "half").unwrap();
        }
        let file = std::fs::File::options().write(true).open(&old).unwrap();
        file.set_modified(SystemTime::now() - ABANDONED - Duration::from_secs(60)).unwrap();

        let keep = BTreeSet::from([named.clone()]);
        let surplus = cache.surplus(&keep).unwrap();
        assert_eq!((&surplus.blobs, &surplus.partials), (&vec![other.clone()], &vec![old.clone()]));
        assert!(surplus.bytes >= 10_000, "{}", surplus.bytes);
        assert!(cache.has(&other, None) && old.exists(), "looking removes nothing");

        cache.prune(&surplus).unwrap();
        cache.prune(&surplus).unwrap();
        assert!(cache.has(&named, Some(10_000)) && !cache.has(&other, None));
        assert!(young.exists() && !old.exists());
        assert_eq!(cache.surplus(&keep).unwrap(), Surplus::default());
    }
}
