//! Rebuilding parts that are missing or damaged (feature `create`).
//!
//! What is lost is decided slice by slice: a part with one bad sector still helps to rebuild another
//! one. Of each bad part a whole new file is written, proved against the signed index, and only then
//! moved into its place.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

use super::{
    Checked, MAX_PARTS, PartFile, PartKind, PartSet, Stray,
    geometry::slice_digest,
    head::PartHead,
    look::Look,
    numbers_text,
    parity::{Parity, Slices},
    write::{NewPart, PartsError, part_name, put_in_place},
};
use crate::layout::Expected;

/// Why parts can't be rebuilt.
#[derive(Debug, thiserror::Error)]
pub enum RepairError {
    /// More is lost than parity makes up for.
    #[error(
        "{bundle} can't be rebuilt: {} missing or damaged at the same place, and parity makes up \
         for {parity}",
        numbers_are(lost)
    )]
    TooMuch {
        /// Name and version.
        bundle: String,
        /// Parts that lack the same stripe.
        lost: Vec<u32>,
        /// Parity parts of the set.
        parity: usize,
    },
    /// The rebuilt bytes are not what was signed: parity was changed on purpose.
    #[error("what was rebuilt of part {number} of {bundle} is not what was signed")]
    Forged {
        /// Name and version.
        bundle: String,
        /// The part.
        number: u32,
    },
    /// Files can't be read or written.
    #[error(transparent)]
    Parts(#[from] PartsError),
}

impl RepairError {
    /// The one next thing to try.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::TooMuch { lost, parity, .. } => {
                let needed = lost.len() - parity;
                let which = numbers_text("part", lost);
                Some(format!("bring undamaged copies of at least {needed} of {which}"))
            }
            Self::Forged { .. } => Some(
                "the parity parts were changed: copy them, or the lost parts, from their source"
                    .to_owned(),
            ),
            Self::Parts(error) => error.hint(),
        }
    }
}

fn numbers_are(numbers: &[u32]) -> String {
    let verb = if numbers.len() == 1 { "is" } else { "are" };
    format!("{} {verb}", numbers_text("part", numbers))
}

/// Parts that were rebuilt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repaired {
    /// Number and new file of each.
    pub parts: Vec<(u32, PathBuf)>,
}

/// Rebuilds every part of `set` that has no good copy, as `checked` found it. Damaged files are
/// replaced, missing ones appear beside the first part; with `save` all of them appear in that
/// folder instead. `bytes` is told how many bytes were rebuilt.
///
/// # Errors
/// When too much is lost, or what was rebuilt is not what was signed: then nothing is replaced. When
/// the system fails: then some parts may have been replaced, by whole ones.
pub fn repair(
    set: &PartSet,
    checked: &Checked,
    save: Option<&Path>,
    bytes: &mut dyn FnMut(u64),
) -> Result<Repaired, RepairError> {
    if let Some(lost) = checked.too_much() {
        let parity = checked.geometry.parity_parts();
        return Err(RepairError::TooMuch { bundle: set.label(), lost, parity });
    }
    let bad = checked.parts.iter().filter(|part| !part.is_good()).map(|part| part.number);
    let bad: Vec<u32> = bad.collect();
    let mut rebuild =
        Rebuild { set, checked, code: Parity::new(&checked.geometry), new: BTreeMap::new() };
    let place = set.path().parent().unwrap_or(Path::new("")).to_owned();
    for number in &bad {
        rebuild.begin(*number, save, &place)?;
    }
    let mut done = 0;
    for stripe in 0..checked.geometry.stripes() {
        let place = save.unwrap_or(&place);
        done += rebuild.stripe(stripe).map_err(|source| write_error(place, source))?;
        bytes(done);
    }
    let parts = rebuild.prove()?;
    let mut paths = Vec::new();
    put_in_place(parts, &mut paths)?;
    Ok(Repaired { parts: bad.into_iter().zip(paths).collect() })
}

fn write_error(path: &Path, source: io::Error) -> PartsError {
    PartsError::Write { path: path.to_owned(), source }
}

/// The work under way.
struct Rebuild<'r> {
    set: &'r PartSet,
    checked: &'r Checked,
    code: Parity,
    new: BTreeMap<u32, NewPart>,
}

impl Rebuild<'_> {
    fn head(&self, number: u32) -> PartHead {
        let geometry = &self.checked.geometry;
        let bytes = geometry.payload_bytes(number);
        PartHead::new(self.set.head(), number, geometry.start(number), bytes)
    }

    /// Begins the new file of a part, in the place of its first copy or in `folder`.
    fn begin(&mut self, number: u32, save: Option<&Path>, folder: &Path) -> Result<(), PartsError> {
        let old = self.set.copies(number).first().map(PartFile::path);
        let name = match old.and_then(Path::file_name) {
            Some(name) => PathBuf::from(name),
            None => part_name(&self.stem(), self.set.head(), number).into(),
        };
        let path = match (save, old) {
            (Some(folder), _) => folder.join(name),
            (None, Some(old)) => old.to_owned(),
            (None, None) => folder.join(name),
        };
        let stray = |stray: &Stray| stray.path == path && !stray.foreign;
        let replaces = save.is_none() && (old.is_some() || self.set.strays().iter().any(stray));
        if !replaces && path.exists() {
            return Err(PartsError::InTheWay { path });
        }
        let preamble =
            [self.checked.index_bytes.as_slice(), self.checked.signature.as_bytes()].concat();
        let part = NewPart::begin(path.clone(), &self.head(number), &preamble)
            .map_err(|source| write_error(&path, source))?;
        self.new.insert(number, part);
        Ok(())
    }

    /// What the names of the parts that are there begin with.
    fn stem(&self) -> String {
        let name = self.set.path().file_name().map(|name| name.to_string_lossy().into_owned());
        let stem = name.as_deref().and_then(|name| {
            name.rsplit_once(".part-")
                .or_else(|| name.rsplit_once(".parity-"))
                .map(|(stem, _)| stem)
        });
        stem.unwrap_or("kdc.bundle").to_owned()
    }

    /// Reads the good slice of a part; it is given with zeros in it.
    fn read(&self, number: u32, stripe: u64, slice: &mut [u8]) -> io::Result<()> {
        let geometry = &self.checked.geometry;
        let start = match self.set.kind(number) {
            PartKind::Data => stripe * geometry.slice_bytes(),
            PartKind::Parity => geometry.parity_start(stripe),
        };
        let left = geometry.payload_bytes(number).saturating_sub(start);
        let length = left.min(slice.len() as u64) as usize;
        let slice = &mut slice[..length];
        let copy = self.good_copy(number, stripe).ok_or(io::ErrorKind::NotFound)?;
        if slice.is_empty() { Ok(()) } else { copy.read_payload(slice, start) }
    }

    fn good_copy(&self, number: u32, stripe: u64) -> Option<&PartFile> {
        let copies = self.set.copies(number).iter().enumerate();
        let mut good = copies.filter(|(copy, _)| self.checked.has_slice(number, *copy, stripe));
        good.next().map(|(_, file)| file)
    }

    /// Writes one slice of every new part; gives the bytes written.
    fn stripe(&mut self, stripe: u64) -> io::Result<u64> {
        let length = self.checked.geometry.slice_length(stripe);
        let total = self.set.head().total();
        let is_good = |number: &u32| self.good_copy(*number, stripe).is_some();
        let (good, lost): (Vec<u32>, Vec<u32>) = (1..=total).partition(is_good);
        let is_data = |number: &u32| self.set.kind(*number) == PartKind::Data;
        let restored = if lost.iter().any(is_data) {
            self.code.decode(length, &good, |number, slice| self.read(number, stripe, slice))?
        } else {
            Slices::new()
        };
        let mut slices: Slices = Vec::new();
        for number in self.new.keys().filter(|number| is_data(number)) {
            let restored = restored.iter().find(|(of, _)| of == number);
            let mut slice =
                restored.map_or_else(|| vec![0; length as usize], |(_, slice)| slice.clone());
            if restored.is_none() {
                self.read(*number, stripe, &mut slice)?;
            }
            slices.push((*number, slice));
        }
        if self.new.keys().any(|number| !is_data(number)) {
            let read = |number: u32, slice: &mut [u8]| {
                match restored.iter().find(|(of, _)| *of == number) {
                    Some((_, restored)) => slice.copy_from_slice(restored),
                    None => self.read(number, stripe, slice)?,
                }
                Ok(())
            };
            let keep = |number: u32, slice: &[u8]| {
                if self.new.contains_key(&number) {
                    slices.push((number, slice.to_vec()));
                }
                Ok::<_, io::Error>(())
            };
            self.code.encode(length, read, keep)?;
        }
        self.write(stripe, slices)
    }

    fn write(&mut self, stripe: u64, slices: Slices) -> io::Result<u64> {
        let (geometry, id) = (&self.checked.geometry, self.set.head().id());
        let mut written = 0;
        for (number, slice) in slices {
            let Some(part) = self.new.get_mut(&number) else { continue };
            if self.set.kind(number) == PartKind::Parity {
                part.put(&slice)?;
                let digest = slice_digest(&id, number, stripe, &slice);
                part.put(&hex::decode(digest.hex()).expect("a digest is 64 hex digits"))?;
                written += slice.len() as u64;
            } else {
                let start = stripe * geometry.slice_bytes();
                let left = geometry.payload_bytes(number).saturating_sub(start);
                let slice = &slice[..left.min(slice.len() as u64) as usize];
                part.put(slice)?;
                written += slice.len() as u64;
            }
        }
        Ok(written)
    }

    /// Reads every new file again and proves it.
    fn prove(self) -> Result<Vec<NewPart>, RepairError> {
        let mut files = Vec::with_capacity(MAX_PARTS as usize);
        for (number, part) in &self.new {
            let failed = |source| write_error(&part.path, source);
            part.finish().map_err(failed)?;
            let file = PartFile::open(part.file.path(), self.head(*number));
            files.push(file.map_err(failed)?);
        }
        let checked = self.checked;
        let expected = Expected::new(&checked.index, &checked.index_bytes, &checked.signature);
        let set = &self.set.head().id();
        let look = Look { set, geometry: &checked.geometry, expected: &expected };
        let files: Vec<_> = files.iter().collect();
        let reports = look.at_all(&files, &mut |_| {});
        for (report, number) in reports.iter().zip(self.new.keys()) {
            if !report.is_good() {
                return Err(RepairError::Forged { bundle: self.set.label(), number: *number });
            }
        }
        Ok(self.new.into_values().collect())
    }
}
