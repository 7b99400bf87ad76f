//! The cluster file (`kind: Cluster`), as proved: every value is usable, defaults are filled in.
//!
//! ```
//! let text = kdc_profiles::cluster::template(&kdc_profiles::cluster::Template {
//!     name: "demo".to_owned(),
//!     profile: "single".to_owned(),
//!     nodes: vec![kdc_profiles::cluster::TemplateNode::new("cp1", "10.0.0.11".parse().unwrap())],
//! });
//! let cluster = kdc_profiles::cluster::parse(&text, "cluster.yaml").unwrap();
//! assert_eq!(cluster.network.control_plane_endpoint, "10.0.0.11:6443");
//!
//! let problems = kdc_profiles::cluster::parse("kind: Clutser", "cluster.yaml").unwrap_err();
//! assert!(problems.to_string().contains("cluster.yaml:1: kind"));
//! ```

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf};

use serde::{Deserialize, Serialize};

pub mod gpu;
mod gpu_read;
mod nodes;
mod parts;
mod read;
mod schema;
mod starter;

pub(crate) use nodes::read_optional;
pub use read::{CNIS, DISTRIBUTIONS, load, parse};
pub(crate) use read::{read_head, read_head_open, read_kind, read_metadata_name};
pub use schema::json_schema;
pub use starter::{Template, TemplateNode, template};

/// `apiVersion` of every file an operator writes.
pub const API_VERSION: &str = "kdc.dev/v1";

/// Prefix length of the range each node gets out of the pod range.
pub const NODE_POD_PREFIX: u8 = 24;

/// Most nodes in one file.
pub const MAX_NODES: usize = 5000;

/// What a node does.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    schemars::JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Runs the API server, etcd and the controllers.
    ControlPlane,
    /// Runs workloads.
    Worker,
}

impl Role {
    /// The word for it in files, plans and bundles.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ControlPlane => "control-plane",
            Self::Worker => "worker",
        }
    }
}

/// How to reach a node over SSH. Absent values fall back to `~/.ssh/config`, then to defaults.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Ssh {
    /// Login name (default `root`).
    pub user: Option<String>,
    /// Port (default 22).
    pub port: Option<u16>,
    /// Pinned host key: `SHA256:…` fingerprint, or a whole public key line.
    pub host_key: Option<String>,
    /// One jump host: `[user@]host[:port]`.
    pub jump: Option<String>,
    /// Pinned host key of the jump host.
    pub jump_host_key: Option<String>,
    /// Private key file.
    pub identity: Option<PathBuf>,
    /// known_hosts file to trust (hashed names and `@cert-authority` lines included).
    pub known_hosts: Option<PathBuf>,
}

/// One server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Node {
    /// Name in Kubernetes; a DNS label.
    pub name: String,
    /// What it does.
    pub role: Role,
    /// Address other nodes reach it by, and SSH too unless `~/.ssh/config` says otherwise.
    pub address: IpAddr,
    /// SSH settings of this node, over those of the whole file.
    #[serde(default)]
    pub ssh: Ssh,
    /// Kubernetes labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Kubernetes taints, `key=value:Effect`.
    #[serde(default)]
    pub taints: Vec<String>,
    /// What its GPUs are for; its class's, where it says nothing itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu: Option<gpu::Gpu>,
}

/// Cluster network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Network {
    /// Range for pods.
    pub pod_cidr: String,
    /// Range for Services.
    pub service_cidr: String,
    /// Pod network: `host-routes`.
    pub cni: String,
    /// `host:port` clients use; default is the first control plane's address and 6443.
    pub control_plane_endpoint: String,
    /// Cluster DNS domain.
    pub cluster_domain: String,
}

/// What kdc may do to a host that it would otherwise refuse.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Settings {
    /// Turn swap off (undone by `undo`); without it, swap on is a refusal.
    pub disable_swap: bool,
    /// Nodes worked on at once (default 50).
    pub parallel: u16,
}

/// The licence, as far as the cluster file speaks of it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct License {
    /// The licence's file, relative to the cluster file; without one what is installed in the cluster counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// Nodes over the limit get a taint that keeps new pods away. What runs there stays.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub taint_over_limit: bool,
}

/// A proved cluster file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Cluster {
    /// `metadata.name`.
    pub name: String,
    /// Shipped profile name or path of a profile file.
    pub profile: String,
    /// `kubeadm`.
    pub distribution: String,
    /// Nodes in the file's order.
    pub nodes: Vec<Node>,
    /// SSH settings for every node.
    pub ssh: Ssh,
    /// Network.
    pub network: Network,
    /// Settings.
    pub settings: Settings,
    /// How far the nodes may mend themselves; nothing said is told and left alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub self_healing: Option<crate::healing::SelfHealing>,
    /// Its licence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub license: Option<License>,
}
