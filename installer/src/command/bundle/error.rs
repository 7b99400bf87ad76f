//! Errors of the `bundle` commands, `BDL-nnn`.

use std::path::{Path, PathBuf};

use kdc_agent::serve::registry::CatalogError;
use kdc_airgap::{
    CreateError, FetchError, LockError, cache::CacheError, delta::DeltaError, export::ExportError,
};
use kdc_bundles::{
    error::VerifyError,
    index::DigestError,
    keys::{KeyError, KeyId},
    medium::MediumError,
    parts::{PartSummary, PartsError, RepairError},
    signing::SigningError,
};
use kdc_profiles::problem::LoadError;

use crate::show::Complaint;

/// What can go wrong with a bundle or a key.
#[derive(Debug, thiserror::Error)]
pub enum BundleCommandError {
    /// The bundle is not what a trusted key signed.
    #[error("the bundle `{}` is refused", path.display())]
    Refused {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: VerifyError,
    },
    /// There is no such file to read.
    #[error("the bundle `{}` can't be opened", path.display())]
    Unopened {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// There is no bundle where one was looked for, or more than one.
    #[error(transparent)]
    Find(MediumError),
    /// Parts are missing or bad.
    #[error("{} of {bundle} are missing or bad, {}", bad.len(), judgement(*readable))]
    PartsBad {
        /// Name and version.
        bundle: String,
        /// Which, and what is wrong.
        bad: Vec<PartSummary>,
        /// Every byte of the bundle is there all the same.
        readable: bool,
        /// Parity makes up for what is lost.
        repairable: bool,
    },
    /// What is in one file has no parts to rebuild.
    #[error("`{}` is one file: only parts can be rebuilt", path.display())]
    NoParts {
        /// The file.
        path: PathBuf,
    },
    /// A bundle can't be split or joined.
    #[error(transparent)]
    Parts(PartsError),
    /// Parts can't be rebuilt.
    #[error(transparent)]
    Repair(#[from] RepairError),
    /// A public key can't be used.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A folder of trusted keys can't be read.
    #[error("the trusted keys in `{}` can't be read", path.display())]
    KeyFolder {
        /// The folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The trust file has mistakes.
    #[error("{0}")]
    TrustFile(kdc_profiles::problem::Problems),
    /// Somebody else could have written the trust file.
    #[error("the trust file `{}` {what}", path.display())]
    TrustOpen {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A key that is not the one its entry names.
    #[error("the trust file `{}` calls a key {stated} that has the id {found}", path.display())]
    TrustId {
        /// The file.
        path: PathBuf,
        /// The entry's id.
        stated: String,
        /// The key's.
        found: KeyId,
    },
    /// A key can't be added or retired.
    #[error("the key {id} {what} (trust file `{}`)", path.display())]
    TrustChange {
        /// The file.
        path: PathBuf,
        /// The key.
        id: String,
        /// Why.
        what: &'static str,
    },
    /// The trust file can't be written.
    #[error("the trust file `{}` can't be written", path.display())]
    TrustWrite {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The time that the environment states is none.
    #[error("{what}")]
    Epoch {
        /// What is wrong with it.
        what: String,
    },
    /// The bundle was made without such a document.
    #[error("the bundle `{}` has no `{name}`", path.display())]
    NoDocument {
        /// The file.
        path: PathBuf,
        /// The document.
        name: &'static str,
    },
    /// A secret key can't be made or used.
    #[error(transparent)]
    Signing(#[from] SigningError),
    /// The definition can't be read.
    #[error(transparent)]
    Definition(#[from] LoadError),
    /// The bundle can't be created.
    #[error(transparent)]
    Create(#[from] CreateError),
    /// The definition can't be locked, or what its lock names can't be had.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// Nothing can be fetched at all.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// The cache can't be used.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// The lock can't be written.
    #[error("the lock `{}` can't be written", path.display())]
    WriteLock {
        /// The lock.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A lock says something else than a digest where one has to be.
    #[error("the lock `{}` can't be read", path.display())]
    LockDigest {
        /// The lock.
        path: PathBuf,
        /// Why.
        #[source]
        error: DigestError,
    },
    /// The images of a bundle can't be served.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// The address can't be listened on.
    #[error("`{address}` can't be listened on")]
    Listen {
        /// The address.
        address: std::net::SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Certificate and key can't be used.
    #[error("`{}` can't be used for TLS: {reason}", path.display())]
    Tls {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The bundle can't be exported.
    #[error(transparent)]
    Export(#[from] ExportError),
    /// An update can't be made or used.
    #[error(transparent)]
    Delta(#[from] DeltaError),
    /// Neither two bundles nor an inventory and one.
    #[error("`bundle diff` compares two bundles, or an inventory and one bundle")]
    DiffSides,
    /// Nobody can be asked for a password.
    #[error("a password is needed and there is no terminal to ask on")]
    NoTerminal {
        /// What to say on the command line instead.
        instead: &'static str,
    },
    /// The password can't be read from the terminal.
    #[error("the password can't be read from the terminal")]
    Terminal(#[source] std::io::Error),
    /// The password can't be read from a file.
    #[error("the password file can't be read")]
    PasswordFile(#[source] std::io::Error),
    /// Not one line of text.
    #[error("the password file `{}` has to hold the password on one line and nothing else", path.display())]
    PasswordText {
        /// The file.
        path: PathBuf,
    },
    /// Others can read the password.
    #[error("others than you can read the password file `{}`", path.display())]
    PasswordOpen {
        /// The file.
        path: PathBuf,
    },
    /// Two different answers.
    #[error("the two passwords differ")]
    PasswordsDiffer,
}

fn judgement(readable: bool) -> &'static str {
    if readable { "though every byte of the bundle is there" } else { "so the bundle is not whole" }
}

impl BundleCommandError {
    /// A bundle that is not as it was signed, or not there.
    pub(crate) fn refused(path: &Path, source: VerifyError) -> Self {
        match source {
            VerifyError::Medium(
                error @ (MediumError::Nothing { .. }
                | MediumError::TooMany { .. }
                | MediumError::Several { .. }),
            ) => Self::Find(error),
            VerifyError::Open { source } => Self::Unopened { path: path.to_owned(), source },
            source => Self::Refused { path: path.to_owned(), source },
        }
    }

    /// What went wrong with the bundle at `path`.
    pub(super) fn parts(path: &Path) -> impl Fn(PartsError) -> Self + use<> {
        let path = path.to_owned();
        move |error| match error {
            PartsError::Bundle(source) => Self::refused(&path, source),
            other => Self::Parts(other),
        }
    }

    /// Stable code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Refused { .. } => "BDL-001",
            Self::Unopened { .. } => "BDL-007",
            Self::Find(_) => "BDL-010",
            Self::PartsBad { .. } => "BDL-011",
            Self::NoParts { .. } | Self::Parts(_) | Self::Repair(_) => "BDL-012",
            Self::Key(_)
            | Self::KeyFolder { .. }
            | Self::TrustFile(_)
            | Self::TrustOpen { .. }
            | Self::TrustId { .. }
            | Self::TrustChange { .. }
            | Self::TrustWrite { .. } => "BDL-002",
            Self::Signing(_) => "BDL-003",
            Self::Definition(_) | Self::Epoch { .. } => "BDL-004",
            Self::NoDocument { .. } => "BDL-013",
            Self::Create(_) => "BDL-005",
            Self::Catalog(_) | Self::Listen { .. } | Self::Tls { .. } => "BDL-020",
            Self::Export(_) => "BDL-021",
            Self::Delta(_) | Self::DiffSides => "BDL-014",
            Self::NoTerminal { .. }
            | Self::Terminal(_)
            | Self::PasswordFile(_)
            | Self::PasswordText { .. }
            | Self::PasswordOpen { .. }
            | Self::PasswordsDiffer => "BDL-006",
            Self::Lock(_) | Self::WriteLock { .. } | Self::LockDigest { .. } => "BDL-008",
            Self::Fetch(_) | Self::Cache(_) => "BDL-009",
        }
    }
}

impl From<BundleCommandError> for Complaint {
    fn from(error: BundleCommandError) -> Self {
        Self::from_error(error.code(), error.exit(), &error).maybe_hint(error.hint())
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_code_is_documented() {
        let docs = include_str!("../../../../docs/errors.md");
        for number in (1..=13).chain([20, 21]) {
            assert!(docs.contains(&format!("| BDL-{number:03} |")), "BDL-{number:03}");
        }
    }
}
