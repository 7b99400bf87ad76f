//! Why acceptance could not be tried at all. A proof that doesn't hold is no error: it is in the list.

use super::{ADMIN_KUBECONFIG, NAMESPACE};
use crate::{host::HostError, wire::Failure};

/// Why the proofs could not be made at all.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    /// Not a control plane (yet).
    #[error("this node has no {ADMIN_KUBECONFIG}")]
    NoKubeconfig,
    /// `kubectl` could not be run.
    #[error(transparent)]
    Host(#[from] HostError),
    /// `kubectl` refused.
    #[error("`kubectl {what}` failed: {reason}")]
    Kubectl {
        /// First words of the command.
        what: String,
        /// What it said.
        reason: String,
    },
    /// The record could not be written as JSON.
    #[error("the acceptance record can't be written")]
    Record(#[source] serde_json::Error),
    /// The test objects did not go away.
    #[error("namespace {NAMESPACE} did not go away within {seconds} s")]
    Stays {
        /// How long was waited.
        seconds: u64,
    },
}

impl AcceptError {
    /// Stable code, listed in `docs/errors.md`.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoKubeconfig => "AGENT-040",
            Self::Host(_) => "AGENT-041",
            Self::Kubectl { .. } => "AGENT-042",
            Self::Stays { .. } => "AGENT-043",
            Self::Record(_) => "AGENT-044",
        }
    }

    /// The one next thing to try.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NoKubeconfig => "ask a control-plane node whose install is finished".to_owned(),
            Self::Host(error) => return error.hint(),
            Self::Kubectl { .. } => {
                "see `kubectl get nodes,pods -A -o wide` with the admin kubeconfig".to_owned()
            }
            Self::Record(_) => return None,
            Self::Stays { .. } => format!(
                "see `kubectl get all -n {NAMESPACE}`; a node that is not Ready keeps its pod"
            ),
        })
    }
}

impl From<AcceptError> for Failure {
    fn from(error: AcceptError) -> Self {
        Self::from_error(error.code(), &error, error.hint())
    }
}
