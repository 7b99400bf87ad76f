//! The node's signing key, and public keys as they are shown and read.

use std::{fmt, io::Write as _, path::Path, str::FromStr};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ring::{
    rand::SystemRandom,
    signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey},
};
use sha2::{Digest as _, Sha256};

use super::AuditError;

/// Name of the file with the private key.
pub(super) const KEY_FILE: &str = "key";

/// Most public keys in a file: one a node.
pub const MAX_KEYS: usize = 4096;

/// A public key: base64 of 32 bytes, in one spelling.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// The first 8 bytes of its sha256, in hex: enough to tell keys apart.
    #[must_use]
    pub fn id(&self) -> String {
        hex::encode(&Sha256::digest(self.0)[..8])
    }

    /// Whether `signature` (base64) over `message` is this key's.
    #[must_use]
    pub fn verifies(&self, message: &[u8], signature: &str) -> bool {
        let Ok(bytes) = STANDARD.decode(signature) else { return false };
        // One spelling: a second text for the same signature would be a byte that may vary.
        STANDARD.encode(&bytes) == signature
            && UnparsedPublicKey::new(&ED25519, self.0).verify(message, &bytes).is_ok()
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&STANDARD.encode(self.0))
    }
}

impl FromStr for PublicKey {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bytes = STANDARD.decode(text).map_err(|_| "it is no base64".to_owned())?;
        let bytes: [u8; 32] =
            bytes.try_into().map_err(|_| "an Ed25519 key has 32 bytes".to_owned())?;
        let key = Self(bytes);
        if key.to_string() == text { Ok(key) } else { Err("it is spelled otherwise".to_owned()) }
    }
}

/// A public key and whose it is: a line `NODE BASE64` of a key file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedKey {
    /// The node.
    pub node: String,
    /// Its key.
    pub key: PublicKey,
}

/// Read a file of public keys: lines `NODE BASE64`; empty lines and those that begin with `#` say nothing.
///
/// # Errors
/// The line that makes no sense, and why.
pub fn parse_keys(text: &str) -> Result<Vec<NamedKey>, String> {
    let mut keys = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let wrong = |why: &str| format!("line {}: {why}", number + 1);
        let (node, key) = line.split_once(' ').ok_or_else(|| wrong("expected `NODE KEY`"))?;
        let key: PublicKey = key.trim().parse().map_err(|why: String| wrong(&why))?;
        if keys.len() >= MAX_KEYS {
            return Err(wrong("too many keys"));
        }
        keys.push(NamedKey { node: node.to_owned(), key });
    }
    if keys.is_empty() { Err("it has no key".to_owned()) } else { Ok(keys) }
}

/// A key file of these keys.
#[must_use]
pub fn render_keys(keys: &[NamedKey]) -> String {
    let lines = keys.iter().map(|named| format!("{} {}\n", named.node, named.key));
    format!("# kdc audit keys: NODE PUBLIC-KEY (Ed25519)\n{}", lines.collect::<String>())
}

/// The node's own key.
pub struct NodeKey(Ed25519KeyPair);

impl fmt::Debug for NodeKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "NodeKey({})", self.public().id())
    }
}

impl NodeKey {
    /// A new one, and the bytes to keep.
    fn generate() -> Result<(Self, Vec<u8>), ring::error::Unspecified> {
        let kept = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new())?;
        let key =
            Ed25519KeyPair::from_pkcs8(kept.as_ref()).map_err(|_| ring::error::Unspecified)?;
        Ok((Self(key), kept.as_ref().to_vec()))
    }

    /// The key in this folder; `Ok(None)` where there is none, or none that can be used.
    pub(super) fn load(folder: &Path) -> Result<Option<Self>, AuditError> {
        match fs_err::read(folder.join(KEY_FILE)) {
            Ok(bytes) => Ok(Ed25519KeyPair::from_pkcs8(&bytes).ok().map(Self)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(AuditError::file("read", &folder.join(KEY_FILE), source)),
        }
    }

    /// A new key, kept in this folder (0600) before it is used.
    pub(super) fn make(folder: &Path) -> Result<Self, AuditError> {
        let path = folder.join(KEY_FILE);
        let failed = |source| AuditError::file("write", &path, source);
        let (key, bytes) = Self::generate()
            .map_err(|_| failed(std::io::Error::other("the system gives no random bytes")))?;
        // Made with mode 0600.
        let mut file = tempfile::NamedTempFile::new_in(folder).map_err(failed)?;
        file.write_all(&bytes).map_err(failed)?;
        file.as_file().sync_all().map_err(failed)?;
        file.persist(&path).map_err(|error| failed(error.error))?;
        fs_err::File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)?;
        Ok(key)
    }

    /// Its public half.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(self.0.public_key().as_ref());
        PublicKey(bytes)
    }

    /// A signature, base64.
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> String {
        STANDARD.encode(self.0.sign(message).as_ref())
    }
}
