//! From a bundle back to files that other tools read: an OCI image layout in a folder.
//!
//! The folder is made beside its place and gets its name when all of it is on the disk. Blobs are
//! proved while they are copied, so a damaged bundle gives an error and no folder.

use std::{
    collections::BTreeSet,
    io::{self, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use kdc_bundles::{
    error::VerifyError,
    index::{Artifact, Digest, Index},
    member,
    open::BundleFile,
};

/// Why there is no export.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// Nothing in the bundle is meant.
    #[error("the bundle has no artifact `{choice}`")]
    Nothing {
        /// What was asked for.
        choice: String,
    },
    /// Something is where the export shall be.
    #[error("`{}` is there already, and not an empty folder", path.display())]
    Occupied {
        /// The place.
        path: PathBuf,
    },
    /// The file system is too small for it.
    #[error(
        "the export needs {needed} bytes, `{}` has {free} free; nothing was written",
        path.display()
    )]
    Space {
        /// The folder it would be made in.
        path: PathBuf,
        /// Bytes of all blobs.
        needed: u64,
        /// Bytes that may be used there.
        free: u64,
    },
    /// The bundle is damaged.
    #[error("the bundle can't be exported")]
    Bundle(#[source] VerifyError),
    /// The file system refuses.
    #[error("the export can't be written")]
    Io(#[from] io::Error),
}

impl ExportError {
    /// The one next thing to try.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let text = match self {
            Self::Nothing { .. } => "`kdc-install bundle inspect FILE` lists what is in it",
            Self::Occupied { .. } => "name another folder: nothing is ever overwritten",
            Self::Space { .. } => "name a folder on another disk, or choose less with `--only`",
            Self::Bundle(error) => return error.hint(),
            Self::Io(_) => "look at the free space and the rights of the folder",
        };
        Some(text.to_owned())
    }
}

/// What is wanted: a kind (`image`), or one artifact (`image/registry.k8s.io/pause:3.10`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    kind: String,
    name: Option<String>,
}

impl std::str::FromStr for Choice {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text.split_once('/') {
            Some((kind, name)) => Self { kind: kind.to_owned(), name: Some(name.to_owned()) },
            None => Self { kind: text.to_owned(), name: None },
        })
    }
}

impl std::fmt::Display for Choice {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.name {
            Some(name) => write!(formatter, "{}/{name}", self.kind),
            None => formatter.write_str(&self.kind),
        }
    }
}

impl Choice {
    fn fits(&self, artifact: &Artifact) -> bool {
        artifact.kind.as_str() == self.kind
            && self.name.as_ref().is_none_or(|name| artifact.name == *name)
    }
}

/// What was exported.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Exported {
    /// Number of artifacts.
    pub artifacts: usize,
    /// Number of distinct blobs.
    pub blobs: usize,
    /// Bytes of all blobs.
    pub content_bytes: u64,
}

/// The part of an index that is chosen; all of it, where nothing is.
///
/// # Errors
/// When a choice fits nothing.
pub fn select(index: &Index, only: &[Choice]) -> Result<Index, ExportError> {
    if let Some(choice) = only.iter().find(|choice| !index.artifacts.iter().any(|a| choice.fits(a)))
    {
        return Err(ExportError::Nothing { choice: choice.to_string() });
    }
    let mut selected = index.clone();
    if only.is_empty() {
        return Ok(selected);
    }
    selected.artifacts.retain(|artifact| only.iter().any(|choice| choice.fits(artifact)));
    let used: BTreeSet<Digest> =
        selected.artifacts.iter().flat_map(|artifact| artifact.blobs.iter().cloned()).collect();
    selected.blobs.retain(|blob| used.contains(&blob.digest));
    Ok(selected)
}

/// Writes `selection`, a part of the bundle's index, as an OCI image layout to the folder `target`,
/// whole or not at all. `bytes` is told how many more are written.
///
/// # Errors
/// When there is something already, the bundle is damaged, or the system fails.
pub fn write_oci(
    bundle: &BundleFile,
    selection: &Index,
    target: &Path,
    bytes: &mut dyn FnMut(u64),
) -> Result<Exported, ExportError> {
    if !is_free(target)? {
        return Err(ExportError::Occupied { path: target.to_owned() });
    }
    let beside = match target.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let (needed, free) = (selection.content_bytes(), free_bytes(beside)?);
    if needed > free {
        return Err(ExportError::Space { path: beside.to_owned(), needed, free });
    }
    let mode = std::fs::Permissions::from_mode(0o755);
    let folder =
        tempfile::Builder::new().prefix(".kdc-export-").permissions(mode).tempdir_in(beside)?;
    let blobs = folder.path().join("blobs/sha256");
    fs_err::create_dir_all(&blobs)?;
    for blob in &selection.blobs {
        let file = fs_err::File::create_new(blobs.join(blob.digest.hex()))?;
        let mut counted = Counted { file, bytes };
        bundle.copy_blob(&blob.digest, &mut counted).map_err(|error| match error {
            VerifyError::Write { source, .. } => ExportError::Io(source),
            other => ExportError::Bundle(other),
        })?;
        counted.file.sync_data()?;
    }
    for (name, content) in member::oci_members(selection) {
        let mut file = fs_err::File::create_new(folder.path().join(name))?;
        file.write_all(&content)?;
        file.sync_data()?;
    }
    for folder in [&blobs, &folder.path().join("blobs"), folder.path()] {
        fs_err::File::open(folder)?.sync_all()?;
    }
    fs_err::rename(folder.path(), target)?;
    // It has another name now, so there is nothing to remove.
    let _moved = folder.keep();
    fs_err::File::open(beside)?.sync_all()?;
    Ok(Exported {
        artifacts: selection.artifacts.len(),
        blobs: selection.blobs.len(),
        content_bytes: selection.content_bytes(),
    })
}

/// Bytes that whoever runs this may still use of a folder's file system.
fn free_bytes(folder: &Path) -> io::Result<u64> {
    let disk = nix::sys::statvfs::statvfs(folder)?;
    Ok(disk.blocks_available().saturating_mul(disk.fragment_size()))
}

/// Nothing is there, or an empty folder.
fn is_free(target: &Path) -> io::Result<bool> {
    match fs_err::symlink_metadata(target) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(error),
        Ok(found) if found.is_dir() => Ok(fs_err::read_dir(target)?.next().is_none()),
        Ok(_) => Ok(false),
    }
}

/// A file, and who is told how much goes into it.
struct Counted<'a> {
    file: fs_err::File,
    bytes: &'a mut dyn FnMut(u64),
}

impl io::Write for Counted<'_> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let length = self.file.write(buffer)?;
        (self.bytes)(length as u64);
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
