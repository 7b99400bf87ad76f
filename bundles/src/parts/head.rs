//! The head of a part: which set, which bundle, which part of it.
//!
//! ```text
//! 0      "kdc bundle part\n", the JSON of a [`PartHead`], "\n", zeros
//! 4064   sha256 of the 4064 bytes before
//! 4096   the bundle's index, its signature, zeros to the next multiple of 4096
//! …      the payload
//! ```
//!
//! Nothing here is proved: it says where to look. Proof is the signed index that follows it. As in an
//! index there is one spelling only.

use serde::{Deserialize, Serialize};

use crate::{
    index::{Digest, MAX_INDEX_BYTES, check::shown},
    parts::geometry,
    signature::MAX_SIGNATURE_BYTES,
};

/// Bytes of the first block, and what index and signature are padded to.
pub const HEAD_BYTES: usize = 4096;

/// Format of the parts that this build writes.
pub const PART_VERSION: u32 = 1;

/// Most parts of a set, parity included: all of them are open at once.
pub const MAX_PARTS: u32 = 512;

pub(crate) const MAGIC: &[u8] = b"kdc bundle part\n";

const DIGEST_BYTES: usize = 32;

/// Data or parity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PartKind {
    /// A range of the bundle's bytes.
    Data,
    /// What rebuilds others.
    Parity,
}

/// What all parts of a set have in common; its digest is the set's id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SetHead {
    /// The bundle's name.
    pub name: String,
    /// The bundle's own version.
    pub bundle_version: String,
    /// Digest of the index: the bundle's identity.
    pub index: Digest,
    /// Length of the index.
    pub index_bytes: u64,
    /// Digest of the signature.
    pub signature: Digest,
    /// Length of the signature.
    pub signature_bytes: u64,
    /// Length of the whole bundle.
    pub bundle_bytes: u64,
    /// Most bytes of the bundle in one part.
    pub cut_bytes: u64,
    /// Bytes of each part that one step of the parity joins.
    pub slice_bytes: u64,
    /// How many parts carry the bundle's bytes.
    pub data_parts: u32,
    /// How many more rebuild them.
    pub parity_parts: u32,
}

/// The head of one part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PartHead {
    /// [`PART_VERSION`].
    pub version: u32,
    /// Digest of `set`.
    pub id: Digest,
    /// The set.
    pub set: SetHead,
    /// From 1; data parts first, in the bundle's order.
    pub number: u32,
    /// What it carries.
    pub kind: PartKind,
    /// Of a data part: the first byte of the bundle that it carries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<u64>,
    /// Bytes of its payload.
    pub bytes: u64,
}

/// Why bytes are not the head of a part.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// Something else altogether.
    #[error("it does not begin as a part does")]
    NotAPart,
    /// The block's own digest does not fit.
    #[error("its head is damaged")]
    Damaged,
    /// A later format.
    #[error("it has part format {found}; this build reads {PART_VERSION}")]
    Version {
        /// The version it states.
        found: u64,
    },
    /// Whole, but not what kdc writes.
    #[error("its head is wrong: {what}")]
    Invalid {
        /// The rule.
        what: String,
    },
}

#[derive(Deserialize)]
struct VersionOnly {
    version: u64,
}

impl SetHead {
    /// The set's id.
    #[must_use]
    pub fn id(&self) -> Digest {
        Digest::of(&to_json(self))
    }

    /// All parts, parity included.
    #[must_use]
    pub fn total(&self) -> u32 {
        self.data_parts.saturating_add(self.parity_parts)
    }

    /// Where the payload of every part of this set begins.
    #[must_use]
    pub fn payload_start(&self) -> u64 {
        payload_start(self.index_bytes, self.signature_bytes)
    }

    fn problem(&self) -> Option<&'static str> {
        let total = self.data_parts.checked_add(self.parity_parts);
        let rules = [
            (
                is_token(&self.name) && is_token(&self.bundle_version),
                "the bundle's name or version",
            ),
            ((1..=MAX_INDEX_BYTES).contains(&self.index_bytes), "`indexBytes`"),
            ((1..=MAX_SIGNATURE_BYTES).contains(&self.signature_bytes), "`signatureBytes`"),
            (self.data_parts > 0, "`dataParts`"),
            (total.is_some_and(|total| total <= MAX_PARTS), "the number of parts"),
            (self.parity_parts <= self.data_parts, "`parityParts`"),
            (self.slice_bytes == geometry::slice_bytes(self.total()), "`sliceBytes`"),
            ((1..1 << 50).contains(&self.bundle_bytes), "`bundleBytes`"),
            ((1..1 << 50).contains(&self.cut_bytes), "`cutBytes`"),
        ];
        rules.into_iter().find_map(|(good, what)| (!good).then_some(what))
    }
}

impl PartHead {
    /// The head of part `number` of a set.
    #[must_use]
    pub fn new(set: &SetHead, number: u32, start: Option<u64>, bytes: u64) -> Self {
        let kind = if number <= set.data_parts { PartKind::Data } else { PartKind::Parity };
        let (id, set) = (set.id(), set.clone());
        Self { version: PART_VERSION, id, set, number, kind, start, bytes }
    }

    /// Reads the first block of a part.
    ///
    /// # Errors
    /// When it is not exactly what [`PartHead::to_block`] writes.
    pub fn parse(block: &[u8; HEAD_BYTES]) -> Result<Self, HeadError> {
        let wrong = |what: &str| HeadError::Invalid { what: what.to_owned() };
        let Some(text) = block.strip_prefix(MAGIC) else { return Err(HeadError::NotAPart) };
        let (body, digest) = block.split_at(HEAD_BYTES - DIGEST_BYTES);
        if raw_digest(body) != *digest {
            return Err(HeadError::Damaged);
        }
        let end = text.iter().position(|byte| *byte == b'\n').ok_or_else(|| wrong("no line"))?;
        let json = |error: serde_json::Error| wrong(&shown(&error.to_string()));
        let version = serde_json::from_slice::<VersionOnly>(&text[..end]).map_err(json)?.version;
        if version != u64::from(PART_VERSION) {
            return Err(HeadError::Version { found: version });
        }
        let head: Self = serde_json::from_slice(&text[..end]).map_err(json)?;
        if head.to_block() != *block {
            return Err(wrong("it is not in its one canonical form"));
        }
        match head.problem() {
            Some(what) => Err(wrong(what)),
            None => Ok(head),
        }
    }

    fn problem(&self) -> Option<&'static str> {
        if let Some(what) = self.set.problem() {
            return Some(what);
        }
        let set = &self.set;
        let data = self.number <= set.data_parts;
        let end = self.start.unwrap_or(0).checked_add(self.bytes);
        let rules = [
            (self.id == set.id(), "`id` is not that of its set"),
            ((1..=set.total()).contains(&self.number), "`number`"),
            (data == (self.kind == PartKind::Data), "`kind`"),
            (data == self.start.is_some(), "`start`"),
            (!data || end.is_some_and(|end| end <= set.bundle_bytes), "`start` and `bytes`"),
            (data || self.bytes <= 2 * set.cut_bytes, "`bytes`"),
        ];
        rules.into_iter().find_map(|(good, what)| (!good).then_some(what))
    }

    /// The first block of the part.
    ///
    /// # Panics
    /// When names are longer than an index allows.
    #[must_use]
    pub fn to_block(&self) -> [u8; HEAD_BYTES] {
        let text = [MAGIC, &to_json(self), b"\n"].concat();
        let mut block = [0; HEAD_BYTES];
        let body = HEAD_BYTES - DIGEST_BYTES;
        assert!(text.len() <= body, "names are at most 128 bytes, so a head has room in its block");
        block[..text.len()].copy_from_slice(&text);
        let digest = raw_digest(&block[..body]);
        block[body..].copy_from_slice(&digest);
        block
    }

    /// Length of the whole part.
    #[must_use]
    pub fn file_bytes(&self) -> u64 {
        self.set.payload_start() + self.bytes
    }
}

/// Where the payload begins after an index and a signature of these lengths.
pub(crate) fn payload_start(index_bytes: u64, signature_bytes: u64) -> u64 {
    (HEAD_BYTES as u64 + index_bytes + signature_bytes).next_multiple_of(HEAD_BYTES as u64)
}

/// What is common to a set of that index and signature; counts and sizes are still to be filled in.
#[cfg(feature = "create")]
pub(crate) fn describe(
    index: &crate::index::Index,
    index_bytes: &[u8],
    signature: &str,
) -> SetHead {
    SetHead {
        name: index.name.clone(),
        bundle_version: index.bundle_version.clone(),
        index: Digest::of(index_bytes),
        index_bytes: index_bytes.len() as u64,
        signature: Digest::of(signature.as_bytes()),
        signature_bytes: signature.len() as u64,
        bundle_bytes: 0,
        cut_bytes: 0,
        slice_bytes: 0,
        data_parts: 0,
        parity_parts: 0,
    }
}

fn is_token(text: &str) -> bool {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b".-_+".contains(&byte);
    (1..=128).contains(&text.len()) && text.bytes().all(good)
}

fn to_json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("strings and numbers always have a JSON form")
}

pub(crate) fn raw_digest(bytes: &[u8]) -> [u8; DIGEST_BYTES] {
    use sha2::{Digest as _, Sha256};
    Sha256::digest(bytes).into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sample() -> PartHead {
        let set = SetHead {
            name: "n".repeat(128),
            bundle_version: "v".repeat(128),
            index: Digest::of(b"i"),
            index_bytes: 1000,
            signature: Digest::of(b"s"),
            signature_bytes: 300,
            bundle_bytes: 1 << 40,
            cut_bytes: 1 << 32,
            slice_bytes: geometry::slice_bytes(283),
            data_parts: 256,
            parity_parts: 27,
        };
        PartHead::new(&set, 2, Some(1 << 32), 1 << 32)
    }

    #[test]
    fn what_is_written_reads_back_and_every_changed_byte_is_noticed() {
        let head = sample();
        let block = head.to_block();
        assert_eq!(PartHead::parse(&block).unwrap(), head);
        for at in 0..HEAD_BYTES {
            let mut bad = block;
            bad[at] ^= 1 << (at % 8);
            let error = PartHead::parse(&bad).unwrap_err();
            let expected = if at < MAGIC.len() { HeadError::NotAPart } else { HeadError::Damaged };
            assert_eq!(error, expected, "byte {at}");
        }
    }

    #[test]
    fn each_broken_rule_is_named() {
        type Break = fn(&mut PartHead);
        let cases: &[(Break, &str)] = &[
            (|h| h.set.name = "a b".to_owned(), "name"),
            (|h| h.set.bundle_version = String::new(), "version"),
            (|h| h.set.index_bytes = MAX_INDEX_BYTES + 1, "indexBytes"),
            (|h| h.set.signature_bytes = 1 << 40, "signatureBytes"),
            (|h| h.set.data_parts = 0, "dataParts"),
            (|h| h.set.data_parts = u32::MAX, "number of parts"),
            (|h| (h.set.data_parts, h.set.parity_parts) = (10, 11), "parityParts"),
            (|h| h.set.slice_bytes = 64, "sliceBytes"),
            (|h| h.set.bundle_bytes = u64::MAX, "bundleBytes"),
            (|h| h.set.cut_bytes = 0, "cutBytes"),
            (|h| h.number = 0, "number"),
            (|h| h.number = 284, "number"),
            (|h| h.kind = PartKind::Parity, "kind"),
            (|h| h.start = None, "start"),
            (|h| h.bytes = u64::MAX, "start"),
            (
                |h| (h.number, h.kind, h.start, h.bytes) = (270, PartKind::Parity, None, u64::MAX),
                "bytes",
            ),
        ];
        for (number, (change, expected)) in cases.iter().enumerate() {
            let mut head = sample();
            change(&mut head);
            head.id = head.set.id();
            let error = PartHead::parse(&head.to_block()).unwrap_err().to_string();
            assert!(error.contains(expected), "case {number}: {error}");
        }
        let mut other = sample();
        other.id = Digest::of(b"other");
        assert!(PartHead::parse(&other.to_block()).unwrap_err().to_string().contains("id"));
        let mut later = sample();
        later.version = 2;
        let error = PartHead::parse(&later.to_block()).unwrap_err();
        assert_eq!(error, HeadError::Version { found: 2 });
    }

    proptest! {
        #[test]
        fn any_bytes_are_judged_without_a_panic(
            bytes in prop::collection::vec(any::<u8>(), HEAD_BYTES - 48), good in any::<bool>()
        ) {
            let mut block = [0; HEAD_BYTES];
            block[..16].copy_from_slice(MAGIC);
            block[16..HEAD_BYTES - 32].copy_from_slice(&bytes);
            if good {
                let digest = raw_digest(&block[..HEAD_BYTES - 32]);
                block[HEAD_BYTES - 32..].copy_from_slice(&digest);
            }
            prop_assert!(PartHead::parse(&block).is_err());
        }
    }
}
