//! Public keys in minisign's format, and the set of them that a caller trusts.

use std::{fmt, path::Path};

use base64::{Engine as _, prelude::BASE64_STANDARD};

/// First bytes of a public key: Ed25519, as minisign writes it.
const ALGORITHM: &[u8; 2] = b"Ed";

/// Algorithm, key id and key.
const KEY_BYTES: usize = 2 + 8 + 32;

/// Longest `.pub` file read.
const MAX_KEY_TEXT: usize = 4096;

/// The number a key and its signatures carry, so that a person can tell keys apart. It proves
/// nothing by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(pub(crate) [u8; 8]);

impl KeyId {
    /// The id that `text` spells: sixteen upper-case hex digits, as it is shown everywhere.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let id = Self(u64::from_str_radix(text, 16).ok()?.to_le_bytes());
        (id.to_string() == text).then_some(id)
    }

    /// What ids are sorted by: the number that people see.
    pub(crate) fn number(self) -> u64 {
        u64::from_le_bytes(self.0)
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:016X}", self.number())
    }
}

/// Why a text is not a key that can be trusted.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file can't be read.
    #[error("the public key can't be read")]
    Read {
        /// What the system says, with the path.
        #[source]
        source: std::io::Error,
    },
    /// Not a minisign public key.
    #[error("{origin} is not a minisign public key: {what}")]
    Malformed {
        /// The file, or a word for the text.
        origin: String,
        /// What is wrong with it.
        what: &'static str,
    },
    /// An empty list: then nothing could ever be proved.
    #[error("no public key was given")]
    None,
    /// Keys were given, and none of them counts today.
    #[error("none of the keys that were given is in force: {}", reasons(refused))]
    NoneInForce {
        /// Each with the reason.
        refused: Vec<RefusedKey>,
    },
    /// Two different keys with one id: one of them was made to be taken for the other.
    #[error("two different keys have the id {id}")]
    SameId {
        /// The id.
        id: KeyId,
    },
}

/// A key that the operator knows of and that doesn't count: retired, not yet valid, expired.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedKey {
    /// Its id.
    pub id: KeyId,
    /// Why, as what follows "key … ": `was retired`.
    pub why: String,
}

fn reasons(refused: &[RefusedKey]) -> String {
    let reason = |key: &RefusedKey| format!("key {} {}", key.id, key.why);
    refused.iter().map(reason).collect::<Vec<_>>().join(", ")
}

impl KeyError {
    /// The one next thing to try.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Read { .. } => None,
            Self::Malformed { .. } => Some(
                "give the `.pub` file that `kdc-install bundle key new` or `minisign -G` wrote"
                    .to_owned(),
            ),
            Self::None => Some("name the bundle's public key with `--key KEY.pub`".to_owned()),
            Self::NoneInForce { .. } => Some(
                "check this machine's clock; then add the builder's present key: `kdc-install bundle \
                 trust add KEY.pub`"
                    .to_owned(),
            ),
            Self::SameId { .. } => {
                Some("ask the builder, by another way, which of the two is his".to_owned())
            }
        }
    }
}

/// One public key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustedKey {
    bytes: [u8; KEY_BYTES],
    key: minisign_verify::PublicKey,
}

impl TrustedKey {
    /// Reads a `.pub` file's text: a comment line and a line of base64, or that line alone.
    ///
    /// # Errors
    /// When it is not a minisign public key. The message calls the text `origin`.
    pub fn parse(text: &str, origin: &str) -> Result<Self, KeyError> {
        let wrong = |what| KeyError::Malformed { origin: origin.to_owned(), what };
        if text.len() > MAX_KEY_TEXT {
            return Err(wrong("it is too long"));
        }
        if text.contains("secret key") {
            return Err(wrong("it is a secret key, which belongs to the builder alone"));
        }
        let mut lines = text
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty() && !line.starts_with("untrusted comment:"));
        let line = lines.next().ok_or_else(|| wrong("it has no line of base64"))?;
        if lines.next().is_some() {
            return Err(wrong("it has more lines than a comment and a key"));
        }
        let decoded = BASE64_STANDARD.decode(line).map_err(|_| wrong("the key is not base64"))?;
        let bytes: [u8; KEY_BYTES] =
            decoded.try_into().map_err(|_| wrong("the key has another length"))?;
        if !bytes.starts_with(ALGORITHM) {
            return Err(wrong("the key is not an Ed25519 key"));
        }
        let key = minisign_verify::PublicKey::from_base64(line)
            .map_err(|_| wrong("the key can't be decoded"))?;
        Ok(Self { bytes, key })
    }

    /// Reads a `.pub` file.
    ///
    /// # Errors
    /// When it can't be read or is not a minisign public key.
    pub fn load(path: &Path) -> Result<Self, KeyError> {
        let text = fs_err::read_to_string(path).map_err(|source| KeyError::Read { source })?;
        Self::parse(&text, &path.display().to_string())
    }

    /// The number it shares with its signatures.
    #[must_use]
    pub fn id(&self) -> KeyId {
        let mut id = [0; 8];
        id.copy_from_slice(&self.bytes[2..10]);
        KeyId(id)
    }

    /// The text of its `.pub` file.
    #[must_use]
    pub fn to_text(&self) -> String {
        self.to_text_for("bundle")
    }

    /// The same, saying what it proves.
    #[must_use]
    pub fn to_text_for(&self, what: &str) -> String {
        let key = BASE64_STANDARD.encode(self.bytes);
        format!("untrusted comment: kdc {what} public key {}\n{key}\n", self.id())
    }

    /// The point of Ed25519's curve that the key is, for signatures in another form than minisign's.
    #[must_use]
    pub fn point(&self) -> [u8; 32] {
        let mut point = [0; 32];
        point.copy_from_slice(&self.bytes[10..]);
        point
    }

    /// The decoded key.
    pub(crate) fn key(&self) -> &minisign_verify::PublicKey {
        &self.key
    }
}

/// The keys whose signatures count; never empty, and no two share an id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustedKeys {
    keys: Vec<TrustedKey>,
    /// Known, and of no force: only so that a refusal can say why.
    refused: Vec<RefusedKey>,
}

impl TrustedKeys {
    /// These keys and no others.
    ///
    /// # Errors
    /// When there are none, or two of them have one id.
    pub fn new(keys: Vec<TrustedKey>) -> Result<Self, KeyError> {
        Self::with_refused(keys, Vec::new())
    }

    /// These keys; those in `refused` are known and don't count.
    ///
    /// # Errors
    /// When none counts, or two of them have one id.
    pub fn with_refused(
        given: Vec<TrustedKey>,
        refused: Vec<RefusedKey>,
    ) -> Result<Self, KeyError> {
        let mut keys: Vec<TrustedKey> = Vec::with_capacity(given.len());
        for key in given {
            match keys.iter().find(|other| other.id() == key.id()) {
                None => keys.push(key),
                Some(other) if *other == key => {}
                Some(_) => return Err(KeyError::SameId { id: key.id() }),
            }
        }
        // What one place refuses, no other place can put in force.
        keys.retain(|key| refused.iter().all(|no| no.id != key.id()));
        match (keys.is_empty(), refused.is_empty()) {
            (true, true) => Err(KeyError::None),
            (true, false) => Err(KeyError::NoneInForce { refused }),
            (false, _) => Ok(Self { keys, refused }),
        }
    }

    /// Reads the texts of `.pub` files.
    ///
    /// # Errors
    /// When one is not a minisign public key, or there are none.
    pub fn parse<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Self, KeyError> {
        let keys = texts.into_iter().map(|text| TrustedKey::parse(text, "the text"));
        Self::new(keys.collect::<Result<_, _>>()?)
    }

    /// Reads `.pub` files.
    ///
    /// # Errors
    /// When one can't be read or is not a minisign public key, or there are none.
    pub fn load<P: AsRef<Path>>(paths: impl IntoIterator<Item = P>) -> Result<Self, KeyError> {
        let keys = paths.into_iter().map(|path| TrustedKey::load(path.as_ref()));
        Self::new(keys.collect::<Result<_, _>>()?)
    }

    /// The ids, in the order given.
    #[must_use]
    pub fn ids(&self) -> Vec<KeyId> {
        self.keys.iter().map(TrustedKey::id).collect()
    }

    /// The keys, in the order given.
    #[must_use]
    pub fn keys(&self) -> &[TrustedKey] {
        &self.keys
    }

    /// The key with that id.
    pub(crate) fn find(&self, id: KeyId) -> Option<&TrustedKey> {
        self.keys.iter().find(|key| key.id() == id)
    }

    /// Why the key with that id doesn't count, where it is known.
    #[must_use]
    pub fn refused(&self, id: KeyId) -> Option<&RefusedKey> {
        self.refused.iter().find(|key| key.id == id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3";

    #[test]
    fn a_key_of_the_original_minisign_reads_and_has_its_id() {
        let key = TrustedKey::parse(KEY, "text").unwrap();
        assert_eq!(key.id().to_string(), "E7620F1842B4E81F");
        assert_eq!(TrustedKey::parse(&key.to_text(), "text").unwrap(), key);
    }

    #[test]
    fn what_is_not_a_public_key_is_refused_with_the_reason() {
        let cases = [
            (String::new(), "no line of base64"),
            (format!("{KEY}\n{KEY}\n"), "more lines"),
            ("untrusted comment: x\nnot base64!\n".to_owned(), "not base64"),
            ("RWQf6LRC\n".to_owned(), "another length"),
            (format!("untrusted comment: secret key\n{KEY}"), "secret key"),
            ("x".repeat(5000), "too long"),
            (KEY.replacen("RWQ", "RWS", 1).replacen("RW", "AA", 1), "not an Ed25519"),
        ];
        for (text, expected) in cases {
            let error = TrustedKey::parse(&text, "k.pub").unwrap_err().to_string();
            assert!(error.contains(expected) && error.contains("k.pub"), "{error}");
        }
        assert!(matches!(TrustedKeys::parse([]), Err(KeyError::None)));
    }

    #[test]
    fn an_id_has_one_spelling() {
        let id = TrustedKey::parse(KEY, "text").unwrap().id();
        assert_eq!(KeyId::parse("E7620F1842B4E81F"), Some(id));
        for text in
            ["e7620f1842b4e81f", "+7620F1842B4E81F", "E7620F1842B4E8", "", "0xE7620F1842B4E8"]
        {
            assert_eq!(KeyId::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn one_key_twice_is_one_and_two_keys_with_one_id_are_refused() {
        let key = TrustedKey::parse(KEY, "text").unwrap();
        let keys = TrustedKeys::new(vec![key.clone(), key.clone()]).unwrap();
        assert_eq!(keys.keys(), std::slice::from_ref(&key));
        let mut bytes = key.bytes;
        bytes[41] ^= 1;
        let other = TrustedKey::parse(&BASE64_STANDARD.encode(bytes), "text").unwrap();
        let error = TrustedKeys::new(vec![key, other]).unwrap_err();
        assert!(matches!(error, KeyError::SameId { .. }), "{error}");
    }

    #[test]
    fn a_refused_key_never_counts_wherever_else_it_is_given() {
        let key = TrustedKey::parse(KEY, "text").unwrap();
        let refused = RefusedKey { id: key.id(), why: "was retired".to_owned() };
        let error = TrustedKeys::with_refused(vec![key], vec![refused]).unwrap_err();
        assert!(error.to_string().contains("key E7620F1842B4E81F was retired"), "{error}");
    }
}
