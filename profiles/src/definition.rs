//! The bundle definition (`kind: BundleDefinition`): the short file a bundle is built from.

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize};

mod packages;
mod read;
mod source;

pub(crate) use read::{
    NODE_ROLES, is_kind, optional_text, read_platform, read_unpack_to, required_text,
};
pub use read::{load, parse};
pub(crate) use source::is_digest;

/// Where an artifact's bytes come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Source {
    /// A local file, relative to the definition.
    Path(PathBuf),
    /// A local folder, relative to the definition; goes in as a tar that is the same for the same
    /// content.
    Folder(PathBuf),
    /// An image in a local OCI layout (folder or tar), relative to the definition.
    Oci {
        /// The layout.
        layout: PathBuf,
        /// `org.opencontainers.image.ref.name` in it; may be absent when it holds one image.
        #[serde(default)]
        reference: Option<String>,
    },
    /// A public address; fetched by `bundle lock` where there is a network.
    Url {
        /// `https://…`, or `file:///…`.
        url: String,
        /// Expected digest, `sha256:…`; absent means that the lock is where it first stands.
        #[serde(default)]
        digest: Option<String>,
    },
    /// A Helm chart of a repository.
    Helm {
        /// `https://…` (a repository with an `index.yaml`) or `oci://…`.
        repository: String,
        /// Its name there.
        chart: String,
        /// Its exact version.
        version: String,
    },
    /// An image in a public registry.
    Registry {
        /// Full reference.
        image: String,
        /// Expected manifest digest; absent means unresolved.
        #[serde(default)]
        digest: Option<String>,
    },
}

/// One artifact of a definition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ArtifactDefinition {
    /// Name; full reference for images.
    pub name: String,
    /// `binary`, `image`, `chart`, `package`, `file`, `agent`, `archive`.
    pub kind: String,
    /// `linux/amd64`; absent means any.
    #[serde(default)]
    pub platform: Option<String>,
    /// Its own version.
    #[serde(default)]
    pub version: Option<String>,
    /// Node roles that need it; empty means all.
    #[serde(default)]
    pub roles: Vec<String>,
    /// Directory on the node below which an archive's members go; for archives, and only for them.
    #[serde(default)]
    pub unpack_to: Option<String>,
    /// SPDX expression.
    #[serde(default)]
    pub licence: Option<String>,
    /// Where the bytes come from.
    pub source: Source,
}

impl ArtifactDefinition {
    /// The same for one platform: `${arch}` in its source is the platform's machine.
    #[must_use]
    pub(crate) fn for_platform(&self, platform: Option<String>) -> Self {
        let machine = platform.as_deref().and_then(|text| text.split('/').nth(1));
        let fill =
            |text: &str| machine.map_or(text.to_owned(), |arch| text.replace("${arch}", arch));
        let path = |path: &PathBuf| PathBuf::from(fill(&path.to_string_lossy()));
        let source = match &self.source {
            Source::Path(file) => Source::Path(path(file)),
            Source::Folder(folder) => Source::Folder(path(folder)),
            Source::Oci { layout, reference } => {
                Source::Oci { layout: path(layout), reference: reference.as_deref().map(fill) }
            }
            Source::Url { url, digest } => Source::Url { url: fill(url), digest: digest.clone() },
            other => other.clone(),
        };
        Self { platform, source, ..self.clone() }
    }
}

impl Source {
    /// Whether the bytes are on the builder's machine without being fetched.
    #[must_use]
    pub fn is_local(&self) -> bool {
        matches!(self, Self::Path(_) | Self::Folder(_) | Self::Oci { .. })
    }
}

/// Debian packages with everything they depend on, resolved for one release and platform.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PackageSet {
    /// What the set is called in messages and by `bundle lock --update`.
    pub name: String,
    /// `linux/amd64`.
    pub platform: String,
    /// Where packages come from; the newest version of all of them counts.
    pub archives: Vec<Archive>,
    /// Packages wanted: `name`, or `name (>= 1.2)` as in a `Depends` field.
    pub include: Vec<String>,
    /// Packages that every node has anyway.
    #[serde(default)]
    pub assume_installed: AssumeInstalled,
    /// Node roles that need them; empty means all.
    #[serde(default)]
    pub roles: Vec<String>,
}

/// One suite of a Debian archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Archive {
    /// The folder above `dists`.
    pub url: String,
    /// `bookworm`, `bookworm-security`.
    pub suite: String,
    /// `main`, `contrib`.
    pub components: Vec<String>,
    /// Public keys, one of which has to have signed the suite; relative to the definition.
    pub keyring: PathBuf,
}

/// What a package set need not bring: these packages, and what they in turn depend on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AssumeInstalled {
    /// `required`, `important`, `standard`.
    #[serde(default)]
    pub priorities: Vec<String>,
    /// Names.
    #[serde(default)]
    pub packages: Vec<String>,
}

/// A proved definition.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BundleDefinition {
    /// `metadata.name`.
    pub name: String,
    /// `metadata.version`.
    pub version: String,
    /// Values plans depend on (`kubernetesVersion`, `kubeadmConfigApi`, `imagePrefix`,
    /// `pauseImage`, `criSocket`, `cniBinDir`, `controlPlaneTaint`, `controlPlaneLabel`,
    /// `testImage`, `systems`: what the packages are for, `debian 12, …`).
    #[serde(default)]
    pub parameters: BTreeMap<String, String>,
    /// What goes in.
    pub artifacts: Vec<ArtifactDefinition>,
    /// Debian packages that go in.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub packages: Vec<PackageSet>,
    /// Images that charts and manifests name and that are left out on purpose; a trailing `*` stands
    /// for anything.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ignore_images: Vec<String>,
}

impl BundleDefinition {
    /// Whether everything is on the builder's machine, so that no lock is needed.
    #[must_use]
    pub fn is_local(&self) -> bool {
        self.packages.is_empty() && self.artifacts.iter().all(|artifact| artifact.source.is_local())
    }
}
