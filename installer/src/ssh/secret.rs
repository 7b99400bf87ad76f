//! Secrets an operator types: asked once, kept in memory, wiped when dropped.

use std::{path::PathBuf, sync::Arc};

use secrecy::SecretString;

/// What a secret is for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum SecretKind {
    /// Passphrase of a private key file.
    Passphrase {
        /// The key file.
        path: PathBuf,
    },
    /// Login password.
    Password {
        /// Login name.
        user: String,
    },
    /// Password for `sudo`.
    Sudo {
        /// Login name.
        user: String,
    },
}

/// A question for the operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretQuestion {
    /// What is asked for.
    pub kind: SecretKind,
    /// The node that needs it first; the answer is used for the others too.
    pub node: String,
}

/// Asks the operator for a secret. Called on a thread that may block, one question at a time.
pub trait SecretPrompt: Send + Sync {
    /// The answer, or `None` when there is nobody to ask or nothing was typed.
    fn ask(&self, question: &SecretQuestion) -> Option<SecretString>;
}

/// Never has an answer: for runs without a terminal.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl SecretPrompt for Silent {
    fn ask(&self, _: &SecretQuestion) -> Option<SecretString> {
        None
    }
}

/// Secrets and opened private keys of one command, shared by all its targets.
pub struct Keyring {
    prompt: Arc<dyn SecretPrompt>,
}

impl Keyring {
    /// A keyring that asks through `prompt`.
    #[must_use]
    pub fn new(prompt: Arc<dyn SecretPrompt>) -> Self {
        Self { prompt }
    }
}

impl std::fmt::Debug for Keyring {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let _ = &self.prompt;
        formatter.write_str("Keyring(****)")
    }
}
