//! Errors of the command layer itself, `KDC-nnn`; `docs/errors.md` lists them.

use std::path::PathBuf;

use crate::show::{Complaint, Exit};

/// What can go wrong between the command line and the fleet.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The runtime could not start.
    #[error("can't start")]
    Runtime(#[source] std::io::Error),
    /// Output could not be written.
    #[error("can't write the output")]
    Output(#[source] std::io::Error),
    /// A file of the operator can't be read.
    #[error("can't read `{}`", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file can't be written.
    #[error("can't write `{}`", path.display())]
    Write {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

impl CommandError {
    /// Stable code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Runtime(_) | Self::Output(_) => "KDC-001",
            Self::Read { .. } => "KDC-002",
            Self::Write { .. } => "KDC-003",
        }
    }

    /// The next thing to try, if there is one.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        None
    }

    /// The exit code it stands for.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            Self::Runtime(_) | Self::Output(_) => Exit::Internal,
            Self::Read { .. } | Self::Write { .. } => Exit::Usage,
        }
    }
}

impl From<CommandError> for Complaint {
    fn from(error: CommandError) -> Self {
        Self::from_error(error.code(), error.exit(), &error).maybe_hint(error.hint())
    }
}
