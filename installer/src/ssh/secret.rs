//! Secrets an operator types: asked once, kept in memory, wiped when dropped.
//!
//! The [`Keyring`] also keeps opened private keys (an encrypted one costs a tenth of a second to
//! open, too much for a thousand nodes) and connections to jump hosts, which many nodes share.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use russh::keys::{PrivateKey, PublicKey};
use secrecy::{ExposeSecret as _, SecretString};
use tokio::sync::Mutex;

use super::dial::JumpSlot;

/// Largest private key file read.
const MAX_KEY_BYTES: u64 = 256 * 1024;

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

/// Secrets, opened private keys and jump connections of one command, shared by all its targets.
pub struct Keyring {
    prompt: Arc<dyn SecretPrompt>,
    answers: Mutex<HashMap<SecretKind, Option<SecretString>>>,
    keys: Mutex<HashMap<PathBuf, Arc<KeyFile>>>,
    pub(super) jumps: Mutex<HashMap<String, Arc<Mutex<JumpSlot>>>>,
    pub(super) agent_socket: Option<PathBuf>,
}

/// What a private key file turned out to be.
pub(super) enum KeyFile {
    /// Opened.
    Open(Arc<PrivateKey>),
    /// Encrypted, and there was no passphrase.
    NoPassphrase,
    /// Encrypted, and the passphrase doesn't fit.
    WrongPassphrase,
    /// Unusable, and why.
    Unusable(String),
}

impl Keyring {
    /// A keyring that asks through `prompt` and uses the SSH agent at `SSH_AUTH_SOCK`, if any.
    #[must_use]
    pub fn new(prompt: Arc<dyn SecretPrompt>) -> Self {
        let socket = std::env::var_os("SSH_AUTH_SOCK").filter(|path| !path.is_empty());
        Self::with_agent(prompt, socket.map(PathBuf::from))
    }

    /// A keyring with the SSH agent at this socket.
    #[must_use]
    pub fn with_agent(prompt: Arc<dyn SecretPrompt>, agent_socket: Option<PathBuf>) -> Self {
        Self {
            prompt,
            agent_socket,
            answers: Mutex::default(),
            keys: Mutex::default(),
            jumps: Mutex::default(),
        }
    }

    /// The secret, asked for once however many nodes need it.
    pub(super) async fn secret(&self, kind: SecretKind, node: &str) -> Option<SecretString> {
        let mut answers = self.answers.lock().await;
        if let Some(answer) = answers.get(&kind) {
            return answer.clone();
        }
        let question = SecretQuestion { kind: kind.clone(), node: node.to_owned() };
        let prompt = Arc::clone(&self.prompt);
        // A prompt that panics has no answer.
        let answer =
            tokio::task::spawn_blocking(move || prompt.ask(&question)).await.ok().flatten();
        answers.insert(kind, answer.clone());
        answer
    }

    /// Forget an answer that turned out wrong, so that the next try asks again.
    pub(super) async fn forget(&self, kind: &SecretKind) {
        self.answers.lock().await.remove(kind);
    }

    /// Open a private key file, once.
    pub(super) async fn key(&self, path: &Path, node: &str) -> Arc<KeyFile> {
        let mut keys = self.keys.lock().await;
        if let Some(known) = keys.get(path) {
            return Arc::clone(known);
        }
        let loaded = Arc::new(self.open(path, node).await);
        keys.insert(path.to_owned(), Arc::clone(&loaded));
        loaded
    }

    async fn open(&self, path: &Path, node: &str) -> KeyFile {
        let text = match read_key(path) {
            Ok(text) => text,
            Err(error) => return KeyFile::Unusable(error.to_string()),
        };
        match decode(text.expose_secret(), None) {
            KeyFile::NoPassphrase => {}
            plain => return plain,
        }
        let kind = SecretKind::Passphrase { path: path.to_owned() };
        let Some(passphrase) = self.secret(kind.clone(), node).await else {
            return KeyFile::NoPassphrase;
        };
        // bcrypt is slow on purpose: not on the thread that serves the other nodes.
        let opened = tokio::task::spawn_blocking(move || {
            decode(text.expose_secret(), Some(passphrase.expose_secret()))
        })
        .await
        .unwrap_or(KeyFile::WrongPassphrase);
        if matches!(opened, KeyFile::WrongPassphrase) {
            self.forget(&kind).await;
        }
        opened
    }
}

impl std::fmt::Debug for Keyring {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Keyring(****)")
    }
}

fn read_key(path: &Path) -> std::io::Result<SecretString> {
    use std::io::Read as _;
    let mut text = String::new();
    fs_err::File::open(path)?.take(MAX_KEY_BYTES).read_to_string(&mut text)?;
    Ok(text.into())
}

fn decode(text: &str, passphrase: Option<&str>) -> KeyFile {
    use russh::keys::{Error, decode_secret_key, ssh_key};
    match decode_secret_key(text, passphrase) {
        Ok(key) if matches!(key.algorithm(), russh::keys::Algorithm::Rsa { .. }) => {
            KeyFile::Unusable(RSA.to_owned())
        }
        Ok(key) => KeyFile::Open(Arc::new(key)),
        Err(Error::KeyIsEncrypted) if passphrase.is_none() => KeyFile::NoPassphrase,
        Err(Error::UnsupportedKeyType { .. }) => KeyFile::Unusable(RSA.to_owned()),
        Err(Error::SshKey(ssh_key::Error::Crypto) | Error::KeyIsCorrupt)
            if passphrase.is_some() =>
        {
            KeyFile::WrongPassphrase
        }
        // PKCS#8 and PEM files don't tell a wrong passphrase from a damaged file.
        Err(_) if passphrase.is_some() => KeyFile::WrongPassphrase,
        Err(_) if text.contains("ENCRYPTED") => KeyFile::NoPassphrase,
        Err(error) => KeyFile::Unusable(format!("not a private key kdc can read ({error})")),
    }
}

const RSA: &str = "it is an RSA key, which kdc signs with only through the SSH agent";

/// The public key beside a private key file (`id.pub`) or in its clear part, if there is one.
pub(super) fn public_part(path: &Path) -> Option<PublicKey> {
    let beside = PathBuf::from(format!("{}.pub", path.display()));
    if let Ok(key) = russh::keys::load_public_key(beside) {
        return Some(key);
    }
    let text = read_key(path).ok()?;
    let key = PrivateKey::from_openssh(text.expose_secret()).ok()?;
    Some(key.public_key().clone())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    struct Counting(AtomicUsize);

    impl SecretPrompt for Counting {
        fn ask(&self, _: &SecretQuestion) -> Option<SecretString> {
            self.0.fetch_add(1, Ordering::SeqCst);
            Some("hush".to_owned().into())
        }
    }

    #[tokio::test]
    async fn a_secret_is_asked_once_for_all_nodes_and_again_after_it_was_wrong() {
        let prompt = Arc::new(Counting(AtomicUsize::new(0)));
        let keyring = Keyring::new(Arc::clone(&prompt) as Arc<dyn SecretPrompt>);
        let kind = SecretKind::Sudo { user: "ops".to_owned() };
        let (a, b) =
            tokio::join!(keyring.secret(kind.clone(), "a"), keyring.secret(kind.clone(), "b"));
        assert!(a.is_some() && b.is_some());
        assert_eq!(prompt.0.load(Ordering::SeqCst), 1);
        keyring.forget(&kind).await;
        keyring.secret(kind, "a").await;
        assert_eq!(prompt.0.load(Ordering::SeqCst), 2);
    }

    #[test]
    fn a_keyring_shows_nothing() {
        let keyring = Keyring::new(Arc::new(Silent));
        assert_eq!(format!("{keyring:?}"), "Keyring(****)");
    }

    #[test]
    fn an_rsa_key_file_is_refused_with_the_reason() {
        let text = "-----BEGIN RSA PRIVATE KEY-----\nAAAA\n-----END RSA PRIVATE KEY-----\n";
        assert!(matches!(decode(text, None), KeyFile::Unusable(why) if why.contains("RSA")));
        assert!(matches!(decode("rubbish", None), KeyFile::Unusable(_)));
    }
}
