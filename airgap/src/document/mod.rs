//! Documents: what a bundle says about itself, for people and scanners. They are signed with all the
//! rest and never sent to nodes.
//!
//! | Document | Says |
//! |---|---|
//! | [`SBOM_NAME`] | what is inside: names, versions, makers, licences, digests (SPDX 2.3) |
//! | [`PROVENANCE_NAME`] | where it came from: lock, sources with their digests, when, by which kdc (in-toto, SLSA) |
//!
//! Both follow from the definition or lock and the content alone, so that the same inputs give the same
//! bundle: the only time in them is the lock's.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use kdc_bundles::index::{ArtifactKind, Digest};

use crate::{
    content::Content,
    plan::{Part, Planned},
};

mod deb;
pub mod licence;
mod provenance;
mod purl;
mod spdx;

/// Name of the list of everything inside.
pub const SBOM_NAME: &str = "sbom.spdx.json";

/// Name of the document that says where it came from.
pub const PROVENANCE_NAME: &str = "provenance.json";

/// Largest document that readers take, 64 MiB.
pub const MAX_DOCUMENT_BYTES: u64 = 64 * 1024 * 1024;

/// The time in documents where neither a lock nor `SOURCE_DATE_EPOCH` states one.
pub const EPOCH: &str = "1970-01-01T00:00:00Z";

/// What a bundle is made from, as its documents name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// When it was locked, or what `SOURCE_DATE_EPOCH` says, or [`EPOCH`].
    pub created: String,
    /// Digest of the definition's content.
    pub definition: Digest,
    /// Digest of the lock, where there is one.
    pub lock: Option<Digest>,
}

/// What documents say of the bundle itself.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Subject<'a> {
    pub(crate) name: &'a str,
    pub(crate) version: &'a str,
    pub(crate) origin: &'a Origin,
}

/// One artifact, as documents see it.
pub(crate) struct Item<'p> {
    pub(crate) planned: &'p Planned,
    pub(crate) digest: &'p Digest,
    /// Of a package: what it says of itself, or why that can't be read.
    pub(crate) control: Option<Result<deb::Control, String>>,
}

impl<'p> Item<'p> {
    /// Looks into the content where that tells more.
    pub(crate) fn read(planned: &'p Planned, digest: &'p Digest) -> Self {
        let control = (planned.kind == ArtifactKind::Package).then(|| {
            let part = &planned.parts[0];
            let content = part.content.open(part.whole_file).map_err(|error| error.to_string())?;
            deb::read(std::io::BufReader::new(content))
        });
        Self { planned, digest, control }
    }

    /// Its version: a package knows its own.
    fn version(&self) -> Option<&str> {
        self.control().map(|control| control.version.as_str()).or(self.planned.version.as_deref())
    }

    fn control(&self) -> Option<&deb::Control> {
        self.control.as_ref()?.as_ref().ok()
    }

    /// `image`, name and platform: what tells it apart from all others.
    fn identity(&self) -> String {
        let planned = self.planned;
        let platform = planned.platform.as_deref().unwrap_or("any");
        format!("{} {} {platform}", planned.kind, planned.name)
    }
}

/// Documents as files, until they are in the bundle.
#[derive(Debug)]
pub(crate) struct Written {
    pub(crate) planned: Vec<Planned>,
    _folder: tempfile::TempDir,
}

/// Writes both documents to a folder of their own.
pub(crate) fn write(
    subject: Subject<'_>,
    items: &mut Vec<Item<'_>>,
) -> Result<Written, std::io::Error> {
    items.sort_by_key(|item| {
        (item.planned.kind, item.planned.name.clone(), item.planned.platform.clone())
    });
    let folder = tempfile::tempdir()?;
    let documents = [
        (SBOM_NAME, "application/spdx+json", spdx::render(subject, items)),
        (PROVENANCE_NAME, "application/vnd.in-toto+json", provenance::render(subject, items)),
    ];
    let mut planned = Vec::new();
    for (name, media_type, content) in documents {
        let path = folder.path().join(name);
        fs_err::write(&path, content)?;
        planned.push(plan(name, media_type, path).map_err(std::io::Error::other)?);
    }
    Ok(Written { planned, _folder: folder })
}

fn plan(name: &str, media_type: &str, path: PathBuf) -> Result<Planned, String> {
    Ok(Planned {
        kind: ArtifactKind::Document,
        name: name.to_owned(),
        platform: None,
        version: None,
        roles: Vec::new(),
        unpack_to: None,
        licence: Some("CC0-1.0".to_owned()),
        source: None,
        uri: None,
        media_type: media_type.to_owned(),
        parts: vec![Part { content: Content::file(path)?, whole_file: true, stated: None }],
    })
}

/// `SOURCE_DATE_EPOCH` as documents write it, or [`EPOCH`] where there is none.
///
/// # Errors
/// In words, when the value is not a number of seconds.
pub fn created_from(source_date_epoch: Option<&str>) -> Result<String, String> {
    let Some(text) = source_date_epoch else { return Ok(EPOCH.to_owned()) };
    /// The end of the year 9999.
    const LAST: u64 = 253_402_300_799;
    let seconds = text.parse::<u64>().ok().filter(|seconds| *seconds <= LAST);
    let seconds = seconds.ok_or_else(|| {
        format!("SOURCE_DATE_EPOCH is `{}`, not a number of seconds", text.escape_debug())
    })?;
    let time = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
    Ok(crate::lock::render_time(time))
}

/// JSON for people too: indented, with a line end.
fn to_json<T: serde::Serialize>(document: &T) -> Vec<u8> {
    let mut bytes =
        serde_json::to_vec_pretty(document).expect("texts, lists and maps always have a JSON form");
    bytes.push(b'\n');
    bytes
}

/// `sha256` with the hex digits, as both formats want it.
fn sha256(digest: &Digest) -> BTreeMap<&'static str, &str> {
    BTreeMap::from([("sha256", digest.hex())])
}

/// What a local file's place is as a URI: its name alone, never a place on the builder's machine.
fn local_uri(path: &Path) -> String {
    format!("file:{}", purl::encode(&path.display().to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_is_what_the_environment_states_or_none() {
        assert_eq!(created_from(None).unwrap(), EPOCH);
        assert_eq!(created_from(Some("1709251200")).unwrap(), "2024-03-01T00:00:00Z");
        for wrong in ["", "-1", "yesterday", "999999999999999999"] {
            assert!(created_from(Some(wrong)).is_err(), "{wrong:?}");
        }
    }
}
