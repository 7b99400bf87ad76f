//! The signed index: what a bundle holds, by name, by digest and by piece.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub mod check;

pub use check::IndexError;

/// The index format this build writes.
pub const INDEX_VERSION: u32 = 1;

/// Size of a piece unless the index says otherwise: 1 MiB, small enough that a cut link costs
/// little, large enough that a 20 GiB bundle has an index of a few MiB.
pub const PIECE_SIZE: u64 = 1024 * 1024;

/// Largest index this build reads, 64 MiB: enough for about a terabyte of content.
pub const MAX_INDEX_BYTES: u64 = 64 * 1024 * 1024;

/// `sha256:<64 lower-case hex digits>`; any other spelling does not parse.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(String);

/// A text that is not a sha256 digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a digest; expected `sha256:` and 64 lower-case hex digits")]
pub struct DigestError(String);

impl Digest {
    /// The digest of 32 raw bytes.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; 32]) -> Self {
        Self(format!("sha256:{}", hex::encode(bytes)))
    }

    /// Digest of `content`, computed here.
    #[must_use]
    pub fn of(content: &[u8]) -> Self {
        use sha2::{Digest as _, Sha256};
        Self::from_bytes(&Sha256::digest(content).into())
    }

    /// The 64 hex digits without the algorithm.
    #[must_use]
    pub fn hex(&self) -> &str {
        &self.0["sha256:".len()..]
    }

    /// The whole text, algorithm included.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Digest {
    type Error = DigestError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let good = text.strip_prefix("sha256:").is_some_and(|digits| {
            digits.len() == 64 && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        });
        if good { Ok(Self(text)) } else { Err(DigestError(text)) }
    }
}

impl std::str::FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.to_owned().try_into()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.0
    }
}

impl std::fmt::Display for Digest {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// What an artifact is, and with that what may be done with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ArtifactKind {
    /// An executable for nodes (kubelet, kubeadm…).
    Binary,
    /// An OCI image; the artifact's name is the reference containers use.
    Image,
    /// A Helm chart archive.
    Chart,
    /// An operating-system package (`.deb`).
    Package,
    /// Any other file (a manifest, a configuration).
    File,
    /// `kdc-agent` itself, for one platform.
    Agent,
    /// A tar, plain or compressed, whose members nodes get below [`Artifact::unpack_to`].
    Archive,
    /// A text about the bundle itself (SBOM, provenance), for people and scanners; never sent to
    /// nodes. The last, since artifacts are sorted by kind and the order of a written index never
    /// changes.
    Document,
}

impl ArtifactKind {
    /// The word in the index and in definitions.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Binary => "binary",
            Self::Image => "image",
            Self::Chart => "chart",
            Self::Package => "package",
            Self::File => "file",
            Self::Agent => "agent",
            Self::Archive => "archive",
            Self::Document => "document",
        }
    }
}

impl std::fmt::Display for ArtifactKind {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// One named thing in a bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Artifact {
    /// Unique together with `kind` and `platform`. For images the full reference
    /// (`k8s.gcr.io/kube-apiserver:v1.20.2`), for packages the package name.
    pub name: String,
    /// What it is.
    pub kind: ArtifactKind,
    /// `linux/amd64`; absent means any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    /// The artifact's own version, as its maker writes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// OCI media type of the root blob (manifest for images, octet stream for files).
    pub media_type: String,
    /// The root blob: the content itself, or an image's manifest.
    pub digest: Digest,
    /// Every blob the artifact needs, root first; all of them are in [`Index::blobs`].
    pub blobs: Vec<Digest>,
    /// Node roles that need it (`control-plane`, `worker`); empty means every node.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<String>,
    /// Directory on the node below which an archive is unpacked (`/usr/local`); archives have one,
    /// nothing else does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unpack_to: Option<String>,
    /// SPDX expression, when the definition states one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub licence: Option<String>,
    /// Where it came from, as text for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
}

/// One blob: its size and the digests of its pieces, in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Blob {
    /// sha256 of the whole content.
    pub digest: Digest,
    /// Length in bytes.
    pub size: u64,
    /// Digest of each [`Index::piece_size`] slice; the last one may be shorter. Empty content has
    /// no pieces.
    pub pieces: Vec<Digest>,
}

/// The one signed document of a bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Index {
    /// [`INDEX_VERSION`].
    pub version: u32,
    /// The bundle's name, from its definition.
    pub name: String,
    /// The bundle's own version, from its definition.
    pub bundle_version: String,
    /// Bytes in a piece.
    pub piece_size: u64,
    /// Free values from the definition that plans depend on (`kubernetesVersion`,
    /// `kubeadmConfigApi`, `imagePrefix`…), so that no version lives in code.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub parameters: BTreeMap<String, String>,
    /// Everything in the bundle, sorted by kind, name, platform.
    pub artifacts: Vec<Artifact>,
    /// Every blob, sorted by digest; this is also the order of the members in the file.
    pub blobs: Vec<Blob>,
}

impl Index {
    /// The artifact of that kind and name for `platform` (an artifact without platform fits any).
    #[must_use]
    pub fn find(&self, kind: ArtifactKind, name: &str, platform: &str) -> Option<&Artifact> {
        self.artifacts.iter().find(|artifact| {
            artifact.kind == kind
                && artifact.name == name
                && artifact.platform.as_deref().is_none_or(|p| p == platform)
        })
    }

    /// The blob with that digest.
    #[must_use]
    pub fn blob(&self, digest: &Digest) -> Option<&Blob> {
        self.blobs
            .binary_search_by(|blob| blob.digest.cmp(digest))
            .ok()
            .map(|position| &self.blobs[position])
    }

    /// Place of that blob in [`Index::blobs`]: its number in the file and on the wire.
    #[must_use]
    pub fn ordinal(&self, digest: &Digest) -> Option<usize> {
        self.blobs.binary_search_by(|blob| blob.digest.cmp(digest)).ok()
    }

    /// Length of piece `piece` of `blob`; `None` when it has no such piece.
    #[must_use]
    pub fn piece_length(&self, blob: &Blob, piece: usize) -> Option<u64> {
        (piece < blob.pieces.len())
            .then(|| (blob.size - piece as u64 * self.piece_size).min(self.piece_size))
    }

    /// Bytes of all blobs together.
    #[must_use]
    pub fn content_bytes(&self) -> u64 {
        self.blobs.iter().map(|blob| blob.size).sum()
    }
}
