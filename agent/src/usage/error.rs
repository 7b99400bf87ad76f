//! What can go wrong with usage that was collected.

use std::path::PathBuf;

use super::batch::BatchError;

/// It can't be kept, read or summed up.
#[derive(Debug, thiserror::Error)]
pub enum UsageError {
    /// The disk refused.
    #[error("the usage that was collected can't be read or kept")]
    Disk(#[from] std::io::Error),
    /// A batch that a node sent, or that stands in the store, is none.
    #[error("a batch of usage records from {from} can't be read")]
    Batch {
        /// Where it comes from.
        from: String,
        /// Why.
        source: BatchError,
    },
    /// Another process writes to the store.
    #[error("{} is written by another process", folder.display())]
    Busy {
        /// The store.
        folder: PathBuf,
    },
    /// The list of tenants can't be read.
    #[error("{} can't be read: {reason}", path.display())]
    Tenants {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The answer would be too long.
    #[error("the answer would have more than {most} lines")]
    TooManyLines {
        /// How many are given at most.
        most: usize,
    },
    /// The time asked for begins where it ends, or not at a full hour.
    #[error("from {from} to {to} is no time that can be asked for")]
    Span {
        /// Where it begins.
        from: String,
        /// Where it ends.
        to: String,
    },
}

impl UsageError {
    /// Stable code, listed in `docs/errors.md`.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Disk(_) => "AGENT-130",
            Self::Batch { .. } => "AGENT-131",
            Self::Busy { .. } => "AGENT-132",
            Self::Tenants { .. } => "AGENT-133",
            Self::TooManyLines { .. } => "AGENT-134",
            Self::Span { .. } => "AGENT-135",
        }
    }

    /// The one next thing to try.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Disk(_) => "`df -h /var/lib/kdc` on this control plane; what nodes measured waits on them meanwhile".to_owned(),
            Self::Batch { .. } => "`kdc-agent meter verify` on that node says whether its own journal is whole".to_owned(),
            Self::Busy { .. } => "kdc-control.service writes there: stop it first".to_owned(),
            Self::Tenants { path, .. } => format!(
                "move {} away: namespaces are then taken to have always belonged to whom they belong now",
                path.display()
            ),
            Self::TooManyLines { .. } => {
                "ask for a shorter time, for one tenant (`--organization`), or by fewer things (`--by`)".to_owned()
            }
            Self::Span { .. } => "usage is kept by the hour; end after the begin, at full hours (UTC)".to_owned(),
        })
    }
}

impl From<UsageError> for crate::wire::Failure {
    fn from(error: UsageError) -> Self {
        Self::from_error(error.code(), &error, error.hint())
    }
}
