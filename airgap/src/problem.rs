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
    /// Artifacts that have to be fetched first, all of them.
    #[error(
        "these artifacts are not on this machine, and `bundle create` fetches nothing:\n{}",
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
    /// The bundle can't be written.
    #[error("no bundle was written")]
    Write {
        /// Why.
        #[source]
        source: WriteError,
    },
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
                "fetching comes with `bundle lock`; until then download each and use `source.path` \
                 or `source.oci`"
            }
            Self::Index { .. } => "correct the definition",
            Self::Write { source: WriteError::Changed { .. } | WriteError::Read { .. } } => {
                "let nothing change the inputs while a bundle is created, then try again"
            }
            Self::Write { .. } => "check the free space and the rights of the output folder",
        };
        Some(text.to_owned())
    }
}

fn lines(problems: &[Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}
