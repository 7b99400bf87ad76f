//! The signatures over an index: minisign, prehashed Ed25519, in exactly one spelling.
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
//!
//! A bundle may be signed by several keys, so that a builder can change his key without a day on
//! which no site can install: the four lines of each follow one another, sorted by key id. The
//! signature of one trusted key is enough; of the trusted ones none may be bad.

use base64::{Engine as _, prelude::BASE64_STANDARD};

use crate::{
    index::{Index, IndexError, check::shown},
    keys::{KeyId, RefusedKey, TrustedKeys},
};

/// Longest text of signatures read.
pub const MAX_SIGNATURE_BYTES: u64 = 8192;

/// Most signatures over one index.
pub const MAX_SIGNATURES: usize = 8;

/// Lines of one signature.
const LINES: usize = 4;

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
    /// Made with keys of which none is trusted.
    #[error(
        "the bundle is signed with {}(trusted: {})",
        untrusted(signers, refused),
        list(trusted)
    )]
    WrongKey {
        /// Who signed.
        signers: Vec<KeyId>,
        /// Those of them that are known and don't count.
        refused: Vec<RefusedKey>,
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
            Self::WrongKey { refused, .. } if !refused.is_empty() => Some(
                "get a bundle that is signed with a key in force; if a date is wrong, check this \
                 machine's clock"
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

/// `key A, which is not trusted, and key B, which was retired, `.
fn untrusted(signers: &[KeyId], refused: &[RefusedKey]) -> String {
    let one = |signer: &KeyId| {
        let why = refused.iter().find(|key| key.id == *signer);
        format!("key {signer}, which {}, ", why.map_or("is not trusted", |key| &key.why))
    };
    signers.iter().map(one).collect::<Vec<_>>().join("and ").trim_end_matches(", ").to_owned() + " "
}

/// An index that a trusted key signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProvedIndex {
    /// The index.
    pub index: Index,
    /// The trusted key that signed it; the first by id, where several did.
    pub signer: KeyId,
}

/// As [`prove_index`], where it does not matter who signed.
///
/// # Errors
/// As [`prove_index`].
pub fn verify_index(
    index_bytes: &[u8],
    signature_text: &str,
    keys: &TrustedKeys,
) -> Result<Index, SignatureError> {
    Ok(prove_index(index_bytes, signature_text, keys)?.index)
}

/// Proves `index_bytes` with `signature_text` and reads them: the one way from bytes to an index
/// that may be acted on. Nothing is parsed before a signature is found good.
///
/// # Errors
/// When a signature is malformed, all are foreign, one of a trusted key does not fit, or the index
/// breaks a rule.
pub fn prove_index(
    index_bytes: &[u8],
    signature_text: &str,
    keys: &TrustedKeys,
) -> Result<ProvedIndex, SignatureError> {
    let all = parse_all(signature_text)?;
    let mut proved = None;
    for (text, parts) in &all {
        let signer = parts.signer();
        let Some(key) = keys.find(signer) else { continue };
        let signature = minisign_verify::Signature::decode(text)
            .map_err(|_| SignatureError::Malformed { what: "it can't be decoded" })?;
        if key.key().verify(index_bytes, &signature, false).is_err() {
            return Err(SignatureError::Forged { signer });
        }
        proved = proved.or(Some(signer));
    }
    let Some(signer) = proved else {
        let signers: Vec<_> = all.iter().map(|(_, parts)| parts.signer()).collect();
        let refused = signers.iter().filter_map(|id| keys.refused(*id).cloned()).collect();
        return Err(SignatureError::WrongKey { signers, refused, trusted: keys.ids() });
    };
    let index = Index::parse(index_bytes).map_err(|source| SignatureError::Index { source })?;
    let expected = comment(&index);
    match all.iter().find(|(_, parts)| parts.comment != expected) {
        None => Ok(ProvedIndex { index, signer }),
        Some((_, parts)) => Err(SignatureError::Comment { expected, found: shown(parts.comment) }),
    }
}

/// The key ids that a text of signatures states; proof only after [`prove_index`].
///
/// # Errors
/// When the text is not one of signatures.
pub fn signers(signature_text: &str) -> Result<Vec<KeyId>, SignatureError> {
    Ok(parse_all(signature_text)?.iter().map(|(_, parts)| parts.signer()).collect())
}

/// Every signature of a text: at least one, sorted by key id, each key once.
fn parse_all(text: &str) -> Result<Vec<(&str, Parts<'_>)>, SignatureError> {
    let wrong = |what| SignatureError::Malformed { what };
    if text.len() as u64 > MAX_SIGNATURE_BYTES {
        return Err(wrong("it is too long"));
    }
    let (mut all, mut rest): (Vec<(&str, Parts<'_>)>, _) = (Vec::new(), text);
    while all.is_empty() || !rest.is_empty() {
        let length: usize = rest.split_inclusive('\n').take(LINES).map(str::len).sum();
        let (one, after) = rest.split_at(length);
        let parts = Parts::parse(one)?;
        let number = |parts: &Parts<'_>| parts.signer().number();
        if all.last().is_some_and(|(_, last)| number(last) >= number(&parts)) {
            return Err(wrong("the signatures are not sorted by key id, each key once"));
        }
        all.push((one, parts));
        if all.len() > MAX_SIGNATURES {
            return Err(wrong("it holds too many signatures"));
        }
        rest = after;
    }
    Ok(all)
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
