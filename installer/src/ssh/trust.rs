//! Which host keys are trusted.

use std::path::PathBuf;

use super::SshError;

/// Where a target's host key must be vouched for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Trust {
    /// `SHA256:…` fingerprint or public key line from the cluster file; if set, nothing else counts.
    pub pinned: Option<String>,
    /// known_hosts files, first to last.
    pub known_hosts: Vec<PathBuf>,
    /// kdc's own known_hosts file, where confirmed keys go.
    pub own: Option<PathBuf>,
}

/// A host key nobody vouches for yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownKey {
    /// Node name (or `jump for <node>`).
    pub node: String,
    /// Name as known_hosts spells it (`10.0.0.11`, `[10.0.0.11]:2222`).
    pub host: String,
    /// `SHA256:…`.
    pub fingerprint: String,
    /// Public key line (`ssh-ed25519 AAAA…`).
    pub key: String,
    /// File it is written to once confirmed.
    pub own: Option<PathBuf>,
}

/// Lets the operator look at unknown host keys, all at once.
pub trait HostKeyPrompt: Send + Sync {
    /// True to trust all of them from now on.
    fn confirm(&self, keys: &[UnknownKey]) -> bool;
}

/// Trusts no unknown key: the default.
#[derive(Debug, Clone, Copy, Default)]
pub struct RefuseUnknown;

impl HostKeyPrompt for RefuseUnknown {
    fn confirm(&self, _: &[UnknownKey]) -> bool {
        false
    }
}

/// Ask once for all `keys` and write the confirmed ones to kdc's own known_hosts file.
///
/// # Errors
/// [`SshError::UnknownHostKey`] of the first key when the answer is no; or the file can't be written.
pub fn confirm_unknown(prompt: &dyn HostKeyPrompt, keys: &[UnknownKey]) -> Result<(), SshError> {
    match keys.first() {
        Some(first) if !prompt.confirm(keys) => {
            Err(SshError::UnknownHostKey { unknown: Box::new(first.clone()) })
        }
        _ => Ok(()),
    }
}
