//! Why a request failed, as it travels.

use serde::{Deserialize, Serialize};

/// A request that failed, in words an operator can act on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "camelCase")]
#[error("{message}")]
pub struct Failure {
    /// Stable code (`AGENT-012`), listed in `docs/errors.md`.
    pub code: String,
    /// What happened.
    pub message: String,
    /// The next thing to try.
    pub hint: Option<String>,
}

impl Failure {
    /// A failure out of an error: the whole chain of causes in one line, most general first.
    #[must_use]
    pub fn from_error(code: &str, error: &dyn std::error::Error, hint: Option<String>) -> Self {
        let mut message = error.to_string();
        let mut cause = error.source();
        while let Some(inner) = cause {
            message = format!("{message}: {inner}");
            cause = inner.source();
        }
        Self { code: code.to_owned(), message, hint }
    }
}
