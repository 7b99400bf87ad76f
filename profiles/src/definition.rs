//! The bundle definition (`kind: BundleDefinition`): the short file a bundle is built from.

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize};

mod read;

pub use read::{load, parse};

/// Where an artifact's bytes come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Source {
    /// A local file, relative to the definition.
    Path(PathBuf),
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
        /// `https://…`
        url: String,
        /// Expected digest, `sha256:…`; absent means unresolved: such a definition can be
        /// inspected, but `bundle create` refuses and names the artifact.
        #[serde(default)]
        digest: Option<String>,
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

/// A proved definition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
}
