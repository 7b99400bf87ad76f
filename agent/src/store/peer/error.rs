//! Why a node can't share, in words an operator can act on.

use std::path::PathBuf;

use crate::{host::HostError, store::StoreError, wire::Failure};

/// A request about sharing that was refused, or a sharing unit that can't go on.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// The others were named before this node was asked to share.
    #[error("this node does not share anything")]
    NotSharing,
    /// The list of peers breaks a rule.
    #[error("the list of peers makes no sense: {reason}")]
    Peers {
        /// Which.
        reason: String,
    },
    /// The unit was started but never said where it listens.
    #[error("{unit} was started, but does not listen after {seconds} s")]
    NotListening {
        /// The unit.
        unit: &'static str,
        /// How long was waited.
        seconds: u64,
    },
    /// No key or certificate could be made of it.
    #[error("this node has no key and certificate to share with: {reason}")]
    Identity {
        /// Why.
        reason: String,
    },
    /// A file below the share folder.
    #[error("{} makes no sense: {reason}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A file could not be read or written, or no port be listened on; the cause says which.
    #[error("this node can't share")]
    Io(#[from] std::io::Error),
    /// The unit could not be started or ended.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl PeerError {
    /// Stable code, listed in `docs/errors.md`.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotSharing => "AGENT-060",
            Self::Peers { .. } => "AGENT-061",
            Self::NotListening { .. } => "AGENT-062",
            Self::Identity { .. } => "AGENT-063",
            Self::File { .. } => "AGENT-064",
            Self::Io(_) => "AGENT-065",
            Self::Host(_) => "AGENT-066",
            Self::Store(error) => error.code(),
        }
    }

    /// The one next thing to try.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NotSharing | Self::Peers { .. } => {
                "run `kdc-install apply` again; if it says so again, report it as a fault of kdc"
                    .to_owned()
            }
            Self::NotListening { unit, .. } => format!("see `journalctl -u {unit}` on the node"),
            Self::Identity { .. } | Self::File { .. } => {
                "run `kdc-install apply` again: it makes the folder anew".to_owned()
            }
            Self::Io(_) => {
                "look at what the message names, and at `dmesg` for a failing disk".to_owned()
            }
            Self::Host(error) => return error.hint(),
            Self::Store(error) => return error.hint(),
        })
    }
}

impl From<&PeerError> for Failure {
    fn from(error: &PeerError) -> Self {
        Self::from_error(error.code(), error, error.hint())
    }
}

impl From<PeerError> for Failure {
    fn from(error: PeerError) -> Self {
        Self::from(&error)
    }
}
