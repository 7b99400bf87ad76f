//! From what a site has and a new bundle to an update.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    io::{self, Write},
    path::Path,
};

use kdc_bundles::{
    index::{Blob, Digest},
    open::BundleFile,
    reader::BlobReader,
};

use super::{
    chunks::Fineness,
    encode::{self, Bases},
    folder_of,
    holdings::{Holdings, labels},
    inventory::{HeldBlob, Inventory},
    layout::Part,
    members,
    problem::DeltaError,
    spool::Spool,
    unpack::{self, Purpose},
    update::{self, Manifest, OldBlob, Patch},
};
use crate::{Observer, Work};

/// Old blobs that one new blob is compared with.
const MAX_CANDIDATES: usize = 3;

/// What the site has, and the contents of it that the builder has too.
pub struct OldSide {
    held: BTreeMap<Digest, HeldBlob>,
    contents: Holdings,
    by_label: BTreeMap<String, Vec<Digest>>,
    fineness: Fineness,
}

impl OldSide {
    /// A site that has what is at hand here.
    ///
    /// # Errors
    /// When a folder can't be read.
    pub fn same(contents: Holdings) -> Result<Self, DeltaError> {
        let mut purposes: BTreeMap<Digest, Vec<String>> = BTreeMap::new();
        for index in contents.indexes() {
            for (digest, words) in labels(index) {
                purposes.entry(digest.clone()).or_default().extend(words);
            }
        }
        let blobs = contents.blobs()?.into_iter().map(|(digest, size)| {
            let labels = purposes.remove(&digest).unwrap_or_default();
            HeldBlob::plain(digest, size, labels)
        });
        Ok(Self::new(blobs.collect(), contents, Fineness::COARSE))
    }

    /// A site that has what its inventory lists; `contents` is what the builder has of it.
    #[must_use]
    pub fn listed(inventory: Inventory, contents: Holdings) -> Self {
        Self::new(inventory.blobs, contents, inventory.fineness)
    }

    fn new(blobs: Vec<HeldBlob>, contents: Holdings, fineness: Fineness) -> Self {
        let mut by_label: BTreeMap<String, Vec<Digest>> = BTreeMap::new();
        for blob in &blobs {
            for label in &blob.labels {
                by_label.entry(label.clone()).or_default().push(blob.digest.clone());
                let numberless = members::without_numbers(label);
                by_label.entry(numberless).or_default().push(blob.digest.clone());
            }
        }
        let held = blobs.into_iter().map(|blob| (blob.digest.clone(), blob)).collect();
        Self { held, contents, by_label, fineness }
    }

    /// The old blobs that most likely were this one: same label, then same but for numbers, and of
    /// those the nearest in size.
    fn candidates(&self, labels: &[String], size: u64) -> Vec<&HeldBlob> {
        let mut found: Vec<(Reverse<u8>, u64, &HeldBlob)> = Vec::new();
        for label in labels {
            let numberless = members::without_numbers(label);
            for (rank, label) in [(2, label), (1, &numberless)] {
                let digests = self.by_label.get(label).map(Vec::as_slice).unwrap_or_default();
                let blobs = digests.iter().filter_map(|digest| self.held.get(digest));
                found.extend(blobs.map(|blob| (Reverse(rank), blob.size.abs_diff(size), blob)));
            }
        }
        found.sort_by_key(|(rank, distance, blob)| (*rank, *distance, blob.digest.clone()));
        let mut seen = BTreeSet::new();
        found.retain(|(_, _, blob)| blob.size > 0 && seen.insert(&blob.digest));
        found.into_iter().map(|(_, _, blob)| blob).take(MAX_CANDIDATES).collect()
    }
}

/// What was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diffed {
    /// Blobs of the new bundle.
    pub blobs: usize,
    /// Those the site has.
    pub unchanged: usize,
    /// Those that are made from old ones.
    pub patched: usize,
    /// Those that travel whole.
    pub whole: usize,
    /// Length of the update.
    pub update_bytes: u64,
    /// Length of the new bundle.
    pub bundle_bytes: u64,
    /// What each blob costs that the site has not, the dearest first.
    pub costs: Vec<Cost>,
}

/// What one blob takes in an update.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cost {
    /// The blob.
    pub digest: Digest,
    /// What it is for: kind, name, platform and place of the first artifact that has it.
    pub label: String,
    /// Its length.
    pub size: u64,
    /// Its length decompressed, as far as what is compressed comes out again byte for byte.
    pub unpacked: u64,
    /// Bytes in the update.
    pub update_bytes: u64,
    /// Old blobs that it is made from.
    pub bases: usize,
}

/// Makes an update at `output` that turns what the site has into `new`. Temporary files go to the
/// output's folder.
///
/// # Errors
/// When a blob can't be read, or the update can't be written; then there is none.
pub fn diff(
    old: &OldSide,
    new: &BundleFile,
    output: &Path,
    observer: &mut dyn Observer,
) -> Result<Diffed, DeltaError> {
    let failed = |source| DeltaError::File { path: output.to_owned(), source };
    let index = new.index();
    let missing: Vec<&Blob> = index
        .blobs
        .iter()
        .filter(|blob| old.held.get(&blob.digest).is_none_or(|held| held.size != blob.size))
        .collect();
    observer.started(Work::Comparing, missing.iter().map(|blob| blob.size).sum());
    let mut differ = Differ {
        old,
        new,
        folder: folder_of(output),
        manifest: Manifest::new(new.digest().clone()),
        numbers: BTreeMap::new(),
        patches: Spool::new(folder_of(output)).map_err(failed)?,
        costs: Vec::new(),
    };
    let labels = labels(index);
    for blob in &missing {
        differ.blob(blob, labels.get(&blob.digest).map(Vec::as_slice).unwrap_or_default())?;
        observer.bytes(blob.size);
    }
    observer.finished(Work::Comparing);
    let signed = (new.index_bytes(), new.signature());
    let update_bytes =
        update::write(output, &differ.manifest, signed, &differ.patches).map_err(failed)?;
    differ.costs.sort_by(|left, right| {
        right.update_bytes.cmp(&left.update_bytes).then(left.digest.cmp(&right.digest))
    });
    let patched = differ.manifest.patches.iter().filter(|patch| !patch.bases.is_empty()).count();
    Ok(Diffed {
        blobs: index.blobs.len(),
        unchanged: index.blobs.len() - missing.len(),
        patched,
        whole: missing.len() - patched,
        update_bytes,
        bundle_bytes: new.file_bytes(),
        costs: differ.costs,
    })
}

struct Differ<'d> {
    old: &'d OldSide,
    new: &'d BundleFile,
    folder: &'d Path,
    manifest: Manifest,
    /// Bases in the manifest, by digest.
    numbers: BTreeMap<Digest, usize>,
    patches: Spool,
    costs: Vec<Cost>,
}

impl Differ<'_> {
    /// Adds the patch for one blob.
    fn blob(&mut self, blob: &Blob, labels: &[String]) -> Result<(), DeltaError> {
        let read = |source| DeltaError::Read { digest: blob.digest.clone(), source };
        let candidates = self.old.candidates(labels, blob.size);
        let (bases, used) = self.bases(&candidates)?;
        let before = self.patches.length();
        let mut patch = None;
        if !used.is_empty() {
            let tried = self.patch(blob, &bases, Purpose::Target).map_err(read)?;
            // Where a patch saves nothing the blob travels as it is.
            if tried.size < blob.size {
                let numbers = used.into_iter().map(|base| self.number(base)).collect();
                patch = Some(Patch { bases: numbers, ..tried });
            } else {
                self.patches.cut(before).map_err(read)?;
            }
        }
        let patch = match patch {
            Some(patch) => patch,
            None => {
                let nothing = Bases::new(self.old.fineness);
                self.patch(blob, &nothing, Purpose::Whole).map_err(read)?
            }
        };
        self.costs.push(Cost {
            digest: blob.digest.clone(),
            label: labels.first().cloned().unwrap_or_default(),
            size: blob.size,
            unpacked: patch.layout.iter().map(|part| part.unpacked).sum(),
            update_bytes: patch.size,
            bases: patch.bases.len(),
        });
        self.manifest.patches.push(patch);
        Ok(())
    }

    /// Unpacks what a blob is compared with; gives it with how it unpacks.
    fn bases(&self, candidates: &[&HeldBlob]) -> Result<(Bases, Vec<OldBlob>), DeltaError> {
        let (mut bases, mut used) = (Bases::new(self.old.fineness), Vec::new());
        for held in candidates {
            let read = |source| DeltaError::Read { digest: held.digest.clone(), source };
            let old = |layout: Vec<Part>| OldBlob {
                digest: held.digest.clone(),
                size: held.size,
                layout: layout.iter().map(Part::bare).collect(),
            };
            if self.old.contents.has(&held.digest) {
                let mut content = self.old.contents.open(&held.digest).map_err(read)?;
                let mut spool = Spool::new(self.folder).map_err(read)?;
                let layout = unpack::open_up(&mut content, held.size, &mut spool, Purpose::Base);
                let layout = layout.map_err(read)?;
                let units = members::divide(&spool, &layout).map_err(read)?;
                bases.add(spool, units).map_err(read)?;
                used.push(old(layout));
            } else if let Some(chunks) = held.chunks() {
                bases.add_known(chunks);
                used.push(old(held.layout.clone()));
            }
        }
        Ok((bases, used))
    }

    /// Adds the operations that make a blob from `bases`.
    fn patch(&mut self, blob: &Blob, bases: &Bases, purpose: Purpose) -> io::Result<Patch> {
        let mut content = BlobReader::new(self.new, &blob.digest).ok_or(io::ErrorKind::NotFound)?;
        let mut target = Spool::new(self.folder)?;
        let layout = unpack::open_up(&mut content, blob.size, &mut target, purpose)?;
        let units = members::divide(&target, &layout)?;
        let mut output = self.patches.writer();
        let (size, digest) = encode::encode(&target, &units, bases, &mut output)?;
        output.flush()?;
        drop(output);
        Ok(Patch {
            blob: blob.digest.clone(),
            layout,
            bases: Vec::new(),
            size,
            digest: Digest::from_bytes(&digest),
        })
    }

    fn number(&mut self, base: OldBlob) -> usize {
        let bases = &mut self.manifest.bases;
        *self.numbers.entry(base.digest.clone()).or_insert_with(|| {
            bases.push(base);
            bases.len() - 1
        })
    }
}
