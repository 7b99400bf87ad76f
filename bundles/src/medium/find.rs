//! Plug and go: from what the operator named to the one bundle that is meant.
//!
//! In everything that was named there may be only one bundle, whole or in parts; what lies beside a
//! named part may also be of others. Of the same bundle in several forms the whole file wins, then the
//! fullest set.

use std::{
    collections::BTreeMap,
    io::Read,
    path::{Path, PathBuf},
};

use crate::{
    error::VerifyError,
    index::Digest,
    layout::Layout,
    medium::{Claim, FoundBundle, Medium, MediumError},
    member,
    parts::{HEAD_BYTES, MAGIC, PartFile, PartHead, PartKind, PartSet, Stray},
    prelude::{self, Source},
};

/// Folders inside folders looked into.
const MAX_DEPTH: usize = 4;

/// Files and folders looked at below one named folder.
const MAX_ENTRIES: usize = 10_000;

/// What a file is by its first bytes.
enum Kind {
    Bundle,
    Part(Box<PartHead>),
    /// It begins like a part, or is named like one, and can't be used.
    Stray(String),
    Other,
}

/// Everything that was found.
#[derive(Default)]
struct Search {
    bundles: Vec<WholeBundle>,
    /// Files that begin like a bundle and whose head is damaged.
    damaged: Vec<PathBuf>,
    parts: Vec<FoundPart>,
    strays: Vec<Stray>,
    /// Sets of which a part was named.
    wanted_sets: Vec<Digest>,
    files: usize,
    entries: usize,
}

struct WholeBundle {
    path: PathBuf,
    /// The same without links, for telling whether it was seen before.
    real: PathBuf,
    claim: Claim,
    origin: Origin,
    /// As long as its index says.
    whole: bool,
}

struct FoundPart {
    path: PathBuf,
    real: PathBuf,
    head: PartHead,
    origin: Origin,
}

/// How a file came to be looked at.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// It was named itself.
    Named,
    /// It lies in a folder that was named.
    InFolder,
    /// It lies beside a part that was named.
    Beside,
}

/// See [`Medium::find`].
pub(super) fn find<P: AsRef<Path>>(paths: &[P]) -> Result<Medium, VerifyError> {
    let mut search = Search::default();
    for path in paths {
        let path = path.as_ref();
        let metadata = fs_err::metadata(path).map_err(|source| VerifyError::Open { source })?;
        if metadata.is_dir() {
            search.entries = 0;
            search.folder(path, path, MAX_DEPTH, Origin::InFolder)?;
        } else if let Some(other) = search.named(path)? {
            if paths.len() == 1 {
                return Ok(other);
            }
            search.whole(path, Origin::Named);
        }
    }
    let searched = paths.iter().map(|path| path.as_ref().to_owned()).collect();
    search.choose(searched)
}

impl Search {
    /// A file that was named. Gives it back if it is no part: it is what is meant, whatever it holds.
    fn named(&mut self, path: &Path) -> Result<Option<Medium>, VerifyError> {
        let mut origin = Origin::Beside;
        match kind(path).map_err(|source| VerifyError::Open { source })? {
            Kind::Bundle | Kind::Other => return Medium::file(path).map(Some),
            Kind::Part(head) => {
                self.wanted_sets.push(head.id.clone());
                self.add_part(path, *head, Origin::Named);
            }
            Kind::Stray(what) => {
                // It can't say which bundle it is of: those beside it can.
                origin = Origin::InFolder;
                self.add_stray(path, what);
            }
        }
        let folder = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        self.entries = 0;
        self.folder(folder, folder, 0, origin)?;
        Ok(None)
    }

    /// Looks at every file of a folder, and at those of the folders in it.
    fn folder(
        &mut self,
        folder: &Path,
        top: &Path,
        depth: usize,
        origin: Origin,
    ) -> Result<(), VerifyError> {
        let open = |source| VerifyError::Open { source };
        let entries = match fs_err::read_dir(folder) {
            // What only another user may look into (`lost+found`) holds no bundle for this one.
            Err(error) if folder != top && error.kind() == std::io::ErrorKind::PermissionDenied => {
                return Ok(());
            }
            entries => entries.map_err(open)?,
        };
        let mut paths = Vec::new();
        for entry in entries {
            let entry = entry.map_err(open)?;
            self.entries += 1;
            if self.entries > MAX_ENTRIES {
                let folder = top.to_owned();
                return Err(MediumError::TooMany { folder, most: MAX_ENTRIES }.into());
            }
            // Dot files: what isn't finished yet, and the waste baskets of desktops.
            if !entry.file_name().as_encoded_bytes().starts_with(b".") {
                paths.push((entry.path(), entry.file_type().is_ok_and(|of| of.is_dir())));
            }
        }
        paths.sort();
        for (path, is_folder) in paths {
            if !is_folder {
                self.look(&path, origin);
            } else if depth > 0 {
                self.folder(&path, top, depth - 1, origin)?;
            }
        }
        Ok(())
    }

    fn look(&mut self, path: &Path, origin: Origin) {
        // A pipe would block whoever opens it.
        if !fs_err::metadata(path).is_ok_and(|metadata| metadata.is_file()) {
            return;
        }
        self.files += 1;
        match kind(path) {
            Ok(Kind::Bundle) => self.whole(path, origin),
            Ok(Kind::Part(head)) => self.add_part(path, *head, origin),
            Ok(Kind::Stray(what)) => self.add_stray(path, what),
            Ok(Kind::Other) => {}
            Err(error) => {
                if named_like_a_part(path) {
                    self.add_stray(path, format!("can't be read: {error}"));
                }
            }
        }
    }

    fn add_part(&mut self, path: &Path, head: PartHead, origin: Origin) {
        let real = real(path);
        match self.parts.iter_mut().find(|known| known.real == real) {
            // Beside one named part, and in a named folder after all.
            Some(known) if known.origin == Origin::Beside => known.origin = origin,
            Some(_) => {}
            None => self.parts.push(FoundPart { path: path.to_owned(), real, head, origin }),
        }
    }

    fn add_stray(&mut self, path: &Path, what: String) {
        let path = path.to_owned();
        if !self.strays.iter().any(|known| known.path == path) {
            self.strays.push(Stray { path, what, foreign: false });
        }
    }

    /// A file that begins like a bundle: which one?
    fn whole(&mut self, path: &Path, origin: Origin) {
        let read = || {
            let file = fs_err::File::open(path).ok()?;
            let length = file.metadata().ok()?.len();
            let head = prelude::read(&mut Source::new(std::io::BufReader::new(file)), None).ok()?;
            let sizes = (head.index_bytes.len() as u64, head.signature.len() as u64);
            let whole = Layout::of(&head.index, sizes.0, sizes.1).length() == length;
            let (name, version) = (head.index.name, head.index.bundle_version);
            Some((Claim { name, version, index: Digest::of(&head.index_bytes) }, whole))
        };
        let Some((claim, whole)) = read() else {
            self.damaged.push(path.to_owned());
            return;
        };
        let (path, real) = (path.to_owned(), real(path));
        match self.bundles.iter_mut().find(|known| known.real == real) {
            Some(known) if known.origin != Origin::Named => known.origin = origin,
            Some(_) => {}
            None => self.bundles.push(WholeBundle { path, real, claim, origin, whole }),
        }
    }

    /// Name, version and one file of each bundle in what was named.
    fn groups(&self) -> BTreeMap<Digest, FoundBundle> {
        let mut groups = BTreeMap::new();
        let bundles = self.bundles.iter();
        let bundles = bundles.map(|bundle| (bundle.claim.clone(), &bundle.path, bundle.origin));
        let parts = self.parts.iter().map(|part| {
            let set = &part.head.set;
            let (name, version) = (set.name.clone(), set.bundle_version.clone());
            (Claim { name, version, index: set.index.clone() }, &part.path, part.origin)
        });
        let all = bundles.chain(parts).filter(|(_, _, origin)| *origin != Origin::Beside);
        for (Claim { name, version, index }, path, _) in all {
            let found = FoundBundle { name, version, path: path.clone(), files: 0 };
            groups.entry(index).or_insert(found).files += 1;
        }
        groups
    }

    fn choose(mut self, searched: Vec<PathBuf>) -> Result<Medium, VerifyError> {
        let groups = self.groups();
        if groups.len() > 1 {
            return Err(MediumError::Several { found: groups.into_values().collect() }.into());
        }
        let Some(index) = groups.into_keys().next() else {
            // A damaged bundle is refused with what is wrong with it, rather than not found.
            if let [only] = self.damaged.as_slice() {
                return Medium::file(only);
            }
            let (files, strays) = (self.files, self.strays);
            return Err(MediumError::Nothing { searched, files, strays }.into());
        };
        let of_it = |bundle: &&WholeBundle| bundle.claim.index == index;
        let usable = |bundle: &&WholeBundle| bundle.origin == Origin::Named || bundle.whole;
        let whole = self.bundles.iter().filter(of_it).find(usable);
        if let Some(whole) = whole.filter(|_| self.wanted_sets.is_empty()) {
            return Medium::file(&whole.path);
        }
        let Some(set) = self.fullest_set(&index) else {
            // Only a bundle that is cut.
            let cut = self.bundles.iter().find(of_it).map(|bundle| bundle.path.as_path());
            return Medium::file(cut.unwrap_or(Path::new("")));
        };
        let (mut files, mut strays) = (Vec::new(), std::mem::take(&mut self.strays));
        for FoundPart { path, head, .. } in self.parts {
            if head.id == set.id {
                let file = PartFile::open(&path, head);
                files.push(file.map_err(|source| VerifyError::Open { source })?);
            } else {
                let another = head.set.index == index;
                let which = if another { "another split of " } else { "" };
                let (name, version) = (&head.set.name, &head.set.bundle_version);
                let what = format!("part {} of {which}{name} {version}", head.number);
                strays.push(Stray { path, what, foreign: true });
            }
        }
        Ok(Medium::Parts(PartSet::new(set.set, files, strays)))
    }

    /// Of the sets of that bundle (of the named ones, if any) the one with most data parts.
    fn fullest_set(&self, index: &Digest) -> Option<PartHead> {
        let mut sets: BTreeMap<&Digest, (Vec<u32>, &PartHead)> = BTreeMap::new();
        for FoundPart { head, .. } in &self.parts {
            let named = self.wanted_sets.is_empty() || self.wanted_sets.contains(&head.id);
            if head.set.index == *index && named {
                let (numbers, _) = sets.entry(&head.id).or_insert((Vec::new(), head));
                if head.kind == PartKind::Data && !numbers.contains(&head.number) {
                    numbers.push(head.number);
                }
            }
        }
        let full = |(numbers, head): &(Vec<u32>, &PartHead)| {
            // Shares of different totals, compared without division.
            numbers.len() as u64 * 1000 / u64::from(head.set.data_parts)
        };
        sets.into_values().max_by_key(full).map(|(_, head)| head.clone())
    }
}

/// The path without links; what can't be looked up stands for itself.
fn real(path: &Path) -> PathBuf {
    fs_err::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

fn named_like_a_part(path: &Path) -> bool {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
    name.is_some_and(|name| name.contains(".part-") || name.contains(".parity-"))
}

/// Reads the first block.
fn kind(path: &Path) -> std::io::Result<Kind> {
    let mut bytes = Vec::new();
    fs_err::File::open(path)?.take(HEAD_BYTES as u64).read_to_end(&mut bytes)?;
    let first = bytes.first_chunk::<{ member::BLOCK }>();
    if first.is_some_and(|block| member::stated_size(block, member::INDEX_NAME).is_some()) {
        return Ok(Kind::Bundle);
    }
    if !bytes.starts_with(MAGIC) {
        let stray = "is named like a part, but does not begin as one".to_owned();
        return Ok(if named_like_a_part(path) { Kind::Stray(stray) } else { Kind::Other });
    }
    let Some(block) = bytes.first_chunk::<HEAD_BYTES>() else {
        return Ok(Kind::Stray("is cut in its head".to_owned()));
    };
    Ok(match PartHead::parse(block) {
        Ok(head) => Kind::Part(Box::new(head)),
        Err(error) => Kind::Stray(format!("can't be used: {error}")),
    })
}
