//! Heads: where a log ends, signed. A head that is kept elsewhere shows that a tail was cut off.

use serde::{Deserialize, Serialize};

use super::{
    key::{NodeKey, PublicKey},
    line::is_sum,
};

/// Longest text of a head that is read.
pub const MAX_HEAD_BYTES: usize = 2048;

/// Up to here a log was written, says its key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Head {
    /// Which log.
    pub chain: String,
    /// Its last line.
    pub seq: u64,
    /// That line's digest.
    pub sum: String,
    /// When it was written, milliseconds since the epoch.
    pub at: u64,
    /// The public key.
    pub key: String,
    /// The signature.
    pub signature: String,
}

impl Head {
    /// Sign that `chain` ends with line `seq`.
    #[must_use]
    pub fn sign(key: &NodeKey, chain: &str, seq: u64, sum: &str, at: u64) -> Self {
        let mut head = Self {
            chain: chain.to_owned(),
            seq,
            sum: sum.to_owned(),
            at,
            key: key.public().to_string(),
            signature: String::new(),
        };
        head.signature = key.sign(&head.message());
        head
    }

    /// What is signed: every field, in one spelling, under a name that nothing else is signed under.
    fn message(&self) -> Vec<u8> {
        let Self { chain, seq, sum, at, key, signature: _ } = self;
        format!("kdc-audit-head-v1\n{chain}\n{seq}\n{sum}\n{at}\n{key}\n").into_bytes()
    }

    /// The key that signed it, where the signature is good.
    #[must_use]
    pub fn signer(&self) -> Option<PublicKey> {
        let key: PublicKey = self.key.parse().ok()?;
        let good = is_sum(&self.sum)
            && !self.chain.contains('\n')
            && key.verifies(&self.message(), &self.signature);
        good.then_some(key)
    }

    /// Read a head's text.
    ///
    /// # Errors
    /// Why it is none; a head whose signature is not good is none.
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        if text.len() > MAX_HEAD_BYTES {
            return Err(format!("{} bytes; a head has fewer than {MAX_HEAD_BYTES}", text.len()));
        }
        let head: Self = serde_json::from_slice(text).map_err(|error| error.to_string())?;
        if head.signer().is_none() {
            return Err("its signature does not fit".to_owned());
        }
        Ok(head)
    }

    /// As text.
    #[must_use]
    pub fn to_text(&self) -> String {
        serde_json::to_string(self).expect("texts and numbers serialise")
    }
}
