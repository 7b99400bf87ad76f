//! What can go wrong in the store, in words an operator can act on.

use std::path::{Path, PathBuf};

use kdc_bundles::index::Digest;

use crate::wire::Failure;

/// Why the store refused or failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The index is not signed by a key the operator trusts.
    #[error("the bundle's index is not accepted on this node: {reason}")]
    NotTrusted {
        /// What the check said.
        reason: String,
    },
    /// The signed index contradicts itself.
    #[error("the signed index makes no sense: {reason}")]
    BadIndex {
        /// What is wrong.
        reason: String,
    },
    /// Nothing was offered under that digest.
    #[error("this node has no verified index {index}")]
    UnknownIndex {
        /// Wanted index.
        index: Digest,
    },
    /// Pieces were asked about before an index was offered.
    #[error("this session has offered no index yet")]
    NoIndex,
    /// A digest that the index does not name.
    #[error("the signed index names no blob {blob}")]
    UnknownBlob {
        /// Wanted blob.
        blob: Digest,
    },
    /// A piece that the index does not name.
    #[error("the signed index has no piece {piece} of a blob number {ordinal}")]
    NoPiece {
        /// The blob's place in the index.
        ordinal: usize,
        /// Wanted piece.
        piece: usize,
    },
    /// Not (wholly) here.
    #[error("blob {blob} is not in the store of this node")]
    Absent {
        /// Wanted blob.
        blob: Digest,
    },
    /// Bytes that are not what the index says.
    #[error("piece {piece} of blob {blob} is not what the signed index says ({place})")]
    Mismatch {
        /// The blob.
        blob: Digest,
        /// Ordinal of the piece.
        piece: u32,
        /// Where it was seen: on the way in, or on this node's disk.
        place: &'static str,
    },
    /// The bulk stream broke its own rules.
    #[error("the piece stream is broken: {reason}")]
    BadStream {
        /// What is wrong.
        reason: String,
    },
    /// The file system is full.
    #[error(
        "no space left on the file system at {mount_point}: {needed_bytes} more bytes of blob \
         {blob} are to come, {free_bytes} are free"
    )]
    NoSpace {
        /// Where the file system is mounted.
        mount_point: PathBuf,
        /// The blob that did not fit.
        blob: Digest,
        /// Bytes still to come for it.
        needed_bytes: u64,
        /// Bytes free.
        free_bytes: u64,
    },
    /// A file could not be read or written; the cause names it.
    #[error("the store of this node failed")]
    Io(#[from] std::io::Error),
}

impl StoreError {
    /// Stable code, listed in `docs/errors.md`.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotTrusted { .. } => "AGENT-010",
            Self::BadIndex { .. } => "AGENT-011",
            Self::UnknownIndex { .. } => "AGENT-012",
            Self::UnknownBlob { .. } | Self::NoPiece { .. } => "AGENT-013",
            Self::Absent { .. } => "AGENT-014",
            Self::Mismatch { .. } => "AGENT-015",
            Self::BadStream { .. } => "AGENT-016",
            Self::NoSpace { .. } => "AGENT-017",
            Self::Io(_) => "AGENT-018",
            Self::NoIndex => "AGENT-019",
        }
    }

    /// The one next thing to try.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NotTrusted { .. } => {
                "check the bundle with `kdc-install bundle verify FILE --key KEY.pub`, and that the \
                 key is the builder's"
                    .to_owned()
            }
            Self::BadIndex { .. } | Self::UnknownBlob { .. } | Self::NoPiece { .. } => {
                "build the bundle again; this one was signed with a broken index".to_owned()
            }
            Self::UnknownIndex { .. } | Self::Absent { .. } | Self::NoIndex => {
                "run `kdc-install apply` again: it sends what is missing".to_owned()
            }
            Self::Mismatch { .. } => {
                "run `kdc-install apply` again: the bad bytes are gone and only they are sent again; \
                 if it comes back, check the disk (`dmesg`) and the bundle file"
                    .to_owned()
            }
            Self::BadStream { .. } => {
                "the link went away or the installer is of another version; run it again".to_owned()
            }
            Self::NoSpace { mount_point, .. } => format!(
                "free space on {} (`du -xsh {}/*`), then run `kdc-install apply` again: what came \
                 is kept",
                mount_point.display(),
                mount_point.display()
            ),
            Self::Io(_) => "look at the file named and at `dmesg` for a failing disk".to_owned(),
        })
    }
}

impl From<&StoreError> for Failure {
    fn from(error: &StoreError) -> Self {
        Self::from_error(error.code(), error, error.hint())
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::from(&error)
    }
}

/// Turn a failed write into [`StoreError::NoSpace`] where that is what it was.
pub(super) fn write_failed(
    cause: std::io::Error,
    path: &Path,
    blob: &Digest,
    needed_bytes: u64,
) -> StoreError {
    let full =
        matches!(cause.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded);
    if !full {
        return StoreError::Io(cause);
    }
    let free_bytes = nix::sys::statvfs::statvfs(path.parent().unwrap_or(path))
        .map_or(0, |stat| stat.blocks_available().saturating_mul(stat.fragment_size()));
    StoreError::NoSpace {
        mount_point: mount_point_of(path),
        blob: blob.clone(),
        needed_bytes,
        free_bytes,
    }
}

/// A failure on this file, for calls that don't name theirs.
pub(super) fn of(path: &Path) -> impl Fn(std::io::Error) -> std::io::Error {
    move |cause| std::io::Error::new(cause.kind(), format!("failed on {}: {cause}", path.display()))
}

/// The highest directory above `path` that is on the same file system.
fn mount_point_of(path: &Path) -> PathBuf {
    use std::os::unix::fs::MetadataExt as _;
    let device = |path: &Path| fs_err::metadata(path).ok().map(|meta| meta.dev());
    let mut found = path;
    let wanted = path.ancestors().find_map(device);
    for ancestor in path.ancestors().skip(1) {
        if device(ancestor) != wanted {
            break;
        }
        found = ancestor;
    }
    found.to_owned()
}
