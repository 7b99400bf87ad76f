//! Secret keys: making, keeping and using them (feature `create`).
//!
//! Key files are minisign's own, so that `minisign -S` and hardware workflows built on it can use
//! them. Signatures are the deterministic Ed25519 of RFC 8032, as the original minisign makes them:
//! the same index and key always give the same bytes.

use std::{
    io::{Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use blake2::{Blake2b512, Digest as _};
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use zeroize::Zeroizing;

use crate::{
    index::Index,
    keys::{KeyId, TrustedKey},
    signature::{self, MAX_SIGNATURES, Parts},
};

/// Longest secret key file read.
const MAX_KEY_TEXT: u64 = 4096;

/// Where the seed and the public key lie in minisign's secret key.
const KEY_AT: usize = 62;

/// Why there is no signing key.
#[derive(Debug, thiserror::Error)]
pub enum SigningError {
    /// A file can't be read or written.
    #[error("the key can't be {action}")]
    Io {
        /// `read` or `written`.
        action: &'static str,
        /// What the system says, with the path.
        #[source]
        source: std::io::Error,
    },
    /// A key or its public half is there already; keys are never overwritten.
    #[error("`{}` exists already; a key is never overwritten", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// Not a minisign secret key.
    #[error("`{}` is not a minisign secret key", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
    },
    /// The key is encrypted and no password was given.
    #[error("the key `{}` is encrypted and needs its password", path.display())]
    PasswordNeeded {
        /// The file.
        path: PathBuf,
    },
    /// The password does not open the key.
    #[error("the password does not open the key `{}`", path.display())]
    WrongPassword {
        /// The file.
        path: PathBuf,
    },
    /// An empty password.
    #[error("the password is empty")]
    EmptyPassword,
    /// One key, or two with one id, given twice for signing.
    #[error("the key {id} was given twice")]
    Twice {
        /// Its id.
        id: KeyId,
    },
    /// No key to sign with, or more than a bundle takes.
    #[error("a bundle is signed with 1 to {MAX_SIGNATURES} keys, {found} were given")]
    Count {
        /// How many.
        found: usize,
    },
    /// The system gave no randomness, or the signer failed its own test.
    #[error("a key can't be made on this machine")]
    Generate,
}

impl SigningError {
    /// The one next thing to try.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let text = match self {
            Self::Io { .. } | Self::Generate => return None,
            Self::Exists { .. } => "choose another name with `-o`, or move the old key away",
            Self::Malformed { .. } => {
                "give the file that `kdc-install bundle key new` wrote, without `.pub`"
            }
            Self::PasswordNeeded { .. } => "run on a terminal, or give `--password-file FILE`",
            Self::WrongPassword { .. } => "try again; without the password the key is of no use",
            Self::Twice { .. } | Self::Count { .. } => "give each key once with `--key`",
            Self::EmptyPassword => "choose a password, or say `--unencrypted` if that is meant",
        };
        Some(text.to_owned())
    }
}

/// A key that can sign.
pub struct SigningKey {
    pair: Ed25519KeyPair,
    id: [u8; 8],
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("SigningKey").field("id", &KeyId(self.id)).finish_non_exhaustive()
    }
}

/// Whoever signs an index: a key, or several at once.
pub trait Signer {
    /// The text of the signatures over an index.
    fn sign(&self, index: &Index) -> String;

    /// Ids of the keys that sign.
    fn ids(&self) -> Vec<KeyId>;
}

impl Signer for SigningKey {
    fn sign(&self, index: &Index) -> String {
        Self::sign(self, index)
    }

    fn ids(&self) -> Vec<KeyId> {
        vec![KeyId(self.id)]
    }
}

/// One to [`MAX_SIGNATURES`] keys with different ids, sorted by them: in whichever order they were
/// given, a bundle comes out the same.
#[derive(Debug)]
pub struct SigningKeys(Vec<SigningKey>);

impl SigningKeys {
    /// These keys.
    ///
    /// # Errors
    /// When there is none, a key comes twice, or there are too many.
    pub fn new(mut keys: Vec<SigningKey>) -> Result<Self, SigningError> {
        keys.sort_by_key(|key| KeyId(key.id).number());
        if let Some(pair) = keys.windows(2).find(|pair| pair[0].id == pair[1].id) {
            return Err(SigningError::Twice { id: KeyId(pair[0].id) });
        }
        match keys.len() {
            1..=MAX_SIGNATURES => Ok(Self(keys)),
            found => Err(SigningError::Count { found }),
        }
    }
}

impl From<SigningKeys> for Vec<SigningKey> {
    fn from(keys: SigningKeys) -> Self {
        keys.0
    }
}

impl Signer for SigningKeys {
    fn sign(&self, index: &Index) -> String {
        self.0.iter().map(|key| key.sign(index)).collect()
    }

    fn ids(&self) -> Vec<KeyId> {
        self.0.iter().map(|key| KeyId(key.id)).collect()
    }
}

impl SigningKey {
    /// A new key that lives only in memory.
    ///
    /// # Errors
    /// When the system gives no randomness.
    pub fn generate() -> Result<Self, SigningError> {
        let pair = minisign::KeyPair::generate_unencrypted_keypair()
            .map_err(|_| SigningError::Generate)?;
        Self::from_minisign(&pair.sk).ok_or(SigningError::Generate)
    }

    /// Reads a secret key file; `password` opens an encrypted one.
    ///
    /// # Errors
    /// When the file can't be read, is no key, or does not open.
    pub fn load(path: &Path, password: Option<&str>) -> Result<Self, SigningError> {
        let read = |source| SigningError::Io { action: "read", source };
        let mut text = Zeroizing::new(String::new());
        let file = fs_err::File::open(path).map_err(read)?;
        file.take(MAX_KEY_TEXT).read_to_string(&mut text).map_err(read)?;
        let path = || path.to_owned();
        let parse = || minisign::SecretKeyBox::from_string(&text);
        let malformed = |_| SigningError::Malformed { path: path() };
        let secret = if is_encrypted(&text).ok_or_else(|| malformed(()))? {
            let Some(password) = password else {
                return Err(SigningError::PasswordNeeded { path: path() });
            };
            parse()
                .map_err(|_| malformed(()))?
                .into_secret_key(Some(password.to_owned()))
                .map_err(|_| SigningError::WrongPassword { path: path() })?
        } else {
            let parsed = parse().map_err(|_| malformed(()))?;
            parsed.into_unencrypted_secret_key().map_err(|_| malformed(()))?
        };
        Self::from_minisign(&secret).ok_or_else(|| malformed(()))
    }

    fn from_minisign(secret: &minisign::SecretKey) -> Option<Self> {
        let bytes = Zeroizing::new(secret.to_bytes());
        let (seed, public) = bytes.get(KEY_AT..KEY_AT + 64)?.split_at(32);
        let pair = Ed25519KeyPair::from_seed_and_public_key(seed, public).ok()?;
        Some(Self { pair, id: secret.keynum().try_into().ok()? })
    }

    /// The public half.
    #[must_use]
    pub fn public(&self) -> TrustedKey {
        use base64::{Engine as _, prelude::BASE64_STANDARD};
        let mut bytes = b"Ed".to_vec();
        bytes.extend(self.id);
        bytes.extend(self.pair.public_key().as_ref());
        TrustedKey::parse(&BASE64_STANDARD.encode(bytes), "the key")
            .expect("algorithm, id and key are what a public key is made of")
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> KeyId {
        KeyId(self.id)
    }

    /// The bare Ed25519 signature over bytes that begin with a word for what they are, so that it can't be
    /// taken for a signature over anything else.
    #[must_use]
    pub fn sign_bytes(&self, bytes: &[u8]) -> [u8; 64] {
        let mut signature = [0; 64];
        signature.copy_from_slice(self.pair.sign(bytes).as_ref());
        signature
    }

    /// The signature text for an index.
    #[must_use]
    pub fn sign(&self, index: &Index) -> String {
        let hash = Blake2b512::digest(index.to_bytes());
        let first = self.pair.sign(&hash);
        let comment = signature::comment(index);
        let mut both = first.as_ref().to_vec();
        both.extend(comment.as_bytes());
        let mut head = [0; 74];
        head[..2].copy_from_slice(b"ED");
        head[2..10].copy_from_slice(&self.id);
        head[10..].copy_from_slice(first.as_ref());
        let mut global = [0; 64];
        global.copy_from_slice(self.pair.sign(&both).as_ref());
        Parts { signature: head, comment: &comment, global }.to_text()
    }
}

/// Whether a secret key file is encrypted; `None` when it is no key at all.
fn is_encrypted(text: &str) -> Option<bool> {
    use base64::{Engine as _, prelude::BASE64_STANDARD};
    let line = text.lines().nth(1)?;
    let bytes = Zeroizing::new(BASE64_STANDARD.decode(line.trim()).ok()?);
    match bytes.get(..4)? {
        b"EdSc" => Some(true),
        b"Ed\0\0" => Some(false),
        _ => None,
    }
}

/// Whether the key file at `path` needs a password.
///
/// # Errors
/// When the file can't be read or is no key.
pub fn needs_password(path: &Path) -> Result<bool, SigningError> {
    let read = |source| SigningError::Io { action: "read", source };
    let mut text = Zeroizing::new(String::new());
    let file = fs_err::File::open(path).map_err(read)?;
    file.take(MAX_KEY_TEXT).read_to_string(&mut text).map_err(read)?;
    is_encrypted(&text).ok_or_else(|| SigningError::Malformed { path: path.to_owned() })
}

/// The public half's file name: the key's with `.pub` after it.
#[must_use]
pub fn public_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".pub");
    name.into()
}

/// Makes a key pair and writes `path` (mode 0600, encrypted if a password is given) and
/// `path.pub`. Overwrites nothing.
///
/// # Errors
/// When one of the files exists or can't be written; then neither is left behind by this call.
pub fn new_key_files(path: &Path, password: Option<&str>) -> Result<TrustedKey, SigningError> {
    new_key_files_for("bundle", path, password)
}

/// As [`new_key_files`], for keys that sign something else: `what` stands in the files' comments.
///
/// # Errors
/// As there.
pub fn new_key_files_for(
    what: &str,
    path: &Path,
    password: Option<&str>,
) -> Result<TrustedKey, SigningError> {
    if password == Some("") {
        return Err(SigningError::EmptyPassword);
    }
    let generate = |_| SigningError::Generate;
    let pair = minisign::KeyPair::generate_unencrypted_keypair().map_err(generate)?;
    let pair = match password {
        None => pair,
        Some(password) => minisign::KeyPair::generate_encrypted_keypair(Some(password.to_owned()))
            .map_err(generate)?,
    };
    let secret = pair.sk.to_box(Some(&format!("kdc {what} secret key"))).map_err(generate)?;
    let secret = Zeroizing::new(secret.into_string());
    let public =
        TrustedKey::parse(&pair.pk.to_base64(), "the key").map_err(|_| SigningError::Generate)?;
    let public_path = public_path(path);
    write_new(&public_path, public.to_text_for(what).as_bytes(), 0o644)?;
    if let Err(error) = write_new(path, secret.as_bytes(), 0o600) {
        // Without its secret half the public key is of no use; that we failed is the news.
        let _ = fs_err::remove_file(&public_path);
        return Err(error);
    }
    Ok(public)
}

fn write_new(path: &Path, content: &[u8], mode: u32) -> Result<(), SigningError> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true).mode(mode);
    let options = fs_err::OpenOptions::from_options(options);
    let mut file = options.open(path).map_err(|source| match source.kind() {
        std::io::ErrorKind::AlreadyExists => SigningError::Exists { path: path.to_owned() },
        _ => SigningError::Io { action: "written", source },
    })?;
    file.write_all(content)
        .and_then(|()| file.sync_all())
        .map_err(|source| SigningError::Io { action: "written", source })
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, io::Cursor};

    use super::*;
    use crate::index::{INDEX_VERSION, PIECE_SIZE};

    #[test]
    fn minisign_accepts_our_signatures_and_they_never_vary() {
        let index = Index {
            version: INDEX_VERSION,
            name: "n".to_owned(),
            bundle_version: "1".to_owned(),
            piece_size: PIECE_SIZE,
            parameters: BTreeMap::new(),
            artifacts: Vec::new(),
            blobs: Vec::new(),
        };
        let key = SigningKey::generate().unwrap();
        let text = key.sign(&index);
        assert_eq!(text, key.sign(&index));
        let public = key.public().to_text();
        let public = minisign::PublicKeyBox::from_string(&public).unwrap().into_public_key();
        let signature = minisign::SignatureBox::from_string(&text).unwrap();
        assert_eq!(signature.trusted_comment().unwrap(), "kdc bundle n 1");
        let bytes = Cursor::new(index.to_bytes());
        minisign::verify(&public.unwrap(), &signature, bytes, true, false, false).unwrap();
    }
}
