//! Why something can't be written down or read back.

use std::path::{Path, PathBuf};

use crate::wire::Failure;

/// The audit log can't be used.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The file system would not.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Another process has it for too long.
    #[error("another process is at work on {} for {seconds} s", path.display())]
    Busy {
        /// The folder.
        path: PathBuf,
        /// How long was waited.
        seconds: u64,
    },
    /// An entry that is larger than a line may be.
    #[error("an entry of kind {kind} has {bytes} bytes; a line has at most {limit}")]
    TooLarge {
        /// Its kind.
        kind: String,
        /// Its size.
        bytes: usize,
        /// The most.
        limit: usize,
    },
    /// There is no log on this node.
    #[error("there is no audit log on this node: {} is not there", path.display())]
    None {
        /// Where it would be.
        path: PathBuf,
    },
    /// The head can't be told to the cluster.
    #[error("the cluster can't be told where the audit log ends: {reason}")]
    Tell {
        /// Why.
        reason: String,
    },
    /// The spool of a part that may write no file takes no more.
    #[error("the spool of kdc-control has {bytes} bytes and takes no more")]
    SpoolFull {
        /// How full.
        bytes: u64,
    },
}

impl AuditError {
    pub(super) fn file(action: &'static str, path: &Path, source: std::io::Error) -> Self {
        Self::File { action, path: path.to_owned(), source }
    }

    /// As it is told over the wire.
    #[must_use]
    pub fn failure(&self) -> Failure {
        Failure::from_error(self.code(), self, self.hint())
    }

    /// Stable code, listed in `docs/errors.md`.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::File { .. } => "AUDIT-001",
            Self::Busy { .. } => "AUDIT-002",
            Self::TooLarge { .. } => "AUDIT-003",
            Self::None { .. } => "AUDIT-004",
            Self::SpoolFull { .. } => "AUDIT-005",
            Self::Tell { .. } => "AUDIT-006",
        }
    }

    /// The one next thing to try.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::File { path, .. } => {
                format!("check disk space and permissions of {}", path.display())
            }
            Self::Busy { path, .. } => {
                format!("see who has it: `fuser {}`", path.join("lock").display())
            }
            Self::None { .. } => "a log begins with the first run: `kdc-install apply`".to_owned(),
            Self::SpoolFull { .. } => {
                "is kdc-agent.service running? it has the spool emptied every ten minutes"
                    .to_owned()
            }
            Self::Tell { .. } => {
                "it is tried again; see `kubectl get node` and the kubelet's credentials".to_owned()
            }
            Self::TooLarge { .. } => return None,
        })
    }
}

impl From<AuditError> for Failure {
    fn from(error: AuditError) -> Self {
        error.failure()
    }
}
