//! The envelope: one line of JSON around the bytes that were signed.
//!
//! `{"v":1,"kid":"<key id>","payload":"<base64url>","sig":"<base64url Ed25519>"}`
//!
//! The signature is over a word for what is signed and then the payload's bytes as they came, so nothing
//! is written anew before it is checked, and no licence passes for a list of revocations. Bounds first,
//! then the signature, then the payload: bytes that nobody signed are never parsed.
//! The envelope has one spelling only; any other, and any flipped bit, is refused.

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};

use super::{
    document::{DocumentError, License},
    keys::{KeyId, LicenseKeys},
};

/// Largest file read.
pub const MAX_FILE_BYTES: usize = 64 * 1024;

/// Deepest nesting of a payload.
pub const MAX_DEPTH: usize = 16;

/// The version of the envelope.
const VERSION: u32 = 1;

/// What is signed: the words keep signatures for one from counting for the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A licence.
    License,
    /// A list of revocations.
    Revocations,
}

impl Purpose {
    fn domain(self) -> &'static [u8] {
        match self {
            Self::License => b"kdc-license-v1\n",
            Self::Revocations => b"kdc-license-revocations-v1\n",
        }
    }

    /// The bytes that a signature is over.
    #[must_use]
    pub fn signed_bytes(self, payload: &[u8]) -> Vec<u8> {
        [self.domain(), payload].concat()
    }
}

/// The outer form, as written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope {
    v: u32,
    kid: String,
    payload: String,
    sig: String,
}

/// Why a file is not a licence that counts.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LicenseError {
    /// Too large to be looked into.
    #[error("the file has more than {MAX_FILE_BYTES} bytes")]
    TooLarge,
    /// Not an envelope, or spelled otherwise than envelopes are.
    #[error("the file is not a licence: {what}")]
    Malformed {
        /// What is wrong with it.
        what: String,
    },
    /// An envelope of another version of kdc.
    #[error("the file is of version {version}, and this version of kdc reads version {VERSION}")]
    Version {
        /// Which.
        version: u32,
    },
    /// Signed with a key that is not among the trusted ones.
    #[error("the file is signed with the key {kid}, which is not one that this build trusts")]
    UnknownKey {
        /// The key it names.
        kid: String,
    },
    /// Signed with the key of the tests.
    #[error("the file is signed with the test key {kid}, which this build refuses")]
    TestKey {
        /// The key it names.
        kid: String,
    },
    /// The signature isn't over these bytes.
    #[error(
        "the signature with the key {kid} is not good: the file was changed, or is not the vendor's"
    )]
    Signature {
        /// The key it names.
        kid: String,
    },
    /// The signature is good, and the content isn't.
    #[error("the file is signed, and its content can't be used")]
    Document(#[source] DocumentError),
}

impl LicenseError {
    /// The one next thing to try.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::TooLarge | Self::Malformed { .. } | Self::Signature { .. } => {
                "ask for the file again, and carry it over as a file, not as pasted text"
            }
            Self::Version { .. } | Self::Document(DocumentError::UnknownRule { .. }) => {
                "update kdc, or ask for a licence that this version reads"
            }
            Self::UnknownKey { .. } => {
                "see with `kdc-install license inspect` which key it is, and whether this kdc is the vendor's"
            }
            Self::TestKey { .. } => "use a licence that the vendor signed",
            Self::Document(_) => "ask the vendor for a corrected file",
        }
        .to_owned()
    }
}

/// A payload whose signature is good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    /// The key that signed it.
    pub kid: KeyId,
    /// The payload, byte for byte.
    pub payload: Vec<u8>,
}

/// A licence whose signature is good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// The key that signed it.
    pub kid: KeyId,
    /// The licence.
    pub license: License,
}

/// Open a licence's file: bounds, signature, content, in this order.
///
/// # Errors
/// When any of them isn't as it must be.
pub fn open(file: &[u8], keys: &LicenseKeys) -> Result<Opened, LicenseError> {
    let Signed { kid, payload } = open_signed(file, Purpose::License, keys)?;
    let license = License::parse(&payload).map_err(LicenseError::Document)?;
    Ok(Opened { kid, license })
}

/// Open any file that is signed: bounds and signature.
///
/// # Errors
/// When either isn't as it must be.
pub fn open_signed(
    file: &[u8],
    purpose: Purpose,
    keys: &LicenseKeys,
) -> Result<Signed, LicenseError> {
    let outer = read_outer(file)?;
    let kid = outer.kid.clone();
    let id = KeyId::parse(&kid).ok_or_else(|| malformed("its key id is none"))?;
    let decode =
        |text: &str, what: &str| BASE64_URL_SAFE_NO_PAD.decode(text).map_err(|_| malformed(what));
    let payload = decode(&outer.payload, "its payload is not base64url")?;
    let signature = decode(&outer.sig, "its signature is not base64url")?;
    let signed = purpose.signed_bytes(&payload);
    if keys.refuses_as_test(id) {
        return Err(LicenseError::TestKey { kid });
    }
    let Some(key) = keys.find(id) else { return Err(LicenseError::UnknownKey { kid }) };
    if !key.verifies(&signed, &signature) {
        return Err(LicenseError::Signature { kid });
    }
    check_depth(&payload)?;
    Ok(Signed { kid: id, payload })
}

/// The payload of a file whose signature nobody checked: to show a person what it claims, for nothing else.
///
/// # Errors
/// When it isn't an envelope with a licence in it.
pub fn inspect_unproved(file: &[u8]) -> Result<(String, License), LicenseError> {
    let outer = read_outer(file)?;
    let payload = BASE64_URL_SAFE_NO_PAD
        .decode(&outer.payload)
        .map_err(|_| malformed("its payload is not base64url"))?;
    check_depth(&payload)?;
    let license = License::parse(&payload).map_err(LicenseError::Document)?;
    Ok((outer.kid, license))
}

/// The file for a payload and its signature.
#[must_use]
pub fn render(kid: KeyId, payload: &[u8], signature: &[u8]) -> String {
    let encode = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
    let outer = Envelope {
        v: VERSION,
        kid: kid.to_string(),
        payload: encode(payload),
        sig: encode(signature),
    };
    format!("{}\n", spell(&outer))
}

/// Read the outer form and hold it against its one spelling.
fn read_outer(file: &[u8]) -> Result<Envelope, LicenseError> {
    if file.len() > MAX_FILE_BYTES {
        return Err(LicenseError::TooLarge);
    }
    let text = std::str::from_utf8(file).map_err(|_| malformed("it is not text"))?;
    let line = text.strip_suffix('\n').map_or(text, |line| line.strip_suffix('\r').unwrap_or(line));
    let outer: Envelope = match serde_json::from_str(line) {
        Ok(outer) => outer,
        Err(error) => return Err(malformed(&error.to_string())),
    };
    if outer.v != VERSION {
        return Err(LicenseError::Version { version: outer.v });
    }
    if spell(&outer) != line {
        return Err(malformed("it is written otherwise than kdc writes licences"));
    }
    Ok(outer)
}

/// The one spelling. Key ids and base64url have nothing that JSON would escape; what else came in comes out
/// as JSON escapes it, and then differs or fails further on.
fn spell(outer: &Envelope) -> String {
    let Envelope { v, kid, payload, sig } = outer;
    format!(r#"{{"v":{v},"kid":"{kid}","payload":"{payload}","sig":"{sig}"}}"#)
}

fn malformed(what: &str) -> LicenseError {
    LicenseError::Malformed { what: what.to_owned() }
}

/// Nesting is bounded before anything is built of it.
fn check_depth(payload: &[u8]) -> Result<(), LicenseError> {
    let (mut depth, mut in_text, mut escaped) = (0_usize, false, false);
    for byte in payload {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_text => escaped = true,
            b'"' => in_text = !in_text,
            b'{' | b'[' if !in_text => depth += 1,
            b'}' | b']' if !in_text => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > MAX_DEPTH {
            return Err(malformed("its payload is nested too deep"));
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "envelope_tests.rs"]
pub(crate) mod tests;
