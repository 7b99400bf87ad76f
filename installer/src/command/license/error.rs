//! Errors of the vendor's `license` commands, `LIC-nnn`.

use std::path::PathBuf;

use kdc_agent::license::{LicenseError, document::DocumentError, keys::LicenseKeyError};
use kdc_bundles::signing::SigningError;

use crate::{
    command::BundleCommandError,
    show::{Complaint, Exit},
};

/// What can go wrong with a licence or its key.
#[derive(Debug, thiserror::Error)]
pub enum LicenseCommandError {
    /// The file is not a licence that counts.
    #[error("the licence `{}` is refused", path.display())]
    Refused {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: LicenseError,
    },
    /// What is to be signed makes no sense.
    #[error("such a licence can't be issued")]
    Terms(#[source] DocumentError),
    /// A public key can't be used.
    #[error("a public key can't be used")]
    Key(#[from] LicenseKeyError),
    /// This program was built without keys, and none was named.
    #[error("no public key was given, and none is built into this program")]
    NoKeys,
    /// The vendor's key can't be made or used.
    #[error(transparent)]
    Signing(#[from] SigningError),
    /// Its password can't be had.
    #[error(transparent)]
    Password(#[from] BundleCommandError),
    /// A file can't be read.
    #[error("`{}` can't be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file can't be written.
    #[error("`{}` can't be written", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file is there already.
    #[error("`{}` is there already, and no licence is ever overwritten", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
}

impl LicenseCommandError {
    /// Stable code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Refused { .. } => "LIC-001",
            Self::Terms(_) => "LIC-002",
            Self::Key(_) | Self::NoKeys => "LIC-003",
            Self::Signing(_) => "LIC-004",
            Self::Password(error) => error.code(),
            Self::Read { .. } | Self::Write { .. } | Self::Exists { .. } => "LIC-005",
        }
    }

    /// The next thing to try, if there is one.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Refused { source, .. } => return Some(source.hint()),
            Self::Password(error) => return error.hint(),
            Self::Signing(SigningError::Malformed { .. }) => {
                "give the file that `kdc-install license keygen` wrote, without `.pub`"
            }
            Self::Signing(error) => return error.hint(),
            Self::Terms(_) => "correct the option that the cause names",
            Self::Key(_) => "give the `.pub` file that `kdc-install license keygen` wrote",
            Self::NoKeys => "name the vendor's public key: `--key KEY.pub`",
            Self::Read { .. } => "check the path",
            Self::Write { .. } => {
                "name a place in a folder that is there and that you may write to"
            }
            Self::Exists { .. } => "choose another name with `-o`",
        };
        Some(hint.to_owned())
    }

    fn exit(&self) -> Exit {
        match self {
            Self::Refused { .. } => Exit::Refused,
            _ => Exit::Usage,
        }
    }
}

impl From<LicenseCommandError> for Complaint {
    fn from(error: LicenseCommandError) -> Self {
        if let LicenseCommandError::Password(error) = error {
            return error.into();
        }
        Self::from_error(error.code(), error.exit(), &error).maybe_hint(error.hint())
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_code_is_documented() {
        let docs = include_str!("../../../../docs/errors.md");
        for number in 1..=5 {
            assert!(docs.contains(&format!("| LIC-{number:03} |")), "LIC-{number:03}");
        }
    }
}
