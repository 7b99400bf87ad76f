//! Proving parts, each by itself: which are good, and of the others which bytes are lost.
//!
//! A data part is proved by the signed index, byte for byte. A parity part has digests of its own,
//! which find damage and prove nothing else. Damage does not end the look: whatever can still be
//! read is worth knowing for repair.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    path::{Path, PathBuf},
};

use super::{Geometry, HEAD_BYTES, PartFile, PartKind, PartSet, PartSummary, look::Look};
use crate::{
    error::VerifyError,
    index::{Digest, Index},
    keys::{KeyId, TrustedKeys},
    layout::Expected,
    medium::MediumError,
    signature,
};

/// What was found of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyReport {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it, in words; nothing if it is good.
    pub problems: Vec<String>,
    /// Bytes of its payload that are lost.
    pub lost: Vec<Range<u64>>,
}

impl CopyReport {
    /// Nothing is wrong with it.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.problems.is_empty()
    }
}

/// What was found of one part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartReport {
    /// Its number.
    pub number: u32,
    /// What it carries.
    pub kind: PartKind,
    /// Its copies; none if it is missing.
    pub copies: Vec<CopyReport>,
}

impl PartReport {
    /// One of its copies is good.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.copies.iter().any(CopyReport::is_good)
    }
}

/// The parts of a set after every byte of them was read.
#[derive(Debug, Clone)]
pub struct Checked {
    /// The proved index.
    pub index: Index,
    /// Its bytes.
    pub index_bytes: Vec<u8>,
    /// The signature over them.
    pub signature: String,
    /// Digest of the index: the bundle's identity.
    pub digest: Digest,
    /// The key that signed.
    pub signer: KeyId,
    /// Which bytes are in which part.
    pub geometry: Geometry,
    /// Every part, by number.
    pub parts: Vec<PartReport>,
}

impl Checked {
    /// Every byte of the bundle is there and good.
    #[must_use]
    pub fn is_readable(&self) -> bool {
        let data = self.parts.iter().filter(|part| part.kind == PartKind::Data);
        data.into_iter().all(|part| part.copies.iter().any(|copy| copy.lost.is_empty()))
    }

    /// Every part is there and good.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.parts.iter().all(PartReport::is_good)
    }

    /// Parity makes up for what is lost.
    #[must_use]
    pub fn is_repairable(&self) -> bool {
        self.too_much().is_none()
    }

    /// Nothing of the payload of the copy at `path` is lost.
    #[must_use]
    pub fn is_sound(&self, path: &Path) -> bool {
        let mut copies = self.parts.iter().flat_map(|part| &part.copies);
        copies.any(|copy| copy.path == path && copy.lost.is_empty())
    }

    /// What is wrong with each part that has no good copy.
    #[must_use]
    pub fn bad_parts(&self) -> Vec<PartSummary> {
        let bad = self.parts.iter().filter(|part| !part.is_good());
        let bad = bad.map(|part| {
            let copies = part.copies.iter();
            let copies: Vec<_> = copies
                .map(|copy| format!("in `{}` {}", copy.path.display(), copy.problems.join(", ")))
                .collect();
            let what =
                if copies.is_empty() { "is missing".to_owned() } else { copies.join(" and ") };
            PartSummary { number: part.number, kind: part.kind, what }
        });
        bad.collect()
    }

    /// Whether the slice of part `number` in that stripe is good in that copy.
    pub(crate) fn has_slice(&self, number: u32, copy: usize, stripe: u64) -> bool {
        let Some(copy) = self.parts[number as usize - 1].copies.get(copy) else { return false };
        let (start, end) = self.slice_range(number, stripe);
        // Sorted and apart: only the first one that ends after `start` can overlap.
        let next = copy.lost.partition_point(|lost| lost.end <= start);
        copy.lost.get(next).is_none_or(|lost| lost.start >= end)
    }

    /// Where the slice lies in the part's payload, as far as it does.
    fn slice_range(&self, number: u32, stripe: u64) -> (u64, u64) {
        let geometry = &self.geometry;
        let slice = geometry.slice_bytes();
        match self.parts[number as usize - 1].kind {
            PartKind::Data => (stripe * slice, (stripe + 1) * slice),
            PartKind::Parity => (geometry.parity_start(stripe), geometry.parity_start(stripe + 1)),
        }
    }

    /// Of the stripe where most is lost the parts that have no good slice there, if parity can't make
    /// up for that.
    pub(crate) fn too_much(&self) -> Option<Vec<u32>> {
        let width = |part: &PartReport| match part.kind {
            PartKind::Data => self.geometry.slice_bytes(),
            PartKind::Parity => self.geometry.parity_start(1),
        };
        let mut stripes: BTreeMap<u64, BTreeSet<u32>> = BTreeMap::from([(0, BTreeSet::new())]);
        for part in &self.parts {
            for lost in part.copies.iter().flat_map(|copy| &copy.lost) {
                for stripe in lost.start / width(part)..lost.end.div_ceil(width(part)) {
                    stripes.entry(stripe).or_default();
                }
            }
        }
        for (stripe, lost) in &mut stripes {
            for part in &self.parts {
                let copies = 0..part.copies.len();
                if !copies.into_iter().any(|copy| self.has_slice(part.number, copy, *stripe)) {
                    lost.insert(part.number);
                }
            }
        }
        let worst = stripes.into_values().max_by_key(BTreeSet::len).unwrap_or_default();
        (worst.len() > self.geometry.parity_parts()).then(|| worst.into_iter().collect())
    }
}

/// Proves the index with `keys` and reads every part of the set. `bytes` is told how many bytes of
/// parts were read.
///
/// # Errors
/// When the index can't be proved, or the heads of the parts do not fit it.
pub fn check(
    set: &PartSet,
    keys: &TrustedKeys,
    bytes: &mut dyn FnMut(u64),
) -> Result<Checked, VerifyError> {
    let proved = prove_index(set, keys)?;
    let head = set.head();
    let expected = Expected::new(&proved.index, &proved.bytes, &proved.signature);
    let heads = |what| MediumError::Heads { bundle: set.label(), what };
    let geometry = Geometry::of(head, &proved.index, expected.layout()).map_err(heads)?;
    let look = Look { set: &head.id(), geometry: &geometry, expected: &expected };
    let copies: Vec<&PartFile> = (1..=head.total()).flat_map(|number| set.copies(number)).collect();
    let mut reports = look.at_all(&copies, bytes).into_iter();
    let parts = (1..=head.total()).map(|number| PartReport {
        number,
        kind: set.kind(number),
        copies: reports.by_ref().take(set.copies(number).len()).collect(),
    });
    let parts = parts.collect();
    Ok(Checked {
        digest: Digest::of(&proved.bytes),
        index: proved.index,
        index_bytes: proved.bytes,
        signature: proved.signature,
        signer: proved.signer,
        geometry,
        parts,
    })
}

struct ProvedIndex {
    index: Index,
    bytes: Vec<u8>,
    signature: String,
    signer: KeyId,
}

/// Finds a copy of index and signature that is what the heads say, and proves it.
fn prove_index(set: &PartSet, keys: &TrustedKeys) -> Result<ProvedIndex, VerifyError> {
    let head = set.head();
    for copy in (1..=head.total()).flat_map(|number| set.copies(number)) {
        let mut both = vec![0; (head.index_bytes + head.signature_bytes) as usize];
        let read = crate::medium::fill_at(&mut both, HEAD_BYTES as u64, |buffer, offset| {
            copy.read_at(buffer, offset)
        });
        let signature = both.split_off(head.index_bytes as usize);
        let undamaged = read.is_ok()
            && Digest::of(&both) == head.index
            && Digest::of(&signature) == head.signature;
        let Some(signature) = String::from_utf8(signature).ok().filter(|_| undamaged) else {
            continue;
        };
        let wrong = |source| VerifyError::Signature { source };
        let signature::ProvedIndex { index, signer } =
            signature::prove_index(&both, &signature, keys).map_err(wrong)?;
        return Ok(ProvedIndex { index, bytes: both, signature, signer });
    }
    Err(MediumError::NoIndex { bundle: set.label() }.into())
}
