//! What may go from a store.

use std::{collections::BTreeSet, os::unix::fs::MetadataExt as _, path::PathBuf};

use kdc_bundles::index::Digest;

use super::{Store, StoreError};

/// What stays when a store is pruned.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Keep {
    /// Blobs, whole or partial.
    pub blobs: BTreeSet<Digest>,
    /// Indexes, with signature and keys.
    pub indexes: BTreeSet<Digest>,
}

/// A file that nothing needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Surplus {
    /// Where it is.
    pub path: PathBuf,
    /// What it takes on the disk.
    pub bytes: u64,
}

impl Store {
    /// Every file of the store that is not to be kept. Missing directories are no error.
    ///
    /// # Errors
    /// When a directory can't be read.
    pub fn surplus(&self, keep: &Keep) -> Result<Vec<Surplus>, StoreError> {
        let mut surplus = Vec::new();
        for (directory, kept) in
            [("blobs/sha256", &keep.blobs), ("partial", &keep.blobs), ("index", &keep.indexes)]
        {
            let kept: BTreeSet<&str> = kept.iter().map(Digest::hex).collect();
            let entries = match fs_err::read_dir(self.root.join(directory)) {
                Ok(entries) => entries,
                Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => continue,
                Err(cause) => return Err(cause.into()),
            };
            for entry in entries {
                let entry = entry?;
                let name = entry.file_name();
                // `<hex>`, `<hex>.have`, `<hex>.json`…; what has another name is of nobody.
                let stem = name.to_string_lossy();
                let stem = stem.split('.').next().unwrap_or_default();
                if !kept.contains(stem) {
                    let bytes = entry.metadata()?.blocks() * 512;
                    surplus.push(Surplus { path: entry.path(), bytes });
                }
            }
        }
        surplus.sort_by(|left, right| left.path.cmp(&right.path));
        Ok(surplus)
    }

    /// Removes all content, whole or partial, and every index; returns the bytes freed.
    ///
    /// # Errors
    /// When a file can't be removed.
    pub fn empty(&self) -> Result<u64, StoreError> {
        let all = self.surplus(&Keep::default())?;
        self.remove(&all)?;
        Ok(all.iter().map(|file| file.bytes).sum())
    }

    /// Removes these files. That one is gone already is no error.
    ///
    /// # Errors
    /// When one can't be removed.
    pub fn remove(&self, surplus: &[Surplus]) -> Result<(), StoreError> {
        for file in surplus {
            match fs_err::remove_file(&file.path) {
                Err(cause) if cause.kind() != std::io::ErrorKind::NotFound => {
                    return Err(cause.into());
                }
                _ => {}
            }
        }
        Ok(())
    }
}
