//! Each way SSH to a node fails, in words for an operator.

use kdc_agent::wire::Failure;

use super::UnknownKey;

/// A failure between installer and node.
#[derive(Debug, thiserror::Error)]
pub enum SshError {
    /// Nobody vouches for the host key.
    #[error("node `{}`: the host key of {} is unknown: {}", unknown.node, unknown.host, unknown.fingerprint)]
    UnknownHostKey {
        /// The key, to confirm.
        unknown: Box<UnknownKey>,
    },
    /// The connection ended or went silent.
    #[error("node `{node}`: connection lost while {during}{detail}")]
    Lost {
        /// Node name.
        node: String,
        /// What was going on.
        during: String,
        /// What the network said, if anything.
        detail: String,
    },
    /// The agent answered with a failure.
    #[error("node `{node}`: {failure}")]
    Agent {
        /// Node name.
        node: String,
        /// The agent's words.
        failure: Box<Failure>,
    },
}

impl SshError {
    /// Stable code.
    #[must_use]
    pub fn code(&self) -> &str {
        match self {
            Self::UnknownHostKey { .. } => "SSH-010",
            Self::Lost { .. } => "SSH-040",
            Self::Agent { failure, .. } => &failure.code,
        }
    }

    /// The next thing to try.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        None
    }

    /// True where connecting again may help: the link was cut, the node reboots.
    #[must_use]
    pub fn is_link(&self) -> bool {
        matches!(self, Self::Lost { .. })
    }
}
