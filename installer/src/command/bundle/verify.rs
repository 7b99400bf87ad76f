//! `bundle verify`: prove every byte of a bundle, in one file or in parts.

use std::path::{Path, PathBuf};

use kdc_bundles::{
    index::{Digest, Index},
    keys::{KeyId, TrustedKeys},
    medium::Medium,
    parts::{self, Checked, CopyReport, PartKind, PartReport, PartSet, Stray},
    verify,
};

use super::{BundleCommandError, SignedBundle, load_keys, progress::Reach, refused};
use crate::{
    command::arguments::KeyArguments,
    show::{Screen, plain::render_bytes, table},
};

/// Prove every byte of a bundle against a public key
///
/// Reads the whole bundle once. Anything that is not exactly as it was signed is refused with exit
/// code 3, naming the member: a missing signature, another key, a flipped byte, a missing, extra or
/// moved member, a cut or extended file. Of a bundle in parts every part is judged by itself: good,
/// bad or missing, and what lies there and belongs to another set.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:\n  \
    kdc-install bundle verify kdc.bundle --key site.key.pub\n  \
    kdc-install bundle verify kdc.bundle --key old.pub --key new.pub\n  \
    kdc-install bundle verify /mnt/first /mnt/second --key site.key.pub")]
pub(super) struct Verify {
    /// The bundle: a file, one of its parts, or folders and sticks that hold it
    #[arg(value_name = "PATH", required = true)]
    bundle: Vec<PathBuf>,
    #[command(flatten)]
    keys: KeyArguments,
}

#[derive(serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct Proved<'a> {
    #[serde(flatten)]
    signed: SignedBundle<'a>,
    /// Every byte of the bundle is there and good.
    readable: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    parts: Option<Vec<Part<'a>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    strays: Option<Vec<Foreign<'a>>>,
}

#[derive(serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct Part<'a> {
    number: u32,
    kind: PartKind,
    state: &'static str,
    copies: Vec<Copy<'a>>,
}

#[derive(serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct Copy<'a> {
    path: &'a Path,
    problems: &'a [String],
}

#[derive(serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct Foreign<'a> {
    path: &'a Path,
    what: &'a str,
}

/// Bytes of all parts that are there.
pub(super) fn part_bytes(set: &PartSet) -> u64 {
    let numbers = 1..=set.head().total();
    numbers.flat_map(|number| set.copies(number)).map(|copy| copy.head().bytes).sum()
}

impl Verify {
    pub(super) fn run(&self, screen: &Screen) -> Result<(), BundleCommandError> {
        let keys = load_keys(&self.keys)?;
        let medium = Medium::find(&self.bundle).map_err(refused(&self.bundle[0]))?;
        match &medium {
            Medium::File(_) => verify_file(&medium, &keys, screen),
            Medium::Parts(set) => verify_parts(set, &keys, screen),
        }
    }
}

fn verify_file(
    medium: &Medium,
    keys: &TrustedKeys,
    screen: &Screen,
) -> Result<(), BundleCommandError> {
    let path = medium.path();
    let mut pass = Reach::start(screen, "verifying", medium.length());
    let proved = verify::verify_with(medium.reader(), keys, &mut |read| pass.reach(read));
    let proved = proved.map_err(refused(path))?;
    pass.finish();
    let document =
        Proved::new(path, &proved.index, &proved.digest, proved.signer, proved.file_bytes);
    screen.document(&document, || document.render());
    Ok(())
}

fn verify_parts(
    set: &PartSet,
    keys: &TrustedKeys,
    screen: &Screen,
) -> Result<(), BundleCommandError> {
    let mut pass = Reach::start(screen, "verifying", part_bytes(set));
    let checked = parts::check(set, keys, &mut |read| pass.reach(read));
    let checked = checked.map_err(refused(set.path()))?;
    pass.finish();
    let bytes = set.head().bundle_bytes;
    let mut document =
        Proved::new(set.path(), &checked.index, &checked.digest, checked.signer, bytes);
    document.readable = checked.is_readable();
    document.parts = Some(checked.parts.iter().map(Part::new).collect());
    document.strays = Some(set.strays().iter().map(Foreign::new).collect());
    screen.document(&document, || document.render());
    if checked.is_whole() { Ok(()) } else { Err(not_whole(set, &checked)) }
}

fn not_whole(set: &PartSet, checked: &Checked) -> BundleCommandError {
    BundleCommandError::PartsBad {
        bundle: set.label(),
        bad: checked.bad_parts(),
        readable: checked.is_readable(),
        repairable: checked.is_repairable(),
    }
}

impl<'a> Part<'a> {
    fn new(report: &'a PartReport) -> Self {
        let state = match (report.is_good(), report.copies.is_empty()) {
            (true, _) => "good",
            (false, true) => "missing",
            (false, false) => "bad",
        };
        let copy = |copy: &'a CopyReport| Copy { path: &copy.path, problems: &copy.problems };
        let copies = report.copies.iter().map(copy).collect();
        Self { number: report.number, kind: report.kind, state, copies }
    }

    /// A line a copy.
    fn rows(&self) -> Vec<Vec<String>> {
        let kind = match self.kind {
            PartKind::Data => "data",
            PartKind::Parity => "parity",
        };
        let row = |state: &str, file: String| {
            vec![self.number.to_string(), kind.to_owned(), state.to_owned(), file]
        };
        if self.copies.is_empty() {
            return vec![row("missing", "-".to_owned())];
        }
        let copies = self.copies.iter().enumerate().map(|(place, copy)| {
            let path = copy.path.display();
            match copy.problems {
                [] if place > 0 => row("double", path.to_string()),
                [] => row("good", path.to_string()),
                problems => row("bad", format!("{path}: {}", problems.join(", "))),
            }
        });
        copies.collect()
    }
}

impl<'a> Foreign<'a> {
    fn new(stray: &'a Stray) -> Self {
        Self { path: &stray.path, what: &stray.what }
    }
}

impl<'a> Proved<'a> {
    fn new(
        bundle: &'a Path,
        index: &'a Index,
        digest: &Digest,
        signer: KeyId,
        file_bytes: u64,
    ) -> Self {
        let signed = SignedBundle {
            bundle,
            name: &index.name,
            version: &index.bundle_version,
            digest: digest.to_string(),
            key: signer.to_string(),
            artifacts: index.artifacts.len(),
            blobs: index.blobs.len(),
            content_bytes: index.content_bytes(),
            file_bytes,
        };
        Self { signed, readable: true, parts: None, strays: None }
    }

    fn render(&self) -> String {
        let signed = &self.signed;
        let what = format!(
            "signed with key {}, {} artifacts, {} blobs",
            signed.key, signed.artifacts, signed.blobs
        );
        let (name, version) = (signed.name, signed.version);
        let size = format!("{} ({} bytes)", render_bytes(signed.file_bytes), signed.file_bytes);
        let mut text = if self.readable {
            format!("{name} {version} is proved: {what}, every one of {size}\n")
        } else {
            format!(
                "{name} {version}, {what}, {size}: the index is proved, the parts are not whole\n"
            )
        };
        if let Some(parts) = &self.parts {
            let rows: Vec<_> = parts.iter().flat_map(Part::rows).collect();
            text.push_str(&table::render(&["PART", "KIND", "STATE", "FILE"], &rows));
        }
        for stray in self.strays.iter().flatten() {
            text.push_str(&format!("not of this set: {}: {}\n", stray.path.display(), stray.what));
        }
        text
    }
}
