//! The signature over an index: minisign, prehashed Ed25519, in exactly one spelling.
//!
//! ```text
//! untrusted comment: kdc bundle signature
//! <base64: "ED", key id, signature over the BLAKE2b-512 of the index>
//! trusted comment: kdc bundle <name> <version>
//! <base64: signature over the signature and the trusted comment>
//! ```
//!
//! Any minisign can check it. This code asks for more: the text must be the one that its own
//! decoded parts produce, so that no byte of it can vary, and the trusted comment must be the one
//! that follows from the index.

use base64::{Engine as _, prelude::BASE64_STANDARD};

use crate::{
    index::{Index, IndexError, check::shown},
    keys::{KeyId, TrustedKeys},
};

/// Longest signature text read.
pub const MAX_SIGNATURE_BYTES: u64 = 4096;

const UNTRUSTED_COMMENT: &str = "untrusted comment: kdc bundle signature";
const TRUSTED_COMMENT: &str = "trusted comment: ";

/// Algorithm, key id, Ed25519 signature.
const SIGNATURE_BYTES: usize = 2 + 8 + 64;

/// Why a signature does not prove an index.
#[derive(Debug, thiserror::Error)]
pub enum SignatureError {
    /// The text is not a signature, or not spelled as kdc spells it.
    #[error("the signature is malformed: {what}")]
    Malformed {
        /// What is wrong with it.
        what: &'static str,
    },
    /// Made with a key that is not among the trusted ones.
    #[error(
        "the bundle is signed with key {signer}, which is not trusted (trusted: {})",
        list(trusted)
    )]
    WrongKey {
        /// Who signed.
        signer: KeyId,
        /// Who may.
        trusted: Vec<KeyId>,
    },
    /// The key is a trusted one, but the signature does not fit the bytes.
    #[error("the signature of key {signer} does not fit: the index or the signature was changed")]
    Forged {
        /// The id that the signature states.
        signer: KeyId,
    },
    /// The signature is good, but its comment speaks of another bundle.
    #[error("the signature's comment is `{found}`; this bundle needs `{expected}`")]
    Comment {
        /// What follows from the index.
        expected: String,
        /// What the signature says.
        found: String,
    },
    /// The signature is good, but what was signed is not an index this build accepts.
    #[error("what the key signed is not an index")]
    Index {
        /// What is wrong with it.
        #[source]
        source: IndexError,
    },
}

impl SignatureError {
    /// The one next thing to try.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Malformed { .. } | Self::Forged { .. } | Self::Comment { .. } => Some(
                "the file was damaged or changed after it was signed: copy it again from its source"
                    .to_owned(),
            ),
            Self::WrongKey { .. } => Some(
                "use the public key of whoever built this bundle, if you trust them".to_owned(),
            ),
            Self::Index { source } => source.hint(),
        }
    }
}

fn list(ids: &[KeyId]) -> String {
    ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Proves `index_bytes` with `signature_text` and reads them: the one way from bytes to an index
/// that may be acted on. Nothing is parsed before the signature is found good.
///
/// # Errors
/// When the signature is malformed, foreign or does not fit, or when the index breaks a rule.
pub fn verify_index(
    index_bytes: &[u8],
    signature_text: &str,
    keys: &TrustedKeys,
) -> Result<Index, SignatureError> {
    let parts = Parts::parse(signature_text)?;
    let signer = parts.signer();
    let mut candidates = keys.keys().iter().filter(|key| key.id() == signer).peekable();
    if candidates.peek().is_none() {
        return Err(SignatureError::WrongKey { signer, trusted: keys.ids() });
    }
    let signature = minisign_verify::Signature::decode(signature_text)
        .map_err(|_| SignatureError::Malformed { what: "it can't be decoded" })?;
    if !candidates.any(|key| key.key().verify(index_bytes, &signature, false).is_ok()) {
        return Err(SignatureError::Forged { signer });
    }
    let index = Index::parse(index_bytes).map_err(|source| SignatureError::Index { source })?;
    let expected = comment(&index);
    if parts.comment != expected {
        return Err(SignatureError::Comment { expected, found: shown(parts.comment) });
    }
    Ok(index)
}

/// The key id that a signature states; proof only after [`verify_index`].
///
/// # Errors
/// When the text is not a signature.
pub fn signer(signature_text: &str) -> Result<KeyId, SignatureError> {
    Ok(Parts::parse(signature_text)?.signer())
}

/// The trusted comment that goes with an index.
pub(crate) fn comment(index: &Index) -> String {
    format!("kdc bundle {} {}", index.name, index.bundle_version)
}

/// A signature text taken apart; putting it together again gives the same text.
pub(crate) struct Parts<'a> {
    pub(crate) signature: [u8; SIGNATURE_BYTES],
    pub(crate) comment: &'a str,
    pub(crate) global: [u8; 64],
}

impl<'a> Parts<'a> {
    fn parse(text: &'a str) -> Result<Self, SignatureError> {
        let wrong = |what| SignatureError::Malformed { what };
        if text.len() as u64 > MAX_SIGNATURE_BYTES {
            return Err(wrong("it is too long"));
        }
        let mut lines = text.split('\n').skip(1);
        let mut line = || lines.next().ok_or_else(|| wrong("it has too few lines"));
        let (signature, comment, global) = (line()?, line()?, line()?);
        let parts = Self {
            signature: decode(signature)?,
            comment: comment
                .strip_prefix(TRUSTED_COMMENT)
                .ok_or_else(|| wrong("the third line is not a trusted comment"))?,
            global: decode(global)?,
        };
        if !parts.signature.starts_with(b"ED") {
            return Err(wrong("it is not a prehashed Ed25519 signature"));
        }
        if parts.to_text() != text {
            return Err(wrong("it is not spelled as kdc writes it"));
        }
        Ok(parts)
    }

    pub(crate) fn to_text(&self) -> String {
        format!(
            "{UNTRUSTED_COMMENT}\n{}\n{TRUSTED_COMMENT}{}\n{}\n",
            BASE64_STANDARD.encode(self.signature),
            self.comment,
            BASE64_STANDARD.encode(self.global),
        )
    }

    fn signer(&self) -> KeyId {
        let mut id = [0; 8];
        id.copy_from_slice(&self.signature[2..10]);
        KeyId(id)
    }
}

fn decode<const LENGTH: usize>(line: &str) -> Result<[u8; LENGTH], SignatureError> {
    let wrong = |what| SignatureError::Malformed { what };
    BASE64_STANDARD
        .decode(line)
        .map_err(|_| wrong("a line is not base64"))?
        .try_into()
        .map_err(|_| wrong("a line has another length"))
}
