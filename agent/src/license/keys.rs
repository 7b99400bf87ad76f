//! The vendor's public keys: which signatures on a licence count.
//!
//! They are built in: the environment variable `KDC_LICENSE_KEYS` at build time holds the base64 line of each
//! `.pub` file, separated by white space or commas; several of them let keys rotate. A debug build trusts
//! the key of the tests too, whose secret half lies in the repository; a release build refuses it, whoever
//! names it.

use kdc_bundles::keys::{KeyError, TrustedKey};
use ring::signature::{ED25519, UnparsedPublicKey};

pub use kdc_bundles::keys::KeyId;

/// The keys that this build was given.
const BUILT_IN: Option<&str> = option_env!("KDC_LICENSE_KEYS");

/// The public half of the tests' key, `tests/license/test.key`.
pub const TEST_KEY: &str = "RWR6EzQ2M91lkM6U/KcEKtNWOY5GXzq9d91vIOFvdGB0d6MwBasb2P4Y";

/// Most keys in a set.
const MAX_KEYS: usize = 16;

/// The order of the field of Ed25519's curve, 2^255 - 19, little-endian.
const FIELD: [u8; 32] = {
    let mut bytes = [0xff; 32];
    bytes[0] = 0xed;
    bytes[31] = 0x7f;
    bytes
};

/// Points of small order, by their y, sign left out: with such a key nearly any signature would hold.
const SMALL_ORDER: [[u8; 32]; 5] = [
    [0; 32],
    {
        let mut one = [0; 32];
        one[0] = 1;
        one
    },
    {
        let mut minus_one = FIELD;
        minus_one[0] = 0xec;
        minus_one
    },
    [
        0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98,
        0xf0, 0xd5, 0xdf, 0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53,
        0xfc, 0x05,
    ],
    [
        0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67,
        0x0f, 0x2a, 0x20, 0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac,
        0x03, 0x7a,
    ],
];

/// Why keys can't be used.
#[derive(Debug, thiserror::Error)]
pub enum LicenseKeyError {
    /// Not a public key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A point that no honest key has.
    #[error("the public key {id} is not one that a key pair can have")]
    Weak {
        /// Its id.
        id: KeyId,
    },
    /// Two different keys with one id, or too many of them.
    #[error("the keys can't be told apart, or are more than {MAX_KEYS}")]
    Several,
    /// The tests' key in a release build.
    #[error("the public key {id} is that of the tests, which this build refuses")]
    Test {
        /// Its id.
        id: KeyId,
    },
}

/// One public key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LicenseKey {
    id: KeyId,
    point: [u8; 32],
}

impl LicenseKey {
    /// Read the text of a `.pub` file, or its base64 line alone.
    ///
    /// # Errors
    /// When it isn't a public key, or one that an honest key pair can't have.
    pub fn parse(text: &str, origin: &str) -> Result<Self, LicenseKeyError> {
        let key = TrustedKey::parse(text, origin)?;
        let (id, point) = (key.id(), key.point());
        if !is_honest(&point) {
            return Err(LicenseKeyError::Weak { id });
        }
        Ok(Self { id, point })
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// This is the tests' key.
    #[must_use]
    pub fn is_test(&self) -> bool {
        test_key().is_some_and(|test| test.id == self.id || test.point == self.point)
    }

    /// The signature is this key's, over these bytes. Strict: the one form of a signature only.
    #[must_use]
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, &self.point).verify(message, signature).is_ok()
    }
}

/// The keys whose signatures count.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LicenseKeys {
    keys: Vec<LicenseKey>,
}

impl LicenseKeys {
    /// The keys built into this program. Without any, no licence counts; every cluster has its trial still.
    ///
    /// # Errors
    /// When the program was built with something that isn't a key.
    pub fn built_in() -> Result<Self, LicenseKeyError> {
        let mut keys = Self::parse_all(BUILT_IN.unwrap_or_default(), "KDC_LICENSE_KEYS")?.keys;
        if takes_test_key()
            && let Some(test) = test_key()
            && !keys.contains(&test)
        {
            keys.push(test);
        }
        Self::new(keys)
    }

    /// These keys and no others.
    ///
    /// # Errors
    /// When two have one id, there are too many, or one is the tests' in a build that refuses it.
    pub fn new(keys: Vec<LicenseKey>) -> Result<Self, LicenseKeyError> {
        let is_twice = |(place, key): (usize, &LicenseKey)| {
            keys[..place].iter().any(|other| other.id == key.id)
        };
        if keys.len() > MAX_KEYS || keys.iter().enumerate().any(is_twice) {
            return Err(LicenseKeyError::Several);
        }
        match keys.iter().find(|key| key.is_test()) {
            Some(key) if !takes_test_key() => Err(LicenseKeyError::Test { id: key.id }),
            _ => Ok(Self { keys }),
        }
    }

    /// Keys by their base64 lines, separated by white space or commas.
    ///
    /// # Errors
    /// When one of them isn't a key, or they can't stand together.
    pub fn parse_all(text: &str, origin: &str) -> Result<Self, LicenseKeyError> {
        let words = text.split(|char: char| char.is_whitespace() || char == ',');
        let keys = words
            .filter(|word| !word.is_empty())
            .map(|word| LicenseKey::parse(word, origin))
            .collect::<Result<_, _>>()?;
        Self::new(keys)
    }

    /// There are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Their ids.
    #[must_use]
    pub fn ids(&self) -> Vec<KeyId> {
        self.keys.iter().map(LicenseKey::id).collect()
    }

    /// The key with this id.
    pub(super) fn find(&self, id: KeyId) -> Option<&LicenseKey> {
        self.keys.iter().find(|key| key.id == id)
    }

    /// This id is the tests', and this build refuses it.
    pub(super) fn refuses_as_test(&self, id: KeyId) -> bool {
        !takes_test_key() && test_key().is_some_and(|test| test.id == id)
    }
}

/// Only a debug build takes the tests' key: what is shipped is a release build.
const fn takes_test_key() -> bool {
    cfg!(debug_assertions)
}

fn test_key() -> Option<LicenseKey> {
    LicenseKey::parse(TEST_KEY, "the tests' key").ok()
}

/// The y of the point is below the field's order, and the point is not one of small order.
fn is_honest(point: &[u8; 32]) -> bool {
    let mut unsigned = *point;
    unsigned[31] &= 0x7f;
    let is_canonical = unsigned.iter().rev().lt(FIELD.iter().rev());
    is_canonical && !SMALL_ORDER.contains(&unsigned)
}

#[cfg(test)]
#[path = "keys_tests.rs"]
mod tests;
