//! Questions only the operator can answer: secrets, typed without echo, and unknown host keys.

use std::sync::Arc;

use secrecy::SecretString;

use crate::{
    show::{Screen, can_ask},
    ssh::{HostKeyPrompt, SecretKind, SecretPrompt, SecretQuestion, UnknownKey},
};

/// Asks on the terminal, with the moving lines out of the way.
pub(crate) struct Prompts(pub(crate) Arc<Screen>);

impl SecretPrompt for Prompts {
    fn ask(&self, question: &SecretQuestion) -> Option<SecretString> {
        let text = match &question.kind {
            SecretKind::Passphrase { path } => format!("Passphrase for {}:", path.display()),
            SecretKind::Password { user } => {
                format!("Password of {user} on {} (used for all nodes):", question.node)
            }
            SecretKind::Sudo { user } => {
                format!("sudo password of {user} on {} (used for all nodes):", question.node)
            }
        };
        self.0.ask_secret(&text)
    }
}

impl HostKeyPrompt for Prompts {
    fn confirm(&self, keys: &[UnknownKey]) -> bool {
        if !can_ask() {
            return false;
        }
        self.0.say("Nobody vouches for these host keys yet:");
        for key in keys {
            self.0.say(&format!("  {:<16} {:<24} {}", key.node, key.host, key.fingerprint));
        }
        self.0.say(
            "Compare them on each server's console: \
             ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub",
        );
        self.0.confirm("Trust all of them from now on?") == Some(true)
    }
}
