//! What stands between a definition and a bundle.

use std::fmt;

use kdc_bundles::{index::IndexError, write::WriteError};

/// One thing that is wrong with one artifact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Kind and name of the artifact.
    pub artifact: String,
    /// What is wrong, and where.
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.artifact, self.what)
    }
}

/// Why there is no bundle.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// Artifacts that can't be had, all of them.
    #[error("{}", lines(problems))]
    Problems {
        /// In the definition's order.
        problems: Vec<Problem>,
    },
    /// Artifacts that have to be locked first, all of them.
    #[error(
        "these artifacts are not on this machine, and there is no lock that says what they are:\n{}",
        lines(artifacts)
    )]
    NotLocal {
        /// In the definition's order, with where they are.
        artifacts: Vec<Problem>,
    },
    /// The definition's own values make no acceptable index.
    #[error("the definition makes no acceptable index")]
    Index {
        /// The rule it breaks.
        #[source]
        source: IndexError,
    },
    /// The documents about the bundle can't be written to the folder for temporary files.
    #[error("the documents about the bundle can't be made")]
    Document {
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// The bundle can't be written.
    #[error("no bundle was written")]
    Write {
        /// Why.
        #[source]
        source: WriteError,
    },
}

/// Why there is no lock, or not everything it names.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Artifacts that can't be had, all of them.
    #[error("{}", lines(problems))]
    Problems {
        /// Sorted.
        problems: Vec<Problem>,
    },
    /// Images that charts and manifests will ask for and that would not be there.
    #[error("charts and manifests name images that the definition lacks:\n{}", lines(missing))]
    Images {
        /// Who names which.
        missing: Vec<Problem>,
    },
    /// Names given to be updated that the definition does not have.
    #[error("the definition has no {}", quoted(names))]
    Unknown {
        /// The names.
        names: Vec<String>,
    },
    /// The definition is another one than when it was locked.
    #[error("the lock `{}` is of another definition than it is now", path.display())]
    Stale {
        /// The lock.
        path: std::path::PathBuf,
    },
}

impl LockError {
    /// The one next thing to try.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let text = match self {
            Self::Problems { .. } => {
                "correct what is named and run the same command again; what was fetched is kept"
            }
            Self::Images { .. } => {
                "add each as an artifact of kind `image`, or name it in `ignoreImages` if it is \
                 left out on purpose"
            }
            Self::Unknown { .. } => "give the name of an artifact or of a set of packages",
            Self::Stale { .. } => {
                "run `kdc-install bundle lock -f DEFINITION` and look at the change"
            }
        };
        Some(text.to_owned())
    }
}

fn quoted(names: &[String]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

impl CreateError {
    /// The one next thing to try.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let text = match self {
            Self::Problems { .. } => {
                "correct the definition or put the files there, then try again"
            }
            Self::NotLocal { .. } => {
                "run `kdc-install bundle lock -f DEFINITION`, check the lock in, and create again"
            }
            Self::Index { .. } => "correct the definition",
            Self::Document { .. } => "check the room for temporary files (`TMPDIR`)",
            Self::Write { source: WriteError::Changed { .. } | WriteError::Read { .. } } => {
                "let nothing change the inputs while a bundle is created, then try again"
            }
            Self::Write { .. } => "check the free space and the rights of the output folder",
        };
        Some(text.to_owned())
    }
}

/// An error and what caused it, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        // Some libraries repeat their cause.
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        cause = error.source();
    }
    text
}

fn lines(problems: &[Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}
