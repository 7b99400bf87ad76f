//! The lock (`kind: BundleLock`): a definition with every digest resolved.
//!
//! `bundle lock` writes it beside the definition, people check it in, and `bundle create` uses it and
//! nothing else: the same lock gives the same bytes, next year too. It is written by a machine, yet
//! read by people (in reviews) and now and then merged by them, so its reader is as strict and as
//! talkative as the one of definitions.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde::Serialize;

mod read;

pub use read::{MAX_LOCK_BYTES, load, parse};

/// A lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BundleLock {
    /// The bundle's name.
    pub name: String,
    /// The bundle's version.
    pub version: String,
    /// Digest of the definition it was made from; another definition needs another lock.
    pub definition: String,
    /// When it was made (RFC 3339, UTC): the only clock in a bundle.
    pub created: String,
    /// As in the definition.
    pub parameters: BTreeMap<String, String>,
    /// Everything that goes in, sorted by kind, name and platform.
    pub artifacts: Vec<LockedArtifact>,
}

/// One artifact, resolved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LockedArtifact {
    /// `binary`, `image`, `chart`, `package`, `file`, `agent`.
    pub kind: String,
    /// Name; full reference for images.
    pub name: String,
    /// `linux/amd64`; absent means any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    /// Its own version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// SPDX expression.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub licence: Option<String>,
    /// Node roles that need it; empty means all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<String>,
    /// Of an archive: the folder on a node that it is unpacked to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unpack_to: Option<String>,
    /// The entry of the definition it comes from: a digest of that entry, so that an entry that did
    /// not change keeps what it was resolved to.
    pub entry: String,
    /// Where it is: `https:`, `http:`, `file:` (anywhere); `oci://registry/repository:tag`; `path:`,
    /// `folder:`, `layout:` (on this machine, relative to the definition).
    pub uri: String,
    /// Media type of the root blob.
    pub media_type: String,
    /// The root blob: the content itself, or an image's manifest.
    pub digest: String,
    /// Bytes of the root blob.
    pub size: u64,
    /// Of an image: what follows the manifest (configuration, layers).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub blobs: Vec<LockedBlob>,
}

/// A blob of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LockedBlob {
    /// `sha256:…`.
    pub digest: String,
    /// Bytes.
    pub size: u64,
}

impl LockedArtifact {
    /// Whether it is on the builder's machine, in a place relative to the definition.
    #[must_use]
    pub fn is_local(&self) -> bool {
        ["path:", "folder:", "layout:"].iter().any(|scheme| self.uri.starts_with(scheme))
    }
}

/// Where the lock of a definition lies: `site.yaml` has `site.lock.yaml` beside it.
#[must_use]
pub fn path_of(definition: &Path) -> PathBuf {
    let stem = definition.file_stem().unwrap_or_default().to_string_lossy();
    definition.with_file_name(format!("{stem}.lock.yaml"))
}

/// What stands in the file.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct File<'a> {
    api_version: &'static str,
    kind: &'static str,
    metadata: Metadata<'a>,
    definition: &'a str,
    created: &'a str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    parameters: &'a BTreeMap<String, String>,
    artifacts: &'a [LockedArtifact],
}

#[derive(Serialize)]
struct Metadata<'a> {
    name: &'a str,
    version: &'a str,
}

impl BundleLock {
    /// The file's text.
    #[must_use]
    pub fn to_text(&self) -> String {
        let file = File {
            api_version: crate::cluster::API_VERSION,
            kind: "BundleLock",
            metadata: Metadata { name: &self.name, version: &self.version },
            definition: &self.definition,
            created: &self.created,
            parameters: &self.parameters,
            artifacts: &self.artifacts,
        };
        let yaml = serde_yaml::to_string(&file).expect("texts, numbers and lists can be written");
        format!(
            "# Written by `kdc-install bundle lock`; check it in beside the definition.\n{yaml}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn sample() -> BundleLock {
        let digest = |letter: &str| format!("sha256:{}", letter.repeat(64));
        let tool = LockedArtifact {
            kind: "binary".to_owned(),
            name: "tool".to_owned(),
            platform: None,
            version: Some("1.0".to_owned()),
            licence: None,
            roles: vec!["worker".to_owned()],
            unpack_to: None,
            entry: "0123456789abcdef".to_owned(),
            uri: "https://example.org/tool".to_owned(),
            media_type: "application/octet-stream".to_owned(),
            digest: digest("a"),
            size: 7,
            blobs: Vec::new(),
        };
        let image = LockedArtifact {
            kind: "image".to_owned(),
            name: "example.org/app:1".to_owned(),
            platform: Some("linux/amd64".to_owned()),
            uri: "oci://example.org/app:1".to_owned(),
            media_type: "application/vnd.oci.image.manifest.v1+json".to_owned(),
            blobs: vec![LockedBlob { digest: digest("b"), size: 9 }],
            ..tool.clone()
        };
        BundleLock {
            name: "sample".to_owned(),
            version: "1.20".to_owned(),
            definition: digest("d"),
            created: "2026-01-02T03:04:05Z".to_owned(),
            parameters: BTreeMap::from([("a".to_owned(), "yes".to_owned())]),
            artifacts: vec![tool, image],
        }
    }

    #[test]
    fn what_is_written_reads_back() {
        let lock = sample();
        let text = lock.to_text();
        assert_eq!(parse(&text, "x.lock.yaml").unwrap_or_else(|p| panic!("{p}\n{text}")), lock);
        assert!(text.starts_with("# ") && text.contains("kind: BundleLock"), "{text}");
    }

    #[test]
    fn a_lock_lies_beside_its_definition() {
        for (definition, lock) in [
            ("site.yaml", "site.lock.yaml"),
            ("a/kubeadm-1.33.yaml", "a/kubeadm-1.33.lock.yaml"),
            ("/x/site", "/x/site.lock.yaml"),
        ] {
            assert_eq!(path_of(Path::new(definition)), Path::new(lock));
        }
    }
}
